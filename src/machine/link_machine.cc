#include "machine/link_machine.h"

namespace holdfast {
namespace {

template <std::size_t N>
constexpr std::string_view NameOf(const std::string_view (&names)[N], std::size_t index) noexcept {
  return index < N ? names[index] : "?";
}

constexpr std::string_view kStates[] = {"idle",    "resolving", "connecting", "up",
                                        "failing", "backoff",   "draining",   "closed"};
static_assert(std::size(kStates) == kLinkStateCount);
constexpr std::string_view kReasons[] = {"user",      "stop",     "attempts", "time",
                                         "permanent", "protocol", "decided"};
constexpr std::string_view kVerdicts[] = {"by_class", "retry_now", "back_off", "stop"};
constexpr std::string_view kFates[] = {"acked", "in_doubt", "unsent"};
constexpr std::string_view kEvents[] = {"start",    "retry_now", "close",   "drop",    "healthy",
                                        "resolved", "connected", "failed",  "settled", "retry",
                                        "give_up",  "retry_due", "survived"};
static_assert(std::size(kEvents) == internal::kLinkEventCount);
constexpr std::string_view kActions[] = {
    "nothing", "dial",   "open_session", "establish",    "count_healthy", "settle",
    "judge",   "report", "report_end",   "abandon_dial", "drain",         "finish"};
static_assert(std::size(kActions) == internal::kLinkActionCount);

}  // namespace

std::string_view ToString(LinkState state) noexcept {
  return NameOf(kStates, static_cast<std::size_t>(state));
}
std::string_view ToString(ClosedReason reason) noexcept {
  return NameOf(kReasons, static_cast<std::size_t>(reason));
}
std::string_view ToString(Verdict verdict) noexcept {
  return NameOf(kVerdicts, static_cast<std::size_t>(verdict));
}
std::string_view ToString(Fate fate) noexcept {
  return NameOf(kFates, static_cast<std::size_t>(fate));
}

namespace internal {

std::string_view ToString(LinkEvent event) noexcept {
  return NameOf(kEvents, static_cast<std::size_t>(event));
}
std::string_view ToString(LinkAction action) noexcept {
  return NameOf(kActions, static_cast<std::size_t>(action));
}

}  // namespace internal
}  // namespace holdfast
