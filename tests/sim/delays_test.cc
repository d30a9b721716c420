// What the delays of a process leave of a span of time.
#include "sim/delays.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast::internal::sim {
namespace {

using namespace std::chrono_literals;

Instant At(int nanoseconds) { return Instant(Duration(nanoseconds)); }

TEST(DelaysTest, WithoutDelaysAllOfTheTimeIsOutside) {
  const Delays none;
  EXPECT_EQ(Delays::Outside({&none}, At(10), At(25)), 15ns);
  EXPECT_EQ(Delays::Outside({}, At(10), At(25)), 15ns);
  EXPECT_EQ(Delays::Outside({&none}, At(25), At(10)), 0ns);
}

TEST(DelaysTest, ADelayIsFromItsBeginToBeforeItsEnd) {
  Delays delays;
  delays.Add(At(10), At(20));
  EXPECT_EQ(Delays::Outside({&delays}, At(10), At(20)), 0ns);
  EXPECT_EQ(Delays::Outside({&delays}, At(9), At(20)), 1ns);
  EXPECT_EQ(Delays::Outside({&delays}, At(10), At(21)), 1ns);
  EXPECT_EQ(Delays::Outside({&delays}, At(15), At(16)), 0ns);
  EXPECT_EQ(Delays::Outside({&delays}, At(20), At(30)), 10ns);
  EXPECT_EQ(Delays::Outside({&delays}, At(0), At(10)), 10ns);
}

TEST(DelaysTest, AnEmptyOneIsNone) {
  Delays delays;
  delays.Add(At(10), At(10));
  delays.Add(At(20), At(15));
  EXPECT_EQ(Delays::Outside({&delays}, At(0), At(30)), 30ns);
}

TEST(DelaysTest, BetweenTwoThatMeetItRunsForAnInstant) {
  Delays delays;
  delays.Add(At(10), At(20));
  delays.Add(At(20), At(30));
  EXPECT_EQ(Delays::Outside({&delays}, At(0), At(40)), 20ns);
  EXPECT_EQ(delays.EndOver(At(15)), At(20));
  EXPECT_EQ(delays.EndOver(At(20)), At(20));
  EXPECT_EQ(delays.EndAt(At(20)), At(30));
  EXPECT_EQ(delays.EndOver(At(10)), At(10));
}

// Against sets of single nanoseconds.
TEST(DelaysTest, AnyDelaysInAnyOrderOverlapAsTheyWould) {
  Random random(PrintedSeed());
  for (int round = 0; round < 300; ++round) {
    Delays delays[2];
    std::set<int> covered;
    const std::uint64_t count = random.Below(12);
    for (std::uint64_t i = 0; i < count; ++i) {
      const int from = static_cast<int>(random.Below(100));
      const int until = from + static_cast<int>(random.Below(15));
      delays[random.Below(2)].Add(At(from), At(until));
      for (int at = from; at < until; ++at) covered.insert(at);
    }
    const int from = static_cast<int>(random.Below(60));
    const int until = from + static_cast<int>(random.Below(60));
    int outside = 0;
    for (int at = from; at < until; ++at) outside += covered.contains(at) ? 0 : 1;
    ASSERT_EQ(Delays::Outside({&delays[0], &delays[1]}, At(from), At(until)), Duration(outside));
  }
}

}  // namespace
}  // namespace holdfast::internal::sim
