// What is true of the epoll backend alone: what it does when the kernel says no, and what it costs.
#include <gtest/gtest.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "backend_fixture.h"
#include "base/poison.h"
#include "sys/fault_kernel.h"
#include "wait_spy.h"

namespace holdfast::internal {
namespace {

class EpollTest : public testing::Test {
 protected:
  void SetUp() override {
    descriptors_before_ = CountDescriptors();
    auto backend = CreateEpollBackend(kernel_, {});
    ASSERT_TRUE(backend.ok()) << backend.status();
    world_ = std::make_unique<BackendWorld>(kernel_, std::move(*backend));
  }

  void TearDown() override {
    kernel_.Clear();
    world_.reset();
    EXPECT_EQ(CountDescriptors(), descriptors_before_);
  }

  BackendWorld& world() { return *world_; }
  std::uint64_t calls(KernelCall call) const { return kernel_.calls(call); }

  FaultKernel kernel_{RealKernel()};

 private:
  std::unique_ptr<BackendWorld> world_;
  std::ptrdiff_t descriptors_before_ = 0;
};

// --- Creation.

TEST(EpollCreationTest, FailsWithTheReasonAndLeavesNothingBehind) {
  struct Case {
    Fault fault;
    absl::StatusCode code;
  };
  const Case cases[] = {
      {{.call = KernelCall::kEpollCreate, .result = -EMFILE}, absl::StatusCode::kResourceExhausted},
      {{.call = KernelCall::kEpollCreate, .result = -ENFILE}, absl::StatusCode::kResourceExhausted},
      {{.call = KernelCall::kEpollCreate, .result = -EPERM}, absl::StatusCode::kUnknown},
      {{.call = KernelCall::kEventFd, .result = -EMFILE}, absl::StatusCode::kResourceExhausted},
      {{.call = KernelCall::kEpollCtl, .result = -ENOMEM}, absl::StatusCode::kResourceExhausted},
  };
  const std::ptrdiff_t before = CountDescriptors();
  for (const Case& one : cases) {
    FaultKernel kernel(RealKernel());
    const int rule = kernel.Inject(one.fault);

    const auto backend = CreateEpollBackend(kernel, {});

    EXPECT_EQ(backend.status().code(), one.code) << backend.status();
    EXPECT_EQ(kernel.hits(rule), 1u);
    EXPECT_EQ(CountDescriptors(), before);
  }
}

// --- Signals.

TEST_F(EpollTest, AnInterruptedWaitIsAWakeUpThatBringsNothing) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  peer.Write("x");
  const int rule = kernel_.Inject({.call = KernelCall::kEpollWait, .result = -EINTR, .count = 3});
  for (int i = 0; i < 3; ++i) world().Turn(kPatience);
  EXPECT_EQ(kernel_.hits(rule), 3u);
  EXPECT_EQ(socket.bytes, "");

  ASSERT_TRUE(world().Await([&] { return socket.bytes == "x"; }));
}

TEST_F(EpollTest, AnInterruptedConnectGoesOn) {
  for (const int domain : {AF_INET, AF_UNIX}) {
    PeerListener listener(kernel_, domain);
    TestSocket socket(world());
    ASSERT_EQ(socket.Open(domain), 0);
    const int rule =
        kernel_.Inject({.call = KernelCall::kConnect, .result = -EINTR, .mode = FaultMode::kAfter});

    socket.Connect(listener.address);

    ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
    EXPECT_EQ(kernel_.hits(rule), 1u);
    EXPECT_EQ(socket.connects[0].value, 0);
    EXPECT_TRUE(listener.Accept().open());
  }
}

TEST_F(EpollTest, AnInterruptedConnectCanStillBeRefused) {
  TestAddress nowhere;
  {
    const PeerListener listener(kernel_);
    nowhere = listener.address;
  }
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  kernel_.Inject({.call = KernelCall::kConnect, .result = -EINTR, .mode = FaultMode::kAfter});

  socket.Connect(nowhere);

  ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
  // connect(2) had taken the errno; what is left is a socket without a peer (docs/kernel.md 1).
  if (socket.connects[0].ok()) {
    TestAddress peer;
    EXPECT_EQ(kernel_.GetPeerName(socket.socket.fd, peer.get(), &peer.size), -ENOTCONN);
  } else {
    EXPECT_EQ(socket.ClassOf(socket.connects[0]), ErrorClass::kRefused);
  }
}

TEST_F(EpollTest, InterruptedSendsReceivesAndAcceptsGoOn) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  kernel_.Inject({.call = KernelCall::kAccept4, .result = -EINTR, .count = 3});
  listener.Accept();
  Peer peer = DialPlainly(kernel_, address);
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));
  TestSocket socket(world());
  ASSERT_EQ(socket.Adopt(listener.accepted[0].Release()), 0);

  peer.Write("hello");
  const int received = kernel_.Inject({.call = KernelCall::kRecv, .result = -EINTR, .count = 3});
  socket.Receive();
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "hello"; }));
  EXPECT_EQ(kernel_.hits(received), 3u);

  // Of a send nothing was taken, as when the pipe was full and no longer is.
  const int sent = kernel_.Inject({.call = KernelCall::kSend, .result = -EINTR});
  socket.Send("hello", Notify::kWithNextEvent);
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 1; }));
  EXPECT_EQ(kernel_.hits(sent), 1u);
  EXPECT_EQ(socket.sends[0].value, 0);
  socket.Send("hello");
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 2; }));
  EXPECT_EQ(socket.sends[1].value, 5);
  EXPECT_EQ(peer.Read(), "hello");
}

