#include "echo/line_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace holdfast::echo {

LineSource::LineSource(Reactor& reactor, int fd, absl::AnyInvocable<void()> on_more)
    : reactor_(reactor), fd_(fd), on_more_(std::move(on_more)) {}

void LineSource::Want(bool wanted) {
  wanted_ = wanted;
  ReadOn();
}

// Arms or ends whatever makes Read run, as wanted.
void LineSource::ReadOn() {
  const bool read_on = wanted_ && !at_end_ && buffer_.size() - begin_ < kBufferBytesMax;
  if (!read_on) {
    watcher_.reset();
    return;
  }
  if (watcher_ != nullptr || posted_) return;
  auto watcher = reactor_.Watch(fd_, kWatchReadable, [this](unsigned) { Read(); });
  if (watcher.ok()) {
    watcher_ = *std::move(watcher);
    return;
  }
  posted_ = true;
  reactor_.Post([this] {
    posted_ = false;
    if (wanted_) Read();
  });
}

void LineSource::Read() {
  buffer_.erase(0, begin_);
  begin_ = 0;
  const std::size_t had = buffer_.size();
  buffer_.resize(had + kLineBytesMax);
  const ssize_t size = read(fd_, buffer_.data() + had, kLineBytesMax);
  buffer_.resize(had + static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  if (size == 0 || (size < 0 && errno != EINTR && errno != EAGAIN)) at_end_ = true;
  ReadOn();
  on_more_();
}

std::string_view LineSource::Front() const {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  const std::size_t newline = rest.substr(0, kLineBytesMax).find('\n');
  if (newline != std::string_view::npos) return rest.substr(0, newline + 1);
  if (rest.size() >= kLineBytesMax) return rest.substr(0, kLineBytesMax);
  return at_end_ ? rest : std::string_view();
}

void LineSource::Pop() {
  begin_ += Front().size();
  ReadOn();
}

}  // namespace holdfast::echo
