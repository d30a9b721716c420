// A simulated world for tests: hosts that crash, networks that lie, names that fail, and a day of
// outage in a blink.
//
// What runs in it is what you ship: your code over the shipped Link, Stream, Listener, Timer and
// Reactor, with both backends. What is simulated is everything below a system call: sockets and TCP,
// epoll and io_uring, name servers, and time, which passes only when nobody has anything left to do.
// So a test of a reconnect takes no time, and a failure comes back: one seed, one run, to the last
// event. Sockets of your own, threads, clocks and files are not simulated (docs/simulation.md).
//
//   holdfast::SimWorld world;
//   holdfast::SimHost& server = world.AddHost("server");
//   holdfast::SimHost& client = world.AddHost("client");
//   server.Run([&](holdfast::Reactor& reactor) { return MyServer(reactor, "0.0.0.0:7000"); });
//   client.Run([&](holdfast::Reactor& reactor) { return MyClient(reactor, "server:7000"); });
//   EXPECT_TRUE(world.RunUntil([&] { return subscriptions == 1; }, 1min)) << world.replay();
//   server.Crash();
//   world.RunFor(24h);
//   server.Restart();
//   EXPECT_TRUE(world.RunUntil([&] { return subscriptions == 2; }, 1min)) << world.replay();
//
// A host has one process, a process one Reactor, which runs whenever the world runs (you never call
// Reactor::Run yourself). A program is what a process does: a callable that makes its objects on the
// reactor and returns something that owns them. It is called when it is given to SimHost::Run and
// again after every restart; what it returned is destroyed when its process dies.
//
// When what may be called: between runs of the world, or in a function given to SimWorld::After, one
// may use everything here, and reactors and handles as well (what that starts goes on once the world runs
// again). In callbacks of the simulated programs: After, Now, elapsed, Draw, and what is only read.
// Anything else there is a mistake of the test, and ends the process.
//
// Lifetimes: hosts live as long as their world. Links, Timers and all else that was made on a reactor
// is gone before that reactor dies: what a program returned is, by itself; what you keep elsewhere,
// destroy before Crash, Kill and Restart of its host and before the world. Destroying a world calls
// nothing back.
//
// Callbacks of programs run on a stack of 1 MiB, whatever ulimit says. Files are the machine's: what
// listens on "unix:/path" cannot be bound again after a Restart, "unix:@name" can.
//
// A world belongs to one thread; any number of worlds may live beside each other. Link with
// libholdfast_sim.a before libholdfast.a. Throws nothing; needs no test framework and suits all.
#ifndef HOLDFAST_SIM_H_
#define HOLDFAST_SIM_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <holdfast/reactor.h>
#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"

namespace holdfast {

namespace internal::sim {
struct Inside;
}

class SimHost;
class SimWorld;

// One direction between two hosts, while it works.
struct SimPath {
  Duration latency = std::chrono::microseconds(100);
  Duration jitter{0};                  // Uniform on top, from segment to segment; never reorders.
  std::uint64_t bytes_per_second = 0;  // 0: no limit.
  // Of segments. TCP sends them again, so it is seen as a stall of 200 ms and more.
  std::uint32_t loss_permille = 0;

  friend constexpr bool operator==(const SimPath&, const SimPath&) noexcept = default;
};

// What becomes of what is sent into a partition.
enum class SimWall : std::uint8_t {
  kSilent,       // It vanishes: connects time out, what is up falls silent.
  kReject,       // A firewall answers with a RST: refused, reset.
  kUnreachable,  // A router says so (ICMP): no route to host.
  kNoRoute,      // The sender's own routing table says so, at once.
};

// What is wrong with a name. As errors of a Link: kNameNotFound, or kNameTemporary for the last two.
enum class SimNameFailure : std::uint8_t {
  kUnknown,    // EAI_NONAME
  kNoAddress,  // EAI_NODATA
  kTryAgain,   // EAI_AGAIN
  kTimeout,    // EAI_AGAIN after 30 s: no name server answers.
};

struct SimOptions {
  // Decides all that is left to chance. Unset: HOLDFAST_SEED of the environment, else 1; so a failure
  // is played again with what replay() printed, and without a change to the test.
  std::optional<std::uint64_t> seed = std::nullopt;
  // Of every process. kAuto: drawn from the seed at each of its starts. The environment's
  // HOLDFAST_BACKEND wins, and makes it another run.
  BackendKind backend = BackendKind::kAuto;
  // Every path between two hosts, until SetPath.
  SimPath path = {};
  // Gets the story, line by line: "3601.000100 client connect 1048580 10.0.0.1:7000 -> -EINPROGRESS".
  // Not written unless somebody asks for it, for it takes longer than what it tells.
  absl::AnyInvocable<void(std::string_view line)> trace = {};
};

struct SimStats {
  Duration elapsed{0};            // Virtual time since the world began.
  std::uint64_t events = 0;       // Segments, timers of TCP, answers of name servers.
  std::uint64_t completions = 0;  // Told to reactors by epoll and io_uring.
  std::uint64_t surprises = 0;    // How often one of SetSurprises struck.
};

// A machine with an address, a kernel and one process.
class SimHost {
 public:
  SimHost(const SimHost&) = delete;
  SimHost& operator=(const SimHost&) = delete;
  ~SimHost();

  [[nodiscard]] const std::string& name() const noexcept;
  // "10.0.0.1": the address that its name stands for.
  [[nodiscard]] const std::string& address() const noexcept;
  // Its process lives, though it may be frozen.
  [[nodiscard]] bool running() const noexcept;
  // The reactor of the process. Requires running(); another one after each start.
  [[nodiscard]] Reactor& reactor() noexcept;

