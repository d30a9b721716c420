// Names: what an answer becomes, how long it may take, and what happens when nobody waits any more.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>
#include <thread>
#include <vector>

#include "net/link_fixture.h"
#include "net/names_kernel.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {
namespace {

class ResolverTest : public LinkFixture {
 protected:
  void SetUp() override {
    LinkFixture::SetUp();
    if (!IsSkipped()) MakeReactor({.kernel = &names_});
  }
  void TearDown() override {
    EXPECT_FALSE(names_.service_was_asked());
    // What hangs must not hold the threads of the pool, which the next test needs.
    names_.Release();
    LinkFixture::TearDown();
  }
  static std::string PortOf(const RawServer& server) { return ":" + std::to_string(server.port()); }

  NamesKernel& names_ = NamesKernel::Make();
};
HOLDFAST_FOR_BOTH_BACKENDS(ResolverTest);

TEST_P(ResolverTest, ANameIsLookedUpAnewForEveryAttempt) {
  RawServer server;
  names_.Set("feed", {.addresses = {"127.0.0.1"}});
  LinkOptions options = Options("feed" + PortOf(server));
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  for (int session = 1; session <= 3; ++session) {
    Fd peer = AcceptFrom(server);
    ASSERT_TRUE(RunUntil([&] { return diary_.ups == session; }));
    EXPECT_EQ(link->peer().ToString(), server.endpoint());
    EXPECT_EQ(names_.calls(), session);
    peer.Reset();
  }
  ASSERT_TRUE(RunUntilDowns(3));
  EXPECT_EQ(diary_.downs[0].endpoint.size(), 4 + PortOf(server).size());
}

TEST_P(ResolverTest, ALiteralNeverStartsAThread) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(names_.calls(), 0);
}

TEST_P(ResolverTest, WhatTheResolverSaysIsClassed) {
  struct Case {
    NamesKernel::Answer answer;
    ErrorClass error_class;
    int code;
  };
  const std::vector<Case> cases = {
      {{.eai = EAI_NONAME}, ErrorClass::kNameNotFound, EAI_NONAME},
      {{.eai = EAI_NODATA}, ErrorClass::kNameNotFound, EAI_NODATA},
      {{.eai = EAI_AGAIN}, ErrorClass::kNameTemporary, EAI_AGAIN},
      {{.eai = EAI_FAIL}, ErrorClass::kNameTemporary, EAI_FAIL},
      {{.eai = EAI_MEMORY}, ErrorClass::kResource, EAI_MEMORY},
      // This host's trouble, which getaddrinfo calls a name that does not exist (docs/kernel.md 11).
      {{.eai = EAI_NONAME, .error_number = EMFILE}, ErrorClass::kResource, EMFILE},
      {{.eai = EAI_NONAME, .error_number = ENFILE}, ErrorClass::kResource, ENFILE},
      {{.eai = EAI_SYSTEM, .error_number = EMFILE}, ErrorClass::kResource, EMFILE},
      {{.eai = EAI_SYSTEM}, ErrorClass::kResource, EAI_SYSTEM},
      // No address at all, or none of a family that can be connected to.
      {{}, ErrorClass::kNameNotFound, 0},
      {{.addresses = {"unix"}}, ErrorClass::kNameNotFound, 0},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    diary_ = {};
    names_.Set("feed", cases[i].answer);
    LinkOptions options = Options("feed:7000");
    options.backoff = {.initial = 1h, .max = 1h};
    std::unique_ptr<Link> link = MakeStarted(std::move(options));
    ASSERT_TRUE(RunUntilDowns(1));
    const Down& down = diary_.downs[0];
    EXPECT_EQ(down.error.operation, Operation::kResolve) << i;
    EXPECT_EQ(down.error.error_class, cases[i].error_class) << i;
    EXPECT_EQ(down.error.code, cases[i].code) << i;
    EXPECT_TRUE(down.peer.empty()) << i;
    EXPECT_TRUE(down.retry_in.has_value()) << i;  // None of them is for ever.
  }
}

TEST_P(ResolverTest, ExhaustionDoesNotRotateTheEndpoints) {
  RawServer server;
  names_.Set("feed", {.eai = EAI_NONAME, .error_number = EMFILE});
  LinkOptions options = Options("feed" + PortOf(server));
  options.endpoints.push_back("other:1");
  std::vector<std::string> dialed;
  options.on_dial = [&](Link&, std::uint32_t, std::string_view endpoint) {
    dialed.emplace_back(endpoint);
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(3));
  names_.Set("feed", {.addresses = {"127.0.0.1"}});
  Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(dialed, std::vector<std::string>(dialed.size(), "feed" + PortOf(server)));
}

