// A herd: many links of the shipped code lose their one server, and come back to it.
//
// The world is the simulated one (holdfast/sim.h), used as any user's test would use it. The links live
// on client hosts, many to each, because a host costs more than a link; but not too many, for it has
// 28,232 ports to one destination, and a dial that ends in FIN_WAIT2 or TIME_WAIT keeps one for a minute.
//
// The server is a queue, and otherwise the shipped Listener and Streams. It accepts what comes, and
// takes in one client after the other, first come, first served; each costs it a fixed time (think of a
// TLS handshake, a password, a snapshot), which is the rate. A client is up when it is greeted, and
// hangs up when that takes longer than it will wait. The server looks at nobody before his turn, so it
// takes in those who have hung up as well, and that time is lost: this is how servers die of their
// clients. The queue is bounded where the options say so, and by the number of descriptors in any case:
// without one the Listener rests, the kernel's backlog fills, and SYNs are dropped.
//
//   Herd herd({.links = 10'000, .backoff = {.jitter = Jitter::kNone}});
//   if (!herd.Gather()) return;
//   herd.Lose();
//   herd.Return(5min);
//   const Figures figures = herd.tally().Finish(herd.since_loss());
//   const std::uint64_t in_vain = herd.CountInVain();
#ifndef HOLDFAST_TOOLS_HERD_HERD_H_
#define HOLDFAST_TOOLS_HERD_HERD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <holdfast/backoff.h>
#include <holdfast/error.h>
#include <holdfast/reactor.h>
#include <holdfast/sim.h>
#include <holdfast/time.h>

#include "herd/tally.h"

namespace holdfast::herd {

enum class Loss : std::uint8_t {
  kCrash,  // Power loss: silence. Links find out by their heartbeats, and dials get no answer.
  kKill,   // kill -9: the kernel hangs up on all of them at once, and refuses dials.
};

struct HerdOptions {
  std::uint32_t links = 10'000;
  BackoffOptions backoff = {};
  Loss loss = Loss::kCrash;
  Duration outage = std::chrono::seconds(60);  // A multiple of the grain.
  // The server: clients a second (0: a tenth of the links), listen(2)'s backlog, and RLIMIT_NOFILE (0: two
  // for each link).
  std::uint32_t accept_rate = 0;
  int backlog = 4096;
  std::size_t descriptors = 0;
  // How many wait to be taken in; whoever comes then is hung up on at once. 0: no bound but descriptors.
  std::size_t queue = 0;
  // How long a connected client waits for its greeting: LinkOptions::login_timeout.
  Duration patience = std::chrono::seconds(5);
  std::uint32_t links_per_host = 2000;
  BackendKind backend = BackendKind::kEpoll;
  std::uint64_t seed = 1;
};

// With the values that stand for 0 above.
[[nodiscard]] HerdOptions WithDefaults(HerdOptions options);

class Herd {
 public:
  explicit Herd(const HerdOptions& options);
  Herd(const Herd&) = delete;
  Herd& operator=(const Herd&) = delete;
  ~Herd();

  // All links up, and their heartbeats out of step, as in a fleet that was never disturbed. False when they
  // do not get there: no server that is lost can be missed.
  [[nodiscard]] bool Gather();
  // The server is lost, for as long as the outage takes.
  void Lose();
  // It is back. True when all links are up again within `limit`.
  bool Return(Duration limit);
  // `look` is called after each grain of Lose and Return, between two turns of the world, and changes
  // nothing in it.
  void Watch(std::function<void()> look) { look_ = std::move(look); }
  // Of those taken in, how many had hung up. Comes last, for time goes on, and nobody is taken in any more:
  // a greeting that is still on its way finds its client, or nobody.
  [[nodiscard]] std::uint64_t CountInVain();

  [[nodiscard]] const Tally& tally() const noexcept { return *tally_; }
  [[nodiscard]] Duration since_loss() const noexcept { return world_.Now() - lost_at_; }
  // Clients that the server took in since it is back: those that hung up before their turn as well.
  [[nodiscard]] std::uint64_t taken_in() const noexcept { return taken_in_; }
  // Attempts that failed for want of something on the clients' hosts, of ports above all: an artefact of
  // links that share a host. 0 in an honest run.
  [[nodiscard]] std::uint64_t starved() const noexcept { return starved_; }
  [[nodiscard]] const SimWorld& world() const noexcept { return world_; }

 private:
  struct Clients;
  class Server;

  enum class Stage : std::uint8_t {
    kNone,     // Down, and the last dial has been counted; or not yet heard of the loss.
    kDialing,  // Its dial ends in a greeting or in a failure.
    kUp,       // Greeted.
  };
  struct Member {
    Duration dialed{0};  // Since the loss.
    Stage stage = Stage::kNone;
  };

  void AddClients(std::uint32_t first, std::uint32_t count, std::uint32_t number);
  void OnDial(Member& member);
  // False when it was greeted before.
  bool OnGreeting(Member& member);
  void OnDown(Member& member, const Error& error);

  HerdOptions options_;
  Duration gathering_{0};  // How long the first dials are spread over.
  std::vector<Member> members_;
  std::function<void()> look_ = [] {};
  bool resting_ = false;  // The server is: it takes in nobody.
  std::uint64_t taken_in_ = 0;
  std::uint64_t starved_ = 0;
  std::uint32_t gathered_ = 0;
  Instant lost_at_{};
  std::optional<Tally> tally_;  // From the loss on.
  SimWorld world_;              // Ends first: its programs know the rest.
  SimHost* server_ = nullptr;
};

}  // namespace holdfast::herd

#endif  // HOLDFAST_TOOLS_HERD_HERD_H_