// --- Connect.

TEST_F(EpollTest, TheOutcomeOfAHandshakeIsReadOnce) {
  PeerListener listener(kernel_);
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  const int rule = kernel_.Inject({.call = KernelCall::kGetSockOpt,
                                   .result = 0,
                                   .count = kForever,
                                   .level = SOL_SOCKET,
                                   .request = SO_ERROR,
                                   .outcome = EHOSTUNREACH});
  kernel_.Inject({.call = KernelCall::kConnect, .result = -EINPROGRESS, .mode = FaultMode::kAfter});

  socket.Connect(listener.address);

  ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
  EXPECT_EQ(socket.connects[0].value, -EHOSTUNREACH);
  EXPECT_EQ(socket.connects[0].call, Call::kConnectResult);
  world().TurnFor(kQuietSpell);
  EXPECT_EQ(kernel_.hits(rule), 1u);
}

TEST_F(EpollTest, AFullBacklogOfAUnixListenerIsToldAtOnce) {
  PeerListener listener(kernel_, AF_UNIX, 0);
  Peer first(kernel_, kernel_.Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  ASSERT_EQ(kernel_.Connect(first.fd(), listener.address.get(), listener.address.size), 0);
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(AF_UNIX), 0);

  socket.Connect(listener.address);

  ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
  EXPECT_EQ(socket.connects[0].value, -EAGAIN);
  EXPECT_EQ(socket.connects[0].call, Call::kConnect);
  EXPECT_EQ(socket.ClassOf(socket.connects[0]), ErrorClass::kRefused);
}

TEST_F(EpollTest, DataThatCameWithTheHandshakeIsReceived) {
  PeerListener listener(kernel_);
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  socket.Connect(listener.address);
  Peer peer;
  ASSERT_TRUE(world().AwaitPeer([&] { return (peer = listener.Accept()).open(); }));
  peer.Write("welcome");
  peer.Close();
  socket.hook = [&](OpKind kind) {
    if (kind == OpKind::kConnect) socket.Receive();
  };

  ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));

  EXPECT_EQ(socket.bytes, "welcome");
  EXPECT_EQ(socket.receive_ends[0].value, 0);
}

TEST_F(EpollTest, ReceiveBeforeTheHandshakeIsOverDisturbsNeither) {
  // Nothing asks for it, and nothing forbids it.
  PeerListener listener(kernel_);
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  socket.Connect(listener.address);
  socket.Receive();

  ASSERT_TRUE(world().Await([&] { return !socket.connects.empty(); }));
  Peer peer;
  ASSERT_TRUE(world().AwaitPeer([&] { return (peer = listener.Accept()).open(); }));
  EXPECT_EQ(socket.connects[0].value, 0);
  if (socket.socket.receive == OpState::kArmed) {
    peer.Write("data");
    ASSERT_TRUE(world().Await([&] { return socket.bytes == "data"; }));
  }
}

// --- epoll_ctl(2) that fails.

