// What became of the messages, after every kind of end: acked + in_doubt + unsent is what was accepted,
// acked is a lower bound of what the peer's kernel has, and what is unsent never arrived.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <string>
#include <vector>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

constexpr std::size_t kMessage = 1000;

class LinkAccountTest : public LinkFixture {
 protected:
  // A link over small buffers to a peer that does not read, with a full pipe.
  std::unique_ptr<Link> MakeFull(RawServer& server, Fd& peer, std::uint64_t* accepted) {
    MakeSmall(server);
    LinkOptions options = Options(server.endpoint());
    MakeSmall(options);
    options.socket.on_socket = [this](int fd) { link_fd_ = fd; };
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    *accepted = FillUp(*link);
    Settle(*link, peer);
    return link;
  }
  // Runs until the peer's kernel has acknowledged all that it took, which may take a delayed ACK.
  void Settle(const Link& link, const Fd& peer) {
    ASSERT_TRUE(RunUntil([&] {
      int unacked = 0;
      EXPECT_EQ(::ioctl(link_fd_, SIOCOUTQ, &unacked), 0);
      return unacked > 0 && link.stats().bytes_sent - static_cast<std::uint64_t>(unacked) ==
                                ReceivedByKernel(peer);
    }));
  }
  // What the peer's kernel has received, read or not (tcp(7), TCP_INFO).
  static std::uint64_t ReceivedByKernel(const Fd& peer) {
    struct
    {  // struct tcp_info of linux/tcp.h up to tcpi_bytes_received; netinet/tcp.h ends before it.
      tcp_info info;
      std::uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
    } info{};
    socklen_t size = sizeof(info);
    EXPECT_EQ(::getsockopt(peer.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return info.bytes_received;
  }
  // The laws that hold at every end. `received`: bytes that the peer's kernel had, at least.
  static void ExpectTrue(const Account& account, std::uint64_t accepted, std::uint64_t received) {
    EXPECT_EQ(account.total(), accepted);
    EXPECT_EQ(account.first_sequence, 1u);
    EXPECT_LE(account.acked, received / kMessage);
    EXPECT_GE(account.acked + account.in_doubt, (received + kMessage - 1) / kMessage);
    if (accepted == 0) return;
    EXPECT_EQ(account.FateOf(0), std::nullopt);
    EXPECT_EQ(account.FateOf(accepted + 1), std::nullopt);
    std::uint64_t fates[3] = {};
    for (std::uint64_t i = 1; i <= accepted; ++i) {
      ASSERT_TRUE(account.FateOf(i).has_value()) << i;
      ++fates[static_cast<int>(*account.FateOf(i))];
    }
    EXPECT_EQ(fates[static_cast<int>(Fate::kAcked)], account.acked);
    EXPECT_EQ(fates[static_cast<int>(Fate::kInDoubt)], account.in_doubt);
    EXPECT_EQ(fates[static_cast<int>(Fate::kUnsent)], account.unsent);
  }

  int link_fd_ = -1;
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkAccountTest);

TEST_P(LinkAccountTest, AResetWithAFullWindowLeavesAckedAndUnsent) {
  RawServer server;
  Fd peer;
  std::uint64_t accepted = 0;
  std::unique_ptr<Link> link = MakeFull(server, peer, &accepted);
  const std::uint64_t received = ReceivedByKernel(peer);
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  const Down& down = diary_.downs[0];
  EXPECT_EQ(down.error.error_class, ErrorClass::kReset);
  EXPECT_EQ(down.error.CodeName(), "ECONNRESET");
  ExpectTrue(down, accepted, received);
  // The peer's kernel acknowledged all that it took, and the window was shut.
  EXPECT_EQ(down.acked, received / kMessage);
  EXPECT_LE(down.in_doubt, 1u);
  EXPECT_GT(down.unsent, 0u);
  EXPECT_EQ(down.tcp.acked_bytes, received);
}

TEST_P(LinkAccountTest, APeerThatThrowsBytesAwayOnAUnixSocketIsNoEndInGoodOrder) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send("never read").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return link->queued_bytes() == 0; }));
  peer.Reset();
  // Its failure comes before anybody receives again, and must not take the reason away.
  EXPECT_EQ(link->Send("in vain").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ECONNRESET");
}

