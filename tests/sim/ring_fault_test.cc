// What strikes a simulated ring, what the world does to it, and the shipped backend over it.
#include <gtest/gtest.h>

#ifdef HOLDFAST_NO_URING

TEST(RingFaultTest, HasNoRingToTest) {
  GTEST_SKIP() << "SKIPPED, not tested here: built without io_uring";
}

#else

#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/uring_probe.h"
#include "base/random.h"
#include "ring_fixture.h"
#include "sim/ring.h"
#include "sim_fixture.h"
#include "support/seed.h"

namespace holdfast::internal::sim {
namespace {

constexpr std::uint32_t kAlways = 65536;

class RingFaultTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(driver_.ring.setup_answer, 0); }

  Schedule& schedule() { return local_.world.schedule; }
  Ring& ring() { return *kernel_.Find(fd())->AsRing(); }
  int fd() { return driver_.ring.ring.ring_fd; }
  void SetRate(Fault fault, std::uint32_t rate) { local_.world.faults.SetRate(fault, rate); }
  std::uint64_t hits(Fault fault) const { return local_.world.faults.hits(fault); }

  LoopbackWorld local_{7};
  SimKernel& kernel_ = local_.kernel;
  RingDriver driver_{kernel_};
};

// --- The world.

TEST_F(RingFaultTest, AWaitEndsWhenSomethingHappensAndNotBefore) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  schedule().After(5ms, [&] { EXPECT_EQ(SendText(kernel_, pair.right.get(), "x"), 1); });
  const Instant before = schedule().now();
  EXPECT_EQ(driver_.One(1).result, POLLIN);
  EXPECT_EQ(schedule().now() - before, 5ms);
  EXPECT_EQ(driver_.EnterFor(1, IORING_ENTER_GETEVENTS, 3ms), -ETIME);
  EXPECT_EQ(schedule().now() - before, 8ms);
  EXPECT_EQ(local_.world.completions, 1U);
}

TEST_F(RingFaultTest, AnInterruptEndsAWaitForNothing) {
  const Instant before = schedule().now();
  schedule().After(5ms, [&] { kernel_.Interrupt(); });
  EXPECT_EQ(driver_.EnterFor(1, IORING_ENTER_GETEVENTS, 100ms), -EINTR);
  EXPECT_EQ(schedule().now() - before, 5ms);
}

TEST_F(RingFaultTest, AConnectCanSayZeroWhileItsHandshakeFails) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  Path& path = local_.world.network.path(local_.host, local_.host);
  path.policy = Path::Policy::kIcmpHost;
  path.icmp_while_owned = true;
  const TestFd client = MakeSocket(kernel_);
  driver_.Connect(client.get(), address, 1);
  EXPECT_EQ(driver_.One(1).result, 0);
  LoopbackAddress peer;
  EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), -ENOTCONN);
  int error = 0;
  socklen_t size = sizeof(error);
  EXPECT_EQ(kernel_.GetSockOpt(client.get(), SOL_SOCKET, SO_ERROR, &error, &size), 0);
  EXPECT_EQ(error, EHOSTUNREACH);
}

TEST_F(RingFaultTest, AnIcmpThatComesLaterIsHard) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  local_.world.network.path(local_.host, local_.host).policy = Path::Policy::kIcmpHost;
  const TestFd client = MakeSocket(kernel_);
  driver_.Connect(client.get(), address, 1);
  EXPECT_EQ(driver_.One(1).result, -EHOSTUNREACH);
}

TEST_F(RingFaultTest, WithoutADescriptorAnAcceptEndsWhetherSomebodyComesOrNot) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  kernel_.SetDescriptorLimit(kernel_.open_descriptors());
  driver_.AcceptMany(listener.get(), 1);
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, -EMFILE);
  EXPECT_FALSE(HasMore(completion));
}

TEST_F(RingFaultTest, AnAcceptThatRunsOutOfDescriptorsLeavesTheConnectionQueued) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  const TestFd client = MakeSocket(kernel_);
  driver_.AcceptMany(listener.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  kernel_.SetDescriptorLimit(kernel_.open_descriptors());
  ASSERT_EQ(kernel_.Connect(client.get(), address.get(), address.size), 0);
  EXPECT_EQ(driver_.One(1).result, -EMFILE);
  kernel_.SetDescriptorLimit(100);
  const TestFd accepted(kernel_, kernel_.Accept4(listener.get(), nullptr, nullptr, 0));
  EXPECT_GE(accepted.get(), 0);
}

