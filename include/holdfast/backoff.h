// How long to wait before dialing again: exponential, capped, spread by jitter.
//
// `wait n` is uniform in [initial, min(max, initial * multiplier^n)], and the first one uniform in
// [0, initial]: after a server restart ten thousand clients come back spread, not in step. The cap is
// applied first and the draw made last, so that jitter survives at the cap; the floor stops runs of
// near-zero waits, which plain "full jitter" allows. Pure integer arithmetic that saturates: the same
// numbers on every compiler, and no overflow after a day of outage.
//
//   Duration wait = BackoffDelay({.initial = 100ms, .max = 10s}, n, random_64_bits);
#ifndef HOLDFAST_BACKOFF_H_
#define HOLDFAST_BACKOFF_H_

#include <cstdint>

#include <holdfast/time.h>

namespace holdfast {

enum class Jitter {
  kFull,   // Uniform between the floor (initial; 0 for the first wait) and the exponential value.
  kEqual,  // Uniform in the upper half of the exponential value.
  kNone,   // The exponential value itself. A fleet that loses one server comes back in step.
};

// A factor of at least 1, written as `.multiplier = 1.5` and held as written, to the nearest 1/1024th;
// a negative one, one above 1e6, and NaN are held as 0. Create refuses all below 1 and above 1024.
class BackoffMultiplier {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): options are written with plain numbers.
  constexpr BackoffMultiplier(double value) noexcept
      : in_1024ths_(value >= 0.0 && value <= 1e6 ? static_cast<std::uint32_t>(value * 1024.0 + 0.5)
                                                 : 0) {}
  [[nodiscard]] constexpr std::uint32_t in_1024ths() const noexcept { return in_1024ths_; }
  friend constexpr bool operator==(BackoffMultiplier, BackoffMultiplier) noexcept = default;

 private:
  std::uint32_t in_1024ths_;
};

struct BackoffOptions {
  Duration initial = std::chrono::milliseconds(100);  // > 0
  BackoffMultiplier multiplier = 1.5;                 // 1 <= multiplier <= 1024
  Duration max = std::chrono::seconds(10);            // >= initial
  Jitter jitter = Jitter::kFull;

  friend constexpr bool operator==(const BackoffOptions&, const BackoffOptions&) noexcept = default;
};

// The floor of the first wait: zero after an ordinary failure; `initial` when this host ran out of
// something (ErrorClass::kResource), because trying again at once only makes that worse.
enum class FirstWait { kFromZero, kFromInitial };

// The n-th wait (n from 0) since the link was last healthy. `random`: 64 uniform bits. Pure, total:
// every input gives a value in [0, max].
[[nodiscard]] Duration BackoffDelay(const BackoffOptions& options, std::uint32_t n,
                                    std::uint64_t random,
                                    FirstWait first_wait = FirstWait::kFromZero) noexcept;

}  // namespace holdfast

#endif  // HOLDFAST_BACKOFF_H_
