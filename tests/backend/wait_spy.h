// A kernel that shows what a test cannot see otherwise: the timeouts of EpollWait. It can also hide
// events, as a kernel might that reports them in another company than this one. All else it hands
// on.
#ifndef HOLDFAST_TESTS_BACKEND_WAIT_SPY_H_
#define HOLDFAST_TESTS_BACKEND_WAIT_SPY_H_

#include <cstdint>
#include <vector>

#include "support/forwarding_kernel.h"

namespace holdfast::internal {

class WaitSpy final : public ForwardingKernel {
 public:
  explicit WaitSpy(Kernel& inner) noexcept : ForwardingKernel(inner) {}

  std::vector<Duration> timeouts;   // Of every EpollWait.
  std::uint32_t hidden_events = 0;  // Taken out of what EpollWait reports.

  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override {
    timeouts.push_back(timeout);
    const int count = inner_.EpollWait(epoll_fd, events, events_max, timeout);
    for (int i = 0; i < count; ++i) events[i].events &= ~hidden_events;
    return count;
  }
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_BACKEND_WAIT_SPY_H_
