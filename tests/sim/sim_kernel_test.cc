// The simulated kernel as a whole: descriptors, checks, blocking, time, faults, death, the trace.
#include "sim/sim_kernel.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/sim_fixture.h"
#include "support/seed.h"

namespace holdfast::internal::sim {
namespace {

constexpr int kPlain = SOCK_STREAM | SOCK_CLOEXEC;
constexpr int kNonblocking = kPlain | SOCK_NONBLOCK;

struct Ipv4 {
  explicit Ipv4(const char* text = "127.0.0.1", std::uint16_t port = 0) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    EXPECT_EQ(std::sscanf(text, "%u.%u.%u.%u", &a, &b, &c, &d), 4);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl((a << 24) | (b << 16) | (c << 8) | d);
  }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&address); }
  std::uint16_t port() const { return ntohs(address.sin_port); }

  sockaddr_in address{};
  socklen_t size = sizeof(sockaddr_in);
};

// --- Descriptors, on both kernels.

class DescriptorTest : public testing::TestWithParam<KernelCase> {
 protected:
  Kernel& kernel_ = GetParam().kernel();
};

TEST_P(DescriptorTest, TheLowestFreeOneIsNext) {
  std::array<Descriptor, 4> fds;
  for (Descriptor& fd : fds) fd = Descriptor(kernel_, kernel_.EventFd());
  const int second = fds[1];
  const int third = fds[2];
  fds[2].Close();
  fds[1].Close();
  fds[1] = Descriptor(kernel_, kernel_.EventFd());
  fds[2] = Descriptor(kernel_, kernel_.Socket(AF_UNIX, kPlain, 0));
  EXPECT_EQ(fds[1], second);
  EXPECT_EQ(fds[2], third);
}

TEST_P(DescriptorTest, WhatIsNotOpenIsBadAndWhatIsNoSocketIsNone) {
  const Descriptor event(kernel_, kernel_.EventFd());
  const int closed = kernel_.EventFd();
  EXPECT_EQ(kernel_.Close(closed), 0);
  EXPECT_EQ(kernel_.Close(closed), -EBADF);
  Ipv4 address;
  char byte = 0;
  int value = 0;
  for (const int fd : {closed, -1, static_cast<int>(event)}) {
    const int error = fd == event ? -ENOTSOCK : -EBADF;
    EXPECT_EQ(kernel_.Bind(fd, address.get(), address.size), error);
    EXPECT_EQ(kernel_.Listen(fd, 1), error);
    EXPECT_EQ(kernel_.Accept4(fd, nullptr, nullptr, SOCK_CLOEXEC), error);
    EXPECT_EQ(kernel_.Connect(fd, address.get(), address.size), error);
    EXPECT_EQ(kernel_.Send(fd, &byte, 1, MSG_NOSIGNAL), error);
    EXPECT_EQ(kernel_.Recv(fd, &byte, 1, 0), error);
    msghdr message{};
    EXPECT_EQ(kernel_.SendMsg(fd, &message, MSG_NOSIGNAL), error);
    EXPECT_EQ(kernel_.RecvMsg(fd, &message, 0), error);
    EXPECT_EQ(kernel_.Shutdown(fd, SHUT_WR), error);
    socklen_t size = sizeof(value);
    EXPECT_EQ(kernel_.GetSockOpt(fd, SOL_SOCKET, SO_ERROR, &value, &size), error);
    EXPECT_EQ(kernel_.SetSockOpt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value)), error);
    socklen_t room = address.size;
    EXPECT_EQ(kernel_.GetSockName(fd, address.get(), &room), error);
    EXPECT_EQ(kernel_.GetPeerName(fd, address.get(), &room), error);
  }
  EXPECT_EQ(kernel_.Read(closed, &byte, 1), -EBADF);
  EXPECT_EQ(kernel_.Write(closed, &byte, 1), -EBADF);
}

