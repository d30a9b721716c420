// What the client sends again, against the logs of the servers that received it: over all sessions no
// message twice with replay_unsent, no gap with replay_unacked, and the order kept.
#include <csignal>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "e2e/echo_fixture.h"

namespace holdfast::e2e {
namespace {

class ReplayTest : public EchoTest {
 protected:
  std::unique_ptr<EventProcess> StartReplaying(const std::string& policy,
                                               std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--rate=0", "--on_loss=" + policy, "--backoff_initial=10ms",
                               "--backoff_max=50ms", "--account=" + File("account")});
    return StartClient(flags);
  }

  // Joins the two files. `policy` as the flag says it.
  void ExpectDelivered(const EventProcess& client, const std::string& policy) {
    const Json summary = client.Summary();
    EXPECT_EQ(summary.Int("sent"), summary.Int("echoed") + summary.Int("lost"));
    EXPECT_EQ(summary.Int("reordered"), 0);
    const auto account = Lines(File("account"), "account_line");
    std::map<std::int64_t, int> received;
    std::map<std::string, std::int64_t> last;
    std::set<Sent> arrived;
    for (const Json& line : Lines(File("log"), "log_line")) {
      const std::int64_t sequence = line.Int("sequence");
      ++received[sequence];
      arrived.insert({line.Int("link"), line.Str("peer"), sequence});
      EXPECT_GT(sequence, last[line.Str("peer")]) << "reordered, or twice in a session";
      last[line.Str("peer")] = sequence;
    }
    for (const Sent& unsent : OfFate(account, "unsent")) {
      EXPECT_EQ(arrived.count(unsent), 0u) << "unsent, and received: " << unsent.sequence;
    }
    // What no server has read must have a reason that the policy allows.
    std::set<std::int64_t> excused = Sequences(account, "acked");
    if (policy == "replay_unsent") excused.merge(Sequences(account, "in_doubt"));
    std::int64_t gaps = 0;
    for (std::int64_t sequence = 1; sequence <= summary.Int("sent"); ++sequence) {
      gaps += received.count(sequence) == 0 && excused.count(sequence) == 0 ? 1 : 0;
      if (policy == "replay_unsent") {
        EXPECT_LE(received[sequence], 1) << sequence;
      }
    }
    EXPECT_EQ(gaps, 0);
    // In the end, with a server that is up, nothing is left over.
    EXPECT_EQ(summary.Int("lost_unsent"), 0);
    if (policy == "replay_unacked") {
      EXPECT_EQ(summary.Int("lost_in_doubt"), 0);
    } else {
      EXPECT_EQ(summary.Int("duplicated"), 0);
    }
  }
  static std::set<std::int64_t> Sequences(const std::vector<Json>& account, std::string_view fate) {
    std::set<std::int64_t> sequences;
    for (const Sent& sent : OfFate(account, fate)) sequences.insert(sent.sequence);
    return sequences;
  }
};

INSTANTIATE_TEST_SUITE_P(Backend, ReplayTest, testing::Values("epoll", "uring"), BackendName);

TEST_P(ReplayTest, HoldsWhenTheServerIsKilledUnderLoad) {
  for (const std::string policy : {"replay_unsent", "replay_unacked"}) {
    SCOPED_TRACE(policy);
    std::filesystem::remove(File("log"));
    auto server = StartServer("0", {"--log=" + File("log")});
    const auto client = StartReplaying(policy, {"--depth=512", "--size=1024"});
    for (int i = 0; i < 8; ++i) {
      ASSERT_TRUE(client->Await("up"));
      Kill(*server, File("log"));
      server = StartServer(address_, {"--log=" + File("log")});
    }
    ASSERT_TRUE(client->Await("up"));
    EXPECT_EQ(client->EndBy(SIGINT), 0) << client->output();
    EXPECT_EQ(server->EndBy(SIGTERM), 0);
    ExpectDelivered(*client, policy);
  }
}

TEST_P(ReplayTest, HoldsWhenAFullConnectionIsGivenUpAndItsServerGoesOn) {
  for (const std::string policy : {"replay_unsent", "replay_unacked"}) {
    SCOPED_TRACE(policy);
    std::filesystem::remove(File("log"));
    const auto server = StartServer("0", {"--log=" + File("log")});
    const auto client = StartReplaying(
        policy, {"--depth=100", "--size=65536", "--silence_max=500ms", "--drain=30s"});
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(client->Await("up") && server->Await("accepted"));
      server->Signal(SIGSTOP);
      ASSERT_TRUE(client->Await("down"));
      server->Signal(SIGCONT);
    }
    ASSERT_TRUE(client->Await("up"));
    EXPECT_EQ(client->EndBy(SIGINT), 0) << client->output();
    EXPECT_EQ(server->EndBy(SIGTERM), 0);
    EXPECT_GT(client->Summary().Int("replayed"), 0);
    ExpectDelivered(*client, policy);
  }
}

TEST_P(ReplayTest, HoldsWhenTheServerEndsAndResetsConnections) {
  for (const std::string policy : {"replay_unsent", "replay_unacked"}) {
    SCOPED_TRACE(policy);
    std::filesystem::remove(File("log"));
    const auto server =
        StartServer("0", {"--chaos=up:100ms,eof:20ms,up:100ms,reset:20ms", "--log=" + File("log")});
    const auto client = StartReplaying(policy, {"--depth=64", "--size=4096"});
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(client->Await("down"));
    EXPECT_EQ(client->EndBy(SIGINT), 0) << client->output();
    EXPECT_EQ(server->EndBy(SIGTERM), 0);
    const Json summary = client->Summary();
    EXPECT_EQ(summary.Int("sent"), summary.Int("echoed") + summary.Int("lost"));
  }
}

}  // namespace
}  // namespace holdfast::e2e
