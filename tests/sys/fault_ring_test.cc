// FaultKernel, the rings: operations of a real io_uring that fail on demand.
#include <gtest/gtest.h>

#ifdef HOLDFAST_NO_URING

TEST(FaultRingTest, HasNoRingToTest) {
  GTEST_SKIP() << "SKIPPED, not tested here: built without io_uring";
}

#else

#include <netinet/in.h>
#include <poll.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <vector>

#include "loopback.h"
#include "sys/fault_kernel.h"
#include "test_ring.h"

namespace holdfast::internal {
namespace {

constexpr __u64 kTag = 0x1122334455667701;  // All eight bytes must come back.

class FaultRingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HOLDFAST_SKIP_WITHOUT_RING(ring_);
    if (!kernel_.ring_faults_supported()) {
      GTEST_SKIP() << "SKIPPED, not tested here: this kernel's NOP takes no result (before 6.10)";
    }
  }

  // Enters, and expects exactly one completion, of kTag.
  Completion EnterForOne() {
    EXPECT_EQ(ring_.Enter(1), 1);
    const std::vector<Completion> completions = ring_.Reap();
    EXPECT_EQ(completions.size(), 1u);
    if (completions.size() != 1) return {};
    EXPECT_EQ(completions[0].user_data, kTag);
    return completions[0];
  }

  // The fast send of the shipped backend: a success posts no completion.
  io_uring_sqe* PrepareFastSend(int fd, std::string_view text, __u64 tag = kTag) {
    io_uring_sqe* entry = ring_.Next(tag);
    entry->opcode = IORING_OP_SEND;
    entry->fd = fd;
    entry->addr = reinterpret_cast<__u64>(text.data());
    entry->len = static_cast<__u32>(text.size());
    entry->msg_flags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;
    entry->flags = IOSQE_CQE_SKIP_SUCCESS;
    return entry;
  }

  void PrepareFastSendMsg(int fd, const msghdr& message) {
    io_uring_sqe* entry = PrepareFastSend(fd, {});
    entry->opcode = IORING_OP_SENDMSG;
    entry->addr = reinterpret_cast<__u64>(&message);
    entry->len = 1;
  }

  void PrepareNop(__u64 tag) { ring_.Next(tag)->opcode = IORING_OP_NOP; }

  void PrepareRecv(int fd, char* data, unsigned size, __u64 tag = kTag) {
    io_uring_sqe* entry = ring_.Next(tag);
    entry->opcode = IORING_OP_RECV;
    entry->fd = fd;
    entry->addr = reinterpret_cast<__u64>(data);
    entry->len = size;
  }

  FaultKernel kernel_{RealKernel()};
  TestRing ring_{kernel_};
};

// --- What the kernel under us does: the ground that all of this stands on.

TEST_F(FaultRingTest, TheKernelCompletesANopWithTheResultAskedFor) {
  for (const int result : {-ECANCELED, -1, 0, 1, 70000}) {
    io_uring_sqe* entry = ring_.Next(kTag);
    entry->opcode = IORING_OP_NOP;
    entry->len = static_cast<__u32>(result);
    entry->rw_flags = 1;  // IORING_NOP_INJECT_RESULT
    EXPECT_EQ(EnterForOne().result, result);
  }
}

// --- Operations that do not run.

TEST_F(FaultRingTest, AConnectCanSayZeroWithoutAConnection) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server, SOCK_NONBLOCK);
  const TestFd client = MakeSocket(kernel_);
  const int rule = kernel_.InjectRingOp({.op = RingOp::kConnect, .result = 0});
  io_uring_sqe* entry = ring_.Next(kTag);
  io_uring_prep_connect(entry, client.get(), server.get(), server.size);
  entry->user_data = kTag;
  EXPECT_EQ(EnterForOne().result, 0);
  EXPECT_EQ(kernel_.hits(rule), 1u);
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), -ENOTCONN);
  EXPECT_EQ(kernel_.Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), -EAGAIN);
}

