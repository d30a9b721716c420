// The loop: turns, posts, stops, timers, watched descriptors, embedding. Both backends.
#include <holdfast/reactor.h>

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <csignal>

#include <atomic>
#include <thread>

#include <holdfast/timer.h>
#include "net/net_fixture.h"

namespace holdfast::test {
namespace {

class ReactorTest : public NetTest {};
HOLDFAST_FOR_BOTH_BACKENDS(ReactorTest);

TEST_P(ReactorTest, SaysWhichBackendItIsAndWhy) {
  EXPECT_EQ(std::string(reactor().backend()),
            GetParam() == BackendKind::kUring ? "uring" : "epoll");
  EXPECT_FALSE(reactor().backend_reason().empty());
}

TEST_P(ReactorTest, StopFromACallbackEndsRun) {
  reactor().Post([&] { reactor().Stop(); });
  EXPECT_TRUE(reactor().Run().ok());
}

TEST_P(ReactorTest, AStopBeforeRunIsKeptForIt) {
  reactor().Stop();
  EXPECT_TRUE(reactor().Run().ok());
  // And used up by it: the next Run needs a Stop of its own.
  int turns = 0;
  Timer timer(reactor(), [&] {
    ++turns;
    reactor().Stop();
  });
  timer.Arm(reactor().Now() + 5ms);
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_EQ(turns, 1);
}

TEST_P(ReactorTest, PostsRunInOrderAndNeverInline) {
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) reactor().Post([&order, i] { order.push_back(i); });
  EXPECT_TRUE(order.empty());
  reactor().Stop();
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_P(ReactorTest, APostMadeByAPostRunsInALaterTurn) {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  reactor().Post([&] {
    first = reactor().stats().turns;
    reactor().Post([&] {
      second = reactor().stats().turns;
      reactor().Stop();
    });
  });
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_GT(second, first);
}

TEST_P(ReactorTest, WhatIsLeftAtDestructionIsDestroyedUnrun) {
  const auto alive = std::make_shared<int>(0);
  bool ran = false;
  reactor().Post([alive, &ran] { ran = true; });
  EXPECT_EQ(alive.use_count(), 2);
  reactor_.reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_FALSE(ran);
}

TEST_P(ReactorTest, RunInsideACallbackIsRefused) {
  absl::Status run;
  absl::Status poll;
  reactor().Post([&] {
    run = reactor().Run();
    poll = reactor().Poll();
    reactor().Stop();
  });
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_EQ(run.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(poll.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(ReactorTest, RunForReturnsWhenItsTimeIsOverAndNotBefore) {
  const Instant begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(reactor().RunFor(20ms).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 20ms);
  EXPECT_GE(reactor().Now() - begin, 20ms);
}

// The hammer: posts from several threads against a loop that sleeps as often as it can. A lost wake-up
// is a hang, which the deadline turns into a failure.
TEST_P(ReactorTest, NoWakeUpIsLost) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 2'000;
  std::atomic<int> ran{0};
  std::vector<std::vector<int>> seen(kThreads);
  Timer watchdog(reactor(), [&] { reactor().Stop(); });
  watchdog.Arm(reactor().Now() + 60s);
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const int before = ran.load();
        reactor().Post([&, t, i] {
          seen[static_cast<std::size_t>(t)].push_back(i);
          if (ran.fetch_add(1) + 1 == kThreads * kRounds) reactor().Stop();
        });
        // Every other post waits until the loop has drained, so that it goes to sleep in between.
        if (i % 2 == 0) {
          while (ran.load() <= before) std::this_thread::yield();
        }
      }
    });
  }
  EXPECT_TRUE(reactor().Run().ok());
  threads.clear();
  EXPECT_EQ(ran.load(), kThreads * kRounds);
  for (const std::vector<int>& order : seen) {
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
    EXPECT_EQ(order.size(), static_cast<std::size_t>(kRounds));
  }
}

