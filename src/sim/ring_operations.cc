// What the operations of a simulated ring do, from the first attempt to the last completion.
#ifndef HOLDFAST_NO_URING

#include <liburing.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/poison.h"
#include "sim/ring.h"
#include "sim/ring_operation.h"

namespace holdfast::internal::sim {
namespace {

constexpr unsigned kArmsMax = 128;         // APOLL_MAX_RETRY
constexpr unsigned kReceivesPerWake = 32;  // MULTISHOT_MAX_RETRY

bool IsPoisoned([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) noexcept {
#ifdef HOLDFAST_ASAN
  return __asan_region_is_poisoned(const_cast<void*>(data), size) != nullptr;
#else
  return false;
#endif
}

// recv(2) into memory that its owner may have poisoned until we hand it over; it stays so.
ssize_t ReceiveInto(SocketFile& socket, std::byte* data, std::size_t size, int flags) {
  const bool guarded = size > 0 && IsPoisoned(data, size);
  if (guarded) Unpoison(data, size);
  const ssize_t received = socket.Recv(data, size, flags);
  if (guarded) Poison(data, size);
  return received;
}

// What SOCK_NONEMPTY is said by: unread bytes, or the FIN behind them (tcp_inq_hint).
bool HasMore(SocketFile& socket) {
  int unread = 0;
  if (socket.Ioctl(SIOCINQ, &unread) < 0) return false;
  return unread > 0 || (socket.Poll() & EPOLLRDHUP) != 0;
}

}  // namespace

// --- Waiting.

// io_queue_sqe: an attempt that finds it must wait arms a poll.
void Ring::Begin(Operation& operation) {
  Operation::State& state = operation.state;
  const bool waits_first = state.poll_first && state.arms == 0;
  if (!waits_first && Try(operation) == Outcome::kDone) return Finish(operation);
  if (!state.no_wait) return Arm(operation);
  Fail(operation, -EAGAIN);
}

// io_arm_poll_handler, io_poll_add
void Ring::Arm(Operation& operation) {
  Operation::State& state = operation.state;
  File& file = *operation.file;
  ++state.arms;
  if (state.arms > kArmsMax && !state.multishot && !state.in_worker) {
    // A poll says that it is ready and it is not: a worker blocks in the call itself.
    state.in_worker = true;
    state.events &= ~std::uint32_t{EPOLLRDHUP};
  }
  const std::uint32_t ready = state.in_worker ? 0 : file.Poll() & state.events;
  if (ready != 0 && !state.multishot) {
    state.again = true;
    return Queue(operation);
  }
  if (state.opcode == IORING_OP_ACCEPT) {
    file.AddWaiter(operation);  // Exclusive ones stand behind the others.
  } else {
    file.AddWaiterFirst(operation);
  }
  Index(operation);
  if (ready != 0) OnWake(operation, ready);
}

void Ring::Run(Operation& operation) {
  Operation::State& state = operation.state;
  if (state.cancelled) {
    RunCancelled(operation);
  } else if (std::exchange(state.again, false)) {
    state.queued = false;
    Begin(operation);
  } else {
    RunWoken(operation);
  }
}

// io_poll_check_events, io_poll_task_func
void Ring::RunWoken(Operation& operation) {
  Operation::State& state = operation.state;
  const auto disarm = [&] {
    if (operation.waits()) operation.Waiter::Unlink();
    Unindex(operation);
    state.queued = false;
  };
  do {
    const unsigned wakes = std::exchange(state.wakes, 0);
    std::uint32_t events = std::exchange(state.woken_by, 0);
    // After more than one wake only the file knows.
    if (wakes != 1 || events == 0) events = operation.file->Poll() & state.events;
    const bool polls = state.opcode == IORING_OP_POLL_ADD;
    if (!state.multishot) {
      disarm();
      if (events == 0 || !polls) return Begin(operation);
      state.result = static_cast<std::int32_t>(events);
      return Finish(operation);
    }
    if (events == 0) continue;
    Outcome outcome = Outcome::kWait;
    if (!polls) {
      outcome = Try(operation);
    } else if (!PostMore(operation, static_cast<std::int32_t>(events), 0)) {
      outcome = Outcome::kDone;
    }
    if (outcome == Outcome::kDone) {
      disarm();
      return Finish(operation);
    }
    if (outcome == Outcome::kAgain) {
      state.wakes = 1;
      return Enqueue(operation);
    }
    // Of several wakes one may have been the end, after which there is none.
    if (wakes > 1 && !polls && (operation.file->Poll() & (EPOLLHUP | EPOLLRDHUP)) != 0) {
      state.wakes += wakes - 1;
    }
  } while (state.wakes > 0);
  state.queued = false;
}

void Ring::RunCancelled(Operation& operation) {
  const bool last_try = std::exchange(operation.state.last_try, false);
  if (operation.waits()) operation.Waiter::Unlink();
  Unindex(operation);
  if (last_try && !dead_ && Try(operation) == Outcome::kDone) return Finish(operation);
  Fail(operation, -ECANCELED);
}

// --- The attempts.

Ring::Outcome Ring::Try(Operation& operation) {
  switch (operation.state.opcode) {
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
      return TrySend(operation);
    case IORING_OP_RECV:
      return TryReceive(operation);
    case IORING_OP_ACCEPT:
      return TryAccept(operation);
    case IORING_OP_CONNECT:
      return TryConnect(operation);
    case IORING_OP_POLL_ADD: {
      // What is multishot completes in task work only.
      const std::uint32_t events = operation.file->Poll() & operation.state.events;
      operation.state.result = static_cast<std::int32_t>(events);
      return events == 0 || operation.state.multishot ? Outcome::kWait : Outcome::kDone;
    }
    default:
      return Outcome::kDone;
  }
}

// io_send: with MSG_WAITALL less than everything is a failure, whose completion tells how much.
Ring::Outcome Ring::TrySend(Operation& operation) {
  Operation::State& state = operation.state;
  std::vector<iovec>& parts = operation.parts;
  std::size_t size = 0;
  for (const iovec& part : parts) {
    HOLDFAST_CHECK(part.iov_len == 0 || !IsPoisoned(part.iov_base, part.iov_len));
    size += part.iov_len;
  }
  const ssize_t sent = operation.socket->Send(parts.data(), parts.size(), state.flags);
  if (sent == -EAGAIN) return Outcome::kWait;
  if (sent < 0) {
    state.failed = true;
    state.result =
        static_cast<std::int32_t>(state.done > 0 ? static_cast<ssize_t>(state.done) : sent);
    return Outcome::kDone;
  }
  auto left = static_cast<std::size_t>(sent);
  state.done += left;
  if (left < size && state.wait_all) {
    for (iovec& part : parts) {
      const std::size_t taken = std::min(left, part.iov_len);
      part = {static_cast<std::byte*>(part.iov_base) + taken, part.iov_len - taken};
      left -= taken;
    }
    return Outcome::kWait;
  }
  state.result = static_cast<std::int32_t>(state.done);
  return Outcome::kDone;
}

// io_recv
Ring::Outcome Ring::TryReceive(Operation& operation) {
  Operation::State& state = operation.state;
  FaultPlan& faults = kernel_.world().faults;
  for (;;) {
    // The buffer comes first: without one not even the end of the stream is seen.
    Buffer buffer{state.data, state.size, 0};
    BufferGroup* group = nullptr;
    if (state.select_buffer) {
      group = PeekBuffer(operation, &buffer);
      if (group == nullptr) {
        state.result = -ENOBUFS;
        state.result_flags = 0;
        return Outcome::kDone;
      }
    }
    const ssize_t received = ReceiveInto(*operation.socket, buffer.data, buffer.size, state.flags);
    if (received == -EAGAIN) return Outcome::kWait;
    if (received > 0 && state.wait_all && static_cast<std::size_t>(received) < buffer.size &&
        group == nullptr) {
      state.done += static_cast<std::size_t>(received);
      state.data += received;
      state.size -= static_cast<std::size_t>(received);
      continue;
    }
    // An error behind some bytes is swallowed (docs/kernel.md 3).
    const auto done = static_cast<ssize_t>(state.done);
    state.result = static_cast<std::int32_t>(received < 0 && done > 0 ? done : received + done);
    state.failed = received < 0;
    state.result_flags = 0;
    const bool more = received >= 0 && HasMore(*operation.socket);
    if (more) state.result_flags |= IORING_CQE_F_SOCK_NONEMPTY;
    if (received > 0 && group != nullptr) {
      ++group->head;
      state.result_flags |=
          IORING_CQE_F_BUFFER | (std::uint32_t{buffer.id} << IORING_CQE_BUFFER_SHIFT);
    }
    if (received <= 0 || !state.multishot || faults.Strikes(Fault::kMultishotEnds) ||
        !PostMore(operation, state.result, state.result_flags)) {
      return Outcome::kDone;
    }
    if (!more) return Outcome::kWait;
    if (++state.rounds > kReceivesPerWake) {
      state.rounds = 0;
      return Outcome::kAgain;
    }
  }
}

// io_ring_buffer_select
Ring::BufferGroup* Ring::PeekBuffer(const Operation& operation, Buffer* buffer) {
  if (kernel_.world().faults.Strikes(Fault::kBuffersEmpty)) return nullptr;
  const auto found = groups_.find(operation.state.group);
  if (found == groups_.end()) return nullptr;
  BufferGroup& group = found->second;
  if (group.ring->tail == group.head) return nullptr;
  const io_uring_buf& entry = group.ring->bufs[group.head & group.mask];
  const std::size_t wanted = operation.state.size;
  buffer->data = reinterpret_cast<std::byte*>(entry.addr);
  buffer->size = wanted == 0 ? entry.len : std::min<std::size_t>(wanted, entry.len);
  buffer->id = entry.bid;
  return &group;
}

// io_accept
Ring::Outcome Ring::TryAccept(Operation& operation) {
  Operation::State& state = operation.state;
  SocketFile& listener = *operation.socket;
  FaultPlan& faults = kernel_.world().faults;
  const auto fail = [&](int error) {
    state.result = error;
    state.result_flags = 0;
    return Outcome::kDone;
  };
  for (;;) {
    if (listener.HasPending() && faults.Strikes(Fault::kAcceptLimit)) {
      return fail(faults.random().Below(2) == 0 ? -EMFILE : -ENFILE);
    }
    // The descriptor comes first, whether there is a connection or not.
    if (kernel_.table_full()) {
      if (listener.HasPending()) faults.Hit(Fault::kAcceptLimit);
      return fail(-EMFILE);
    }
    int error = 0;
    std::shared_ptr<SocketFile> accepted = listener.Accept(&error);
    if (accepted == nullptr) return error == -EAGAIN ? Outcome::kWait : fail(error);
    if (state.address != nullptr && state.address_size != nullptr) {
      static_cast<void>(accepted->AcceptedFrom(state.address, state.address_size));
    }
    accepted->nonblocking = (state.flags & SOCK_NONBLOCK) != 0;
    state.result = kernel_.Install(std::move(accepted));
    const bool more = listener.HasPending();
    state.result_flags = more ? unsigned{IORING_CQE_F_SOCK_NONEMPTY} : 0U;
    if (!state.multishot || faults.Strikes(Fault::kMultishotEnds) ||
        !PostMore(operation, state.result, state.result_flags)) {
      return Outcome::kDone;
    }
    if (!more) return Outcome::kWait;
  }
}

// io_connect
Ring::Outcome Ring::TryConnect(Operation& operation) {
  Operation::State& state = operation.state;
  SocketFile& socket = *operation.socket;
  const auto done = [&](int result) {
    state.result = result;
    return Outcome::kDone;
  };
  if (state.in_progress) {
    const std::uint32_t events = socket.Poll();
    if ((events & EPOLLERR) != 0) {
      // It asks for the hard error alone. While the handshake goes on there is none: what made the
      // poll ready is soft, and the result is 0 in SYN_SENT (docs/kernel.md 1).
      if ((events & EPOLLHUP) == 0) return done(0);
      int error = 0;
      socklen_t size = sizeof(error);
      static_cast<void>(socket.GetSockOpt(SOL_SOCKET, SO_ERROR, &error, &size));
      return done(-error);
    }
  }
  const int result =
      socket.Connect(reinterpret_cast<const sockaddr*>(operation.peer.get()), operation.peer_size);
  if (result == -EINPROGRESS) {
    state.in_progress = true;
    FaultPlan& faults = kernel_.world().faults;
    if (!faults.Strikes(Fault::kConnectOddPath)) return Outcome::kWait;
    return done(faults.random().Below(2) == 0 ? -EINPROGRESS : -EINTR);
  }
  if (result == -EAGAIN || (result == -EALREADY && state.in_progress)) return Outcome::kWait;
  if (result == -ECONNABORTED && !std::exchange(state.saw_abort, true)) return Outcome::kWait;
  return done(result == -EISCONN && state.in_progress ? 0 : result);
}

// --- Completion.

bool Ring::PostMore(Operation& operation, std::int32_t result, std::uint32_t flags) {
  return TryPost({operation.state.user_data, result, flags | IORING_CQE_F_MORE}, operation);
}

void Ring::Finish(Operation& operation) {
  const Operation::State& state = operation.state;
  const bool failed = state.failed || state.result < 0;
  if (failed || !state.skip_success) {
    Post({state.user_data, state.result, state.result_flags}, operation);
  }
  Release(operation);
}

// io_req_defer_failed, io_sendrecv_fail: what was transferred before the failure is what counts.
void Ring::Fail(Operation& operation, std::int32_t result) {
  Operation::State& state = operation.state;
  state.result = state.done > 0 ? static_cast<std::int32_t>(state.done) : result;
  state.result_flags = 0;
  state.failed = true;
  Finish(operation);
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
