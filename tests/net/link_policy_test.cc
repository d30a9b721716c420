// When a link dials again, how long it waits, where it goes, and when it gives up.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "net/link_fixture.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {
namespace {

class LinkPolicyTest : public LinkFixture {
 protected:
  // Waits without chance: 8, 16, 32, ... ms.
  LinkOptions Doubling(const std::string& endpoint) {
    LinkOptions options = Options(endpoint);
    options.backoff = {.initial = 8ms, .multiplier = 2, .max = 10s, .jitter = Jitter::kNone};
    return options;
  }
  // Accepts whatever comes and closes it at once, until there were `downs` reports.
  [[nodiscard]] bool AcceptAndCloseUntilDowns(RawServer& server, std::size_t downs) {
    return RunUntil([&] {
      static_cast<void>(server.Accept());
      return diary_.downs.size() >= downs;
    });
  }
  std::vector<Duration> Waits() const {
    std::vector<Duration> waits;
    for (const Down& down : diary_.downs) waits.push_back(down.retry_in.value_or(-1ns));
    return waits;
  }
  std::vector<std::uint32_t> Attempts() const {
    std::vector<std::uint32_t> attempts;
    for (const Down& down : diary_.downs) attempts.push_back(down.attempt);
    return attempts;
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkPolicyTest);

// The load balancer that accepts and has nobody behind it, in both its manners, with the defaults.
TEST_P(LinkPolicyTest, AServerThatAcceptsAndClosesIsNotDialedInALoop) {
  RawServer closing;
  RawServer resetting;
  struct Dials {
    std::vector<Instant> at;
    int ups = 0;
    int downs = 0;
  };
  Dials closing_dials;
  Dials resetting_dials;
  const auto options_for = [&](const RawServer& server, Dials& dials) {
    LinkOptions options;
    options.endpoints = {server.endpoint()};
    options.on_dial = [&](Link&, std::uint32_t attempt, std::string_view) {
      dials.at.push_back(reactor().Now());
      EXPECT_EQ(attempt, dials.at.size());  // Never healthy: it goes on counting.
    };
    options.on_up = [&](Link&) { ++dials.ups; };
    options.on_down = [&](Link&, const Down&) { ++dials.downs; };
    return options;
  };
  std::unique_ptr<Link> first = MakeStarted(options_for(closing, closing_dials));
  std::unique_ptr<Link> second = MakeStarted(options_for(resetting, resetting_dials));
  const Instant begin = reactor().Now();
  ASSERT_TRUE(RunUntil([&] {
    static_cast<void>(closing.Accept());
    if (Fd peer = resetting.Accept(); peer.valid()) ResetPeer(peer);
    return reactor().Now() - begin >= 5s;
  }));
  for (const Dials* dials : {&closing_dials, &resetting_dials}) {
    ASSERT_GE(dials->at.size(), 4u);
    EXPECT_LE(dials->at.size(), 16u);
    const Duration first_gap = dials->at[1] - dials->at[0];
    const Duration last_gap = dials->at.back() - dials->at[dials->at.size() - 2];
    EXPECT_GT(last_gap, first_gap);
    EXPECT_GE(dials->downs, dials->ups - 1);
  }
  EXPECT_GE(closing_dials.ups, 4);
}

TEST_P(LinkPolicyTest, EveryFailureMakesTheWaitLonger) {
  ClosedPort port;
  std::unique_ptr<Link> link = MakeStarted(Doubling(port.endpoint()));
  ASSERT_TRUE(RunUntilDowns(5));
  EXPECT_EQ(Waits(), (std::vector<Duration>{8ms, 16ms, 32ms, 64ms, 128ms}));
}

TEST_P(LinkPolicyTest, TheWaitIsKeptToTheEnd) {
  ClosedPort port;
  LinkOptions options = Doubling(port.endpoint());
  std::vector<Instant> dials;
  std::vector<Instant> downs;
  options.on_dial = [&](Link&, std::uint32_t, std::string_view) {
    dials.push_back(std::chrono::steady_clock::now());
  };
  options.on_down = [&](Link&, const Down& down) {
    downs.push_back(reactor().Now());
    diary_.downs.push_back(down);
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return dials.size() >= 4; }));
  for (std::size_t i = 0; i + 1 < dials.size(); ++i) {
    EXPECT_GE(dials[i + 1] - downs[i], *diary_.downs[i].retry_in) << i;
    EXPECT_LE(dials[i + 1] - downs[i], *diary_.downs[i].retry_in + 50ms + Lateness(reactor())) << i;
  }
}