TEST_P(LinkAccountTest, APeerThatReadsSomeAndResetsHasWhatItsKernelAcknowledged) {
  RawServer server;
  Fd peer;
  std::uint64_t accepted = 0;
  std::unique_ptr<Link> link = MakeFull(server, peer, &accepted);
  const std::string got = ReadFrom(peer, 20'500);
  Settle(*link, peer);
  const std::uint64_t received = ReceivedByKernel(peer);
  EXPECT_GE(received, got.size());
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  ExpectTrue(diary_.downs[0], accepted, received);
  EXPECT_GE(diary_.downs[0].acked, got.size() / kMessage);
  EXPECT_GT(diary_.downs[0].unsent, 0u);
}

TEST_P(LinkAccountTest, APeerThatClosesWithDataUnreadResetsWhateverItWasSent) {
  RawServer server;
  Fd peer;
  std::uint64_t accepted = 0;
  std::unique_ptr<Link> link = MakeFull(server, peer, &accepted);
  const std::uint64_t received = ReceivedByKernel(peer);
  peer.Reset();  // tcp(7): unread data make it a RST.
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  ExpectTrue(diary_.downs[0], accepted, received);
}

TEST_P(LinkAccountTest, AnEndOfFileWithAFullWindowIsGivenUpExactly) {
  RawServer server;
  Fd peer;
  std::uint64_t accepted = 0;
  std::unique_ptr<Link> link = MakeFull(server, peer, &accepted);
  // The peer ends its side and goes on reading: the link is down, and nothing more may leave it.
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  std::string got;
  ASSERT_TRUE(RunUntil([&] {
    got += ReadAvailable(peer);
    char byte;
    const ssize_t size = ::recv(peer.get(), &byte, 1, MSG_PEEK);
    return size == 0 || (size < 0 && errno != EAGAIN);
  }));
  ExpectTrue(diary_.downs[0], accepted, got.size());
  EXPECT_GT(diary_.downs[0].unsent, 0u);
}

TEST_P(LinkAccountTest, EverythingThatWasAcknowledgedIsAckedAtAnEndOfFile) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  for (int i = 0; i < 10; ++i) link->Send(std::string(kMessage, 'x'));
  static_cast<void>(ReadFrom(peer, 10 * kMessage));
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  ExpectTrue(diary_.downs[0], 10, 10 * kMessage);
  EXPECT_EQ(diary_.downs[0].acked, 10u);
}

TEST_P(LinkAccountTest, ASessionWithoutAMessageHasAnEmptyAccount) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].total(), 0u);
  EXPECT_EQ(diary_.downs[0].FateOf(1), std::nullopt);
}

TEST_P(LinkAccountTest, WhatIsSentInTheTurnOfTheDropNeverLeaves) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send(std::string(kMessage, 'x')).status, SendStatus::kQueued);
  link->Drop(Error::Protocol());
  EXPECT_EQ(link->Send("more").status, SendStatus::kNotUp);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
  std::string got;
  char byte;
  ASSERT_TRUE(RunUntil([&] {
    got += ReadAvailable(peer);
    const ssize_t size = ::recv(peer.get(), &byte, 1, MSG_PEEK);
    return size == 0 || (size < 0 && errno != EAGAIN);
  }));
  EXPECT_EQ(got, "");
}

