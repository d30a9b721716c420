// What becomes of messages beyond their session: handed back with their bytes, sent again, held, expired,
// acknowledged by the peer itself; and the order of all that on the wire (docs/delivery.md).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

constexpr std::size_t kSize = 1000;

// "0000000042mmm...": a thousand bytes that begin with their number.
std::string Numbered(std::uint64_t number, std::size_t size = kSize) {
  const std::string digits = std::to_string(number);
  return std::string(10 - digits.size(), '0') + digits + std::string(size - 10, 'm');
}

// The numbers of the whole messages in what a peer has read; ADD_FAILURE for anything else.
std::vector<std::uint64_t> Numbers(std::string_view text) {
  std::vector<std::uint64_t> numbers;
  for (; text.size() >= kSize; text.remove_prefix(kSize)) {
    const std::uint64_t number = std::stoull(std::string(text.substr(0, 10)));
    EXPECT_EQ(text.substr(0, kSize), Numbered(number));
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::uint64_t> Range(std::uint64_t first, std::uint64_t last) {
  std::vector<std::uint64_t> numbers;
  for (; first <= last; ++first) numbers.push_back(first);
  return numbers;
}

struct Told {
  std::uint64_t sequence;
  Fate fate;
  bool kept;
  std::string text;
};

class DeliveryTest : public LinkFixture {
 protected:
  LinkOptions Options(RawServer& server, OnLoss on_loss) {
    LinkOptions options = LinkFixture::Options(server.endpoint());
    options.on_loss = on_loss;
    options.silence_max = 0s;
    options.on_down = [this](Link& link, const Down& down) {
      Note(told_, down.messages);
      diary_.downs.push_back(down);
      if (on_down_) on_down_(link, down);
    };
    options.on_closed = [this](Link&, const Closed& closed) {
      Note(told_at_close_, closed.messages);
      diary_.closed = closed;
    };
    options.on_expired = [this](Link&, const Message& message) {
      expired_.push_back(message.sequence());
      EXPECT_EQ(message.Text(), Numbered(message.sequence()));
    };
    return options;
  }
  static void Note(std::vector<Told>& list, const Messages& messages) {
    std::size_t count = 0;
    for (const Message& message : messages) {
      list.push_back({message.sequence(), message.fate(), message.kept(), message.Text()});
      ++count;
    }
    EXPECT_EQ(count, messages.size());
    EXPECT_EQ(messages.empty(), count == 0);
  }
  // Numbered messages until 100,000 bytes wait in our own queue: the number of the last.
  std::uint64_t Fill(Link& link, const SendOptions& options = {}) {
    EXPECT_TRUE(RunUntil([&] {
      while (link.queued_bytes() < 100'000) Send(link, options);
      EXPECT_TRUE(reactor().Poll().ok());
      return link.queued_bytes() >= 100'000;
    }));
    return sent_;
  }
  SendStatus Send(Link& link, const SendOptions& options = {}) {
    const SendResult result = link.Send(Numbered(sent_ + 1), options);
    if (result.status == SendStatus::kQueued) {
      EXPECT_EQ(result.sequence, ++sent_);
    }
    return result.status;
  }
  // A link with a full pipe to a peer that does not read.
  std::unique_ptr<Link> MakeFull(RawServer& server, Fd& peer, LinkOptions options) {
    MakeSmall(server);
    MakeSmall(options);
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    Fill(*link);
    return link;
  }
  // What arrives at `peer` until the link has nothing queued and `count` whole messages are there.
  std::vector<std::uint64_t> ReadMessages(const Fd& peer, std::size_t count) {
    std::string text;
    EXPECT_TRUE(RunUntil([&] {
      text += ReadAvailable(peer);
      return text.size() >= count * kSize;
    })) << text.size() / kSize
        << " of " << count;
    EXPECT_EQ(text.size(), count * kSize);
    return Numbers(text);
  }
  [[nodiscard]] std::vector<std::uint64_t> Kept() const {
    std::vector<std::uint64_t> kept;
    for (const Told& told : told_) {
      if (told.kept) kept.push_back(told.sequence);
    }
    return kept;
  }

  std::vector<Told> told_;
  std::vector<Told> told_at_close_;
  std::vector<std::uint64_t> expired_;
  std::uint64_t sent_ = 0;
  std::function<void(Link&, const Down&)> on_down_;
};
HOLDFAST_FOR_BOTH_BACKENDS(DeliveryTest);

TEST_P(DeliveryTest, ALostSessionHandsBackWhatWasNotAckedWithItsBytes) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  const Down& down = diary_.downs[0];
  EXPECT_GT(down.acked, 0u);
  EXPECT_GT(down.unsent, 0u);
  ASSERT_EQ(told_.size(), down.in_doubt + down.unsent);
  for (std::size_t i = 0; i < told_.size(); ++i) {
    EXPECT_EQ(told_[i].sequence, down.acked + 1 + i);
    EXPECT_EQ(told_[i].fate, i < down.in_doubt ? Fate::kInDoubt : Fate::kUnsent);
    EXPECT_EQ(told_[i].fate, down.FateOf(told_[i].sequence));
    EXPECT_EQ(told_[i].text, Numbered(told_[i].sequence));
    EXPECT_FALSE(told_[i].kept);
  }
  EXPECT_EQ(link->queued_bytes(), 0u);
  const LinkStats stats = link->stats();
  EXPECT_EQ(stats.acked + stats.in_doubt + stats.unsent, sent_);
  // And nothing of it is sent again.
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kUp; }));
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  EXPECT_EQ(ReadMessages(peer, 1), Range(sent_, sent_));
}

