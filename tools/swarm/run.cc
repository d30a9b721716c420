#include "swarm/run.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <holdfast/holdfast.h>
#include <holdfast/sim.h>
#include "base/random.h"
#include "echo/message.h"
#include "sim/inside.h"
#include "sim/tcp.h"
#include "swarm/failing_new.h"
#include "swarm/link_checker.h"
#include "swarm/loop_checker.h"
#include "swarm/scenario.h"
#include "swarm/timer_checker.h"

namespace holdfast::swarm {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.
using internal::sim::ConnectionRecord;
using internal::sim::Inside;
using internal::sim::Path;

constexpr std::size_t kViolationsMax = 10;
constexpr std::uint16_t kPort = 7000;

// A chance of 1 in 65,536ths.
bool Chance(Random& random, std::uint32_t rate) { return random.Below(65536) < rate; }

class Run;

// --- The other side: an echo server of the shipped Listener and Stream, which may misbehave.

class ServerProgram {
 public:
  ServerProgram(Run& run, Reactor& reactor, const ServerPlan& plan);
  ~ServerProgram();
  ServerProgram(const ServerProgram&) = delete;
  ServerProgram& operator=(const ServerProgram&) = delete;

 private:
  enum class Manner { kEcho, kEnd, kReset, kStall, kHalfClose, kGarbage };
  struct Session {
    ServerProgram* program;
    std::uint64_t id;
    std::unique_ptr<Stream> stream = nullptr;
    Manner manner = Manner::kEcho;
    std::uint64_t patience = 0;  // Bytes until it misbehaves.
    std::uint64_t received = 0;
    std::unique_ptr<Timer> timer = nullptr;  // Resumes, or reads on.
  };

  void Listen(std::string endpoint);
  void OnAccept(std::unique_ptr<Stream> stream);
  void OnData(Session& session, std::span<const std::byte> bytes);
  void Misbehave(Session& session);
  void Forget(std::uint64_t id) { sessions_.erase(id); }

  Run& run_;
  Reactor& reactor_;
  const ServerPlan& plan_;
  std::shared_ptr<const StreamOptions> options_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> unbound_;  // To be tried again.
  std::unique_ptr<Timer> listen_timer_;
  std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::uint64_t next_id_ = 0;
};

// --- One link, its user, and its checker; made anew when it closed or was destroyed.

struct Incarnation {
  std::shared_ptr<const LinkOptions> options;
  std::unique_ptr<LinkChecker> checker;
  std::uint32_t client = 0;
};

class LinkUser {
 public:
  LinkUser(Run& run, Reactor& reactor, const LinkPlan& plan, std::size_t index);
  ~LinkUser();
  LinkUser(const LinkUser&) = delete;
  LinkUser& operator=(const LinkUser&) = delete;

  [[nodiscard]] bool up() const { return link_ != nullptr && link_->state() == LinkState::kUp; }
  [[nodiscard]] bool ended() const { return link_ == nullptr || checker_->closed(); }
  [[nodiscard]] Duration bound() const;
  // "link 3 is in backoff, last: connect: Connection refused (ECONNREFUSED)"
  [[nodiscard]] std::string Describe() const;
  void Close();

 private:
  void Make();
  void MakeLater(Duration delay);
  void SendSome();
  void Mischief();
  [[nodiscard]] Instant Now() const { return reactor_.Now(); }

  Run& run_;
  Reactor& reactor_;
  const LinkPlan& plan_;
  const std::size_t index_;
  LinkChecker* checker_ = nullptr;
  std::unique_ptr<Link> link_;
  Timer send_timer_;
  Timer make_timer_;
  std::string message_;
  std::string last_;  // Why it went down.
  std::uint64_t session_bytes_ = 0;
  std::uint64_t pings_before_ = 0;
  bool closing_ = false;
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

class Run {
 public:
  Run(std::uint64_t seed, absl::AnyInvocable<void(std::string_view)> tell);
  RunResult Execute();

