// A listener over real sockets, both backends: it accepts, shares a port, frees it, and rests instead of
// spinning when this host has no descriptor left.
#include <holdfast/listener.h>

#include <sys/resource.h>

#include <filesystem>

#include "net/stream_fixture.h"

namespace holdfast::test {
namespace {

class ListenerTest : public StreamFixture {
 protected:
  // A listener that keeps what it accepts.
  ListenerOptions Options(const std::string& endpoint = "127.0.0.1:0") {
    ListenerOptions options;
    options.endpoint = endpoint;
    options.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
      EXPECT_EQ(closes_, 0) << "on_accept after on_closed";
      accepted_.push_back(std::move(stream));
    };
    options.on_error = [this](Listener&, const Error& error) {
      EXPECT_EQ(closes_, 0) << "on_error after on_closed";
      errors_.push_back(error);
      error_times_.push_back(reactor().Now());
    };
    options.on_closed = [this](Listener&) { ++closes_; };
    return options;
  }
  std::unique_ptr<Listener> Make(ListenerOptions options) {
    absl::StatusOr<std::unique_ptr<Listener>> listener =
        Listener::Create(reactor(), std::move(options));
    EXPECT_TRUE(listener.ok()) << listener.status();
    return listener.ok() ? *std::move(listener) : nullptr;
  }
  void TearDown() override {
    accepted_.clear();
    StreamFixture::TearDown();
  }

  std::vector<std::unique_ptr<Stream>> accepted_;
  std::vector<Error> errors_;
  std::vector<Instant> error_times_;
  int closes_ = 0;
};
HOLDFAST_FOR_BOTH_BACKENDS(ListenerTest);

bool CanListen(std::uint16_t port) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
         ::listen(fd.get(), 1) == 0;
}

// --- Accepting.

TEST_P(ListenerTest, AcceptsAThousandConnections) {
  std::unique_ptr<Listener> listener = Make(Options());
  std::vector<Fd> peers;
  for (int i = 0; i < 1000; ++i) {
    peers.push_back(ConnectTo(listener->local()));
    if (i % 50 == 0) RunTurns(1);  // Some come one by one, most in bursts.
  }
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1000; }));
  EXPECT_EQ(listener->stats().accepted, 1000u);
  EXPECT_EQ(listener->stats().pauses, 0u);
  EXPECT_EQ(reactor().stats().streams, 1000u);
  EXPECT_TRUE(errors_.empty());
  // Each is a connection of its own.
  std::vector<std::uint16_t> ports;
  for (const std::unique_ptr<Stream>& stream : accepted_) ports.push_back(stream->peer().port());
  std::sort(ports.begin(), ports.end());
  EXPECT_EQ(std::unique(ports.begin(), ports.end()), ports.end());
}

TEST_P(ListenerTest, AStormOfConnectionsDoesNotKeepTheLoopForItself) {
  std::unique_ptr<Listener> listener = Make(Options());
  std::vector<Fd> peers;
  for (int i = 0; i < 400; ++i) peers.push_back(ConnectTo(listener->local()));
  std::size_t most = 0;
  ASSERT_TRUE(RunUntil([&] {
    const std::size_t before = accepted_.size();
    RunTurns(1);
    most = std::max(most, accepted_.size() - before);
    return accepted_.size() == 400;
  }));
  EXPECT_LE(most, 64u);
}

TEST_P(ListenerTest, PortZeroIsTheKernelsChoiceAndLocalSaysIt) {
  std::unique_ptr<Listener> one = Make(Options());
  std::unique_ptr<Listener> other = Make(Options());
  EXPECT_NE(one->local().port(), 0);
  EXPECT_NE(one->local().port(), other->local().port());
  EXPECT_EQ(one->local().ToString(), "127.0.0.1:" + std::to_string(one->local().port()));
  const Fd peer = ConnectTo(one->local());
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1; }));
  EXPECT_EQ(accepted_[0]->local(), one->local());
  EXPECT_EQ(one->stats().accepted, 1u);
  EXPECT_EQ(other->stats().accepted, 0u);
}

TEST_P(ListenerTest, ListensOnEveryFamily) {
  const std::string path = testing::TempDir() + "holdfast-" + std::to_string(getpid()) + ".sock";
  const std::string name = AbstractName();
  for (const std::string& endpoint : {std::string("[::1]:0"), "unix:" + path, name}) {
    accepted_.clear();
    ListenerOptions options = Options(endpoint);
    absl::StatusOr<std::unique_ptr<Listener>> listener =
        Listener::Create(reactor(), std::move(options));
    if (endpoint[0] == '[' && !listener.ok()) continue;  // A host without IPv6.
    ASSERT_TRUE(listener.ok()) << endpoint << ": " << listener.status();
    if (endpoint[0] == 'u') {
      EXPECT_EQ((*listener)->local().ToString(), endpoint);
    }
    const Fd peer = ConnectTo((*listener)->local());
    ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1; })) << endpoint;
  }
  std::filesystem::remove(path);
}

