// A socket as the backends see it: a descriptor, a slot, and up to four operations.
//
// The object belongs to whoever opened it (net/dialer, net/connection, net/listener) and must not move
// or die between Backend::Open (or Adopt) and Backend::Close. The kernel never sees its address: what
// goes out as user_data is generation << 32 | slot << 8 | kind, so that a completion that comes too
// late finds no socket instead of a wrong one (libxev #233).
//
// Each operation is in one state; there is no word of flags. An operation is over only when its own
// terminal completion was delivered: not when it was cancelled, not after a time.
#ifndef HOLDFAST_BACKEND_SOCKET_H_
#define HOLDFAST_BACKEND_SOCKET_H_

#include <cstddef>
#include <cstdint>

#include "base/intrusive_list.h"
#include "core/error_table.h"

namespace holdfast::internal {

class Socket;

// The operations, and with them the low byte of user_data.
enum class OpKind : std::uint8_t { kConnect = 1, kAccept, kReceive, kSend };

enum class OpState : std::uint8_t {
  kIdle,   // Nothing asked.
  kArmed,  // Asked of the backend: the kernel has it or will, or the backend waits for readiness.
  kCancelling,  // As kArmed, and its cancellation was asked for; it may still succeed.
};

// io_uring: where the send of a socket stands, or its connect, which knows but the first and the last two.
enum class SendPhase : std::uint8_t {
  kNothing,    // No send, or its completion is on its way.
  kSubmitted,  // Until the kernel has taken it or answered it.
  kKnown,      // It succeeded; OnSend has not been told.
  kPolling,    // The pipe was full: a poll waits for room.
  kPolled,     // There is room: the poll is being cancelled.
};

// What a completion says: a value, or -errno of the named call. The pair is the key of the error
// table; backends never interpret it beyond the rows of class kTryAgain, which they obey themselves.
struct Result {
  std::int32_t value = 0;
  Call call = Call::kSocket;

  [[nodiscard]] constexpr bool ok() const noexcept { return value >= 0; }
  // The row of a failure. Requires: !ok().
  [[nodiscard]] constexpr Error error(Detail detail = Detail::kNone) const noexcept {
    return Classify(call, -value, detail);
  }
};

// Where completions go: one indirect call from the backend. Never called from inside a verb, only
// from Backend::Dispatch. The receiver may call any verb on any socket, and may Close the socket it is
// told about if no other operation of it is in flight.
class SocketEvents {
 public:
  // Terminal. Value 0: connect(2) says success, which is not yet proof (docs/kernel.md 1).
  virtual void OnConnect(Socket& socket, Result result) noexcept = 0;
  // Value >= 0: a connected descriptor, now the receiver's (to Adopt or close); more may follow.
  // Negative: terminal, nothing is accepted until Accept is called again.
  virtual void OnAccept(Socket& socket, Result result) noexcept = 0;
  // Value > 0: that many bytes at `data`, valid during this call only; more follow without asking.
  // Value <= 0: terminal. 0 is what recv(2) calls end of file, and may be a reset (docs/kernel.md 2).
  virtual void OnReceive(Socket& socket, Result result, const std::byte* data) noexcept = 0;
  // Terminal, once for each Send. Value > 0: the kernel took that many bytes, maybe not all. Value 0:
  // the pipe was full and no longer is; nothing was taken. Negative: nothing was taken, and why.
  virtual void OnSend(Socket& socket, Result result) noexcept = 0;

 protected:
  ~SocketEvents() = default;
};

class Socket : public ListNode {  // The list is the backend's ready list.
 public:
  explicit Socket(SocketEvents& receiver) noexcept : events(&receiver) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  [[nodiscard]] bool open() const noexcept { return fd >= 0; }
  // True when nothing of it is with the backend or the kernel: it may be closed.
  [[nodiscard]] bool idle() const noexcept {
    return connect == OpState::kIdle && accept == OpState::kIdle && receive == OpState::kIdle &&
           send == OpState::kIdle;
  }

  SocketEvents* events;  // May be changed whenever the owner changes; takes effect at once.
  int fd = -1;
  int domain = 0;  // AF_INET, AF_INET6, AF_UNIX
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  OpState connect = OpState::kIdle;
  OpState accept = OpState::kIdle;
  OpState receive = OpState::kIdle;
  OpState send = OpState::kIdle;

  // For the backend alone; what each means is said where the backend uses it.
  SendPhase send_phase = SendPhase::kNothing;
  std::uint32_t interest = 0;       // epoll: the events registered now; 0 = not registered.
  std::uint32_t ready_events = 0;   // epoll: edges seen and not yet used up.
  std::uint32_t send_size = 0;      // Bytes asked of the send in flight.
  std::uint32_t send_position = 0;  // io_uring: where its SQE stands in the submission queue.
  std::uint32_t turn = 0;           // io_uring: the turn that turn_bytes counts.
  std::uint32_t turn_bytes = 0;     // io_uring: its share of that turn that is used up.
  Result connect_result;            // Results that wait in the ready list for Dispatch.
  Result accept_result;
  Result receive_result;
  Result send_result;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_SOCKET_H_
