#include "swarm/run.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <holdfast/holdfast.h>
#include <holdfast/sim.h>
#include "base/random.h"
#include "sim/inside.h"
#include "sim/tcp.h"
#include "swarm/failing_new.h"
#include "swarm/host_oracle.h"
#include "swarm/link_checker.h"
#include "swarm/link_user.h"
#include "swarm/loop_checker.h"
#include "swarm/play.h"
#include "swarm/scenario.h"
#include "swarm/server_program.h"
#include "swarm/timer_checker.h"

namespace holdfast::swarm {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.
using internal::sim::Inside;
using internal::sim::Path;

constexpr std::size_t kViolationsMax = 10;

class Run;

// A checker, and the options that it and its link share.
struct Incarnation {
  std::shared_ptr<const LinkOptions> options;
  std::unique_ptr<LinkChecker> checker;
  std::uint32_t client = 0;
};

class ClientProgram {
 public:
  ClientProgram(Run& run, Reactor& reactor, std::size_t client);
  ~ClientProgram();
  ClientProgram(const ClientProgram&) = delete;
  ClientProgram& operator=(const ClientProgram&) = delete;

  std::vector<std::unique_ptr<LinkUser>> users;
  std::unique_ptr<TimerChecker> timers;

 private:
  Run& run_;
  const std::size_t client_;
};

class Run final : public Play {
 public:
  Run(std::uint64_t seed, absl::AnyInvocable<void(std::string_view)> tell);
  RunResult Execute();

  void Violate(const std::string& violation) override {
    if (result_.violations.size() < kViolationsMax) result_.violations.push_back(violation);
  }
  LinkChecker& NewChecker(std::shared_ptr<const LinkOptions> options, std::size_t link,
                          std::size_t client) override;
  [[nodiscard]] const HostOracle& OracleOf(std::size_t client) const { return oracles_[client]; }
  void CheckSingleDial(std::size_t client) override;

  internal::sim::FaultPlan& faults() override { return inner_->faults; }
  const Scenario& scenario() const { return scenario_; }
  LoopChecker& loop(std::size_t host) { return loops_[host]; }  // Clients, then servers.

  std::vector<ClientProgram*> programs;  // Of each client; null while its process is dead.

 private:
  void Build();
  void Disturb(const Disturbance& disturbance);
  void Undo(const Disturbance& disturbance);
  void PostFromOutside(SimHost& host);
  void PostFromThread(SimHost& host);
  void HealAll();
  void CheckAccounts();
  void Restart(SimHost& host);
  [[nodiscard]] LoopChecker& LoopOf(const SimHost& host);
  // Between runs of the world: what holds at any time.
  void CheckProcesses();
  void CheckRecovery();
  [[nodiscard]] bool AllEnded() const;

  // What was posted to a reactor at one time, by one thread.
  struct Posts {
    // Its process lives.
    [[nodiscard]] bool alive() const { return host->running() && loop->life() == life; }
    Run* run = nullptr;  // Null: not from another thread.
    SimHost* host = nullptr;
    const LoopChecker* loop = nullptr;
    std::uint32_t life = 0;
    Instant posted = kNever;
    int ran = 0;
    bool checked = false;  // None is missing.
  };
  static constexpr int kPostsMade = 3;
  Posts& NewPosts(SimHost& host);
  void Post(Posts& posts);
  void CheckPosts(const Posts& posts);

