// SIGINT and SIGTERM as an event of the loop, by signalfd(2): no handler, no race with a turn.
//
//   const Signals signals;                     // first thing in main: threads inherit the mask
//   auto watch = signals.Watch(*reactor, [&] { Finish(); });
#ifndef HOLDFAST_TOOLS_ECHO_SIGNALS_H_
#define HOLDFAST_TOOLS_ECHO_SIGNALS_H_

#include <memory>

#include <holdfast/reactor.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"

namespace holdfast::echo {

class Signals {
 public:
  // Blocks both for this thread and those that it starts, and ignores SIGPIPE: a reader of stdout
  // that went away is an error of write(2) here. Outlives every Watcher that it gave out.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Calls back once for every signal that comes, on the reactor's thread.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<Watcher>> Watch(
      Reactor& reactor, absl::AnyInvocable<void()> on_signal) const;

 private:
  int fd_;
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_SIGNALS_H_
