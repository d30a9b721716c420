// Links, streams and listeners over a kernel that fails on demand, both backends: what a real kernel
// does not show when asked.
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <holdfast/holdfast.h>

#include "core/error_codes.h"
#include "net/stream_fixture.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {
namespace {

using internal::FaultKernel;
using internal::FaultMode;
using internal::KernelCall;
using internal::RingOp;

class FaultTest : public StreamFixture {
 protected:
  void SetUp() override {
    StreamFixture::SetUp();
    if (IsSkipped()) return;
    if (uring() && !kernel_.ring_faults_supported()) {
      GTEST_SKIP() << "this kernel cannot inject results into io_uring (before Linux 6.10)";
    }
    MakeReactor({.kernel = &kernel_});
  }
  void TearDown() override {
    kernel_.Clear();
    StreamFixture::TearDown();
  }
  [[nodiscard]] bool uring() const { return GetParam() == BackendKind::kUring; }

  // The same fault in the words of each backend. Answers the numbers of the rules.
  struct Both {
    KernelCall call;
    RingOp op;
  };
  static constexpr Both kConnect{KernelCall::kConnect, RingOp::kConnect};
  static constexpr Both kAccept{KernelCall::kAccept4, RingOp::kAccept};
  static constexpr Both kSend{KernelCall::kSend, RingOp::kSend};
  static constexpr Both kSendParts{KernelCall::kSendMsg, RingOp::kSendMsg};
  static constexpr Both kReceive{KernelCall::kRecv, RingOp::kRecv};
  int Fail(Both what, int result, std::uint64_t count = 1, int fd = internal::kAny,
           std::uint64_t first = 1) {
    return uring()
               ? kernel_.InjectRingOp(
                     {.op = what.op, .result = result, .first = first, .count = count, .fd = fd})
               : kernel_.Inject({.call = what.call,
                                 .result = result,
                                 .first = first,
                                 .count = count,
                                 .fd = fd});
  }
  int Shorten(Both what, std::size_t size) {
    return uring() ? kernel_.InjectRingOp({.op = what.op,
                                           .mode = FaultMode::kShorten,
                                           .count = internal::kForever,
                                           .shorten_to = size})
                   : kernel_.Inject({.call = what.call,
                                     .mode = FaultMode::kShorten,
                                     .count = internal::kForever,
                                     .shorten_to = size});
  }

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
    return *std::move(link);
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer) {
    return MakeUp(server, peer, Options(server.endpoint()));
  }
  std::unique_ptr<Link> MakeUp(RawServer& server, Fd& peer, LinkOptions options) {
    std::unique_ptr<Link> link = Make(std::move(options));
    link->Start();
    peer = AcceptFrom(server);
    EXPECT_TRUE(RunUntil([&] { return link->state() == LinkState::kUp; }));
    return link;
  }
  [[nodiscard]] bool RunUntilDowns(std::size_t count) {
    return RunUntil([&] { return diary_.downs.size() >= count; });
  }

  FaultKernel kernel_{internal::RealKernel()};
  Diary diary_;
};
HOLDFAST_FOR_BOTH_BACKENDS(FaultTest);

// --- Connecting.

// docs/kernel.md 1: result 0 while the handshake was rejected. SO_ERROR has the reason.
TEST_P(FaultTest, AConnectThatSucceedsWithoutAPeerIsWhatSoErrorSays) {
  RawServer server;
  const int connect = Fail(kConnect, 0);
  const int error = kernel_.Inject({.call = KernelCall::kGetSockOpt,
                                    .count = internal::kForever,
                                    .level = SOL_SOCKET,
                                    .request = SO_ERROR,
                                    .outcome = EHOSTUNREACH});
  std::unique_ptr<Link> link = Make(Options(server.endpoint()));
  link->Start();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(kernel_.hits(connect), 1u);
  EXPECT_GE(kernel_.hits(error), 1u);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kUnreachable);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kConnect);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "EHOSTUNREACH");
  EXPECT_FALSE(diary_.downs[0].was_up);
  EXPECT_EQ(diary_.ups, 0) << "it was never connected";
  kernel_.Clear();
  const Fd peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
}

