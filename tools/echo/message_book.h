// What became of every message of one link: sent, echoed, lost with its fate, doubled, out of order.
//
// It is the echo pair's own judge and trusts nobody: the link's account of each session is compared with
// what was really sent and echoed in it. Pure: no clock, no system call; memory is 8 bytes for each
// message between the oldest that was not echoed and the newest.
//
//   book.BeginSession();                           // on_up
//   book.Sent(now);                                // Send said kQueued, with book.next()
//   book.Echoed(sequence, now, rtt);               // on_data
//   book.EndSession(down, left, [](auto sequence, Fate fate) { ... });   // on_down
//
// A message that the link keeps to send it again is no loss yet: it belongs to the next session as well.
#ifndef HOLDFAST_TOOLS_ECHO_MESSAGE_BOOK_H_
#define HOLDFAST_TOOLS_ECHO_MESSAGE_BOOK_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <holdfast/link.h>
#include <holdfast/link_state.h>
#include <holdfast/time.h>
#include "absl/functional/function_ref.h"

namespace holdfast::echo {

// Sums over all sessions, and over all links when added up.
struct MessageCounts {
  std::uint64_t sent = 0;        // Accepted by Send.
  std::uint64_t echoed = 0;      // Each message once.
  std::uint64_t duplicated = 0;  // Echoes beyond the first.
  std::uint64_t reordered = 0;   // Echoes that came after one of a later message.
  std::uint64_t refused = 0;     // Not accepted by Send.
  // Not echoed in their last session, which is over, by Fate.
  std::array<std::uint64_t, 3> lost_by_fate{};

  [[nodiscard]] std::uint64_t lost(Fate fate) const {
    return lost_by_fate[static_cast<std::size_t>(fate)];
  }
  [[nodiscard]] std::uint64_t lost() const {
    return lost_by_fate[0] + lost_by_fate[1] + lost_by_fate[2];
  }
  void Add(const MessageCounts& other);
};

class MessageBook {
 public:
  enum class Echo {
    kFirst,      // The echo that was waited for.
    kDuplicate,  // One more of a message that was echoed in this session.
    kForeign,    // Of no message of this session.
  };
  // What a session left behind: Down::messages.
  struct LeftOver {
    std::uint64_t sequence;
    Fate fate;
    bool kept;  // To be sent again.
  };

  // The sequence that the next accepted message must get.
  [[nodiscard]] std::uint64_t next() const { return next_; }
  // Sent in this session and not echoed yet. 0 between sessions.
  [[nodiscard]] std::uint64_t in_flight() const { return in_flight_; }
  [[nodiscard]] const MessageCounts& counts() const { return counts_; }

  void BeginSession();
  // The message next() was accepted at `now`.
  void Sent(Instant now);
  void Refused() { ++counts_.refused; }
  // `round_trip` is set for kFirst.
  Echo Echoed(std::uint64_t sequence, Instant now, Duration& round_trip);
  // Calls `lost` for every message of the session that was not echoed, in order, with the fate that
  // `left` or `account` gives it; a kept one is no loss yet. Returns what is wrong with that account, "" when it agrees: it must cover the
  // session's messages, no more and no fewer, and call none unsent that was echoed.
  std::string EndSession(const Account& account, std::span<const LeftOver> left,
                         absl::FunctionRef<void(std::uint64_t sequence, Fate fate)> lost);
  // No session follows: what was kept for one is lost after all.
  void Close(std::span<const LeftOver> left);

  // What can be said of the session without the link's account: the peer has everything up to the
  // latest message that was echoed; the rest is in doubt.
  [[nodiscard]] Account KnownAccount() const;

 private:
  [[nodiscard]] std::int64_t& At(std::uint64_t sequence) {
    return sent_at_[sequence & (sent_at_.size() - 1)];
  }

  void Lose(std::uint64_t sequence, Fate fate);

  std::uint64_t session_first_ = 1;   // The first message that was sent in the session.
  std::uint64_t session_kept_ = 0;    // Messages that were sent in it again.
  std::uint64_t kept_in_flight_ = 0;  // Those of them that had not been echoed when it began.
  std::uint64_t base_ = 1;            // The oldest message that was not echoed, or next_.
  std::uint64_t next_ = 1;
  std::uint64_t echoed_last_ = 0;  // The latest message of the session that was echoed; 0: none.
  std::uint64_t in_flight_ = 0;
  // When [base_, next_) were sent, in nanoseconds, or that they are over; a ring, its size a power of two.
  std::vector<std::int64_t> sent_at_ = std::vector<std::int64_t>(64);
  MessageCounts counts_;
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_MESSAGE_BOOK_H_
