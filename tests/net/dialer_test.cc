// One attempt: addresses in turn, deadlines of one address and of all, what is told of several failures,
// and what is never taken for a connection.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "net/link_fixture.h"
#include "net/names_kernel.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {
namespace {

// Listens on `host` at a given port, or at the kernel's choice (0). With `full` its backlog is taken, so
// that nobody is answered any more (docs/kernel.md C3).
class Host {
 public:
  explicit Host(const std::string& host, std::uint16_t port = 0, bool full = false)
      : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    const int on = 1;
    ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    EXPECT_EQ(::inet_pton(AF_INET, host.c_str(), &address.sin_addr), 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), full ? 0 : 128), 0);
    socklen_t size = sizeof(address);
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    endpoint_ = host + ":" + std::to_string(port_);
    for (int i = 0; full && i < 3; ++i) {
      fillers_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      static_cast<void>(!::connect(fillers_.back().get(), reinterpret_cast<sockaddr*>(&address),
                                   sizeof(address)));
    }
  }
  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] const std::string& endpoint() const { return endpoint_; }
  [[nodiscard]] Fd Accept() const {
    return Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  // Lets those go that filled the backlog.
  void Empty() {
    while (Accept().valid()) {
    }
    fillers_.clear();
  }

 private:
  Fd listener_;
  std::vector<Fd> fillers_;
  std::uint16_t port_ = 0;
  std::string endpoint_;
};

class DialerTest : public LinkFixture {
 protected:
  void SetUp() override {
    LinkFixture::SetUp();
    if (!IsSkipped()) MakeReactor({.kernel = &names_});
  }
  LinkOptions OneAttempt(const std::string& endpoint) {
    LinkOptions options = Options(endpoint);
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    return options;
  }

  NamesKernel& names_ = NamesKernel::Make();
};
HOLDFAST_FOR_BOTH_BACKENDS(DialerTest);

TEST_P(DialerTest, AConnectThatIsNeverAnsweredTimesOut) {
  Host host("127.0.0.1", 0, true);
  LinkOptions options = OneAttempt(host.endpoint());
  options.connect_timeout = 150ms;
  const Instant begin = std::chrono::steady_clock::now();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kConnect));
  EXPECT_EQ(diary_.downs[0].error.code, 0);
  EXPECT_EQ(diary_.downs[0].peer.ToString(), host.endpoint());
  EXPECT_GE(reactor().Now() - begin, 150ms);
  EXPECT_LE(reactor().Now() - begin, 200ms + Lateness(reactor()));
  EXPECT_EQ(reactor().stats().open_sockets, 0u);
}

TEST_P(DialerTest, ADialThatIsGivenUpIsNeverSeenByTheServer) {
  Host host("127.0.0.1", 0, true);
  LinkOptions options = OneAttempt(host.endpoint());
  options.connect_timeout = 50ms;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  host.Empty();
  const Instant begin = std::chrono::steady_clock::now();
  // Longer than it takes the kernel to ask again (1 s).
  ASSERT_TRUE(RunUntil([&] {
    EXPECT_FALSE(host.Accept().valid());
    return std::chrono::steady_clock::now() - begin > 1200ms;
  }));
  EXPECT_EQ(diary_.Text(), "dial1 down:timeout");
}

// The connect succeeds between its deadline and the end of its cancellation.
TEST_P(DialerTest, ALateSuccessIsClosedUnseen) {
  Host host("127.0.0.1", 0, true);
  LinkOptions options = OneAttempt(host.endpoint());
  options.connect_timeout = 100ms;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kConnecting; }));
  Fd peer;
  // A turn that lasts until the deadline has passed. The next one sees the deadline in its timers, and in
  // its posts, before the cancellation leaves, the server answers.
  reactor().Post([&] {
    const Instant end = std::chrono::steady_clock::now() + 150ms;
    while (std::chrono::steady_clock::now() < end) {
    }
    reactor().Post([&] {
      host.Empty();
      const Instant limit = std::chrono::steady_clock::now() + 5s;
      while (!peer.valid() && std::chrono::steady_clock::now() < limit) peer = host.Accept();
    });
  });
  ASSERT_TRUE(RunUntilDowns(1));
  ASSERT_TRUE(peer.valid());
  EXPECT_EQ(diary_.Text(), "dial1 down:timeout");
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kConnect));
  char byte;
  ssize_t size = -1;
  ASSERT_TRUE(RunUntil([&] {
    size = ::recv(peer.get(), &byte, 1, 0);
    return size == 0 || (size < 0 && errno != EAGAIN);
  }));
  EXPECT_LE(size, 0);
  EXPECT_EQ(reactor().stats().open_sockets, 0u);
}

