// Reactor::Shutdown: everything that is open ends in good order, within its time, and then it is told.
#include <memory>
#include <string>
#include <vector>

#include "net/link_fixture.h"
#include "net/stream_fixture.h"

namespace holdfast::test {
namespace {

class ReactorShutdownTest : public LinkFixture {
 protected:
  void TearDown() override {
    streams_.clear();
    LinkFixture::TearDown();
  }
  // A listener of the reactor whose streams are started, and kept.
  [[nodiscard]] std::unique_ptr<Listener> MakeListener(const std::shared_ptr<StreamOptions>& with) {
    ListenerOptions options;
    options.endpoint = "127.0.0.1:0";
    options.on_accept = [this, with](Listener&, std::unique_ptr<Stream> stream) {
      stream->Start(with);
      streams_.push_back(std::move(stream));
    };
    options.on_closed = [this](Listener&) { Write("listener"); };
    auto made = Listener::Create(reactor(), std::move(options));
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  [[nodiscard]] std::shared_ptr<StreamOptions> WritingOptions() {
    auto options = std::make_shared<StreamOptions>();
    options->on_closed = [this](Stream&, const StreamClosed&) { Write("stream"); };
    return options;
  }
  void Write(const std::string& line) {
    EXPECT_FALSE(inside_call_) << line << " inside the call that caused it";
    lines_.push_back(line);
  }
  void Shutdown(Duration drain) {
    inside_call_ = true;
    reactor().Shutdown(drain, [this] { Write("done"); });
    inside_call_ = false;
  }
  [[nodiscard]] bool RunUntilDone(Duration at_most = 10s) {
    return RunUntil([&] { return !lines_.empty() && lines_.back() == "done"; }, at_most);
  }

  bool inside_call_ = false;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<std::string> lines_;
};
HOLDFAST_FOR_BOTH_BACKENDS(ReactorShutdownTest);

using Lines = std::vector<std::string>;

TEST_P(ReactorShutdownTest, WithNothingOpenItIsDoneInTheNextTurn) {
  Shutdown(1h);
  EXPECT_EQ(lines_, Lines{});
  EXPECT_TRUE(reactor().Poll().ok());
  EXPECT_EQ(lines_, Lines{"done"});
  reactor().Shutdown(1h);  // Nobody need be told.
  EXPECT_TRUE(reactor().Poll().ok());
}

// Both ends are this reactor's: what each has sent arrives, though all close at once.
TEST_P(ReactorShutdownTest, EverythingEndsInGoodOrderAndThenItIsTold) {
  std::string received;
  auto with = WritingOptions();
  with->on_data = [&](Stream&, std::span<const std::byte> bytes) { received += AsText(bytes); };
  std::unique_ptr<Listener> listener = MakeListener(with);
  LinkOptions options = Options(listener->local().ToString());
  std::uint64_t acked = 0;
  options.on_closed = [&](Link&, const Closed& closed) {
    Write("link");
    acked += closed.acked;
  };
  const auto shared = std::make_shared<const LinkOptions>(std::move(options));
  std::unique_ptr<Link> link = *Link::Create(reactor(), shared);
  const std::unique_ptr<Link> idle = *Link::Create(reactor(), shared);
  link->Start();
  ASSERT_TRUE(RunUntil([&] { return streams_.size() == 1; }));
  const std::string message(300'000, 'm');
  ASSERT_EQ(link->Send(message).status, SendStatus::kQueued);
  ASSERT_EQ(streams_[0]->Send(message), SendStatus::kQueued);
  Shutdown(10s);
  EXPECT_EQ(link->Send("late").status, SendStatus::kClosing);
  EXPECT_EQ(streams_[0]->Send("late"), SendStatus::kClosing);
  ASSERT_TRUE(RunUntilDone());
  EXPECT_EQ(received, message);
  EXPECT_EQ(link->stats().bytes_received, message.size());
  EXPECT_EQ(acked, 1u);
  std::sort(lines_.begin(), lines_.end());
  EXPECT_EQ(lines_, (Lines{"done", "link", "link", "listener", "stream"}));
}

TEST_P(ReactorShutdownTest, AStreamThatNobodyStartedIsClosedWithTheRest) {
  auto made = Listener::Create(
      reactor(), {.endpoint = "127.0.0.1:0", .on_accept = [&](Listener&, auto stream) {
                    streams_.push_back(std::move(stream));
                  }});
  ASSERT_TRUE(made.ok());
  const Fd peer = ConnectTo((*made)->local());
  ASSERT_TRUE(RunUntil([&] { return streams_.size() == 1; }));
  Shutdown(1h);
  EXPECT_EQ(Look(peer), Sight::kEnd);
  ASSERT_TRUE(RunUntilDone());
}

TEST_P(ReactorShutdownTest, APeerThatDoesNotEndCostsTheDrainAndNoMore) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const Instant begin = reactor().Now();
  Shutdown(50ms);
  ASSERT_TRUE(RunUntilDone());
  EXPECT_GE(reactor().Now() - begin, 50ms);
  EXPECT_EQ(link->state(), LinkState::kClosed);
}

// A link and a stream that wait for an hour already.
TEST_P(ReactorShutdownTest, WhatIsBeingClosedHasNoMoreTimeThanTheRest) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  std::unique_ptr<Listener> listener = MakeListener(WritingOptions());
  const Fd other = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return streams_.size() == 1; }));
  link->Close(1h);
  streams_[0]->Close(1h);
  Shutdown(2h);  // Not longer either.
  EXPECT_TRUE(reactor().RunFor(20ms).ok());
  EXPECT_EQ(lines_, Lines{"listener"});
  Shutdown(10ms);
  ASSERT_TRUE(RunUntilDone());
  EXPECT_EQ(lines_, (Lines{"listener", "stream", "done", "done"}));
  EXPECT_EQ(link->state(), LinkState::kClosed);
}

