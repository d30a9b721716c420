// eventfd(2) and timerfd_create(2), as files of a simulated kernel. Neither blocks: EAGAIN.
#ifndef HOLDFAST_SIM_EVENT_FILE_H_
#define HOLDFAST_SIM_EVENT_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include <holdfast/time.h>

#include "sim/file.h"
#include "sim/schedule.h"

namespace holdfast::internal::sim {

class TimerFile;

// A counter: write(2) adds, read(2) takes all.
class EventFile final : public File {
 public:
  [[nodiscard]] std::uint32_t Poll() const override;
  ssize_t Read(void* data, std::size_t size) override;
  ssize_t Write(const void* data, std::size_t size) override;

 private:
  std::uint64_t count_ = 0;
};

// An absolute timer on the schedule's clock. Readable once its deadline has passed; read(2) tells
// how often that was (1: it does not repeat). Made by std::make_shared. The schedule outlives it.
class TimerFile final : public File {
 public:
  explicit TimerFile(Schedule& schedule) : schedule_(schedule) {}

  [[nodiscard]] TimerFile* AsTimer() override { return this; }
  [[nodiscard]] std::uint32_t Poll() const override;
  ssize_t Read(void* data, std::size_t size) override;

  // kNever disarms; a deadline that has passed comes at once. What has expired is forgotten.
  void Set(Instant deadline);

 private:
  void Expect(Instant at);
  void OnTime(Instant at);

  Schedule& schedule_;
  Instant deadline_ = kNever;
  // The earliest event of ours in the schedule. A later deadline waits for it and then looks again,
  // so that moving it costs nothing.
  Instant expected_ = kNever;
  std::uint64_t expirations_ = 0;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_EVENT_FILE_H_
