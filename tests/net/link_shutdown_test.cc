// Every way to end a link, in every state: Close, the stop token, the destructor.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

class LinkShutdownTest : public LinkFixture {
 protected:
  // A link that has reached `state`, and what it needs for it.
  struct Scene {
    std::unique_ptr<RawServer> server;
    std::vector<Fd> fillers;
    Fd peer;
    std::unique_ptr<Link> link;
  };
  // A listener whose backlog is full: a connect to it is not answered.
  static std::unique_ptr<RawServer> MakeSilentServer(std::vector<Fd>& fillers) {
    auto server = std::make_unique<RawServer>(Family::kInet, 0, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(server->port());
    for (int i = 0; i < 3; ++i) {
      fillers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      static_cast<void>(
          !::connect(fillers.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    }
    return server;
  }
  Scene MakeIn(LinkState state, std::stop_token stop = {}) {
    Scene scene;
    const bool silent = state == LinkState::kConnecting;
    scene.server = silent ? MakeSilentServer(scene.fillers) : std::make_unique<RawServer>();
    LinkOptions options = Options(scene.server->endpoint());
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    options.stop = std::move(stop);
    scene.link = Make(std::move(options));
    if (state == LinkState::kIdle) return scene;
    scene.link->Start();
    if (state == LinkState::kResolving) return scene;
    if (state == LinkState::kConnecting) {
      EXPECT_TRUE(RunUntil([&] { return scene.link->state() == LinkState::kConnecting; }));
      return scene;
    }
    scene.peer = AcceptFrom(*scene.server);
    EXPECT_TRUE(RunUntil([&] { return scene.link->state() == LinkState::kUp; }));
    if (state == LinkState::kFailing) scene.link->Drop(Error::Protocol());
    if (state == LinkState::kBackoff) {
      scene.peer.Reset();
      EXPECT_TRUE(RunUntil([&] { return scene.link->state() == LinkState::kBackoff; }));
    }
    if (state == LinkState::kDraining) scene.link->Close(10s);
    if (state == LinkState::kClosed) {
      scene.link->Close(0ms);
      EXPECT_TRUE(RunUntil([&] { return scene.link->state() == LinkState::kClosed; }));
    }
    EXPECT_EQ(scene.link->state(), state);
    return scene;
  }
  // What the diary holds after the end, by the state in which it came.
  static std::string Expected(LinkState state, const std::string& reason) {
    switch (state) {
      case LinkState::kIdle:
        return "closed:" + reason;
      case LinkState::kResolving:  // A literal: the attempt begins with the next turn.
        return "closed:" + reason;
      case LinkState::kConnecting:
        return "dial1 closed:" + reason;  // An attempt that we cancel gets no on_down.
      case LinkState::kUp:
        return "dial1 up down:cancelled closed:" + reason;
      case LinkState::kFailing:
        return "dial1 up down:protocol closed:" + reason;
      case LinkState::kBackoff:
        return "dial1 up down:eof closed:" + reason;
      case LinkState::kDraining:
        return "dial1 up down:cancelled closed:user";
      case LinkState::kClosed:
        return "dial1 up down:cancelled closed:user";
    }
    return "";
  }
  static constexpr LinkState kStates[] = {
      LinkState::kIdle,    LinkState::kResolving, LinkState::kConnecting, LinkState::kUp,
      LinkState::kFailing, LinkState::kBackoff,   LinkState::kDraining,   LinkState::kClosed};
  // Answers a FIN with a FIN.
  void LetThePeerEnd(Scene& scene) {
    ASSERT_TRUE(RunUntil([&] {
      char byte;
      if (scene.peer.valid() && ::recv(scene.peer.get(), &byte, 1, MSG_DONTWAIT) == 0) {
        scene.peer.Reset();
      }
      return diary_.closed.has_value();
    }));
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkShutdownTest);

TEST_P(LinkShutdownTest, CloseInEveryStateEndsInOneOnClosedWhichIsLast) {
  for (const LinkState state : kStates) {
    diary_ = {};
    Scene scene = MakeIn(state);
    scene.link->Close(10s);
    scene.link->Close(0ms);  // A second one does nothing.
    EXPECT_EQ(scene.link->state(),
              state == LinkState::kClosed ? LinkState::kClosed : LinkState::kDraining);
    LetThePeerEnd(scene);
    RunFor(5ms);
    EXPECT_EQ(diary_.Text(), Expected(state, "user")) << ToString(state);
    EXPECT_EQ(scene.link->state(), LinkState::kClosed);
    EXPECT_EQ(reactor().stats().open_sockets, 0u);
    // Nothing brings it back.
    scene.link->Start();
    scene.link->RetryNow();
    scene.link->MarkHealthy();
    RunFor(5ms);
    EXPECT_EQ(diary_.Text(), Expected(state, "user")) << ToString(state);
  }
}

TEST_P(LinkShutdownTest, TheReactorsShutdownInEveryStateIsACloseThatIsTold) {
  for (const LinkState state : kStates) {
    diary_ = {};
    Scene scene = MakeIn(state);
    std::string at_the_end;
    reactor().Shutdown(10s, [&] { at_the_end = diary_.Text() + " done"; });
    LetThePeerEnd(scene);
    ASSERT_TRUE(RunUntil([&] { return !at_the_end.empty(); })) << ToString(state);
    EXPECT_EQ(at_the_end, Expected(state, "user") + " done") << ToString(state);
  }
}

TEST_P(LinkShutdownTest, CloseWithoutTimeEndsAtOnceInEveryState) {
  for (const LinkState state : kStates) {
    diary_ = {};
    Scene scene = MakeIn(state);
    scene.link->Close(0ms);
    if (state == LinkState::kDraining) {
      LetThePeerEnd(scene);  // The first Close had given it time.
    } else {
      ASSERT_TRUE(RunUntilClosed()) << ToString(state);
    }
    EXPECT_EQ(diary_.Text(), Expected(state, "user")) << ToString(state);
  }
}

TEST_P(LinkShutdownTest, AStopTokenFromAnotherThreadClosesInEveryState) {
  for (const LinkState state : kStates) {
    diary_ = {};
    std::stop_source source;
    Scene scene = MakeIn(state, source.get_token());
    std::jthread([&] { source.request_stop(); }).join();
    LetThePeerEnd(scene);
    RunFor(5ms);
    EXPECT_EQ(diary_.Text(), Expected(state, "stop")) << ToString(state);
  }
}

TEST_P(LinkShutdownTest, AStopTokenThatWasTriggeredBeforeCreateClosesAtOnce) {
  std::stop_source source;
  source.request_stop();
  LinkOptions options = Options("127.0.0.1:1");
  options.stop = source.get_token();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kStop);
  EXPECT_EQ(diary_.ups, 0);
}

TEST_P(LinkShutdownTest, AStopTokenMayBeTriggeredAfterTheLinkIsGone) {
  std::stop_source source;
  { Scene scene = MakeIn(LinkState::kUp, source.get_token()); }
  source.request_stop();
  RunFor(5ms);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(LinkShutdownTest, AStopTokenMayBeTriggeredAfterTheReactorIsGone) {
  std::stop_source source;
  { Scene scene = MakeIn(LinkState::kUp, source.get_token()); }
  reactor_.reset();
  source.request_stop();
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(LinkShutdownTest, AStopThatIsNeverDeliveredKeepsNothingAlive) {
  std::stop_source source;
  LinkOptions options;
  options.endpoints = {"127.0.0.1:1"};
  options.stop = source.get_token();
  auto shared = std::make_shared<const LinkOptions>(std::move(options));
  const std::weak_ptr<const LinkOptions> kept = shared;
  auto link = Link::Create(reactor(), std::move(shared));
  ASSERT_TRUE(link.ok()) << link.status();
  source.request_stop();
  link->reset();
  reactor_.reset();
  EXPECT_TRUE(kept.expired());
}

TEST_P(LinkShutdownTest, AStopTokenMayBeTriggeredInACallbackOfTheLink) {
  RawServer server;
  std::stop_source source;
  LinkOptions options = Options(server.endpoint());
  options.stop = source.get_token();
  options.drain = 0ms;
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    source.request_stop();
    EXPECT_EQ(link.state(), LinkState::kUp);  // Never inside the call.
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kStop);
  EXPECT_EQ(diary_.ups, 1);
}

TEST_P(LinkShutdownTest, OneStopTokenEndsManyLinks) {
  RawServer server;
  std::stop_source source;
  int closed = 0;
  LinkOptions options;
  options.endpoints = {server.endpoint()};
  options.stop = source.get_token();
  options.drain = 0ms;
  options.on_closed = [&](Link&, const Closed& end) {
    EXPECT_EQ(end.reason, ClosedReason::kStop);
    ++closed;
  };
  auto shared = std::make_shared<const LinkOptions>(std::move(options));
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 100; ++i) {
    auto link = Link::Create(reactor(), shared);
    ASSERT_TRUE(link.ok());
    links.push_back(*std::move(link));
    links.back()->Start();
  }
  ASSERT_TRUE(RunUntil([&] {
    return std::all_of(links.begin(), links.end(),
                       [](const auto& link) { return link->state() == LinkState::kUp; });
  }));
  std::jthread([&] { source.request_stop(); }).join();
  ASSERT_TRUE(RunUntil([&] { return closed == 100; }));
}

// A stop and the destructor at the same time. What may go wrong is for ThreadSanitizer to see.
TEST_P(LinkShutdownTest, AStopTokenAndTheDestructorMayRace) {
  RawServer server(Family::kInet, 0, /*backlog=*/1024);  // Nobody accepts.
  for (int round = 0; round < 200; ++round) {
    std::stop_source source;
    LinkOptions options;
    options.endpoints = {server.endpoint()};
    options.stop = source.get_token();
    std::unique_ptr<Link> link = MakeStarted(std::move(options));
    if (round % 2 == 0) {
      ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kUp; }));
    }
    std::atomic<int> ready{0};
    std::jthread stopper([&] {
      ++ready;
      while (ready < 2) std::this_thread::yield();
      source.request_stop();
    });
    while (ready < 1) std::this_thread::yield();
    ++ready;
    if (round % 3 == 0) {
      ASSERT_TRUE(reactor().Poll().ok());
    }
    link.reset();
    ASSERT_TRUE(reactor().Poll().ok());
    while (server.Accept().valid()) {
    }
  }
  ASSERT_TRUE(RunUntil([&] { return reactor().stats().open_sockets == 0; }));
}

