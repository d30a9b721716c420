// SocketOptions applied to a descriptor: the public struct meets sys here.
#ifndef HOLDFAST_NET_SOCKET_SETUP_H_
#define HOLDFAST_NET_SOCKET_SETUP_H_

#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include <holdfast/socket_options.h>
#include "absl/status/status.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// InvalidArgument names field and value; `owner` is the options struct that holds these.
[[nodiscard]] absl::Status ValidateSocketOptions(const char* owner, const SocketOptions& options);

// Before connect: options, the user's own, bind. Not failed(): go on.
[[nodiscard]] Error PrepareToConnect(Kernel& kernel, int fd, int domain,
                                     const SocketOptions& options) noexcept;
// Before bind and listen, and the two calls themselves.
[[nodiscard]] Error PrepareToListen(Kernel& kernel, int fd, const SocketAddress& address,
                                    int backlog, bool reuse_port,
                                    const SocketOptions& options) noexcept;
// After accept. Whatever fails here shows in the first receive.
void PrepareAccepted(Kernel& kernel, int fd, int domain, const SocketOptions& options) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_SOCKET_SETUP_H_
