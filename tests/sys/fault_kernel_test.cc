// FaultKernel, the calls: what a rule changes, what it leaves alone, and what it counts.
#include "sys/fault_kernel.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "loopback.h"

namespace holdfast::internal {
namespace {

using namespace std::chrono_literals;

class FaultKernelTest : public ::testing::Test {
 protected:
  FaultKernel kernel_{RealKernel()};
};

// --- Without rules.

TEST_F(FaultKernelTest, WithoutRulesEveryCallIsPassedOnAndCounted) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server);
  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), server.get(), server.size), 0);
  const TestFd accepted(kernel_, kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_EQ(SendText(kernel_, client.get(), "hello"), 5);
  EXPECT_EQ(ReadNow(kernel_, accepted.get()), "hello");
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), 0);
  EXPECT_EQ(peer, server);

  EXPECT_EQ(kernel_.calls(KernelCall::kSocket), 2u);
  EXPECT_EQ(kernel_.calls(KernelCall::kConnect), 1u);
  EXPECT_EQ(kernel_.calls(KernelCall::kAccept4), 1u);
  EXPECT_EQ(kernel_.calls(KernelCall::kSend), 1u);
  EXPECT_EQ(kernel_.calls(KernelCall::kRecv), 1u);
  EXPECT_EQ(kernel_.calls(KernelCall::kGetPeerName), 1u);
  EXPECT_EQ(kernel_.calls(KernelCall::kSendMsg), 0u);
}

// A FaultKernel over a FaultKernel: the inner one tells what the outer one passed on.
TEST(FaultKernelMethodsTest, EachIsPassedOnAsItselfAndHasItsOwnRule) {
  FaultKernel inner(RealKernel());
  FaultKernel outer(static_cast<Kernel&>(inner));  // Not its copy.
  LoopbackAddress address;
  char data[8] = {};
  msghdr message{};
  int value = 0;
  int fds[2];
  socklen_t size = sizeof(value);
  epoll_event event{};
  addrinfo* names = nullptr;
  const std::vector<std::pair<KernelCall, std::function<ssize_t()>>> methods = {
      {KernelCall::kSocket, [&] { return outer.Socket(AF_INET, SOCK_STREAM, 0); }},
      {KernelCall::kSocketPair, [&] { return outer.SocketPair(AF_UNIX, SOCK_STREAM, 0, fds); }},
      {KernelCall::kBind, [&] { return outer.Bind(-1, address.get(), address.size); }},
      {KernelCall::kListen, [&] { return outer.Listen(-1, 1); }},
      {KernelCall::kAccept4, [&] { return outer.Accept4(-1, nullptr, nullptr, 0); }},
      {KernelCall::kConnect, [&] { return outer.Connect(-1, address.get(), address.size); }},
      {KernelCall::kSend, [&] { return outer.Send(-1, data, sizeof(data), 0); }},
      {KernelCall::kSendMsg, [&] { return outer.SendMsg(-1, &message, 0); }},
      {KernelCall::kRecv, [&] { return outer.Recv(-1, data, sizeof(data), 0); }},
      {KernelCall::kRecvMsg, [&] { return outer.RecvMsg(-1, &message, 0); }},
      {KernelCall::kShutdown, [&] { return outer.Shutdown(-1, SHUT_WR); }},
      {KernelCall::kGetSockOpt,
       [&] { return outer.GetSockOpt(-1, SOL_SOCKET, SO_ERROR, &value, &size); }},
      {KernelCall::kSetSockOpt,
       [&] { return outer.SetSockOpt(-1, SOL_SOCKET, SO_REUSEADDR, &value, size); }},
      {KernelCall::kGetSockName,
       [&] { return outer.GetSockName(-1, address.get(), &address.size); }},
      {KernelCall::kGetPeerName,
       [&] { return outer.GetPeerName(-1, address.get(), &address.size); }},
      {KernelCall::kIoctl, [&] { return outer.Ioctl(-1, SIOCINQ, &value); }},
      {KernelCall::kEpollCreate, [&] { return outer.EpollCreate(); }},
      {KernelCall::kEpollCtl, [&] { return outer.EpollCtl(-1, EPOLL_CTL_ADD, 0, &event); }},
      {KernelCall::kEpollWait, [&] { return outer.EpollWait(-1, &event, 1, 0ns); }},
      {KernelCall::kEventFd, [&] { return outer.EventFd(); }},
      {KernelCall::kTimerFd, [&] { return outer.TimerFd(); }},
      {KernelCall::kTimerFdSet, [&] { return outer.TimerFdSet(-1, kNever); }},
      {KernelCall::kRead, [&] { return outer.Read(-1, data, sizeof(data)); }},
      {KernelCall::kWrite, [&] { return outer.Write(-1, data, sizeof(data)); }},
      {KernelCall::kRingSetup, [&] { return outer.RingSetup(8, nullptr, nullptr); }},
      {KernelCall::kRingRegister, [&] { return outer.RingRegister(-1, 0, nullptr, 0); }},
      {KernelCall::kRingEnter, [&] { return outer.RingEnter(-1, 0, 0, 0, nullptr, 0); }},
      {KernelCall::kGetRandom, [&] { return outer.GetRandom(data, sizeof(data)); }},
      {KernelCall::kStartThread, [&] { return outer.StartThread([](void*) {}, nullptr); }},
      {KernelCall::kGetAddrInfo,
       [&] { return outer.GetAddrInfo("::1", nullptr, nullptr, &names, &value); }},
  };
  std::uint64_t passed_on = 0;
  for (const auto& [call, method] : methods) {
    SCOPED_TRACE(static_cast<int>(call));
    const int inner_rule = inner.Inject({.call = call, .result = -EXFULL});
    EXPECT_EQ(method(), -EXFULL);
    EXPECT_EQ(inner.hits(inner_rule), 1u);
    EXPECT_EQ(outer.calls(call), 1u);

    const int outer_rule = outer.Inject({.call = call, .result = -EDOM});
    EXPECT_EQ(method(), -EDOM);
    EXPECT_EQ(outer.hits(outer_rule), 1u);
    EXPECT_EQ(outer.calls(call), 2u);
    EXPECT_EQ(inner.calls(call), 1u) << "A replaced call was passed on.";

    ++passed_on;
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < kKernelCallCount; ++i) {
      all += inner.calls(static_cast<KernelCall>(i));
    }
    EXPECT_EQ(all, passed_on) << "Something else was called, too.";
  }
  // The four that are not in the list: Close is always passed on, three have no answer to replace.
  EXPECT_EQ(methods.size() + 4, kKernelCallCount);
}

