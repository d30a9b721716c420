#include "machine/message_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "machine/trim_policy.h"
#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

using namespace std::chrono_literals;
using Scope = MessageQueue::Scope;
using Fates = MessageQueue::Fates;

constexpr Instant kStart{1h};

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::vector<iovec> GatherParts(MessageQueue& queue, std::size_t parts_max = 16,
                               Instant now = kStart) {
  std::vector<iovec> parts(parts_max);
  parts.resize(queue.Gather(parts, now));
  return parts;
}

std::string Text(const std::vector<iovec>& parts) {
  std::string text;
  for (const iovec& part : parts) {
    text.append(static_cast<const char*>(part.iov_base), part.iov_len);
  }
  return text;
}

std::string TextOf(const MessageQueue::Message& message) {
  std::string text(message.size(), '\0');
  message.CopyTo(std::as_writable_bytes(std::span(text)));
  return text;
}

// Counts how often it is released.
class Outside final : public OutsideBytes {
 public:
  explicit Outside(std::string text) : OutsideBytes({}), text_(std::move(text)) {
    bytes_ = Bytes(text_);
  }
  void Release() noexcept override { ++released; }
  int released = 0;

 private:
  std::string text_;
};

class MessageQueueTest : public testing::Test {
 protected:
  void TearDown() override {
    queue.CheckInvariants();
    queue.Clear();
    EXPECT_EQ(pool.in_use(), 0u);
  }
  void Push(std::string_view text, Instant deadline = kNever) {
    ASSERT_TRUE(queue.AppendMessage({Bytes(text)}, {.sequence = next++, .deadline = deadline}));
    queue.CheckInvariants();
  }
  void PushOfSession(std::string_view text) {
    ASSERT_TRUE(queue.AppendMessage({Bytes(text)}, {.sequence = next++, .scope = Scope::kSession}));
  }
  // Messages of ten bytes.
  void PushTens(int count) {
    for (int i = 0; i < count; ++i) Push("0123456789");
  }
  // The kernel takes the first `bytes` of what is queued.
  void Send(std::size_t bytes, Instant now = kStart) {
    ASSERT_GE(Text(GatherParts(queue, 64, now)).size(), bytes);
    queue.OnSent(bytes);
    queue.CheckInvariants();
  }
  // "3:in_doubt 4:unsent"
  static std::string Left(const MessageQueue& of) {
    std::string text;
    of.ForEach([&](const MessageQueue::Message& message) {
      text += (text.empty() ? "" : " ") + std::to_string(message.sequence()) + ":" +
              std::string(ToString(message.fate()));
    });
    return text;
  }

  BlockPool pool;
  MessageQueue queue{pool};
  std::uint64_t next = 1;
};

// --- Bytes in, bytes out.

TEST_F(MessageQueueTest, GivesWhatItWasGiven) {
  ASSERT_TRUE(queue.Append(Bytes("hello, ")));
  Push("world");
  EXPECT_EQ(Text(GatherParts(queue)), "hello, world");
  EXPECT_EQ(queue.queued(), 12u);
  EXPECT_EQ(queue.sent(), 0u);
  EXPECT_EQ(queue.messages(), 1u);
}

TEST_F(MessageQueueTest, SixtyFourSmallMessagesAreOnePart) {
  for (int i = 0; i < 64; ++i) Push(std::string(63, 'm'));
  EXPECT_EQ(GatherParts(queue).size(), 1u);
}

TEST_F(MessageQueueTest, AnEmptyQueueHoldsNoBlockAndGathersNothing) {
  EXPECT_TRUE(queue.Append({}));
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_TRUE(GatherParts(queue).empty());
  queue.OnSent(0);
  queue.OnAcked(0);
}

TEST_F(MessageQueueTest, GatherStopsWhereThePartsDo) {
  Push(std::string(5 * 4096, 'x'));
  EXPECT_EQ(Text(GatherParts(queue, 2)).size(), 2u * 4096);
  EXPECT_TRUE(GatherParts(queue, 0).empty());
  queue.OnSent(0);
}

