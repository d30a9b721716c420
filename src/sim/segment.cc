#include "sim/segment.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "base/random.h"

namespace holdfast::internal::sim {
namespace {

constexpr std::array<std::uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

// Two words at a time through splitmix64, whose constants are the same everywhere.
std::uint64_t MixIp(std::uint64_t state, const std::array<std::uint8_t, 16>& ip) noexcept {
  std::uint64_t words[2];
  std::memcpy(words, ip.data(), sizeof(words));
  state ^= words[0];
  state = SplitMix64(state) ^ words[1];
  return SplitMix64(state);
}

}  // namespace

TcpAddress TcpAddress::V4(std::uint32_t host_order) noexcept {
  TcpAddress result;
  std::copy(kMapped.begin(), kMapped.end(), result.ip.begin());
  for (std::size_t i = 0; i < 4; ++i) {
    result.ip[12 + i] = static_cast<std::uint8_t>(host_order >> (24 - 8 * i));
  }
  return result;
}

TcpAddress TcpAddress::From(const sockaddr* address) noexcept {
  TcpAddress result;
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof(v4));
    result = V4(ntohl(v4.sin_addr.s_addr));
    result.port = ntohs(v4.sin_port);
  } else if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof(v6));
    std::memcpy(result.ip.data(), &v6.sin6_addr, result.ip.size());
    result.port = ntohs(v6.sin6_port);
  }
  return result;
}

SocketAddress TcpAddress::ToSocketAddress(int domain) const noexcept {
  if (domain == AF_INET) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    if (is_v4()) std::memcpy(&v4.sin_addr, ip.data() + 12, 4);
    return SocketAddress(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  std::memcpy(&v6.sin6_addr, ip.data(), ip.size());
  return SocketAddress(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
}

std::string TcpAddress::ToString() const {
  return ToSocketAddress(is_v4() ? AF_INET : AF_INET6).ToString();
}

bool TcpAddress::is_v4() const noexcept {
  return std::equal(kMapped.begin(), kMapped.end(), ip.begin());
}

bool TcpAddress::is_any() const noexcept {
  const auto begin = is_v4() ? ip.begin() + 12 : ip.begin();
  return std::all_of(begin, ip.end(), [](std::uint8_t byte) { return byte == 0; });
}

bool TcpAddress::is_loopback() const noexcept {
  if (is_v4()) return ip[12] == 127;
  return ip[15] == 1 &&
         std::all_of(ip.begin(), ip.end() - 1, [](std::uint8_t byte) { return byte == 0; });
}

bool TcpAddress::is_group() const noexcept {
  if (!is_v4()) return ip[0] == 0xff;
  return ip[12] >= 224 && (ip[12] < 240 || (ip[12] & ip[13] & ip[14] & ip[15]) == 255);
}

std::size_t TcpIpHash::operator()(const std::array<std::uint8_t, 16>& ip) const noexcept {
  return MixIp(0, ip);
}

std::size_t TcpTupleHash::operator()(const TcpTuple& tuple) const noexcept {
  const std::uint64_t ports = std::uint64_t{tuple.local.port} << 16 | tuple.peer.port;
  return MixIp(MixIp(ports, tuple.local.ip), tuple.peer.ip);
}

}  // namespace holdfast::internal::sim
