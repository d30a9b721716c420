// FaultKernel: a kernel that fails on demand. Test support; not in the shipped library.
//
// It stands between the code under test and any other Kernel and changes the answers that a script
// names: "the second accept4 answers EMFILE", "every send passes on seven bytes at most", "this
// connect says EINTR while the handshake goes on". So a test shows what a real kernel will not show
// when asked: EINTR, EMFILE, ENOBUFS, short sends, a refused ring, an overflowing completion queue.
// An LD_PRELOAD shim would not do: io_uring's operations are no libc calls.
//
//   FaultKernel kernel(RealKernel());
//   const int rule = kernel.Inject({.call = KernelCall::kAccept4, .result = -EMFILE, .count = 3});
//   const int refused = kernel.InjectRingOp({.op = RingOp::kAccept, .result = -EMFILE});
//   ...
//   EXPECT_EQ(kernel.hits(rule), 3u);
//
// How operations of io_uring fail. FaultKernel saw the ring at RingSetup. At RingEnter, before it
// passes the call on, it reads the submissions that this call would submit, and turns each one that
// a rule names into a NOP that completes with the result asked for (IORING_NOP_INJECT_RESULT,
// include/uapi/linux/io_uring.h, Linux 6.10; ring_faults_supported() tries it). user_data stays, so
// the code under test sees the completion of its own operation. What follows from that:
// - The operation never ran: a connect with result 0 leaves a socket that is not connected, and the
//   real getpeername(2) says ENOTCONN: what a kernel does whose SYN was rejected while it connects.
// - A multishot accept, receive or poll fails at its arming and completes once, without F_MORE.
//   Completions of one that is armed already cannot be changed.
// - A shortened send really sends the prefix, by send(2) with MSG_DONTWAIT just before the call is
//   passed on, so what the peer reads stays true. It overtakes what the same batch does before it.
// - IOSQE_CQE_SKIP_SUCCESS stays for a success alone, as in the kernel; a failed or short operation
//   posts its completion.
// - Rewriting changes the caller's submission entry, which liburing gives out afresh anyway.
//
// Ownership: the inner kernel outlives it. A call that makes a descriptor and is answered with
// another result has its descriptor closed; Close always closes, whatever it then answers; so a
// fault leaks nothing. Rings made through it must be ended through it.
// Threads: as Kernel says, one thread a reactor, several reactors at once, and what may be called from
// any thread. Inject, Clear and the counters may be used while calls are going
// on. No lock is held during a call that may block. Write takes no lock unless a rule for kWrite
// stands: write such rules only where no signal handler writes.
#ifndef HOLDFAST_SYS_FAULT_KERNEL_H_
#define HOLDFAST_SYS_FAULT_KERNEL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include <holdfast/time.h>

#include "sys/kernel.h"

struct io_uring_sqe;

namespace holdfast::internal {

// The methods of Kernel, by name.
enum class KernelCall {
  kSocket,
  kSocketPair,
  kBind,
  kListen,
  kAccept4,
  kConnect,
  kSend,
  kSendMsg,
  kRecv,
  kRecvMsg,
  kShutdown,
  kClose,
  kGetSockOpt,
  kSetSockOpt,
  kGetSockName,
  kGetPeerName,
  kIoctl,
  kEpollCreate,
  kEpollCtl,
  kEpollWait,
  kEventFd,
  kTimerFd,
  kTimerFdSet,
  kRead,
  kWrite,
  kRingSetup,
  kRingExit,
  kRingRegister,
  kRingEnter,
  kClockNow,
  kGetRandom,
  kStartThread,
  kGetAddrInfo,
  kFreeAddrInfo,  // The last: it gives the number of calls.
};
inline constexpr std::size_t kKernelCallCount =
    static_cast<std::size_t>(KernelCall::kFreeAddrInfo) + 1;

// The operations of io_uring that can be made to fail.
enum class RingOp {
  kAccept,
  kConnect,
  kRecv,
  kSend,
  kSendMsg,
  kAsyncCancel,
  kPollAdd,  // The last: it gives the number of operations.
};
inline constexpr std::size_t kRingOpCount = static_cast<std::size_t>(RingOp::kPollAdd) + 1;

enum class FaultMode {
  kReplace,  // The inner kernel is not called; `result` is the answer.
  kAfter,    // The inner kernel is called, and `result` is the answer whatever it said.
  kShorten,  // The inner kernel is called with `shorten_to` at most; its answer stands.
};

// Of a filter: any value matches.
inline constexpr int kAny = std::numeric_limits<int>::min();
// Of a count: until Clear().
inline constexpr std::uint64_t kForever = std::numeric_limits<std::uint64_t>::max();

// One rule of the script. Calls that match the filters are counted from Inject on; `count` of them,
// beginning with number `first`, are hit.
struct Fault {
  KernelCall call{};

