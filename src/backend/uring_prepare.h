// What the submissions of the backend say, field by field, and nothing about when they are made.
//
// Never IORING_OP_CLOSE or SHUTDOWN (the latter always runs in a kernel worker), never IOSQE_IO_LINK or
// IOSQE_ASYNC, never a send of zero bytes (it would swallow the pending error of the socket).
#ifndef HOLDFAST_BACKEND_URING_PREPARE_H_
#define HOLDFAST_BACKEND_URING_PREPARE_H_

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "backend/uring_ring.h"
#include "base/check.h"

namespace holdfast::internal {

// A submission has 32 bits for a size and its completion 31.
inline constexpr std::size_t kSendBytesMax = 1u << 30;

// The address is copied. Requires: size <= sizeof(sockaddr_storage).
inline void PrepareConnect(const UringRing::Staged& staged, int fd, const sockaddr* address,
                           socklen_t size) noexcept {
  HOLDFAST_CHECK(size <= sizeof(sockaddr_storage));
  std::memcpy(&staged.scratch->address, address, size);
  io_uring_prep_connect(staged.sqe, fd, reinterpret_cast<const sockaddr*>(&staged.scratch->address),
                        size);
}

inline void PrepareAccept(io_uring_sqe* sqe, int fd, bool multishot) noexcept {
  io_uring_prep_accept(sqe, fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (multishot) sqe->ioprio |= IORING_ACCEPT_MULTISHOT;
}

// Into the provided buffers. `wait_first`: does not look before the socket is readable.
inline void PrepareReceive(io_uring_sqe* sqe, int fd, bool multishot, bool wait_first) noexcept {
  io_uring_prep_recv(sqe, fd, nullptr, 0, 0);
  if (multishot) sqe->ioprio |= IORING_RECV_MULTISHOT;
  if (wait_first) sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = BufferRing::kGroup;
}

// A fast send of `parts`, which are copied; the number of bytes, which is all of them up to
// kSendBytesMax. `silent`: no completion when all of them are taken.
inline std::uint32_t PrepareSend(const UringRing::Staged& staged, int fd,
                                 std::span<const iovec> parts, bool silent) noexcept {
  HOLDFAST_CHECK(!parts.empty());
  HOLDFAST_CHECK(parts.size() <= kSendPartsMax);
  std::size_t size = 0;
  if (parts.size() == 1) {
    size = std::min(parts[0].iov_len, kSendBytesMax);
    io_uring_prep_send(staged.sqe, fd, parts[0].iov_base, size, kFastSendFlags);
  } else {
    UringRing::Scratch::Message& message = staged.scratch->message;
    message.header = {};
    message.header.msg_iov = message.parts;
    for (const iovec& part : parts) {
      const std::size_t taken = std::min(part.iov_len, kSendBytesMax - size);
      if (taken > 0) message.parts[message.header.msg_iovlen++] = {part.iov_base, taken};
      size += taken;
    }
    io_uring_prep_sendmsg(staged.sqe, fd, &message.header, kFastSendFlags);
  }
  HOLDFAST_CHECK(size > 0);
  if (silent) staged.sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  return static_cast<std::uint32_t>(size);
}

// A multishot poll, because a single one would be used up by the peer's FIN, which is no room:
// poll(2) reports RDHUP, HUP and ERR whether asked or not.
inline void PreparePollOut(io_uring_sqe* sqe, int fd) noexcept {
  io_uring_prep_poll_multishot(sqe, fd, POLLOUT);
}
// Whether a completion of it says that a send is worth an attempt.
[[nodiscard]] inline bool HasRoom(std::int32_t result) noexcept {
  return result > 0 && (result & (POLLOUT | POLLERR | POLLHUP)) != 0;
}
// Whether it tells of nothing but the error queue.
[[nodiscard]] inline bool IsErrorAlone(std::int32_t result) noexcept {
  return result > 0 && (result & (POLLOUT | POLLERR | POLLHUP)) == POLLERR;
}

inline void PrepareCancel(io_uring_sqe* sqe, std::uint64_t target, bool silent) noexcept {
  io_uring_prep_cancel64(sqe, target, 0);
  if (silent) sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_PREPARE_H_
