// A ring of a Kernel, driven by hand, with the submissions and buffers that its tests need.
#ifndef HOLDFAST_TESTS_SIM_RING_FIXTURE_H_
#define HOLDFAST_TESTS_SIM_RING_FIXTURE_H_

#include <gtest/gtest.h>
#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sys/kernel.h"
#include "sys/loopback.h"
#include "sys/test_ring.h"

namespace holdfast::internal::sim {

inline constexpr unsigned kRingFlags = kTestRingFlags | IORING_SETUP_TASKRUN_FLAG;
inline constexpr unsigned kMore = IORING_CQE_F_MORE;
inline constexpr unsigned kBuffer = IORING_CQE_F_BUFFER;
inline constexpr unsigned kNonEmpty = IORING_CQE_F_SOCK_NONEMPTY;

inline bool HasMore(const Completion& completion) { return (completion.flags & kMore) != 0; }

// Provided buffers of one group, which are given back by hand.
class TestBuffers {
 public:
  TestBuffers(Kernel& kernel, int ring_fd, unsigned count, unsigned size, std::uint16_t group = 0)
      : count_(count), size_(size), group_(group), data_(count * size) {
    constexpr std::size_t kPage = 4096;
    const std::size_t bytes = (count * sizeof(io_uring_buf) + kPage - 1) / kPage * kPage;
    ring_ = static_cast<io_uring_buf_ring*>(std::aligned_alloc(kPage, bytes));
    io_uring_buf_ring_init(ring_);
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<__u64>(ring_);
    registration.ring_entries = count;
    registration.bgid = group;
    EXPECT_EQ(kernel.RingRegister(ring_fd, IORING_REGISTER_PBUF_RING, &registration, 1), 0);
    for (unsigned id = 0; id < count; ++id) Return(id);
  }
  TestBuffers(const TestBuffers&) = delete;
  TestBuffers& operator=(const TestBuffers&) = delete;
  ~TestBuffers() { std::free(ring_); }

  std::uint16_t group() const { return group_; }
  void Return(unsigned id) {
    io_uring_buf_ring_add(ring_, &data_[id * size_], size_, static_cast<std::uint16_t>(id),
                          io_uring_buf_ring_mask(count_), 0);
    io_uring_buf_ring_advance(ring_, 1);
  }
  // What a completion brought; its buffer goes back.
  std::string Take(const Completion& completion) {
    if ((completion.flags & kBuffer) == 0) return "";
    const unsigned id = completion.flags >> IORING_CQE_BUFFER_SHIFT;
    std::string text = Show(completion);
    Return(id);
    return text;
  }
  std::string Show(const Completion& completion) const {
    const unsigned id = completion.flags >> IORING_CQE_BUFFER_SHIFT;
    return std::string(&data_[id * size_], static_cast<std::size_t>(completion.result));
  }

 private:
  const unsigned count_;
  const unsigned size_;
  const std::uint16_t group_;
  std::vector<char> data_;
  io_uring_buf_ring* ring_;
};

// Submissions, by what they do.
class RingDriver {
 public:
  explicit RingDriver(Kernel& kernel, unsigned entries = 16, unsigned flags = kRingFlags)
      : kernel_(kernel), ring(kernel, entries, flags) {}

