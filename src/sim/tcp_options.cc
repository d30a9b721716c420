// setsockopt(2), getsockopt(2) and TCP_INFO of a TcpSocket: socket(7), ip(7), ipv6(7), tcp(7);
// net/core/sock.c and tcp_get_info of Linux 6.18.
#include <linux/tcp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "sim/tcp_socket.h"

namespace holdfast::internal::sim {
namespace {

constexpr int kBufferMax = 4'194'304;  // net.core.wmem_max and rmem_max, before they are doubled.
constexpr int kSendBufferMin = 4'608;
constexpr int kReceiveBufferMin = 2'304;
constexpr int kSegment = 1'448;

int Doubled(int value, int least) noexcept {
  return std::max(std::clamp(value, 0, kBufferMax) * 2, least);
}

std::uint32_t Milliseconds(Duration duration) noexcept {
  return static_cast<std::uint32_t>(duration / std::chrono::milliseconds(1));
}

std::uint32_t Low(std::uint64_t value) noexcept { return static_cast<std::uint32_t>(value); }

}  // namespace

int TcpSocket::SetSockOpt(int level, int name, const void* value, socklen_t size) {
  const Call call(*c_);
  if (level == SOL_SOCKET && name == SO_LINGER) {
    if (size < sizeof(linger)) return -EINVAL;
    linger wanted;
    std::memcpy(&wanted, value, sizeof(wanted));
    c_->options_.linger = wanted.l_onoff != 0;
    c_->options_.linger_s = static_cast<std::uint16_t>(std::clamp(wanted.l_linger, 0, 65'535));
    return 0;
  }
  const bool known = level == SOL_SOCKET || level == IPPROTO_TCP || level == IPPROTO_IP ||
                     (level == IPPROTO_IPV6 && domain() == AF_INET6);
  if (!known) return -ENOPROTOOPT;
  int number = 0;
  if (size >= sizeof(number)) {
    std::memcpy(&number, value, sizeof(number));
  } else if (level == IPPROTO_IP && size > 0) {
    number = *static_cast<const std::uint8_t*>(value);  // ip(7): a byte will do.
  } else {
    return -EINVAL;
  }
  return SetOption(level, name, number);
}

int TcpSocket::SetOption(int level, int name, int value) {
  TcpConnection& c = *c_;
  TcpOptions& options = c.options_;
  const bool on = value != 0;
  const auto seconds = [&](std::uint16_t* place) {
    if (value < 1 || value > 32'767) return -EINVAL;
    *place = static_cast<std::uint16_t>(value);
    return 0;
  };
  const auto count = [&](std::uint8_t* place) {
    if (value < 1 || value > 127) return -EINVAL;
    *place = static_cast<std::uint8_t>(value);
    return 0;
  };
  if (level == SOL_SOCKET) {
    switch (name) {
      case SO_REUSEADDR:
        options.reuse_address = on;
        return 0;
      case SO_REUSEPORT:
        options.reuse_port = on;
        return 0;
      case SO_KEEPALIVE:
        if (options.keepalive == on) return 0;
        options.keepalive = on;
        if (c.state_ != TcpState::kSynSent) c.StartKeepalive();
        return 0;
      case SO_SNDBUF:
        options.send_buffer = static_cast<std::uint32_t>(Doubled(value, kSendBufferMin));
        c.WakeWriteSpace();
        return 0;
      case SO_RCVBUF:
        options.receive_buffer = static_cast<std::uint32_t>(Doubled(value, kReceiveBufferMin));
        return 0;
      case SO_BROADCAST:
      case SO_OOBINLINE:
      case SO_PRIORITY:
        return 0;
      default:
        return -ENOPROTOOPT;
    }
  }
  if (level == IPPROTO_IPV6 && domain() == AF_INET6) {
    if (name != IPV6_V6ONLY) return name == IPV6_TCLASS || name == IPV6_RECVERR ? 0 : -ENOPROTOOPT;
    if (c.on_port_) return -EINVAL;
    options.v6_only = on;
    return 0;
  }
  if (level == IPPROTO_IP) {
    if (name == IP_BIND_ADDRESS_NO_PORT) {
      options.bind_without_port = on;
      return 0;
    }
    return name == IP_TOS || name == IP_TTL ? 0 : -ENOPROTOOPT;
  }
  if (level != IPPROTO_TCP) return -ENOPROTOOPT;
  switch (name) {
    case TCP_NODELAY:
      options.nodelay = on;
      return 0;
    case TCP_CORK:
      options.cork = on;
      return 0;
    case TCP_QUICKACK:
    case TCP_DEFER_ACCEPT:
    case TCP_NOTSENT_LOWAT:
      return 0;
    case TCP_KEEPIDLE: {
      const int result = seconds(&options.keepalive_idle_s);
      if (result == 0 && options.keepalive && c.state_ != TcpState::kSynSent) c.StartKeepalive();
      return result;
    }
    case TCP_KEEPINTVL:
      return seconds(&options.keepalive_interval_s);
    case TCP_KEEPCNT:
      return count(&options.keepalive_probes);
    case TCP_SYNCNT:
      return count(&options.syn_retries);
    case TCP_USER_TIMEOUT:
      if (value < 0) return -EINVAL;
      options.user_timeout_ms = static_cast<std::uint32_t>(value);
      return 0;
    default:
      return -ENOPROTOOPT;
  }
}

int TcpSocket::GetSockOpt(int level, int name, void* value, socklen_t* size) {
  const auto copy = [&](const void* from, std::size_t from_size) {
    const std::size_t copied = std::min<std::size_t>(*size, from_size);
    std::memcpy(value, from, copied);
    *size = static_cast<socklen_t>(copied);
    return 0;
  };
  if (level == IPPROTO_TCP && name == TCP_INFO) {
    tcp_info info;
    FillTcpInfo(&info);
    return copy(&info, sizeof(info));
  }
  if (level == SOL_SOCKET && name == SO_LINGER) {
    const linger now{c_->options_.linger ? 1 : 0, c_->options_.linger_s};
    return copy(&now, sizeof(now));
  }
  int number = 0;
  const int result = GetOption(level, name, &number);
  return result != 0 ? result : copy(&number, sizeof(number));
}

int TcpSocket::GetOption(int level, int name, int* value) {
  TcpConnection& c = *c_;
  const TcpOptions& options = c.options_;
  const auto answer = [&](std::size_t number) {
    *value = static_cast<int>(number);
    return 0;
  };
  if (level == SOL_SOCKET) {
    switch (name) {
      case SO_ERROR:
        // Soft errors, too, of a connection that may be in the best of health (docs/kernel.md 5).
        *value = c.TakeError();
        if (*value == 0) *value = std::exchange(c.soft_error_, 0);
        return 0;
      case SO_TYPE:
        return answer(SOCK_STREAM);
      case SO_DOMAIN:
        return answer(static_cast<std::size_t>(domain()));
      case SO_PROTOCOL:
        return answer(IPPROTO_TCP);
      case SO_ACCEPTCONN:
        return answer(c.state_ == TcpState::kListen);
      case SO_REUSEADDR:
        return answer(options.reuse_address);
      case SO_REUSEPORT:
        return answer(options.reuse_port);
      case SO_KEEPALIVE:
        return answer(options.keepalive);
      case SO_SNDBUF:
        return answer(c.send_buffer());
      case SO_RCVBUF:
        return answer(options.receive_buffer);
      default:
        return -ENOPROTOOPT;
    }
  }
  if (level == IPPROTO_IPV6 && domain() == AF_INET6 && name == IPV6_V6ONLY) {
    return answer(options.v6_only);
  }
  if (level == IPPROTO_IP && name == IP_BIND_ADDRESS_NO_PORT) {
    return answer(options.bind_without_port);
  }
  // ip_getsockopt and ipv6_getsockopt differ about levels that are not theirs.
  if (level != IPPROTO_TCP) {
    return level != IPPROTO_IP && domain() == AF_INET ? -EOPNOTSUPP : -ENOPROTOOPT;
  }
  switch (name) {
    case TCP_NODELAY:
      return answer(options.nodelay);
    case TCP_CORK:
      return answer(options.cork);
    case TCP_KEEPIDLE:
      return answer(options.keepalive_idle_s);
    case TCP_KEEPINTVL:
      return answer(options.keepalive_interval_s);
    case TCP_KEEPCNT:
      return answer(options.keepalive_probes);
    case TCP_SYNCNT:
      return answer(options.syn_retries != 0 ? options.syn_retries : 6);
    case TCP_USER_TIMEOUT:
      return answer(options.user_timeout_ms);
    case TCP_MAXSEG:
      return answer(kSegment);
    default:
      return -ENOPROTOOPT;
  }
}

void TcpSocket::FillTcpInfo(tcp_info* info) const {
  const TcpConnection& c = *c_;
  std::memset(info, 0, sizeof(*info));
  info->tcpi_state = static_cast<std::uint8_t>(c.state_);
  if (c.state_ == TcpState::kListen) {
    info->tcpi_unacked = static_cast<std::uint32_t>(c.listener_->queue.size());
    info->tcpi_sacked = static_cast<std::uint32_t>(c.listener_->backlog);
    return;
  }
  const Instant now = c.now();
  info->tcpi_retransmits = c.retransmits_;
  info->tcpi_probes = c.probes_;
  info->tcpi_backoff = c.backoff_;
  info->tcpi_rto = static_cast<std::uint32_t>(c.Timeout() / std::chrono::microseconds(1));
  info->tcpi_snd_mss = kSegment;
  info->tcpi_rcv_mss = kSegment;
  // The queue of a dead socket is gone, and with it what was on its way.
  const std::uint64_t sent = c.alive() ? c.snd_nxt_ - c.snd_una_ : 0;
  info->tcpi_unacked = static_cast<std::uint32_t>((sent + TcpConnection::kSegmentMax - 1) /
                                                  TcpConnection::kSegmentMax);
  info->tcpi_last_data_sent = Milliseconds(now - c.last_sent_);
  info->tcpi_last_data_recv = Milliseconds(now - c.last_received_);
  info->tcpi_last_ack_recv = Milliseconds(now - c.last_ack_);
  info->tcpi_rtt = c.rtt_us_;
  info->tcpi_rttvar = c.rtt_variation_us_;
  info->tcpi_min_rtt = c.rtt_us_;
  info->tcpi_snd_cwnd = 10;
  info->tcpi_rcv_space = c.options_.receive_buffer / 2;
  info->tcpi_total_retrans = c.total_retransmits_;
  info->tcpi_bytes_acked = c.bytes_acked_;
  info->tcpi_bytes_received = c.bytes_received_;
  info->tcpi_segs_out = c.segments_out_;
  info->tcpi_segs_in = c.segments_in_;
  info->tcpi_notsent_bytes = Low(c.write_seq_ - c.snd_nxt_);
  info->tcpi_bytes_sent = c.bytes_sent_;
  info->tcpi_bytes_retrans = c.bytes_retransmitted_;
  info->tcpi_snd_wnd = c.snd_wnd_;
}

}  // namespace holdfast::internal::sim
