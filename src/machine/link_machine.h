// The life of a link as one table: (state, event) -> (state, action).
//
// The machine decides where to go and what is to be done; net/link.cc does it. Every pair is in the
// table or impossible: an unlisted pair is a bug of ours and stops the process, because going on would
// mean a second dial or a callback out of order. What no user can cause by calling methods in any order
// is unlisted; what a user can cause is listed in every state, mostly as "nothing".
//
// Single flight is a property of this table, not of a guard: the only actions that dial are on edges
// out of kIdle and kBackoff, where nothing is in flight. docs/link.md prints it (make docs).
#ifndef HOLDFAST_MACHINE_LINK_MACHINE_H_
#define HOLDFAST_MACHINE_LINK_MACHINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <holdfast/link_state.h>
#include "base/check.h"

namespace holdfast::internal {

enum class LinkEvent : std::uint8_t {
  kStart,      // The user: Start().
  kRetryNow,   // The user: RetryNow().
  kClose,      // The user or the stop token: Close().
  kDrop,       // The user: Drop(error).
  kHealthy,    // The user: MarkHealthy().
  kResolved,   // The attempt has addresses and a connect is in flight.
  kConnected,  // The connect is verified.
  kFailed,     // The attempt, or the session, has failed; something may still be in flight.
  kSettled,    // Nothing is in flight any more and the account is final.
  kRetry,      // The retry policy: another attempt, later.
  kGiveUp,     // The retry policy: no further attempt.
  kRetryDue,   // The wait is over.
  kSurvived,   // Up for healthy_after.
};
inline constexpr int kLinkEventCount = 13;

enum class LinkAction : std::uint8_t {
  kNothing,
  kDial,          // Begin an attempt.
  kOpenSession,   // Take the socket over, start liveness, on_up.
  kEstablish,     // As kCountHealthy; the login is done, pings may go out.
  kCountHealthy,  // Backoff, attempts and protocol errors start anew.
  kSettle,        // Cancel what is in flight; kSettled follows.
  kJudge,         // Ask the retry policy; kRetry or kGiveUp follows at once.
  kReport,        // on_down, and arm the wait.
  kReportEnd,     // on_down where one is owed, then on_closed.
  kAbandonDial,   // Cancel the attempt, whose outcome nobody is told; kSettled follows.
  kDrain,         // Flush, shut the write side, read to the end; kSettled (or kFailed) follows.
  kFinish,        // Nothing was in flight: kSettled follows in the next turn.
};
inline constexpr int kLinkActionCount = 12;

struct LinkRow {
  LinkState state;
  LinkEvent event;
  LinkState to;
  LinkAction action;
};

// Ordered by the state, then by the event.
inline constexpr LinkRow kLinkTable[] = {
    // {in state, on event, go to, do}
    {LinkState::kIdle, LinkEvent::kStart, LinkState::kResolving, LinkAction::kDial},
    {LinkState::kIdle, LinkEvent::kRetryNow, LinkState::kIdle, LinkAction::kNothing},
    {LinkState::kIdle, LinkEvent::kClose, LinkState::kDraining, LinkAction::kFinish},
    {LinkState::kIdle, LinkEvent::kDrop, LinkState::kIdle, LinkAction::kNothing},
    {LinkState::kIdle, LinkEvent::kHealthy, LinkState::kIdle, LinkAction::kNothing},

    {LinkState::kResolving, LinkEvent::kStart, LinkState::kResolving, LinkAction::kNothing},
    {LinkState::kResolving, LinkEvent::kRetryNow, LinkState::kResolving, LinkAction::kNothing},
    {LinkState::kResolving, LinkEvent::kClose, LinkState::kDraining, LinkAction::kAbandonDial},
    {LinkState::kResolving, LinkEvent::kDrop, LinkState::kResolving, LinkAction::kNothing},
    {LinkState::kResolving, LinkEvent::kHealthy, LinkState::kResolving, LinkAction::kNothing},
    {LinkState::kResolving, LinkEvent::kResolved, LinkState::kConnecting, LinkAction::kNothing},
    {LinkState::kResolving, LinkEvent::kFailed, LinkState::kFailing, LinkAction::kSettle},

    {LinkState::kConnecting, LinkEvent::kStart, LinkState::kConnecting, LinkAction::kNothing},
    {LinkState::kConnecting, LinkEvent::kRetryNow, LinkState::kConnecting, LinkAction::kNothing},
    {LinkState::kConnecting, LinkEvent::kClose, LinkState::kDraining, LinkAction::kAbandonDial},
    {LinkState::kConnecting, LinkEvent::kDrop, LinkState::kConnecting, LinkAction::kNothing},
    {LinkState::kConnecting, LinkEvent::kHealthy, LinkState::kConnecting, LinkAction::kNothing},
    {LinkState::kConnecting, LinkEvent::kConnected, LinkState::kUp, LinkAction::kOpenSession},
    {LinkState::kConnecting, LinkEvent::kFailed, LinkState::kFailing, LinkAction::kSettle},

    {LinkState::kUp, LinkEvent::kStart, LinkState::kUp, LinkAction::kNothing},
    {LinkState::kUp, LinkEvent::kRetryNow, LinkState::kUp, LinkAction::kNothing},
    {LinkState::kUp, LinkEvent::kClose, LinkState::kDraining, LinkAction::kDrain},
    {LinkState::kUp, LinkEvent::kDrop, LinkState::kFailing, LinkAction::kSettle},
    {LinkState::kUp, LinkEvent::kHealthy, LinkState::kUp, LinkAction::kEstablish},
    {LinkState::kUp, LinkEvent::kSurvived, LinkState::kUp, LinkAction::kCountHealthy},
    {LinkState::kUp, LinkEvent::kFailed, LinkState::kFailing, LinkAction::kSettle},

    {LinkState::kFailing, LinkEvent::kStart, LinkState::kFailing, LinkAction::kNothing},
    {LinkState::kFailing, LinkEvent::kRetryNow, LinkState::kFailing, LinkAction::kNothing},
    {LinkState::kFailing, LinkEvent::kClose, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kFailing, LinkEvent::kDrop, LinkState::kFailing, LinkAction::kNothing},
    {LinkState::kFailing, LinkEvent::kHealthy, LinkState::kFailing, LinkAction::kNothing},
    {LinkState::kFailing, LinkEvent::kSettled, LinkState::kFailing, LinkAction::kJudge},
    {LinkState::kFailing, LinkEvent::kRetry, LinkState::kBackoff, LinkAction::kReport},
    {LinkState::kFailing, LinkEvent::kGiveUp, LinkState::kClosed, LinkAction::kReportEnd},

    {LinkState::kBackoff, LinkEvent::kStart, LinkState::kBackoff, LinkAction::kNothing},
    {LinkState::kBackoff, LinkEvent::kRetryNow, LinkState::kResolving, LinkAction::kDial},
    {LinkState::kBackoff, LinkEvent::kClose, LinkState::kDraining, LinkAction::kFinish},
    {LinkState::kBackoff, LinkEvent::kDrop, LinkState::kBackoff, LinkAction::kNothing},
    {LinkState::kBackoff, LinkEvent::kHealthy, LinkState::kBackoff, LinkAction::kNothing},
    {LinkState::kBackoff, LinkEvent::kRetryDue, LinkState::kResolving, LinkAction::kDial},

    {LinkState::kDraining, LinkEvent::kStart, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kDraining, LinkEvent::kRetryNow, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kDraining, LinkEvent::kClose, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kDraining, LinkEvent::kDrop, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kDraining, LinkEvent::kHealthy, LinkState::kDraining, LinkAction::kNothing},
    {LinkState::kDraining, LinkEvent::kFailed, LinkState::kDraining, LinkAction::kSettle},
    {LinkState::kDraining, LinkEvent::kSettled, LinkState::kClosed, LinkAction::kReportEnd},

    {LinkState::kClosed, LinkEvent::kStart, LinkState::kClosed, LinkAction::kNothing},
    {LinkState::kClosed, LinkEvent::kRetryNow, LinkState::kClosed, LinkAction::kNothing},
    {LinkState::kClosed, LinkEvent::kClose, LinkState::kClosed, LinkAction::kNothing},
    {LinkState::kClosed, LinkEvent::kDrop, LinkState::kClosed, LinkAction::kNothing},
    {LinkState::kClosed, LinkEvent::kHealthy, LinkState::kClosed, LinkAction::kNothing},
};
inline constexpr std::size_t kLinkRowCount = std::size(kLinkTable);

namespace link_table {
// Row index + 1 by [state][event]; 0 = impossible. Built, and checked for doubles, at compile time.
using Index = std::array<std::array<std::uint8_t, kLinkEventCount>, kLinkStateCount>;
consteval Index Build() {
  Index index{};
  for (std::size_t i = 0; i < kLinkRowCount; ++i) {
    std::uint8_t& cell = index[static_cast<std::size_t>(kLinkTable[i].state)]
                              [static_cast<std::size_t>(kLinkTable[i].event)];
    HOLDFAST_CHECK(cell == 0);  // Not a constant expression when a pair is listed twice.
    cell = static_cast<std::uint8_t>(i + 1);
  }
  return index;
}
inline constexpr Index kIndex = Build();
}  // namespace link_table

// The row of a pair, or nullptr when it is impossible. Total.
[[nodiscard]] constexpr const LinkRow* FindLinkRow(LinkState state, LinkEvent event) noexcept {
  const std::uint8_t cell =
      link_table::kIndex[static_cast<std::size_t>(state)][static_cast<std::size_t>(event)];
  return cell == 0 ? nullptr : &kLinkTable[cell - 1];
}

class LinkMachine {
 public:
  [[nodiscard]] LinkState state() const noexcept { return state_; }

  // Moves, and says what to do. Requires: the pair is listed.
  [[nodiscard]] LinkAction On(LinkEvent event) noexcept {
    const LinkRow* row = FindLinkRow(state_, event);
    HOLDFAST_CHECK(row != nullptr);
    state_ = row->to;
    return row->action;
  }

 private:
  LinkState state_ = LinkState::kIdle;
};

[[nodiscard]] std::string_view ToString(LinkEvent event) noexcept;
[[nodiscard]] std::string_view ToString(LinkAction action) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_LINK_MACHINE_H_
