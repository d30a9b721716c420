// A link whose user reads no more for a while: no byte is lost, moved or told meanwhile, the peer is
// held back, and nobody is called dead for our own pause.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <random>

#include "net/link_fixture.h"
#include "net/stream_fixture.h"
#include "support/seed.h"

namespace holdfast::test {
namespace {

class LinkPauseTest : public LinkFixture {
 protected:
  // A spell in which nothing is expected.
  void RunQuietSpell() { RunFor(15ms); }
  static int OptionOf(int fd, int level, int name) {
    int value = 0;
    socklen_t size = sizeof(value);
    EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
    return value;
  }
  static std::size_t CountOf(int fd, unsigned long request) {
    int value = 0;
    EXPECT_EQ(::ioctl(fd, request, &value), 0);
    return static_cast<std::size_t>(value);
  }
  // Writes until several turns on end take nothing more; how much was taken.
  std::size_t Clog(const Fd& peer) {
    const std::string text(256 << 10, 'f');
    std::size_t sent = 0;
    std::size_t last = 1;
    for (int idle = 0; idle < 20; idle = sent == last ? idle + 1 : 0) {
      last = sent;
      sent += WriteAvailable(peer, text);
      RunFor(1ms);
      if (sent > 64u << 20) break;
    }
    return sent;
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkPauseTest);

// --- Bytes.

TEST_P(LinkPauseTest, NothingComesBetweenPauseAndResume) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    diary_ = {};
    RawServer server(family);
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer);
    link->PauseReceive();
    ASSERT_EQ(WriteAvailable(peer, "held back"), 9u);
    RunQuietSpell();
    EXPECT_EQ(diary_.data, "");
    link->ResumeReceive();
    EXPECT_EQ(diary_.data, "");  // Not inside the call.
    ASSERT_TRUE(RunUntil([&] { return diary_.data == "held back"; }));
    EXPECT_EQ(link->state(), LinkState::kUp);
  }
}

TEST_P(LinkPauseTest, APausedLinkStillSends) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->PauseReceive();
  EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
}

