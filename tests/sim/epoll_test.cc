// The epoll dialect: each promise over the simulated kernel and over Linux, then what only a
// simulation can do: waits in virtual time, and faults.
#include "sim/epoll.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/event_file.h"
#include "sim/sim_fixture.h"

namespace holdfast::internal::sim {
namespace {

// What a wait reported: which registration, and what of it.
using Report = std::vector<std::pair<std::uint64_t, std::uint32_t>>;

class EpollDialectTest : public testing::TestWithParam<KernelCase> {
 protected:
  EpollDialectTest() : kernel_(GetParam().kernel()), epoll_(kernel_, kernel_.EpollCreate()) {}

  Descriptor Event() { return {kernel_, kernel_.EventFd()}; }
  std::pair<Descriptor, Descriptor> Pair() {
    std::array<int, 2> fds{};
    EXPECT_EQ(
        kernel_.SocketPair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()), 0);
    return {Descriptor(kernel_, fds[0]), Descriptor(kernel_, fds[1])};
  }
  void Signal(int fd) {
    const std::uint64_t one = 1;
    EXPECT_EQ(kernel_.Write(fd, &one, sizeof(one)), 8);
  }
  void Drain(int fd) {
    std::uint64_t count = 0;
    EXPECT_EQ(kernel_.Read(fd, &count, sizeof(count)), 8);
  }
  ssize_t Send(int fd, std::string_view data) {
    return kernel_.Send(fd, data.data(), data.size(), MSG_NOSIGNAL);
  }
  ssize_t Receive(int fd, std::size_t size) {
    std::string data(size, '\0');
    return kernel_.Recv(fd, data.data(), size, 0);
  }
  int Control(int operation, int fd, std::uint32_t events, std::uint64_t word = 0) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = word;
    return kernel_.EpollCtl(epoll_, operation, fd, &event);
  }
  Report Wait(int events_max = 16, Duration timeout = Duration::zero()) {
    std::vector<epoll_event> events(static_cast<std::size_t>(events_max));
    const int count = kernel_.EpollWait(epoll_, events.data(), events_max, timeout);
    EXPECT_GE(count, 0);
    Report report;
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      report.emplace_back(event.data.u64, event.events);
    }
    return report;
  }

  Kernel& kernel_;
  Descriptor epoll_;
};

constexpr std::uint32_t kIn = EPOLLIN;
constexpr std::uint32_t kOut = EPOLLOUT;
constexpr std::uint32_t kEdge = EPOLLET;
constexpr std::uint32_t kOnce = EPOLLONESHOT;

TEST_P(EpollDialectTest, SaysWhatIsWrong) {
  const Descriptor event = Event();
  const int closed = kernel_.EventFd();
  ASSERT_EQ(kernel_.Close(closed), 0);
  EXPECT_EQ(Control(EPOLL_CTL_ADD, event, kIn), 0);
  EXPECT_EQ(Control(EPOLL_CTL_ADD, event, kIn), -EEXIST);
  EXPECT_EQ(Control(EPOLL_CTL_DEL, event, 0), 0);
  EXPECT_EQ(Control(EPOLL_CTL_DEL, event, 0), -ENOENT);
  EXPECT_EQ(Control(EPOLL_CTL_MOD, event, kIn), -ENOENT);
  EXPECT_EQ(Control(EPOLL_CTL_ADD, closed, kIn), -EBADF);
  EXPECT_EQ(Control(EPOLL_CTL_ADD, epoll_, kIn), -EINVAL);
  EXPECT_EQ(Control(77, event, kIn), -EINVAL);
  epoll_event room{};
  EXPECT_EQ(kernel_.EpollCtl(closed, EPOLL_CTL_ADD, event, &room), -EBADF);
  EXPECT_EQ(kernel_.EpollCtl(event, EPOLL_CTL_ADD, epoll_, &room), -EINVAL);
  EXPECT_EQ(kernel_.EpollWait(closed, &room, 1, Duration::zero()), -EBADF);
  EXPECT_EQ(kernel_.EpollWait(event, &room, 1, Duration::zero()), -EINVAL);
  EXPECT_EQ(kernel_.EpollWait(epoll_, &room, 0, Duration::zero()), -EINVAL);
  EXPECT_EQ(kernel_.EpollWait(epoll_, &room, 1, Duration(-1)), -EINVAL);
}