  void Violate(const std::string& violation) {
    if (result_.violations.size() < kViolationsMax) result_.violations.push_back(violation);
  }
  LinkChecker& NewChecker(std::shared_ptr<const LinkOptions> options, std::size_t link,
                          std::size_t client);
  // How late the loop of `reactor` may have been so far.
  [[nodiscard]] LinkChecker::Allowances AllowancesOf(const Reactor& reactor) const;

  internal::sim::World& inner() { return *inner_; }
  Random& random() { return random_; }
  const Scenario& scenario() const { return scenario_; }
  bool disturbed() const { return disturbed_; }

  std::vector<ClientProgram*> programs;  // Of each client; null while its process is dead.

 private:
  void Build();
  void Disturb(const Disturbance& disturbance);
  void Undo(const Disturbance& disturbance);
  void PostFromThread(SimHost& host);
  void HealAll();
  void CheckAccounts();
  void Restart(SimHost& host);
  // Between runs of the world: what holds at any time.
  void CheckProcesses();
  void CheckSingleDial();
  [[nodiscard]] bool AllUp() const;
  [[nodiscard]] bool AllEnded() const;

  struct ThreadPost {
    Run* run = nullptr;
    SimHost* host = nullptr;
    Reactor* reactor = nullptr;
    Instant posted{};
    Instant run_at{};
  };

