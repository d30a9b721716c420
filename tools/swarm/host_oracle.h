// What is really so on one host of a simulated world, as checkers ask for it.
#ifndef HOLDFAST_TOOLS_SWARM_HOST_ORACLE_H_
#define HOLDFAST_TOOLS_SWARM_HOST_ORACLE_H_

#include <optional>

#include <holdfast/sim.h>
#include "sim/inside.h"
#include "sim/sim_kernel.h"
#include "swarm/link_checker.h"

namespace holdfast::swarm {

class HostOracle final : public Oracle {
 public:
  // Of the process that lives on `host`, while one does. The network keeps records; all outlive it.
  HostOracle(const internal::sim::World& world, SimHost& host) : world_(world), host_(host) {}

  [[nodiscard]] Duration Unexplained(Instant from, Instant until, Needs needs) const override {
    return internal::sim::Inside::KernelOf(host_).RunningTime(from, until, needs);
  }
  [[nodiscard]] Instant RunsFrom(Instant at) const override {
    return internal::sim::Inside::KernelOf(host_).RunsFrom(at);
  }
  [[nodiscard]] std::optional<Truth> Find(const SocketAddress& local,
                                          Instant opened_by) const override;
  [[nodiscard]] bool OddHandshakes() const override {
    return Struck(internal::sim::Fault::kSoftIcmpWhileOwned);
  }
  [[nodiscard]] bool ShortOfMemory() const override {
    return Struck(internal::sim::Fault::kNoMemory) ||
           Struck(internal::sim::Fault::kAllocationFailure);
  }
  [[nodiscard]] bool Corrupts() const override { return Struck(internal::sim::Fault::kCorruption); }

 private:
  [[nodiscard]] bool Struck(internal::sim::Fault fault) const {
    return world_.faults.hits(fault) > 0;
  }

  const internal::sim::World& world_;
  SimHost& host_;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_HOST_ORACLE_H_
