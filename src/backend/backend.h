// One completion contract over two engines.
//
// The seven verbs are open, connect, accept, receive, send, cancel, close. A verb starts an operation
// and never calls back; completions are delivered by Dispatch alone. io_uring and epoll differ only
// behind this class: tests/backend/conformance_test.cc runs one suite over both and defines what is
// promised here. A backend decides nothing: it obeys the kTryAgain rows of the error table (repeat,
// wait until ready, re-arm) and hands every other answer on.
//
// One thread, the one that first called Enable; only Wake may come from any thread or a signal handler.
//
// In a child of fork(2) Enable fails, Wake and Cancel do nothing, and Abandon, Close and destruction leave
// the parent's ring and epoll instance as they are: they close descriptors, which are the child's own.
// Nothing else may be called there.
#ifndef HOLDFAST_BACKEND_BACKEND_H_
#define HOLDFAST_BACKEND_BACKEND_H_

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <holdfast/time.h>
#include "absl/status/statusor.h"
#include "backend/socket.h"
#include "core/error_table.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// Whether the success of a send is worth a wake-up. Failures and short sends always are.
enum class Notify {
  kWithNextEvent,  // Success may be told with whatever wakes the loop next: no syscall, no CQE.
  kPromptly,       // Wait must not sleep on it: more is queued, or somebody waits for room.
};

struct BackendOptions {
  std::uint32_t sq_entries = 256;   // SQEs between two submissions; a full queue submits early.
  std::uint32_t cq_entries = 8192;  // 16 B each; overflow is survived, and counted.
  // Receive buffers of the ring (a power of two), as many as a turn delivers, and bytes of each; epoll
  // has one. tools/bench/receive_buffers.cc measured 4, 8 and 16 KiB: per MB received 16 KiB takes a
  // third less CPU than 4 KiB (333 us against 511 with 1 connection, 312 against 533 with 16), per echo
  // of 64 B all take the same; and 4 MiB in all, more than this L2 cache, cost a quarter more again.
  std::uint32_t buffer_count = 128;
  std::uint32_t buffer_size = 16384;
  std::uint32_t disable_mask = 0;  // UringFeature bits to do without: every fallback is tested.
};

// What io_uring has and can be told to do without (BackendOptions::disable_mask).
enum UringFeature : std::uint32_t {
  kUringTaskrunFlag = 1u << 0,       // IORING_SETUP_TASKRUN_FLAG, Linux 5.19
  kUringSubmitAll = 1u << 1,         // IORING_SETUP_SUBMIT_ALL, Linux 5.18
  kUringRegisteredRing = 1u << 2,    // IORING_REGISTER_RING_FDS, Linux 5.18
  kUringMultishotReceive = 1u << 3,  // IORING_RECV_MULTISHOT, Linux 6.0
  kUringMultishotAccept = 1u << 4,   // IORING_ACCEPT_MULTISHOT, Linux 5.19
  kUringSkipSuccess = 1u << 5,       // IOSQE_CQE_SKIP_SUCCESS, Linux 5.17
  kUringFeatureCount = 6,
};

// Counters, ever growing. `syscalls` counts every call to the Kernel on the data path (waits, submits,
// sends, receives, accepts, epoll_ctl), so that it can be compared with strace.
struct BackendStats {
  std::uint64_t syscalls = 0;
  std::uint64_t waits = 0;  // epoll_pwait2 or io_uring_enter
  std::uint64_t sends = 0;  // Send operations that reached the kernel
  std::uint64_t sends_short = 0;
  std::uint64_t sends_blocked = 0;      // answered EAGAIN, waited for POLLOUT
  std::uint64_t receives = 0;           // completions with bytes
  std::uint64_t buffers_exhausted = 0;  // ENOBUFS: the ring had no receive buffer left
  std::uint64_t multishot_rearmed = 0;
  std::uint64_t cq_overflows = 0;
  std::uint64_t stale_completions = 0;  // for a socket that was closed meanwhile
  std::uint64_t wakes = 0;              // eventfd writes
};

