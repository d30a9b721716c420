// What the tests of the link share, beyond the reactor and the raw peer of net_fixture.h: a link with
// short waits that writes a diary, and small raw servers that act on every connection.
#ifndef HOLDFAST_TESTS_NET_LINK_FIXTURE_H_
#define HOLDFAST_TESTS_NET_LINK_FIXTURE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "net/net_fixture.h"

namespace holdfast::test {

class LinkFixture : public NetTest {
 protected:
  LinkOptions Options(const std::string& endpoint) {
    LinkOptions options;
    options.endpoints = {endpoint};
    options.backoff = {.initial = 5ms, .multiplier = 1.5, .max = 50ms};
    diary_.Attach(options);
    return options;
  }
  std::unique_ptr<Link> Make(LinkOptions options) {
    absl::StatusOr<std::unique_ptr<Link>> link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? *std::move(link) : nullptr;
  }
  std::unique_ptr<Link> MakeStarted(LinkOptions options) {
    std::unique_ptr<Link> link = Make(std::move(options));
    if (link != nullptr) link->Start();
    return link;
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer) {
    return MakeUp(server, peer, Options(server.endpoint()));
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer, LinkOptions options) {
    std::unique_ptr<Link> link = MakeStarted(std::move(options));
    peer = AcceptFrom(server);
    EXPECT_TRUE(RunUntil([&] { return link->state() == LinkState::kUp; }));
    return link;
  }
  [[nodiscard]] bool RunUntilClosed() {
    return RunUntil([&] { return diary_.closed.has_value(); });
  }
  [[nodiscard]] bool RunUntilDowns(std::size_t count) {
    return RunUntil([&] { return diary_.downs.size() >= count; });
  }
  // Messages of 1000 bytes until `bytes` wait in the link's own queue, which the pipe does not take.
  // The number that was accepted.
  std::uint64_t FillUp(Link& link, std::size_t bytes = 100'000) {
    std::uint64_t accepted = 0;
    const std::string message(1000, 'm');
    EXPECT_TRUE(RunUntil([&] {
      while (link.queued_bytes() < bytes && link.Send(message).status == SendStatus::kQueued) {
        ++accepted;
      }
      // One more turn, in which the pipe may take it.
      EXPECT_TRUE(reactor().Poll().ok());
      return link.queued_bytes() >= bytes;
    }));
    return accepted;
  }
  // Small buffers on the link's side, so that a window is soon full.
  static void MakeSmall(LinkOptions& options) { options.socket.send_buffer = 32 << 10; }
  static void MakeSmall(const RawServer& server) {
    const int size = 16 << 10;
    ::setsockopt(server.fd(), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
  }
  // Runs turns for `duration`; nothing is awaited but time itself.
  void RunFor(Duration duration) { EXPECT_TRUE(reactor().RunFor(duration).ok()); }

  Diary diary_;
};

// The largest part of a loop's lateness that is not the link's own fault.
inline Duration Lateness(Reactor& reactor) {
  const ReactorStats stats = reactor.stats();
  return stats.timer_lateness_max + stats.turn_max;
}

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NET_LINK_FIXTURE_H_
