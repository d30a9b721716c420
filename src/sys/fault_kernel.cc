#include "sys/fault_kernel.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/check.h"

#ifndef HOLDFAST_NO_URING
#include <liburing.h>
#endif

namespace holdfast::internal {
namespace {

std::size_t IndexOf(KernelCall call) noexcept { return static_cast<std::size_t>(call); }
std::size_t IndexOf(RingOp op) noexcept { return static_cast<std::size_t>(op); }

bool Matches(int filter, int value) noexcept { return filter == kAny || filter == value; }

bool CanShorten(KernelCall call) noexcept {
  switch (call) {
    case KernelCall::kSend:
    case KernelCall::kSendMsg:
    case KernelCall::kRecv:
    case KernelCall::kRecvMsg:
    case KernelCall::kRead:
    case KernelCall::kWrite:
    case KernelCall::kGetRandom:
    case KernelCall::kEpollWait:
    case KernelCall::kRingEnter:
      return true;
    default:
      return false;
  }
}

// The calls whose positive answer says that the caller's memory was filled.
bool FillsMemory(KernelCall call) noexcept {
  switch (call) {
    case KernelCall::kRecv:
    case KernelCall::kRecvMsg:
    case KernelCall::kRead:
    case KernelCall::kGetRandom:
    case KernelCall::kEpollWait:
      return true;
    default:
      return false;
  }
}

// The calls whose success hands over more than the answer: nobody can make that up.
bool AnswersMoreThanANumber(KernelCall call) noexcept {
  switch (call) {
    case KernelCall::kSocketPair:
    case KernelCall::kGetSockName:
    case KernelCall::kGetPeerName:
    case KernelCall::kRingSetup:
      return true;
    default:
      return false;
  }
}

std::size_t TotalSize(const msghdr& message) noexcept {
  std::size_t size = 0;
  for (std::size_t i = 0; i < message.msg_iovlen; ++i) size += message.msg_iov[i].iov_len;
  return size;
}

// The message with its vector cut to `size` bytes; `parts` holds the vector.
msghdr Shortened(const msghdr& message, std::size_t size, std::vector<iovec>* parts) noexcept {
  parts->clear();
  for (std::size_t i = 0; i < message.msg_iovlen && size > 0; ++i) {
    iovec part = message.msg_iov[i];
    part.iov_len = std::min(part.iov_len, size);
    size -= part.iov_len;
    parts->push_back(part);
  }
  msghdr shorter = message;
  shorter.msg_iov = parts->data();
  shorter.msg_iovlen = parts->size();
  return shorter;
}

// What a GetSockOpt or an Ioctl that was answered with 0 leaves behind.
void WriteOutcome(const Fault& fault, void* value, socklen_t* size) noexcept {
  if (fault.result != 0 || *size < sizeof(fault.outcome)) return;
  std::memcpy(value, &fault.outcome, sizeof(fault.outcome));
  *size = sizeof(fault.outcome);
}

}  // namespace

// --- The script.

FaultKernel::FaultKernel(Kernel& inner) noexcept : inner_(inner) {}

bool FaultKernel::Rule::Count() noexcept {
  const std::uint64_t first = is_ring_op ? ring_fault.first : fault.first;
  const std::uint64_t count = is_ring_op ? ring_fault.count : fault.count;
  ++seen;
  return seen >= first && seen - first < count;
}

int FaultKernel::Inject(const Fault& fault) noexcept {
  HOLDFAST_CHECK(fault.first >= 1);
  HOLDFAST_CHECK(fault.count >= 1);
  HOLDFAST_CHECK(fault.call != KernelCall::kRingExit);
  HOLDFAST_CHECK(fault.call != KernelCall::kFreeAddrInfo);
  HOLDFAST_CHECK(fault.call != KernelCall::kClockNow);
  if (fault.mode == FaultMode::kShorten) {
    HOLDFAST_CHECK(CanShorten(fault.call));
    HOLDFAST_CHECK(fault.shorten_to >= 1);
  } else {
    HOLDFAST_CHECK(!FillsMemory(fault.call) || fault.result <= 0);
    HOLDFAST_CHECK(!AnswersMoreThanANumber(fault.call) || fault.result < 0);
    HOLDFAST_CHECK(fault.call != KernelCall::kGetAddrInfo || fault.result != 0);
    HOLDFAST_CHECK(fault.call != KernelCall::kStartThread ||
                   (fault.mode == FaultMode::kReplace && fault.result < 0));
  }
  const std::lock_guard lock(mutex_);
  Rule rule;
  rule.fault = fault;
  rules_.push_back(rule);
  standing_[IndexOf(fault.call)].fetch_add(1);
  return static_cast<int>(rules_.size()) - 1;
}

int FaultKernel::InjectRingOp(const RingFault& fault) noexcept {
  HOLDFAST_CHECK(fault.first >= 1);
  HOLDFAST_CHECK(fault.count >= 1);
  HOLDFAST_CHECK(fault.mode != FaultMode::kAfter);
  if (fault.mode == FaultMode::kShorten) {
    HOLDFAST_CHECK(fault.op == RingOp::kSend || fault.op == RingOp::kSendMsg);
    HOLDFAST_CHECK(fault.shorten_to >= 1);
  } else {
    HOLDFAST_CHECK((fault.op != RingOp::kRecv && fault.op != RingOp::kPollAdd) ||
                   fault.result <= 0);
  }
  HOLDFAST_CHECK(ring_faults_supported());
  const std::lock_guard lock(mutex_);
  Rule rule;
  rule.ring_fault = fault;
  rule.is_ring_op = true;
  rules_.push_back(rule);
  return static_cast<int>(rules_.size()) - 1;
}

void FaultKernel::Clear() noexcept {
  const std::lock_guard lock(mutex_);
  for (Rule& rule : rules_) {
    if (rule.ended) continue;
    rule.ended = true;
    if (!rule.is_ring_op) standing_[IndexOf(rule.fault.call)].fetch_sub(1);
  }
}

std::uint64_t FaultKernel::seen(int rule) const noexcept {
  const std::lock_guard lock(mutex_);
  HOLDFAST_CHECK(rule >= 0 && static_cast<std::size_t>(rule) < rules_.size());
  return rules_[static_cast<std::size_t>(rule)].seen;
}

std::uint64_t FaultKernel::hits(int rule) const noexcept {
  const std::lock_guard lock(mutex_);
  HOLDFAST_CHECK(rule >= 0 && static_cast<std::size_t>(rule) < rules_.size());
  return rules_[static_cast<std::size_t>(rule)].hits;
}

std::uint64_t FaultKernel::calls(KernelCall call) const noexcept {
  return calls_[IndexOf(call)].load();
}

std::uint64_t FaultKernel::submissions(RingOp op) const noexcept {
  return submissions_[IndexOf(op)].load();
}

bool FaultKernel::ring_faults_supported() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (ring_faults_ != Support::kUnknown) return ring_faults_ == Support::kYes;
  }
  const bool works = TryNopResult();
  const std::lock_guard lock(mutex_);
  ring_faults_ = works ? Support::kYes : Support::kNo;
  return works;
}

