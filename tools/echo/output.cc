#include "echo/output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace holdfast::echo {
namespace {

// To the line's start, and everything behind it erased (ECMA-48, EL).
constexpr std::string_view kErase = "\r\x1b[K";

}  // namespace

bool Output::terminal() const { return fd_ >= 0 && isatty(fd_) == 1; }

void Output::Write(std::string_view text) {
  if (fd_ < 0) return;
  while (!broken_ && !text.empty()) {
    const ssize_t written = write(fd_, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      broken_ = true;
    }
  }
}

void Output::Live(std::string_view text) {
  winsize size{};
  // One column stays free: a full line would wrap, and \r would then return to the wrong one.
  if (ioctl(fd_, TIOCGWINSZ, &size) == 0 && size.ws_col > 1) text = text.substr(0, size.ws_col - 1);
  if (text == live_) return;
  Write(std::string(kErase).append(text));
  live_ = text;
}

void Output::Lines(std::string_view lines) {
  if (live_.empty()) return Write(lines);
  Write(std::string(kErase).append(lines).append(live_));
}

}  // namespace holdfast::echo
