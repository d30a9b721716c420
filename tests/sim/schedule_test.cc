// Virtual time, tasks, and the stacks that they run on.
#include "sim/schedule.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "sim/faults.h"
#include "sim/fiber.h"
#include "sim/file.h"
#include "sim/trace.h"
#include "support/seed.h"

namespace holdfast::internal::sim {
namespace {

using namespace std::chrono_literals;

constexpr Instant At(Duration since_start) { return Schedule::kStart + since_start; }

// --- Events.

TEST(ScheduleTest, StartsOneHourAfterZero) {
  Schedule schedule;
  EXPECT_EQ(schedule.now().time_since_epoch(), 1h);
}

TEST(ScheduleTest, EventsComeByTimeAndThenInTheOrderOfTheCalls) {
  Schedule schedule;
  std::string order;
  schedule.At(At(2ms), [&] { order += 'c'; });
  schedule.At(At(1ms), [&] { order += 'a'; });
  schedule.At(At(2ms), [&] { order += 'd'; });
  schedule.At(At(1ms), [&] { order += 'b'; });
  schedule.RunUntil(At(1s));
  EXPECT_EQ(order, "abcd");
  EXPECT_EQ(schedule.now(), At(1s));
  EXPECT_EQ(schedule.events_run(), 4U);
}

TEST(ScheduleTest, AnEventSeesItsOwnTimeAndWhatIsLaterThanTheEndWaits) {
  Schedule schedule;
  std::vector<Instant> seen;
  const auto look = [&] { seen.push_back(schedule.now()); };
  schedule.After(5ms, look);
  schedule.After(5ms + 1ns, look);
  schedule.RunUntil(At(5ms));
  EXPECT_EQ(seen, std::vector<Instant>({At(5ms)}));
  schedule.RunUntil(At(6ms));
  EXPECT_EQ(seen, std::vector<Instant>({At(5ms), At(5ms + 1ns)}));
}

TEST(ScheduleTest, AnEventOfThePastComesAtOnceButNotInsideTheCall) {
  Schedule schedule;
  schedule.RunUntil(At(1s));
  bool came = false;
  schedule.At(At(1ms), [&] {
    came = true;
    EXPECT_EQ(schedule.now(), At(1s));
  });
  EXPECT_FALSE(came);
  schedule.RunReady();
  EXPECT_TRUE(came);
}

TEST(ScheduleTest, WhatIsDueNeverDoesNotCome) {
  Schedule schedule;
  bool came = false;
  schedule.At(kNever, [&] { came = true; });
  schedule.After(Duration::max(), [&] { came = true; });
  schedule.RunUntil(kNever);
  EXPECT_FALSE(came);
  EXPECT_EQ(schedule.now(), Schedule::kStart);
}

TEST(ScheduleTest, EventsScheduleEvents) {
  Schedule schedule;
  int left = 1000;
  absl::AnyInvocable<void()> next;
  next = [&] {
    if (--left > 0) schedule.After(1ms, [&] { next(); });
  };
  schedule.After(1ms, [&] { next(); });
  schedule.RunUntil(kNever);
  EXPECT_EQ(left, 0);
  EXPECT_EQ(schedule.now(), At(1000ms));
}

TEST(ScheduleTest, AStallMakesWhatFellDueLate) {
  Schedule schedule;
  Instant seen{};
  schedule.After(10ms, [&] { seen = schedule.now(); });
  schedule.Stall(1s);
  schedule.RunReady();
  EXPECT_EQ(seen, At(1s));
}

TEST(ScheduleTest, WhatAStallCarriedBeyondTheEndWaitsForTheNextRun) {
  Schedule schedule;
  int turns = 0;
  schedule.Spawn([&] {
    for (; turns < 2; ++turns) {
      schedule.Stall(10ms);
      Schedule::Sleeper sleeper;
      schedule.Block(sleeper, schedule.now());
    }
  });
  schedule.RunUntil(At(5ms));
  EXPECT_EQ(turns, 0);
  EXPECT_EQ(schedule.now(), At(10ms));
  schedule.RunUntil(At(15ms));
  EXPECT_EQ(turns, 1);
  schedule.RunUntil(At(1s));
  EXPECT_EQ(turns, 2);
}

// --- Tasks.

TEST(ScheduleTest, ATaskSleepsUntilItsDeadline) {
  Schedule schedule;
  bool woken = true;
  Instant end{};
  schedule.Spawn([&] {
    EXPECT_TRUE(schedule.in_task());
    Schedule::Sleeper sleeper;
    woken = schedule.Block(sleeper, At(30ms));
    end = schedule.now();
  });
  EXPECT_EQ(schedule.tasks(), 1U);
  schedule.RunUntil(At(30ms - 1ns));
  EXPECT_EQ(schedule.tasks(), 1U);
  schedule.RunUntil(At(1s));
  EXPECT_FALSE(woken);
  EXPECT_EQ(end, At(30ms));
  EXPECT_EQ(schedule.tasks(), 0U);
  EXPECT_FALSE(schedule.in_task());
}

TEST(ScheduleTest, ATaskIsWokenBeforeItsDeadlineAndTheDeadlineIsForgotten) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  std::vector<Instant> ends;
  schedule.Spawn([&] {
    EXPECT_TRUE(schedule.Block(sleeper, At(1s)));
    ends.push_back(schedule.now());
    sleeper.woken = false;
    EXPECT_FALSE(schedule.Block(sleeper, At(5s)));
    ends.push_back(schedule.now());
  });
  schedule.After(20ms, [&] { schedule.Wake(sleeper); });
  schedule.RunUntil(kNever);
  EXPECT_EQ(ends, std::vector<Instant>({At(20ms), At(5s)}));
}

TEST(ScheduleTest, AWakeBeforeTheSleepIsNotLost) {
  Schedule schedule;
  bool woken = false;
  schedule.Spawn([&] {
    Schedule::Sleeper sleeper;
    schedule.Wake(sleeper);
    woken = schedule.Block(sleeper, kNever);
  });
  schedule.RunReady();
  EXPECT_TRUE(woken);
}

TEST(ScheduleTest, TwoWakesAreOne) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  int turns = 0;
  schedule.Spawn([&] {
    for (int i = 0; i < 2; ++i) {
      sleeper.woken = false;
      schedule.Block(sleeper, kNever);
      ++turns;
    }
  });
  schedule.RunReady();
  schedule.Wake(sleeper);
  schedule.Wake(sleeper);
  schedule.RunReady();
  EXPECT_EQ(turns, 1);
  schedule.Wake(sleeper);
  schedule.RunReady();
  EXPECT_EQ(turns, 2);
}

