// The simulated ring against Linux: each test runs over both kernels, and what it expects is what Linux 6.18
// was seen to do (docs/kernel.md, io_uring_enter(2)). What strikes it is in ring_fault_test.cc.
#include <gtest/gtest.h>

#ifdef HOLDFAST_NO_URING

TEST(RingTest, HasNoRingToTest) {
  GTEST_SKIP() << "SKIPPED, not tested here: built without io_uring";
}

#else

#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <map>
#include <string>
#include <vector>

#include "ring_fixture.h"
#include "sim_fixture.h"

namespace holdfast::internal::sim {
namespace {

class RingTest : public testing::TestWithParam<KernelCase> {
 protected:
  void SetUp() override { HOLDFAST_SKIP_WITHOUT_RING(driver_.ring); }

  int fd() { return driver_.ring.ring.ring_fd; }
  int SetupRing(unsigned entries, io_uring_params* parameters) {
    io_uring ring{};
    const int result = kernel_.RingSetup(entries, parameters, &ring);
    if (result == 0) kernel_.RingExit(&ring);
    return result;
  }
  int SetupWith(unsigned entries, unsigned flags, unsigned completions = 0) {
    io_uring_params parameters{};
    parameters.flags = flags;
    parameters.cq_entries = completions;
    return SetupRing(entries, &parameters);
  }

