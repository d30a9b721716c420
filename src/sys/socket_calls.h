// The small sequences of socket calls that floor 5 needs, each answering plain data (core/socket_facts.h).
//
// They call and report; what the answers mean is judged in machine/death and machine/account, which
// know no kernel. Every function is a straight line: no retry, no policy.
#ifndef HOLDFAST_SYS_SOCKET_CALLS_H_
#define HOLDFAST_SYS_SOCKET_CALLS_H_

#include <optional>

#include <holdfast/endpoint.h>
#include <holdfast/time.h>
#include "core/socket_facts.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// The local and the peer's address; empty where the kernel has none.
[[nodiscard]] SocketAddress LocalAddressOf(Kernel& kernel, int fd) noexcept;
[[nodiscard]] SocketAddress PeerAddressOf(Kernel& kernel, int fd) noexcept;

// getpeername, getsockname, and SO_ERROR where they say that the connect is not what it seems.
// `connect_result`: 0 or the errno that `call` gave.
[[nodiscard]] ConnectFacts ReadConnectFacts(Kernel& kernel, int fd, int domain, Call call,
                                            int connect_result) noexcept;

// TCP_INFO, SIOCOUTQ, SIOCINQ, SO_ERROR: read once, between the last completion and close. SO_ERROR of a
// TCP connection is not read when its death is declared: it may be alive, and then it lies
// (docs/kernel.md 5).
enum class DeathKind { kOfItself, kDeclared };
[[nodiscard]] DeathFacts ReadDeathFacts(Kernel& kernel, int fd, int domain, bool own_fin,
                                        DeathKind kind) noexcept;

// SIOCOUTQ, tcp(7): bytes written and not acknowledged (our FIN counts as one). nullopt on failure.
[[nodiscard]] std::optional<std::uint32_t> ReadUnacked(Kernel& kernel, int fd) noexcept;

// tcpi_state; nullopt when TCP_INFO is not to be had.
[[nodiscard]] std::optional<std::uint8_t> ReadTcpState(Kernel& kernel, int fd) noexcept;

// How long ago something of the peer's kernel last arrived: an acknowledgement (tcpi_last_ack_recv), or
// bytes (tcpi_last_data_recv), which count as no acknowledgement where they acknowledge nothing new.
// nullopt when TCP_INFO is not to be had.
[[nodiscard]] std::optional<Duration> ReadLastHeardAge(Kernel& kernel, int fd) noexcept;

// Gives a live connection up exactly: connect(AF_UNSPEC) twice with the figures read between and after
// (docs/kernel.md, "Giving up a live connection"). Sends a RST; the descriptor stays open.
[[nodiscard]] DisconnectFigures DisconnectTwice(Kernel& kernel, int fd,
                                                std::uint32_t outq_before) noexcept;

// setsockopt(2) calls: these, and SO_OOBINLINE on every TCP socket. 0, or -errno of the first that failed.
struct SocketSettings {
  bool nodelay = false;
  int send_buffer = 0;
  int receive_buffer = 0;
  int notsent_lowat = 0;
  bool reuse_address = false;
  bool reuse_port = false;
};
[[nodiscard]] int ApplySettings(Kernel& kernel, int fd, int domain,
                                const SocketSettings& settings) noexcept;
// The kernel's own limits, a backstop behind ours: keepalive probes from half of `silence_max` on, an
// eighth apart, so that a lost one has followers before our own judgement; death by keepalive or by
// TCP_USER_TIMEOUT after twice `silence_max` (tcp(7), RFC 5482). TCP only. Their failure is not an error.
void ApplyBackstop(Kernel& kernel, int fd, Duration silence_max) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_SYS_SOCKET_CALLS_H_
