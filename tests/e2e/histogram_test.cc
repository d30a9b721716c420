#include "echo/histogram.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "support/seed.h"

namespace holdfast::echo {
namespace {

TEST(HistogramTest, SaysZeroWithoutSamples) {
  const Histogram histogram;
  EXPECT_EQ(histogram.Percentile(50'000), 0u);
  EXPECT_EQ(histogram.max(), 0u);
  EXPECT_EQ(histogram.count(), 0u);
}

TEST(HistogramTest, IsExactForSmallValues) {
  Histogram histogram;
  for (std::uint64_t value = 1; value <= 100; ++value) histogram.Add(value);
  EXPECT_EQ(histogram.Percentile(0), 1u);
  EXPECT_EQ(histogram.Percentile(1'000), 1u);
  EXPECT_EQ(histogram.Percentile(1'001), 2u);
  EXPECT_EQ(histogram.Percentile(50'000), 50u);
  EXPECT_EQ(histogram.Percentile(99'000), 99u);
  EXPECT_EQ(histogram.Percentile(100'000), 100u);
}

TEST(HistogramTest, IsAtMostOneSixtyFourthTooHighAndNeverTooLow) {
  std::mt19937_64 random(internal::PrintedSeed());
  for (int round = 0; round < 50; ++round) {
    Histogram histogram;
    std::vector<std::uint64_t> values;
    for (std::size_t size = 1 + random() % 3000; values.size() < size;) {
      values.push_back(random() >> (random() % 64));
      histogram.Add(values.back());
    }
    std::sort(values.begin(), values.end());
    for (const std::uint64_t part : {1'000u, 50'000u, 90'000u, 99'000u, 99'900u, 100'000u}) {
      // The smallest value that at least `part` of the samples do not exceed.
      const std::uint64_t rank = (values.size() * part + 99'999) / 100'000;
      const std::uint64_t exact = values[rank - 1];
      const std::uint64_t found = histogram.Percentile(part);
      EXPECT_GE(found, exact);
      EXPECT_LE(found - exact, exact / 64) << "part " << part;
    }
    EXPECT_EQ(histogram.Percentile(100'000), values.back());
    EXPECT_EQ(histogram.max(), values.back());
  }
}

TEST(HistogramTest, TakesTheLargestValue) {
  Histogram histogram;
  histogram.Add(std::numeric_limits<std::uint64_t>::max());
  histogram.Add(0);
  EXPECT_EQ(histogram.Percentile(50'000), 0u);
  EXPECT_EQ(histogram.Percentile(99'000), std::numeric_limits<std::uint64_t>::max());
}

}  // namespace
}  // namespace holdfast::echo