TEST_P(EpollDialectTest, LevelTriggeredReportsAsLongAsItIsSo) {
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn, 7), 0);
  EXPECT_EQ(Wait(), Report());
  Signal(event);
  EXPECT_EQ(Wait(), (Report{{7, kIn}}));
  EXPECT_EQ(Wait(), (Report{{7, kIn}}));
  Drain(event);
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, EdgeTriggeredReportsEachArrivalOnce) {
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn | kEdge, 7), 0);
  Signal(event);
  EXPECT_EQ(Wait(), (Report{{7, kIn}}));
  EXPECT_EQ(Wait(), Report());
  Signal(event);  // What came before was not read, and yet this is an edge.
  EXPECT_EQ(Wait(), (Report{{7, kIn}}));
  Signal(event);
  Drain(event);  // Not so any more when it is looked at.
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, WhatIsSoAlreadyIsReportedAfterAddAndAfterMod) {
  const Descriptor event = Event();
  Signal(event);
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn | kEdge, 1), 0);
  EXPECT_EQ(Wait(), (Report{{1, kIn}}));
  EXPECT_EQ(Wait(), Report());
  ASSERT_EQ(Control(EPOLL_CTL_MOD, event, kIn | kOut | kEdge, 2), 0);
  EXPECT_EQ(Wait(), (Report{{2, kIn | kOut}}));
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, AModBeforeTheWaitTakesBackWhatIsNotWantedAnyMore) {
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn, 1), 0);
  Signal(event);
  ASSERT_EQ(Control(EPOLL_CTL_MOD, event, 0, 1), 0);
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, OneShotIsDeafUntilItIsChanged) {
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn | kOnce, 3), 0);
  Signal(event);
  EXPECT_EQ(Wait(), (Report{{3, kIn}}));
  Signal(event);
  EXPECT_EQ(Wait(), Report());
  EXPECT_EQ(Control(EPOLL_CTL_ADD, event, kIn), -EEXIST);
  ASSERT_EQ(Control(EPOLL_CTL_MOD, event, kIn | kOnce, 4), 0);
  EXPECT_EQ(Wait(), (Report{{4, kIn}}));
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, OneShotIsDeafToErrorsToo) {
  auto [end, peer] = Pair();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, end, kOut | kOnce, 3), 0);
  EXPECT_EQ(Wait(), (Report{{3, kOut}}));
  peer.Close();
  EXPECT_EQ(Wait(), Report());
  ASSERT_EQ(Control(EPOLL_CTL_MOD, end, kOnce, 3), 0);
  EXPECT_EQ(Wait(), (Report{{3, EPOLLHUP}}));
}

TEST_P(EpollDialectTest, ReportsInTheOrderOfTheArrivals) {
  const std::array<Descriptor, 3> events = {Event(), Event(), Event()};
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(Control(EPOLL_CTL_ADD, events[i], kIn | kEdge, i), 0);
  }
  Signal(events[2]);
  Signal(events[0]);
  Signal(events[1]);
  Signal(events[2]);
  EXPECT_EQ(Wait(), (Report{{2, kIn}, {0, kIn}, {1, kIn}}));
}

TEST_P(EpollDialectTest, LevelTriggeredOnesTakeTurnsWhereThereIsLittleRoom) {
  const std::array<Descriptor, 3> events = {Event(), Event(), Event()};
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(Control(EPOLL_CTL_ADD, events[i], kIn, i), 0);
    Signal(events[i]);
  }
  std::vector<std::uint64_t> order;
  for (int i = 0; i < 5; ++i) {
    for (const auto& [word, what] : Wait(1)) order.push_back(word);
  }
  EXPECT_EQ(order, std::vector<std::uint64_t>({0, 1, 2, 0, 1}));
  EXPECT_EQ(Wait(2), (Report{{2, kIn}, {0, kIn}}));
}

TEST_P(EpollDialectTest, NothingIsReportedOfWhatWasRemovedOrClosed) {
  const Descriptor removed = Event();
  Descriptor closed = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, removed, kIn, 1), 0);
  ASSERT_EQ(Control(EPOLL_CTL_ADD, closed, kIn, 2), 0);
  Signal(removed);
  Signal(closed);
  ASSERT_EQ(Control(EPOLL_CTL_DEL, removed, 0), 0);
  closed.Close();
  EXPECT_EQ(Wait(), Report());
  // The number is free for another file, which was never added.
  const Descriptor again = Event();
  Signal(again);
  EXPECT_EQ(Wait(), Report());
  EXPECT_EQ(Control(EPOLL_CTL_MOD, again, kIn), -ENOENT);
  EXPECT_EQ(Control(EPOLL_CTL_ADD, again, kIn, 3), 0);
  EXPECT_EQ(Wait(), (Report{{3, kIn}}));
}

