// When a simulated process runs: it gives way, sleeps, is stopped, or is dead and does not know it.
#include <algorithm>
#include <utility>

#include "sim/sim_kernel.h"

namespace holdfast::internal::sim {
namespace {

// A process that is dead and goes on waiting in vain lets the others live, too.
constexpr std::uint32_t kDeadWaitsMax = 1000;
constexpr Duration kDeadPause = std::chrono::milliseconds(1);

constexpr Duration kLateMax = std::chrono::milliseconds(20);
constexpr Duration kStallUnit = std::chrono::milliseconds(1);
constexpr std::uint64_t kStallDoublings = 12;  // 1 ms, 2 ms, ... 2.048 s

}  // namespace

bool SimKernel::GiveWay() {
  if (!world_.schedule.may_block()) return false;
  Wait wait;
  waits_.PushBack(wait);
  ++world_.giving_way;
  world_.schedule.Block(wait.sleeper, world_.schedule.now());
  --world_.giving_way;
  AwaitThaw();
  wait.Unlink();
  return wait.interrupted;
}

// Outside of all tasks nobody is of this process.
void SimKernel::AwaitThaw() {
  while (frozen_ && !dead_ && world_.schedule.in_task()) {
    Wait wait;
    stopped_.PushBack(wait);
    world_.schedule.Block(wait.sleeper, kNever);
    wait.Unlink();
  }
}

void SimKernel::Freeze() noexcept {
  if (!std::exchange(frozen_, true)) frozen_at_ = world_.schedule.now();
}

void SimKernel::Thaw() {
  if (!std::exchange(frozen_, false)) return;
  stops_.Add(frozen_at_, world_.schedule.now());
  for (Wait& wait : stopped_) world_.schedule.Wake(wait.sleeper);
}

bool SimKernel::GiveWayIfBusy() { return std::exchange(owes_way_, false) && GiveWay(); }

bool SimKernel::Block(Wait& wait, Instant deadline) {
  waits_.PushBack(wait);
  const bool woken = world_.schedule.Block(wait.sleeper, deadline);
  if (woken) NoteProgress();
  AwaitThaw();
  wait.Unlink();
  return woken;
}

void SimKernel::Interrupt() {
  for (Wait& wait : waits_) {
    wait.interrupted = true;
    world_.schedule.Wake(wait.sleeper);
  }
}

// --- How late it may be.

Duration SimKernel::RunningTime(Instant from, Instant until, Needs needs) const {
  until = std::min(until, late_since_);
  if (frozen_) until = std::min(until, frozen_at_);
  if (needs == Needs::kToBeTold)
    return Delays::Outside({&world_.stalls, &stops_, &host_.held_back()}, from, until);
  return Delays::Outside({&world_.stalls, &stops_}, from, until);
}

Instant SimKernel::RunsFrom(Instant at) const {
  for (Instant next = at;; at = next) {
    next = stops_.EndOver(world_.stalls.EndOver(at));
    if (next == at) return at;
  }
}

SimKernel::Timeout SimKernel::DrawTimeout(Duration timeout) {
  if (timeout == kNeverTimeout) return {kNever, kNever};
  const Instant due = SaturatingAdd(world_.schedule.now(), timeout);
  if (timeout <= Duration::zero() || !world_.faults.Strikes(Fault::kLateTimer)) return {due, due};
  const std::uint64_t late =
      world_.faults.random().Between(1, static_cast<std::uint64_t>(kLateMax.count()));
  late_since_ = due;
  return {due, SaturatingAdd(due, Duration(late))};
}

void SimKernel::EndWait(const Timeout& timeout) {
  const Instant now = world_.schedule.now();
  if (timeout.ends > timeout.due) stops_.Add(timeout.due, std::min(now, timeout.ends));
  late_since_ = kNever;
  if (!world_.faults.Strikes(Fault::kClock)) return;
  world_.schedule.Stall(kStallUnit * (1U << world_.faults.random().Below(kStallDoublings)));
  world_.stalls.Add(now, world_.schedule.now());
}

void SimKernel::WaitOfTheDead(Duration timeout) {
  if (timeout != kNeverTimeout) dead_time_ += std::min(timeout, Duration::max() - dead_time_);
  if (!world_.schedule.in_task()) return;
  Schedule::Sleeper sleeper;
  const bool in_vain = ++dead_waits_ > kDeadWaitsMax;
  const Instant now = world_.schedule.now();
  world_.schedule.Block(sleeper, in_vain ? SaturatingAdd(now, kDeadPause) : now);
}

}  // namespace holdfast::internal::sim
