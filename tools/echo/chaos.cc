#include "echo/chaos.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace holdfast::echo {
namespace {

constexpr std::array<std::pair<std::string_view, ChaosMode>, 5> kModes{
    {{"up", ChaosMode::kUp},
     {"refuse", ChaosMode::kRefuse},
     {"eof", ChaosMode::kEof},
     {"reset", ChaosMode::kReset},
     {"stall", ChaosMode::kStall}}};
// Shorter phases would be over before a client could see them.
constexpr Duration kPhaseMin = std::chrono::milliseconds(1);

absl::Status Wrong(std::string_view part, std::string_view why) {
  return absl::InvalidArgumentError("'" + std::string(part) + "': " + std::string(why));
}

absl::StatusOr<ChaosPhase> ParsePhase(std::string_view part) {
  const std::size_t colon = part.find(':');
  const auto* const found = std::find_if(kModes.begin(), kModes.end(), [&](const auto& mode) {
    return mode.first == part.substr(0, colon);
  });
  if (found == kModes.end()) return Wrong(part, "the modes are up, refuse, eof, reset, stall");
  ChaosPhase phase{.mode = found->second, .lasts = std::nullopt};
  if (colon == std::string_view::npos) return phase;
  absl::Duration lasts;
  if (!absl::ParseDuration(std::string(part.substr(colon + 1)), &lasts)) {
    return Wrong(part, "a duration is written 100ms or 2s");
  }
  phase.lasts = absl::ToChronoNanoseconds(lasts);
  if (*phase.lasts < kPhaseMin) return Wrong(part, "a phase lasts 1ms at least");
  return phase;
}

}  // namespace

std::string_view ToString(ChaosMode mode) {
  for (const auto& [name, named] : kModes) {
    if (named == mode) return name;
  }
  return {};
}

absl::StatusOr<std::vector<ChaosPhase>> ParseChaos(std::string_view text) {
  if (text.empty()) text = "up";
  std::vector<ChaosPhase> phases;
  for (;;) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    const auto phase = ParsePhase(part);
    if (!phase.ok()) return phase.status();
    phases.push_back(*phase);
    if (comma == std::string_view::npos) return phases;
    if (!phase->lasts) return Wrong(part, "only the last phase may go without a duration");
    text.remove_prefix(comma + 1);
  }
}

}  // namespace holdfast::echo