  RunResult result_;
  const Scenario scenario_;
  std::vector<Incarnation> incarnations_;
  std::vector<std::unique_ptr<Posts>> posts_;
  Instant healed_at_ = kNever;
  SimPath path_;
  SimWorld world_;
  internal::sim::World* inner_;
  FailingNew failing_new_;
  std::vector<SimHost*> clients_;
  std::vector<HostOracle> oracles_;  // Of each client.
  std::vector<SimHost*> servers_;
  std::vector<LoopChecker> loops_;  // Of clients, then of servers.
};

// --- ClientProgram.

ClientProgram::ClientProgram(Run& run, Reactor& reactor, std::size_t client)
    : run_(run), client_(client) {
  const Scenario& scenario = run.scenario();
  for (std::size_t i = 0; i < scenario.links.size(); ++i) {
    if (scenario.links[i].client != client) continue;
    users.push_back(
        std::make_unique<LinkUser>(run, reactor, scenario.links[i], i, run.loop(client)));
  }
  timers = std::make_unique<TimerChecker>(
      reactor, run.random(), run.OracleOf(client),
      [&run, client] { run.loop(client).OnCallback(); },
      [&run](const std::string& violation) { run.Violate(violation); });
  run_.programs[client_] = this;
}

ClientProgram::~ClientProgram() { run_.programs[client_] = nullptr; }

// --- Run.

Run::Run(std::uint64_t seed, absl::AnyInvocable<void(std::string_view)> tell)
    : Play(seed ^ 0x0ddba11),
      scenario_(seed),
      world_(SimOptions{.seed = seed, .trace = std::move(tell)}),
      inner_(&Inside::Of(world_)),
      failing_new_(inner_->faults) {}

LinkChecker& Run::NewChecker(std::shared_ptr<const LinkOptions> options, std::size_t link,
                             std::size_t client) {
  Incarnation incarnation;
  incarnation.options = std::move(options);
  incarnation.client = static_cast<std::uint32_t>(client);
  incarnation.checker = std::make_unique<LinkChecker>(
      "link " + std::to_string(link), *incarnation.options, OracleOf(client),
      [this](const std::string& violation) { Violate(violation); });
  if (!disturbed_) incarnation.checker->OnHealed(healed_at_);
  incarnations_.push_back(std::move(incarnation));
  return *incarnations_.back().checker;
}

void Run::Build() {
  auto& network = inner_->network;
  network.KeepRecords(true);
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    inner_->faults.SetRate(static_cast<Fault>(i), scenario_.rates[i]);
  }
  path_ = {.latency = scenario_.latency, .jitter = scenario_.jitter};
  programs.resize(scenario_.clients, nullptr);
  for (std::size_t i = 0; i < scenario_.clients; ++i) {
    clients_.push_back(&world_.AddHost("client-" + std::to_string(i) + ".test"));
    oracles_.emplace_back(*inner_, *clients_.back());
  }
  for (std::size_t i = 0; i < scenario_.servers.size(); ++i) {
    servers_.push_back(&world_.AddHost("server-" + std::to_string(i) + ".test"));
  }
  for (SimHost* a : clients_) {
    for (SimHost* b : servers_) world_.SetPath(*a, *b, path_);
  }
  const auto watch = [this](SimHost& host, std::size_t connections) {
    loops_.emplace_back(host, connections,
                        [this](const std::string& violation) { Violate(violation); });
    loops_.back().OnStart(world_.Now());
  };
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const auto links = std::count_if(scenario_.links.begin(), scenario_.links.end(),
                                     [i](const LinkPlan& link) { return link.client == i; });
    watch(*clients_[i], static_cast<std::size_t>(links));
  }
  for (SimHost* const server : servers_) watch(*server, scenario_.links.size());
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    servers_[i]->Run([this, i](Reactor& reactor) {
      return std::make_unique<ServerProgram>(*this, reactor, scenario_.servers[i],
                                             loops_[clients_.size() + i]);
    });
  }
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    clients_[i]->Run(
        [this, i](Reactor& reactor) { return std::make_unique<ClientProgram>(*this, reactor, i); });
  }
}

