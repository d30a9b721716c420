// What every backend promises (backend/backend.h), one suite over all of them: epoll, io_uring, and
// io_uring without each of the things that it can do without. Where the two engines may differ the
// contract allows both, and so do these tests. What holds for every completion is checked by the
// fixture at each one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend_fixture.h"
#include "base/random.h"
#include "sim/sim_fixture.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

// Waits of a loop that sleeps through a quiet spell. A signal may end any of them, and the end of a
// ring in an earlier test comes as one (task work, TWA_SIGNAL); a loop that spins takes thousands.
constexpr int kWaitsInQuiet = 20;
constexpr int kStreamDomains[] = {AF_INET, AF_UNIX};

class ConformanceTest : public BackendTest {
 protected:
  // Whether Wait(timeout) sleeps for `at_least`. Tries more than once, because a signal may end it.
  bool SleepsFor(Duration timeout, Duration at_least) {
    for (int i = 0; i < 10; ++i) {
      const Instant begin = world().Now();
      world().Wait(timeout);
      if (world().Now() - begin >= at_least) return true;
    }
    return false;
  }
};

// Addresses that refuse. They stay bound as long as this lives, so that nobody else, the test itself
// included, gets one and listens there.
class Refusal {
 public:
  explicit Refusal(Kernel& kernel)
      : tcp_(kernel, AF_INET, PeerListener::kBoundAlone),
        abstract_(kernel, AF_UNIX, PeerListener::kBoundAlone) {}

  const TestAddress& tcp() const { return tcp_.address; }
  std::vector<TestAddress> all() const {
    return {tcp_.address, abstract_.address, TestAddress::UnixPath("/nonexistent/holdfast.socket")};
  }

 private:
  PeerListener tcp_;
  PeerListener abstract_;
};

// Lets this process run out of descriptors. The limit is lowered from the beginning, because
// io_uring takes the one in force when an accept is submitted (io_accept_prep), but not to what is
// in use.
class DescriptorLimit {
 public:
  DescriptorLimit() {
    int highest = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      highest = std::max(highest, std::atoi(entry.path().filename().c_str()));
    }
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit lowered = before_;
    lowered.rlim_cur = static_cast<rlim_t>(highest) + 32;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() {
    Relieve();
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0);
  }

  void Exhaust() {
    for (int fd = dup(STDERR_FILENO); fd >= 0; fd = dup(STDERR_FILENO)) fillers_.push_back(fd);
  }
  void Relieve() {
    for (const int fd : fillers_) close(fd);
    fillers_.clear();
  }

 private:
  rlimit before_{};
  std::vector<int> fillers_;
};

// --- Connect.

TEST_P(ConformanceTest, ConnectsToAListener) {
  for (const int domain : {AF_INET, AF_INET6, AF_UNIX}) {
    SCOPED_TRACE(domain);
    const int probe = kernel().Socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const TestAddress any = TestAddress::Any(domain);
    const bool available = probe >= 0 && kernel().Bind(probe, any.get(), any.size) == 0;
    if (probe >= 0) kernel().Close(probe);
    if (!available) {
      EXPECT_EQ(domain, AF_INET6);  // Alone may be switched off on a host.
      continue;
    }
    PeerListener listener(kernel(), domain);
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(domain), 0);

    socket.Connect(listener.address);

    ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
    EXPECT_EQ(socket.connects.back().value, 0);
    TestAddress peer;
    EXPECT_EQ(kernel().GetPeerName(socket.socket.fd, peer.get(), &peer.size), 0);
    EXPECT_TRUE(listener.Accept().open());
  }
}

TEST_P(ConformanceTest, ConnectToNobodyIsRefused) {
  const Refusal refusal(kernel());
  for (const TestAddress& address : refusal.all()) {
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(address.storage.ss_family), 0);

    socket.Connect(address);

    ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
    EXPECT_EQ(socket.ClassOf(socket.connects.back()), ErrorClass::kRefused);
    EXPECT_EQ(socket.connects.back().error().operation, Operation::kConnect);
    EXPECT_TRUE(socket.socket.idle());
  }
}

TEST_P(ConformanceTest, APendingConnectEndsWhenItIsCancelled) {
  // Connections that fill the queue of a listener who accepts nobody; the next gets no answer.
  PeerListener listener(kernel(), AF_INET, 1);
  std::vector<Peer> dialed;
  for (int i = 0; i < 4; ++i) dialed.push_back(DialPlainly(kernel(), listener.address));
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  socket.Connect(listener.address);
  world().TurnFor(kQuietSpell);
  ASSERT_TRUE(socket.connects.empty());
  EXPECT_EQ(socket.socket.connect, OpState::kArmed);

  socket.Cancel(OpKind::kConnect);
  EXPECT_EQ(socket.socket.connect, OpState::kCancelling);
  socket.Cancel(OpKind::kConnect);  // Once more changes nothing.

  ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
  EXPECT_EQ(socket.ClassOf(socket.connects.back()), ErrorClass::kCancelled);
  EXPECT_EQ(socket.connects.back().error().operation, Operation::kConnect);
  world().TurnFor(kQuietSpell);
  EXPECT_EQ(socket.connects.size(), 1u);
}

TEST_P(ConformanceTest, AConnectThatIsCancelledAtOnceEndsOnceEitherWay) {
  PeerListener listener(kernel());
  for (int i = 0; i < 100; ++i) {
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(), 0);
    socket.Connect(listener.address);
    if (i % 3 == 1) world().Wait(Duration::zero());
    if (i % 3 == 2) world().Wait(1ms);

    socket.Cancel(OpKind::kConnect);

    ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
    if (socket.connects[0].ok()) {
      TestAddress peer;
      EXPECT_EQ(kernel().GetPeerName(socket.socket.fd, peer.get(), &peer.size), 0);
    } else {
      EXPECT_EQ(socket.ClassOf(socket.connects[0]), ErrorClass::kCancelled);
    }
    world().Turn();
    EXPECT_EQ(socket.connects.size(), 1u);
  }
}

TEST_P(ConformanceTest, CancelOfWhatIsIdleDoesNothing) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));

  for (const OpKind kind : {OpKind::kConnect, OpKind::kAccept, OpKind::kReceive, OpKind::kSend}) {
    socket.Cancel(kind);
  }

  world().TurnFor(kQuietSpell);
  EXPECT_TRUE(socket.socket.idle());
  EXPECT_EQ(socket.connects.size(), 1u);
  EXPECT_TRUE(socket.sends.empty() && socket.receive_ends.empty() && socket.accept_ends.empty());
}

// --- Accept.

TEST_P(ConformanceTest, AcceptsAHundredOfThem) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket listener(world());
    const TestAddress address = listener.Listen(domain);
    std::vector<Peer> dialed;
    for (int i = 0; i < 50; ++i) dialed.push_back(DialPlainly(kernel(), address));
    listener.Accept();
    ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 50; }));

    for (int i = 0; i < 50; ++i) dialed.push_back(DialPlainly(kernel(), address));

    ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 100; }));
    EXPECT_TRUE(listener.accept_ends.empty());
    for (const Peer& accepted : listener.accepted) {
      TestAddress peer;
      EXPECT_EQ(kernel().GetPeerName(accepted.fd(), peer.get(), &peer.size), 0);
    }
  }
}

