#include "sys/socket_calls.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace holdfast::internal {
namespace {

// net/tcp_states.h, which user space does not get; asserted against the constants of the machines.
static_assert(kTcpClose == 7 && kTcpCloseWait == 8);

// Older kernels answer a shorter TCP_INFO: what follows up to here is what we need (Linux 4.6).
constexpr std::size_t kTcpInfoNeeded =
    offsetof(tcp_info, tcpi_notsent_bytes) + sizeof(tcp_info::tcpi_notsent_bytes);

bool ReadTcpInfo(Kernel& kernel, int fd, tcp_info* info) noexcept {
  std::memset(info, 0, sizeof(*info));
  socklen_t size = sizeof(*info);
  return kernel.GetSockOpt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 && size >= kTcpInfoNeeded;
}

int ReadSocketError(Kernel& kernel, int fd) noexcept {
  int error = 0;
  socklen_t size = sizeof(error);
  return kernel.GetSockOpt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : 0;
}

int Set(Kernel& kernel, int fd, int level, int name, int value) noexcept {
  return kernel.SetSockOpt(fd, level, name, &value, sizeof(value));
}

bool IsTcp(int domain) noexcept { return domain == AF_INET || domain == AF_INET6; }

// Whole seconds, rounded down, as keepalive counts them (tcp(7)); at least one, at most 32767.
int Seconds(Duration duration) noexcept {
  const auto count = std::chrono::floor<std::chrono::seconds>(duration).count();
  return static_cast<int>(std::clamp<std::int64_t>(count, 1, 32767));
}

constexpr int kKeepaliveProbesMax = 127;  // MAX_TCP_KEEPCNT

}  // namespace

SocketAddress LocalAddressOf(Kernel& kernel, int fd) noexcept {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  return kernel.GetSockName(fd, address, &size) == 0 ? SocketAddress(address, size)
                                                     : SocketAddress();
}

SocketAddress PeerAddressOf(Kernel& kernel, int fd) noexcept {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  return kernel.GetPeerName(fd, address, &size) == 0 ? SocketAddress(address, size)
                                                     : SocketAddress();
}

ConnectFacts ReadConnectFacts(Kernel& kernel, int fd, int domain, Call call,
                              int connect_result) noexcept {
  ConnectFacts facts;
  facts.connect_result = connect_result;
  facts.call = call;
  facts.is_unix = domain == AF_UNIX;
  facts.is_ipv6 = domain == AF_INET6;
  if (connect_result != 0) return facts;
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  facts.peer_name_error = -kernel.GetPeerName(fd, address, &size);
  if (facts.peer_name_error != 0) {
    facts.socket_error = ReadSocketError(kernel, fd);
  } else if (IsTcp(domain)) {
    facts.self = SocketAddress(address, size) == LocalAddressOf(kernel, fd);
  }
  return facts;
}

DeathFacts ReadDeathFacts(Kernel& kernel, int fd, int domain, bool own_fin,
                          DeathKind kind) noexcept {
  DeathFacts facts;
  facts.tcp = IsTcp(domain);
  facts.own_fin = own_fin;
  if (kind == DeathKind::kOfItself || !facts.tcp) facts.socket_error = ReadSocketError(kernel, fd);
  tcp_info info;
  if (facts.tcp && ReadTcpInfo(kernel, fd, &info)) {
    facts.info_valid = true;
    facts.tcp_state = info.tcpi_state;
    facts.bytes_acked = info.tcpi_bytes_acked;
    facts.bytes_received = info.tcpi_bytes_received;
    facts.notsent_bytes = info.tcpi_notsent_bytes;
    facts.rtt_us = info.tcpi_rtt;
    facts.retransmits = info.tcpi_total_retrans;
    facts.last_ack_recv_ms = info.tcpi_last_ack_recv;
  }
  if (const auto unacked = ReadUnacked(kernel, fd)) {
    facts.outq_valid = true;
    facts.outq = *unacked;
  }
  int inq = 0;
  if (kernel.Ioctl(fd, SIOCINQ, &inq) == 0) facts.inq = static_cast<std::uint32_t>(inq);
  return facts;
}

