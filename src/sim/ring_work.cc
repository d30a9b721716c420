// The task work of a simulated ring: what wakes have left for the next enter.
#ifndef HOLDFAST_NO_URING

#include <liburing.h>

#include <chrono>
#include <utility>

#include "sim/ring.h"
#include "sim/ring_operation.h"

namespace holdfast::internal::sim {
namespace {

constexpr Duration kShortDelay = std::chrono::milliseconds(1);
constexpr Duration kLongDelay = std::chrono::milliseconds(20);

Duration DrawUpTo(Chance& chance, Duration limit) {
  return Duration(chance.Between(1, static_cast<std::uint64_t>(limit.count())));
}

// Behind what else happens now (half of the time), by a moment, or by a while.
Duration DrawDelay(Chance& chance) {
  const std::uint64_t kind = chance.Below(8);
  if (kind < 4) return Duration::zero();
  return DrawUpTo(chance, kind < 7 ? kShortDelay : kLongDelay);
}

}  // namespace

// io_poll_wake
void Ring::OnWake(Operation& operation, std::uint32_t events) {
  Operation::State& state = operation.state;
  if (events != 0 && (events & state.events) == 0) return;
  if (++state.wakes == 1) state.woken_by = events & state.events;
  if (!state.queued && !state.held) Queue(operation);
}

void Ring::Queue(Operation& operation) {
  FaultPlan& faults = kernel_.world().faults;
  if (faults.Strikes(Fault::kCompletionOrder)) {
    HoldBack(operation, DrawDelay(faults.random()));
  } else {
    Enqueue(operation);
  }
}

// io_req_local_work_add
void Ring::Enqueue(Operation& operation) {
  const bool first = work_.empty();
  operation.state.queued = true;
  work_.PushBack(operation);
  ++work_count_;
  if (first) {
    if ((setup_flags_ & IORING_SETUP_TASKRUN_FLAG) != 0) shared_.sq_flags |= IORING_SQ_TASKRUN;
    SignalEventFd();
  }
  if (waiting_ != nullptr && work_count_ >= waited_for_) {
    kernel_.world().schedule.Wake(waiting_->sleeper);
  }
}

void Ring::HoldBack(Operation& operation, Duration delay) {
  operation.state.held = true;
  kernel_.host().NoteHeldBack(delay);
  kernel_.world().schedule.After(
      delay, [weak = weak_from_this(), held = &operation, serial = operation.state.serial] {
        const std::shared_ptr<File> file = weak.lock();
        if (file == nullptr || held->state.serial != serial) return;
        if (std::exchange(held->state.held, false)) file->AsRing()->Enqueue(*held);
      });
}

// __io_run_local_work
void Ring::RunWork(unsigned events_min, unsigned items_max) {
  shared_.sq_flags &= ~unsigned{IORING_SQ_TASKRUN};
  unsigned done = 0;
  do {
    done += RunList(left_, items_max - done);
    if (!left_.empty()) break;
    left_.Splice(work_);
    work_count_ = 0;
    done += RunList(left_, items_max - done);
  } while (has_work() && done < events_min);
  if (has_work() && (setup_flags_ & IORING_SETUP_TASKRUN_FLAG) != 0) {
    shared_.sq_flags |= IORING_SQ_TASKRUN;
  }
  Announce();
}

unsigned Ring::RunList(WorkList& list, unsigned items_max) {
  unsigned done = 0;
  while (done < items_max) {
    Operation* const operation = list.PopFront();
    if (operation == nullptr) break;
    ++done;
    Run(*operation);
  }
  return done;
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