TEST_F(EpollTest, AnOperationThatCannotBeRegisteredFailsAndOnlyThatOne) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  const auto expect_failure = [&](const TestSocket& socket, const Result& result) {
    EXPECT_EQ(result.value, -ENOSPC);
    EXPECT_EQ(result.call, Call::kEpollCtl);
    EXPECT_EQ(socket.ClassOf(result), ErrorClass::kResource);
    kernel_.Clear();
  };
  const auto no_room = [&] {
    kernel_.Inject({.call = KernelCall::kEpollCtl, .result = -ENOSPC, .count = kForever});
  };

  no_room();
  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == 1; }));
  expect_failure(listener, listener.accept_ends[0]);
  listener.Accept();

  TestSocket refused(world());
  ASSERT_EQ(refused.Open(), 0);
  kernel_.Inject({.call = KernelCall::kConnect, .result = -EINPROGRESS, .mode = FaultMode::kAfter});
  no_room();
  refused.Connect(address);
  ASSERT_TRUE(world().Await([&] { return refused.connects.size() == 1; }));
  expect_failure(refused, refused.connects[0]);

  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));
  TestSocket socket(world());
  ASSERT_EQ(socket.Adopt(listener.accepted[0].Release()), 0);
  no_room();
  socket.Receive();
  ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == 1; }));
  expect_failure(socket, socket.receive_ends[0]);

  no_room();
  kernel_.Inject({.call = KernelCall::kSend, .result = -EAGAIN});
  socket.Send("x", Notify::kWithNextEvent);
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 1; }));
  expect_failure(socket, socket.sends[0]);

  socket.Receive();
  socket.Send("y");
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 2; }));
  EXPECT_EQ(socket.sends[1].value, 1);
}

// --- Send.

TEST_F(EpollTest, AStormOfFullPipesEnds) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const int rule = kernel_.Inject({.call = KernelCall::kSend, .result = -EAGAIN, .count = 30});
  socket.hook = [&](OpKind) {
    if (socket.sends.back().value == 0) socket.Send("through", Notify::kWithNextEvent);
  };

  socket.Send("through", Notify::kWithNextEvent);

  ASSERT_TRUE(world().AwaitPeer([&] { return socket.sends.size() == 31; }));
  EXPECT_EQ(kernel_.hits(rule), 30u);
  EXPECT_EQ(world().stats().sends_blocked, 30u);
  EXPECT_EQ(socket.sends.back().value, 7);
  EXPECT_EQ(peer.Read(), "through");
}

TEST_F(EpollTest, RoomIsNoLongerWatchedForOnceASendWentWhole) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  EXPECT_EQ(socket.socket.interest & EPOLLOUT, 0u);
  kernel_.Inject({.call = KernelCall::kSend, .result = -EAGAIN});
  socket.Send("x");
  EXPECT_NE(socket.socket.interest & EPOLLOUT, 0u);
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 1; }));

  socket.Send("x");

  EXPECT_EQ(socket.socket.interest & EPOLLOUT, 0u);
  EXPECT_NE(socket.socket.interest & EPOLLIN, 0u);
}

TEST_F(EpollTest, ShortSendsAreToldAsTheyWere) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  kernel_.Inject({.call = KernelCall::kSend, .mode = FaultMode::kShorten, .shorten_to = 7});
  kernel_.Inject({.call = KernelCall::kSendMsg, .mode = FaultMode::kShorten, .shorten_to = 4});

  socket.Send("0123456789", Notify::kWithNextEvent);
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 1; }));
  socket.SendParts({"789", "abc"}, Notify::kWithNextEvent);
  ASSERT_TRUE(world().Await([&] { return socket.sends.size() == 2; }));

  EXPECT_EQ(socket.sends[0].value, 7);
  EXPECT_EQ(socket.sends[1].value, 4);
  EXPECT_EQ(peer.Read(), "0123456789a");
  EXPECT_EQ(world().stats().sends_short, 2u);
}

TEST_F(EpollTest, WhatIsNoReasonToTryAgainIsHandedOn) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  for (const int error : {ENOBUFS, ENOMEM, EHOSTUNREACH}) {
    kernel_.Inject({.call = KernelCall::kSend, .result = -error});
    const std::size_t told = socket.sends.size();

    socket.Send("x", Notify::kWithNextEvent);

    ASSERT_TRUE(world().Await([&] { return socket.sends.size() == told + 1; }));
    EXPECT_EQ(socket.sends.back().value, -error);
    EXPECT_EQ(socket.sends.back().call, Call::kSend);
  }
  EXPECT_EQ(world().stats().sends_blocked, 0u);
  socket.Send("x");
  EXPECT_EQ(peer.Read(), "x");
}

