#include "machine/ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

constexpr std::size_t kEntriesPerBlock = 256;  // 4,096 bytes of 16.

class LedgerTest : public testing::Test {
 protected:
  void SetUp() override { ledger.StartSession(); }
  void TearDown() override { ledger.CheckInvariants(); }

  // Messages of ten bytes: the first is [0, 10), the second [10, 20), ...
  void PushTens(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i, end += 10) ASSERT_TRUE(ledger.Push(end, end + 10));
  }

  BlockPool pool;
  Ledger ledger{pool};
  std::uint64_t end = 0;
};

TEST_F(LedgerTest, SequencesStartAtOne) {
  EXPECT_EQ(ledger.next_sequence(), 1u);
  EXPECT_EQ(ledger.first_sequence(), 1u);
  PushTens(3);
  EXPECT_EQ(ledger.next_sequence(), 4u);
  EXPECT_EQ(ledger.first_sequence(), 1u);
}

TEST_F(LedgerTest, SequencesGoOnAcrossSessionsAndCountsDoNot) {
  PushTens(3);
  ledger.StartSession();
  EXPECT_EQ(ledger.next_sequence(), 4u);
  EXPECT_EQ(ledger.first_sequence(), 4u);
  EXPECT_EQ(ledger.accepted(), 0u);
  EXPECT_EQ(ledger.acked(), 0u);
  EXPECT_EQ(ledger.outstanding(), 0u);

  ASSERT_TRUE(ledger.Push(0, 10));  // Offsets begin anew.
  EXPECT_EQ(ledger.first_sequence(), 4u);
  EXPECT_EQ(ledger.next_sequence(), 5u);
}

TEST_F(LedgerTest, AMessageIsAckedWithItsLastByte) {
  PushTens(3);
  ledger.OnAcked(19);
  EXPECT_EQ(ledger.acked(), 1u);
  ledger.OnAcked(20);
  EXPECT_EQ(ledger.acked(), 2u);
  EXPECT_EQ(ledger.outstanding(), 1u);
  EXPECT_EQ(ledger.accepted(), 3u);
}

TEST_F(LedgerTest, AnAckThatGoesBackTakesNothingBack) {
  PushTens(3);
  ledger.OnAcked(20);
  ledger.OnAcked(5);
  EXPECT_EQ(ledger.acked(), 2u);
  EXPECT_EQ(ledger.Settle(0, 30), (Ledger::Fates{.first_sequence = 1, .acked = 2, .in_doubt = 1}));
}

TEST_F(LedgerTest, AMessageIsUnsentWhenItsFirstByteDidNotLeave) {
  PushTens(4);
  EXPECT_EQ(ledger.Settle(0, 20),
            (Ledger::Fates{.first_sequence = 1, .acked = 0, .in_doubt = 2, .unsent = 2}));
}

TEST_F(LedgerTest, AMessageOfWhichOneByteLeftIsInDoubt) {
  PushTens(4);
  EXPECT_EQ(ledger.Settle(0, 21),
            (Ledger::Fates{.first_sequence = 1, .acked = 0, .in_doubt = 3, .unsent = 1}));
}

TEST_F(LedgerTest, AMessageOfWhichOneByteIsMissingAnAckIsInDoubt) {
  PushTens(4);
  EXPECT_EQ(ledger.Settle(19, 20),
            (Ledger::Fates{.first_sequence = 1, .acked = 1, .in_doubt = 1, .unsent = 2}));
}

TEST_F(LedgerTest, ASessionWithoutMessagesHasNoFates) {
  PushTens(2);
  static_cast<void>(ledger.Settle(0, 0));
  ledger.StartSession();
  EXPECT_EQ(ledger.Settle(0, 0), (Ledger::Fates{.first_sequence = 3}));
}

TEST_F(LedgerTest, BytesThatBelongToNoMessageLeaveGaps) {
  ASSERT_TRUE(ledger.Push(0, 10));
  ASSERT_TRUE(ledger.Push(16, 20));  // A ping of 6 bytes went before.
  EXPECT_EQ(ledger.Settle(12, 16),
            (Ledger::Fates{.first_sequence = 1, .acked = 1, .in_doubt = 0, .unsent = 1}));
}

