#include "echo/message_book.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace holdfast::echo {
namespace {

using namespace std::chrono_literals;
using Echo = MessageBook::Echo;
using Lost = std::vector<std::pair<std::uint64_t, Fate>>;

class MessageBookTest : public testing::Test {
 protected:
  void Send(int count) {
    for (int i = 0; i < count; ++i) book_.Sent(now_);
  }
  Echo Echoed(std::uint64_t sequence) { return book_.Echoed(sequence, now_, round_trip_); }
  std::string End(const Account& account, const std::vector<MessageBook::LeftOver>& left = {}) {
    lost_.clear();
    return book_.EndSession(account, left, [&](std::uint64_t sequence, Fate fate) {
      lost_.emplace_back(sequence, fate);
    });
  }

  MessageBook book_;
  Instant now_{1s};
  Duration round_trip_{0};
  Lost lost_;
};

TEST_F(MessageBookTest, TimesTheEchoOfEachMessage) {
  book_.BeginSession();
  Send(1);
  now_ += 3ms;
  Send(1);
  now_ += 4ms;
  EXPECT_EQ(Echoed(1), Echo::kFirst);
  EXPECT_EQ(round_trip_, 7ms);
  EXPECT_EQ(Echoed(2), Echo::kFirst);
  EXPECT_EQ(round_trip_, 4ms);
  EXPECT_EQ(book_.in_flight(), 0u);
  EXPECT_EQ(book_.counts().echoed, 2u);
}

TEST_F(MessageBookTest, SeesDuplicatesBehindAndAheadOfTheOldestMessage) {
  book_.BeginSession();
  Send(3);
  EXPECT_EQ(Echoed(1), Echo::kFirst);
  EXPECT_EQ(Echoed(1), Echo::kDuplicate);
  EXPECT_EQ(Echoed(3), Echo::kFirst);
  EXPECT_EQ(Echoed(3), Echo::kDuplicate);
  EXPECT_EQ(book_.counts().duplicated, 2u);
  EXPECT_EQ(book_.counts().echoed, 2u);
}

TEST_F(MessageBookTest, CallsReorderedWhatComesAfterALaterOneAndNotWhatFollowsAHole) {
  book_.BeginSession();
  Send(5);
  EXPECT_EQ(Echoed(3), Echo::kFirst);
  EXPECT_EQ(Echoed(4), Echo::kFirst);
  EXPECT_EQ(book_.counts().reordered, 0u);
  EXPECT_EQ(Echoed(1), Echo::kFirst);
  EXPECT_EQ(Echoed(2), Echo::kFirst);
  EXPECT_EQ(book_.counts().reordered, 2u);
  EXPECT_EQ(Echoed(5), Echo::kFirst);
  EXPECT_EQ(book_.counts().reordered, 2u);
}

TEST_F(MessageBookTest, KnowsNoMessageOfAnotherSessionOrOfTheFuture) {
  book_.BeginSession();
  Send(2);
  EXPECT_EQ(Echoed(0), Echo::kForeign);
  EXPECT_EQ(Echoed(3), Echo::kForeign);
  EXPECT_EQ(End({.first_sequence = 1, .acked = 2}), "");
  book_.BeginSession();
  Send(1);
  EXPECT_EQ(Echoed(2), Echo::kForeign);
  EXPECT_EQ(Echoed(3), Echo::kFirst);
}

TEST_F(MessageBookTest, GivesEveryLostMessageItsFateInOrder) {
  book_.BeginSession();
  Send(6);
  EXPECT_EQ(Echoed(1), Echo::kFirst);
  EXPECT_EQ(Echoed(3), Echo::kFirst);
  EXPECT_EQ(End({.first_sequence = 1, .acked = 2, .in_doubt = 2, .unsent = 2}), "");
  EXPECT_EQ(lost_,
            (Lost{{2, Fate::kAcked}, {4, Fate::kInDoubt}, {5, Fate::kUnsent}, {6, Fate::kUnsent}}));
  EXPECT_EQ(book_.counts().sent, 6u);
  EXPECT_EQ(book_.counts().lost(), 4u);
  EXPECT_EQ(book_.counts().lost(Fate::kUnsent), 2u);
  EXPECT_EQ(book_.in_flight(), 0u);
}

TEST_F(MessageBookTest, NumbersGoOnInTheNextSession) {
  book_.BeginSession();
  Send(2);
  EXPECT_EQ(End({.first_sequence = 1, .acked = 0, .in_doubt = 0, .unsent = 2}), "");
  book_.BeginSession();
  EXPECT_EQ(book_.next(), 3u);
  Send(1);
  EXPECT_EQ(End({.first_sequence = 3, .acked = 0, .in_doubt = 1, .unsent = 0}), "");
  EXPECT_EQ(lost_, (Lost{{3, Fate::kInDoubt}}));
}

TEST_F(MessageBookTest, FindsAnAccountThatCoversTooMuchOrTooLittle) {
  book_.BeginSession();
  Send(2);
  EXPECT_NE(End({.first_sequence = 1, .acked = 1}), "");
  EXPECT_EQ(lost_, (Lost{{1, Fate::kAcked}, {2, Fate::kInDoubt}}));
  book_.BeginSession();
  Send(2);
  EXPECT_NE(End({.first_sequence = 3, .acked = 1, .in_doubt = 1, .unsent = 1}), "");
  book_.BeginSession();
  EXPECT_NE(End({.first_sequence = 0, .acked = 1}), "");
}

TEST_F(MessageBookTest, FindsAnAccountThatBeginsAtTheWrongMessage) {
  book_.BeginSession();
  Send(2);
  EXPECT_NE(End({.first_sequence = 2, .acked = 2}), "");
}

TEST_F(MessageBookTest, FindsAnEchoedMessageThatIsCalledUnsent) {
  book_.BeginSession();
  Send(3);
  EXPECT_EQ(Echoed(2), Echo::kFirst);
  EXPECT_NE(End({.first_sequence = 1, .acked = 1, .in_doubt = 0, .unsent = 2}), "");
}

TEST_F(MessageBookTest, KeepsApartMoreMessagesThanItBeganWith) {
  book_.BeginSession();
  for (std::uint64_t i = 1; i <= 10'000; ++i) {
    book_.Sent(Instant(std::chrono::microseconds(i)));
    if (i % 3 == 0) {
      EXPECT_EQ(Echoed(i / 3), Echo::kFirst);
    }
  }
  now_ = Instant(1s);
  for (std::uint64_t i = 3334; i <= 10'000; ++i) {
    ASSERT_EQ(Echoed(i), Echo::kFirst);
    ASSERT_EQ(round_trip_, 1s - std::chrono::microseconds(i));
  }
  EXPECT_EQ(End({.first_sequence = 1, .acked = 10'000}), "");
  EXPECT_TRUE(lost_.empty());
}

TEST_F(MessageBookTest, KnowsWithoutAnAccountWhatWasEchoed) {
  book_.BeginSession();
  Send(2);
  End({.first_sequence = 1, .acked = 2});
  book_.BeginSession();
  Send(5);
  EXPECT_EQ(book_.KnownAccount().in_doubt, 5u);
  Echoed(4);
  const Account known = book_.KnownAccount();
  EXPECT_EQ(known.first_sequence, 3u);
  EXPECT_EQ(known.acked, 2u);
  EXPECT_EQ(known.in_doubt, 3u);
  EXPECT_EQ(End(known), "");
}

TEST_F(MessageBookTest, AKeptMessageIsNoLossAndBelongsToTheNextSessionToo) {
  book_.BeginSession();
  Send(4);
  EXPECT_EQ(Echoed(1), Echo::kFirst);
  EXPECT_EQ(End({.first_sequence = 1, .acked = 1, .in_doubt = 1, .unsent = 2},
                {{2, Fate::kInDoubt, false}, {3, Fate::kUnsent, true}, {4, Fate::kUnsent, true}}),
            "");
  EXPECT_EQ(lost_, (Lost{{2, Fate::kInDoubt}, {3, Fate::kUnsent}, {4, Fate::kUnsent}}));
  EXPECT_EQ(book_.counts().lost(), 1u);

  book_.BeginSession();
  EXPECT_EQ(book_.in_flight(), 2u);
  Send(1);
  EXPECT_EQ(Echoed(3), Echo::kFirst);
  EXPECT_EQ(Echoed(4), Echo::kFirst);
  EXPECT_EQ(Echoed(5), Echo::kFirst);
  EXPECT_EQ(Echoed(4), Echo::kDuplicate);
  EXPECT_EQ(End({.acked = 3}), "");
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(book_.counts().echoed, 4u);
  EXPECT_EQ(book_.counts().lost(), 1u);
}

TEST_F(MessageBookTest, CountsWhatWasKeptAmongTheMessagesOfTheNextSession) {
  book_.BeginSession();
  Send(2);
  EXPECT_EQ(
      End({.first_sequence = 1, .unsent = 2}, {{1, Fate::kUnsent, true}, {2, Fate::kUnsent, true}}),
      "");
  book_.BeginSession();
  Send(1);
  EXPECT_NE(End({.first_sequence = 3, .acked = 1}), "");  // It covers one of three.
}

TEST_F(MessageBookTest, DoubtsAnAccountThatCallsAnEchoedMessageOfItsListUnsent) {
  book_.BeginSession();
  Send(2);
  EXPECT_EQ(Echoed(2), Echo::kFirst);
  EXPECT_NE(End({.acked = 1, .unsent = 1}, {{2, Fate::kUnsent, true}}), "");
}

TEST_F(MessageBookTest, WhatWasKeptForASessionThatNeverCameIsLost) {
  book_.BeginSession();
  Send(2);
  EXPECT_EQ(
      End({.first_sequence = 1, .unsent = 2}, {{1, Fate::kUnsent, true}, {2, Fate::kUnsent, true}}),
      "");
  EXPECT_EQ(book_.counts().lost(), 0u);
  const std::vector<MessageBook::LeftOver> left = {{1, Fate::kUnsent, false},
                                                   {2, Fate::kInDoubt, false}};
  book_.Close(left);
  EXPECT_EQ(book_.counts().lost(Fate::kUnsent), 1u);
  EXPECT_EQ(book_.counts().lost(Fate::kInDoubt), 1u);
}

}  // namespace
}  // namespace holdfast::echo
