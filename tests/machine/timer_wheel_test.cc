#include "machine/timer_wheel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"

namespace holdfast::internal {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::int64_t kNeverNanos = INT64_MAX;
constexpr std::int64_t kTick = std::int64_t{1}
                               << 19;  // A slot of level 0; each level is 64 of these.
constexpr std::size_t kNoLimit = SIZE_MAX;

Instant At(std::int64_t nanos) { return Instant(Duration(nanos)); }
Instant At(Duration since_zero) { return Instant(since_zero); }
std::int64_t Nanos(Instant instant) { return instant.time_since_epoch().count(); }

std::uint64_t Seed() {
  const char* const text = std::getenv("HOLDFAST_SEED");
  const std::uint64_t seed =
      text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
  std::printf("HOLDFAST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// Writes its name down when it fires, and then does what the test wants of it.
class NamedTimer : public TimerNode {
 public:
  NamedTimer(std::vector<int>& log, int name) : TimerNode(&OnTimer), log_(log), name_(name) {}

  std::function<void()> then;

 private:
  static void OnTimer(TimerNode& node) {
    auto& timer = static_cast<NamedTimer&>(node);
    timer.log_.push_back(timer.name_);
    const auto then = timer.then;  // A copy: it may destroy the timer.
    if (then) then();
  }

  std::vector<int>& log_;
  int name_;
};

using Log = std::vector<int>;

class TimerWheelTest : public testing::Test {
 protected:
  // What fires at `now`, in order.
  Log Expire(Instant now, std::size_t budget = kNoLimit) {
    log_.clear();
    const std::size_t fired = wheel_.Expire(now, budget);
    EXPECT_EQ(fired, log_.size());
    wheel_.CheckInvariants();
    return log_;
  }

  std::vector<std::unique_ptr<NamedTimer>> MakeTimers(int count) {
    std::vector<std::unique_ptr<NamedTimer>> timers;
    timers.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) timers.push_back(std::make_unique<NamedTimer>(log_, i));
    return timers;
  }

  Log log_;
  TimerWheel wheel_{At(0)};
  NamedTimer a_{log_, 1}, b_{log_, 2}, c_{log_, 3};
};

TEST_F(TimerWheelTest, ANewWheelHasNothingToDo) {
  EXPECT_EQ(wheel_.next_deadline(), kNever);
  EXPECT_FALSE(wheel_.armed(a_));
  EXPECT_EQ(Expire(At(hours(1))), Log{});
}

// Around every border between levels and ticks, from several places of the clock.
TEST(TimerWheelDeadlineTest, FiresAtItsDeadlineAndNotANanosecondBefore) {
  std::vector<std::int64_t> delays{1, 2};
  for (int bit = 18; bit <= 61; ++bit) {
    for (const std::int64_t offset : {-1, 0, 1})
      delays.push_back((std::int64_t{1} << bit) + offset);
  }
  for (const std::int64_t start :
       {std::int64_t{0}, std::int64_t{1}, kTick * 63 + kTick / 2, kTick * 64 - 1,
        kTick * 64 * 64 * 64 - 1, (kTick << 40) + 12345}) {
    for (const std::int64_t delay : delays) {
      Log log;
      TimerWheel wheel(At(start));
      NamedTimer timer(log, 1);
      wheel.Arm(timer, At(start + delay));
      wheel.CheckInvariants();
      ASSERT_EQ(Nanos(wheel.next_deadline()), start + delay);
      ASSERT_EQ(wheel.Expire(At(start + delay - 1)), 0u) << start << " + " << delay;
      ASSERT_EQ(Nanos(wheel.next_deadline()), start + delay);
      wheel.CheckInvariants();
      ASSERT_EQ(wheel.Expire(At(start + delay)), 1u) << start << " + " << delay;
      ASSERT_FALSE(wheel.armed(timer));
      ASSERT_EQ(wheel.next_deadline(), kNever);
    }
  }
}

TEST_F(TimerWheelTest, AFiredTimerDoesNotFireAgain) {
  wheel_.Arm(a_, At(5));
  EXPECT_EQ(Expire(At(5)), (Log{1}));
  EXPECT_EQ(Expire(At(5)), Log{});
  EXPECT_EQ(Expire(At(hours(1))), Log{});
}

TEST_F(TimerWheelTest, ADeadlineInThePastFiresInTheNextExpire) {
  Expire(At(seconds(100)));
  wheel_.Arm(a_, At(seconds(40)));
  wheel_.Arm(b_, At(seconds(100)));
  wheel_.Arm(c_, Instant::min());
  EXPECT_EQ(wheel_.next_deadline(), Instant::min());
  EXPECT_EQ(Expire(At(seconds(100))), (Log{3, 1, 2}));
}

TEST_F(TimerWheelTest, CancelPreventsFiring) {
  wheel_.Arm(a_, At(5));
  wheel_.Cancel(a_);
  EXPECT_FALSE(wheel_.armed(a_));
  EXPECT_EQ(a_.deadline(), kNever);
  EXPECT_EQ(Expire(At(seconds(1))), Log{});
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

TEST_F(TimerWheelTest, CancellingWhatIsNotArmedDoesNothing) {
  wheel_.Cancel(a_);
  wheel_.Cancel(a_);
  EXPECT_FALSE(wheel_.armed(a_));
  EXPECT_EQ(wheel_.next_deadline(), kNever);
  wheel_.Arm(a_, At(5));
  EXPECT_TRUE(wheel_.armed(a_));
  EXPECT_EQ(Expire(At(5)), (Log{1}));
}

TEST_F(TimerWheelTest, ArmingToNeverIsCancelling) {
  wheel_.Arm(a_, kNever);
  EXPECT_FALSE(wheel_.armed(a_));
  wheel_.Arm(b_, At(5));
  wheel_.Arm(b_, kNever);
  EXPECT_FALSE(wheel_.armed(b_));
  EXPECT_EQ(Expire(At(hours(24 * 365))), Log{});
  EXPECT_EQ(Expire(kNever), Log{});
}

TEST_F(TimerWheelTest, ACancelledTimerCanBeArmedAgainEarlierAndLater) {
  for (const Duration second : {seconds(5), seconds(10), seconds(20)}) {
    const Instant start = At(hours(1) + second * 100);
    Expire(start);
    wheel_.Arm(a_, start + seconds(10));
    wheel_.Cancel(a_);
    wheel_.Arm(a_, start + second);
    EXPECT_TRUE(wheel_.armed(a_));
    EXPECT_EQ(Expire(start + second - nanoseconds(1)), Log{});
    EXPECT_EQ(Expire(start + second), (Log{1}));
  }
}

TEST_F(TimerWheelTest, ArmingAgainMovesTheTimerLater) {
  wheel_.Arm(a_, At(seconds(1)));
  wheel_.Arm(a_, At(seconds(50)));
  EXPECT_EQ(a_.deadline(), At(seconds(50)));
  EXPECT_EQ(Expire(At(seconds(1))), Log{});
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(50)));
  EXPECT_EQ(Expire(At(seconds(50)) - nanoseconds(1)), Log{});
  EXPECT_EQ(Expire(At(seconds(50))), (Log{1}));
}

TEST_F(TimerWheelTest, ArmingAgainMovesTheTimerEarlier) {
  wheel_.Arm(a_, At(seconds(50)));
  wheel_.Arm(b_, At(seconds(50)));
  wheel_.Arm(a_, At(seconds(1)));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(1)));
  EXPECT_EQ(Expire(At(seconds(1))), (Log{1}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(50)));
  EXPECT_EQ(Expire(At(seconds(50))), (Log{2}));
}

