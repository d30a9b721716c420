// What the players of an order world share: the world itself, what was promised and broken, and which
// combinations were seen.
#ifndef HOLDFAST_TESTS_FUZZ_ORDER_STAGE_H_
#define HOLDFAST_TESTS_FUZZ_ORDER_STAGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>
#include <holdfast/sim.h>
#include "fuzz/order_input.h"
#include "sim/sim_kernel.h"
#include "swarm/host_oracle.h"
#include "swarm/link_checker.h"
#include "swarm/loop_checker.h"

namespace holdfast::fuzz {

using internal::sim::Fault;

inline constexpr std::uint16_t kPort = 7000;  // Of every server.

// Text and whole numbers, one behind the other.
template <typename... Parts>
std::string Concat(const Parts&... parts) {
  std::string text;
  const auto append = [&text](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>) {
      text += std::to_string(part);
    } else {
      text += part;
    }
  };
  (append(parts), ...);
  return text;
}

// From where a user may call: a callback of a link, of a timer, a post, or none of them.
enum class Where : std::uint8_t {
  kDial,
  kUp,
  kData,
  kDown,
  kClosed,
  kWritable,
  kHeartbeat,
  kState,
  kDecide,
  kTimer,
  kPost,
  kOutside,
};
inline constexpr unsigned kCallbacks = static_cast<unsigned>(Where::kOutside);

// What a user may do.
enum class Act : std::uint8_t {
  kSend,
  kClose,
  kCloseNow,
  kDrop,
  kRetryNow,
  kMarkHealthy,
  kPing,
  kDestroy,
  kMake,
  kStart,
  kStopToken,
  kVerdict,
  kArmTimer,
  kCancelTimer,
  kMakeTimer,
  kPost,
  kStopLoop,
  kCount,
};
inline constexpr unsigned kActs = static_cast<unsigned>(Act::kCount);

struct Deed {
  Act act;
  std::uint8_t link;
  std::uint8_t amount;
};

// To be done in the callback of a link, when it has come `skip` times.
struct Plan {
  std::uint8_t link;
  Where where;
  std::uint8_t skip;
  Deed deed;
};

// The same of a server and its sessions.
enum class ServerWhere : std::uint8_t {
  kAccept,
  kData,
  kEof,
  kWritable,
  kClosed,
  kListenerError,
  kListenerClosed,
  kTimer,
  kOutside,
};
inline constexpr unsigned kServerCallbacks = static_cast<unsigned>(ServerWhere::kOutside);

enum class ServerAct : std::uint8_t {
  kPause,
  kResume,
  kGarbage,
  kCloseWrite,
  kClose,
  kCloseNow,
  kDrop,
  kDestroy,
  kRefuse,  // In on_accept: destroys the stream that it got.
  kHold,    // In on_accept: does not start it,
  kStart,   // but then.
  kListen,
  kCloseListener,
  kDestroyListener,
  kArmTimer,
  kStopLoop,
  kCount,
};
inline constexpr unsigned kServerActs = static_cast<unsigned>(ServerAct::kCount);

struct ServerDeed {
  ServerAct act;
  std::uint8_t session;
  std::uint8_t amount;
};

struct ServerPlan {
  std::uint8_t server;
  ServerWhere where;
  std::uint8_t skip;
  ServerDeed deed;
};

// One byte for each combination that a run came by: what a fuzzer looks for besides code.
inline constexpr std::size_t kFaultsAndNone = internal::sim::kFaultKinds + 1;
inline constexpr std::size_t kLinkSightings = kCallbacks * kCallbacks * kFaultsAndNone;
inline constexpr std::size_t kSessionSightings =
    kServerCallbacks * kServerCallbacks * kFaultsAndNone;
inline constexpr std::size_t kActSightings =
    std::size_t{kActs} * kLinkStateCount * (kCallbacks + 1);
inline constexpr std::size_t kSightings = kLinkSightings + kSessionSightings + kActSightings;

class Stage {
 public:
  Stage(SimWorld& simulated, internal::sim::World& inside, std::span<std::uint8_t> sightings)
      : world(simulated), inner(inside), sightings_(sightings) {}

  void Violate(const std::string& violation) {
    if (violations.size() < 10) violations.push_back(violation);
  }
  // A line of the story, where somebody reads it.
  template <typename... Parts>
  void Tell(std::string_view who, const Parts&... parts) {
    if (inner.trace.told()) inner.trace.Tell(world.Now(), who, Concat(parts...));
  }
  [[nodiscard]] std::uint64_t hits(Fault fault) const { return inner.faults.hits(fault); }
  // That one callback of a link, or of a session, came after another, with the last fault between them.
  void SawLink(Where before, Where now) {
    See((Index(before) * kCallbacks + Index(now)) * kFaultsAndNone + luck.TakeLast());
  }
  void SawSession(ServerWhere before, ServerWhere now) {
    See(kLinkSightings + (Index(before) * kServerCallbacks + Index(now)) * kFaultsAndNone +
        luck.TakeLast());
  }
  void SawAct(Act act, LinkState state, Where where) {
    See(kLinkSightings + kSessionSightings +
        (Index(act) * kLinkStateCount + Index(state)) * (kCallbacks + 1) + Index(where));
  }

  SimWorld& world;
  internal::sim::World& inner;
  Luck luck;
  bool disturbed = true;               // Plans are carried out, servers misbehave.
  bool frozen = false;                 // Somebody was.
  std::size_t bytes_left = 512 << 10;  // That users may still send.
  std::vector<Plan> plans;
  std::vector<ServerPlan> server_plans;
  std::vector<std::string> violations;
  std::vector<std::unique_ptr<swarm::HostOracle>> oracles;  // Of clients, then of servers.
  std::vector<std::unique_ptr<swarm::LoopChecker>> loops;   // The same.
  std::size_t servers_begin = 0;

 private:
  template <typename Enum>
  static std::size_t Index(Enum value) {
    return static_cast<std::size_t>(value);
  }
  void See(std::size_t sighting) {
    if (sighting < sightings_.size()) sightings_[sighting] = 1;
  }

  std::span<std::uint8_t> sightings_;
};

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_ORDER_STAGE_H_
