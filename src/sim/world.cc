// The public world: hosts with one process each, and the loop that runs them.
//
// A process is a SimKernel, a Reactor over it, and a task of the schedule that calls Reactor::Run. What
// the user does between runs happens outside of all tasks, while every reactor sleeps in its kernel's
// wait; each is interrupted when the world goes on, so that it looks.
//
// The end of a process, whatever the reason, in this order: its kernel dies (what its objects still do
// to sockets does nothing any more, except closing them), its objects are destroyed (so that no callback
// can come), its loop is stopped and ends, its reactor goes, its kernel goes. A kernel whose threads
// still look up names is kept until they have ended.
#include <netdb.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <deque>
#include <map>

#include <holdfast/sim.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "reactor/reactor_core.h"
#include "sim/inside.h"
#include "sim/names.h"
#include "sim/network.h"
#include "sim/sim_kernel.h"

namespace holdfast {
namespace {

using internal::Random;
using internal::ReactorCore;
using internal::SplitMix64;
using internal::sim::Fault;
using internal::sim::Host;
using internal::sim::Names;
using internal::sim::Path;
using internal::sim::Schedule;
using internal::sim::SimKernel;
using internal::sim::World;

constexpr std::uint64_t kDefaultSeed = 1;
// Streams of chance are told apart by what is mixed into the seed.
constexpr std::uint64_t kDrawStream = 0x6472617773;
constexpr std::uint64_t kProcessStream = 0x70726f63;

// What changes only when and in which pieces things happen.
constexpr std::array kSurprises = {
    Fault::kPartialSend,     Fault::kPartialReceive, Fault::kEagainStorm,
    Fault::kCompletionOrder, Fault::kLateTimer,      Fault::kInterrupted,
    Fault::kBuffersEmpty,    Fault::kMultishotEnds,  Fault::kSubmissionFull,
};

std::uint64_t SeedFrom(const std::optional<std::uint64_t>& given) {
  if (given.has_value()) return *given;
  const char* const text = std::getenv("HOLDFAST_SEED");
  if (text == nullptr) return kDefaultSeed;
  const std::string_view digits(text);
  const bool hex = digits.starts_with("0x");
  const char* const end = text + digits.size();
  std::uint64_t seed = 0;
  const auto [stopped, error] = std::from_chars(text + (hex ? 2 : 0), end, seed, hex ? 16 : 10);
  HOLDFAST_CHECK(error == std::errc() && stopped == end);  // A seed that is not the one meant.
  return seed;
}

// The seed of one of many streams.
std::uint64_t Derive(std::uint64_t seed, std::uint64_t stream, std::uint64_t number) {
  std::uint64_t state = seed;
  state = SplitMix64(state) ^ stream;
  state = SplitMix64(state) ^ number;
  return SplitMix64(state);
}

Path::Policy ToPolicy(SimWall wall) {
  switch (wall) {
    case SimWall::kSilent:
      return Path::Policy::kDrop;
    case SimWall::kReject:
      return Path::Policy::kRejectReset;
    case SimWall::kUnreachable:
      return Path::Policy::kIcmpHost;
    case SimWall::kNoRoute:
      return Path::Policy::kRouteUnreachable;
  }
  return Path::Policy::kDrop;
}

std::string NumericHost(const SocketAddress& address) {
  const std::string text = address.ToString();
  return text.substr(0, text.rfind(':'));
}

}  // namespace

struct SimHost::State {
  // One life.
  struct Process {
    std::unique_ptr<SimKernel> kernel;
    std::unique_ptr<Reactor> reactor;
    std::vector<std::shared_ptr<void>> objects;
    bool loop_ended = false;
  };

  State(SimWorld::State& of, Host& simulated) : world(of), host(simulated) {}

  void Boot();
  void Start(absl::AnyInvocable<std::shared_ptr<void>(Reactor&)>& program) {
    process->objects.push_back(program(*process->reactor));
  }
  // Takes the user's hands off it: from here on nothing is called back.
  void Die();
  // After Die, and when the loop has ended.
  void Bury();
  void End();

