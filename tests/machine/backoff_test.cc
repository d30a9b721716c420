#include <holdfast/backoff.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast {
namespace {

using internal::PrintedSeed;
using internal::Random;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLowest = 0;
constexpr std::uint64_t kHighest = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint32_t kLastWait = std::numeric_limits<std::uint32_t>::max();

// 100 ms * 1.5^n as it grows to the cap of 10 s, in nanoseconds, worked out by hand.
constexpr std::array<std::int64_t, 13> kDefaultGrowth = {
    100'000'000,   150'000'000,   225'000'000,   337'500'000,   506'250'000,
    759'375'000,   1'139'062'500, 1'708'593'750, 2'562'890'625, 3'844'335'937,
    5'766'503'906, 8'649'755'859, 10'000'000'000};

TEST(BackoffTest, TheFirstWaitSpansFromZeroToInitial) {
  const BackoffOptions options;
  EXPECT_EQ(BackoffDelay(options, 0, kLowest), nanoseconds(0));
  EXPECT_EQ(BackoffDelay(options, 0, kHighest), milliseconds(100));
}

TEST(BackoffTest, LaterWaitsSpanFromInitialToTheExponentialValue) {
  const BackoffOptions options;
  for (std::uint32_t n = 1; n < kDefaultGrowth.size(); ++n) {
    EXPECT_EQ(BackoffDelay(options, n, kLowest), milliseconds(100)) << n;
    EXPECT_EQ(BackoffDelay(options, n, kHighest), nanoseconds(kDefaultGrowth[n])) << n;
  }
}

TEST(BackoffTest, TheCapIsAppliedBeforeTheDrawSoThatJitterSurvivesIt) {
  const BackoffOptions options;
  for (const std::uint32_t n : {12u, 100u, 1'000'000u, kLastWait}) {
    EXPECT_EQ(BackoffDelay(options, n, kLowest), milliseconds(100)) << n;
    EXPECT_NEAR(static_cast<double>(BackoffDelay(options, n, kHighest / 2).count()), 5.05e9, 1.0);
    EXPECT_EQ(BackoffDelay(options, n, kHighest), seconds(10)) << n;
  }
}

TEST(BackoffTest, AfterLocalExhaustionTheFirstWaitIsNotBelowInitial) {
  const BackoffOptions options;
  for (const std::uint64_t random : {kLowest, kHighest}) {
    EXPECT_EQ(BackoffDelay(options, 0, random, FirstWait::kFromInitial), milliseconds(100));
  }
  // The floor of the others is `initial` anyway.
  EXPECT_EQ(BackoffDelay(options, 3, kLowest, FirstWait::kFromInitial), milliseconds(100));
  EXPECT_EQ(BackoffDelay(options, 3, kHighest, FirstWait::kFromInitial),
            nanoseconds(kDefaultGrowth[3]));
}

TEST(BackoffTest, WithoutJitterAWaitIsTheExponentialValue) {
  const BackoffOptions options{.jitter = Jitter::kNone};
  for (std::uint32_t n = 0; n < kDefaultGrowth.size(); ++n) {
    for (const std::uint64_t random : {kLowest, kHighest}) {
      EXPECT_EQ(BackoffDelay(options, n, random), nanoseconds(kDefaultGrowth[n])) << n;
    }
  }
}

TEST(BackoffTest, EqualJitterSpansTheUpperHalf) {
  const BackoffOptions options{.jitter = Jitter::kEqual};
  for (std::uint32_t n = 0; n < kDefaultGrowth.size(); ++n) {
    EXPECT_EQ(BackoffDelay(options, n, kLowest), nanoseconds(kDefaultGrowth[n] / 2)) << n;
    EXPECT_EQ(BackoffDelay(options, n, kHighest), nanoseconds(kDefaultGrowth[n])) << n;
  }
  EXPECT_EQ(BackoffDelay(options, 0, kLowest, FirstWait::kFromInitial), milliseconds(100));
}

TEST(BackoffTest, MultiplierOneNeverGrows) {
  for (const Jitter jitter : {Jitter::kFull, Jitter::kEqual, Jitter::kNone}) {
    const BackoffOptions options{.multiplier = 1.0, .jitter = jitter};
    for (const std::uint32_t n : {0u, 1u, 7u, kLastWait}) {
      EXPECT_EQ(BackoffDelay(options, n, kHighest), milliseconds(100)) << n;
    }
  }
}

TEST(BackoffTest, GrowthOfASingleNanosecondIsNotRoundedAway) {
  const BackoffOptions options{.initial = nanoseconds(1), .multiplier = 1.5, .max = hours(1)};
  EXPECT_EQ(BackoffDelay(options, 1, kHighest), nanoseconds(1));
  EXPECT_EQ(BackoffDelay(options, 2, kHighest), nanoseconds(2));    // 2.25
  EXPECT_EQ(BackoffDelay(options, 3, kHighest), nanoseconds(3));    // 3.375
  EXPECT_EQ(BackoffDelay(options, 10, kHighest), nanoseconds(57));  // 57.67
  EXPECT_EQ(BackoffDelay(options, 1000, kHighest), hours(1));
}

TEST(BackoffTest, TheSlowestGrowthReachesTheCapToo) {
  const BackoffOptions options{
      .initial = nanoseconds(1), .multiplier = 1.0 + 1.0 / 1024, .max = Duration::max()};
  EXPECT_EQ(BackoffDelay(options, kLastWait, kHighest), Duration::max());
}

TEST(BackoffTest, ADayOfOutageSaturatesInsteadOfOverflowing) {
  for (const double multiplier : {1.5, 2.0, 1024.0}) {
    for (const Duration initial : {Duration(1), Duration(milliseconds(100)), Duration::max()}) {
      const BackoffOptions options{
          .initial = initial, .multiplier = multiplier, .max = Duration::max()};
      EXPECT_EQ(BackoffDelay(options, kLastWait, kHighest), Duration::max());
      EXPECT_EQ(BackoffDelay(options, kLastWait, kLowest), initial);
    }
  }
}

TEST(BackoffTest, OptionsThatCreateRefusesStillGiveAWaitBetweenZeroAndMax) {
  const Duration odd[] = {Duration::min(), Duration(-1), Duration(0), Duration(1), Duration::max()};
  for (const Duration initial : odd) {
    for (const Duration max : odd) {
      for (const double multiplier : {-1.0, 0.0, 0.5, 1.0, 1e6, 1e9}) {
        for (const std::uint32_t n : {0u, 1u, 64u, kLastWait}) {
          for (const Jitter jitter : {Jitter::kFull, Jitter::kEqual, Jitter::kNone}) {
            const BackoffOptions options{initial, multiplier, max, jitter};
            for (const std::uint64_t random : {kLowest, kHighest}) {
              const Duration wait = BackoffDelay(options, n, random);
              EXPECT_GE(wait, Duration(0));
              EXPECT_LE(wait, std::max(max, Duration(0)));
            }
          }
        }
      }
    }
  }
}

// Any seed must pass: the bounds come from the specification, in another arithmetic.
TEST(BackoffTest, RandomOptionsStayInTheBoundsOfTheFormula) {
  Random random(PrintedSeed());
  for (int round = 0; round < 20'000; ++round) {
    const auto initial = static_cast<std::int64_t>(random.Between(1, 1'000'000'000));
    const auto max = static_cast<std::int64_t>(
        random.Between(static_cast<std::uint64_t>(initial), 1'000'000'000'000));
    const auto factor = static_cast<double>(random.Between(1024, 4096)) / 1024;
    const auto n = static_cast<std::uint32_t>(random.Below(60));
    const BackoffOptions options{nanoseconds(initial), factor, nanoseconds(max), Jitter::kFull};
    const long double exact = std::min<long double>(
        static_cast<long double>(max),
        static_cast<long double>(initial) * std::pow(static_cast<long double>(factor), n));

    const auto top = static_cast<long double>(BackoffDelay(options, n, kHighest).count());
    ASSERT_LE(top, exact * (1 + 1e-12L));
    ASSERT_GE(top, exact * (1 - 1e-7L) - 1);  // Rounded down.

    const Duration low = n == 0 ? Duration(0) : nanoseconds(initial);
    const Duration wait = BackoffDelay(options, n, random.Next());
    ASSERT_GE(wait, low);
    ASSERT_LE(static_cast<long double>(wait.count()), top);
  }
}

// Fixed seed: a sanity check of the shape, not a gamble.
TEST(BackoffTest, WaitsAreSpreadEvenly) {
  constexpr int kDraws = 160'000;
  Random random(20'240'229);
  const BackoffOptions options;
  std::array<int, 16> buckets{};
  for (int i = 0; i < kDraws; ++i) {
    const auto above = static_cast<std::uint64_t>(
        (BackoffDelay(options, 20, random.Next()) - options.initial).count());
    const auto width = static_cast<std::uint64_t>((options.max - options.initial).count());
    ++buckets[static_cast<std::size_t>(above * buckets.size() / (width + 1))];
  }
  // 10,000 each; the standard deviation is 97.
  for (const int count : buckets) EXPECT_NEAR(count, 10'000, 500);
}

TEST(BackoffTest, TheSameRandomBitsGiveTheSameWait) {
  const BackoffOptions options;
  EXPECT_EQ(BackoffDelay(options, 5, 0x0123456789abcdef),
            BackoffDelay(options, 5, 0x0123456789abcdef));
  EXPECT_NE(BackoffDelay(options, 5, 0x0123456789abcdef),
            BackoffDelay(options, 5, 0xfedcba9876543210));
}

}  // namespace
}  // namespace holdfast
