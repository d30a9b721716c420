// Standard input, cut into lines without ever blocking the loop.
//
// A pipe or a terminal is watched; a regular file cannot be (epoll_ctl(2), EPERM), and is always ready
// in return, so it is read a slice a turn. The descriptor's flags are left alone: O_NONBLOCK on a
// terminal would be shared with the shell. Nothing is read that is not wanted: what nobody can take
// stays in the pipe, and holds back whoever fills it.
#ifndef HOLDFAST_TOOLS_ECHO_LINE_SOURCE_H_
#define HOLDFAST_TOOLS_ECHO_LINE_SOURCE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include <holdfast/reactor.h>
#include "absl/functional/any_invocable.h"

namespace holdfast::echo {

class LineSource {
 public:
  // Does not own `fd`. `on_more` runs when Front() may have become more, or ended() true. The reactor
  // outlives the source; the source outlives the reactor's last turn.
  LineSource(Reactor& reactor, int fd, absl::AnyInvocable<void()> on_more);

  // Whether to read on; at first not. Idempotent.
  void Want(bool wanted);
  // The next line with its newline; without one when it is the end of the input, or a piece of a line
  // longer than kLineBytesMax. "": none yet. Good until Pop or the next turn.
  [[nodiscard]] std::string_view Front() const;
  void Pop();
  // The input has ended and every line was popped.
  [[nodiscard]] bool ended() const { return at_end_ && Front().empty(); }

  static constexpr std::size_t kLineBytesMax = 64 << 10;

 private:
  static constexpr std::size_t kBufferBytesMax = 256 << 10;

  void Read();
  void ReadOn();

  Reactor& reactor_;
  int fd_;
  absl::AnyInvocable<void()> on_more_;
  std::unique_ptr<Watcher> watcher_;
  bool wanted_ = false;
  bool posted_ = false;  // True exactly while a slice is to be read by a post.
  bool at_end_ = false;  // read(2) said 0, or failed.
  std::string buffer_;
  std::size_t begin_ = 0;  // Of what was not popped.
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_LINE_SOURCE_H_
