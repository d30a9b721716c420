// What happened, as one number and, if somebody wants to read it, as a story.
//
// Everything that crosses the seam (each call of a kernel with its answer, each completion, each segment, each
// fault) passes here. The hash is what says that two runs were the same: one seed, one hash, on every compiler.
// Only values go in that mean the same in every run: times, descriptors, sizes, results; never an address.
#ifndef HOLDFAST_SIM_TRACE_H_
#define HOLDFAST_SIM_TRACE_H_

#include <bit>
#include <cstdint>
#include <string_view>
#include <utility>

#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"

namespace holdfast::internal::sim {

class Trace {
 public:
  // Takes each line of the story: "12.345678 gateway  connect 1048580 -> -EINPROGRESS".
  using Sink = absl::AnyInvocable<void(std::string_view line)>;
  void SetSink(Sink sink) { sink_ = std::move(sink); }
  // Whoever formats a line asks first.
  [[nodiscard]] bool told() const noexcept { return static_cast<bool>(sink_); }
  void Tell(Instant at, std::string_view who, std::string_view what);

  // Of who (a host's number) did what (a small number of the caller's) with which values.
  void Mix(std::uint64_t value) noexcept {
    hash_ = (hash_ ^ value) * 0x9e3779b97f4a7c15;
    hash_ = std::rotl(hash_, 29) ^ (hash_ >> 32);
    ++count_;
  }
  void Mix(std::uint64_t who, std::uint64_t what, std::int64_t a, std::int64_t b = 0) noexcept {
    Mix((who << 48) ^ (what << 40) ^ static_cast<std::uint64_t>(a) ^
        std::rotl(static_cast<std::uint64_t>(b), 20));
  }
  [[nodiscard]] std::uint64_t hash() const noexcept { return hash_; }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

 private:
  std::uint64_t hash_ = 0x9e3779b97f4a7c15;
  std::uint64_t count_ = 0;
  Sink sink_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_TRACE_H_
