// What an epoll backend knows and has not told yet: results, and the sockets that have something.
//
// A verb knows many results at once, and no verb calls back, so a result waits in its socket
// (Socket::send_result and the like) and the socket on a list, until Dispatch delivers.
//
// A socket is on one list at most: among those for which Wait must not sleep, or among the quiet
// ones, whose sends succeeded and nobody need be woken to hear it. A turn (one Dispatch) takes
// both. What comes up during the turn waits for the next one, so that callbacks that start new
// operations do not keep the loop for themselves; what the turn had no budget for goes first then.
// One list with a count of the urgent ones was rejected: the count goes wrong when a socket is
// closed.
#ifndef HOLDFAST_BACKEND_READY_LISTS_H_
#define HOLDFAST_BACKEND_READY_LISTS_H_

#include <cstdint>

#include "backend/socket.h"
#include "base/check.h"
#include "base/intrusive_list.h"
#include "core/error_codes.h"
#include "core/error_table.h"

namespace holdfast::internal {

// The value of a Result that has not come yet.
inline constexpr std::int32_t kNoResult = INT32_MIN;

[[nodiscard]] inline bool Has(const Result& result) noexcept { return result.value != kNoResult; }

// True when an operation of the socket has ended and the end is not told yet.
[[nodiscard]] inline bool HasEnd(const Socket& socket) noexcept {
  return Has(socket.connect_result) || Has(socket.accept_result) || Has(socket.receive_result) ||
         Has(socket.send_result);
}

// True for an operation that is under way and has not ended.
[[nodiscard]] inline bool Waits(OpState state, const Result& result) noexcept {
  return state == OpState::kArmed && !Has(result);
}

inline void ForgetResults(Socket& socket) noexcept {
  socket.connect_result.value = kNoResult;
  socket.accept_result.value = kNoResult;
  socket.receive_result.value = kNoResult;
  socket.send_result.value = kNoResult;
}

class ReadyLists {
 public:
  // True when nothing is to be delivered that must not wait.
  [[nodiscard]] bool empty() const noexcept { return ready_.empty(); }

  // The socket has something that must not wait.
  void Add(Socket& socket) noexcept {
    if (socket.linked()) {
      if ((socket.ready_events & kQuiet) == 0) return;
      socket.Unlink();
    }
    socket.ready_events &= ~kQuiet;
    ready_.PushBack(socket);
  }

  // An operation of the socket has ended: `place` is where its result waits.
  void Complete(Socket& socket, Result& place, Result result) noexcept {
    HOLDFAST_CHECK(!Has(place));
    place = result;
    Add(socket);
  }
  // A send has succeeded, and that can wait for something that cannot.
  void CompleteQuietly(Socket& socket, Result result) noexcept {
    HOLDFAST_CHECK(!Has(socket.send_result));
    socket.send_result = result;
    if (socket.linked()) return;
    socket.ready_events |= kQuiet;
    quiet_.PushBack(socket);
  }
  // Ends an operation that is under way: as cancelled (`call` says of what), unless a result was
  // faster. Whoever cancels waits for the end, so even a quiet one is urgent now.
  void Cancel(Socket& socket, OpState& state, Result& place, Call call) noexcept {
    if (state != OpState::kArmed) return;
    state = OpState::kCancelling;
    if (!Has(place)) place = {kCancelledCode, call};
    Add(socket);
  }

  // A turn: BeginTurn, Next until null or until the budget is spent, EndTurn.
  void BeginTurn() noexcept {
    turn_.Splice(ready_);
    turn_.Splice(quiet_);
  }
  [[nodiscard]] Socket* Next() noexcept {
    Socket* const socket = turn_.PopFront();
    if (socket != nullptr) socket->ready_events &= ~kQuiet;
    return socket;
  }
  // For the socket that Next gave and that has more: once again in this turn.
  void Again(Socket& socket) noexcept { turn_.PushBack(socket); }
  void EndTurn() noexcept {
    turn_.Splice(ready_);
    ready_.Splice(turn_);
  }

 private:
  // A bit of Socket::ready_events that is no event of epoll: true exactly from the moment at which
  // a socket was linked as a quiet one to its turn, or to when it got something urgent.
  static constexpr std::uint32_t kQuiet = 1u << 16;

  IntrusiveList<Socket> ready_;
  IntrusiveList<Socket> quiet_;
  IntrusiveList<Socket> turn_;  // What is left of the turn; empty between turns.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_READY_LISTS_H_