class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual const char* name() const noexcept = 0;  // "uring" or "epoll"
  [[nodiscard]] virtual Call wait_call() const noexcept = 0;    // Behind what Enable says.
  [[nodiscard]] virtual const BackendStats& stats() const noexcept = 0;

  // --- The verbs.
  // Opens a stream socket of `domain` (close-on-exec; blocking or not as this backend needs it) and
  // takes a slot. 0, or -errno of socket(2), or -ENOMEM when no slot can be had.
  virtual int Open(Socket& socket, int domain) noexcept = 0;
  // Takes a slot for a descriptor that OnAccept delivered. 0 or -ENOMEM; on failure `fd` stays the
  // caller's.
  virtual int Adopt(Socket& socket, int fd, int domain) noexcept = 0;
  // Requires: connect is kIdle. The address is copied. The handshake goes on until OnConnect.
  virtual void Connect(Socket& socket, const sockaddr* address, socklen_t size) noexcept = 0;
  // Requires: accept is kIdle, the socket listens. Accepts until cancelled or until an error that is
  // not kTryAgain; at most 64 a turn.
  virtual void Accept(Socket& socket) noexcept = 0;
  // Requires: receive is kIdle. Receives until cancelled, end of file, or an error that is not
  // kTryAgain; at most 64 KiB or 8 completions of one socket a turn.
  virtual void Receive(Socket& socket) noexcept = 0;
  // Requires: send is kIdle, 1 <= parts.size() <= kSendPartsMax, no part empty. One attempt that does
  // not wait (MSG_DONTWAIT, MSG_NOSIGNAL). The bytes stay as they are until OnSend; `parts` itself is
  // copied. When the pipe is full, OnSend says 0 once it no longer is.
  virtual void Send(Socket& socket, std::span<const iovec> parts, Notify notify) noexcept = 0;
  // Asks for the end of an operation; its terminal completion comes in any case, as -ECANCELED or as
  // whatever was faster. A no-op on an idle or cancelling one.
  virtual void Cancel(Socket& socket, OpKind kind) noexcept = 0;
  // Requires: socket.idle(). Gives the slot back and closes the descriptor.
  virtual void Close(Socket& socket) noexcept = 0;

  // --- The loop.
  // Binds the backend to the calling thread, the first time; later says whether it can still be driven
  // here: on that thread, where that matters (IORING_SETUP_SINGLE_ISSUER), and by a kernel that has not
  // taken io_uring or epoll_wait(2) away since (backend/refusals.h). 0 or -errno.
  virtual int Enable() noexcept = 0;
  // Nothing can be submitted or awaited any more, since the thread that Enable bound is gone: ends every
  // operation with a cancellation, told here and now. Only closing and destruction may follow. Called
  // where Enable fails.
  virtual void Abandon() noexcept = 0;
  // Submits what is staged and sleeps until something completes, Wake, or `timeout`. Zero: does not
  // sleep. Does not sleep either while Dispatch has something to deliver. Calls nobody back.
  virtual void Wait(Duration timeout) noexcept = 0;
  // Delivers at most `budget` completions. True when more are ready now, or may be: when the last wait
  // did not take everything that the kernel had.
  virtual bool Dispatch(unsigned budget) noexcept = 0;
  // True when Dispatch has something to deliver that must not wait.
  [[nodiscard]] virtual bool HasReady() const noexcept = 0;
  // Makes the current or next Wait return. Any thread, async-signal-safe.
  virtual void Wake() noexcept = 0;
  // Calls `callback(context)` from Dispatch while `fd` (an epoll instance of the reactor's Watch) is
  // readable, level-triggered. One at most; fd -1 ends it. 0 or -errno.
  virtual int SetWatch(int fd, void (*callback)(void*), void* context) noexcept = 0;
  // Readable when Wait would not sleep (but for timers): for embedding in another loop. io_uring makes it
  // at the first call, -errno when it cannot be made; from then on every Wait costs more.
  [[nodiscard]] virtual int fd() noexcept = 0;
};

// iovecs of one Send. 16 blocks of 4 KiB: 64 KiB a turn and connection.
inline constexpr std::size_t kSendPartsMax = 16;

// A descriptor of epoll(7) or of io_uring(7). EMFILE and ENFILE answer ResourceExhausted.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Backend>> CreateEpollBackend(
    Kernel& kernel, const BackendOptions& options);
// Unimplemented, with one line that says why, when the kernel cannot: then epoll is the answer.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Backend>> CreateUringBackend(
    Kernel& kernel, const BackendOptions& options);

enum class BackendWanted { kAuto, kUring, kEpoll };

struct BackendChoice {
  std::unique_ptr<Backend> backend;
  std::string reason;  // One readable line: why this one.
};

// io_uring if the kernel lets us and its self-test passes, else epoll; an explicit wish fails instead
// of falling back. The environment's HOLDFAST_BACKEND=uring|epoll wins over `wanted`.
[[nodiscard]] absl::StatusOr<BackendChoice> CreateBackend(Kernel& kernel, BackendWanted wanted,
                                                          const BackendOptions& options);

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_BACKEND_H_
