// The words of a link's life: its states, why it closed, what a policy may decide, what became of a
// message. docs/link.md draws the states and prints the table behind them.
#ifndef HOLDFAST_LINK_STATE_H_
#define HOLDFAST_LINK_STATE_H_

#include <cstdint>
#include <string_view>

#include <holdfast/error.h>
#include <holdfast/time.h>

namespace holdfast {

enum class LinkState : std::uint8_t {
  kIdle,        // Made, not started. Nothing in flight.
  kResolving,   // An attempt is on: the name is being looked up.
  kConnecting,  // An attempt is on: a connect is in flight.
  kUp,          // Connected and verified.
  kFailing,     // Down; waits for what is still in flight before it says so. No timer.
  kBackoff,     // Waits before the next attempt. Nothing in flight.
  kDraining,    // Closing: flushes until a deadline, then waits for what is in flight.
  kClosed,      // Final.
};
inline constexpr int kLinkStateCount = 8;

// Why a link closed for good.
enum class ClosedReason : std::uint8_t {
  kUser,       // Close() was called.
  kStop,       // The stop token of the options was triggered.
  kAttempts,   // attempts_max was reached.
  kTime,       // give_up_after passed.
  kPermanent,  // An error whose action is kStop.
  kProtocol,   // protocol_errors_max violations in a row.
  kDecided,    // `decide` said kStop.
};

// What `decide` may answer.
enum class Verdict : std::uint8_t {
  kByClass,   // As the error's action says.
  kRetryNow,  // Dial again without a wait.
  kBackOff,   // Wait as the backoff says, even after an error that would be permanent.
  kStop,      // Close with reason kDecided.
};

// What became of a message when its session ended.
enum class Fate : std::uint8_t {
  kAcked,    // Acknowledged by the peer's kernel. A lower bound; says nothing of the application.
  kInDoubt,  // Left this host, or may have; not known to be acknowledged.
  kUnsent,   // Never left this host. Sending it again cannot make it arrive twice.
};

// Names in snake case without the k: "connecting", "in_doubt".
[[nodiscard]] std::string_view ToString(LinkState state) noexcept;
[[nodiscard]] std::string_view ToString(ClosedReason reason) noexcept;
[[nodiscard]] std::string_view ToString(Verdict verdict) noexcept;
[[nodiscard]] std::string_view ToString(Fate fate) noexcept;

// One line of the flight recorder: Link::history(), Reactor::history().
struct Transition {
  Instant time{};          // The turn's time.
  std::uint32_t link = 0;  // Link::id(): counted from 1 within a reactor.
  LinkState from = LinkState::kIdle;
  LinkState to = LinkState::kIdle;
  Error error{};  // The failure that caused it; not failed() for the others.
};

}  // namespace holdfast

#endif  // HOLDFAST_LINK_STATE_H_