  Kernel& kernel_ = GetParam().kernel();
  RingDriver driver_{kernel_};
};

INSTANTIATE_TEST_SUITE_P(Kernels, RingTest, BothKernels(), KernelCaseName);

// --- Setting up, registering.

TEST_P(RingTest, AnOddSetupIsRefused) {
  constexpr unsigned kClamp = IORING_SETUP_CLAMP;
  constexpr unsigned kSized = IORING_SETUP_CQSIZE;
  EXPECT_EQ(SetupWith(8, 1U << 30), -EINVAL);
  EXPECT_EQ(SetupWith(8, IORING_SETUP_DEFER_TASKRUN), -EINVAL);
  EXPECT_EQ(SetupWith(8, IORING_SETUP_TASKRUN_FLAG), -EINVAL);
  EXPECT_EQ(SetupWith(0, 0), -EINVAL);
  EXPECT_EQ(SetupWith(0, kClamp), -EINVAL);
  EXPECT_EQ(SetupWith(32769, 0), -EINVAL);
  EXPECT_EQ(SetupWith(8, kSized, 0), -EINVAL);
  EXPECT_EQ(SetupWith(8, kSized, 4), -EINVAL);
  EXPECT_EQ(SetupWith(8, kSized, 65537), -EINVAL);
  io_uring_params parameters{};
  parameters.resv[1] = 1;
  EXPECT_EQ(SetupRing(8, &parameters), -EINVAL);
}

TEST_P(RingTest, SizesAreRoundedUpAndClamped) {
  io_uring_params parameters{};
  EXPECT_EQ(SetupRing(5, &parameters), 0);
  EXPECT_EQ(parameters.sq_entries, 8U);
  EXPECT_EQ(parameters.cq_entries, 16U);
  constexpr unsigned kNeeded =
      IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP;
  EXPECT_EQ(parameters.features & kNeeded, kNeeded);
  parameters = {};
  parameters.flags = IORING_SETUP_CQSIZE;
  parameters.cq_entries = 100;
  EXPECT_EQ(SetupRing(5, &parameters), 0);
  EXPECT_EQ(parameters.cq_entries, 128U);
  parameters = {};
  parameters.flags = IORING_SETUP_CLAMP;
  EXPECT_EQ(SetupRing(40'000, &parameters), 0);
  EXPECT_EQ(parameters.sq_entries, 32'768U);
  EXPECT_EQ(parameters.cq_entries, 65'536U);
}

TEST_P(RingTest, ADisabledRingIsEnteredAfterItsEnabling) {
  RingDriver late(kernel_, 8, kRingFlags | IORING_SETUP_R_DISABLED);
  const int ring_fd = late.ring.ring.ring_fd;
  late.Nop(1);
  EXPECT_EQ(late.ring.Enter(), -EBADFD);
  EXPECT_EQ(kernel_.RingRegister(ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0), 0);
  EXPECT_EQ(kernel_.RingRegister(ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0), -EBADFD);
  EXPECT_EQ(late.One(1).result, 0);
}

TEST_P(RingTest, TheProbeKnowsWhatTheRingDoes) {
  alignas(
      io_uring_probe) char memory[sizeof(io_uring_probe) + 256 * sizeof(io_uring_probe_op)] = {};
  auto* const probe = reinterpret_cast<io_uring_probe*>(memory);
  ASSERT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_PROBE, probe, 256), 0);
  ASSERT_GT(probe->ops_len, unsigned{IORING_OP_RECV});
  for (const unsigned operation :
       {IORING_OP_NOP, IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_RECV, IORING_OP_ACCEPT,
        IORING_OP_CONNECT, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL}) {
    EXPECT_EQ(probe->ops[operation].op, operation);
    EXPECT_NE(probe->ops[operation].flags & IO_URING_OP_SUPPORTED, 0) << operation;
  }
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_PROBE, probe, 256), -EINVAL)
      << "It is not zero any more.";
}

TEST_P(RingTest, OddRegistrationsAreRefused) {
  EXPECT_EQ(kernel_.RingRegister(fd(), 30'000, nullptr, 0), -EINVAL);
  EXPECT_EQ(kernel_.RingRegister(1 << 28, IORING_REGISTER_PROBE, nullptr, 0), -EBADF);
  const TestFd no_ring(kernel_, kernel_.EventFd());
  EXPECT_EQ(kernel_.RingRegister(no_ring.get(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0),
            -EOPNOTSUPP);
  alignas(4096) static char memory[4096];
  const auto reg = [&](__u64 address, unsigned entries, std::uint16_t group) {
    io_uring_buf_reg registration{};
    registration.ring_addr = address;
    registration.ring_entries = entries;
    registration.bgid = group;
    return kernel_.RingRegister(fd(), IORING_REGISTER_PBUF_RING, &registration, 1);
  };
  const auto address = reinterpret_cast<__u64>(memory);
  EXPECT_EQ(reg(0, 8, 1), -EFAULT);
  EXPECT_EQ(reg(address + 8, 8, 1), -EINVAL);
  EXPECT_EQ(reg(address, 7, 1), -EINVAL);
  EXPECT_EQ(reg(address, 1U << 16, 1), -EINVAL);
  EXPECT_EQ(reg(address, 8, 1), 0);
  EXPECT_EQ(reg(address, 8, 1), -EEXIST);
  io_uring_buf_reg registration{};
  registration.bgid = 1;
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_PBUF_RING, &registration, 1), 0);
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_PBUF_RING, &registration, 1), -ENOENT);
}

TEST_P(RingTest, ARegisteredRingIsEnteredByItsIndex) {
  io_uring_rsrc_update update{};
  update.offset = ~0U;
  update.data = static_cast<__u64>(fd());
  ASSERT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_RING_FDS, &update, 1), 1);
  const int index = static_cast<int>(update.offset);
  driver_.Nop(1);
  EXPECT_EQ(driver_.ring.Enter(1, IORING_ENTER_REGISTERED_RING, index), 1);
  EXPECT_EQ(driver_.ring.Reap().size(), 1U);
  update.data = 0;
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_RING_FDS, &update, 1), 1);
  EXPECT_EQ(driver_.ring.Enter(0, IORING_ENTER_REGISTERED_RING, index), -EBADF);
  EXPECT_EQ(driver_.ring.Enter(0, IORING_ENTER_REGISTERED_RING, 16), -EINVAL);
  const TestFd no_ring(kernel_, kernel_.EventFd());
  update.offset = ~0U;
  update.data = static_cast<__u64>(no_ring.get());
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_RING_FDS, &update, 1), -EOPNOTSUPP);
}

// A ring that is closed while it is registered goes on: what is in flight is not ended.
TEST_P(RingTest, ARegisteredRingOutlivesItsDescriptor) {
  TestPair pair = MakePair(kernel_);
  auto closed = std::make_unique<RingDriver>(kernel_);
  io_uring_rsrc_update update{};
  update.offset = ~0U;
  update.data = static_cast<__u64>(closed->ring.ring.ring_fd);
  ASSERT_EQ(kernel_.RingRegister(closed->ring.ring.ring_fd, IORING_REGISTER_RING_FDS, &update, 1),
            1);
  closed->Poll(pair.right.get(), POLLIN, 1);
  EXPECT_TRUE(closed->Turn().empty());
  closed.reset();
  pair.right = TestFd();
  EXPECT_EQ(SendText(kernel_, pair.left.get(), "x"), 1) << "Nobody has closed the other end.";
  update.data = 0;
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_RING_FDS, &update, 1), 1);
}

// --- Entering.