TEST_P(ListenerTest, ConnectionsThatDieBeforeTheyAreAcceptedDoNotStopIt) {
  std::unique_ptr<Listener> listener = Make(Options());
  for (int i = 0; i < 20; ++i) {
    Fd doomed = ConnectTo(listener->local());
    ResetPeer(doomed);
  }
  const Fd peer = ConnectTo(listener->local());
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(peer.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_TRUE(RunUntil([&] {
    return !accepted_.empty() && accepted_.back()->peer().port() == ntohs(address.sin_port);
  }));
  EXPECT_TRUE(errors_.empty());
}

TEST_P(ListenerTest, OnSocketSeesTheListenerAndEveryConnection) {
  std::vector<int> seen;
  ListenerOptions options = Options();
  options.socket.on_socket = [&](int fd) {
    int listening = -1;
    socklen_t size = sizeof(listening);
    EXPECT_EQ(::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size), 0);
    int nodelay = -1;
    size = sizeof(nodelay);
    EXPECT_EQ(::getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &size), 0);
    EXPECT_NE(nodelay, 0);
    seen.push_back(listening);
  };
  std::unique_ptr<Listener> listener = Make(std::move(options));
  EXPECT_EQ(seen, std::vector<int>({0}));  // Not yet: before bind.
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1; }));
  EXPECT_EQ(seen, std::vector<int>({0, 0}));
}

TEST_P(ListenerTest, TwoReactorsShareAPort) {
  ReactorOptions reactor_options;
  reactor_options.backend = GetParam();
  std::unique_ptr<Reactor> second = *Reactor::Create(reactor_options);
  ListenerOptions options = Options();
  options.reuse_port = true;
  std::unique_ptr<Listener> one = Make(std::move(options));
  std::vector<std::unique_ptr<Stream>> others;
  ListenerOptions shared;
  shared.endpoint = one->local().ToString();
  shared.reuse_port = true;
  shared.on_accept = [&](Listener&, std::unique_ptr<Stream> stream) {
    others.push_back(std::move(stream));
  };
  absl::StatusOr<std::unique_ptr<Listener>> other = Listener::Create(*second, std::move(shared));
  ASSERT_TRUE(other.ok()) << other.status();
  std::vector<Fd> peers;
  for (int i = 0; i < 100; ++i) peers.push_back(ConnectTo(one->local()));
  ASSERT_TRUE(RunUntil([&] {
    EXPECT_TRUE(second->RunFor(0ms).ok());
    return accepted_.size() + others.size() == 100;
  }));
  // The kernel spreads them by a hash: that one side gets none of 100 is a matter of 2^-99.
  EXPECT_GT(accepted_.size(), 0u);
  EXPECT_GT(others.size(), 0u);
}

// --- What is wrong is said by Create.

TEST_P(ListenerTest, AnAddressThatIsTakenIsAFailedPrecondition) {
  RawServer taken;
  absl::StatusOr<std::unique_ptr<Listener>> listener =
      Listener::Create(reactor(), Options(taken.endpoint()));
  EXPECT_EQ(listener.status().code(), absl::StatusCode::kFailedPrecondition) << listener.status();
  EXPECT_NE(listener.status().message().find("EADDRINUSE"), std::string_view::npos)
      << listener.status();
  RawServer taken_name(Family::kUnix);
  listener = Listener::Create(reactor(), Options(taken_name.endpoint()));
  EXPECT_EQ(listener.status().code(), absl::StatusCode::kFailedPrecondition) << listener.status();
  EXPECT_EQ(reactor().stats().open_sockets, 0u);
}

TEST_P(ListenerTest, AnAddressOfAnotherHostIsAFailedPrecondition) {
  absl::StatusOr<std::unique_ptr<Listener>> listener =
      Listener::Create(reactor(), Options("192.0.2.1:0"));  // RFC 5737: of no host.
  EXPECT_EQ(listener.status().code(), absl::StatusCode::kFailedPrecondition) << listener.status();
}