TEST_P(DescriptorTest, UnknownKindsOfSocketsAreRefused) {
  std::array<int, 2> fds{};
  EXPECT_EQ(kernel_.Socket(AF_INET, SOCK_STREAM | 0x40000000, 0), -EINVAL);
  EXPECT_EQ(kernel_.Socket(12345, kPlain, 0), -EAFNOSUPPORT);
  EXPECT_EQ(kernel_.Socket(AF_INET, kPlain, IPPROTO_UDP), -EPROTONOSUPPORT);
  EXPECT_EQ(kernel_.SocketPair(AF_INET, kPlain, 0, fds.data()), -EOPNOTSUPP);
  EXPECT_EQ(kernel_.SocketPair(AF_UNIX, kPlain, 99, fds.data()), -EPROTONOSUPPORT);
  const Descriptor tcp(kernel_, kernel_.Socket(AF_INET, kPlain, IPPROTO_TCP));
  EXPECT_GE(tcp, 0);
  EXPECT_EQ(kernel_.Accept4(tcp, nullptr, nullptr, 1), -EINVAL);
}

TEST_P(DescriptorTest, RandomBytesFillWhatIsAskedFor) {
  std::array<unsigned char, 37> bytes{};
  EXPECT_EQ(kernel_.GetRandom(bytes.data(), bytes.size()), 37);
  // 37 zero bytes, or the last 5 of them, do not come within the age of the universe.
  EXPECT_NE(std::count(bytes.begin(), bytes.end(), 0), 37);
  EXPECT_NE(std::count(bytes.end() - 5, bytes.end(), 0), 5);
}

TEST_P(DescriptorTest, AnEmptyErrorQueueHasNothingAndDoesNotBlock) {
  const Descriptor tcp(kernel_, kernel_.Socket(AF_INET, kPlain, 0));
  msghdr message{};
  EXPECT_EQ(kernel_.RecvMsg(tcp, &message, MSG_ERRQUEUE), -EAGAIN);
}

INSTANTIATE_TEST_SUITE_P(Kernels, DescriptorTest, BothKernels(), KernelCaseName);

// --- A world with two hosts.

class SimKernelTest : public testing::Test {
 protected:
  SimKernelTest() {
    here_.kernel = std::make_unique<SimKernel>(world_, world_.network.AddHost("here"));
    there_.kernel = std::make_unique<SimKernel>(world_, world_.network.AddHost("there"));
  }

  struct Process {
    std::unique_ptr<SimKernel> kernel;
  };

  // Listens on 10.0.0.2:7000, which is "there".
  int Listen(int type = kNonblocking) {
    SimKernel& kernel = *there_.kernel;
    const int fd = kernel.Socket(AF_INET, type, 0);
    Ipv4 address("10.0.0.2", 7000);
    EXPECT_EQ(kernel.Bind(fd, address.get(), address.size), 0);
    EXPECT_EQ(kernel.Listen(fd, 16), 0);
    return fd;
  }
  int Connect(int fd) {
    Ipv4 address("10.0.0.2", 7000);
    return here_.kernel->Connect(fd, address.get(), address.size);
  }
  void Run(Duration duration) { world_.schedule.RunUntil(world_.schedule.now() + duration); }

  World world_{7};
  Process here_;
  Process there_;
};

TEST_F(SimKernelTest, DescriptorsStartWhereNoRealOneIs) {
  EXPECT_EQ(here_.kernel->EventFd(), 1 << 20);
  EXPECT_EQ(here_.kernel->EventFd(), (1 << 20) + 1);
  EXPECT_EQ(here_.kernel->open_descriptors(), 2U);
  EXPECT_EQ(here_.kernel->Close(3), -EBADF);
}

TEST_F(SimKernelTest, TheLimitOfDescriptorsHoldsForAllThatMakesOne) {
  SimKernel& kernel = *here_.kernel;
  kernel.SetDescriptorLimit(3);
  EXPECT_GE(kernel.EventFd(), 0);
  EXPECT_GE(kernel.EpollCreate(), 0);
  std::array<int, 2> fds{};
  EXPECT_EQ(kernel.SocketPair(AF_UNIX, kPlain, 0, fds.data()), -EMFILE);
  EXPECT_EQ(kernel.open_descriptors(), 2U);  // Not one of the two was left behind.
  const int last = kernel.TimerFd();
  EXPECT_GE(last, 0);
  EXPECT_EQ(kernel.TimerFd(), -EMFILE);
  EXPECT_EQ(kernel.EventFd(), -EMFILE);
  EXPECT_EQ(kernel.EpollCreate(), -EMFILE);
  EXPECT_EQ(kernel.Socket(AF_INET, kPlain, 0), -EMFILE);
  EXPECT_EQ(kernel.Close(last), 0);
  EXPECT_EQ(kernel.Socket(AF_INET, kPlain, 0), last);
}