TEST_F(FaultRingTest, AConnectCanBeRefusedByAServerThatListens) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server);
  const TestFd client = MakeSocket(kernel_);
  kernel_.InjectRingOp({.op = RingOp::kConnect, .result = -ECONNREFUSED});
  for (const int expected : {-ECONNREFUSED, 0}) {
    io_uring_sqe* entry = ring_.Next(kTag);
    io_uring_prep_connect(entry, client.get(), server.get(), server.size);
    entry->user_data = kTag;
    EXPECT_EQ(EnterForOne().result, expected);
  }
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), 0);
}

TEST_F(FaultRingTest, AMultishotAcceptFailsAtItsArmingAndEnds) {
  LoopbackAddress server;
  const TestFd listener = MakeListener(kernel_, &server);
  kernel_.InjectRingOp({.op = RingOp::kAccept, .result = -EMFILE});
  io_uring_sqe* entry = ring_.Next(kTag);
  io_uring_prep_multishot_accept(entry, listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
  entry->user_data = kTag;
  const Completion refused = EnterForOne();
  EXPECT_EQ(refused.result, -EMFILE);
  EXPECT_EQ(refused.flags & IORING_CQE_F_MORE, 0u);

  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), server.get(), server.size), 0);
  entry = ring_.Next(kTag);
  io_uring_prep_multishot_accept(entry, listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
  entry->user_data = kTag;
  const Completion accepted = EnterForOne();
  const TestFd fd(kernel_, accepted.result);
  EXPECT_GE(fd.get(), 0);
  EXPECT_NE(accepted.flags & IORING_CQE_F_MORE, 0u);
}

TEST_F(FaultRingTest, AMultishotReceiveFailsWithoutABuffer) {
  const TestPair pair = MakePair(kernel_);
  ASSERT_EQ(SendText(kernel_, pair.left.get(), "unread"), 6);
  kernel_.InjectRingOp({.op = RingOp::kRecv, .result = -ECONNRESET});
  io_uring_sqe* entry = ring_.Next(kTag);
  entry->opcode = IORING_OP_RECV;
  entry->fd = pair.right.get();
  entry->flags = IOSQE_BUFFER_SELECT;
  entry->ioprio = IORING_RECV_MULTISHOT;
  entry->buf_group = 9;
  const Completion reset = EnterForOne();
  EXPECT_EQ(reset.result, -ECONNRESET);
  EXPECT_EQ(reset.flags, 0u);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "unread");
}

TEST_F(FaultRingTest, ACancelAndAPollCanFail) {
  const TestFd event_fd(kernel_, kernel_.EventFd());
  const int cancel = kernel_.InjectRingOp({.op = RingOp::kAsyncCancel, .result = -EALREADY});
  const int poll = kernel_.InjectRingOp({.op = RingOp::kPollAdd, .result = -ENOMEM});
  io_uring_sqe* entry = ring_.Next(kTag);
  io_uring_prep_poll_multishot(entry, event_fd.get(), POLLIN);
  entry->user_data = kTag;
  EXPECT_EQ(EnterForOne().result, -ENOMEM);
  entry = ring_.Next(kTag);
  io_uring_prep_cancel64(entry, 12345, 0);
  entry->user_data = kTag;
  entry->flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(EnterForOne().result, -EALREADY);
  EXPECT_EQ(kernel_.hits(cancel), 1u);
  EXPECT_EQ(kernel_.hits(poll), 1u);
}

TEST_F(FaultRingTest, ASuccessThatIsSkippedStaysSkipped) {
  kernel_.InjectRingOp({.op = RingOp::kAsyncCancel, .result = 0});
  io_uring_sqe* entry = ring_.Next(kTag);
  io_uring_prep_cancel64(entry, 12345, 0);
  entry->user_data = kTag;
  entry->flags = IOSQE_CQE_SKIP_SUCCESS;
  EXPECT_EQ(ring_.Enter(), 1);
  EXPECT_TRUE(ring_.Reap().empty());
}

TEST_F(FaultRingTest, AFastSendThatFailsPostsItsCompletion) {
  const TestPair pair = MakePair(kernel_);
  for (const int result : {-EAGAIN, -ENOBUFS, -ECONNRESET}) {
    kernel_.InjectRingOp({.op = RingOp::kSend, .result = result});
    PrepareFastSend(pair.left.get(), "lost");
    EXPECT_EQ(EnterForOne().result, result);
    EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "");
    kernel_.Clear();
  }
}

