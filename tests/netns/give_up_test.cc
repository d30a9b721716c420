// A link under load is given up in the midst of a network that loses packets, again and again: what was
// counted as never sent has not reached the peer and never will (docs/kernel.md, "Giving up a live
// connection").
//
// `make test` gives up 80 links for each family and backend; HOLDFAST_MATRIX=whole 2,000.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "net/peer_process.h"
#include "netns/namespaces.h"
#include "support/forwarding_kernel.h"
#include "support/seed.h"

namespace holdfast::test {
namespace {

constexpr std::size_t kLinks = 20;

// Lets time pass before a disconnect, as if the thread had lost its processor there: what the kernel still
// sends of a connection that is being given up, it sends then.
class HesitantKernel final : public internal::ForwardingKernel {
 public:
  explicit HesitantKernel(internal::Random& random) noexcept
      : ForwardingKernel(internal::RealKernel()), random_(random) {}

  int Connect(int fd, const sockaddr* address, socklen_t size) noexcept override {
    if (address->sa_family == AF_UNSPEC && random_.Below(2) == 0) {
      const timespec pause{.tv_sec = 0, .tv_nsec = static_cast<long>(random_.Below(500'000))};
      ::nanosleep(&pause, nullptr);
    }
    return ForwardingKernel::Connect(fd, address, size);
  }

 private:
  internal::Random& random_;
};

[[nodiscard]] int Batches() {
  const char* const matrix = std::getenv("HOLDFAST_MATRIX");
  return matrix != nullptr && std::string_view(matrix) == "whole" ? 100 : 4;
}

class GiveUpTest : public FixtureWithReactor,
                   public testing::WithParamInterface<std::tuple<const char*, BackendKind>> {
 protected:
  struct Session {
    std::unique_ptr<Link> link;
    std::uint16_t port = 0;
    std::size_t message_max = 0;
    std::uint64_t accepted = 0;
    std::optional<Account> account;
    TcpSnapshot tcp;
  };

  [[nodiscard]] BackendKind backend() const override { return std::get<1>(GetParam()); }

  void SetUp() override {
    if (const std::string why = Namespace::WhyNot(); !why.empty()) {
      GTEST_SKIP() << why << ": NOT TESTED: giving up a link while packets are lost";
    }
    FixtureWithReactor::SetUp();
    if (IsSkipped()) return;
    MakeReactor({.kernel = &kernel_});
    network_.emplace();
    if (HasFatalFailure()) return;
    inside_.emplace(network_->near());
    const Inside inside(network_->far());
    const std::string address = std::get<0>(GetParam());
    server_.emplace(*Endpoint::Parse(address + ":0")->literal());
  }
  void TearDown() override {
    server_.reset();
    inside_.reset();
    network_.reset();
    FixtureWithReactor::TearDown();
  }

  std::unique_ptr<Session> MakeSession() {
    auto session = std::make_unique<Session>();
    session->message_max = random_.Below(2) == 0 ? 1'000 : 20'000;
    LinkOptions options;
    options.endpoints = {server_->endpoint()};
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    options.socket.send_buffer = static_cast<int>(random_.Between(32 << 10, 256 << 10));
    options.on_up = [raw = session.get()](Link& link) { raw->port = link.local().port(); };
    options.on_down = [raw = session.get()](Link&, const Down& down) {
      raw->account = down;
      raw->tcp = down.tcp;
    };
    auto link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << link.status();
    session->link = *std::move(link);
    session->link->Start();
    return session;
  }
  // More than the pipe takes.
  void Fill(Session& session) {
    while (session.link->queued_bytes() < 100'000) {
      const std::size_t size = random_.Between(sizeof(MessageHeader), session.message_max);
      const SendResult result = session.link->Send(MakeMessage(session.accepted + 1, size));
      if (result.status != SendStatus::kQueued) return;
      EXPECT_EQ(result.sequence, ++session.accepted);
    }
  }
  // From now on, of the packets that arrive at either host.
  void LosePackets(std::uint64_t percent) {
    for (const Namespace* host : {&network_->near(), &network_->far()}) {
      RunIn(*host,
            "nft add table inet test ; add chain inet test input { type filter hook input "
            "priority 0 ; } ; add rule inet test input numgen random mod 100 < " +
                std::to_string(percent) + " drop");
    }
  }
  void LoseNothing() {
    for (const Namespace* host : {&network_->near(), &network_->far()}) {
      RunIn(*host, "nft flush ruleset");
    }
  }
  // Positions in the streams of the near host that are still to be sent or acknowledged: the most that
  // one socket has, closed ones included (proc_pid_net(5), tx_queue). A FIN is one.
  [[nodiscard]] static unsigned long MostToSend() {
    unsigned long most = 0;
    for (const char* name : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
      std::ifstream file(name);
      for (std::string line; std::getline(file, line);) {
        unsigned long queue = 0;
        if (std::sscanf(line.c_str(), "%*s %*s %*s %*s %lx:", &queue) == 1) {
          most = std::max(most, queue);
        }
      }
    }
    return most;
  }

  // At the peer, of a connection whose reset was lost: nobody would ever tell it.
  void EndWhatLostItsReset() { RunIn(network_->far(), "ss -K -t state established"); }

  void PlayBatch(std::uint64_t loss_percent);
  void Check(const Session& session, const Received& got);

  internal::Random random_{internal::PrintedSeed()};
  HesitantKernel kernel_{random_};
  std::uint64_t unsent_in_kernel_ = 0;  // Sessions of which the kernel held bytes that never left.
  std::uint64_t retransmitted_ = 0;     // Sessions that lost packets.

 private:
  std::optional<Network> network_;
  std::optional<Inside> inside_;
  std::optional<RawServer> server_;
};

void GiveUpTest::PlayBatch(std::uint64_t loss_percent) {
  const int receive_buffer = static_cast<int>(random_.Between(4 << 10, 64 << 10));
  ::setsockopt(server_->fd(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  const PeerProcess peer(*server_, PeerProcess::Kind::kRecord);
  std::vector<std::unique_ptr<Session>> sessions;
  for (std::size_t i = 0; i < kLinks; ++i) sessions.push_back(MakeSession());
  ASSERT_TRUE(RunUntil([&] {
    return std::all_of(sessions.begin(), sessions.end(),
                       [](const auto& session) { return session->port != 0; });
  }));
  ASSERT_NO_FATAL_FAILURE(LosePackets(loss_percent));
  const Instant end =
      std::chrono::steady_clock::now() + std::chrono::microseconds(random_.Between(20'000, 60'000));
  ASSERT_TRUE(RunUntil([&] {
    for (auto& session : sessions) Fill(*session);
    return std::chrono::steady_clock::now() >= end;
  }));

  for (auto& session : sessions) {
    if (random_.Below(2) == 0) {
      session->link->Drop(Error::Protocol());
    } else {
      session->link->Close(0ms);
    }
  }
  ASSERT_TRUE(RunUntil([&] {
    return std::all_of(sessions.begin(), sessions.end(),
                       [](const auto& session) { return session->account.has_value(); });
  }));
  // Nothing is left to send but the FIN of a link that had sent everything, neither now nor when packets
  // arrive again.
  EXPECT_LE(MostToSend(), 1u);
  ASSERT_NO_FATAL_FAILURE(LoseNothing());
  ASSERT_TRUE(RunUntil([&] { return MostToSend() == 0; }));
  EndWhatLostItsReset();
  std::map<std::uint16_t, Received> received;
  ASSERT_TRUE(RunUntil([&] {
    while (const auto report = peer.Report()) received.emplace(report->peer_port, *report);
    return received.size() == kLinks;
  })) << received.size();
  for (const auto& session : sessions) {
    ASSERT_EQ(received.count(session->port), 1u);
    Check(*session, received[session->port]);
  }
}

void GiveUpTest::Check(const Session& session, const Received& got) {
  const Account& account = *session.account;
  EXPECT_TRUE(got.in_order);
  EXPECT_TRUE(got.first_sequence == 0 || got.first_sequence == 1);
  EXPECT_EQ(account.total(), session.accepted);
  EXPECT_LE(account.acked, got.whole);
  EXPECT_LE(got.whole + (got.partial ? 1 : 0), account.acked + account.in_doubt)
      << "a message that was counted unsent arrived";
  if (session.tcp.unsent_bytes > 0) ++unsent_in_kernel_;
  if (session.tcp.retransmissions > 0) ++retransmitted_;
}

TEST_P(GiveUpTest, NoByteThatWasCountedUnsentEverArrivesWhilePacketsAreLost) {
  const int batches = Batches();
  for (int batch = 0; batch < batches; ++batch) {
    // By turns: most connections flow while they are given up, and most wait to send again.
    const std::uint64_t loss = batch % 2 == 0 ? random_.Between(1, 3) : random_.Between(4, 40);
    ASSERT_NO_FATAL_FAILURE(PlayBatch(loss));
    ASSERT_FALSE(HasFailure()) << "batch " << batch;
  }
  std::printf(
      "given up: %zu, of which %llu had bytes that the kernel never sent, %llu had lost some\n",
      static_cast<std::size_t>(batches) * kLinks,
      static_cast<unsigned long long>(unsent_in_kernel_),
      static_cast<unsigned long long>(retransmitted_));
  EXPECT_GT(unsent_in_kernel_, 0u);  // Else nothing was tested.
  EXPECT_GT(retransmitted_, 0u);
}

std::string NameOf(const testing::TestParamInfo<GiveUpTest::ParamType>& info) {
  const bool ipv6 = std::get<0>(info.param)[0] == '[';
  const bool uring = std::get<1>(info.param) == BackendKind::kUring;
  return std::string(ipv6 ? "v6" : "v4") + (uring ? "_uring" : "_epoll");
}
INSTANTIATE_TEST_SUITE_P(Both, GiveUpTest,
                         testing::Combine(testing::Values("192.0.2.2", "[2001:db8::2]"),
                                          testing::Values(BackendKind::kUring,
                                                          BackendKind::kEpoll)),
                         NameOf);

}  // namespace
}  // namespace holdfast::test