void Run::Disturb(const Disturbance& disturbance) {
  SimHost& client = *clients_[disturbance.client];
  SimHost& server = *servers_[disturbance.server];
  SimHost& victim = disturbance.at_client ? client : server;
  switch (disturbance.kind) {
    case Disturbance::Kind::kPartition:
      return world_.Partition(client, server);
    case Disturbance::Kind::kPartitionOneWay:
      if (disturbance.at_client) return world_.PartitionOneWay(client, server);
      return world_.PartitionOneWay(server, client);
    case Disturbance::Kind::kHeal:
      return world_.Heal(client, server);
    case Disturbance::Kind::kCrash:
      return victim.Crash();
    case Disturbance::Kind::kKill:
      return victim.Kill();
    case Disturbance::Kind::kFreeze:
      inner_->faults.Hit(Fault::kClock);
      return victim.Freeze();
    case Disturbance::Kind::kReject: {
      Path& path = inner_->network.path(Inside::Of(client), Inside::Of(server));
      path.policy = static_cast<Path::Policy>(2 + disturbance.detail % 9);
      path.syn_only = (disturbance.detail & 1024) != 0;
      path.icmp_while_owned = (disturbance.detail & 2048) != 0;
      return;
    }
    case Disturbance::Kind::kDescriptors:
      return victim.SetDescriptorLimit(4 + disturbance.detail % 8);
    case Disturbance::Kind::kRename: {
      SimHost& other = *servers_[disturbance.detail % servers_.size()];
      if (&other == &server) return;
      inner_->faults.Hit(Fault::kNameChanged);
      return world_.SetName(server.name(), {&other});
    }
    case Disturbance::Kind::kSlow:
      world_.SetPath(
          client, server,
          {.latency = Duration(static_cast<std::int64_t>(disturbance.detail % 400'000'000)),
           .jitter = 10ms,
           .bytes_per_second = (disturbance.detail & 1) != 0 ? 20'000u : 0u,
           .loss_permille = static_cast<std::uint32_t>(disturbance.detail % 200)});
      return;
    case Disturbance::Kind::kPosts:
      if (!victim.running() || LoopOf(victim).stopped()) return;
      inner_->faults.Hit(Fault::kPostDuringStop);
      PostFromOutside(victim);
      LoopOf(victim).OnStop();
      return victim.reactor().Stop();
    case Disturbance::Kind::kThreadPosts:
      if (victim.running()) PostFromThread(victim);
      return;
    case Disturbance::Kind::kCount:
      return;
  }
}

Run::Posts& Run::NewPosts(SimHost& host) {
  posts_.push_back(std::make_unique<Posts>());
  Posts& posts = *posts_.back();
  posts.host = &host;
  posts.loop = &LoopOf(host);
  posts.life = posts.loop->life();
  return posts;
}

// What one thread posts runs in order, and soon.
void Run::Post(Posts& posts) {
  posts.posted = world_.Now();
  for (int i = 0; i < kPostsMade; ++i) {
    posts.host->reactor().Post([this, &posts, i] {
      if (posts.ran != i) Violate("posts out of order");
      ++posts.ran;
      CheckPosts(posts);
    });
  }
}

void Run::PostFromOutside(SimHost& host) { Post(NewPosts(host)); }

// From another thread, which wakes the loop, whatever it waits for.
void Run::PostFromThread(SimHost& host) {
  Posts& posts = NewPosts(host);
  posts.run = this;
  Inside::KernelOf(host).StartThread(
      [](void* argument) {
        auto& mine = *static_cast<Posts*>(argument);
        // Later than whatever was done from outside, which wakes every loop.
        internal::sim::Schedule::Sleeper sleeper;
        auto& schedule = mine.run->inner_->schedule;
        schedule.Block(sleeper, schedule.now() + 1us);
        if (mine.alive() && !mine.loop->stopped()) mine.run->Post(mine);
      },
      &posts);
}

void Run::CheckPosts(const Posts& posts) {
  if (posts.posted == kNever || posts.checked) return;
  const Duration late =
      Inside::KernelOf(*posts.host).RunningTime(posts.posted, world_.Now(), Needs::kToBeTold);
  if (late > Duration::zero()) {
    Violate(std::to_string(posts.ran) + " of " + std::to_string(kPostsMade) + " posts had run " +
            std::to_string(late.count()) + " ns after they were posted");
  }
}