TEST_P(LinkShutdownTest, TheDestructorIsSilentInEveryState) {
  for (const LinkState state : kStates) {
    diary_ = {};
    Scene scene = MakeIn(state);
    const std::string before = diary_.Text();
    scene.link.reset();
    RunFor(5ms);
    EXPECT_EQ(diary_.Text(), before) << ToString(state);
    EXPECT_EQ(reactor().stats().open_sockets, 0u) << ToString(state);
    EXPECT_EQ(reactor().stats().links, 0u);
  }
}

TEST_P(LinkShutdownTest, TheReactorMayGoRightAfterALinkThatIsInAnyState) {
  for (const LinkState state : kStates) {
    Scene scene = MakeIn(state);
    scene.link.reset();
    MakeReactor({});
  }
}

TEST_P(LinkShutdownTest, CloseInEveryCallbackEndsIt) {
  RawServer server;
  enum class Where { kDial, kUp, kData, kDown, kState, kLast };
  for (int where = 0; where < static_cast<int>(Where::kLast); ++where) {
    diary_ = {};
    LinkOptions options = Options(server.endpoint());
    const auto close_in = [where](Link& link, Where here) {
      if (where == static_cast<int>(here)) link.Close(0ms);
    };
    options.on_dial = [&](Link& link, std::uint32_t, std::string_view) {
      close_in(link, Where::kDial);
    };
    options.on_up = [&](Link& link) {
      diary_.lines.push_back("up");
      close_in(link, Where::kUp);
    };
    options.on_data = [&](Link& link, std::span<const std::byte>) { close_in(link, Where::kData); };
    options.on_down = [&](Link& link, const Down& down) {
      diary_.lines.push_back("down");
      diary_.downs.push_back(down);
      close_in(link, Where::kDown);
    };
    options.on_state = [&](Link& link, LinkState) { close_in(link, Where::kState); };
    std::unique_ptr<Link> link = MakeStarted(std::move(options));
    ASSERT_TRUE(RunUntil([&] {
      if (Fd peer = server.Accept(); peer.valid()) {
        EXPECT_EQ(::send(peer.get(), "x", 1, 0), 1);
      }
      return diary_.closed.has_value();
    })) << where;
    EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
    const auto ups = std::count(diary_.lines.begin(), diary_.lines.end(), "up");
    EXPECT_EQ(static_cast<std::size_t>(ups), diary_.downs.size()) << where;
    EXPECT_EQ(diary_.lines.back(), "closed:user");
    while (server.Accept().valid()) {
    }
  }
}