TEST_F(MessageQueueTest, BytesInTheKernelsHandsStayWhereTheyAre) {
  const std::string first(5'000, 'a');
  Push(first);
  const std::vector<iovec> gathered = GatherParts(queue);
  for (int i = 0; i < 100; ++i) Push(std::string(777, 'b'));
  EXPECT_EQ(Text(gathered), first);
  queue.OnSent(0);
  const std::vector<iovec> again = GatherParts(queue, 64);
  EXPECT_EQ(again[0].iov_base, gathered[0].iov_base);
}

TEST_F(MessageQueueTest, BytesOutsideAreAPartOfTheSendAndReleasedOnce) {
  Outside outside("outside");
  Push("before ");
  ASSERT_TRUE(queue.AppendMessage({outside.bytes(), &outside}, {.sequence = next++}));
  Push(" behind");
  const std::vector<iovec> parts = GatherParts(queue);
  EXPECT_EQ(Text(parts), "before outside behind");
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[1].iov_base, outside.bytes().data());
  queue.OnSent(10);
  EXPECT_EQ(Text(GatherParts(queue)), "side behind");
  queue.OnSent(11);
  queue.OnAcked(13);
  EXPECT_EQ(outside.released, 0);
  queue.OnAcked(14);
  EXPECT_EQ(outside.released, 1);
}

TEST_F(MessageQueueTest, BytesOfAStreamGoAsTheyAreAcknowledged) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.Append(Bytes(std::string(4096, 'x'))));
  EXPECT_EQ(pool.in_use(), 4u);
  Send(2 * 4096);
  queue.OnAcked(4095);
  EXPECT_EQ(pool.in_use(), 4u);
  queue.OnAcked(4096);
  queue.CheckInvariants();
  EXPECT_EQ(pool.in_use(), 3u);
  EXPECT_EQ(queue.held(), 2u * 4096);
  ASSERT_TRUE(queue.Append(Bytes("more")));
  EXPECT_EQ(Text(GatherParts(queue)), std::string(4096, 'x') + "more");
  queue.OnSent(4100);
  queue.OnAcked(3 * 4096 + 4);
  EXPECT_EQ(pool.in_use(), 0u);
}

// --- What became of each.

TEST_F(MessageQueueTest, AMessageIsAckedWithItsLastByte) {
  PushTens(3);
  Send(30);
  queue.OnAcked(19);
  EXPECT_EQ(queue.acked(), 1u);
  queue.OnAcked(20);
  EXPECT_EQ(queue.acked(), 2u);
  queue.OnAcked(5);
  EXPECT_EQ(queue.acked(), 2u);
  EXPECT_EQ(queue.messages(), 1u);
}

TEST_F(MessageQueueTest, TheBytesOfACutMessageAreKeptWhole) {
  PushTens(2);
  Send(15);
  queue.OnAcked(13);
  EXPECT_EQ(queue.Settle({.acked = 13, .sent = 15}),
            (Fates{.first_sequence = 1, .acked = 1, .in_doubt = 1}));
  queue.ForEach([](const auto& message) { EXPECT_EQ(TextOf(message), "0123456789"); });
  EXPECT_EQ(Text(GatherParts(queue)), "0123456789");  // Never sliced.
  queue.OnSent(0);
}

TEST_F(MessageQueueTest, ASessionIsDividedByTheTwoBoundaries) {
  PushTens(6);
  Send(45);  // The kernel has 45 bytes, of which 31 have left this host.
  EXPECT_EQ(queue.Settle({.acked = 20, .sent = 31}),
            (Fates{.first_sequence = 1, .acked = 2, .in_doubt = 2, .unsent = 2}));
  EXPECT_EQ(Left(queue), "3:in_doubt 4:in_doubt 5:unsent 6:unsent");
}

TEST_F(MessageQueueTest, AMessageThatBeginsAtTheSentBoundaryIsUnsent) {
  PushTens(2);
  Send(20);
  EXPECT_EQ(queue.Settle({.acked = 0, .sent = 10}),
            (Fates{.first_sequence = 1, .in_doubt = 1, .unsent = 1}));
}

