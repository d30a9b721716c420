// Virtual time: what happens next, in one order, and who runs until then.
//
// A world has one Schedule. It knows events (a segment arrives, a timer passes) and tasks, which
// are the simulated threads: each runs shipped code that believes it may block, on a stack of its
// own (sim/fiber.h), and gives way only inside a blocking call of its kernel. Time passes nowhere
// but here, from one event to the next, so code takes no time unless a fault makes it (Stall).
//
// Order: by time, then by the order of the calls of At and Block. What is due at an instant comes
// first, as interrupts do; then the tasks that may run, in the order in which they were woken, and
// only when none is left does time pass. So a task sees all that arrived at one instant at once.
// Nothing depends on addresses, hash order, or the wall clock. A Chooser may pick among the tasks.
//
// One thread of the machine. Not reentrant but for Block, which may be called from outside any task
// (a test that drives a backend by hand): then it runs the schedule itself. An event never blocks.
#ifndef HOLDFAST_SIM_SCHEDULE_H_
#define HOLDFAST_SIM_SCHEDULE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include <holdfast/time.h>

#include "absl/functional/any_invocable.h"
#include "sim/fiber.h"

namespace holdfast::internal::sim {

class Chooser;  // chance.h
class Task;

class Schedule {
 public:
  // One hour after the clock's zero, so that a time before the start can be told.
  static constexpr Instant kStart{Duration(std::chrono::hours(1))};

  Schedule();
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;
  ~Schedule();  // Events that did not come are dropped; every task must have ended.

  [[nodiscard]] Instant now() const noexcept { return now_; }
  [[nodiscard]] std::uint64_t events_run() const noexcept { return events_run_; }

  // Runs `event` at `at`, or as soon as possible where that has passed; never inside this call, and
  // never for kNever.
  void At(Instant at, absl::AnyInvocable<void()> event);
  void After(Duration delay, absl::AnyInvocable<void()> event) {
    At(SaturatingAdd(now_, delay), std::move(event));
  }

  // A new task, which runs `body` once the schedule runs. Ends when `body` returns.
  void Spawn(absl::AnyInvocable<void()> body);
  [[nodiscard]] std::size_t tasks() const noexcept { return tasks_.size(); }
  // False inside an event, where nobody may block.
  [[nodiscard]] bool may_block() const noexcept { return !in_event_; }
  // True inside a task.
  [[nodiscard]] bool in_task() const noexcept { return current_ != nullptr; }

  // Who waits in Block; lives on the stack of its caller. `woken` may be read and, between two
  // waits, set to false; a wake between two waits is kept. The rest is the Schedule's.
  struct Sleeper {
    bool woken = false;

    Task* task = nullptr;  // Null: outside of all tasks.
    bool asleep = false;
    Instant deadline = kNever;
    std::uint64_t sequence = 0;
    std::size_t place = 0;  // In the heap of deadlines, counted from 1; 0: not in it.
  };
  // Gives way until Wake(sleeper) or `deadline`. True when it was woken; at once if it already was.
  // With a deadline that has passed, gives way to what is due now and to who may run now.
  // Outside of all tasks, where nothing is left that could wake it: false, at once.
  bool Block(Sleeper& sleeper, Instant deadline);
  void Wake(Sleeper& sleeper);

  // Something is due at this instant, or another task may run: Block(sleeper, now()) would not
  // come back at once.
  [[nodiscard]] bool pressing() const noexcept;
  // When something is to be run next: now() where it is pressing, kNever where nothing is left.
  [[nodiscard]] Instant next() const noexcept;

  // Runs everything that is due up to and at `end`, and ends there (with kNever: when nothing is
  // left, at the time of the last). Outside of all tasks only.
  void RunUntil(Instant end);
  // Runs what can run at this instant.
  void RunReady() { RunUntil(now_); }

  // Null (at first): tasks run in the order in which they were woken. Outlives its use.
  void SetChooser(Chooser* chooser) noexcept { chooser_ = chooser; }

  // Fault: the code that runs now has taken so long. Events that fell due meanwhile come late.
  void Stall(Duration duration) noexcept { now_ = SaturatingAdd(now_, duration); }

 private:
  // The heap holds keys alone; what is to be run stays in its slot of runs_, so that sifting moves
  // plain words.
  struct Event {
    Instant at;
    std::uint64_t sequence;
    std::uint32_t slot;
  };
  struct Later {  // Comparing so makes the earliest the front of a std heap.
    bool operator()(const Event& a, const Event& b) const noexcept {
      return a.at != b.at ? a.at > b.at : a.sequence > b.sequence;
    }
  };

  // True when something ran; false when nothing is due by `end`.
  bool Step(Instant end);
  void RunEvent();
  [[nodiscard]] Task* TakeRunnable();
  void EndSleep(Sleeper& sleeper);
  void Resume(Task& task);

  // The heap of sleepers by deadline.
  static bool Before(const Sleeper& a, const Sleeper& b) noexcept {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.sequence < b.sequence;
  }
  void Insert(Sleeper& sleeper);
  void Remove(Sleeper& sleeper) noexcept;
  void Put(Sleeper& sleeper, std::size_t place) noexcept;
  void SiftUp(Sleeper& sleeper, std::size_t place) noexcept;
  void SiftDown(Sleeper& sleeper, std::size_t place) noexcept;

  Instant now_ = kStart;
  std::uint64_t sequence_ = 0;
  std::uint64_t events_run_ = 0;
  std::vector<Event> events_;
  std::vector<absl::AnyInvocable<void()>> runs_;
  std::vector<std::uint32_t> free_runs_;
  std::vector<Sleeper*> sleepers_;
  std::deque<Task*> runnable_;  // Null: who blocks outside of all tasks.
  std::vector<std::unique_ptr<Task>> tasks_;
  Task* current_ = nullptr;
  Chooser* chooser_ = nullptr;
  bool in_event_ = false;
  bool outside_turn_ = false;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_SCHEDULE_H_
