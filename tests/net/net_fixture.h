// What the tests of floors 4 and 5 share: a reactor for each backend, turns until something happened,
// and a peer made of raw sockets that does exactly what a test says.
//
// No test sleeps: it turns the reactor until a condition holds or a deadline passes. Ports are the
// kernel's choice. Everything a fixture starts it ends, and it checks that no descriptor is left and that
// no error of class kInvalid was counted.
#ifndef HOLDFAST_TESTS_NET_NET_FIXTURE_H_
#define HOLDFAST_TESTS_NET_NET_FIXTURE_H_

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>

namespace holdfast::test {

using namespace std::chrono_literals;

inline std::size_t OpenDescriptors() {
  std::size_t count = 0;
  DIR* const directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

// A raw socket that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    Reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Fd() { Reset(); }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void Reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

enum class Family { kInet, kInet6, kUnix };

// A listening raw socket, non-blocking: the test accepts when it wants to.
class RawServer {
 public:
  // On AF_UNIX the name is abstract and the kernel's choice (unix(7), autobind): nothing to clean up.
  explicit RawServer(Family family = Family::kInet, std::uint16_t port = 0, int backlog = 128)
      : RawServer(AddressOf(family, port), backlog) {}
  explicit RawServer(const SocketAddress& address, int backlog = 128)
      : listener_(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    const int on = 1;
    ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    EXPECT_EQ(::bind(listener_.get(), address.data(), address.size()), 0) << address.ToString();
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    address_ = SocketAddress(reinterpret_cast<const sockaddr*>(&bound), size);
    endpoint_ = address_.ToString();
    EXPECT_EQ(::listen(listener_.get(), backlog), 0);
  }
  [[nodiscard]] const std::string& endpoint() const { return endpoint_; }
  [[nodiscard]] const SocketAddress& address() const { return address_; }
  [[nodiscard]] std::uint16_t port() const { return address_.port(); }
  [[nodiscard]] int fd() const { return listener_.get(); }
  // The next connection, non-blocking, or an invalid Fd when there is none yet.
  [[nodiscard]] Fd Accept() {
    return Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  void Close() { listener_.Reset(); }

 private:
  [[nodiscard]] static SocketAddress AddressOf(Family family, std::uint16_t port) {
    if (family == Family::kUnix) {
      const sockaddr address{.sa_family = AF_UNIX, .sa_data = {}};
      return {&address, sizeof(sa_family_t)};
    }
    const std::string host = family == Family::kInet ? "127.0.0.1:" : "[::1]:";
    return *Endpoint::Parse(host + std::to_string(port))->literal();
  }

  Fd listener_;
  SocketAddress address_;
  std::string endpoint_;
};

// A port on which nobody listens: bound, so that nobody else gets it, but not listening. A RawServer may be
// bound to it as well, as often as it likes: both have SO_REUSEADDR.
class ClosedPort {
 public:
  ClosedPort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    socklen_t size = sizeof(address);
    ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  [[nodiscard]] std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  Fd fd_;
  std::uint16_t port_ = 0;
};

// Closes with a RST instead of a FIN (socket(7), SO_LINGER).
inline void ResetPeer(Fd& fd) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  fd.Reset();
}

// All that is there now.
inline std::string ReadAvailable(const Fd& fd) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t size = ::recv(fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (size <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(size));
  }
}

inline std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// One reactor, on the backend that the test says.
class FixtureWithReactor : public testing::Test {
 protected:
  [[nodiscard]] virtual BackendKind backend() const = 0;

  void SetUp() override {
    descriptors_ = OpenDescriptors();
    MakeReactor({});
  }
  void TearDown() override {
    if (reactor_ != nullptr) {
      EXPECT_EQ(reactor_->stats().bugs, expected_bugs_);
    }
    reactor_.reset();
    if (!IsSkipped() && check_descriptors_) {
      EXPECT_EQ(OpenDescriptors(), descriptors_);
    }
  }
  void MakeReactor(ReactorOptions options) {
    options.backend = backend();
    if (!options.seed.has_value()) options.seed = 1;
    reactor_.reset();
    absl::StatusOr<std::unique_ptr<Reactor>> reactor = Reactor::Create(options);
    if (reactor.status().code() == absl::StatusCode::kUnimplemented) {
      GTEST_SKIP() << "this machine has no such backend: " << reactor.status();
    }
    ASSERT_TRUE(reactor.ok()) << reactor.status();
    reactor_ = *std::move(reactor);
  }
  [[nodiscard]] Reactor& reactor() { return *reactor_; }

