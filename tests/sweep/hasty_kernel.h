// Linux without waiting: a wait that finds nothing moves the clock on instead, by all that it would have
// waited. So a minute of backoff costs microseconds, and thousands of runs fit into one.
//
// The peer is raw sockets of the same thread, and acts inside the wait, as another process would: `peer` is
// called before each look. Loopback delivers inside send(2) and connect(2) as a rule; because a loaded
// machine may put that off, a wait looks several times, and gives the processor away in between, before it
// believes that there is nothing. Threads run inside the next wait, so a look-up is never late.
#ifndef HOLDFAST_TESTS_SWEEP_HASTY_KERNEL_H_
#define HOLDFAST_TESTS_SWEEP_HASTY_KERNEL_H_

#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <functional>
#include <utility>
#include <vector>

#include "support/forwarding_kernel.h"
#include "sys/kernel.h"

namespace holdfast::test {

class HastyKernel final : public internal::ForwardingKernel {
 public:
  HastyKernel() noexcept : ForwardingKernel(internal::RealKernel()) {}

  std::function<void()> peer = [] {};
  // It acts only when a look has found nothing, so that pipes fill.
  bool peer_is_lazy = false;

  // Makes TCP_INFO say TCP_CLOSE, as of a connection that the kernel gave up. kLatest: from the moment
  // `times` (the hits of a fault) grows until the next close. kEvery: always, until GiveUpNone.
  enum class GivenUp { kLatest, kEvery };
  void GiveUp(std::function<std::uint64_t()> times, GivenUp kind) {
    given_up_ = std::move(times);
    given_up_kind_ = kind;
    times_at_close_ = 0;
  }
  void GiveUpNone() {
    GiveUp([] { return 0; }, GivenUp::kLatest);
  }

  Instant ClockNow() noexcept override { return inner_.ClockNow() + ahead_; }

  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override {
    for (int look = 0; look < kLooks; ++look) {
      LetOthersAct(look);
      const int count = inner_.EpollWait(epoll_fd, events, events_max, Duration::zero());
      if (count != 0 || timeout <= Duration::zero()) return count;
    }
    Skip(timeout);
    return 0;
  }

  // A wait is made with min_complete and, but for one without end, with a limit.
  int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                void* argument, std::size_t argument_size) noexcept override {
    if (min_complete == 0) {
      LetOthersAct(0);
      return inner_.RingEnter(ring_fd, to_submit, 0, flags, argument, argument_size);
    }
    const Duration timeout = LimitOf(flags, argument);
    const unsigned bare = flags & ~static_cast<unsigned>(IORING_ENTER_EXT_ARG);
    const int submitted = inner_.RingEnter(ring_fd, to_submit, 0, bare, nullptr, 0);
    if (submitted != static_cast<int>(to_submit)) return submitted;
    __kernel_timespec now{};
    io_uring_getevents_arg at_once{};
    at_once.ts = reinterpret_cast<__u64>(&now);
    for (int look = 0; look < kLooks; ++look) {
      LetOthersAct(look);
      const int result = inner_.RingEnter(ring_fd, 0, min_complete, bare | IORING_ENTER_EXT_ARG,
                                          &at_once, sizeof(at_once));
      if (result != -ETIME) return submitted > 0 ? submitted : result;
    }
    Skip(timeout);
    return submitted > 0 ? submitted : -ETIME;
  }

  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept override {
    const int result = inner_.GetSockOpt(fd, level, name, value, size);
    if (result >= 0 && level == IPPROTO_TCP && name == TCP_INFO &&
        (given_up_kind_ == GivenUp::kEvery || given_up_() > times_at_close_)) {
      *static_cast<std::uint8_t*>(value) = TCP_CLOSE;  // tcpi_state is the first.
    }
    return result;
  }
  int Close(int fd) noexcept override {
    times_at_close_ = given_up_();
    return inner_.Close(fd);
  }

  int StartThread(void (*run)(void*), void* argument) noexcept override {
    threads_.emplace_back(run, argument);
    return 0;
  }

 private:
  static constexpr int kLooks = 4;

  static Duration LimitOf(unsigned flags, const void* argument) noexcept {
    if ((flags & IORING_ENTER_EXT_ARG) == 0) return internal::kNeverTimeout;
    const auto* limit = static_cast<const io_uring_getevents_arg*>(argument);
    const auto* time = reinterpret_cast<const __kernel_timespec*>(limit->ts);
    return std::chrono::seconds(time->tv_sec) + std::chrono::nanoseconds(time->tv_nsec);
  }

  void LetOthersAct(int look) noexcept {
    if (look > 0) sched_yield();
    for (auto& [run, argument] : std::exchange(threads_, {})) run(argument);
    if (look > 0 || !peer_is_lazy) peer();
  }
  void Skip(Duration timeout) noexcept {
    ahead_ += timeout == internal::kNeverTimeout ? std::chrono::seconds(1) : timeout;
  }

  Duration ahead_{0};
  std::function<std::uint64_t()> given_up_ = [] { return 0; };
  GivenUp given_up_kind_ = GivenUp::kLatest;
  std::uint64_t times_at_close_ = 0;
  std::vector<std::pair<void (*)(void*), void*>> threads_;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_SWEEP_HASTY_KERNEL_H_