TEST_P(ConformanceTest, AcceptsSixtyFourATurn) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  std::vector<Peer> dialed;
  for (int i = 0; i < 150; ++i) dialed.push_back(DialPlainly(kernel(), address));
  listener.Accept();

  std::size_t before = 0;
  ASSERT_TRUE(world().Await([&] {
    EXPECT_LE(listener.accepted.size() - before, 64u);
    before = listener.accepted.size();
    return before == 150;
  }));
}

TEST_P(ConformanceTest, AcceptedDescriptorsAreCloseOnExec) {
  if (!GetParam().real) GTEST_SKIP() << "no processes in a simulated kernel";
  TestSocket listener(world());
  const Peer dialed = DialPlainly(kernel(), listener.Listen());
  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));

  EXPECT_EQ(fcntl(listener.accepted[0].fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(fcntl(listener.socket.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_P(ConformanceTest, AnAcceptedDescriptorIsAdopted) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket listener(world());
    Peer dialed = DialPlainly(kernel(), listener.Listen(domain));
    listener.Accept();
    ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));
    TestSocket socket(world());

    ASSERT_EQ(socket.Adopt(listener.accepted[0].Release(), domain), 0);

    EXPECT_EQ(socket.socket.domain, domain);
    socket.Receive();
    dialed.Write("ping");
    ASSERT_TRUE(world().Await([&] { return socket.bytes == "ping"; }));
    socket.Send("pong");
    ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 1; }));
    EXPECT_EQ(dialed.Read(), "pong");
  }
}

TEST_P(ConformanceTest, CancelOfAcceptLeavesConnectionsQueued) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  listener.Accept();
  world().Turn();
  listener.Cancel(OpKind::kAccept);
  ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == 1; }));
  EXPECT_EQ(listener.ClassOf(listener.accept_ends[0]), ErrorClass::kCancelled);
  EXPECT_EQ(listener.accept_ends[0].error().operation, Operation::kAccept);

  const Peer dialed = DialPlainly(kernel(), address);
  EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
  EXPECT_TRUE(listener.accepted.empty());

  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));
}

TEST_P(ConformanceTest, CancelInsideOnAcceptEndsIt) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  std::vector<Peer> dialed;
  for (int i = 0; i < 10; ++i) dialed.push_back(DialPlainly(kernel(), address));
  listener.hook = [&](OpKind) { listener.Cancel(OpKind::kAccept); };
  listener.Accept();

  ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == 1; }));

  // Those that the kernel had handed over already may have come before the end; nobody got lost.
  EXPECT_GE(listener.accepted.size(), 1u);
  listener.hook = nullptr;
  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 10; }));
}

TEST_P(ConformanceTest, OutOfDescriptorsAcceptEndsOnceAndStartsAgain) {
  if (!GetParam().real) GTEST_SKIP() << "limits are those of the real kernel";
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  std::vector<Peer> dialed;
  for (int i = 0; i < 3; ++i) {
    dialed.emplace_back(kernel(), kernel().Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  DescriptorLimit limit;
  listener.Accept();
  world().Turn();
  limit.Exhaust();
  for (const Peer& peer : dialed) {
    ASSERT_EQ(kernel().Connect(peer.fd(), address.get(), address.size), 0);
  }

  for (std::size_t ends = 1; ends <= 2; ++ends) {
    ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == ends; }));
    const Error error = listener.accept_ends.back().error();
    EXPECT_EQ(error.operation, Operation::kAccept);
    EXPECT_EQ(error.error_class, ErrorClass::kResource);
    EXPECT_EQ(error.action, Action::kPause);
    // The connections still wait, and yet the loop sleeps.
    EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
    EXPECT_EQ(listener.accept_ends.size(), ends);
    if (ends == 1) listener.Accept();
  }
  // A single accept of io_uring has its descriptor before there is a connection for it.
  EXPECT_LE(listener.accepted.size(), 1u);
  limit.Relieve();
  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 3; }));
}

TEST_P(ConformanceTest, OpenWithoutDescriptorsFails) {
  if (!GetParam().real) GTEST_SKIP() << "limits are those of the real kernel";
  DescriptorLimit limit;
  limit.Exhaust();
  TestSocket socket(world());

  const int result = socket.Open();

  EXPECT_EQ(Classify(Call::kSocket, -result).error_class, ErrorClass::kResource);
  limit.Relieve();
  EXPECT_EQ(socket.Open(), 0);
}

// --- Receive.

TEST_P(ConformanceTest, ReceivesOnWithoutBeingAsked) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    socket.Receive();

    std::string sent;
    for (int i = 0; i < 20; ++i) {
      const std::string word = "word " + std::to_string(i) + ";";
      sent += word;
      peer.Write(word);
      ASSERT_TRUE(world().Await([&] { return socket.bytes == sent; }));
    }

    EXPECT_EQ(socket.socket.receive, OpState::kArmed);
    EXPECT_TRUE(socket.receive_ends.empty());
  }
}

TEST_P(ConformanceTest, BytesFromBeforeReceiveAreNotLost) {
  for (const int domain : kStreamDomains) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    peer.Write("early");
    world().TurnFor(kQuietSpell);
    ASSERT_EQ(socket.bytes, "");

    socket.Receive();

    ASSERT_TRUE(world().Await([&] { return socket.bytes == "early"; }));
  }
}

TEST_P(ConformanceTest, TheEndOfTheFileEndsReceive) {
  for (const int domain : kStreamDomains) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    socket.Receive();
    world().Turn();

    peer.Close();

    ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
    EXPECT_EQ(socket.receive_ends[0].value, 0);
    world().TurnFor(kQuietSpell);
    EXPECT_EQ(socket.receive_ends.size(), 1u);
  }
}

TEST_P(ConformanceTest, DataAndTheEndInOneEventBothArrive) {
  for (const int domain : kStreamDomains) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{100'000}}) {
      SCOPED_TRACE(size);
      TestSocket socket(world());
      Peer peer;
      ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
      const std::string data(size, 'd');
      std::size_t written = 0;
      // Without a reader all of it fits but for AF_UNIX, where the rest goes as there is room.
      const auto write = [&] {
        const ssize_t result = peer.Write(std::string_view(data).substr(written));
        if (result > 0) written += static_cast<std::size_t>(result);
        return written == size;
      };
      if (!write()) {
        socket.Receive();
        ASSERT_TRUE(world().AwaitPeer(write));
      }
      peer.Close();

      if (socket.socket.receive == OpState::kIdle) socket.Receive();

      ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
      EXPECT_EQ(socket.bytes.size(), size);
      EXPECT_EQ(socket.receive_ends[0].value, 0);
    }
  }
}

TEST_P(ConformanceTest, TheEndAfterDataOnAnArmedReceiveArrives) {
  // The edge of the FIN may be told together with the data, or by itself.
  for (int i = 0; i < 50; ++i) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer));
    socket.Receive();
    world().Turn();

    peer.Write("last words");
    if (i % 2 == 1) world().Turn();
    peer.Close();

    ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
    EXPECT_EQ(socket.bytes, "last words");
    EXPECT_EQ(socket.receive_ends[0].value, 0);
  }
}

