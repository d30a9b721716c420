// Whether this process is still the one in which something was made, or a child of fork(2).
//
// A child has its parent's descriptors and none of its rights: a ring's memory is hidden from it
// (RingSetup), an epoll_ctl(2) of its own would change its parent's registrations, a setsockopt(2) or a
// disconnect its parent's connections, and a lock that another thread held stays locked for ever. So
// whatever would touch one of these asks here first.
//
// A count of forks, which pthread_atfork(3) raises in the child, instead of a compare of getpid(2): asking
// costs one load and no system call, so that it may stand anywhere; and the first process of a container
// is number 1, and so is its child in a pid namespace of its own (unshare(2), CLONE_NEWPID). Not seen is a
// child of the bare clone(2), which libc does not survive either, and one of vfork(2), which may do
// nothing but exec.
#ifndef HOLDFAST_SYS_FORK_MARK_H_
#define HOLDFAST_SYS_FORK_MARK_H_

#include <atomic>
#include <cstdint>

namespace holdfast::internal {

class ForkMark {
 public:
  // Marks the process that runs now.
  ForkMark() noexcept;

  // True in every process but that one. Any thread, async-signal-safe.
  [[nodiscard]] bool forked() const noexcept {
    return forks_ != forks_so_far_.load(std::memory_order_relaxed);
  }

 private:
  static bool CountForks() noexcept;

  // Forks from the first process of the program down to this one. Written in a child alone, which has one
  // thread then.
  static constinit std::atomic<std::uint32_t> forks_so_far_;

  std::uint32_t forks_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_SYS_FORK_MARK_H_