TEST_P(LinkPolicyTest, AConnectAloneDoesNotResetTheBackoff) {
  RawServer server;
  std::unique_ptr<Link> link = MakeStarted(Doubling(server.endpoint()));
  ASSERT_TRUE(AcceptAndCloseUntilDowns(server, 4));
  EXPECT_EQ(diary_.ups, 4);
  EXPECT_EQ(Waits(), (std::vector<Duration>{8ms, 16ms, 32ms, 64ms}));
  EXPECT_EQ(Attempts(), (std::vector<std::uint32_t>{1, 2, 3, 4}));
}

TEST_P(LinkPolicyTest, MarkHealthyResetsTheBackoffAndTheAttempts) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    if (diary_.ups == 3) link.MarkHealthy();
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(AcceptAndCloseUntilDowns(server, 5));
  EXPECT_EQ(Waits(), (std::vector<Duration>{8ms, 16ms, 8ms, 16ms, 32ms}));
  EXPECT_EQ(Attempts(), (std::vector<std::uint32_t>{1, 2, 0, 1, 2}));
  EXPECT_EQ(
      diary_.Text().substr(0, 100),
      std::string("dial1 down:eof dial2 down:eof dial3 down:eof dial1 down:eof dial2 down:eof")
          .substr(0, 100));
}

TEST_P(LinkPolicyTest, BeingUpForHealthyAfterResetsTheBackoff) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.healthy_after = 60ms;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(AcceptAndCloseUntilDowns(server, 2));
  Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 3; }));
  const Instant up = reactor().Now();
  ASSERT_TRUE(RunUntil([&] { return reactor().Now() - up > 60ms + Lateness(reactor()); }));
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(3));
  EXPECT_EQ(Waits(), (std::vector<Duration>{8ms, 16ms, 8ms}));
  EXPECT_EQ(Attempts(), (std::vector<std::uint32_t>{1, 2, 0}));
  EXPECT_GE(diary_.downs[2].up_for, 60ms);
}

TEST_P(LinkPolicyTest, EndpointsRotateAfterFailedAttempts) {
  ClosedPort first;
  ClosedPort second;
  RawServer third;
  LinkOptions options = Options(first.endpoint());
  options.endpoints = {first.endpoint(), second.endpoint(), third.endpoint()};
  std::vector<std::string> dialed;
  std::vector<std::string> told;
  options.on_dial = [&](Link&, std::uint32_t, std::string_view endpoint) {
    dialed.emplace_back(endpoint);
  };
  options.on_down = [&](Link&, const Down& down) { told.emplace_back(down.endpoint); };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(third, peer, std::move(options));
  // Up, but not healthy: its loss moves on as well, round to the first.
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return told.size() == 4; }));
  const std::vector<std::string> round = {first.endpoint(), second.endpoint(), third.endpoint(),
                                          first.endpoint()};
  EXPECT_EQ(told, round);
  EXPECT_EQ(std::vector<std::string>(dialed.begin(), dialed.begin() + 4), round);
}

TEST_P(LinkPolicyTest, AHealthySessionThatIsLostIsDialedAtTheSameEndpoint) {
  RawServer first;
  ClosedPort second;
  LinkOptions options = Options(first.endpoint());
  options.endpoints = {first.endpoint(), second.endpoint()};
  std::vector<std::string> dialed;
  options.on_dial = [&](Link&, std::uint32_t, std::string_view endpoint) {
    dialed.emplace_back(endpoint);
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(first, peer, std::move(options));
  link->MarkHealthy();
  peer.Reset();
  peer = AcceptFrom(first);
  EXPECT_EQ(dialed, (std::vector<std::string>{first.endpoint(), first.endpoint()}));
}

TEST_P(LinkPolicyTest, EndpointsDoNotRotateWhenThisHostIsShortOfSomething) {
  internal::FaultKernel kernel(internal::RealKernel());
  RawServer server;
  ClosedPort other;
  MakeReactor({.kernel = &kernel});
  LinkOptions options = Options(server.endpoint());
  options.endpoints = {server.endpoint(), other.endpoint()};
  std::vector<std::string> dialed;
  options.on_dial = [&](Link&, std::uint32_t, std::string_view endpoint) {
    dialed.emplace_back(endpoint);
  };
  kernel.Inject({.call = internal::KernelCall::kSocket, .result = -EMFILE, .count = 3});
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(dialed, std::vector<std::string>(4, server.endpoint()));
  ASSERT_EQ(diary_.downs.size(), 3u);
  for (const Down& down : diary_.downs) {
    EXPECT_EQ(down.error.error_class, ErrorClass::kResource);
    EXPECT_EQ(down.error.operation, Operation::kSocket);
    EXPECT_EQ(down.error.CodeName(), "EMFILE");
    EXPECT_GE(*down.retry_in, 5ms);  // Never at once: the first wait is `initial` at least.
  }
  link.reset();
  reactor_.reset();
}

TEST_P(LinkPolicyTest, DecideIsAskedJustBeforeOnDownAndMayKeepTheClassesWord) {
  ClosedPort port;
  LinkOptions options = Doubling(port.endpoint());
  std::vector<std::optional<Duration>> would_be;
  options.decide = [&](const Down& down) {
    EXPECT_EQ(diary_.downs.size(), would_be.size());
    would_be.push_back(down.retry_in);
    EXPECT_EQ(down.error.error_class, ErrorClass::kRefused);
    return Verdict::kByClass;
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(3));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(would_be[i], diary_.downs[i].retry_in);
}

TEST_P(LinkPolicyTest, DecideMayRetryNow) {
  ClosedPort port;
  LinkOptions options = Doubling(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  options.decide = [](const Down& down) {
    // What it would be: an hour, or nothing where the limit is reached.
    EXPECT_EQ(down.retry_in, down.attempt < 5 ? std::optional<Duration>(1h) : std::nullopt);
    return Verdict::kRetryNow;
  };
  options.attempts_max = 5;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.dials, 5);
  EXPECT_EQ(diary_.downs[0].retry_in, Duration::zero());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kAttempts);
}

