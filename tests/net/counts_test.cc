// Counted, not timed: system calls per echo, and heap calls per message, on both backends.
//
// The server under count runs on the test's own thread; its clients are raw sockets on another one.
// For the waves both threads share one processor, so that "32 sends, then 32 receives" is what it says:
// the server runs when the client has to wait, and a wave arrives as one. On two processors the server
// wakes with the first message, and the figure would tell how fast the other processor is.
#include <sched.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "net/stream_fixture.h"
#include "support/counting_heap.h"

namespace holdfast::test {
namespace {

constexpr std::size_t kMessage = 64;

void SendAll(const Fd& fd, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t sent = ::send(fd.get(), data, size, MSG_NOSIGNAL);
    if (sent <= 0) return;
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
}
// False at the end of the connection.
bool ReceiveAll(const Fd& fd, char* data, std::size_t size) {
  return ::recv(fd.get(), data, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}
Fd ConnectBlocking(const SocketAddress& address) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), address.data(), address.size()), 0);
  return fd;
}

// The calling thread and those it makes stay on the processor where it is; undone at the end.
class OneProcessor {
 public:
  OneProcessor() {
    EXPECT_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    EXPECT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  }
  ~OneProcessor() { EXPECT_EQ(::sched_setaffinity(0, sizeof(before_), &before_), 0); }

 private:
  cpu_set_t before_{};
};

// Waves of one message on each of `connections`, all sent before the first is received.
void RunWaves(const SocketAddress& address, int connections, int waves) {
  std::vector<Fd> fds;
  for (int i = 0; i < connections; ++i) fds.push_back(ConnectBlocking(address));
  const std::array<char, kMessage> message{};
  std::array<char, kMessage> echo;
  for (int wave = 0; wave < waves; ++wave) {
    for (const Fd& fd : fds) SendAll(fd, message.data(), message.size());
    for (const Fd& fd : fds) {
      if (!ReceiveAll(fd, echo.data(), echo.size())) return;
    }
  }
}

// An echo server on a reactor, and what it cost between two of its echoes.
class EchoServer {
 public:
  EchoServer(Reactor& reactor, std::uint64_t first, std::uint64_t last)
      : reactor_(reactor), first_(first), last_(last) {
    options_ = std::make_shared<StreamOptions>();
    options_->on_data = [this](Stream& stream, std::span<const std::byte> bytes) {
      EXPECT_EQ(stream.Send(bytes), SendStatus::kQueued);
      echoes_ += bytes.size() / kMessage;
      if (echoes_ >= first_ && syscalls_begin_ == 0) {
        first_ = echoes_;
        syscalls_begin_ = reactor_.stats().syscalls;
        heap_begin_ = internal::HeapCalls();
      }
      if (echoes_ >= last_ && syscalls_end_ == 0) {
        last_ = echoes_;
        syscalls_end_ = reactor_.stats().syscalls;
        heap_end_ = internal::HeapCalls();
      }
    };
    options_->on_closed = [this](Stream&, const StreamClosed&) {
      if (++closed_ == streams_.size()) reactor_.Stop();
    };
    absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Create(
        reactor,
        {.endpoint = "127.0.0.1:0", .on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
           stream->Start(options_);
           streams_.push_back(std::move(stream));
         }});
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  [[nodiscard]] SocketAddress address() const { return listener_->local(); }
  [[nodiscard]] std::uint64_t echoes() const { return last_ - first_; }
  [[nodiscard]] double syscalls_per_echo() const {
    return static_cast<double>(syscalls_end_ - syscalls_begin_) / static_cast<double>(echoes());
  }
  [[nodiscard]] std::uint64_t heap_calls() const { return heap_end_ - heap_begin_; }
  [[nodiscard]] bool counted() const { return syscalls_end_ != 0; }

 private:
  Reactor& reactor_;
  std::uint64_t first_;
  std::uint64_t last_;
  std::shared_ptr<StreamOptions> options_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::size_t closed_ = 0;
  std::uint64_t echoes_ = 0;
  std::uint64_t syscalls_begin_ = 0;
  std::uint64_t syscalls_end_ = 0;
  std::uint64_t heap_begin_ = 0;
  std::uint64_t heap_end_ = 0;
};