TEST(ScheduleTest, TasksRunInTheOrderInWhichTheyWereWoken) {
  Schedule schedule;
  std::array<Schedule::Sleeper, 3> sleepers;
  std::string order;
  for (std::size_t i = 0; i < sleepers.size(); ++i) {
    schedule.Spawn([&, i] {
      schedule.Block(sleepers[i], kNever);
      order += static_cast<char>('a' + i);
    });
  }
  schedule.After(1ms, [&] {
    schedule.Wake(sleepers[2]);
    schedule.Wake(sleepers[0]);
  });
  schedule.After(1ms, [&] { schedule.Wake(sleepers[1]); });
  schedule.RunUntil(kNever);
  EXPECT_EQ(order, "cab");
}

TEST(ScheduleTest, ATaskSeesAllThatCameAtOneInstant) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  int arrived = 0;
  int seen = 0;
  schedule.Spawn([&] {
    schedule.Block(sleeper, kNever);
    seen = arrived;
  });
  schedule.After(1ms, [&] {
    ++arrived;
    schedule.Wake(sleeper);
  });
  schedule.After(1ms, [&] { ++arrived; });
  schedule.After(1ms + 1ns, [&] { ++arrived; });
  schedule.RunUntil(kNever);
  EXPECT_EQ(seen, 2);
}

TEST(ScheduleTest, DeadlinesAndEventsOfOneInstantKeepTheOrderOfTheCalls) {
  Schedule schedule;
  std::string order;
  Schedule::Sleeper sleeper;
  schedule.At(At(1ms), [&] { order += sleeper.asleep ? 'a' : '?'; });
  schedule.Spawn([&] {
    schedule.Block(sleeper, At(1ms));
    order += 'c';
  });
  schedule.RunReady();
  schedule.At(At(1ms), [&] { order += sleeper.asleep ? '?' : 'b'; });
  schedule.RunUntil(kNever);
  EXPECT_EQ(order, "abc");
}

TEST(ScheduleTest, GivingWayLetsOthersRunAtTheSameInstant) {
  Schedule schedule;
  std::string order;
  schedule.Spawn([&] {
    order += 'a';
    Schedule::Sleeper sleeper;
    EXPECT_TRUE(schedule.pressing());
    EXPECT_FALSE(schedule.Block(sleeper, schedule.now()));
    EXPECT_FALSE(schedule.pressing());
    order += 'c';
  });
  schedule.Spawn([&] { order += 'b'; });
  schedule.RunReady();
  EXPECT_EQ(order, "abc");
  EXPECT_EQ(schedule.now(), Schedule::kStart);
}