TEST_P(ReactorTest, APostBeforeAStopOfTheSameThreadRunsBeforeRunReturns) {
  for (int i = 0; i < 200; ++i) {
    bool ran = false;
    std::jthread thread([&] {
      reactor().Post([&] { ran = true; });
      reactor().Stop();
    });
    EXPECT_TRUE(reactor().Run().ok());
    EXPECT_TRUE(ran);
  }
}

Reactor* g_signalled = nullptr;

TEST_P(ReactorTest, StopIsAllowedInASignalHandler) {
  g_signalled = &reactor();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { g_signalled->Stop(); };
  sigaction(SIGUSR1, &action, &before);
  const pthread_t self = pthread_self();
  std::jthread thread([self] { pthread_kill(self, SIGUSR1); });
  EXPECT_TRUE(reactor().Run().ok());
  thread.join();
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_P(ReactorTest, ATimerIsNeverEarly) {
  for (const Duration wait :
       {Duration(0), Duration(1), Duration(100us), Duration(1ms), Duration(7ms), Duration(60ms)}) {
    bool fired = false;
    const Instant deadline = std::chrono::steady_clock::now() + wait;
    Timer timer(reactor(), [&] {
      fired = true;
      EXPECT_GE(reactor().Now(), deadline);
      EXPECT_GE(std::chrono::steady_clock::now(), deadline);
    });
    timer.Arm(deadline);
    EXPECT_TRUE(timer.armed());
    EXPECT_TRUE(RunUntil([&] { return fired; }));
    EXPECT_FALSE(timer.armed());
  }
}

TEST_P(ReactorTest, ATimerMayDestroyItselfAndOthersInItsCallback) {
  std::unique_ptr<Timer> other;
  std::unique_ptr<Timer> self;
  bool other_fired = false;
  const Instant deadline = reactor().Now() + 1ms;
  self = std::make_unique<Timer>(reactor(), [&] {
    other.reset();
    self.reset();
  });
  other = std::make_unique<Timer>(reactor(), [&] { other_fired = true; });
  self->Arm(deadline);
  other->Arm(deadline + 1ns);
  EXPECT_TRUE(RunUntil([&] { return self == nullptr; }));
  EXPECT_TRUE(reactor().RunFor(5ms).ok());
  EXPECT_FALSE(other_fired);
}

TEST_P(ReactorTest, ACancelledTimerDoesNotFire) {
  bool fired = false;
  Timer timer(reactor(), [&] { fired = true; });
  timer.Arm(reactor().Now() + 2ms);
  timer.Cancel();
  EXPECT_FALSE(timer.armed());
  EXPECT_TRUE(reactor().RunFor(10ms).ok());
  EXPECT_FALSE(fired);
}

// What a callback owns dies with it, at the end of the turn: code of the user's, behind the flush.
class AtDeath {
 public:
  explicit AtDeath(std::function<void()> function) : function_(std::move(function)) {}
  AtDeath(const AtDeath&) = delete;
  AtDeath& operator=(const AtDeath&) = delete;
  ~AtDeath() { function_(); }

 private:
  std::function<void()> function_;
};

// A timer whose callback ends it, and with it calls `function`.
std::unique_ptr<Timer> MakeMortal(Reactor& reactor, std::unique_ptr<Timer>& place,
                                  std::function<void()> function) {
  auto death = std::make_shared<AtDeath>(std::move(function));
  return std::make_unique<Timer>(reactor, [&place, death = std::move(death)] { place.reset(); });
}

TEST_P(ReactorTest, WhatADestructorSendsDoesNotWaitForTheNextEvent) {
  RawServer server;
  LinkOptions options;
  options.endpoints = {server.endpoint()};
  auto link = Link::Create(reactor(), std::move(options));
  ASSERT_TRUE(link.ok());
  (*link)->Start();
  const Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return (*link)->state() == LinkState::kUp; }));
  std::unique_ptr<Timer> mortal;
  mortal = MakeMortal(reactor(), mortal,
                      [&] { EXPECT_EQ((*link)->Send("last will").status, SendStatus::kQueued); });
  std::string text;
  Timer later(reactor(), [&] {
    text = ReadAvailable(peer);
    reactor().Stop();
  });
  mortal->Arm(reactor().Now() + 1ms);
  later.Arm(reactor().Now() + 40ms);
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_EQ(mortal, nullptr);
  EXPECT_EQ(text, "last will");
}