TEST_P(ConformanceTest, AResetEndsReceive) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();

  peer.Reset();

  ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
  EXPECT_EQ(socket.ClassOf(socket.receive_ends[0]), ErrorClass::kReset);
  EXPECT_EQ(socket.receive_ends[0].error().operation, Operation::kReceive);
}

TEST_P(ConformanceTest, DataBeforeAResetArrives) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const std::string data(100, 'd');
  peer.Write(data);
  peer.Reset();

  socket.Receive();

  ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
  EXPECT_EQ(socket.bytes, data);
  EXPECT_LE(socket.receive_ends[0].value, 0);
}

TEST_P(ConformanceTest, CancelOfReceiveKeepsTheBytesForTheNext) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    socket.Receive();
    world().Turn();

    socket.Cancel(OpKind::kReceive);
    EXPECT_EQ(socket.socket.receive, OpState::kCancelling);
    ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == 1; }));
    EXPECT_EQ(socket.ClassOf(socket.receive_ends[0]), ErrorClass::kCancelled);
    EXPECT_EQ(socket.receive_ends[0].error().operation, Operation::kReceive);

    peer.Write("while nobody listens");
    EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
    EXPECT_EQ(socket.bytes, "");

    socket.Receive();
    ASSERT_TRUE(world().Await([&] { return socket.bytes == "while nobody listens"; }));
    peer.Write("!");
    ASSERT_TRUE(world().Await([&] { return socket.bytes == "while nobody listens!"; }));
  }
}

TEST_P(ConformanceTest, TheEndThatCameWhilePausedIsToldAfterwards) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  socket.Cancel(OpKind::kReceive);
  ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == 1; }));
  peer.Write("rest");
  peer.Close();
  world().TurnFor(kQuietSpell);

  socket.Receive();

  ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == 2; }));
  EXPECT_EQ(socket.bytes, "rest");
  EXPECT_EQ(socket.receive_ends[1].value, 0);
}

TEST_P(ConformanceTest, CancelInsideOnReceiveLosesNothing) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  std::string data;
  for (int i = 0; i < 50'000; ++i) data += static_cast<char>(i % 251);
  ASSERT_EQ(peer.Write(data), static_cast<ssize_t>(data.size()));
  // Every delivery cancels, every end starts anew.
  socket.hook = [&](OpKind) {
    if (socket.socket.receive == OpState::kIdle) {
      if (socket.receive_ends.back().value < 0) socket.Receive();
    } else {
      socket.Cancel(OpKind::kReceive);
    }
  };

  socket.Receive();

  ASSERT_TRUE(world().Await([&] { return socket.bytes.size() >= data.size(); }));
  EXPECT_TRUE(socket.bytes == data);
}

TEST_P(ConformanceTest, OneSocketHasItsShareOfATurn) {
  TestSocket loud(world());
  TestSocket quiet(world());
  Peer loud_peer;
  Peer quiet_peer;
  ASSERT_TRUE(world().ConnectPair(&loud, &loud_peer, AF_INET));
  ASSERT_TRUE(world().ConnectPair(&quiet, &quiet_peer, AF_INET));
  const std::string block(1 << 20, 'x');
  std::size_t written = static_cast<std::size_t>(std::max<ssize_t>(loud_peer.Write(block), 0));
  ASSERT_GE(written, 200'000u);
  loud.Receive();
  quiet.Receive();
  world().Turn();
  quiet_peer.Write("me too");

  int turns = 0;
  std::size_t turns_of_quiet = 0;
  for (; loud.bytes.size() < written && turns < 10'000; ++turns) {
    const std::size_t bytes_before = loud.bytes.size();
    const std::size_t count_before = loud.receives.size();
    world().Turn(1ms);
    EXPECT_LE(loud.receives.size() - count_before, 8u);
    EXPECT_LE(loud.bytes.size() - bytes_before, 64u * 1024);
    if (quiet.bytes.empty()) ++turns_of_quiet;
  }

  EXPECT_EQ(loud.bytes.size(), written);
  EXPECT_GE(turns, 4);
  EXPECT_LE(turns_of_quiet, 3u);
}

TEST_P(ConformanceTest, AfterThePeersHalfCloseItCanStillBeSentTo) {
  for (const int domain : kStreamDomains) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    socket.Receive();
    peer.ShutdownWrite();
    ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
    EXPECT_EQ(socket.receive_ends[0].value, 0);

    socket.Send("still here");

    ASSERT_TRUE(world().Await([&] { return !socket.sends.empty(); }));
    EXPECT_EQ(socket.sends[0].value, 10);
    EXPECT_EQ(peer.Read(), "still here");
  }
}

TEST_P(ConformanceTest, AfterOurHalfCloseReceiveGoesOn) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  ASSERT_EQ(kernel().Shutdown(socket.socket.fd, SHUT_WR), 0);
  world().Turn();

  peer.Write("answer");
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "answer"; }));
  peer.Close();

  ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));
  EXPECT_EQ(socket.receive_ends[0].value, 0);
}

// --- Send.

TEST_P(ConformanceTest, SendsAllPartsInOrder) {
  for (const int domain : kStreamDomains) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    std::vector<std::string> parts;
    std::string whole;
    for (std::size_t i = 0; i < kSendPartsMax; ++i) {
      parts.push_back(std::string(i + 1, static_cast<char>('a' + i)));
      whole += parts.back();
    }

    socket.SendParts(parts);

    ASSERT_TRUE(world().Await([&] { return !socket.sends.empty(); }));
    EXPECT_EQ(socket.sends[0].value, static_cast<int>(whole.size()));
    EXPECT_EQ(peer.Read(), whole);
  }
}

TEST_P(ConformanceTest, ASendFromInsideOnSendIsNotToldInsideIt) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.hook = [&](OpKind) {
    if (socket.sends.size() < 500) socket.Send("y");
  };

  socket.Send("y");

  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 500; }));
  EXPECT_EQ(peer.Read(), std::string(500, 'y'));
}

TEST_P(ConformanceTest, AFullPipeIsToldOnceThereIsRoom) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    const std::size_t taken = world().FillPipe(socket);
    ASSERT_EQ(socket.socket.send, OpState::kArmed);
    const std::size_t told = socket.sends.size();
    EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
    EXPECT_GE(world().stats().sends_blocked, 1u);

    std::string read;
    ASSERT_TRUE(world().AwaitPeer([&] {
      read += peer.Read();
      return socket.sends.size() > told;
    }));
    EXPECT_EQ(socket.sends.back().value, 0);
    ASSERT_TRUE(world().AwaitPeer([&] {
      read += peer.Read();
      return read.size() >= taken;
    }));
    EXPECT_EQ(read.size(), taken);  // Of the send that waited nothing was taken.

    socket.Send("now");
    ASSERT_TRUE(world().Await([&] { return socket.sends.size() == told + 2; }));
    EXPECT_EQ(socket.sends.back().value, 3);
  }
}

TEST_P(ConformanceTest, ABlockedSendWhoseReceiveIsArmedStillHearsOfRoom) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  world().FillPipe(socket);
  const std::size_t told = socket.sends.size();
  socket.Receive();
  peer.Write("hello");
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "hello"; }));
  EXPECT_EQ(socket.sends.size(), told);

  ASSERT_TRUE(world().AwaitPeer([&] {
    peer.Read();
    return socket.sends.size() > told;
  }));

  EXPECT_EQ(socket.sends.back().value, 0);
  peer.Write(", world");
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "hello, world"; }));
}