void FaultKernel::AdvanceClock(Duration by) noexcept {
  HOLDFAST_CHECK(by >= Duration::zero());
  clock_offset_.fetch_add(by.count());
}

void FaultKernel::LimitRings(unsigned submissions_max, unsigned completions_max) noexcept {
  HOLDFAST_CHECK(submissions_max >= 1);
  HOLDFAST_CHECK(submissions_max <= completions_max);
  const std::lock_guard lock(mutex_);
  submissions_max_ = submissions_max;
  completions_max_ = completions_max;
}

bool FaultKernel::Hit(const Subject& subject, Fault* fault) noexcept {
  calls_[IndexOf(subject.call)].fetch_add(1);
  if (standing_[IndexOf(subject.call)].load() == 0) return false;
  const std::lock_guard lock(mutex_);
  Rule* hit = nullptr;
  for (Rule& rule : rules_) {
    if (rule.ended || rule.is_ring_op) continue;
    const Fault& filter = rule.fault;
    if (filter.call != subject.call || !Matches(filter.fd, subject.fd) ||
        !Matches(filter.level, subject.level) || !Matches(filter.request, subject.request)) {
      continue;
    }
    if (rule.Count() && hit == nullptr) hit = &rule;
  }
  if (hit == nullptr) return false;
  ++hit->hits;
  *fault = hit->fault;
  return true;
}

