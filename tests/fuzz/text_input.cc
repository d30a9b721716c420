#include "fuzz/text_input.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <holdfast/endpoint.h>
#include "echo/chaos.h"
#include "echo/flag_help.h"

namespace holdfast::fuzz {
namespace {

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

std::string CheckLiteral(std::string_view text, const Endpoint& endpoint) {
  const SocketAddress& address = *endpoint.literal();
  if (!endpoint.host().empty()) return "a literal that has a name to look up";
  const bool local = address.family() == AF_UNIX;
  if (address.port() != endpoint.port()) return "another port than its address";
  // A path is what the file system takes; all else is what people and resolvers read.
  if (!local && !IsPrintable(text)) return "an address with a byte in it that nobody sees";
  const auto again = Endpoint::Parse(address.ToString());
  if (!again.ok()) return "its own text is refused: " + again.status().ToString();
  if (!again->literal().has_value() || !(*again->literal() == address)) {
    return "its own text is another address: " + address.ToString();
  }
  return "";
}

std::string CheckName(std::string_view text, const Endpoint& endpoint) {
  const std::string& host = endpoint.host();
  if (host.empty() || host.size() > 253 + 1) return "a name of no length, or of more than 253";
  if (!IsPrintable(text)) return "a name with a byte in it that nobody sees";
  const auto again = Endpoint::Parse(host + ":" + std::to_string(endpoint.port()));
  if (!again.ok()) return "its own text is refused: " + again.status().ToString();
  if (again->literal().has_value()) return "its own text is an address";
  return again->host() == host && again->port() == endpoint.port() ? "" : "another name or port";
}

template <typename Value>
std::string CheckFlag(std::string_view text) {
  Value value{};
  std::string error;
  const absl::string_view given(text.data(), text.size());
  if (!AbslParseFlag(given, &value, &error)) return error.empty() ? "refused without a word" : "";
  if (!error.empty()) return "taken, and an error: " + error;
  Value again{};
  const std::string own = AbslUnparseFlag(value);
  if (!AbslParseFlag(own, &again, &error)) return "its own text is refused: " + own;
  return own == text && again == value ? "" : "another value: " + own;
}

std::string CheckGiven(std::string_view text) {
  std::vector<std::string> lines = {"program"};
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    // As the kernel gives them to main(): each ends at its first NUL.
    lines.emplace_back(std::string(text.substr(0, end)).c_str());
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  const auto given = [&lines](std::string_view flag) {
    std::vector<char*> arguments;
    for (std::string& line : lines) arguments.push_back(line.data());
    return echo::Given(arguments, flag);
  };
  const bool before = given("json");
  lines.emplace_back("--json");
  const bool ended = std::find(lines.begin() + 1, lines.end(), "--") != lines.end();
  if (!ended && !given("json")) return "a flag at the end is not seen";
  if (before && !given("json")) return "a flag is not seen because of what stands behind it";
  lines.insert(lines.begin() + 1, "--");
  return given("json") ? "a flag is seen behind --" : "";
}

}  // namespace

std::string CheckEndpoint(std::string_view text) {
  Error failure;
  const auto endpoint = Endpoint::Parse(text, &failure);
  if (!endpoint.ok()) {
    if (endpoint.status().code() != absl::StatusCode::kInvalidArgument) return "another status";
    if (!failure.failed()) return "refused without a class";
    return endpoint.status().message().empty() ? "refused without a word" : "";
  }
  if (endpoint->text() != text) return "not as it was written";
  return endpoint->literal().has_value() ? CheckLiteral(text, *endpoint)
                                         : CheckName(text, *endpoint);
}

std::string CheckChaos(std::string_view text) {
  const auto phases = echo::ParseChaos(text);
  if (!phases.ok()) return phases.status().message().empty() ? "refused without a word" : "";
  if (phases->empty()) return "no phase at all";
  std::string own;
  for (std::size_t i = 0; i < phases->size(); ++i) {
    const echo::ChaosPhase& phase = (*phases)[i];
    if (ToString(phase.mode).empty()) return "a mode without a name";
    if (!phase.lasts && i + 1 < phases->size()) return "a phase without end, and one behind it";
    if (phase.lasts && *phase.lasts < std::chrono::milliseconds(1)) return "a phase of no length";
    own += (i > 0 ? "," : "") + std::string(ToString(phase.mode));
    if (phase.lasts) own += ":" + std::to_string(phase.lasts->count()) + "ns";
  }
  const auto again = echo::ParseChaos(own);
  if (!again.ok()) return "its own text is refused: " + own;
  const bool same = std::equal(
      phases->begin(), phases->end(), again->begin(), again->end(),
      [](const auto& a, const auto& b) { return a.mode == b.mode && a.lasts == b.lasts; });
  return same ? "" : "its own text is another schedule: " + own;
}

std::string CheckFlags(std::string_view text) {
  if (text.empty()) return "";
  const char which = text.front();
  text.remove_prefix(1);
  switch (which) {
    case 'b':
      return CheckFlag<BackendKind>(text);
    case 'j':
      return CheckFlag<Jitter>(text);
    case 'l':
      return CheckFlag<OnLoss>(text);
    default:
      return CheckGiven(text);
  }
}

}  // namespace holdfast::fuzz
