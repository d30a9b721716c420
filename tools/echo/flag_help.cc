#include "echo/flag_help.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <holdfast/version.h>
#include "absl/flags/commandlineflag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "base/check.h"

namespace holdfast {
namespace {

template <typename T>
using Names = std::span<const std::pair<std::string_view, T>>;

constexpr std::array<std::pair<std::string_view, BackendKind>, 3> kBackends{
    {{"auto", BackendKind::kAuto}, {"uring", BackendKind::kUring}, {"epoll", BackendKind::kEpoll}}};
constexpr std::array<std::pair<std::string_view, Jitter>, 3> kJitters{
    {{"full", Jitter::kFull}, {"equal", Jitter::kEqual}, {"none", Jitter::kNone}}};
constexpr std::array<std::pair<std::string_view, OnLoss>, 3> kOnLosses{
    {{"hand_back", OnLoss::kHandBack},
     {"replay_unsent", OnLoss::kReplayUnsent},
     {"replay_unacked", OnLoss::kReplayUnacked}}};

template <typename T>
bool Parse(Names<T> names, absl::string_view text, T* value, std::string* error) {
  for (const auto& [name, named] : names) {
    if (name == std::string_view(text.data(), text.size())) {
      *value = named;
      return true;
    }
  }
  *error = "it is one of:";
  for (const auto& [name, named] : names) error->append(" ").append(name);
  return false;
}

template <typename T>
std::string Unparse(Names<T> names, T value) {
  for (const auto& [name, named] : names) {
    if (named == value) return std::string(name);
  }
  return {};
}

}  // namespace

bool AbslParseFlag(absl::string_view text, BackendKind* kind, std::string* error) {
  return Parse<BackendKind>(kBackends, text, kind, error);
}
std::string AbslUnparseFlag(BackendKind kind) { return Unparse<BackendKind>(kBackends, kind); }

bool AbslParseFlag(absl::string_view text, Jitter* jitter, std::string* error) {
  return Parse<Jitter>(kJitters, text, jitter, error);
}
std::string AbslUnparseFlag(Jitter jitter) { return Unparse<Jitter>(kJitters, jitter); }

bool AbslParseFlag(absl::string_view text, OnLoss* on_loss, std::string* error) {
  return Parse<OnLoss>(kOnLosses, text, on_loss, error);
}
std::string AbslUnparseFlag(OnLoss on_loss) { return Unparse<OnLoss>(kOnLosses, on_loss); }

namespace echo {
namespace {

constexpr std::size_t kFlagColumns = 27;
constexpr std::size_t kLineColumns = 100;

// "  --rate=1                  what it is", wrapped below itself.
void AppendFlag(std::string_view name, std::string& out) {
  const absl::CommandLineFlag* flag =
      absl::FindCommandLineFlag(absl::string_view(name.data(), name.size()));
  HOLDFAST_CHECK(flag != nullptr);
  std::string line = "  --" + std::string(name);
  if (!flag->IsOfType<bool>()) line.append("=").append(flag->DefaultValue());
  const std::string text = flag->Help();
  std::string_view rest = text;
  while (!rest.empty()) {
    line.resize(std::max(line.size() + 1, kFlagColumns), ' ');
    std::size_t fits = rest.size();
    if (line.size() + rest.size() > kLineColumns) {
      fits = rest.rfind(' ', kLineColumns - line.size());
      if (fits == std::string_view::npos) fits = rest.size();
    }
    out.append(line).append(rest.substr(0, fits)).append("\n");
    line.clear();
    rest.remove_prefix(std::min(fits + 1, rest.size()));
  }
}

std::string_view FlagName(std::string_view argument) {
  if (!argument.starts_with('-')) return {};
  argument.remove_prefix(argument.starts_with("--") ? 2 : 1);
  return argument.substr(0, argument.find('='));
}

}  // namespace

std::string HelpText(const ProgramHelp& help) {
  std::string out(help.head);
  for (const FlagGroup& group : help.groups) {
    out.append("\n").append(group.title).append("\n");
    for (const std::string_view flag : group.flags) AppendFlag(flag, out);
  }
  return out.append("\n").append(help.tail);
}

bool Given(std::span<char* const> arguments, std::string_view flag) {
  for (const std::string_view argument :
       arguments.subspan(std::min<std::size_t>(1, arguments.size()))) {
    if (argument == "--") return false;
    if (FlagName(argument) == flag) return true;
  }
  return false;
}

std::vector<std::string> ParseCommandLine(int argc, char** argv, const ProgramHelp& help) {
  const std::span<char* const> arguments(argv, static_cast<std::size_t>(argc));
  if (Given(arguments, "help") || Given(arguments, "h")) {
    std::fputs(HelpText(help).c_str(), stdout);
    std::exit(std::fflush(stdout) == 0 ? 0 : 1);
  }
  absl::SetProgramUsageMessage(absl::string_view(help.head.data(), help.head.size()));
  absl::FlagsUsageConfig config;
  config.version_string = [name = std::string(help.name)] {
    return name + " " HOLDFAST_VERSION "\n";
  };
  absl::SetFlagsUsageConfig(config);
  const std::vector<char*> left = absl::ParseCommandLine(argc, argv);
  return {left.begin() + 1, left.end()};
}

void BadUsage(const ProgramHelp& help, std::string_view problem) {
  const std::string name(help.name);
  std::fprintf(stderr, "%s: %.*s\nTry '%s --help'.\n", name.c_str(),
               static_cast<int>(problem.size()), problem.data(), name.c_str());
  std::exit(1);
}

}  // namespace echo
}  // namespace holdfast