bool FaultKernel::HitRingOp(RingOp op, int fd, RingFault* fault) noexcept {
  submissions_[IndexOf(op)].fetch_add(1);
  Rule* hit = nullptr;
  for (Rule& rule : rules_) {
    if (rule.ended || !rule.is_ring_op) continue;
    if (rule.ring_fault.op != op || !Matches(rule.ring_fault.fd, fd)) continue;
    if (rule.Count() && hit == nullptr) hit = &rule;
  }
  if (hit == nullptr) return false;
  ++hit->hits;
  *fault = hit->ring_fault;
  return true;
}

// --- The forms of a call.

template <typename Call>
int FaultKernel::Plain(const Subject& subject, Call call) noexcept {
  Fault fault;
  if (!Hit(subject, &fault)) return call();
  if (fault.mode == FaultMode::kAfter) static_cast<void>(call());
  return fault.result;
}

template <typename Call>
int FaultKernel::Descriptor(const Subject& subject, Call call) noexcept {
  Fault fault;
  if (!Hit(subject, &fault)) return call();
  if (fault.mode == FaultMode::kAfter) {
    const int made = call();
    if (made >= 0) static_cast<void>(inner_.Close(made));
  }
  return fault.result;
}

template <typename Call>
ssize_t FaultKernel::Sized(const Subject& subject, std::size_t size, Call call) noexcept {
  Fault fault;
  if (!Hit(subject, &fault)) return call(size);
  if (fault.mode == FaultMode::kShorten) return call(std::min(size, fault.shorten_to));
  if (fault.mode == FaultMode::kAfter) static_cast<void>(call(size));
  return fault.result;
}

// --- Kernel: sockets.

int FaultKernel::Socket(int domain, int type, int protocol) noexcept {
  return Descriptor({.call = KernelCall::kSocket},
                    [&] { return inner_.Socket(domain, type, protocol); });
}

int FaultKernel::SocketPair(int domain, int type, int protocol, int fds[2]) noexcept {
  Fault fault;
  if (!Hit({.call = KernelCall::kSocketPair}, &fault)) {
    return inner_.SocketPair(domain, type, protocol, fds);
  }
  int made[2];
  if (fault.mode == FaultMode::kAfter && inner_.SocketPair(domain, type, protocol, made) == 0) {
    static_cast<void>(inner_.Close(made[0]));
    static_cast<void>(inner_.Close(made[1]));
  }
  return fault.result;
}

int FaultKernel::Bind(int fd, const sockaddr* address, socklen_t size) noexcept {
  return Plain({.call = KernelCall::kBind, .fd = fd},
               [&] { return inner_.Bind(fd, address, size); });
}

int FaultKernel::Listen(int fd, int backlog) noexcept {
  return Plain({.call = KernelCall::kListen, .fd = fd}, [&] { return inner_.Listen(fd, backlog); });
}

int FaultKernel::Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept {
  return Descriptor({.call = KernelCall::kAccept4, .fd = fd},
                    [&] { return inner_.Accept4(fd, address, size, flags); });
}

int FaultKernel::Connect(int fd, const sockaddr* address, socklen_t size) noexcept {
  return Plain({.call = KernelCall::kConnect, .fd = fd},
               [&] { return inner_.Connect(fd, address, size); });
}

ssize_t FaultKernel::Send(int fd, const void* data, std::size_t size, int flags) noexcept {
  return Sized({.call = KernelCall::kSend, .fd = fd}, size,
               [&](std::size_t allowed) { return inner_.Send(fd, data, allowed, flags); });
}

ssize_t FaultKernel::SendMsg(int fd, const msghdr* message, int flags) noexcept {
  return Sized({.call = KernelCall::kSendMsg, .fd = fd}, TotalSize(*message),
               [&](std::size_t allowed) {
                 std::vector<iovec> parts;
                 const msghdr shorter = Shortened(*message, allowed, &parts);
                 return inner_.SendMsg(fd, &shorter, flags);
               });
}

ssize_t FaultKernel::Recv(int fd, void* data, std::size_t size, int flags) noexcept {
  return Sized({.call = KernelCall::kRecv, .fd = fd}, size,
               [&](std::size_t allowed) { return inner_.Recv(fd, data, allowed, flags); });
}

ssize_t FaultKernel::RecvMsg(int fd, msghdr* message, int flags) noexcept {
  return Sized({.call = KernelCall::kRecvMsg, .fd = fd}, TotalSize(*message),
               [&](std::size_t allowed) {
                 std::vector<iovec> parts;
                 msghdr shorter = Shortened(*message, allowed, &parts);
                 const ssize_t received = inner_.RecvMsg(fd, &shorter, flags);
                 // What recvmsg(2) answers in the header goes back; the vector stays the caller's.
                 message->msg_namelen = shorter.msg_namelen;
                 message->msg_controllen = shorter.msg_controllen;
                 message->msg_flags = shorter.msg_flags;
                 return received;
               });
}

