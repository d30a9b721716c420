#include "reactor/reactor_core.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error_table.h"
#include "core/out_of_memory.h"

namespace holdfast {

// One watched descriptor. Buried, not deleted: its callback may be the one that ends it.
struct Watcher::State final : internal::Mortal {
  State(internal::ReactorCore& owner, int descriptor, absl::AnyInvocable<void(unsigned)> function)
      : core(owner), fd(descriptor), callback(std::move(function)) {}

  internal::ReactorCore& core;
  int fd;
  absl::AnyInvocable<void(unsigned)> callback;
  internal::SlotMap<State>::Key key{};
};

Watcher::~Watcher() {
  if (state_ != nullptr) state_->core.EndWatch(state_);
}

namespace internal {
namespace {

constexpr unsigned kCompletionsPerTurn = 128;
constexpr std::size_t kTimersPerTurn = 256;
constexpr int kWatchEventsPerTurn = 64;
constexpr Duration kLastCompletionsWait = std::chrono::milliseconds(100);

// A posted function. The node is its own storage, so that a post costs one allocation.
class PostedFunction final : public MailNode {
 public:
  explicit PostedFunction(absl::AnyInvocable<void()> function) : function_(std::move(function)) {}

  void Deliver() noexcept override {
    const std::unique_ptr<PostedFunction> self(this);
    function_();
  }
  void Discard() noexcept override { delete this; }