// --- Which calls a rule hits.

TEST_F(FaultKernelTest, ARuleHitsItsWindowAndNoOtherCall) {
  const int rule =
      kernel_.Inject({.call = KernelCall::kEventFd, .result = -EMFILE, .first = 2, .count = 2});
  const std::array<TestFd, 4> fds = {
      TestFd(kernel_, kernel_.EventFd()), TestFd(kernel_, kernel_.EventFd()),
      TestFd(kernel_, kernel_.EventFd()), TestFd(kernel_, kernel_.EventFd())};
  EXPECT_GE(fds[0].get(), 0);
  EXPECT_EQ(fds[1].get(), -EMFILE);
  EXPECT_EQ(fds[2].get(), -EMFILE);
  EXPECT_GE(fds[3].get(), 0);
  EXPECT_EQ(kernel_.hits(rule), 2u);
  EXPECT_EQ(kernel_.calls(KernelCall::kEventFd), 4u);
}

TEST_F(FaultKernelTest, AWindowIsCountedFromItsInjection) {
  const TestFd before(kernel_, kernel_.EventFd());
  kernel_.Inject({.call = KernelCall::kEventFd, .result = -EMFILE});
  EXPECT_EQ(kernel_.EventFd(), -EMFILE);
}

TEST_F(FaultKernelTest, ARuleThatNeverHitsCountsWhatItMatches) {
  const int rule = kernel_.Inject(
      {.call = KernelCall::kClose, .result = -EIO, .first = kForever, .fd = 1'000'000});
  EXPECT_EQ(kernel_.Close(1'000'000), -EBADF);
  EXPECT_EQ(kernel_.Close(1'000'001), -EBADF);
  EXPECT_EQ(kernel_.Close(1'000'000), -EBADF);
  EXPECT_EQ(kernel_.seen(rule), 2u);
  EXPECT_EQ(kernel_.hits(rule), 0u);
}