  // -errno, or a value. Of GetAddrInfo: 0 or an EAI_ value.
  int result = 0;
  FaultMode mode = FaultMode::kReplace;
  std::uint64_t first = 1;
  std::uint64_t count = 1;

  // --- Filters.
  // The descriptor that the call is about: of EpollCtl the watched one, of EpollWait the epoll's.
  int fd = kAny;
  // Of Get- and SetSockOpt (SO_ERROR and TCP_KEEPIDLE are the same number at two levels).
  int level = kAny;
  // What is asked for: the option of Get- and SetSockOpt, the request of Ioctl, the operation of
  // EpollCtl, the opcode of RingRegister.
  int request = kAny;

  // Of kShorten: bytes of Send, SendMsg, Recv, RecvMsg, Read, Write and GetRandom, events of
  // EpollWait, submissions of RingEnter. At least 1.
  std::size_t shorten_to = 0;

  // What is written beside the answer: *value of a GetSockOpt or Ioctl with result 0 (an int), and
  // *error_number of GetAddrInfo.
  int outcome = 0;
};

// The same for submissions of io_uring. kAfter does not exist here.
struct RingFault {
  RingOp op{};
  int result = 0;  // cqe->res. Of kRecv and kPollAdd no count that nobody delivered: 0 or -errno.
  FaultMode mode = FaultMode::kReplace;
  std::uint64_t first = 1;
  std::uint64_t count = 1;
  int fd = kAny;
  std::size_t shorten_to = 0;  // Of kShorten: bytes of kSend and kSendMsg. At least 1.
};

class FaultKernel final : public Kernel {
 public:
  explicit FaultKernel(Kernel& inner) noexcept;
  FaultKernel(const FaultKernel&) = delete;
  FaultKernel& operator=(const FaultKernel&) = delete;

  // --- The script.
  // Adds a rule and answers its number. Every matching rule counts a call; of those that would hit
  // it, the one injected first does.
  // Requires: a rule that can be carried out. RingExit, FreeAddrInfo and ClockNow have no answer to
  // replace, nobody can invent what a receive or an epoll_wait would have filled in, and a thread
  // that started must not be said to have failed.
  int Inject(const Fault& fault) noexcept;
  // Requires: ring_faults_supported().
  int InjectRingOp(const RingFault& fault) noexcept;
  // Ends every rule. Their hits can still be read; the clock and the limits stay as they are.
  void Clear() noexcept;

  // Calls that a rule matched since it was injected, hit or not: one whose `first` never comes counts.
  [[nodiscard]] std::uint64_t seen(int rule) const noexcept;
  // Times that a rule changed something.
  [[nodiscard]] std::uint64_t hits(int rule) const noexcept;
  // Calls of a method, hit or not, since construction.
  [[nodiscard]] std::uint64_t calls(KernelCall call) const noexcept;
  // Submissions of an operation, hit or not, since construction. Each counts once, also when the
  // kernel did not take it at the first call.
  [[nodiscard]] std::uint64_t submissions(RingOp op) const noexcept;

  // Whether the inner kernel's rings complete a NOP with a result of our choosing. Tries it on a
  // ring of its own at the first call. False without io_uring and before Linux 6.10: skip then,
  // loudly.
  [[nodiscard]] bool ring_faults_supported() noexcept;

  // --- The world.
  // Moves the clock on by `by`, as a stalled process or a suspended machine sees it. Deadlines of
  // TimerFdSet follow; relative timeouts (EpollWait, RingEnter) are not touched.
  void AdvanceClock(Duration by) noexcept;
  // Cuts every ring made from now on down to so many submission and completion entries, so that a
  // handful of operations fills either queue. Powers of two; requires submissions <= completions.
  void LimitRings(unsigned submissions_max, unsigned completions_max) noexcept;