TEST_P(LinkShutdownTest, CloseInDecideIsTheLastWord) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  Link* raw = nullptr;
  options.decide = [&](const Down&) {
    raw->Close();
    return Verdict::kRetryNow;
  };
  std::unique_ptr<Link> link = Make(std::move(options));
  raw = link.get();
  link->Start();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
  EXPECT_EQ(diary_.dials, 1);
}

// --- Close knows.

TEST_P(LinkShutdownTest, CloseDeliversEverythingToASlowReaderThatStillSends) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  std::size_t heard = 0;
  options.on_data = [&](Link&, std::span<const std::byte> bytes) { heard += bytes.size(); };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::string sent;
  for (std::uint64_t i = 0; i < 128; ++i) {
    const std::string message(64 << 10, static_cast<char>('a' + i % 26));
    ASSERT_EQ(link->Send(message).status, SendStatus::kQueued);
    sent += message;
  }
  link->Close(30s);
  std::string got;
  std::size_t said = 0;
  bool end = false;
  ASSERT_TRUE(RunUntil(
      [&] {
        char part[20'000];
        for (int i = 0; i < 4 && !end; ++i) {
          const ssize_t size = ::recv(peer.get(), part, sizeof(part), 0);
          if (size > 0) got.append(part, static_cast<std::size_t>(size));
          end = size == 0;
          if (end) break;
          const ssize_t chat = ::send(peer.get(), part, 1000, MSG_DONTWAIT | MSG_NOSIGNAL);
          if (chat > 0) said += static_cast<std::size_t>(chat);
        }
        return end;
      },
      30s));
  // Our side is shut, the peer's is not: what it still says is heard.
  EXPECT_FALSE(diary_.closed.has_value());
  ASSERT_EQ(::send(peer.get(), "bye", 3, MSG_NOSIGNAL), 3);
  said += 3;
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_TRUE(got == sent) << got.size() << " of " << sent.size();
  EXPECT_EQ(heard, said);
  EXPECT_EQ(diary_.closed->acked, 128u);
  EXPECT_EQ(diary_.closed->total(), 128u);
  EXPECT_EQ(diary_.closed->error, Error::Cancelled());
  EXPECT_EQ(diary_.Text(), "dial1 up down:cancelled closed:user");
}