TEST_P(ReactorShutdownTest, WhatIsDroppedEndsAtOnceAllTheSame) {
  std::unique_ptr<Listener> listener = MakeListener(WritingOptions());
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return streams_.size() == 1; }));
  streams_[0]->Drop(Error::Protocol());
  Shutdown(1h);
  ASSERT_TRUE(RunUntilDone());
  std::sort(lines_.begin(), lines_.end() - 1);
  EXPECT_EQ(lines_, (Lines{"listener", "stream", "done"}));
}

TEST_P(ReactorShutdownTest, HandlesMayEndInsteadOfClosing) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  std::unique_ptr<Listener> listener = MakeListener(WritingOptions());
  const Fd other = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return streams_.size() == 1; }));
  Shutdown(1h);
  link.reset();
  streams_.clear();
  EXPECT_EQ(lines_, Lines{});
  listener.reset();
  ASSERT_TRUE(RunUntilDone());
  EXPECT_EQ(lines_, Lines{"done"});
}

TEST_P(ReactorShutdownTest, WhatIsMadeMeanwhileStaysOpen) {
  RawServer server;
  std::unique_ptr<Link> next;
  LinkOptions options = Options(server.endpoint());
  options.on_closed = [&](Link&, const Closed&) {
    next = MakeStarted(Options(server.endpoint()));
    Write("link");
  };
  std::unique_ptr<Link> link = Make(std::move(options));
  Shutdown(1h);
  ASSERT_TRUE(RunUntilDone());
  EXPECT_EQ(lines_, (Lines{"link", "done"}));
  const Fd peer = AcceptFrom(server);
  EXPECT_TRUE(RunUntil([&] { return next->state() == LinkState::kUp; }));
}

TEST_P(ReactorShutdownTest, ShutdownFromACallbackWithAStopIsTheWholeEnd) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server.endpoint());
  options.on_up = [&](Link&) {
    reactor().Shutdown(5s, [&] {
      Write("done");
      reactor().Stop();
    });
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  peer = AcceptFrom(server);
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  EXPECT_TRUE(reactor().Run().ok());
  EXPECT_EQ(lines_, Lines{"done"});
  EXPECT_EQ(link->state(), LinkState::kClosed);
}

// What `done` holds goes with the reactor.
TEST_P(ReactorShutdownTest, AReactorThatEndsFirstTellsNobody) {
  const auto held = std::make_shared<int>(0);
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  reactor().Shutdown(1h, [this, held] { Write("done"); });
  link.reset();
  EXPECT_EQ(held.use_count(), 2);
  reactor_.reset();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(lines_, Lines{});
}

}  // namespace
}  // namespace holdfast::test
