// Holds the timers of one reactor to their promises: never early, never lost, never twice, and none that
// was cancelled or armed anew meanwhile.
//
// A handful of timers is armed for anything from no time at all to minutes, and from inside their callbacks
// cancels, rearms and destroys itself and each other. Each knows by itself when it is due.
#ifndef HOLDFAST_TOOLS_SWARM_TIMER_CHECKER_H_
#define HOLDFAST_TOOLS_SWARM_TIMER_CHECKER_H_

#include <array>
#include <memory>
#include <string>

#include <holdfast/reactor.h>
#include <holdfast/timer.h>
#include "absl/functional/any_invocable.h"
#include "base/random.h"
#include "swarm/link_checker.h"

namespace holdfast::swarm {

class TimerChecker {
 public:
  using Report = absl::AnyInvocable<void(const std::string& violation)>;

  // `on_fire` is called whenever one fires. What is given outlives it.
  TimerChecker(Reactor& reactor, internal::Random& random, const Oracle& oracle,
               absl::AnyInvocable<void()> on_fire, Report report);

  // At the end of the run: is any overdue?
  void CheckNoneLost();

 private:
  struct Slot {
    std::unique_ptr<Timer> timer;
    Instant due = kNever;  // kNever: not armed.
  };

  void OnFire(std::size_t index);
  void Make(std::size_t index);
  void Arm(std::size_t index);
  void Fail(std::size_t index, const std::string& what);

  Reactor& reactor_;
  internal::Random& random_;
  const Oracle& oracle_;
  absl::AnyInvocable<void()> on_fire_;
  Report report_;
  std::array<Slot, 4> slots_;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_TIMER_CHECKER_H_
