#include "backend/uring_embed.h"

#include <liburing.h>

#include <cstdint>
#include <utility>

namespace holdfast::internal {

UringEmbedding::~UringEmbedding() {
  if (epoll_fd_ >= 0) static_cast<void>(kernel_.Close(epoll_fd_));
}

int UringEmbedding::Start(int ring_fd, int event_fd, int watch_fd) noexcept {
  const int epoll_fd = kernel_.EpollCreate();
  if (epoll_fd < 0) return epoll_fd;
  epoll_event event{};
  event.events = EPOLLIN;
  int result = kernel_.EpollCtl(epoll_fd, EPOLL_CTL_ADD, event_fd, &event);
  if (result >= 0) result = kernel_.RingRegister(ring_fd, IORING_REGISTER_EVENTFD, &event_fd, 1);
  if (result < 0) {
    static_cast<void>(kernel_.Close(epoll_fd));
    return result;
  }
  epoll_fd_ = epoll_fd;
  event_fd_ = event_fd;
  return Watch(watch_fd);
}

void UringEmbedding::Sleep(Duration timeout) noexcept {
  epoll_event event{};
  static_cast<void>(kernel_.EpollWait(epoll_fd_, &event, 1, timeout));
}

int UringEmbedding::Watch(int fd) noexcept {
  if (!active()) return 0;
  epoll_event event{};
  event.events = EPOLLIN;
  if (watch_fd_ >= 0) {
    // Whoever ends a watch may have closed the descriptor, and this entry with it.
    const int before = std::exchange(watch_fd_, -1);
    static_cast<void>(kernel_.EpollCtl(epoll_fd_, EPOLL_CTL_DEL, before, &event));
  }
  if (fd < 0) return 0;
  const int result = kernel_.EpollCtl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
  if (result >= 0) watch_fd_ = fd;
  return result;
}

void UringEmbedding::Signal() noexcept {
  if (!active() || std::exchange(signalled_, true)) return;
  constexpr std::uint64_t kOne = 1;
  static_cast<void>(kernel_.Write(event_fd_, &kOne, sizeof(kOne)));
}

bool UringEmbedding::Drain() noexcept {
  if (!active()) return false;
  signalled_ = false;
  std::uint64_t count = 0;
  static_cast<void>(kernel_.Read(event_fd_, &count, sizeof(count)));
  return woken_.exchange(false);  // Set before its write, so also when that one is yet to come.
}

}  // namespace holdfast::internal
