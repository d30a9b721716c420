#include "sim/schedule.h"

#include <algorithm>

#include "base/check.h"
#include "sim/chance.h"

namespace holdfast::internal::sim {

class Task {
 public:
  Task(absl::AnyInvocable<void()> body, std::size_t task_index)
      : fiber(std::move(body)), index(task_index) {}

  Fiber fiber;
  std::size_t index;  // In tasks_.
};

Schedule::Schedule() = default;

Schedule::~Schedule() {
  HOLDFAST_CHECK(tasks_.empty());
  HOLDFAST_CHECK(sleepers_.empty());
}

// --- Events.

void Schedule::At(Instant at, absl::AnyInvocable<void()> event) {
  if (at == kNever) return;
  std::uint32_t slot = 0;
  if (free_runs_.empty()) {
    slot = static_cast<std::uint32_t>(runs_.size());
    runs_.push_back(std::move(event));
  } else {
    slot = free_runs_.back();
    free_runs_.pop_back();
    runs_[slot] = std::move(event);
  }
  events_.push_back({std::max(at, now_), sequence_++, slot});
  std::push_heap(events_.begin(), events_.end(), Later());
}

void Schedule::RunEvent() {
  const std::uint32_t slot = events_.front().slot;
  std::pop_heap(events_.begin(), events_.end(), Later());
  events_.pop_back();
  absl::AnyInvocable<void()> run = std::move(runs_[slot]);
  runs_[slot] = nullptr;
  free_runs_.push_back(slot);
  ++events_run_;
  in_event_ = true;
  run();
  in_event_ = false;
}

Task* Schedule::TakeRunnable() {
  auto next = runnable_.begin();
  if (chooser_ != nullptr && runnable_.size() > 1) {
    next += static_cast<std::ptrdiff_t>(chooser_->NextTask(runnable_.size()));
  }
  Task* const task = *next;
  runnable_.erase(next);
  return task;
}

bool Schedule::Step(Instant end) {
  if (now_ > end) return false;  // A stall went beyond it.
  const Event* const event = events_.empty() ? nullptr : &events_.front();
  Sleeper* const sleeper = sleepers_.empty() ? nullptr : sleepers_.front();
  const bool timeout = sleeper != nullptr &&
                       (event == nullptr || sleeper->deadline < event->at ||
                        (sleeper->deadline == event->at && sleeper->sequence < event->sequence));
  const Instant due = timeout ? sleeper->deadline : event != nullptr ? event->at : kNever;
  if (due > now_ || due == kNever) {
    if (!runnable_.empty()) {
      Task* const task = TakeRunnable();
      if (task != nullptr) {
        Resume(*task);
      } else {
        outside_turn_ = true;
      }
      return true;
    }
    if (due > end || due == kNever) return false;
    now_ = due;
  }
  if (timeout) {
    EndSleep(*sleeper);
  } else {
    RunEvent();
  }
  return true;
}

void Schedule::RunUntil(Instant end) {
  HOLDFAST_CHECK(current_ == nullptr && !in_event_);
  while (Step(end)) {
  }
  if (end != kNever) now_ = std::max(now_, end);
}

bool Schedule::pressing() const noexcept {
  return !runnable_.empty() || (!events_.empty() && events_.front().at <= now_) ||
         (!sleepers_.empty() && sleepers_.front()->deadline <= now_);
}

Instant Schedule::next() const noexcept {
  if (pressing()) return now_;
  const Instant event = events_.empty() ? kNever : events_.front().at;
  return sleepers_.empty() ? event : std::min(event, sleepers_.front()->deadline);
}

// --- Tasks.

void Schedule::Spawn(absl::AnyInvocable<void()> body) {
  tasks_.push_back(std::make_unique<Task>(std::move(body), tasks_.size()));
  runnable_.push_back(tasks_.back().get());
}

void Schedule::Resume(Task& task) {
  HOLDFAST_CHECK(current_ == nullptr && !in_event_);
  current_ = &task;
  task.fiber.Resume();
  current_ = nullptr;
  if (!task.fiber.done()) return;
  const std::size_t index = task.index;
  HOLDFAST_CHECK(tasks_[index].get() == &task);
  tasks_.back()->index = index;
  std::swap(tasks_[index], tasks_.back());
  tasks_.pop_back();
}

bool Schedule::Block(Sleeper& sleeper, Instant deadline) {
  HOLDFAST_CHECK(!sleeper.asleep && !in_event_);
  if (sleeper.woken) return true;
  sleeper.task = current_;
  sleeper.asleep = true;
  sleeper.deadline = std::max(deadline, now_);
  sleeper.sequence = sequence_++;
  if (sleeper.deadline != kNever) Insert(sleeper);
  if (Task* const task = current_; task != nullptr) {
    task->fiber.Yield();
    return sleeper.woken;
  }
  outside_turn_ = false;
  while (!outside_turn_) {
    // Where nothing is left that could wake it, it has slept enough.
    if (!Step(kNever)) EndSleep(sleeper);
  }
  return sleeper.woken;
}

void Schedule::Wake(Sleeper& sleeper) {
  if (sleeper.woken) return;
  sleeper.woken = true;
  if (sleeper.asleep) EndSleep(sleeper);
}

// Ends the sleep, for whatever reason.
void Schedule::EndSleep(Sleeper& sleeper) {
  sleeper.asleep = false;
  if (sleeper.place != 0) Remove(sleeper);
  runnable_.push_back(sleeper.task);
}

// --- The heap of deadlines: sleepers_[place - 1], children of place at 2 * place and behind it.

void Schedule::Put(Sleeper& sleeper, std::size_t place) noexcept {
  sleepers_[place - 1] = &sleeper;
  sleeper.place = place;
}

void Schedule::SiftUp(Sleeper& sleeper, std::size_t place) noexcept {
  while (place > 1 && Before(sleeper, *sleepers_[place / 2 - 1])) {
    Put(*sleepers_[place / 2 - 1], place);
    place /= 2;
  }
  Put(sleeper, place);
}

void Schedule::SiftDown(Sleeper& sleeper, std::size_t place) noexcept {
  const std::size_t size = sleepers_.size();
  for (std::size_t child = 2 * place; child <= size; child = 2 * place) {
    if (child < size && Before(*sleepers_[child], *sleepers_[child - 1])) ++child;
    if (!Before(*sleepers_[child - 1], sleeper)) break;
    Put(*sleepers_[child - 1], place);
    place = child;
  }
  Put(sleeper, place);
}

void Schedule::Insert(Sleeper& sleeper) {
  sleepers_.push_back(&sleeper);
  SiftUp(sleeper, sleepers_.size());
}

void Schedule::Remove(Sleeper& sleeper) noexcept {
  const std::size_t place = std::exchange(sleeper.place, 0);
  Sleeper& last = *sleepers_.back();
  sleepers_.pop_back();
  if (&last == &sleeper) return;
  if (place > 1 && Before(last, *sleepers_[place / 2 - 1])) {
    SiftUp(last, place);
  } else {
    SiftDown(last, place);
  }
}

}  // namespace holdfast::internal::sim
