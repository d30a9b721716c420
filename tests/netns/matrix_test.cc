// Plays the cells (cells.h): a network of its own for each, broken as the cell says, and one link in it
// that must tell exactly what the kernel was measured to do. Each with both backends, which so agree.
//
// `make test` plays the smoke set; HOLDFAST_MATRIX=whole, which `make matrix` sets, all of them.
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "netns/cells.h"
#include "netns/namespaces.h"

namespace holdfast::test {
namespace {

constexpr std::size_t kMessageSize = 1000;

// A cell, with one family and one backend.
struct Play {
  const Cell* cell;
  Families family;
  BackendKind backend;

  friend std::ostream& operator<<(std::ostream& out, const Play& play) {
    return out << play.cell->name;
  }
};

std::string NameOf(const testing::TestParamInfo<Play>& info) {
  const Play& play = info.param;
  const char* family = play.family == kV4 ? "v4" : play.family == kV6 ? "v6" : "unix";
  return play.cell->name + "_" + family +
         (play.backend == BackendKind::kUring ? "_uring" : "_epoll");
}

std::vector<Play> PlaysOf(const std::vector<Cell>& cells) {
  const char* const matrix = std::getenv("HOLDFAST_MATRIX");
  const bool whole = matrix != nullptr && std::string_view(matrix) == "whole";
  std::vector<Play> plays;
  for (const Cell& cell : cells) {
    for (const Families family : {kV4, kV6, kUnix}) {
      if (((whole ? cell.families : cell.smoke) & family) == 0) continue;
      plays.push_back({&cell, family, BackendKind::kUring});
      plays.push_back({&cell, family, BackendKind::kEpoll});
    }
  }
  return plays;
}

// No descriptor is left to this process while one of these lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const rlimit none{.rlim_cur = 0, .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

// A process that has nothing but `fd`, the last descriptor of its socket, dies.
void KillOwnerOf(Fd& fd) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  ASSERT_GT(child, 0);
  fd.Reset();
  EXPECT_EQ(::kill(child, SIGKILL), 0);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

class CellTest : public FixtureWithReactor, public testing::WithParamInterface<Play> {
 protected:
  [[nodiscard]] BackendKind backend() const override { return GetParam().backend; }
  [[nodiscard]] const Cell& cell() const { return *GetParam().cell; }
  [[nodiscard]] Families family() const { return GetParam().family; }

  void SetUp() override {
    if (const std::string why = Namespace::WhyNot(); !why.empty()) {
      GTEST_SKIP() << why << ": NOT TESTED: " << cell().name;
    }
    FixtureWithReactor::SetUp();
    if (IsSkipped()) return;
    network_.emplace();
    if (HasFatalFailure()) return;
    inside_.emplace(network_->near());
    MakeServer();
  }
  void TearDown() override {
    no_descriptors_.reset();
    link_.reset();
    peer_.Reset();
    server_.reset();
    raw_.clear();
    inside_.reset();
    network_.reset();
    FixtureWithReactor::TearDown();
  }

  // --- The stage.