TEST_F(FaultKernelTest, ForEverLastsUntilClear) {
  const int rule =
      kernel_.Inject({.call = KernelCall::kEventFd, .result = -ENFILE, .count = kForever});
  for (int i = 0; i < 100; ++i) ASSERT_EQ(kernel_.EventFd(), -ENFILE);
  kernel_.Clear();
  const TestFd fd(kernel_, kernel_.EventFd());
  EXPECT_GE(fd.get(), 0);
  EXPECT_EQ(kernel_.hits(rule), 100u);
}

TEST_F(FaultKernelTest, ClearEndsWhatHasNotHitYetAndLaterRulesWork) {
  const int ended = kernel_.Inject({.call = KernelCall::kEventFd, .result = -EMFILE, .first = 2});
  const TestFd first(kernel_, kernel_.EventFd());
  kernel_.Clear();
  const TestFd second(kernel_, kernel_.EventFd());
  EXPECT_GE(second.get(), 0);
  EXPECT_EQ(kernel_.hits(ended), 0u);
  kernel_.Inject({.call = KernelCall::kEventFd, .result = -EMFILE});
  EXPECT_EQ(kernel_.EventFd(), -EMFILE);
}

TEST_F(FaultKernelTest, OfTwoRulesTheEarlierHitsAndBothCount) {
  const int earlier = kernel_.Inject({.call = KernelCall::kEventFd, .result = -EMFILE});
  const int later = kernel_.Inject({.call = KernelCall::kEventFd, .result = -ENOMEM, .count = 2});
  EXPECT_EQ(kernel_.EventFd(), -EMFILE);
  EXPECT_EQ(kernel_.EventFd(), -ENOMEM);
  const TestFd fd(kernel_, kernel_.EventFd());
  EXPECT_GE(fd.get(), 0);
  EXPECT_EQ(kernel_.hits(earlier), 1u);
  EXPECT_EQ(kernel_.hits(later), 1u);
}

TEST_F(FaultKernelTest, ADescriptorFilterSparesTheOthers) {
  const TestPair pair = MakePair(kernel_);
  const int rule = kernel_.Inject(
      {.call = KernelCall::kSend, .result = -ENOBUFS, .count = kForever, .fd = pair.left.get()});
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "a"), -ENOBUFS);
  EXPECT_EQ(SendText(kernel_, pair.right.get(), "a"), 1);
  EXPECT_EQ(kernel_.hits(rule), 1u);
}

TEST_F(FaultKernelTest, EpollCtlIsFilteredByWatchedDescriptorAndOperation) {
  const TestFd epoll(kernel_, kernel_.EpollCreate());
  const TestFd first(kernel_, kernel_.EventFd());
  const TestFd second(kernel_, kernel_.EventFd());
  kernel_.Inject({.call = KernelCall::kEpollCtl,
                  .result = -ENOSPC,
                  .count = kForever,
                  .fd = second.get(),
                  .request = EPOLL_CTL_ADD});
  epoll_event event{};
  EXPECT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_ADD, first.get(), &event), 0);
  EXPECT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_ADD, second.get(), &event), -ENOSPC);
  EXPECT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_MOD, second.get(), &event), -ENOENT);
}

TEST_F(FaultKernelTest, SocketOptionsAreFilteredByLevelAndName) {
  static_assert(SO_ERROR == TCP_KEEPIDLE, "The level is all that tells them apart.");
  const TestFd fd = MakeSocket(kernel_);
  kernel_.Inject({.call = KernelCall::kGetSockOpt,
                  .result = -EPERM,
                  .count = kForever,
                  .level = SOL_SOCKET,
                  .request = SO_ERROR});
  int value = 0;
  socklen_t size = sizeof(value);
  EXPECT_EQ(kernel_.GetSockOpt(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, &value, &size), 0);
  EXPECT_EQ(kernel_.GetSockOpt(fd.get(), SOL_SOCKET, SO_TYPE, &value, &size), 0);
  EXPECT_EQ(kernel_.GetSockOpt(fd.get(), SOL_SOCKET, SO_ERROR, &value, &size), -EPERM);
}

