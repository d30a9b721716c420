#include "net/listener_core.h"

#include <new>

#include "core/error_codes.h"
#include "core/error_table.h"
#include "core/out_of_memory.h"
#include "net/options.h"
#include "net/socket_setup.h"
#include "net/stream_core.h"
#include "sys/socket_calls.h"

namespace holdfast {
namespace internal {
namespace {

// Connections in a row that may be forbidden without a rest.
constexpr std::uint32_t kForbiddenMax = 8;

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> ListenerCore::Create(ReactorCore& core,
                                                               ListenerOptions options,
                                                               void* user) {
  if (absl::Status status = core.CheckProcess(); !status.ok()) return status;
  if (absl::Status status = ValidateListenerOptions(options); !status.ok()) return status;
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(options.endpoint);
  if (!endpoint.ok()) return endpoint.status();  // A scope whose interface has just gone.
  const SocketAddress address = *endpoint->literal();
  std::unique_ptr<ListenerCore> listener(new ListenerCore(core, std::move(options), user));
  std::unique_ptr<Listener> handle(new Listener);
  Socket& socket = listener->socket_;
  if (const int result = core.backend().Open(socket, address.family()); result < 0) {
    return Classify(internal::Call::kSocket, -result).ToStatus();
  }
  const Error error = PrepareToListen(core.kernel(), socket.fd, address, listener->options_.backlog,
                                      listener->options_.reuse_port, listener->options_.socket);
  if (error.failed()) {
    core.backend().Close(socket);
    return error.ToStatus();
  }
  listener->local_ = LocalAddressOf(core.kernel(), socket.fd);
  core.backend().Accept(socket);
  ReactorCore::Population& population = core.population();
  ++population.handles;
  ++population.cores;
  ++population.listeners;
  ++population.sockets;
  core.Enlist(*listener);
  listener->handle_ = handle.get();
  handle->core_ = listener.release();
  return handle;
}

ListenerCore::ListenerCore(ReactorCore& core, ListenerOptions options, void* user)
    : TimerNode([](TimerNode& node) {
        auto& listener = static_cast<ListenerCore&>(node);
        if (listener.core_.forked()) return;
        listener.stage_ = Stage::kAccepting;
        listener.core_.backend().Accept(listener.socket_);
      }),
      core_(core),
      options_(std::move(options)),
      user_(user),
      socket_(*this) {}

void ListenerCore::Abandon() noexcept {
  handle_ = nullptr;
  core_.Leave(*this);
  --core_.population().handles;
  --core_.population().listeners;
  if (stage_ != Stage::kClosed) return Close();
  --core_.population().cores;
  core_.Bury(*this);
}

void ListenerCore::Close() noexcept {
  if (stage_ == Stage::kClosed) return;
  stage_ = Stage::kClosing;
  core_.Cancel(*this);
  core_.backend().Cancel(socket_, OpKind::kAccept);
  core_.Defer(*this);
}

void ListenerCore::RunDeferred() noexcept {
  if (stage_ != Stage::kClosing || !socket_.idle()) return;
  core_.backend().Close(socket_);
  --core_.population().sockets;
  stage_ = Stage::kClosed;
  core_.Leave(*this);
  if (handle_ == nullptr) {
    --core_.population().cores;
    core_.Bury(*this);
    return;
  }
  Call(options_.on_closed);
}

void ListenerCore::Accepted(int fd) noexcept {
  if (stage_ != Stage::kAccepting) return static_cast<void>(core_.kernel().Close(fd));
  // Its events go to the stream once that opens it.
  std::unique_ptr<Socket> socket(new (std::nothrow) Socket(*this));
  if (socket == nullptr || core_.backend().Adopt(*socket, fd, socket_.domain) < 0) {
    core_.kernel().Close(fd);
    return AcceptedInVain();
  }
  ++core_.population().sockets;
  PrepareAccepted(core_.kernel(), fd, socket_.domain, options_.socket);
  std::unique_ptr<Stream> stream = StreamCore::Create(core_, std::move(socket));
  if (stream == nullptr) return AcceptedInVain();
  ++stats_.accepted;
  pause_.OnSuccess();
  forbidden_ = 0;
  Call(options_.on_accept, std::move(stream));
}

// There is no memory for a connection that the kernel has handed over. It is closed, which makes no other
// call fail; the next one may find memory.
void ListenerCore::AcceptedInVain() noexcept {
  const Error error = Classify(internal::Call::kAccept4, -kNoMemoryCode);
  core_.Count(error);
  Call(options_.on_error, error);
}

void ListenerCore::Rest() noexcept {
  stage_ = Stage::kResting;
  ++stats_.pauses;
  core_.Arm(*this, SaturatingAdd(core_.now(), pause_.OnFailure()));
}

void ListenerCore::OnAccept(Socket&, Result result) noexcept {
  if (result.ok()) return Accepted(result.value);
  if (stage_ == Stage::kClosing) return core_.Defer(*this);
  const Error error = result.error();
  core_.Count(error);
  switch (error.action) {
    case Action::kRetryInPlace:  // About one connection; the listener is healthy.
      // Forbidden (EPERM) again and again it may be the same one: a security module is asked before it
      // is taken from the queue, which stays readable. Then it rests, lest the loop spins.
      if (error.error_class == ErrorClass::kPermission && ++forbidden_ > kForbiddenMax) {
        Rest();
      } else {
        core_.backend().Accept(socket_);
      }
      return;
    case Action::kStop:
      stage_ = Stage::kEnded;
      break;
    default:  // A shortage, or what nobody has seen before: it rests, and tries again.
      Rest();
      break;
  }
  Call(options_.on_error, error);
}

}  // namespace internal

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(Reactor& reactor,
                                                           ListenerOptions options, void* user) {
  return internal::OrOutOfMemory([&] {
    return internal::ListenerCore::Create(internal::ReactorCore::Of(reactor), std::move(options),
                                          user);
  });
}
Listener::~Listener() {
  if (core_ != nullptr) core_->Abandon();
}
void Listener::Close() { core_->Close(); }
SocketAddress Listener::local() const noexcept { return core_->local(); }
ListenerStats Listener::stats() const noexcept { return core_->stats(); }
void* Listener::user() const noexcept { return core_->user(); }

}  // namespace holdfast