TEST_P(ConformanceTest, ABlockedSendIsCancelledAndNothingOfItTaken) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const std::size_t taken = world().FillPipe(socket);
  const std::size_t told = socket.sends.size();

  socket.Cancel(OpKind::kSend);

  ASSERT_TRUE(world().Await([&] { return socket.sends.size() > told; }));
  EXPECT_EQ(socket.ClassOf(socket.sends.back()), ErrorClass::kCancelled);
  EXPECT_EQ(socket.sends.back().error().operation, Operation::kSend);
  std::string read;
  ASSERT_TRUE(world().AwaitPeer([&] {
    read += peer.Read();
    return read.size() >= taken;
  }));
  EXPECT_EQ(read.size(), taken);

  socket.Send("again");
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == told + 2; }));
  EXPECT_EQ(socket.sends.back().value, 5);
}

TEST_P(ConformanceTest, ASendThatIsCancelledAtOnceTellsWhatWasTaken) {
  for (int i = 0; i < 50; ++i) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer));
    socket.Send("either or", i % 2 == 0 ? Notify::kPromptly : Notify::kWithNextEvent);
    if (i % 4 >= 2) world().Wait(Duration::zero());

    socket.Cancel(OpKind::kSend);

    ASSERT_TRUE(world().AwaitPeer([&] { return !socket.sends.empty(); }));
    if (socket.sends[0].ok()) {
      EXPECT_EQ(socket.sends[0].value, 9);
      EXPECT_EQ(peer.Read(), "either or");
    } else {
      EXPECT_EQ(socket.ClassOf(socket.sends[0]), ErrorClass::kCancelled);
      world().Turn();
      EXPECT_EQ(peer.Read(), "");
    }
  }
}

TEST_P(ConformanceTest, TheEndOfASendThatIsCancelledIsNeverQuiet) {
  // Whoever closes waits for it.
  for (const bool submitted : {false, true}) {
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer));
    socket.Send("quiet", Notify::kWithNextEvent);
    if (submitted) world().Wait(Duration::zero());

    socket.Cancel(OpKind::kSend);

    const Instant begin = world().Now();
    ASSERT_TRUE(world().Await([&] { return !socket.sends.empty(); }));
    EXPECT_LT(world().Now() - begin, kPatience / 2);
  }
}

TEST_P(ConformanceTest, ASendToAClosedPeerFailsWithoutASignal) {
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket socket(world());
    Peer peer;
    ASSERT_TRUE(world().ConnectPair(&socket, &peer, domain));
    if (domain == AF_INET) {
      peer.Reset();
    } else {
      peer.Close();
    }

    // SIGPIPE would end this process.
    for (std::size_t i = 0; i < 3; ++i) {
      socket.Send("anybody?");
      ASSERT_TRUE(world().Await([&] { return socket.sends.size() == i + 1; }));
      EXPECT_EQ(socket.ClassOf(socket.sends.back()), ErrorClass::kReset);
      EXPECT_EQ(socket.sends.back().error().operation, Operation::kSend);
    }
  }
}

TEST_P(ConformanceTest, ABlockedSendEndsWhenThePeerResets) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  world().FillPipe(socket);
  const std::size_t told = socket.sends.size();

  peer.Reset();

  // Told the errno, or told to try again; then the next attempt is told.
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() > told; }));
  EXPECT_LE(socket.sends.back().value, 0);
  if (socket.sends.back().ok()) {
    socket.Send("?");
    ASSERT_TRUE(world().Await([&] { return socket.sends.size() > told + 1; }));
  }
  EXPECT_EQ(socket.ClassOf(socket.sends.back()), ErrorClass::kReset);
}

TEST_P(ConformanceTest, AQuietSuccessDoesNotWakeAndIsToldWithTheNextEvent) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().TurnFor(kQuietSpell);
  socket.Send("quiet", Notify::kWithNextEvent);

  // Without a way to keep its completion back, io_uring cannot be quiet, and may wake.
  if ((GetParam().options.disable_mask & kUringSkipSuccess) == 0) {
    EXPECT_TRUE(SleepsFor(kQuietSpell, kQuietSpell));
    EXPECT_FALSE(world().backend().HasReady());
  } else {
    world().Wait(kQuietSpell);
  }
  EXPECT_EQ(peer.Read(), "quiet");  // Sent it was.
  peer.Write("echo");
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "echo"; }));
  ASSERT_EQ(socket.sends.size(), 1u);
  EXPECT_EQ(socket.sends[0].value, 5);
}

TEST_P(ConformanceTest, APromptSuccessWakes) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));

  socket.Send("prompt", Notify::kPromptly);
  world().Wait(kPatience);

  EXPECT_TRUE(world().backend().HasReady());
  world().Dispatch();
  ASSERT_EQ(socket.sends.size(), 1u);
  EXPECT_EQ(socket.sends[0].value, 6);
}

TEST_P(ConformanceTest, AQuietSendThatDoesNotGoWhollyWakes) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const std::string large(32 << 20, 'l');
  socket.Send(large, Notify::kWithNextEvent);
  world().Wait(kPatience);
  EXPECT_TRUE(world().backend().HasReady());
  world().Dispatch();
  ASSERT_EQ(socket.sends.size(), 1u);
  EXPECT_GT(socket.sends[0].value, 0);
  EXPECT_LT(socket.sends[0].value, static_cast<int>(large.size()));
  EXPECT_EQ(world().stats().sends_short, 1u);

  peer.Reset();
  socket.Send("failure", Notify::kWithNextEvent);
  world().Wait(kPatience);
  EXPECT_TRUE(world().backend().HasReady());
  world().Dispatch();
  ASSERT_EQ(socket.sends.size(), 2u);
  EXPECT_LT(socket.sends[1].value, 0);
}

TEST_P(ConformanceTest, AQuietSuccessDoesNotHideWhatComesAfterIt) {
  // A socket that has only news that can wait gets news that cannot, between two dispatches.
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  socket.hook = [&](OpKind kind) {
    if (kind == OpKind::kReceive && socket.socket.send == OpState::kIdle) {
      socket.Send("r", Notify::kWithNextEvent);
    }
  };

  for (std::size_t i = 1; i <= 50; ++i) {
    peer.Write("d");
    ASSERT_TRUE(world().Await([&] { return socket.bytes.size() == i; }));
  }
}

