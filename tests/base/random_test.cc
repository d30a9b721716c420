#include "base/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>

namespace holdfast::internal {
namespace {

// Published with the algorithm (prng.di.unimi.it/splitmix64.c, seed 1234567; Rosetta Code).
TEST(RandomTest, SplitMix64GivesThePublishedNumbers) {
  std::uint64_t state = 1234567;
  for (const std::uint64_t expected :
       {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u,
        16408922859458223821u}) {
    EXPECT_EQ(SplitMix64(state), expected);
  }
}

// The reference implementation's outputs from the state {1, 2, 3, 4} (prng.di.unimi.it, rand_xoshiro).
TEST(RandomTest, Xoshiro256StarStarGivesThePublishedNumbers) {
  std::array<std::uint64_t, 4> state{1, 2, 3, 4};
  for (const std::uint64_t expected :
       {std::uint64_t{11520}, std::uint64_t{0}, std::uint64_t{1509978240}, 1215971899390074240u,
        1216172134540287360u, 607988272756665600u, 16172922978634559625u, 8476171486693032832u,
        10595114339597558777u, 2904607092377533576u}) {
    EXPECT_EQ(Xoshiro256StarStar(state), expected);
  }
}

TEST(RandomTest, ASeedGoesThroughSplitMix64IntoTheState) {
  Random random(42);
  EXPECT_EQ(random.Next(), 1546998764402558742u);
  EXPECT_EQ(random.Next(), 6990951692964543102u);
  EXPECT_EQ(random.Next(), 12544586762248559009u);
}

TEST(RandomTest, EqualSeedsAndCopiesRepeatEachOther) {
  Random a(7), b(7);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(a.Next(), b.Next());
  Random copy = a;
  for (int i = 0; i < 100; ++i) ASSERT_EQ(a.Below(1000), copy.Below(1000));
}

TEST(RandomTest, SeedZeroIsASeedLikeAnyOther) {
  Random random(0);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.Next());
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(RandomTest, BelowStaysBelowAndReachesEveryValue) {
  Random random(1);
  for (const std::uint64_t bound : {1u, 2u, 3u, 7u, 64u, 100u}) {
    std::set<std::uint64_t> seen;
    for (int i = 0; i < 10000; ++i) {
      const std::uint64_t value = random.Below(bound);
      ASSERT_LT(value, bound);
      seen.insert(value);
    }
    EXPECT_EQ(seen.size(), bound);
  }
}

// With bound 3 * 2^62 four words share three values. A plain modulo gives the lowest third of them
// twice the chance of the others, a multiplication without rejection those divisible by 3. The
// standard deviation of a count is 149 here; the limit is six of them.
TEST(RandomTest, BelowHasNoBiasWhereTheBoundDoesNotDivideTheRange) {
  constexpr std::uint64_t kThird = std::uint64_t{1} << 62;
  constexpr int kDraws = 100000;
  Random random(2);
  std::array<int, 3> by_high{}, by_remainder{};
  for (int i = 0; i < kDraws; ++i) {
    const std::uint64_t value = random.Below(3 * kThird);
    ASSERT_LT(value, 3 * kThird);
    ++by_high[static_cast<std::size_t>(value / kThird)];
    ++by_remainder[static_cast<std::size_t>(value % 3)];
  }
  for (const auto& shares : {by_high, by_remainder}) {
    for (const int share : shares) EXPECT_NEAR(share, kDraws / 3, 900);
  }
}

TEST(RandomTest, BoundZeroIsTheWholeRange) {
  Random random(3), reference(3);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(random.Below(0), reference.Next());
}

TEST(RandomTest, BetweenIncludesBothEnds) {
  Random random(4);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.Between(10, 13));
  EXPECT_EQ(seen, (std::set<std::uint64_t>{10, 11, 12, 13}));
  EXPECT_EQ(random.Between(5, 5), 5u);
}

TEST(RandomTest, BetweenTheExtremesIsTheWholeRange) {
  Random random(5), reference(5);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(random.Between(0, UINT64_MAX), reference.Next());
  for (int i = 0; i < 100; ++i)
    ASSERT_GE(random.Between(UINT64_MAX - 1, UINT64_MAX), UINT64_MAX - 1);
}

TEST(RandomDeathTest, BetweenNeedsItsEndsInOrder) {
  Random random(6);
  EXPECT_DEATH((void)random.Between(2, 1), "CHECK failed");
}

// Usable where a table is made at compile time.
TEST(RandomTest, DrawsAreConstexpr) {
  static_assert([] {
    Random random(42);
    return random.Next();
  }() == 1546998764402558742u);
}

}  // namespace
}  // namespace holdfast::internal