class CountsTest : public StreamFixture {
 protected:
  // What `waves` waves on `connections` cost, after a tenth as many to warm up.
  void RunEchoes(EchoServer& server, int connections, int waves) {
    std::jthread client([&, address = server.address()] {
      RunWaves(address, connections, waves + waves / 10 + 1);
    });
    Timer watchdog(reactor(), [&] { reactor().Stop(); });
    watchdog.Arm(reactor().Now() + 60s);
    EXPECT_TRUE(reactor().Run().ok());
    EXPECT_TRUE(watchdog.armed()) << "the echoes took more than a minute";
    EXPECT_TRUE(server.counted());
  }
  [[nodiscard]] bool uring() const { return GetParam() == BackendKind::kUring; }
};
HOLDFAST_FOR_BOTH_BACKENDS(CountsTest);

// --- System calls.

TEST_P(CountsTest, OneConnectionInLockstepCostsItsShareOfSystemCalls) {
  constexpr int kEchoes = 5'000;
  EchoServer server(reactor(), kEchoes / 10, kEchoes / 10 + kEchoes);
  RunEchoes(server, 1, kEchoes);
  RecordProperty("syscalls_per_echo", std::to_string(server.syscalls_per_echo()));
  EXPECT_GE(server.echoes(), 4'900u);
  EXPECT_LE(server.syscalls_per_echo(), uring() ? 1.05 : 3.05);
}

TEST_P(CountsTest, ThirtyTwoConnectionsInWavesShareTheirSystemCalls) {
  constexpr int kConnections = 32;
  constexpr int kWaves = 500;
  const OneProcessor one;
  EchoServer server(reactor(), kConnections * kWaves / 10,
                    kConnections * kWaves / 10 + kConnections * (kWaves - 1));
  RunEchoes(server, kConnections, kWaves);
  RecordProperty("syscalls_per_echo", std::to_string(server.syscalls_per_echo()));
  EXPECT_GE(server.echoes(), 15'000u);
  EXPECT_LE(server.syscalls_per_echo(), uring() ? 0.3 : 2.3);
}

// --- The counter itself, against strace.

// What stats().syscalls counts, by the names of strace(1).
constexpr const char* kDataPath =
    "epoll_wait,epoll_pwait,epoll_pwait2,epoll_ctl,accept,accept4,connect,recvfrom,recvmsg,sendto,"
    "sendmsg,io_uring_enter";

// The sum of the calls of a `strace -c` table, and the table.
std::uint64_t SumOfCalls(const std::string& path, std::string* table) {
  std::ifstream file(path);
  std::uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    *table += line + "\n";
    std::istringstream words(line);
    double percent = 0;
    double seconds = 0;
    std::uint64_t each = 0;
    std::uint64_t calls = 0;
    std::string last;
    if (!(words >> percent >> seconds >> each >> calls)) continue;
    while (words >> last) {
    }
    if (last != "total") sum += calls;
  }
  return sum;
}

// The pid of who traces `pid`, 0 for nobody.
int TracerOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("TracerPid:", 0) == 0) return std::atoi(line.c_str() + 10);
  }
  return 0;
}

// In a child: an echo server that stops itself until it is traced, serves, and writes what its own
// counter says. Never returns.
[[noreturn]] void ServeTraced(BackendKind backend, int address_pipe, int result_pipe) {
  constexpr int kEchoes = 1'000;
  absl::StatusOr<std::unique_ptr<Reactor>> reactor = Reactor::Create({.backend = backend});
  if (!reactor.ok()) ::_exit(2);
  EchoServer server(**reactor, 1, kEchoes);
  const std::uint16_t port = server.address().port();
  if (::write(address_pipe, &port, sizeof(port)) != sizeof(port)) ::_exit(3);
  ::raise(SIGSTOP);
  const std::uint64_t before = (*reactor)->stats().syscalls;
  if (!(*reactor)->Run().ok()) ::_exit(4);
  const std::uint64_t count = (*reactor)->stats().syscalls - before;
  if (::write(result_pipe, &count, sizeof(count)) != sizeof(count)) ::_exit(5);
  ::_exit(0);
}