TEST_P(FaultTest, AConnectThatSucceedsWithoutAPeerAndAReasonIsAReset) {
  RawServer server;
  Fail(kConnect, 0);
  std::unique_ptr<Link> link = Make(Options(server.endpoint()));
  link->Start();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kConnect);
  EXPECT_EQ(diary_.ups, 0);
}

TEST_P(FaultTest, AnInterruptedConnectGoesOn) {
  // The call says EINTR while the handshake continues: kAfter lets it.
  RawServer server;
  if (uring()) GTEST_SKIP() << "io_uring: the operation itself cannot be both made and answered";
  const int rule =
      kernel_.Inject({.call = KernelCall::kConnect, .result = -EINTR, .mode = FaultMode::kAfter});
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(FaultTest, WithoutADescriptorForASocketItWaitsAndKeepsItsEndpoint) {
  RawServer server;
  const int rule = kernel_.Inject({.call = KernelCall::kSocket, .result = -EMFILE, .count = 3});
  LinkOptions options = Options(server.endpoint());
  options.endpoints.push_back("127.0.0.1:1");
  options.backoff = {.initial = 20ms, .multiplier = 1.5, .max = 50ms};
  std::vector<std::string> endpoints;
  options.on_down = [&](Link&, const Down& down) {
    endpoints.emplace_back(down.endpoint);
    diary_.downs.push_back(down);
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(kernel_.hits(rule), 3u);
  ASSERT_EQ(diary_.downs.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(diary_.downs[i].error.error_class, ErrorClass::kResource);
    EXPECT_EQ(diary_.downs[i].error.operation, Operation::kSocket);
    EXPECT_EQ(diary_.downs[i].error.CodeName(), "EMFILE");
    EXPECT_EQ(endpoints[i], server.endpoint()) << "another endpoint would fail alike";
    EXPECT_GE(diary_.downs[i].retry_in.value_or(0ms), 20ms) << "trying at once makes it worse";
  }
}

TEST_P(FaultTest, EpollOutOfWatchesIsAFailedAttempt) {
  if (uring()) GTEST_SKIP() << "epoll alone";
  RawServer server;
  const int rule =
      kernel_.Inject({.call = KernelCall::kEpollCtl, .result = -ENOSPC, .request = EPOLL_CTL_ADD});
  std::unique_ptr<Link> link = Make(Options(server.endpoint()));
  link->Start();
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kResource);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kBackend);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ENOSPC");
  EXPECT_GE(diary_.downs[0].retry_in.value_or(0ms), 5ms);
  EXPECT_EQ(diary_.ups, 0);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
}

// --- Sending.

TEST_P(FaultTest, AShortageWhileSendingIsRetriedInPlace) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  for (const int code : {ENOBUFS, ENOMEM}) {
    const int rule = Fail(kSend, -code, 3);
    EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
    EXPECT_EQ(ReadFrom(peer, 5), "hello");
    EXPECT_EQ(kernel_.hits(rule), 3u);
  }
  EXPECT_EQ(diary_.Text(), "dial1 up");
  // A later shortage has its second for itself.
  kernel_.AdvanceClock(2s);
  RunTurns(2);
  Fail(kSend, -ENOBUFS, 2);
  EXPECT_EQ(link->Send("again").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "again");
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(FaultTest, AShortageOfMoreThanASecondLosesTheConnection) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const int rule = Fail(kSend, -ENOBUFS, internal::kForever);
  EXPECT_EQ(link->Send("stuck").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return kernel_.hits(rule) >= 2; }));
  kernel_.AdvanceClock(800ms);
  ASSERT_TRUE(RunUntil([&, hits = kernel_.hits(rule)] { return kernel_.hits(rule) > hits; }));
  EXPECT_EQ(diary_.downs.size(), 0u) << "not before the second is over";
  kernel_.AdvanceClock(300ms);
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty(); }, 5s));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kResource);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kSend);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ENOBUFS");
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
  EXPECT_TRUE(diary_.downs[0].error.IsTemporary());
  kernel_.Clear();
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
}

