// The loop: one per thread.
//
// A turn is, in this order: completions, timers, posts, flush and wait. What the kernel already has
// beats a deadline; what was posted sees the effects of both; everything that a turn sends on one
// connection leaves in one system call at its end; and there is one wait.
//
//   auto reactor = holdfast::Reactor::Create({});
//   if (!reactor.ok()) return 1;
//   ... make Links, Listeners, Timers on **reactor ...
//   (*reactor)->Run();
//
// Threads: before the first Run (RunFor, Poll) any one thread may use the reactor and what lives on
// it; from then on only the thread that runs it. From any thread: Post, Stop.
//
// Lifetime: a reactor outlives everything made on it and is not destroyed or run from inside a
// callback (docs/lifetimes.md).
//
// fork(2): the reactor and what lives on it stay the parent's, which notices nothing. In the child they
// are dead, and say so: Run, RunFor, Poll, Watch, Link::Create and Listener::Create answer
// FailedPrecondition, fd() is -1, a Link's Send says kNotUp and a Stream's kClosing, and nothing calls
// back any more. Destroying them there frees their memory (but for that of a name look-up which was
// under way) and closes the child's copies of their descriptors, and touches nothing else; until it does,
// or ends, or calls exec, a connection that the parent closes may stay open for its peer. A child that
// needs a reactor makes one of its own. A callback may fork; the child that returns from it is told so by
// the Run that it came from, and nothing else of that turn happens in it.
//
// No callback may throw. The library never prints: what it did and why is in backend_reason(), stats()
// and history().
#ifndef HOLDFAST_REACTOR_H_
#define HOLDFAST_REACTOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <holdfast/link_state.h>
#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace holdfast {

namespace internal {
class Kernel;
class ReactorCore;
}  // namespace internal

enum class BackendKind {
  kAuto,   // io_uring if the kernel has what is needed and the self-test passes, else epoll.
  kUring,  // io_uring or Create fails.
  kEpoll,  // epoll.
};

struct ReactorOptions {
  // The environment's HOLDFAST_BACKEND=uring|epoll wins over this.
  BackendKind backend = BackendKind::kAuto;
  // The seed of the jitter; nothing = from getrandom(2).
  std::optional<std::uint64_t> seed = std::nullopt;
  // io_uring: submission queue entries, completion queue entries, receive buffers and their size in
  // bytes. epoll uses the last alone.
  std::uint32_t submission_entries = 256;   // 1 to 32768
  std::uint32_t completion_entries = 8192;  // submission_entries to 65536
  std::uint32_t receive_buffers = 128;      // A power of two up to 32768.
  std::uint32_t receive_buffer_bytes = 0;   // 64 to 1 MiB; 0 = the measured default.
  // io_uring: features to do without, one bit each; for this project's own tests of every fallback. The
  // bits (UringFeature in src/backend/backend.h) are no part of the installed API, nor is Kernel below.
  std::uint32_t uring_disable_mask = 0;
  // Free send blocks of 4 KiB kept for reuse.
  std::uint32_t free_blocks_max = 1024;
  // The operating system; nullptr = Linux. For tests and simulation. Look-ups run on threads that nobody
  // joins, so one that resolves names lives until the threads that it started have ended.
  internal::Kernel* kernel = nullptr;
};

// Counters since Create. A copy; reading them costs nothing on the hot path.
struct ReactorStats {
  std::uint64_t turns = 0;
  std::uint64_t syscalls = 0;  // On the data path, as strace would count them.
  std::uint64_t waits = 0;
  std::uint64_t posts = 0;
  std::uint64_t timers_fired = 0;
  Duration timer_lateness_max{0};  // The latest a timer callback ever ran after its deadline.
  Duration turn_max{0};            // The longest turn, its wait excluded.
  std::uint64_t sends = 0;         // That reached the kernel.
  std::uint64_t sends_short = 0;
  std::uint64_t sends_blocked = 0;              // The pipe was full (EAGAIN): waited for room.
  std::uint64_t receives = 0;                   // That brought bytes.
  std::uint64_t receive_buffers_exhausted = 0;  // io_uring: no receive buffer was left (ENOBUFS).
  std::uint64_t completion_overflows = 0;       // io_uring: more completions than entries.
  std::uint64_t stale_completions = 0;          // For a socket that was closed meanwhile.
  std::uint64_t links = 0;                      // Alive now; so are the next four.
  std::uint64_t streams = 0;
  std::uint64_t listeners = 0;
  std::uint64_t open_sockets = 0;
  std::uint64_t send_blocks = 0;
  // Errors of class kInvalid: a bug of ours or of the caller's. 0 in every honest run.
  std::uint64_t bugs = 0;
};