TEST_F(SimKernelTest, WithoutADescriptorAConnectionStaysQueued) {
  SimKernel& server = *there_.kernel;
  const int listener = Listen();
  const int client = here_.kernel->Socket(AF_INET, kNonblocking, 0);
  EXPECT_EQ(Connect(client), -EINPROGRESS);
  Run(1s);
  server.SetDescriptorLimit(1);
  EXPECT_EQ(server.Accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), -EMFILE);
  EXPECT_EQ(world_.faults.hits(Fault::kAcceptLimit), 1U);  // By a limit, too.
  server.SetDescriptorLimit(2);
  world_.faults.SetRate(Fault::kAcceptLimit, 65536);
  const int refused = server.Accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  EXPECT_TRUE(refused == -EMFILE || refused == -ENFILE) << refused;
  EXPECT_EQ(world_.faults.hits(Fault::kAcceptLimit), 2U);
  world_.faults.SetEnabled(false);
  Ipv4 peer;
  EXPECT_GE(server.Accept4(listener, peer.get(), &peer.size, SOCK_CLOEXEC), 0);
  EXPECT_EQ(ntohl(peer.address.sin_addr.s_addr), 0x0a000001U);
  EXPECT_EQ(server.Accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), -EMFILE);  // Before EAGAIN.
}

// --- Blocking calls.

TEST_F(SimKernelTest, BlockingCallsWaitInVirtualTime) {
  world_.network.path(here_.kernel->host(), there_.kernel->host()).latency = 20ms;
  world_.network.path(there_.kernel->host(), here_.kernel->host()).latency = 30ms;
  const Instant start = world_.schedule.now();
  std::string story;
  world_.schedule.Spawn([&] {
    SimKernel& kernel = *there_.kernel;
    const int listener = Listen(kPlain);
    const int fd = kernel.Accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    ASSERT_GE(fd, 0);
    std::array<char, 16> data{};
    EXPECT_EQ(kernel.Recv(fd, data.data(), data.size(), 0), 4);
    story += "there: " + std::string(data.data()) + "; ";
    Schedule::Sleeper sleeper;
    world_.schedule.Block(sleeper, world_.schedule.now() + 1s);
    EXPECT_EQ(kernel.Send(fd, "pong", 4, MSG_NOSIGNAL), 4);
  });
  Instant connected{};
  Instant answered{};
  world_.schedule.Spawn([&] {
    SimKernel& kernel = *here_.kernel;
    const int fd = kernel.Socket(AF_INET, kPlain, 0);
    EXPECT_EQ(Connect(fd), 0);
    connected = world_.schedule.now();
    EXPECT_EQ(kernel.Send(fd, "ping", 4, MSG_NOSIGNAL), 4);
    std::array<char, 16> data{};
    EXPECT_EQ(kernel.Recv(fd, data.data(), data.size(), MSG_DONTWAIT), -EAGAIN);
    EXPECT_EQ(kernel.Recv(fd, data.data(), data.size(), 0), 4);
    answered = world_.schedule.now();
    story += "here: " + std::string(data.data());
  });
  Run(10s);
  EXPECT_EQ(story, "there: ping; here: pong");
  EXPECT_EQ(connected - start, 50ms);
  EXPECT_EQ(answered - start, 50ms + 20ms + 1s + 30ms);
}

TEST_F(SimKernelTest, ABlockingConnectIsToldOfTheRefusal) {
  int result = 0;
  world_.schedule.Spawn([&] {
    const int fd = here_.kernel->Socket(AF_INET, kPlain, 0);
    result = Connect(fd);
  });
  Run(1s);
  EXPECT_EQ(result, -ECONNREFUSED);
}

TEST_F(SimKernelTest, ASignalEndsABlockingCall) {
  world_.faults.SetRate(Fault::kInterrupted, 65536);
  const int listener = Listen(kPlain);
  ssize_t result = 0;
  int accepted = 0;
  world_.schedule.Spawn([&] {
    std::array<int, 2> fds{};
    EXPECT_EQ(there_.kernel->SocketPair(AF_UNIX, kPlain, 0, fds.data()), 0);
    char byte = 0;
    result = there_.kernel->Recv(fds[0], &byte, 1, 0);
    accepted = there_.kernel->Accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  });
  Run(1s);
  EXPECT_EQ(result, -EINTR);
  EXPECT_EQ(accepted, -EINTR);
}

