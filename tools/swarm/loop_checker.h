// Holds the process of one host to its promises as a process: it does not spin, it does not mistake its own
// calls, and it gives back what it took.
//
//   spin     waits that come back for nothing: at most 10 a second for each connection, which polls that often
//            for what gives no event, and a few for each callback to its user
//   backend  io_uring wherever the kernel has it and nobody asked for epoll
//   bugs     no error of class invalid, ever
//   at ease  with every link gone: no socket is left but those of listeners and of streams whose peer
//            vanished without a word, no block but theirs, and no descriptors but a reactor's own
#ifndef HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_
#define HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <holdfast/sim.h>
#include "absl/functional/any_invocable.h"

namespace holdfast::swarm {

class LoopChecker {
 public:
  using Report = absl::AnyInvocable<void(const std::string& violation)>;

  // `connections`: how many it has at most. `host` outlives it.
  LoopChecker(SimHost& host, std::size_t connections, Report report)
      : host_(host),
        connections_(std::max<std::size_t>(connections, 1)),
        report_(std::move(report)) {}

  // A new process begins.
  void OnStart(Instant now);
  [[nodiscard]] std::uint32_t life() const { return life_; }  // Its processes so far.
  // Its loop is to end, and comes back with a new process.
  void OnStop() { stopped_ = true; }
  [[nodiscard]] bool stopped() const { return stopped_; }
  // The reactor called its user back.
  void OnCallback() { ++callbacks_; }
  // From time to time: spin and bugs.
  void Check(Instant now);
  // At the end, when the programs have destroyed their links.
  void CheckAtEase();

 private:
  void Fail(const std::string& what) { report_(host_.name() + ": " + what); }
  [[nodiscard]] std::uint64_t reasons() const;

  SimHost& host_;
  const std::size_t connections_;
  Report report_;
  std::uint32_t life_ = 0;
  bool stopped_ = false;
  std::uint64_t callbacks_ = 0;
  Instant looked_{};
  std::uint64_t in_vain_ = 0;  // As they stood then.
  std::uint64_t reasons_ = 0;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_