// Bytes that depend on nothing but their place.
char ByteAt(std::size_t place) { return static_cast<char>((place * 2'654'435'761u) >> 13); }

TEST_P(LinkPauseTest, RandomPausesOfAFastSenderLoseAndReorderNothing) {
  constexpr std::size_t kTotal = 2 << 20;
  std::mt19937_64 random(internal::PrintedSeed());
  RawServer server;
  bool paused = false;
  int pauses = 0;
  std::size_t received = 0;
  LinkOptions options = Options(server.endpoint());
  options.on_data = [&](Link& link, std::span<const std::byte> bytes) {
    ASSERT_FALSE(paused) << "on_data after PauseReceive, at byte " << received;
    for (const std::byte byte : bytes) {
      ASSERT_EQ(static_cast<char>(byte), ByteAt(received)) << received;
      ++received;
    }
    const auto choice = random() % 4;
    if (choice <= 2) link.PauseReceive();
    if (choice == 1 || choice == 2) link.ResumeReceive();  // Taken back at once,
    if (choice == 2) link.PauseReceive();                  // and once more.
    paused = choice == 0 || choice == 2;
    pauses += paused ? 1 : 0;
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::string text(kTotal, '\0');
  for (std::size_t i = 0; i < kTotal; ++i) text[i] = ByteAt(i);
  std::size_t sent = 0;
  ASSERT_TRUE(RunUntil(
      [&] {
        sent += WriteAvailable(peer, std::string_view(text).substr(sent));
        for (auto turns = random() % 4; turns > 0; --turns) EXPECT_TRUE(reactor().Poll().ok());
        if (std::exchange(paused, false)) link->ResumeReceive();
        return received == kTotal || HasFailure();
      },
      30s))
      << received;
  EXPECT_GT(pauses, 0);
}

// A resume right behind the turn of the pause: io_uring has more completed than a socket's share of a turn,
// and tells the rest, and the end, before what is held.
TEST_P(LinkPauseTest, AResumeBeforeThePauseHasTakenEffectReordersNothing) {
  constexpr std::size_t kBufferSize = 64;
  constexpr std::size_t kTotal = 12 * kBufferSize;
  MakeReactor({.receive_buffers = 256, .receive_buffer_bytes = kBufferSize});
  for (const bool ends : {false, true}) {
    diary_ = {};
    RawServer server;
    bool paused = false;
    LinkOptions options = Options(server.endpoint());
    options.on_data = [&](Link& link, std::span<const std::byte> bytes) {
      EXPECT_FALSE(paused);
      paused = diary_.data.empty();
      if (paused) link.PauseReceive();
      diary_.data += AsText(bytes);
    };
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    std::string text(kTotal, '\0');
    for (std::size_t i = 0; i < kTotal; ++i) text[i] = ByteAt(i);
    ASSERT_EQ(WriteAvailable(peer, text), kTotal);
    if (ends) peer.Reset();
    while (!paused) ASSERT_TRUE(reactor().Poll().ok());
    paused = false;
    link->ResumeReceive();
    ASSERT_TRUE(RunUntil([&] { return diary_.data.size() == kTotal; })) << diary_.data.size();
    EXPECT_EQ(diary_.data, text);
    ASSERT_TRUE(!ends || RunUntilDowns(1));
  }
}

// What is held on our side was complete when the pause began, and there is no more of that than receive
// buffers. The rest waits in the kernels, within SO_RCVBUF and the peer's SO_SNDBUF.
TEST_P(LinkPauseTest, AFastPeerCannotGrowAPausedLink) {
  constexpr std::size_t kBuffers = 8;
  constexpr std::size_t kBufferSize = 4096;
  MakeReactor({.receive_buffers = kBuffers, .receive_buffer_bytes = kBufferSize});
  RawServer server;
  int fd = -1;
  LinkOptions options = Options(server.endpoint());
  options.socket.receive_buffer = 64 << 10;
  options.socket.on_socket = [&](int descriptor) { fd = descriptor; };
  options.on_data = [&](Link& link, std::span<const std::byte> bytes) {
    diary_.data += AsText(bytes);
    if (diary_.data.size() == bytes.size()) link.PauseReceive();  // In the middle of a burst.
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const std::size_t sent = Clog(peer);
  const std::size_t told = diary_.data.size();
  EXPECT_GT(told, 0u);
  EXPECT_LE(told, kBufferSize);
  const std::size_t held = link->stats().bytes_received - told;
  const std::size_t in_our_kernel = CountOf(fd, SIOCINQ);
  EXPECT_LE(held, kBuffers * kBufferSize);
  EXPECT_LE(in_our_kernel, static_cast<std::size_t>(OptionOf(fd, SOL_SOCKET, SO_RCVBUF)));
  EXPECT_EQ(told + held + in_our_kernel, sent - CountOf(peer.get(), SIOCOUTQ));
  // More turns and another try change nothing.
  EXPECT_EQ(Clog(peer), 0u);
  EXPECT_EQ(link->stats().bytes_received, told + held);
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.data.size() == sent; })) << diary_.data.size();
  link.reset();
  reactor_.reset();
}

// --- States.

TEST_P(LinkPauseTest, OutsideOfASessionTheyDoNothing) {
  RawServer server;
  std::unique_ptr<Link> link = Make(Options(server.endpoint()));
  link->PauseReceive();
  link->ResumeReceive();
  link->PauseReceive();
  link->Start();
  link->PauseReceive();
  Fd peer = AcceptFrom(server);
  ASSERT_EQ(WriteAvailable(peer, "welcome"), 7u);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "welcome"; }));
  link->Close(0ms);
  ASSERT_TRUE(RunUntilClosed());
  link->PauseReceive();
  link->ResumeReceive();
  EXPECT_EQ(link->state(), LinkState::kClosed);
}

TEST_P(LinkPauseTest, TheNextSessionBeginsUnpaused) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->PauseReceive();
  link->Drop(Error::Protocol());
  peer = AcceptFrom(server);
  ASSERT_EQ(WriteAvailable(peer, "again"), 5u);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "again"; }));
}

TEST_P(LinkPauseTest, APauseInOnUpHolds) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.on_up = [](Link& link) { link.PauseReceive(); };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_EQ(WriteAvailable(peer, "early"), 5u);
  RunQuietSpell();
  EXPECT_EQ(diary_.data, "");
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "early"; }));
}

// --- Ends.

TEST_P(LinkPauseTest, DestroyedWhilePausedItTellsNothing) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->PauseReceive();
  ASSERT_GT(Clog(peer), 0u);
  link.reset();
  Sight sight = Sight::kNothing;
  ASSERT_TRUE(RunUntil([&] { return (sight = Look(peer)) != Sight::kNothing; }));
  EXPECT_EQ(sight, Sight::kReset);  // Bytes were left unread.
  EXPECT_EQ(diary_.Text(), "dial1 up");
  EXPECT_EQ(diary_.data, "");
}

