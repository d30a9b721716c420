// Sockets of a Kernel on the loopback, for the tests of floor 2b. Every call goes through the
// kernel under test, so that what it counts and what it injects is what the test sees.
#ifndef HOLDFAST_TESTS_SYS_LOOPBACK_H_
#define HOLDFAST_TESTS_SYS_LOOPBACK_H_

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "sys/kernel.h"

namespace holdfast::internal {

// A descriptor that its kernel closes.
class TestFd {
 public:
  TestFd() = default;
  TestFd(Kernel& kernel, int fd) : kernel_(&kernel), fd_(fd) {}
  TestFd(TestFd&& other) noexcept : kernel_(other.kernel_), fd_(std::exchange(other.fd_, -1)) {}
  TestFd& operator=(TestFd&& other) noexcept {
    std::swap(kernel_, other.kernel_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~TestFd() {
    if (fd_ >= 0) static_cast<void>(kernel_->Close(fd_));
  }

  // The descriptor, or the -errno that came in its place.
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  Kernel* kernel_ = nullptr;
  int fd_ = -1;
};

struct LoopbackAddress {
  sockaddr_in in{};
  socklen_t size = sizeof(sockaddr_in);

  LoopbackAddress() {
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&in); }
  bool operator==(const LoopbackAddress& other) const {
    return in.sin_port == other.in.sin_port && in.sin_addr.s_addr == other.in.sin_addr.s_addr;
  }
};

inline TestFd MakeSocket(Kernel& kernel, int flags = 0) {
  return TestFd(kernel, kernel.Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
}

// A listening socket; `address` is where it listens.
inline TestFd MakeListener(Kernel& kernel, LoopbackAddress* address, int flags = 0) {
  TestFd fd = MakeSocket(kernel, flags);
  EXPECT_EQ(kernel.Bind(fd.get(), address->get(), address->size), 0);
  EXPECT_EQ(kernel.Listen(fd.get(), 16), 0);
  EXPECT_EQ(kernel.GetSockName(fd.get(), address->get(), &address->size), 0);
  return fd;
}

// Two connected sockets, blocking.
struct TestPair {
  TestFd left;
  TestFd right;
};

inline TestPair MakePair(Kernel& kernel, int flags = 0) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(kernel.SocketPair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, fds), 0);
  return {TestFd(kernel, fds[0]), TestFd(kernel, fds[1])};
}

// Descriptors of this process: the same before and after, if nothing was left open.
inline std::size_t OpenDescriptors() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

// What a socket has to read now, at most 4 KiB; "" if nothing.
inline std::string ReadNow(Kernel& kernel, int fd) {
  char data[4096];
  const ssize_t size = kernel.Recv(fd, data, sizeof(data), MSG_DONTWAIT);
  return size > 0 ? std::string(data, static_cast<std::size_t>(size)) : std::string();
}

// EpollWait for a test that wants the events and not the interruptions: a ring that this thread has
// just given up may interrupt its next wait, without any signal (its end is task work; seen after a
// third of all rings on 6.18).
inline int WaitForEvents(Kernel& kernel, int epoll_fd, epoll_event* events, int events_max,
                         Duration timeout) {
  for (;;) {
    const int ready = kernel.EpollWait(epoll_fd, events, events_max, timeout);
    if (ready != -EINTR) return ready;
  }
}

inline ssize_t SendText(Kernel& kernel, int fd, std::string_view text) {
  return kernel.Send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SYS_LOOPBACK_H_