// The slot that it leaves knows by its sentinel that it is empty.
TEST_F(TimerWheelTest, MovingTheOnlyTimerOfASlotEarlierCostsNoWakeUp) {
  wheel_.Arm(a_, At(seconds(50)));
  wheel_.Arm(a_, At(seconds(1)));
  wheel_.CheckInvariants();
  EXPECT_EQ(Expire(At(seconds(1))), (Log{1}));
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

TEST_F(TimerWheelTest, AnEmptiedSlotForgetsItsLeastDeadline) {
  {
    NamedTimer dying(log_, 9);
    wheel_.Arm(dying, At(seconds(50)));
  }
  EXPECT_LE(wheel_.next_deadline(), At(seconds(50)));
  wheel_.Arm(a_, At(seconds(50)) + nanoseconds(1));  // The same slot: it is 34 ms wide or more.
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(50)) + nanoseconds(1));
}

// --- Callbacks that change the wheel.

TEST_F(TimerWheelTest, CancelInsideCallbackPreventsTheLaterTimer) {
  wheel_.Arm(a_, At(10));
  wheel_.Arm(b_, At(20));
  a_.then = [this] { wheel_.Cancel(b_); };
  EXPECT_EQ(Expire(At(seconds(1))), (Log{1}));
  EXPECT_EQ(Expire(At(seconds(2))), Log{});
}