// --- Short sends.

TEST_F(FaultRingTest, AShortFastSendSendsThePrefixAndPostsItsCount) {
  const TestPair pair = MakePair(kernel_);
  std::string text(100, ' ');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('!' + i % 90);
  kernel_.InjectRingOp({.op = RingOp::kSend, .mode = FaultMode::kShorten, .shorten_to = 30});
  PrepareFastSend(pair.left.get(), text);
  EXPECT_EQ(EnterForOne().result, 30);
  PrepareFastSend(pair.left.get(), std::string_view(text).substr(30));
  EXPECT_EQ(ring_.Enter(), 1);
  EXPECT_TRUE(ring_.Reap().empty()) << "The rest is a whole success: no completion.";
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), text);
  EXPECT_EQ(kernel_.calls(KernelCall::kSend), 0u) << "The prefix is no call of the caller.";
}

TEST_F(FaultRingTest, AShortFastSendMessageEndsInsideAPart) {
  const TestPair pair = MakePair(kernel_);
  char first[] = "abc";
  char second[] = "defg";
  char third[] = "hi";
  iovec parts[3] = {{first, 3}, {second, 4}, {third, 2}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 3;
  kernel_.InjectRingOp({.op = RingOp::kSendMsg, .mode = FaultMode::kShorten, .shorten_to = 5});
  PrepareFastSendMsg(pair.left.get(), message);
  EXPECT_EQ(EnterForOne().result, 5);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "abcde");
  EXPECT_EQ(parts[1].iov_len, 4u) << "The caller's vector is its own.";
}

TEST_F(FaultRingTest, AShortSendThatIsNotShorterIsAWholeSuccess) {
  const TestPair pair = MakePair(kernel_);
  const int rule =
      kernel_.InjectRingOp({.op = RingOp::kSend, .mode = FaultMode::kShorten, .shorten_to = 30});
  PrepareFastSend(pair.left.get(), "hello");
  EXPECT_EQ(ring_.Enter(), 1);
  EXPECT_TRUE(ring_.Reap().empty());
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "hello");
  EXPECT_EQ(kernel_.hits(rule), 1u);
}

TEST_F(FaultRingTest, AShortSendToAPeerThatIsGoneTellsTheTruth) {
  TestPair pair = MakePair(kernel_);
  pair.right = TestFd();
  kernel_.InjectRingOp({.op = RingOp::kSend, .mode = FaultMode::kShorten, .shorten_to = 1});
  PrepareFastSend(pair.left.get(), "hello");
  EXPECT_EQ(EnterForOne().result, -EPIPE);
}

// --- Which submissions a rule hits.

TEST_F(FaultRingTest, TheNumberedSubmissionIsHitAndTheOthersRun) {
  const TestPair pair = MakePair(kernel_);
  const int rule =
      kernel_.InjectRingOp({.op = RingOp::kSend, .result = -ENOBUFS, .first = 2, .count = 1});
  for (const std::string_view text : {"a", "b", "c"}) {
    PrepareFastSend(pair.left.get(), text, static_cast<__u64>(text[0]));
    EXPECT_EQ(ring_.Enter(), 1);
  }
  const std::vector<Completion> completions = ring_.Reap();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].user_data, static_cast<__u64>('b'));
  EXPECT_EQ(completions[0].result, -ENOBUFS);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "ac");
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(kernel_.submissions(RingOp::kSend), 3u);
  EXPECT_EQ(kernel_.submissions(RingOp::kRecv), 0u);
}