  // Installs a program: a callable of Reactor& that returns anything which owns what it made, an object, a
  // std::unique_ptr, a struct of several. Called at once if the process is running, and again at every
  // later start. Several programs of a host start in the order in which they came, and end in the other.
  template <typename Program>
  void Run(Program program) {
    using Object = std::invoke_result_t<Program&, Reactor&>;
    static_assert(!std::is_void_v<Object>, "a program returns what owns the objects that it made");
    AddProgram([program = std::move(program)](Reactor& reactor) mutable {
      return std::shared_ptr<void>(new Object(program(reactor)),
                                   [](void* object) { delete static_cast<Object*>(object); });
    });
  }

  // Power loss: the host is gone, and nobody is told. Its peers go on talking to nobody until they give
  // up; after Restart they are answered by a RST. No callback of the program comes for it.
  void Crash();
  // kill -9: the process is gone, and its kernel closes what it had open, with a FIN, or with a RST where
  // unread bytes are lost, as Linux does. Nobody listens any more: who connects is refused.
  void Kill();
  // The host is up with a new process, which runs all programs. One that still lives is killed first.
  void Restart();

  // SIGSTOP and SIGCONT: the process stands still while its kernel accepts connections, takes bytes and
  // acknowledges them.
  void Freeze();
  void Thaw();

  // RLIMIT_NOFILE, of this process and the next ones; a Reactor has a handful open of its own. 20,000
  // at first.
  void SetDescriptorLimit(std::size_t limit);

 private:
  friend class SimWorld;
  friend struct internal::sim::Inside;
  struct State;

  explicit SimHost(std::unique_ptr<State> state) noexcept;
  void AddProgram(absl::AnyInvocable<std::shared_ptr<void>(Reactor&)> program);

  std::unique_ptr<State> state_;
};

class SimWorld {
 public:
  explicit SimWorld(SimOptions options = {});
  explicit SimWorld(std::uint64_t seed);
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;
  ~SimWorld();

  // A host whose process lives already, without a program. Its name resolves to its address. Requires a
  // name that no host has.
  SimHost& AddHost(std::string_view name);

  // --- Time.
  [[nodiscard]] Instant Now() const noexcept;  // As Reactor::Now of every reactor here.
  [[nodiscard]] Duration elapsed() const noexcept;
  void RunFor(Duration duration);
  // Runs until `condition` holds, which is asked at every instant at which something happened and only
  // looks. False when it did not within `limit`.
  [[nodiscard]] bool RunUntil(const std::function<bool()>& condition, Duration limit);
  // Calls `step` when `delay` has passed, after everything else that is due at that instant, and only while
  // the world runs. A step may do what may be done between runs, but not run the world.
  void After(Duration delay, absl::AnyInvocable<void()> step);

  // --- Expectations. RunUntil is for what shall happen in time; Always for what shall hold at every
  // instant: `holds` is asked in all runs to come, whenever something has happened, and changes nothing in
  // the world. Once it does not hold, time stands still: the run returns (RunUntil with false), later ones
  // at once, and everything can be looked at as it was.
  void Always(std::string_view promise, std::function<bool()> holds);
  // Empty as long as all of them held, so that `EXPECT_EQ(world.broken(), "")` says what to know:
  // "not always: two dials a second at most. HOLDFAST_SEED=7 plays it again: ...", with the time.
  [[nodiscard]] const std::string& broken() const noexcept;

  // --- The network. Changes hold for what is sent from then on; what is on its way arrives, and nothing
  // between the same two hosts overtakes it.
  void SetPath(SimHost& a, SimHost& b, const SimPath& path);  // Both ways.
  void SetPathOneWay(SimHost& from, SimHost& to, const SimPath& path);
  void Partition(SimHost& a, SimHost& b, SimWall wall = SimWall::kSilent);
  void PartitionOneWay(SimHost& from, SimHost& to, SimWall wall = SimWall::kSilent);
  // Ends the partition between two hosts, or every one. Paths keep what SetPath said.
  void Heal(SimHost& a, SimHost& b);
  void Heal();

  // --- Names, as every host sees them. A look-up gets what holds when it ends.
  // The addresses in this order; none at all: kNoAddress.
  void SetName(std::string_view name, const std::vector<SimHost*>& hosts,
               Duration delay = std::chrono::milliseconds(1));
  void FailName(std::string_view name, SimNameFailure failure);

  // --- Chance.
  // What a kernel may do to every program and most tests never see: short sends and receives, a full
  // pipe that is not, completions that are late and in another order, waits that end for nothing (EINTR)
  // or late, receive buffers that run dry, multishot operations that end. So often, of the occasions for
  // each, 500 at most; 0: never. No program that deserves the name may care.
  void SetSurprises(std::uint32_t permille);
  // Uniform over [0, bound), from the seed and nothing else. Requires bound > 0.
  [[nodiscard]] std::uint64_t Draw(std::uint64_t bound) noexcept;

  // --- What happened.
  [[nodiscard]] std::uint64_t seed() const noexcept;
  // Of everything that crossed a kernel so far: equal for equal runs, on every compiler.
  [[nodiscard]] std::uint64_t hash() const noexcept;
  [[nodiscard]] SimStats stats() const noexcept;
  // "HOLDFAST_SEED=7 plays it again: 61.2 s, event hash 93b2c1d40fe98a11"
  [[nodiscard]] std::string replay() const;

 private:
  friend class SimHost;
  friend struct internal::sim::Inside;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace holdfast

#endif  // HOLDFAST_SIM_H_