TEST_F(SimKernelTest, AConnectThatASignalEndedGoesOn) {
  Listen();
  world_.faults.SetRate(Fault::kConnectOddPath, 65536);
  const int fd = here_.kernel->Socket(AF_INET, kNonblocking, 0);
  EXPECT_EQ(Connect(fd), -EINTR);
  EXPECT_EQ(world_.faults.hits(Fault::kConnectOddPath), 1U);
  Run(1s);
  Ipv4 peer;
  EXPECT_EQ(here_.kernel->GetPeerName(fd, peer.get(), &peer.size), 0);
  EXPECT_EQ(peer.port(), 7000);
}

// --- Faults of resources.

TEST_F(SimKernelTest, ResourcesRunOutOneKindAtATime) {
  SimKernel& kernel = *here_.kernel;
  std::array<int, 2> fds{};
  ASSERT_EQ(kernel.SocketPair(AF_UNIX, kNonblocking, 0, fds.data()), 0);
  const std::size_t open = kernel.open_descriptors();

  world_.faults.SetRate(Fault::kSocketLimit, 65536);
  int result = kernel.Socket(AF_INET, kPlain, 0);
  EXPECT_TRUE(result == -EMFILE || result == -ENFILE) << result;
  world_.faults.SetRate(Fault::kSocketLimit, 0);

  world_.faults.SetRate(Fault::kNoMemory, 65536);
  const auto is_out = [](std::int64_t answer) { return answer == -ENOMEM || answer == -ENOBUFS; };
  EXPECT_TRUE(is_out(kernel.Socket(AF_INET, kPlain, 0)));
  EXPECT_TRUE(is_out(kernel.Send(fds[0], "x", 1, MSG_NOSIGNAL)));
  char byte = 0;
  EXPECT_TRUE(is_out(kernel.Recv(fds[0], &byte, 1, 0)));
  EXPECT_TRUE(is_out(Connect(fds[0])));
  EXPECT_EQ(kernel.StartThread([](void*) {}, nullptr), -EAGAIN);
  EXPECT_EQ(world_.faults.hits(Fault::kNoMemory), 5U);
  EXPECT_EQ(kernel.open_descriptors(), open);
  world_.faults.SetEnabled(false);
  EXPECT_EQ(kernel.Send(fds[0], "x", 1, MSG_NOSIGNAL), 1);
}

TEST_F(SimKernelTest, RingsCanBeForbiddenOrLost) {
  SimKernel& kernel = *here_.kernel;
  // Nothing of these is looked at before the refusal.
  const auto setup = [&] { return kernel.RingSetup(8, nullptr, nullptr); };
  kernel.SetRings(false, 0);
#ifdef HOLDFAST_NO_URING
  EXPECT_EQ(setup(), -ENOSYS);
#else
  EXPECT_EQ(setup(), -EPERM);
  kernel.SetRings(false, -ENOMEM);
  EXPECT_EQ(setup(), -ENOMEM);
  kernel.SetRings(true, 0);
  world_.faults.SetRate(Fault::kBackendLost, 65536);
  const int lost = setup();
  EXPECT_TRUE(lost == -ENOSYS || lost == -EPERM || lost == -ENOMEM) << lost;
  EXPECT_EQ(world_.faults.hits(Fault::kBackendLost), 1U);
#endif
  const int event = kernel.EventFd();
  EXPECT_EQ(kernel.RingRegister(event, 0, nullptr, 0), -EOPNOTSUPP);
  EXPECT_EQ(kernel.RingEnter(event, 0, 0, 0, nullptr, 0), -EOPNOTSUPP);
  EXPECT_EQ(kernel.RingRegister(event + 1, 0, nullptr, 0), -EBADF);
  EXPECT_EQ(kernel.RingEnter(event + 1, 0, 0, 0, nullptr, 0), -EBADF);
}

// --- Time, threads, names.

TEST_F(SimKernelTest, TheClockIsTheScheduleS) {
  EXPECT_EQ(here_.kernel->ClockNow(), Schedule::kStart);
  Run(1500ms);
  EXPECT_EQ(here_.kernel->ClockNow(), Schedule::kStart + 1500ms);
  world_.schedule.Stall(1ns);
  EXPECT_EQ(there_.kernel->ClockNow(), Schedule::kStart + 1500ms + 1ns);
}