TEST_P(RingTest, AnOddEnterIsRefused) {
  EXPECT_EQ(kernel_.RingEnter(fd(), 0, 0, 1U << 30, nullptr, 0), -EINVAL);
  EXPECT_EQ(kernel_.RingEnter(-1, 0, 0, 0, nullptr, 0), -EBADF);
  const TestFd no_ring(kernel_, kernel_.EventFd());
  EXPECT_EQ(kernel_.RingEnter(no_ring.get(), 0, 0, 0, nullptr, 0), -EOPNOTSUPP);
  io_uring_getevents_arg argument{};
  EXPECT_EQ(kernel_.RingEnter(fd(), 0, 0, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
                              sizeof(argument) - 1),
            -EINVAL);
}

TEST_P(RingTest, AWaitInVainEndsAtItsTime) {
  const Instant before = kernel_.ClockNow();
  EXPECT_EQ(driver_.EnterFor(1, IORING_ENTER_GETEVENTS, 5ms), -ETIME);
  EXPECT_GE(kernel_.ClockNow() - before, 5ms);
}

TEST_P(RingTest, WhatWasSubmittedHidesTheEndOfTheWait) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  EXPECT_EQ(driver_.EnterFor(1, IORING_ENTER_GETEVENTS, 1ms), 1);
  EXPECT_TRUE(driver_.ring.Reap().empty());
}

TEST_P(RingTest, AWaitThatFindsLessThanItWantsEndsAtItsTimeWithoutAnError) {
  driver_.Nop(1);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  EXPECT_EQ(driver_.EnterFor(2, IORING_ENTER_GETEVENTS, 1ms), 0);
  EXPECT_EQ(driver_.ring.Reap().size(), 1U);
}

TEST_P(RingTest, TheAnswerIsWhatWasTakenWhenMoreIsOfferedThanThereIs) {
  driver_.Nop(1);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  EXPECT_EQ(driver_.ring.Reap().size(), 1U);
  EXPECT_EQ(kernel_.RingEnter(fd(), 3, 1, IORING_ENTER_GETEVENTS, nullptr, 0), 0)
      << "Nothing to take, and so no wait.";
}

TEST_P(RingTest, SubmissionsThatAreDoneAtOnceCompleteInTheirOrder) {
  for (__u64 tag = 1; tag <= 5; ++tag) driver_.Nop(tag);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 5) << "Not even GETEVENTS is needed.";
  const std::vector<Completion> completions = driver_.ring.Reap();
  ASSERT_EQ(completions.size(), 5U);
  for (__u64 tag = 1; tag <= 5; ++tag) EXPECT_EQ(completions[tag - 1].user_data, tag);
}

TEST_P(RingTest, AnImpossibleSubmissionCompletesWithItsReason) {
  char data[4];
  const TestFd event_fd(kernel_, kernel_.EventFd());
  const TestPair pair = MakePair(kernel_);
  driver_.ring.Next(1)->opcode = 200;
  driver_.Receive(-1, data, 4, 2);
  driver_.Receive(event_fd.get(), data, 4, 3);
  driver_.ReceiveMany(pair.left.get(), 4)->flags = 0;  // Without buffers.
  driver_.Poll(pair.left.get(), POLLOUT, 5);
  driver_.ring.ring.sq.sqes[4].flags = IOSQE_BUFFER_SELECT;
  driver_.ReceiveMany(pair.left.get(), 6)->msg_flags = MSG_WAITALL;
  driver_.Nop(7);
  std::map<__u64, int> results;
  for (const Completion& completion : driver_.Turn(7)) {
    results[completion.user_data] = completion.result;
  }
  const std::map<__u64, int> expected = {{1, -EINVAL}, {2, -EBADF},      {3, -ENOTSOCK},
                                         {4, -EINVAL}, {5, -EOPNOTSUPP}, {6, -EINVAL},
                                         {7, 0}};
  EXPECT_EQ(results, expected);
}

// --- Sends.

TEST_P(RingTest, AFastSendTellsAllFromAPartFromNothing) {
  const TestPair pair = MakePair(kernel_);
  const std::string large(8U << 20, 'x');
  driver_.FastSend(pair.left.get(), "all", 1);
  EXPECT_TRUE(driver_.Turn().empty());
  driver_.FastSend(pair.left.get(), large, 2);
  const Completion part = driver_.One(2);
  EXPECT_GT(part.result, 0);
  EXPECT_LT(part.result, static_cast<int>(large.size()));
  driver_.FastSend(pair.left.get(), "nothing", 3);
  EXPECT_EQ(driver_.One(3).result, -EAGAIN);
}