TEST_P(DialerTest, AnAnswerThatCameBeforeTheLoopLookedBeatsTheDeadline) {
  Host host("127.0.0.1", 0, true);
  LinkOptions options = OneAttempt(host.endpoint());
  options.connect_timeout = 100ms;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return link->state() == LinkState::kConnecting; }));
  Fd peer;
  reactor().Post([&] {
    host.Empty();
    const Instant limit = std::chrono::steady_clock::now() + 5s;
    while (!peer.valid() && std::chrono::steady_clock::now() < limit) peer = host.Accept();
  });
  ASSERT_TRUE(RunUntil([&] { return !diary_.downs.empty() || diary_.ups > 0; }));
  EXPECT_EQ(diary_.Text(), "dial1 up");
}

TEST_P(DialerTest, TheFirstAddressIsDeadAndTheSecondAlive) {
  Host alive("127.0.0.3");
  names_.Set("feed", {.addresses = {"127.0.0.2", "127.0.0.3"}});
  std::unique_ptr<Link> link = MakeStarted(OneAttempt("feed:" + std::to_string(alive.port())));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(link->peer().ToString(), alive.endpoint());
  EXPECT_EQ(diary_.Text(), "dial1 up");  // One attempt, and no failure to speak of.
}

TEST_P(DialerTest, AnAddressThatDoesNotAnswerIsLeftAfterItsOwnDeadline) {
  Host alive("127.0.0.3");
  Host silent("127.0.0.2", alive.port(), true);
  names_.Set("feed", {.addresses = {"127.0.0.2", "127.0.0.3"}});
  LinkOptions options = OneAttempt("feed:" + std::to_string(alive.port()));
  options.connect_timeout = 100ms;
  const Instant begin = std::chrono::steady_clock::now();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(link->peer().ToString(), alive.endpoint());
  EXPECT_GE(reactor().Now() - begin, 100ms);
}

TEST_P(DialerTest, TheAttemptHasADeadlineOverAllItsAddresses) {
  Host first("127.0.0.2", 0, true);
  Host second("127.0.0.3", first.port(), true);
  Host third("127.0.0.4", first.port(), true);
  names_.Set("feed", {.addresses = {"127.0.0.2", "127.0.0.3", "127.0.0.4"}});
  LinkOptions options = OneAttempt("feed:" + std::to_string(first.port()));
  options.connect_timeout = 100ms;
  options.attempt_timeout = 150ms;
  const Instant begin = std::chrono::steady_clock::now();
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error, Error::Deadline(Operation::kConnect));
  EXPECT_GE(reactor().Now() - begin, 150ms);
  EXPECT_LE(reactor().Now() - begin, 200ms + Lateness(reactor()));
}

TEST_P(DialerTest, TheMostTellingFailureIsReportedWithItsAddress) {
  Host silent("127.0.0.2", 0, true);
  const std::string port = ":" + std::to_string(silent.port());
  for (const bool silent_first : {true, false}) {
    diary_ = {};
    names_.Set("feed", silent_first ? NamesKernel::Answer{.addresses = {"127.0.0.2", "127.0.0.3"}}
                                    : NamesKernel::Answer{.addresses = {"127.0.0.3", "127.0.0.2"}});
    LinkOptions options = OneAttempt("feed" + port);
    options.connect_timeout = 50ms;
    std::unique_ptr<Link> link = MakeStarted(std::move(options));
    ASSERT_TRUE(RunUntilDowns(1));
    EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kRefused);
    EXPECT_EQ(diary_.downs[0].peer.ToString(), "127.0.0.3" + port);
  }
}