  // --- Kernel.
  int Socket(int domain, int type, int protocol) noexcept override;
  int SocketPair(int domain, int type, int protocol, int fds[2]) noexcept override;
  int Bind(int fd, const sockaddr* address, socklen_t size) noexcept override;
  int Listen(int fd, int backlog) noexcept override;
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept override;
  int Connect(int fd, const sockaddr* address, socklen_t size) noexcept override;
  ssize_t Send(int fd, const void* data, std::size_t size, int flags) noexcept override;
  ssize_t SendMsg(int fd, const msghdr* message, int flags) noexcept override;
  ssize_t Recv(int fd, void* data, std::size_t size, int flags) noexcept override;
  ssize_t RecvMsg(int fd, msghdr* message, int flags) noexcept override;
  int Shutdown(int fd, int how) noexcept override;
  int Close(int fd) noexcept override;
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept override;
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) noexcept override;
  int GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept override;
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept override;
  int Ioctl(int fd, unsigned long request, int* value) noexcept override;
  int EpollCreate() noexcept override;
  int EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept override;
  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override;
  int EventFd() noexcept override;
  int TimerFd() noexcept override;
  int TimerFdSet(int fd, Instant deadline) noexcept override;
  ssize_t Read(int fd, void* data, std::size_t size) noexcept override;
  ssize_t Write(int fd, const void* data, std::size_t size) noexcept override;
  int RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept override;
  void RingExit(io_uring* ring) noexcept override;
  int RingRegister(int ring_fd, unsigned opcode, void* argument, unsigned count) noexcept override;
  int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                void* argument, std::size_t argument_size) noexcept override;
  Instant ClockNow() noexcept override;
  int GetRandom(void* data, std::size_t size) noexcept override;
  int StartThread(void (*run)(void*), void* argument) noexcept override;
  int GetAddrInfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) noexcept override;
  void FreeAddrInfo(addrinfo* result) noexcept override;

 private:
  // What the filters of a rule are compared with.
  struct Subject {
    KernelCall call{};
    int fd = kAny;
    int level = kAny;
    int request = kAny;
  };

  // A window of matching calls, shared by both kinds of rule. Rules are never erased: the index of
  // a rule is its number.
  struct Rule {
    Fault fault;
    RingFault ring_fault;
    bool is_ring_op = false;
    bool ended = false;
    std::uint64_t seen = 0;
    std::uint64_t hits = 0;

    // Counts one more matching call; true if it falls into the window of `first` and `count`.
    bool Count() noexcept;
  };

  // Where the submissions of a ring lie. Copied, because the owner may move its io_uring.
  struct Ring {
    int fd = -1;
    int registered_index =
        -1;  // IORING_REGISTER_RING_FDS: an index of one thread, not a descriptor.
    std::thread::id registered_by;
    const unsigned* head = nullptr;
    const unsigned* tail = nullptr;
    const unsigned* array = nullptr;  // Null with IORING_SETUP_NO_SQARRAY.
    unsigned mask = 0;
    io_uring_sqe* entries = nullptr;
    unsigned entry_shift = 0;  // 1 with IORING_SETUP_SQE128.
    unsigned read_until = 0;   // Submissions before this one were counted already.
  };

  // Counts the call; true, with the rule's fault, if a rule hits it.
  bool Hit(const Subject& subject, Fault* fault) noexcept;
  bool HitRingOp(RingOp op, int fd, RingFault* fault) noexcept;  // Requires: mutex_ held.

  // The common forms of a call: an answer alone; an answer that is a descriptor to be closed if it
  // is not to be; bytes that can be shortened.
  template <typename Call>
  int Plain(const Subject& subject, Call call) noexcept;
  template <typename Call>
  int Descriptor(const Subject& subject, Call call) noexcept;
  template <typename Call>
  ssize_t Sized(const Subject& subject, std::size_t size, Call call) noexcept;

  Ring* FindRing(int ring_fd, unsigned enter_flags) noexcept;  // Requires: mutex_ held.
  void AddRing(const io_uring& ring) noexcept;
  void RemoveRing(const io_uring& ring) noexcept;
  void NoteRegistration(unsigned opcode, const void* argument, unsigned count, int done) noexcept;
  void RewriteSubmissions(int ring_fd, unsigned enter_flags, unsigned to_submit) noexcept;
  void Rewrite(io_uring_sqe* entry, const RingFault& fault) noexcept;
  int SendPrefix(const io_uring_sqe& entry, std::size_t size) noexcept;
  bool TryNopResult() noexcept;

  Kernel& inner_;
  std::array<std::atomic<std::uint64_t>, kKernelCallCount> calls_{};
  std::array<std::atomic<std::uint64_t>, kRingOpCount> submissions_{};
  // Rules that stand for each method: a call without any takes no lock.
  std::array<std::atomic<unsigned>, kKernelCallCount> standing_{};
  std::atomic<std::int64_t> clock_offset_{0};  // Nanoseconds.

  mutable std::mutex mutex_;  // Guards what follows.
  std::vector<Rule> rules_;
  std::vector<Ring> rings_;
  unsigned submissions_max_ = 0;  // 0: no limit.
  unsigned completions_max_ = 0;
  enum class Support { kUnknown, kYes, kNo } ring_faults_ = Support::kUnknown;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_SYS_FAULT_KERNEL_H_
