// What stands in a socket's error queue raises EPOLLERR without EPOLLHUP until somebody reads it, and need
// be no error of the connection (docs/kernel.md 6): it ends nothing, and nobody spins on it.
#include <linux/net_tstamp.h>
#include <time.h>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

class ErrorQueueTest : public LinkFixture {
 protected:
  // A link whose kernel tells by the error queue when each send left: nothing is wrong with any of them.
  LinkOptions Timestamped(const std::string& endpoint) {
    LinkOptions options = Options(endpoint);
    options.socket.on_socket = [this](int fd) {
      fd_ = fd;
      const int flags =
          SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_TSONLY;
      EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)), 0);
    };
    return options;
  }
  [[nodiscard]] static Duration CpuTime() {
    timespec spent{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
  }
  // Whether the kernel has put something there that nobody has read.
  [[nodiscard]] bool HasMessage() const {
    pollfd polled{.fd = fd_, .events = 0, .revents = 0};
    return ::poll(&polled, 1, 0) == 1 && (polled.revents & POLLERR) != 0;
  }
  // Whether this thread computes for most of half a second in which nothing happens.
  [[nodiscard]] bool Spins() {
    const Duration before = CpuTime();
    RunFor(500ms);
    return CpuTime() - before > 250ms;
  }

  int fd_ = -1;
};
HOLDFAST_FOR_BOTH_BACKENDS(ErrorQueueTest);

TEST_P(ErrorQueueTest, WhatItTellsEndsNoConnectionAndIsNotLookedAtAllTheTime) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, Timestamped(server.endpoint()));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
    EXPECT_EQ(ReadFrom(peer, 5), "hello");
  }
  EXPECT_FALSE(Spins());
  // A receive of io_uring is not woken by it again, so there it may stay.
  EXPECT_EQ(HasMessage(), GetParam() == BackendKind::kUring);
  ASSERT_EQ(::send(peer.get(), "world", 5, 0), 5);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "world"; }));
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(ErrorQueueTest, ASendThatWaitsForRoomDoesNotSpinOnIt) {
  RawServer server;
  MakeSmall(server);
  LinkOptions options = Timestamped(server.endpoint());
  MakeSmall(options);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  const std::uint64_t accepted = FillUp(*link);
  EXPECT_FALSE(Spins());
  EXPECT_FALSE(HasMessage());
  EXPECT_EQ(ReadFrom(peer, accepted * 1000).size(), accepted * 1000);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

}  // namespace
}  // namespace holdfast::test
