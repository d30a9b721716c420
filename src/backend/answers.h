// What both backends make of an answer: the questions that they ask alike.
#ifndef HOLDFAST_BACKEND_ANSWERS_H_
#define HOLDFAST_BACKEND_ANSWERS_H_

#include <sys/socket.h>

#include "backend/backend.h"
#include "backend/socket.h"
#include "core/error_table.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// True for an answer that a backend obeys itself: repeat, wait until ready, re-arm.
[[nodiscard]] constexpr bool IsTryAgain(const Result& result,
                                        Detail detail = Detail::kNone) noexcept {
  return !result.ok() && result.error(detail).error_class == ErrorClass::kTryAgain;
}

// How the handshake of a socket ended. SO_ERROR is told once, here. 0 is not yet proof of a connection
// (docs/kernel.md 1).
[[nodiscard]] inline Result ConnectOutcome(Kernel& kernel, const Socket& socket,
                                           BackendStats& stats) noexcept {
  int error = 0;
  socklen_t size = sizeof(error);
  ++stats.syscalls;
  const int result = kernel.GetSockOpt(socket.fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return result < 0 ? Result{result, Call::kGetsockopt} : Result{-error, Call::kConnectResult};
}

// EPOLLERR without EPOLLHUP stands until the error queue has been read, and need not be an error of the
// stream: the connection lives (docs/kernel.md 5 and 6). Reads so much of it; what is left is told again.
inline void DrainErrorQueue(Kernel& kernel, const Socket& socket, BackendStats& stats) noexcept {
  constexpr unsigned kMessagesMax = 64;
  for (unsigned i = 0; i < kMessagesMax; ++i) {
    msghdr nothing{};
    ++stats.syscalls;
    if (kernel.RecvMsg(socket.fd, &nothing, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
  }
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_ANSWERS_H_
