#include "herd/policy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <utility>

namespace holdfast::herd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

bool IsWord(std::string_view text) {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  return !text.empty() && text.find_first_not_of(kLetters) == std::string_view::npos;
}

// Up to and without `end`, which goes as well; all of it where there is none.
std::string_view TakeUntil(std::string_view* text, char end) {
  const std::size_t at = std::min(text->find(end), text->size());
  const std::string_view part = text->substr(0, at);
  text->remove_prefix(std::min(at + 1, text->size()));
  return part;
}

std::optional<std::uint64_t> ParseNumber(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "1.5", in thousandths.
std::optional<std::uint64_t> ParseThousandths(std::string_view text) {
  std::string digits(TakeUntil(&text, '.'));
  if (digits.size() > 6 || text.size() > 3) return std::nullopt;
  digits.append(text).append(3 - text.size(), '0');
  return ParseNumber(digits);
}

std::optional<Jitter> ParseJitter(std::string_view text) {
  if (text == "full") return Jitter::kFull;
  if (text == "equal") return Jitter::kEqual;
  if (text == "none") return Jitter::kNone;
  return std::nullopt;
}

bool Set(std::string_view name, std::string_view value, BackoffOptions* backoff) {
  if (name == "jitter") {
    const std::optional<Jitter> jitter = ParseJitter(value);
    if (jitter.has_value()) backoff->jitter = *jitter;
    return jitter.has_value();
  }
  if (name == "multiplier") {
    const std::optional<std::uint64_t> thousandths = ParseThousandths(value);
    if (!thousandths.has_value()) return false;
    backoff->multiplier = static_cast<double>(*thousandths) / 1000;
    return *thousandths >= 1000 && *thousandths <= 1'024'000;
  }
  const std::optional<Duration> duration = ParseDuration(value);
  if (!duration.has_value()) return false;
  if (name == "initial") {
    backoff->initial = *duration;
  } else if (name == "max") {
    backoff->max = *duration;
  } else {
    return false;
  }
  return true;
}

}  // namespace

std::span<const Policy> NamedPolicies() {
  static const std::array<Policy, 7> kPolicies = {{
      {"none",
       {.initial = milliseconds(100),
        .multiplier = 1.0,
        .max = milliseconds(100),
        .jitter = Jitter::kNone},
       "100 ms, always: the naive loop"},
      {"exponential", {.jitter = Jitter::kNone}, "100 ms times 1.5 up to 10 s, no jitter"},
      {"equal", {.jitter = Jitter::kEqual}, "the same, the upper half of it drawn"},
      {"ours", {}, "the default: between 100 ms and the exponential value"},
      {"cap5", {.max = seconds(5)}, "ours, cap 5 s"},
      {"cap60", {.max = seconds(60)}, "ours, cap 60 s"},
      {"wide",
       {.initial = seconds(5), .multiplier = 2.0, .max = seconds(60)},
       "ours, from 5 s up to 60 s"},
  }};
  return kPolicies;
}

std::optional<Policy> ParsePolicy(std::string_view text) {
  const std::string_view name = TakeUntil(&text, ':');
  if (text.empty()) {
    for (const Policy& policy : NamedPolicies()) {
      if (policy.name == name) return policy;
    }
    return std::nullopt;
  }
  Policy policy{std::string(name), {}, std::string(text)};
  while (!text.empty()) {
    std::string_view value = TakeUntil(&text, ',');
    const std::string_view key = TakeUntil(&value, '=');
    if (!Set(key, value, &policy.backoff)) return std::nullopt;
  }
  if (!IsWord(name) || policy.backoff.max < policy.backoff.initial) return std::nullopt;
  return policy;
}

std::optional<Duration> ParseDuration(std::string_view text) {
  constexpr std::pair<std::string_view, Duration> kUnits[] = {{"ms", milliseconds(1)},
                                                              {"min", std::chrono::minutes(1)},
                                                              {"s", seconds(1)},
                                                              {"h", std::chrono::hours(1)}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::optional<std::uint64_t> count = ParseNumber(text.substr(0, digits));
  for (const auto& [name, unit] : kUnits) {
    if (text.substr(digits) != name || !count.has_value() || *count == 0) continue;
    if (*count > static_cast<std::uint64_t>(Duration::max() / unit)) return std::nullopt;
    return unit * static_cast<Duration::rep>(*count);
  }
  return std::nullopt;
}

std::string ToText(Duration duration) {
  const std::int64_t ms = duration / milliseconds(1);
  if (ms < 1000) return std::to_string(ms) + " ms";
  const std::string tenths = ms % 1000 < 100 ? "" : "." + std::to_string(ms % 1000 / 100);
  return std::to_string(ms / 1000) + tenths + " s";
}

std::string ToSeconds(Duration duration) {
  const std::int64_t ms = duration / milliseconds(1);
  std::string decimals = std::to_string(1000 + ms % 1000);
  decimals.front() = '.';
  decimals.erase(decimals.find_last_not_of("0") + 1);
  return std::to_string(ms / 1000) + (decimals == "." ? "" : decimals);
}

}  // namespace holdfast::herd
