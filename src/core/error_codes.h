// The few questions about a bare errno that are asked outside the error table.
//
// No errno constant appears outside src/core/error* and src/sys (make check-errno), so that nobody
// sorts errors twice. What another floor must know of a number without its call has a name here.
#ifndef HOLDFAST_CORE_ERROR_CODES_H_
#define HOLDFAST_CORE_ERROR_CODES_H_

#include <cerrno>
#include <cstdint>

namespace holdfast::internal {

// --- For a name of the C library that has no seam in Kernel (if_nametoindex(3)).

// errno, right after the call that failed.
[[nodiscard]] inline int LastErrorNumber() noexcept { return errno; }

// --- For the death of a connection (machine/death.h).

// True exactly when an operation that ended with this errno says why the connection died. EPIPE only
// says that another call was told, ECANCELED that we cancelled, EAGAIN and EINTR that nothing happened
// yet; 0 is no error (docs/kernel.md, "Death and the account").
[[nodiscard]] constexpr bool IsTelling(int errno_value) noexcept {
  return errno_value > 0 && errno_value != EPIPE && errno_value != ECANCELED &&
         errno_value != EAGAIN && errno_value != EINTR;
}

// --- For the backends. Whether an answer is worth trying again is the table's to say (kTryAgain);
// these are the distinctions below that.

// What an operation that was cancelled before it did anything ends with.
inline constexpr int kCancelledCode = -ECANCELED;

// What Backend::Open and Adopt answer when there is no slot. Also for the runtime's own memory: an
// attempt or a connection that cannot have it ends as one that the kernel had none for.
inline constexpr int kNoMemoryCode = -ENOMEM;
// What a peer did that sends a frame which is too long, or none (machine/frame_reader.h).
inline constexpr int kTooLongCode = -EMSGSIZE;
inline constexpr int kMalformedCode = -EBADMSG;
// What io_uring_enter(2) answers to a thread that is not the ring's, and a backend to a forked child.
inline constexpr int kWrongThreadCode = -EEXIST;

// True exactly for the kTryAgain answers of a call that found nothing to do: ask again once the
// descriptor is ready. Every other kTryAgain answer (a signal, a connection that died in the
// listener's queue) is a reason to ask again at once.
[[nodiscard]] constexpr bool IsNotReady(std::int64_t result) noexcept { return result == -EAGAIN; }

// True exactly when a receive found the ring's provided buffers used up, and nothing is wrong with the
// socket (cqe:recv ENOBUFS; recv(2) itself never says it of a stream).
[[nodiscard]] constexpr bool IsOutOfBuffers(std::int64_t result) noexcept {
  return result == -ENOBUFS;
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_ERROR_CODES_H_