TEST_P(FaultTest, AFullStreamThatWasShortOfMemoryIsWritableAgain) {
  StreamDiary diary;
  StreamOptions options;
  options.queue_high = 1000;
  options.queue_low = 100;
  Ends ends = MakeStarted(diary, std::move(options));
  const int rule = Fail(kSend, -ENOBUFS, 3);
  EXPECT_EQ(ends.stream->Send(std::string(1000, 's')), SendStatus::kQueued);
  EXPECT_FALSE(ends.stream->writable());
  EXPECT_EQ(ReadFrom(ends.peer, 1000).size(), 1000u);
  EXPECT_EQ(kernel_.hits(rule), 3u);
  ASSERT_TRUE(RunUntil([&] { return diary.writables == 1; }));
}

// A shortage is over once the receive that was made again waits for bytes, not when they come.
TEST_P(FaultTest, ShortagesThatAreFarApartAreNotOneThatLasts) {
  StreamDiary diary;
  Ends ends = MakeStarted(diary);
  RunTurns(2);
  std::string sent;
  for (int i = 0; i < 3; ++i) {
    int rule = 0;
    if (uring()) {
      // The receive that is armed already cannot be changed; the next one is.
      ends.stream->PauseReceive();
      RunTurns(2);
      rule = Fail(kReceive, -ENOMEM);
      ends.stream->ResumeReceive();
    } else {
      // The one that is made again finds nothing, and waits.
      rule = kernel_.Inject({.call = KernelCall::kRecv, .result = -ENOMEM});
      kernel_.Inject({.call = KernelCall::kRecv, .result = -EAGAIN, .first = 2});
      ASSERT_EQ(WriteAvailable(ends.peer, "x"), 1u);
      sent += "x";
    }
    ASSERT_TRUE(RunUntil([&] { return kernel_.hits(rule) == 1; }));
    EXPECT_TRUE(reactor().RunFor(20ms).ok());
    ASSERT_EQ(diary.closes, 0) << "shortage " << i;
    kernel_.AdvanceClock(60s);
    EXPECT_TRUE(reactor().RunFor(20ms).ok());
    ASSERT_EQ(diary.closes, 0) << "a minute after shortage " << i;
  }
  ASSERT_EQ(WriteAvailable(ends.peer, "y"), 1u);
  sent += "y";
  ASSERT_TRUE(RunUntil([&] { return diary.data == sent; }));
}

// Nothing waits for the host's memory while a stream is paused.
TEST_P(FaultTest, AShortageDoesNotOutlastAPause) {
  StreamDiary diary;
  Ends ends = MakeStarted(diary);
  ends.stream->PauseReceive();
  RunTurns(2);
  const int rule = Fail(kReceive, -ENOMEM, internal::kForever);
  ASSERT_EQ(WriteAvailable(ends.peer, "x"), 1u);
  ends.stream->ResumeReceive();
  for (int turn = 0; turn < 100 && kernel_.hits(rule) == 0; ++turn) RunTurns(1);
  ASSERT_GE(kernel_.hits(rule), 1u);
  RunTurns(1);  // In which it is told, at the latest.
  ends.stream->PauseReceive();
  kernel_.Clear();
  kernel_.AdvanceClock(60s);
  EXPECT_TRUE(reactor().RunFor(20ms).ok());
  ASSERT_EQ(diary.closes, 0);
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary.data == "x"; }));
}

TEST_P(FaultTest, APausedStreamThatDrainsOutlivesAShortage) {
  StreamDiary diary;
  Ends ends = MakeStarted(diary);
  ends.stream->PauseReceive();
  RunTurns(2);
  ASSERT_EQ(WriteAvailable(ends.peer, "dropped"), 7u);
  const int rule = Fail(kReceive, -ENOMEM, 2);
  ends.stream->Close(1h);
  ASSERT_TRUE(RunUntil([&] { return kernel_.hits(rule) >= 1; }));
  ends.peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return diary.closes == 1; }, 5s));
  EXPECT_EQ(kernel_.hits(rule), 2u);
  EXPECT_EQ(diary.Text(), "closed:cancelled") << "in good order, and nothing of it was told";
}