TEST_F(RingFaultTest, TheEndOfARingLetsGoOfWhatWasInFlight) {
  TestPair pair = MakeTcpPair(kernel_);
  char data[4];
  driver_.Receive(pair.right.get(), data, 4, 1);
  driver_.Poll(pair.right.get(), POLLPRI, 2);
  EXPECT_TRUE(driver_.Turn().empty());
  EXPECT_EQ(ring().operations(), 2U);
  pair.right = TestFd();
  char byte = 0;
  EXPECT_EQ(kernel_.Recv(pair.left.get(), &byte, 1, MSG_DONTWAIT), -EAGAIN);
  driver_.ring.Exit();
  EXPECT_EQ(kernel_.Recv(pair.left.get(), &byte, 1, MSG_DONTWAIT), 0);
}

TEST_F(RingFaultTest, ADeadProcessSeesEveryOperationEnd) {
  const TestPair pair = MakePair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.left.get(), 1);
  driver_.PollMany(pair.left.get(), POLLPRI, 2);
  EXPECT_TRUE(driver_.Turn().empty());
  SetRate(Fault::kCompletionOrder, kAlways);
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "never read"), 10);
  SetRate(Fault::kCompletionOrder, 0);
  kernel_.Die();
  driver_.Poll(pair.left.get(), POLLOUT, 3);
  driver_.Cancel(1, 4);
  std::map<__u64, int> results;
  for (const Completion& completion : driver_.Turn()) {
    EXPECT_FALSE(HasMore(completion));
    EXPECT_TRUE(results.emplace(completion.user_data, completion.result).second);
  }
  const std::map<__u64, int> expected = {{1, -ECANCELED}, {2, -ECANCELED}, {3, -ECANCELED}, {4, 0}};
  EXPECT_EQ(results, expected);
  EXPECT_EQ(ring().operations(), 0U);
  EXPECT_EQ(driver_.EnterFor(1, IORING_ENTER_GETEVENTS, 100ms), -EINTR) << "It does not wait.";
  schedule().RunUntil(schedule().now() + 1s);
  EXPECT_TRUE(driver_.Turn().empty()) << "What a fault had held back is not told again.";
}

TEST_F(RingFaultTest, AWaitEndsWhenTheProcessDies) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  schedule().After(5ms, [&] { kernel_.Die(); });
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
}

// --- Faults.

TEST_F(RingFaultTest, MemoryCanBeShortForAnEnterAndForAnOperation) {
  const TestPair pair = MakePair(kernel_);
  SetRate(Fault::kNoMemory, kAlways / 2);
  std::set<int> answers;
  std::set<int> results;
  for (int round = 0; round < 100; ++round) {
    driver_.Poll(pair.left.get(), POLLOUT, 1);
    int answer = 0;
    while ((answer = driver_.ring.Enter(1)) < 0) answers.insert(answer);
    for (const Completion& completion : driver_.ring.Reap()) results.insert(completion.result);
  }
  EXPECT_EQ(answers, (std::set<int>{-EAGAIN, -EBUSY, -ENOMEM}));
  EXPECT_EQ(results, (std::set<int>{-ENOMEM, POLLOUT}));
}

TEST_F(RingFaultTest, NotAllThatIsOfferedMayBeTaken) {
  SetRate(Fault::kSubmissionFull, kAlways);
  unsigned taken = 0;
  for (__u64 tag = 1; tag <= 8; ++tag) driver_.Nop(tag);
  for (int round = 0; round < 20; ++round) {
    const unsigned left = 8 - taken;
    const int answer = driver_.ring.Enter();
    EXPECT_NE(answer, 0);
    EXPECT_LT(answer, static_cast<int>(left));
    if (answer > 0) {
      taken += static_cast<unsigned>(answer);
    } else {
      EXPECT_EQ(answer, -EAGAIN);
    }
  }
  EXPECT_EQ(taken, 7U) << "The last one is never taken.";
  SetRate(Fault::kSubmissionFull, 0);
  EXPECT_EQ(driver_.ring.Enter(), 1);
  const std::vector<Completion> completions = driver_.ring.Reap();
  ASSERT_EQ(completions.size(), 8U);
  for (__u64 tag = 1; tag <= 8; ++tag) EXPECT_EQ(completions[tag - 1].user_data, tag);
  EXPECT_EQ(hits(Fault::kSubmissionFull), 20U);
}

