#include "echo/histogram.h"

#include <algorithm>
#include <bit>

namespace holdfast::echo {

// Values below 64 have a bucket each. Above, the highest 7 bits decide: the first of them is always
// set and with its position names the row, the other 6 name the step.
std::size_t Histogram::BucketOf(std::uint64_t value) {
  if (value < kSteps) return static_cast<std::size_t>(value);
  const int shift = static_cast<int>(std::bit_width(value)) - kStepBits - 1;
  return (static_cast<std::size_t>(shift) << kStepBits) + static_cast<std::size_t>(value >> shift);
}

std::uint64_t Histogram::HighestIn(std::size_t bucket) {
  if (bucket < 2 * kSteps) return bucket;
  const std::size_t shift = (bucket >> kStepBits) - 1;
  const std::uint64_t first = bucket - (shift << kStepBits);
  return ((first + 1) << shift) - 1;
}

void Histogram::Add(std::uint64_t value) {
  ++counts_[BucketOf(value)];
  ++count_;
  max_ = std::max(max_, value);
}

std::uint64_t Histogram::Percentile(std::uint64_t per_hundred_thousand) const {
  if (count_ == 0) return 0;
  // Rounded up, so that p100 needs every sample; in two parts, so that it does not overflow.
  const std::uint64_t part = std::min<std::uint64_t>(per_hundred_thousand, 100'000);
  const std::uint64_t needed =
      count_ / 100'000 * part + (count_ % 100'000 * part + 99'999) / 100'000;
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    seen += counts_[bucket];
    if (seen >= std::max<std::uint64_t>(needed, 1)) return std::min(HighestIn(bucket), max_);
  }
  return max_;
}

}  // namespace holdfast::echo