class LinkGracefulCloseTest : public LinkShutdownTest {
 protected:
  // The peer reads everything and only then ends: neither side may see a reset.
  void ExpectGraceful(Family family) {
    for (int round = 0; round < 20; ++round) {
      diary_ = {};
      RawServer server(family);
      Fd peer;
      std::unique_ptr<Link> link = MakeUp(server, peer);
      const auto size = static_cast<std::size_t>(1 + round * 30'000);
      ASSERT_EQ(link->Send(std::string(size, 'x')).status, SendStatus::kQueued);
      link->Close();
      std::size_t got = 0;
      ssize_t last = 0;
      ASSERT_TRUE(RunUntil([&] {
        char part[65536];
        while ((last = ::recv(peer.get(), part, sizeof(part), 0)) > 0) {
          got += static_cast<std::size_t>(last);
        }
        return last == 0 || (last < 0 && errno != EAGAIN);
      }));
      EXPECT_EQ(last, 0);  // An end of file, no reset.
      EXPECT_EQ(got, size);
      peer.Reset();
      ASSERT_TRUE(RunUntilClosed());
      EXPECT_EQ(diary_.Text(), "dial1 up down:cancelled closed:user");
      EXPECT_EQ(diary_.closed->acked, 1u);
      EXPECT_EQ(diary_.closed->total(), 1u);
      EXPECT_EQ(diary_.closed->error, Error::Cancelled());
    }
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkGracefulCloseTest);

TEST_P(LinkGracefulCloseTest, AGracefulCloseIsNotAReset) { ExpectGraceful(Family::kInet); }
TEST_P(LinkGracefulCloseTest, AGracefulCloseIsNotAResetOnUnixSockets) {
  ExpectGraceful(Family::kUnix);
}

TEST_P(LinkShutdownTest, ADrainThatTakesTooLongSaysWhatThePeerHas) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  MakeSmall(options);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const std::uint64_t accepted = FillUp(*link);
  const Instant begin = std::chrono::steady_clock::now();
  link->Close(100ms);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_GE(reactor().Now() - begin, 100ms);
  EXPECT_LE(reactor().Now() - begin, 100ms + 50ms + Lateness(reactor()));
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
  EXPECT_EQ(diary_.closed->total(), accepted);
  EXPECT_GT(diary_.closed->unsent, 0u);
  ASSERT_EQ(diary_.downs.size(), 1u);
  EXPECT_EQ(diary_.downs[0].acked, diary_.closed->acked);
  EXPECT_EQ(diary_.downs[0].unsent, diary_.closed->unsent);
  EXPECT_EQ(diary_.downs[0].error,
            Error::Cancelled());  // We ended it; the account says how far it got.
  // And nothing of it arrives later.
  std::string got;
  ASSERT_TRUE(RunUntil([&] {
    got += ReadAvailable(peer);
    char byte;
    const ssize_t size = ::recv(peer.get(), &byte, 1, MSG_PEEK);
    return size == 0 || (size < 0 && errno != EAGAIN);
  }));
  EXPECT_GE(got.size() / 1000, diary_.closed->acked);
  EXPECT_LE((got.size() + 999) / 1000, diary_.closed->acked + diary_.closed->in_doubt);
}

TEST_P(LinkShutdownTest, APeerThatNeverEndsItsSideHoldsACloseUntilTheDeadlineOnly) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  link->Close(100ms);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->acked, 1u);  // It has everything, and that is known.
  EXPECT_EQ(diary_.closed->total(), 1u);
}