TEST_F(RingFaultTest, TheCompletionQueueCanSeemFull) {
  SetRate(Fault::kCompletionOverflow, kAlways);
  for (__u64 tag = 1; tag <= 3; ++tag) driver_.Nop(tag);
  EXPECT_EQ(driver_.ring.Enter(1), 3);
  EXPECT_TRUE(driver_.overflowed());
  EXPECT_TRUE(driver_.ring.Reap().empty());
  const std::vector<Completion> completions = driver_.Turn();
  ASSERT_EQ(completions.size(), 3U);
  for (__u64 tag = 1; tag <= 3; ++tag) EXPECT_EQ(completions[tag - 1].user_data, tag);
  EXPECT_FALSE(driver_.overflowed());
}

TEST_F(RingFaultTest, AnOverflowEndsWhatIsMultishot) {
  const TestPair pair = MakePair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  driver_.ReceiveMany(pair.left.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  SetRate(Fault::kCompletionOverflow, kAlways);
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "text"), 4);
  EXPECT_TRUE(driver_.Turn(1).empty());
  const Completion completion = driver_.One(1);
  EXPECT_EQ(buffers.Take(completion), "text");
  EXPECT_FALSE(HasMore(completion));
}

TEST_F(RingFaultTest, CompletionsCanComeLateAndOutOfOrderButEachOnce) {
  constexpr std::size_t kFiles = 16;
  std::vector<TestFd> files;
  for (__u64 i = 0; i < kFiles; ++i) {
    files.emplace_back(kernel_, kernel_.EventFd());
    driver_.Poll(files[i].get(), POLLIN, i);
  }
  EXPECT_TRUE(driver_.Turn().empty());
  SetRate(Fault::kCompletionOrder, kAlways);
  constexpr std::uint64_t kOne = 1;
  for (const TestFd& file : files) ASSERT_EQ(kernel_.Write(file.get(), &kOne, sizeof(kOne)), 8);
  EXPECT_FALSE(driver_.has_work());
  const Instant before = schedule().now();
  std::vector<__u64> order;
  std::vector<__u64> sorted;
  while (order.size() < kFiles) {
    for (const Completion& completion : driver_.Turn(1)) order.push_back(completion.user_data);
    ASSERT_LT(schedule().now() - before, 25ms);
  }
  for (__u64 i = 0; i < kFiles; ++i) sorted.push_back(i);
  EXPECT_NE(order, sorted);
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, sorted);
  EXPECT_GT(schedule().now(), before);
}

TEST_F(RingFaultTest, BuffersCanSeemToBeGone) {
  const TestPair pair = MakePair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "text"), 4);
  SetRate(Fault::kBuffersEmpty, kAlways);
  driver_.ReceiveMany(pair.left.get(), 1);
  const Completion completion = driver_.One(1);
  EXPECT_EQ(completion.result, -ENOBUFS);
  EXPECT_EQ(completion.flags, 0U);
  SetRate(Fault::kBuffersEmpty, 0);
  driver_.ReceiveMany(pair.left.get(), 2);
  EXPECT_EQ(buffers.Take(driver_.One(2)), "text");
}

TEST_F(RingFaultTest, AMultishotOperationCanEndWithAGoodResult) {
  const TestPair pair = MakePair(kernel_);
  TestBuffers buffers(kernel_, fd(), 4, 64);
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  SetRate(Fault::kMultishotEnds, kAlways);
  driver_.ReceiveMany(pair.left.get(), 1);
  driver_.AcceptMany(listener.get(), 2);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "text"), 4);
  const Completion received = driver_.One(1);
  EXPECT_EQ(buffers.Take(received), "text");
  EXPECT_FALSE(HasMore(received));
  const TestFd client = MakeSocket(kernel_);
  ASSERT_EQ(kernel_.Connect(client.get(), address.get(), address.size), 0);
  const Completion accepted = driver_.One(2);
  EXPECT_FALSE(HasMore(accepted));
  const TestFd file(kernel_, accepted.result);
  EXPECT_GE(file.get(), 0);
  EXPECT_EQ(ring().operations(), 0U);
}