TEST_P(ReactorTest, AReactorCannotBeRunByADestructorAtTheEndOfATurn) {
  absl::Status status;
  std::unique_ptr<Timer> mortal;
  mortal = MakeMortal(reactor(), mortal, [&] { status = reactor().RunFor(0ms); });
  mortal->Arm(reactor().Now());
  ASSERT_TRUE(RunUntil([&] { return mortal == nullptr; }));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(ReactorTest, AnIdleReactorMakesNoSyscalls) {
  EXPECT_TRUE(reactor().RunFor(1ms).ok());
  const std::uint64_t before = reactor().stats().waits;
  EXPECT_TRUE(reactor().RunFor(200ms).ok());
  // Entering, one long wait and what its epoll slack leaves over.
  EXPECT_LE(reactor().stats().waits - before, 4u);
}

TEST_P(ReactorTest, AWatchedDescriptorIsLevelTriggered) {
  Fd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  int calls = 0;
  auto watch = reactor().Watch(event.get(), kWatchReadable, [&](unsigned events) {
    EXPECT_EQ(events, unsigned{kWatchReadable});
    if (++calls == 3) {
      std::uint64_t value = 0;
      EXPECT_EQ(::read(event.get(), &value, sizeof(value)), 8);
    }
  });
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_TRUE(reactor().RunFor(5ms).ok());
  EXPECT_EQ(calls, 0);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof(one)), 8);
  EXPECT_TRUE(RunUntil([&] { return calls == 3; }));
  EXPECT_TRUE(reactor().RunFor(5ms).ok());
  EXPECT_EQ(calls, 3);
}

TEST_P(ReactorTest, AWatchMayBeEndedInItsOwnCallbackAndMadeAgain) {
  Fd event(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
  int calls = 0;
  std::unique_ptr<Watcher> watch;
  const auto make = [&] {
    auto made = reactor().Watch(event.get(), kWatchReadable, [&](unsigned) {
      ++calls;
      watch.reset();
    });
    ASSERT_TRUE(made.ok()) << made.status();
    watch = *std::move(made);
  };
  make();
  EXPECT_TRUE(RunUntil([&] { return watch == nullptr; }));
  EXPECT_TRUE(reactor().RunFor(5ms).ok());
  EXPECT_EQ(calls, 1);
  make();
  EXPECT_TRUE(RunUntil([&] { return calls == 2; }));
}

TEST_P(ReactorTest, AWatchTellsErrorsUnasked) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  unsigned seen = 0;
  auto watch =
      reactor().Watch(write_end.get(), kWatchWritable, [&](unsigned events) { seen |= events; });
  ASSERT_TRUE(watch.ok());
  EXPECT_TRUE(RunUntil([&] { return seen == kWatchWritable; }));
  read_end.Reset();
  EXPECT_TRUE(RunUntil([&] { return (seen & kWatchError) != 0; }));
}