TEST_P(LinkPolicyTest, DecideMayStop) {
  ClosedPort port;
  LinkOptions options = Doubling(port.endpoint());
  options.decide = [&](const Down& down) {
    return down.attempt == 2 ? Verdict::kStop : Verdict::kByClass;
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(), "dial1 down:refused dial2 down:refused closed:decided");
  EXPECT_FALSE(diary_.downs[1].retry_in.has_value());
  EXPECT_EQ(diary_.closed->error.error_class, ErrorClass::kRefused);
}

// A path through a file: no waiting makes it a directory (unix(7), connect(2) ENOTDIR).
class UnixPathThroughAFile {
 public:
  UnixPathThroughAFile() {
    fd_ = ::mkstemp(path_);
    EXPECT_GE(fd_, 0);
  }
  ~UnixPathThroughAFile() {
    ::close(fd_);
    ::unlink(path_);
  }
  UnixPathThroughAFile(const UnixPathThroughAFile&) = delete;
  UnixPathThroughAFile& operator=(const UnixPathThroughAFile&) = delete;
  [[nodiscard]] std::string endpoint() const { return std::string("unix:") + path_ + "/socket"; }

 private:
  char path_[32] = "/tmp/holdfast-test-XXXXXX";
  int fd_ = -1;
};

TEST_P(LinkPolicyTest, APermanentErrorCloses) {
  UnixPathThroughAFile path;
  std::unique_ptr<Link> link = MakeStarted(Options(path.endpoint()));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(), "dial1 down:invalid closed:permanent");
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ENOTDIR");
  EXPECT_FALSE(diary_.downs[0].retry_in.has_value());
  EXPECT_EQ(diary_.closed->error, diary_.downs[0].error);
  EXPECT_FALSE(diary_.closed->error.IsTemporary());
  expected_bugs_ = 1;  // One error, of class kInvalid: counted once.
}

TEST_P(LinkPolicyTest, DecideMayGoOnAfterAPermanentError) {
  UnixPathThroughAFile path;
  LinkOptions options = Doubling(path.endpoint());
  options.decide = [](const Down& down) {
    EXPECT_FALSE(down.retry_in.has_value());
    return down.attempt < 3 ? Verdict::kBackOff : Verdict::kByClass;
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(),
            "dial1 down:invalid dial2 down:invalid dial3 down:invalid closed:permanent");
  EXPECT_EQ(Waits(), (std::vector<Duration>{8ms, 16ms, -1ns}));
  expected_bugs_ = 3;
}

TEST_P(LinkPolicyTest, AUnixPathThatDoesNotExistYetIsTriedAgain) {
  std::unique_ptr<Link> link = MakeStarted(Options("unix:/tmp/holdfast-no-such-socket"));
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[1].error.error_class, ErrorClass::kRefused);
  EXPECT_EQ(diary_.downs[1].error.CodeName(), "ENOENT");
  EXPECT_EQ(diary_.downs[1].peer.ToString(), "unix:/tmp/holdfast-no-such-socket");
}

TEST_P(LinkPolicyTest, AttemptsMaxCountsFromWhenItWasLastHealthy) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.attempts_max = 3;
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    if (diary_.ups == 2) link.MarkHealthy();
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] {
    static_cast<void>(server.Accept());
    return diary_.closed.has_value();
  }));
  EXPECT_EQ(Attempts(), (std::vector<std::uint32_t>{1, 0, 1, 2, 3}));
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kAttempts);
}

