#include "net/stream_core.h"

#include <array>
#include <new>

#include "core/error_table.h"
#include "sys/socket_calls.h"

namespace holdfast {
namespace internal {

std::unique_ptr<Stream> StreamCore::Create(ReactorCore& core,
                                           std::unique_ptr<Socket> socket) noexcept {
  std::unique_ptr<Stream> handle(new (std::nothrow) Stream);
  auto* const stream =
      handle != nullptr ? new (std::nothrow) StreamCore(core, std::move(socket)) : nullptr;
  if (stream == nullptr) {
    core.backend().Close(*socket);
    --core.population().sockets;
    return nullptr;
  }
  stream->handle_ = handle.get();
  handle->core_ = stream;
  ReactorCore::Population& population = core.population();
  ++population.handles;
  ++population.cores;
  ++population.streams;
  core.Enlist(*stream);
  return handle;
}

StreamCore::StreamCore(ReactorCore& core, std::unique_ptr<Socket> socket)
    : TimerNode([](TimerNode& node) {
        auto& stream = static_cast<StreamCore&>(node);
        if (stream.core_.forked()) return;
        if (stream.connection_.busy()) stream.connection_.OnDeadline(stream.core_.now());
        stream.Rearm();
      }),
      core_(core),
      socket_(std::move(socket)),
      peer_(PeerAddressOf(core.kernel(), socket_->fd)),
      connection_(core, *this, Keep::kUntilSent) {}

void StreamCore::Abandon() noexcept {
  handle_ = nullptr;
  core_.Leave(*this);
  --core_.population().handles;
  --core_.population().streams;
  core_.Cancel(*this);
  if (connection_.busy()) {
    connection_.Settle(Error::Cancelled());
    return;
  }
  CloseUnstarted();
  --core_.population().cores;
  core_.Bury(*this);
}

void StreamCore::CloseUnstarted() noexcept {
  if (socket_ == nullptr) return;
  core_.backend().Close(*socket_);
  --core_.population().sockets;
  socket_.reset();
  stage_ = Stage::kClosed;
  core_.Leave(*this);
}

void StreamCore::Start(std::shared_ptr<const StreamOptions> options, void* user) {
  if (!unstarted()) return;
  static const StreamOptions defaults;
  // Nobody owns the defaults: this allocates nothing.
  if (options == nullptr) options = {std::shared_ptr<void>(), &defaults};
  options_ = std::move(options);
  user_ = user;
  const bool paused = stage_ == Stage::kUnstartedPaused;
  stage_ = Stage::kOpen;
  const StreamOptions& numbers = ValidateStreamOptions(*options_).ok() ? *options_ : defaults;
  drain_ = numbers.drain;
  connection_.Open(std::move(socket_),
                   {.high = numbers.queue_high, .low = numbers.queue_low, .max = numbers.queue_max},
                   numbers.framing);
  if (paused) connection_.Pause();
}

void StreamCore::Pause() {
  if (stage_ == Stage::kUnstarted) stage_ = Stage::kUnstartedPaused;
  connection_.Pause();
}

void StreamCore::Resume() {
  if (stage_ == Stage::kUnstartedPaused) stage_ = Stage::kUnstarted;
  connection_.Resume();
}

SendStatus StreamCore::Send(std::span<const std::byte> bytes) {
  switch (connection_.Send(bytes)) {
    case Connection::Queued::kYes:
      return SendStatus::kQueued;
    case Connection::Queued::kFull:
      return SendStatus::kFull;
    case Connection::Queued::kTooLarge:
      return SendStatus::kTooLarge;
    case Connection::Queued::kClosed:
      break;
  }
  return unstarted() ? SendStatus::kNotUp : SendStatus::kClosing;
}

void StreamCore::Close() { Close(drain_); }

void StreamCore::Close(Duration drain) {
  if (unstarted()) return CloseUnstarted();
  if (stage_ != Stage::kOpen) return;
  stage_ = Stage::kClosing;
  if (drain > Duration::zero() && connection_.can_drain()) {
    connection_.Drain(SaturatingAdd(core_.now(), drain));
  } else {
    connection_.Settle(Error::Cancelled());
  }
}

void StreamCore::ShutDown(Duration drain) noexcept {
  if (stage_ == Stage::kClosing) {
    connection_.HastenDrain(SaturatingAdd(core_.now(), drain));
  } else {
    Close(drain);
  }
}

void StreamCore::Drop(const Error& error) {
  if (unstarted()) return CloseUnstarted();
  if (stage_ == Stage::kClosed) return;
  stage_ = Stage::kClosing;
  connection_.Settle(error.failed() ? error : Error::Protocol());
}

SocketAddress StreamCore::local() const noexcept {
  const int fd = socket_ != nullptr ? socket_->fd : connection_.fd();
  return fd < 0 ? SocketAddress() : LocalAddressOf(core_.kernel(), fd);
}

void StreamCore::OnEndOfFile() noexcept {
  end_of_file_ = Classify(Call::kRecv, 0, Detail::kCloseWait);
  if (options_->on_eof) {
    Call(options_->on_eof);
  } else {
    Close();
  }
}

void StreamCore::OnSettled(const SessionEnd& end) noexcept {
  stage_ = Stage::kClosed;
  core_.Leave(*this);
  core_.Cancel(*this);
  if (handle_ == nullptr) {
    --core_.population().cores;
    return core_.Bury(*this);
  }
  StreamClosed closed;
  const bool clean = end.error.error_class == ErrorClass::kCancelled;
  closed.error = clean && end_of_file_.failed() ? end_of_file_ : end.error;
  closed.delivered = end.delivered;
  closed.bytes_received = end.bytes_received;
  closed.bytes_sent = end.bytes_sent;
  Call(options_->on_closed, closed);
}

void StreamCore::Rearm() noexcept {
  if (handle_ == nullptr || !connection_.busy()) return;
  core_.Arm(*this, connection_.next_deadline());
}

}  // namespace internal

Stream::~Stream() {
  if (core_ != nullptr) core_->Abandon();
}
void Stream::Start(std::shared_ptr<const StreamOptions> options, void* user) {
  core_->Start(std::move(options), user);
}
SendStatus Stream::Send(std::span<const std::byte> bytes) { return core_->Send(bytes); }
void Stream::PauseReceive() { core_->Pause(); }
void Stream::ResumeReceive() { core_->Resume(); }
void Stream::CloseWrite() { core_->CloseWrite(); }
void Stream::Close() { core_->Close(); }
void Stream::Close(Duration drain) { core_->Close(drain); }
void Stream::Drop(const Error& error) { core_->Drop(error); }
bool Stream::open() const noexcept { return core_->open(); }
bool Stream::writable() const noexcept { return core_->writable(); }
std::size_t Stream::queued_bytes() const noexcept { return core_->queued_bytes(); }
SocketAddress Stream::local() const noexcept { return core_->local(); }
SocketAddress Stream::peer() const noexcept { return core_->peer(); }
void* Stream::user() const noexcept { return core_->user(); }

std::string_view ToString(SendStatus status) noexcept {
  static constexpr std::array<std::string_view, 5> kNames = {"queued", "full", "too_large",
                                                             "not_up", "closing"};
  const auto index = static_cast<std::size_t>(status);
  return index < kNames.size() ? kNames[index] : "?";
}

}  // namespace holdfast