TEST_P(RingTest, AFastSendOfAMessageSendsAllItsParts) {
  const TestPair pair = MakePair(kernel_);
  char first[] = "ab";
  char second[] = "cde";
  iovec parts[] = {{first, 2}, {nullptr, 0}, {second, 3}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 3;
  io_uring_sqe* const entry = driver_.FastSend(pair.left.get(), "", 1);
  entry->opcode = IORING_OP_SENDMSG;
  entry->addr = reinterpret_cast<__u64>(&message);
  entry->len = 1;
  EXPECT_TRUE(driver_.Turn().empty());
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "abcde");
}

TEST_P(RingTest, AFastSendToWhoIsGoneFails) {
  TestPair pair = MakePair(kernel_);
  pair.right = TestFd();
  driver_.FastSend(pair.left.get(), "x", 1);
  EXPECT_EQ(driver_.One(1).result, -EPIPE);
}

TEST_P(RingTest, ASendThatMayWaitWaitsForRoom) {
  const TestPair pair = MakePair(kernel_);
  while (SendText(kernel_, pair.left.get(), std::string(32 << 10, 'x')) > 0) {
  }
  driver_.Send(pair.left.get(), "late", 1);
  EXPECT_TRUE(driver_.Turn().empty());
  std::string read;
  for (std::string part; !(part = ReadNow(kernel_, pair.right.get())).empty();) read += part;
  EXPECT_EQ(driver_.One(1).result, 4);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "late");
}

// --- Receives.

TEST_P(RingTest, AReceiveWaitsForBytes) {
  const TestPair pair = MakePair(kernel_);
  char data[16] = {};
  driver_.Receive(pair.left.get(), data, sizeof(data), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "hello"), 5);
  EXPECT_EQ(driver_.One(1).result, 5);
  EXPECT_STREQ(data, "hello");
  driver_.Receive(pair.left.get(), data, sizeof(data), 2, MSG_DONTWAIT);
  EXPECT_EQ(driver_.One(2).result, -EAGAIN);
}

TEST_P(RingTest, TaskWorkIsDoneByAnEnterWithGetEvents) {
  const TestPair pair = MakePair(kernel_);
  char data[16] = {};
  driver_.Receive(pair.left.get(), data, sizeof(data), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  EXPECT_FALSE(driver_.has_work());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "hello"), 5);
  EXPECT_TRUE(driver_.has_work());
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 0);
  EXPECT_TRUE(driver_.ring.Reap().empty());
  EXPECT_TRUE(driver_.has_work());
  EXPECT_EQ(driver_.One(1).result, 5);
  EXPECT_FALSE(driver_.has_work());
}

TEST_P(RingTest, AMultishotReceiveGoesOnToTheEndOfTheStream) {
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 8, 64);
  ASSERT_EQ(SendText(kernel_, pair.left.get(), std::string(200, 'x')), 200);
  ASSERT_EQ(kernel_.Shutdown(pair.left.get(), SHUT_WR), 0);
  driver_.ReceiveMany(pair.right.get(), 1);
  const std::vector<Completion> completions = driver_.Turn(5);
  ASSERT_EQ(completions.size(), 5U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(completions[i].result, i < 3 ? 64 : 8);
    EXPECT_EQ(completions[i].flags & 0xffff, kMore | kBuffer | kNonEmpty);
    EXPECT_EQ(completions[i].flags >> IORING_CQE_BUFFER_SHIFT, i);
  }
  EXPECT_EQ(completions[4].result, 0);
  EXPECT_EQ(completions[4].flags, kNonEmpty);
}

TEST_P(RingTest, AMultishotReceiveIsArmedOnce) {
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 2, 64);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  for (const std::string_view text : {"one", "two", "three", "four"}) {
    ASSERT_GT(SendText(kernel_, pair.left.get(), text), 0);
    const Completion completion = driver_.One(1);
    EXPECT_EQ(completion.flags & 0xffff, kMore | kBuffer);
    EXPECT_EQ(buffers.Take(completion), text);
  }
}

TEST_P(RingTest, AnEmptyBufferRingEndsAMultishotReceiveAndLosesNothing) {
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 2, 4);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "aaaabbbbcc"), 10);
  const std::vector<Completion> completions = driver_.Turn(3);
  ASSERT_EQ(completions.size(), 3U);
  EXPECT_EQ(completions[2].result, -ENOBUFS);
  EXPECT_EQ(completions[2].flags, 0U);
  driver_.ReceiveMany(pair.right.get(), 2);
  EXPECT_EQ(driver_.One(2).result, -ENOBUFS);
  EXPECT_EQ(buffers.Take(completions[0]), "aaaa");
  EXPECT_EQ(buffers.Take(completions[1]), "bbbb");
  driver_.ReceiveMany(pair.right.get(), 3);
  EXPECT_EQ(buffers.Take(driver_.One(3)), "cc");
}