TEST_P(EpollDialectTest, ErrorsAndHangUpsAreReportedUnasked) {
  auto [end, peer] = Pair();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, end, kEdge, 1), 0);
  ASSERT_EQ(Send(end, "unread"), 6);
  peer.Close();
  EXPECT_EQ(Wait(), (Report{{1, EPOLLERR | EPOLLHUP}}));
}

TEST_P(EpollDialectTest, DataAndTheEndComeInOneEvent) {
  auto [end, peer] = Pair();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, end, kIn | EPOLLRDHUP | kEdge, 1), 0);
  ASSERT_EQ(Send(peer, "last words"), 10);
  ASSERT_EQ(kernel_.Shutdown(peer, SHUT_WR), 0);
  EXPECT_EQ(Wait(), (Report{{1, kIn | EPOLLRDHUP}}));
  EXPECT_EQ(Wait(), Report());
}

TEST_P(EpollDialectTest, RoomInASocketIsAnEdge) {
  auto [end, peer] = Pair();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, end, kOut | kEdge, 1), 0);
  EXPECT_EQ(Wait(), (Report{{1, kOut}}));
  const std::string block(16'384, 'b');
  while (Send(end, block) > 0) {
  }
  EXPECT_EQ(Wait(), Report());
  while (Receive(peer, 65'536) > 0) {
  }
  EXPECT_EQ(Wait(), (Report{{1, kOut}}));
}

TEST_P(EpollDialectTest, AnInstanceCanBeWatchedByAnother) {
  const Descriptor outer(kernel_, kernel_.EpollCreate());
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn, 1), 0);
  epoll_event told{};
  told.events = kIn;
  told.data.u64 = 9;
  ASSERT_EQ(kernel_.EpollCtl(outer, EPOLL_CTL_ADD, epoll_, &told), 0);
  EXPECT_EQ(kernel_.EpollWait(outer, &told, 1, Duration::zero()), 0);
  Signal(event);
  ASSERT_EQ(kernel_.EpollWait(outer, &told, 1, Duration::zero()), 1);
  EXPECT_EQ(told.events, kIn);
  EXPECT_EQ(std::uint64_t{told.data.u64}, 9U);
  Drain(event);
  EXPECT_EQ(kernel_.EpollWait(outer, &told, 1, Duration::zero()), 0);
  told.events = kIn;
  EXPECT_EQ(Control(EPOLL_CTL_ADD, outer, kIn), -ELOOP);
}

TEST_P(EpollDialectTest, AnEventOnAnEdgeTriggeredInnerInstanceReachesTheOuterOne) {
  const Descriptor outer(kernel_, kernel_.EpollCreate());
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn | kEdge, 1), 0);
  epoll_event told{};
  told.events = kIn | kEdge;
  ASSERT_EQ(kernel_.EpollCtl(outer, EPOLL_CTL_ADD, epoll_, &told), 0);
  for (int i = 0; i < 3; ++i) {
    Signal(event);
    EXPECT_EQ(kernel_.EpollWait(outer, &told, 1, Duration::zero()), 1);
    EXPECT_EQ(kernel_.EpollWait(outer, &told, 1, Duration::zero()), 0);
    EXPECT_EQ(Wait(), (Report{{1, kIn}}));
  }
}

TEST_P(EpollDialectTest, AWaitWithoutEventsEndsAtItsTimeout) {
  const Instant before = kernel_.ClockNow();
  EXPECT_EQ(Wait(1, 2ms), Report());
  EXPECT_GE(kernel_.ClockNow() - before, 2ms);
}