TEST_P(ConformanceTest, MegabytesBothWaysArriveToTheByte) {
  Random random(PrintedSeed());
  for (const int domain : kStreamDomains) {
    SCOPED_TRACE(domain);
    TestSocket listener(world());
    const TestAddress address = listener.Listen(domain);
    listener.Accept();
    TestSocket left(world());
    ASSERT_EQ(left.Open(domain), 0);
    left.Connect(address);
    ASSERT_TRUE(
        world().Await([&] { return left.connects.size() == 1 && listener.accepted.size() == 1; }));
    TestSocket right(world());
    ASSERT_EQ(right.Adopt(listener.accepted[0].Release(), domain), 0);

    struct Flow {
      TestSocket& socket;
      std::string data;
      std::size_t sent = 0;
    };
    Flow flows[] = {{left, {}}, {right, {}}};
    const auto send_next = [&](Flow& flow) {
      std::vector<std::string> parts;
      std::size_t position = flow.sent;
      for (std::uint64_t i = random.Between(1, kSendPartsMax); i > 0; --i) {
        const auto size = static_cast<std::size_t>(random.Between(1, 30'000));
        parts.push_back(flow.data.substr(position, size));
        position += parts.back().size();
        if (position == flow.data.size()) break;
      }
      flow.socket.SendParts(parts, Notify::kPromptly);
    };
    for (Flow& flow : flows) {
      flow.socket.SetBuffers(48 << 10, 256 << 10);
      flow.data.resize(3 << 20);
      for (char& byte : flow.data) byte = static_cast<char>(random.Next());
      flow.socket.hook = [&](OpKind kind) {
        if (kind == OpKind::kSend) {
          ASSERT_TRUE(flow.socket.sends.back().ok());
          flow.sent += static_cast<std::size_t>(flow.socket.sends.back().value);
          if (flow.sent < flow.data.size()) send_next(flow);
        } else if (flow.socket.socket.receive == OpState::kIdle) {
          flow.socket.Receive();
        } else if (random.Below(40) == 0) {
          flow.socket.Cancel(OpKind::kReceive);
        }
      };
      flow.socket.Receive();
      send_next(flow);
    }

    ASSERT_TRUE(world().Await([&] {
      return left.bytes.size() >= flows[1].data.size() &&
             right.bytes.size() >= flows[0].data.size();
    }));

    EXPECT_TRUE(left.bytes == flows[1].data);
    EXPECT_TRUE(right.bytes == flows[0].data);
  }
  EXPECT_GT(world().stats().sends_short, 0u);
  EXPECT_GT(world().stats().sends_blocked, 0u);
}

// --- Lifetimes.

TEST_P(ConformanceTest, ASocketWithNewsIsClosedInTheCallbackOfAnother) {
  for (const bool reuse : {false, true}) {
    TestSocket first(world());
    auto second = std::make_unique<TestSocket>(world());
    TestSocket third(world());
    Peer first_peer;
    Peer second_peer;
    ASSERT_TRUE(world().ConnectPair(&first, &first_peer));
    ASSERT_TRUE(world().ConnectPair(second.get(), &second_peer));
    // Known to the kernel, but with nothing under way.
    second->Receive();
    world().Turn();
    ASSERT_TRUE(second->Settle());
    first.Receive();
    world().Turn();
    first.hook = [&](OpKind) {
      if (second == nullptr) return;
      second->Close();
      second.reset();
      if (reuse) {
        EXPECT_EQ(third.Open(), 0);  // Likely with the same descriptor and the same slot.
      }
    };

    second_peer.Write("to whom?");
    first_peer.Write("go");

    ASSERT_TRUE(world().Await([&] { return second == nullptr; }));
    world().TurnFor(kQuietSpell);
    EXPECT_EQ(third.bytes, "");
    EXPECT_EQ(first.bytes, "go");
  }
}

TEST_P(ConformanceTest, NothingOfATenantIsToldToTheNext) {
  // Every round ends with a cancel and a close while the peer sends; the next one takes over the
  // slot.
  PeerListener listener(kernel());
  std::vector<Peer> peers;
  for (int i = 0; i < 200; ++i) {
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(), 0);
    socket.Connect(listener.address);
    ASSERT_TRUE(world().Await([&] { return socket.connects.size() == 1; }));
    peers.push_back(listener.Accept());
    ASSERT_TRUE(peers.back().open());
    const std::string own = "round " + std::to_string(i);
    peers.back().Write(own);
    socket.Receive();
    ASSERT_TRUE(world().Await([&] { return socket.bytes.size() >= own.size(); }));
    EXPECT_EQ(socket.bytes, own);
    for (Peer& peer : peers) {
      if (peer.open()) peer.Write("late");
    }
    socket.Cancel(OpKind::kReceive);
    if (i % 2 == 0) peers.front().Close();
    if (peers.size() > 8) peers.erase(peers.begin());
  }
}

// The smallest receiver, which is gone as soon as its operation is over.
class ShortLived final : public SocketEvents {
 public:
  ShortLived(Backend& backend, int* gone) : backend_(backend), gone_(gone) {}

  Socket socket{*this};

 private:
  ~ShortLived() = default;

  void OnConnect(Socket&, Result) noexcept override { End(); }
  void OnAccept(Socket&, Result result) noexcept override {
    if (!result.ok()) End();
  }
  void OnReceive(Socket&, Result result, const std::byte*) noexcept override {
    if (result.value <= 0) End();
  }
  void OnSend(Socket&, Result) noexcept override { End(); }

  void End() noexcept {
    backend_.Close(socket);
    ++*gone_;
    delete this;
  }

  Backend& backend_;
  int* gone_;
};

TEST_P(ConformanceTest, TheReceiverMayBeGoneAfterItsLastCallback) {
  int gone = 0;
  Backend& backend = world().backend();
  const Refusal refusal(kernel());
  const TestAddress nowhere = refusal.tcp();
  PeerListener listener(kernel());
  std::vector<Peer> peers;
  const auto connected = [&] {
    auto* const receiver = new ShortLived(backend, &gone);
    Peer dialed = DialPlainly(kernel(), listener.address);
    peers.push_back(listener.Accept());
    EXPECT_EQ(backend.Adopt(receiver->socket, dialed.Release(), AF_INET), 0);
    return receiver;
  };

  auto* const refused = new ShortLived(backend, &gone);
  ASSERT_EQ(backend.Open(refused->socket, AF_INET), 0);
  backend.Connect(refused->socket, nowhere.get(), nowhere.size);
  ShortLived* const ended = connected();
  backend.Receive(ended->socket);
  peers.back().Close();
  ShortLived* const paused = connected();
  backend.Receive(paused->socket);
  backend.Cancel(paused->socket, OpKind::kReceive);
  ShortLived* const sent = connected();
  char byte = 'x';
  const iovec part{&byte, 1};
  backend.Send(sent->socket, {&part, 1}, Notify::kPromptly);
  auto* const listening = new ShortLived(backend, &gone);
  const TestAddress any = TestAddress::Any(AF_INET);
  ASSERT_EQ(backend.Open(listening->socket, AF_INET), 0);
  ASSERT_EQ(kernel().Bind(listening->socket.fd, any.get(), any.size), 0);
  ASSERT_EQ(kernel().Listen(listening->socket.fd, 1), 0);
  backend.Accept(listening->socket);
  backend.Cancel(listening->socket, OpKind::kAccept);

  ASSERT_TRUE(world().AwaitPeer([&] { return gone == 5; }));
  world().TurnFor(kQuietSpell);
}

TEST_P(ConformanceTest, SlotsAreUsedAgainUnderAnotherGeneration) {
  std::vector<std::uint64_t> words;
  std::uint32_t slot_max = 0;
  for (int i = 0; i < 1000; ++i) {
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(), 0);
    words.push_back(std::uint64_t{socket.socket.generation} << 32 | socket.socket.slot);
    slot_max = std::max(slot_max, socket.socket.slot);
    socket.Close();
  }
  std::sort(words.begin(), words.end());

  EXPECT_EQ(std::unique(words.begin(), words.end()), words.end());
  EXPECT_LT(slot_max, 8u);
}