// What is not acknowledged gives no event: it is looked at after 1 ms, then twice as late each time, up
// to 100 ms, whichever limit it is that a Send was refused for.
TEST_P(FaultTest, ALinkThatWaitsForAcknowledgementsLooksLessAndLessOften) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.queue_max = options.queue_high = 16 << 10;
  options.queue_low = 8 << 10;
  int writables = 0;
  options.on_writable = [&](Link&) { ++writables; };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  // Nothing is ever acknowledged, as far as this kernel says.
  kernel_.Inject({.call = KernelCall::kIoctl,
                  .count = internal::kForever,
                  .request = SIOCOUTQ,
                  .outcome = 1 << 20});
  // Messages of one byte: the bound on their number comes long before the one on their bytes.
  while (link->Send("m").status == SendStatus::kQueued) {
  }
  ASSERT_TRUE(RunUntil([&] { return link->queued_bytes() == 0; }));
  EXPECT_EQ(link->Send("m").status, SendStatus::kFull);
  const std::uint64_t before = reactor().stats().timers_fired;
  EXPECT_TRUE(reactor().RunFor(400ms).ok());
  EXPECT_EQ(writables, 0);
  EXPECT_GE(reactor().stats().timers_fired - before, 5u);
  EXPECT_LE(reactor().stats().timers_fired - before, 20u);
  kernel_.Clear();
  ASSERT_TRUE(RunUntil([&] { return writables == 1; }));
  EXPECT_EQ(link->Send("m").status, SendStatus::kQueued);
}

TEST_P(FaultTest, ShortSendsAreByteExact) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const int one = Shorten(kSend, 7);
  const int parts = Shorten(kSendParts, 1'001);
  std::string text(100'003, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
  std::string_view rest = text;
  for (std::size_t size = 1; !rest.empty(); size = size * 3 + 1) {
    const std::string_view message = rest.substr(0, std::min(size, rest.size()));
    EXPECT_EQ(link->Send(message).status, SendStatus::kQueued);
    rest.remove_prefix(message.size());
  }
  EXPECT_TRUE(ReadFrom(peer, text.size()) == text);
  EXPECT_GT(kernel_.hits(one) + kernel_.hits(parts), 50u);
  EXPECT_GT(reactor().stats().sends_short, 50u);
  kernel_.Clear();
  link->Close(5s);
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.closed->acked, diary_.closed->total());
}

TEST_P(FaultTest, AFullPipeIsWaitedFor) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const int rule = Fail(kSend, -EAGAIN, 3);
  EXPECT_EQ(link->Send("patience").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 8), "patience");
  EXPECT_EQ(kernel_.hits(rule), 3u);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

// --- Waiting.

TEST_P(FaultTest, InterruptedWaitsChangeNothing) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  const int rule =
      kernel_.Inject({.call = uring() ? KernelCall::kRingEnter : KernelCall::kEpollWait,
                      .result = -EINTR,
                      .count = 40});
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(link->Send("ping").status, SendStatus::kQueued);
    EXPECT_EQ(ReadFrom(peer, 4), "ping");
    diary_.data.clear();
    ASSERT_EQ(WriteAvailable(peer, "pong"), 4u);
    ASSERT_TRUE(RunUntil([&] { return diary_.data == "pong"; }));
  }
  EXPECT_EQ(kernel_.hits(rule), 40u);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

// --- Accepting.

TEST_P(FaultTest, AListenerWithoutADescriptorForItsSocketSaysSo) {
  kernel_.Inject({.call = KernelCall::kSocket, .result = -EMFILE});
  ListenerOptions options;
  options.endpoint = "127.0.0.1:0";
  options.on_accept = [](Listener&, std::unique_ptr<Stream>) {};

  const absl::Status status = Listener::Create(reactor(), std::move(options)).status();

  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("socket"), std::string::npos) << status;
  EXPECT_NE(status.message().find("EMFILE"), std::string::npos) << status;
}

