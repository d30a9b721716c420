// What travels between the TCP stacks of simulated hosts.
//
// A segment is like one of RFC 9293, with three liberties that keep a simulation small. It may
// carry up to 64 KiB (as between a sender and a receiver that both offload), so a message is one
// event. Sequence numbers have 64 bits and never wrap: every connection of a world starts at a
// multiple of 2^36 that no other one uses, so what is left over from an older connection never fits
// a newer one. And an ICMP message is a segment as well, with the error it stands for.
#ifndef HOLDFAST_SIM_SEGMENT_H_
#define HOLDFAST_SIM_SEGMENT_H_

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include <holdfast/endpoint.h>

namespace holdfast::internal::sim {

// An address and a port of either family; IPv4 is kept as ::ffff:a.b.c.d, as a dual-stack socket
// sees it. A value.
struct TcpAddress {
  std::array<std::uint8_t, 16> ip{};
  std::uint16_t port = 0;  // Host order.

  // Of AF_INET or AF_INET6; anything else is [::]:0.
  [[nodiscard]] static TcpAddress From(const sockaddr* address) noexcept;
  [[nodiscard]] static TcpAddress V4(std::uint32_t host_order) noexcept;
  // For a socket of `domain`: AF_INET wants is_v4().
  [[nodiscard]] SocketAddress ToSocketAddress(int domain) const noexcept;
  [[nodiscard]] std::string ToString() const;

  [[nodiscard]] bool is_v4() const noexcept;
  [[nodiscard]] bool is_any() const noexcept;       // 0.0.0.0 or ::
  [[nodiscard]] bool is_loopback() const noexcept;  // 127.0.0.0/8 or ::1
  [[nodiscard]] bool is_group() const noexcept;     // Broadcast or multicast.

  friend bool operator==(const TcpAddress&, const TcpAddress&) noexcept = default;
};

// The two ends of a connection as one of them sees it.
struct TcpTuple {
  TcpAddress local;
  TcpAddress peer;

  friend bool operator==(const TcpTuple&, const TcpTuple&) noexcept = default;
};

struct TcpTupleHash {
  std::size_t operator()(const TcpTuple& tuple) const noexcept;
};

struct TcpIpHash {
  std::size_t operator()(const std::array<std::uint8_t, 16>& ip) const noexcept;
};

inline constexpr std::uint8_t kSyn = 1;
inline constexpr std::uint8_t kAck = 2;
inline constexpr std::uint8_t kFin = 4;
inline constexpr std::uint8_t kRst = 8;

struct Segment {
  TcpAddress from;
  TcpAddress to;
  std::uint64_t seq = 0;
  std::uint64_t ack = 0;
  std::uint32_t window = 0;
  std::uint8_t flags = 0;
  bool owned = false;        // Sent inside of connect(2), which still holds the socket.
  bool from_box = false;     // A box on the way speaks for the peer (tcp_faults.cc).
  int icmp_error = 0;        // Not 0: an ICMP message about the segment at `seq`, an errno.
  std::uint64_t opener = 0;  // SYN: the number of the connection that opens.
  std::string payload = {};

  [[nodiscard]] bool has(std::uint8_t flag) const noexcept { return (flags & flag) != 0; }
  // SYN and FIN take a sequence number each.
  [[nodiscard]] std::uint64_t end() const noexcept {
    return seq + payload.size() + (has(kSyn) ? 1 : 0) + (has(kFin) ? 1 : 0);
  }
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_SEGMENT_H_
