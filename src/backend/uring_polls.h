// The two polls that belong to no socket: the eventfd that wakes, and the descriptor that is watched.
//
// The eventfd is written and never read (eventfd(2)): each write is an edge to the multishot poll, and
// one that came while no poll was armed is found by the next. The watched descriptor is polled once
// for each callback, which makes it level-triggered.
#ifndef HOLDFAST_BACKEND_URING_POLLS_H_
#define HOLDFAST_BACKEND_URING_POLLS_H_

#include <poll.h>

#include <cstdint>

#include "backend/uring_issuer.h"
#include "sys/kernel.h"

namespace holdfast::internal {

class UringPolls {
 public:
  UringPolls(Kernel& kernel, UringIssuer& issuer) noexcept : kernel_(kernel), issuer_(issuer) {}
  UringPolls(const UringPolls&) = delete;
  UringPolls& operator=(const UringPolls&) = delete;
  ~UringPolls() {
    if (wake_fd_ >= 0) static_cast<void>(kernel_.Close(wake_fd_));
  }

  // 0 or -errno.
  [[nodiscard]] int Open() noexcept {
    wake_fd_ = kernel_.EventFd();
    return wake_fd_ < 0 ? wake_fd_ : 0;
  }
  void ArmWake() noexcept {
    ++in_flight_;
    io_uring_prep_poll_multishot(issuer_.Stage(kWakePoll).sqe, wake_fd_, POLLIN);
  }
  // Any thread, also in a signal handler.
  void Wake() noexcept {
    constexpr std::uint64_t kOne = 1;
    issuer_.embedding.NoteWake();
    // Refused only at 2^64 - 1, which steps of one do not reach.
    static_cast<void>(kernel_.Write(wake_fd_, &kOne, sizeof(kOne)));
  }

  // As Backend::SetWatch.
  int Watch(int fd, void (*callback)(void*), void* context) noexcept {
    if (watch_fd_ >= 0) issuer_.StageCancel(WatchWord());
    ++watch_generation_;  // A completion that is under way is of the watch before.
    watch_fd_ = fd;
    watch_callback_ = callback;
    watch_context_ = context;
    if (fd >= 0) ArmWatch();
    return issuer_.embedding.Watch(fd);
  }
  [[nodiscard]] int wake_fd() const noexcept { return wake_fd_; }
  [[nodiscard]] int watch_fd() const noexcept { return watch_fd_; }

  // Cancels both; done once in_flight() is 0.
  void End() noexcept {
    ending_ = true;
    static_cast<void>(Watch(-1, nullptr, nullptr));
    issuer_.StageCancel(kWakePoll);
  }
  [[nodiscard]] unsigned in_flight() const noexcept { return in_flight_; }

  // What has completed. The number of callbacks.
  void DeliverWake(const Completion& completion) noexcept {
    if (completion.more()) return;
    --in_flight_;
    // Embedded, the ring would wake itself: the eventfd is then its own.
    if (!ending_ && !issuer_.embedding.active()) ArmWake();
  }
  unsigned DeliverWatch(const Completion& completion) noexcept {
    --in_flight_;
    if (!IsCurrent(completion)) return 0;
    const bool ready = completion.result > 0;
    if (ready) watch_callback_(watch_context_);
    // A shortage of memory as well: all that the reactor watches stands behind this one poll.
    const bool again =
        ready || Classify(Call::kCqeAny, -completion.result).action == Action::kRetryInPlace;
    if (again && IsCurrent(completion)) ArmWatch();
    return ready ? 1 : 0;
  }

 private:
  void ArmWatch() noexcept {
    ++in_flight_;
    io_uring_prep_poll_add(issuer_.Stage(WatchWord()).sqe, watch_fd_, POLLIN);
  }
  [[nodiscard]] std::uint64_t WatchWord() const noexcept {
    return PackUserData(watch_generation_, 0, kWatchPoll);
  }
  [[nodiscard]] bool IsCurrent(const Completion& completion) const noexcept {
    return watch_fd_ >= 0 && completion.user_data == WatchWord();
  }

  Kernel& kernel_;
  UringIssuer& issuer_;
  int wake_fd_ = -1;
  int watch_fd_ = -1;
  std::uint32_t watch_generation_ = 0;
  void (*watch_callback_)(void*) = nullptr;
  void* watch_context_ = nullptr;
  unsigned in_flight_ = 0;  // Polls in the kernel, of watches that were ended too.
  bool ending_ = false;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_POLLS_H_
