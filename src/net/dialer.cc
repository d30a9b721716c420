#include "net/dialer.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/error_codes.h"
#include "machine/attempt.h"
#include "machine/death.h"
#include "net/socket_setup.h"
#include "sys/socket_calls.h"

namespace holdfast::internal {

void Dialer::Start(const EndpointParts& endpoint, std::size_t index,
                   const DialOptions& options) noexcept {
  HOLDFAST_CHECK(stage_ == Stage::kIdle);
  HOLDFAST_CHECK(socket_ == nullptr);
  options_ = options;
  endpoint_ = index;
  error_ = {};
  error_peer_ = {};
  addresses_ = {};
  attempt_deadline_ = SaturatingAdd(core_.now(), options.attempt_timeout);
  connect_deadline_ = kNever;
  stage_ = Stage::kResolving;
  if (!last_.TryExtend(index + 1, {})) return FailForMemory();
  if (!endpoint.literal.has_value()) {
    if (!resolver_.Resolve(endpoint.host, endpoint.port)) FailForMemory();
    return;
  }
  if (!addresses_.TryPushBack(*endpoint.literal)) return FailForMemory();
  TryAddresses(0);
}

void Dialer::OnResolved(const Error& error, TryVector<SocketAddress> addresses) noexcept {
  HOLDFAST_CHECK(stage_ == Stage::kResolving);
  if (error.failed()) {
    Note(error, {});
    Fail();
    return;
  }
  // Behind the one that the last attempt ended with: a dead first address must not eat every attempt.
  const auto last = std::find(addresses.begin(), addresses.end(), last_[endpoint_]);
  if (last != addresses.end()) std::rotate(addresses.begin(), last + 1, addresses.end());
  addresses_ = std::move(addresses);
  TryAddresses(0);
}

// From `first` on, until a connect is in flight or none is left.
void Dialer::TryAddresses(std::size_t first) noexcept {
  for (index_ = first; index_ < addresses_.size(); ++index_) {
    if (TryAddress(addresses_[index_])) {
      connect_deadline_ = SaturatingAdd(core_.now(), options_.connect_timeout);
      const bool first_connect = stage_ == Stage::kResolving;
      stage_ = Stage::kConnecting;
      owner_.OnDeadlineChanged();
      if (first_connect) owner_.OnDialConnecting();
      return;
    }
    // About this host, not about the address: the next one would fail alike.
    if (error_.error_class == ErrorClass::kResource) break;
  }
  Fail();
}

bool Dialer::TryAddress(const SocketAddress& address) noexcept {
  last_[endpoint_] = address;
  socket_.reset(new (std::nothrow) Socket(*this));
  if (socket_ == nullptr) {
    Note(Classify(Call::kSocket, -kNoMemoryCode), address);
    return false;
  }
  if (const int result = core_.backend().Open(*socket_, address.family()); result < 0) {
    socket_.reset();
    Note(Classify(Call::kSocket, -result), address);
    return false;
  }
  ++core_.population().sockets;
  const Error error =
      PrepareToConnect(core_.kernel(), socket_->fd, address.family(), *options_.socket);
  if (error.failed()) {
    CloseSocket();
    Note(error, address);
    return false;
  }
  core_.backend().Connect(*socket_, address.data(), address.size());
  return true;
}

void Dialer::OnConnect(Socket& socket, Result result) noexcept {
  HOLDFAST_CHECK(&socket == socket_.get());
  const Stage stage = stage_;
  const SocketAddress& address = addresses_[index_];
  switch (stage) {
    case Stage::kConnecting: {
      const ConnectFacts facts = ReadConnectFacts(core_.kernel(), socket.fd, socket.domain,
                                                  result.call, result.ok() ? 0 : -result.value);
      const Error error = JudgeConnect(facts);
      if (!error.failed()) {
        stage_ = Stage::kIdle;
        connect_deadline_ = attempt_deadline_ = kNever;
        Dialed dialed{std::move(socket_), LocalAddressOf(core_.kernel(), socket.fd), address};
        addresses_ = {};
        owner_.OnDialed(std::move(dialed));
        return;
      }
      Note(error, address);
      CloseSocket();
      if (error.error_class == ErrorClass::kResource) {
        Fail();
      } else {
        TryAddresses(index_ + 1);
      }
      return;
    }
    case Stage::kExpired:
      Note(Error::Deadline(Operation::kConnect), address);
      CloseSocket();
      TryAddresses(index_ + 1);
      return;
    case Stage::kTimedOut:
      Note(Error::Deadline(Operation::kConnect), address);
      CloseSocket();
      Fail();
      return;
    case Stage::kCancelled:
      CloseSocket();
      stage_ = Stage::kIdle;
      addresses_ = {};
      owner_.OnDialCancelled();
      return;
    case Stage::kIdle:
    case Stage::kResolving:
      break;
  }
  HOLDFAST_CHECK(stage == Stage::kConnecting);  // A completion that nothing asked for.
}

void Dialer::Cancel() noexcept {
  HOLDFAST_CHECK(busy());
  connect_deadline_ = attempt_deadline_ = kNever;
  if (socket_ == nullptr) {
    resolver_.Cancel();
    stage_ = Stage::kIdle;
    return;
  }
  stage_ = Stage::kCancelled;
  core_.backend().Cancel(*socket_, OpKind::kConnect);
}

Instant Dialer::next_deadline() const noexcept {
  return std::min(connect_deadline_, attempt_deadline_);
}

void Dialer::OnDeadline(Instant now) noexcept {
  if (now < next_deadline()) return;
  const bool whole_attempt = now >= attempt_deadline_;
  if (stage_ == Stage::kResolving) {
    resolver_.Cancel();
    Note(Error::Deadline(Operation::kResolve), {});
    Fail();
    return;
  }
  connect_deadline_ = kNever;
  if (whole_attempt) attempt_deadline_ = kNever;
  // Already cancelled for its address, when the attempt's time is over as well: Cancel does nothing.
  HOLDFAST_CHECK(stage_ == Stage::kConnecting || (stage_ == Stage::kExpired && whole_attempt));
  stage_ = whole_attempt ? Stage::kTimedOut : Stage::kExpired;
  core_.backend().Cancel(*socket_, OpKind::kConnect);
}

void Dialer::Note(const Error& error, const SocketAddress& peer) noexcept {
  if (error_.failed() && !IsMoreTelling(error, error_)) return;
  error_ = error;
  error_peer_ = peer;
}

void Dialer::FailForMemory() noexcept {
  Note(Classify(Call::kSocket, -kNoMemoryCode), {});
  Fail();
}

void Dialer::CloseSocket() noexcept {
  core_.backend().Close(*socket_);
  socket_.reset();
  --core_.population().sockets;
}

void Dialer::Fail() noexcept {
  stage_ = Stage::kIdle;
  connect_deadline_ = attempt_deadline_ = kNever;
  addresses_ = {};
  owner_.OnDialFailed(error_, error_peer_);
}

}  // namespace holdfast::internal
