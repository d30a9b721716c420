// How large a receive buffer of the io_uring backend should be: CPU time per MB received and per echo.
//
// Large buffers take a stream in fewer completions; small ones stay in cache, since the kernel fills
// them in turn and every byte is written by it and read by us (liburing #862: 16 KiB of receive buffer a
// socket lost to one of epoll's). So neither end is right without looking. Each figure is the CPU
// time of the receiving thread, user and kernel, over loopback; the sender has a thread of its own.
// Everything that arrives is read once, as a parser would. The configurations take turns, so that
// what else the machine does hits all of them alike, and the median of the rounds is printed.
//
//   make build/bin/receive_buffers
//   build/bin/receive_buffers [ROUNDS]
//
// The default in backend/backend.h stands beside the figures that it was chosen by.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"

namespace holdfast::internal {
namespace {

constexpr std::uint64_t kBulkBytes = 256u << 20;  // A round, over all connections.
constexpr int kEchoes = 20'000;                   // The same.
constexpr std::size_t kEchoSize = 64;

struct Configuration {
  std::uint32_t size;
  std::uint32_t count;
};
// The first three have 1 MiB each; the others show what more of it costs.
constexpr Configuration kConfigurations[] = {
    {4096, 256}, {8192, 128}, {16384, 64}, {8192, 256}, {16384, 128}, {16384, 256},
};

// What a round measures.
struct Load {
  const char* name;
  std::size_t connections;
  bool echo;
};
constexpr Load kLoads[] = {
    {"us/MB, 1 conn", 1, false},       {"us/MB, 16 conns", 16, false},
    {"ns/echo, 1 conn", 1, true},      {"ns/echo, 32 conns", 32, true},
    {"ns/echo, 500 conns", 500, true},
};

[[noreturn]] void Fail(const char* what, std::int64_t result) {
  std::fprintf(stderr, "receive_buffers: %s: %s\n", what, std::strerror(static_cast<int>(-result)));
  std::exit(1);
}

std::int64_t Checked(const char* what, std::int64_t result) {
  if (result < 0) Fail(what, result);
  return result;
}

double ThreadCpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The receiving end: reads what comes, and sends it back if it is to.
class Receiver final : public SocketEvents {
 public:
  Receiver(Backend& backend, bool echo) : backend_(backend), echo_(echo) {}

  void OnConnect(Socket&, Result) noexcept override {}
  void OnAccept(Socket&, Result) noexcept override {}
  void OnReceive(Socket& told, Result result, const std::byte* data) noexcept override {
    if (result.value <= 0) {
      ended = true;
      return;
    }
    const auto size = static_cast<std::size_t>(result.value);
    bytes += size;
    for (std::size_t i = 0; i + sizeof(std::uint64_t) <= size; i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, data + i, sizeof(word));
      sum += word;
    }
    if (!echo_) return;
    std::memcpy(answer_, data, std::min(size, kEchoSize));
    const iovec part{answer_, std::min(size, kEchoSize)};
    backend_.Send(told, {&part, 1}, Notify::kWithNextEvent);
  }
  void OnSend(Socket&, Result result) noexcept override {
    if (result.value < 0) Fail("send", result.value);
  }

  Socket socket{*this};
  std::uint64_t bytes = 0;
  std::uint64_t sum = 0;  // So that nobody leaves the reading out.
  bool ended = false;

