#include "fuzz/order_world.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include <holdfast/holdfast.h>
#include <holdfast/sim.h>
#include "echo/message.h"
#include "fuzz/order_client.h"
#include "fuzz/order_input.h"
#include "fuzz/order_server.h"
#include "sim/inside.h"
#include "sim/tcp.h"
#include "swarm/failing_new.h"
#include "swarm/loop_checker.h"

namespace holdfast::fuzz {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.
using internal::sim::ConnectionRecord;
using internal::sim::Inside;
using internal::sim::Path;

// What bounds the work of one input.
constexpr std::size_t kCommandsMax = 400;
constexpr Duration kDisturbedMax = 20s;
constexpr std::uint64_t kEventsMax = 15'000;
constexpr std::size_t kPlansMax = 64;

// --- Commands.

enum class Code : std::uint8_t {
  kDo,               // link, act, amount
  kDoInCallback,     // link and whose, callback and how often before, act, amount
  kServe,            // server, session, act, amount
  kServeInCallback,  // server, callback and how often before, act, session, amount
  kFault,            // kind, when, detail
  kLuck,             // five draws of jitter, loss, ports
  kTasks,            // Which process, and which of its threads, goes first.
  kRest,             // a time
  kPath,             // which, latency, jitter and loss and bandwidth
  kWall,             // which way, policy, flags
  kHeal,             // which, or all
  kLose,             // host, how: crash, kill, start
  kFreeze,           // host, thaw
  kName,             // server, how
  kDescriptors,      // host, how many
  kThread,           // client, link: another thread posts, or triggers a stop token
};

struct CodeEntry {
  Code code;
  std::uint8_t operands;
};
// What is likely to matter comes more often.
constexpr CodeEntry kCodes[] = {
    {Code::kDo, 3},
    {Code::kDoInCallback, 4},
    {Code::kFault, 3},
    {Code::kServe, 4},
    {Code::kServeInCallback, 5},
    {Code::kDo, 3},
    {Code::kDoInCallback, 4},
    {Code::kFault, 3},
    {Code::kLuck, 5},
    {Code::kTasks, 1},
    {Code::kRest, 1},
    {Code::kPath, 3},
    {Code::kWall, 3},
    {Code::kHeal, 1},
    {Code::kFault, 3},
    {Code::kDoInCallback, 4},
    {Code::kServe, 4},
    {Code::kServeInCallback, 5},
    {Code::kLose, 2},
    {Code::kFreeze, 2},
    {Code::kName, 2},
    {Code::kDescriptors, 2},
    {Code::kThread, 3},
    {Code::kFault, 3},
    {Code::kDoInCallback, 4},
    {Code::kDo, 3},
    {Code::kFault, 3},
    {Code::kLose, 2},
    {Code::kWall, 3},
    {Code::kServe, 4},
    {Code::kFault, 3},
    {Code::kRest, 1},
};
static_assert(std::size(kCodes) == 32);  // Divides the 64 bytes that begin a command.

const CodeEntry& EntryOf(std::uint8_t code) { return kCodes[code % std::size(kCodes)]; }
std::size_t OperandsOf(std::uint8_t code) { return EntryOf(code).operands; }

// --- Options.

template <typename T, std::size_t N>
T Pick(const T (&values)[N], unsigned bits) {
  return values[bits % N];
}

// Short waits, so that much happens in little time; b has a bit or two for each option.
LinkPlan ReadLink(OrderInput& input, std::uint8_t index, std::uint32_t clients,
                  std::uint32_t servers) {
  const unsigned b[] = {input.Header(), input.Header(), input.Header(), input.Header(),
                        input.Header()};
  LinkPlan plan;
  plan.client = index % clients;
  LinkOptions& options = plan.options;

  constexpr Duration kInitials[] = {1ms, 5ms, 20ms, 50ms};
  constexpr Duration kMaxima[] = {50ms, 100ms, 300ms, 1s};
  constexpr Jitter kJitters[] = {Jitter::kFull, Jitter::kEqual, Jitter::kNone, Jitter::kFull};
  options.backoff.initial = Pick(kInitials, b[0]);
  options.backoff.max = Pick(kMaxima, b[0] >> 2);
  options.backoff.jitter = Pick(kJitters, b[0] >> 4);
  switch (b[0] >> 6) {
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

  constexpr Duration kConnects[] = {20ms, 100ms, 500ms, 4s};
  constexpr Duration kHealthy[] = {10ms, 100ms, 1s, 5s};
  constexpr Duration kLogins[] = {0ms, 0ms, 300ms, 2s};
  options.connect_timeout = Pick(kConnects, b[1]);
  options.attempt_timeout = options.connect_timeout * static_cast<int>(1 + (b[1] >> 2) % 4);
  options.healthy_after = Pick(kHealthy, b[1] >> 4);
  options.login_timeout = Pick(kLogins, b[1] >> 6);

  constexpr Duration kSilences[] = {100ms, 200ms, 1s, 5s};
  options.silence_max = Pick(kSilences, b[2]);
  switch ((b[2] >> 2) % 8) {
    case 0:
      options.silence_max =
          std::max<Duration>(options.silence_max, 2s);  // The kernel's word alone.
      break;
    case 1:
      options.silence_max = Duration::zero();
      break;
    case 2:
      plan.pings_itself = true;
      break;
    case 3:
      options.ping_interval = options.silence_max / 3;
      [[fallthrough]];
    default:
      echo::Encode({.kind = echo::MessageKind::kPing, .link = index}, options.ping);
      break;
  }
  constexpr Duration kDrains[] = {0ms, 20ms, 200ms, 2s};
  options.drain = Pick(kDrains, b[2] >> 5);
  if ((b[2] & 0x80) != 0) options.socket.send_buffer = 8 << 10;

  const std::string first = std::to_string(clients + 1);
  const std::string second = std::to_string(clients + 1 + (servers - 1));
  const std::string port = ":" + std::to_string(kPort);
  switch (b[3] % 8) {
    case 0:
      options.endpoints = {"server-0.test" + port};
      break;
    case 1:
      options.endpoints = {"[fd00::" + first + "]" + port};
      break;
    case 2:
      options.endpoints = {"10.0.0." + first + port,
                           "server-" + std::to_string(servers - 1) + ".test" + port};
      break;
    case 3:
      // A port of this host that nobody listens on, within the ephemeral range: it may connect to itself.
      options.endpoints = {"127.0.0.1:40000", "10.0.0." + second + port};
      break;
    case 4:
      options.endpoints = {"server-0.test" + port, "10.0.0." + second + port};
      break;
    default:
      options.endpoints = {"10.0.0." + (b[3] % 8 == 5 ? second : first) + port};
      break;
  }
  // 32, 500 or 16,000 bytes, one to six times.
  constexpr unsigned kSizes[] = {0, 3, 6};
  if (b[4] % 4 != 3) {
    plan.greeting = static_cast<std::uint8_t>(kSizes[b[4] % 4] + (b[4] >> 2) % 6 * 8);
  }
  plan.replies = b[4] >> 5;
  plan.overrules = (b[3] & 8) != 0;
  if ((b[3] & 0x30) == 0x30) options.attempts_max = 3;
  if ((b[3] & 0x30) == 0x20) options.give_up_after = 300ms;
  if ((b[3] & 0xc0) == 0xc0) {
    options.queue_max = 16 << 10;
    options.queue_high = 8 << 10;
    options.queue_low = 2 << 10;
  }
  return plan;
}

// --- The world.

class OrderWorld {
 public:
  OrderWorld(std::span<const std::uint8_t> bytes, OrderOptions options);
  OrderResult Play();

 private:
  // What the first two bytes say.
  struct Header {
    explicit Header(OrderInput& input) {
      const std::uint8_t who = input.Header();
      clients = 1 + (who & 1U);
      servers = 1 + (who >> 1 & 1U);
      links = std::max(clients, 1 + (who >> 2 & 3U) % 3);
      constexpr BackendKind kBackends[] = {BackendKind::kUring, BackendKind::kEpoll,
                                           BackendKind::kAuto, BackendKind::kAuto};
      backend = kBackends[who >> 4 & 3U];
      half_open = (who & 0x40) != 0;
      seed = input.Header();
    }
    std::uint32_t clients;
    std::uint32_t servers;
    std::uint32_t links;
    BackendKind backend;
    bool half_open;
    std::uint64_t seed;
  };
  // A host and what we know of it.
  struct Machine {
    SimHost* host = nullptr;
    bool frozen = false;
  };
  struct ThreadPost {
    OrderWorld* world;
    std::size_t machine;
    Reactor* reactor;
    Deed deed;
    Instant posted{};
  };

  static SimOptions ToSimOptions(const Header& header, OrderOptions& options);

  [[nodiscard]] bool IsClient(std::size_t machine) const { return machine < header_.clients; }
  [[nodiscard]] bool Stopped(std::size_t machine) const;
  void NoteRun();
  void Run(Duration duration);
  void RunInstants(unsigned count);
  void PassTime(std::uint8_t byte);
  void Obey(const Command& command);
  void Start(std::size_t machine);
  void Thaw(std::size_t machine);
  void ChangePath(const Command& command);
  void RaiseWall(const Command& command);
  void Name(std::uint8_t server, std::uint8_t how);
  void PostFromThread(std::size_t machine, const Deed& deed);
  void CheckLoops();
  void CheckSingleDial();
  void HealAll();
  [[nodiscard]] bool AllUp() const;
  [[nodiscard]] bool AllEnded() const;
  void CheckTruth();

  OrderInput input_;
  const Header header_;
  OrderResult result_;
  std::vector<LinkPlan> links_;
  std::vector<Incarnation> incarnations_;
  std::vector<Delivery> deliveries_;
  std::vector<std::unique_ptr<ThreadPost>> thread_posts_;
  std::vector<Client*> clients_;  // Null while the process is dead; so are
  std::vector<Server*> servers_;  // these.
  SimWorld world_;
  Stage stage_;
  swarm::FailingNew failing_new_;
  std::vector<Machine> machines_;  // Clients, then servers.
};

SimOptions OrderWorld::ToSimOptions(const Header& header, OrderOptions& options) {
  SimOptions sim;
  sim.seed = header.seed;
  sim.backend = options.backend.value_or(header.backend);
#ifdef HOLDFAST_NO_URING
  sim.backend = BackendKind::kEpoll;
#endif
  sim.trace = std::move(options.tell);
  return sim;
}

OrderWorld::OrderWorld(std::span<const std::uint8_t> bytes, OrderOptions options)
    : input_(bytes, OperandsOf),
      header_(input_),
      world_(ToSimOptions(header_, options)),
      stage_(world_, Inside::Of(world_), options.sightings),
      failing_new_(stage_.inner.faults) {
  for (std::uint32_t i = 0; i < 3; ++i) {  // Read in any case, so that commands begin at one place.
    LinkPlan plan =
        ReadLink(input_, static_cast<std::uint8_t>(i), header_.clients, header_.servers);
    if (i < header_.links) links_.push_back(std::move(plan));
  }
  auto& inner = stage_.inner;
  inner.network.KeepRecords(true);
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    inner.faults.SetRate(static_cast<Fault>(i), 65536);
  }
  inner.faults.SetChooser(&stage_.luck);
  inner.schedule.SetChooser(&stage_.luck);
  clients_.resize(header_.clients);
  servers_.resize(header_.servers);
  for (std::uint32_t i = 0; i < header_.clients; ++i) {
    machines_.push_back({.host = &world_.AddHost(Concat("client-", i, ".test"))});
  }
  for (std::uint32_t i = 0; i < header_.servers; ++i) {
    machines_.push_back({.host = &world_.AddHost(Concat("server-", i, ".test"))});
  }
  stage_.servers_begin = header_.clients;
  for (const Machine& machine : machines_) {
    stage_.oracles.push_back(std::make_unique<swarm::HostOracle>(stage_.inner, *machine.host));
    stage_.loops.push_back(std::make_unique<swarm::LoopChecker>(
        *machine.host, header_.links,
        [this](const std::string& violation) { stage_.Violate(violation); }));
    stage_.loops.back()->OnStart(world_.Now());
  }
}

bool OrderWorld::Stopped(std::size_t machine) const {
  if (!machines_[machine].host->running()) return true;
  return IsClient(machine) ? clients_[machine]->stopped()
                           : servers_[machine - header_.clients]->stopped();
}

// --- Time.

// Each run of the world wakes everybody once.
void OrderWorld::NoteRun() {
  for (const auto& loop : stage_.loops) loop->OnCallback();
}

void OrderWorld::Run(Duration duration) {
  NoteRun();
  world_.RunFor(duration);
}

// Up to `count` instants at which something happens.
void OrderWorld::RunInstants(unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    const Instant next = stage_.inner.schedule.next();
    if (next == kNever || next > world_.Now() + 5s) return;
    Run(next - world_.Now());
  }
}

