// Holds the process of one host to its promises as a process: it does not spin, it does not mistake its own
// calls, and it gives back what it took.
//
//   spin     waits that come back for nothing, not even a timer or a post: at most 10 a second, and one for
//            each fault that struck and each time that the world was interfered with
//   backend  io_uring wherever the kernel has it and nobody asked for epoll
//   at ease  with every link closed: no socket is left but those of listeners and of streams whose peer
//            vanished without a word, no block but theirs, and no descriptors but a reactor's own
#ifndef HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_
#define HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_

#include <cstdint>
#include <string>

#include <holdfast/sim.h>
#include "absl/functional/any_invocable.h"

namespace holdfast::swarm {

class LoopChecker {
 public:
  using Report = absl::AnyInvocable<void(const std::string& violation)>;

  // `host` outlives it.
  LoopChecker(SimHost& host, Report report) : host_(host), report_(std::move(report)) {}

  // A new process begins.
  void OnStart(Instant now);
  // From time to time: since the last time the world was run once and `faults` struck, of any kind.
  void CheckSpin(Instant now, std::uint64_t faults);
  // At the end.
  void CheckAtEase();

 private:
  void Fail(const std::string& what) { report_(host_.name() + ": " + what); }

  SimHost& host_;
  Report report_;
  Instant looked_{};
  std::uint64_t in_vain_ =
      0;  // As they stood then: waits in vain, and what may have made them useful.
  std::uint64_t useful_ = 0;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LOOP_CHECKER_H_
