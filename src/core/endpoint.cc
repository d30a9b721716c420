#include <holdfast/endpoint.h>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/error_codes.h"
#include "core/error_table.h"

namespace holdfast {
namespace {

constexpr std::size_t kHostSizeMax = 253;  // RFC 1035, 2.3.4, as text.

absl::Status Bad(std::string_view text, std::string_view why) {
  std::string message = "endpoint \"";
  message.append(text).append("\": ").append(why);
  return absl::InvalidArgumentError(message);
}

// Decimal digits only: strtol and getaddrinfo(3) take signs, spaces and "70000".
std::optional<std::uint16_t> ParsePort(std::string_view text) {
  if (text.empty() || text.size() > 5) return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > 65535) {
    return std::nullopt;
  }
  return static_cast<std::uint16_t>(value);
}

std::optional<SocketAddress> ParseV4(const std::string& host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) return std::nullopt;
  return SocketAddress(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Why if_nametoindex(3) failed: there is no such interface, or its own socket was refused. What the socket
// met is mostly hidden by what glibc tries next (2.36: EMFILE ends as the ENOENT of a file in /proc).
Error ScopeFailure(int error_number) {
  Error error = internal::Classify(internal::Call::kConnect, error_number);
  if (error.error_class != ErrorClass::kLocalAddress &&
      error.error_class != ErrorClass::kResource) {
    error = internal::Classify(internal::Call::kSocket, error_number);
  }
  if (error.error_class != ErrorClass::kLocalAddress &&
      error.error_class != ErrorClass::kResource) {
    error = {Operation::kResolve, ErrorClass::kResource, Action::kBackOff, 0};
  }
  error.operation = Operation::kResolve;
  return error;
}

std::optional<SocketAddress> ParseV6(const std::string& host, std::uint16_t port, Error* failure) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  std::string number = host;
  if (const std::size_t percent = host.find('%'); percent != std::string::npos) {
    const std::string scope = host.substr(percent + 1);
    number.resize(percent);
    // An interface by name, or its index: the kernel wants the index (ipv6(7), sin6_scope_id).
    address.sin6_scope_id = if_nametoindex(scope.c_str());
    if (address.sin6_scope_id == 0) {
      const int error_number = internal::LastErrorNumber();
      const auto [end, error] =
          std::from_chars(scope.data(), scope.data() + scope.size(), address.sin6_scope_id);
      if (error != std::errc() || end != scope.data() + scope.size() ||
          address.sin6_scope_id == 0) {
        *failure = ScopeFailure(error_number);
        return std::nullopt;
      }
    }
  }
  if (inet_pton(AF_INET6, number.c_str(), &address.sin6_addr) != 1) return std::nullopt;
  return SocketAddress(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

absl::StatusOr<SocketAddress> ParseUnix(std::string_view text, std::string_view path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return Bad(text, "the path is empty");
  if (path.find('\0') != std::string_view::npos) return Bad(text, "the path contains a NUL byte");
  const bool abstract = path.front() == '@';
  if (abstract && path.size() == 1) return Bad(text, "the abstract name is empty");
  // A path needs its terminating NUL; an abstract name is counted, its first byte is the NUL.
  if (path.size() > sizeof(address.sun_path) - 1) {
    return Bad(text, "the path is longer than 107 bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (abstract) address.sun_path[0] = '\0';
  const std::size_t size = offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1);
  return SocketAddress(reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(size));
}

// What a resolver would be asked for: letters, digits, '-', '.', '_'. Everything else is a typing error
// that would come back as "name not found" after a time-out.
bool IsHostName(std::string_view host) {
  if (host.empty() || host.size() > kHostSizeMax) return false;
  std::size_t label = 0;
  for (std::size_t i = 0; i < host.size(); ++i) {
    const char c = host[i];
    if (c == '.') {
      if (label == 0) return false;
      label = 0;
      continue;
    }
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (!allowed || ++label > 63) return false;
  }
  return true;
}

// "1.2.3" or "300.1.1.1" is a mistyped address, not a name: glibc would read it as one of the old
// forms of inet_aton(3), or ask the resolver. A name's last label is never all digits (RFC 3696, 2).
bool LooksLikeV4(std::string_view host) {
  const std::size_t dot = host.rfind('.');
  const std::string_view last = dot == std::string_view::npos ? host : host.substr(dot + 1);
  return !last.empty() &&
         std::all_of(last.begin(), last.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

SocketAddress::SocketAddress(const sockaddr* address, socklen_t size) noexcept
    : size_(std::min<socklen_t>(size, sizeof(storage_))) {
  if (size_ < sizeof(sa_family_t)) size_ = 0;
  if (size_ > 0) std::memcpy(&storage_, address, size_);
}

std::uint16_t SocketAddress::port() const noexcept {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
  if (family() == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
  }
  return 0;
}

std::string SocketAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  switch (family()) {
    case AF_INET: {
      const auto& address = reinterpret_cast<const sockaddr_in&>(storage_);
      inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
      return std::string(text) + ":" + std::to_string(port());
    }
    case AF_INET6: {
      const auto& address = reinterpret_cast<const sockaddr_in6&>(storage_);
      inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof(text));
      std::string host = text;
      if (address.sin6_scope_id != 0) {
        char name[IF_NAMESIZE] = {};
        host += "%";
        host += if_indextoname(address.sin6_scope_id, name) != nullptr
                    ? std::string(name)
                    : std::to_string(address.sin6_scope_id);
      }
      return "[" + host + "]:" + std::to_string(port());
    }
    case AF_UNIX: {
      const auto& address = reinterpret_cast<const sockaddr_un&>(storage_);
      const std::size_t offset = offsetof(sockaddr_un, sun_path);
      if (size_ <= offset) return "unix:";
      const std::size_t size = size_ - offset;
      if (address.sun_path[0] == '\0') {
        return "unix:@" + std::string(address.sun_path + 1, size - 1);
      }
      return "unix:" + std::string(address.sun_path, strnlen(address.sun_path, size));
    }
    default:
      return empty() ? "" : "family " + std::to_string(family());
  }
}

bool operator==(const SocketAddress& a, const SocketAddress& b) noexcept {
  return a.size_ == b.size_ && std::memcmp(&a.storage_, &b.storage_, a.size_) == 0;
}

absl::StatusOr<Endpoint> Endpoint::Parse(std::string_view text, Error* failure) {
  Error ignored;
  if (failure == nullptr) failure = &ignored;
  *failure = {Operation::kResolve, ErrorClass::kInvalid, Action::kStop, 0};
  Endpoint endpoint;
  endpoint.text_ = std::string(text);
  if (constexpr std::string_view kUnix = "unix:"; text.substr(0, kUnix.size()) == kUnix) {
    absl::StatusOr<SocketAddress> address = ParseUnix(text, text.substr(kUnix.size()));
    if (!address.ok()) return address.status();
    endpoint.literal_ = *address;
    return endpoint;
  }

  std::string_view host;
  std::string_view port;
  const bool bracketed = !text.empty() && text.front() == '[';
  if (bracketed) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return Bad(text, "'[' without ']'");
    if (text.size() <= close + 1 || text[close + 1] != ':') {
      return Bad(text, "\":port\" must follow ']'");
    }
    host = text.substr(1, close - 1);
    port = text.substr(close + 2);
  } else {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos) return Bad(text, "no \":port\"");
    if (text.find(':', colon + 1) != std::string_view::npos) {
      return Bad(text, "more than one ':'; write an IPv6 address as [address]:port");
    }
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
  }
  const std::optional<std::uint16_t> number = ParsePort(port);
  if (!number.has_value()) return Bad(text, "the port is not a number from 0 to 65535");
  endpoint.port_ = *number;

  const std::string host_text(host);
  if (bracketed) {
    endpoint.literal_ = ParseV6(host_text, *number, failure);
    if (!endpoint.literal_.has_value()) {
      return Bad(text, failure->error_class == ErrorClass::kInvalid
                           ? "not an IPv6 address between '[' and ']'"
                           : "the interface behind '%': " + failure->ToString());
    }
    return endpoint;
  }
  if (host.empty()) return Bad(text, "the host is empty");
  endpoint.literal_ = ParseV4(host_text, *number);
  if (endpoint.literal_.has_value()) return endpoint;
  if (LooksLikeV4(host)) return Bad(text, "not an IPv4 address");
  if (!IsHostName(host)) return Bad(text, "not a host name");
  endpoint.host_ = host_text;
  return endpoint;
}

}  // namespace holdfast
