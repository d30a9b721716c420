// What became of the bytes that the kernel took: arithmetic over the figures it leaves behind.
//
// A successful send is no proof of anything (docs/kernel.md C1). What can be known at the end of a
// connection is two boundaries in the stream of bytes written: below `acked` the peer's kernel has
// acknowledged them, at or above `sent_boundary` they never left this host. Both are proofs, not
// estimates: where a figure is missing or contradicts another, the boundaries move apart and more is in
// doubt, never less. A message that is said to be unsent may be sent again without arriving twice.
//
// W is the count of bytes that the kernel took (MessageQueue::sent()). Our FIN, once the write side was
// shut, stands behind them as one more byte in every figure. Pure functions, total, any thread.
#ifndef HOLDFAST_MACHINE_ACCOUNT_H_
#define HOLDFAST_MACHINE_ACCOUNT_H_

#include <cstdint>

#include "core/socket_facts.h"

namespace holdfast::internal {

// Always acked <= sent_boundary <= W. In wire offsets of the session.
struct WireAccount {
  std::uint64_t acked = 0;          // Bytes below it are acknowledged by the peer's kernel.
  std::uint64_t sent_boundary = 0;  // Bytes at or above it never left this host.
  bool exact = false;  // True exactly when both are the kernel's own figures, found consistent.

  friend constexpr bool operator==(const WireAccount&, const WireAccount&) noexcept = default;
};

// The acknowledged boundary by SIOCOUTQ alone: W - outq, or min(W, W + 1 - outq) after our own FIN.
// Valid on a live connection too, for trimming; 0 where outq exceeds what was written.
[[nodiscard]] std::uint64_t AckedBoundary(std::uint64_t written, std::uint32_t outq,
                                          bool own_fin) noexcept;

// Nothing more is known than `acked_before` (0 on AF_UNIX): no figures, or calls that failed. Only what
// was never written is unsent.
[[nodiscard]] WireAccount AccountOfUnknown(std::uint64_t written,
                                           std::uint64_t acked_before) noexcept;

// A connection that the kernel ended: in state CLOSE its figures are frozen. Nothing but the
// acknowledged bytes is known in any other state, and nothing at all where the figures contradict each
// other (W + our FIN == SIOCOUTQ + bytes_acked, less the SYN, held in 1,196 of 1,196 deaths).
[[nodiscard]] WireAccount AccountOfDead(std::uint64_t written, const DeathFacts& facts) noexcept;

// A live connection given up by disconnecting it twice. Each disconnect adds the same K (the largest
// window plus 2) to the kernel's write position and leaves the other positions: K = q2 - q1,
// unacknowledged = q1 - K, unsent = n1 - K. That is Linux behaviour and no promise (tcp_disconnect), so
// implausible figures fall back to `acked_before`, a proven lower bound, and SIOCOUTQ before the
// disconnects.
[[nodiscard]] WireAccount AccountOfGivenUp(std::uint64_t written, std::uint64_t acked_before,
                                           const DisconnectFigures& figures, bool own_fin) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_ACCOUNT_H_