TEST_F(RingFaultTest, ACancelCanLoseItsRaceButTheTargetEnds) {
  const TestPair pair = MakePair(kernel_);
  SetRate(Fault::kCancelRace, kAlways);
  std::set<int> answers;
  std::set<int> ends;
  char data[4];
  for (int round = 0; round < 100; ++round) {
    driver_.Receive(pair.left.get(), data, 4, 1);
    EXPECT_TRUE(driver_.Turn().empty());
    ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
    driver_.Cancel(1, 2);
    const std::vector<Completion> completions = driver_.Turn(2);
    ASSERT_EQ(completions.size(), 2U);
    EXPECT_EQ(completions[0].user_data, 2U);
    answers.insert(completions[0].result);
    ends.insert(completions[1].result);
    ReadNow(kernel_, pair.left.get());
    ASSERT_EQ(ring().operations(), 0U);
  }
  EXPECT_EQ(answers, (std::set<int>{-ENOENT, -EALREADY}));
  EXPECT_EQ(ends, (std::set<int>{-ECANCELED, 1}));
}

TEST_F(RingFaultTest, TheEndOfACancelledOperationCanComeLate) {
  const TestPair pair = MakePair(kernel_);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  EXPECT_TRUE(driver_.Turn().empty());
  SetRate(Fault::kCompletionAfterClose, kAlways);
  driver_.Cancel(1, 2);
  EXPECT_EQ(driver_.One(2).result, 0);
  const Instant before = schedule().now();
  EXPECT_EQ(driver_.One(1).result, -ECANCELED);
  EXPECT_GT(schedule().now(), before);
  EXPECT_LE(schedule().now() - before, 100ms);
}

TEST_F(RingFaultTest, AWaitCanBeInterrupted) {
  const TestPair pair = MakePair(kernel_);
  SetRate(Fault::kInterrupted, kAlways);
  driver_.Poll(pair.left.get(), POLLIN, 1);
  EXPECT_EQ(driver_.ring.Enter(1), 1) << "What was submitted hides it.";
  const Instant before = schedule().now();
  EXPECT_EQ(driver_.ring.Enter(1), -EINTR);
  EXPECT_EQ(schedule().now(), before);
  ASSERT_EQ(SendText(kernel_, pair.right.get(), "x"), 1);
  EXPECT_EQ(driver_.One(1).result, POLLIN) << "There is nothing to wait for.";
}

TEST_F(RingFaultTest, AConnectCanAnswerAsOlderKernelsDid) {
  SetRate(Fault::kConnectOddPath, kAlways);
  std::set<int> results;
  for (int round = 0; round < 20; ++round) {
    LoopbackAddress address;
    const TestFd listener = MakeListener(kernel_, &address);
    const TestFd client = MakeSocket(kernel_);
    driver_.Connect(client.get(), address, 1);
    results.insert(driver_.One(1).result);
    LoopbackAddress peer;
    EXPECT_EQ(kernel_.GetPeerName(client.get(), peer.get(), &peer.size), 0) << "It goes on.";
  }
  EXPECT_EQ(results, (std::set<int>{-EINPROGRESS, -EINTR}));
}

TEST_F(RingFaultTest, AnAcceptCanBeOutOfDescriptors) {
  LoopbackAddress address;
  const TestFd listener = MakeListener(kernel_, &address);
  const TestFd client = MakeSocket(kernel_);
  SetRate(Fault::kAcceptLimit, kAlways);
  driver_.AcceptMany(listener.get(), 1);
  EXPECT_TRUE(driver_.Turn().empty());
  ASSERT_EQ(kernel_.Connect(client.get(), address.get(), address.size), 0);
  const Completion completion = driver_.One(1);
  EXPECT_TRUE(completion.result == -EMFILE || completion.result == -ENFILE);
  EXPECT_FALSE(HasMore(completion));
  SetRate(Fault::kAcceptLimit, 0);
  driver_.AcceptMany(listener.get(), 2);
  const TestFd accepted(kernel_, driver_.One(2).result);
  EXPECT_GE(accepted.get(), 0);
  driver_.Cancel(2, 3);
  EXPECT_EQ(driver_.Turn(2).size(), 2U);
}

// --- All of them.

// Streams between pairs of sockets, over fast sends and multishot receives, as the shipped backend moves
// them, while everything strikes. Answers the hash of the world.
class Swarm {
 public:
  // Those that have many occasions here, and those that have few.
  static constexpr Fault kOften[] = {
      Fault::kNoMemory,        Fault::kSubmissionFull,       Fault::kCompletionOverflow,
      Fault::kCompletionOrder, Fault::kCompletionAfterClose, Fault::kBuffersEmpty,
      Fault::kMultishotEnds,   Fault::kCancelRace,           Fault::kPartialSend,
  };
  static constexpr Fault kSeldom[] = {
      Fault::kInterrupted,    Fault::kLateTimer,   Fault::kClock,
      Fault::kPartialReceive, Fault::kEagainStorm,
  };