TEST_P(CountsTest, TheCounterSaysWhatStraceSays) {
  if (!internal::CanCountHeapCalls()) GTEST_SKIP() << "a sanitizer's own calls would count as well";
  const std::string table_path =
      testing::TempDir() + "holdfast-strace-" + std::to_string(getpid()) + ".txt";
  int address_pipe[2];
  int result_pipe[2];
  ASSERT_EQ(::pipe2(address_pipe, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(result_pipe, O_CLOEXEC), 0);
  Fd address_in(address_pipe[0]);
  Fd address_out(address_pipe[1]);
  Fd result_in(result_pipe[0]);
  Fd result_out(result_pipe[1]);
  const pid_t server = ::fork();
  ASSERT_GE(server, 0);
  if (server == 0) ServeTraced(GetParam(), address_out.get(), result_out.get());
  address_out.Reset();
  result_out.Reset();
  struct Reaper {
    pid_t pid;
    ~Reaper() {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  };
  const Reaper server_reaper{server};
  std::uint16_t port = 0;
  if (::read(address_in.get(), &port, sizeof(port)) != sizeof(port)) {
    GTEST_SKIP() << "this machine has no such backend";
  }
  int status = 0;
  ASSERT_EQ(::waitpid(server, &status, WUNTRACED), server);
  ASSERT_TRUE(WIFSTOPPED(status));

  const pid_t strace = ::fork();
  ASSERT_GE(strace, 0);
  if (strace == 0) {
    const std::string trace = std::string("trace=") + kDataPath;
    ::execlp("strace", "strace", "-q", "-f", "-c", "-e", trace.c_str(), "-o", table_path.c_str(),
             "-p", std::to_string(server).c_str(), nullptr);
    ::_exit(127);
  }
  bool traced = false;
  bool strace_ended = false;
  ASSERT_TRUE(RunUntil([&] {
    traced = TracerOf(server) == strace;
    strace_ended = !traced && ::waitpid(strace, &status, WNOHANG) == strace;
    return traced || strace_ended;
  }));
  if (strace_ended) {
    GTEST_SKIP() << "strace "
                 << (WIFEXITED(status) && WEXITSTATUS(status) == 127
                         ? "is not installed: apt-get install strace"
                         : "may not trace here (ptrace is forbidden)");
  }
  // A stopped process that is traced goes on only when its tracer lets it, and then every call counts.
  ::kill(server, SIGCONT);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  const SocketAddress target(reinterpret_cast<sockaddr*>(&address), sizeof(address));
  std::jthread client([&] { RunWaves(target, 4, 250); });
  std::uint64_t own = 0;
  ASSERT_EQ(::read(result_in.get(), &own, sizeof(own)), static_cast<ssize_t>(sizeof(own)));
  ASSERT_EQ(::waitpid(strace, &status, 0), strace);  // It ends with the server, and then writes.
  std::string table;
  const std::uint64_t seen = SumOfCalls(table_path, &table);
  ::unlink(table_path.c_str());
  EXPECT_GT(seen, 100u) << table;
  EXPECT_EQ(own, seen) << "by strace:\n" << table;
}

// --- The heap.

// Keeps the compiler from leaving out what nobody looks at.
template <class T>
void Use(T*& pointer) {
  asm volatile("" : "+r"(pointer) : : "memory");
}

TEST_P(CountsTest, TheCounterOfHeapCallsCounts) {
  if (!internal::CanCountHeapCalls()) GTEST_SKIP() << "this build has a heap of its own";
  const std::uint64_t before = internal::HeapCalls();
  int* one = new int(1);
  Use(one);
  void* two = std::malloc(10);
  Use(two);
  two = std::realloc(two, 10'000);
  Use(two);
  std::free(two);
  delete one;
  EXPECT_EQ(internal::HeapCalls() - before, 5u);
}

TEST_P(CountsTest, AnEchoOfAStreamTouchesNoHeap) {
  if (!internal::CanCountHeapCalls()) GTEST_SKIP() << "this build has a heap of its own";
  constexpr int kConnections = 8;
  constexpr int kWaves = 1'000;
  // So that whole waves are echoed in one turn from the first on: then the pool of blocks has grown when
  // the counting begins.
  const OneProcessor one;
  EchoServer server(reactor(), kConnections * kWaves / 10, kConnections * kWaves);
  RunEchoes(server, kConnections, kWaves);
  EXPECT_EQ(server.heap_calls(), 0u) << "in " << server.echoes() << " echoes";
}

// A raw server that sends everything back, until the end.
void EchoRaw(RawServer& server) {
  pollfd poll{.fd = server.fd(), .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, 10'000) != 1) return;
  const Fd peer = server.Accept();
  ::fcntl(peer.get(), F_SETFL, 0);
  std::vector<char> buffer(64 << 10);
  for (;;) {
    const ssize_t size = ::recv(peer.get(), buffer.data(), buffer.size(), 0);
    if (size <= 0) return;
    SendAll(peer, buffer.data(), static_cast<std::size_t>(size));
  }
}

// Messages over a link in bursts of `burst`, each burst sent when the last one has come back. The first is
// eight in one: how many messages are kept for want of an acknowledgement is up to the kernel's timing, and
// what grows with their number must have grown before it is counted.
struct LinkCount {
  std::uint64_t messages = 0;
  std::uint64_t heap_calls = 0;
};
class LinkCountsTest : public CountsTest {
 protected:
  LinkCount Count(std::uint64_t burst, std::uint64_t bursts) {
    RawServer server;
    std::jthread echo([&] { EchoRaw(server); });
    const std::string message(kMessage, 'm');
    std::uint64_t size = 8 * burst;
    std::uint64_t received = 0;
    std::uint64_t done = 0;
    std::uint64_t heap_begin = 0;
    LinkCount count;
    const auto send = [&](Link& link) {
      for (std::uint64_t i = 0; i < size; ++i) {
        EXPECT_EQ(link.Send(message).status, SendStatus::kQueued);
      }
    };
    LinkOptions options;
    options.endpoints = {server.endpoint()};
    options.ping = "a ping that never goes out";
    options.on_up = [&](Link& link) { send(link); };
    options.on_data = [&](Link& link, std::span<const std::byte> bytes) {
      received += bytes.size();
      if (received < size * kMessage) return;
      received -= size * kMessage;
      size = burst;
      ++done;
      if (done == bursts / 10) heap_begin = internal::HeapCalls();
      if (done == bursts) {
        count.heap_calls = internal::HeapCalls() - heap_begin;
        count.messages = (bursts - bursts / 10) * burst;
        return link.Close(1s);
      }
      send(link);
    };
    options.on_closed = [&](Link&, const Closed& closed) {
      EXPECT_EQ(closed.acked, burst * (bursts + 7));
      EXPECT_EQ(closed.total(), burst * (bursts + 7));
      reactor().Stop();
    };
    absl::StatusOr<std::unique_ptr<Link>> link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << link.status();
    (*link)->Start();
    Timer watchdog(reactor(), [&] { reactor().Stop(); });
    watchdog.Arm(reactor().Now() + 60s);
    EXPECT_TRUE(reactor().Run().ok());
    EXPECT_TRUE(watchdog.armed()) << "the echoes took more than a minute";
    return count;
  }
};
HOLDFAST_FOR_BOTH_BACKENDS(LinkCountsTest);

TEST_P(LinkCountsTest, AMessageOfALinkTouchesNoHeap) {
  if (!internal::CanCountHeapCalls()) GTEST_SKIP() << "this build has a heap of its own";
  const LinkCount count = Count(1, 5'000);
  EXPECT_EQ(count.messages, 4'500u);
  EXPECT_EQ(count.heap_calls, 0u) << "in " << count.messages << " messages";
}

TEST_P(LinkCountsTest, NorDoBurstsOfThem) {
  if (!internal::CanCountHeapCalls()) GTEST_SKIP() << "this build has a heap of its own";
  const LinkCount count = Count(64, 500);
  EXPECT_EQ(count.messages, 28'800u);
  EXPECT_EQ(count.heap_calls, 0u) << "in " << count.messages << " messages";
}

}  // namespace
}  // namespace holdfast::test
