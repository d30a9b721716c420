// The reactor behind the public class: the turn, and what everything on floor 5 stands on.
//
// The order of a turn is fixed (reactor.h): completions, timers, posts, deferred work, flush, burial,
// wait. No step can starve the next: completions and timers have a budget, posts and deferred work take
// what was there when the step began, and flush asks each dirty connection:
//
//     +-> completions (128) -> timers (256) -> posts -> deferred -> flush -> bury -> wait --+
//     +--------------------------------------------------------------------------------------+
//
// Four small interfaces serve floor 5:
//   Deferred   "call me from the loop, not from inside this call": the law that nothing calls back from
//              inside the call that caused it. Run once, in this turn or the next.
//   Flushable  "I have bytes": asked once a turn, just before the wait, so that everything a turn sends
//              on a connection leaves in one system call.
//   Mortal     what may be in use further up the stack is buried, not deleted: freed at the end of the
//              turn, when nobody can be inside it any more.
//   Closable   what Shutdown closes, from its creation until its on_closed is due.
#ifndef HOLDFAST_REACTOR_REACTOR_CORE_H_
#define HOLDFAST_REACTOR_REACTOR_CORE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <holdfast/reactor.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/backend.h"
#include "base/intrusive_list.h"
#include "base/random.h"
#include "base/slot_map.h"
#include "core/block_pool.h"
#include "machine/timer_node.h"
#include "machine/timer_wheel.h"
#include "reactor/flight_recorder.h"
#include "reactor/mailbox.h"
#include "sys/fork_mark.h"
#include "sys/kernel.h"

namespace holdfast::internal {

class Deferred : public TaggedListNode<Deferred> {
 public:
  virtual void RunDeferred() noexcept = 0;

 protected:
  ~Deferred() = default;
};

class Flushable : public TaggedListNode<Flushable> {
 public:
  virtual void Flush() noexcept = 0;

 protected:
  ~Flushable() = default;
};

class Mortal : public TaggedListNode<Mortal> {
 public:
  virtual ~Mortal() = default;
};

class Closable : public TaggedListNode<Closable> {
 public:
  // ReactorCore::Leave follows, also at once; no callback of the user's inside this call. Once more where it
  // is being closed: with less time, perhaps.
  virtual void ShutDown(Duration drain) noexcept = 0;

 protected:
  ~Closable() = default;
};

class ReactorCore {
 public:
  static absl::StatusOr<std::unique_ptr<ReactorCore>> Create(const ReactorOptions& options);
  ~ReactorCore();
  ReactorCore(const ReactorCore&) = delete;
  ReactorCore& operator=(const ReactorCore&) = delete;

  // --- What the public class forwards.
  absl::Status Run(Instant until);  // kNever: until Stop.
  absl::Status Poll();
  void Stop() noexcept;
  void Shutdown(Duration drain, absl::AnyInvocable<void()> done);
  void Post(absl::AnyInvocable<void()> function);
  // Destroys what was posted and not yet run, and what that posts.
  void DiscardMail() noexcept;
  absl::StatusOr<std::unique_ptr<Watcher>> Watch(int fd, unsigned events,
                                                 absl::AnyInvocable<void(unsigned)> callback);
  void EndWatch(Watcher::State* state) noexcept;
  [[nodiscard]] ReactorStats stats() const noexcept;
  [[nodiscard]] int fd() noexcept;
  [[nodiscard]] const std::string& backend_reason() const noexcept { return backend_reason_; }

  // --- What floor 5 uses.
  [[nodiscard]] static ReactorCore& Of(Reactor& reactor) noexcept { return *reactor.core_; }
  // The turn's time; read anew outside of a turn, where the last one's may be long ago.
  [[nodiscard]] Instant now() const noexcept {
    if (!in_turn_) now_ = std::max(now_, kernel_.ClockNow());
    return now_;
  }
  [[nodiscard]] Kernel& kernel() noexcept { return kernel_; }
  [[nodiscard]] Backend& backend() noexcept { return *backend_; }
  [[nodiscard]] const Backend& backend() const noexcept { return *backend_; }
  // Timers; kNever cancels. Also from outside of a turn, by whoever embeds the reactor.
  void Arm(TimerNode& node, Instant deadline) noexcept;
  void Cancel(TimerNode& node) noexcept { wheel_.Cancel(node); }
  [[nodiscard]] bool armed(const TimerNode& node) const noexcept { return wheel_.armed(node); }
  [[nodiscard]] Random& random() noexcept { return random_; }
  [[nodiscard]] BlockPool& blocks() noexcept { return blocks_; }
  [[nodiscard]] FlightRecorder& recorder() noexcept { return recorder_; }
  [[nodiscard]] const FlightRecorder& recorder() const noexcept { return recorder_; }
  // True when the completions of the last wait have all been delivered.
  [[nodiscard]] bool everything_dispatched() const noexcept { return everything_dispatched_; }

