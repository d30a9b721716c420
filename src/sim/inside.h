// What lies behind the public world, for checkers of the library itself: they draw faults of every kind,
// and know what really happened on the network.
#ifndef HOLDFAST_SIM_INSIDE_H_
#define HOLDFAST_SIM_INSIDE_H_

#include <holdfast/sim.h>

#include "sim/sim_kernel.h"

namespace holdfast::internal::sim {

struct Inside {
  [[nodiscard]] static World& Of(SimWorld& world) noexcept;
  [[nodiscard]] static Host& Of(SimHost& host) noexcept;
  // Requires: running().
  [[nodiscard]] static SimKernel& KernelOf(SimHost& host) noexcept;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_INSIDE_H_