TEST(ScheduleTest, TasksSpawnTasksAndEndInAnyOrder) {
  Schedule schedule;
  std::string order;
  schedule.Spawn([&] {
    for (int i = 0; i < 3; ++i) {
      schedule.Spawn([&, i] {
        Schedule::Sleeper sleeper;
        schedule.Block(sleeper, At(Duration(10ms) * (3 - i)));
        order += static_cast<char>('0' + i);
      });
    }
    order += 's';
  });
  schedule.RunUntil(kNever);
  EXPECT_EQ(order, "s210");
  EXPECT_EQ(schedule.tasks(), 0U);
}

TEST(ScheduleTest, NextSaysWhenSomethingIsToBeRun) {
  Schedule schedule;
  EXPECT_EQ(schedule.next(), kNever);
  schedule.After(5ms, [] {});
  EXPECT_EQ(schedule.next(), At(5ms));
  schedule.Spawn([&] {
    Schedule::Sleeper sleeper;
    schedule.Block(sleeper, At(3ms));
  });
  EXPECT_EQ(schedule.next(), schedule.now());
  schedule.RunReady();
  EXPECT_EQ(schedule.next(), At(3ms));
  schedule.RunUntil(At(4ms));
  EXPECT_EQ(schedule.next(), At(5ms));
  schedule.Stall(10ms);
  EXPECT_EQ(schedule.next(), schedule.now());
  schedule.RunReady();
  EXPECT_EQ(schedule.next(), kNever);
}

TEST(ScheduleTest, BlockOutsideOfAllTasksRunsTheSchedule) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  schedule.After(3ms, [&] { schedule.Wake(sleeper); });
  bool later = false;
  schedule.After(4ms, [&] { later = true; });
  EXPECT_TRUE(schedule.Block(sleeper, At(1s)));
  EXPECT_EQ(schedule.now(), At(3ms));
  EXPECT_FALSE(later);
  sleeper.woken = false;
  EXPECT_FALSE(schedule.Block(sleeper, At(1s)));
  EXPECT_EQ(schedule.now(), At(1s));
  EXPECT_TRUE(later);
}

TEST(ScheduleTest, BlockOutsideEndsWhereNothingIsLeftToWaitFor) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  schedule.After(3ms, [] {});
  EXPECT_FALSE(schedule.Block(sleeper, kNever));
  EXPECT_EQ(schedule.now(), At(3ms));
  schedule.After(1ms, [&] { schedule.Wake(sleeper); });
  EXPECT_TRUE(schedule.Block(sleeper, kNever));  // And can sleep again.
}

TEST(ScheduleTest, BlockOutsideIsWokenByATask) {
  Schedule schedule;
  Schedule::Sleeper sleeper;
  std::string order;
  schedule.Spawn([&] {
    Schedule::Sleeper own;
    schedule.Block(own, At(7ms));
    schedule.Wake(sleeper);
    order += 'a';
  });
  schedule.Spawn([&] {
    Schedule::Sleeper own;
    schedule.Block(own, At(7ms));
    order += 'b';
  });
  EXPECT_TRUE(schedule.Block(sleeper, kNever));
  EXPECT_EQ(schedule.now(), At(7ms));
  EXPECT_EQ(order, "ab");  // The second could run before the one outside was woken.
}

// Random sleeps of many tasks and random wakes: every sleep ends when it should, in order.
TEST(ScheduleTest, ManyTasksWithRandomDeadlinesAndWakesEndOnTime) {
  const std::uint64_t seed = PrintedSeed();
  Random random(seed);
  Schedule schedule;
  constexpr int kTasks = 50;
  std::array<Schedule::Sleeper, kTasks> sleepers;
  std::array<Instant, kTasks> wake_times;
  Instant last = schedule.now();
  int sleeps = 0;
  for (std::size_t i = 0; i < kTasks; ++i) {
    schedule.Spawn([&, i] {
      for (int round = 0; round < 100; ++round) {
        sleepers[i].woken = false;
        const Instant deadline = schedule.now() + Duration(random.Below(1000));
        wake_times[i] = kNever;
        const bool woken = schedule.Block(sleepers[i], deadline);
        ASSERT_EQ(schedule.now(), woken ? wake_times[i] : deadline);
        ASSERT_LE(last, schedule.now());
        last = schedule.now();
        ++sleeps;
        const std::size_t other = random.Below(kTasks);
        if (random.Below(2) == 0 && sleepers[other].asleep) {
          wake_times[other] = schedule.now();
          schedule.Wake(sleepers[other]);
        }
      }
    });
  }
  schedule.RunUntil(kNever);
  EXPECT_EQ(sleeps, kTasks * 100);
  EXPECT_EQ(schedule.tasks(), 0U);
}