TEST_F(FaultRingTest, ADescriptorFilterSparesTheOthersOfTheBatch) {
  const TestPair spared = MakePair(kernel_);
  const TestPair pair = MakePair(kernel_);
  kernel_.InjectRingOp(
      {.op = RingOp::kSend, .result = -EAGAIN, .count = kForever, .fd = pair.left.get()});
  PrepareNop(1);
  PrepareFastSend(spared.left.get(), "spared", 2);
  PrepareFastSend(pair.left.get(), "lost", 3);
  PrepareNop(4);
  EXPECT_EQ(ring_.Enter(3), 4);
  const std::vector<Completion> completions = ring_.Reap();
  ASSERT_EQ(completions.size(), 3u);
  EXPECT_EQ(completions[1].user_data, 3u);
  EXPECT_EQ(completions[1].result, -EAGAIN);
  EXPECT_EQ(ReadNow(kernel_, spared.right.get()), "spared");
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "");
}

TEST_F(FaultRingTest, TheQueueMayGoRoundManyTimes) {
  const TestPair pair = MakePair(kernel_);
  const int rule = kernel_.InjectRingOp(
      {.op = RingOp::kSend, .result = -EAGAIN, .first = 51, .count = kForever});
  unsigned failures = 0;
  for (int round = 0; round < 100; ++round) {
    PrepareNop(1);
    PrepareFastSend(pair.left.get(), "x", 2);
    ASSERT_EQ(ring_.Enter(1), 2);
    for (const Completion& completion : ring_.Reap()) failures += completion.user_data == 2;
  }
  EXPECT_EQ(failures, 50u);
  EXPECT_EQ(kernel_.hits(rule), 50u);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), std::string(50, 'x'));
}

TEST_F(FaultRingTest, ClearSparesLaterSubmissions) {
  const TestPair pair = MakePair(kernel_);
  kernel_.InjectRingOp({.op = RingOp::kSend, .result = -EAGAIN, .count = kForever});
  kernel_.Clear();
  PrepareFastSend(pair.left.get(), "hello");
  EXPECT_EQ(ring_.Enter(), 1);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "hello");
}

// Registers `ring` and answers its index among the registered rings of this thread.
int RegisterRing(Kernel& kernel, const TestRing& ring) {
  io_uring_rsrc_update update{};
  update.offset = ~0U;  // Any free index.
  update.data = static_cast<__u64>(ring.ring.ring_fd);
  EXPECT_EQ(kernel.RingRegister(ring.ring.ring_fd, IORING_REGISTER_RING_FDS, &update, 1), 1);
  return static_cast<int>(update.offset);
}

void UnregisterRing(Kernel& kernel, const TestRing& ring, int index) {
  io_uring_rsrc_update update{};
  update.offset = static_cast<__u32>(index);
  EXPECT_EQ(kernel.RingRegister(ring.ring.ring_fd, IORING_UNREGISTER_RING_FDS, &update, 1), 1);
}

TEST_F(FaultRingTest, ARingThatIsEnteredByItsRegisteredIndexFailsToo) {
  const TestFd event_fd(kernel_, kernel_.EventFd());
  const int rule =
      kernel_.InjectRingOp({.op = RingOp::kPollAdd, .result = -ENOMEM, .count = kForever});
  const int index = RegisterRing(kernel_, ring_);
  io_uring_prep_poll_add(ring_.Next(kTag), event_fd.get(), POLLIN);
  EXPECT_EQ(ring_.Enter(1, IORING_ENTER_REGISTERED_RING, index), 1);
  EXPECT_EQ(kernel_.hits(rule), 1u);
  UnregisterRing(kernel_, ring_, index);
  io_uring_prep_poll_add(ring_.Next(kTag), event_fd.get(), POLLIN);
  EXPECT_EQ(ring_.Enter(1), 1);
  EXPECT_EQ(kernel_.hits(rule), 2u);

  TestRing heir(kernel_);  // The index goes to another ring.
  ASSERT_EQ(RegisterRing(kernel_, heir), index);
  io_uring_prep_poll_add(heir.Next(kTag), event_fd.get(), POLLIN);
  EXPECT_EQ(heir.Enter(1, IORING_ENTER_REGISTERED_RING, index), 1);
  EXPECT_EQ(kernel_.hits(rule), 3u);
  UnregisterRing(kernel_, heir, index);
}