TEST_P(RingTest, AMultishotReceiveThatHasReadEverythingNeedsNoBuffer) {
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 2, 4);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "aaaabbbb"), 8);
  const std::vector<Completion> completions = driver_.Turn(2);
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[0].flags & 0xffff, kMore | kBuffer | kNonEmpty);
  EXPECT_EQ(completions[1].flags & 0xffff, kMore | kBuffer);
  EXPECT_TRUE(driver_.Turn().empty());
}

TEST_P(RingTest, WithoutABufferAReceiveFailsAtOnceUnlessItPollsFirst) {
  const TestPair pair = MakeTcpPair(kernel_);
  driver_.ReceiveMany(pair.right.get(), 1, 77);  // A group that nobody has heard of.
  EXPECT_EQ(driver_.One(1).result, -ENOBUFS);
  driver_.ReceiveMany(pair.right.get(), 2, 77, true);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "x"), 1);
  EXPECT_EQ(driver_.One(2).result, -ENOBUFS);
}

TEST_P(RingTest, AMultishotReceiveGivesWayAfter32Rounds) {
  RingDriver large(kernel_, 64);
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, large.ring.ring.ring_fd, 64, 16);
  large.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(large.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.left.get(), std::string(std::size_t{48} * 16, 'x')), 48 * 16);
  EXPECT_EQ(large.Turn(1).size(), 33U);
  EXPECT_TRUE(large.has_work());
  EXPECT_EQ(large.Turn(1).size(), 15U);
  EXPECT_FALSE(large.has_work());
}

TEST_P(RingTest, AResetEndsAMultishotReceive) {
  TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  const linger at_once{1, 0};
  ASSERT_EQ(kernel_.SetSockOpt(pair.left.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)),
            0);
  pair.left = TestFd();
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, -ECONNRESET);
  EXPECT_FALSE(HasMore(completion));
}

TEST_P(RingTest, TheOwnShutdownEndsAReceive) {
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(kernel_.Shutdown(pair.right.get(), SHUT_RDWR), 0);
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, 0);
  EXPECT_FALSE(HasMore(completion));
}

// docs/kernel.md C2: a send that waits behind an armed receive hears of the reset, and the receive of nothing.
TEST_P(RingTest, WhatWasArmedLastIsWokenFirst) {
  TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  const std::string filler(256 << 10, 'x');
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  while (SendText(kernel_, pair.right.get(), filler) > 0) {
  }
  driver_.Send(pair.right.get(), "blocked", 2);
  EXPECT_TRUE(driver_.Turn().empty());
  const linger at_once{1, 0};
  ASSERT_EQ(kernel_.SetSockOpt(pair.left.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)),
            0);
  pair.left = TestFd();
  const std::vector<Completion> completions = driver_.Turn(2);
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[0].user_data, 2U);
  EXPECT_EQ(completions[0].result, -ECONNRESET);
  EXPECT_EQ(completions[1].user_data, 1U);
  EXPECT_EQ(completions[1].result, 0);
}

// --- Accept, connect.

TEST_P(RingTest, AMultishotAcceptGoesOn) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  driver_.AcceptMany(listener.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  TestFd clients[2] = {MakeSocket(kernel_), MakeSocket(kernel_)};
  for (const TestFd& client : clients) {
    ASSERT_EQ(kernel_.Connect(client.get(), address.get(), address.size), 0);
  }
  const std::vector<Completion> completions = driver_.Turn(2);
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[0].flags, kMore | kNonEmpty);
  EXPECT_EQ(completions[1].flags, kMore);
  for (const Completion& completion : completions) {
    const TestFd accepted(kernel_, completion.result);
    EXPECT_GE(accepted.get(), 0);
  }
}

TEST_P(RingTest, AnAcceptOfOneTellsWhoCame) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  LoopbackAddress peer;
  io_uring_sqe* const entry = driver_.ring.Next(1);
  io_uring_prep_accept(entry, listener.get(), peer.get(), &peer.size, SOCK_NONBLOCK);
  entry->user_data = 1;
  EXPECT_TRUE(driver_.Turn().empty());
  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), address.get(), address.size), 0);
  const TestFd accepted(kernel_, driver_.One(1).result);
  LoopbackAddress local;
  ASSERT_EQ(kernel_.GetSockName(client.get(), local.get(), &local.size), 0);
  EXPECT_EQ(peer, local);
  char data = 0;
  EXPECT_EQ(kernel_.Recv(accepted.get(), &data, 1, 0), -EAGAIN);
}

