#ifndef HOLDFAST_NO_URING

#include "sim/ring.h"

#include <liburing.h>
#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "base/check.h"
#include "sim/ring_operation.h"

namespace holdfast::internal::sim {
namespace {

// Newer than the linux/io_uring.h of liburing 2.3.
constexpr unsigned kSetupNoSqArray = 1U << 16;
constexpr unsigned kEnterAbsoluteTimer = 1U << 5;
constexpr unsigned kEnterNoIowait = 1U << 7;
constexpr unsigned kFeatureRegRegRing = 1U << 13;
constexpr unsigned kFeatureNoIowait = 1U << 17;

constexpr unsigned kSetupFlags =
    IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL |
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |
    IORING_SETUP_DEFER_TASKRUN | kSetupNoSqArray;
constexpr unsigned kEnterFlags =
    IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT | IORING_ENTER_EXT_ARG |
    IORING_ENTER_REGISTERED_RING | kEnterAbsoluteTimer | kEnterNoIowait;
// What 6.18 says, less what this ring does not do (bundles, minimal waits, attributes of reads).
constexpr unsigned kFeatures =
    IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
    IORING_FEAT_RW_CUR_POS | IORING_FEAT_CUR_PERSONALITY | IORING_FEAT_FAST_POLL |
    IORING_FEAT_POLL_32BITS | IORING_FEAT_SQPOLL_NONFIXED | IORING_FEAT_EXT_ARG |
    IORING_FEAT_NATIVE_WORKERS | IORING_FEAT_RSRC_TAGS | IORING_FEAT_CQE_SKIP |
    IORING_FEAT_LINKED_FILE | kFeatureRegRegRing | kFeatureNoIowait;

constexpr unsigned kSubmissionsMax = 32'768;
constexpr unsigned kCompletionsMax = 2 * kSubmissionsMax;
constexpr unsigned kWorkPerEnter = 20;  // IO_LOCAL_TW_DEFAULT_MAX

constexpr std::uint64_t kTraceCompletion = 0xce;

// See SimKernel::waits_in_vain: that something can be done is not yet done. Who cancelled waits for its end.
bool IsProgress(std::uint8_t opcode, std::int32_t result) noexcept {
  if (result == -ECANCELED) return true;
  switch (opcode) {
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_RECV:
      return result > 0;
    case IORING_OP_ACCEPT:
    case IORING_OP_CONNECT:
      return result >= 0;
    default:
      return false;
  }
}

std::string_view NameOf(std::uint8_t opcode) noexcept {
  switch (opcode) {
    case IORING_OP_NOP:
      return "nop";
    case IORING_OP_POLL_ADD:
      return "poll";
    case IORING_OP_SENDMSG:
    case IORING_OP_SEND:
      return "send";
    case IORING_OP_RECV:
      return "recv";
    case IORING_OP_ACCEPT:
      return "accept";
    case IORING_OP_CONNECT:
      return "connect";
    case IORING_OP_ASYNC_CANCEL:
      return "cancel";
    default:
      return "operation";
  }
}

// A power of two up to `max`, or 0 where the call is to be refused.
unsigned RingSize(unsigned wanted, unsigned max, bool clamp) noexcept {
  if (wanted == 0 || (wanted > max && !clamp)) return 0;
  return std::bit_ceil(std::min(wanted, max));
}

// Like fresh pages: zero, and nothing until they are touched.
template <typename Entry>
Entry* MapEntries(std::size_t count) {
  auto* const entries = static_cast<Entry*>(std::calloc(count, sizeof(Entry)));
  HOLDFAST_CHECK(entries != nullptr);
  return entries;
}

Duration ToDuration(const __kernel_timespec& limit) noexcept {
  constexpr auto kSecond = std::chrono::nanoseconds(std::chrono::seconds(1)).count();
  if (limit.tv_sec >= Duration::max().count() / kSecond) return kNeverTimeout;
  return Duration(limit.tv_sec * kSecond + limit.tv_nsec);
}

}  // namespace

void Ring::Free::operator()(void* memory) const noexcept { std::free(memory); }

// --- Beginning and end.

int Ring::Setup(SimKernel& kernel, unsigned entries, io_uring_params* parameters, io_uring* ring) {
  const unsigned flags = parameters->flags;
  if (std::any_of(std::begin(parameters->resv), std::end(parameters->resv),
                  [](__u32 reserved) { return reserved != 0; })) {
    return -EINVAL;
  }
  if ((flags & ~kSetupFlags) != 0) return -EINVAL;
  const bool deferred = (flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  if (deferred && (flags & IORING_SETUP_SINGLE_ISSUER) == 0) return -EINVAL;
  if ((flags & IORING_SETUP_TASKRUN_FLAG) != 0 && !deferred &&
      (flags & IORING_SETUP_COOP_TASKRUN) == 0) {
    return -EINVAL;
  }
  const bool clamp = (flags & IORING_SETUP_CLAMP) != 0;
  const unsigned submissions = RingSize(entries, kSubmissionsMax, clamp);
  if (submissions == 0) return -EINVAL;
  unsigned completions = 2 * submissions;
  if ((flags & IORING_SETUP_CQSIZE) != 0) {
    completions = RingSize(parameters->cq_entries, kCompletionsMax, clamp);
    if (completions < submissions) return -EINVAL;
  }

  const auto made = std::make_shared<Ring>(kernel, submissions, completions, flags);
  const int fd = kernel.Install(made);
  if (fd < 0) return fd;
  parameters->sq_entries = submissions;
  parameters->cq_entries = completions;
  parameters->features = kFeatures;

  Shared& shared = made->shared_;
  *ring = {};
  ring->sq.khead = &shared.sq_head;
  ring->sq.ktail = &shared.sq_tail;
  ring->sq.kring_mask = &shared.sq_mask;
  ring->sq.kring_entries = &shared.sq_entries;
  ring->sq.kflags = &shared.sq_flags;
  ring->sq.kdropped = &shared.sq_dropped;
  ring->sq.array = made->array_.get();
  ring->sq.sqes = made->sqes_.get();
  ring->sq.ring_mask = shared.sq_mask;
  ring->sq.ring_entries = shared.sq_entries;
  ring->cq.khead = &shared.cq_head;
  ring->cq.ktail = &shared.cq_tail;
  ring->cq.kring_mask = &shared.cq_mask;
  ring->cq.kring_entries = &shared.cq_entries;
  ring->cq.kflags = &shared.cq_flags;
  ring->cq.koverflow = &shared.cq_overflow;
  ring->cq.cqes = made->cqes_.get();
  ring->cq.ring_mask = shared.cq_mask;
  ring->cq.ring_entries = shared.cq_entries;
  ring->flags = flags;
  ring->ring_fd = fd;
  ring->enter_ring_fd = fd;
  ring->features = kFeatures;
  return 0;
}

void Ring::Exit(SimKernel& kernel, io_uring* ring) {
  static_cast<void>(kernel.Close(ring->ring_fd));
}

Ring::Ring(SimKernel& kernel, unsigned submissions, unsigned completions, unsigned setup_flags)
    : kernel_(kernel),
      setup_flags_(setup_flags),
      disabled_((setup_flags & IORING_SETUP_R_DISABLED) != 0),
      dead_(kernel.dead()),
      shared_{.sq_mask = submissions - 1,
              .sq_entries = submissions,
              .cq_mask = completions - 1,
              .cq_entries = completions},
      sqes_(MapEntries<io_uring_sqe>(submissions)),
      cqes_(MapEntries<io_uring_cqe>(completions)) {
  if ((setup_flags & kSetupNoSqArray) != 0) return;
  array_ = std::make_unique<unsigned[]>(submissions);
  for (unsigned i = 0; i < submissions; ++i) array_[i] = i;
}

Ring::~Ring() {
  for (WorkList* const list : {&work_, &left_}) {
    while (list->PopFront() != nullptr) {
    }
  }
  for (const std::unique_ptr<Operation>& operation : pool_) {
    if (operation->waits()) operation->Waiter::Unlink();
  }
}

void Ring::Die() {
  dead_ = true;
  for (const std::unique_ptr<Operation>& operation : pool_) {
    Operation::State& state = operation->state;
    if (state.serial == 0) continue;
    state.cancelled = true;
    state.last_try = false;
    state.held = false;
    if (!state.queued) Enqueue(*operation);
  }
}

std::uint32_t Ring::Poll() const {
  std::uint32_t events = 0;
  if (shared_.sq_tail - shared_.sq_head < shared_.sq_entries) events |= EPOLLOUT;
  if (completions() != 0 || !overflow_.empty() || has_work()) events |= EPOLLIN;
  return events;
}

// --- Entering.

int Ring::Enter(unsigned to_submit, unsigned min_complete, unsigned flags, void* argument,
                std::size_t argument_size) {
  if ((flags & ~kEnterFlags) != 0) return -EINVAL;
  if (disabled_) return -EBADFD;
  FaultPlan& faults = kernel_.world().faults;
  if (faults.Strikes(Fault::kNoMemory)) {
    constexpr int kReasons[] = {-EAGAIN, -EBUSY, -ENOMEM};
    return kReasons[faults.random().Below(std::size(kReasons))];
  }
  pretend_full_ = false;
  const bool get_events = (flags & IORING_ENTER_GETEVENTS) != 0;
  const bool deferred = (setup_flags_ & IORING_SETUP_DEFER_TASKRUN) != 0;
  int submitted = 0;
  if (to_submit > 0) {
    submitted = Submit(to_submit);
    // Whoever does not get everything in does not wait.
    if (submitted != static_cast<int>(to_submit)) return submitted;
    if (get_events && deferred) RunWork(min_complete, std::max(kWorkPerEnter, min_complete));
  }
  if (!deferred) RunWork(~0U, ~0U);
  if (!get_events) return submitted;

  int waited = 0;
  Duration timeout = kNeverTimeout;
  if ((flags & IORING_ENTER_EXT_ARG) != 0) {
    if (argument_size != sizeof(io_uring_getevents_arg)) {
      waited = -EINVAL;
    } else {
      const auto* const extended = static_cast<const io_uring_getevents_arg*>(argument);
      // NOLINTNEXTLINE(performance-no-int-to-ptr): that is how it is passed.
      const auto* const limit = reinterpret_cast<const __kernel_timespec*>(extended->ts);
      if (limit != nullptr) timeout = ToDuration(*limit);
      if ((flags & kEnterAbsoluteTimer) != 0 && timeout != kNeverTimeout) {
        timeout -= kernel_.world().schedule.now().time_since_epoch();
      }
    }
  }
  if (waited == 0) waited = Wait(min_complete, timeout);
  // What was submitted hides how the wait ended.
  return submitted > 0 ? submitted : waited;
}

int Ring::Submit(unsigned count) {
  count = std::min({count, shared_.sq_tail - shared_.sq_head, shared_.sq_entries});
  if (count == 0) return 0;
  unsigned limit = count;
  FaultPlan& faults = kernel_.world().faults;
  if (faults.Strikes(Fault::kSubmissionFull)) {
    limit = static_cast<unsigned>(faults.random().Below(count));
    if (limit == 0) return -EAGAIN;
  }
  int taken = 0;
  for (unsigned i = 0; i < limit; ++i) {
    const unsigned position = shared_.sq_head & shared_.sq_mask;
    const unsigned index = array_ != nullptr ? array_[position] : position;
    ++shared_.sq_head;
    if (index >= shared_.sq_entries) {
      ++shared_.sq_dropped;
      break;
    }
    ++taken;
    const bool refused = !Start(sqes_.get()[index]);
    if (refused && (setup_flags_ & IORING_SETUP_SUBMIT_ALL) == 0) break;
  }
  Announce();
  return taken;
}

// io_cqring_wait
int Ring::Wait(unsigned completions_min, Duration timeout) {
  completions_min = std::min(completions_min, shared_.cq_entries);
  kernel_.NoteWait();
  if (has_work()) RunWork(completions_min, std::max(kWorkPerEnter, completions_min));
  FlushOverflow();
  const auto enough = [&] {
    return completions() >= completions_min || (pretend_full_ && !overflow_.empty());
  };
  if (dead_ && completions_min > 0) {
    kernel_.WaitOfTheDead(enough() ? Duration::zero() : timeout);
    return completions() > 0 ? 0 : -EINTR;
  }
  if (enough()) return 0;
  if (kernel_.world().faults.Strikes(Fault::kInterrupted)) return completions() > 0 ? 0 : -EINTR;

  const SimKernel::Timeout drawn = kernel_.DrawTimeout(timeout);
  const unsigned end = shared_.cq_head + completions_min;
  int result = 0;
  SimKernel::Wait wait;
  for (;;) {
    waited_for_ = end - shared_.cq_tail;
    waiting_ = &wait;
    const bool woken = has_work() || kernel_.Block(wait, drawn.ends);
    waiting_ = nullptr;
    wait.sleeper.woken = false;
    // The deadline, too, is followed by what came just before it.
    RunWork(waited_for_, waited_for_);
    FlushOverflow();
    if (enough()) break;
    if (wait.interrupted || dead_) result = -EINTR;
    if (!woken) result = drawn.ends == kNever ? -EINTR : -ETIME;
    if (result != 0) break;
  }
  kernel_.EndWait(drawn);
  return completions() > 0 ? 0 : result;
}

// --- Completions.

void Ring::Put(const Completion& completion) {
  io_uring_cqe& entry = cqes_.get()[shared_.cq_tail & shared_.cq_mask];
  entry.user_data = completion.user_data;
  entry.res = completion.result;
  entry.flags = completion.flags;
  ++shared_.cq_tail;
  posted_ = true;
}

bool Ring::TryPost(const Completion& completion, const Operation& operation) {
  // Behind what was put aside nothing overtakes.
  if (pretend_full_ || !overflow_.empty() || completions() == shared_.cq_entries) return false;
  if (kernel_.world().faults.Strikes(Fault::kCompletionOverflow)) {
    pretend_full_ = true;
    return false;
  }
  Put(completion);
  Record(completion, operation);
  return true;
}

void Ring::Post(const Completion& completion, const Operation& operation) {
  if (TryPost(completion, operation)) return;
  overflow_.push_back(completion);
  shared_.sq_flags |= IORING_SQ_CQ_OVERFLOW;
  Record(completion, operation);
}

void Ring::FlushOverflow() {
  if (overflow_.empty() || pretend_full_) return;
  while (!overflow_.empty() && completions() < shared_.cq_entries) {
    Put(overflow_.front());
    overflow_.pop_front();
  }
  if (overflow_.empty()) shared_.sq_flags &= ~unsigned{IORING_SQ_CQ_OVERFLOW};
  Announce();
}

void Ring::Announce() {
  if (!std::exchange(posted_, false)) return;
  SignalEventFd();
  Wake(EPOLLIN);
}

void Ring::SignalEventFd() {
  if (event_fd_ == nullptr || (shared_.cq_flags & IORING_CQ_EVENTFD_DISABLED) != 0) return;
  constexpr std::uint64_t kOne = 1;
  static_cast<void>(event_fd_->Write(&kOne, sizeof(kOne)));
}

void Ring::Record(const Completion& completion, const Operation& operation) {
  World& world = kernel_.world();
  ++world.completions;
  if (IsProgress(operation.state.opcode, completion.result)) kernel_.NoteProgress();
  world.trace.Mix(kernel_.host().number(), kTraceCompletion,
                  static_cast<std::int64_t>(completion.user_data),
                  std::int64_t{completion.result} * 65'536 + completion.flags % 65'536);
  if (!world.trace.told()) return;
  std::string line("completes ");
  line.append(NameOf(operation.state.opcode));
  if (operation.state.fd >= 0) line.append(" ").append(std::to_string(operation.state.fd));
  const char* const name = completion.result < 0 ? strerrorname_np(-completion.result) : nullptr;
  line.append(" -> ");
  line.append(name != nullptr ? std::string("-") + name : std::to_string(completion.result));
  if ((completion.flags & IORING_CQE_F_MORE) != 0) line.append(", more");
  if ((completion.flags & IORING_CQE_F_BUFFER) != 0) {
    line.append(", buffer ");
    line.append(std::to_string(completion.flags >> IORING_CQE_BUFFER_SHIFT));
  }
  if (!overflow_.empty()) line.append(", put aside");
  world.trace.Tell(world.schedule.now(), kernel_.host().name(), line);
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
