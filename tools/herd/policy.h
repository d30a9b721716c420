// How long the links of a herd wait before they dial again: the policies that are compared.
#ifndef HOLDFAST_TOOLS_HERD_POLICY_H_
#define HOLDFAST_TOOLS_HERD_POLICY_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <holdfast/backoff.h>
#include <holdfast/time.h>

namespace holdfast::herd {

struct Policy {
  std::string name;  // Of its files as well.
  BackoffOptions backoff;
  std::string meaning;
};

// Those that have a name, in the order in which they are shown.
[[nodiscard]] std::span<const Policy> NamedPolicies();

// A name, or "name:initial=500ms,multiplier=2,max=30s,jitter=full" (full, equal, none; what is left out
// is the default of BackoffOptions; a multiplier has three decimals at most). Nothing for anything else,
// for a name that is no word, and for values that Link::Create would refuse.
[[nodiscard]] std::optional<Policy> ParsePolicy(std::string_view text);

// "60s", "1500ms", "5min", "2h": a whole number and its unit, greater than zero.
[[nodiscard]] std::optional<Duration> ParseDuration(std::string_view text);
// "60 s", "1.5 s", "100 ms".
[[nodiscard]] std::string ToText(Duration duration);
// In seconds, to the millisecond: "120", "1.5", "0.05".
[[nodiscard]] std::string ToSeconds(Duration duration);

}  // namespace holdfast::herd

#endif  // HOLDFAST_TOOLS_HERD_POLICY_H_
