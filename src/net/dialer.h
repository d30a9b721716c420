// One attempt: an endpoint, its addresses in turn, until one is verified or none is left.
//
// The dialer owns the sockets that are not yet up. Every address gets a fresh one; never are two
// connects in flight; a success that comes after its deadline is closed unseen. Addresses are tried
// serially, starting behind the one that the last attempt ended with; of several failures the most
// telling is reported (machine/death.h), with its address.
//
// Where the attempt stands is one enum; the dialer has no timer of its own but names its next deadline.
#ifndef HOLDFAST_NET_DIALER_H_
#define HOLDFAST_NET_DIALER_H_

#include <cstdint>
#include <memory>

#include <holdfast/endpoint.h>
#include <holdfast/socket_options.h>
#include "backend/socket.h"
#include "base/try_vector.h"
#include "core/endpoint_parts.h"
#include "net/resolver.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

// A verified connection, ready to be used.
struct Dialed {
  std::unique_ptr<Socket> socket;
  SocketAddress local;
  SocketAddress peer;
};

// Each call is the last thing that the dialer does before it returns to the loop.
class DialerOwner {
 public:
  // The first connect of the attempt is in flight.
  virtual void OnDialConnecting() noexcept = 0;
  virtual void OnDialed(Dialed dialed) noexcept = 0;
  // The attempt failed. Nothing is in flight.
  virtual void OnDialFailed(const Error& error, const SocketAddress& peer) noexcept = 0;
  // After Cancel of a connect: nothing is in flight any more.
  virtual void OnDialCancelled() noexcept = 0;
  // next_deadline() is earlier than it was. Not the last thing: nothing may be ended in it.
  virtual void OnDeadlineChanged() noexcept = 0;

 protected:
  ~DialerOwner() = default;
};

struct DialOptions {
  const SocketOptions* socket = nullptr;
  Duration connect_timeout{0};  // For one address.
  Duration attempt_timeout{0};  // For all of it.
};

class Dialer final : public SocketEvents, public ResolverClient {
 public:
  Dialer(ReactorCore& core, DialerOwner& owner) noexcept
      : core_(core), owner_(owner), resolver_(core, *this) {}
  ~Dialer() { HOLDFAST_CHECK(stage_ == Stage::kIdle); }
  Dialer(const Dialer&) = delete;
  Dialer& operator=(const Dialer&) = delete;

  // Requires: !busy(). Called from the loop: may call the owner before it returns. `endpoint` was
  // checked when the options were; `index` is its place among them.
  void Start(const EndpointParts& endpoint, std::size_t index, const DialOptions& options) noexcept;
  // Requires: busy(). During a look-up, which is simply forgotten: busy() is false at once, and nothing
  // follows. Else OnDialCancelled follows, from the loop, and busy() is true until then.
  void Cancel() noexcept;
  [[nodiscard]] bool busy() const noexcept { return stage_ != Stage::kIdle; }

  [[nodiscard]] Instant next_deadline() const noexcept;
  void OnDeadline(Instant now) noexcept;

  // SocketEvents. Only connects are ever started here.
  void OnConnect(Socket& socket, Result result) noexcept override;
  void OnAccept(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }
  void OnReceive(Socket&, Result, const std::byte*) noexcept override { HOLDFAST_CHECK(false); }
  void OnSend(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }
  // ResolverClient.
  void OnResolved(const Error& error, TryVector<SocketAddress> addresses) noexcept override;

 private:
  enum class Stage : std::uint8_t {
    kIdle,        // Nothing in flight.
    kResolving,   // A look-up is; the attempt's deadline runs.
    kConnecting,  // A connect is; the address's and the attempt's deadlines run.
    kExpired,  // As kConnecting, cancelled because its address's deadline passed; the attempt's runs.
    kTimedOut,   // As kConnecting, cancelled because the attempt's deadline passed. No deadline.
    kCancelled,  // As kConnecting, cancelled by the owner. No deadline.
  };

  void TryAddresses(std::size_t first) noexcept;
  // True when a connect is in flight.
  [[nodiscard]] bool TryAddress(const SocketAddress& address) noexcept;
  void Note(const Error& error, const SocketAddress& peer) noexcept;
  void FailForMemory() noexcept;
  void CloseSocket() noexcept;
  void Fail() noexcept;

  ReactorCore& core_;
  DialerOwner& owner_;
  Resolver resolver_;
  Stage stage_ = Stage::kIdle;
  DialOptions options_;
  std::unique_ptr<Socket> socket_;
  TryVector<SocketAddress> addresses_;  // In the order in which they are tried.
  std::size_t index_ = 0;               // Of the address that is being tried.
  std::size_t endpoint_ = 0;            // Index of the endpoint, for last_.
  TryVector<SocketAddress> last_;       // By endpoint: the one that its last attempt ended with.
  Error error_{};                       // The most telling so far, and its address.
  SocketAddress error_peer_;
  Instant connect_deadline_ = kNever;
  Instant attempt_deadline_ = kNever;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_DIALER_H_
