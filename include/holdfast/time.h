// Time as holdfast counts it: CLOCK_MONOTONIC in nanoseconds, or the virtual time of a simulation.
//
// `Instant` is the point in time of std::chrono::steady_clock, which on Linux *is* CLOCK_MONOTONIC
// (clock_gettime(2)), so `Reactor::Now()` and a user's own `steady_clock::now()` compare. Inside the
// library nothing reads a clock but the reactor, once a turn. Arithmetic saturates: "never" stays
// never, however much is added to it.
#ifndef HOLDFAST_TIME_H_
#define HOLDFAST_TIME_H_

#include <chrono>
#include <cstdint>

namespace holdfast {

// A span of time. Unit: nanoseconds; std::chrono literals (100ms, 2s) convert without loss.
using Duration = std::chrono::nanoseconds;

// A point on the reactor's clock.
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

// The deadline that never comes.
inline constexpr Instant kNever = Instant::max();

// `instant + duration` without overflow: past the end of time it is kNever, before its beginning
// Instant::min(). kNever plus anything is kNever.
[[nodiscard]] constexpr Instant SaturatingAdd(Instant instant, Duration duration) noexcept {
  if (instant == kNever) return kNever;
  std::int64_t sum = 0;
  if (__builtin_add_overflow(instant.time_since_epoch().count(), duration.count(), &sum)) {
    return duration.count() > 0 ? kNever : Instant::min();
  }
  return Instant(Duration(sum));
}

}  // namespace holdfast

#endif  // HOLDFAST_TIME_H_