TEST_P(LinkPauseTest, CloseWhilePausedDeliversWhatWasSentAndTellsNoMoreBytes) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->PauseReceive();
  ASSERT_EQ(WriteAvailable(peer, "unwanted"), 8u);
  EXPECT_EQ(link->Send("last").status, SendStatus::kQueued);
  link->Close(5s);
  link->ResumeReceive();  // Of no effect any more.
  EXPECT_EQ(ReadFrom(peer, 4), "last");
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->acked, 1u);
  EXPECT_EQ(diary_.closed->error.error_class, ErrorClass::kCancelled);
  EXPECT_EQ(diary_.data, "");
}

TEST_P(LinkPauseTest, TheEndOfAPausedLinkWaitsBehindItsBytes) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->PauseReceive();
  ASSERT_EQ(WriteAvailable(peer, "last words"), 10u);
  peer.Reset();
  RunQuietSpell();
  EXPECT_EQ(diary_.Text(), "dial1 up");
  link->ResumeReceive();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
}

TEST_P(LinkPauseTest, AResetWithNothingToSendIsToldAtResumeBehindTheBytes) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 0ms;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  ASSERT_EQ(WriteAvailable(peer, "last words"), 10u);
  RunFor(2ms);
  ResetPeer(peer);
  RunQuietSpell();
  EXPECT_EQ(link->state(), LinkState::kUp);
  link->ResumeReceive();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
}

TEST_P(LinkPauseTest, AResetIsFoundByTheNextSend) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 0ms;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  RunFor(2ms);
  ResetPeer(peer);
  RunQuietSpell();
  ASSERT_EQ(link->Send("are you there?").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
}

// --- Life.

// Nothing is sent by on_heartbeat: TCP's own state is what tells.
TEST_P(LinkPauseTest, AResetIsFoundWithinSilenceMaxWhileNobodySends) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.on_heartbeat = [](Link&) {};
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_LE(diary_.downs[0].up_for, 200ms + Lateness(reactor()));
}

TEST_P(LinkPauseTest, NobodyIsDeadForOurPauseAndPingsGoOut) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.ping = "PING";
  Instant down_at{};
  options.on_down = [&](Link&, const Down& down) {
    diary_.downs.push_back(down);
    down_at = reactor().Now();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  const Instant paused_at = reactor().Now();
  // Five halves of silence_max, and not one of the answers is read.
  ASSERT_TRUE(RunUntil([&] {
    if (!ReadAvailable(peer).empty()) WriteAvailable(peer, "PONG");
    return link->stats().pings >= 5;
  }));
  EXPECT_TRUE(diary_.downs.empty());
  EXPECT_EQ(diary_.data, "");
  EXPECT_GE(reactor().Now() - paused_at, 4 * 100ms);
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return !diary_.data.empty(); }));
  const Instant life = reactor().Now();
  EXPECT_EQ(link->state(), LinkState::kUp);
  // Now the peer says no more, and is judged as ever.
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kHeartbeat));
  EXPECT_GE(down_at - life, 190ms);
}

TEST_P(LinkPauseTest, TheEndOfAPauseGrantsAFreshLease) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.ping = "PING";
  Instant down_at{};
  options.on_down = [&](Link&, const Down& down) {
    diary_.downs.push_back(down);
    down_at = reactor().Now();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  ASSERT_TRUE(RunUntil([&] { return link->stats().pings >= 3; }));
  EXPECT_TRUE(diary_.downs.empty());
  link->ResumeReceive();
  const Instant resumed_at = std::chrono::steady_clock::now();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kHeartbeat));
  EXPECT_GE(down_at - resumed_at, 199ms);
}

// A trickle acknowledges nothing new and keeps keepalive quiet: its bytes, unread, are the only sign.
TEST_P(LinkPauseTest, WithoutAPingAPeerThatTricklesIntoAPausedLinkLives) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 2s;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->PauseReceive();
  const Instant end = std::chrono::steady_clock::now() + 2500ms;
  std::size_t sent = 0;
  ASSERT_TRUE(RunUntil([&] {
    sent += WriteAvailable(peer, ".");
    return std::chrono::steady_clock::now() >= end;
  }));
  EXPECT_TRUE(diary_.downs.empty()) << diary_.Text();
  EXPECT_EQ(diary_.data, "");
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.data.size() == sent; }));
}

}  // namespace
}  // namespace holdfast::test
