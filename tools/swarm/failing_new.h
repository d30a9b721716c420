// Makes `new (std::nothrow)` fail when the fault plan says so: what the runtime allocates while it runs.
#ifndef HOLDFAST_TOOLS_SWARM_FAILING_NEW_H_
#define HOLDFAST_TOOLS_SWARM_FAILING_NEW_H_

#include "sim/faults.h"

namespace holdfast::swarm {

// While one of these lives, `plan` is asked at each such allocation. One at a time.
class FailingNew {
 public:
  explicit FailingNew(internal::sim::FaultPlan& plan) noexcept;
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_FAILING_NEW_H_