TEST_F(LedgerTest, AnEmptyMessageIsAckedWithWhatWentBeforeIt) {
  ASSERT_TRUE(ledger.Push(0, 10));
  ASSERT_TRUE(ledger.Push(10, 10));
  ASSERT_TRUE(ledger.Push(10, 20));
  EXPECT_EQ(ledger.Settle(10, 10),
            (Ledger::Fates{.first_sequence = 1, .acked = 2, .in_doubt = 0, .unsent = 1}));
}

TEST_F(LedgerTest, TheCountsStayReadableAfterTheEnd) {
  PushTens(4);
  static_cast<void>(ledger.Settle(10, 30));
  EXPECT_EQ(ledger.accepted(), 4u);
  EXPECT_EQ(ledger.acked(), 1u);
  EXPECT_EQ(ledger.first_sequence(), 1u);
  EXPECT_EQ(ledger.outstanding(), 0u);
}

TEST_F(LedgerTest, HoldsABlockFor256MessagesAndNoneForNone) {
  EXPECT_EQ(pool.in_use(), 0u);
  PushTens(1);
  EXPECT_EQ(pool.in_use(), 1u);
  PushTens(kEntriesPerBlock - 1);
  EXPECT_EQ(pool.in_use(), 1u);
  PushTens(1);
  EXPECT_EQ(pool.in_use(), 2u);

  ledger.OnAcked(10 * kEntriesPerBlock);
  EXPECT_EQ(pool.in_use(), 1u);
  ledger.OnAcked(end);
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST_F(LedgerTest, TheEndOfASessionReleasesEveryBlock) {
  PushTens(1000);
  static_cast<void>(ledger.Settle(5'000, 7'500));
  EXPECT_EQ(pool.in_use(), 0u);
  ledger.StartSession();
  PushTens(1000);
  ledger.Clear();
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST_F(LedgerTest, DestructionReleasesEveryBlock) {
  {
    Ledger other(pool);
    ASSERT_TRUE(other.Push(0, 1));
    EXPECT_EQ(pool.in_use(), 1u);
  }
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST_F(LedgerTest, OutOfMemoryRefusesTheMessageAndChangesNothing) {
  PushTens(kEntriesPerBlock);
  {
    const FailingNew no_memory(0);
    EXPECT_FALSE(ledger.Push(end, end + 10));
  }
  ledger.CheckInvariants();
  EXPECT_EQ(ledger.next_sequence(), kEntriesPerBlock + 1);
  EXPECT_EQ(ledger.accepted(), kEntriesPerBlock);
  PushTens(1);
  EXPECT_EQ(ledger.next_sequence(), kEntriesPerBlock + 2);
  EXPECT_EQ(ledger.Settle(0, end).in_doubt, kEntriesPerBlock + 1);
}

TEST_F(LedgerTest, OutOfMemoryOfAnEmptyLedgerChangesNothing) {
  {
    const FailingNew no_memory(0);
    EXPECT_FALSE(ledger.Push(0, 10));
  }
  ledger.CheckInvariants();
  PushTens(2);
  EXPECT_EQ(ledger.Settle(10, 10), (Ledger::Fates{.first_sequence = 1, .acked = 1, .unsent = 1}));
}

TEST_F(LedgerTest, AReservedEntryFindsMemoryWhenThereIsNone) {
  for (const std::size_t before : {std::size_t{0}, kEntriesPerBlock - 2}) {
    PushTens(before);
    ASSERT_TRUE(ledger.Reserve());
    ASSERT_TRUE(ledger.Reserve());  // One entry is reserved, however often it is asked for.
    const FailingNew no_memory(0);
    PushTens(1);
  }
  EXPECT_EQ(pool.in_use(), 1u);
  ASSERT_TRUE(ledger.Reserve());
  EXPECT_EQ(pool.in_use(), 2u);
  {
    const FailingNew no_memory(0);
    PushTens(1);
  }
  EXPECT_EQ(ledger.Settle(end - 10, end),
            (Ledger::Fates{.first_sequence = 1, .acked = kEntriesPerBlock, .in_doubt = 1}));
}

TEST_F(LedgerTest, AReservationThatCannotBeMadeIsRefused) {
  const FailingNew no_memory(0);
  EXPECT_FALSE(ledger.Reserve());
}

TEST_F(LedgerTest, AReservationThatIsNotUsedEndsWithTheNextAcknowledgement) {
  ASSERT_TRUE(ledger.Reserve());
  EXPECT_EQ(pool.in_use(), 1u);
  ledger.OnAcked(0);
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST_F(LedgerTest, AReservationThatIsNotUsedEndsWithTheSession) {
  ASSERT_TRUE(ledger.Reserve());
  EXPECT_EQ(pool.in_use(), 1u);
  static_cast<void>(ledger.Settle(0, 0));
  EXPECT_EQ(pool.in_use(), 0u);
  ASSERT_TRUE(ledger.Reserve());
  ledger.StartSession();
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(LedgerDeathTest, MessagesComeInTheOrderOfTheirBytes) {
  BlockPool pool;
  Ledger ledger(pool);
  ASSERT_TRUE(ledger.Push(0, 10));
  EXPECT_DEATH(static_cast<void>(ledger.Push(9, 20)), "begin >=");
  EXPECT_DEATH(static_cast<void>(ledger.Push(20, 19)), "begin <= end");
}

// Every message's fate by itself, from the definition.
TEST(LedgerModelTest, RandomSessionsAreSettledAsEveryMessageByItself) {
  struct Message {
    std::uint64_t begin, end;
    bool acked = false;
  };
  Random random(PrintedSeed());
  BlockPool pool(4);
  Ledger ledger(pool);
  std::uint64_t sequence = 1;
  for (int session = 0; session < 400; ++session) {
    ledger.StartSession();
    const std::uint64_t first = sequence;
    std::vector<Message> messages;
    std::uint64_t offset = 0;
    std::uint64_t acked_boundary = 0;
    const std::uint64_t steps = random.Below(random.Below(10) == 0 ? 6'000 : 300);
    const std::uint64_t ack_one_in = random.Between(2, 400);
    const auto acknowledge = [&messages](std::uint64_t boundary) {
      for (Message& message : messages) message.acked = message.acked || message.end <= boundary;
    };
    for (std::uint64_t step = 0; step < steps; ++step) {
      ASSERT_EQ(ledger.next_sequence(), sequence);
      offset += random.Below(5) == 0 ? random.Below(8) : 0;
      const std::uint64_t begin = offset;
      offset += random.Below(100);
      if (random.Below(4) == 0) {
        ASSERT_TRUE(ledger.Reserve());
      }
      ASSERT_TRUE(ledger.Push(begin, offset));
      messages.push_back({begin, offset});
      ++sequence;
      if (random.Below(ack_one_in) == 0) {
        acked_boundary = random.Below(offset + 2);  // Sometimes back.
        ledger.OnAcked(acked_boundary);
        acknowledge(acked_boundary);
      }
      const auto acked = static_cast<std::uint64_t>(std::count_if(
          messages.begin(), messages.end(), [](const Message& m) { return m.acked; }));
      if (step % 64 == 0) {
        ledger.CheckInvariants();
        ASSERT_EQ(ledger.accepted(), messages.size());
        ASSERT_EQ(ledger.acked(), acked);
        ASSERT_EQ(ledger.outstanding(), messages.size() - acked);
        ASSERT_EQ(ledger.first_sequence(), first);
      }
    }

    const std::uint64_t settled = random.Below(offset + 1);
    const std::uint64_t sent = random.Between(settled, offset);
    acknowledge(settled);
    Ledger::Fates expected{.first_sequence = first};
    for (const Message& message : messages) {
      if (message.acked) {
        ++expected.acked;
      } else if (message.begin >= sent) {
        ++expected.unsent;
      } else {
        ++expected.in_doubt;
      }
    }
    const Ledger::Fates fates = ledger.Settle(settled, sent);
    ASSERT_EQ(fates, expected) << "session " << session;
    ASSERT_EQ(fates.acked + fates.in_doubt + fates.unsent, ledger.accepted());
    ASSERT_EQ(pool.in_use(), 0u);
    ledger.CheckInvariants();
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