// --- kReplace.

TEST_F(FaultKernelTest, AReplacedCallIsNotMade) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kSend, .result = -EAGAIN});
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "lost"), -EAGAIN);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "");
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "kept"), 4);
  kernel_.Inject({.call = KernelCall::kRecv, .result = -ECONNRESET});
  char data[8];
  EXPECT_EQ(kernel_.Recv(pair.right.get(), data, sizeof(data), MSG_DONTWAIT), -ECONNRESET);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "kept");
}

TEST_F(FaultKernelTest, AReplacedAcceptLeavesTheConnectionInTheQueue) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server, SOCK_NONBLOCK);
  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), server.get(), server.size), 0);
  kernel_.Inject({.call = KernelCall::kAccept4, .result = -EMFILE});
  EXPECT_EQ(kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), -EMFILE);
  const TestFd accepted(kernel_, kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_GE(accepted.get(), 0);
}

TEST_F(FaultKernelTest, AReplacedWaitDoesNotWait) {
  const TestFd epoll(kernel_, kernel_.EpollCreate());
  kernel_.Inject({.call = KernelCall::kEpollWait, .result = -EINTR});
  epoll_event event{};
  EXPECT_EQ(kernel_.EpollWait(epoll.get(), &event, 1, kNeverTimeout), -EINTR);
}

TEST_F(FaultKernelTest, APendingErrorCanBePutIntoTheAnswer) {
  const TestFd fd = MakeSocket(kernel_);
  kernel_.Inject({.call = KernelCall::kGetSockOpt,
                  .result = 0,
                  .level = SOL_SOCKET,
                  .request = SO_ERROR,
                  .outcome = ECONNREFUSED});
  int error[2] = {-1, -1};
  socklen_t size = sizeof(error);
  EXPECT_EQ(kernel_.GetSockOpt(fd.get(), SOL_SOCKET, SO_ERROR, error, &size), 0);
  EXPECT_EQ(error[0], ECONNREFUSED);
  EXPECT_EQ(size, sizeof(int));
  EXPECT_EQ(kernel_.GetSockOpt(fd.get(), SOL_SOCKET, SO_ERROR, error, &size), 0);
  EXPECT_EQ(error[0], 0);
}

TEST_F(FaultKernelTest, AQueueSizeCanBePutIntoTheAnswer) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kIoctl, .result = 0, .request = SIOCOUTQ, .outcome = 12345});
  int value = -1;
  EXPECT_EQ(kernel_.Ioctl(pair.left.get(), SIOCINQ, &value), 0);
  EXPECT_EQ(value, 0);
  EXPECT_EQ(kernel_.Ioctl(pair.left.get(), SIOCOUTQ, &value), 0);
  EXPECT_EQ(value, 12345);
}

TEST_F(FaultKernelTest, ANameThatDoesNotResolveSaysWhyInErrno) {
  kernel_.Inject({.call = KernelCall::kGetAddrInfo, .result = EAI_NONAME, .outcome = EMFILE});
  addrinfo* result = nullptr;
  int error_number = -1;
  EXPECT_EQ(kernel_.GetAddrInfo("127.0.0.1", nullptr, nullptr, &result, &error_number), EAI_NONAME);
  EXPECT_EQ(error_number, EMFILE);
  EXPECT_EQ(result, nullptr);
}

// --- kAfter.

// connect(2), EINTR: "the connection establishment is continued asynchronously".
TEST_F(FaultKernelTest, AnInterruptedConnectGoesOn) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server);
  const TestFd client = MakeSocket(kernel_);
  const int rule =
      kernel_.Inject({.call = KernelCall::kConnect, .result = -EINTR, .mode = FaultMode::kAfter});
  EXPECT_EQ(kernel_.Connect(client.get(), server.get(), server.size), -EINTR);
  EXPECT_EQ(kernel_.hits(rule), 1u);
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), 0);
  EXPECT_EQ(peer, server);
}