TEST_P(LinkAccountTest, SequencesNeverRestartAndEverySessionHasItsOwnAccount) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  std::vector<std::uint64_t> first;
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    first.push_back(link.Send("a").sequence);
    link.Send("b");
    link.Send("c");
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  for (std::size_t session = 0; session < 4; ++session) {
    Fd peer = AcceptFrom(server);
    EXPECT_EQ(ReadFrom(peer, 3), "abc");
    peer.Reset();
    ASSERT_TRUE(RunUntilDowns(session + 1));
    EXPECT_EQ(diary_.downs[session].first_sequence, 1 + 3 * session);
    EXPECT_EQ(diary_.downs[session].acked, 3u);
    EXPECT_EQ(diary_.downs[session].total(), 3u);
  }
  EXPECT_EQ(first, (std::vector<std::uint64_t>{1, 4, 7, 10}));
  const LinkStats stats = link->stats();
  EXPECT_EQ(stats.messages, 12u);
  EXPECT_EQ(stats.acked + stats.in_doubt + stats.unsent, 12u);
  EXPECT_EQ(stats.bytes_sent, 12u);
  EXPECT_EQ(stats.ups, 4u);
  EXPECT_EQ(stats.downs, 4u);
  EXPECT_EQ(stats.dials, static_cast<std::uint64_t>(diary_.dials));
}

TEST_P(LinkAccountTest, StatsCountWhatIsUnderWayOnce) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  ASSERT_EQ(::send(peer.get(), "hi", 2, 0), 2);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "hi"; }));
  EXPECT_EQ(link->stats().bytes_sent, 5u);
  EXPECT_EQ(link->stats().bytes_received, 2u);
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(link->stats().bytes_sent, 5u);
  EXPECT_EQ(link->stats().bytes_received, 2u);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  EXPECT_EQ(link->stats().bytes_sent, 5u);
  EXPECT_EQ(link->stats().bytes_received, 2u);
}

TEST_P(LinkAccountTest, APingIsOutsideTheAccount) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_TRUE(link->Ping("ping"));
  EXPECT_EQ(ReadFrom(peer, 4), "ping");
  EXPECT_EQ(link->Send("message").sequence, 1u);
  EXPECT_FALSE(link->Ping("late"));  // A message waits: not between its parts.
  EXPECT_EQ(ReadFrom(peer, 7), "message");
  EXPECT_TRUE(link->Ping("ping"));
  EXPECT_EQ(ReadFrom(peer, 4), "ping");
  EXPECT_EQ(link->Send("message").sequence, 2u);
  EXPECT_EQ(ReadFrom(peer, 7), "message");
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].acked, 2u);
  EXPECT_EQ(diary_.downs[0].total(), 2u);
  EXPECT_FALSE(link->Ping("down"));
  EXPECT_EQ(link->stats().pings, 2u);
  EXPECT_EQ(link->stats().bytes_sent, 22u);
}

TEST_P(LinkAccountTest, SendSaysByStateWhatBecomesOfIt) {
  ClosedPort port;
  LinkOptions options = Options(port.endpoint());
  options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
  options.on_down = [&](Link& link, const Down& down) {
    diary_.downs.push_back(down);
    EXPECT_EQ(link.Send("x").status, SendStatus::kNotUp);
  };
  options.on_closed = [&](Link& link, const Closed& closed) {
    diary_.closed = closed;
    EXPECT_EQ(link.Send("x").status, SendStatus::kClosing);
  };
  std::unique_ptr<Link> link = Make(std::move(options));
  EXPECT_EQ(link->Send("x").status, SendStatus::kNotUp);
  EXPECT_EQ(link->Send("x").sequence, 0u);
  link->Start();
  EXPECT_EQ(link->Send("x").status, SendStatus::kNotUp);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(link->state(), LinkState::kBackoff);
  EXPECT_EQ(link->Send("x").status, SendStatus::kNotUp);
  link->Close();
  EXPECT_EQ(link->Send("x").status, SendStatus::kClosing);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(link->Send("x").status, SendStatus::kClosing);
  EXPECT_FALSE(link->writable());
  EXPECT_EQ(link->stats().messages, 0u);
}