TEST_P(DeliveryTest, WhatNeverLeftIsSentInTheNextSessionAndNothingTwice) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kReplayUnsent));
  const std::vector<std::uint64_t> first = Numbers(ReadAvailable(peer));
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  const Down& down = diary_.downs[0];
  EXPECT_EQ(Kept(), Range(sent_ - down.unsent + 1, sent_));
  EXPECT_EQ(told_.size() - Kept().size(), down.in_doubt);
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  const std::vector<std::uint64_t> second = ReadMessages(peer, down.unsent + 1);
  EXPECT_EQ(second, Range(sent_ - down.unsent, sent_));
  EXPECT_LT(first.size(), second.front());
  EXPECT_EQ(link->stats().replayed, down.unsent);
}

TEST_P(DeliveryTest, WhatIsNotAckedIsSentAgainWithoutAGap) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kReplayUnacked));
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  const std::uint64_t acked = diary_.downs[0].acked;
  EXPECT_EQ(Kept(), Range(acked + 1, sent_));
  EXPECT_EQ(ReadMessages(peer, sent_ - acked), Range(acked + 1, sent_));
  // What was cut by the boundary was sent whole, and the second session is accounted for as well.
  link->Close(5s);
  ASSERT_TRUE(RunUntil([&] {
    if (ReadAvailable(peer).empty() && link->state() == LinkState::kDraining) {
      ::shutdown(peer.get(), SHUT_WR);
    }
    return diary_.closed.has_value();
  }));
  EXPECT_EQ(diary_.closed->acked, sent_ - acked);
  EXPECT_EQ(link->stats().acked, sent_);
  EXPECT_EQ(link->stats().in_doubt + link->stats().unsent, 0u);
}

TEST_P(DeliveryTest, WhatOnUpSendsIsFirstThenWhatWasKeptThenHeldThenNew) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kReplayUnsent);
  options.hold_while_down = true;
  options.on_up = [&](Link& link) {
    ++diary_.ups;
    EXPECT_EQ(Send(link), SendStatus::kQueued);  // A login.
  };
  std::unique_ptr<Link> link = MakeFull(server, peer, std::move(options));
  on_down_ = [&](Link& down_link, const Down&) {
    EXPECT_EQ(Send(down_link), SendStatus::kQueued);  // Held.
  };
  const std::uint64_t filled = sent_;
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  const std::uint64_t unsent = diary_.downs[0].unsent;
  const std::uint64_t held = filled + 1;
  const std::uint64_t login = filled + 2;
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  std::vector<std::uint64_t> expected = {login};
  for (const std::uint64_t number : Range(filled - unsent + 1, filled)) expected.push_back(number);
  expected.push_back(held);
  expected.push_back(login + 1);
  EXPECT_EQ(ReadMessages(peer, unsent + 3), expected);
  // The numbers of that session are not one row.
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[1].first_sequence, 0u);
  EXPECT_EQ(diary_.downs[1].total(), unsent + 3);
}

