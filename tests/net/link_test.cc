// A link over real sockets, both backends: the grammar, the reasons, the account.
#include <holdfast/link.h>

#include <algorithm>
#include <thread>

#include "net/net_fixture.h"

namespace holdfast::test {
namespace {

class LinkTest : public NetTest {
 protected:
  LinkOptions Options(const std::string& endpoint) {
    LinkOptions options;
    options.endpoints = {endpoint};
    options.backoff = {.initial = 5ms, .multiplier = 1.5, .max = 50ms};
    diary_.Attach(options);
    return options;
  }
  std::unique_ptr<Link> Make(LinkOptions options) {
    absl::StatusOr<std::unique_ptr<Link>> link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? *std::move(link) : nullptr;
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer) {
    return MakeUp(server, peer, Options(server.endpoint()));
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer, LinkOptions options) {
    std::unique_ptr<Link> link = Make(std::move(options));
    link->Start();
    peer = AcceptFrom(server);
    EXPECT_TRUE(RunUntil([&] { return link->state() == LinkState::kUp; }));
    return link;
  }

  Diary diary_;
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkTest);

TEST_P(LinkTest, ConnectsSendsReceivesAndClosesInOrder) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  ASSERT_EQ(::send(peer.get(), "world", 5, 0), 5);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "world"; }));
  link->Close();
  EXPECT_EQ(link->state(), LinkState::kDraining);
  EXPECT_EQ(link->Send("late").status, SendStatus::kClosing);
  ASSERT_TRUE(RunUntil([&] { return ::recv(peer.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC) == 0; }));
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.Text(), "dial1 up down:cancelled closed:user");
  EXPECT_EQ(diary_.downs[0].acked, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
  EXPECT_EQ(diary_.closed->acked, 1u);
  EXPECT_EQ(link->state(), LinkState::kClosed);
}

TEST_P(LinkTest, RefusedIsReportedEveryTimeUntilTheServerIsThere) {
  ClosedPort port;
  std::unique_ptr<Link> link = Make(Options(port.endpoint()));
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return diary_.downs.size() >= 3; }));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(diary_.downs[i].error.error_class, ErrorClass::kRefused);
    EXPECT_EQ(diary_.downs[i].error.operation, Operation::kConnect);
    EXPECT_EQ(diary_.downs[i].error.CodeName(), "ECONNREFUSED");
    EXPECT_EQ(diary_.downs[i].attempt, i + 1);
    EXPECT_EQ(diary_.downs[i].peer.ToString(), port.endpoint());
    ASSERT_TRUE(diary_.downs[i].retry_in.has_value());
    EXPECT_FALSE(diary_.downs[i].was_up);
  }
  EXPECT_EQ(diary_.Text().substr(0, 42), "dial1 down:refused dial2 down:refused dial");
}

TEST_P(LinkTest, AnEndOfFileIsNotAReset) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty(); }));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  EXPECT_TRUE(diary_.downs[0].was_up);
}

TEST_P(LinkTest, AnEndOfFileIsNotAResetOnUnixSockets) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty(); }));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
}

TEST_P(LinkTest, AResetInMidStreamIsAReset) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send(std::string(100'000, 'x')).status, SendStatus::kQueued);
  static_cast<void>(ReadFrom(peer, 1000));
  ResetPeer(peer);
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty(); }));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
}

TEST_P(LinkTest, ComesBackWhenTheServerIsRestartedOnItsPort) {
  const ClosedPort port;
  auto server = std::make_unique<RawServer>(Family::kInet, port.port());
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(*server, peer);
  server.reset();
  ResetPeer(peer);
  ASSERT_TRUE(RunUntil([&] { return diary_.downs.size() >= 2; }));
  RawServer again(Family::kInet, port.port());
  peer = AcceptFrom(again);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  EXPECT_EQ(link->Send("again").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "again");
}

TEST_P(LinkTest, ASilentPeerIsDownWithinSilenceMax) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.ping = "PING";
  Instant up{};
  Instant down{};
  options.on_up = [&](Link&) { up = reactor().Now(); };
  options.on_down = [&](Link&, const Down& d) {
    down = reactor().Now();
    diary_.downs.push_back(d);
  };
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty(); }));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kHeartbeat));
  EXPECT_GE(down - up, 200ms);
  EXPECT_LE(down - up, 250ms + reactor().stats().timer_lateness_max + reactor().stats().turn_max);
  EXPECT_EQ(ReadAvailable(peer), "PING");
  EXPECT_EQ(diary_.downs[0].total(), 0u);
}

TEST_P(LinkTest, APeerThatTalksIsNeverDown) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 150ms;
  options.ping = "PING";
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::string pings;
  ASSERT_TRUE(RunUntil([&] {
    const std::string got = ReadAvailable(peer);
    pings += got;
    for (std::size_t i = 0; i < got.size() / 4; ++i) {
      EXPECT_EQ(::send(peer.get(), "PONG", 4, 0), 4);
    }
    return pings.size() >= 4 * 6;
  }));
  EXPECT_TRUE(diary_.downs.empty());
  EXPECT_EQ(link->stats().pings, pings.size() / 4);
}

TEST_P(LinkTest, AStopTokenClosesFromAnotherThread) {
  RawServer server;
  Fd peer;
  std::stop_source source;
  LinkOptions options = Options(server.endpoint());
  options.stop = source.get_token();
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::jthread([&] { source.request_stop(); }).join();
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kStop);
}

TEST_P(LinkTest, CloseBeforeStartEndsIt) {
  std::unique_ptr<Link> link = Make(Options("127.0.0.1:1"));
  link->Close();
  link->Close();
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.Text(), "closed:user");
}

TEST_P(LinkTest, CloseWhileWaitingCutsTheWait) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kBackoff; }));
  link->Close();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.Text(), "dial1 down:refused closed:user");
}

TEST_P(LinkTest, RetryNowCutsTheWaitAndDialsOnce) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kBackoff; }));
  link->RetryNow();
  link->RetryNow();
  EXPECT_EQ(link->state(), LinkState::kResolving);
  ASSERT_TRUE(RunUntil([&] { return diary_.downs.size() == 2; }));
  EXPECT_EQ(diary_.dials, 2);
}

TEST_P(LinkTest, AttemptsMaxEndsIt) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.attempts_max = 3;
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.Text(),
            "dial1 down:refused dial2 down:refused dial3 down:refused closed:attempts");
  EXPECT_FALSE(diary_.downs[2].retry_in.has_value());
}

}  // namespace
}  // namespace holdfast::test
