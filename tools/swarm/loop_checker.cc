#include "swarm/loop_checker.h"

#include <chrono>
#include <string_view>

#include <holdfast/reactor.h>
#include "sim/inside.h"

namespace holdfast::swarm {
namespace {

constexpr std::string_view kFellBack = "epoll: io_uring unavailable";
constexpr std::uint64_t kInVainPerSecond = 10;
// epoll sleeps up to shortly before a deadline that is far, and then until it (epoll.cc).
constexpr std::uint64_t kWaitsPerTimer = 3;
// Of a reactor and its backend: an epoll instance or a ring, and an eventfd; one to spare.
constexpr std::size_t kOwnDescriptorsMax = 3;

}  // namespace

void LoopChecker::OnStart(Instant now) {
  looked_ = now;
  in_vain_ = useful_ = 0;
  const std::string& reason = host_.reactor().backend_reason();
  if (reason.starts_with(kFellBack) && internal::sim::Inside::KernelOf(host_).rings_allowed()) {
    Fail("a kernel that has io_uring, but " + reason);
  }
}

void LoopChecker::CheckSpin(Instant now, std::uint64_t faults) {
  if (!host_.running()) return;
  const ReactorStats stats = host_.reactor().stats();
  const std::uint64_t in_vain = internal::sim::Inside::KernelOf(host_).waits_in_vain();
  const std::uint64_t useful = kWaitsPerTimer * stats.timers_fired + stats.posts;
  const auto seconds = static_cast<std::uint64_t>((now - looked_) / std::chrono::seconds(1));
  const std::uint64_t allowed = kInVainPerSecond * (seconds + 1) + faults + 1 + (useful - useful_);
  if (in_vain - in_vain_ > allowed) {
    Fail(std::to_string(in_vain - in_vain_) + " waits in vain, of " + std::to_string(allowed) +
         " that had a reason, in the " + std::to_string(seconds) + " s before " +
         std::to_string(now.time_since_epoch().count()) + " ns");
  }
  looked_ = now;
  in_vain_ = in_vain;
  useful_ = useful;
}

void LoopChecker::CheckAtEase() {
  if (!host_.running()) return Fail("does not run");
  const ReactorStats stats = host_.reactor().stats();
  if (stats.bugs != 0) Fail(std::to_string(stats.bugs) + " errors of class invalid");
  if (stats.open_sockets != stats.listeners + stats.streams) {
    Fail(std::to_string(stats.open_sockets) + " sockets for " + std::to_string(stats.listeners) +
         " listeners and " + std::to_string(stats.streams) + " streams");
  }
  if (stats.streams == 0 && stats.send_blocks != 0) {
    Fail(std::to_string(stats.send_blocks) + " send blocks left");
  }
  const std::size_t descriptors = internal::sim::Inside::KernelOf(host_).open_descriptors();
  if (descriptors > stats.open_sockets + kOwnDescriptorsMax) {
    Fail(std::to_string(descriptors) + " descriptors for " + std::to_string(stats.open_sockets) +
         " sockets");
  }
}

}  // namespace holdfast::swarm
