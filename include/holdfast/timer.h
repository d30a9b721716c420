// A deadline on the reactor's wheel.
//
//   holdfast::Timer timer(reactor, [&] { Poll(); timer.Arm(reactor.Now() + 1s); });
//   timer.Arm(reactor.Now() + 1s);
//
// Reactor thread only. Never early: when the callback runs, a clock read after the wait has passed the
// deadline, without tolerance. The wheel's grain is 0.5 ms, the deadline is not rounded to it.
#ifndef HOLDFAST_TIMER_H_
#define HOLDFAST_TIMER_H_

#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"

namespace holdfast {

class Reactor;
namespace internal {
struct TimerState;
}

class Timer {
 public:
  // The reactor outlives the timer. `callback` runs once for each Arm that comes due.
  Timer(Reactor& reactor, absl::AnyInvocable<void()> callback);
  // Allowed inside its own callback; the callback never runs afterwards.
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Moves the timer to the absolute `deadline`; reads no clock. One in the past runs in the next turn,
  // kNever cancels. O(1), allocates nothing.
  void Arm(Instant deadline) noexcept;
  // The callback will not run for the last Arm, also when it is due in this very turn. O(1).
  void Cancel() noexcept;
  [[nodiscard]] bool armed() const noexcept;

 private:
  internal::TimerState* state_;
};

}  // namespace holdfast

#endif  // HOLDFAST_TIMER_H_