TEST_F(SimKernelTest, AThreadIsATaskAndNeverRunsInsideTheCallThatStartsIt) {
  bool ran = false;
  EXPECT_EQ(here_.kernel->StartThread([](void* flag) { *static_cast<bool*>(flag) = true; }, &ran),
            0);
  EXPECT_FALSE(ran);
  EXPECT_EQ(world_.schedule.tasks(), 1U);
  Run(0s);
  EXPECT_TRUE(ran);
  EXPECT_EQ(world_.schedule.tasks(), 0U);
}

TEST_F(SimKernelTest, ALoopThatSpinsLetsTimePassAndOthersRun) {
  SimKernel& kernel = *here_.kernel;
  const int epoll = kernel.EpollCreate();
  const int event = kernel.EventFd();
  epoll_event told{};
  told.events = EPOLLIN;
  ASSERT_EQ(kernel.EpollCtl(epoll, EPOLL_CTL_ADD, event, &told), 0);
  const std::uint64_t one = 1;
  ASSERT_EQ(kernel.Write(event, &one, sizeof(one)), 8);
  bool others = false;
  int turns = 0;
  world_.schedule.Spawn([&] {
    // Level-triggered and never read.
    while (!others && ++turns < 1'000'000) {
      EXPECT_EQ(kernel.EpollWait(epoll, &told, 1, kNeverTimeout), 1);
    }
  });
  world_.schedule.After(100us, [&] { others = true; });
  Run(1ms);
  EXPECT_TRUE(others);
  EXPECT_LT(turns, 1'000'000);
  EXPECT_EQ(world_.schedule.tasks(), 0U);
}

TEST_F(SimKernelTest, NamesAreLookedUpOnATask) {
  Names::Answer answer;
  Ipv4 address("10.0.0.2");
  answer.addresses = {SocketAddress(address.get(), address.size)};
  answer.delay = 5ms;
  world_.names.Set("feed.example.com", answer);
  int good = -1;
  int bad = 0;
  std::uint16_t port = 0;
  Duration took{};
  world_.schedule.Spawn([&] {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    int error_number = 1;
    const Instant start = here_.kernel->ClockNow();
    good = here_.kernel->GetAddrInfo("feed.example.com", "7000", &hints, &list, &error_number);
    took = here_.kernel->ClockNow() - start;
    EXPECT_EQ(error_number, 0);
    if (good != 0) return;
    port = ntohs(reinterpret_cast<sockaddr_in*>(list->ai_addr)->sin_port);
    here_.kernel->FreeAddrInfo(list);
    bad = here_.kernel->GetAddrInfo("nobody.example.com", "1", &hints, &list, &error_number);
  });
  Run(1min);
  EXPECT_EQ(good, 0);
  EXPECT_EQ(took, 5ms);
  EXPECT_EQ(port, 7000);
  EXPECT_EQ(bad, EAI_NONAME);
}

// --- The end of a process.

TEST_F(SimKernelTest, AProcessThatEndsClosesWhatItHad) {
  const int listener = Listen();
  const int client = here_.kernel->Socket(AF_INET, kNonblocking, 0);
  EXPECT_EQ(Connect(client), -EINPROGRESS);
  Run(1s);
  const int server = there_.kernel->Accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
  ASSERT_GE(server, 0);
  here_.kernel = nullptr;
  Run(1s);
  char byte = 0;
  EXPECT_EQ(there_.kernel->Recv(server, &byte, 1, 0), 0);
}

TEST_F(SimKernelTest, DeathEndsEveryWaitAtOnce) {
  SimKernel& kernel = *here_.kernel;
  std::array<int, 2> fds{};
  ASSERT_EQ(kernel.SocketPair(AF_UNIX, kPlain, 0, fds.data()), 0);
  const int epoll = kernel.EpollCreate();
  int waited = -1;
  ssize_t received = 0;
  world_.schedule.Spawn([&] {
    epoll_event event{};
    waited = kernel.EpollWait(epoll, &event, 1, kNeverTimeout);
  });
  world_.schedule.Spawn([&] {
    char byte = 0;
    received = kernel.Recv(fds[0], &byte, 1, 0);
  });
  Run(1s);
  EXPECT_EQ(world_.schedule.tasks(), 2U);
  EXPECT_FALSE(kernel.dead());
  kernel.Die();
  EXPECT_TRUE(kernel.dead());
  Run(0s);
  EXPECT_EQ(world_.schedule.tasks(), 0U);
  EXPECT_EQ(waited, 0);
  EXPECT_LT(received, 0);
}