TEST_F(FaultKernelTest, BytesOfASendThatFailedAfterwardsWereSent) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kSend, .result = -ECONNRESET, .mode = FaultMode::kAfter});
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "gone"), -ECONNRESET);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "gone");
}

TEST_F(FaultKernelTest, AnAcceptThatFailedAfterwardsTookTheConnectionAndClosedIt) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server, SOCK_NONBLOCK);
  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), server.get(), server.size), 0);
  const std::size_t open_before = OpenDescriptors();
  kernel_.Inject(
      {.call = KernelCall::kAccept4, .result = -ECONNABORTED, .mode = FaultMode::kAfter});
  EXPECT_EQ(kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), -ECONNABORTED);
  EXPECT_EQ(OpenDescriptors(), open_before);
  EXPECT_EQ(kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), -EAGAIN);
  char data[4];
  EXPECT_EQ(kernel_.Recv(client.get(), data, sizeof(data), 0), 0);
}

TEST_F(FaultKernelTest, NoFaultAfterwardsLeaksADescriptor) {
  const std::size_t open_before = OpenDescriptors();
  for (const KernelCall call :
       {KernelCall::kSocket, KernelCall::kSocketPair, KernelCall::kEpollCreate,
        KernelCall::kEventFd, KernelCall::kTimerFd}) {
    kernel_.Inject({.call = call, .result = -EMFILE, .mode = FaultMode::kAfter});
  }
  int fds[2] = {-1, -1};
  EXPECT_EQ(kernel_.Socket(AF_INET, SOCK_STREAM, 0), -EMFILE);
  EXPECT_EQ(kernel_.SocketPair(AF_UNIX, SOCK_STREAM, 0, fds), -EMFILE);
  EXPECT_EQ(kernel_.EpollCreate(), -EMFILE);
  EXPECT_EQ(kernel_.EventFd(), -EMFILE);
  EXPECT_EQ(kernel_.TimerFd(), -EMFILE);
  EXPECT_EQ(OpenDescriptors(), open_before);
  EXPECT_EQ(fds[0], -1);
}

TEST(FaultKernelMethodsTest, ANameThatFailedAfterwardsHandsOverNothingAndFreesIt) {
  FaultKernel inner(RealKernel());
  FaultKernel outer(static_cast<Kernel&>(inner));
  outer.Inject({.call = KernelCall::kGetAddrInfo, .result = EAI_AGAIN, .mode = FaultMode::kAfter});
  addrinfo* result = nullptr;
  int error_number = -1;
  EXPECT_EQ(outer.GetAddrInfo("127.0.0.1", nullptr, nullptr, &result, &error_number), EAI_AGAIN);
  EXPECT_EQ(result, nullptr);
  EXPECT_EQ(inner.calls(KernelCall::kGetAddrInfo), 1u);
  EXPECT_EQ(inner.calls(KernelCall::kFreeAddrInfo), 1u);
}

TEST_F(FaultKernelTest, CloseClosesWhateverItAnswers) {
  const std::size_t open_before = OpenDescriptors();
  for (const FaultMode mode : {FaultMode::kReplace, FaultMode::kAfter}) {
    kernel_.Inject({.call = KernelCall::kClose, .result = -EINTR, .mode = mode});
    EXPECT_EQ(kernel_.Close(kernel_.EventFd()), -EINTR);
    EXPECT_EQ(OpenDescriptors(), open_before);
  }
}

// --- kShorten.

TEST_F(FaultKernelTest, AShortSendSendsThePrefix) {
  const TestPair pair = MakePair(kernel_);
  const int rule = kernel_.Inject(
      {.call = KernelCall::kSend, .mode = FaultMode::kShorten, .count = 2, .shorten_to = 3});
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "abcdef"), 3);
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "de"), 2);
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "fghij"), 5);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "abcdefghij");
  EXPECT_EQ(kernel_.hits(rule), 2u);
}

