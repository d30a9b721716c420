// What the runtime reads about a socket, as plain data.
//
// The floor that reads (sys) judges nothing, and the floor that judges (machine/death.h,
// machine/account.h) reads nothing: these structs are all that passes between them. So every judgement
// can be tested with the figures of a kernel that no test can conjure up.
//
// Sources: tcp(7) TCP_INFO, SIOCINQ, SIOCOUTQ; linux/tcp.h struct tcp_info; linux/sockios.h
// SIOCOUTQNSD; tcp_ioctl, tcp_get_info and tcp_disconnect in net/ipv4/tcp.c.
#ifndef HOLDFAST_CORE_SOCKET_FACTS_H_
#define HOLDFAST_CORE_SOCKET_FACTS_H_

#include <cstdint>

#include "core/error_table.h"

namespace holdfast::internal {

// Values of tcpi_state that matter here. netinet/tcp.h has them, but it belongs to sys, where
// static_asserts hold these to it.
inline constexpr std::uint8_t kTcpClose = 7;
inline constexpr std::uint8_t kTcpCloseWait = 8;

// A handshake that ended, one way or the other.
struct ConnectFacts {
  int connect_result = 0;            // 0 or an errno (> 0).
  Call call = Call::kConnectResult;  // Whose result that is.
  int peer_name_error = 0;           // 0 or the errno of getpeername(2).
  int socket_error = 0;              // SO_ERROR, read when getpeername failed; else 0.
  bool self = false;                 // TCP: the local address is the peer's.
  bool is_unix = false;              // The socket is AF_UNIX.
  bool is_ipv6 = false;              // The socket is AF_INET6.
};

// A connection at its end, after every operation on it is settled and before it is shut or closed.
struct DeathFacts {
  // False on AF_UNIX, which has none of the figures below but socket_error.
  bool tcp = false;
  bool info_valid = false;  // TCP_INFO answered, long enough for the fields here.
  std::uint8_t tcp_state = 0;
  std::uint64_t bytes_acked = 0;     // Counts the SYN of an active opener, and our FIN once acked.
  std::uint64_t bytes_received = 0;  // Counts the peer's FIN.
  std::uint32_t notsent_bytes = 0;   // Written, never transmitted; counts our FIN.
  std::uint32_t rtt_us = 0;
  std::uint32_t retransmits = 0;  // Of the connection's life (tcpi_total_retrans).
  // How long ago the peer's kernel last acknowledged something.
  std::uint32_t last_ack_recv_ms = 0;
  bool outq_valid = false;
  std::uint32_t outq = 0;  // SIOCOUTQ: written, not acknowledged; counts our FIN.
  std::uint32_t inq = 0;   // SIOCINQ: received, not read.
  int socket_error = 0;    // SO_ERROR, read once; 0 when there was none.
  bool own_fin = false;    // We shut the write side, so a FIN of ours has a sequence number.
};

// What giving up a live connection showed: docs/kernel.md, "Giving up a live connection".
struct DisconnectFigures {
  bool valid = false;             // All calls succeeded.
  std::uint32_t outq_before = 0;  // SIOCOUTQ before any disconnect.
  std::uint32_t q1 = 0;           // SIOCOUTQ after the first disconnect.
  std::uint32_t n1 = 0;           // SIOCOUTQNSD after the first disconnect.
  std::uint32_t q2 = 0;           // SIOCOUTQ after the second.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_SOCKET_FACTS_H_