// --- Receive.

TEST_F(EpollTest, ReceivesThatFindNothingWaitForTheNextEvent) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  const int rule = kernel_.Inject({.call = KernelCall::kRecv, .result = -EAGAIN, .count = 5});
  std::string sent;
  for (int i = 0; i < 6; ++i) {
    sent += static_cast<char>('a' + i);
    peer.Write(sent.substr(sent.size() - 1));
    world().Turn(kPatience);
  }

  ASSERT_TRUE(world().Await([&] { return socket.bytes == sent; }));
  EXPECT_EQ(kernel_.hits(rule), 5u);
}

TEST_F(EpollTest, ReceiveErrorsAreHandedOnAndReceiveCanGoOn) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  peer.Write("kept");
  kernel_.Inject({.call = KernelCall::kRecv, .result = -ENOMEM});
  socket.Receive();
  ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == 1; }));
  EXPECT_EQ(socket.receive_ends[0].value, -ENOMEM);
  EXPECT_EQ(socket.receive_ends[0].call, Call::kRecv);

  socket.Receive();

  ASSERT_TRUE(world().Await([&] { return socket.bytes == "kept"; }));
}

TEST_F(EpollTest, EveryNumberOfBytesBeforeTheEndArrivesWithTheEnd) {
  // Around the sizes of the buffer and of the turn's share, in one event with the FIN or before it.
  for (const std::size_t base : {0u, 4096u, 8192u, 32768u, 65536u}) {
    for (const std::size_t extra : {0u, 1u, 4095u}) {
      const std::string data(base + extra, 'e');
      if (data.empty()) continue;
      SCOPED_TRACE(data.size());
      TestSocket socket(world());
      Peer peer;
      ASSERT_TRUE(world().ConnectPair(&socket, &peer));
      socket.Receive();
      world().Turn();
      ASSERT_EQ(peer.Write(data), static_cast<ssize_t>(data.size()));
      peer.Close();

      ASSERT_TRUE(world().Await([&] { return !socket.receive_ends.empty(); }));

      EXPECT_EQ(socket.bytes.size(), data.size());
      EXPECT_EQ(socket.receive_ends[0].value, 0);
    }
  }
}

#ifdef HOLDFAST_ASAN
TEST_F(EpollTest, TheReceiveBufferIsPoisonedOutsideOfTheCallback) {
  struct Receiver final : SocketEvents {
    void OnConnect(Socket&, Result) noexcept override {}
    void OnAccept(Socket&, Result) noexcept override {}
    void OnReceive(Socket&, Result result, const std::byte* bytes) noexcept override {
      if (result.value <= 0) return;
      data = bytes;
      EXPECT_FALSE(__asan_address_is_poisoned(data));
    }
    void OnSend(Socket&, Result) noexcept override {}
    const std::byte* data = nullptr;
  } receiver;
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  socket.socket.events = &receiver;
  peer.Write("x");
  ASSERT_TRUE(world().Await([&] { return receiver.data != nullptr; }));

  EXPECT_TRUE(__asan_address_is_poisoned(receiver.data));
  socket.socket.events = &socket;
}
#endif

TEST_F(EpollTest, MessagesOfTheErrorQueueDoNotEndTheConnection) {
  // Transmit timestamps come by the error queue and raise EPOLLERR alone (networking/timestamping).
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  const int flags = SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_TX_SOFTWARE |
                    SOF_TIMESTAMPING_TX_ACK | SOF_TIMESTAMPING_OPT_TSONLY;
  ASSERT_EQ(
      kernel_.SetSockOpt(socket.socket.fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)), 0);
  socket.Receive();
  world().Turn();
  const std::uint64_t drained_before = calls(KernelCall::kRecvMsg);
  const std::uint64_t received_before = calls(KernelCall::kRecv);

  for (std::size_t i = 1; i <= 20; ++i) {
    socket.Send("ping");
    ASSERT_TRUE(world().Await([&] { return socket.sends.size() == i; }));
    EXPECT_EQ(socket.sends.back().value, 4);
  }
  world().TurnFor(kQuietSpell);

  EXPECT_GT(calls(KernelCall::kRecvMsg), drained_before + 1);
  msghdr nothing{};
  EXPECT_EQ(kernel_.RecvMsg(socket.socket.fd, &nothing, MSG_ERRQUEUE | MSG_DONTWAIT), -EAGAIN);
  EXPECT_TRUE(socket.receive_ends.empty());
  EXPECT_EQ(calls(KernelCall::kRecv), received_before);
  const std::uint64_t waits_before = calls(KernelCall::kEpollWait);
  world().TurnFor(kQuietSpell);
  EXPECT_LE(calls(KernelCall::kEpollWait) - waits_before, 20u);
  peer.Write("alive");
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "alive"; }));
}

