// One seed, one run: a scenario played by the shipped runtime over the simulated kernel, and checked.
#ifndef HOLDFAST_TOOLS_SWARM_RUN_H_
#define HOLDFAST_TOOLS_SWARM_RUN_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"
#include "sim/faults.h"

namespace holdfast::swarm {

struct RunResult {
  std::uint64_t hash = 0;
  std::uint64_t completions = 0;
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;   // Failed attempts as well.
  std::uint64_t cycles = 0;  // Sessions that came up and went down.
  std::uint64_t messages = 0;
  Duration virtual_time{0};
  std::array<std::uint64_t, internal::sim::kFaultKinds> hits{};
  std::vector<std::string> violations;  // At most some; empty: all promises were held.
};

// `tell` takes each line of the story, or is empty.
[[nodiscard]] RunResult RunSeed(std::uint64_t seed,
                                absl::AnyInvocable<void(std::string_view)> tell);

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_RUN_H_
