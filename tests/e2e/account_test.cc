// The client's account of lost messages against the server's log of received ones, session by session:
// what is called unsent never arrived, ever; and what is called acked was read by a server that reads on.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "e2e/echo_fixture.h"

namespace holdfast::e2e {
namespace {

class AccountTest : public EchoTest {
 protected:
  static std::set<Sent> InBoth(const std::set<Sent>& a, const std::set<Sent>& b) {
    std::set<Sent> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::inserter(both, both.end()));
    return both;
  }
  static std::set<Sent> Without(const std::set<Sent>& a, const std::set<Sent>& b) {
    std::set<Sent> left;
    std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::inserter(left, left.end()));
    return left;
  }

  static void AwaitClosed(EventProcess& server, const std::string& peer) {
    for (;;) {
      const auto closed = server.Await("closed");
      if (!closed || closed->Str("peer") == peer) return;
    }
  }

  // The account agrees with the events: as many lines for each session as messages were not echoed,
  // and no more of a fate than its `down` says.
  static void ExpectAccountOf(const EventProcess& client, const std::vector<Json>& account) {
    const Json summary = client.Summary();
    for (const char* fate : {"acked", "in_doubt", "unsent"}) {
      const auto lines = OfFate(account, fate);
      EXPECT_EQ(std::ssize(lines), summary.Int(std::string("lost_") + fate)) << fate;
      std::map<std::string, std::int64_t> of_session;
      for (const Sent& sent : lines) ++of_session[sent.local];
      for (std::size_t i = 0; i < client.Named("up").size(); ++i) {
        const std::string local = client.Named("up")[i].Str("local");
        EXPECT_LE(of_session[local], client.Named("down")[i].Int(fate)) << local << " " << fate;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Backend, AccountTest, testing::Values("epoll", "uring"), BackendName);

TEST_P(AccountTest, HoldsWhenTheServerIsKilledUnderLoad) {
  auto server = StartServer("0", {"--log=" + File("log")});
  const auto client =
      StartClient({"--rate=0", "--depth=512", "--size=1024", "--backoff_initial=10ms",
                   "--backoff_max=50ms", "--account=" + File("account")});
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(client->Await("up"));
    Kill(*server, File("log"));
    server = StartServer(address_, {"--log=" + File("log")});
  }
  ASSERT_TRUE(client->Await("up"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  ExpectAddsUp(*client);

  const auto account = Lines(File("account"), "account_line");
  const auto received = Received(Lines(File("log"), "log_line"));
  ExpectAccountOf(*client, account);
  EXPECT_TRUE(InBoth(OfFate(account, "unsent"), received).empty());
  // The server writes its log before it echoes, so every echoed message is in it.
  EXPECT_GE(std::ssize(received), client->Summary().Int("echoed"));
}

TEST_P(AccountTest, HoldsWhenAFullConnectionIsGivenUpAndItsServerGoesOn) {
  const auto server = StartServer("0", {"--log=" + File("log")});
  // 40 MB in flight fill every buffer on the way once nobody reads.
  const auto client = StartClient({"--rate=0", "--depth=640", "--size=65536", "--silence_max=500ms",
                                   "--account=" + File("account"), "--drain=30s"});
  const auto up = client->Await("up");
  // A connection that dies before it is accepted has no peer to be joined by.
  ASSERT_TRUE(up && server->Await("accepted"));
  server->Signal(SIGSTOP);
  const auto down = client->Await("down");
  ASSERT_TRUE(down);
  EXPECT_EQ(down->Str("class"), "timeout");
  EXPECT_EQ(down->Str("operation"), "heartbeat");
  EXPECT_GT(down->Int("unsent"), 0);
  server->Signal(SIGCONT);
  // It reads what its kernel still has of the old connection, then hears that it is gone.
  AwaitClosed(*server, up->Str("local"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  ExpectAddsUp(*client);

  const auto account = Lines(File("account"), "account_line");
  const auto received = Received(Lines(File("log"), "log_line"));
  ExpectAccountOf(*client, account);
  EXPECT_FALSE(OfFate(account, "unsent").empty());
  EXPECT_TRUE(InBoth(OfFate(account, "unsent"), received).empty());
}

TEST_P(AccountTest, CallsAckedOnlyWhatAServerThatReadsOnWillRead) {
  const auto server = StartServer("0", {"--log=" + File("log")});
  // Little enough that the server's queue never fills and it never stops reading.
  const auto client = StartClient({"--rate=0", "--depth=100", "--size=1000", "--silence_max=500ms",
                                   "--account=" + File("account")});
  const auto up = client->Await("up");
  // A connection that dies before it is accepted has no peer to be joined by.
  ASSERT_TRUE(up && server->Await("accepted"));
  server->Signal(SIGSTOP);
  ASSERT_TRUE(client->Await("down"));
  server->Signal(SIGCONT);
  AwaitClosed(*server, up->Str("local"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  ExpectAddsUp(*client);

  const auto account = Lines(File("account"), "account_line");
  const auto received = Received(Lines(File("log"), "log_line"));
  ExpectAccountOf(*client, account);
  const auto acked = OfFate(account, "acked");
  EXPECT_FALSE(acked.empty());
  EXPECT_TRUE(Without(acked, received).empty())
      << Without(acked, received).size() << " of " << acked.size() << " acked were not received";
}

TEST_P(AccountTest, HoldsWhenTheServerEndsConnectionsInGoodOrder) {
  const auto server = StartServer("0", {"--chaos=up:100ms,eof:20ms", "--log=" + File("log")});
  const auto client = StartClient({"--rate=0", "--depth=64", "--size=4096", "--backoff_initial=5ms",
                                   "--backoff_max=10ms", "--account=" + File("account")});
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(client->Await("down"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  ExpectAddsUp(*client);
  const auto account = Lines(File("account"), "account_line");
  const auto received = Received(Lines(File("log"), "log_line"));
  ExpectAccountOf(*client, account);
  EXPECT_TRUE(InBoth(OfFate(account, "unsent"), received).empty());
}

}  // namespace
}  // namespace holdfast::e2e