// --- Accept.

TEST_F(EpollTest, ErrorsOfOneQueuedConnectionDoNotEndAccept) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  listener.Accept();
  for (const int error : {ECONNABORTED, EPROTO, EHOSTUNREACH, ENETDOWN}) {
    kernel_.Inject({.call = KernelCall::kAccept4, .result = -error, .count = 3});
    const std::size_t accepted = listener.accepted.size();

    const Peer peer = DialPlainly(kernel_, address);

    ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == accepted + 1; }));
  }
  EXPECT_TRUE(listener.accept_ends.empty());
}

TEST_F(EpollTest, AStormOfAbortedConnectionsKeepsToItsTurn) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  listener.Accept();
  const Peer peer = DialPlainly(kernel_, address);
  kernel_.Inject({.call = KernelCall::kAccept4, .result = -ECONNABORTED, .count = 1000});

  world().Turn(kPatience);

  EXPECT_EQ(calls(KernelCall::kAccept4), 64u);
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == 1; }));
}

TEST_F(EpollTest, NobodyIsAcceptedAfterTheCancelInOnAccept) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  std::vector<Peer> dialed;
  for (int i = 0; i < 5; ++i) dialed.push_back(DialPlainly(kernel_, address));
  listener.hook = [&](OpKind) { listener.Cancel(OpKind::kAccept); };

  listener.Accept();

  ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == 1; }));
  EXPECT_EQ(listener.accepted.size(), 1u);
}

TEST_F(EpollTest, OtherErrorsEndAcceptAndTheListenerIsNoLongerWatched) {
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  std::vector<Peer> dialed;
  for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM}) {
    listener.Accept();
    const std::size_t ends = listener.accept_ends.size();
    kernel_.Inject({.call = KernelCall::kAccept4, .result = -error});
    dialed.push_back(DialPlainly(kernel_, address));

    ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == ends + 1; }));

    EXPECT_EQ(listener.accept_ends.back().value, -error);
    EXPECT_EQ(listener.socket.interest, 0u);
    const std::uint64_t waits_before = calls(KernelCall::kEpollWait);
    world().TurnFor(kQuietSpell);
    EXPECT_LE(calls(KernelCall::kEpollWait) - waits_before, 20u);
  }
  listener.Accept();
  ASSERT_TRUE(world().Await([&] { return listener.accepted.size() == dialed.size(); }));
}

// --- The end of a socket.

TEST_F(EpollTest, ADescriptorIsClosedOnceWhateverCloseSays) {
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  const std::uint64_t before = calls(KernelCall::kClose);
  const int rule =
      kernel_.Inject({.call = KernelCall::kClose, .result = -EINTR, .mode = FaultMode::kAfter});

  socket.Close();

  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(calls(KernelCall::kClose), before + 1);
}

TEST_F(EpollTest, OpenHandsOnWhatSocketSays) {
  kernel_.Inject({.call = KernelCall::kSocket, .result = -ENFILE});
  TestSocket socket(world());

  EXPECT_EQ(socket.Open(), -ENFILE);
  EXPECT_EQ(socket.Open(), 0);
}

TEST_F(EpollTest, ASocketIsRemovedBeforeItIsClosedEvenIfADuplicateLives) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  const Peer duplicate(kernel_, dup(socket.socket.fd));
  ASSERT_TRUE(socket.Settle());

  socket.Close();

  peer.Write("to a socket that is gone");
  world().TurnFor(kQuietSpell);
  EXPECT_EQ(world().stats().stale_completions, 0u);
}