// --- Fibers.

TEST(FiberTest, YieldsAndGoesOnWhereItWas) {
  std::string order;
  Fiber* self = nullptr;
  Fiber fiber([&] {
    order += '1';
    self->Yield();
    order += '2';
    self->Yield();
    order += '3';
  });
  self = &fiber;
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(fiber.done());
    fiber.Resume();
    order += '.';
  }
  EXPECT_TRUE(fiber.done());
  EXPECT_EQ(order, "1.2.3.");
}

TEST(FiberTest, KeepsItsLocalsAndHasRoomForLargeFrames) {
  std::array<Fiber*, 2> fibers{};
  std::array<int, 2> sums{};
  const auto body = [&](std::size_t index) {
    char frame[100 * 1024];
    std::memset(frame, static_cast<int>(index + 1), sizeof(frame));
    fibers[index]->Yield();
    for (const char byte : frame) sums[index] += byte;
  };
  Fiber first([&] { body(0); });
  Fiber second([&] { body(1); });
  fibers = {&first, &second};
  first.Resume();
  second.Resume();
  second.Resume();
  first.Resume();
  EXPECT_EQ(sums[0], 100 * 1024);
  EXPECT_EQ(sums[1], 200 * 1024);
}

TEST(FiberTest, ThousandsInTurnReuseTheirStacks) {
  std::array<std::uintptr_t, 3000> frames{};
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Fiber fiber([&frames, i] {
      int local = 0;
      frames[i] = reinterpret_cast<std::uintptr_t>(&local);
    });
    fiber.Resume();
  }
#if !defined(__SANITIZE_ADDRESS__)  // There locals may stand elsewhere.
  for (const std::uintptr_t frame : frames) EXPECT_EQ(frame, frames[0]);
#endif
}

TEST(FiberTest, OneThatNeverRanLetsGoOfItsBody) {
  auto held = std::make_shared<int>(1);
  {
    Fiber fiber([held] {});
  }
  EXPECT_EQ(held.use_count(), 1);
}

TEST(FiberTest, ABodyThatReturnedIsDestroyedAtOnce) {
  auto held = std::make_shared<int>(1);
  Fiber fiber([copy = held] {});
  fiber.Resume();
  EXPECT_EQ(held.use_count(), 1);
}

// --- Files: who hears of an event.

struct TestFile final : File {
  std::uint32_t Poll() const override { return 0; }
};
struct TestWaiter final : PollWaiter {
  void OnWake(std::uint32_t events) override {
    heard += events;
    if (on_wake) on_wake();
  }
  void OnGone() override { gone = true; }

  std::uint32_t heard = 0;
  bool gone = false;
  absl::AnyInvocable<void()> on_wake;
};

TEST(FileTest, WakesEveryoneOnceInTheOrderOfTheirComing) {
  TestFile file;
  std::string order;
  std::array<TestWaiter, 3> waiters;
  for (std::size_t i = 0; i < waiters.size(); ++i) {
    waiters[i].on_wake = [&order, i] { order += static_cast<char>('a' + i); };
    file.AddWaiter(waiters[i]);
  }
  file.Wake(EPOLLIN);
  EXPECT_EQ(order, "abc");
  for (TestWaiter& waiter : waiters) {
    EXPECT_EQ(waiter.heard, std::uint32_t{EPOLLIN});
    waiter.Unlink();
  }
}

TEST(FileTest, AWaiterMayUnlinkItselfAndTheNextAndAddOneMore) {
  TestFile file;
  std::array<TestWaiter, 4> waiters;
  for (std::size_t i = 0; i < 3; ++i) file.AddWaiter(waiters[i]);
  waiters[0].on_wake = [&] {
    waiters[0].Unlink();
    waiters[1].Unlink();
    file.AddWaiter(waiters[3]);
  };
  file.Wake(1);
  EXPECT_EQ(waiters[1].heard, 0U);
  EXPECT_EQ(waiters[2].heard, 1U);
  EXPECT_EQ(waiters[3].heard, 0U);
  file.Wake(1);
  EXPECT_EQ(waiters[2].heard, 2U);
  EXPECT_EQ(waiters[3].heard, 1U);
  waiters[2].Unlink();
  waiters[3].Unlink();
}