TEST_F(FaultRingTest, ARingWithoutTheIndirectionArrayFailsToo) {
  constexpr unsigned kNoSqArray = 1U << 16;  // IORING_SETUP_NO_SQARRAY, 6.6.
  TestRing other(kernel_, 8, kTestRingFlags | kNoSqArray);
  HOLDFAST_SKIP_WITHOUT_RING(other);
  const TestFd event_fd(kernel_, kernel_.EventFd());
  kernel_.InjectRingOp({.op = RingOp::kPollAdd, .result = -ENOMEM});
  other.Next(1)->opcode = IORING_OP_NOP;
  io_uring_prep_poll_add(other.Next(2), event_fd.get(), POLLIN);
  EXPECT_EQ(other.Enter(2), 2);
  const std::vector<Completion> completions = other.Reap();
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[1].result, -ENOMEM);
}

// --- The calls of a ring.

TEST_F(FaultRingTest, ARefusedSetupLeavesNoRing) {
  const std::size_t open_before = OpenDescriptors();
  for (const FaultMode mode : {FaultMode::kReplace, FaultMode::kAfter}) {
    for (const int error : {-EPERM, -ENOMEM, -EINVAL, -EMFILE}) {
      kernel_.Inject({.call = KernelCall::kRingSetup, .result = error, .mode = mode});
      io_uring_params parameters{};
      io_uring ring{};
      EXPECT_EQ(kernel_.RingSetup(8, &parameters, &ring), error);
      EXPECT_EQ(OpenDescriptors(), open_before);
    }
  }
}

TEST_F(FaultRingTest, ARegistrationCanBeRefusedByItsOpcode) {
  kernel_.Inject({.call = KernelCall::kRingRegister,
                  .result = -EINVAL,
                  .count = kForever,
                  .request = IORING_REGISTER_PBUF_RING});
  EXPECT_EQ(kernel_.RingRegister(ring_.ring.ring_fd, IORING_REGISTER_PBUF_RING, nullptr, 1),
            -EINVAL);
  EXPECT_EQ(kernel_.RingRegister(ring_.ring.ring_fd, IORING_REGISTER_PBUF_RING, nullptr, 2),
            -EINVAL);
  EXPECT_EQ(kernel_.RingRegister(ring_.ring.ring_fd, IORING_REGISTER_PROBE, nullptr, 0), -EINVAL);
  EXPECT_EQ(kernel_.RingRegister(1 << 20, IORING_REGISTER_PROBE, nullptr, 0), -EBADF);
}

TEST_F(FaultRingTest, AnInterruptedEnterSubmitsNothingAndLosesNothing) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kRingEnter, .result = -EINTR});
  const int rule = kernel_.InjectRingOp({.op = RingOp::kSend, .result = -ENOBUFS, .first = 2});
  PrepareFastSend(pair.left.get(), "a", 1);
  EXPECT_EQ(ring_.Enter(), -EINTR);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "");
  EXPECT_EQ(kernel_.submissions(RingOp::kSend), 0u);
  PrepareFastSend(pair.left.get(), "b", 2);
  EXPECT_EQ(ring_.Enter(1), 2);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "a");
  const std::vector<Completion> completions = ring_.Reap();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].user_data, 2u);
  EXPECT_EQ(kernel_.hits(rule), 1u);
}

TEST_F(FaultRingTest, AnEnterThatFailsAfterwardsHasSubmitted) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kRingEnter, .result = -EINTR, .mode = FaultMode::kAfter});
  PrepareFastSend(pair.left.get(), "hello");
  EXPECT_EQ(ring_.Enter(), -EINTR);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "hello");
}

TEST_F(FaultRingTest, AShortSubmitLeavesTheRestToBeCountedOnce) {
  const TestPair pair = MakePair(kernel_);
  kernel_.Inject({.call = KernelCall::kRingEnter, .mode = FaultMode::kShorten, .shorten_to = 2});
  kernel_.InjectRingOp({.op = RingOp::kSend, .result = -ENOBUFS, .first = 3, .count = 1});
  PrepareFastSend(pair.left.get(), "a", 1);
  PrepareNop(2);
  PrepareFastSend(pair.left.get(), "b", 3);
  PrepareFastSend(pair.left.get(), "c", 4);
  EXPECT_EQ(ring_.Enter(), 2);
  EXPECT_EQ(kernel_.submissions(RingOp::kSend), 1u);
  EXPECT_EQ(ring_.Enter(), 2);
  EXPECT_EQ(kernel_.submissions(RingOp::kSend), 3u);
  const std::vector<Completion> completions = ring_.Reap();
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[1].user_data, 4u);
  EXPECT_EQ(completions[1].result, -ENOBUFS);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "ab");
}