TEST_F(TimerWheelTest, CancellingItselfInsideItsCallbackDoesNothing) {
  wheel_.Arm(a_, At(10));
  a_.then = [this] {
    EXPECT_FALSE(wheel_.armed(a_));
    wheel_.Cancel(a_);
  };
  EXPECT_EQ(Expire(At(10)), (Log{1}));
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

TEST_F(TimerWheelTest, ACallbackMayArmItsOwnTimerAgain) {
  wheel_.Arm(a_, At(seconds(1)));
  a_.then = [this] { wheel_.Arm(a_, a_.deadline() + seconds(1)); };
  for (int i = 1; i <= 100; ++i) {
    EXPECT_EQ(wheel_.next_deadline(), At(seconds(i)));
    EXPECT_EQ(Expire(At(seconds(i)) - nanoseconds(1)), Log{});
    EXPECT_EQ(Expire(At(seconds(i))), (Log{1}));
  }
}

TEST_F(TimerWheelTest, ArmingWithNoDelayInsideACallbackWaitsOneTurn) {
  const Instant now = At(seconds(7));
  wheel_.Arm(a_, now);
  a_.then = [&] {
    wheel_.Arm(a_, now);
    wheel_.Arm(b_, now - seconds(3));
  };
  EXPECT_EQ(Expire(now), (Log{1}));
  EXPECT_LE(wheel_.next_deadline(), now);
  a_.then = nullptr;
  EXPECT_EQ(Expire(now), (Log{2, 1}));
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

// b is due in the batch that is running; armed anew, it belongs to the next.
TEST_F(TimerWheelTest, ADueTimerArmedAnewToThePastInsideACallbackWaitsOneTurn) {
  for (const std::int64_t anew : {15, 20, 25, 30}) {
    const Instant base = At(seconds(anew));
    Expire(base);
    wheel_.Arm(a_, base + nanoseconds(10));
    wheel_.Arm(b_, base + nanoseconds(20));
    a_.then = [&] { wheel_.Arm(b_, base + nanoseconds(anew)); };
    EXPECT_EQ(Expire(base + nanoseconds(30)), (Log{1})) << anew;
    EXPECT_EQ(Expire(base + nanoseconds(30)), (Log{2})) << anew;
  }
}

TEST_F(TimerWheelTest, ADueTimerPutOffInsideACallbackFiresThen) {
  wheel_.Arm(a_, At(10));
  wheel_.Arm(b_, At(20));
  a_.then = [this] { wheel_.Arm(b_, At(seconds(5))); };
  EXPECT_EQ(Expire(At(30)), (Log{1}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(5)));
  EXPECT_EQ(Expire(At(seconds(5))), (Log{2}));
}

TEST_F(TimerWheelTest, ACallbackMayDestroyItsOwnTimer) {
  auto timer = std::make_unique<NamedTimer>(log_, 7);
  timer->then = [&timer] { timer.reset(); };
  wheel_.Arm(*timer, At(10));
  wheel_.Arm(a_, At(20));
  EXPECT_EQ(Expire(At(30)), (Log{7, 1}));
  EXPECT_EQ(timer, nullptr);
}

TEST_F(TimerWheelTest, ACallbackMayDestroyTimersThatAreDueToo) {
  auto timers = MakeTimers(10);
  for (auto& timer : timers) wheel_.Arm(*timer, At(20));
  wheel_.Arm(a_, At(10));
  a_.then = [&] {
    for (const std::size_t i : {0u, 4u, 9u}) timers[i].reset();
    wheel_.CheckInvariants();
  };
  EXPECT_EQ(Expire(At(30)), (Log{1, 1, 2, 3, 5, 6, 7, 8}));
}

// On the level of these three the jump goes most of a full turn: seen from its end, c's slot comes
// first, and it is not due.
TEST_F(TimerWheelTest, AJumpDoesNotHideTheDueSlotsThatItPassed) {
  wheel_.Arm(a_, At(seconds(10)));
  wheel_.Arm(b_, At(seconds(100)));
  wheel_.Arm(c_, At(seconds(130)));
  EXPECT_EQ(Expire(At(seconds(120))), (Log{1, 2}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(130)));
  EXPECT_EQ(Expire(At(seconds(130))), (Log{3}));
}

// In one phase instead of two, what a's callback arms would be taken for the first slot of its level
// and hide b for another minute.
TEST_F(TimerWheelTest, ATimerArmedByACallbackDoesNotHideADueSlot) {
  wheel_.Arm(a_, At(seconds(10)));
  wheel_.Arm(b_, At(seconds(100)));
  a_.then = [this] { wheel_.Arm(c_, At(seconds(210))); };
  EXPECT_EQ(Expire(At(seconds(150))), (Log{1, 2}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(210)));
  EXPECT_EQ(Expire(At(seconds(210))), (Log{3}));
}

// --- Order.

TEST_F(TimerWheelTest, AfterAJumpTimersFireByDeadline) {
  auto timers = MakeTimers(1000);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    // 271 and 1000 have no common divisor: every place once, far from sorted, across four levels.
    const auto place = static_cast<std::int64_t>(i * 271 % 1000);
    wheel_.Arm(*timers[static_cast<std::size_t>(place)], At(milliseconds(place * place)));
  }
  const Log fired = Expire(At(hours(1)));
  ASSERT_EQ(fired.size(), timers.size());
  EXPECT_TRUE(std::is_sorted(fired.begin(), fired.end()));
}

TEST_F(TimerWheelTest, EqualDeadlinesArmedInOneTurnFireInTheOrderOfArming) {
  auto timers = MakeTimers(100);
  wheel_.Arm(a_, At(seconds(70)));
  for (auto& timer : timers) wheel_.Arm(*timer, At(seconds(100)));
  // On the way they move to finer slots together.
  Expire(At(seconds(70)));
  Expire(At(seconds(99)));
  const Log fired = Expire(At(seconds(200)));
  ASSERT_EQ(fired.size(), timers.size());
  EXPECT_TRUE(std::is_sorted(fired.begin(), fired.end()));
}

TEST_F(TimerWheelTest, OfEqualDeadlinesTheOneArmedLongAgoFiresFirst) {
  wheel_.Arm(a_, At(seconds(100)));
  Expire(At(seconds(99)));
  wheel_.Arm(b_, At(seconds(100)));
  EXPECT_EQ(Expire(At(seconds(100))), (Log{1, 2}));
}

// --- Budget.

TEST_F(TimerWheelTest, NoMoreThanTheBudgetFireAndTheRestIsDueNow) {
  auto timers = MakeTimers(1000);
  for (auto& timer : timers) wheel_.Arm(*timer, At(seconds(10)));
  const Instant now = At(seconds(11));
  Log all;
  for (int turn = 0; turn < 10; ++turn) {
    EXPECT_LE(wheel_.next_deadline(), now);
    const Log fired = Expire(now, 100);
    EXPECT_EQ(fired.size(), 100u);
    all.insert(all.end(), fired.begin(), fired.end());
  }
  EXPECT_EQ(all.size(), 1000u);
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

// One slot of level 2 (2.1 s wide), of which only the first timer is due: the others move on, and
// that is work too.
TEST_F(TimerWheelTest, MovingATimerToAFinerSlotCountsAsWork) {
  auto timers = MakeTimers(1001);
  const Instant first = At(std::int64_t{10} << 31);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    wheel_.Arm(*timers[i], first + (i == 0 ? milliseconds(0) : milliseconds(1000)));
  }
  std::size_t fired = 0;
  for (int turn = 0; turn < 100; ++turn) {
    fired += Expire(first, 10).size();
    ASSERT_EQ(wheel_.next_deadline(), first) << "turn " << turn;
  }
  fired += Expire(first, 10).size();
  EXPECT_EQ(fired, 1u);
  EXPECT_EQ(wheel_.next_deadline(), first + milliseconds(1000));
}

TEST_F(TimerWheelTest, DroppingACancelledTimerCountsAsWork) {
  auto timers = MakeTimers(100);
  for (auto& timer : timers) {
    wheel_.Arm(*timer, At(10));
    wheel_.Cancel(*timer);
  }
  Expire(At(20), 99);
  EXPECT_EQ(wheel_.next_deadline(), At(20));
  Expire(At(20), 1);
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

TEST_F(TimerWheelTest, ABudgetOfZeroDoesNothingAndLosesNothing) {
  wheel_.Arm(a_, At(10));
  EXPECT_EQ(Expire(At(20), 0), Log{});
  EXPECT_TRUE(wheel_.armed(a_));
  EXPECT_EQ(wheel_.next_deadline(), At(20));
  EXPECT_EQ(Expire(At(20), 1), (Log{1}));
}

TEST_F(TimerWheelTest, WorkLeftByTheBudgetCanBeCancelledMovedAndDestroyed) {
  auto timers = MakeTimers(5);
  for (auto& timer : timers) wheel_.Arm(*timer, At(10));
  EXPECT_EQ(Expire(At(20), 1), (Log{0}));
  wheel_.Cancel(*timers[1]);
  wheel_.Arm(*timers[2], At(seconds(1)));
  timers[3].reset();
  wheel_.CheckInvariants();
  EXPECT_EQ(Expire(At(20)), (Log{4}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(1)));
  EXPECT_EQ(Expire(At(seconds(1))), (Log{2}));
}

// The level goes by distance. By the highest differing bit, all timers beyond the mark of 2^37 ns
// would lie in one slot, and its opening would take 40 turns.
TEST_F(TimerWheelTest, NoSlotCollectsAllTimersBeyondACoarseBoundary) {
  constexpr std::int64_t kMark = std::int64_t{3} << 37;
  Expire(At(kMark) - seconds(1));
  auto timers = MakeTimers(10000);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    wheel_.Arm(*timers[i], At(kMark) + milliseconds(6 * static_cast<std::int64_t>(i)));
  }
  int turns_at_once = 0;
  int turns_at_once_max = 0;
  std::size_t fired = 0;
  for (Instant now = At(kMark); now != kNever;) {
    fired += Expire(now, 256).size();
    const Instant next = wheel_.next_deadline();
    turns_at_once = next <= now ? turns_at_once + 1 : 0;
    turns_at_once_max = std::max(turns_at_once_max, turns_at_once);
    ASSERT_LE(turns_at_once_max, 10000);  // Else it does not end.
    now = std::max(now, next);
  }
  EXPECT_EQ(fired, timers.size());
  // A slot of 2.1 s holds 358 of them: one turn of 256, and the rest.
  EXPECT_LE(turns_at_once_max, 2);
}

// --- Far deadlines, jumps, a clock that goes back.

TEST_F(TimerWheelTest, DeadlinesOfYearsFireAndFarOnesDoNotHideNearOnes) {
  constexpr auto kYear = hours(24 * 365);
  wheel_.Arm(a_, At(50 * kYear));
  wheel_.Arm(b_, At(2 * kYear));
  wheel_.Arm(c_, At(kNeverNanos - 1));
  EXPECT_EQ(wheel_.next_deadline(), At(2 * kYear));
  // A long uptime, an hour a step; with 6 levels the far timers would be met again after 417 days.
  for (Instant now = At(0); now < At(2 * kYear); now += hours(100)) ASSERT_EQ(Expire(now), Log{});
  EXPECT_EQ(Expire(At(2 * kYear)), (Log{2}));
  EXPECT_EQ(wheel_.next_deadline(), At(50 * kYear));
  EXPECT_EQ(Expire(At(50 * kYear) - nanoseconds(1)), Log{});
  EXPECT_EQ(Expire(At(50 * kYear)), (Log{1}));
  EXPECT_EQ(Expire(At(kNeverNanos - 2)), Log{});
  EXPECT_EQ(Expire(At(kNeverNanos - 1)), (Log{3}));
}

TEST_F(TimerWheelTest, AtTheEndOfTimeAllArmedTimersHaveFiredAndNoOther) {
  wheel_.Arm(a_, At(kNeverNanos - 1));
  wheel_.Arm(b_, At(seconds(1)));
  wheel_.Arm(c_, At(seconds(2)));
  wheel_.Cancel(c_);
  EXPECT_EQ(Expire(kNever), (Log{2, 1}));
  wheel_.Arm(a_, At(kNeverNanos - 1));
  wheel_.Arm(b_, kNever);
  EXPECT_EQ(Expire(kNever), (Log{1}));
}

TEST(TimerWheelDeadlineTest, TheClockMayStartBeforeItsZero) {
  Log log;
  TimerWheel wheel(Instant::min());
  NamedTimer a(log, 1), b(log, 2), c(log, 3);
  wheel.Arm(a, At(-5));
  wheel.Arm(b, At(5));
  wheel.Arm(c, At(kNeverNanos - 1));
  wheel.CheckInvariants();
  EXPECT_EQ(wheel.next_deadline(), At(-5));
  EXPECT_EQ(wheel.Expire(At(-6)), 0u);
  EXPECT_EQ(wheel.Expire(At(-5)), 1u);
  EXPECT_EQ(wheel.Expire(At(4)), 0u);
  EXPECT_EQ(wheel.Expire(At(5)), 1u);
  EXPECT_EQ(wheel.next_deadline(), At(kNeverNanos - 1));
  wheel.CheckInvariants();
}

TEST_F(TimerWheelTest, AClockThatGoesBackFiresNothingEarlyAndBreaksNothing) {
  Expire(At(seconds(100)));
  wheel_.Arm(a_, At(seconds(100)) - nanoseconds(1));
  wheel_.Arm(b_, At(seconds(100)) + nanoseconds(1));
  wheel_.Arm(c_, At(seconds(50)));
  EXPECT_EQ(Expire(At(seconds(49))), Log{});
  EXPECT_EQ(Expire(At(seconds(50))), (Log{3}));
  EXPECT_EQ(wheel_.next_deadline(), At(seconds(100)) - nanoseconds(1));
  EXPECT_EQ(Expire(At(seconds(60))), Log{});
  EXPECT_EQ(Expire(At(seconds(100))), (Log{1}));
  EXPECT_EQ(Expire(At(seconds(100)) + nanoseconds(1)), (Log{2}));
}

TEST_F(TimerWheelTest, WorkLeftWhileTheClockWentBackIsDueAtThatTime) {
  Expire(At(seconds(100)));
  wheel_.Arm(a_, At(seconds(40)));
  wheel_.Arm(b_, At(seconds(40)));
  EXPECT_EQ(Expire(At(seconds(50)), 1), (Log{1}));
  EXPECT_LE(wheel_.next_deadline(), At(seconds(50)));
  EXPECT_EQ(Expire(At(seconds(50)), 1), (Log{2}));
}

// --- Lifetimes.

TEST_F(TimerWheelTest, ADestroyedTimerNeverFires) {
  {
    NamedTimer dying(log_, 9);
    wheel_.Arm(dying, At(10));
    wheel_.Arm(a_, At(10));
  }
  wheel_.CheckInvariants();
  EXPECT_EQ(Expire(At(seconds(1))), (Log{1}));
}

TEST(TimerWheelLifetimeTest, AWheelMayBeDestroyedBeforeItsTimers) {
  Log log;
  NamedTimer near(log, 1), far(log, 2), left(log, 3), cancelled(log, 4), unarmed(log, 5);
  auto wheel = std::make_unique<TimerWheel>(At(0));
  wheel->Arm(left, At(10));
  wheel->Expire(At(20), 0);  // Leaves it on the open list.
  wheel->Arm(near, At(30));
  wheel->Arm(far, At(hours(100)));
  wheel->Arm(cancelled, At(30));
  wheel->Cancel(cancelled);
  wheel.reset();

  TimerWheel other(At(0));
  for (NamedTimer* timer : {&near, &far, &left, &cancelled, &unarmed}) {
    EXPECT_FALSE(other.armed(*timer));
    other.Arm(*timer, At(1));
  }
  other.CheckInvariants();
  EXPECT_EQ(other.Expire(At(1)), 5u);
}

using TimerWheelDeathTest = TimerWheelTest;

TEST_F(TimerWheelDeathTest, ExpireInsideACallbackIsABug) {
  wheel_.Arm(a_, At(1));
  a_.then = [this] { wheel_.Expire(At(2)); };
  EXPECT_DEATH(wheel_.Expire(At(1)), "CHECK failed: !expiring_");
}

TEST_F(TimerWheelDeathTest, DestroyingTheWheelInsideACallbackIsABug) {
  auto wheel = std::make_unique<TimerWheel>(At(0));
  wheel->Arm(a_, At(1));
  a_.then = [&] { wheel.reset(); };
  EXPECT_DEATH(wheel->Expire(At(1)), "CHECK failed: !expiring_");
}

TEST_F(TimerWheelDeathTest, ATimerWithoutACallbackIsABug) {
  TimerNode node(nullptr);
  EXPECT_DEATH(wheel_.Arm(node, At(1)), "CHECK failed: node.callback_");
}

// --- Wake-ups: a loop that sleeps exactly until next_deadline().

TEST_F(TimerWheelTest, WithoutCancelOrExtensionEveryWakeUpFiresAtItsExactDeadline) {
  Random random(Seed());
  auto timers = MakeTimers(20000);
  std::multiset<std::int64_t> model;
  for (auto& timer : timers) {
    const auto deadline =
        static_cast<std::int64_t>(random.Below(std::uint64_t{1} << random.Below(50)));
    wheel_.Arm(*timer, At(deadline));
    model.insert(deadline);
  }
  // Timers keep coming from callbacks, as in a reactor; the first half of them starts the second.
  for (std::size_t i = 0; i < 5000; ++i) {
    timers[i]->then = [&, i] {
      const std::int64_t deadline =
          Nanos(timers[i]->deadline()) + static_cast<std::int64_t>(random.Below(1u << 31)) + 1;
      timers[i]->then = nullptr;
      wheel_.Arm(*timers[i], At(deadline));
      model.insert(deadline);
    };
  }
  while (!model.empty()) {
    ASSERT_EQ(Nanos(wheel_.next_deadline()), *model.begin());
    const std::int64_t now = *model.begin();
    const std::size_t due = model.count(now);
    model.erase(now);
    ASSERT_EQ(wheel_.Expire(At(now), kNoLimit), due);
  }
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

// A silence deadline of a second, moved by a message every millisecond for a minute.
TEST_F(TimerWheelTest, ATimerMovedByEveryMessageCostsOneWakeUpAPeriod) {
  int wakes = 0;
  for (int ms = 0; ms <= 60000; ++ms) {
    const Instant now = At(milliseconds(ms));
    while (wheel_.next_deadline() <= now) {
      ASSERT_LE(++wakes, 60);
      ASSERT_EQ(Expire(now), Log{});
    }
    wheel_.Arm(a_, now + seconds(1));
  }
  EXPECT_EQ(Expire(At(seconds(61)) - nanoseconds(1)), Log{});
  EXPECT_EQ(Expire(At(seconds(61))), (Log{1}));
}

TEST_F(TimerWheelTest, EachCancellationCostsAtMostOneWakeUpForNothing) {
  Random random(Seed());
  auto timers = MakeTimers(1000);
  std::size_t disturbances = 0;
  for (auto& timer : timers) {
    wheel_.Arm(*timer, At(static_cast<std::int64_t>(random.Below(std::uint64_t{1} << 40))));
    if (random.Below(4) != 0) continue;
    ++disturbances;
    wheel_.Cancel(*timer);
  }
  std::size_t fired = 0;
  std::size_t wakes_for_nothing = 0;
  for (Instant now = wheel_.next_deadline(); now != kNever; now = wheel_.next_deadline()) {
    const std::size_t n = Expire(now).size();
    fired += n;
    if (n == 0) ++wakes_for_nothing;
    ASSERT_LE(wakes_for_nothing, disturbances);
  }
  EXPECT_EQ(fired, timers.size() - disturbances);
}

// --- The wheel against a model: a sorted set of deadlines.

class ModelTimer;

class Model {
 public:
  // `reach` bounds most delays to 2^reach ns, so that runs differ in how crowded the slots are.
  Model(std::uint64_t seed, std::size_t timer_count, std::int64_t start, unsigned reach);

  // One random change or Expire, and all checks.
  void Step();
  // Everything that is armed fires at the end of time.
  void Finish();
  void OnFired(std::size_t i);

  // The timers in the order in which they fired.
  [[nodiscard]] const std::vector<std::size_t>& fired() const { return fired_; }

 private:
  [[nodiscard]] std::int64_t Least() const {
    return armed_.empty() ? kNeverNanos : armed_.begin()->first;
  }
  [[nodiscard]] bool Armed(std::size_t i) const { return deadlines_[i] != kNeverNanos; }

  std::int64_t Delay();
  std::int64_t RandomDeadline(std::size_t i);
  std::int64_t RandomNow();
  std::int64_t NearABorder();
  void Disarm(std::size_t i);
  void Change(std::size_t i);
  void Arm(std::size_t i, std::int64_t deadline);
  void Expire(std::int64_t now, std::size_t budget);
  void CheckNextDeadline();
  void CheckArmed(std::size_t i);

  Random random_;
  unsigned reach_;
  TimerWheel wheel_;
  std::vector<std::unique_ptr<ModelTimer>> timers_;
  std::vector<std::int64_t> deadlines_;  // By timer; kNeverNanos if not armed.
  std::vector<std::uint64_t> armed_in_;  // By timer: the Expire that armed it, or 0.
  std::set<std::pair<std::int64_t, std::size_t>> armed_;  // (deadline, timer)
  // Deadlines of armed timers that were cancelled, moved or destroyed. They alone may cause a wake-up
  // for nothing, until an Expire passes them.
  std::multiset<std::int64_t> ghosts_;
  std::vector<std::int64_t> new_ghosts_;  // Those made in the running Expire.
  std::int64_t now_;                      // As last given.
  std::uint64_t expire_count_ = 0;
  bool expiring_ = false;
  bool unfinished_ = false;  // The last Expire may have left work.
  bool quiet_ = false;       // Callbacks change nothing.
  std::int64_t last_deadline_ = 0;
  std::vector<std::size_t> fired_;
};

class ModelTimer : public TimerNode {
 public:
  ModelTimer(Model& model, std::size_t i) : TimerNode(&OnTimer), model_(model), index_(i) {}

 private:
  static void OnTimer(TimerNode& node) {
    auto& timer = static_cast<ModelTimer&>(node);
    timer.model_.OnFired(timer.index_);  // May destroy the timer.
  }

  Model& model_;
  std::size_t index_;
};

Model::Model(std::uint64_t seed, std::size_t timer_count, std::int64_t start, unsigned reach)
    : random_(seed),
      reach_(reach),
      wheel_(At(start)),
      deadlines_(timer_count, kNeverNanos),
      armed_in_(timer_count, 0),
      now_(start) {
  for (std::size_t i = 0; i < timer_count; ++i) {
    timers_.push_back(std::make_unique<ModelTimer>(*this, i));
  }
}

std::int64_t Model::Delay() {
  return static_cast<std::int64_t>(random_.Below(std::uint64_t{1} << random_.Below(reach_ + 1)));
}

// Around a border between two slots of some level, up to a full turn of it away.
std::int64_t Model::NearABorder() {
  const auto shift =
      static_cast<unsigned>(19 + 6 * random_.Below(1 + (reach_ > 19 ? (reach_ - 19) / 6 : 0)));
  const auto ahead = static_cast<std::int64_t>(random_.Below(66));
  const Instant border = SaturatingAdd(At(now_ >> shift << shift), Duration(ahead << shift));
  const auto beside = static_cast<std::int64_t>(random_.Below(3)) - 1;
  return Nanos(SaturatingAdd(border, Duration(beside)));
}

std::int64_t Model::RandomDeadline(std::size_t i) {
  const std::size_t other = random_.Below(timers_.size());
  switch (random_.Below(16)) {
    case 0:
      return Nanos(SaturatingAdd(At(now_), -Duration(Delay())));
    case 1:
      return now_;
    case 2:
      return kNeverNanos;
    case 3:
      return kNeverNanos - 1 - Delay();
    case 4:
    case 5:
      return NearABorder();
    case 6:
      return deadlines_[other];
    case 7:
      return Nanos(SaturatingAdd(At(deadlines_[i]), Duration(1)));
    case 8:
      return Nanos(SaturatingAdd(At(deadlines_[i]), -Duration(1 + Delay())));
    default:
      return Nanos(SaturatingAdd(At(now_), Duration(Delay())));
  }
}

std::int64_t Model::RandomNow() {
  switch (random_.Below(12)) {
    case 0:
      return now_;
    case 1:
      return Nanos(SaturatingAdd(At(now_), -Duration(Delay())));
    case 2:
      return NearABorder();
    case 3:
    case 4:
      return Least() == kNeverNanos ? now_ : Least();
    case 5:
      return Least() == kNeverNanos || Least() == INT64_MIN ? now_ : Least() - 1;
    case 6:
      return Nanos(wheel_.next_deadline()) == kNeverNanos ? now_ : Nanos(wheel_.next_deadline());
    default:
      return Nanos(SaturatingAdd(At(now_), Duration(Delay() / 8)));
  }
}

void Model::Disarm(std::size_t i) {
  if (!Armed(i)) return;
  armed_.erase({deadlines_[i], i});
  if (expiring_) {
    new_ghosts_.push_back(deadlines_[i]);
  } else {
    ghosts_.insert(deadlines_[i]);
  }
  deadlines_[i] = kNeverNanos;
}

void Model::Arm(std::size_t i, std::int64_t deadline) {
  Disarm(i);
  deadlines_[i] = deadline;
  armed_in_[i] = expiring_ ? expire_count_ : 0;
  if (deadline != kNeverNanos) armed_.insert({deadline, i});
  wheel_.Arm(*timers_[i], At(deadline));
  CheckArmed(i);
}

void Model::Change(std::size_t i) {
  switch (random_.Below(8)) {
    case 0:
      Disarm(i);
      wheel_.Cancel(*timers_[i]);
      CheckArmed(i);
      break;
    case 1:
      Disarm(i);
      timers_[i] = std::make_unique<ModelTimer>(*this, i);
      CheckArmed(i);
      break;
    default:
      Arm(i, RandomDeadline(i));
  }
}

void Model::OnFired(std::size_t i) {
  EXPECT_TRUE(Armed(i)) << "fired without being armed";
  EXPECT_LE(deadlines_[i], now_) << "fired early";
  EXPECT_GE(deadlines_[i], last_deadline_) << "fired out of order";
  EXPECT_TRUE(armed_in_[i] != expire_count_) << "fired in the Expire that armed it";
  last_deadline_ = deadlines_[i];
  armed_.erase({deadlines_[i], i});
  deadlines_[i] = kNeverNanos;
  CheckArmed(i);
  fired_.push_back(i);
  wheel_.CheckInvariants();
  CheckNextDeadline();
  if (quiet_) return;
  while (random_.Below(3) == 0) {
    Change(random_.Below(2) == 0 ? i : random_.Below(timers_.size()));
    wheel_.CheckInvariants();
  }
}

void Model::Expire(std::int64_t now, std::size_t budget) {
  now_ = now;
  ++expire_count_;
  expiring_ = true;
  last_deadline_ = INT64_MIN;
  const std::size_t fired_before = fired_.size();
  const std::size_t count = wheel_.Expire(At(now), budget);
  expiring_ = false;
  EXPECT_EQ(count, fired_.size() - fired_before);
  EXPECT_LE(count, budget);

  // All slots that were due were opened, so only what callbacks left behind can still mislead.
  ghosts_.erase(ghosts_.begin(), ghosts_.upper_bound(now));
  ghosts_.insert(new_ghosts_.begin(), new_ghosts_.end());
  new_ghosts_.clear();

  unfinished_ = budget != kNoLimit;
  bool overdue = false;
  for (const auto& [deadline, i] : armed_) {
    if (deadline > now) break;
    overdue = overdue || armed_in_[i] != expire_count_;
  }
  if (!overdue) return;
  EXPECT_TRUE(unfinished_) << "a due timer did not fire";
  EXPECT_LE(Nanos(wheel_.next_deadline()), now) << "due work was left, and nobody would know";
}

void Model::CheckArmed(std::size_t i) {
  EXPECT_EQ(wheel_.armed(*timers_[i]), Armed(i));
  if (!Armed(i)) return;
  EXPECT_EQ(Nanos(timers_[i]->deadline()), deadlines_[i]);
}

void Model::CheckNextDeadline() {
  const std::int64_t next = Nanos(wheel_.next_deadline());
  if ((expiring_ || unfinished_) && next == now_) return;  // Work is left: "now".
  EXPECT_LE(next, Least()) << "the loop would sleep too long";
  if (next == Least() || ghosts_.contains(next)) return;
  EXPECT_TRUE(std::find(new_ghosts_.begin(), new_ghosts_.end(), next) != new_ghosts_.end())
      << "a wake-up at " << next << " for which there was never a reason";
}

void Model::Step() {
  if (random_.Below(4) == 0) {
    constexpr std::array<std::size_t, 6> kBudgets{0, 1, 3, 20, kNoLimit, kNoLimit};
    Expire(RandomNow(), kBudgets[random_.Below(kBudgets.size())]);
  } else {
    Change(random_.Below(timers_.size()));
  }
  wheel_.CheckInvariants();
  CheckNextDeadline();
  CheckArmed(random_.Below(timers_.size()));
}

void Model::Finish() {
  quiet_ = true;
  for (std::size_t i = 0; i < timers_.size(); ++i) CheckArmed(i);
  Expire(kNeverNanos, kNoLimit);
  EXPECT_TRUE(armed_.empty());
  EXPECT_EQ(wheel_.next_deadline(), kNever);
}

// The runs of one seed: few timers and many, crowded slots and empty ones, all regions of the clock.
std::unique_ptr<Model> MakeModel(std::uint64_t seed) {
  constexpr std::array<std::size_t, 6> kTimerCounts{1, 2, 5, 20, 100, 300};
  constexpr std::array<std::int64_t, 8> kStarts{0,
                                                1,
                                                -1,
                                                INT64_MIN,
                                                INT64_MIN / 2 + 7,
                                                std::int64_t{86400} * 1'000'000'000,
                                                (std::int64_t{1} << 55) - 1000,
                                                kNeverNanos - (std::int64_t{1} << 40)};
  constexpr std::array<unsigned, 7> kReaches{3, 20, 26, 32, 38, 48, 62};
  Random random(seed);
  const std::size_t timer_count = kTimerCounts[random.Below(kTimerCounts.size())];
  const std::int64_t start = random.Below(2) == 0
                                 ? kStarts[random.Below(kStarts.size())]
                                 : static_cast<std::int64_t>(random.Below(std::uint64_t{1} << 62));
  const unsigned reach = kReaches[random.Below(kReaches.size())];
  return std::make_unique<Model>(random.Next(), timer_count, start, reach);
}

TEST(TimerWheelModelTest, AMillionRandomStepsAgreeWithASortedSet) {
  constexpr int kRuns = 1000;
  constexpr int kSteps = 1000;
  std::uint64_t seeds = Seed();
  std::size_t fired = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto model = MakeModel(SplitMix64(seeds));
    for (int step = 0; step < kSteps; ++step) {
      model->Step();
      ASSERT_FALSE(HasFailure()) << "run " << run << " step " << step;
    }
    model->Finish();
    ASSERT_FALSE(HasFailure()) << "the end of run " << run;
    fired += model->fired().size();
  }
  EXPECT_GT(fired, 100'000u) << "the steps were to exercise firing";
}

// Addresses differ from one run to the other; they must not matter.
TEST(TimerWheelModelTest, EqualCallsFireInEqualOrder) {
  const std::uint64_t seed = Seed();
  const auto a = MakeModel(seed);
  const auto elsewhere = std::make_unique<std::array<char, 12345>>();
  const auto b = MakeModel(seed);
  for (int step = 0; step < 20000; ++step) {
    a->Step();
    b->Step();
  }
  EXPECT_EQ(a->fired(), b->fired());
}

}  // namespace
}  // namespace holdfast::internal