TEST_P(DialerTest, EveryAttemptStartsBehindTheAddressThatTheLastOneEndedWith) {
  Host first("127.0.0.2");
  Host second("127.0.0.3", first.port());
  Host third("127.0.0.4", first.port());
  names_.Set("feed", {.addresses = {"127.0.0.2", "127.0.0.3", "127.0.0.4"}});
  LinkOptions options = Options("feed:" + std::to_string(first.port()));
  std::vector<std::string> peers;
  options.on_up = [&](Link& link) { peers.push_back(link.peer().ToString()); };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] {
    for (const Host* host : {&first, &second, &third}) static_cast<void>(host->Accept());
    return peers.size() >= 4;
  }));
  EXPECT_EQ(peers[0], first.endpoint());
  EXPECT_EQ(peers[1], second.endpoint());
  EXPECT_EQ(peers[2], third.endpoint());
  EXPECT_EQ(peers[3], first.endpoint());
}

TEST_P(DialerTest, TheListMayChangeBetweenAttempts) {
  Host first("127.0.0.2");
  Host second("127.0.0.9", first.port());
  names_.Set("feed", {.addresses = {"127.0.0.2"}});
  LinkOptions options = Options("feed:" + std::to_string(first.port()));
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  names_.Set("feed", {.addresses = {"127.0.0.9"}});
  static_cast<void>(first.Accept());
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 2; }));
  EXPECT_EQ(link->peer().ToString(), second.endpoint());
}

TEST_P(DialerTest, ABindAddressPicksTheAddressesOfItsFamily) {
  Host alive("127.0.0.1");
  names_.Set("feed", {.addresses = {"::1", "127.0.0.1"}});
  LinkOptions options = OneAttempt("feed:" + std::to_string(alive.port()));
  options.socket.bind_address = "127.0.0.8:0";
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(link->peer().ToString(), alive.endpoint());
}

// if_nametoindex(3) is asked anew for every attempt, since an interface may get another index; it opens a
// socket of its own.
TEST_P(DialerTest, AScopeThatCannotBeLookedUpIsAFailedAttempt) {
  std::unique_ptr<Link> link = Make(Options("[fe80::1%lo]:7000"));
  ASSERT_NE(link, nullptr);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  link->Start();
  const bool told = RunUntilDowns(2);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(told);
  for (std::size_t i = 0; i < 2; ++i) {
    const Error& error = diary_.downs[i].error;
    EXPECT_EQ(error.operation, Operation::kResolve);
    EXPECT_EQ(error.error_class, ErrorClass::kResource);
    EXPECT_EQ(error.action, Action::kBackOff);
    EXPECT_GE(diary_.downs[i].retry_in.value_or(0ms), 5ms);
  }
  EXPECT_EQ(diary_.Text().rfind("dial1 down:resource dial2 down:resource", 0), 0u);
}

// To an IPv6 socket EADDRNOTAVAIL says that this host has no IPv6 (docs/kernel.md C3), which is no reason to
// leave out the other addresses, or the other endpoints.
TEST_P(DialerTest, WithoutIPv6TheNextAddressIsTriedAndThenTheNextEndpoint) {
  internal::FaultKernel faults(names_);
  const bool uring = GetParam() == BackendKind::kUring;
  if (uring && !faults.ring_faults_supported()) {
    GTEST_SKIP() << "this kernel cannot inject results into io_uring (before Linux 6.10)";
  }
  MakeReactor({.kernel = &faults});
  Host alive("127.0.0.1");
  const std::string port = ":" + std::to_string(alive.port());
  names_.Set("feed-a", {.addresses = {"::1", "127.0.0.2"}});
  const int rule =
      uring ? faults.InjectRingOp({.op = internal::RingOp::kConnect, .result = -EADDRNOTAVAIL})
            : faults.Inject({.call = internal::KernelCall::kConnect, .result = -EADDRNOTAVAIL});
  LinkOptions options = Options("feed-a" + port);
  options.endpoints.push_back("127.0.0.1" + port);
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(faults.hits(rule), 1u);
  EXPECT_EQ(diary_.Text(), "dial1 down:refused dial2 up");
  EXPECT_EQ(diary_.downs[0].peer.ToString(), "127.0.0.2" + port);
  link.reset();
  reactor_.reset();
}