TEST(FileTest, AWakeInsideAWakeReachesEveryone) {
  TestFile file;
  std::array<TestWaiter, 2> waiters;
  for (TestWaiter& waiter : waiters) file.AddWaiter(waiter);
  bool once = false;
  waiters[0].on_wake = [&] {
    if (!std::exchange(once, true)) file.Wake(16);
  };
  file.Wake(1);
  for (TestWaiter& waiter : waiters) {
    EXPECT_EQ(waiter.heard, 17U);
    waiter.Unlink();
  }
}

TEST(FileTest, ItsEndIsToldToWhoStillWaits) {
  TestWaiter waiter;
  {
    TestFile file;
    file.AddWaiter(waiter);
  }
  EXPECT_TRUE(waiter.gone);
  EXPECT_FALSE(waiter.linked());
}

TEST(FileTest, AnAddressIsCutToTheRoomAndItsTrueSizeTold) {
  const std::array<char, 4> address = {'a', 'b', 'c', 'd'};
  std::array<char, 4> room = {'-', '-', '-', '-'};
  socklen_t size = 2;
  CopyAddress(address.data(), 4, reinterpret_cast<sockaddr*>(room.data()), &size);
  EXPECT_EQ(size, 4U);
  EXPECT_EQ(std::string(room.data(), room.size()), "ab--");
  CopyAddress(address.data(), 4, nullptr, nullptr);
}

// --- Faults and the trace.

TEST(FaultPlanTest, EveryKindHasANameOfItsOwn) {
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < kFaultKinds; ++i) {
    const std::string_view name = ToString(static_cast<Fault>(i));
    EXPECT_FALSE(name.empty());
    for (const std::string_view other : names) EXPECT_NE(name, other);
    names.push_back(name);
  }
  EXPECT_EQ(ToString(Fault::kRefusedReset), "refused_reset");
  EXPECT_EQ(ToString(Fault::kPartialSend), "partial_send");
  EXPECT_EQ(ToString(Fault::kSocketLimit), "socket_limit");
  EXPECT_EQ(ToString(Fault::kClock), "clock");
  EXPECT_EQ(ToString(Fault::kNameTryAgain), "name_try_again");
  EXPECT_EQ(ToString(Fault::kNameChanged), "name_changed");
}

TEST(FaultPlanTest, StrikesAtItsRateAndCounts) {
  FaultPlan plan(PrintedSeed());
  plan.SetRate(Fault::kFin, 65536);
  plan.SetRate(Fault::kPartialSend, 65536 / 4);
  int partial = 0;
  for (int i = 0; i < 10'000; ++i) {
    EXPECT_TRUE(plan.Strikes(Fault::kFin));
    EXPECT_FALSE(plan.Strikes(Fault::kClock));
    if (plan.Strikes(Fault::kPartialSend)) ++partial;
  }
  EXPECT_EQ(plan.hits(Fault::kFin), 10'000U);
  EXPECT_EQ(plan.hits(Fault::kClock), 0U);
  EXPECT_EQ(plan.hits(Fault::kPartialSend), static_cast<std::uint64_t>(partial));
  EXPECT_GT(partial, 2'000);  // 2,500 expected, deviation 43.
  EXPECT_LT(partial, 3'000);
  plan.SetEnabled(false);
  EXPECT_FALSE(plan.Strikes(Fault::kFin));
}

TEST(TraceTest, TellsTheTimeSinceTheStart) {
  Trace trace;
  std::vector<std::string> lines;
  trace.Tell(At(1s), "host", "unheard");
  EXPECT_FALSE(trace.told());
  trace.SetSink([&](std::string_view line) { lines.emplace_back(line); });
  EXPECT_TRUE(trace.told());
  trace.Tell(At(12'345'678us), "gateway", "connect 1048580 -> -EINPROGRESS");
  trace.Tell(At(-1'500'000us), "a-rather-long-name", "what");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], "12.345678 gateway  connect 1048580 -> -EINPROGRESS");
  EXPECT_EQ(lines[1], "-1.500000 a-rather-long-name what");
}

TEST(TraceTest, TheHashTellsOrderAndValuesApart) {
  const auto hash = [](std::vector<std::uint64_t> values) {
    Trace trace;
    for (const std::uint64_t value : values) trace.Mix(value);
    EXPECT_EQ(trace.count(), values.size());
    return trace.hash();
  };
  EXPECT_EQ(hash({1, 2, 3}), hash({1, 2, 3}));
  EXPECT_NE(hash({1, 2, 3}), hash({1, 3, 2}));
  EXPECT_NE(hash({1, 2, 3}), hash({1, 2, 4}));
  EXPECT_NE(hash({}), hash({0}));
}

}  // namespace
}  // namespace holdfast::internal::sim