void OrderWorld::PassTime(std::uint8_t byte) {
  constexpr unsigned kInstants = 64;
  if (byte < kInstants) return RunInstants(byte + 1U);
  const unsigned number = byte - kInstants;  // Three bits behind the point, 16 magnitudes.
  Run(std::chrono::microseconds(std::int64_t{8 + (number & 7)} << (number >> 3)));
}

// --- Commands.

void OrderWorld::Obey(const Command& command) {
  const auto& operand = command.operands;
  const auto act_of = [](std::uint8_t byte) { return static_cast<Act>(byte % kActs); };
  const auto server_act_of = [](std::uint8_t byte) {
    return static_cast<ServerAct>(byte % kServerActs);
  };
  const auto link_of = [this](unsigned byte) {
    return static_cast<std::uint8_t>(byte % header_.links);
  };
  const auto server_of = [this](std::uint8_t byte) {
    return static_cast<std::uint8_t>(byte % header_.servers);
  };
  const std::size_t machine = operand[0] % machines_.size();
  SimHost& host = *machines_[machine].host;
  switch (EntryOf(command.code).code) {
    case Code::kDo: {
      const std::uint8_t link = link_of(operand[0]);
      const std::uint32_t client = links_[link].client;
      // Whoever is stopped by SIGSTOP does nothing.
      if (clients_[client] == nullptr || machines_[client].frozen) return;
      return clients_[client]->Perform({act_of(operand[1]), link, operand[2]}, Where::kOutside);
    }
    case Code::kDoInCallback: {
      if (stage_.plans.size() >= kPlansMax) return;
      const std::uint8_t link = link_of(operand[0]);
      const unsigned whose = operand[0] / header_.links % (header_.links + 1);
      stage_.plans.push_back(
          {.link = link,
           .where = static_cast<Where>(operand[1] % kCallbacks),
           .skip = static_cast<std::uint8_t>(operand[1] / kCallbacks),
           .deed = {act_of(operand[2]), whose == 0 ? link : link_of(whose), operand[3]}});
      return;
    }
    case Code::kServe: {
      const std::uint8_t server = server_of(operand[0]);
      if (servers_[server] == nullptr || machines_[header_.clients + server].frozen) return;
      return servers_[server]->Perform({server_act_of(operand[2]), operand[1], operand[3]},
                                       ServerWhere::kOutside);
    }
    case Code::kServeInCallback:
      if (stage_.server_plans.size() >= kPlansMax) return;
      stage_.server_plans.push_back(
          {.server = server_of(operand[0]),
           .where = static_cast<ServerWhere>(operand[1] % kServerCallbacks),
           .skip = static_cast<std::uint8_t>(operand[1] / kServerCallbacks),
           .deed = {server_act_of(operand[2]), operand[3], operand[4]}});
      return;
    case Code::kFault:
      return stage_.luck.Arrange(static_cast<Fault>(operand[0] % internal::sim::kFaultKinds),
                                 operand[1], operand[2]);
    case Code::kLuck:
      for (const std::uint8_t share : operand) stage_.luck.Push(share);
      return;
    case Code::kTasks:
      return stage_.luck.PushTasks(operand[0]);
    case Code::kRest:
      return Run(20ms * (1 + operand[0]));
    case Code::kPath:
      return ChangePath(command);
    case Code::kWall:
      return RaiseWall(command);
    case Code::kHeal:
      return world_.Heal();
    case Code::kLose:
      if (operand[1] % 3 == 0) return host.Crash();
      if (operand[1] % 3 == 1) return host.Kill();
      return Start(machine);
    case Code::kFreeze:
      if (operand[1] % 2 == 1) return Thaw(machine);
      if (!host.running() || machines_[machine].frozen) return;
      stage_.frozen = true;
      machines_[machine].frozen = true;
      return host.Freeze();
    case Code::kName:
      return Name(server_of(operand[0]), operand[1]);
    case Code::kDescriptors:
      stage_.inner.faults.Hit(IsClient(machine) ? Fault::kSocketLimit : Fault::kAcceptLimit);
      return host.SetDescriptorLimit(operand[1] < 16 ? operand[1] : 20'000);
    case Code::kThread: {
      const std::uint8_t link = link_of(operand[0]);
      return PostFromThread(links_[link].client, {act_of(operand[1]), link, operand[2]});
    }
  }
}

void OrderWorld::Start(std::size_t machine) {
  machines_[machine].frozen = false;
  machines_[machine].host->Restart();
  stage_.loops[machine]->OnStart(world_.Now());
}

void OrderWorld::Thaw(std::size_t machine) {
  Machine& thawed = machines_[machine];
  if (!std::exchange(thawed.frozen, false)) return;
  if (thawed.host->running()) thawed.host->Thaw();
}

void OrderWorld::ChangePath(const Command& command) {
  const auto& operand = command.operands;
  constexpr Duration kLatencies[] = {100us, 1us, 1ms, 20ms, 150ms, 600ms};
  constexpr std::uint32_t kLosses[] = {0, 0, 100, 500, 1000};
  constexpr std::uint64_t kBandwidths[] = {0, 0, 1'000'000, 20'000};
  SimPath path;
  path.latency = Pick(kLatencies, operand[1]);
  path.jitter = operand[1] / 6 % 2 == 1 ? path.latency : Duration::zero();
  path.loss_permille = Pick(kLosses, operand[2]);
  path.bytes_per_second = Pick(kBandwidths, operand[2] / 5U);
  SimHost& client = *machines_[operand[0] % header_.clients].host;
  SimHost& server =
      *machines_[header_.clients + operand[0] / header_.clients % header_.servers].host;
  switch (operand[2] / 20 % 3) {
    case 0:
      return world_.SetPath(client, server, path);
    case 1:
      return world_.SetPathOneWay(client, server, path);
    default:
      return world_.SetPathOneWay(server, client, path);
  }
}

void OrderWorld::RaiseWall(const Command& command) {
  const auto& operand = command.operands;
  auto& network = stage_.inner.network;
  auto& client = Inside::Of(*machines_[operand[0] % header_.clients].host);
  auto& server =
      Inside::Of(*machines_[header_.clients + operand[0] / header_.clients % header_.servers].host);
  constexpr unsigned kPolicies = 11;  // Behind kForward.
  const auto raise = [&](internal::sim::Host& from, internal::sim::Host& to) {
    Path& path = network.path(from, to);
    path.policy = static_cast<Path::Policy>(1 + operand[1] % kPolicies);
    path.syn_only = (operand[2] & 1) != 0;
    path.icmp_while_owned = (operand[2] & 2) != 0;
  };
  const unsigned direction = operand[0] / 4 % 3;
  if (direction != 2) raise(client, server);
  if (direction != 1) raise(server, client);
}

void OrderWorld::Name(std::uint8_t server, std::uint8_t how) {
  SimHost& host = *machines_[header_.clients + server].host;
  SimHost& other = *machines_[header_.clients + header_.servers - 1].host;
  stage_.inner.faults.Hit(Fault::kNameChanged);
  switch (how % 8) {
    case 0:
      return world_.FailName(host.name(), SimNameFailure::kUnknown);
    case 1:
      return world_.FailName(host.name(), SimNameFailure::kNoAddress);
    case 2:
      return world_.FailName(host.name(), SimNameFailure::kTryAgain);
    case 3:
      return world_.FailName(host.name(), SimNameFailure::kTimeout);
    case 4:
      return world_.SetName(host.name(), {&other}, 5ms);
    case 5:
      return world_.SetName(host.name(),
                            {machines_[0].host, &host});  // Nobody listens on the first.
    default:
      return world_.SetName(host.name(), {&host}, how % 8 == 6 ? 300ms : 1ms);
  }
}

// What another thread posts wakes the loop at once, whatever it waits for.
void OrderWorld::PostFromThread(std::size_t machine, const Deed& deed) {
  SimHost& host = *machines_[machine].host;
  if (!host.running()) return;
  thread_posts_.push_back(
      std::make_unique<ThreadPost>(ThreadPost{this, machine, &host.reactor(), deed}));
  Inside::KernelOf(host).StartThread(
      [](void* argument) {
        auto& mine = *static_cast<ThreadPost*>(argument);
        OrderWorld& world = *mine.world;
        // Later than whatever was done from outside, which wakes every loop.
        internal::sim::Schedule::Sleeper sleeper;
        auto& schedule = world.stage_.inner.schedule;
        schedule.Block(sleeper, schedule.now() + 1us);
        const Machine& there = world.machines_[mine.machine];
        if (!there.host->running() || &there.host->reactor() != mine.reactor) return;
        if (world.clients_[mine.machine] == nullptr) return;
        mine.posted = schedule.now();
        mine.reactor->Post([&mine, &world] {
          Client* const client = world.clients_[mine.machine];
          const Duration late = world.stage_.oracles[mine.machine]->Unexplained(
              mine.posted, world.stage_.inner.schedule.now(), swarm::Needs::kToBeTold);
          world.stage_.loops[mine.machine]->OnCallback();
          if (late > Duration::zero()) {
            world.stage_.Violate(
                Concat("a post from another thread waited for ", late.count(), " ns"));
          }
          if (world.stage_.disturbed) client->Perform(mine.deed, Where::kPost);
        });
      },
      thread_posts_.back().get());
}

// --- The end.

void OrderWorld::CheckLoops() {
  for (const auto& loop : stage_.loops) loop->Check(world_.Now());
  for (std::size_t i = 0; i < header_.clients; ++i) {
    if (Stopped(i)) continue;
    for (const auto& user : clients_[i]->users()) user->CheckOverdue();
  }
}

// A link has one handshake in flight at most: what it gave up is gone, but for a cancel that comes late, and
// a process that stands still.
void OrderWorld::CheckSingleDial() {
  if (stage_.hits(Fault::kCompletionAfterClose) + stage_.hits(Fault::kCancelRace) +
              stage_.hits(Fault::kCompletionOrder) + stage_.hits(Fault::kSubmissionFull) >
          0 ||
      stage_.frozen) {
    return;
  }
  for (std::size_t i = 0; i < header_.clients; ++i) {
    if (Stopped(i)) continue;
    const std::size_t handshakes = Inside::Of(*machines_[i].host).tcp().connecting();
    const auto dialing = std::count_if(
        incarnations_.begin(), incarnations_.end(), [this, i](const Incarnation& incarnation) {
          return incarnation.client == i && incarnation.checker->dialing(world_.Now());
        });
    if (handshakes > static_cast<std::size_t>(dialing)) {
      stage_.Violate(Concat(handshakes, " handshakes of ", dialing, " links that dial, at ",
                            world_.Now().time_since_epoch().count(), " ns"));
    }
  }
}

void OrderWorld::HealAll() {
  stage_.disturbed = false;
  stage_.plans.clear();
  stage_.server_plans.clear();
  stage_.inner.faults.SetEnabled(false);
  world_.Heal();
  for (std::size_t i = 0; i < machines_.size(); ++i) {
    Machine& machine = machines_[i];
    for (std::size_t j = 0; j < i; ++j) world_.SetPath(*machine.host, *machines_[j].host, {});
    world_.SetName(machine.host->name(), {machine.host});
    machine.host->SetDescriptorLimit(20'000);
    Thaw(i);
    if (Stopped(i)) Start(i);
  }
  for (Client* client : clients_) {
    for (const auto& user : client->users()) user->Settle();
  }
  for (Server* server : servers_) server->Settle();
}

bool OrderWorld::AllUp() const {
  return std::all_of(clients_.begin(), clients_.end(), [](Client* client) {
    return std::all_of(client->users().begin(), client->users().end(),
                       [](const auto& user) { return user->up(); });
  });
}

bool OrderWorld::AllEnded() const {
  return std::all_of(clients_.begin(), clients_.end(), [](Client* client) {
    return std::all_of(client->users().begin(), client->users().end(),
                       [](const auto& user) { return user->ended(); });
  });
}

// Each session that a link, or a stream, told of, beside what the network knows of the same connection.
void OrderWorld::CheckTruth() {
  for (const Incarnation& incarnation : incarnations_) {
    incarnation.checker->CheckSessions();
    result_.ups += incarnation.checker->ups();
    result_.downs += incarnation.checker->downs();
    result_.messages += incarnation.checker->messages();
  }
  for (const Delivery& delivery : deliveries_) {
    const ConnectionRecord* const record =
        stage_.inner.network.RecordOpenedFrom(delivery.peer, delivery.accepted);
    if (record == nullptr) continue;  // From this host, or by the hand of a fault.
    if (delivery.delivered && delivery.sent > record->received_by_kernel[0]) {
      stage_.Violate(Concat("a stream calls ", delivery.sent, " bytes delivered, of which ",
                            record->received_by_kernel[0], " came"));
    }
    if (delivery.received > record->sent[0]) {
      stage_.Violate(
          Concat("a stream was told ", delivery.received, " bytes of ", record->sent[0]));
    }
  }
}

OrderResult OrderWorld::Play() {
  const Instant begin = world_.Now();
  for (std::uint32_t i = 0; i < header_.servers; ++i) {
    machines_[header_.clients + i].host->Run([this, i](Reactor& reactor) {
      auto server = std::make_unique<Server>(stage_, reactor, static_cast<std::uint8_t>(i),
                                             header_.half_open, deliveries_);
      servers_[i] = server.get();
      return std::shared_ptr<Server>(server.release(), [this, i](Server* dead) {
        servers_[i] = nullptr;
        delete dead;
      });
    });
  }
  for (std::uint32_t i = 0; i < header_.clients; ++i) {
    machines_[i].host->Run([this, i](Reactor& reactor) {
      auto client = std::make_unique<Client>(stage_, reactor, i, links_, incarnations_);
      clients_[i] = client.get();
      return std::shared_ptr<Client>(client.release(), [this, i](Client* dead) {
        clients_[i] = nullptr;
        delete dead;
      });
    });
  }

  for (std::size_t i = 0; i < kCommandsMax; ++i) {
    if (world_.Now() - begin > kDisturbedMax) break;
    if (stage_.inner.schedule.events_run() + stage_.inner.completions > kEventsMax) break;
    const std::optional<Command> command = input_.Next();
    if (!command.has_value()) break;
    if (command->is_time) {
      PassTime(command->code);
      CheckLoops();
      CheckSingleDial();
    } else {
      Obey(*command);
    }
  }

  CheckLoops();
  HealAll();
  Duration bound{0};
  for (Client* client : clients_) {
    for (const auto& user : client->users()) bound = std::max(bound, user->bound());
  }
  NoteRun();
  if (!world_.RunUntil([this] { return AllUp(); }, bound)) {
    for (Client* client : clients_) {
      for (const auto& user : client->users()) {
        if (!user->up()) {
          stage_.Violate(Concat(bound / 1s, " s after everything healed: ", user->Describe()));
        }
      }
    }
  }
  CheckLoops();
  for (Client* client : clients_) {
    for (const auto& user : client->users()) user->Close();
  }
  NoteRun();
  if (!world_.RunUntil([this] { return AllEnded(); }, 30s)) {
    stage_.Violate("not every link has closed 30 s after Close");
  }
  // Whatever was given up has had the time to arrive all the same.
  Run(60s);
  CheckLoops();
  for (Client* client : clients_) client->CheckNoneLost();
  for (Client* client : clients_) {
    for (const auto& user : client->users()) user->Destroy();
  }
  for (Server* server : servers_) server->Destroy();
  Run(1s);
  for (const auto& loop : stage_.loops) loop->CheckAtEase();
  CheckTruth();

  result_.hash = world_.hash();
  result_.completions = stage_.inner.completions;
  result_.virtual_time = world_.Now() - begin;
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    result_.hits[i] = stage_.hits(static_cast<Fault>(i));
  }
  result_.violations = std::move(stage_.violations);
  return std::move(result_);
}

}  // namespace

OrderResult PlayOrder(std::span<const std::uint8_t> bytes, OrderOptions options) {
  return OrderWorld(bytes, std::move(options)).Play();
}

}  // namespace holdfast::fuzz