TEST_F(SimKernelTest, TheDeadDoNothingToTheWorldAndStillClose) {
  SimKernel& kernel = *here_.kernel;
  const int listener = Listen();
  const int client = kernel.Socket(AF_INET, kNonblocking, 0);
  EXPECT_EQ(Connect(client), -EINPROGRESS);
  Run(1s);
  const int server = there_.kernel->Accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
  ASSERT_GE(server, 0);
  kernel.Die();
  EXPECT_EQ(kernel.Send(client, "ghost", 5, MSG_NOSIGNAL), 5);
  char byte = 0;
  EXPECT_EQ(kernel.Recv(client, &byte, 1, 0), -EAGAIN);
  EXPECT_EQ(kernel.Shutdown(client, SHUT_RDWR), 0);
  EXPECT_LT(kernel.Socket(AF_INET, kPlain, 0), 0);
  EXPECT_LT(Connect(client), 0);
  int value = 1;
  socklen_t size = sizeof(value);
  EXPECT_EQ(kernel.GetSockOpt(client, SOL_SOCKET, SO_ERROR, &value, &size), 0);
  EXPECT_EQ(value, 0);
  Run(1s);
  EXPECT_EQ(there_.kernel->Recv(server, &byte, 1, 0), -EAGAIN);
  // Power lost: not even the close is heard.
  kernel.host().Crash();
  const std::size_t open = kernel.open_descriptors();
  EXPECT_EQ(kernel.Close(client), 0);
  EXPECT_EQ(kernel.open_descriptors(), open - 1);
  Run(1s);
  EXPECT_EQ(there_.kernel->Recv(server, &byte, 1, 0), -EAGAIN);
}

TEST_F(SimKernelTest, TheClockOfTheDeadGoesOnWithItsWaits) {
  SimKernel& kernel = *here_.kernel;
  const int epoll = kernel.EpollCreate();
  const int event = kernel.EventFd();
  epoll_event told{};
  told.events = EPOLLIN;
  ASSERT_EQ(kernel.EpollCtl(epoll, EPOLL_CTL_ADD, event, &told), 0);
  kernel.Die();
  const Instant start = kernel.ClockNow();
  EXPECT_EQ(kernel.EpollWait(epoll, &told, 1, 5s), 0);
  EXPECT_EQ(kernel.EpollWait(epoll, &told, 1, kNeverTimeout), 0);
  EXPECT_EQ(kernel.ClockNow(), start + 5s);
  EXPECT_EQ(there_.kernel->ClockNow(), start);
  const std::uint64_t one = 1;
  EXPECT_EQ(kernel.Write(event, &one, sizeof(one)), 8);
  EXPECT_EQ(kernel.EpollWait(epoll, &told, 1, 5s), 1);
  EXPECT_EQ(kernel.ClockNow(), start + 5s);
}

TEST_F(SimKernelTest, ADeadLoopThatWaitsInVainDoesNotHoldUpTheWorld) {
  SimKernel& kernel = *here_.kernel;
  const int epoll = kernel.EpollCreate();
  kernel.Die();
  bool stop = false;
  world_.schedule.Spawn([&] {
    epoll_event event{};
    while (!stop) EXPECT_EQ(kernel.EpollWait(epoll, &event, 1, kNeverTimeout), 0);
  });
  world_.schedule.After(100ms, [&] { stop = true; });
  Run(1s);
  EXPECT_EQ(world_.schedule.tasks(), 0U);
}

TEST_F(SimKernelTest, AFrozenProcessComesBackFromNoCallUntilItIsThawed) {
  SimKernel& kernel = *here_.kernel;
  const int epoll = kernel.EpollCreate();
  Instant end{};
  world_.schedule.Spawn([&] {
    epoll_event event{};
    EXPECT_EQ(kernel.EpollWait(epoll, &event, 1, 10ms), 0);
    end = world_.schedule.now();
  });
  world_.schedule.RunReady();
  kernel.Freeze();
  Run(1s);
  EXPECT_EQ(world_.schedule.tasks(), 1U);
  kernel.Thaw();
  Run(0s);
  EXPECT_EQ(end, Schedule::kStart + 1s);
  kernel.Freeze();
  world_.schedule.Spawn([&] {
    epoll_event event{};
    EXPECT_EQ(kernel.EpollWait(epoll, &event, 1, 10ms), 0);
  });
  Run(1s);
  EXPECT_EQ(world_.schedule.tasks(), 1U);
  kernel.Die();
  Run(0s);
  EXPECT_EQ(world_.schedule.tasks(), 0U);
}