TEST_F(EpollTest, EventsOfASocketThatIsGoneAreCountedAndDropped) {
  TestSocket socket(world());
  Peer peer;
  ASSERT_TRUE(world().ConnectPair(&socket, &peer));
  socket.Receive();
  world().Turn();
  ASSERT_TRUE(socket.Settle());
  // As when a forked child has the descriptor, and the removal did not come about.
  const Peer duplicate(kernel_, dup(socket.socket.fd));
  kernel_.Inject({.call = KernelCall::kEpollCtl, .result = 0, .request = EPOLL_CTL_DEL});
  socket.Close();
  TestSocket next(world());
  Peer next_peer;
  ASSERT_TRUE(world().ConnectPair(&next, &next_peer));
  next.Receive();
  ASSERT_EQ(next.socket.slot, 0u);  // The slot of the one that is gone.

  peer.Write("late");

  ASSERT_TRUE(world().Await([&] { return world().stats().stale_completions > 0; }));
  EXPECT_EQ(next.bytes, "");
  next_peer.Write("own");
  ASSERT_TRUE(world().Await([&] { return next.bytes == "own"; }));
}

// --- The loop.

TEST(EpollWaitTest, ALongWaitIsCutByWhatTheKernelAdds) {
  WaitSpy kernel(RealKernel());
  BackendWorld world(kernel, CreateEpollBackend(kernel, {}).value());
  const auto asked_for = [&](Duration timeout) {
    world.backend().Wake();  // Nothing here needs to sleep.
    world.Wait(timeout);
    return kernel.timeouts.back();
  };
  // epoll may be late by 0.1 % of a wait or by 50 us, whichever is more (select_estimate_accuracy).
  for (const Duration exact : {Duration(0), Duration(1), Duration(1ms), Duration(50ms)}) {
    EXPECT_EQ(asked_for(exact), exact);
  }
  for (const Duration cut : {Duration(51ms), Duration(1s), Duration(1h), kNeverTimeout - 1ns}) {
    EXPECT_LE(asked_for(cut), cut - std::max<Duration>(cut / 1000, 50us));
    EXPECT_GE(asked_for(cut), cut - cut / 256);
  }
  EXPECT_EQ(asked_for(-1ns), Duration::zero());
  EXPECT_EQ(asked_for(Duration::min()), Duration::zero());
  EXPECT_EQ(asked_for(kNeverTimeout), kNeverTimeout);
}

TEST(EpollWaitTest, AnErrorAloneReleasesABlockedSend) {
  // Linux adds EPOLLOUT to every EPOLLHUP of TCP (tcp_poll); nothing says that it must.
  WaitSpy kernel(RealKernel());
  BackendWorld world(kernel, CreateEpollBackend(kernel, {}).value());
  TestSocket socket(world);
  Peer peer;
  ASSERT_TRUE(world.ConnectPair(&socket, &peer));
  world.FillPipe(socket);
  kernel.hidden_events = EPOLLOUT;
  ASSERT_EQ(socket.socket.send, OpState::kArmed);
  const std::size_t told = socket.sends.size();

  peer.Reset();

  ASSERT_TRUE(world.Await([&] { return socket.sends.size() > told; }));
  EXPECT_EQ(socket.sends.back().value, 0);
}

TEST_F(EpollTest, MoreEventsThanOneWaitTakesAllArrive) {
  std::vector<std::unique_ptr<TestSocket>> sockets;
  std::vector<Peer> peers(300);
  for (Peer& peer : peers) {
    sockets.push_back(std::make_unique<TestSocket>(world()));
    ASSERT_TRUE(world().ConnectPair(sockets.back().get(), &peer));
    sockets.back()->Receive();
  }
  world().Turn();
  for (Peer& peer : peers) peer.Write("x");
  const std::uint64_t waits_before = calls(KernelCall::kEpollWait);

  // Nothing is left here, but the kernel may have more: the loop must not think itself idle.
  world().Wait(kPatience);
  EXPECT_TRUE(world().Dispatch());
  EXPECT_FALSE(world().backend().HasReady());
  ASSERT_TRUE(world().Await([&] {
    for (const auto& socket : sockets) {
      if (socket->bytes.empty()) return false;
    }
    return true;
  }));

  EXPECT_EQ(calls(KernelCall::kEpollWait) - waits_before, 3u);
  EXPECT_FALSE(world().Dispatch());
}