TEST_F(MessageQueueTest, BytesOfNoMessageLeaveGapsAndGoWithTheSession) {
  Push("0123456789");
  ASSERT_TRUE(queue.Append(Bytes("ping!!")));
  Push("0123");
  Send(16);
  EXPECT_EQ(queue.Settle({.acked = 12, .sent = 16}),
            (Fates{.first_sequence = 1, .acked = 1, .unsent = 1}));
  EXPECT_EQ(queue.queued(), 4u);
}

TEST_F(MessageQueueTest, AnEmptyMessageIsAckedWithWhatWentBeforeIt) {
  Push("0123456789");
  Push("");
  PushTens(1);
  Send(10);
  queue.OnAcked(9);
  EXPECT_EQ(queue.acked(), 0u);
  queue.OnAcked(10);
  EXPECT_EQ(queue.acked(), 2u);
}

TEST_F(MessageQueueTest, AnEmptyMessageAloneIsSentWithNothing) {
  Push("");
  EXPECT_TRUE(GatherParts(queue).empty());
  queue.OnSent(0);
  queue.OnAcked(0);
  EXPECT_EQ(queue.acked(), 1u);
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST_F(MessageQueueTest, NumbersThatAreNotOneRowAreSaidToBe) {
  PushTens(1);
  ++next;
  PushTens(1);
  EXPECT_EQ(queue.Settle({}).first_sequence, 0u);
}

// --- The peer's own acknowledgements.

TEST_F(MessageQueueTest, WhatThePeerAcknowledgesIsOutstandingUntilThen) {
  queue.SetAckedBy(MessageQueue::AckedBy::kPeer);
  PushOfSession("login");
  PushTens(3);
  Send(35);
  queue.OnAcked(35);
  EXPECT_EQ(queue.acked(), 1u);  // The login.
  EXPECT_TRUE(queue.Acknowledge(3));
  EXPECT_FALSE(queue.Acknowledge(3));
  EXPECT_FALSE(queue.Acknowledge(9));
  EXPECT_EQ(queue.Settle({.acked = 35, .sent = 35}),
            (Fates{.first_sequence = 1, .acked = 2, .in_doubt = 2}));
  EXPECT_EQ(Left(queue), "2:in_doubt 4:in_doubt");
}

TEST_F(MessageQueueTest, PingsBehindAMessageThatWaitsForItsPeerCostNoMemory) {
  queue.SetAckedBy(MessageQueue::AckedBy::kPeer);
  Push("question");
  Send(8);
  for (std::uint64_t i = 1; i <= 1'000; ++i) {
    ASSERT_TRUE(queue.Append(Bytes("ping")));
    Send(4);
    queue.OnAcked(8 + 4 * i);
    queue.CheckInvariants();
    ASSERT_LE(pool.in_use(), 3u);
  }
  EXPECT_EQ(queue.held(), 8u);
  EXPECT_TRUE(queue.Acknowledge(1));
}

TEST_F(MessageQueueTest, AMessageMayBeAcknowledgedWhileItIsBeingSent) {
  queue.SetAckedBy(MessageQueue::AckedBy::kPeer);
  PushTens(3);
  ASSERT_EQ(Text(GatherParts(queue)).size(), 30u);
  EXPECT_TRUE(queue.Acknowledge(2));  // In the kernel's hands: its bytes stay.
  queue.OnSent(5);
  EXPECT_TRUE(queue.Acknowledge(1));  // Begun: the rest of it has to follow.
  EXPECT_EQ(queue.messages(), 2u);    // The second was not begun; the first must be finished.
  EXPECT_EQ(Text(GatherParts(queue)), "567890123456789");
  queue.OnSent(15);
  EXPECT_EQ(queue.acked(), 1u + 1u);
  EXPECT_EQ(queue.messages(), 1u);
}

TEST_F(MessageQueueTest, WhatIsAcknowledgedWhileItIsBeingSentIsAckedIfTheSessionEndsThere) {
  queue.SetAckedBy(MessageQueue::AckedBy::kPeer);
  PushTens(2);
  Send(5);
  EXPECT_TRUE(queue.Acknowledge(1));
  EXPECT_EQ(queue.Settle({.acked = 0, .sent = 5}),
            (Fates{.first_sequence = 1, .acked = 1, .unsent = 1}));
}

TEST_F(MessageQueueTest, KnowsWhetherAMessageUpToANumberIsHere) {
  ASSERT_TRUE(queue.Append(Bytes("ping")));
  EXPECT_FALSE(queue.HasThrough(1));
  next = 5;
  PushTens(1);
  EXPECT_FALSE(queue.HasThrough(4));
  EXPECT_TRUE(queue.HasThrough(5));
  EXPECT_EQ(Left(queue), "5:acked");
}

// --- Sessions.

TEST_F(MessageQueueTest, WhatIsLeftGoesOutBehindWhatTheNextSessionBeginsWith) {
  PushTens(4);
  Send(25);
  static_cast<void>(queue.Settle({.acked = 10, .sent = 25}));
  queue.DropIf(
      [](const auto& message) { return !MessageQueue::IsKept(message, OnLoss::kReplayUnsent); });
  MessageQueue backlog(pool);
  backlog.JoinBefore(queue);
  ASSERT_TRUE(backlog.AppendMessage({Bytes("held")}, {.sequence = next++}));
  backlog.CheckInvariants();
  EXPECT_EQ(Left(backlog), "4:unsent 5:acked");  // Never in a session: not yet judged.

  queue.StartSession();
  PushOfSession("login");
  Send(2);
  queue.JoinBehind(backlog);
  queue.CheckInvariants();
  EXPECT_EQ(backlog.memory(), 0u);
  Push("new");
  EXPECT_EQ(Text(GatherParts(queue)), "gin0123456789heldnew");
  queue.OnSent(20);
  queue.OnAcked(5);
  EXPECT_EQ(queue.acked(), 1u);
  EXPECT_EQ(queue.Settle({.acked = 15, .sent = 19}),
            (Fates{.acked = 2, .in_doubt = 1, .unsent = 1}));
}

TEST_F(MessageQueueTest, WhatWasOnceInDoubtIsNeverUnsentAgain) {
  PushTens(1);
  Send(10);
  static_cast<void>(queue.Settle({.acked = 0, .sent = 10}));
  EXPECT_EQ(Left(queue), "1:in_doubt");
  EXPECT_EQ(queue.Settle({}), (Fates{.first_sequence = 0, .in_doubt = 1}));
}

TEST_F(MessageQueueTest, WhatASessionBeginsWithIsKeptByNoRule) {
  PushOfSession("login");
  static_cast<void>(queue.Settle({}));
  queue.ForEach([](const auto& message) {
    for (const OnLoss rule : {OnLoss::kHandBack, OnLoss::kReplayUnsent, OnLoss::kReplayUnacked}) {
      EXPECT_FALSE(MessageQueue::IsKept(message, rule));
    }
  });
}

// The ping of a session that ended is still the last item when the next one begins.
TEST_F(MessageQueueTest, BytesBehindAnOldPingAreBytesOfTheirOwn) {
  Push("message");
  ASSERT_TRUE(queue.Append(Bytes("old ping")));
  Send(15);
  EXPECT_EQ(queue.Settle({.acked = 0, .sent = 15}).in_doubt, 1u);
  EXPECT_EQ(queue.queued(), 7u);
  ASSERT_TRUE(queue.Append(Bytes("new ping")));
  queue.CheckInvariants();
  EXPECT_EQ(Text(GatherParts(queue)), "messagenew ping");
}

TEST_F(MessageQueueTest, JoinedBeforeComesFirst) {
  PushTens(1);
  MessageQueue later(pool);
  ASSERT_TRUE(later.AppendMessage({Bytes("later")}, {.sequence = next++}));
  later.JoinBefore(queue);
  later.CheckInvariants();
  EXPECT_EQ(queue.memory(), 0u);
  EXPECT_EQ(Text(GatherParts(later)), "0123456789later");
  later.OnSent(0);
  ASSERT_TRUE(later.AppendMessage({Bytes("!")}, {.sequence = next++}));
  EXPECT_EQ(Text(GatherParts(later)), "0123456789later!");
}

// --- Deadlines.

TEST_F(MessageQueueTest, ADueMessageIsPassedOverAndToldOnce) {
  Push("a");
  Push("b", kStart + 1s);
  Push("c");
  EXPECT_EQ(queue.next_expiry(), kStart + 1s);
  EXPECT_EQ(Text(GatherParts(queue, 16, kStart + 1s)), "ac");
  queue.OnSent(2);
  queue.CheckInvariants();
  std::string told;
  const auto tell = [&](const MessageQueue::Message& message) { told += TextOf(message); };
  EXPECT_FALSE(queue.Expire(kStart + 1s, tell));
  EXPECT_FALSE(queue.Expire(kStart + 2s, tell));
  EXPECT_EQ(told, "b");
  EXPECT_EQ(queue.next_expiry(), kNever);
  EXPECT_EQ(queue.Settle({.acked = 2, .sent = 2}), (Fates{.acked = 2}));
}

TEST_F(MessageQueueTest, AMessageInTheKernelsHandsExpiresOnceItIsTakenBack) {
  Push("a");
  Push("b", kStart + 1s);
  ASSERT_EQ(Text(GatherParts(queue)), "ab");
  int told = 0;
  const auto tell = [&](const MessageQueue::Message&) { ++told; };
  EXPECT_TRUE(queue.Expire(kStart + 1s, tell));
  EXPECT_EQ(told, 0);
  queue.OnSent(1);
  EXPECT_EQ(queue.next_expiry(), kStart + 1s);
  EXPECT_FALSE(queue.Expire(kStart + 1s, tell));
  EXPECT_EQ(told, 1);
}

TEST_F(MessageQueueTest, AMessageThatWasBegunDoesNotExpire) {
  Push("ab", kStart + 1s);
  Send(1);
  EXPECT_FALSE(queue.Expire(kStart + 2s, [](const auto&) { FAIL(); }));
  EXPECT_EQ(Text(GatherParts(queue, 16, kStart + 2s)), "b");
  queue.OnSent(1);
}

TEST_F(MessageQueueTest, TheTellingMayAppendAndAcknowledge) {
  for (int i = 0; i < 200; ++i) Push("x", kStart + 1s);
  std::uint64_t told = 0;
  EXPECT_FALSE(queue.Expire(kStart + 1s, [&](const MessageQueue::Message& message) {
    ++told;
    Push("new");
    EXPECT_TRUE(queue.Acknowledge(message.sequence()));
  }));
  EXPECT_EQ(told, 200u);
  EXPECT_EQ(queue.messages(), 200u);
  queue.CheckInvariants();
}

// --- Memory.

TEST(MessageQueueMemoryTest, OutOfMemoryRefusesWholeAndChangesNothing) {
  BlockPool pool(0);  // Keeps no block, so that every one is asked of the heap.
  MessageQueue queue(pool);
  ASSERT_TRUE(queue.AppendMessage({Bytes("first")}, {.sequence = 1}));
  const std::string large(5 * 4096, 'x');
  for (std::size_t blocks = 0; blocks < 5; ++blocks) {
    const FailingNew no_memory(blocks);
    EXPECT_FALSE(queue.AppendMessage({Bytes(large)}, {.sequence = 2})) << blocks;
    queue.CheckInvariants();
    EXPECT_EQ(pool.in_use(), 2u);
    EXPECT_EQ(queue.queued(), 5u);
  }
  const FailingNew just_enough(5);
  EXPECT_TRUE(queue.AppendMessage({Bytes(large)}, {.sequence = 2}));
}

TEST(MessageQueueMemoryTest, TheFirstMessageNeedsABlockForItsBytesAndOneForItself) {
  BlockPool pool(0);
  MessageQueue queue(pool);
  for (std::size_t blocks = 0; blocks < 2; ++blocks) {
    const FailingNew no_memory(blocks);
    EXPECT_FALSE(queue.AppendMessage({Bytes("x")}, {.sequence = 1}));
    EXPECT_FALSE(queue.Append(Bytes("x")));
    queue.CheckInvariants();
    EXPECT_EQ(pool.in_use(), 0u);
  }
}

TEST_F(MessageQueueTest, ABlockGoesWithTheLastMessageThatNeedsIt) {
  queue.SetAckedBy(MessageQueue::AckedBy::kPeer);
  for (int i = 0; i < 4; ++i) Push(std::string(4096, 'x'));
  Send(4 * 4096);
  EXPECT_EQ(pool.in_use(), 5u);
  EXPECT_TRUE(queue.Acknowledge(2));
  EXPECT_TRUE(queue.Acknowledge(3));
  EXPECT_EQ(pool.in_use(), 3u);
  EXPECT_EQ(queue.held(), 2u * 4096);
}

TEST_F(MessageQueueTest, DestructionReturnsEveryBlockAndReleasesWhatIsOutside) {
  Outside outside("x");
  {
    MessageQueue other(pool);
    ASSERT_TRUE(other.AppendMessage({Bytes(std::string(10'000, 'x'))}, {.sequence = 1}));
    ASSERT_TRUE(other.AppendMessage({outside.bytes(), &outside}, {.sequence = 2}));
  }
  EXPECT_EQ(outside.released, 1);
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(MessageQueueDeathTest, NothingIsSentThatIsNotQueuedNorAckedThatIsNotSent) {
  BlockPool pool;
  MessageQueue queue(pool);
  ASSERT_TRUE(queue.AppendMessage({Bytes("12345")}, {.sequence = 1}));
  EXPECT_DEATH(queue.OnSent(6), "bytes <= queued");
  EXPECT_DEATH(queue.OnAcked(1), "boundary <= sent_");
}

// A link's life with its queue and its backlog, beside a plain list of messages. Each message carries its
// number; the kernel and the peer are two numbers.
class Model {
 public:
  explicit Model(Random& random) : random_(random) {
    if (random_.Below(2) == 0) {
      by_peer_ = true;
      queue_.SetAckedBy(MessageQueue::AckedBy::kPeer);
    }
    rule_ = static_cast<OnLoss>(random_.Below(3));
  }
  ~Model() {
    queue_.Clear();
    backlog_.Clear();
    EXPECT_EQ(pool_.in_use(), 0u);
    for (const auto& [sequence, outside] : outside_) EXPECT_EQ(outside.released, 1) << sequence;
  }

  void Step() {
    now_ += std::chrono::milliseconds(random_.Below(3));
    switch (random_.Below(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return Append(queue_, wire_);
      case 4:
        return Append(backlog_, waiting_);
      case 5:
      case 6:
        return Send();
      case 7:
        return Ack();
      case 8:
        return Acknowledge();
      case 9:
        return Expire();
      case 10:
        return Ping();
      default:
        if (random_.Below(10) == 0) EndSession();
    }
  }
  void Check() const {
    queue_.CheckInvariants();
    backlog_.CheckInvariants();
    ASSERT_EQ(queue_.messages(), Count(wire_));
    ASSERT_EQ(backlog_.messages(), waiting_.size());
    ASSERT_EQ(queue_.sent(), sent_);
  }

 private:
  struct Entry {
    std::uint64_t sequence;  // 0: a ping.
    std::string text;
    Instant deadline = kNever;
    std::uint64_t wire = 0;
    std::size_t taken = 0;
    bool begun = false;
    bool kernel_acked = false;
    bool doubted = false;
    bool of_session = false;

    [[nodiscard]] bool complete() const { return begun && taken == text.size(); }
  };
  using List = std::deque<Entry>;

  [[nodiscard]] static std::size_t Count(const List& list) {
    return static_cast<std::size_t>(
        std::count_if(list.begin(), list.end(), [](const Entry& e) { return e.sequence != 0; }));
  }
  void Append(MessageQueue& queue, List& list) {
    Entry entry{next_++, std::to_string(next_)};
    entry.text.append(random_.Below(random_.Below(8) == 0 ? 9'000 : 200), 'm');
    if (random_.Below(20) == 0) entry.text.clear();
    if (random_.Below(3) == 0) {
      entry.deadline = now_ + std::chrono::milliseconds(random_.Below(20));
    }
    entry.of_session = &queue == &queue_ && random_.Below(4) == 0;
    const MessageQueue::Label label{
        entry.sequence, entry.of_session ? Scope::kSession : Scope::kLink, entry.deadline};
    if (random_.Below(5) == 0) {
      Outside& outside = outside_.try_emplace(entry.sequence, entry.text).first->second;
      ASSERT_TRUE(queue.AppendMessage({outside.bytes(), &outside}, label));
    } else {
      ASSERT_TRUE(queue.AppendMessage({Bytes(entry.text)}, label));
    }
    list.push_back(std::move(entry));
  }
  void Ping() {
    ASSERT_TRUE(queue_.Append(Bytes("ping")));
    if (!wire_.empty() && wire_.back().sequence == 0 && !wire_.back().complete()) {
      wire_.back().text += "ping";
    } else {
      wire_.push_back({0, "ping"});
    }
  }
  void Send() {
    const std::vector<iovec> parts = GatherParts(queue_, random_.Between(1, 16), now_);
    const std::string gathered = Text(parts);
    std::string expected;
    for (const Entry& entry : wire_) {
      if (!entry.begun && entry.deadline <= now_) continue;
      expected += entry.text.substr(entry.taken);
    }
    ASSERT_EQ(gathered, expected.substr(0, gathered.size()));
    std::size_t count = wire_.size();
    if (random_.Below(3) == 0) Append(queue_, wire_);  // While they are in the kernel's hands.
    const std::size_t taken =
        random_.Below(2) == 0 ? gathered.size() : random_.Below(gathered.size() + 1);
    queue_.OnSent(taken);
    std::size_t left = taken;
    for (Entry& entry : wire_) {
      if (count-- == 0) break;
      if (!entry.begun && entry.deadline <= now_) continue;
      if (entry.complete()) continue;
      const std::size_t size = entry.text.size() - entry.taken;
      if (size > 0 && left == 0) break;
      if (!entry.begun) entry.wire = sent_;
      entry.begun = true;
      const std::size_t part = std::min(left, size);
      entry.taken += part;
      sent_ += part;
      left -= part;
      if (part < size) break;
    }
    ASSERT_EQ(left, 0u);
  }
  void Ack() {
    acked_ = std::max(acked_, random_.Below(sent_ + 1));
    queue_.OnAcked(acked_);
    std::erase_if(wire_, [this](const Entry& entry) {
      if (!entry.complete() || entry.wire + entry.text.size() > acked_) return false;
      return !by_peer_ || entry.sequence == 0 || entry.of_session;
    });
  }
  void Acknowledge() {
    const std::uint64_t sequence = random_.Below(next_);
    List& list = random_.Below(3) == 0 ? waiting_ : wire_;
    MessageQueue& queue = &list == &wire_ ? queue_ : backlog_;
    const auto found = std::find_if(list.begin(), list.end(), [&](const Entry& entry) {
      return entry.sequence == sequence && sequence != 0;
    });
    const bool there = found != list.end();
    if (there && found->begun && !found->complete()) return;  // A test of its own has that.
    if (sequence != 0) {
      ASSERT_EQ(queue.Acknowledge(sequence), there);
    }
    if (there) list.erase(found);
  }
  void Expire() {
    for (auto [queue, list] : {std::pair{&queue_, &wire_}, {&backlog_, &waiting_}}) {
      std::vector<std::uint64_t> told;
      std::vector<std::uint64_t> due;
      ASSERT_FALSE(queue->Expire(
          now_, [&](const MessageQueue::Message& message) { told.push_back(message.sequence()); }));
      std::erase_if(*list, [&](const Entry& entry) {
        const bool is_due = entry.sequence != 0 && !entry.begun && entry.deadline <= now_;
        if (is_due) due.push_back(entry.sequence);
        return is_due;
      });
      ASSERT_EQ(told, due);
    }
  }
  void EndSession() {
    const std::uint64_t acked = std::max(acked_, random_.Below(sent_ + 1));
    const std::uint64_t boundary = acked + random_.Below(sent_ - acked + 1);
    const Fates fates = queue_.Settle({.acked = acked, .sent = boundary});
    std::erase_if(wire_, [&](const Entry& entry) {
      const bool acknowledged = entry.complete() && entry.wire + entry.text.size() <= acked;
      return entry.sequence == 0 || (acknowledged && (!by_peer_ || entry.of_session));
    });
    std::uint64_t in_doubt = 0;
    std::string left;
    for (Entry& entry : wire_) {
      entry.doubted = entry.doubted || (entry.begun && entry.wire < boundary);
      in_doubt += entry.doubted ? 1 : 0;
      left += entry.text;
    }
    ASSERT_EQ(fates.in_doubt, in_doubt);
    ASSERT_EQ(fates.unsent, wire_.size() - in_doubt);
    std::string seen;
    queue_.ForEach([&](const MessageQueue::Message& message) { seen += TextOf(message); });
    ASSERT_EQ(seen, left);

    queue_.DropIf([this](const MessageQueue::Message& message) {
      return !MessageQueue::IsKept(message, rule_);
    });
    std::erase_if(wire_, [this](const Entry& entry) {
      return entry.of_session || rule_ == OnLoss::kHandBack ||
             (rule_ == OnLoss::kReplayUnsent && entry.doubted);
    });
    backlog_.JoinBefore(queue_);
    waiting_.insert(waiting_.begin(), wire_.begin(), wire_.end());
    wire_.clear();
    queue_.StartSession();
    sent_ = acked_ = 0;
    Append(queue_, wire_);
    if (random_.Below(2) == 0) Send();
    queue_.JoinBehind(backlog_);
    for (Entry& entry : waiting_) {
      entry.begun = false;
      entry.taken = 0;
      wire_.push_back(std::move(entry));
    }
    waiting_.clear();
  }

  Random& random_;
  BlockPool pool_{2};
  MessageQueue queue_{pool_};
  MessageQueue backlog_{pool_};
  bool by_peer_ = false;
  OnLoss rule_ = OnLoss::kHandBack;
  List wire_;
  List waiting_;
  std::map<std::uint64_t, Outside> outside_;
  std::uint64_t next_ = 1;
  std::uint64_t sent_ = 0;
  std::uint64_t acked_ = 0;
  Instant now_ = kStart;
};

TEST(MessageQueueModelTest, RandomLivesKeepEveryMessageWholeAndInOrder) {
  Random random(PrintedSeed());
  for (int life = 0; life < 60; ++life) {
    Model model(random);
    for (int step = 0; step < 1'000; ++step) {
      model.Step();
      if (testing::Test::HasFatalFailure()) return;
      model.Check();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(TrimPolicyTest, IsDueAfter64KibibytesWritten) {
  TrimPolicy policy;
  policy.OnWritten(64 * 1024 - 1);
  EXPECT_FALSE(policy.due());
  policy.OnWritten(1);
  EXPECT_TRUE(policy.due());
}

TEST(TrimPolicyTest, IsDueAfter256Messages) {
  TrimPolicy policy;
  for (int i = 0; i < 255; ++i) policy.OnMessage();
  EXPECT_FALSE(policy.due());
  policy.OnMessage();
  EXPECT_TRUE(policy.due());
}

TEST(TrimPolicyTest, CountsAnewAfterTheKernelWasAsked) {
  TrimPolicy policy;
  policy.OnWritten(64 * 1024 - 1);
  for (int i = 0; i < 255; ++i) policy.OnMessage();
  policy.Reset();
  policy.OnWritten(64 * 1024 - 1);
  for (int i = 0; i < 255; ++i) policy.OnMessage();
  EXPECT_FALSE(policy.due());
}

}  // namespace
}  // namespace holdfast::internal
