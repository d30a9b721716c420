#include "swarm/scenario.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "echo/message.h"

namespace holdfast::swarm {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

constexpr std::uint32_t kAlways = 65536;

template <class T, std::size_t N>
T OneOf(Random& random, const T (&values)[N]) {
  return values[random.Below(N)];
}

bool Chance(Random& random, std::uint32_t of_100) { return random.Below(100) < of_100; }

Duration Between(Random& random, Duration low, Duration high) {
  return Duration(static_cast<std::int64_t>(random.Between(
      static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count()))));
}

LinkPlan DrawLink(Random& random, std::size_t clients, std::size_t servers, std::size_t index) {
  LinkPlan plan;
  LinkOptions& options = plan.options;
  plan.client = random.Below(clients);

  const std::size_t endpoints = 1 + random.Below(2);
  for (std::size_t i = 0; i < endpoints; ++i) {
    const std::string server = std::to_string(random.Below(servers));
    switch (random.Below(4)) {
      case 0:
        options.endpoints.push_back("server-" + server + ".test:7000");
        break;
      case 1:
        options.endpoints.push_back("[fd00::" + std::to_string(std::stoul(server) + clients + 1) +
                                    "]:7000");
        break;
      default:
        options.endpoints.push_back("10.0.0." + std::to_string(std::stoul(server) + clients + 1) +
                                    ":7000");
        break;
    }
  }

  // A port of this host that nobody listens on, within the ephemeral range: it may connect to itself.
  if (Chance(random, 10)) options.endpoints.push_back("127.0.0.1:40000");

  constexpr Duration kInitials[] = {10ms, 50ms, 100ms, 250ms};
  constexpr Duration kMaxima[] = {500ms, 1s, 2s, 5s};
  options.backoff.initial = OneOf(random, kInitials);
  options.backoff.max = std::max(OneOf(random, kMaxima), options.backoff.initial);
  constexpr int kMultipliers[] = {0, 1, 2, 3};
  switch (OneOf(random, kMultipliers)) {
    case 0:
      options.backoff.multiplier = 1.5;
      break;
    case 1:
      options.backoff.multiplier = 2;
      break;
    case 2:
      options.backoff.multiplier = 1;
      break;
    default:
      options.backoff.multiplier = 3;
      break;
  }
  constexpr Jitter kJitters[] = {Jitter::kFull, Jitter::kFull, Jitter::kEqual, Jitter::kNone};
  options.backoff.jitter = OneOf(random, kJitters);

  constexpr Duration kHealthy[] = {100ms, 1s, 3s, 10s};
  options.healthy_after = OneOf(random, kHealthy);
  constexpr Duration kConnect[] = {500ms, 1s, 4s};
  options.connect_timeout = OneOf(random, kConnect);
  options.attempt_timeout = options.connect_timeout * static_cast<int>(1 + random.Below(3)) + 1s;

  constexpr Duration kSilences[] = {200ms, 1s, 3s, 10s};
  options.silence_max = OneOf(random, kSilences);
  switch (random.Below(8)) {
    case 0:
      options.silence_max =
          std::max<Duration>(options.silence_max, 2s);  // The kernel's word alone.
      break;
    case 1:
      options.silence_max = Duration::zero();
      break;
    default: {
      echo::Encode({.kind = echo::MessageKind::kPing, .link = static_cast<std::uint32_t>(index)},
                   options.ping);
      if (Chance(random, 20)) options.ping_interval = options.silence_max / 3;
      break;
    }
  }
  plan.marks_healthy = Chance(random, 40);
  if (plan.marks_healthy && Chance(random, 50)) options.login_timeout = 2s;
  constexpr OnLoss kPolicies[] = {OnLoss::kHandBack, OnLoss::kReplayUnsent, OnLoss::kReplayUnacked};
  options.on_loss = OneOf(random, kPolicies);
  if (Chance(random, 20)) {
    options.queue_max = 16 << 10;
    options.queue_high = 8 << 10;
    options.queue_low = 2 << 10;
  }
  if (Chance(random, 10)) options.socket.send_buffer = 8 << 10;
  constexpr Duration kDrains[] = {0ms, 100ms, 2s};
  options.drain = OneOf(random, kDrains);
  if (Chance(random, 5)) options.attempts_max = static_cast<std::uint32_t>(5 + random.Below(20));
  if (Chance(random, 5)) options.give_up_after = Between(random, 2s, 30s);
  plan.decides = Chance(random, 60);

  constexpr std::size_t kSizes[] = {32, 64, 64, 500, 4000};
  plan.message_size = OneOf(random, kSizes);
  constexpr Duration kIntervals[] = {20ms, 50ms, 200ms, 1s};
  plan.send_interval = OneOf(random, kIntervals);
  constexpr std::size_t kBursts[] = {1, 1, 1, 5, 40};
  plan.burst = OneOf(random, kBursts);
  if (plan.burst > 5) plan.send_interval = std::max<Duration>(plan.send_interval, 200ms);
  if (Chance(random, 40)) plan.mischief = static_cast<std::uint32_t>(random.Below(400));
  return plan;
}