  RunResult result_;
  const Scenario scenario_;
  Random random_;
  std::vector<Incarnation> incarnations_;
  std::vector<std::unique_ptr<ThreadPost>> thread_posts_;
  bool disturbed_ = true;
  bool stalls_;
  Duration freeze_max_{0};
  bool odd_handshakes_ = false;  // ICMP may end a wait for a handshake that goes on.
  SimPath path_;
  SimWorld world_;
  internal::sim::World* inner_;
  FailingNew failing_new_;
  std::vector<SimHost*> clients_;
  std::vector<SimHost*> servers_;
  std::vector<LoopChecker> loops_;  // Of clients, then of servers.
  std::uint64_t hits_ = 0;          // Of all faults, when spinning was looked for.
};

// --- ServerProgram.

ServerProgram::ServerProgram(Run& run, Reactor& reactor, const ServerPlan& plan)
    : run_(run), reactor_(reactor), plan_(plan) {
  StreamOptions options;
  options.drain = 500ms;
  options.on_data = [](Stream& stream, std::span<const std::byte> bytes) {
    auto& session = *static_cast<Session*>(stream.user());
    session.program->OnData(session, bytes);
  };
  options.on_closed = [](Stream& stream, const StreamClosed&) {
    auto& session = *static_cast<Session*>(stream.user());
    session.program->Forget(session.id);
  };
  options_ = std::make_shared<const StreamOptions>(std::move(options));
  listen_timer_ = std::make_unique<Timer>(reactor_, [this] {
    for (std::string& endpoint : std::exchange(unbound_, {})) Listen(std::move(endpoint));
  });
  Listen("[::]:" + std::to_string(kPort));  // Of both families (ipv6(7), IPV6_V6ONLY).
}

ServerProgram::~ServerProgram() { sessions_.clear(); }

void ServerProgram::Listen(std::string endpoint) {
  auto listener = Listener::Create(
      reactor_,
      {.endpoint = endpoint, .on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
         OnAccept(std::move(stream));
       }});
  if (listener.ok()) return listeners_.push_back(*std::move(listener));
  // Out of something, by a fault: a server tries again.
  unbound_.push_back(std::move(endpoint));
  listen_timer_->Arm(reactor_.Now() + 500ms);
}

void ServerProgram::OnAccept(std::unique_ptr<Stream> stream) {
  const std::uint64_t id = ++next_id_;
  auto session = std::make_unique<Session>(Session{.program = this, .id = id});
  session->stream = std::move(stream);
  Random& random = run_.random();
  if (run_.disturbed() && Chance(random, plan_.misbehaves)) {
    constexpr Manner kManners[] = {Manner::kEnd, Manner::kReset, Manner::kStall, Manner::kHalfClose,
                                   Manner::kGarbage};
    session->manner = kManners[random.Below(std::size(kManners))];
    session->patience = random.Below(2) == 0 ? 0 : random.Below(4000);
  }
  Session& placed = *session;
  sessions_.emplace(id, std::move(session));
  placed.stream->Start(options_, &placed);
  if (placed.manner != Manner::kEcho && placed.patience == 0) Misbehave(placed);
}

void ServerProgram::OnData(Session& session, std::span<const std::byte> bytes) {
  session.received += bytes.size();
  const SendStatus sent = session.stream->Send(bytes);
  if (sent == SendStatus::kFull) session.stream->Close(0ms);  // Nobody reads its echoes.
  if (session.manner != Manner::kEcho && session.received > session.patience) Misbehave(session);
  if (plan_.slow && session.timer == nullptr && session.stream->open()) {
    session.stream->PauseReceive();
    session.timer = std::make_unique<Timer>(reactor_, [&session] {
      session.stream->ResumeReceive();
      if (session.timer != nullptr) session.timer.reset();
    });
    session.timer->Arm(reactor_.Now() + 30ms);
  }
}

void ServerProgram::Misbehave(Session& session) {
  auto& faults = run_.inner().faults;
  switch (std::exchange(session.manner, Manner::kEcho)) {
    case Manner::kEcho:
      return;
    case Manner::kEnd:
      faults.Hit(Fault::kFin);
      return session.stream->Close(0ms);
    case Manner::kReset:
      return session.stream->Drop(Error::Protocol());
    case Manner::kStall:
      faults.Hit(Fault::kZeroWindow);
      session.stream->PauseReceive();
      session.timer =
          std::make_unique<Timer>(reactor_, [&session] { session.stream->ResumeReceive(); });
      session.timer->Arm(reactor_.Now() +
                         Duration(static_cast<std::int64_t>(run_.random().Below(15'000'000'000))));
      return;
    case Manner::kHalfClose:
      faults.Hit(Fault::kHalfClose);
      return session.stream->CloseWrite();
    case Manner::kGarbage:
      faults.Hit(Fault::kCorruption);
      static_cast<void>(session.stream->Send("this is not one of our messages, whatever it is"));
      return;
  }
}

// --- LinkUser.

LinkUser::LinkUser(Run& run, Reactor& reactor, const LinkPlan& plan, std::size_t index)
    : run_(run),
      reactor_(reactor),
      plan_(plan),
      index_(index),
      send_timer_(reactor, [this] { SendSome(); }),
      make_timer_(reactor, [this] { Make(); }) {
  Make();
}

LinkUser::~LinkUser() {
  if (checker_ != nullptr) checker_->OnDestroyed();
}

void LinkUser::MakeLater(Duration delay) {
  if (!closing_) make_timer_.Arm(Now() + delay);
}

void LinkUser::Make() {
  link_.reset();
  auto options = std::make_shared<LinkOptions>(LinkOptions{
      .endpoints = plan_.options.endpoints,
      .backoff = plan_.options.backoff,
      .attempts_max = plan_.options.attempts_max,
      .healthy_after = plan_.options.healthy_after,
      .connect_timeout = plan_.options.connect_timeout,
      .attempt_timeout = plan_.options.attempt_timeout,
      .login_timeout = plan_.options.login_timeout,
      .silence_max = plan_.options.silence_max,
      .ping = plan_.options.ping,
      .ping_interval = plan_.options.ping_interval,
      .queue_high = plan_.options.queue_high,
      .queue_low = plan_.options.queue_low,
      .queue_max = plan_.options.queue_max,
      .drain = plan_.options.drain,
  });
  options->socket.send_buffer = plan_.options.socket.send_buffer;
  options->on_dial = [this](Link&, std::uint32_t attempt, std::string_view) {
    checker_->SetAllowances(run_.AllowancesOf(reactor_));
    checker_->OnDial(Now(), attempt);
    Mischief();
  };
  options->on_up = [this](Link& link) {
    checker_->SetAllowances(run_.AllowancesOf(reactor_));
    checker_->OnUp(Now(), link.local());
    session_bytes_ = 0;
    pings_before_ = link.stats().pings;
    if (!send_timer_.armed()) send_timer_.Arm(Now() + plan_.send_interval);
    SendSome();
    Mischief();
  };
  options->on_data = [this](Link& link, std::span<const std::byte> bytes) {
    checker_->SetAllowances(run_.AllowancesOf(reactor_));
    checker_->OnData(Now(), bytes);
    if (checker_->garbage()) {
      const Error error = Error::Protocol();
      checker_->OnDrop(Now(), error);
      link.Drop(error);
      return;
    }
    if (plan_.marks_healthy) {
      checker_->OnMarkHealthy(Now());
      link.MarkHealthy();
    }
    Mischief();
  };
  if (plan_.overrules) {
    options->decide = [this](const Down& down) {
      const Verdict verdict = down.error.IsTemporary() ? Verdict::kByClass : Verdict::kBackOff;
      checker_->SetVerdict(verdict);
      return verdict;
    };
  }
  options->on_down = [this](Link&, const Down& down) {
    checker_->SetAllowances(run_.AllowancesOf(reactor_));
    checker_->OnDown(Now(), down);
    last_ = down.ToString();
    Mischief();
  };
  options->on_closed = [this](Link&, const Closed& closed) {
    checker_->SetAllowances(run_.AllowancesOf(reactor_));
    checker_->OnClosed(Now(), closed);
    MakeLater(500ms);
  };
  const std::shared_ptr<const LinkOptions> shared = std::move(options);
  checker_ = &run_.NewChecker(shared, index_, plan_.client);
  auto link = Link::Create(reactor_, shared);
  if (!link.ok()) return run_.Violate("Link::Create: " + link.status().ToString());
  link_ = *std::move(link);
  checker_->OnStart(Now());
  link_->Start();
}

void LinkUser::SendSome() {
  if (link_ == nullptr || closing_) return;
  for (std::size_t i = 0; i < plan_.burst && link_->writable(); ++i) {
    // Its sequence is the one that Send will give it.
    const std::uint64_t sequence = link_->stats().messages + 1;
    const std::string payload(plan_.message_size - std::min(plan_.message_size, echo::kHeaderBytes),
                              'x');
    echo::Encode({.kind = echo::MessageKind::kLoad,
                  .link = static_cast<std::uint32_t>(index_),
                  .sequence = sequence,
                  .payload = payload},
                 message_);
    const std::uint64_t pings =
        (link_->stats().pings - pings_before_) * link_->options().ping.size();
    const SendResult result = link_->Send(message_);
    if (result.status != SendStatus::kQueued) break;
    checker_->OnSent(Now(), result.sequence, session_bytes_ + pings, message_.size());
    session_bytes_ += message_.size();
  }
  if (plan_.send_interval > Duration::zero()) send_timer_.Arm(Now() + plan_.send_interval);
}

// In any callback the user may do anything.
void LinkUser::Mischief() {
  if (!run_.disturbed() || closing_ || plan_.mischief == 0) return;
  if (!Chance(run_.random(), plan_.mischief)) return;
  switch (run_.random().Below(4)) {
    case 0:
      checker_->OnClose(Now());
      link_->Close();
      return;
    case 1: {
      const Error error = Error::Protocol();
      checker_->OnDrop(Now(), error);
      return link_->Drop(error);
    }
    case 2:
      checker_->OnRetryNow(Now());
      return link_->RetryNow();
    default:
      run_.inner().faults.Hit(Fault::kDestroyInCallback);
      checker_->OnDestroyed();
      MakeLater(200ms);
      link_.reset();
      return;
  }
}

void LinkUser::Close() {
  closing_ = true;
  make_timer_.Cancel();
  if (link_ == nullptr) return;
  checker_->OnClose(Now());
  link_->Close();
}

std::string LinkUser::Describe() const {
  std::string text = "link " + std::to_string(index_);
  if (link_ == nullptr) return text + " is not made";
  text +=
      " to " + link_->options().endpoints.front() + " is " + std::string(ToString(link_->state()));
  return last_.empty() ? text : text + ", last: " + last_;
}

Duration LinkUser::bound() const {
  const LinkOptions& options = plan_.options;
  return options.backoff.max * 4 + options.attempt_timeout * 2 + options.silence_max * 3 +
         options.drain + 60s;
}

// --- ClientProgram.

ClientProgram::ClientProgram(Run& run, Reactor& reactor, std::size_t client)
    : run_(run), client_(client) {
  const Scenario& scenario = run.scenario();
  for (std::size_t i = 0; i < scenario.links.size(); ++i) {
    if (scenario.links[i].client != client) continue;
    users.push_back(std::make_unique<LinkUser>(run, reactor, scenario.links[i], i));
  }
  timers = std::make_unique<TimerChecker>(
      reactor, run.random(), [&run, &reactor] { return run.AllowancesOf(reactor).loop; },
      [&run](const std::string& violation) { run.Violate(violation); });
  run_.programs[client_] = this;
}

ClientProgram::~ClientProgram() { run_.programs[client_] = nullptr; }

// --- Run.

Run::Run(std::uint64_t seed, absl::AnyInvocable<void(std::string_view)> tell)
    : scenario_(seed),
      random_(seed ^ 0x0ddba11),
      stalls_(Stalls(scenario_)),
      world_(SimOptions{.seed = seed, .trace = std::move(tell)}),
      inner_(&Inside::Of(world_)),
      failing_new_(inner_->faults) {}

LinkChecker& Run::NewChecker(std::shared_ptr<const LinkOptions> options, std::size_t link,
                             std::size_t client) {
  Incarnation incarnation;
  incarnation.options = std::move(options);
  incarnation.client = static_cast<std::uint32_t>(client);
  incarnation.checker =
      std::make_unique<LinkChecker>("link " + std::to_string(link), *incarnation.options,
                                    [this](const std::string& violation) { Violate(violation); });
  incarnations_.push_back(std::move(incarnation));
  return *incarnations_.back().checker;
}

LinkChecker::Allowances Run::AllowancesOf(const Reactor& reactor) const {
  LinkChecker::Allowances allowances;
  allowances.handshake = odd_handshakes_;
  if (!stalls_) return allowances;
  // What the kernel's faults may add after the reactor has looked at its clock (sim_calls.cc: a stall
  // of 2.048 s, a wait that is 20 ms late) and before a last completion is told (ring_submit.cc: 100 ms).
  // A process that was frozen reads before its timers tell how late they are.
  allowances.loop = reactor.stats().timer_lateness_max + 2100ms + freeze_max_;
  allowances.completion = 200ms;
  return allowances;
}

void Run::Build() {
  auto& network = inner_->network;
  network.KeepRecords(true);
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    inner_->faults.SetRate(static_cast<Fault>(i), scenario_.rates[i]);
  }
  odd_handshakes_ = inner_->faults.rate(Fault::kSoftIcmpWhileOwned) > 0;
  for (const Disturbance& disturbance : scenario_.disturbances) {
    if (disturbance.kind == Disturbance::Kind::kReject) odd_handshakes_ = true;
    if (disturbance.kind == Disturbance::Kind::kFreeze) {
      freeze_max_ = std::max(freeze_max_, disturbance.lasts);
    }
  }
  path_ = {.latency = scenario_.latency, .jitter = scenario_.jitter};
  programs.resize(scenario_.clients, nullptr);
  for (std::size_t i = 0; i < scenario_.clients; ++i) {
    clients_.push_back(&world_.AddHost("client-" + std::to_string(i) + ".test"));
  }
  for (std::size_t i = 0; i < scenario_.servers.size(); ++i) {
    servers_.push_back(&world_.AddHost("server-" + std::to_string(i) + ".test"));
  }
  for (SimHost* a : clients_) {
    for (SimHost* b : servers_) world_.SetPath(*a, *b, path_);
  }
  for (const auto* hosts : {&clients_, &servers_}) {
    for (SimHost* host : *hosts) {
      loops_.emplace_back(*host, [this](const std::string& violation) { Violate(violation); });
      loops_.back().OnStart(world_.Now());
    }
  }
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    servers_[i]->Run([this, i](Reactor& reactor) {
      return std::make_unique<ServerProgram>(*this, reactor, scenario_.servers[i]);
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
      inner_->faults.Hit(Fault::kSilentLoss);
      return world_.Partition(client, server);
    case Disturbance::Kind::kPartitionOneWay:
      inner_->faults.Hit(Fault::kSilentLoss);
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
      inner_->faults.Hit(disturbance.at_client ? Fault::kSocketLimit : Fault::kAcceptLimit);
      return victim.SetDescriptorLimit(4 + disturbance.detail % 8);
    case Disturbance::Kind::kRename: {
      inner_->faults.Hit(Fault::kNameChanged);
      SimHost& other = *servers_[disturbance.detail % servers_.size()];
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
    case Disturbance::Kind::kPosts: {
      if (!victim.running()) return;
      inner_->faults.Hit(Fault::kPostDuringStop);
      auto ran = std::make_shared<int>(0);
      for (int i = 0; i < 3; ++i) {
        victim.reactor().Post([this, ran, i] {
          if (*ran != i) Violate("posts out of order");
          ++*ran;
        });
      }
      return victim.reactor().Stop();
    }
    case Disturbance::Kind::kThreadPosts:
      if (victim.running()) PostFromThread(victim);
      return;
    case Disturbance::Kind::kCount:
      return;
  }
}

// What another thread posts wakes the loop at once, whatever it waits for.
void Run::PostFromThread(SimHost& host) {
  auto post = std::make_unique<ThreadPost>();
  post->run = this;
  post->reactor = &host.reactor();
  post->host = &host;
  ThreadPost& placed = *thread_posts_.emplace_back(std::move(post));
  Inside::KernelOf(host).StartThread(
      [](void* argument) {
        auto& mine = *static_cast<ThreadPost*>(argument);
        // Later than whatever was done from outside, which wakes every loop.
        internal::sim::Schedule::Sleeper sleeper;
        auto& schedule = mine.run->inner().schedule;
        schedule.Block(sleeper, schedule.now() + 1us);
        if (!mine.host->running() || &mine.host->reactor() != mine.reactor) return;
        mine.posted = schedule.now();
        mine.reactor->Post([&mine] {
          mine.run_at = mine.run->inner().schedule.now();
          if (mine.run_at > mine.posted + mine.run->AllowancesOf(*mine.reactor).loop) {
            mine.run->Violate("a post from another thread waited for " +
                              std::to_string((mine.run_at - mine.posted).count()) + " ns");
          }
        });
      },
      &placed);
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
      // Where the clock stalls as well, the one fresh lease may have been granted for that.
      if (disturbance.at_client && scenario_.rates[static_cast<std::size_t>(Fault::kClock)] == 0) {
        for (const Incarnation& incarnation : incarnations_) {
          if (incarnation.client != disturbance.client) continue;
          incarnation.checker->OnFrozen(world_.Now() - disturbance.lasts, world_.Now());
        }
      }
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
  inner_->faults.SetEnabled(false);
  world_.Heal();
  for (SimHost* client : clients_) {
    for (SimHost* server : servers_) world_.SetPath(*client, *server, path_);
  }
}

bool Run::AllUp() const {
  for (const ClientProgram* program : programs) {
    if (program == nullptr) return false;
    for (const auto& user : program->users) {
      if (!user->up()) return false;
    }
  }
  return true;
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

// Each session that a link told of, beside what the network knows of the same connection.
void Run::CheckAccounts() {
  const auto& records = inner_->network.records();
  for (const Incarnation& incarnation : incarnations_) {
    for (const LinkChecker::Session& session : incarnation.checker->sessions()) {
      // The last connection that this address had opened by then.
      const ConnectionRecord* found = nullptr;
      for (const auto& record : records) {
        if (record->opener == session.local && record->opened_at <= session.up) {
          found = record.get();
        }
      }
      if (found == nullptr) {
        Violate("a session from " + session.local.ToString() + " that the network does not know");
        continue;
      }
      incarnation.checker->CheckTruth(session, {.received = found->received_by_kernel[1],
                                                .fin_at = found->fin_at[0],
                                                .reset_at = found->reset_at[0]});
    }
    result_.ups += incarnation.checker->ups();
    result_.downs += incarnation.checker->downs();
    result_.cycles += incarnation.checker->cycles();
    result_.messages += incarnation.checker->messages();
  }
}

void Run::Restart(SimHost& host) {
  host.Restart();
  for (std::size_t i = 0; i < loops_.size(); ++i) {
    SimHost* const of = i < clients_.size() ? clients_[i] : servers_[i - clients_.size()];
    if (of == &host) loops_[i].OnStart(world_.Now());
  }
}

// A link has one handshake in flight at most: what it gave up is gone, but for a child of the process that
// holds it, a cancel that comes late, and a process that stands still.
void Run::CheckSingleDial() {
  if (scenario_.rates[static_cast<std::size_t>(Fault::kCompletionAfterClose)] > 0 ||
      scenario_.rates[static_cast<std::size_t>(Fault::kCancelRace)] > 0 ||
      freeze_max_ > Duration::zero()) {
    return;
  }
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const std::size_t handshakes = Inside::Of(*clients_[i]).tcp().connecting();
    const auto dialing = std::count_if(
        incarnations_.begin(), incarnations_.end(), [i](const Incarnation& incarnation) {
          return incarnation.client == i && incarnation.checker->dialing();
        });
    if (handshakes > static_cast<std::size_t>(dialing)) {
      Violate(std::to_string(handshakes) + " handshakes of " + std::to_string(dialing) +
              " links that dial, at " + std::to_string(world_.Now().time_since_epoch().count()) +
              " ns");
    }
  }
}

void Run::CheckProcesses() {
  CheckSingleDial();
  std::uint64_t hits = 0;
  for (std::size_t i = 0; i < internal::sim::kFaultKinds; ++i) {
    hits += inner_->faults.hits(static_cast<Fault>(i));
  }
  for (LoopChecker& loop : loops_) loop.CheckSpin(world_.Now(), hits - hits_);
  hits_ = hits;
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
  Duration bound{0};
  for (const ClientProgram* program : programs) {
    if (program == nullptr) continue;
    for (const auto& user : program->users) bound = std::max(bound, user->bound());
  }
  if (!world_.RunUntil([this] { return AllUp(); }, bound)) {
    for (const ClientProgram* program : programs) {
      if (program == nullptr) Violate("a client does not run although everything healed");
      if (program == nullptr) continue;
      for (const auto& user : program->users) {
        if (!user->up()) {
          Violate(std::to_string(bound / 1s) + " s after everything healed: " + user->Describe());
        }
      }
    }
  }
  CheckProcesses();
  for (const ClientProgram* program : programs) {
    if (program == nullptr) continue;
    program->timers->CheckNoneLost();
    for (const auto& user : program->users) user->Close();
  }
  if (!world_.RunUntil([this] { return AllEnded(); }, 30s)) {
    Violate("not every link has closed 30 s after Close");
  }
  // Whatever was given up has had the time to arrive all the same.
  CheckProcesses();
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
