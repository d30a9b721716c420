// Names, looked up off the loop.
//
// getaddrinfo(3) blocks, for ten seconds when it wants to, and cannot be cancelled. So it runs on
// detached threads, at most four a kernel (which for Linux is a process), started when there is
// something to look up and gone when there is not; the result is posted to the reactor. A look-up that
// nobody waits for any more is orphaned, not awaited: whoever comes last, the thread or the reactor,
// frees it. c-ares was rejected: it is a second resolver with its own idea of nsswitch.conf.
//
// A kernel must outlive the look-ups that are going on in it (ReactorOptions::kernel); what waits for a
// thread when its reactor dies is forgotten without another call.
#ifndef HOLDFAST_NET_RESOLVER_H_
#define HOLDFAST_NET_RESOLVER_H_

#include <cstdint>
#include <string_view>

#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include "base/try_vector.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

// No more addresses than this are taken from one answer: what a resolver sends must not grow memory.
inline constexpr std::size_t kAddressesMax = 64;

class ResolveRequest;

class ResolverClient {
 public:
  // On the reactor's thread. Not failed(): at least one address. Once for each Resolve that was not
  // cancelled.
  virtual void OnResolved(const Error& error, TryVector<SocketAddress> addresses) noexcept = 0;

 protected:
  ~ResolverClient() = default;
};

// One look-up at a time. Destroying it cancels.
class Resolver {
 public:
  Resolver(ReactorCore& core, ResolverClient& client) noexcept : core_(core), client_(client) {}
  ~Resolver() { Cancel(); }
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // Requires: !busy(), and a host of at most kHostSizeMax bytes. Never calls back from inside this call.
  // False when there is no memory: nothing follows.
  [[nodiscard]] bool Resolve(std::string_view host, std::uint16_t port) noexcept;
  // The client hears nothing of it; the thread finishes on its own.
  void Cancel() noexcept;
  [[nodiscard]] bool busy() const noexcept { return request_ != nullptr; }

 private:
  friend class ResolveRequest;

  ReactorCore& core_;
  ResolverClient& client_;
  ResolveRequest* request_ = nullptr;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_RESOLVER_H_
