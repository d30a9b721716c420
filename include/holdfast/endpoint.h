// Where to connect to, or to listen: parsed once, with a clear error, before anything is opened.
//
//   "feed.example.com:7000"   a name, looked up anew for every attempt
//   "192.0.2.7:7000"          an IPv4 address
//   "[2001:db8::7]:7000"      an IPv6 address; "[fe80::1%eth0]:7000" with its scope
//   "unix:/run/feed.sock"     a path (unix(7)); at most 107 bytes
//   "unix:@feed"              an abstract name (unix(7), Linux)
//
// The port is decimal, 0 to 65535: getaddrinfo(3) would accept "70000" and truncate it, so it is never
// asked. Service names ("http") are refused: what a service file says is a surprise at 3 a.m.
#ifndef HOLDFAST_ENDPOINT_H_
#define HOLDFAST_ENDPOINT_H_

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <holdfast/error.h>
#include "absl/status/statusor.h"

namespace holdfast {

// A socket address of AF_INET, AF_INET6 or AF_UNIX, or nothing. A value.
class SocketAddress {
 public:
  SocketAddress() noexcept = default;
  // Copies `size` bytes of `address`; more than fit are cut off.
  SocketAddress(const sockaddr* address, socklen_t size) noexcept;

  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] int family() const noexcept { return empty() ? AF_UNSPEC : storage_.ss_family; }
  [[nodiscard]] const sockaddr* data() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage_);
  }
  [[nodiscard]] socklen_t size() const noexcept { return size_; }
  // The port in host order; 0 for AF_UNIX and for nothing.
  [[nodiscard]] std::uint16_t port() const noexcept;
  // "192.0.2.7:7000", "[2001:db8::7]:7000", "unix:/run/feed.sock", "unix:@feed", "unix:" for an
  // unnamed one, "" for nothing. What Endpoint::Parse accepts, where it names something.
  [[nodiscard]] std::string ToString() const;

  friend bool operator==(const SocketAddress& a, const SocketAddress& b) noexcept;

 private:
  sockaddr_storage storage_{};
  socklen_t size_ = 0;
};

class Endpoint {
 public:
  // InvalidArgument says what is wrong with which text. `failure`, where it is given, is told what kind of
  // failure that is: kInvalid, the text; or, where the name of a scope's interface could not be looked
  // up, why not (kLocalAddress: there is none; kResource), which may be otherwise another time.
  [[nodiscard]] static absl::StatusOr<Endpoint> Parse(std::string_view text,
                                                      Error* failure = nullptr);

  // The address itself, for everything but a name.
  [[nodiscard]] const std::optional<SocketAddress>& literal() const noexcept { return literal_; }
  // The name to look up; "" when literal() is set.
  [[nodiscard]] const std::string& host() const noexcept { return host_; }
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  // As it was written.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  Endpoint() = default;

  std::string text_;
  std::string host_;
  std::uint16_t port_ = 0;
  std::optional<SocketAddress> literal_;
};

}  // namespace holdfast

#endif  // HOLDFAST_ENDPOINT_H_
