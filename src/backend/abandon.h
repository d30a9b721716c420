// The end of operations that no completion will end. Their ring's thread is gone, and the kernel lets no
// other submit a cancellation or reap it: the end of the ring ends them in the kernel. Or this is a child
// of fork(2), and they are its parent's.
#ifndef HOLDFAST_BACKEND_ABANDON_H_
#define HOLDFAST_BACKEND_ABANDON_H_

#include <utility>

#include "backend/socket.h"
#include "core/error_codes.h"

namespace holdfast::internal {

// Tells every operation of `socket` that it was cancelled. A connect comes last, because its owner closes
// and destroys the socket in the callback.
inline void EndByForce(Socket& socket) noexcept {
  constexpr Result kCancelled{kCancelledCode, Call::kCqeAny};
  const auto end = [](OpState& state) {
    return std::exchange(state, OpState::kIdle) != OpState::kIdle;
  };
  if (socket.linked()) socket.Unlink();
  if (end(socket.receive)) socket.events->OnReceive(socket, kCancelled, nullptr);
  if (end(socket.send)) socket.events->OnSend(socket, kCancelled);
  if (end(socket.accept)) socket.events->OnAccept(socket, kCancelled);
  if (end(socket.connect)) socket.events->OnConnect(socket, kCancelled);
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_ABANDON_H_