TEST_P(DeliveryTest, WithALoginTimeoutTheGateOpensAtMarkHealthy) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kReplayUnacked);
  options.hold_while_down = true;
  options.login_timeout = 60s;
  std::unique_ptr<Link> link = Make(std::move(options));
  EXPECT_EQ(Send(*link), SendStatus::kQueued);  // Before Start: held.
  link->Start();
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(Send(*link), SendStatus::kQueued);  // The login.
  EXPECT_EQ(ReadMessages(peer, 1), Range(2, 2));
  RunFor(20ms);
  EXPECT_EQ(ReadAvailable(peer), "");
  // Lost before: the login is handed back, what is held waits on.
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  for (const Told& told : told_) EXPECT_FALSE(told.kept) << told.sequence;
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  link->MarkHealthy();
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  EXPECT_EQ(ReadMessages(peer, 3), (std::vector<std::uint64_t>{3, 1, 4}));
  EXPECT_EQ(link->stats().replayed, 0u);  // It was in no session before.
}

TEST_P(DeliveryTest, WhatIsHeldHasABoundAndOnWritableComesOnceThereIsRoom) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  options.hold_while_down = true;
  options.queue_max = options.queue_high = 10 * kSize;
  options.queue_low = 5 * kSize;
  int writables = 0;
  options.on_writable = [&](Link&) { ++writables; };
  std::unique_ptr<Link> link = Make(std::move(options));
  EXPECT_TRUE(link->writable());
  while (Send(*link) == SendStatus::kQueued) {
  }
  EXPECT_EQ(sent_, 10u);
  EXPECT_FALSE(link->writable());
  EXPECT_EQ(link->Send(std::string(10 * kSize + 1, 'x')).status, SendStatus::kTooLarge);
  link->Start();
  peer = AcceptFrom(server);
  EXPECT_EQ(ReadMessages(peer, 10), Range(1, 10));
  ASSERT_TRUE(RunUntil([&] { return writables > 0; }));
  RunFor(20ms);
  EXPECT_EQ(writables, 1);
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
}

TEST_P(DeliveryTest, RoomThatIsMadeWhileDownIsTold) {
  RawServer server;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  options.hold_while_down = true;
  options.queue_max = options.queue_high = 10 * kSize;
  options.queue_low = 5 * kSize;
  int writables = 0;
  options.on_writable = [&](Link& writable) {
    ++writables;
    EXPECT_TRUE(writable.writable());
  };
  std::unique_ptr<Link> link = Make(std::move(options));
  while (Send(*link, {.ttl = 20ms}) == SendStatus::kQueued) {
  }
  EXPECT_FALSE(link->writable());
  ASSERT_TRUE(RunUntil([&] { return writables > 0; }));
  EXPECT_EQ(expired_.size(), 10u);
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
  RunFor(20ms);
  EXPECT_EQ(writables, 1);
}

TEST_P(DeliveryTest, WithoutHoldNothingIsTakenWhileDown) {
  RawServer server;
  std::unique_ptr<Link> link = Make(Options(server, OnLoss::kReplayUnacked));
  EXPECT_EQ(link->Send("x").status, SendStatus::kNotUp);
  EXPECT_FALSE(link->writable());
}

// --- Time to live.

TEST_P(DeliveryTest, AMessageThatOutlivesItsTimeWhileItIsHeldIsNeverSent) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  options.hold_while_down = true;
  std::unique_ptr<Link> link = Make(std::move(options));
  Send(*link);
  Send(*link, {.ttl = 20ms});
  Send(*link, {.ttl = 60s});
  ASSERT_TRUE(RunUntil([&] { return !expired_.empty(); }));
  EXPECT_EQ(expired_, Range(2, 2));
  EXPECT_EQ(link->queued_bytes(), 2 * kSize);
  link->Start();
  peer = AcceptFrom(server);
  EXPECT_EQ(ReadMessages(peer, 2), (std::vector<std::uint64_t>{1, 3}));
  EXPECT_EQ(link->stats().expired, 1u);
}

TEST_P(DeliveryTest, AMessageThatOutlivesItsTimeBeforeAFullPipeIsNeverSent) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  // The first that waits are in the backend's hands already, the last are not.
  const std::uint64_t filled = sent_;
  for (int i = 0; i < 10; ++i) Send(*link, {.ttl = 30ms});
  const std::uint64_t last_short = sent_;
  for (int i = 0; i < 3; ++i) Send(*link, {.ttl = 60s});
  ASSERT_TRUE(RunUntil([&] { return expired_.size() == 10; }));
  EXPECT_EQ(expired_, Range(filled + 1, last_short));
  std::vector<std::uint64_t> expected = Range(1, filled);
  for (const std::uint64_t number : Range(last_short + 1, sent_)) expected.push_back(number);
  EXPECT_EQ(ReadMessages(peer, expected.size()), expected);
  link->Close(5s);
  ASSERT_TRUE(RunUntil([&] {
    if (link->state() == LinkState::kDraining) ::shutdown(peer.get(), SHUT_WR);
    return diary_.closed.has_value();
  }));
  EXPECT_EQ(diary_.closed->acked, expected.size());
  EXPECT_EQ(link->stats().acked + link->stats().expired, sent_);
}