TEST_P(LinkShutdownTest, APeerThatResetsADrainingLinkIsReported) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  MakeSmall(options);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const std::uint64_t accepted = FillUp(*link);
  link->Close(10s);
  RunFor(5ms);
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
  EXPECT_EQ(diary_.closed->error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.closed->total(), accepted);
  EXPECT_GT(diary_.closed->unsent, 0u);
}

TEST_P(LinkShutdownTest, APeerThatEndedAtTheSameTimeIsNoReset) {
  RawServer server;
  for (int round = 0; round < 50; ++round) {
    diary_ = {};
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer);
    link->Send("hello");
    EXPECT_EQ(ReadFrom(peer, 5), "hello");
    ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
    link->Close();
    ASSERT_TRUE(RunUntil([&] {
      char byte;
      if (peer.valid() && ::recv(peer.get(), &byte, 1, 0) == 0) peer.Reset();
      return diary_.closed.has_value();
    }));
    EXPECT_EQ(diary_.closed->acked, 1u);
    EXPECT_NE(diary_.closed->error.error_class, ErrorClass::kReset);
    EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
  }
}

TEST_P(LinkShutdownTest, AnEmptyLinkClosesAsSoonAsThePeerEnds) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Close();
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->total(), 0u);
  EXPECT_EQ(diary_.closed->error, Error::Cancelled());
}

// --- Gauges and the flight recorder.

TEST_P(LinkShutdownTest, OnStateTellsAChainThatIsAheadOfEveryCallback) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  std::vector<LinkState> told = {LinkState::kIdle};
  options.on_state = [&](Link& link, LinkState from) {
    EXPECT_EQ(from, told.back());
    EXPECT_NE(from, link.state());
    told.push_back(link.state());
  };
  options.on_up = [&](Link&) {
    ++diary_.ups;
    EXPECT_EQ(told.back(), LinkState::kUp);
  };
  options.on_down = [&](Link&, const Down& down) {
    diary_.downs.push_back(down);
    EXPECT_EQ(told.back(), down.retry_in ? LinkState::kBackoff : LinkState::kClosed);
  };
  options.on_closed = [&](Link&, const Closed& closed) {
    diary_.closed = closed;
    EXPECT_EQ(told.back(), LinkState::kClosed);
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  link->Close();
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  for (const LinkState state : {LinkState::kUp, LinkState::kBackoff, LinkState::kConnecting,
                                LinkState::kDraining, LinkState::kClosed}) {
    EXPECT_NE(std::find(told.begin(), told.end(), state), told.end()) << ToString(state);
  }
  EXPECT_EQ(told.back(), LinkState::kClosed);
}

TEST_P(LinkShutdownTest, HistoryTellsEveryTransitionOfThisLinkAndWhy) {
  RawServer server;
  ClosedPort port;
  std::unique_ptr<Link> other = MakeStarted(Options(port.endpoint()));
  ASSERT_TRUE(RunUntilDowns(1));
  diary_ = {};
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  link->Close();
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kClosed; }));

  const std::vector<Transition> history = link->history();
  std::vector<LinkState> states = {LinkState::kIdle};
  Instant before{};
  for (const Transition& line : history) {
    EXPECT_EQ(line.link, link->id());
    EXPECT_EQ(line.from, states.back());
    EXPECT_GE(line.time, before);
    before = line.time;
    states.push_back(line.to);
  }
  EXPECT_EQ(states,
            (std::vector<LinkState>{LinkState::kIdle, LinkState::kResolving, LinkState::kConnecting,
                                    LinkState::kUp, LinkState::kFailing, LinkState::kBackoff,
                                    LinkState::kResolving, LinkState::kConnecting, LinkState::kUp,
                                    LinkState::kDraining, LinkState::kClosed}));
  // The way to kBackoff says why.
  ASSERT_GE(history.size(), 5u);
  EXPECT_EQ(history[4].error.error_class, ErrorClass::kReset);
  EXPECT_FALSE(history[2].error.failed());
  EXPECT_GT(reactor().history().size(), history.size());  // The other link's lines are there too.
}

}  // namespace
}  // namespace holdfast::test