TEST_P(ConformanceTest, AThousandSocketsLeaveNoDescriptor) {
  PeerListener listener(kernel());
  const std::ptrdiff_t before = GetParam().real ? CountDescriptors() : 0;
  for (int round = 0; round < 10; ++round) {
    std::vector<std::unique_ptr<TestSocket>> sockets;
    std::vector<Peer> peers;
    for (int i = 0; i < 100; ++i) {
      sockets.push_back(std::make_unique<TestSocket>(world()));
      ASSERT_EQ(sockets.back()->Open(), 0);
      sockets.back()->Connect(listener.address);
    }
    ASSERT_TRUE(world().Await([&] {
      return std::all_of(sockets.begin(), sockets.end(),
                         [](const auto& socket) { return !socket->connects.empty(); });
    }));
    for (const auto& socket : sockets) {
      EXPECT_TRUE(socket->connects[0].ok());
      socket->Receive();
      peers.push_back(listener.Accept());
    }
    world().Turn();
    if (round % 2 == 0) peers.clear();  // Either end may be the first to go.
  }
  if (GetParam().real) {
    EXPECT_EQ(CountDescriptors(), before);
  }
}

TEST_P(ConformanceTest, AnyOrderOfVerbsKeepsTheRules) {
  Random random(PrintedSeed());
  PeerListener listener(kernel());
  const Refusal refusal(kernel());
  const TestAddress nowhere = refusal.tcp();
  std::vector<std::unique_ptr<TestSocket>> sockets(12);
  std::vector<Peer> peers;
  constexpr OpKind kKinds[] = {OpKind::kConnect, OpKind::kAccept, OpKind::kReceive, OpKind::kSend};
  const auto act = [&](std::unique_ptr<TestSocket>& place) {
    if (place == nullptr) {
      place = std::make_unique<TestSocket>(world());
      ASSERT_EQ(place->Open(), 0);
      place->Connect(random.Below(8) == 0 ? nowhere : listener.address);
      return;
    }
    TestSocket& socket = *place;
    const bool up = !socket.connects.empty() && socket.connects[0].ok();
    switch (random.Below(8)) {
      case 0:
      case 1:
      case 2:
        if (up && socket.socket.receive == OpState::kIdle) socket.Receive();
        break;
      case 3:
      case 4:
        if (up && socket.socket.send == OpState::kIdle) {
          socket.Send(std::string(random.Between(1, 400'000), 'r'),
                      random.Below(2) == 0 ? Notify::kPromptly : Notify::kWithNextEvent);
        }
        break;
      case 5:
      case 6:
        socket.Cancel(kKinds[random.Below(4)]);
        break;
      default:
        for (const OpKind kind : kKinds) socket.Cancel(kind);
        if (socket.socket.idle()) place.reset();
    }
  };

  for (int step = 0; step < 5'000; ++step) {
    act(sockets[random.Below(sockets.size())]);
    if (peers.size() < 16) {
      if (Peer peer = listener.Accept(); peer.open()) peers.push_back(std::move(peer));
    }
    if (!peers.empty()) {
      const auto index = static_cast<std::ptrdiff_t>(random.Below(peers.size()));
      Peer& peer = peers[static_cast<std::size_t>(index)];
      switch (random.Below(12)) {
        case 0:
          peer.Reset();
          peers.erase(peers.begin() + index);
          break;
        case 1:
          peers.erase(peers.begin() + index);
          break;
        case 2:
          static_cast<void>(kernel().Shutdown(peer.fd(), SHUT_WR));
          break;
        case 3:
        case 4:
        case 5:
          peer.Write(std::string(random.Between(1, 50'000), 'p'));
          break;
        case 6:
        case 7:
          peer.Read();
          break;
        default:
          break;
      }
    }
    if (random.Below(2) == 0) {
      world().Wait(Duration(static_cast<std::int64_t>(random.Below(50'000))));
      world().Dispatch(static_cast<unsigned>(random.Between(0, 6)));
    }
  }
}

// --- The loop.

TEST_P(ConformanceTest, WaitIsNotEarly) {
  for (const Duration timeout : {Duration(1), Duration(1us), Duration(100us), Duration(1ms),
                                 Duration(7ms), Duration(50ms)}) {
    SCOPED_TRACE(timeout.count());
    EXPECT_TRUE(SleepsFor(timeout, timeout));
  }
}

TEST_P(ConformanceTest, ALongWaitMayEndATouchEarlyAndTheLoopWaitsForTheRest) {
  constexpr Duration kLong = 150ms;
  EXPECT_TRUE(SleepsFor(kLong, kLong - kLong / 256));
  EXPECT_LE(world().TurnFor(kLong), kWaitsInQuiet);
}

TEST_P(ConformanceTest, WaitWithoutATimeDoesNotSleep) {
  const Instant begin = world().Now();
  for (int i = 0; i < 100; ++i) world().Wait(Duration::zero());
  world().Wait(Duration(-1));
  EXPECT_LT(world().Now() - begin, kPatience);
  EXPECT_FALSE(world().backend().HasReady());
}

TEST_P(ConformanceTest, WakeBeforeWaitIsNotLost) {
  world().backend().Wake();
  const Instant begin = world().Now();
  world().Wait(kPatience);
  EXPECT_LT(world().Now() - begin, kPatience);
  EXPECT_EQ(world().stats().wakes, 1u);

  // And it is used up.
  world().Dispatch();
  EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
}

// Whoever embeds the backend may also let it sleep by itself.
TEST_P(ConformanceTest, WakeBeforeWaitIsNotLostOnceTheDescriptorWasAskedFor) {
  ASSERT_GE(world().backend().fd(), 0);
  for (int i = 0; i < 3; ++i) world().Turn();
  for (int i = 0; i < 3; ++i) {
    world().backend().Wake();
    const Instant begin = world().Now();
    world().Wait(kPatience);
    ASSERT_LT(world().Now() - begin, kPatience);
    // And it is used up.
    world().Dispatch();
    EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
  }
}

TEST_P(ConformanceTest, WakeFromAnotherThreadIsNeverLost) {
  if (!GetParam().real) GTEST_SKIP() << "no threads in a simulated kernel";
  constexpr int kRounds = 3'000;
  std::atomic<int> asked{0};
  std::atomic<int> answered{0};
  std::thread waker([&] {
    for (int i = 1; i <= kRounds; ++i) {
      while (answered.load(std::memory_order_acquire) < i - 1) std::this_thread::yield();
      asked.store(i, std::memory_order_release);
      world().backend().Wake();
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    while (asked.load(std::memory_order_acquire) < i) {
      const Instant begin = world().Now();
      world().Wait(kPatience);
      world().Dispatch();
      EXPECT_LT(world().Now() - begin, kPatience) << "a lost wake-up, round " << i;
    }
    answered.store(i, std::memory_order_release);
  }
  waker.join();
  EXPECT_EQ(world().stats().wakes, static_cast<std::uint64_t>(kRounds));
}

TEST_P(ConformanceTest, WakeEndsAWaitWithoutEnd) {
  if (!GetParam().real) GTEST_SKIP() << "no threads in a simulated kernel";
  std::thread waker([&] { world().backend().Wake(); });
  world().Wait(kNeverTimeout);
  waker.join();
}

Backend* woken_by_signal = nullptr;

TEST_P(ConformanceTest, WakeFromASignalHandlerEndsWait) {
  if (!GetParam().real) GTEST_SKIP() << "no signals in a simulated kernel";
  woken_by_signal = &world().backend();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { woken_by_signal->Wake(); };
  action.sa_flags = SA_RESTART;
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  const pthread_t waiting = pthread_self();
  std::thread sender([&] { pthread_kill(waiting, SIGUSR1); });

  // The handler may have run before Wait; then its wake is what ends it.
  while (world().stats().wakes == 0) world().Wait(kPatience);

  sender.join();
  EXPECT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  EXPECT_EQ(world().stats().wakes, 1u);
}

TEST_P(ConformanceTest, DispatchKeepsToItsBudgetAndSaysThatThereIsMore) {
  PeerListener listener(kernel());
  std::vector<std::unique_ptr<TestSocket>> sockets;
  std::vector<Peer> peers;
  for (int i = 0; i < 10; ++i) {
    sockets.push_back(std::make_unique<TestSocket>(world()));
    ASSERT_TRUE(world().ConnectPair(sockets.back().get(), &peers.emplace_back()));
    sockets.back()->Receive();
  }
  world().Turn();
  for (Peer& peer : peers) peer.Write("x");
  world().Wait(kPatience);
  ASSERT_TRUE(world().backend().HasReady());

  std::size_t told = 0;
  const auto count = [&] {
    std::size_t sum = 0;
    for (const auto& socket : sockets) sum += socket->receives.size();
    return sum;
  };
  ASSERT_TRUE(world().Dispatch(0));
  EXPECT_EQ(count(), 0u);
  ASSERT_TRUE(world().Await([&] {
    EXPECT_LE(count() - told, 1000u);
    told = count();
    if (told < 9 && world().backend().HasReady()) {
      const bool more = world().Dispatch(3);
      EXPECT_EQ(more, world().backend().HasReady());
      EXPECT_LE(count() - told, 3u);
      told = count();
    }
    return told == 10;
  }));
}

TEST_P(ConformanceTest, AcceptsKeepToTheBudgetToo) {
  TestSocket listening(world());
  const TestAddress address = listening.Listen();
  listening.Accept();
  world().Turn();
  std::vector<Peer> dialed;
  for (int i = 0; i < 10; ++i) dialed.push_back(DialPlainly(kernel(), address));

  for (const Instant begin = world().Now(); world().Now() - begin < kPatience;) {
    if (listening.accepted.size() == dialed.size()) break;
    world().Wait(kPatience);
    world().Dispatch(3);  // Which looks that it keeps to it.
  }

  EXPECT_EQ(listening.accepted.size(), dialed.size());
}

TEST_P(ConformanceTest, EverySendThatReachedTheKernelIsCounted) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const std::uint64_t before = world().stats().sends;

  for (std::size_t i = 1; i <= 3; ++i) {
    socket.Send("one");
    ASSERT_TRUE(world().Await([&] { return socket.sends.size() == i; }));
  }

  EXPECT_EQ(world().stats().sends - before, 3u);
}

TEST_P(ConformanceTest, WaitDoesNotSleepOverWhatIsLeft) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  ASSERT_EQ(peer.Write(std::string(40'000, 'x')), 40'000);
  world().Wait(kPatience);

  // One delivery a turn, and never a wait that sleeps in between.
  const Instant begin = world().Now();
  while (socket.bytes.size() < 40'000 && world().Now() - begin < kPatience) {
    world().Dispatch(1);
    if (socket.bytes.size() < 40'000) world().Wait(kPatience);
  }
  EXPECT_LT(world().Now() - begin, kPatience);
  EXPECT_EQ(socket.bytes.size(), 40'000u);
}

TEST_P(ConformanceTest, ABudgetOfOneStarvesNobody) {
  TestSocket loud(world());
  TestSocket quiet(world());
  Peer loud_peer;
  Peer quiet_peer;
  ASSERT_TRUE(world().ConnectPair(&loud, &loud_peer));
  ASSERT_TRUE(world().ConnectPair(&quiet, &quiet_peer));
  loud.Receive();
  quiet.Receive();
  world().Wait(Duration::zero());

  // The loud peer never runs out of bytes to write. What may come before the quiet one's bytes is what
  // the kernel can have handed over by the time they are written: over epoll nothing but the loud one's
  // own turn, over io_uring all receive buffers, and what they are refilled with while they are told.
  const BackendOptions& options = GetParam().options;
  const bool epoll = std::string_view(world().backend().name()) == "epoll";
  const unsigned fair = epoll ? 3 : 3 * options.buffer_count;
  const std::string chunk(std::size_t{256} << 10, 'x');
  const auto turn = [&] {
    while (loud_peer.Write(chunk) > 0) {
    }
    world().Wait(kPatience);
    world().Dispatch(1);
  };
  while (loud.bytes.size() < chunk.size()) turn();
  quiet_peer.Write("me too");
  unsigned turns = 0;
  for (; quiet.bytes.empty() && turns < fair; ++turns) turn();

  EXPECT_EQ(quiet.bytes, "me too") << "after " << turns << " turns";
}

struct WatchCount {
  static void Count(void* context) { ++static_cast<WatchCount*>(context)->calls; }
  int calls = 0;
};

class WatchedEvent {
 public:
  // An epoll instance with an eventfd in it, as the reactor's Watch has.
  explicit WatchedEvent(Kernel& kernel)
      : kernel_(kernel), epoll_fd_(kernel.EpollCreate()), event_fd_(kernel.EventFd()) {
    epoll_event event{};
    event.events = EPOLLIN;
    EXPECT_EQ(kernel.EpollCtl(epoll_fd_, EPOLL_CTL_ADD, event_fd_, &event), 0);
  }
  WatchedEvent(const WatchedEvent&) = delete;
  WatchedEvent& operator=(const WatchedEvent&) = delete;
  ~WatchedEvent() {
    kernel_.Close(event_fd_);
    kernel_.Close(epoll_fd_);
  }

  int fd() const { return epoll_fd_; }
  void Set() {
    const std::uint64_t one = 1;
    EXPECT_EQ(kernel_.Write(event_fd_, &one, sizeof(one)), 8);
  }
  void Clear() {
    std::uint64_t count = 0;
    EXPECT_EQ(kernel_.Read(event_fd_, &count, sizeof(count)), 8);
  }

 private:
  Kernel& kernel_;
  const int epoll_fd_;
  const int event_fd_;
};

TEST_P(ConformanceTest, TheWatchIsCalledForAsLongAsItIsReadable) {
  WatchedEvent watched(kernel());
  WatchCount count;
  ASSERT_EQ(world().backend().SetWatch(watched.fd(), &WatchCount::Count, &count), 0);
  EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
  EXPECT_EQ(count.calls, 0);

  watched.Set();
  ASSERT_TRUE(world().Await([&] { return count.calls >= 3; }));
  watched.Clear();
  world().Turn();  // May have known of it already.
  const int calls = count.calls;
  EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
  EXPECT_LE(count.calls, calls + 1);

  watched.Set();
  ASSERT_TRUE(world().Await([&] { return count.calls > calls + 1; }));
  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);
  const int calls_at_end = count.calls;
  EXPECT_LE(world().TurnFor(kQuietSpell), kWaitsInQuiet);
  EXPECT_EQ(count.calls, calls_at_end);
}

TEST_P(ConformanceTest, TheWatchCanBeReplacedAndEndedInItsOwnCallback) {
  WatchedEvent first(kernel());
  WatchedEvent second(kernel());
  first.Set();
  second.Set();
  struct Context {
    BackendWorld& world;
    int next_fd;
    int calls = 0;
    WatchCount of_next;
  } context{world(), second.fd(), 0, {}};
  ASSERT_EQ(world().backend().SetWatch(
                first.fd(),
                [](void* opaque) {
                  auto* const self = static_cast<Context*>(opaque);
                  ++self->calls;
                  EXPECT_EQ(self->world.backend().SetWatch(self->next_fd, &WatchCount::Count,
                                                           &self->of_next),
                            0);
                },
                &context),
            0);

  ASSERT_TRUE(world().Await([&] { return context.of_next.calls > 0; }));

  EXPECT_EQ(context.calls, 1);
  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);
}

TEST_P(ConformanceTest, AWatchThatEndsBeforeDispatchIsNotCalled) {
  WatchedEvent watched(kernel());
  WatchCount count;
  ASSERT_EQ(world().backend().SetWatch(watched.fd(), &WatchCount::Count, &count), 0);
  world().Turn();
  watched.Set();
  world().Wait(kPatience);

  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);

  world().Dispatch();
  EXPECT_EQ(count.calls, 0);
}

TEST_P(ConformanceTest, TheWatchDoesNotStarveSocketsNorTheyIt) {
  WatchedEvent watched(kernel());
  WatchCount count;
  ASSERT_EQ(world().backend().SetWatch(watched.fd(), &WatchCount::Count, &count), 0);
  watched.Set();
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  const int calls = count.calls;

  for (std::size_t i = 1; i <= 20; ++i) {
    peer.Write("x");
    ASSERT_TRUE(world().Await([&] { return socket.bytes.size() == i; }));
  }

  EXPECT_GT(count.calls, calls);
  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);
}

TEST_P(ConformanceTest, TheDescriptorIsReadableWhenWaitWouldNotSleep) {
  const auto would_wake = [&] {
    return world().backend().HasReady() || world().DescriptorIsReadable();
  };
  // It may be readable for nothing, but not go on so.
  const auto comes_to_rest = [&] {
    for (int i = 0; i < 3; ++i) {
      world().Turn();
      if (!would_wake()) return true;
    }
    return false;
  };
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  EXPECT_TRUE(comes_to_rest());

  peer.Write("news");
  EXPECT_TRUE(world().DescriptorIsReadable());
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "news"; }));
  EXPECT_TRUE(comes_to_rest());

  world().backend().Wake();
  EXPECT_TRUE(world().DescriptorIsReadable());
  EXPECT_TRUE(comes_to_rest());

  ASSERT_EQ(peer.Write(std::string(40'000, 'x')), 40'000);
  world().Wait(kPatience);
  world().Dispatch(1);
  ASSERT_LT(socket.bytes.size(), 40'000u);
  EXPECT_TRUE(would_wake());
}

TEST_P(ConformanceTest, AnotherLoopThatAlreadySleepsIsWokenByTheDescriptor) {
  if (!GetParam().real) GTEST_SKIP() << "no threads in a simulated kernel";
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  WatchedEvent watched(kernel());
  WatchCount count;
  ASSERT_EQ(world().backend().SetWatch(watched.fd(), &WatchCount::Count, &count), 0);
  socket.Receive();
  const int other_loop = kernel().EpollCreate();
  epoll_event event{};
  event.events = EPOLLIN;
  ASSERT_EQ(kernel().EpollCtl(other_loop, EPOLL_CTL_ADD, world().backend().fd(), &event), 0);
  // Turns only when the other loop is woken, as an embedder does.
  const auto embedded = [&](const auto& done) {
    const Instant end = world().Now() + kPatience;
    while (!done() && world().Now() < end) {
      if (!world().backend().HasReady()) kernel().EpollWait(other_loop, &event, 1, kPatience);
      world().Turn();
    }
    return done();
  };
  for (int i = 0; i < 3; ++i) world().Turn();

  for (std::size_t i = 1; i <= 100; ++i) {
    std::thread writer([&] { peer.Write("x"); });
    EXPECT_TRUE(embedded([&] { return socket.bytes.size() == i; }));
    writer.join();
    std::atomic<bool> woken{false};
    std::thread waker([&] {
      woken.store(true);
      world().backend().Wake();
    });
    EXPECT_TRUE(embedded([&] { return woken.load(); }));
    waker.join();
    const int calls = count.calls;
    std::thread setter([&] { watched.Set(); });
    EXPECT_TRUE(embedded([&] { return count.calls > calls; }));
    setter.join();
    watched.Clear();
    if (HasFailure()) break;
  }
  kernel().Close(other_loop);
  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);
}

TEST_P(ConformanceTest, EnableCountsOnceAndMayBeCalledAgain) {
  EXPECT_EQ(world().backend().Enable(), 0);
  EXPECT_EQ(world().backend().Enable(), 0);
}

TEST_P(ConformanceTest, ABackendThatWasNeverEnabledGoesAway) {
  auto backend = GetParam().create(kernel(), GetParam().options);
  ASSERT_TRUE(backend.ok());
  EXPECT_GE((*backend)->fd(), 0);
}

TEST_P(ConformanceTest, VerbsBeforeTheFirstEnableAreKept) {
  // A listener is opened before Run; whoever calls Run first enables.
  auto created = GetParam().create(kernel(), GetParam().options);
  ASSERT_TRUE(created.ok());
  struct Recorder final : SocketEvents {
    void OnConnect(Socket&, Result result) noexcept override { connects.push_back(result); }
    void OnAccept(Socket&, Result) noexcept override {}
    void OnReceive(Socket&, Result, const std::byte*) noexcept override {}
    void OnSend(Socket&, Result) noexcept override {}
    std::vector<Result> connects;
    Socket socket{*this};
  } recorder;
  Backend& backend = **created;
  PeerListener listener(kernel());
  ASSERT_EQ(backend.Open(recorder.socket, AF_INET), 0);
  backend.Connect(recorder.socket, listener.address.get(), listener.address.size);

  ASSERT_EQ(backend.Enable(), 0);

  const Instant end = kernel().ClockNow() + kPatience;
  while (recorder.connects.empty() && kernel().ClockNow() < end) {
    backend.Wait(kPatience);
    backend.Dispatch(10);
  }
  ASSERT_EQ(recorder.connects.size(), 1u);
  EXPECT_EQ(recorder.connects[0].value, 0);
  backend.Close(recorder.socket);
}

INSTANTIATE_TEST_SUITE_P(Real, ConformanceTest, testing::ValuesIn(RealBackendCases()), CaseName);

// The same over the simulated kernel: what the simulator promises is what Linux does.
std::vector<BackendCase> SimBackendCases() {
  std::vector<BackendCase> cases = RealBackendCases();
  for (BackendCase& sim : cases) {
    sim.kernel = &sim::LoopbackKernel;
    sim.real = false;
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Sim, ConformanceTest, testing::ValuesIn(SimBackendCases()), CaseName);

}  // namespace
}  // namespace holdfast::internal
