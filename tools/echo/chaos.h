// What a server does to its clients, and when: "up:2s,refuse:3s,reset:1s", round and round.
#ifndef HOLDFAST_TOOLS_ECHO_CHAOS_H_
#define HOLDFAST_TOOLS_ECHO_CHAOS_H_

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include <holdfast/time.h>
#include "absl/status/statusor.h"

namespace holdfast::echo {

enum class ChaosMode {
  kUp,      // Accepts and echoes.
  kRefuse,  // Nobody listens.
  kEof,     // Accepts, and closes in good order.
  kReset,   // Accepts, and resets.
  kStall,   // Accepts, and neither reads nor answers.
};
// "up", "refuse", "eof", "reset", "stall".
[[nodiscard]] std::string_view ToString(ChaosMode mode);

struct ChaosPhase {
  ChaosMode mode = ChaosMode::kUp;
  std::optional<Duration> lasts;  // nullopt: for good.
};

// MODE[:DURATION],...; "" is "up". Only the last phase may go without a duration, and then the schedule
// stays there; else it starts anew. InvalidArgument names the part that is wrong.
[[nodiscard]] absl::StatusOr<std::vector<ChaosPhase>> ParseChaos(std::string_view text);

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_CHAOS_H_
