// One connected socket, as a Listener hands it out: bytes in, bytes out, half-close, an orderly end.
//
//   .on_accept = [options](holdfast::Listener&, std::unique_ptr<holdfast::Stream> stream) {
//     stream->Start(options);                  // options: std::shared_ptr<const StreamOptions>
//     sessions.insert(std::move(stream));
//   }
//
// Reactor thread only. No callback runs inside the call that caused it; any method may be called from
// any callback, and the handle may be destroyed in any of them (docs/lifetimes.md). `on_closed` comes
// exactly once and last, unless the handle is destroyed first.
//
// Unlike a Link, a Stream keeps nothing after the kernel took it and accounts for bytes, not messages.
#ifndef HOLDFAST_STREAM_H_
#define HOLDFAST_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include <holdfast/framing.h>
#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"

namespace holdfast {

class Stream;
namespace internal {
class StreamCore;
}

// What became of a Send.
enum class SendStatus : std::uint8_t {
  kQueued,    // Copied; it leaves with this turn, or as soon as the pipe takes it.
  kFull,      // The hard limit is reached: nothing was taken; wait for on_writable.
  kTooLarge,  // Larger than the hard limit: it never fits.
  kNotUp,     // No connection to send it on: nothing was taken.
  kClosing,   // Close was called, or it is closed: nothing was taken.
};
[[nodiscard]] std::string_view ToString(SendStatus status) noexcept;

// How a stream ended.
struct StreamClosed {
  // kCancelled (operation kUser): closed by this side. kEof: the peer ended it and we closed in turn.
  // Else the failure that ended it, or kTimeout when the drain deadline passed.
  Error error;
  // The peer's kernel acknowledged everything that was accepted by Send. On AF_UNIX: it was taken.
  bool delivered = false;
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;  // Taken by this host's kernel.
};

// Shared by many streams; never copied by the library.
struct StreamOptions {
  // writable() is false from `queue_high` queued bytes down to `queue_low`; beyond `queue_max` Send
  // says kFull. Bytes; 0 < low <= high <= max.
  std::size_t queue_high = 256 << 10;
  std::size_t queue_low = 64 << 10;
  std::size_t queue_max = 8 << 20;
  // How long Close() without an argument may take to flush and to see the peer's end of file.
  Duration drain = std::chrono::seconds(5);

  // With it whole messages come to on_message, and on_data is not to be set. One that is too long, or
  // malformed, ends the stream as Drop does.
  Framing framing = {};

  // Bytes received, in order; the view dies with the call.
  absl::AnyInvocable<void(Stream&, std::span<const std::byte>) const> on_data = {};
  // A whole message, where they are framed; the view dies with the call.
  absl::AnyInvocable<void(Stream&, std::span<const std::byte> message) const> on_message = {};
  // The peer shut its write side; it may still read, and this side may still send. Without it the
  // stream closes (draining) by itself.
  absl::AnyInvocable<void(Stream&) const> on_eof = {};
  // Once for each return of writable() to true.
  absl::AnyInvocable<void(Stream&) const> on_writable = {};
  absl::AnyInvocable<void(Stream&, const StreamClosed&) const> on_closed = {};
};

class Stream {
 public:
  // Aborts what is left; nothing is called back afterwards. Allowed in every state and callback.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Begins to receive. Null, or options that ValidateStreamOptions refuses: the limits, drain and framing are
  // the defaults. `user` is returned by user(). A second Start does nothing.
  //   Before it Send says kNotUp, CloseWrite does nothing, and PauseReceive holds: Start begins paused.
  // Close and Drop, like the destructor, close the socket at once and without on_closed, and Start does
  // nothing from then on.
  void Start(std::shared_ptr<const StreamOptions> options, void* user = nullptr);

  // Copies or refuses whole. O(size); never blocks, never calls back.
  SendStatus Send(std::span<const std::byte> bytes);
  SendStatus Send(std::string_view text) { return Send(std::as_bytes(std::span(text))); }

  // No on_data, no on_message after PauseReceive returned, until ResumeReceive; what had arrived by then is kept and
  // delivered first, in order. The peer is held back by TCP's own window. A paused stream that has
  // nothing to send learns of a reset when it resumes: nobody looks while nobody reads.
  void PauseReceive();
  void ResumeReceive();

  // Half-close: flushes, then shuts the write side (FIN). Send says kClosing from now on; receiving
  // goes on.
  void CloseWrite();
  // Flushes, shuts the write side, reads to the peer's end of file, waits until the peer's kernel has
  // everything; `drain` later at the latest it is given up. Zero: at once.
  void Close();
  void Close(Duration drain);
  // Gives it up with this error (Error::Protocol() for a peer that talks nonsense). Requires
  // error.failed(); one that is not counts as Error::Protocol().
  void Drop(const Error& error);

  [[nodiscard]] bool open() const noexcept;  // Started, and neither closing nor closed.
  [[nodiscard]] bool writable() const noexcept;
  // Accepted, not yet taken by the kernel.
  [[nodiscard]] std::size_t queued_bytes() const noexcept;
  [[nodiscard]] SocketAddress local() const noexcept;
  [[nodiscard]] SocketAddress peer() const noexcept;
  [[nodiscard]] void* user() const noexcept;

 private:
  friend class internal::StreamCore;
  Stream() noexcept = default;
  internal::StreamCore* core_ = nullptr;  // Null only where Create failed.
};

// InvalidArgument names the field and the value. Listener::Create cannot see the options of its
// streams, so whoever makes them checks them here, once.
[[nodiscard]] absl::Status ValidateStreamOptions(const StreamOptions& options);

}  // namespace holdfast

#endif  // HOLDFAST_STREAM_H_