TEST_P(RingTest, AnAcceptOfWhatDoesNotListenFails) {
  const TestFd socket = MakeSocket(kernel_);
  driver_.AcceptMany(socket.get(), 1);
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, -EINVAL);
  EXPECT_FALSE(HasMore(completion));
}

TEST_P(RingTest, AConnectIsAnsweredOnce) {
  LoopbackAddress address;
  TestFd listener = MakeListener(kernel_, &address);
  const TestFd client = MakeSocket(kernel_, SOCK_NONBLOCK);
  driver_.Connect(client.get(), address, 1);
  EXPECT_EQ(driver_.One(1).result, 0);
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), 0);
  driver_.Connect(client.get(), address, 2);
  EXPECT_EQ(driver_.One(2).result, -EISCONN);

  listener = TestFd();
  const TestFd other = MakeSocket(kernel_);
  driver_.Connect(other.get(), address, 3);
  EXPECT_EQ(driver_.One(3).result, -ECONNREFUSED);
  int error = -1;
  socklen_t size = sizeof(error);
  EXPECT_EQ(kernel_.GetSockOpt(other.get(), SOL_SOCKET, SO_ERROR, &error, &size), 0);
  EXPECT_EQ(error, 0) << "The completion has taken it.";
}

// --- Polls.

TEST_P(RingTest, APollOfOneAnswersWhatIsSoAtOnce) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLOUT, 1);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  const std::vector<Completion> completions = driver_.ring.Reap();
  ASSERT_EQ(completions.size(), 1U);
  EXPECT_EQ(completions[0].result, POLLOUT);
  EXPECT_EQ(completions[0].flags, 0U);
}

TEST_P(RingTest, AMultishotPollTellsEachEdge) {
  const TestFd event_fd(kernel_, kernel_.EventFd());
  constexpr std::uint64_t kOne = 1;
  ASSERT_EQ(kernel_.Write(event_fd.get(), &kOne, sizeof(kOne)), 8);
  driver_.PollMany(event_fd.get(), POLLIN, 1);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  EXPECT_TRUE(driver_.ring.Reap().empty()) << "Its completions are task work, the first one, too.";
  for (int edge = 0; edge < 3; ++edge) {
    const Completion completion = driver_.One(1);
    EXPECT_EQ(completion.result, POLLIN);
    EXPECT_EQ(completion.flags, kMore);
    ASSERT_EQ(kernel_.Write(event_fd.get(), &kOne, sizeof(kOne)), 8) << "Without a read between.";
  }
}

TEST_P(RingTest, AMultishotPollTellsTheEventOfOneWakeAndTheStateAfterMore) {
  const TestPair pair = MakePair(kernel_);
  driver_.PollMany(pair.left.get(), POLLIN | POLLOUT, 1);
  EXPECT_EQ(driver_.One(1).result, POLLOUT);
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
  EXPECT_EQ(driver_.One(1).result, POLLIN) << "There is room as well, but nobody has said so.";
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
  ASSERT_EQ(kernel_.Shutdown(pair.right.get(), SHUT_WR), 0);
  EXPECT_EQ(driver_.One(1).result, POLLIN | POLLOUT | POLLRDHUP);
}

TEST_P(RingTest, APollForRoomHearsOfTheEndOfTheOtherDirection) {
  const TestPair pair = MakePair(kernel_);
  while (SendText(kernel_, pair.left.get(), std::string(32 << 10, 'x')) > 0) {
  }
  ASSERT_EQ(kernel_.Shutdown(pair.right.get(), SHUT_WR), 0);
  driver_.PollMany(pair.left.get(), POLLOUT, 1);
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, POLLRDHUP);
  EXPECT_TRUE(HasMore(completion));
}