  void MakeServer() {
    if (family() == kUnix) {
      server_.emplace(Family::kUnix, 0, cell().backlog);
      return;
    }
    words_ = family() == kV4 ? std::map<std::string, std::string>{{"{near}", "192.0.2.1"},
                                                                  {"{far}", "192.0.2.2"},
                                                                  {"{absent}", "192.0.2.9"},
                                                                  {"{beyond}", "198.51.100.9"},
                                                                  {"{bits}", "24"},
                                                                  {"{ip}", "ip -4"}}
                             : std::map<std::string, std::string>{{"{near}", "2001:db8::1"},
                                                                  {"{far}", "2001:db8::2"},
                                                                  {"{absent}", "2001:db8::9"},
                                                                  {"{beyond}", "2001:db8:1::9"},
                                                                  {"{bits}", "64"},
                                                                  {"{ip}", "ip -6"}};
    {
      const Inside inside(network_->far());
      server_.emplace(AddressOf("{far}", 0), cell().backlog);
    }
    words_["{port}"] = std::to_string(server_->port());
    if (Fills()) {
      const int size = 16 << 10;
      ::setsockopt(server_->fd(), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
  }
  [[nodiscard]] bool Fills() const {
    return std::any_of(cell().then.begin(), cell().then.end(),
                       [](const Step& step) { return step.what == Step::Do::kFill; });
  }
  [[nodiscard]] std::string Expand(std::string text) const {
    for (const auto& [word, value] : words_) {
      for (std::size_t at; (at = text.find(word)) != std::string::npos;) {
        text.replace(at, word.size(), value);
      }
    }
    return text;
  }
  [[nodiscard]] std::string EndpointOf(const std::string& address, std::uint16_t port) const {
    const std::string host = Expand(address);
    return (family() == kV6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
  }
  [[nodiscard]] SocketAddress AddressOf(const std::string& address, std::uint16_t port) const {
    return *Endpoint::Parse(EndpointOf(address, port))->literal();
  }

  // --- The link.

  void MakeLink() {
    LinkOptions options;
    options.endpoints = {family() == kUnix ? server_->endpoint()
                                           : EndpointOf(cell().target, server_->port())};
    if (!cell().bind.empty()) options.socket.bind_address = EndpointOf(cell().bind, 0);
    options.connect_timeout = cell().connect_timeout;
    options.attempt_timeout = 1min;
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    options.silence_max = 0ms;  // Only the kernel judges.
    if (Fills()) options.socket.send_buffer = 32 << 10;
    options.socket.on_socket = [this](int fd) { SetUpSocket(fd); };
    options.on_down = [this](Link&, const Down& down) {
      down_ = down;
      down_at_ = std::chrono::steady_clock::now();
    };
    auto link = Link::Create(reactor(), std::move(options));
    ASSERT_TRUE(link.ok()) << link.status();
    link_ = *std::move(link);
  }
  void SetUpSocket(int fd) {
    fd_ = fd;
    const auto set = [fd](int level, int name, int value) {
      EXPECT_EQ(::setsockopt(fd, level, name, &value, sizeof(value)), 0);
    };
    if (cell().user_timeout_ms > 0) set(IPPROTO_TCP, TCP_USER_TIMEOUT, cell().user_timeout_ms);
    if (cell().syn_count > 0) set(IPPROTO_TCP, TCP_SYNCNT, cell().syn_count);
    if (!cell().keepalive) return;
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set(IPPROTO_TCP, TCP_KEEPCNT, 2);
  }
  void BringUp() {
    link_->Start();
    peer_ = AcceptFrom(*server_);
    ASSERT_TRUE(RunUntil([&] { return link_->state() == LinkState::kUp; }));
  }
  void Send(int count) {
    const std::string message(kMessageSize, 'm');
    for (int i = 0; i < count; ++i) {
      if (link_->Send(message).status == SendStatus::kQueued) ++accepted_;
    }
    EXPECT_TRUE(reactor().Poll().ok());
  }
  void FillThePipe() {
    const std::string message(kMessageSize, 'm');
    ASSERT_TRUE(RunUntil([&] {
      while (link_->queued_bytes() < 100'000) {
        EXPECT_EQ(link_->Send(message).status, SendStatus::kQueued);
        ++accepted_;
      }
      EXPECT_TRUE(reactor().Poll().ok());
      return link_->queued_bytes() >= 100'000;
    }));
  }
  [[nodiscard]] int Unacknowledged() const {
    int bytes = -1;
    EXPECT_EQ(::ioctl(fd_, SIOCOUTQ, &bytes), 0);
    return bytes;
  }
  // Takes it, as the kernel does: a soft error is shown once.
  [[nodiscard]] int TakeSocketError() const {
    int error = 0;
    socklen_t size = sizeof(error);
    EXPECT_EQ(::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    return error;
  }

  // --- The script.

  void PlaySteps(const Steps& steps) {
    for (const Step& step : steps) {
      ASSERT_NO_FATAL_FAILURE(PlayStep(step)) << Expand(step.text);
    }
    began_ = std::chrono::steady_clock::now();
  }
  void PlayStep(const Step& step) {
    switch (step.what) {
      case Step::Do::kNear:
        return RunIn(network_->near(), Expand(step.text));
      case Step::Do::kFar:
        return RunIn(network_->far(), Expand(step.text));
      case Step::Do::kNearOut:
        return Filter(network_->near(), "output", step.text);
      case Step::Do::kFarIn:
        return Filter(network_->far(), "input", step.text);
      case Step::Do::kFarOut:
        return Filter(network_->far(), "output", step.text);
      case Step::Do::kUnfilter:
        RunIn(network_->near(), "nft flush ruleset");
        return RunIn(network_->far(), "nft flush ruleset");
      case Step::Do::kNearSysctl:
        return Set(network_->near(), step.text);
      case Step::Do::kFarSysctl:
        return Set(network_->far(), step.text);
      case Step::Do::kAwaitNoCarrier:
        ASSERT_TRUE(RunUntil([&] { return !HasCarrier(); }));
        return;
      case Step::Do::kConnectRaw:
        return ConnectRaw(step.count);
      case Step::Do::kNoDescriptors:
        no_descriptors_.emplace();
        return;
      case Step::Do::kDescriptors:
        no_descriptors_.reset();
        return;
      case Step::Do::kSend:
        return Send(step.count);
      case Step::Do::kFill:
        return FillThePipe();
      case Step::Do::kAwaitAcks:
        ASSERT_TRUE(RunUntil([&] { return Unacknowledged() == 0; }));
        return;
      case Step::Do::kPeerReads:
        return PeerReads(static_cast<std::size_t>(step.count));
      case Step::Do::kPeerResets:
        return ResetPeer(peer_);
      case Step::Do::kPeerCloses:
        return peer_.Reset();
      case Step::Do::kPeerIsKilled:
        return KillOwnerOf(peer_);
    }
  }
  void Filter(const Namespace& where, const std::string& hook, const std::string& rule) {
    RunIn(where,
          Expand("nft add table inet test ; add chain inet test " + hook + " { type filter hook " +
                 hook + " priority 0 ; } ; add rule inet test " + hook + " " + rule));
  }
  void Set(const Namespace& where, const std::string& setting) {
    const std::size_t equals = setting.find('=');
    SetSysctl(where, setting.substr(0, equals), setting.substr(equals + 1));
  }
  // Of near0 (netdevice(7)).
  [[nodiscard]] static bool HasCarrier() {
    const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "near0");
    EXPECT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
    return (request.ifr_flags & IFF_RUNNING) != 0;
  }
  void ConnectRaw(int count) {
    for (int i = 0; i < count; ++i) {
      const SocketAddress& to = server_->address();
      raw_.emplace_back(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      ASSERT_EQ(::connect(raw_.back().get(), to.data(), to.size()), 0) << std::strerror(errno);
    }
  }
  void PeerReads(std::size_t size) {
    std::string text(size, '\0');
    std::size_t have = 0;
    ASSERT_TRUE(RunUntil([&] {
      const ssize_t got = ::recv(peer_.get(), text.data() + have, size - have, MSG_DONTWAIT);
      if (got > 0) have += static_cast<std::size_t>(got);
      return have == size;
    })) << have;
    read_ += size;
  }

  // --- The judgement.

  [[nodiscard]] int RouteErrorThatIsKept() const {
    return family() == kV6 ? cell().route_error : 0;
  }
  void ExpectWhatTheCellSays() {
    Expected expected = cell().expected;
    if (RouteErrorThatIsKept() != 0) expected.error.code = RouteErrorThatIsKept();
    if (!cell().expected.error.failed()) return ExpectAlive();
    ASSERT_TRUE(RunUntil([&] { return down_.has_value(); }, expected.latest + 5s))
        << "not told: " << expected.error.ToString();
    Error error = down_->error;
    if (error.operation == expected.or_operation) error.operation = expected.error.operation;
    EXPECT_TRUE(error == expected.error)
        << down_->ToString() << ", " << ToString(error.error_class) << ", "
        << ToString(error.action) << "; expected " << expected.error.ToString() << ", "
        << ToString(expected.error.error_class) << ", " << ToString(expected.error.action);
    const auto after = std::chrono::duration_cast<std::chrono::milliseconds>(down_at_ - began_);
    RecordProperty("milliseconds", static_cast<int>(after.count()));
    EXPECT_GE(after, expected.earliest);
    EXPECT_LE(after, expected.latest);
    ExpectAccount();
  }
  void ExpectAlive() {
    const Instant end = began_ + cell().expected.latest;
    int soft_error = 0;
    EXPECT_TRUE(RunUntil(
        [&] {
          if (soft_error == 0) soft_error = TakeSocketError();
          return std::chrono::steady_clock::now() >= end;
        },
        cell().expected.latest + 5s));
    const int kept = RouteErrorThatIsKept();
    EXPECT_EQ(soft_error, kept != 0 ? kept : cell().soft_error) << std::strerror(soft_error);
    EXPECT_FALSE(down_.has_value()) << down_->ToString();
    EXPECT_EQ(link_->state(), LinkState::kUp);
  }
  void ExpectAccount() {
    const auto expect = [](const char* what, int expected, std::uint64_t count) {
      if (expected == ExpectedAccount::kSome) {
        EXPECT_GT(count, 0u) << what;
      } else if (expected != ExpectedAccount::kAny) {
        EXPECT_EQ(count, static_cast<std::uint64_t>(expected)) << what;
      }
    };
    expect("acked", cell().account.acked, down_->acked);
    expect("in doubt", cell().account.in_doubt, down_->in_doubt);
    expect("unsent", cell().account.unsent, down_->unsent);
    EXPECT_EQ(down_->total(), accepted_);
  }
  void ExpectThatItHeals() {
    if (cell().heal.empty()) return;
    ASSERT_NO_FATAL_FAILURE(PlaySteps(cell().heal));
    if (down_.has_value()) {
      EXPECT_TRUE(RunUntil([&] {
        link_->RetryNow();
        return link_->state() == LinkState::kUp;
      })) << down_->ToString();
      return;
    }
    // What was sent into the dark arrives, and what is sent now.
    Send(1);
    EXPECT_NO_FATAL_FAILURE(PeerReads(accepted_ * kMessageSize - read_));
    EXPECT_FALSE(down_.has_value()) << down_->ToString();
  }
  void PlayOnAConnection() {
    ASSERT_NO_FATAL_FAILURE(MakeLink());
    ASSERT_NO_FATAL_FAILURE(PlaySteps(cell().before));
    ASSERT_NO_FATAL_FAILURE(BringUp());
    ASSERT_NO_FATAL_FAILURE(PlaySteps(cell().then));
    ASSERT_NO_FATAL_FAILURE(ExpectWhatTheCellSays());
    if (HasFailure()) return;
    ExpectThatItHeals();
  }

 private:
  std::optional<Network> network_;
  std::optional<Inside> inside_;
  std::optional<RawServer> server_;
  std::map<std::string, std::string> words_;
  std::vector<Fd> raw_;
  std::optional<NoDescriptors> no_descriptors_;

 protected:
  std::unique_ptr<Link> link_;
  int fd_ = -1;  // The link's last.
  Fd peer_;
  std::uint64_t accepted_ = 0;
  std::size_t read_ = 0;
  Instant began_{};  // The last step ended.
  std::optional<Down> down_;
  Instant down_at_{};
};

class ConnectMatrixTest : public CellTest {};
TEST_P(ConnectMatrixTest, AnAttemptEndsAsMeasuredAndTheNextOneSucceedsOnceItCan) {
  ASSERT_NO_FATAL_FAILURE(MakeLink());
  ASSERT_NO_FATAL_FAILURE(PlaySteps(cell().before));
  link_->Start();
  ASSERT_NO_FATAL_FAILURE(ExpectWhatTheCellSays());
  EXPECT_FALSE(down_->was_up);
  if (HasFailure()) return;
  ExpectThatItHeals();
}
INSTANTIATE_TEST_SUITE_P(Cells, ConnectMatrixTest, testing::ValuesIn(PlaysOf(ConnectCells())),
                         NameOf);

class AliveMatrixTest : public CellTest {};
TEST_P(AliveMatrixTest, NoTroubleOfTheNetworkEndsAConnectionAndNothingComesOfASoftError) {
  PlayOnAConnection();
}
INSTANTIATE_TEST_SUITE_P(Cells, AliveMatrixTest, testing::ValuesIn(PlaysOf(AliveCells())), NameOf);

class DeathMatrixTest : public CellTest {};
TEST_P(DeathMatrixTest, ADeathIsToldInTimeAsWhatItWasAndAccountedFor) { PlayOnAConnection(); }
INSTANTIATE_TEST_SUITE_P(Cells, DeathMatrixTest, testing::ValuesIn(PlaysOf(DeathCells())), NameOf);

class SoftDeathMatrixTest : public CellTest {};
TEST_P(SoftDeathMatrixTest, WhatIcmpSaidOfAConnectionThatTimedOutIsKeptAndTheClassIsTimeout) {
  PlayOnAConnection();
}
INSTANTIATE_TEST_SUITE_P(Cells, SoftDeathMatrixTest, testing::ValuesIn(PlaysOf(SoftDeathCells())),
                         NameOf);

}  // namespace
}  // namespace holdfast::test
