#include "machine/link_machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"

namespace holdfast::internal {
namespace {

constexpr LinkState kStates[] = {
    LinkState::kIdle,    LinkState::kResolving, LinkState::kConnecting, LinkState::kUp,
    LinkState::kFailing, LinkState::kBackoff,   LinkState::kDraining,   LinkState::kClosed};
constexpr LinkEvent kEvents[] = {LinkEvent::kStart,     LinkEvent::kRetryNow, LinkEvent::kClose,
                                 LinkEvent::kDrop,      LinkEvent::kHealthy,  LinkEvent::kResolved,
                                 LinkEvent::kConnected, LinkEvent::kFailed,   LinkEvent::kSettled,
                                 LinkEvent::kRetry,     LinkEvent::kGiveUp,   LinkEvent::kRetryDue,
                                 LinkEvent::kSurvived};
constexpr LinkEvent kUserEvents[] = {LinkEvent::kStart, LinkEvent::kRetryNow, LinkEvent::kClose,
                                     LinkEvent::kDrop, LinkEvent::kHealthy};
static_assert(std::size(kStates) == kLinkStateCount);
static_assert(std::size(kEvents) == kLinkEventCount);

// What may happen in each state besides what a user may always do. Written by hand from the description
// of the states (docs/link.md), not from the table.
const std::map<LinkState, std::set<LinkEvent>>& InnerEvents() {
  static const std::map<LinkState, std::set<LinkEvent>> kInner = {
      {LinkState::kIdle, {}},
      {LinkState::kResolving, {LinkEvent::kResolved, LinkEvent::kFailed}},
      {LinkState::kConnecting, {LinkEvent::kConnected, LinkEvent::kFailed}},
      {LinkState::kUp, {LinkEvent::kFailed, LinkEvent::kSurvived}},
      {LinkState::kFailing, {LinkEvent::kSettled, LinkEvent::kRetry, LinkEvent::kGiveUp}},
      {LinkState::kBackoff, {LinkEvent::kRetryDue}},
      {LinkState::kDraining, {LinkEvent::kFailed, LinkEvent::kSettled}},
      {LinkState::kClosed, {}},
  };
  return kInner;
}

TEST(LinkTableTest, EveryPairIsListedExactlyWhereItCanHappen) {
  for (const LinkState state : kStates) {
    for (const LinkEvent event : kEvents) {
      const bool user =
          std::find(std::begin(kUserEvents), std::end(kUserEvents), event) != std::end(kUserEvents);
      const bool possible = user || InnerEvents().at(state).contains(event);
      EXPECT_EQ(FindLinkRow(state, event) != nullptr, possible)
          << ToString(state) << " on " << ToString(event);
    }
  }
}

TEST(LinkTableTest, FindAnswersTheRowOfThePair) {
  for (const LinkRow& row : kLinkTable) {
    EXPECT_EQ(FindLinkRow(row.state, row.event), &row);
  }
}

TEST(LinkTableTest, ASecondDialIsImpossible) {
  for (const LinkRow& row : kLinkTable) {
    if (row.action != LinkAction::kDial) continue;
    EXPECT_TRUE(row.state == LinkState::kIdle || row.state == LinkState::kBackoff)
        << ToString(row.state);
    EXPECT_EQ(row.to, LinkState::kResolving);
  }
}

TEST(LinkTableTest, NothingLeavesClosed) {
  for (const LinkRow& row : kLinkTable) {
    if (row.state != LinkState::kClosed) continue;
    EXPECT_EQ(row.to, LinkState::kClosed);
    EXPECT_EQ(row.action, LinkAction::kNothing);
  }
}

TEST(LinkTableTest, CloseEndsEveryStateAndDrainsOnlyALiveSession) {
  for (const LinkState state : kStates) {
    const LinkRow* row = FindLinkRow(state, LinkEvent::kClose);
    ASSERT_NE(row, nullptr);
    EXPECT_TRUE(row->to == LinkState::kDraining || row->to == LinkState::kClosed);
    EXPECT_EQ(row->action == LinkAction::kDrain, state == LinkState::kUp);
  }
}

TEST(LinkTableTest, HealthCountsOnlyWhileUp) {
  for (const LinkState state : kStates) {
    const LinkRow* row = FindLinkRow(state, LinkEvent::kHealthy);
    ASSERT_NE(row, nullptr);
    EXPECT_EQ(row->to, state);
    EXPECT_EQ(row->action == LinkAction::kEstablish, state == LinkState::kUp);
  }
  EXPECT_EQ(FindLinkRow(LinkState::kUp, LinkEvent::kSurvived)->action, LinkAction::kCountHealthy);
}

TEST(LinkMachineTest, AnImpossiblePairStopsTheProcess) {
  LinkMachine machine;
  EXPECT_DEATH(static_cast<void>(machine.On(LinkEvent::kConnected)), "CHECK failed");
}

// The loop around the machine, reduced to what it does: a model of net/link.cc that records what the
// user would be told. The walk chooses events at random among the possible ones.
class GrammarWalk {
 public:
  explicit GrammarWalk(std::uint64_t seed) : random_(seed) {}