TEST_P(RingTest, PollsOfOneFileAreWokenFromTheLastToTheFirst) {
  const TestFd event_fd(kernel_, kernel_.EventFd());
  for (__u64 tag = 1; tag <= 3; ++tag) driver_.Poll(event_fd.get(), POLLIN, tag);
  EXPECT_TRUE(driver_.Turn().empty());
  constexpr std::uint64_t kOne = 1;
  ASSERT_EQ(kernel_.Write(event_fd.get(), &kOne, sizeof(kOne)), 8);
  const std::vector<Completion> completions = driver_.Turn(3);
  ASSERT_EQ(completions.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(completions[i].user_data, 3 - i);
}

// --- Cancelling and closing.

TEST_P(RingTest, ACancelledOperationEndsAfterItsCancel) {
  const TestPair pair = MakePair(kernel_);
  char data[4];
  driver_.Receive(pair.left.get(), data, 4, 1);
  EXPECT_TRUE(driver_.Turn().empty());
  driver_.Cancel(1, 2);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  const std::vector<Completion> first = driver_.ring.Reap();
  ASSERT_EQ(first.size(), 1U);
  EXPECT_EQ(first[0].user_data, 2U);
  EXPECT_EQ(first[0].result, 0);
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
  driver_.Cancel(1, 3);
  EXPECT_EQ(driver_.One(3).result, -ENOENT);
}

TEST_P(RingTest, ACancelWinsOverAWakeThatWasNotSeen) {
  const TestPair pair = MakePair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.left.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "kept"), 4);
  driver_.Cancel(1, 2)->flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
  EXPECT_EQ(ReadNow(kernel_, pair.left.get()), "kept");
}

TEST_P(RingTest, CancelsOfManyTellHowMany) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  driver_.Poll(pair.left.get(), POLLIN, 2);
  driver_.Poll(pair.right.get(), POLLIN, 3);
  EXPECT_TRUE(driver_.Turn().empty());
  driver_.Cancel(1, 10, IORING_ASYNC_CANCEL_ALL);
  std::vector<Completion> completions = driver_.Turn(3);
  ASSERT_EQ(completions.size(), 3U);
  EXPECT_EQ(completions[0].result, 2);
  io_uring_sqe* const by_file =
      driver_.Cancel(0, 11, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD);
  by_file->fd = pair.left.get();
  completions = driver_.Turn(2);
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[0].result, 1);
  EXPECT_EQ(completions[1].user_data, 2U);
  driver_.Cancel(0, 12, IORING_ASYNC_CANCEL_ANY);
  completions = driver_.Turn(2);
  ASSERT_EQ(completions.size(), 2U);
  EXPECT_EQ(completions[0].result, 1);
  EXPECT_EQ(completions[1].user_data, 3U);
}

TEST_P(RingTest, AConnectCanBeCancelled) {
  LoopbackAddress address;
  const TestFd listener = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Bind(listener.get(), address.get(), address.size), 0);
  ASSERT_EQ(kernel_.Listen(listener.get(), 0), 0);
  ASSERT_EQ(kernel_.GetSockName(listener.get(), address.get(), &address.size), 0);
  const TestFd first = MakeSocket(kernel_);
  const TestFd second = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(first.get(), address.get(), address.size), 0);
  driver_.Connect(second.get(), address, 1);  // The backlog is full: its SYN is dropped.
  EXPECT_TRUE(driver_.Turn().empty());
  driver_.Cancel(1, 2)->flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
  driver_.Connect(second.get(), address, 3);
  EXPECT_EQ(driver_.One(3).result, -EALREADY) << "The handshake goes on.";
}

TEST_P(RingTest, ACloseUnderAPendingOperationClosesNothing) {
  TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  pair.right = TestFd();
  EXPECT_TRUE(driver_.Turn().empty());
  char data = 0;
  EXPECT_EQ(kernel_.Recv(pair.left.get(), &data, 1, MSG_DONTWAIT), -EAGAIN) << "No FIN.";
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "still"), 5);
  EXPECT_EQ(buffers.Take(driver_.One(1)), "still");
  driver_.Cancel(1, 2)->flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
  driver_.Turn();
  EXPECT_EQ(kernel_.Recv(pair.left.get(), &data, 1, MSG_DONTWAIT), 0) << "Now it is closed.";
}

// --- A completion queue that is full.

TEST_P(RingTest, AnOverflowLosesNothingAndKeepsTheOrder) {
  RingDriver tiny(kernel_, 2);  // Four completions.
  for (__u64 tag = 0; tag < 12; ++tag) {
    tiny.Nop(tag);
    ASSERT_EQ(tiny.ring.Enter(), 1);
  }
  EXPECT_TRUE(tiny.overflowed());
  __u64 expected = 0;
  for (int round = 0; round < 3; ++round) {
    for (const Completion& completion : tiny.ring.Reap()) {
      EXPECT_EQ(completion.user_data, expected++);
    }
    EXPECT_EQ(tiny.ring.Enter(), 0);
  }
  EXPECT_EQ(expected, 12U);
  EXPECT_FALSE(tiny.overflowed());
}