TEST_F(EpollTest, EventsThatComeOneByOneAllArrive) {
  TestSocket first(world());
  TestSocket second(world());
  Peer first_peer;
  Peer second_peer;
  ASSERT_TRUE(world().ConnectPair(&first, &first_peer));
  ASSERT_TRUE(world().ConnectPair(&second, &second_peer));
  first.Receive();
  second.Receive();
  world().Turn();
  kernel_.Inject({.call = KernelCall::kEpollWait,
                  .mode = FaultMode::kShorten,
                  .count = kForever,
                  .shorten_to = 1});

  for (std::size_t i = 1; i <= 20; ++i) {
    first_peer.Write("1");
    second_peer.Write("2");
    ASSERT_TRUE(world().Await([&] { return first.bytes.size() == i && second.bytes.size() == i; }));
  }
}

TEST_F(EpollTest, WhatATurnDidNotReachComesFirstInTheNext) {
  TestSocket loud(world());
  TestSocket quiet(world());
  Peer loud_peer;
  Peer quiet_peer;
  ASSERT_TRUE(world().ConnectPair(&loud, &loud_peer));
  ASSERT_TRUE(world().ConnectPair(&quiet, &quiet_peer));
  ASSERT_EQ(loud_peer.Write(std::string(60'000, 'x')), 60'000);
  quiet_peer.Write("me too");
  loud.Receive();
  quiet.Receive();
  world().Wait(Duration::zero());

  for (int i = 0; i < 2; ++i) world().Dispatch(1);

  EXPECT_EQ(loud.receives.size(), 1u);
  EXPECT_EQ(quiet.receives.size(), 1u);
}

TEST_F(EpollTest, AWatchThatCannotBeAddedIsToldAndLeavesNone) {
  const int event_fd = kernel_.EventFd();
  kernel_.Inject({.call = KernelCall::kEpollCtl, .result = -ENOSPC});
  const auto never = [](void*) { ADD_FAILURE() << "called"; };
  EXPECT_EQ(world().backend().SetWatch(event_fd, never, nullptr), -ENOSPC);

  const std::uint64_t one = 1;
  EXPECT_EQ(kernel_.Write(event_fd, &one, sizeof(one)), 8);
  world().TurnFor(kQuietSpell);
  EXPECT_EQ(world().backend().SetWatch(-1, nullptr, nullptr), 0);
  kernel_.Close(event_fd);
}

// --- What it costs.

class EpollCostTest : public EpollTest {
 protected:
  void TearDown() override {
    sockets_.clear();
    peers_.clear();
    EpollTest::TearDown();
  }

  // So many connections, each with a receive under way that sends back what it gets.
  void Connect(std::size_t count) {
    peers_.resize(count);
    for (Peer& peer : peers_) {
      sockets_.push_back(std::make_unique<TestSocket>(world()));
      TestSocket* const socket = sockets_.back().get();
      ASSERT_TRUE(world().ConnectPair(socket, &peer));
      socket->hook = [socket](OpKind kind) {
        if (kind != OpKind::kReceive || socket->socket.send != OpState::kIdle) return;
        socket->Send(socket->bytes.substr(socket->bytes.size() - 64), Notify::kWithNextEvent);
      };
      socket->Receive();
    }
    world().Turn();
  }

  // A wave: each peer sends 64 bytes, then each has its echo.
  void Wave() {
    const std::string message(64, 'm');
    for (Peer& peer : peers_) ASSERT_EQ(peer.Write(message), 64);
    std::size_t missing = peers_.size();
    std::vector<bool> echoed(peers_.size(), false);
    while (missing > 0) {
      world().Turn(kPatience);
      for (std::size_t i = 0; i < peers_.size(); ++i) {
        if (!echoed[i] && peers_[i].Read(64) == message) {
          echoed[i] = true;
          --missing;
        }
      }
    }
  }

  std::uint64_t CallsOfTheBackend() const {
    return calls(KernelCall::kEpollWait) + calls(KernelCall::kEpollCtl) + calls(KernelCall::kSend) +
           calls(KernelCall::kSendMsg) + calls(KernelCall::kRecv) + calls(KernelCall::kRecvMsg) +
           calls(KernelCall::kAccept4) + calls(KernelCall::kConnect) +
           calls(KernelCall::kGetSockOpt);
  }

  std::vector<std::unique_ptr<TestSocket>> sockets_;
  std::vector<Peer> peers_;
};

TEST_F(EpollCostTest, AnEchoIsOneWaitOneReceiveOneSend) {
  Connect(1);
  const std::uint64_t controls = calls(KernelCall::kEpollCtl);
  const std::uint64_t before = world().stats().syscalls;

  for (int i = 0; i < 1000; ++i) Wave();

  EXPECT_LE(world().stats().syscalls - before, 3050u);
  EXPECT_EQ(calls(KernelCall::kEpollCtl), controls);
  EXPECT_EQ(world().stats().sends, 1000u);
  EXPECT_EQ(world().stats().receives, 1000u);
}

TEST_F(EpollCostTest, ThirtyTwoConnectionsShareTheirWaits) {
  Connect(32);
  const std::uint64_t before = world().stats().syscalls;

  for (int i = 0; i < 100; ++i) Wave();

  EXPECT_LE(world().stats().syscalls - before, 3200u * 23 / 10);
}

TEST_F(EpollCostTest, TheCounterCountsEverySystemCallOfTheDataPath) {
  // What the test itself calls is counted by the kernel as well: the other ends of the connections.
  TestSocket listener(world());
  const TestAddress address = listener.Listen();
  listener.Accept();
  TestSocket socket(world());
  ASSERT_EQ(socket.Open(), 0);
  const std::uint64_t counted = world().stats().syscalls;
  const std::uint64_t called = CallsOfTheBackend();
  socket.Connect(address);
  ASSERT_TRUE(
      world().Await([&] { return socket.connects.size() == 1 && listener.accepted.size() == 1; }));
  TestSocket other(world());
  ASSERT_EQ(other.Adopt(listener.accepted[0].Release()), 0);
  socket.Receive();
  other.Receive();
  socket.Send("one");
  other.SendParts({"t", "w", "o"});
  ASSERT_TRUE(world().Await([&] { return socket.bytes == "two" && other.bytes == "one"; }));
  listener.Cancel(OpKind::kAccept);
  ASSERT_TRUE(world().Await([&] { return listener.accept_ends.size() == 1; }));

  EXPECT_EQ(world().stats().syscalls - counted, CallsOfTheBackend() - called);
}

TEST_F(EpollCostTest, APauseAndItsEndCostNoSystemCall) {
  Connect(1);
  TestSocket& socket = *sockets_[0];
  socket.hook = nullptr;
  const std::uint64_t controls = calls(KernelCall::kEpollCtl);

  for (std::size_t i = 1; i <= 10; ++i) {
    socket.Cancel(OpKind::kReceive);
    ASSERT_TRUE(world().Await([&] { return socket.receive_ends.size() == i; }));
    peers_[0].Write("x");
    world().Turn();
    socket.Receive();
    ASSERT_TRUE(world().Await([&] { return socket.bytes.size() == i; }));
  }

  EXPECT_EQ(calls(KernelCall::kEpollCtl), controls);
}

TEST_F(EpollCostTest, AStreamThatFillsThePipePaysOneControlForEachTime) {
  Connect(1);
  TestSocket& socket = *sockets_[0];
  socket.SetBuffers(32 << 10, 32 << 10);
  const std::string more_than_fits(1 << 20, 's');
  socket.hook = [&](OpKind) {
    if (socket.sends.size() < 60) socket.Send(more_than_fits);
  };
  const std::uint64_t controls = calls(KernelCall::kEpollCtl);
  socket.Send(more_than_fits);

  // The peer reads only when the pipe is full.
  std::uint64_t times = 0;
  ASSERT_TRUE(world().AwaitPeer([&] {
    if (world().stats().sends_blocked > times) peers_[0].Read();
    times = world().stats().sends_blocked;
    return socket.sends.size() == 60;
  }));

  EXPECT_GT(world().stats().sends_blocked, 10u);
  EXPECT_EQ(calls(KernelCall::kEpollCtl) - controls, world().stats().sends_blocked);
}

TEST_F(EpollCostTest, AWakeIsNeverReadBack) {
  for (int i = 0; i < 100; ++i) {
    world().backend().Wake();
    world().Turn(kPatience);
  }
  EXPECT_EQ(calls(KernelCall::kRead), 0u);
  EXPECT_EQ(calls(KernelCall::kWrite), 100u);
}

}  // namespace
}  // namespace holdfast::internal