TEST_P(EpollDialectTest, AnEventfdCountsAndIsFullAtItsEnd) {
  const Descriptor event = Event();
  std::uint64_t count = 0;
  EXPECT_EQ(kernel_.Read(event, &count, 8), -EAGAIN);
  EXPECT_EQ(kernel_.Read(event, &count, 7), -EINVAL);
  EXPECT_EQ(kernel_.Write(event, &count, 7), -EINVAL);
  Signal(event);
  Signal(event);
  EXPECT_EQ(kernel_.Read(event, &count, 8), 8);
  EXPECT_EQ(count, 2U);
  const std::uint64_t most = UINT64_MAX - 1;
  EXPECT_EQ(kernel_.Write(event, &most, 8), 8);
  const std::uint64_t one = 1;
  EXPECT_EQ(kernel_.Write(event, &one, 8), -EAGAIN);
  const std::uint64_t too_much = UINT64_MAX;
  EXPECT_EQ(kernel_.Write(event, &too_much, 8), -EINVAL);
  ASSERT_EQ(Control(EPOLL_CTL_ADD, event, kIn | kOut, 1), 0);
  EXPECT_EQ(Wait(), (Report{{1, kIn}}));
  Drain(event);
  EXPECT_EQ(Wait(), (Report{{1, kOut}}));
}

TEST_P(EpollDialectTest, ATimerIsReadableAfterItsDeadlineAndNotBefore) {
  const Descriptor timer(kernel_, kernel_.TimerFd());
  ASSERT_EQ(Control(EPOLL_CTL_ADD, timer, kIn, 5), 0);
  const Instant deadline = kernel_.ClockNow() + 3ms;
  ASSERT_EQ(kernel_.TimerFdSet(timer, kernel_.ClockNow() + 1h), 0);
  ASSERT_EQ(kernel_.TimerFdSet(timer, deadline), 0);
  EXPECT_EQ(Wait(), Report());
  EXPECT_EQ(Wait(1, 10s), (Report{{5, kIn}}));
  EXPECT_GE(kernel_.ClockNow(), deadline);
  std::uint64_t count = 0;
  EXPECT_EQ(kernel_.Read(timer, &count, 8), 8);
  EXPECT_EQ(count, 1U);
  EXPECT_EQ(kernel_.Read(timer, &count, 8), -EAGAIN);
}

TEST_P(EpollDialectTest, ATimerCanBeMovedDisarmedAndLateFromTheStart) {
  const Descriptor timer(kernel_, kernel_.TimerFd());
  const Descriptor event = Event();
  ASSERT_EQ(Control(EPOLL_CTL_ADD, timer, kIn, 5), 0);
  ASSERT_EQ(kernel_.TimerFdSet(timer, Instant(Duration(-5))), 0);
  EXPECT_EQ(Wait(1, 10s), (Report{{5, kIn}}));
  ASSERT_EQ(kernel_.TimerFdSet(timer, kNever), 0);
  EXPECT_EQ(Wait(1, 1ms), Report());  // What had expired is forgotten.
  ASSERT_EQ(kernel_.TimerFdSet(timer, kernel_.ClockNow() + 1ms), 0);
  ASSERT_EQ(kernel_.TimerFdSet(timer, kernel_.ClockNow() + 5ms), 0);
  const Instant not_before = kernel_.ClockNow() + 4ms;
  EXPECT_EQ(Wait(1, 10s), (Report{{5, kIn}}));
  EXPECT_GE(kernel_.ClockNow(), not_before);
  EXPECT_EQ(kernel_.TimerFdSet(event, kNever), -EINVAL);
  EXPECT_EQ(kernel_.TimerFdSet(-1, kNever), -EBADF);
}

INSTANTIATE_TEST_SUITE_P(Kernels, EpollDialectTest, BothKernels(), KernelCaseName);

// --- Only in a simulation.

class SimEpollTest : public testing::Test {
 protected:
  SimEpollTest() : epoll_(kernel_, kernel_.EpollCreate()), event_(kernel_, kernel_.EventFd()) {
    Watch(event_, kIn | kEdge, 1);
  }

  void Watch(int fd, std::uint32_t events, std::uint64_t word) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = word;
    EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, fd, &event), 0);
  }
  void Signal() {
    const std::uint64_t one = 1;
    EXPECT_EQ(kernel_.Write(event_, &one, sizeof(one)), 8);
  }
  int Wait(Duration timeout) { return kernel_.EpollWait(epoll_, &told_, 1, timeout); }
  Duration Elapsed() { return world_.schedule.now() - Schedule::kStart; }

  LoopbackWorld loopback_;
  World& world_ = loopback_.world;
  SimKernel& kernel_ = loopback_.kernel;
  Descriptor epoll_;
  Descriptor event_;
  epoll_event told_{};
};

