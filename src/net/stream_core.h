// The stream behind the public class: a Connection and the user's callbacks.
#ifndef HOLDFAST_NET_STREAM_CORE_H_
#define HOLDFAST_NET_STREAM_CORE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include <holdfast/stream.h>
#include "machine/timer_node.h"
#include "net/connection.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

class StreamCore final : public Mortal, public ConnectionOwner, public Closable, private TimerNode {
 public:
  // Takes the open, idle socket over.
  [[nodiscard]] static std::unique_ptr<Stream> Create(ReactorCore& core,
                                                      std::unique_ptr<Socket> socket) noexcept;
  ~StreamCore() override = default;

  // The handle is gone.
  void Abandon() noexcept;

  void Start(std::shared_ptr<const StreamOptions> options, void* user);
  [[nodiscard]] SendStatus Send(std::span<const std::byte> bytes);
  void Pause();
  void Resume();
  void CloseWrite() { connection_.CloseWrite(); }
  void Close();
  void Close(Duration drain);
  void Drop(const Error& error);

  [[nodiscard]] bool open() const noexcept { return stage_ == Stage::kOpen; }
  [[nodiscard]] bool writable() const noexcept {
    return connection_.can_send() && connection_.writable();
  }
  [[nodiscard]] std::size_t queued_bytes() const noexcept { return connection_.queued(); }
  [[nodiscard]] SocketAddress local() const noexcept;
  [[nodiscard]] SocketAddress peer() const noexcept { return peer_; }
  [[nodiscard]] void* user() const noexcept { return user_; }

  // Closable.
  void ShutDown(Duration drain) noexcept override;
  // ConnectionOwner.
  void OnBytes(std::span<const std::byte> bytes) noexcept override {
    Call(options_->on_data, bytes);
  }
  void OnMessage(std::span<const std::byte> message) noexcept override {
    Call(options_->on_message, message);
  }
  void OnEndOfFile() noexcept override;
  void OnLost() noexcept override { connection_.Settle({}); }
  void OnWritable() noexcept override { Call(options_->on_writable); }
  void OnAcked() noexcept override {}
  void OnSettled(const SessionEnd& end) noexcept override;
  void OnDeadlineChanged() noexcept override { Rearm(); }

 private:
  enum class Stage : std::uint8_t {
    kUnstarted,        // Holds the socket; nothing in flight.
    kUnstartedPaused,  // As kUnstarted, and Start is to begin paused.
    kOpen,             // The connection has it.
    kClosing,          // Close or Drop was called; OnSettled comes.
    kClosed,
  };

  StreamCore(ReactorCore& core, std::unique_ptr<Socket> socket);
  [[nodiscard]] bool unstarted() const noexcept {
    return stage_ == Stage::kUnstarted || stage_ == Stage::kUnstartedPaused;
  }
  void CloseUnstarted() noexcept;
  void Rearm() noexcept;

  template <class Function, class... Arguments>
  void Call(const Function& function, Arguments&&... arguments) {
    if (handle_ != nullptr && function) {
      function(*handle_, std::forward<Arguments>(arguments)...);
    }
  }

  ReactorCore& core_;
  Stream* handle_ = nullptr;                      // Null once abandoned.
  std::shared_ptr<const StreamOptions> options_;  // Null until started.
  void* user_ = nullptr;
  std::unique_ptr<Socket> socket_;  // Until started.
  SocketAddress peer_;
  Stage stage_ = Stage::kUnstarted;
  Error end_of_file_{};  // failed() once the peer's FIN came while the stream was open.
  Duration drain_{0};
  Connection connection_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_STREAM_CORE_H_