  Swarm(std::uint64_t seed, TestPair (*make_pair)(Kernel&)) : local_(seed), random_(seed + 1) {
    for (int i = 0; i < 4; ++i) {
      streams_.emplace_back();
      streams_.back().pair = make_pair(local_.kernel);
    }
    const auto draw = [&](Fault fault) {
      local_.world.faults.SetRate(fault, static_cast<std::uint32_t>(random_.Below(8000)));
    };
    std::for_each(std::begin(kOften), std::end(kOften), draw);
    std::for_each(std::begin(kSeldom), std::end(kSeldom), draw);
  }

  void Run() {
    for (int turn = 0; turn < 3000 && !done(); ++turn) Turn();
    EXPECT_TRUE(done());
    local_.world.faults.SetEnabled(false);
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      if (streams_[i].receives) Cancel(i);
    }
    for (int turn = 0; turn < 1000 && ring().operations() > 0; ++turn) Enter();
    EXPECT_EQ(ring().operations(), 0U);
    for (Stream& stream : streams_) {
      EXPECT_EQ(stream.received.size(), stream.sent.size());
      EXPECT_TRUE(stream.sent.starts_with(stream.received));
    }
  }
  std::uint64_t hash() const { return local_.world.trace.hash(); }
  std::uint64_t hits(Fault fault) const { return local_.world.faults.hits(fault); }

 private:
  static constexpr std::size_t kBytes = 20'000;
  enum Kind : __u64 { kReceiveTag = 1, kSendTag, kCancelTag };

  struct Stream {
    TestPair pair;
    std::string text;  // Of the send that is staged.
    std::string sent;  // Taken by the kernel.
    std::string received;
    bool sends = false;
    bool receives = false;
    unsigned position = 0;  // Of the send's submission.
  };

  Ring& ring() { return *local_.kernel.Find(driver_.ring.ring.ring_fd)->AsRing(); }
  bool done() const {
    for (const Stream& stream : streams_) {
      if (stream.sends || stream.sent.size() < kBytes || stream.received != stream.sent) {
        return false;
      }
    }
    return true;
  }
  bool has_room() const {
    const io_uring_sq& sq = driver_.ring.ring.sq;
    return sq.sqe_tail - *sq.khead < sq.ring_entries;
  }
  void Cancel(std::size_t i) {
    if (has_room()) driver_.Cancel(i << 8 | kReceiveTag, i << 8 | kCancelTag);
  }

  void Turn() {
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      Stream& stream = streams_[i];
      if (!stream.receives && has_room()) {
        driver_.ReceiveMany(stream.pair.right.get(), i << 8 | kReceiveTag, 0,
                            random_.Below(2) == 0);
        stream.receives = true;
      } else if (random_.Below(50) == 0) {
        Cancel(i);
      }
      if (!stream.sends && stream.sent.size() < kBytes && has_room()) {
        stream.text.clear();
        for (std::uint64_t left = random_.Between(1, 600); left > 0; --left) {
          stream.text.push_back(static_cast<char>('a' + random_.Below(26)));
        }
        stream.position = driver_.ring.ring.sq.sqe_tail;
        driver_.FastSend(stream.pair.left.get(), stream.text, i << 8 | kSendTag);
        stream.sends = true;
      }
    }
    Enter();
    Schedule& schedule = local_.world.schedule;
    schedule.RunUntil(schedule.now() + random_.Below(2) * 1ms);
  }

  void Enter() {
    static_cast<void>(
        driver_.EnterFor(random_.Below(4) == 0 ? 1 : 0, IORING_ENTER_GETEVENTS, 10ms));
    Reap();
    while (driver_.overflowed()) {
      static_cast<void>(driver_.EnterFor(0, IORING_ENTER_GETEVENTS, 0ms));
      Reap();
    }
    // What was taken and has no completion by now has succeeded.
    for (Stream& stream : streams_) {
      const unsigned head = *driver_.ring.ring.sq.khead;
      if (stream.sends && static_cast<int>(head - stream.position) > 0) {
        stream.sent += stream.text;
        stream.sends = false;
      }
    }
  }

  void Reap() {
    for (const Completion& completion : driver_.ring.Reap()) {
      Stream& stream = streams_[completion.user_data >> 8];
      switch (completion.user_data & 0xff) {
        case kReceiveTag:
          EXPECT_TRUE(stream.receives);
          if (completion.result > 0) stream.received += buffers_.Take(completion);
          stream.receives = HasMore(completion);
          break;
        case kSendTag:
          EXPECT_TRUE(stream.sends);
          if (completion.result > 0) {
            stream.sent += stream.text.substr(0, static_cast<std::size_t>(completion.result));
          }
          stream.sends = false;
          break;
        default:
          break;
      }
    }
  }

  LoopbackWorld local_;
  Random random_;
  std::vector<Stream> streams_;
  RingDriver driver_{local_.kernel, 16};
  TestBuffers buffers_{local_.kernel, driver_.ring.ring.ring_fd, 8, 256};
};