// --- The trace.

// What one seed does, with chance in it.
std::pair<std::uint64_t, std::vector<std::string>> Play(std::uint64_t seed, bool told) {
  World world(seed);
  std::vector<std::string> lines;
  if (told) world.trace.SetSink([&](std::string_view line) { lines.emplace_back(line); });
  world.faults.SetRate(Fault::kPartialSend, 32768);
  world.faults.SetRate(Fault::kNoMemory, 8192);
  SimKernel kernel(world, world.network.AddHost("gateway"));
  std::array<int, 2> fds{};
  EXPECT_EQ(kernel.SocketPair(AF_UNIX, kNonblocking, 0, fds.data()), 0);
  std::array<char, 100> data{};
  for (int i = 0; i < 50; ++i) {
    kernel.Send(fds[0], data.data(), data.size(), MSG_NOSIGNAL);
    kernel.Recv(fds[1], data.data(), data.size(), 0);
    world.schedule.RunUntil(world.schedule.now() + 1ms);
  }
  return {world.trace.hash(), lines};
}

TEST(SimTraceTest, OneSeedHasOneHashAndAnotherSeedAnother) {
  const std::uint64_t seed = PrintedSeed();
  EXPECT_EQ(Play(seed, false).first, Play(seed, false).first);
  EXPECT_EQ(Play(seed, false).first, Play(seed, true).first);  // Whoever listens.
  EXPECT_NE(Play(seed, false).first, Play(seed + 1, false).first);
}

TEST(SimTraceTest, RandomBytesComeFromTheSeed) {
  const auto draw = [](std::uint64_t seed) {
    LoopbackWorld world(seed);
    std::uint64_t value = 0;
    EXPECT_EQ(world.kernel.GetRandom(&value, sizeof(value)), 8);
    return value;
  };
  EXPECT_EQ(draw(5), draw(5));
  EXPECT_NE(draw(5), draw(6));
}

TEST(SimTraceTest, ReadsAsAStory) {
  World world(1);
  std::vector<std::string> lines;
  world.trace.SetSink([&](std::string_view line) { lines.emplace_back(line); });
  {
    SimKernel kernel(world, world.network.AddHost("gateway"));
    const int fd = kernel.Socket(AF_UNIX, kNonblocking, 0);
    sockaddr_storage nobody{};
    nobody.ss_family = AF_UNIX;
    std::strcpy(reinterpret_cast<char*>(&nobody) + 2, "/run/feed");
    EXPECT_EQ(kernel.Connect(fd, reinterpret_cast<sockaddr*>(&nobody), 12), -ENOENT);
    const int epoll = kernel.EpollCreate();
    epoll_event event{};
    event.events = EPOLLOUT | EPOLLET;
    EXPECT_EQ(kernel.EpollCtl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    world.schedule.RunUntil(Schedule::kStart + 1500ms);
    EXPECT_EQ(kernel.EpollWait(epoll, &event, 1, 1s), 1);
    EXPECT_EQ(kernel.Close(fd), 0);
  }
  const std::vector<std::string> expected = {
      "0.000000 gateway  socket unix -> 1048576",
      "0.000000 gateway  connect 1048576 unix:/run/feed -> -ENOENT",
      "0.000000 gateway  epoll_create1 -> 1048577",
      "0.000000 gateway  epoll_ctl 1048577 add 1048576 out|et -> 0",
      "1.500000 gateway  event 1048576 out|hup -> 1",
      "1.500000 gateway  epoll_pwait2 1048577 -> 1",
      "1.500000 gateway  close 1048576 -> 0",
  };
  EXPECT_EQ(lines, expected);
}

TEST(LoopbackKernelTest, EveryCallGivesAFreshWorld) {
  Kernel& first = LoopbackKernel();
  EXPECT_EQ(first.EventFd(), SimKernel::kFirstDescriptor);
  EXPECT_EQ(first.Close(SimKernel::kFirstDescriptor), 0);
  Kernel& second = LoopbackKernel();
  EXPECT_EQ(second.ClockNow(), Schedule::kStart);
  EXPECT_EQ(second.Close(SimKernel::kFirstDescriptor), -EBADF);
}

}  // namespace
}  // namespace holdfast::internal::sim