TEST_P(LinkPolicyTest, GiveUpAfterEndsItBeforeAWaitThatWouldBeTooLong) {
  ClosedPort port;
  LinkOptions options = Doubling(port.endpoint());
  options.give_up_after = 100ms;
  const Instant begin = std::chrono::steady_clock::now();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kTime);
  EXPECT_FALSE(diary_.downs.back().retry_in.has_value());
  // 8 + 16 + 32 ms, and the 64 ms that would end too late.
  EXPECT_LE(diary_.dials, 4);
  EXPECT_LE(reactor().Now() - begin, 100ms + 50ms + Lateness(reactor()));
}

TEST_P(LinkPolicyTest, GiveUpAfterCountsFromTheLossOfAHealthySession) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.give_up_after = 50ms;
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    link.MarkHealthy();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const Instant up = reactor().Now();
  ASSERT_TRUE(RunUntil([&] { return reactor().Now() - up > 60ms; }));
  peer.Reset();
  // 60 ms are over, but the clock stood still: it is dialed again.
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  EXPECT_FALSE(diary_.closed.has_value());
}

TEST_P(LinkPolicyTest, ProtocolErrorsInARowEndIt) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.on_up = [&](Link& link) {
    diary_.lines.push_back("up");
    link.Drop(Error::Protocol());
    EXPECT_EQ(link.state(), LinkState::kFailing);
    EXPECT_EQ(link.Send("x").status, SendStatus::kNotUp);
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(),
            "dial1 up down:protocol dial2 up down:protocol dial3 up down:protocol "
            "closed:protocol");
  EXPECT_EQ(diary_.downs[0].error, Error::Protocol());
  EXPECT_EQ(diary_.closed->error, Error::Protocol());
}

TEST_P(LinkPolicyTest, ProtocolErrorsBeginAnewOnceHealthy) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.protocol_errors_max = 2;
  options.on_up = [&](Link& link) {
    if (++diary_.ups == 2) link.MarkHealthy();
    link.Drop(Error::Protocol());
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  // One, then healthy, then two in a row: the second session's own counts as the first of these.
  EXPECT_EQ(diary_.ups, 3);
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kProtocol);
}

TEST_P(LinkPolicyTest, DropOutsideOfUpDoesNothing) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Drop(Error::Protocol());
  EXPECT_EQ(link->state(), LinkState::kIdle);
  link->Start();
  link->Drop(Error::Protocol());
  EXPECT_EQ(link->state(), LinkState::kResolving);
  ASSERT_TRUE(RunUntilDowns(1));
  link->Drop(Error::Protocol());
  EXPECT_EQ(link->state(), LinkState::kBackoff);
  link->Close();
  link->Drop(Error::Protocol());
  ASSERT_TRUE(RunUntilClosed());
  link->Drop(Error::Protocol());
  EXPECT_EQ(diary_.Text(), "dial1 down:refused closed:user");
  EXPECT_EQ(diary_.closed->error, Error::Cancelled());
}

TEST_P(LinkPolicyTest, DropWithoutAFailureIsAProtocolError) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Drop(Error{});
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Protocol());
}

TEST_P(LinkPolicyTest, LoginTimeoutEndsASessionThatIsNotMarkedHealthy) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.login_timeout = 50ms;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_TRUE(diary_.downs[0].error.IsTimeout());
  EXPECT_EQ(diary_.downs[0].error.code, 0);
  EXPECT_GE(diary_.downs[0].up_for, 50ms);
  EXPECT_LE(diary_.downs[0].up_for, 50ms + 50ms + Lateness(reactor()));
}

TEST_P(LinkPolicyTest, MarkHealthyMeetsTheLoginTimeout) {
  RawServer server;
  LinkOptions options = Doubling(server.endpoint());
  options.login_timeout = 50ms;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->MarkHealthy();
  const Instant up = reactor().Now();
  ASSERT_TRUE(RunUntil([&] { return reactor().Now() - up > 120ms + Lateness(reactor()); }));
  EXPECT_TRUE(diary_.downs.empty());
}

TEST_P(LinkPolicyTest, RetryNowFromOnDownDialsInTheNextTurn) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  options.attempts_max = 4;
  options.on_down = [&](Link& link, const Down& down) {
    diary_.downs.push_back(down);
    link.RetryNow();
    link.RetryNow();
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(Attempts(), (std::vector<std::uint32_t>{1, 2, 3, 4}));
  EXPECT_EQ(diary_.dials, 4);
}

TEST_P(LinkPolicyTest, StartTwiceDialsOnce) {
  RawServer server;
  std::unique_ptr<Link> link = Make(Options(server.endpoint()));
  link->Start();
  link->Start();
  Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  link->Start();
  RunFor(20ms);
  EXPECT_EQ(diary_.Text(), "dial1 up");
  EXPECT_FALSE(server.Accept().valid());
}

}  // namespace
}  // namespace holdfast::test