// The rate at which a kind strikes when it is on in a run, by how often it has the occasion.
std::uint32_t RateOf(Random& random, Fault fault) {
  const auto upto = [&random](std::uint64_t most) {
    return static_cast<std::uint32_t>(1 + random.Below(most));
  };
  switch (fault) {
    // Of connects and handshakes.
    case Fault::kRefusedReset:
    case Fault::kRefusedIcmpPort:
    case Fault::kConnectSilent:
    case Fault::kHostUnreachable:
    case Fault::kSoftIcmpWhileOwned:
    case Fault::kNetUnreachable:
    case Fault::kProhibited:
    case Fault::kBlackhole:
    case Fault::kAddressNotAvailable:
    case Fault::kProtocolUnreachable:
    case Fault::kLateConnect:
    case Fault::kConnectOddPath:
      return upto(6000);
    case Fault::kResetAfterConnect:
    case Fault::kFinAfterConnect:
      return upto(10000);
    // Of look-ups.
    case Fault::kNameTryAgain:
    case Fault::kNameUnknown:
    case Fault::kNameOutOfDescriptors:
    case Fault::kNameNoData:
    case Fault::kNameSlow:
    case Fault::kNameChanged:
      return upto(12000);
    // Of sends and receives, without harm.
    case Fault::kPartialSend:
    case Fault::kPartialReceive:
    case Fault::kEagainStorm:
    case Fault::kCompletionOrder:
      return upto(8000);
    // Of cancels and closes.
    case Fault::kCompletionAfterClose:
      return upto(20000);
    // Of rings, waits and calls.
    case Fault::kInterrupted:
    case Fault::kCancelRace:
    case Fault::kBuffersEmpty:
    case Fault::kMultishotEnds:
    case Fault::kSubmissionFull:
    case Fault::kCompletionOverflow:
      return upto(3000);
    case Fault::kEpollSpace:
    case Fault::kSocketLimit:
    case Fault::kAcceptLimit:
      return upto(5000);
    case Fault::kBackendLost:
    case Fault::kSelfConnect:
    case Fault::kAllocationFailure:
      return upto(30000);
    case Fault::kNoMemory:
      return upto(300);
    case Fault::kClock:
    case Fault::kLateTimer:
      return upto(200);
    // Of segments that arrive: each ends a connection, or stalls it.
    default:
      return upto(60);
  }
}

}  // namespace

Scenario::Scenario(std::uint64_t seed_of_run) : seed(seed_of_run) {
  Random random(seed ^ 0x5ca1ab1e5ca1ab1eULL);
  clients = 1 + random.Below(3);
  const std::size_t server_count = 1 + random.Below(3);
  for (std::size_t i = 0; i < server_count; ++i) {
    ServerPlan plan;
    if (Chance(random, 60)) plan.misbehaves = static_cast<std::uint32_t>(random.Below(30000));
    plan.slow = Chance(random, 15);
    servers.push_back(plan);
  }
  const std::size_t link_count = 2 + random.Below(5);
  for (std::size_t i = 0; i < link_count; ++i) {
    links.push_back(DrawLink(random, clients, server_count, i));
  }

  // About a third of the kinds are on.
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const bool on = Chance(random, 35);
    const std::uint32_t rate = RateOf(random, static_cast<Fault>(i));
    if (on) rates[i] = std::min(rate, kAlways);
  }

  constexpr Duration kLatencies[] = {50us, 1ms, 10ms, 40ms};
  latency = OneOf(random, kLatencies);
  jitter = Chance(random, 50) ? latency / 2 : Duration::zero();
  // A ping that goes out after half of the silence is answered within the other half.
  for (LinkPlan& link : links) {
    Duration& silence_max = link.options.silence_max;
    if (silence_max > Duration::zero()) silence_max = std::max(silence_max, 8 * (latency + jitter));
  }
  disturbed = Between(random, 30s, 150s);
  const std::size_t count = random.Below(25);
  for (std::size_t i = 0; i < count; ++i) {
    Disturbance disturbance;
    disturbance.kind = static_cast<Disturbance::Kind>(
        random.Below(static_cast<std::uint64_t>(Disturbance::Kind::kCount)));
    disturbance.at = Between(random, 1s, disturbed - 1s);
    disturbance.lasts = Between(random, 10ms, Chance(random, 80) ? 8s : 40s);
    disturbance.client = random.Below(clients);
    disturbance.server = random.Below(server_count);
    disturbance.at_client = Chance(random, 30);
    disturbance.detail = random.Next();
    disturbances.push_back(disturbance);
  }
  std::stable_sort(disturbances.begin(), disturbances.end(),
                   [](const Disturbance& a, const Disturbance& b) { return a.at < b.at; });
}

}  // namespace holdfast::swarm