  void Nop(__u64 tag) { ring.Next(tag)->opcode = IORING_OP_NOP; }
  io_uring_sqe* Send(int fd, std::string_view text, __u64 tag, int flags = MSG_NOSIGNAL) {
    io_uring_sqe* const entry = ring.Next(tag);
    entry->opcode = IORING_OP_SEND;
    entry->fd = fd;
    entry->addr = reinterpret_cast<__u64>(text.data());
    entry->len = static_cast<__u32>(text.size());
    entry->msg_flags = static_cast<__u32>(flags);
    return entry;
  }
  io_uring_sqe* FastSend(int fd, std::string_view text, __u64 tag) {
    io_uring_sqe* const entry = Send(fd, text, tag, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
    entry->flags = IOSQE_CQE_SKIP_SUCCESS;
    return entry;
  }
  io_uring_sqe* Receive(int fd, void* data, unsigned size, __u64 tag, int flags = 0) {
    io_uring_sqe* const entry = ring.Next(tag);
    entry->opcode = IORING_OP_RECV;
    entry->fd = fd;
    entry->addr = reinterpret_cast<__u64>(data);
    entry->len = size;
    entry->msg_flags = static_cast<__u32>(flags);
    return entry;
  }
  io_uring_sqe* ReceiveMany(int fd, __u64 tag, std::uint16_t group = 0, bool poll_first = false) {
    io_uring_sqe* const entry = Receive(fd, nullptr, 0, tag);
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->ioprio = IORING_RECV_MULTISHOT;
    if (poll_first) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    entry->buf_group = group;
    return entry;
  }
  void AcceptMany(int fd, __u64 tag) {
    io_uring_sqe* const entry = ring.Next(tag);
    io_uring_prep_multishot_accept(entry, fd, nullptr, nullptr, SOCK_CLOEXEC);
    entry->user_data = tag;
  }
  void Connect(int fd, LoopbackAddress& address, __u64 tag) {
    Connect(fd, address.get(), address.size, tag);
  }
  void Connect(int fd, const sockaddr* address, socklen_t size, __u64 tag) {
    io_uring_sqe* const entry = ring.Next(tag);
    io_uring_prep_connect(entry, fd, address, size);
    entry->user_data = tag;
  }
  void Poll(int fd, unsigned events, __u64 tag) {
    io_uring_prep_poll_add(ring.Next(tag), fd, events);
  }
  void PollMany(int fd, unsigned events, __u64 tag) {
    io_uring_prep_poll_multishot(ring.Next(tag), fd, events);
  }
  io_uring_sqe* Cancel(__u64 target, __u64 tag, int flags = 0) {
    io_uring_sqe* const entry = ring.Next(tag);
    io_uring_prep_cancel64(entry, target, flags);
    return entry;
  }

  // Enters and answers what there is then.
  std::vector<Completion> Turn(unsigned wait = 0) {
    ring.Enter(wait);
    return ring.Reap();
  }
  // Enters, waits for one completion, and expects it to be the only one.
  Completion One(__u64 tag) {
    const std::vector<Completion> completions = Turn(1);
    EXPECT_EQ(completions.size(), 1U);
    if (completions.empty()) return {};
    EXPECT_EQ(completions[0].user_data, tag);
    return completions[0];
  }
  // io_uring_enter(2) as it is, without waiting for ever.
  int EnterFor(unsigned wait, unsigned flags, Duration timeout) {
    __atomic_store_n(ring.ring.sq.ktail, ring.ring.sq.sqe_tail, __ATOMIC_RELEASE);
    const unsigned pending =
        ring.ring.sq.sqe_tail - __atomic_load_n(ring.ring.sq.khead, __ATOMIC_ACQUIRE);
    __kernel_timespec limit{};
    limit.tv_nsec = timeout.count();
    io_uring_getevents_arg argument{};
    argument.ts = reinterpret_cast<__u64>(&limit);
    return kernel_.RingEnter(ring.ring.ring_fd, pending, wait, flags | IORING_ENTER_EXT_ARG,
                             &argument, sizeof(argument));
  }
  unsigned sq_flags() const { return __atomic_load_n(ring.ring.sq.kflags, __ATOMIC_ACQUIRE); }
  bool has_work() const { return (sq_flags() & IORING_SQ_TASKRUN) != 0; }
  bool overflowed() const { return (sq_flags() & IORING_SQ_CQ_OVERFLOW) != 0; }

 private:
  Kernel& kernel_;

 public:
  TestRing ring;
};

// Two connected TCP sockets on the loopback.
inline TestPair MakeTcpPair(Kernel& kernel) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel, &address);
  TestPair pair;
  pair.left = MakeSocket(kernel);
  EXPECT_EQ(kernel.Connect(pair.left.get(), address.get(), address.size), 0);
  pair.right = TestFd(kernel, kernel.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_GE(pair.right.get(), 0);
  return pair;
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_TESTS_SIM_RING_FIXTURE_H_