TEST_P(ReactorTest, AWatchRefusesWhatCannotBePolled) {
  Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const auto regular = reactor().Watch(file.get(), kWatchReadable, [](unsigned) {});
  EXPECT_EQ(regular.status().code(), absl::StatusCode::kInvalidArgument) << regular.status();
  const auto closed = reactor().Watch(-1, kWatchReadable, [](unsigned) {});
  EXPECT_EQ(closed.status().code(), absl::StatusCode::kInvalidArgument);
  const auto nothing = reactor().Watch(0, 0, [](unsigned) {});
  EXPECT_EQ(nothing.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(ReactorTest, AWatchTwiceOnOneDescriptorIsRefused) {
  Fd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const auto first = reactor().Watch(event.get(), kWatchReadable, [](unsigned) {});
  ASSERT_TRUE(first.ok());
  const auto second = reactor().Watch(event.get(), kWatchReadable, [](unsigned) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kInvalidArgument) << second.status();
}

// Embedding: poll(2) on fd() alone drives posts, timers and sockets.
class EmbeddedTest : public ReactorTest {
 protected:
  [[nodiscard]] bool PollUntil(const std::function<bool()>& done, int limit_ms = 10'000) {
    const Instant end = std::chrono::steady_clock::now() + std::chrono::milliseconds(limit_ms);
    while (!done()) {
      pollfd waiting{reactor().fd(), POLLIN, 0};
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      if (left.count() <= 0 || ::poll(&waiting, 1, static_cast<int>(left.count())) == 0) {
        return false;
      }
      EXPECT_TRUE(reactor().Poll().ok());
      ++polls_;
    }
    return true;
  }
  int polls_ = 0;
};
HOLDFAST_FOR_BOTH_BACKENDS(EmbeddedTest);

TEST_P(EmbeddedTest, ATimerMakesTheDescriptorReadable) {
  bool fired = false;
  Timer timer(reactor(), [&] { fired = true; });
  EXPECT_TRUE(reactor().Poll().ok());
  EXPECT_GE(reactor().fd(), 0);
  timer.Arm(reactor().Now() + 30ms);  // Between two Polls: the descriptor learns of it.
  EXPECT_TRUE(PollUntil([&] { return fired; }));
  EXPECT_LE(polls_, 5);
}

TEST_P(EmbeddedTest, APostFromAnotherThreadMakesTheDescriptorReadable) {
  EXPECT_TRUE(reactor().Poll().ok());
  bool ran = false;
  std::jthread thread([&] { reactor().Post([&] { ran = true; }); });
  EXPECT_TRUE(PollUntil([&] { return ran; }));
}

TEST_P(EmbeddedTest, APostMadeByAPostMakesTheDescriptorReadable) {
  EXPECT_GE(reactor().fd(), 0);
  int ran = 0;
  reactor().Post([&] {
    ++ran;
    reactor().Post([&] { ++ran; });
  });
  EXPECT_TRUE(reactor().Poll().ok());
  EXPECT_EQ(ran, 1);
  EXPECT_TRUE(PollUntil([&] { return ran == 2; }));
}

TEST_P(EmbeddedTest, ALinkLivesInAnotherLoop) {
  RawServer server;
  Diary diary;
  LinkOptions options;
  options.endpoints = {server.endpoint()};
  diary.Attach(options);
  auto link = Link::Create(reactor(), std::move(options));
  ASSERT_TRUE(link.ok());
  EXPECT_GE(reactor().fd(), 0);
  (*link)->Start();  // Between two Polls: the descriptor learns of it.
  EXPECT_TRUE(PollUntil([&] { return diary.ups == 1; }));
  Fd peer = server.Accept();
  ASSERT_TRUE(peer.valid());
  ASSERT_EQ(::send(peer.get(), "hello", 5, 0), 5);
  EXPECT_TRUE(PollUntil([&] { return diary.data == "hello"; }));
  (*link)->Send("world");
  int turns = 0;
  EXPECT_TRUE(PollUntil([&] { return ++turns > 1; }));
  pollfd readable{peer.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&readable, 1, 10'000), 1);
  EXPECT_EQ(ReadAvailable(peer), "world");
}

// Between Run and fd() nothing is chosen for good.
TEST_P(EmbeddedTest, APostAfterARunMakesTheDescriptorReadable) {
  EXPECT_GE(reactor().fd(), 0);
  EXPECT_TRUE(reactor().RunFor(1ms).ok());
  bool ran = false;
  std::jthread thread([&] { reactor().Post([&] { ran = true; }); });
  EXPECT_TRUE(PollUntil([&] { return ran; }));
}

TEST_P(EmbeddedTest, ALoopThatRunsByItselfLosesNoPostOfADestructor) {
  EXPECT_GE(reactor().fd(), 0);
  bool ran = false;
  bool ran_in_time = false;
  Timer far(reactor(), [] {});
  std::unique_ptr<Timer> mortal;
  mortal = MakeMortal(reactor(), mortal, [&] {
    reactor().Post([&] { ran = true; });
    far.Arm(reactor().Now() + 1h);
  });
  Timer later(reactor(), [&] {
    ran_in_time = ran;
    reactor().Stop();
  });
  mortal->Arm(reactor().Now() + 1ms);
  later.Arm(reactor().Now() + 40ms);
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_TRUE(ran_in_time);
}

// The hammer of ReactorTest.NoWakeUpIsLost, in a loop that was embedded once: it sleeps otherwise.
TEST_P(EmbeddedTest, NoWakeUpIsLostByALoopThatRunsByItself) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 2'000;
  EXPECT_GE(reactor().fd(), 0);
  std::atomic<int> ran{0};
  std::atomic<bool> over{false};
  Timer watchdog(reactor(), [&] {
    over.store(true);
    reactor().Stop();
  });
  watchdog.Arm(reactor().Now() + 60s);
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds && !over.load(); ++i) {
        const int before = ran.load();
        reactor().Post([&] {
          if (ran.fetch_add(1) + 1 == kThreads * kRounds) reactor().Stop();
        });
        // Every other post is followed by a Stop, and waits until the loop has drained.
        if (i % 2 != 0) continue;
        reactor().Stop();
        while (ran.load() <= before && !over.load()) std::this_thread::yield();
      }
    });
  }
  while (ran.load() < kThreads * kRounds && !over.load() && reactor().Run().ok()) {
  }
  over.store(true);
  threads.clear();
  EXPECT_EQ(ran.load(), kThreads * kRounds);
}

