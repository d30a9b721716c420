#include "net/socket_setup.h"

#include <string>

#include "core/endpoint_parts.h"
#include "core/error_table.h"
#include "sys/socket_calls.h"

namespace holdfast::internal {
namespace {

SocketSettings ToSettings(const SocketOptions& options) {
  return {.nodelay = options.nodelay,
          .send_buffer = options.send_buffer,
          .receive_buffer = options.receive_buffer,
          .notsent_lowat = options.notsent_lowat};
}

Error ErrorOf(Call call, int result) { return result < 0 ? Classify(call, -result) : Error{}; }

}  // namespace

absl::Status ValidateSocketOptions(const char* owner, const SocketOptions& options) {
  const std::string prefix = std::string(owner) + ".socket.";
  if (options.send_buffer < 0) {
    return absl::InvalidArgumentError(
        prefix + "send_buffer = " + std::to_string(options.send_buffer) + ": not negative");
  }
  if (options.receive_buffer < 0) {
    return absl::InvalidArgumentError(
        prefix + "receive_buffer = " + std::to_string(options.receive_buffer) + ": not negative");
  }
  if (options.notsent_lowat < 0) {
    return absl::InvalidArgumentError(
        prefix + "notsent_lowat = " + std::to_string(options.notsent_lowat) + ": not negative");
  }
  if (!options.bind_address.empty()) {
    const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(options.bind_address);
    if (!endpoint.ok()) {
      return absl::InvalidArgumentError(
          prefix + "bind_address: " + std::string(endpoint.status().message()));
    }
    if (!endpoint->literal().has_value()) {
      return absl::InvalidArgumentError(prefix + "bind_address = \"" + options.bind_address +
                                        "\": an address, not a name");
    }
  }
  return absl::OkStatus();
}

Error PrepareToConnect(Kernel& kernel, int fd, int domain, const SocketOptions& options) noexcept {
  const Error set =
      ErrorOf(Call::kSetsockopt, ApplySettings(kernel, fd, domain, ToSettings(options)));
  if (set.failed() && set.action != Action::kIgnore) return set;
  if (options.on_socket) options.on_socket(fd);
  if (options.bind_address.empty()) return {};
  EndpointParts source;
  std::string_view problem;
  // Create has parsed it: where it fails, its scope cannot be looked up now.
  const Error failure = TakeApart(options.bind_address, &source, &problem);
  if (failure.failed()) return failure;
  if (!source.literal.has_value() || source.literal->family() != domain) {
    // Of another family than this address: the endpoint's next one may fit.
    return {Operation::kBind, ErrorClass::kUnsupported, Action::kNextAddress, 0};
  }
  return ErrorOf(Call::kBind, kernel.Bind(fd, source.literal->data(), source.literal->size()));
}

Error PrepareToListen(Kernel& kernel, int fd, const SocketAddress& address, int backlog,
                      bool reuse_port, const SocketOptions& options) noexcept {
  SocketSettings settings = ToSettings(options);
  settings.reuse_address = address.family() != AF_UNIX;
  settings.reuse_port = reuse_port;
  const Error set =
      ErrorOf(Call::kSetsockopt, ApplySettings(kernel, fd, address.family(), settings));
  if (set.failed() && set.action != Action::kIgnore) return set;
  if (options.on_socket) options.on_socket(fd);
  const Error bound = ErrorOf(Call::kBind, kernel.Bind(fd, address.data(), address.size()));
  if (bound.failed()) return bound;
  return ErrorOf(Call::kListen, kernel.Listen(fd, backlog));
}

void PrepareAccepted(Kernel& kernel, int fd, int domain, const SocketOptions& options) noexcept {
  static_cast<void>(ApplySettings(kernel, fd, domain, ToSettings(options)));
  if (options.on_socket) options.on_socket(fd);
}

}  // namespace holdfast::internal
