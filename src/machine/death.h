// How a handshake ended, and why a connection died: judgements over plain facts.
//
// The kernel tells the truth in pieces. An io_uring connect says 0 while the socket is still in
// SYN_SENT; a reset is told to whichever call comes first and every later one looks like an orderly
// end; a recv of 0 may be a FIN or a reset that a send was told of (docs/kernel.md 1, 2, 4). So
// neither a connect nor a death is judged by one return value: all is collected first, then judged
// here, once. Pure functions, total, any thread.
#ifndef HOLDFAST_MACHINE_DEATH_H_
#define HOLDFAST_MACHINE_DEATH_H_

#include <cstdint>

#include <holdfast/error.h>

#include "core/error_codes.h"
#include "core/socket_facts.h"

namespace holdfast::internal {

// Not failed(): connected. Otherwise why not, with Operation::kConnect, in this order:
//   the result is an error         as the table says for its call
//   getpeername(2) failed          as SO_ERROR says, kReset where that is 0
//   connected to itself            kRefused: nobody listens there (docs/kernel.md 4)
[[nodiscard]] Error JudgeConnect(const ConnectFacts& facts) noexcept;

// True exactly when TCP's own figures say that the peer's FIN arrived: it counts as one received byte
// that is neither read nor waiting to be read. Also after a reset that followed it, with data unread,
// and after our own FIN. False where the figures are missing.
[[nodiscard]] bool FinArrived(const DeathFacts& facts, std::uint64_t bytes_read) noexcept;

// What an errno of a connection means, in the state that the figures show: in TCP's state CLOSE one that
// ICMP may have left behind is a timeout, and the errno is kept (docs/kernel.md 7).
[[nodiscard]] Error OnceClosed(Error error, const DeathFacts& facts) noexcept;

// Why the connection died: always failed(). In this order:
//   the peer's FIN arrived         kEof. TCP: FinArrived; AF_UNIX: recv(2) said 0.
//   `sticky`                       the first telling error that any operation saw
//   SO_ERROR                       what no operation was told
//   nothing                        kReset (kEof when recv said 0 and TCP_INFO could not be read)
// Whoever was told of the errno, it is read by OnceClosed.
// `sticky`: not failed() when no operation saw a telling error (see IsTelling; one that is not
// telling is ignored here as well). `saw_eof`: recv(2) said 0. `bytes_read`: all that recv(2) gave.
[[nodiscard]] Error JudgeDeath(const DeathFacts& facts, const Error& sticky, bool saw_eof,
                               std::uint64_t bytes_read) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_DEATH_H_