TEST_P(RingTest, NothingOvertakesWhatWasPutAside) {
  RingDriver tiny(kernel_, 2);  // Four completions.
  for (__u64 tag = 0; tag < 6; ++tag) {
    tiny.Nop(tag);
    ASSERT_EQ(tiny.EnterFor(0, 0, 0ms), 1);
  }
  EXPECT_EQ(tiny.ring.Reap().size(), 4U);
  tiny.Nop(6);  // There is room for it, but there are two before it.
  ASSERT_EQ(tiny.EnterFor(0, 0, 0ms), 1);
  EXPECT_TRUE(tiny.ring.Reap().empty());
  const std::vector<Completion> completions = tiny.Turn();
  ASSERT_EQ(completions.size(), 3U);
  for (__u64 i = 0; i < 3; ++i) EXPECT_EQ(completions[i].user_data, 4 + i);
}

TEST_P(RingTest, AFullQueueEndsAMultishotReceive) {
  RingDriver small(kernel_, 4);  // Eight completions.
  const TestPair pair = MakeTcpPair(kernel_);
  TestBuffers buffers(kernel_, small.ring.ring.ring_fd, 32, 4);
  small.ReceiveMany(pair.right.get(), 1);
  EXPECT_TRUE(small.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.left.get(), std::string(100, 'x')), 100);
  ASSERT_EQ(small.ring.Enter(1), 0);
  EXPECT_TRUE(small.overflowed());
  const std::vector<Completion> first = small.ring.Reap();
  ASSERT_EQ(first.size(), 8U);
  for (const Completion& completion : first) EXPECT_TRUE(HasMore(completion));
  const Completion last = small.One(1);
  EXPECT_EQ(last.result, 4) << "Its bytes are not lost.";
  EXPECT_FALSE(HasMore(last));
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "more"), 4);
  EXPECT_TRUE(small.Turn().empty()) << "It is over.";
}

// --- Who else hears of completions.

TEST_P(RingTest, TheEventFdIsSignalledForTaskWorkAndForCompletions) {
  const TestFd event_fd(kernel_, kernel_.EventFd());
  const TestPair pair = MakePair(kernel_);
  int number = event_fd.get();
  ASSERT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_EVENTFD, &number, 1), 0);
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_EVENTFD, &number, 1), -EBUSY);
  const auto signalled = [&] {
    std::uint64_t count = 0;
    return kernel_.Read(event_fd.get(), &count, sizeof(count)) == sizeof(count);
  };
  char data[4];
  driver_.Receive(pair.left.get(), data, 4, 1);
  EXPECT_TRUE(driver_.Turn().empty());
  EXPECT_FALSE(signalled());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
  EXPECT_TRUE(signalled()) << "Task work.";
  EXPECT_EQ(driver_.One(1).result, 1);
  EXPECT_TRUE(signalled()) << "A completion.";
  driver_.Turn();
  EXPECT_FALSE(signalled());
  driver_.Nop(2);
  EXPECT_EQ(driver_.EnterFor(0, 0, 0ms), 1);
  EXPECT_TRUE(signalled()) << "Also one that a submission made.";
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_EVENTFD, nullptr, 0), 0);
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_UNREGISTER_EVENTFD, nullptr, 0), -ENXIO);
  number = pair.left.get();
  EXPECT_EQ(kernel_.RingRegister(fd(), IORING_REGISTER_EVENTFD, &number, 1), -EINVAL);
}

TEST_P(RingTest, TaskWorkWakesNobodyWhoPollsTheRing) {
  const TestFd epoll_fd(kernel_, kernel_.EpollCreate());
  const TestPair pair = MakePair(kernel_);
  char data[4];
  driver_.Receive(pair.left.get(), data, 4, 1);
  EXPECT_TRUE(driver_.Turn().empty());
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  ASSERT_EQ(kernel_.EpollCtl(epoll_fd.get(), EPOLL_CTL_ADD, fd(), &event), 0);
  const auto woken = [&] {
    return WaitForEvents(kernel_, epoll_fd.get(), &event, 1, Duration::zero()) == 1;
  };
  EXPECT_FALSE(woken());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
  EXPECT_FALSE(woken());
  ASSERT_EQ(driver_.ring.Enter(1), 0);
  EXPECT_TRUE(woken()) << "But a completion does.";
  EXPECT_EQ(driver_.ring.Reap().size(), 1U);
}

}  // namespace
}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