TEST_P(FaultTest, AConnectionThatWasAbortedDoesNotStopTheListener) {
  int errors = 0;
  int accepted = 0;
  std::vector<int> rules;
  ListenerOptions options;
  options.endpoint = "127.0.0.1:0";
  options.socket.on_socket = [&](int fd) {
    if (kernel_.calls(KernelCall::kListen) > 0) return;  // Of an accepted one.
    for (const int code : {ECONNABORTED, EPROTO, EINTR, EPERM, ENETDOWN}) {
      rules.push_back(Fail(kAccept, -code, 2, fd, 1 + 2 * rules.size()));
    }
  };
  options.on_accept = [&](Listener&, std::unique_ptr<Stream>) { ++accepted; };
  options.on_error = [&](Listener&, const Error&) { ++errors; };
  std::unique_ptr<Listener> listener = *Listener::Create(reactor(), std::move(options));
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted == 1; }));
  const Fd other = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted == 2; }));
  for (const int rule : rules) EXPECT_EQ(kernel_.hits(rule), 2u);
  EXPECT_EQ(errors, 0);
  EXPECT_EQ(listener->stats().pauses, 0u);
}

// It may be the same connection each time, which stays in the queue: eight are no reason to rest, more are.
TEST_P(FaultTest, ConnectionsThatStayForbiddenMakeTheListenerRest) {
  int errors = 0;
  int accepted = 0;
  ListenerOptions options;
  options.endpoint = "127.0.0.1:0";
  options.socket.on_socket = [&](int fd) {
    if (kernel_.calls(KernelCall::kListen) == 0) Fail(kAccept, -EPERM, 8 + 3, fd);
  };
  options.on_accept = [&](Listener&, std::unique_ptr<Stream>) { ++accepted; };
  options.on_error = [&](Listener&, const Error&) { ++errors; };
  std::unique_ptr<Listener> listener = *Listener::Create(reactor(), std::move(options));
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted == 1; }, 10s));
  EXPECT_EQ(listener->stats().pauses, 3u);
  EXPECT_EQ(errors, 0);  // The listener is healthy.
}

// "A listening socket that keeps listening": an errno that is in no table is no reason to end for good.
TEST_P(FaultTest, AnUnknownErrorOfAcceptDoesNotEndTheListener) {
  constexpr int kInNoTable = EXDEV;
  std::vector<Error> errors;
  int accepted = 0;
  ListenerOptions options;
  options.endpoint = "127.0.0.1:0";
  options.socket.on_socket = [&](int fd) {
    if (kernel_.calls(KernelCall::kListen) == 0) Fail(kAccept, -kInNoTable, 1, fd);
  };
  options.on_accept = [&](Listener&, std::unique_ptr<Stream>) { ++accepted; };
  options.on_error = [&](Listener&, const Error& error) { errors.push_back(error); };
  std::unique_ptr<Listener> listener = *Listener::Create(reactor(), std::move(options));
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted == 1; }, 3s));
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].error_class, ErrorClass::kUnknown);
}

// --- The end of a connection.

// What had arrived is delivered before the loss is told, whichever call hears of the loss first.
TEST_P(FaultTest, BytesThatArrivedComeBeforeALossThatASendFound) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  RunTurns(3);
  ASSERT_EQ(WriteAvailable(peer, "last words"), 10u);
  ResetPeer(peer);
  const int rule = Fail(kSend, -EPIPE);
  EXPECT_EQ(link->Send("too late").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.Text().substr(0, 19), "dial1 up down:reset");
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ECONNRESET") << "EPIPE is no reason";
  EXPECT_EQ(diary_.downs[0].total(), 1u);
  EXPECT_EQ(diary_.downs[0].acked, 0u);
}

// docs/kernel.md 7: EACCES is what ICMP left behind; as io_uring's answer to a live send it were a bug, behind
// which nothing is believed. The send comes before the last words are received: all of it happens inside
// a callback.
TEST_P(FaultTest, BytesThatArrivedComeBeforeAnOldErrorThatASendFound) {
  RawServer server;
  Fd peer;
  int rule = 0;
  LinkOptions options = Options(server.endpoint());
  options.on_data = [&](Link& link, std::span<const std::byte> bytes) {
    diary_.data += AsText(bytes);
    if (diary_.data != "now") return;
    EXPECT_EQ(WriteAvailable(peer, ", last words"), 12u);
    ResetPeer(peer);
    rule = Fail(kSend, -EACCES);
    EXPECT_EQ(link.Send("too late").status, SendStatus::kQueued);
  };
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Start();
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  ASSERT_EQ(WriteAvailable(peer, "now"), 3u);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.data, "now, last words");
  if (kernel_.hits(rule) == 0) return;  // epoll: its receive loop was told of the reset already.
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kTimeout);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "EACCES");
}

