// A listening socket that keeps listening.
//
// Out of descriptors or memory it rests (5 ms doubling to 1 s, reset by a success) instead of spinning:
// the connection stays queued in the kernel and is accepted once there is room. Errors of one pending
// connection (accept(2), "Error handling") never stop the listener.
//
//   auto listener = holdfast::Listener::Create(*reactor, {
//       .endpoint = "[::]:7000",
//       .on_accept = [&](holdfast::Listener&, std::unique_ptr<holdfast::Stream> stream) { ... },
//   });
//
// Reactor thread only. No callback runs inside the call that caused it; any method may be called from
// any callback, and the handle may be destroyed in any of them (docs/lifetimes.md). `on_closed` comes
// exactly once and last, unless the handle is destroyed first.
#ifndef HOLDFAST_LISTENER_H_
#define HOLDFAST_LISTENER_H_

#include <cstdint>
#include <memory>
#include <string>

#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include <holdfast/socket_options.h>
#include <holdfast/stream.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"

namespace holdfast {

class Listener;
class Reactor;
namespace internal {
class ListenerCore;
}

struct ListenerStats {
  std::uint64_t accepted = 0;
  std::uint64_t pauses = 0;  // Rests: out of descriptors or memory, or all forbidden.
};

struct ListenerOptions {
  // An address, not a name: "127.0.0.1:0", "[::]:7000", "unix:/run/feed.sock", "unix:@feed". Port 0
  // lets the kernel choose; local() says which.
  std::string endpoint = {};
  // listen(2); the kernel's own bound is net.core.somaxconn.
  int backlog = 4096;
  // SO_REUSEPORT: several reactors share the port, the kernel spreads the connections.
  bool reuse_port = false;
  SocketOptions socket = {};

  // A new connection. Start it, or drop it and it is closed.
  absl::AnyInvocable<void(Listener&, std::unique_ptr<Stream>) const> on_accept = {};
  // The listener ended for good (action kStop): nothing more comes but, after Close, on_closed. Or it
  // rests (any other action: kPause for a shortage, kBackOff for what nobody has seen before); once for
  // each rest. Or there was no memory for a connection, which is closed (kPause), and it goes on. A rest
  // because connections stay forbidden (EPERM) is not told, but counted in stats().pauses.
  absl::AnyInvocable<void(Listener&, const Error&) const> on_error = {};
  // After Close, last.
  absl::AnyInvocable<void(Listener&) const> on_closed = {};
};

class Listener {
 public:
  // Binds and listens at once (SO_REUSEADDR is set on TCP); accepting begins with the next turn.
  // InvalidArgument names the field and the value; else Error::ToStatus of bind or listen, which is
  // FailedPrecondition for an address that is taken. `user` is returned by user().
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Listener>> Create(Reactor& reactor,
                                                                        ListenerOptions options,
                                                                        void* user = nullptr);
  // Stops listening; streams it made live on. Allowed in every callback, its own included.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Stops listening, frees the port in this turn or the next; on_closed is last.
  void Close();
  [[nodiscard]] SocketAddress local() const noexcept;
  [[nodiscard]] ListenerStats stats() const noexcept;
  [[nodiscard]] void* user() const noexcept;

 private:
  friend class internal::ListenerCore;
  Listener() noexcept = default;
  internal::ListenerCore* core_ = nullptr;  // Null only where Create failed.
};

}  // namespace holdfast

#endif  // HOLDFAST_LISTENER_H_