// What Watch waits for, or'ed. kWatchError comes unasked.
enum WatchEvents : unsigned {
  kWatchReadable = 1u << 0,  // EPOLLIN, EPOLLRDHUP
  kWatchWritable = 1u << 1,  // EPOLLOUT
  kWatchError = 1u << 2,     // EPOLLERR, EPOLLHUP
};

// A foreign descriptor under watch: stdin, a signalfd, a timerfd, a database's socket. Destroying it
// ends the watch; do so before closing the descriptor. Reactor thread only.
class Watcher {
 public:
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

 private:
  friend class Reactor;
  friend class internal::ReactorCore;
  struct State;
  Watcher() noexcept = default;
  State* state_ = nullptr;  // Null only where Create failed.
};

class Reactor {
 public:
  // InvalidArgument names the field and the value; ResourceExhausted when this host has no descriptor
  // or memory left; Unimplemented when the backend asked for is not to be had.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Reactor>> Create(ReactorOptions options);
  // Aborts what is still in flight and waits for it (milliseconds). Best on the thread that ran it;
  // where that thread has ended, any one will do. Posts that did not run are destroyed unrun. Every
  // Link, Stream, Listener, Timer and Watcher on it must be gone.
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // Turns until Stop. The only way for it to return OK. FailedPrecondition inside a callback, on another
  // thread than the first one that ran it (io_uring: IORING_SETUP_SINGLE_ISSUER), in a forked child, and
  // where the kernel takes io_uring away from a process that has it (seccomp(2)): then nothing on this
  // reactor can go on, and a new one is made over epoll.
  absl::Status Run();
  // Turns until Stop or until `duration` has passed; OK for either. Errors as of Run.
  absl::Status RunFor(Duration duration);
  // One turn that does not wait, for embedding: call it when fd() is readable. A Stop stays for Run. Errors as of Run.
  absl::Status Poll();
  // Makes Run return after its turn; what was posted before by the same thread runs first. Links stay
  // as they are. Any thread, async-signal-safe; sticky until the next Run has returned for it.
  void Stop() noexcept;
  // Closes all that is open on this reactor: listeners at once, links and streams as their Close(drain)
  // does, also those that were being closed with more time left. Each is told its on_closed; then `done` is
  // called, from the loop. What is made meanwhile is neither closed nor waited for; timers, watchers and
  // posts go on, and so does Run. Any further one may make the time shorter, and is told as well.
  //   reactor->Shutdown(5s, [&] { reactor->Stop(); });
  void Shutdown(Duration drain, absl::AnyInvocable<void()> done = {});
  // Runs `function` on the reactor's thread, never inline; FIFO for each posting thread. Any thread.
  void Post(absl::AnyInvocable<void()> function);
  // Calls back with a non-empty set of WatchEvents for as long as one of them holds (level-triggered).
  // The callback may destroy its own Watcher. The descriptor stays the caller's, to close too.
  // InvalidArgument for one that cannot be polled (a regular file, EPERM of epoll_ctl(2)), is not open,
  // or is watched already, and for no events; ResourceExhausted without descriptors or memory.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<Watcher>> Watch(
      int fd, unsigned events, absl::AnyInvocable<void(unsigned events)> callback);

  // The time of this turn: read once after the wait. Outside of a turn it is read anew.
  [[nodiscard]] Instant Now() const noexcept;
  [[nodiscard]] ReactorStats stats() const noexcept;
  // "uring" or "epoll", and one line that says why.
  [[nodiscard]] const char* backend() const noexcept;
  [[nodiscard]] const std::string& backend_reason() const noexcept;
  // Readable when Poll has something to do: a completion, a post, a due timer. For poll(2), epoll(7) or
  // another loop; never read or close it. -1 when there is no descriptor left to make it of, and in a
  // forked child.
  [[nodiscard]] int fd();
  // The last 4,096 transitions of all links, oldest first.
  [[nodiscard]] std::vector<Transition> history() const;

 private:
  friend class internal::ReactorCore;
  explicit Reactor(std::unique_ptr<internal::ReactorCore> core) noexcept;
  std::unique_ptr<internal::ReactorCore> core_;
};

}  // namespace holdfast

#endif  // HOLDFAST_REACTOR_H_