TEST_F(SimEpollTest, AWaitEndsAtTheVeryInstantOfTheEvent) {
  int count = 0;
  Duration at{};
  world_.schedule.Spawn([&] {
    count = Wait(1h);
    at = Elapsed();
  });
  world_.schedule.After(250ms, [&] { Signal(); });
  world_.schedule.RunUntil(Schedule::kStart + 2h);
  EXPECT_EQ(count, 1);
  EXPECT_EQ(at, 250ms);
}

TEST_F(SimEpollTest, AWaitEndsAtTheVeryInstantOfItsTimeout) {
  EXPECT_EQ(Wait(1h + 1ns), 0);
  EXPECT_EQ(Elapsed(), 1h + 1ns);
  EXPECT_EQ(Wait(kNeverTimeout), 0);  // Nothing is left in this world to wait for.
  EXPECT_EQ(Elapsed(), 1h + 1ns);
}

TEST_F(SimEpollTest, AWakeForNothingDoesNotEndAWait) {
  world_.schedule.After(10ms, [&] {
    Signal();
    std::uint64_t count = 0;
    EXPECT_EQ(kernel_.Read(event_, &count, 8), 8);  // Another thread was faster.
  });
  EXPECT_EQ(Wait(50ms), 0);
  EXPECT_EQ(Elapsed(), 50ms);
}

TEST_F(SimEpollTest, AFileThatIsHeldElsewhereKeepsReportingAfterItsClose) {
  const std::shared_ptr<File> held = kernel_.Find(event_);
  event_.Close();
  const std::uint64_t one = 1;
  EXPECT_EQ(held->Write(&one, sizeof(one)), 8);
  EXPECT_EQ(Wait(Duration::zero()), 1);
  // The number means another file by now, of which the instance knows nothing.
  const Descriptor again(kernel_, kernel_.EventFd());
  epoll_event event{};
  event.events = kIn;
  EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_DEL, again, nullptr), -ENOENT);
  EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, again, &event), 0);
  EXPECT_EQ(held->Write(&one, sizeof(one)), 8);
  EXPECT_EQ(Wait(Duration::zero()), 1);
}

TEST_F(SimEpollTest, AnInstanceThatIsClosedInAWaitOfAnotherThreadLivesUntilItsEnd) {
  int count = -1;
  world_.schedule.Spawn([&] { count = Wait(10ms); });
  world_.schedule.RunReady();
  epoll_.Close();
  world_.schedule.RunUntil(Schedule::kStart + 1s);
  EXPECT_EQ(count, 0);
}

TEST_F(SimEpollTest, ATimerThatIsLateFromTheStartIsReadableAtOnce) {
  const Descriptor timer(kernel_, kernel_.TimerFd());
  ASSERT_EQ(kernel_.TimerFdSet(timer, kernel_.ClockNow()), 0);
  std::uint64_t count = 0;
  EXPECT_EQ(kernel_.Read(timer, &count, sizeof(count)), 8);
}

TEST_F(SimEpollTest, AnInterruptEndsAWaitWithNothing) {
  world_.schedule.After(10ms, [&] { kernel_.Interrupt(); });
  EXPECT_EQ(Wait(1h), 0);
  EXPECT_EQ(Elapsed(), 10ms);
  EXPECT_EQ(Wait(1s), 0);  // Only once.
  EXPECT_EQ(Elapsed(), 1010ms);
}

TEST_F(SimEpollTest, APollWithoutTimeoutLetsOthersRunButNotTimePass) {
  bool ran = false;
  world_.schedule.Spawn([&] {
    ran = true;
    Signal();
  });
  EXPECT_EQ(Wait(Duration::zero()), 1);
  EXPECT_TRUE(ran);
  EXPECT_EQ(Elapsed(), 0s);
}

TEST_F(SimEpollTest, EveryEventThatIsToldIsCounted) {
  Signal();
  EXPECT_EQ(Wait(1s), 1);
  EXPECT_EQ(Wait(1s), 0);
  EXPECT_EQ(world_.completions, 1U);
}

TEST_F(SimEpollTest, ASignalEndsOnlyAWaitThatFindsNothing) {
  world_.faults.SetRate(Fault::kInterrupted, 65536);
  EXPECT_EQ(Wait(1h), -EINTR);
  Signal();
  EXPECT_EQ(Wait(1h), 1);
  EXPECT_EQ(Wait(Duration::zero()), 0);
  EXPECT_EQ(Elapsed(), 0s);
  EXPECT_EQ(world_.faults.hits(Fault::kInterrupted), 1U);
}

