// What a simulated ring makes of a submission: an operation, a refusal, or the end of another one.
#ifndef HOLDFAST_NO_URING

#include <liburing.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "sim/ring.h"
#include "sim/ring_operation.h"

namespace holdfast::internal::sim {
namespace {

// Newer than the linux/io_uring.h of liburing 2.3.
constexpr unsigned kNopInjectResult = 1U << 0;
constexpr unsigned kCancelUserData = 1U << 4;

// poll(2) reports them whether asked or not, and a ring this one, too (IO_POLL_UNMASK).
constexpr std::uint32_t kAlways = EPOLLERR | EPOLLHUP | EPOLLRDHUP;

constexpr std::size_t kPartsMax = 1024;  // UIO_MAXIOV

constexpr Duration kLateEndMax = std::chrono::milliseconds(100);

template <typename Pointee>
Pointee* ToPointer(std::uint64_t word) noexcept {
  return reinterpret_cast<Pointee*>(word);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

// --- Submission.

bool Ring::Start(const io_uring_sqe& sqe) {
  Operation& operation = Allocate();
  Operation::State& state = operation.state;
  state.user_data = sqe.user_data;
  state.opcode = sqe.opcode;
  state.skip_success = (sqe.flags & IOSQE_CQE_SKIP_SUCCESS) != 0;
  state.select_buffer = (sqe.flags & IOSQE_BUFFER_SELECT) != 0;
  if (sqe.opcode == IORING_OP_ASYNC_CANCEL) {
    state.result = Cancel(sqe);
    Finish(operation);
    return true;
  }
  const int error = dead_ ? -ECANCELED : Prepare(operation, sqe);
  if (error < 0) {
    Fail(operation, error);
    return dead_;
  }
  Begin(operation);
  return true;
}

int Ring::Prepare(Operation& operation, const io_uring_sqe& sqe) {
  Operation::State& state = operation.state;
  constexpr unsigned kKnownFlags = IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS;
  if ((sqe.flags & ~kKnownFlags) != 0) return -EINVAL;
  if (state.select_buffer && sqe.opcode != IORING_OP_RECV) return -EOPNOTSUPP;
  if (sqe.opcode == IORING_OP_NOP) {
    const auto flags = static_cast<unsigned>(sqe.rw_flags);
    if ((flags & ~kNopInjectResult) != 0) return -EINVAL;
    if ((flags & kNopInjectResult) != 0) state.result = static_cast<std::int32_t>(sqe.len);
    return 0;
  }
  state.fd = sqe.fd;
  const auto prepare = [&]() -> int {
    switch (sqe.opcode) {
      case IORING_OP_SEND:
      case IORING_OP_SENDMSG:
      case IORING_OP_RECV:
        return PrepareTransfer(operation, sqe);
      case IORING_OP_ACCEPT:
        return PrepareAccept(operation, sqe);
      case IORING_OP_CONNECT:
        return PrepareConnect(operation, sqe);
      case IORING_OP_POLL_ADD:
        return PreparePoll(operation, sqe);
      default:
        return -EINVAL;
    }
  };
  if (const int error = prepare(); error < 0) return error;
  if (kernel_.world().faults.Strikes(Fault::kNoMemory)) return -ENOMEM;
  operation.file = kernel_.Find(sqe.fd);
  if (operation.file == nullptr) return -EBADF;
  operation.socket = operation.file->AsSocket();
  if (operation.socket == nullptr && sqe.opcode != IORING_OP_POLL_ADD) return -ENOTSOCK;
  return 0;
}

int Ring::PrepareTransfer(Operation& operation, const io_uring_sqe& sqe) {
  Operation::State& state = operation.state;
  const bool receives = sqe.opcode == IORING_OP_RECV;
  const unsigned known =
      IORING_RECVSEND_POLL_FIRST | (receives ? unsigned{IORING_RECV_MULTISHOT} : 0U);
  if ((sqe.ioprio & ~known) != 0 || sqe.file_index != 0) return -EINVAL;
  state.poll_first = (sqe.ioprio & IORING_RECVSEND_POLL_FIRST) != 0;
  state.flags = static_cast<int>(sqe.msg_flags) | MSG_NOSIGNAL;
  state.no_wait = (state.flags & MSG_DONTWAIT) != 0;
  state.wait_all = (state.flags & MSG_WAITALL) != 0;
  if (receives) {
    state.events = EPOLLIN | EPOLLPRI | kAlways;
    state.multishot = (sqe.ioprio & IORING_RECV_MULTISHOT) != 0;
    if (state.multishot && (!state.select_buffer || state.wait_all)) return -EINVAL;
    state.data = ToPointer<std::byte>(sqe.addr);
    state.size = sqe.len;
    state.group = sqe.buf_group;
    return state.data == nullptr && state.size > 0 && !state.select_buffer ? -EFAULT : 0;
  }
  state.events = EPOLLOUT | kAlways;
  operation.parts.clear();
  if (sqe.opcode == IORING_OP_SEND) {
    operation.parts.push_back({ToPointer<void>(sqe.addr), sqe.len});
  } else {
    const auto* const message = ToPointer<const msghdr>(sqe.addr);
    if (message == nullptr) return -EFAULT;
    if (message->msg_iovlen > kPartsMax) return -EMSGSIZE;
    operation.parts.assign(message->msg_iov, message->msg_iov + message->msg_iovlen);
  }
  for (const iovec& part : operation.parts) {
    if (part.iov_base == nullptr && part.iov_len > 0) return -EFAULT;
  }
  return 0;
}

int Ring::PrepareAccept(Operation& operation, const io_uring_sqe& sqe) {
  Operation::State& state = operation.state;
  if (sqe.len != 0 || sqe.buf_index != 0 || sqe.file_index != 0) return -EINVAL;
  if ((sqe.ioprio & ~IORING_ACCEPT_MULTISHOT) != 0) return -EINVAL;
  if ((sqe.accept_flags & ~unsigned{SOCK_CLOEXEC | SOCK_NONBLOCK}) != 0) return -EINVAL;
  state.events = EPOLLIN | EPOLLPRI | kAlways;
  state.multishot = (sqe.ioprio & IORING_ACCEPT_MULTISHOT) != 0;
  state.flags = static_cast<int>(sqe.accept_flags);
  state.address = ToPointer<sockaddr>(sqe.addr);
  state.address_size = ToPointer<socklen_t>(sqe.addr2);
  return 0;
}

int Ring::PrepareConnect(Operation& operation, const io_uring_sqe& sqe) {
  if (sqe.len != 0 || sqe.buf_index != 0 || sqe.rw_flags != 0 || sqe.file_index != 0) {
    return -EINVAL;
  }
  if (sqe.off > sizeof(sockaddr_storage)) return -EINVAL;
  if (sqe.addr == 0) return -EFAULT;
  operation.state.events = EPOLLOUT | EPOLLPRI | kAlways;
  operation.peer_size = static_cast<socklen_t>(sqe.off);
  if (operation.peer == nullptr) operation.peer = std::make_unique<sockaddr_storage>();
  std::memcpy(operation.peer.get(), ToPointer<const void>(sqe.addr), operation.peer_size);
  return 0;
}

int Ring::PreparePoll(Operation& operation, const io_uring_sqe& sqe) {
  Operation::State& state = operation.state;
  if (sqe.buf_index != 0 || sqe.off != 0 || sqe.addr != 0) return -EINVAL;
  if ((sqe.len & ~IORING_POLL_ADD_MULTI) != 0) return -EINVAL;
  state.multishot = (sqe.len & IORING_POLL_ADD_MULTI) != 0;
  if (state.multishot && state.skip_success) return -EINVAL;
  constexpr std::uint32_t kModes = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;
  state.events = (sqe.poll32_events & ~kModes) | kAlways;
  return 0;
}

// --- Cancelling.

int Ring::Cancel(const io_uring_sqe& sqe) {
  constexpr unsigned kKnown =
      IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ANY | kCancelUserData;
  const unsigned flags = sqe.cancel_flags;
  if ((sqe.flags & ~unsigned{IOSQE_CQE_SKIP_SUCCESS}) != 0) return -EINVAL;
  if ((flags & ~kKnown) != 0 || sqe.off != 0 || sqe.file_index != 0) return -EINVAL;
  if (dead_) return 0;  // So is everything that was to be cancelled.
  if (kernel_.world().faults.Strikes(Fault::kNoMemory)) return -ENOMEM;
  const bool any = (flags & IORING_ASYNC_CANCEL_ANY) != 0;
  const bool all = any || (flags & IORING_ASYNC_CANCEL_ALL) != 0;
  const bool by_file = (flags & IORING_ASYNC_CANCEL_FD) != 0;
  if (any && by_file) return -EINVAL;
  if (!all && !by_file) {
    const auto found = index_.find(sqe.addr);
    return found == index_.end() ? -ENOENT : CancelOne(*found->second);
  }
  const std::shared_ptr<File> file = by_file ? kernel_.Find(sqe.fd) : nullptr;
  if (by_file && file == nullptr) return -EBADF;
  int count = 0;
  for (const std::unique_ptr<Operation>& operation : pool_) {
    const Operation::State& state = operation->state;
    if (!state.indexed || state.cancelled) continue;
    if (!any && (by_file ? operation->file != file : state.user_data != sqe.addr)) continue;
    const int result = CancelOne(*operation);
    if (!all) return result;
    ++count;
  }
  return all ? count : -ENOENT;
}

// io_poll_cancel: it ends in task work, and so after the completion of the cancel.
int Ring::CancelOne(Operation& operation) {
  Operation::State& state = operation.state;
  FaultPlan& faults = kernel_.world().faults;
  int answer = state.in_worker ? -EALREADY : 0;
  if (faults.Strikes(Fault::kCancelRace)) {
    answer = faults.random().Below(2) == 0 ? -ENOENT : -EALREADY;
    state.last_try = faults.random().Below(2) == 0;
  }
  state.cancelled = true;
  if (state.queued || state.held) return answer;
  if (faults.Strikes(Fault::kCompletionAfterClose)) {
    const auto limit = static_cast<std::uint64_t>(kLateEndMax.count());
    HoldBack(operation, Duration(faults.random().Between(1, limit)));
  } else {
    Queue(operation);
  }
  return answer;
}

void Ring::Index(Operation& operation) {
  const auto [place, fresh] = index_.try_emplace(operation.state.user_data, &operation);
  operation.older = fresh ? nullptr : std::exchange(place->second, &operation);
  operation.state.indexed = true;
}

void Ring::Unindex(Operation& operation) {
  if (!std::exchange(operation.state.indexed, false)) return;
  const auto found = index_.find(operation.state.user_data);
  HOLDFAST_CHECK(found != index_.end());
  Operation* const older = std::exchange(operation.older, nullptr);
  if (found->second != &operation) {
    Operation* newer = found->second;
    while (newer->older != &operation) newer = newer->older;
    newer->older = older;
  } else if (older != nullptr) {
    found->second = older;
  } else {
    index_.erase(found);
  }
}

// --- The pool.

Ring::Operation& Ring::Allocate() {
  if (free_.empty()) {
    pool_.push_back(std::make_unique<Operation>(*this));
    free_.push_back(pool_.back().get());
  }
  Operation& operation = *free_.back();
  free_.pop_back();
  operation.state = {};
  operation.state.serial = ++serial_;
  return operation;
}

void Ring::Release(Operation& operation) {
  operation.state = {};
  operation.socket = nullptr;
  free_.push_back(&operation);
  // It may be the last reference, whose end wakes others.
  const std::shared_ptr<File> file = std::move(operation.file);
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
