// Everything about one run that is drawn from its seed: who, over what, with which policies, and what goes
// wrong. A swarm (Groce et al., "Swarm Testing", ISSTA 2012): each run has some kinds of fault off
// altogether and some frequent, because a run in which everything goes wrong never gets far enough to fail in
// an interesting way.
#ifndef HOLDFAST_TOOLS_SWARM_SCENARIO_H_
#define HOLDFAST_TOOLS_SWARM_SCENARIO_H_

#include <array>
#include <cstdint>
#include <vector>

#include <holdfast/link.h>
#include "base/random.h"
#include "sim/faults.h"

namespace holdfast::swarm {

using internal::Random;
using internal::sim::Fault;

// How a link is used.
struct LinkPlan {
  LinkOptions options;     // Without callbacks.
  std::size_t client = 0;  // Whose link: index of a client host.
  std::size_t message_size = 64;
  Duration send_interval{0};   // Between messages; 0: none but what the others make.
  std::size_t burst = 1;       // Messages at once.
  bool marks_healthy = false;  // MarkHealthy at the first echo.
  bool decides = false;  // decide: a permanent error is backed off, too; in mischief, anything.
  std::uint32_t mischief = 0;  // Of 65,536 callbacks: Close, Drop, RetryNow, or destroy in it.
};

// How a server treats a connection.
struct ServerPlan {
  std::uint32_t misbehaves = 0;  // Of 65,536 connections: eof, reset, stall, half-close, garbage.
  bool slow = false;             // Rests between reads.
};

// What is done to the world from outside.
struct Disturbance {
  enum class Kind : std::uint8_t {
    kPartition,
    kPartitionOneWay,
    kHeal,
    kCrash,
    kKill,
    kFreeze,
    kReject,       // A firewall or a router says no: a policy of the path.
    kDescriptors,  // The process runs out of descriptors.
    kRename,       // A name answers with other addresses, or not at all.
    kSlow,         // Latency, bandwidth, loss.
    kPosts,        // Posts and a Stop while it runs.
    kThreadPosts,  // A post from another thread while the loop sleeps.
    kCount,
  };
  Kind kind{};
  Duration at{};
  Duration lasts{};
  std::size_t client = 0;
  std::size_t server = 0;
  bool at_client = false;  // Which of the two it strikes, where that is a question.
  std::uint64_t detail = 0;
};

struct Scenario {
  explicit Scenario(std::uint64_t seed);

  std::uint64_t seed;
  std::size_t clients = 1;
  std::vector<ServerPlan> servers;
  std::vector<LinkPlan> links;
  std::array<std::uint32_t, internal::sim::kFaultKinds> rates{};
  std::vector<Disturbance> disturbances;  // By time.
  Duration disturbed{0};                  // After this long everything heals.
  Duration latency{0};
  Duration jitter{0};
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_SCENARIO_H_