std::optional<std::uint32_t> ReadUnacked(Kernel& kernel, int fd) noexcept {
  int value = 0;
  if (kernel.Ioctl(fd, SIOCOUTQ, &value) < 0) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

std::optional<std::uint8_t> ReadTcpState(Kernel& kernel, int fd) noexcept {
  tcp_info info;
  if (!ReadTcpInfo(kernel, fd, &info)) return std::nullopt;
  return info.tcpi_state;
}

std::optional<Duration> ReadLastHeardAge(Kernel& kernel, int fd) noexcept {
  tcp_info info;
  if (!ReadTcpInfo(kernel, fd, &info)) return std::nullopt;
  return std::chrono::milliseconds(std::min(info.tcpi_last_ack_recv, info.tcpi_last_data_recv));
}

DisconnectFigures DisconnectTwice(Kernel& kernel, int fd, std::uint32_t outq_before) noexcept {
  DisconnectFigures figures;
  figures.outq_before = outq_before;
  sockaddr unspecified{};
  unspecified.sa_family = AF_UNSPEC;
  int q1 = 0;
  int n1 = 0;
  int q2 = 0;
  figures.valid = kernel.Connect(fd, &unspecified, sizeof(unspecified)) == 0 &&
                  kernel.Ioctl(fd, SIOCOUTQ, &q1) == 0 && kernel.Ioctl(fd, SIOCOUTQNSD, &n1) == 0 &&
                  kernel.Connect(fd, &unspecified, sizeof(unspecified)) == 0 &&
                  kernel.Ioctl(fd, SIOCOUTQ, &q2) == 0;
  figures.q1 = static_cast<std::uint32_t>(q1);
  figures.n1 = static_cast<std::uint32_t>(n1);
  figures.q2 = static_cast<std::uint32_t>(q2);
  return figures;
}

int ApplySettings(Kernel& kernel, int fd, int domain, const SocketSettings& settings) noexcept {
  int result = 0;
  const auto set = [&](bool wanted, int level, int name, int value) {
    if (wanted && result == 0) result = Set(kernel, fd, level, name, value);
  };
  set(settings.reuse_address, SOL_SOCKET, SO_REUSEADDR, 1);
  set(settings.reuse_port, SOL_SOCKET, SO_REUSEPORT, 1);
  set(settings.send_buffer > 0, SOL_SOCKET, SO_SNDBUF, settings.send_buffer);
  set(settings.receive_buffer > 0, SOL_SOCKET, SO_RCVBUF, settings.receive_buffer);
  set(settings.nodelay && IsTcp(domain), IPPROTO_TCP, TCP_NODELAY, 1);
  // An urgent byte (tcp(7), MSG_OOB) is then read like any other. Taken out of the stream it would be
  // counted as received and never be read, and so look like the peer's FIN (machine/death.h).
  set(IsTcp(domain), SOL_SOCKET, SO_OOBINLINE, 1);
  set(settings.notsent_lowat > 0 && IsTcp(domain), IPPROTO_TCP, TCP_NOTSENT_LOWAT,
      settings.notsent_lowat);
  return result;
}

void ApplyBackstop(Kernel& kernel, int fd, Duration silence_max) noexcept {
  const Duration silence = std::min<Duration>(silence_max, std::chrono::hours(24));
  const int idle = Seconds(silence / 2);
  const int interval = Seconds(silence / 8);
  const int probes = std::clamp((2 * Seconds(silence) - idle) / interval, 1, kKeepaliveProbesMax);
  const auto dead = std::chrono::ceil<std::chrono::milliseconds>(silence * 2).count();
  static_cast<void>(Set(kernel, fd, SOL_SOCKET, SO_KEEPALIVE, 1));
  static_cast<void>(Set(kernel, fd, IPPROTO_TCP, TCP_KEEPIDLE, idle));
  static_cast<void>(Set(kernel, fd, IPPROTO_TCP, TCP_KEEPINTVL, interval));
  static_cast<void>(Set(kernel, fd, IPPROTO_TCP, TCP_KEEPCNT, probes));
  static_cast<void>(Set(kernel, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(dead)));
}

}  // namespace holdfast::internal