TEST_P(DeliveryTest, WhatWaitsInTheBackendsHandsExpiresToo) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  MakeSmall(server);
  MakeSmall(options);
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  // Every message may expire; the pipe takes some of them, and the send of the next ones waits.
  Fill(*link, {.ttl = 300ms});
  ASSERT_TRUE(RunUntil([&] { return link->queued_bytes() < kSize; }));
  ASSERT_FALSE(expired_.empty());
  Send(*link);
  // Some room may be left in a pipe that says it is full; so any of them may have left in the end.
  std::vector<std::uint64_t> expected = Range(1, sent_);
  std::erase_if(expected, [this](std::uint64_t number) {
    return std::find(expired_.begin(), expired_.end(), number) != expired_.end();
  });
  EXPECT_EQ(ReadMessages(peer, expected.size()), expected);
}

// --- Flush.

TEST_P(DeliveryTest, FlushCallsBackOnceAllThatWasSentBeforeIsAcked) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  std::vector<bool> flushed;
  EXPECT_EQ(link->Flush([&](Link&, bool all) { flushed.push_back(all); }), SendStatus::kQueued);
  RunFor(50ms);
  EXPECT_TRUE(flushed.empty());
  EXPECT_EQ(ReadMessages(peer, sent_), Range(1, sent_));
  ASSERT_TRUE(RunUntil([&] { return !flushed.empty(); }));
  EXPECT_EQ(flushed, std::vector<bool>{true});
  // With nothing outstanding: from the loop, not from inside the call.
  link->Flush([&](Link&, bool all) { flushed.push_back(all); });
  EXPECT_EQ(flushed.size(), 1u);
  ASSERT_TRUE(RunUntil([&] { return flushed.size() == 2; }));
}

TEST_P(DeliveryTest, FlushSaysThatAMessageWasHandedBack) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  std::vector<bool> flushed;
  link->Flush([&](Link&, bool all) { flushed.push_back(all); });
  ResetPeer(peer);
  ASSERT_TRUE(RunUntil([&] { return !flushed.empty(); }));
  EXPECT_EQ(diary_.downs.size(), 1u);
  EXPECT_EQ(flushed, std::vector<bool>{false});
}

TEST_P(DeliveryTest, FlushWaitsForWhatIsSentAgain) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kReplayUnacked));
  std::vector<bool> flushed;
  link->Flush([&](Link&, bool all) { flushed.push_back(all); });
  ResetPeer(peer);
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  EXPECT_TRUE(flushed.empty());
  const std::uint64_t acked = diary_.downs[0].acked;
  EXPECT_EQ(ReadMessages(peer, sent_ - acked), Range(acked + 1, sent_));
  ASSERT_TRUE(RunUntil([&] { return !flushed.empty(); }));
  EXPECT_EQ(flushed, std::vector<bool>{true});
}

TEST_P(DeliveryTest, FlushComesBeforeOnClosedAndItsCallbackMayDestroyTheLink) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  int flushes = 0;
  link->Flush([&](Link&, bool all) {
    ++flushes;
    EXPECT_FALSE(all);
    EXPECT_FALSE(diary_.closed.has_value());
    link.reset();
  });
  link->Flush([&](Link&, bool) { ++flushes; });
  link->Close(0s);
  ASSERT_TRUE(RunUntil([&] { return flushes > 0; }));
  RunFor(20ms);
  EXPECT_EQ(flushes, 1);
  EXPECT_FALSE(diary_.closed.has_value());
}

TEST_P(DeliveryTest, FlushOfAClosedLinkIsRefused) {
  RawServer server;
  std::unique_ptr<Link> link = Make(Options(server, OnLoss::kHandBack));
  link->Close();
  EXPECT_EQ(link->Flush([](Link&, bool) { FAIL(); }), SendStatus::kClosing);
  ASSERT_TRUE(RunUntilClosed());
}

// --- Acknowledged by the peer itself.