  void Run(int steps) {
    for (int i = 0; i < steps && machine_.state() != LinkState::kClosed; ++i) Step();
    if (machine_.state() == LinkState::kClosed) {
      EXPECT_EQ(Count('C'), 1);
      EXPECT_EQ(story_.back(), 'C');
    }
    EXPECT_LE(Count('U') - Count('D'), 1);
    CheckStory();
  }

 private:
  void Step() {
    std::vector<LinkEvent> possible;
    for (const LinkEvent event : kEvents) {
      if (FindLinkRow(machine_.state(), event) != nullptr && !Forced(event)) {
        possible.push_back(event);
      }
    }
    // kClose ends the story: keep it rare enough that there is one.
    const LinkEvent event = possible[random_.Below(possible.size())];
    if (event == LinkEvent::kClose && random_.Below(16) != 0) return;
    Fire(event);
  }
  // These follow from an action and are never chosen.
  bool Forced(LinkEvent event) const {
    return event == LinkEvent::kRetry || event == LinkEvent::kGiveUp ||
           (event == LinkEvent::kFailed && !in_flight_) ||
           (event == LinkEvent::kSettled && !settling_);
  }
  void Fire(LinkEvent event) {
    if (event == LinkEvent::kFailed) failed_ = true;
    if (event == LinkEvent::kSettled) in_flight_ = settling_ = false;
    Do(machine_.On(event));
  }
  void Do(LinkAction action) {
    switch (action) {
      case LinkAction::kNothing:
      case LinkAction::kEstablish:
      case LinkAction::kCountHealthy:
        return;
      case LinkAction::kDial:
        EXPECT_FALSE(in_flight_) << "two attempts at once";
        in_flight_ = true;
        failed_ = false;
        return;
      case LinkAction::kOpenSession:
        story_ += 'U';
        up_ = true;
        return;
      case LinkAction::kSettle:
      case LinkAction::kAbandonDial:
      case LinkAction::kDrain:
      case LinkAction::kFinish:
        settling_ = true;
        return;
      case LinkAction::kJudge:
        return Fire(random_.Below(8) == 0 ? LinkEvent::kGiveUp : LinkEvent::kRetry);
      case LinkAction::kReport:
        EXPECT_FALSE(in_flight_);
        story_ += up_ ? 'D' : 'd';
        up_ = failed_ = false;
        return;
      case LinkAction::kReportEnd:
        EXPECT_FALSE(in_flight_);
        if (up_) story_ += 'D';
        if (!up_ && failed_) story_ += 'd';
        up_ = failed_ = false;
        story_ += 'C';
        return;
    }
  }
  long Count(char c) const { return std::count(story_.begin(), story_.end(), c); }
  // ( U D | d )* C?  -- on_up and its on_down, or the on_down of a failed attempt.
  void CheckStory() const {
    bool up = false;
    for (const char c : story_) {
      if (c == 'U' || c == 'd' || c == 'C') {
        EXPECT_FALSE(up) << story_;
      }
      if (c == 'D') {
        EXPECT_TRUE(up) << story_;
      }
      if (c == 'U') up = true;
      if (c == 'D') up = false;
    }
  }

  Random random_;
  LinkMachine machine_;
  std::string story_;
  bool in_flight_ = false;
  bool settling_ = false;
  bool failed_ = false;
  bool up_ = false;
};

TEST(LinkMachineTest, RandomWalksKeepTheCallbackGrammar) {
  const char* text = std::getenv("HOLDFAST_SEED");
  const std::uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : 20261122;
  RecordProperty("seed", std::to_string(seed));
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    SCOPED_TRACE("HOLDFAST_SEED=" + std::to_string(seed + i));
    GrammarWalk(seed + i).Run(200);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace holdfast::internal