  // True in a child of fork(2): nothing that lives here may reach the kernel any more, but to close
  // descriptors.
  [[nodiscard]] bool forked() const noexcept { return fork_.forked(); }
  // FailedPrecondition where forked().
  [[nodiscard]] absl::Status CheckProcess() const;

  // No-ops for what is queued already.
  void Defer(Deferred& deferred) noexcept;
  void MarkDirty(Flushable& flushable) noexcept;
  // Any thread. The node lives until Deliver or Discard.
  void PostNode(MailNode& node) noexcept;
  // Deletes `mortal` at the end of the turn; at once when no turn is on.
  void Bury(Mortal& mortal) noexcept;
  // From creation to on_closed, or the end of the handle. Leave is a no-op for what has left.
  void Enlist(Closable& closable) noexcept { open_.PushBack(closable); }
  void Leave(Closable& closable) noexcept;
  // Every Error that reaches a user or decides over a connection passes here once.
  void Count(const Error& error) noexcept {
    if (error.error_class == ErrorClass::kInvalid) ++bugs_;
  }
  [[nodiscard]] std::uint32_t NextLinkId() noexcept { return ++link_ids_; }

  // What is alive: the reactor outlives it, and says so (HOLDFAST_CHECK) when it does not.
  struct Population {
    std::uint64_t handles = 0;  // Of any kind, destroyed before the reactor.
    std::uint64_t cores = 0;    // Outlive their handles until their last completion.
    std::uint64_t links = 0;
    std::uint64_t streams = 0;
    std::uint64_t listeners = 0;
    std::uint64_t sockets = 0;
  };
  [[nodiscard]] Population& population() noexcept { return population_; }

 private:
  explicit ReactorCore(Kernel& kernel, const ReactorOptions& options);

  absl::Status Enter();
  absl::Status CheckBackend();
  void AwaitLastCompletions() noexcept;
  void Turn(Instant until);
  void RunMail() noexcept;
  void RunDeferred() noexcept;
  void Flush() noexcept;
  void BuryAll() noexcept;
  void WaitUntil(Instant deadline) noexcept;
  void OnWatchReady() noexcept;
  void RearmEmbedding() noexcept;
  // Outside of a turn something was given to do: the embedding loop must call Poll.
  void NoteOutside() noexcept {
    if (!in_turn_ && embed_fd_ >= 0 && !forked()) RearmEmbedding();
  }
  void Wake() noexcept;

  // Tells that a shutdown is over.
  struct ShutdownNotice final : Deferred {
    explicit ShutdownNotice(ReactorCore& owner) noexcept : core(owner) {}
    void RunDeferred() noexcept override { core.TellShutdown(); }
    ReactorCore& core;
  };
  void TellShutdown() noexcept;

  Kernel& kernel_;
  const ForkMark fork_;
  std::unique_ptr<Backend> backend_;
  std::string backend_reason_;
  mutable Instant now_;
  Instant last_turn_;  // When the turn before this one began.
  TimerWheel wheel_;
  Random random_;
  BlockPool blocks_;
  FlightRecorder recorder_;
  Mailbox mailbox_;
  IntrusiveList<Deferred, TaggedListNode<Deferred>> deferred_;
  IntrusiveList<Flushable, TaggedListNode<Flushable>> dirty_;
  IntrusiveList<Mortal, TaggedListNode<Mortal>> graveyard_;
  IntrusiveList<Closable, TaggedListNode<Closable>> open_;
  IntrusiveList<Closable, TaggedListNode<Closable>> closing_;  // By Shutdown.
  std::vector<absl::AnyInvocable<void()>> shutdowns_;          // To be told once that is empty.
  ShutdownNotice shutdown_notice_{*this};
  std::atomic<bool> stop_{false};
  bool in_turn_ = false;  // True exactly while user code may be on the stack below a turn.
  bool everything_dispatched_ = true;
  std::uint32_t link_ids_ = 0;
  Population population_;
  std::uint64_t turns_ = 0;
  std::uint64_t posts_ = 0;
  std::uint64_t timers_fired_ = 0;
  std::uint64_t bugs_ = 0;
  Duration lateness_max_{0};
  Duration turn_max_{0};

  // Foreign descriptors: an epoll instance of their own, which the backend watches as one.
  int watch_fd_ = -1;
  SlotMap<Watcher::State> watchers_;

  // Embedding: an epoll instance over the backend's descriptor and a timerfd.
  int embed_fd_ = -1;
  int embed_timer_fd_ = -1;
  Instant embed_deadline_ = kNever;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_REACTOR_REACTOR_CORE_H_
