// The listener behind the public class: one socket that accepts, and its rests.
#ifndef HOLDFAST_NET_LISTENER_CORE_H_
#define HOLDFAST_NET_LISTENER_CORE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include <holdfast/listener.h>
#include "absl/status/statusor.h"
#include "backend/socket.h"
#include "machine/accept_pause.h"
#include "machine/timer_node.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

class ListenerCore final : public Mortal,
                           public Deferred,
                           public SocketEvents,
                           public Closable,
                           private TimerNode {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Listener>> Create(ReactorCore& core,
                                                                        ListenerOptions options,
                                                                        void* user);
  ~ListenerCore() override = default;

  // The handle is gone.
  void Abandon() noexcept;
  void Close() noexcept;
  [[nodiscard]] SocketAddress local() const noexcept { return local_; }
  [[nodiscard]] const ListenerStats& stats() const noexcept { return stats_; }
  [[nodiscard]] void* user() const noexcept { return user_; }

  // Closable.
  void ShutDown(Duration) noexcept override { Close(); }
  // Deferred: closes once nothing is in flight.
  void RunDeferred() noexcept override;
  // SocketEvents. Only accepts are ever started here.
  void OnConnect(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }
  void OnAccept(Socket& socket, Result result) noexcept override;
  void OnReceive(Socket&, Result, const std::byte*) noexcept override { HOLDFAST_CHECK(false); }
  void OnSend(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }

 private:
  enum class Stage : std::uint8_t {
    kAccepting,  // An accept is in flight.
    kResting,    // The timer runs; nothing in flight.
    kEnded,      // An error that no rest cures; nothing in flight.
    kClosing,    // The accept is cancelled.
    kClosed,
  };

  ListenerCore(ReactorCore& core, ListenerOptions options, void* user);
  void Accepted(int fd) noexcept;
  void AcceptedInVain() noexcept;
  void Rest() noexcept;  // Accepts nothing for a pause.

  template <class Function, class... Arguments>
  void Call(const Function& function, Arguments&&... arguments) {
    if (handle_ != nullptr && function) {
      function(*handle_, std::forward<Arguments>(arguments)...);
    }
  }

  ReactorCore& core_;
  const ListenerOptions options_;
  Listener* handle_ = nullptr;  // Null once abandoned.
  void* const user_;
  Socket socket_;
  SocketAddress local_;
  AcceptPause pause_;
  std::uint32_t forbidden_ = 0;  // Accepts that said EPERM since one succeeded.
  Stage stage_ = Stage::kAccepting;
  ListenerStats stats_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_LISTENER_CORE_H_