TEST_F(FaultKernelTest, AShortReceiveLeavesTheRest) {
  const TestPair pair = MakePair(kernel_);
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "abcdef"), 6);
  kernel_.Inject({.call = KernelCall::kRecv, .mode = FaultMode::kShorten, .shorten_to = 2});
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "ab");
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "cdef");
}

TEST_F(FaultKernelTest, AShortMessageEndsInsideAPart) {
  const TestPair pair = MakePair(kernel_);
  char first[] = "abc";
  char second[] = "defg";
  char third[] = "hi";
  iovec parts[3] = {{first, 3}, {second, 4}, {third, 2}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 3;
  kernel_.Inject({.call = KernelCall::kSendMsg, .mode = FaultMode::kShorten, .shorten_to = 5});
  EXPECT_EQ(kernel_.SendMsg(pair.left.get(), &message, 0), 5);
  EXPECT_EQ(kernel_.SendMsg(pair.left.get(), &message, 0), 9);
  EXPECT_EQ(parts[1].iov_len, 4u) << "The caller's vector is its own.";

  kernel_.Inject({.call = KernelCall::kRecvMsg, .mode = FaultMode::kShorten, .shorten_to = 4});
  char head[4] = {};
  char tail[16] = {};
  iovec in[2] = {{head, 3}, {tail, 15}};
  message.msg_iov = in;
  message.msg_iovlen = 2;
  EXPECT_EQ(kernel_.RecvMsg(pair.right.get(), &message, MSG_DONTWAIT), 4);
  EXPECT_STREQ(head, "abc");
  EXPECT_STREQ(tail, "d");
  EXPECT_EQ(kernel_.RecvMsg(pair.right.get(), &message, MSG_DONTWAIT), 10);
  EXPECT_STREQ(head, "eab");
  EXPECT_STREQ(tail, "cdefghi");
}

TEST_F(FaultKernelTest, AShortReceivedMessageStillTellsItsFlags) {
  const TestFd receiver(kernel_, kernel_.Socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const TestFd sender(kernel_, kernel_.Socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  LoopbackAddress address;
  ASSERT_EQ(kernel_.Bind(receiver.get(), address.get(), address.size), 0);
  ASSERT_EQ(kernel_.GetSockName(receiver.get(), address.get(), &address.size), 0);
  ASSERT_EQ(kernel_.Connect(sender.get(), address.get(), address.size), 0);
  ASSERT_EQ(SendText(kernel_, sender.get(), "abcdef"), 6);
  kernel_.Inject({.call = KernelCall::kRecvMsg, .mode = FaultMode::kShorten, .shorten_to = 4});
  char data[16];
  iovec part = {data, sizeof(data)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  EXPECT_EQ(kernel_.RecvMsg(receiver.get(), &message, 0), 4);
  EXPECT_NE(message.msg_flags & MSG_TRUNC, 0);
  EXPECT_EQ(message.msg_iov, &part);
}

TEST_F(FaultKernelTest, ReadsWritesAndRandomBytesCanBeShort) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kWrite, .mode = FaultMode::kShorten, .shorten_to = 2});
  kernel_.Inject({.call = KernelCall::kRead, .mode = FaultMode::kShorten, .shorten_to = 1});
  kernel_.Inject({.call = KernelCall::kGetRandom, .mode = FaultMode::kShorten, .shorten_to = 7});
  char data[16] = "abc";
  EXPECT_EQ(kernel_.Write(pair.left.get(), data, 3), 2);
  EXPECT_EQ(kernel_.Read(pair.right.get(), data, 3), 1);
  EXPECT_EQ(kernel_.GetRandom(data, sizeof(data)), 7);
}

TEST_F(FaultKernelTest, AWaitCanHandOverFewerEvents) {
  const TestFd epoll(kernel_, kernel_.EpollCreate());
  const TestPair pair = MakePair(kernel_);
  epoll_event event{};
  event.events = EPOLLOUT;
  ASSERT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_ADD, pair.left.get(), &event), 0);
  ASSERT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_ADD, pair.right.get(), &event), 0);
  kernel_.Inject({.call = KernelCall::kEpollWait, .mode = FaultMode::kShorten, .shorten_to = 1});
  epoll_event events[4];
  EXPECT_EQ(kernel_.EpollWait(epoll.get(), events, 4, 0ns), 1);
  EXPECT_EQ(WaitForEvents(kernel_, epoll.get(), events, 4, 0ns), 2);
}

