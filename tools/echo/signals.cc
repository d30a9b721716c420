#include "echo/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <utility>

namespace holdfast::echo {

Signals::Signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

Signals::~Signals() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<Watcher>> Signals::Watch(
    Reactor& reactor, absl::AnyInvocable<void()> on_signal) const {
  return reactor.Watch(fd_, kWatchReadable,
                       [fd = fd_, on_signal = std::move(on_signal)](unsigned) mutable {
                         signalfd_siginfo info;
                         if (read(fd, &info, sizeof info) == sizeof info) on_signal();
                       });
}

}  // namespace holdfast::echo