TEST_P(ResolverTest, ANameThatIsMissingIsWaitedForLongerAndFoundWhenItComes) {
  RawServer server;
  LinkOptions options = Options("feed" + PortOf(server));
  options.backoff = {.initial = 5ms, .multiplier = 2, .max = 50ms, .jitter = Jitter::kNone};
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[0].retry_in, Duration(20ms));  // kBackOffSlow: times 4.
  EXPECT_EQ(diary_.downs[1].retry_in, Duration(40ms));
  names_.Set("feed", {.addresses = {"127.0.0.1"}});
  Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
}

TEST_P(ResolverTest, ALookUpThatHangsEndsWithTheAttempt) {
  names_.Set("feed", {.hangs = true});
  LinkOptions options = Options("feed:7000");
  options.attempt_timeout = 100ms;
  const Instant begin = std::chrono::steady_clock::now();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kResolve));
  EXPECT_GE(reactor().Now() - begin, 100ms);
  EXPECT_LE(reactor().Now() - begin, 150ms + Lateness(reactor()));
}

TEST_P(ResolverTest, AResultThatComesAfterItsAttemptIsForgotten) {
  RawServer server;
  names_.Set("feed", {.addresses = {"127.0.0.1"}, .hangs = true});
  LinkOptions options = Options("feed" + PortOf(server));
  options.attempt_timeout = 30ms;
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  names_.Release();
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 0; }));
  RunFor(10ms);
  EXPECT_EQ(link->state(), LinkState::kBackoff);
  EXPECT_EQ(diary_.Text(), "dial1 down:timeout");
  // The next attempt asks for itself.
  link->RetryNow();
  Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
}

TEST_P(ResolverTest, CloseForgetsALookUp) {
  names_.Set("feed", {.addresses = {"127.0.0.1"}, .hangs = true});
  std::unique_ptr<Link> link = MakeStarted(Options("feed:7000"));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 1; }));
  EXPECT_EQ(link->state(), LinkState::kResolving);
  link->Close();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(), "dial1 closed:user");
  names_.Release();
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 0; }));
  RunFor(10ms);
  EXPECT_EQ(diary_.Text(), "dial1 closed:user");
}

TEST_P(ResolverTest, TheLinkMayBeDestroyedDuringALookUp) {
  names_.Set("feed", {.addresses = {"127.0.0.1"}, .hangs = true});
  std::unique_ptr<Link> link = MakeStarted(Options("feed:7000"));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 1; }));
  link.reset();
  RunFor(5ms);
  names_.Release();
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 0; }));
  RunFor(10ms);
  EXPECT_EQ(diary_.Text(), "dial1");
}

TEST_P(ResolverTest, TheReactorMayBeDestroyedDuringALookUp) {
  names_.Set("feed", {.addresses = {"127.0.0.1"}, .hangs = true});
  std::unique_ptr<Link> link = MakeStarted(Options("feed:7000"));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 1; }));
  link.reset();
  reactor_.reset();
  names_.Release();
  EXPECT_EQ(diary_.Text(), "dial1");
}

// A result that is on its way while the link is closed or destroyed: for ThreadSanitizer.
TEST_P(ResolverTest, AnAnswerMayBeDiscardedBeforeTheLinkThatWaitsForIt) {
  names_.Set("slow", {.addresses = {"127.0.0.1"}, .hangs = true});
  std::unique_ptr<Link> link = MakeStarted(Options("slow:1"));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 1; }));
  names_.Release();
  // The answer is posted, and its thread gone, before the next turn.
  const Instant end = std::chrono::steady_clock::now() + 10s;
  while (names_.threads() > 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  ASSERT_EQ(names_.threads(), 0);
  ASSERT_EQ(link->state(), LinkState::kResolving);
  reactor().Post([owner = std::move(link)] {});
  reactor_.reset();  // Discards the answer, then the link.
}

TEST_P(ResolverTest, ResultsAndTheEndOfALinkMayRace) {
  RawServer server;
  names_.Set("feed", {.addresses = {"127.0.0.1"}});
  for (int round = 0; round < 300; ++round) {
    diary_ = {};
    std::unique_ptr<Link> link = MakeStarted(Options("feed" + PortOf(server)));
    for (int turn = 0; turn < round % 4; ++turn) ASSERT_TRUE(reactor().Poll().ok());
    if (round % 2 == 0) {
      link->Close(0ms);
      ASSERT_TRUE(RunUntilClosed());
    }
    link.reset();
    if (round % 50 == 0) MakeReactor({.kernel = &names_});
    while (server.Accept().valid()) {
    }
  }
}