int FaultKernel::Shutdown(int fd, int how) noexcept {
  return Plain({.call = KernelCall::kShutdown, .fd = fd}, [&] { return inner_.Shutdown(fd, how); });
}

int FaultKernel::Close(int fd) noexcept {
  Fault fault;
  const bool hit = Hit({.call = KernelCall::kClose, .fd = fd}, &fault);
  const int closed = inner_.Close(fd);
  return hit ? fault.result : closed;
}

int FaultKernel::GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept {
  Fault fault;
  if (!Hit({.call = KernelCall::kGetSockOpt, .fd = fd, .level = level, .request = name}, &fault)) {
    return inner_.GetSockOpt(fd, level, name, value, size);
  }
  if (fault.mode == FaultMode::kAfter) {
    static_cast<void>(inner_.GetSockOpt(fd, level, name, value, size));
  }
  WriteOutcome(fault, value, size);
  return fault.result;
}

int FaultKernel::SetSockOpt(int fd, int level, int name, const void* value,
                            socklen_t size) noexcept {
  return Plain({.call = KernelCall::kSetSockOpt, .fd = fd, .level = level, .request = name},
               [&] { return inner_.SetSockOpt(fd, level, name, value, size); });
}

int FaultKernel::GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept {
  return Plain({.call = KernelCall::kGetSockName, .fd = fd},
               [&] { return inner_.GetSockName(fd, address, size); });
}

int FaultKernel::GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept {
  return Plain({.call = KernelCall::kGetPeerName, .fd = fd},
               [&] { return inner_.GetPeerName(fd, address, size); });
}

int FaultKernel::Ioctl(int fd, unsigned long request, int* value) noexcept {
  Fault fault;
  if (!Hit({.call = KernelCall::kIoctl, .fd = fd, .request = static_cast<int>(request)}, &fault)) {
    return inner_.Ioctl(fd, request, value);
  }
  if (fault.mode == FaultMode::kAfter) static_cast<void>(inner_.Ioctl(fd, request, value));
  socklen_t size = sizeof(*value);
  WriteOutcome(fault, value, &size);
  return fault.result;
}

// --- Kernel: readiness.

int FaultKernel::EpollCreate() noexcept {
  return Descriptor({.call = KernelCall::kEpollCreate}, [&] { return inner_.EpollCreate(); });
}

int FaultKernel::EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept {
  return Plain({.call = KernelCall::kEpollCtl, .fd = fd, .request = operation},
               [&] { return inner_.EpollCtl(epoll_fd, operation, fd, event); });
}

int FaultKernel::EpollWait(int epoll_fd, epoll_event* events, int events_max,
                           Duration timeout) noexcept {
  return static_cast<int>(
      Sized({.call = KernelCall::kEpollWait, .fd = epoll_fd},
            static_cast<std::size_t>(std::max(events_max, 0)), [&](std::size_t allowed) -> ssize_t {
              return inner_.EpollWait(epoll_fd, events, static_cast<int>(allowed), timeout);
            }));
}

int FaultKernel::EventFd() noexcept {
  return Descriptor({.call = KernelCall::kEventFd}, [&] { return inner_.EventFd(); });
}

int FaultKernel::TimerFd() noexcept {
  return Descriptor({.call = KernelCall::kTimerFd}, [&] { return inner_.TimerFd(); });
}

int FaultKernel::TimerFdSet(int fd, Instant deadline) noexcept {
  // The caller counts on our clock, the inner kernel on its own.
  const Instant inner_deadline = SaturatingAdd(deadline, Duration(-clock_offset_.load()));
  return Plain({.call = KernelCall::kTimerFdSet, .fd = fd},
               [&] { return inner_.TimerFdSet(fd, inner_deadline); });
}

ssize_t FaultKernel::Read(int fd, void* data, std::size_t size) noexcept {
  return Sized({.call = KernelCall::kRead, .fd = fd}, size,
               [&](std::size_t allowed) { return inner_.Read(fd, data, allowed); });
}

ssize_t FaultKernel::Write(int fd, const void* data, std::size_t size) noexcept {
  return Sized({.call = KernelCall::kWrite, .fd = fd}, size,
               [&](std::size_t allowed) { return inner_.Write(fd, data, allowed); });
}

