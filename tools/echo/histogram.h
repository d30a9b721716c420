// Percentiles of round trips from a fixed array of counters: 64 steps to every power of two, so a
// figure is at most 1/64 too high, whatever the range. Keeping every sample was rejected: a load of
// an hour has no bound.
#ifndef HOLDFAST_TOOLS_ECHO_HISTOGRAM_H_
#define HOLDFAST_TOOLS_ECHO_HISTOGRAM_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace holdfast::echo {

class Histogram {
 public:
  // O(1), allocates nothing.
  void Add(std::uint64_t value);
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] std::uint64_t max() const { return max_; }
  // A value that at least `per_hundred_thousand` of 100,000 samples do not exceed (99,900 = p99.9),
  // exact or up to 1/64 above it, and never above max(). 0 without samples.
  [[nodiscard]] std::uint64_t Percentile(std::uint64_t per_hundred_thousand) const;

 private:
  static constexpr int kStepBits = 6;
  static constexpr std::size_t kSteps = std::size_t{1} << kStepBits;
  static constexpr std::size_t kBuckets = kSteps * (64 - kStepBits + 1);

  static std::size_t BucketOf(std::uint64_t value);
  static std::uint64_t HighestIn(std::size_t bucket);

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_HISTOGRAM_H_
