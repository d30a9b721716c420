// A ring of a Kernel, driven by hand, for the tests of floor 2b: the few lines of an io_uring loop
// that matter, over Kernel's methods alone. liburing's own submit would pass the seam by.
#ifndef HOLDFAST_TESTS_SYS_TEST_RING_H_
#define HOLDFAST_TESTS_SYS_TEST_RING_H_

#include <gtest/gtest.h>
#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "sys/kernel.h"

namespace holdfast::internal {

struct Completion {
  __u64 user_data = 0;
  int result = 0;
  unsigned flags = 0;
};

// The flags of the shipped ring: completions come to the thread that enters, and only then.
inline constexpr unsigned kTestRingFlags =
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL;

class TestRing {
 public:
  explicit TestRing(Kernel& kernel, unsigned entries = 16, unsigned flags = kTestRingFlags)
      : kernel_(kernel) {
    parameters.flags = flags;
    setup_answer = kernel.RingSetup(entries, &parameters, &ring);
  }
  TestRing(const TestRing&) = delete;
  TestRing& operator=(const TestRing&) = delete;
  ~TestRing() { Exit(); }

  // End the ring, once.
  void Exit() {
    if (setup_answer == 0) kernel_.RingExit(&ring);
    setup_answer = -EBADF;
  }

  // The next submission, cleared but for its user_data. There must be room.
  io_uring_sqe* Next(__u64 user_data) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    HOLDFAST_CHECK(entry != nullptr);
    std::memset(entry, 0, sizeof(*entry));
    entry->user_data = user_data;
    return entry;
  }

  // Publishes what was prepared and enters. Answers as RingEnter does. Waits for `wait`
  // completions, but not for ever: a test that waits in vain fails after two seconds.
  int Enter(unsigned wait = 0, unsigned extra_flags = 0, int fd = -1) {
    __atomic_store_n(ring.sq.ktail, ring.sq.sqe_tail, __ATOMIC_RELEASE);
    const unsigned pending = ring.sq.sqe_tail - __atomic_load_n(ring.sq.khead, __ATOMIC_ACQUIRE);
    __kernel_timespec limit{};
    limit.tv_sec = 2;
    io_uring_getevents_arg argument{};
    argument.ts = reinterpret_cast<__u64>(&limit);
    return kernel_.RingEnter(fd >= 0 ? fd : ring.ring_fd, pending, wait,
                             IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | extra_flags, &argument,
                             sizeof(argument));
  }

  std::vector<Completion> Reap() {
    std::vector<Completion> completions;
    unsigned head = 0;
    io_uring_cqe* entry = nullptr;
    io_uring_for_each_cqe(&ring, head, entry) {
      completions.push_back({entry->user_data, entry->res, entry->flags});
    }
    io_uring_cq_advance(&ring, static_cast<unsigned>(completions.size()));
    return completions;
  }

  io_uring_params parameters{};
  io_uring ring{};
  int setup_answer = 0;

 private:
  Kernel& kernel_;
};

// Leaves the test, with the reason, where this process may not have a ring.
#define HOLDFAST_SKIP_WITHOUT_RING(test_ring)                         \
  if ((test_ring).setup_answer != 0)                                  \
  GTEST_SKIP() << "SKIPPED, not tested here: io_uring_setup answers " \
               << std::strerror(-(test_ring).setup_answer)

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SYS_TEST_RING_H_