// --- Kernel: time, chance, names.

Instant FaultKernel::ClockNow() noexcept {
  calls_[IndexOf(KernelCall::kClockNow)].fetch_add(1);
  return SaturatingAdd(inner_.ClockNow(), Duration(clock_offset_.load()));
}

int FaultKernel::GetRandom(void* data, std::size_t size) noexcept {
  return static_cast<int>(
      Sized({.call = KernelCall::kGetRandom}, size,
            [&](std::size_t allowed) -> ssize_t { return inner_.GetRandom(data, allowed); }));
}

int FaultKernel::StartThread(void (*run)(void*), void* argument) noexcept {
  return Plain({.call = KernelCall::kStartThread},
               [&] { return inner_.StartThread(run, argument); });
}

int FaultKernel::GetAddrInfo(const char* node, const char* service, const addrinfo* hints,
                             addrinfo** result, int* error_number) noexcept {
  Fault fault;
  if (!Hit({.call = KernelCall::kGetAddrInfo}, &fault)) {
    return inner_.GetAddrInfo(node, service, hints, result, error_number);
  }
  if (fault.mode == FaultMode::kAfter &&
      inner_.GetAddrInfo(node, service, hints, result, error_number) == 0) {
    inner_.FreeAddrInfo(*result);
  }
  *result = nullptr;
  *error_number = fault.outcome;
  return fault.result;
}

void FaultKernel::FreeAddrInfo(addrinfo* result) noexcept {
  calls_[IndexOf(KernelCall::kFreeAddrInfo)].fetch_add(1);
  inner_.FreeAddrInfo(result);
}

// --- Kernel: rings.

#ifdef HOLDFAST_NO_URING

// Without io_uring there is no ring whose submissions could be read; the calls can fail even so.

int FaultKernel::RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept {
  return Plain({.call = KernelCall::kRingSetup},
               [&] { return inner_.RingSetup(entries, parameters, ring); });
}

void FaultKernel::RingExit(io_uring* ring) noexcept {
  calls_[IndexOf(KernelCall::kRingExit)].fetch_add(1);
  inner_.RingExit(ring);
}

int FaultKernel::RingRegister(int ring_fd, unsigned opcode, void* argument,
                              unsigned count) noexcept {
  return Plain(
      {.call = KernelCall::kRingRegister, .fd = ring_fd, .request = static_cast<int>(opcode)},
      [&] { return inner_.RingRegister(ring_fd, opcode, argument, count); });
}

int FaultKernel::RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           void* argument, std::size_t argument_size) noexcept {
  return static_cast<int>(Sized({.call = KernelCall::kRingEnter, .fd = ring_fd}, to_submit,
                                [&](std::size_t allowed) -> ssize_t {
                                  return inner_.RingEnter(ring_fd, static_cast<unsigned>(allowed),
                                                          min_complete, flags, argument,
                                                          argument_size);
                                }));
}

bool FaultKernel::TryNopResult() noexcept { return false; }

#else

namespace {

// Of linux/io_uring.h, newer than liburing 2.3's copy: sqe->nop_flags lies in the union of
// sqe->rw_flags, and with this flag the result is sqe->len (io_nop_prep of io_uring/nop.c, 6.10).
constexpr unsigned kNopInjectResult = 1U << 0;

bool ToRingOp(unsigned opcode, RingOp* op) noexcept {
  switch (opcode) {
    case IORING_OP_ACCEPT:
      *op = RingOp::kAccept;
      return true;
    case IORING_OP_CONNECT:
      *op = RingOp::kConnect;
      return true;
    case IORING_OP_RECV:
      *op = RingOp::kRecv;
      return true;
    case IORING_OP_SEND:
      *op = RingOp::kSend;
      return true;
    case IORING_OP_SENDMSG:
      *op = RingOp::kSendMsg;
      return true;
    case IORING_OP_ASYNC_CANCEL:
      *op = RingOp::kAsyncCancel;
      return true;
    case IORING_OP_POLL_ADD:
      *op = RingOp::kPollAdd;
      return true;
    default:
      return false;
  }
}

const msghdr* MessageOf(const io_uring_sqe& entry) noexcept {
  return reinterpret_cast<const msghdr*>(static_cast<std::uintptr_t>(entry.addr));
}

// The bytes that a send was to move; 0 for an operation that moves none.
std::size_t SizeOf(const io_uring_sqe& entry) noexcept {
  if (entry.opcode == IORING_OP_SEND) return entry.len;
  if (entry.opcode == IORING_OP_SENDMSG) return TotalSize(*MessageOf(entry));
  return 0;
}

void MakeNop(io_uring_sqe* entry, int result, unsigned flags, __u64 user_data) noexcept {
  std::memset(entry, 0, sizeof(*entry));
  entry->opcode = IORING_OP_NOP;
  entry->flags = static_cast<__u8>(flags);
  entry->fd = -1;
  entry->len = static_cast<__u32>(result);
  entry->rw_flags = static_cast<__kernel_rwf_t>(kNopInjectResult);
  entry->user_data = user_data;
}

}  // namespace