 private:
  absl::AnyInvocable<void()> function_;
};

std::uint32_t ToEpoll(unsigned events) {
  std::uint32_t mask = 0;
  if ((events & kWatchReadable) != 0) mask |= EPOLLIN | EPOLLRDHUP;
  if ((events & kWatchWritable) != 0) mask |= EPOLLOUT;
  return mask;
}

unsigned FromEpoll(std::uint32_t mask) {
  unsigned events = 0;
  if ((mask & (EPOLLIN | EPOLLRDHUP)) != 0) events |= kWatchReadable;
  if ((mask & EPOLLOUT) != 0) events |= kWatchWritable;
  if ((mask & (EPOLLERR | EPOLLHUP)) != 0) events |= kWatchError;
  return events;
}

BackendWanted ToWanted(BackendKind kind) {
  switch (kind) {
    case BackendKind::kAuto:
      return BackendWanted::kAuto;
    case BackendKind::kUring:
      return BackendWanted::kUring;
    case BackendKind::kEpoll:
      return BackendWanted::kEpoll;
  }
  return BackendWanted::kAuto;
}

absl::Status RangeError(const char* field, std::uint64_t value, const char* rule) {
  return absl::InvalidArgumentError(std::string("ReactorOptions.") + field + " = " +
                                    std::to_string(value) + ": " + rule);
}

bool IsPowerOfTwo(std::uint32_t value) { return value != 0 && (value & (value - 1)) == 0; }

absl::Status Validate(const ReactorOptions& options) {
  if (options.submission_entries < 1 || options.submission_entries > 32768) {
    return RangeError("submission_entries", options.submission_entries, "1 to 32768");
  }
  if (options.completion_entries < options.submission_entries ||
      options.completion_entries > 65536) {
    return RangeError("completion_entries", options.completion_entries,
                      "submission_entries to 65536");
  }
  if (!IsPowerOfTwo(options.receive_buffers) || options.receive_buffers > 32768) {
    return RangeError("receive_buffers", options.receive_buffers, "a power of two, at most 32768");
  }
  if (options.receive_buffer_bytes != 0 &&
      (options.receive_buffer_bytes < 64 || options.receive_buffer_bytes > (1u << 20))) {
    return RangeError("receive_buffer_bytes", options.receive_buffer_bytes, "0, or 64 to 1 MiB");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReactorCore>> ReactorCore::Create(const ReactorOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  Kernel& kernel = options.kernel != nullptr ? *options.kernel : RealKernel();
  std::unique_ptr<ReactorCore> core(new ReactorCore(kernel, options));

  std::uint64_t seed = 0;
  if (options.seed.has_value()) {
    seed = *options.seed;
  } else if (const int result = kernel.GetRandom(&seed, sizeof(seed)); result < 0) {
    // A kernel without getrandom(2) has no io_uring either; the clock still spreads a fleet.
    seed = static_cast<std::uint64_t>(core->now_.time_since_epoch().count());
  }
  core->random_ = Random(seed);

  BackendOptions backend_options;
  backend_options.sq_entries = options.submission_entries;
  backend_options.cq_entries = options.completion_entries;
  backend_options.buffer_count = options.receive_buffers;
  if (options.receive_buffer_bytes != 0) {
    backend_options.buffer_size = options.receive_buffer_bytes;
  }
  backend_options.disable_mask = options.uring_disable_mask;
  absl::StatusOr<BackendChoice> choice =
      CreateBackend(kernel, ToWanted(options.backend), backend_options);
  if (!choice.ok()) return choice.status();
  core->backend_ = std::move(choice->backend);
  core->backend_reason_ = std::move(choice->reason);
  return core;
}

ReactorCore::ReactorCore(Kernel& kernel, const ReactorOptions& options)
    : kernel_(kernel),
      now_(kernel.ClockNow()),
      last_turn_(now_),
      wheel_(now_),
      random_(0),
      blocks_(options.free_blocks_max) {}

ReactorCore::~ReactorCore() {
  HOLDFAST_CHECK(!in_turn_);                 // Never destroyed from inside a callback.
  DiscardMail();                             // It may own handles.
  HOLDFAST_CHECK(population_.handles == 0);  // It outlives everything made on it.
  shutdowns_.clear();
  if (shutdown_notice_.linked()) shutdown_notice_.Unlink();
  AwaitLastCompletions();
  BuryAll();
  while (!deferred_.empty()) RunDeferred();  // What the buried have lent is given back.
  if (backend_ != nullptr && watch_fd_ >= 0 && !forked()) {
    backend_->SetWatch(-1, nullptr, nullptr);
  }
  backend_.reset();
  for (const int fd : {watch_fd_, embed_fd_, embed_timer_fd_}) {
    if (fd >= 0) kernel_.Close(fd);
  }
}

// What was aborted with its handle still waits for its last completion, which always comes: a cancelled
// operation completes. No user code runs here but what takes lent bytes back (Link::SendBorrowed).
void ReactorCore::AwaitLastCompletions() noexcept {
  // Destroyed by another thread than ran it, io_uring lets us neither cancel nor reap: then it is told
  // so, and the end of the ring ends what is in flight. In a forked child nothing is ours to cancel.
  if (population_.cores > 0 && backend_->Enable() < 0) {
    in_turn_ = true;
    backend_->Abandon();
    in_turn_ = false;
  }
  while (population_.cores > 0) {
    in_turn_ = true;  // Nothing may be deleted below its own completion.
    if (!forked()) everything_dispatched_ = !backend_->Dispatch(kCompletionsPerTurn);
    RunDeferred();
    in_turn_ = false;
    BuryAll();
    if (population_.cores > 0 && !forked()) backend_->Wait(kLastCompletionsWait);
  }
}

absl::Status ReactorCore::CheckProcess() const {
  if (!forked()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "forked: this reactor is the parent's; a child of fork(2) makes its own");
}

absl::Status ReactorCore::CheckBackend() {
  const int result = backend_->Enable();
  if (result >= 0) return absl::OkStatus();
  return absl::FailedPreconditionError("the reactor cannot be driven here: " +
                                       Classify(backend_->wait_call(), -result).ToString());
}

absl::Status ReactorCore::Enter() {
  if (in_turn_) {
    return absl::FailedPreconditionError("Run inside a callback of the same reactor");
  }
  if (absl::Status status = CheckProcess(); !status.ok()) return status;
  if (absl::Status status = CheckBackend(); !status.ok()) return status;
  mailbox_.EndSleep();
  now_ = std::max(now_, kernel_.ClockNow());
  return absl::OkStatus();
}

absl::Status ReactorCore::Run(Instant until) {
  if (absl::Status status = Enter(); !status.ok()) return status;
  for (;;) {
    // Read before the turn's posts are run: whoever posted and then stopped finds his post done.
    const bool stopping = stop_.exchange(false, std::memory_order_acq_rel);
    if (stopping || now_ >= until) {
      Turn(now_);
      if (forked()) return CheckProcess();
      if (embed_fd_ >= 0) RearmEmbedding();  // Another loop may take over.
      return absl::OkStatus();
    }
    Turn(until);
    if (forked()) return CheckProcess();
    if (absl::Status status = CheckBackend(); !status.ok()) return status;
  }
}

absl::Status ReactorCore::Poll() {
  if (absl::Status status = Enter(); !status.ok()) return status;
  backend_->Wait(Duration::zero());
  now_ = std::max(now_, kernel_.ClockNow());
  Turn(now_);
  if (forked()) return CheckProcess();
  RearmEmbedding();
  return absl::OkStatus();
}

// One turn. Sleeps at its end until `until` at the latest.
void ReactorCore::Turn(Instant until) {
  in_turn_ = true;
  ++turns_;
  const Instant begin = now_;
  everything_dispatched_ = !backend_->Dispatch(kCompletionsPerTurn);

  if (const Instant due = wheel_.next_deadline(); due <= now_ && !forked()) {
    // A deadline that had passed before the last turn was armed in the past: the loop is not late.
    lateness_max_ = std::max<Duration>(lateness_max_, now_ - std::max(due, last_turn_));
    timers_fired_ += wheel_.Expire(now_, kTimersPerTurn);
  }
  last_turn_ = begin;
  RunMail();
  if (!forked()) RunDeferred();
  Flush();
  BuryAll();
  in_turn_ = false;
  turn_max_ = std::max<Duration>(turn_max_, kernel_.ClockNow() - begin);
  if (forked()) return;  // A callback was: CheckBackend says so.
  WaitUntil(until);
}

// --- Shutdown.

void ReactorCore::Shutdown(Duration drain, absl::AnyInvocable<void()> done) {
  if (forked()) return;
  shutdowns_.push_back(std::move(done));
  // Also what an earlier one is closing: it may have less time now.
  IntrusiveList<Closable, TaggedListNode<Closable>> batch;
  batch.Splice(open_);
  batch.Splice(closing_);
  while (Closable* closable = batch.PopFront()) {
    closing_.PushBack(*closable);
    closable->ShutDown(std::max(drain, Duration::zero()));
  }
  if (closing_.empty()) Defer(shutdown_notice_);
}

void ReactorCore::Leave(Closable& closable) noexcept {
  if (!closable.linked()) return;
  closable.Unlink();
  // Deferred: its on_closed comes first.
  if (!shutdowns_.empty() && closing_.empty()) Defer(shutdown_notice_);
}

void ReactorCore::TellShutdown() noexcept {
  if (forked() || !closing_.empty()) return;  // Another Shutdown came meanwhile.
  for (absl::AnyInvocable<void()>& done : std::exchange(shutdowns_, {})) {
    if (done && !forked()) done();
  }
}

void ReactorCore::DiscardMail() noexcept {
  while (!mailbox_.empty()) {
    for (MailNode* node = mailbox_.TakeAll(); node != nullptr;) {
      MailNode* const next = Mailbox::Next(*node);
      node->Discard();
      node = next;
    }
  }
}

void ReactorCore::RunMail() noexcept {
  // Taken once: what these post runs in the next turn.
  for (MailNode* node = mailbox_.TakeAll(); node != nullptr;) {
    MailNode* const next = Mailbox::Next(*node);
    ++posts_;
    // A child that one of these has forked has no part in the rest.
    if (forked()) {
      node->Discard();
    } else {
      node->Deliver();
    }
    node = next;
  }
}

void ReactorCore::RunDeferred() noexcept {
  IntrusiveList<Deferred, TaggedListNode<Deferred>> batch;
  batch.Splice(deferred_);
  while (Deferred* deferred = batch.PopFront()) {
    deferred->RunDeferred();
    // In a child that it has forked nobody is called back: the rest waits for the handles to be destroyed.
    if (forked() && population_.handles > 0) return deferred_.Splice(batch);
  }
}

void ReactorCore::Flush() noexcept {
  while (Flushable* flushable = dirty_.PopFront()) flushable->Flush();
}

void ReactorCore::BuryAll() noexcept {
  while (Mortal* mortal = graveyard_.PopFront()) delete mortal;
}

void ReactorCore::WaitUntil(Instant deadline) noexcept {
  deadline = std::min(deadline, wheel_.next_deadline());
  // What was buried may have run destructors of the user's, which send, post and defer like a callback.
  const bool busy = !deferred_.empty() || !dirty_.empty() || !mailbox_.empty() ||
                    !everything_dispatched_ || backend_->HasReady();
  Duration timeout = Duration::zero();
  if (mailbox_.BeginSleep() && !busy && !stop_.load(std::memory_order_relaxed)) {
    const Instant now = kernel_.ClockNow();
    timeout =
        deadline <= now ? Duration::zero() : (deadline == kNever ? kNeverTimeout : deadline - now);
  }
  backend_->Wait(timeout);
  mailbox_.EndSleep();
  now_ = std::max(now_, kernel_.ClockNow());
}

void ReactorCore::Wake() noexcept { backend_->Wake(); }

void ReactorCore::Stop() noexcept {
  stop_.store(true, std::memory_order_release);
  if (mailbox_.Notify()) Wake();
}

void ReactorCore::Post(absl::AnyInvocable<void()> function) {
  PostNode(*new PostedFunction(std::move(function)));
}

void ReactorCore::PostNode(MailNode& node) noexcept {
  if (mailbox_.Push(node)) Wake();
}

void ReactorCore::Defer(Deferred& deferred) noexcept {
  if (!deferred.linked()) deferred_.PushBack(deferred);
  NoteOutside();
}

void ReactorCore::MarkDirty(Flushable& flushable) noexcept {
  if (!flushable.linked()) dirty_.PushBack(flushable);
  NoteOutside();
}

void ReactorCore::Arm(TimerNode& node, Instant deadline) noexcept {
  wheel_.Arm(node, deadline);
  NoteOutside();
}

void ReactorCore::Bury(Mortal& mortal) noexcept {
  if (in_turn_) {
    graveyard_.PushBack(mortal);
  } else {
    delete &mortal;
  }
}

// --- Foreign descriptors.

absl::StatusOr<std::unique_ptr<Watcher>> ReactorCore::Watch(
    int fd, unsigned events, absl::AnyInvocable<void(unsigned)> callback) {
  if (absl::Status status = CheckProcess(); !status.ok()) return status;
  if (ToEpoll(events) == 0) {
    return absl::InvalidArgumentError("Watch: events = " + std::to_string(events) +
                                      ": kWatchReadable, kWatchWritable or both");
  }
  if (watch_fd_ < 0) {
    watch_fd_ = kernel_.EpollCreate();
    if (watch_fd_ < 0)
      return Classify(Call::kEpollCreate1, -std::exchange(watch_fd_, -1)).ToStatus();
    const int result = backend_->SetWatch(
        watch_fd_, [](void* core) { static_cast<ReactorCore*>(core)->OnWatchReady(); }, this);
    if (result < 0) {
      kernel_.Close(std::exchange(watch_fd_, -1));
      return Classify(Call::kEpollCtl, -result).ToStatus();
    }
  }
  auto state = std::make_unique<Watcher::State>(*this, fd, std::move(callback));
  std::unique_ptr<Watcher> watcher(new Watcher);
  const auto key = watchers_.Insert(state.get());
  if (!key.has_value()) return OutOfMemory();
  state->key = *key;
  epoll_event event{};
  event.events = ToEpoll(events);
  event.data.u64 = PackUserData(key->generation, key->slot, 0);
  if (const int result = kernel_.EpollCtl(watch_fd_, EPOLL_CTL_ADD, fd, &event); result < 0) {
    watchers_.Remove(*key);
    const Error error = Classify(Call::kEpollCtl, -result);
    const std::string what = "Watch: descriptor " + std::to_string(fd) + ": " + error.ToString();
    return error.error_class == ErrorClass::kResource ? absl::ResourceExhaustedError(what)
                                                      : absl::InvalidArgumentError(what);
  }
  ++population_.handles;
  watcher->state_ = state.release();
  return watcher;
}

void ReactorCore::EndWatch(Watcher::State* state) noexcept {
  --population_.handles;
  watchers_.Remove(state->key);
  // The user may have closed it already, which removed it. A child would remove the parent's.
  if (!forked()) {
    static_cast<void>(kernel_.EpollCtl(watch_fd_, EPOLL_CTL_DEL, state->fd, nullptr));
  }
  Bury(*state);
}

void ReactorCore::OnWatchReady() noexcept {
  epoll_event events[kWatchEventsPerTurn];
  const int count = kernel_.EpollWait(watch_fd_, events, kWatchEventsPerTurn, Duration::zero());
  for (int i = 0; i < count; ++i) {
    const std::uint64_t word = events[i].data.u64;
    // An earlier callback of this batch may have ended the watch.
    Watcher::State* const state = watchers_.Find(UserDataSlot(word), UserDataGeneration(word));
    if (state != nullptr) state->callback(FromEpoll(events[i].events));
  }
}

// --- Embedding.

int ReactorCore::fd() noexcept {
  if (forked()) return -1;
  if (embed_fd_ >= 0) return embed_fd_;
  const int outer = kernel_.EpollCreate();
  const int timer = outer >= 0 ? kernel_.TimerFd() : -1;
  if (timer >= 0) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (kernel_.EpollCtl(outer, EPOLL_CTL_ADD, backend_->fd(), &event) >= 0 &&
        kernel_.EpollCtl(outer, EPOLL_CTL_ADD, timer, &event) >= 0) {
      embed_fd_ = outer;
      embed_timer_fd_ = timer;
      RearmEmbedding();
      return embed_fd_;
    }
    kernel_.Close(timer);
  }
  if (outer >= 0) kernel_.Close(outer);
  return -1;
}

// Leaves the descriptor readable exactly when the next Poll has something to do.
void ReactorCore::RearmEmbedding() noexcept {
  const bool no_news = mailbox_.BeginSleep();
  if (embed_fd_ < 0) return;
  Instant deadline = wheel_.next_deadline();
  // A Stop is for Run: no Poll uses it up, so it makes nothing readable.
  if (!no_news || !mailbox_.empty() || !deferred_.empty() || !dirty_.empty() ||
      !everything_dispatched_ || backend_->HasReady()) {
    deadline = Instant::min();
  }
  // A deadline that has passed keeps the timerfd readable until it is armed anew.
  if (deadline == embed_deadline_ && deadline > now_) return;
  embed_deadline_ = deadline;
  kernel_.TimerFdSet(embed_timer_fd_, deadline);
}

ReactorStats ReactorCore::stats() const noexcept {
  const BackendStats& backend = backend_->stats();
  ReactorStats stats;
  stats.turns = turns_;
  stats.syscalls = backend.syscalls;
  stats.waits = backend.waits;
  stats.posts = posts_;
  stats.timers_fired = timers_fired_;
  stats.timer_lateness_max = lateness_max_;
  stats.turn_max = turn_max_;
  stats.sends = backend.sends;
  stats.sends_short = backend.sends_short;
  stats.sends_blocked = backend.sends_blocked;
  stats.receives = backend.receives;
  stats.receive_buffers_exhausted = backend.buffers_exhausted;
  stats.completion_overflows = backend.cq_overflows;
  stats.stale_completions = backend.stale_completions;
  stats.links = population_.links;
  stats.streams = population_.streams;
  stats.listeners = population_.listeners;
  stats.open_sockets = population_.sockets;
  stats.send_blocks = blocks_.in_use();
  stats.bugs = bugs_;
  return stats;
}

}  // namespace internal
}  // namespace holdfast