TEST_P(DeliveryTest, ExactlyWhatThePeerDidNotAcknowledgeIsSentAgain) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    RawServer server(family);
    Fd peer;
    LinkOptions options = Options(server, OnLoss::kReplayUnacked);
    options.acked_by = AckedBy::kPeer;
    sent_ = 0;
    diary_ = {};
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    for (int i = 0; i < 6; ++i) Send(*link);
    EXPECT_EQ(ReadMessages(peer, 6), Range(1, 6));
    EXPECT_TRUE(link->Acknowledge(1));
    EXPECT_TRUE(link->Acknowledge(4));
    EXPECT_FALSE(link->Acknowledge(4));
    on_down_ = [](Link& down_link, const Down& down) {
      if (!down.was_up) return;
      EXPECT_EQ(down.acked, 2u);
      EXPECT_EQ(down.in_doubt, 4u);
      EXPECT_TRUE(down_link.Acknowledge(5));
    };
    ResetPeer(peer);
    peer = AcceptFrom(server);
    ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
    EXPECT_EQ(ReadMessages(peer, 3), (std::vector<std::uint64_t>{2, 3, 6}));
    for (const std::uint64_t sequence : {2u, 3u, 6u}) EXPECT_TRUE(link->Acknowledge(sequence));
    EXPECT_EQ(link->stats().acked, 3u);  // The last three are of the session that is up.
    on_down_ = nullptr;
    link->Close(0s);
    ASSERT_TRUE(RunUntilClosed());
    EXPECT_EQ(link->stats().acked, 6u);
    EXPECT_EQ(link->stats().in_doubt + link->stats().unsent, 0u);
  }
}

TEST_P(DeliveryTest, WhatIsAcknowledgedOutOfOrderCannotPinMemoryPastTheBound) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kReplayUnacked);
  options.acked_by = AckedBy::kPeer;
  options.queue_max = options.queue_high = 16 << 10;
  options.queue_low = 8 << 10;
  int writables = 0;
  options.on_writable = [&](Link&) { ++writables; };
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  // One of each four stays, and the block that it is in with it.
  std::vector<std::uint64_t> waiting;
  ASSERT_TRUE(RunUntil([&] {
    if (Send(*link) != SendStatus::kQueued) return true;
    static_cast<void>(ReadAvailable(peer));
    if (sent_ % 4 == 0) {
      waiting.push_back(sent_);
    } else {
      EXPECT_TRUE(link->Acknowledge(sent_));
    }
    return false;
  }));
  EXPECT_LT(waiting.size() * kSize, 16u << 10);  // Not for their own sake.
  EXPECT_LE(reactor().stats().send_blocks, (2u * (16 << 10)) / 4096 + 4 + 2);
  for (const std::uint64_t sequence : waiting) EXPECT_TRUE(link->Acknowledge(sequence));
  ASSERT_TRUE(RunUntil([&] { return writables > 0; }));
  EXPECT_EQ(Send(*link), SendStatus::kQueued);
}

TEST_P(DeliveryTest, ReplayOfTheUnackedNeedsSomebodyWhoAcknowledges) {
  LinkOptions options;
  options.endpoints = {"127.0.0.1:1", "unix:@holdfast"};
  options.on_loss = OnLoss::kReplayUnacked;
  const absl::Status status = Link::Create(reactor(), std::move(options)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("LinkOptions.on_loss"), status.message().npos) << status;
}

// --- The end.

TEST_P(DeliveryTest, WhatWaitedForASessionIsHandedBackAtTheClose) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kReplayUnsent);
  options.hold_while_down = true;
  std::unique_ptr<Link> link = MakeFull(server, peer, std::move(options));
  on_down_ = [&](Link& down_link, const Down&) {
    Send(down_link);
    down_link.Close();
  };
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilClosed());
  const Down& down = diary_.downs[0];
  ASSERT_EQ(told_at_close_.size(), down.unsent + 1);
  for (const Told& told : told_at_close_) {
    EXPECT_EQ(told.fate, Fate::kUnsent);
    EXPECT_FALSE(told.kept);
    EXPECT_EQ(told.text, Numbered(told.sequence));
  }
  EXPECT_EQ(told_at_close_.back().sequence, sent_);
  const LinkStats stats = link->stats();
  EXPECT_EQ(stats.acked + stats.in_doubt + stats.unsent, sent_);
}

// --- Buffers.

