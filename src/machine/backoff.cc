#include <holdfast/backoff.h>

#include <algorithm>

namespace holdfast {
namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr std::uint64_t kOne1024ths = 1024;
constexpr int kFractionBits = 32;

[[nodiscard]] std::uint64_t Nanoseconds(Duration duration) noexcept {
  return static_cast<std::uint64_t>(std::max<Duration::rep>(duration.count(), 0));
}

// min(cap, initial * multiplier^n). The product keeps 32 bits below the nanosecond, so that rounding
// down does not stop the growth of a small one. It grows by at least 1/1024 a round, so that the cap
// ends the loop: after 9 rounds with the defaults, after 45,000 in the worst case.
[[nodiscard]] std::uint64_t Exponential(std::uint64_t initial, std::uint32_t multiplier_1024ths,
                                        std::uint32_t n, std::uint64_t cap) noexcept {
  if (initial == 0 || multiplier_1024ths <= kOne1024ths) return std::min(initial, cap);
  const Uint128 limit = Uint128{cap} << kFractionBits;  // < 2^95
  Uint128 value = Uint128{initial} << kFractionBits;    // < 2^95; the factor is < 2^32
  for (std::uint32_t round = 0; round < n && value < limit; ++round) {
    value = value * multiplier_1024ths / kOne1024ths;
  }
  return static_cast<std::uint64_t>(std::min(value, limit) >> kFractionBits);
}

// Uniform in [low, high] from 64 uniform bits: the high half of random * count. Its bias is below
// count / 2^64, and no value needs a second draw.
[[nodiscard]] std::uint64_t Draw(std::uint64_t low, std::uint64_t high,
                                 std::uint64_t random) noexcept {
  const std::uint64_t count = high - low + 1;  // <= 2^63: a Duration is a signed number.
  return low + static_cast<std::uint64_t>(Uint128{random} * count >> 64);
}

}  // namespace

Duration BackoffDelay(const BackoffOptions& options, std::uint32_t n, std::uint64_t random,
                      FirstWait first_wait) noexcept {
  const std::uint64_t initial = Nanoseconds(options.initial);
  const std::uint64_t high =
      Exponential(initial, options.multiplier.in_1024ths(), n, Nanoseconds(options.max));
  const bool from_zero = n == 0 && first_wait == FirstWait::kFromZero;
  std::uint64_t low = high;
  switch (options.jitter) {
    case Jitter::kFull:
      low = from_zero ? 0 : std::min(initial, high);
      break;
    case Jitter::kEqual:
      low = n == 0 && !from_zero ? high : high / 2;
      break;
    case Jitter::kNone:
      break;
  }
  return Duration(static_cast<Duration::rep>(Draw(low, high, random)));
}

}  // namespace holdfast