TEST_P(EmbeddedTest, AStopWaitsForRunAndLeavesTheDescriptorQuiet) {
  pollfd waiting{reactor().fd(), POLLIN, 0};
  EXPECT_TRUE(reactor().Poll().ok());
  reactor().Stop();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(reactor().Poll().ok());
  EXPECT_EQ(::poll(&waiting, 1, 20), 0);
  EXPECT_TRUE(reactor().Run().ok()) << "without an end of its own";
}

TEST_P(EmbeddedTest, AQuietReactorKeepsTheDescriptorQuiet) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(reactor().Poll().ok());
  pollfd waiting{reactor().fd(), POLLIN, 0};
  if (::poll(&waiting, 1, 0) == 1) {
    EXPECT_TRUE(reactor().Poll().ok());
  }
  EXPECT_EQ(::poll(&waiting, 1, 20), 0);
}

TEST(ReactorOptionsTest, WhatIsWrongIsNamed) {
  ReactorOptions options;
  options.receive_buffers = 100;
  const auto reactor = Reactor::Create(options);
  EXPECT_EQ(reactor.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(reactor.status().message().find("receive_buffers = 100"), std::string::npos);
}

TEST(ReactorOptionsTest, TheSameSeedGivesTheSameWaits) {
  std::vector<Duration> waits[2];
  ClosedPort port;
  for (auto& run : waits) {
    auto reactor = Reactor::Create({.backend = BackendKind::kEpoll, .seed = 42});
    ASSERT_TRUE(reactor.ok());
    LinkOptions options;
    options.endpoints = {port.endpoint()};
    options.backoff = {.initial = 1ms, .max = 4ms};
    options.attempts_max = 6;
    options.on_down = [&](Link&, const Down& down) { run.push_back(down.retry_in.value_or(0ns)); };
    options.on_closed = [&](Link&, const Closed&) { (*reactor)->Stop(); };
    auto link = Link::Create(**reactor, std::move(options));
    ASSERT_TRUE(link.ok());
    (*link)->Start();
    ASSERT_TRUE((*reactor)->Run().ok());
  }
  EXPECT_EQ(waits[0].size(), 6u);
  EXPECT_EQ(waits[0], waits[1]);
}

}  // namespace
}  // namespace holdfast::test
