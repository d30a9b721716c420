// Prints a table of the sources as the generated part of a page in docs/: what is written between
// "<!-- generated: make docs -->" and "<!-- end generated -->" there, exactly. `make docs` calls
// it, `make check` compares. The tables are the arrays that the library is compiled from, so that a
// page cannot say anything else than the code does.
//
//   print_tables            what there is: a line `table page` for each, as tools/check/tables.py reads it
//   print_tables errors     for docs/errors.md, from src/core/error_table.h
//   print_tables link       for docs/link.md, from src/machine/link_machine.h
//
// A further table is one function and one line of kCommands. Exit status: 0 when everything was
// written, 1 when stdout failed, 2 for bad usage.
#include <holdfast/error.h>
#include <holdfast/link_state.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "core/error_table.h"
#include "machine/link_machine.h"

namespace {

using holdfast::Action;
using holdfast::Error;
using holdfast::ErrorClass;
using holdfast::Operation;

void Print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

template <typename... Cells>
void PrintCells(const Cells&... cells) {
  Print("|");
  ((Print(" "), Print(cells), Print(" |")), ...);
  Print("\n");
}

std::string Code(std::string_view text) {
  return text.empty() ? std::string() : "`" + std::string(text) + "`";
}

void PrintClasses() {
  PrintCells("class", "`ToStatus()`");
  PrintCells("---", "---");
  for (int i = 0; i <= static_cast<int>(ErrorClass::kUnknown); ++i) {
    const auto error_class = static_cast<ErrorClass>(i);
    const Error error{Operation::kNone, error_class, Action::kNone, 0};
    PrintCells(Code(ToString(error_class)),
               Code(absl::StatusCodeToString(error.ToStatus().code())));
  }
}

void PrintRows() {
  PrintCells("call", "errno", "detail", "meaning", "class", "action");
  PrintCells("---", "---", "---", "---", "---", "---");
  for (const holdfast::internal::Entry& entry : holdfast::internal::kErrorTable) {
    PrintCells(Code(ToString(entry.row.call)), Code(CodeText(entry.row)),
               Code(ToString(entry.row.detail)), entry.meaning, Code(ToString(entry.error_class)),
               Code(ToString(entry.action)));
  }
}

void PrintRemarks() {
  PrintCells("call", "fact", "meaning", "class", "action");
  PrintCells("---", "---", "---", "---", "---");
  for (const holdfast::internal::Remark& remark : holdfast::internal::kErrorRemarks) {
    PrintCells(Code(remark.call), remark.fact, remark.meaning, Code(ToString(remark.error_class)),
               Code(ToString(remark.action)));
  }
}

void PrintErrors() {
  Print("\n## The classes as a status\n\n");
  PrintClasses();
  Print("\n## The table\n\n");
  Print(std::to_string(holdfast::internal::kErrorTable.size()) + " rows, " +
        std::to_string(holdfast::internal::kCallCount) + " calls.\n\n");
  PrintRows();
  Print("\n## What is known but has no number\n\n");
  PrintRemarks();
  Print("\n");
}

// The rows of the link table, and below it the pairs that cannot happen, so that the page is total.
void PrintLink() {
  using holdfast::LinkState;
  using holdfast::internal::LinkAction;
  using holdfast::internal::LinkEvent;
  PrintCells("in state", "on event", "go to", "do");
  PrintCells("---", "---", "---", "---");
  for (const holdfast::internal::LinkRow& row : holdfast::internal::kLinkTable) {
    PrintCells(ToString(row.state), ToString(row.event),
               row.to == row.state ? "" : ToString(row.to),
               row.action == LinkAction::kNothing ? "" : ToString(row.action));
  }
  Print("\nImpossible, and an abort if it ever happened:\n\n");
  for (int state = 0; state < holdfast::kLinkStateCount; ++state) {
    std::string events;
    for (int event = 0; event < holdfast::internal::kLinkEventCount; ++event) {
      const auto pair_event = static_cast<LinkEvent>(event);
      if (FindLinkRow(static_cast<LinkState>(state), pair_event) != nullptr) continue;
      events += events.empty() ? ": " : ", ";
      events += ToString(pair_event);
    }
    Print("- ");
    Print(ToString(static_cast<LinkState>(state)));
    Print(events + "\n");
  }
}

struct Command {
  std::string_view name;
  std::string_view page;
  void (*print)();
};

constexpr Command kCommands[] = {
    {"errors", "docs/errors.md", PrintErrors},
    {"link", "docs/link.md", PrintLink},
};

void PrintCommands() {
  for (const Command& command : kCommands) {
    Print(std::string(command.name) + " " + std::string(command.page) + "\n");
  }
}

// False when there is no such table.
bool PrintTable(std::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name != name) continue;
    command.print();
    return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 || (argc == 2 && !PrintTable(argv[1]))) {
    std::fputs("usage: print_tables [TABLE]\n", stderr);
    return 2;
  }
  if (argc == 1) PrintCommands();
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? 0 : 1;
}