TEST(RingSwarmTest, WhateverStrikesBytesArriveInOrderAndEveryOperationEnds) {
  const std::uint64_t seed = PrintedSeed();
  std::set<std::uint64_t> hashes;
  std::map<Fault, std::uint64_t> hits;
  for (std::uint64_t i = 0; i < 10; ++i) {
    for (TestPair (*const make_pair)(Kernel&) :
         {&MakeTcpPair, +[](Kernel& kernel) { return MakePair(kernel); }}) {
      SCOPED_TRACE(seed + i);
      Swarm swarm(seed + i, make_pair);
      swarm.Run();
      for (const Fault fault : Swarm::kOften) hits[fault] += swarm.hits(fault);
      Swarm again(seed + i, make_pair);
      again.Run();
      EXPECT_EQ(again.hash(), swarm.hash());
      hashes.insert(swarm.hash());
    }
  }
  EXPECT_EQ(hashes.size(), 20U);
  for (const auto& [fault, count] : hits) EXPECT_GT(count, 0U) << ToString(fault);
}

// --- The shipped backend.

TEST_F(RingFaultTest, TheSelfTestOfTheBackendPasses) {
  const absl::Status tested = SelfTestUring(kernel_, -1);
  EXPECT_TRUE(tested.ok()) << tested;
}

class Told final : public SocketEvents {
 public:
  void OnConnect(Socket&, Result result) noexcept override { connects.push_back(result.value); }
  void OnAccept(Socket&, Result result) noexcept override { accepts.push_back(result.value); }
  void OnReceive(Socket&, Result result, const std::byte* data) noexcept override {
    if (result.value > 0) {
      bytes.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(result.value));
    } else {
      receive_end = result.value;
    }
  }
  void OnSend(Socket&, Result result) noexcept override { sends.push_back(result.value); }

  std::vector<int> connects, accepts, sends;
  std::string bytes;
  int receive_end = 1;
};

TEST_F(RingFaultTest, TheBackendConnectsSendsAndReceives) {
  LoopbackAddress address;
  TestFd listener = MakeListener(kernel_, &address);
  auto created = CreateUringBackend(kernel_, {});
  ASSERT_TRUE(created.ok()) << created.status();
  Backend& backend = **created;
  ASSERT_EQ(backend.Enable(), 0);
  Told told;
  Socket socket(told);
  ASSERT_EQ(backend.Open(socket, AF_INET), 0);
  backend.Connect(socket, address.get(), address.size);
  const auto await = [&](auto&& condition) {
    for (int turn = 0; turn < 20 && !condition(); ++turn) {
      backend.Wait(1s);
      backend.Dispatch(128);
    }
    return condition();
  };
  ASSERT_TRUE(await([&] { return told.connects.size() == 1; }));
  EXPECT_EQ(told.connects[0], 0);
  const TestFd peer(kernel_, kernel_.Accept4(listener.get(), nullptr, nullptr, 0));
  backend.Receive(socket);
  std::string text = "request";
  const iovec part{text.data(), text.size()};
  backend.Send(socket, {&part, 1}, Notify::kPromptly);
  ASSERT_TRUE(await([&] { return told.sends.size() == 1; }));
  EXPECT_EQ(told.sends[0], 7);
  EXPECT_EQ(ReadNow(kernel_, peer.get()), "request");
  ASSERT_EQ(SendText(kernel_, peer.get(), "answer"), 6);
  ASSERT_TRUE(await([&] { return told.bytes == "answer"; }));
  backend.Cancel(socket, OpKind::kReceive);
  ASSERT_TRUE(await([&] { return told.receive_end <= 0; }));
  EXPECT_EQ(told.receive_end, -ECANCELED);
  backend.Close(socket);
}

}  // namespace
}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