class LentTest : public DeliveryTest {
 protected:
  // Lends `text_` to one message.
  SendStatus Lend(Link& link) {
    return link.SendBorrowed(std::as_bytes(std::span(text_)), [this] { ++released_; }).status;
  }
  const std::string text_ = Numbered(1, 5 * kSize);
  int released_ = 0;
};
HOLDFAST_FOR_BOTH_BACKENDS(LentTest);

TEST_P(LentTest, BytesThatAreMovedInArriveAndWhatIsRefusedStays) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  options.queue_max = options.queue_high = 10 * kSize;
  options.queue_low = kSize;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::string text(6 * kSize, 's');
  std::vector<std::byte> bytes(4 * kSize, std::byte{'v'});
  std::string refused(kSize + 500, 'r');
  EXPECT_EQ(link->Send(std::move(text)).status, SendStatus::kQueued);
  EXPECT_EQ(link->Send(std::move(bytes)).status, SendStatus::kQueued);
  EXPECT_EQ(link->Send(std::move(refused)).status, SendStatus::kFull);
  EXPECT_EQ(refused,
            std::string(kSize + 500, 'r'));  // NOLINT(bugprone-use-after-move): documented.
  EXPECT_EQ(ReadFrom(peer, 10 * kSize), std::string(6 * kSize, 's') + std::string(4 * kSize, 'v'));
}

TEST_P(LentTest, LentBytesComeBackOnceTheyAreAcked) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, Options(server, OnLoss::kHandBack));
  EXPECT_EQ(Lend(*link), SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, text_.size()), text_);
  link->Flush([](Link&, bool all) { EXPECT_TRUE(all); });
  ASSERT_TRUE(RunUntil([&] { return released_ > 0; }));
  link->Close(0s);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(released_, 1);
}

TEST_P(LentTest, LentBytesComeBackAfterTheyAreHandedBack) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeFull(server, peer, Options(server, OnLoss::kHandBack));
  EXPECT_EQ(Lend(*link), SendStatus::kQueued);
  on_down_ = [&](Link&, const Down& down) {
    std::string last;
    for (const Message& message : down.messages) last = message.Text();
    EXPECT_EQ(last, text_);
    EXPECT_EQ(released_, 0);
  };
  ResetPeer(peer);
  ASSERT_TRUE(RunUntil([&] { return released_ > 0; }));
  link.reset();
  RunFor(10ms);
  EXPECT_EQ(released_, 1);
}

TEST_P(LentTest, LentBytesComeBackWhenTheLinkIsDestroyedInTheMiddleOfASend) {
  RawServer server;
  Fd peer;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  MakeSmall(server);
  MakeSmall(options);
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  int lent = 0;
  EXPECT_TRUE(RunUntil([&] {
    while (link->queued_bytes() < 100'000) lent += Lend(*link) == SendStatus::kQueued ? 1 : 0;
    EXPECT_TRUE(reactor().Poll().ok());
    return link->queued_bytes() >= 100'000;
  }));
  link.reset();
  ASSERT_TRUE(RunUntil([&] { return released_ == lent; }));
  RunFor(10ms);
  EXPECT_EQ(released_, lent);
}

TEST_P(LentTest, LentBytesComeBackWithTheReactorAtTheLatest) {
  RawServer server;
  LinkOptions options = Options(server, OnLoss::kHandBack);
  options.hold_while_down = true;
  std::unique_ptr<Link> link = Make(std::move(options));
  EXPECT_EQ(Lend(*link), SendStatus::kQueued);
  link.reset();
  EXPECT_EQ(released_, 0);  // Not inside the call.
  reactor_.reset();
  EXPECT_EQ(released_, 1);
}

TEST_P(LentTest, WhatIsRefusedIsNotReleased) {
  RawServer server;
  std::unique_ptr<Link> link = Make(Options(server, OnLoss::kHandBack));
  EXPECT_EQ(Lend(*link), SendStatus::kNotUp);
  RunFor(5ms);
  EXPECT_EQ(released_, 0);
}

TEST_P(LentTest, ManyLentMessagesLeaveInOneTurn) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, Options(server, OnLoss::kHandBack));
  std::string expected;
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(Lend(*link), SendStatus::kQueued);
    expected += text_;
  }
  EXPECT_EQ(ReadFrom(peer, expected.size()), expected);
  link->Close(0s);
  ASSERT_TRUE(RunUntil([&] { return released_ == 64; }));
}

}  // namespace
}  // namespace holdfast::test