TEST_P(ResolverTest, FourThreadsLookUpAndTheRestWaitsItsTurn) {
  RawServer server;
  names_.Set("slow", {.addresses = {"127.0.0.1"}, .hangs = true});
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 12; ++i) {
    links.push_back(MakeStarted(Options("slow" + PortOf(server))));
  }
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 4; }));
  RunFor(20ms);
  EXPECT_EQ(names_.calls(), 4);
  // One that is not needed any more is not in the way of the others.
  links.front().reset();
  names_.Release();
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 11; }));
  EXPECT_LE(names_.inside_max(), 4);
}

TEST_P(ResolverTest, AThreadEndsWhenNothingIsLeftToLookUp) {
  RawServer server;
  names_.Set("feed", {.addresses = {"127.0.0.1"}});
  LinkOptions options = Options("feed" + PortOf(server));
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  for (int session = 1; session <= 6; ++session) {
    Fd peer = AcceptFrom(server);
    ASSERT_TRUE(RunUntil([&] { return diary_.ups == session; }));
    ASSERT_TRUE(RunUntil([&] { return names_.threads() == 0; }));
    EXPECT_EQ(names_.threads_started(), session);
    peer.Reset();
  }
}

TEST_P(ResolverTest, OneKernelsLookUpsAreNotInTheWayOfAnothers) {
  names_.Set("slow", {.hangs = true});
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 5; ++i) links.push_back(MakeStarted(Options("slow:1")));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 4; }));
  const std::unique_ptr<Reactor> busy = std::move(reactor_);
  NamesKernel& other = NamesKernel::Make();
  other.Set("feed", {.addresses = {"127.0.0.1"}});
  MakeReactor({.kernel = &other});
  {
    RawServer server;
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer, Options("feed" + PortOf(server)));
    EXPECT_EQ(other.calls(), 1);
    EXPECT_EQ(names_.calls(), 4);
  }
  links.clear();
}

TEST_P(ResolverTest, WithoutAThreadTheAttemptFailsForWantOfIt) {
  internal::FaultKernel kernel(names_);
  names_.Set("feed", {.eai = EAI_NONAME});
  const int rule =
      kernel.Inject({.call = internal::KernelCall::kStartThread, .result = -EAGAIN, .count = 1});
  MakeReactor({.kernel = &kernel});
  LinkOptions options = Options("feed:7000");
  options.backoff = {.initial = 1h, .max = 1h};
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(kernel.hits(rule), 1u);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kResolve);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kResource);
  EXPECT_EQ(diary_.downs[0].error.code, EAGAIN);
  EXPECT_EQ(names_.calls(), 0);
  // The next attempt has its thread.
  link->RetryNow();
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[1].error.code, EAI_NONAME);
  link.reset();
  ASSERT_TRUE(RunUntil([&] { return names_.threads() == 0; }));
  MakeReactor({.kernel = &names_});
}

TEST_P(ResolverTest, AnAttemptThatWaitsForAThreadTimesOutToo) {
  names_.Set("slow", {.hangs = true});
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 4; ++i) {
    LinkOptions options;
    options.endpoints = {"slow:1"};
    links.push_back(MakeStarted(std::move(options)));
  }
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 4; }));
  LinkOptions options = Options("fast:1");
  options.attempt_timeout = 50ms;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kResolve));
  EXPECT_EQ(names_.calls(), 4);
}

TEST_P(ResolverTest, AnAnswerOfAThousandAddressesIsCutDown) {
  ClosedPort port;
  std::vector<std::string> addresses;
  for (int i = 0; i < 1000; ++i) {
    addresses.push_back("127.0." + std::to_string(1 + i / 200) + "." + std::to_string(1 + i % 200));
  }
  names_.Set("feed", {.addresses = addresses});
  LinkOptions options = Options("feed:" + std::to_string(port.port()));
  options.backoff = {.initial = 1h, .max = 1h};
  int sockets = 0;
  options.socket.on_socket = [&](int) { ++sockets; };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(sockets, 64);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kRefused);
}

TEST_P(ResolverTest, TheRealResolverKnowsLocalhost) {
  MakeReactor({});
  RawServer server;
  LinkOptions options = Options("localhost" + PortOf(server));
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(link->peer().ToString(), server.endpoint());
}

TEST_P(ResolverTest, WithoutADescriptorTheRealResolverIsShortOfSomething) {
  MakeReactor({});
  LinkOptions options = Options("localhost:1");
  options.backoff = {.initial = 1h, .max = 1h};
  std::unique_ptr<Link> link = Make(std::move(options));
  RunFor(1ms);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  link->Start();
  const bool down = RunUntilDowns(1);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(down);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kResolve);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kResource)
      << diary_.downs[0].error.ToString();
}

}  // namespace
}  // namespace holdfast::test