TEST_P(LinkAccountTest, AMessageAboveTheHardLimitNeverFits) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.queue_low = options.queue_high = options.queue_max = 1000;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(link->Send(std::string(1001, 'x')).status, SendStatus::kTooLarge);
  EXPECT_EQ(link->Send(std::string(1000, 'x')).status, SendStatus::kQueued);
  EXPECT_EQ(link->Send("x").status, SendStatus::kFull);
  EXPECT_EQ(link->Send(std::string(1001, 'x')).status, SendStatus::kTooLarge);
  EXPECT_EQ(link->queued_bytes(), 1000u);  // What was refused was refused whole.
  EXPECT_EQ(ReadFrom(peer, 1000).size(), 1000u);
  EXPECT_EQ(link->stats().messages, 1u);
}

TEST_P(LinkAccountTest, TheHardLimitCountsWhatIsNotAcknowledgedAndRecovers) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  options.socket.send_buffer = 4 << 20;  // The kernel takes everything at once.
  options.socket.on_socket = [this](int fd) { link_fd_ = fd; };
  options.queue_low = 20'000;
  options.queue_high = 100'000;
  options.queue_max = 200'000;
  int writable = 0;
  options.on_writable = [&](Link& link) {
    ++writable;
    EXPECT_TRUE(link.writable());
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::uint64_t accepted = 0;
  const auto fill = [&] {
    for (;;) {
      const SendResult result = link->Send(std::string(kMessage, 'x'));
      if (result.status == SendStatus::kFull) return;
      EXPECT_EQ(result.sequence, ++accepted);
    }
  };
  // Until the peer's kernel takes nothing more, and has acknowledged what it took.
  for (int i = 0; i < 3; ++i) {
    fill();
    ASSERT_TRUE(RunUntil([&] { return link->queued_bytes() == 0; }));
    Settle(*link, peer);
  }
  fill();
  // Beyond what the peer's kernel acknowledged, exactly the limit was accepted.
  EXPECT_LE(accepted * kMessage, 200'000u + ReceivedByKernel(peer));
  EXPECT_GT((accepted + 1) * kMessage, 200'000u + ReceivedByKernel(peer));
  ASSERT_TRUE(RunUntil([&] { return link->queued_bytes() == 0; }));
  RunFor(20ms);
  EXPECT_FALSE(link->writable());
  EXPECT_EQ(link->Send(std::string(kMessage, 'x')).status, SendStatus::kFull);
  EXPECT_EQ(writable, 0);

  const std::string got = ReadFrom(peer, accepted * kMessage);
  EXPECT_EQ(got.size(), accepted * kMessage);
  ASSERT_TRUE(RunUntil([&] { return writable > 0; }));
  EXPECT_EQ(link->Send(std::string(kMessage, 'x')).status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, kMessage).size(), kMessage);
  RunFor(20ms);
  EXPECT_EQ(writable, 1);
}

TEST_P(LinkAccountTest, OnWritableComesOnceForEachReturnToTheLowMark) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  MakeSmall(options);
  options.queue_high = 200'000;
  options.queue_low = 50'000;
  int writable = 0;
  std::size_t queued = 0;
  options.on_writable = [&](Link& link) {
    ++writable;
    queued = link.queued_bytes();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_TRUE(link->writable());
  for (int crossing = 1; crossing <= 3; ++crossing) {
    static_cast<void>(FillUp(*link, 100'000));
    EXPECT_TRUE(link->writable());  // Between the marks, coming from below.
    static_cast<void>(FillUp(*link, 250'000));
    EXPECT_FALSE(link->writable());
    std::string got;
    ASSERT_TRUE(RunUntil([&] {
      // Slowly, so that the way from one mark to the other takes many turns.
      char part[4096];
      static_cast<void>(!::recv(peer.get(), part, sizeof(part), 0));
      EXPECT_EQ(link->writable(), writable == crossing);
      return writable == crossing;
    }));
    EXPECT_LE(queued, 50'000u);
    ASSERT_TRUE(RunUntil([&] {
      static_cast<void>(ReadAvailable(peer));
      return link->queued_bytes() == 0;
    }));
    EXPECT_EQ(writable, crossing);
  }
}

TEST_P(LinkAccountTest, AFullSmallQueueTellsWhenThereIsRoomAgain) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.queue_low = options.queue_high = options.queue_max = 10;
  int writable = 0;
  options.on_writable = [&](Link&) { ++writable; };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  for (int round = 1; round <= 20; ++round) {
    EXPECT_EQ(link->Send("0123456789").status, SendStatus::kQueued) << round;
    EXPECT_EQ(link->Send("x").status, SendStatus::kFull);
    EXPECT_FALSE(link->writable());
    EXPECT_EQ(ReadFrom(peer, 10), "0123456789");
    ASSERT_TRUE(RunUntil([&] { return writable == round; })) << round;
    EXPECT_TRUE(link->writable());
  }
}

TEST_P(LinkAccountTest, OnWritableDoesNotComeWhileTinyMessagesStillFillTheLimit) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Options(server.endpoint());
  options.socket.send_buffer = 1 << 20;
  options.queue_low = options.queue_high = options.queue_max = 64'000;
  bool refused = false;
  int lies = 0;
  options.on_writable = [&](Link& link) {
    if (link.Send("x").status != SendStatus::kQueued) ++lies;
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_TRUE(RunUntil([&] {
    for (int i = 0; i < 1000 && !refused; ++i)
      refused = link->Send("x").status == SendStatus::kFull;
    return refused;
  }));
  RunFor(50ms);
  EXPECT_EQ(lies, 0);
  EXPECT_EQ(ReadFrom(peer, 4000).substr(0, 4000), std::string(4000, 'x'));
}

TEST_P(LinkAccountTest, AnIdleLinkHoldsNoSendBlock) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.ping = "P";
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  link->Send("hello");
  EXPECT_GT(reactor().stats().send_blocks, 0u);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  ASSERT_TRUE(RunUntil([&] {
    if (!ReadAvailable(peer).empty()) {
      EXPECT_EQ(::send(peer.get(), "p", 1, 0), 1);
    }
    return reactor().stats().send_blocks == 0;
  }));
  EXPECT_TRUE(diary_.downs.empty());
}

TEST_P(LinkAccountTest, OneByteIsAckedAndHoldsNoBlock) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("x");
  EXPECT_EQ(ReadFrom(peer, 1), "x");
  EXPECT_TRUE(RunUntil([&] { return reactor().stats().send_blocks == 0; }));
}

TEST_P(LinkAccountTest, AnEmptyMessageIsAckedAndHoldsNoBlock) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send("").sequence, 1u);
  EXPECT_GT(reactor().stats().send_blocks, 0u);
  EXPECT_TRUE(RunUntil([&] { return reactor().stats().send_blocks == 0; }));
  link->Drop(Error::Protocol());
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].acked, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
}