TEST_P(DialerTest, WithoutIPv6AndWithoutAnotherAddressItIsUnreachable) {
  internal::FaultKernel faults(names_);
  const bool uring = GetParam() == BackendKind::kUring;
  if (uring && !faults.ring_faults_supported()) {
    GTEST_SKIP() << "this kernel cannot inject results into io_uring (before Linux 6.10)";
  }
  MakeReactor({.kernel = &faults});
  if (uring) {
    faults.InjectRingOp({.op = internal::RingOp::kConnect, .result = -EADDRNOTAVAIL, .count = 2});
  } else {
    faults.Inject({.call = internal::KernelCall::kConnect, .result = -EADDRNOTAVAIL, .count = 2});
  }
  LinkOptions options = Options("[::1]:7000");
  options.endpoints.push_back("127.0.0.1:7000");
  std::vector<std::string> endpoints;
  options.on_down = [&](Link&, const Down& down) {
    endpoints.emplace_back(down.endpoint);
    diary_.downs.push_back(down);
  };
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kUnreachable);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "EADDRNOTAVAIL");
  EXPECT_TRUE(diary_.downs[0].error.IsTemporary());
  // The same number to an IPv4 socket: the ports are used up.
  EXPECT_EQ(endpoints[1], "127.0.0.1:7000");
  EXPECT_EQ(diary_.downs[1].error.error_class, ErrorClass::kResource);
  EXPECT_EQ(diary_.downs[1].error.CodeName(), "EADDRNOTAVAIL");
  link.reset();
  reactor_.reset();
}

TEST_P(DialerTest, ExhaustionEndsTheAttemptWithoutTryingTheOtherAddresses) {
  internal::FaultKernel faults(names_);
  MakeReactor({.kernel = &faults});
  names_.Set("feed", {.addresses = {"127.0.0.2", "127.0.0.3", "127.0.0.4"}});
  const std::uint64_t before = faults.calls(internal::KernelCall::kSocket);
  faults.Inject({.call = internal::KernelCall::kSocket, .result = -EMFILE, .count = 100});
  std::unique_ptr<Link> link = MakeStarted(OneAttempt("feed:7000"));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kResource);
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kSocket);
  EXPECT_EQ(faults.calls(internal::KernelCall::kSocket) - before, 1u);
  link.reset();
  reactor_.reset();
}

// Bound to the very address that it connects to, a TCP socket connects to itself (docs/kernel.md 4).
TEST_P(DialerTest, ASelfConnectIsRefusedAndNeverUp) {
  std::string endpoint;
  {
    ClosedPort port;
    endpoint = port.endpoint();
  }
  LinkOptions options = OneAttempt(endpoint);
  options.socket.bind_address = endpoint;
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.Text(), "dial1 down:refused");
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kConnect);
  EXPECT_EQ(diary_.downs[0].error.code, 0);  // No call said so: the addresses did.
  EXPECT_EQ(diary_.downs[0].peer.ToString(), endpoint);
  EXPECT_EQ(reactor().stats().open_sockets, 0u);
}

TEST_P(DialerTest, AUnixListenerWithAFullBacklogRefuses) {
  RawServer server(Family::kUnix, 0, 0);
  std::vector<std::unique_ptr<Link>> links;
  for (int i = 0; i < 3; ++i) {
    LinkOptions options = Options(server.endpoint());
    links.push_back(MakeStarted(std::move(options)));
  }
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kRefused);
  EXPECT_EQ(diary_.downs[0].error.CodeName(), "EAGAIN");
  EXPECT_TRUE(diary_.downs[0].retry_in.has_value());
}

TEST_P(DialerTest, IPv6Connects) {
  Fd listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  if (!listener.valid() ||
      ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    GTEST_SKIP() << "this machine has no IPv6 loopback: NOT TESTED: dialing [::1]";
  }
  ASSERT_EQ(::listen(listener.get(), 16), 0);
  socklen_t size = sizeof(address);
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  const std::string endpoint = "[::1]:" + std::to_string(ntohs(address.sin6_port));
  std::unique_ptr<Link> link = MakeStarted(OneAttempt(endpoint));
  ASSERT_TRUE(RunUntil([&] { return diary_.ups == 1; }));
  EXPECT_EQ(link->peer().ToString(), endpoint);
}

}  // namespace
}  // namespace holdfast::test
