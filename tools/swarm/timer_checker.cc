#include "swarm/timer_checker.h"

#include <chrono>
#include <utility>

namespace holdfast::swarm {

TimerChecker::TimerChecker(Reactor& reactor, internal::Random& random, const Oracle& oracle,
                           absl::AnyInvocable<void()> on_fire, Report report)
    : reactor_(reactor),
      random_(random),
      oracle_(oracle),
      on_fire_(std::move(on_fire)),
      report_(std::move(report)) {
  for (std::size_t i = 0; i < slots_.size(); ++i) Make(i);
}

void TimerChecker::Fail(std::size_t index, const std::string& what) {
  report_("at " + std::to_string(reactor_.Now().time_since_epoch().count()) + " ns, timer " +
          std::to_string(index) + ": " + what);
}

void TimerChecker::Make(std::size_t index) {
  slots_[index].timer = std::make_unique<Timer>(reactor_, [this, index] { OnFire(index); });
  Arm(index);
}

// Every order of magnitude from 1 ns to a minute or so as often as another, so that every level of a wheel
// is used, and the edges between them are.
void TimerChecker::Arm(std::size_t index) {
  const std::uint64_t magnitude = std::uint64_t{1} << random_.Below(37);
  const std::uint64_t wait = magnitude - 1 + random_.Below(3) * random_.Below(magnitude);
  Slot& slot = slots_[index];
  slot.due = reactor_.Now() + Duration(static_cast<std::int64_t>(wait));
  slot.timer->Arm(slot.due);
}

void TimerChecker::OnFire(std::size_t index) {
  on_fire_();
  const Instant now = reactor_.Now();
  const Instant due = std::exchange(slots_[index].due, kNever);
  if (due == kNever) {
    Fail(index, "fired although it was not armed");
  } else if (now < due) {
    Fail(index, "fired " + std::to_string((due - now).count()) + " ns early");
  } else if (const Duration late = oracle_.Unexplained(due, now, Needs::kToRun);
             late > Duration::zero()) {
    Fail(index, "fired " + std::to_string((now - due).count()) +
                    " ns late, of which nothing explains " + std::to_string(late.count()));
  }
  if (slots_[index].timer->armed()) Fail(index, "armed in its own callback");
  const std::size_t other = random_.Below(slots_.size());
  switch (random_.Below(5)) {
    case 0:  // Also itself, in its own callback.
      slots_[other].timer->Cancel();
      slots_[other].due = kNever;
      break;
    case 1:
      Make(other);
      break;
    case 2:
      Arm(other);
      break;
    default:
      break;
  }
  // One is always on its way.
  Arm(index);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].due == kNever && random_.Below(2) == 0) Arm(i);
  }
}

void TimerChecker::CheckNoneLost() {
  const Instant now = reactor_.Now();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].timer->armed() != (slots_[i].due != kNever)) Fail(i, "armed() is wrong");
    if (slots_[i].due < now &&
        oracle_.Unexplained(slots_[i].due, now, Needs::kToRun) > Duration::zero()) {
      Fail(i, "lost: was due " + std::to_string((now - slots_[i].due).count()) + " ns ago");
    }
  }
}

}  // namespace holdfast::swarm
