// A slow peer, or a slow user: neither loses a byte, and neither grows memory past its bounds.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <string>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

class BackpressureTest : public LinkFixture {
 protected:
  static std::size_t CountOf(int fd, unsigned long request) {
    int value = 0;
    EXPECT_EQ(::ioctl(fd, request, &value), 0);
    return static_cast<std::size_t>(value);
  }
  // Keeps `bytes` queued until twenty turns on end take nothing of it; how many messages were accepted.
  std::uint64_t Clog(Link& link, std::size_t bytes) {
    const std::string message(1000, 'm');
    std::uint64_t accepted = 0;
    for (int idle = 0; idle < 20; ++idle) {
      while (link.queued_bytes() < bytes && link.Send(message).status == SendStatus::kQueued) {
        ++accepted;
        idle = 0;
      }
      EXPECT_TRUE(reactor().RunFor(1ms).ok());
    }
    return accepted;
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(BackpressureTest);

// A peer that does not read: what the kernel has taken and cannot send, and what is left to us.
TEST_P(BackpressureTest, WithALowMarkWhatCannotBeSentStaysOurs) {
  std::size_t not_sent[2] = {};
  for (const int lowat : {0, 16 << 10}) {
    diary_ = {};
    RawServer server;
    LinkOptions options = Options(server.endpoint());
    options.silence_max = 0ms;
    options.socket.notsent_lowat = lowat;
    int fd = -1;
    options.socket.on_socket = [&](int socket) { fd = socket; };
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    const std::uint64_t accepted = Clog(*link, 200'000);
    const bool has_lowat = lowat > 0;
    not_sent[has_lowat] = CountOf(fd, SIOCOUTQNSD);
    link->Drop(Error::Protocol());
    ASSERT_TRUE(RunUntilDowns(1));
    EXPECT_EQ(diary_.downs[0].total(), accepted);
    // What is ours has not left this host, and is known not to have.
    EXPECT_GE(diary_.downs[0].unsent, 199u);
  }
  EXPECT_LE(not_sent[1], (16u << 10) + (64u << 10));
  EXPECT_GT(not_sent[0], 4 * not_sent[1]);
}

// All of a link's memory for messages, while a peer reads nothing and the user never stops.
TEST_P(BackpressureTest, APeerThatReadsNothingCannotGrowALink) {
  for (const std::size_t size : {1u, 100u, 3000u, 100'000u}) {
    RawServer server;
    LinkOptions options = Options(server.endpoint());
    options.queue_high = options.queue_low = 256 << 10;
    options.queue_max = 1 << 20;
    options.silence_max = 0ms;
    options.socket.send_buffer = 64 << 10;
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
    const std::string message(size, 'm');
    std::uint64_t accepted = 0;
    // Full twice: nothing of it is let go of meanwhile.
    for (int turn = 0; turn < 20; ++turn) {
      while (link->Send(message).status == SendStatus::kQueued) ++accepted;
      EXPECT_TRUE(reactor().Poll().ok());
    }
    EXPECT_EQ(link->Send(message).status, SendStatus::kFull);
    EXPECT_LE(link->queued_bytes(), 1u << 20);
    // What messages take besides their bytes is bounded by as much again, and a few blocks.
    EXPECT_LE(reactor().stats().send_blocks * 4096, (2u << 20) + (64u << 10)) << size;
    // Not one is lost: the peer reads, and has them all.
    std::uint64_t received = 0;
    ASSERT_TRUE(RunUntil([&] {
      received += ReadAvailable(peer).size();
      return received == accepted * size;
    })) << received;
    ASSERT_TRUE(RunUntil([&] { return reactor().stats().send_blocks == 0; }));
    EXPECT_TRUE(diary_.downs.empty());
  }
}

}  // namespace
}  // namespace holdfast::test
