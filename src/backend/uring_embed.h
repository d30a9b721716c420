// A descriptor by which another event loop learns that an io_uring has work, for Reactor::fd().
//
// The ring's own descriptor would be the natural one, but with IORING_SETUP_DEFER_TASKRUN nobody who
// polls it is woken by work that is waiting to be done (tried on Linux 6.18: a poll(2) begun before the
// event sleeps until its timeout). The eventfd of IORING_REGISTER_EVENTFD is signalled for it; but where
// the event is itself the write of an eventfd only late, and only once (io_eventfd_signal goes by way of
// RCU then, and never again). So the descriptor is an epoll instance of two: that eventfd, which is the
// one that Wake writes, and the descriptor that is watched, which may have eventfds inside.
//
// It costs nothing until it is asked for. From then on every Wait drains the eventfd, and one that
// sleeps sleeps on the epoll instance, since a ring that polled the eventfd would wake itself with each
// completion. Not readable means that Wait would sleep; now and then it is readable for nothing.
//
// One thread, that of the ring, but for NoteWake.
#ifndef HOLDFAST_BACKEND_URING_EMBED_H_
#define HOLDFAST_BACKEND_URING_EMBED_H_

#include <atomic>

#include "sys/kernel.h"

namespace holdfast::internal {

class UringEmbedding {
 public:
  explicit UringEmbedding(Kernel& kernel) noexcept : kernel_(kernel) {}
  UringEmbedding(const UringEmbedding&) = delete;
  UringEmbedding& operator=(const UringEmbedding&) = delete;
  ~UringEmbedding();

  // True once Start succeeded.
  [[nodiscard]] bool active() const noexcept { return event_fd_ >= 0; }
  // Creates the descriptor and tells the ring. `event_fd` is the eventfd that Wake writes; it outlives
  // this. `watch_fd` as in Watch. 0 or -errno.
  [[nodiscard]] int Start(int ring_fd, int event_fd, int watch_fd) noexcept;
  // Requires: active().
  [[nodiscard]] int fd() const noexcept { return epoll_fd_; }
  // Sleeps until the descriptor is readable, or until the timeout. Requires: active().
  void Sleep(Duration timeout) noexcept;

  // --- These do nothing unless active.
  // Another watched descriptor, or none (-1). 0 or -errno.
  int Watch(int fd) noexcept;
  // Makes the descriptor readable, or not until the next event. Drain says true when it may have taken
  // a Wake along: whoever meant to sleep must not.
  void Signal() noexcept;
  [[nodiscard]] bool Drain() noexcept;

  // Any thread, async-signal-safe, before the eventfd is written: a Wake, unlike an event, leaves nothing
  // behind in the ring that would be found by looking.
  void NoteWake() noexcept { woken_.store(true); }

 private:
  Kernel& kernel_;
  int event_fd_ = -1;
  int epoll_fd_ = -1;
  int watch_fd_ = -1;
  bool signalled_ = false;  // By Signal, since the last Drain.
  std::atomic<bool> woken_{false};
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_EMBED_H_