TEST_P(ListenerTest, InvalidOptionsNameTheFieldAndTheValue) {
  struct Case {
    const char* says;
    std::function<void(ListenerOptions&)> set;
  };
  const Case cases[] = {
      {"endpoint", [](ListenerOptions& o) { o.endpoint = ""; }},
      {"70000", [](ListenerOptions& o) { o.endpoint = "127.0.0.1:70000"; }},
      {"endpoint = \"localhost:0\"", [](ListenerOptions& o) { o.endpoint = "localhost:0"; }},
      {"endpoint", [](ListenerOptions& o) { o.endpoint = "127.0.0.1"; }},
      {"backlog = 0", [](ListenerOptions& o) { o.backlog = 0; }},
      {"backlog = -1", [](ListenerOptions& o) { o.backlog = -1; }},
      {"on_accept", [](ListenerOptions& o) { o.on_accept = {}; }},
      {"socket.bind_address", [](ListenerOptions& o) { o.socket.bind_address = "127.0.0.1:0"; }},
      {"socket.send_buffer = -1", [](ListenerOptions& o) { o.socket.send_buffer = -1; }},
      {"socket.receive_buffer = -2", [](ListenerOptions& o) { o.socket.receive_buffer = -2; }},
  };
  for (const Case& c : cases) {
    ListenerOptions options = Options();
    c.set(options);
    absl::StatusOr<std::unique_ptr<Listener>> listener =
        Listener::Create(reactor(), std::move(options));
    EXPECT_EQ(listener.status().code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_NE(listener.status().message().find(c.says), std::string_view::npos)
        << listener.status();
  }
}

// --- Closing.

TEST_P(ListenerTest, CloseFreesThePortInThisTurnOrTheNext) {
  std::unique_ptr<Listener> listener = Make(Options());
  const std::uint16_t port = listener->local().port();
  RunTurns(2);
  EXPECT_FALSE(CanListen(port));
  listener->Close();
  EXPECT_EQ(closes_, 0) << "inside the call";
  RunTurns(2);
  EXPECT_TRUE(CanListen(port));
  EXPECT_EQ(closes_, 1);
  listener->Close();
  RunTurns(3);
  EXPECT_EQ(closes_, 1);
}

TEST_P(ListenerTest, DestroyingItFreesThePortToo) {
  std::unique_ptr<Listener> listener = Make(Options());
  const std::uint16_t port = listener->local().port();
  RunTurns(2);
  listener.reset();
  RunTurns(2);
  EXPECT_TRUE(CanListen(port));
  EXPECT_EQ(closes_, 0);
}

TEST_P(ListenerTest, CloseBeforeTheFirstTurnEndsIt) {
  std::unique_ptr<Listener> listener = Make(Options());
  const std::uint16_t port = listener->local().port();
  listener->Close();
  RunTurns(2);
  EXPECT_EQ(closes_, 1);
  EXPECT_TRUE(CanListen(port));
}

TEST_P(ListenerTest, AfterCloseInsideOnAcceptNothingMoreIsAccepted) {
  ListenerOptions options = Options();
  options.on_accept = [&](Listener& listener, std::unique_ptr<Stream> stream) {
    accepted_.push_back(std::move(stream));
    listener.Close();
  };
  std::unique_ptr<Listener> listener = Make(std::move(options));
  std::vector<Fd> peers;
  for (int i = 0; i < 10; ++i) peers.push_back(ConnectTo(listener->local()));
  ASSERT_TRUE(RunUntil([&] { return closes_ == 1; }));
  EXPECT_EQ(accepted_.size(), 1u);
  EXPECT_EQ(listener->stats().accepted, 1u);
  // The others are closed one way or the other: none is left hanging.
  int ended = 0;
  for (const Fd& peer : peers) ended += Look(peer) == Sight::kNothing ? 0 : 1;
  EXPECT_EQ(ended, 9);
}

TEST_P(ListenerTest, ItsStreamsLiveOnWithoutIt) {
  std::unique_ptr<Listener> listener = Make(Options());
  const Fd peer = ConnectTo(listener->local());
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1; }));
  listener.reset();
  RunTurns(3);
  StreamDiary diary;
  StreamOptions stream_options;
  diary.Attach(stream_options);
  accepted_[0]->Start(std::make_shared<const StreamOptions>(std::move(stream_options)));
  ASSERT_EQ(WriteAvailable(peer, "orphan"), 6u);
  ASSERT_TRUE(RunUntil([&] { return diary.data == "orphan"; }));
  accepted_.clear();
}

TEST_P(ListenerTest, MayBeDestroyedInEachOfItsCallbacks) {
  std::unique_ptr<Listener> listener;
  ListenerOptions options = Options();
  options.on_accept = [&](Listener&, std::unique_ptr<Stream> stream) {
    accepted_.push_back(std::move(stream));
    listener.reset();
  };
  listener = Make(std::move(options));
  std::vector<Fd> peers;
  for (int i = 0; i < 5; ++i) peers.push_back(ConnectTo(listener->local()));
  ASSERT_TRUE(RunUntil([&] { return !accepted_.empty(); }));
  RunQuietSpell();
  EXPECT_EQ(accepted_.size(), 1u);
  EXPECT_EQ(closes_, 0);
  options = Options();
  options.on_closed = [&](Listener&) {
    ++closes_;
    listener.reset();
  };
  listener = Make(std::move(options));
  listener->Close();
  RunTurns(3);
  EXPECT_EQ(closes_, 1);
  EXPECT_EQ(listener, nullptr);
}

