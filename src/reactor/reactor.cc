// The public classes of floor 4: they forward.
#include <holdfast/reactor.h>

#include <utility>

#include <holdfast/timer.h>
#include "core/out_of_memory.h"
#include "reactor/reactor_core.h"

namespace holdfast {

absl::StatusOr<std::unique_ptr<Reactor>> Reactor::Create(ReactorOptions options) {
  return internal::OrOutOfMemory([&]() -> absl::StatusOr<std::unique_ptr<Reactor>> {
    absl::StatusOr<std::unique_ptr<internal::ReactorCore>> core =
        internal::ReactorCore::Create(options);
    if (!core.ok()) return core.status();
    return std::unique_ptr<Reactor>(new Reactor(*std::move(core)));
  });
}

Reactor::Reactor(std::unique_ptr<internal::ReactorCore> core) noexcept : core_(std::move(core)) {}
Reactor::~Reactor() = default;

absl::Status Reactor::Run() { return core_->Run(kNever); }
absl::Status Reactor::RunFor(Duration duration) {
  return core_->Run(SaturatingAdd(core_->kernel().ClockNow(), duration));
}
absl::Status Reactor::Poll() { return core_->Poll(); }
void Reactor::Stop() noexcept { core_->Stop(); }
void Reactor::Shutdown(Duration drain, absl::AnyInvocable<void()> done) {
  core_->Shutdown(drain, std::move(done));
}
void Reactor::Post(absl::AnyInvocable<void()> function) { core_->Post(std::move(function)); }
absl::StatusOr<std::unique_ptr<Watcher>> Reactor::Watch(
    int fd, unsigned events, absl::AnyInvocable<void(unsigned)> callback) {
  return internal::OrOutOfMemory([&] { return core_->Watch(fd, events, std::move(callback)); });
}
Instant Reactor::Now() const noexcept { return core_->now(); }
ReactorStats Reactor::stats() const noexcept { return core_->stats(); }
const char* Reactor::backend() const noexcept { return core_->backend().name(); }
const std::string& Reactor::backend_reason() const noexcept { return core_->backend_reason(); }
int Reactor::fd() { return core_->fd(); }
std::vector<Transition> Reactor::history() const { return core_->recorder().Read(0); }

namespace internal {

// Outlives the Timer by the rest of the turn: its callback may destroy it.
struct TimerState final : Mortal, TimerNode {
  TimerState(ReactorCore& reactor, absl::AnyInvocable<void()> function)
      : TimerNode([](TimerNode& node) {
          auto& timer = static_cast<TimerState&>(node);
          if (!timer.core.forked()) timer.callback();
        }),
        core(reactor),
        callback(std::move(function)) {}

  ReactorCore& core;
  absl::AnyInvocable<void()> callback;
};

}  // namespace internal

Timer::Timer(Reactor& reactor, absl::AnyInvocable<void()> callback)
    : state_(new internal::TimerState(internal::ReactorCore::Of(reactor), std::move(callback))) {
  ++state_->core.population().handles;
}
Timer::~Timer() {
  --state_->core.population().handles;
  state_->core.Cancel(*state_);
  state_->core.Bury(*state_);
}
void Timer::Arm(Instant deadline) noexcept { state_->core.Arm(*state_, deadline); }
void Timer::Cancel() noexcept { state_->core.Cancel(*state_); }
bool Timer::armed() const noexcept { return state_->core.armed(*state_); }

}  // namespace holdfast