int FaultKernel::RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept {
  Fault fault;
  const bool hit = Hit({.call = KernelCall::kRingSetup}, &fault);
  if (hit && fault.mode == FaultMode::kReplace) return fault.result;
  {
    const std::lock_guard lock(mutex_);
    if (submissions_max_ != 0) {
      entries = std::min(entries, submissions_max_);
      // Unasked, the kernel makes twice as many completions (io_uring_setup(2)).
      const bool sized = (parameters->flags & IORING_SETUP_CQSIZE) != 0;
      const unsigned completions = sized ? parameters->cq_entries : 2 * std::bit_ceil(entries);
      parameters->cq_entries = std::min(completions, completions_max_);
      parameters->flags |= IORING_SETUP_CQSIZE;
    }
  }
  const int answer = inner_.RingSetup(entries, parameters, ring);
  if (hit) {
    if (answer >= 0) inner_.RingExit(ring);
    return fault.result;
  }
  if (answer >= 0) AddRing(*ring);
  return answer;
}

void FaultKernel::RingExit(io_uring* ring) noexcept {
  calls_[IndexOf(KernelCall::kRingExit)].fetch_add(1);
  RemoveRing(*ring);
  inner_.RingExit(ring);
}

int FaultKernel::RingRegister(int ring_fd, unsigned opcode, void* argument,
                              unsigned count) noexcept {
  return Plain(
      {.call = KernelCall::kRingRegister, .fd = ring_fd, .request = static_cast<int>(opcode)}, [&] {
        const int answer = inner_.RingRegister(ring_fd, opcode, argument, count);
        NoteRegistration(opcode, argument, count, answer);
        return answer;
      });
}

int FaultKernel::RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           void* argument, std::size_t argument_size) noexcept {
  return static_cast<int>(Sized({.call = KernelCall::kRingEnter, .fd = ring_fd}, to_submit,
                                [&](std::size_t allowed) -> ssize_t {
                                  const auto submitted = static_cast<unsigned>(allowed);
                                  RewriteSubmissions(ring_fd, flags, submitted);
                                  return inner_.RingEnter(ring_fd, submitted, min_complete, flags,
                                                          argument, argument_size);
                                }));
}

FaultKernel::Ring* FaultKernel::FindRing(int ring_fd, unsigned enter_flags) noexcept {
  const bool registered = (enter_flags & IORING_ENTER_REGISTERED_RING) != 0;
  for (Ring& ring : rings_) {
    if (registered
            ? ring.registered_index == ring_fd && ring.registered_by == std::this_thread::get_id()
            : ring.fd == ring_fd) {
      return &ring;
    }
  }
  return nullptr;
}

void FaultKernel::AddRing(const io_uring& ring) noexcept {
  Ring added;
  added.fd = ring.ring_fd;
  added.head = ring.sq.khead;
  added.tail = ring.sq.ktail;
  added.array = ring.sq.array;
  added.mask = ring.sq.ring_mask;
  added.entries = ring.sq.sqes;
  added.entry_shift = (ring.flags & IORING_SETUP_SQE128) != 0 ? 1 : 0;
  added.read_until = *ring.sq.khead;
  const std::lock_guard lock(mutex_);
  rings_.push_back(added);
}

void FaultKernel::RemoveRing(const io_uring& ring) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase_if(rings_, [&](const Ring& known) { return known.fd == ring.ring_fd; });
}