  // Turns the reactor until `done` says so, looking again at least every millisecond (a raw peer gives
  // no event). False when `limit` passed first.
  [[nodiscard]] bool RunUntil(const std::function<bool()>& done, Duration limit = 10s) {
    const Instant end = std::chrono::steady_clock::now() + limit;
    while (!done()) {
      if (std::chrono::steady_clock::now() >= end) return false;
      EXPECT_TRUE(reactor_->RunFor(1ms).ok());
    }
    return true;
  }
  // The connection that arrives at the raw server next.
  [[nodiscard]] Fd AcceptFrom(RawServer& server, Duration limit = 10s) {
    Fd peer;
    EXPECT_TRUE(RunUntil(
        [&] {
          peer = server.Accept();
          return peer.valid();
        },
        limit));
    return peer;
  }
  // What the raw peer receives until it has `size` bytes or the limit passes.
  [[nodiscard]] std::string ReadFrom(const Fd& peer, std::size_t size, Duration limit = 10s) {
    std::string text;
    EXPECT_TRUE(RunUntil(
        [&] {
          text += ReadAvailable(peer);
          return text.size() >= size;
        },
        limit))
        << "got " << text.size() << " of " << size << " bytes";
    return text;
  }

  std::unique_ptr<Reactor> reactor_;
  std::uint64_t expected_bugs_ = 0;
  bool check_descriptors_ = true;

 private:
  std::size_t descriptors_ = 0;
};

// On the backend that the parameter names.
class NetTest : public FixtureWithReactor, public testing::WithParamInterface<BackendKind> {
 protected:
  [[nodiscard]] BackendKind backend() const override { return GetParam(); }
};

inline std::string BackendName(const testing::TestParamInfo<BackendKind>& info) {
  return info.param == BackendKind::kUring ? "uring" : "epoll";
}

#define HOLDFAST_FOR_BOTH_BACKENDS(Suite)                                                         \
  INSTANTIATE_TEST_SUITE_P(                                                                       \
      Both, Suite, testing::Values(holdfast::BackendKind::kUring, holdfast::BackendKind::kEpoll), \
      holdfast::test::BackendName)

// Everything a link told, in order: "dial1", "up", "data:...", "down:<class>", "closed:<reason>".
struct Diary {
  std::vector<std::string> lines;
  std::vector<Down> downs;  // The views in them are dead.
  std::optional<Closed> closed;
  int ups = 0;
  int dials = 0;
  std::string data;

  [[nodiscard]] bool Has(const std::string& line) const {
    return std::find(lines.begin(), lines.end(), line) != lines.end();
  }
  [[nodiscard]] std::string Text() const {
    std::string text;
    for (const std::string& line : lines) text += (text.empty() ? "" : " ") + line;
    return text;
  }
  // Sets the callbacks of `options` that are not set yet, so that they write here.
  void Attach(LinkOptions& options) {
    options.on_dial = [this](Link&, std::uint32_t attempt, std::string_view) {
      ++dials;
      lines.push_back("dial" + std::to_string(attempt));
    };
    options.on_up = [this](Link&) {
      ++ups;
      lines.push_back("up");
    };
    options.on_data = [this](Link&, std::span<const std::byte> bytes) { data += AsText(bytes); };
    options.on_down = [this](Link&, const Down& down) {
      downs.push_back(down);
      lines.push_back("down:" + std::string(ToString(down.error.error_class)));
    };
    options.on_closed = [this](Link&, const Closed& end) {
      closed = end;
      lines.push_back("closed:" + std::string(ToString(end.reason)));
    };
  }
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NET_NET_FIXTURE_H_