// --- No descriptor left.

// While it lives, the limit of descriptors is a little above what is open now. Made before anything is
// accepted: io_uring reads the limit when an accept is prepared (io_uring/net.c, accept->nofile).
class LowLimit {
 public:
  LowLimit() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const Fd next(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    rlimit limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(next.get()) + 24;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  ~LowLimit() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

// While it lives, this process can open nothing more.
class NoDescriptors {
 public:
  NoDescriptors() {
    for (;;) {
      const int fd = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
      if (fd < 0) break;
      fillers_.emplace_back(fd);
    }
    EXPECT_EQ(errno, EMFILE);
  }

 private:
  std::vector<Fd> fillers_;
};

Duration CpuTime() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& t) {
    return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

TEST_P(ListenerTest, WithoutDescriptorsItRestsAndThenGoesOn) {
  const LowLimit limit;
  std::unique_ptr<Listener> listener = Make(Options());
  const SocketAddress address = listener->local();
  RunTurns(3);
  Fd peer(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto shortage = std::make_optional<NoDescriptors>();
  ASSERT_EQ(::connect(peer.get(), address.data(), address.size()), 0);
  const Duration cpu = CpuTime();
  EXPECT_TRUE(reactor().RunFor(2s).ok());
  const Duration spent = CpuTime() - cpu;
  EXPECT_LT(spent, 100ms) << "5 % of two seconds";
  EXPECT_TRUE(accepted_.empty());
  // 5 ms, doubling to a second: 5 + 10 + ... + 640 ms are over after 1275 ms, so that the ninth error
  // is the last of the two seconds; one more would be a rest cut short.
  EXPECT_GE(errors_.size(), 5u);
  EXPECT_LE(errors_.size(), 9u);
  EXPECT_EQ(listener->stats().pauses, errors_.size()) << "once for each rest";
  Duration rest = 5ms;
  for (std::size_t i = 0; i < errors_.size(); ++i) {
    EXPECT_EQ(errors_[i].operation, Operation::kAccept);
    EXPECT_EQ(errors_[i].error_class, ErrorClass::kResource);
    EXPECT_EQ(errors_[i].action, Action::kPause);
    EXPECT_EQ(errors_[i].CodeName(), "EMFILE");
    if (i == 0) continue;
    EXPECT_GE(error_times_[i] - error_times_[i - 1], rest) << "rest " << i;
    rest = std::min<Duration>(rest * 2, 1s);
  }

  shortage.reset();
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 1; }));
  EXPECT_EQ(listener->stats().accepted, 1u);
  const std::size_t before = errors_.size();

  // A success begins anew with 5 ms.
  Fd second(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  shortage.emplace();
  ASSERT_EQ(::connect(second.get(), address.data(), address.size()), 0);
  ASSERT_TRUE(RunUntil([&] { return errors_.size() >= before + 3; }, 1s));
  shortage.reset();
  ASSERT_TRUE(RunUntil([&] { return accepted_.size() == 2; }));
}

TEST_P(ListenerTest, MayBeClosedAndDestroyedWhileItRests) {
  const LowLimit limit;
  for (const bool destroy : {false, true}) {
    errors_.clear();
    closes_ = 0;
    std::unique_ptr<Listener> listener = Make(Options());
    const SocketAddress address = listener->local();
    RunTurns(3);
    Fd peer(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    {
      const NoDescriptors shortage;
      ASSERT_EQ(::connect(peer.get(), address.data(), address.size()), 0);
      ASSERT_TRUE(RunUntil([&] { return errors_.size() >= 2; }));
      destroy ? listener.reset() : listener->Close();
    }
    RunTurns(2);
    EXPECT_TRUE(CanListen(address.port()));
    EXPECT_EQ(closes_, destroy ? 0 : 1);
    RunQuietSpell();
    EXPECT_TRUE(accepted_.empty());
  }
}

TEST_P(ListenerTest, MayBeDestroyedInOnError) {
  const LowLimit limit;
  std::unique_ptr<Listener> listener;
  ListenerOptions options = Options();
  options.on_error = [&](Listener&, const Error& error) {
    errors_.push_back(error);
    listener.reset();
  };
  listener = Make(std::move(options));
  const SocketAddress address = listener->local();
  RunTurns(3);
  Fd peer(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const NoDescriptors shortage;
    ASSERT_EQ(::connect(peer.get(), address.data(), address.size()), 0);
    ASSERT_TRUE(RunUntil([&] { return !errors_.empty(); }));
  }
  RunQuietSpell();
  EXPECT_EQ(errors_.size(), 1u);
  EXPECT_EQ(closes_, 0);
}

}  // namespace
}  // namespace holdfast::test