  SimWorld::State& world;
  Host& host;
  std::string address;
  std::size_t descriptor_limit = 20'000;
  std::uint64_t starts = 0;
  std::deque<absl::AnyInvocable<std::shared_ptr<void>(Reactor&)>> programs;
  std::unique_ptr<Process> process;  // Null: none lives.
};

struct SimWorld::State {
  struct Promise {
    std::string text;
    std::function<bool()> holds;
  };

  explicit State(std::uint64_t world_seed)
      : seed(world_seed), world(world_seed), draws(Derive(world_seed, kDrawStream, 0)) {}

  // The world is changed from outside of its programs only.
  void CheckOutside() const { HOLDFAST_CHECK(!world.schedule.in_task()); }
  template <typename... Parts>
  void Tell(const Parts&... parts) {
    if (world.trace.told()) {
      world.trace.Tell(world.schedule.now(), "world", absl::StrCat(parts...));
    }
  }
  void InterruptAll() {
    for (const std::unique_ptr<SimHost>& host : hosts) {
      if (host->running()) host->state_->process->kernel->Interrupt();
    }
  }
  void RunSteps();
  [[nodiscard]] std::string Replay() const;
  // Asks for every promise, unless one is broken already.
  [[nodiscard]] bool KeepsItsPromises();
  bool Advance(const std::function<bool()>* condition, Duration limit);
  // Until nothing runs any more that satisfies `pending`.
  template <typename Pending>
  void RunWhile(Pending pending) {
    while (pending()) {
      const Instant next = world.schedule.next();
      HOLDFAST_CHECK(next != kNever);  // Or it would never end.
      RunUntil(next);
    }
  }
  // And on, until nobody is in the middle of a turn: what the user does next finds every process between
  // two of its own. One that never sleeps is left where it is.
  void RunUntil(Instant end) {
    constexpr int kTurnsMax = 1000;
    world.schedule.RunUntil(end);
    for (int i = 0; world.giving_way > 0 && i < kTurnsMax; ++i) world.schedule.RunReady();
  }
  void PurgeGraves() {
    std::erase_if(graves, [](const std::unique_ptr<SimKernel>& k) { return k->threads() == 0; });
  }
  [[nodiscard]] Path& path(SimHost& from, SimHost& to) {
    return world.network.path(from.state_->host, to.state_->host);
  }

