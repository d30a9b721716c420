#include "swarm/loop_checker.h"

#include <chrono>
#include <string_view>

#include <holdfast/reactor.h>
#include "sim/inside.h"

namespace holdfast::swarm {
namespace {

constexpr std::string_view kFellBack = "epoll: io_uring unavailable";
// What polls does so 10 times a second (net/connection.cc), and epoll waits twice for a deadline: until
// shortly before it, and until it (epoll.cc).
constexpr std::uint64_t kInVainPerSecond = 2 * 10;
// A callback's consequences: what it defers, flushes and sends, and what answers at once.
constexpr std::uint64_t kWaitsPerCallback = 3;
// Of a reactor and its backend: an epoll instance or a ring, and an eventfd.
constexpr std::size_t kOwnDescriptors = 2;

}  // namespace

void LoopChecker::OnStart(Instant now) {
  ++life_;
  stopped_ = false;
  looked_ = now;
  in_vain_ = 0;
  reasons_ = reasons();
  const std::string& reason = host_.reactor().backend_reason();
  if (reason.starts_with(kFellBack) && internal::sim::Inside::KernelOf(host_).rings_allowed()) {
    Fail("a kernel that has io_uring, but " + reason);
  }
}

std::uint64_t LoopChecker::reasons() const { return kWaitsPerCallback * callbacks_; }

void LoopChecker::Check(Instant now) {
  if (!host_.running()) return;
  if (const ReactorStats stats = host_.reactor().stats(); stats.bugs != 0) {
    Fail(std::to_string(stats.bugs) + " errors of class invalid");
  }
  const std::uint64_t in_vain = internal::sim::Inside::KernelOf(host_).waits_in_vain();
  const std::uint64_t reasons_now = reasons();
  const auto seconds = static_cast<std::uint64_t>((now - looked_) / std::chrono::seconds(1));
  const std::uint64_t allowed =
      kInVainPerSecond * connections_ * (seconds + 1) + (reasons_now - reasons_);
  if (in_vain - in_vain_ > allowed) {
    Fail(std::to_string(in_vain - in_vain_) + " waits in vain, of " + std::to_string(allowed) +
         " that had a reason, in the " + std::to_string(seconds) + " s before " +
         std::to_string(now.time_since_epoch().count()) + " ns");
  }
  looked_ = now;
  in_vain_ = in_vain;
  reasons_ = reasons_now;
}

void LoopChecker::CheckAtEase() {
  if (!host_.running()) return Fail("does not run");
  const ReactorStats stats = host_.reactor().stats();
  if (stats.links != 0) Fail(std::to_string(stats.links) + " links left");
  if (stats.open_sockets != stats.listeners + stats.streams) {
    Fail(std::to_string(stats.open_sockets) + " sockets for " + std::to_string(stats.listeners) +
         " listeners and " + std::to_string(stats.streams) + " streams");
  }
  if (stats.streams == 0 && stats.send_blocks != 0) {
    Fail(std::to_string(stats.send_blocks) + " send blocks left");
  }
  const std::size_t descriptors = internal::sim::Inside::KernelOf(host_).open_descriptors();
  if (descriptors != stats.open_sockets + kOwnDescriptors) {
    Fail(std::to_string(descriptors) + " descriptors for " + std::to_string(stats.open_sockets) +
         " sockets");
  }
}

}  // namespace holdfast::swarm