// --- Time.

TEST_F(FaultKernelTest, TheClockJumpsAndGoesOn) {
  const Instant before = kernel_.ClockNow();
  kernel_.AdvanceClock(1h);
  kernel_.AdvanceClock(1min);
  const Instant after = kernel_.ClockNow();
  EXPECT_GE(after - before, 61min);
  EXPECT_LT(after - before, 62min);
  EXPECT_EQ(kernel_.calls(KernelCall::kClockNow), 2u);
}

TEST_F(FaultKernelTest, ATimerFollowsTheClockThatJumped) {
  const TestFd epoll(kernel_, kernel_.EpollCreate());
  const TestFd timer(kernel_, kernel_.TimerFd());
  epoll_event event{};
  event.events = EPOLLIN;
  ASSERT_EQ(kernel_.EpollCtl(epoll.get(), EPOLL_CTL_ADD, timer.get(), &event), 0);
  kernel_.AdvanceClock(1h);
  const Instant deadline = kernel_.ClockNow() + 3ms;
  ASSERT_EQ(kernel_.TimerFdSet(timer.get(), deadline), 0);
  EXPECT_EQ(WaitForEvents(kernel_, epoll.get(), &event, 1, 5s), 1);
  EXPECT_GE(kernel_.ClockNow(), deadline);
}

// --- Threads.

TEST_F(FaultKernelTest, ResolverThreadsShareARule) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 200;
  const int rule = kernel_.Inject(
      {.call = KernelCall::kGetAddrInfo, .result = EAI_AGAIN, .first = 101, .count = 300});
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        addrinfo hints{};
        hints.ai_flags = AI_NUMERICHOST;
        addrinfo* result = nullptr;
        int error_number = 0;
        if (kernel_.GetAddrInfo("127.0.0.1", nullptr, &hints, &result, &error_number) == 0) {
          kernel_.FreeAddrInfo(result);
        } else {
          failures.fetch_add(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 300);
  EXPECT_EQ(kernel_.hits(rule), 300u);
  EXPECT_EQ(kernel_.calls(KernelCall::kGetAddrInfo), std::uint64_t{kThreads * kRounds});
  EXPECT_EQ(kernel_.calls(KernelCall::kFreeAddrInfo), std::uint64_t{kThreads * kRounds - 300});
}

// --- Rules that cannot be carried out.

TEST(FaultKernelDeathTest, ARuleThatCannotBeCarriedOutStopsTheTest) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  FaultKernel kernel(RealKernel());
  EXPECT_DEATH(kernel.Inject({.call = KernelCall::kClockNow, .result = -EINVAL}), "CHECK failed");
  EXPECT_DEATH(kernel.Inject({.call = KernelCall::kRecv, .result = 5}), "CHECK failed");
  EXPECT_DEATH(kernel.Inject({.call = KernelCall::kGetPeerName, .result = 0}), "CHECK failed");
  EXPECT_DEATH(
      kernel.Inject({.call = KernelCall::kBind, .mode = FaultMode::kShorten, .shorten_to = 1}),
      "CHECK failed");
  EXPECT_DEATH(kernel.Inject({.call = KernelCall::kSend, .mode = FaultMode::kShorten}),
               "CHECK failed");
  EXPECT_DEATH(static_cast<void>(kernel.hits(0)), "CHECK failed");
}

#ifdef HOLDFAST_NO_URING

TEST_F(FaultKernelTest, BuiltWithoutRingsNoRingCanFail) {
  EXPECT_FALSE(kernel_.ring_faults_supported());
}

#endif

}  // namespace
}  // namespace holdfast::internal