TEST_P(LinkAccountTest, AllThatIsSentInOneTurnLeavesInOneCall) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const std::uint64_t before = reactor().stats().sends;
  for (int i = 0; i < 64; ++i)
    link->Send("0123456789012345678901234567890123456789012345678901234567890123");
  EXPECT_EQ(ReadFrom(peer, 64 * 64).size(), 64u * 64u);
  EXPECT_EQ(reactor().stats().sends - before, 1u);
}

// --- AF_UNIX knows no acknowledgement.

TEST_P(LinkAccountTest, OnUnixSocketsWhatWasWrittenIsInDoubtAndTheRestUnsent) {
  RawServer server(Family::kUnix);
  LinkOptions options = Options(server.endpoint());
  MakeSmall(options);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const std::uint64_t accepted = FillUp(*link);
  const std::uint64_t written = link->stats().bytes_sent;
  const std::string got = ReadFrom(peer, 1000);
  peer.Reset();  // With data unread: a reset (unix(7)).
  ASSERT_TRUE(RunUntilDowns(1));
  const Down& down = diary_.downs[0];
  EXPECT_EQ(down.total(), accepted);
  EXPECT_EQ(down.acked, 0u);
  EXPECT_GE(down.in_doubt, written / kMessage);
  EXPECT_GT(down.unsent, 0u);
}