// io_uring_register(2), IORING_REGISTER_RING_FDS: `done` of the updates were carried out, and each
// has the index of the registration in its offset.
void FaultKernel::NoteRegistration(unsigned opcode, const void* argument, unsigned count,
                                   int done) noexcept {
  if (opcode != IORING_REGISTER_RING_FDS && opcode != IORING_UNREGISTER_RING_FDS) return;
  const auto* updates = static_cast<const io_uring_rsrc_update*>(argument);
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < count && static_cast<int>(i) < done; ++i) {
    const auto index = static_cast<int>(updates[i].offset);
    if (opcode == IORING_REGISTER_RING_FDS) {
      Ring* ring = FindRing(static_cast<int>(updates[i].data), 0);
      if (ring == nullptr) continue;
      ring->registered_index = index;
      ring->registered_by = std::this_thread::get_id();
    } else if (Ring* ring = FindRing(index, IORING_ENTER_REGISTERED_RING); ring != nullptr) {
      ring->registered_index = -1;
    }
  }
}

void FaultKernel::RewriteSubmissions(int ring_fd, unsigned enter_flags,
                                     unsigned to_submit) noexcept {
  const std::lock_guard lock(mutex_);
  Ring* ring = FindRing(ring_fd, enter_flags);
  if (ring == nullptr) return;
  const unsigned head = __atomic_load_n(ring->head, __ATOMIC_ACQUIRE);
  const unsigned tail = __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE);
  const unsigned end = head + std::min(to_submit, tail - head);
  // Submissions that an earlier call left over were read then. Indices wrap: compare distances.
  while (static_cast<int>(end - ring->read_until) > 0) {
    const unsigned slot = ring->read_until & ring->mask;
    const unsigned index = ring->array != nullptr ? ring->array[slot] : slot;
    io_uring_sqe* entry = ring->entries + (static_cast<std::size_t>(index) << ring->entry_shift);
    ++ring->read_until;
    RingOp op{};
    RingFault fault;
    if (ToRingOp(entry->opcode, &op) && HitRingOp(op, entry->fd, &fault)) Rewrite(entry, fault);
  }
}

void FaultKernel::Rewrite(io_uring_sqe* entry, const RingFault& fault) noexcept {
  const std::size_t size = SizeOf(*entry);
  const int result = fault.mode == FaultMode::kShorten
                         ? SendPrefix(*entry, std::min(size, fault.shorten_to))
                         : fault.result;
  unsigned flags = entry->flags & (IOSQE_IO_DRAIN | IOSQE_IO_LINK | IOSQE_IO_HARDLINK);
  // A send that moved less than it was given is no success to be silent about.
  if (result >= 0 && static_cast<std::size_t>(result) >= size) {
    flags |= entry->flags & IOSQE_CQE_SKIP_SUCCESS;
  }
  MakeNop(entry, result, flags, entry->user_data);
}

// Never blocks, which would hang the test; MSG_WAITALL of a fast send means nothing to send(2).
int FaultKernel::SendPrefix(const io_uring_sqe& entry, std::size_t size) noexcept {
  // io_uring adds MSG_NOSIGNAL by itself.
  const int flags = static_cast<int>(entry.msg_flags) | MSG_DONTWAIT | MSG_NOSIGNAL;
  if (entry.opcode == IORING_OP_SEND) {
    const auto* data = reinterpret_cast<const void*>(static_cast<std::uintptr_t>(entry.addr));
    return static_cast<int>(inner_.Send(entry.fd, data, size, flags));
  }
  std::vector<iovec> parts;
  const msghdr shorter = Shortened(*MessageOf(entry), size, &parts);
  return static_cast<int>(inner_.SendMsg(entry.fd, &shorter, flags));
}

// A NOP that knows nothing of the flag completes with 0, or with EINVAL.
bool FaultKernel::TryNopResult() noexcept {
  constexpr int kResult = -ENOTNAM;  // Nothing in the kernel's networking says this.
  io_uring_params parameters{};
  io_uring ring{};
  if (inner_.RingSetup(2, &parameters, &ring) < 0) return false;
  MakeNop(&ring.sq.sqes[0], kResult, 0, 0);
  __atomic_store_n(ring.sq.ktail, *ring.sq.ktail + 1, __ATOMIC_RELEASE);
  bool works = inner_.RingEnter(ring.ring_fd, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) == 1;
  works = works && __atomic_load_n(ring.cq.ktail, __ATOMIC_ACQUIRE) - *ring.cq.khead == 1 &&
          ring.cq.cqes[*ring.cq.khead & ring.cq.ring_mask].res == kResult;
  inner_.RingExit(&ring);
  return works;
}

#endif

}  // namespace holdfast::internal
