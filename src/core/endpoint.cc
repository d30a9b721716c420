#include <holdfast/endpoint.h>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/endpoint_parts.h"
#include "core/error_codes.h"
#include "core/error_table.h"

namespace holdfast {
namespace {

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

// `text` with a NUL behind it, as the C library wants it; empty where it does not fit.
template <std::size_t kSize>
struct Terminated {
  explicit Terminated(std::string_view text) noexcept {
    if (text.size() >= kSize) return;
    std::memcpy(data, text.data(), text.size());
  }
  char data[kSize] = {};
};

std::optional<SocketAddress> ParseV4(std::string_view host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, Terminated<INET_ADDRSTRLEN>(host).data, &address.sin_addr) != 1) {
    return std::nullopt;
  }
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

// An interface by name, or its index: the kernel wants the index (ipv6(7), sin6_scope_id). 0: neither.
std::uint32_t ParseScope(std::string_view scope, Error* failure) {
  const std::uint32_t index = if_nametoindex(Terminated<IF_NAMESIZE>(scope).data);
  if (index != 0) return index;
  const int error_number = internal::LastErrorNumber();
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(scope.data(), scope.data() + scope.size(), number);
  if (error == std::errc() && end == scope.data() + scope.size() && number != 0) return number;
  *failure = ScopeFailure(error_number);
  return 0;
}

std::optional<SocketAddress> ParseV6(std::string_view host, std::uint16_t port, Error* failure) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  const std::size_t percent = host.find('%');
  if (percent != std::string_view::npos) {
    address.sin6_scope_id = ParseScope(host.substr(percent + 1), failure);
    if (address.sin6_scope_id == 0) return std::nullopt;
  }
  const Terminated<INET6_ADDRSTRLEN> number(host.substr(0, percent));
  if (inet_pton(AF_INET6, number.data, &address.sin6_addr) != 1) return std::nullopt;
  return SocketAddress(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Fills `*parsed` and returns "", or returns what is wrong.
std::string_view ParseUnix(std::string_view path, std::optional<SocketAddress>* parsed) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return "the path is empty";
  if (path.find('\0') != std::string_view::npos) return "the path contains a NUL byte";
  const bool abstract = path.front() == '@';
  if (abstract && path.size() == 1) return "the abstract name is empty";
  // A path needs its terminating NUL; an abstract name is counted, its first byte is the NUL.
  if (path.size() > sizeof(address.sun_path) - 1) return "the path is longer than 107 bytes";
  std::memcpy(address.sun_path, path.data(), path.size());
  if (abstract) address.sun_path[0] = '\0';
  const std::size_t size = offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1);
  parsed->emplace(reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(size));
  return "";
}

// What a resolver would be asked for: letters, digits, '-', '.', '_'. Everything else is a typing error
// that would come back as "name not found" after a time-out.
bool IsHostName(std::string_view host) {
  if (host.empty() || host.size() > internal::kHostSizeMax) return false;
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

// "host:port" or "[host]:port", cut in two; else what is wrong with it.
std::string_view Split(std::string_view text, std::string_view* host, std::string_view* port) {
  if (!text.empty() && text.front() == '[') {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return "'[' without ']'";
    if (text.size() <= close + 1 || text[close + 1] != ':') return "\":port\" must follow ']'";
    *host = text.substr(1, close - 1);
    *port = text.substr(close + 2);
    return "";
  }
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return "no \":port\"";
  if (text.find(':', colon + 1) != std::string_view::npos) {
    return "more than one ':'; write an IPv6 address as [address]:port";
  }
  *host = text.substr(0, colon);
  *port = text.substr(colon + 1);
  return "";
}

// "": `parts` has it. Else what is wrong with the text, or, where `failure` is of another class than
// kInvalid, with its scope.
std::string_view ParseParts(std::string_view text, internal::EndpointParts* parts, Error* failure) {
  if (constexpr std::string_view kUnix = "unix:"; text.substr(0, kUnix.size()) == kUnix) {
    return ParseUnix(text.substr(kUnix.size()), &parts->literal);
  }
  // The functions of libc below read a C string: what stands behind a NUL would be looked at by nobody.
  if (text.find('\0') != std::string_view::npos) return "it contains a NUL byte";
  std::string_view host;
  std::string_view port;
  if (const std::string_view problem = Split(text, &host, &port); !problem.empty()) return problem;
  const std::optional<std::uint16_t> number = ParsePort(port);
  if (!number.has_value()) return "the port is not a number from 0 to 65535";
  parts->port = *number;
  if (text.front() == '[') {
    parts->literal = ParseV6(host, *number, failure);
    if (parts->literal.has_value()) return "";
    return failure->error_class == ErrorClass::kInvalid ? "not an IPv6 address between '[' and ']'"
                                                        : "the interface behind '%'";
  }
  if (host.empty()) return "the host is empty";
  parts->literal = ParseV4(host, *number);
  if (parts->literal.has_value()) return "";
  if (LooksLikeV4(host)) return "not an IPv4 address";
  if (!IsHostName(host)) return "not a host name";
  parts->host = host;
  return "";
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

namespace internal {

Error TakeApart(std::string_view text, EndpointParts* parts, std::string_view* problem) noexcept {
  Error failure{Operation::kResolve, ErrorClass::kInvalid, Action::kStop, 0};
  *problem = ParseParts(text, parts, &failure);
  return problem->empty() ? Error{} : failure;
}

}  // namespace internal

absl::StatusOr<Endpoint> Endpoint::Parse(std::string_view text, Error* failure) {
  internal::EndpointParts parts;
  std::string_view problem;
  const Error error = internal::TakeApart(text, &parts, &problem);
  if (failure != nullptr) *failure = error;
  if (error.failed()) {
    std::string message = "endpoint \"";
    message.append(text).append("\": ").append(problem);
    if (error.error_class != ErrorClass::kInvalid) message.append(": ").append(error.ToString());
    return absl::InvalidArgumentError(message);
  }
  Endpoint endpoint;
  endpoint.text_ = std::string(text);
  endpoint.host_ = std::string(parts.host);
  endpoint.port_ = parts.port;
  endpoint.literal_ = parts.literal;
  return endpoint;
}

}  // namespace holdfast