TEST_P(LinkAccountTest, OnUnixSocketsAPeerThatClosesWithDataUnreadIsAReset) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_sent == 5; }));
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ECONNRESET");
  EXPECT_EQ(diary_.downs[0].in_doubt, 1u);
}

TEST_P(LinkAccountTest, OnUnixSocketsAPeerThatReadAllAndClosedLeavesDoubtAllTheSame) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  peer.Reset();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  EXPECT_EQ(diary_.downs[0].in_doubt, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
}

TEST_P(LinkAccountTest, OnUnixSocketsACloseThatDrainedToThePeersEndIsAcked) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  link->Close();
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kUser);
  EXPECT_EQ(diary_.closed->acked, 1u);
  EXPECT_EQ(diary_.closed->total(), 1u);
}

// Bytes that a peer has not read are not with its application, and AF_UNIX has nothing between.
TEST_P(LinkAccountTest, OnUnixSocketsACloseWhosePeerStopsReadingLeavesDoubt) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_sent == 5; }));
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);  // Its end is there; "hello" is not read.
  link->Close(50ms);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->acked, 0u);
  EXPECT_EQ(diary_.closed->in_doubt, 1u);
  EXPECT_EQ(diary_.closed->total(), 1u);
}

TEST_P(LinkAccountTest, OnUnixSocketsACloseWhosePeerEndsWithDataUnreadLeavesDoubt) {
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  link->Send("hello");
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_sent == 5; }));
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  link->Close(1h);
  // Our end arrives behind what is not read.
  pollfd end{.fd = peer.get(), .events = POLLRDHUP, .revents = 0};
  ASSERT_TRUE(RunUntil([&] { return ::poll(&end, 1, 0) == 1; }));
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->acked, 0u);
  EXPECT_EQ(diary_.closed->in_doubt, 1u);
  EXPECT_EQ(diary_.closed->total(), 1u);
}

// --- What else is told at the end.

TEST_P(LinkAccountTest, TheLastWordsOfTcpAreKept) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->last_tcp().acked_bytes, 0u);
  link->Send(std::string(5000, 'x'));
  static_cast<void>(ReadFrom(peer, 5000));
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  const TcpSnapshot& tcp = diary_.downs[0].tcp;
  EXPECT_GT(tcp.rtt, Duration::zero());
  EXPECT_LT(tcp.rtt, 5s);
  EXPECT_EQ(tcp.acked_bytes, 5000u);
  EXPECT_EQ(tcp.unsent_bytes, 0u);
  EXPECT_LT(tcp.last_ack_age, 10s);
  EXPECT_EQ(link->last_tcp().acked_bytes, tcp.acked_bytes);
  EXPECT_EQ(link->last_tcp().rtt, tcp.rtt);
}

TEST_P(LinkAccountTest, OnDownTellsWhoAndForHowLong) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server.endpoint());
  std::string text;
  Duration told{0};
  Instant up{};
  options.on_up = [&](Link&) { up = reactor().Now(); };
  options.on_down = [&](Link& link, const Down& down) {
    text = down.ToString();
    told = down.up_for;
    diary_.downs.push_back(down);
    EXPECT_EQ(down.endpoint, server.endpoint());
    EXPECT_EQ(link.peer().ToString(), "");  // No session any more.
    EXPECT_EQ(link.state(), LinkState::kBackoff);
  };
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const std::string local = link->local().ToString();
  EXPECT_EQ(link->peer().ToString(), server.endpoint());
  RunFor(20ms);
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].local.ToString(), local);
  EXPECT_EQ(diary_.downs[0].peer.ToString(), server.endpoint());
  EXPECT_GE(told, 20ms);
  EXPECT_LE(told, reactor().Now() - up);
  EXPECT_EQ(text.find("receive " + server.endpoint() +
                      ": Connection reset by peer (ECONNRESET), next attempt in "),
            0u)
      << text;
}

}  // namespace
}  // namespace holdfast::test