void Run::Undo(const Disturbance& disturbance) {
  SimHost& client = *clients_[disturbance.client];
  SimHost& server = *servers_[disturbance.server];
  SimHost& victim = disturbance.at_client ? client : server;
  switch (disturbance.kind) {
    case Disturbance::Kind::kCrash:
    case Disturbance::Kind::kKill:
    case Disturbance::Kind::kPosts:  // Its loop has ended.
      return Restart(victim);
    case Disturbance::Kind::kFreeze:
      return victim.Thaw();
    case Disturbance::Kind::kDescriptors:
      return victim.SetDescriptorLimit(20'000);
    case Disturbance::Kind::kRename:
      return world_.SetName(server.name(), {&server});
    case Disturbance::Kind::kPartition:
    case Disturbance::Kind::kPartitionOneWay:
    case Disturbance::Kind::kReject:
    case Disturbance::Kind::kSlow: {
      world_.Heal(client, server);
      return world_.SetPath(client, server, path_);
    }
    case Disturbance::Kind::kHeal:
    case Disturbance::Kind::kThreadPosts:
    case Disturbance::Kind::kCount:
      return;
  }
}

void Run::HealAll() {
  disturbed_ = false;
  healed_at_ = world_.Now();
  for (const Incarnation& incarnation : incarnations_) incarnation.checker->OnHealed(healed_at_);
  inner_->faults.SetEnabled(false);
  world_.Heal();
  for (SimHost* client : clients_) {
    for (SimHost* server : servers_) world_.SetPath(*client, *server, path_);
  }
}

bool Run::AllEnded() const {
  for (const ClientProgram* program : programs) {
    if (program == nullptr) continue;
    for (const auto& user : program->users) {
      if (!user->ended()) return false;
    }
  }
  return true;
}

void Run::CheckAccounts() {
  std::uint64_t waits_low = 0;
  std::uint64_t waits_high = 0;
  for (const Incarnation& incarnation : incarnations_) {
    incarnation.checker->CheckSessions();
    result_.ups += incarnation.checker->ups();
    result_.downs += incarnation.checker->downs();
    result_.cycles += incarnation.checker->cycles();
    result_.messages += incarnation.checker->messages();
    waits_low += incarnation.checker->waits_low();
    waits_high += incarnation.checker->waits_high();
  }
  // As likely as so many throws of a coin that all show the same side.
  if (waits_low + waits_high >= 64 && (waits_low == 0 || waits_high == 0)) {
    Violate("jitter: " + std::to_string(waits_low) + " waits in the lower half of their bounds, " +
            std::to_string(waits_high) + " in the upper half");
  }
}

LoopChecker& Run::LoopOf(const SimHost& host) {
  const auto client = std::find(clients_.begin(), clients_.end(), &host);
  if (client != clients_.end()) return loops_[static_cast<std::size_t>(client - clients_.begin())];
  const auto server = std::find(servers_.begin(), servers_.end(), &host);
  return loops_[clients_.size() + static_cast<std::size_t>(server - servers_.begin())];
}

void Run::Restart(SimHost& host) {
  host.Restart();
  LoopOf(host).OnStart(world_.Now());
}

// A link has one handshake in flight at most: what it gave up is gone, but for a child of the process that
// holds it, and a cancel that comes late.
void Run::CheckSingleDial(std::size_t client) {
  if (inner_->faults.rate(Fault::kCompletionAfterClose) > 0 ||
      inner_->faults.rate(Fault::kCancelRace) > 0) {
    return;
  }
  const std::size_t handshakes = Inside::Of(*clients_[client]).tcp().connecting();
  const auto dialing = std::count_if(
      incarnations_.begin(), incarnations_.end(), [this, client](const Incarnation& incarnation) {
        return incarnation.client == client && incarnation.checker->dialing(world_.Now());
      });
  if (handshakes > static_cast<std::size_t>(dialing)) {
    Violate(std::to_string(handshakes) + " handshakes of " + std::to_string(dialing) +
            " links that dial, at " + std::to_string(world_.Now().time_since_epoch().count()) +
            " ns");
  }
}

void Run::CheckProcesses() {
  for (std::size_t i = 0; i < clients_.size(); ++i) CheckSingleDial(i);
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const ClientProgram* const program = programs[i];
    if (program == nullptr || loops_[i].stopped()) continue;
    for (const auto& user : program->users) user->checker().CheckOverdue(world_.Now());
    program->timers->CheckNoneLost();
  }
  for (const std::unique_ptr<Posts>& posts : posts_) {
    if (posts->checked || !posts->alive()) continue;
    // What the thread that called Stop had posted runs; of another one nobody can tell.
    if (posts->run != nullptr && posts->loop->stopped()) continue;
    posts->checked = posts->ran == kPostsMade;
    CheckPosts(*posts);
  }
  for (LoopChecker& loop : loops_) loop.Check(world_.Now());
}

