// Lines to a descriptor, out at once: whoever reads the event log through a pipe sees each line as it
// happens, and one that was written survives a SIGKILL. On a terminal, one live line below them.
#ifndef HOLDFAST_TOOLS_ECHO_OUTPUT_H_
#define HOLDFAST_TOOLS_ECHO_OUTPUT_H_

#include <string>
#include <string_view>

namespace holdfast::echo {

class Output {
 public:
  // Does not own `fd`. -1: everything is dropped.
  explicit Output(int fd) : fd_(fd) {}

  [[nodiscard]] bool terminal() const;
  // Writes all of it; blocks when the reader is slow. After the first failure (the reader is gone)
  // broken() is true and nothing is tried again.
  void Write(std::string_view text);
  // Replaces the live line, or with "" removes it. Only the part that fits on the terminal's line.
  void Live(std::string_view text);
  // Whole lines above the live line, which is drawn again below them.
  void Lines(std::string_view lines);
  [[nodiscard]] bool broken() const { return broken_; }

 private:
  int fd_;
  bool broken_ = false;  // True from the first failed write on.
  std::string live_;     // What stands on the terminal's last line.
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_OUTPUT_H_