TEST_P(FaultTest, BytesThatArrivedComeBeforeAnEndThatASendFound) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  RunTurns(3);
  ASSERT_EQ(WriteAvailable(peer, "last words"), 10u);
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  const int rule = Fail(kSend, -EPIPE);
  EXPECT_EQ(link->Send("too late").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
}

// docs/kernel.md 2: later calls tell other reasons, or none.
TEST_P(FaultTest, TheFirstErrorOfAConnectionIsTheOneThatIsTold) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  RunTurns(3);
  const int rule = Fail(kSend, -ETIMEDOUT);
  EXPECT_EQ(link->Send("too late").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return kernel_.hits(rule) == 1; }));
  ResetPeer(peer);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ETIMEDOUT");
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kSend);
}

// docs/kernel.md 5: on a live connection it tells of trouble that passes.
TEST_P(FaultTest, SoErrorIsNotAskedForWhileAConnectionLives) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 200ms;
  options.ping = "ping";
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const int asked = kernel_.Inject({.call = KernelCall::kGetSockOpt,
                                    .count = internal::kForever,
                                    .level = SOL_SOCKET,
                                    .request = SO_ERROR,
                                    .outcome = EHOSTUNREACH});
  // Sends that go whole, that wait, that are acknowledged; bytes that come; pings in silence.
  Fail(kSend, -EAGAIN, 1);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(link->Send("message").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 300 * 7).size(), 300u * 7);
  ASSERT_TRUE(RunUntil([&] {
    const bool pinged = !ReadAvailable(peer).empty();
    EXPECT_TRUE(!pinged || WriteAvailable(peer, "pong") == 4u);
    return link->stats().pings >= 3;
  }));
  EXPECT_EQ(kernel_.hits(asked), 0u);
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

// docs/kernel.md 13: short of TCP memory a send says EAGAIN, and no event ever says otherwise.
TEST_P(FaultTest, ASendThatIsNeverTakenIsFoundByTime) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 300ms;
  options.ping = "ping";
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  const int rule = Fail(kSend, -EAGAIN, internal::kForever);
  EXPECT_EQ(link->Send("stuck").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_GE(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kHeartbeat));
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
  EXPECT_GE(diary_.downs[0].up_for, 300ms);
  kernel_.Clear();
  const Fd next = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
}

// The same by the kernel's own hand: the send takes the errno away from the receive.
TEST_P(FaultTest, TheReasonThatASendTookIsToldBehindTheBytes) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  RunTurns(3);
  ASSERT_EQ(WriteAvailable(peer, "last words"), 10u);
  ResetPeer(peer);
  EXPECT_EQ(link->Send("too late").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "ECONNRESET");
}

TEST_P(FaultTest, AKernelTimeoutIsATimeout) {
  StreamDiary diary;
  Ends ends = MakeStarted(diary);
  RunTurns(2);
  // The receive that is armed already cannot be changed; the next one is.
  ends.stream->PauseReceive();
  RunTurns(2);
  const int rule = Fail(kReceive, -ETIMEDOUT);
  ASSERT_EQ(WriteAvailable(ends.peer, "x"), 1u);
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary.closes == 1; }));
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(diary.closed.error.error_class, ErrorClass::kTimeout);
  EXPECT_EQ(diary.closed.error.operation, Operation::kReceive);
  EXPECT_EQ(diary.closed.error.CodeName(), "ETIMEDOUT");
  EXPECT_TRUE(diary.closed.error.IsTimeout());
}