TEST_F(SimEpollTest, ALateTimerEndsAWaitLateAndAnEventDoesNot) {
  world_.faults.SetRate(Fault::kLateTimer, 65536);
  EXPECT_EQ(Wait(1s), 0);
  EXPECT_GT(Elapsed(), 1s);
  EXPECT_LE(Elapsed(), 1s + 20ms);
  const Instant start = world_.schedule.now();
  world_.schedule.At(start + 5ms, [&] { Signal(); });
  EXPECT_EQ(Wait(1s), 1);
  EXPECT_EQ(world_.schedule.now(), start + 5ms);
  EXPECT_EQ(world_.faults.hits(Fault::kLateTimer), 2U);
}

TEST_F(SimEpollTest, AStallMakesTheClockJumpAtTheEndOfAWait) {
  world_.faults.SetRate(Fault::kClock, 65536);
  EXPECT_EQ(Wait(1s), 0);
  EXPECT_GE(Elapsed(), 1s + 1ms);
  EXPECT_LE(Elapsed(), 1s + 2048ms);
  EXPECT_EQ(world_.faults.hits(Fault::kClock), 1U);
}

TEST_F(SimEpollTest, OutOfWatchesOrMemoryASocketIsNotAdded) {
  std::array<int, 2> fds{};
  ASSERT_EQ(kernel_.SocketPair(AF_UNIX, SOCK_STREAM, 0, fds.data()), 0);
  const Descriptor first(kernel_, fds[0]);
  const Descriptor second(kernel_, fds[1]);
  epoll_event event{};
  event.events = kIn;
  world_.faults.SetRate(Fault::kEpollSpace, 65536);
  EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, first, &event), -ENOSPC);
  world_.faults.SetRate(Fault::kEpollSpace, 0);
  world_.faults.SetRate(Fault::kNoMemory, 65536);
  EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, first, &event), -ENOMEM);
  world_.faults.SetEnabled(false);
  EXPECT_EQ(kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, first, &event), 0);
}

TEST_F(SimEpollTest, ASpuriousEventTellsOfDataThatIsNotThere) {
  std::array<int, 2> fds{};
  ASSERT_EQ(kernel_.SocketPair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0);
  const Descriptor first(kernel_, fds[0]);
  const Descriptor second(kernel_, fds[1]);
  Watch(first, kIn | kEdge, 2);
  world_.faults.SetRate(Fault::kCompletionOrder, 65536);
  int spurious = 0;
  for (int i = 0; i < 100; ++i) {
    if (Wait(Duration::zero()) == 0) continue;
    ++spurious;
    EXPECT_EQ(std::uint64_t{told_.data.u64}, 2U);  // Not of the eventfd.
    EXPECT_EQ(told_.events, kIn);
    char byte = 0;
    EXPECT_EQ(kernel_.Recv(first, &byte, 1, 0), -EAGAIN);
  }
  EXPECT_GT(spurious, 0);
  EXPECT_EQ(world_.faults.hits(Fault::kCompletionOrder), static_cast<std::uint64_t>(spurious));
}

TEST_F(SimEpollTest, ReorderedEventsAllCome) {
  const std::array<Descriptor, 2> others = {Descriptor(kernel_, kernel_.EventFd()),
                                            Descriptor(kernel_, kernel_.EventFd())};
  Watch(others[0], kIn | kEdge, 2);
  Watch(others[1], kIn | kEdge, 3);
  world_.faults.SetRate(Fault::kCompletionOrder, 65536);
  bool reordered = false;
  for (int i = 0; i < 20; ++i) {
    Signal();
    const std::uint64_t one = 1;
    EXPECT_EQ(kernel_.Write(others[0], &one, 8), 8);
    EXPECT_EQ(kernel_.Write(others[1], &one, 8), 8);
    std::array<epoll_event, 4> events{};
    ASSERT_EQ(kernel_.EpollWait(epoll_, events.data(), 4, Duration::zero()), 3);
    std::uint64_t seen = 0;
    for (std::size_t j = 0; j < 3; ++j) seen |= std::uint64_t{1} << events[j].data.u64;
    EXPECT_EQ(seen, 0b1110U);
    reordered |= events[0].data.u64 != 1;
  }
  EXPECT_TRUE(reordered);
}

}  // namespace
}  // namespace holdfast::internal::sim