  const std::uint64_t seed;
  BackendKind backend = BackendKind::kAuto;
  SimPath first_path;
  World world;
  Random draws;
  bool running = false;
  std::vector<Promise> promises;
  std::string broken;  // The first that was, and when.
  std::vector<std::unique_ptr<SimHost>> hosts;
  std::vector<std::unique_ptr<SimKernel>> graves;  // Dead, but not their threads.
  std::multimap<Instant, absl::AnyInvocable<void()>> steps;
};

// --- Processes.

void SimHost::State::Boot() {
  World& sim = world.world;
  const std::uint64_t seed =
      Derive(world.seed, kProcessStream, (std::uint64_t{host.number()} << 32) + starts++);
  auto life = std::make_unique<Process>();
  life->kernel = std::make_unique<SimKernel>(sim, host);
  ReactorOptions options;
  options.seed = seed;
  options.kernel = life->kernel.get();
  options.backend = world.backend;
  if (world.backend == BackendKind::kAuto && (seed & 1) != 0) options.backend = BackendKind::kEpoll;
  if (options.backend == BackendKind::kAuto && sim.faults.Strikes(Fault::kBackendLost)) {
    constexpr int kErrors[] = {-EPERM, -ENOSYS, -ENOMEM, -EINVAL};
    life->kernel->SetRings(false, kErrors[sim.faults.random().Below(std::size(kErrors))]);
  }
  // A process that cannot even start is nobody's test.
  const bool faults = sim.faults.enabled();
  sim.faults.SetEnabled(false);
  absl::StatusOr<std::unique_ptr<Reactor>> made = Reactor::Create(options);
  sim.faults.SetEnabled(faults);
  HOLDFAST_CHECK(made.ok());
  life->reactor = *std::move(made);
  life->kernel->SetDescriptorLimit(descriptor_limit);
  process = std::move(life);
  sim.schedule.Spawn([mine = process.get()] {
    mine->kernel->AwaitThaw();
    HOLDFAST_CHECK(mine->reactor->Run().ok());
    mine->loop_ended = true;
  });
  // Those that a program adds are started as they come.
  const std::size_t count = programs.size();
  for (std::size_t i = 0; i < count; ++i) Start(programs[i]);
}

void SimHost::State::Die() {
  process->kernel->Die();
  while (!process->objects.empty()) process->objects.pop_back();
  // What was posted would find them gone. Not sooner: among it are answers that the objects wait for.
  ReactorCore::Of(*process->reactor).DiscardMail();
  process->reactor->Stop();
}

void SimHost::State::Bury() {
  const std::unique_ptr<Process> dead = std::move(process);
  dead->reactor.reset();
  // Only the library opens descriptors here, and it has closed them all.
  HOLDFAST_CHECK(dead->kernel->open_descriptors() == 0);
  if (dead->kernel->threads() > 0) world.graves.push_back(std::move(dead->kernel));
}

void SimHost::State::End() {
  Die();
  world.RunWhile([this] { return !process->loop_ended; });
  Bury();
  world.PurgeGraves();
}

// --- SimHost.

SimHost::SimHost(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
SimHost::~SimHost() = default;

const std::string& SimHost::name() const noexcept { return state_->host.name(); }
const std::string& SimHost::address() const noexcept { return state_->address; }
bool SimHost::running() const noexcept { return state_->process != nullptr; }

Reactor& SimHost::reactor() noexcept {
  HOLDFAST_CHECK(running());
  return *state_->process->reactor;
}

void SimHost::AddProgram(absl::AnyInvocable<std::shared_ptr<void>(Reactor&)> program) {
  state_->world.CheckOutside();
  state_->programs.push_back(std::move(program));
  if (running()) state_->Start(state_->programs.back());
}

void SimHost::Crash() {
  state_->world.CheckOutside();
  state_->world.Tell("crash ", name());
  state_->host.Crash();
  if (running()) state_->End();
}

void SimHost::Kill() {
  state_->world.CheckOutside();
  if (!running()) return;
  state_->world.Tell("kill ", name());
  state_->End();
}

void SimHost::Restart() {
  Kill();
  state_->world.Tell("start ", name());
  state_->host.Boot();
  state_->Boot();
}

void SimHost::Freeze() {
  state_->world.CheckOutside();
  state_->world.Tell("freeze ", name());
  if (running()) state_->process->kernel->Freeze();
}

void SimHost::Thaw() {
  state_->world.CheckOutside();
  state_->world.Tell("thaw ", name());
  if (running()) state_->process->kernel->Thaw();
}

void SimHost::SetDescriptorLimit(std::size_t limit) {
  state_->world.CheckOutside();
  state_->descriptor_limit = limit;
  if (running()) state_->process->kernel->SetDescriptorLimit(limit);
}

// --- SimWorld: time.

// Those that are due, in their order; also those that they add for this instant.
void SimWorld::State::RunSteps() {
  while (!steps.empty() && steps.begin()->first <= world.schedule.now()) {
    absl::AnyInvocable<void()> step = std::move(steps.begin()->second);
    steps.erase(steps.begin());
    step();
    InterruptAll();
  }
}

std::string SimWorld::State::Replay() const {
  const Duration elapsed = world.schedule.now() - Schedule::kStart;
  const std::int64_t tenths = elapsed / std::chrono::milliseconds(100);
  return absl::StrCat("HOLDFAST_SEED=", seed, " plays it again: ", tenths / 10, ".", tenths % 10,
                      " s, event hash ", absl::Hex(world.trace.hash(), absl::kZeroPad16));
}

bool SimWorld::State::KeepsItsPromises() {
  for (const Promise& promise : promises) {
    if (!broken.empty()) break;
    if (promise.holds()) continue;
    broken = absl::StrCat("not always: ", promise.text, ". ", Replay());
    Tell(broken);
  }
  return broken.empty();
}

bool SimWorld::State::Advance(const std::function<bool()>* condition, Duration limit) {
  HOLDFAST_CHECK(!world.schedule.in_task() && !running);
  if (!broken.empty()) return false;
  running = true;
  Schedule& schedule = world.schedule;
  const Instant end = SaturatingAdd(schedule.now(), limit);
  const auto holds = [&] { return condition != nullptr && (*condition)(); };
  InterruptAll();
  bool met = false;
  for (;;) {
    RunSteps();
    if (!KeepsItsPromises()) break;
    met = holds();
    if (met) break;
    Instant next = schedule.next();
    if (!steps.empty()) next = std::min(next, steps.begin()->first);
    if (next > end || next == kNever) break;
    RunUntil(next);
  }
  // Nothing is left to happen by then.
  if (!met && end != kNever && broken.empty()) RunUntil(end);
  running = false;
  return met;
}

SimWorld::SimWorld(SimOptions options) : state_(std::make_unique<State>(SeedFrom(options.seed))) {
  state_->backend = options.backend;
  state_->first_path = options.path;
  if (options.trace) state_->world.trace.SetSink(std::move(options.trace));
}

SimWorld::SimWorld(std::uint64_t seed) : SimWorld(SimOptions{.seed = seed}) {}

SimWorld::~SimWorld() {
  State& state = *state_;
  state.CheckOutside();
  HOLDFAST_CHECK(!state.running);
  state.steps.clear();
  // All kernels before any object, so that no end of one is seen by another.
  const auto each = [&](auto&& what) {
    for (const std::unique_ptr<SimHost>& host : state.hosts) {
      if (host->running()) what(*host->state_);
    }
  };
  each([](SimHost::State& host) { host.process->kernel->Die(); });
  each([](SimHost::State& host) { host.Die(); });
  state.world.names.EndAll();
  state.RunWhile([&] { return state.world.schedule.tasks() > 0; });
  each([](SimHost::State& host) { host.Bury(); });
  state.PurgeGraves();
}

SimHost& SimWorld::AddHost(std::string_view name) {
  state_->CheckOutside();
  for (const std::unique_ptr<SimHost>& other : state_->hosts) HOLDFAST_CHECK(other->name() != name);
  Host& simulated = state_->world.network.AddHost(std::string(name));
  auto host = std::make_unique<SimHost::State>(*state_, simulated);
  host->address = NumericHost(simulated.addresses().front());
  SimHost& added = *state_->hosts.emplace_back(new SimHost(std::move(host)));
  if (state_->first_path != SimPath{}) {  // A path that nobody set costs nothing.
    for (const std::unique_ptr<SimHost>& other : state_->hosts) {
      if (other.get() != &added) SetPath(*other, added, state_->first_path);
    }
  }
  SetName(name, {&added});
  added.state_->Boot();
  return added;
}

Instant SimWorld::Now() const noexcept { return state_->world.schedule.now(); }
Duration SimWorld::elapsed() const noexcept { return Now() - Schedule::kStart; }
void SimWorld::RunFor(Duration duration) { static_cast<void>(state_->Advance(nullptr, duration)); }
bool SimWorld::RunUntil(const std::function<bool()>& condition, Duration limit) {
  return state_->Advance(&condition, limit);
}
void SimWorld::After(Duration delay, absl::AnyInvocable<void()> step) {
  state_->steps.emplace(SaturatingAdd(Now(), delay), std::move(step));
}

// --- SimWorld: expectations.

void SimWorld::Always(std::string_view promise, std::function<bool()> holds) {
  state_->CheckOutside();
  state_->promises.push_back({.text = std::string(promise), .holds = std::move(holds)});
}

const std::string& SimWorld::broken() const noexcept { return state_->broken; }

// --- SimWorld: the network and the names.

void SimWorld::SetPathOneWay(SimHost& from, SimHost& to, const SimPath& path) {
  state_->CheckOutside();
  HOLDFAST_CHECK(path.loss_permille <= 1000);
  HOLDFAST_CHECK(path.latency >= Duration::zero() && path.jitter >= Duration::zero());
  Path& way = state_->path(from, to);
  way.latency = path.latency;
  way.jitter = path.jitter;
  way.bytes_per_second = path.bytes_per_second;
  way.loss = path.loss_permille * 65536 / 1000;
}

void SimWorld::SetPath(SimHost& a, SimHost& b, const SimPath& path) {
  SetPathOneWay(a, b, path);
  SetPathOneWay(b, a, path);
}

void SimWorld::PartitionOneWay(SimHost& from, SimHost& to, SimWall wall) {
  state_->CheckOutside();
  state_->world.network.SetPolicy(from.state_->host, to.state_->host, ToPolicy(wall));
}

void SimWorld::Partition(SimHost& a, SimHost& b, SimWall wall) {
  PartitionOneWay(a, b, wall);
  PartitionOneWay(b, a, wall);
}

void SimWorld::Heal(SimHost& a, SimHost& b) {
  state_->CheckOutside();
  state_->world.network.Heal(a.state_->host, b.state_->host);
}

void SimWorld::Heal() {
  state_->CheckOutside();
  state_->world.network.HealAll();
}

void SimWorld::SetName(std::string_view name, const std::vector<SimHost*>& hosts, Duration delay) {
  state_->CheckOutside();
  Names::Answer answer;
  for (const SimHost* const host : hosts) {
    answer.addresses.push_back(host->state_->host.addresses().front());
  }
  answer.delay = delay;
  state_->world.names.Set(std::string(name), std::move(answer));
}

void SimWorld::FailName(std::string_view name, SimNameFailure failure) {
  state_->CheckOutside();
  Names::Answer answer;
  switch (failure) {
    case SimNameFailure::kUnknown:
      answer.error = EAI_NONAME;
      break;
    case SimNameFailure::kNoAddress:
      answer.error = EAI_NODATA;
      break;
    case SimNameFailure::kTryAgain:
      answer.error = EAI_AGAIN;
      break;
    case SimNameFailure::kTimeout:
      answer.error = EAI_AGAIN;
      answer.delay = std::chrono::seconds(30);
      break;
  }
  state_->world.names.Set(std::string(name), std::move(answer));
}

// --- SimWorld: chance, and what happened.

void SimWorld::SetSurprises(std::uint32_t permille) {
  state_->CheckOutside();
  HOLDFAST_CHECK(permille <= 500);
  for (const Fault fault : kSurprises) {
    state_->world.faults.SetRate(fault, permille * 65536 / 1000);
  }
}

std::uint64_t SimWorld::Draw(std::uint64_t bound) noexcept {
  HOLDFAST_CHECK(bound > 0);
  return state_->draws.Below(bound);
}

std::uint64_t SimWorld::seed() const noexcept { return state_->seed; }
std::uint64_t SimWorld::hash() const noexcept { return state_->world.trace.hash(); }

SimStats SimWorld::stats() const noexcept {
  SimStats stats;
  stats.elapsed = elapsed();
  stats.events = state_->world.schedule.events_run();
  stats.completions = state_->world.completions;
  for (const Fault fault : kSurprises) stats.surprises += state_->world.faults.hits(fault);
  return stats;
}

std::string SimWorld::replay() const { return state_->Replay(); }

namespace internal::sim {

World& Inside::Of(SimWorld& world) noexcept { return world.state_->world; }
Host& Inside::Of(SimHost& host) noexcept { return host.state_->host; }
SimKernel& Inside::KernelOf(SimHost& host) noexcept {
  HOLDFAST_CHECK(host.running());
  return *host.state_->process->kernel;
}

}  // namespace internal::sim

}  // namespace holdfast