 private:
  Backend& backend_;
  const bool echo_;
  std::byte answer_[kEchoSize] = {};
};

void SendAll(Kernel& kernel, int fd, const std::vector<std::byte>& data) {
  for (std::size_t sent = 0; sent < data.size();) {
    sent += static_cast<std::size_t>(
        Checked("send", kernel.Send(fd, data.data() + sent, data.size() - sent, MSG_NOSIGNAL)));
  }
}

// The other ends, on a thread of their own.
void Drive(Kernel& kernel, const Load& load, const std::vector<int>& fds) {
  const std::vector<std::byte> bulk(64 << 10, std::byte{7});
  std::vector<std::byte> ping(kEchoSize, std::byte{7});
  if (load.echo) {
    for (int sent = 0; sent < kEchoes; sent += static_cast<int>(fds.size())) {
      for (const int fd : fds) SendAll(kernel, fd, ping);
      for (const int fd : fds) {
        for (std::size_t got = 0; got < ping.size();) {
          got += static_cast<std::size_t>(
              Checked("recv", kernel.Recv(fd, ping.data(), ping.size() - got, 0)));
        }
      }
    }
  } else {
    for (std::uint64_t sent = 0; sent < kBulkBytes; sent += bulk.size() * fds.size()) {
      for (const int fd : fds) SendAll(kernel, fd, bulk);
    }
  }
  for (const int fd : fds) Checked("shutdown", kernel.Shutdown(fd, SHUT_WR));
}

// One slice: microseconds per MB, or nanoseconds per echo.
double Measure(Kernel& kernel, Configuration configuration, const Load& load) {
  auto created = CreateUringBackend(
      kernel, {.buffer_count = configuration.count, .buffer_size = configuration.size});
  if (!created.ok()) {
    std::fprintf(stderr, "receive_buffers: %s\n", created.status().ToString().c_str());
    std::exit(1);
  }
  Backend& backend = **created;
  Checked("enable", backend.Enable());
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  const auto listener =
      static_cast<int>(Checked("socket", kernel.Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  Checked("bind", kernel.Bind(listener, name, size));
  Checked("listen", kernel.Listen(listener, 512));
  Checked("getsockname", kernel.GetSockName(listener, name, &size));

  std::vector<std::unique_ptr<Receiver>> receivers;
  std::vector<int> fds;
  for (std::size_t i = 0; i < load.connections; ++i) {
    const int one = 1;
    fds.push_back(
        static_cast<int>(Checked("socket", kernel.Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))));
    Checked("connect", kernel.Connect(fds.back(), name, size));
    Checked("nodelay", kernel.SetSockOpt(fds.back(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    const auto accepted =
        static_cast<int>(Checked("accept", kernel.Accept4(listener, nullptr, nullptr, 0)));
    Checked("nodelay", kernel.SetSockOpt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    receivers.push_back(std::make_unique<Receiver>(backend, load.echo));
    Checked("adopt", backend.Adopt(receivers.back()->socket, accepted, AF_INET));
    backend.Receive(receivers.back()->socket);
  }
  Checked("close", kernel.Close(listener));

  std::thread driver(Drive, std::ref(kernel), std::cref(load), std::cref(fds));
  const double begin = ThreadCpuSeconds();
  const auto ended = [](const auto& receiver) {
    return receiver->ended && receiver->socket.idle();
  };
  while (!std::all_of(receivers.begin(), receivers.end(), ended)) {
    backend.Wait(std::chrono::milliseconds(100));
    backend.Dispatch(128);
  }
  const double seconds = ThreadCpuSeconds() - begin;
  driver.join();

  std::uint64_t bytes = 0;
  for (const auto& receiver : receivers) {
    bytes += receiver->bytes;
    backend.Close(receiver->socket);
  }
  for (const int fd : fds) static_cast<void>(kernel.Close(fd));
  if (load.echo) return seconds * 1e9 / (static_cast<double>(bytes) / kEchoSize);
  return seconds * 1e6 / (static_cast<double>(bytes) / (1 << 20));
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Main(int rounds) {
  Kernel& kernel = RealKernel();
  constexpr std::size_t kConfigurationCount = std::size(kConfigurations);
  constexpr std::size_t kLoadCount = std::size(kLoads);
  std::vector<double> figures[kConfigurationCount][kLoadCount];
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t l = 0; l < kLoadCount; ++l) {
      for (std::size_t c = 0; c < kConfigurationCount; ++c) {
        // Each round begins with another configuration.
        const std::size_t turn = (c + static_cast<std::size_t>(round)) % kConfigurationCount;
        figures[turn][l].push_back(Measure(kernel, kConfigurations[turn], kLoads[l]));
      }
    }
  }
  std::printf("median of %d rounds, CPU time of the receiving thread\n%-16s", rounds, "buffers");
  for (const Load& load : kLoads) std::printf(" %18s", load.name);
  std::printf("\n");
  for (std::size_t c = 0; c < kConfigurationCount; ++c) {
    const std::string what = std::to_string(kConfigurations[c].count) + " x " +
                             std::to_string(kConfigurations[c].size / 1024) + " KiB";
    std::printf("%-16s", what.c_str());
    for (std::size_t l = 0; l < kLoadCount; ++l) std::printf(" %18.1f", Median(figures[c][l]));
    std::printf("\n");
  }
  return 0;
}

}  // namespace
}  // namespace holdfast::internal

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  if (rounds <= 0) {
    std::fprintf(stderr, "usage: receive_buffers [ROUNDS]\n");
    return 1;
  }
  return holdfast::internal::Main(rounds);
}