// An entry that the kernel has refused to take is offered again: it must not be counted, or sent, a
// second time.
TEST_F(FaultRingTest, ASubmissionThatTheKernelDidNotTakeCountsOnce) {
  const TestPair pair = MakePair(kernel_);
  const int rule = kernel_.InjectRingOp(
      {.op = RingOp::kSend, .mode = FaultMode::kShorten, .count = kForever, .shorten_to = 1});
  const int spared =
      kernel_.InjectRingOp({.op = RingOp::kAsyncCancel, .result = -EALREADY, .first = 2});
  io_uring_prep_cancel64(ring_.Next(1), 12345, 0);
  PrepareFastSend(pair.left.get(), "abc", 2);
  EXPECT_EQ(ring_.Enter(0, 1U << 30), -EINVAL) << "An unknown flag: nothing is taken.";
  EXPECT_EQ(ring_.Enter(2), 2);
  const std::vector<Completion> completions = ring_.Reap();
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[0].result, -ENOENT);
  EXPECT_EQ(completions[1].result, 1);
  EXPECT_EQ(ReadNow(kernel_, pair.right.get()), "a");
  EXPECT_EQ(kernel_.hits(rule), 1u);
  EXPECT_EQ(kernel_.hits(spared), 0u);
  EXPECT_EQ(kernel_.submissions(RingOp::kAsyncCancel), 1u);
}

// --- Small queues.

TEST(FaultRingLimitTest, ALimitedRingOverflowsAndLosesNothing) {
  FaultKernel kernel(RealKernel());
  kernel.LimitRings(4, 4);
  TestRing ring(kernel, 256);
  HOLDFAST_SKIP_WITHOUT_RING(ring);
  EXPECT_EQ(ring.ring.sq.ring_entries, 4u);
  EXPECT_EQ(ring.ring.cq.ring_entries, 4u);
  for (__u64 tag = 0; tag < 12; ++tag) {
    ring.Next(tag)->opcode = IORING_OP_NOP;
    ASSERT_EQ(ring.Enter(), 1);
  }
  EXPECT_NE(__atomic_load_n(ring.ring.sq.kflags, __ATOMIC_ACQUIRE) & IORING_SQ_CQ_OVERFLOW, 0u);
  __u64 expected = 0;
  for (int round = 0; round < 3; ++round) {
    for (const Completion& completion : ring.Reap()) EXPECT_EQ(completion.user_data, expected++);
    EXPECT_EQ(ring.Enter(), 0);
  }
  EXPECT_EQ(expected, 12u);
}

TEST(FaultRingLimitTest, ARingThatIsSmallerAnywayKeepsItsSize) {
  FaultKernel kernel(RealKernel());
  kernel.LimitRings(64, 64);
  TestRing ring(kernel, 8);
  HOLDFAST_SKIP_WITHOUT_RING(ring);
  EXPECT_EQ(ring.ring.sq.ring_entries, 8u);
  EXPECT_EQ(ring.ring.cq.ring_entries, 16u);
}

// --- Rules that cannot be carried out.

TEST_F(FaultRingTest, ARuleThatCannotBeCarriedOutStopsTheTest) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(kernel_.InjectRingOp({.op = RingOp::kRecv, .result = 5}), "CHECK failed");
  EXPECT_DEATH(kernel_.InjectRingOp({.op = RingOp::kSend, .mode = FaultMode::kAfter}),
               "CHECK failed");
  EXPECT_DEATH(
      kernel_.InjectRingOp({.op = RingOp::kAccept, .mode = FaultMode::kShorten, .shorten_to = 1}),
      "CHECK failed");
}

}  // namespace
}  // namespace holdfast::internal

#endif  // HOLDFAST_NO_URING
