// One input, one run: a small world in which the bytes of the input decide everything that is left to chance
// and to the user (order_input.h), and then the promises of the library are held against what happened.
//
// The swarm (tools/swarm) draws its disturbances from a seed, and no seed is near another. Here what
// happened is the input itself: a fuzzer can keep what went somewhere new and change one thing in it. When the
// bytes are used up everything heals, and what holds in the swarm holds here, by the same checkers: the
// grammar of callbacks, waits, silence, the account against what the peer's kernel received, echoes in
// order; up again within the bound; closed after Close; and nothing left.
#ifndef HOLDFAST_TESTS_FUZZ_ORDER_WORLD_H_
#define HOLDFAST_TESTS_FUZZ_ORDER_WORLD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/reactor.h>
#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"
#include "fuzz/order_stage.h"

namespace holdfast::fuzz {

struct OrderOptions {
  // Of every process, whatever the input says.
  std::optional<BackendKind> backend = std::nullopt;
  // Takes each line of the story.
  absl::AnyInvocable<void(std::string_view)> tell = {};
  // kSightings bytes, or none.
  std::span<std::uint8_t> sightings = {};
};

struct OrderResult {
  std::uint64_t hash = 0;
  std::uint64_t completions = 0;
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;  // Failed attempts as well.
  std::uint64_t messages = 0;
  Duration virtual_time{0};
  std::array<std::uint64_t, internal::sim::kFaultKinds> hits{};
  std::vector<std::string> violations;  // At most some; empty: all promises were held.
};

// Any bytes are an input.
[[nodiscard]] OrderResult PlayOrder(std::span<const std::uint8_t> bytes, OrderOptions options = {});

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_ORDER_WORLD_H_