// After faults end every link is up within its bound, and stays so.
void Run::CheckRecovery() {
  // Look-ups that hang (names.cc: 30 s) keep the threads of a resolver busy.
  const Duration look_up_max = inner_->faults.rate(Fault::kNameSlow) > 0 ? 30s : 0s;
  struct Waited {
    LinkUser* user;
    Instant until;
  };
  std::vector<Waited> waited;
  for (const ClientProgram* program : programs) {
    if (program == nullptr) Violate("a client does not run although everything healed");
    if (program == nullptr) continue;
    for (const auto& user : program->users) {
      waited.push_back({user.get(), user->checker().RecoveryDeadline(look_up_max)});
    }
  }
  std::stable_sort(waited.begin(), waited.end(),
                   [](const Waited& a, const Waited& b) { return a.until < b.until; });
  for (const Waited& one : waited) {
    const Duration left = std::max<Duration>(one.until - world_.Now(), 0s);
    if (world_.RunUntil([&] { return one.user->checker().recovered(); }, left)) continue;
    Violate("not up " + std::to_string((world_.Now() - healed_at_) / 1ms) +
            " ms after everything healed: " + one.user->Describe());
  }
  // One that could not prove itself may be on its way down.
  std::erase_if(waited, [](const Waited& one) { return !one.user->checker().proven(); });
  const auto ended = [&waited] {
    return std::find_if(waited.begin(), waited.end(),
                        [](const Waited& one) { return !one.user->checker().proven(); });
  };
  Duration silence{0};
  for (const LinkPlan& link : scenario_.links) {
    silence = std::max(silence, link.options.silence_max);
  }
  static_cast<void>(world_.RunUntil([&] { return ended() != waited.end(); }, silence + 1s));
  if (ended() != waited.end()) {
    Violate("went down after it had come up in a world without faults: " +
            ended()->user->Describe());
  }
}

RunResult Run::Execute() {
  const Instant begin = world_.Now();
  Build();

  // The disturbances, and their ends, by time.
  struct Step {
    Duration at;
    const Disturbance* disturbance;
    bool undo;
  };
  std::vector<Step> steps;
  for (const Disturbance& disturbance : scenario_.disturbances) {
    steps.push_back({disturbance.at, &disturbance, false});
    steps.push_back({disturbance.at + disturbance.lasts, &disturbance, true});
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.at < b.at; });
  for (const Step& step : steps) {
    const Instant at = begin + step.at;
    if (at > world_.Now()) world_.RunFor(at - world_.Now());
    CheckProcesses();
    if (step.undo) {
      Undo(*step.disturbance);
    } else {
      Disturb(*step.disturbance);
    }
  }
  if (world_.Now() - begin < scenario_.disturbed) {
    world_.RunFor(scenario_.disturbed - (world_.Now() - begin));
  }

  CheckProcesses();
  HealAll();
  CheckRecovery();
  CheckProcesses();
  for (const ClientProgram* program : programs) {
    if (program == nullptr) continue;
    program->timers->CheckNoneLost();
    for (const auto& user : program->users) user->Close();
  }
  if (!world_.RunUntil([this] { return AllEnded(); }, 30s)) {
    Violate("not every link has closed 30 s after Close");
  }
  CheckProcesses();
  for (ClientProgram* program : programs) {
    if (program == nullptr) continue;
    for (const auto& user : program->users) user->Destroy();
  }
  // Whatever was given up has had the time to arrive all the same.
  world_.RunFor(60s);
  CheckProcesses();
  for (LoopChecker& loop : loops_) loop.CheckAtEase();
  CheckAccounts();

  result_.hash = world_.hash();
  result_.completions = inner_->completions;
  result_.virtual_time = world_.Now() - begin;
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    result_.hits[i] = inner_->faults.hits(static_cast<Fault>(i));
  }
  return result_;
}

}  // namespace

RunResult RunSeed(std::uint64_t seed, absl::AnyInvocable<void(std::string_view)> tell) {
  return Run(seed, std::move(tell)).Execute();
}

}  // namespace holdfast::swarm
