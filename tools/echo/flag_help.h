// What both programs share of their command line: how --help looks, and how a bad one ends.
//
// absl's own --help lists the flags by name only, ends with status 1, and cannot be given an order, so
// the text is written here; each flag's default comes from absl's registry and cannot be out of date.
#ifndef HOLDFAST_TOOLS_ECHO_FLAG_HELP_H_
#define HOLDFAST_TOOLS_ECHO_FLAG_HELP_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/backoff.h>
#include <holdfast/link.h>
#include <holdfast/reactor.h>
#include "absl/strings/string_view.h"

namespace holdfast {

// absl::flags finds these by the namespace of the type. "auto", "uring", "epoll".
bool AbslParseFlag(absl::string_view text, BackendKind* kind, std::string* error);
std::string AbslUnparseFlag(BackendKind kind);
// "full", "equal", "none".
bool AbslParseFlag(absl::string_view text, Jitter* jitter, std::string* error);
std::string AbslUnparseFlag(Jitter jitter);
// "hand_back"; the replaying ones are known, and not in this version.
bool AbslParseFlag(absl::string_view text, OnLoss* on_loss, std::string* error);
std::string AbslUnparseFlag(OnLoss on_loss);

namespace echo {

// A part of the help: a title and the flags below it, in this order.
struct FlagGroup {
  std::string_view title;
  std::vector<std::string_view> flags;
};

struct ProgramHelp {
  std::string_view name;
  std::string_view head;  // Synopsis and what it does.
  std::vector<FlagGroup> groups;
  std::string_view tail;  // Exit statuses, examples.
};

// The text of --help. Requires: every flag named is defined.
std::string HelpText(const ProgramHelp& help);
// Parses the command line and returns the arguments that are no flags. --help (-h, -help) prints the
// help and exits 0; what absl does not understand exits 1.
std::vector<std::string> ParseCommandLine(int argc, char** argv, const ProgramHelp& help);
// "NAME: PROBLEM", a hint at --help, and exit 1.
[[noreturn]] void BadUsage(const ProgramHelp& help, std::string_view problem);
// Whether the flag stands on the command line, in whatever spelling.
bool Given(std::span<char* const> arguments, std::string_view flag);

}  // namespace echo
}  // namespace holdfast

#endif  // HOLDFAST_TOOLS_ECHO_FLAG_HELP_H_