// Both come in one turn; what the peer did is why the connection is over (machine/death.h).
TEST_P(FaultTest, ABugOfOursIsCountedThoughThePeersEndIsTheReason) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  RunTurns(3);
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  Fail(kSend, -EBADF);
  EXPECT_EQ(link->Send("doomed").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
  EXPECT_EQ(diary_.downs[0].unsent, 1u);
  EXPECT_EQ(reactor().stats().bugs, 1u);
  expected_bugs_ = 1;
  peer = AcceptFrom(server);
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
}

// A sandbox that forbids ioctl(2) and TCP_INFO: nothing is known to be acknowledged.
TEST_P(FaultTest, WithoutTheKernelsFiguresALinkWorksAndAllThatWasWrittenIsInDoubt) {
  kernel_.Inject({.call = KernelCall::kIoctl, .result = -EPERM, .count = internal::kForever});
  kernel_.Inject({.call = KernelCall::kGetSockOpt,
                  .result = -EPERM,
                  .count = internal::kForever,
                  .level = IPPROTO_TCP,
                  .request = TCP_INFO});
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.silence_max = 2s;  // The shortest without a ping.
  options.queue_max = 4 << 10;
  options.queue_high = 2 << 10;
  options.queue_low = 1 << 10;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  std::uint64_t accepted = 0;
  while (link->Send(std::string(100, 'm')).status == SendStatus::kQueued) ++accepted;
  EXPECT_EQ(ReadFrom(peer, 100 * accepted).size(), 100 * accepted);
  // What it receives keeps it alive; there is no room, since nothing says that anything has arrived.
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(WriteAvailable(peer, "a"), 1u);
    EXPECT_TRUE(reactor().RunFor(100ms).ok());
  }
  EXPECT_EQ(diary_.downs.size(), 0u);
  EXPECT_EQ(link->Send(std::string(100, 'm')).status, SendStatus::kFull);
  // Silence ends it: the kernel, which is asked where there is no ping, does not say what it has heard.
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kHeartbeat);
  EXPECT_TRUE(diary_.downs[0].error.IsTimeout());
  EXPECT_EQ(diary_.downs[0].acked, 0u);
  EXPECT_EQ(diary_.downs[0].in_doubt, accepted);
  EXPECT_EQ(diary_.downs[0].unsent, 0u);
}

// TCP_INFO tells the state, but not what is acknowledged.
TEST_P(FaultTest, WithoutIoctlAllThatWasWrittenIsInDoubt) {
  kernel_.Inject({.call = KernelCall::kIoctl, .result = -EPERM, .count = internal::kForever});
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  link->Drop(Error::Protocol());
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].in_doubt, 1u);
  EXPECT_EQ(diary_.downs[0].total(), 1u);
  EXPECT_GT(diary_.downs[0].tcp.rtt, Duration::zero());
}

TEST_P(FaultTest, WithoutTheKernelsFiguresADrainOnAUnixSocketLeavesDoubt) {
  kernel_.Inject({.call = KernelCall::kIoctl, .result = -EPERM, .count = internal::kForever});
  RawServer server(Family::kUnix);
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  EXPECT_EQ(link->Send("hello").status, SendStatus::kQueued);
  link->Close(1h);
  EXPECT_EQ(ReadFrom(peer, 5), "hello");
  peer.Reset();
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.closed->in_doubt, 1u);
  EXPECT_EQ(diary_.closed->total(), 1u);
}

// An errno that says "a bug of ours" costs one connection, is counted, and aborts nothing.
TEST_P(FaultTest, ABugOfOursCostsOneConnectionAndIsCounted) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer);
  StreamDiary diary;
  Ends ends = MakeStarted(diary);
  Fail(kSend, -EBADF);
  EXPECT_EQ(link->Send("doomed").status, SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return diary_.closed.has_value(); }));
  EXPECT_EQ(diary_.Text(), "dial1 up down:invalid closed:permanent");
  EXPECT_GE(reactor().stats().bugs, 1u);
  expected_bugs_ = reactor().stats().bugs;
  ASSERT_EQ(WriteAvailable(ends.peer, "alive"), 5u);
  ASSERT_TRUE(RunUntil([&] { return diary.data == "alive"; }));
}

}  // namespace
}  // namespace holdfast::test
