// The simulated TCP against what was measured on Linux (docs/kernel.md): its findings, table C1, the
// identities of "Death and the account" and "Giving up a live connection", and its timers.
#include "sim/tcp.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "sim/faults.h"
#include "sim/network.h"
#include "sim/schedule.h"
#include "sim/trace.h"

namespace holdfast::internal::sim {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using Socket = std::shared_ptr<SocketFile>;

constexpr std::uint8_t kEstablished = 1;
constexpr std::uint8_t kSynSent = 2;
constexpr std::uint8_t kClosed = 7;
constexpr std::uint8_t kCloseWait = 8;
constexpr std::uint16_t kPort = 7000;

std::uint64_t Seed() {
  const char* const text = std::getenv("HOLDFAST_SEED");
  return text == nullptr ? 20'261 : std::strtoull(text, nullptr, 0);
}

SocketAddress V4(std::uint32_t ip, std::uint16_t port) {
  TcpAddress address = TcpAddress::V4(ip);
  address.port = port;
  return address.ToSocketAddress(AF_INET);
}

SocketAddress AddressOf(const Host& host, std::uint16_t port, int domain = AF_INET) {
  for (const SocketAddress& mine : host.addresses()) {
    if (mine.family() != domain) continue;
    TcpAddress address = TcpAddress::From(mine.data());
    address.port = port;
    return address.ToSocketAddress(domain);
  }
  return {};
}

class Ear final : public PollWaiter {
 public:
  explicit Ear(SocketFile& file) { file.AddWaiter(*this); }
  ~Ear() {
    if (linked()) Unlink();
  }
  void OnWake(std::uint32_t events) override {
    heard |= events;
    ++count;
  }

  std::uint32_t heard = 0;
  int count = 0;
};

tcp_info Info(SocketFile& socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  EXPECT_EQ(socket.GetSockOpt(IPPROTO_TCP, TCP_INFO, &info, &size), 0);
  EXPECT_GE(size, offsetof(tcp_info, tcpi_notsent_bytes) + 4);
  return info;
}

int Control(SocketFile& socket, unsigned long request) {
  int value = -1;
  EXPECT_EQ(socket.Ioctl(request, &value), 0);
  return value;
}
int Outq(SocketFile& socket) { return Control(socket, SIOCOUTQ); }
int Unsent(SocketFile& socket) { return Control(socket, SIOCOUTQNSD); }
int Inq(SocketFile& socket) { return Control(socket, SIOCINQ); }

int SocketError(SocketFile& socket) {
  int error = -1;
  socklen_t size = sizeof(error);
  EXPECT_EQ(socket.GetSockOpt(SOL_SOCKET, SO_ERROR, &error, &size), 0);
  return error;
}

void Set(SocketFile& socket, int level, int name, int value) {
  ASSERT_EQ(socket.SetSockOpt(level, name, &value, sizeof(value)), 0);
}

void SetLingerZero(SocketFile& socket) {
  const linger zero{1, 0};
  ASSERT_EQ(socket.SetSockOpt(SOL_SOCKET, SO_LINGER, &zero, sizeof(zero)), 0);
}

ssize_t SendText(SocketFile& socket, const std::string& text) {
  const iovec part{const_cast<char*>(text.data()), text.size()};
  return socket.Send(&part, 1, MSG_NOSIGNAL);
}
ssize_t SendBytes(SocketFile& socket, std::size_t size) {
  return SendText(socket, std::string(size, 'x'));
}

ssize_t RecvBytes(SocketFile& socket, std::size_t size, std::string* text = nullptr) {
  std::string buffer(size, '\0');
  const ssize_t result = socket.Recv(buffer.data(), size, 0);
  if (text != nullptr && result > 0) *text = buffer.substr(0, static_cast<std::size_t>(result));
  return result;
}

std::size_t ReadAll(SocketFile& socket) {
  std::size_t total = 0;
  for (;;) {
    const ssize_t size = RecvBytes(socket, 65'536);
    if (size <= 0) return total;
    total += static_cast<std::size_t>(size);
  }
}

int Disconnect(SocketFile& socket) {
  sockaddr unspecified{};
  unspecified.sa_family = AF_UNSPEC;
  return socket.Connect(&unspecified, sizeof(unspecified));
}

int GetPeer(SocketFile& socket) {
  sockaddr_storage storage;
  socklen_t size = sizeof(storage);
  return socket.GetPeerName(reinterpret_cast<sockaddr*>(&storage), &size);
}

class TcpTest : public testing::Test {
 protected:
  struct Pair {
    Socket client;
    Socket server;
  };

  Socket New(Host& host, int domain = AF_INET) { return NewTcpSocket(host, domain); }

  Socket Listener(Host& host, std::uint16_t port = kPort, int backlog = 128) {
    const Socket listener = New(host);
    Set(*listener, SOL_SOCKET, SO_REUSEADDR, 1);
    const SocketAddress any = V4(INADDR_ANY, port);
    EXPECT_EQ(listener->Bind(any.data(), any.size()), 0);
    EXPECT_EQ(listener->Listen(backlog), 0);
    return listener;
  }

  int Connect(SocketFile& socket, const SocketAddress& to) {
    return socket.Connect(to.data(), to.size());
  }

  // A connection from client_ to server_, both ends.
  Pair Make(int send_buffer = 0, int receive_buffer = 0) {
    if (listener_ == nullptr) listener_ = Listener(server_);
    if (receive_buffer > 0) Set(*listener_, SOL_SOCKET, SO_RCVBUF, receive_buffer);
    Pair pair;
    pair.client = New(client_);
    if (send_buffer > 0) Set(*pair.client, SOL_SOCKET, SO_SNDBUF, send_buffer);
    EXPECT_EQ(Connect(*pair.client, AddressOf(server_, kPort)), -EINPROGRESS);
    Run(milliseconds(10));
    EXPECT_EQ(Connect(*pair.client, AddressOf(server_, kPort)), 0);
    int error = 0;
    pair.server = listener_->Accept(&error);
    EXPECT_NE(pair.server, nullptr);
    return pair;
  }

  void Run(Duration duration) { schedule_.RunUntil(schedule_.now() + duration); }

  // How long it takes until the state is `state`.
  Duration UntilState(SocketFile& socket, std::uint8_t state, Duration most) {
    const Instant begin = schedule_.now();
    while (Info(socket).tcpi_state != state && schedule_.now() - begin < most) {
      Run(milliseconds(1));
    }
    return schedule_.now() - begin;
  }

  // W == SIOCOUTQ + bytes_acked - SYN, SIOCOUTQNSD == notsent, and the peer's kernel between.
  void ExpectIdentity(SocketFile& socket, std::uint64_t written, bool active,
                      std::uint64_t received) {
    const tcp_info info = Info(socket);
    ASSERT_EQ(info.tcpi_state, kClosed);
    const auto outq = static_cast<std::uint64_t>(Outq(socket));
    EXPECT_EQ(written, outq + info.tcpi_bytes_acked - (active ? 1 : 0));
    EXPECT_EQ(static_cast<std::uint32_t>(Unsent(socket)), info.tcpi_notsent_bytes);
    EXPECT_LE(written - outq, received);
    EXPECT_LE(received, written - info.tcpi_notsent_bytes);
  }

  Schedule schedule_;
  Trace trace_;
  FaultPlan faults_{Seed()};
  Network network_{schedule_, faults_, trace_};
  Host& client_ = network_.AddHost("client");
  Host& server_ = network_.AddHost("server");
  Socket listener_;
};

// --- Opening

TEST_F(TcpTest, ConnectsAndCarriesBytesBothWays) {
  const Pair pair = Make();
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_acked, 1u);  // The SYN of the active opener.
  EXPECT_EQ(Info(*pair.server).tcpi_bytes_acked, 0u);
  EXPECT_EQ(SendText(*pair.client, "hello"), 5);
  EXPECT_EQ(RecvBytes(*pair.server, 10), -EAGAIN);
  EXPECT_EQ(Outq(*pair.client), 5);
  Run(milliseconds(1));
  std::string text;
  EXPECT_EQ(RecvBytes(*pair.server, 10, &text), 5);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(Outq(*pair.client), 0);
  EXPECT_EQ(SendText(*pair.server, "you too"), 7);
  Run(milliseconds(1));
  EXPECT_EQ(RecvBytes(*pair.client, 100, &text), 7);
  EXPECT_EQ(text, "you too");
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_received, 7u);
}

TEST_F(TcpTest, NamesBothEnds) {
  const Pair pair = Make();
  sockaddr_storage storage;
  socklen_t size = sizeof(storage);
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  ASSERT_EQ(pair.client->GetPeerName(address, &size), 0);
  EXPECT_EQ(SocketAddress(address, size), AddressOf(server_, kPort));
  size = sizeof(storage);
  ASSERT_EQ(pair.client->GetSockName(address, &size), 0);
  const SocketAddress local(address, size);
  size = sizeof(storage);
  ASSERT_EQ(pair.server->GetPeerName(address, &size), 0);
  EXPECT_EQ(SocketAddress(address, size), local);
  EXPECT_EQ(local.port() % 2, 0);  // Even ports first.
}

TEST_F(TcpTest, ADualStackListenerTakesBothFamilies) {
  const Socket listener = New(server_, AF_INET6);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(kPort);
  ASSERT_EQ(listener->Bind(reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
  ASSERT_EQ(listener->Listen(8), 0);
  for (const int domain : {AF_INET, AF_INET6}) {
    const Socket socket = New(client_, domain);
    ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort, domain)), -EINPROGRESS);
    Run(milliseconds(2));
    EXPECT_EQ(Info(*socket).tcpi_state, kEstablished);
    int error = 0;
    const Socket accepted = listener->Accept(&error);
    ASSERT_NE(accepted, nullptr);
    EXPECT_EQ(accepted->domain(), AF_INET6);
    EXPECT_EQ(GetPeer(*accepted), 0);
  }
}

TEST_F(TcpTest, NobodyListensIsRefused) {
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, 9)), -EINPROGRESS);
  EXPECT_EQ(socket->Poll(), 0u);
  Run(milliseconds(1));
  EXPECT_EQ(socket->Poll(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
  EXPECT_EQ(GetPeer(*socket), -ENOTCONN);
  EXPECT_EQ(SocketError(*socket), ECONNREFUSED);
  EXPECT_EQ(SocketError(*socket), 0);
  // The descriptor again: the error was read, so the next says ECONNABORTED, once (docs/kernel.md C3).
  EXPECT_EQ(Connect(*socket, AddressOf(server_, 9)), -ECONNABORTED);
  EXPECT_EQ(Connect(*socket, AddressOf(server_, 9)), -EINPROGRESS);
  EXPECT_EQ(Connect(*socket, AddressOf(server_, 9)), -EALREADY);
  Run(milliseconds(1));
  EXPECT_EQ(Connect(*socket, AddressOf(server_, 9)), -ECONNREFUSED);
  EXPECT_EQ(Connect(*socket, AddressOf(server_, 9)), -EINPROGRESS);
}

// docs/kernel.md 1: the ICMP message comes while connect holds the socket.
TEST_F(TcpTest, SoftIcmpLeavesTheSocketInSynSentUntilTheRetransmission) {
  Path& path = network_.path(client_, server_);
  path.policy = Path::Policy::kIcmpHost;
  path.icmp_while_owned = true;
  const Socket socket = New(client_);
  Ear ear(*socket);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  EXPECT_EQ(Info(*socket).tcpi_state, kSynSent);
  EXPECT_NE(ear.heard & EPOLLERR, 0u);
  EXPECT_EQ(socket->Poll(), std::uint32_t{EPOLLERR});
  EXPECT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EALREADY);
  EXPECT_EQ(GetPeer(*socket), -ENOTCONN);
  // Finding 6: SO_ERROR gives it once, and EPOLLERR stays until the queue is drained.
  EXPECT_EQ(SocketError(*socket), EHOSTUNREACH);
  EXPECT_EQ(SocketError(*socket), 0);
  EXPECT_EQ(socket->Poll(), std::uint32_t{EPOLLERR});
  EXPECT_EQ(socket->Recv(nullptr, 0, MSG_ERRQUEUE), 0);
  EXPECT_EQ(socket->Recv(nullptr, 0, MSG_ERRQUEUE), -EAGAIN);
  EXPECT_EQ(socket->Poll(), 0u);
  const Duration hard = UntilState(*socket, kClosed, seconds(5));
  EXPECT_GE(hard, seconds(1));
  EXPECT_LE(hard, milliseconds(1100));
  EXPECT_EQ(SocketError(*socket), EHOSTUNREACH);
  EXPECT_EQ(faults_.hits(Fault::kSoftIcmpWhileOwned), 1u);
}

TEST_F(TcpTest, IcmpThatNobodyHoldsUpIsHardAtOnce) {
  const std::pair<Path::Policy, int> cases[] = {{Path::Policy::kIcmpHost, EHOSTUNREACH},
                                                {Path::Policy::kIcmpNet, ENETUNREACH},
                                                {Path::Policy::kIcmpPort, ECONNREFUSED},
                                                {Path::Policy::kIcmpProtocol, ENOPROTOOPT},
                                                {Path::Policy::kRejectReset, ECONNREFUSED}};
  for (const auto& [policy, error] : cases) {
    network_.path(client_, server_).policy = policy;
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
    Run(milliseconds(1));
    EXPECT_EQ(Info(*socket).tcpi_state, kClosed);
    EXPECT_EQ(SocketError(*socket), error);
  }
}

TEST_F(TcpTest, DrainingTheErrorQueueTakesTheError) {
  network_.path(client_, server_).policy = Path::Policy::kIcmpHost;
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(milliseconds(1));
  EXPECT_EQ(socket->Recv(nullptr, 0, MSG_ERRQUEUE), 0);
  EXPECT_EQ(SocketError(*socket), 0);
  EXPECT_EQ(Connect(*socket, AddressOf(server_, kPort)), -ECONNABORTED);
}

// docs/kernel.md 8.
TEST_F(TcpTest, RoutesRefuseInTheCall) {
  const std::pair<Path::Policy, int> cases[] = {{Path::Policy::kRouteUnreachable, EHOSTUNREACH},
                                                {Path::Policy::kRouteProhibit, EACCES},
                                                {Path::Policy::kRouteBlackhole, EINVAL},
                                                {Path::Policy::kRouteThrow, ENETUNREACH}};
  const Socket socket = New(client_);
  for (const auto& [policy, error] : cases) {
    network_.path(client_, server_).policy = policy;
    EXPECT_EQ(Connect(*socket, AddressOf(server_, kPort)), -error);
  }
  network_.path(client_, server_).policy = Path::Policy::kForward;
  EXPECT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
}

TEST_F(TcpTest, AnAbsentHostIsUnreachableAfterThreeSeconds) {
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, V4(0x0a000063, kPort)), -EINPROGRESS);
  const Duration took = UntilState(*socket, kClosed, seconds(10));
  EXPECT_GE(took, milliseconds(3070));
  EXPECT_LE(took, milliseconds(3080));
  EXPECT_EQ(SocketError(*socket), EHOSTUNREACH);
}

// docs/kernel.md 9: 135.0 s, because the timers of long distances are coarse.
TEST_F(TcpTest, ASilentConnectTakesAsLongAsLinux) {
  network_.Partition(client_, server_);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  const Duration took = UntilState(*socket, kClosed, minutes(5));
  EXPECT_GE(took, seconds(131));
  EXPECT_LE(took, seconds(140));
  EXPECT_EQ(SocketError(*socket), ETIMEDOUT);
}

// tcp_syn_linear_timeouts: the first four do not double.
TEST_F(TcpTest, SynsComeAtFirstEverySecond) {
  network_.Partition(client_, server_);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  const std::pair<int, unsigned> expected[] = {{990, 0},   {2'990, 2}, {5'500, 5},
                                               {6'900, 5}, {7'500, 6}, {11'900, 7}};
  const Instant begin = schedule_.now();
  for (const auto& [at, count] : expected) {
    schedule_.RunUntil(begin + milliseconds(at));
    EXPECT_EQ(Info(*socket).tcpi_total_retrans, count) << at;
  }
}

TEST_F(TcpTest, ConnectTimeoutsFollowTheOptions) {
  network_.Partition(client_, server_);
  const Socket counted = New(client_);
  Set(*counted, IPPROTO_TCP, TCP_SYNCNT, 1);
  ASSERT_EQ(Connect(*counted, AddressOf(server_, kPort)), -EINPROGRESS);
  Duration took = UntilState(*counted, kClosed, minutes(5));
  EXPECT_GE(took, seconds(3));  // 3.06 s
  EXPECT_LE(took, milliseconds(3300));
  const Socket timed = New(client_);
  Set(*timed, IPPROTO_TCP, TCP_USER_TIMEOUT, 500);
  ASSERT_EQ(Connect(*timed, AddressOf(server_, kPort)), -EINPROGRESS);
  took = UntilState(*timed, kClosed, minutes(5));
  EXPECT_GE(took, seconds(1));  // 1.01 s
  EXPECT_LE(took, milliseconds(1100));
  EXPECT_EQ(SocketError(*timed), ETIMEDOUT);
}

TEST_F(TcpTest, AFullBacklogLeavesTheRestInSynSent) {
  const Socket listener = Listener(server_, kPort, 1);
  std::vector<Socket> sockets;
  for (int i = 0; i < 4; ++i) {
    sockets.push_back(New(client_));
    ASSERT_EQ(Connect(*sockets.back(), AddressOf(server_, kPort)), -EINPROGRESS);
    Run(milliseconds(2));
  }
  EXPECT_EQ(Info(*sockets[0]).tcpi_state, kEstablished);
  EXPECT_EQ(Info(*sockets[1]).tcpi_state, kEstablished);
  EXPECT_EQ(Info(*sockets[2]).tcpi_state, kSynSent);
  EXPECT_EQ(Info(*sockets[3]).tcpi_state, kSynSent);
  int error = 0;
  while (listener->Accept(&error) != nullptr) continue;
  EXPECT_EQ(error, -EAGAIN);
  Run(seconds(2));
  EXPECT_EQ(Info(*sockets[2]).tcpi_state, kEstablished);
}

// reqsk of a listener that is gone (tcp_v4_rcv, TCP_NEW_SYN_RECV): the ACK finds nobody's request.
TEST_F(TcpTest, AHandshakeEndsWithTheListenerThatBeganIt) {
  Socket listener = Listener(server_, kPort);
  const Socket client = New(client_);
  ASSERT_EQ(Connect(*client, AddressOf(server_, kPort)), -EINPROGRESS);
  const Duration latency = network_.path(client_, server_).latency;
  Run(latency + latency / 2);  // The SYN has arrived, the last ACK has not.
  listener.reset();
  listener = Listener(server_, kPort);
  Run(seconds(1));
  int error = 0;
  EXPECT_EQ(listener->Accept(&error), nullptr);
  EXPECT_EQ(error, -EAGAIN);
  EXPECT_EQ(Info(*client).tcpi_state, kClosed);
  EXPECT_EQ(RecvBytes(*client, 1), -ECONNRESET);
}

TEST_F(TcpTest, PortsUsedUpIsEaddrnotavail) {
  client_.SetEphemeralPorts(40'000, 40'003);
  const Socket listener = Listener(server_);
  std::vector<Socket> sockets;
  for (int i = 0; i < 4; ++i) {
    sockets.push_back(New(client_));
    EXPECT_EQ(Connect(*sockets.back(), AddressOf(server_, kPort)), -EINPROGRESS);
  }
  const Socket fifth = New(client_);
  EXPECT_EQ(Connect(*fifth, AddressOf(server_, kPort)), -EADDRNOTAVAIL);
  const SocketAddress any = V4(INADDR_ANY, 0);
  EXPECT_EQ(New(client_)->Bind(any.data(), any.size()), -EADDRINUSE);
  EXPECT_EQ(New(client_)->Listen(1), -EADDRINUSE);
  // Another destination has its own four.
  EXPECT_EQ(Connect(*fifth, AddressOf(server_, kPort + 1)), -EINPROGRESS);
}

// docs/kernel.md 4.
TEST_F(TcpTest, ConnectsToItselfWhenThePortIsDrawn) {
  client_.SetEphemeralPorts(40'000, 40'001);
  const SocketAddress self = V4(INADDR_LOOPBACK, 40'000);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, self), -EINPROGRESS);
  EXPECT_EQ(Info(*socket).tcpi_state, kEstablished);
  sockaddr_storage storage;
  socklen_t size = sizeof(storage);
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  ASSERT_EQ(socket->GetSockName(address, &size), 0);
  EXPECT_EQ(SocketAddress(address, size), self);
  ASSERT_EQ(socket->GetPeerName(address, &size), 0);
  EXPECT_EQ(SocketAddress(address, size), self);
  EXPECT_EQ(SendText(*socket, "me"), 2);
  EXPECT_EQ(RecvBytes(*socket, 10), 2);
  // And the server cannot bind.
  const Socket server = New(client_);
  EXPECT_EQ(server->Bind(self.data(), self.size()), -EADDRINUSE);
  EXPECT_EQ(faults_.hits(Fault::kSelfConnect), 1u);
}

TEST_F(TcpTest, EveryDestinationGetsEvenPortsFirst) {
  for (std::uint16_t port = 1; port <= 40; ++port) {
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, AddressOf(server_, port)), -EINPROGRESS);
    sockaddr_storage storage;
    socklen_t size = sizeof(storage);
    ASSERT_EQ(socket->GetSockName(reinterpret_cast<sockaddr*>(&storage), &size), 0);
    EXPECT_EQ(SocketAddress(reinterpret_cast<sockaddr*>(&storage), size).port() % 2, 0);
  }
}

TEST_F(TcpTest, OnlyAnEvenPortIsConnectedToItself) {
  client_.SetEphemeralPorts(40'000, 40'199);
  const SocketAddress odd = V4(INADDR_LOOPBACK, 40'001);
  for (int i = 0; i < 3'000; ++i) {
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, odd), -EINPROGRESS);
    ASSERT_EQ(SocketError(*socket), ECONNREFUSED);
  }
  // An even one is, sooner or later: each attempt has a chance of one in a hundred.
  const SocketAddress even = V4(INADDR_LOOPBACK, 40'000);
  int attempts = 0;
  for (;; ++attempts) {
    ASSERT_LT(attempts, 3'000);
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, even), -EINPROGRESS);
    if (Info(*socket).tcpi_state == kEstablished) break;
  }
}

// --- Calls in wrong states

TEST_F(TcpTest, CallsInWrongStatesFailAsOnLinux) {
  const Socket fresh = New(client_);
  EXPECT_EQ(fresh->Poll(), EPOLLOUT | EPOLLHUP);
  EXPECT_EQ(RecvBytes(*fresh, 1), -ENOTCONN);
  EXPECT_EQ(SendBytes(*fresh, 1), -EPIPE);
  EXPECT_EQ(fresh->Shutdown(SHUT_WR), -ENOTCONN);
  EXPECT_EQ(fresh->Shutdown(17), -EINVAL);
  EXPECT_EQ(GetPeer(*fresh), -ENOTCONN);
  int error = 0;
  EXPECT_EQ(fresh->Accept(&error), nullptr);
  EXPECT_EQ(error, -EINVAL);
  const SocketAddress foreign = AddressOf(server_, 1);
  EXPECT_EQ(fresh->Bind(foreign.data(), foreign.size()), -EADDRNOTAVAIL);
  EXPECT_EQ(fresh->Bind(foreign.data(), 4), -EINVAL);

  const Pair pair = Make();
  EXPECT_EQ(Connect(*pair.client, AddressOf(server_, kPort)), -EISCONN);
  EXPECT_EQ(pair.client->Listen(1), -EINVAL);
  EXPECT_EQ(pair.client->Bind(foreign.data(), foreign.size()), -EADDRNOTAVAIL);
  EXPECT_EQ(RecvBytes(*listener_, 1), -ENOTCONN);
  int value = 0;
  EXPECT_EQ(listener_->Ioctl(SIOCOUTQ, &value), -EINVAL);
  EXPECT_EQ(pair.client->Ioctl(FIONBIO, &value), -ENOTTY);
  const int zero = 0;
  EXPECT_EQ(pair.client->SetSockOpt(IPPROTO_TCP, TCP_KEEPIDLE, &zero, sizeof(zero)), -EINVAL);
}

TEST_F(TcpTest, ShutdownUnderConnectIsEconnreset) {
  network_.Partition(client_, server_);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  EXPECT_EQ(SendBytes(*socket, 1), -EAGAIN);
  EXPECT_EQ(socket->Shutdown(SHUT_RDWR), 0);
  EXPECT_EQ(SocketError(*socket), ECONNRESET);
}

TEST_F(TcpTest, PortsAreTakenSharedAndReused) {
  const SocketAddress any = V4(INADDR_ANY, kPort);
  const SocketAddress loopback = V4(INADDR_LOOPBACK, kPort);
  const Socket first = New(server_);
  ASSERT_EQ(first->Bind(any.data(), any.size()), 0);
  EXPECT_EQ(New(server_)->Bind(loopback.data(), loopback.size()), -EADDRINUSE);
  ASSERT_EQ(first->Listen(1), 0);
  const Socket reusing = New(server_);
  Set(*reusing, SOL_SOCKET, SO_REUSEADDR, 1);
  EXPECT_EQ(reusing->Bind(any.data(), any.size()), -EADDRINUSE);

  const SocketAddress shared = V4(INADDR_ANY, kPort + 1);
  const Socket one = New(server_);
  const Socket two = New(server_);
  for (const Socket& socket : {one, two}) {
    Set(*socket, SOL_SOCKET, SO_REUSEPORT, 1);
    EXPECT_EQ(socket->Bind(shared.data(), shared.size()), 0);
    EXPECT_EQ(socket->Listen(8), 0);
  }
  std::vector<Socket> clients;
  for (int i = 0; i < 64; ++i) {
    clients.push_back(New(client_));
    ASSERT_EQ(Connect(*clients.back(), AddressOf(server_, kPort + 1)), -EINPROGRESS);
    Run(milliseconds(1));
    // Emptied at once, so that the backlog plays no part; both are chosen.
  }
  EXPECT_TRUE(one->HasPending());
  EXPECT_TRUE(two->HasPending());
}

TEST_F(TcpTest, AServerThatRestartsNeedsReuseaddr) {
  Pair pair = Make();
  pair.server.reset();  // The active closer has TIME_WAIT.
  Run(milliseconds(1));
  pair.client.reset();
  Run(milliseconds(1));
  listener_.reset();
  const SocketAddress any = V4(INADDR_ANY, kPort);
  EXPECT_EQ(New(server_)->Bind(any.data(), any.size()), -EADDRINUSE);
  const Socket again = New(server_);
  Set(*again, SOL_SOCKET, SO_REUSEADDR, 1);
  EXPECT_EQ(again->Bind(any.data(), any.size()), 0);
  Run(seconds(61));
  Socket strict = New(server_);
  EXPECT_EQ(strict->Bind(any.data(), any.size()), -EADDRINUSE);  // `again` has it.
}

TEST_F(TcpTest, TimeWaitOfASocketWithoutReuseaddrKeepsThePortFromEverybody) {
  Socket listener = New(server_);
  const SocketAddress any = V4(INADDR_ANY, kPort);
  ASSERT_EQ(listener->Bind(any.data(), any.size()), 0);
  ASSERT_EQ(listener->Listen(8), 0);
  Socket client = New(client_);
  ASSERT_EQ(Connect(*client, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(milliseconds(1));
  int error = 0;
  listener->Accept(&error).reset();  // Closes first.
  Run(milliseconds(1));
  client.reset();
  listener.reset();
  Run(milliseconds(1));
  const Socket again = New(server_);
  Set(*again, SOL_SOCKET, SO_REUSEADDR, 1);
  EXPECT_EQ(again->Bind(any.data(), any.size()), -EADDRINUSE);
  Run(seconds(60));
  EXPECT_EQ(again->Bind(any.data(), any.size()), 0);
}

TEST_F(TcpTest, AcceptedSocketsInheritOptions) {
  listener_ = Listener(server_);
  Set(*listener_, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(*listener_, IPPROTO_TCP, TCP_USER_TIMEOUT, 4'321);
  Set(*listener_, SOL_SOCKET, SO_SNDBUF, 10'000);
  const Pair pair = Make();
  int value = 0;
  socklen_t size = sizeof(value);
  EXPECT_EQ(pair.server->GetSockOpt(IPPROTO_TCP, TCP_USER_TIMEOUT, &value, &size), 0);
  EXPECT_EQ(value, 4'321);
  EXPECT_EQ(pair.server->GetSockOpt(SOL_SOCKET, SO_SNDBUF, &value, &size), 0);
  EXPECT_EQ(value, 20'000);  // Doubled.
  EXPECT_EQ(pair.server->GetSockOpt(SOL_SOCKET, SO_KEEPALIVE, &value, &size), 0);
  EXPECT_EQ(value, 1);
}

// --- Buffers and windows

TEST_F(TcpTest, AFullSendBufferIsEagainAndTheEdgeComesWhenAThirdIsFree) {
  const Pair pair = Make(10'000, 4'000);
  Ear ear(*pair.client);
  std::size_t written = 0;
  for (;;) {
    const ssize_t size = SendBytes(*pair.client, 3'000);
    if (size == -EAGAIN) break;
    ASSERT_GT(size, 0);
    written += static_cast<std::size_t>(size);
    Run(milliseconds(1));
  }
  EXPECT_EQ(pair.client->Poll() & EPOLLOUT, 0u);
  EXPECT_EQ(written - static_cast<std::size_t>(Outq(*pair.client)),
            static_cast<std::size_t>(Inq(*pair.server)));
  EXPECT_EQ(Inq(*pair.server), 4'000);
  EXPECT_GT(Unsent(*pair.client), 0);
  ear.heard = 0;
  std::size_t read = 0;
  while ((ear.heard & EPOLLOUT) == 0) {
    const ssize_t size = RecvBytes(*pair.server, 500);
    ASSERT_GT(size, 0);
    read += static_cast<std::size_t>(size);
    Run(milliseconds(1));
    ASSERT_LE(read, written);
  }
  EXPECT_LE(Outq(*pair.client), 20'000 * 2 / 3);
  EXPECT_GE(Outq(*pair.client), 20'000 * 2 / 3 - 4'000);
  EXPECT_NE(pair.client->Poll() & EPOLLOUT, 0u);
  while (read < written) {
    read += ReadAll(*pair.server);
    Run(milliseconds(1));
  }
  EXPECT_EQ(read, written);
  EXPECT_EQ(Outq(*pair.client), 0);
}

TEST_F(TcpTest, ProbesOfAZeroWindowFindItOpenAgain) {
  const Pair pair = Make(0, 4'000);
  ASSERT_EQ(SendBytes(*pair.client, 20'000), 20'000);
  Run(minutes(30));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);  // For ever: the peer answers.
  EXPECT_EQ(Info(*pair.client).tcpi_notsent_bytes, 16'000u);
  // The update of the window is lost; the next probe finds out.
  network_.PartitionOneWay(server_, client_);
  EXPECT_EQ(RecvBytes(*pair.server, 4'000), 4'000);
  network_.Heal(client_, server_);
  Run(minutes(3));
  EXPECT_GT(Inq(*pair.server), 0);
}

// docs/kernel.md 14; C1: 1.27 s.
TEST_F(TcpTest, UserTimeoutKillsALivePeerWithAZeroWindow) {
  const Pair pair = Make(0, 4'000);
  Set(*pair.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 1'000);
  ASSERT_EQ(SendBytes(*pair.client, 20'000), 20'000);
  const Duration took = UntilState(*pair.client, kClosed, minutes(5));
  EXPECT_GE(took, milliseconds(1'200));
  EXPECT_LE(took, milliseconds(1'500));
  ExpectIdentity(*pair.client, 20'000, true, 4'000);
  EXPECT_EQ(Outq(*pair.client), 16'000);
  EXPECT_EQ(Unsent(*pair.client), 16'000);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ETIMEDOUT);
}

// docs/kernel.md 13.
TEST_F(TcpTest, MemoryPressureIsEagainWithoutEpolloutAndDrains) {
  const Pair pair = Make(200'000, 2'000);
  client_.tcp().SetMemoryLimit(65'482);
  Ear ear(*pair.client);
  network_.PartitionOneWay(server_, client_);
  std::size_t written = 0;
  ssize_t size = 0;
  while ((size = SendBytes(*pair.client, 10'000)) > 0) written += static_cast<std::size_t>(size);
  EXPECT_EQ(size, -EAGAIN);
  EXPECT_EQ(written, 65'482u);
  EXPECT_EQ(pair.client->Poll() & EPOLLOUT, 0u);
  network_.Heal(client_, server_);
  std::size_t read = 0;
  while (read < written) {
    read += ReadAll(*pair.server);
    Run(milliseconds(300));
  }
  EXPECT_EQ(read, written);
  EXPECT_NE(ear.heard & EPOLLOUT, 0u);
  EXPECT_NE(pair.client->Poll() & EPOLLOUT, 0u);
}

TEST_F(TcpTest, LoopbackHasArrivedAndIsAcknowledgedWhenSendReturns) {
  const Socket listener = Listener(client_);
  for (const SocketAddress& to : {V4(INADDR_LOOPBACK, kPort), AddressOf(client_, kPort)}) {
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, to), -EINPROGRESS);
    EXPECT_EQ(Connect(*socket, to), 0);
    int error = 0;
    const Socket accepted = listener->Accept(&error);
    ASSERT_NE(accepted, nullptr);
    EXPECT_EQ(SendBytes(*socket, 1'000), 1'000);
    EXPECT_EQ(Inq(*accepted), 1'000);
    EXPECT_EQ(Outq(*socket), 0);
  }
}

// --- Ends

TEST_F(TcpTest, AFinIsEofAndTheOtherHalfGoesOn) {
  const Pair pair = Make();
  ASSERT_EQ(SendBytes(*pair.client, 100), 100);
  EXPECT_EQ(pair.client->Shutdown(SHUT_WR), 0);
  EXPECT_EQ(SendBytes(*pair.client, 1), -EPIPE);
  EXPECT_EQ(Outq(*pair.client), 101);  // The FIN counts.
  Run(milliseconds(1));
  EXPECT_EQ(Outq(*pair.client), 0);
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_acked, 102u);
  EXPECT_EQ(Info(*pair.server).tcpi_state, kCloseWait);
  EXPECT_EQ(pair.server->Poll(), EPOLLIN | EPOLLOUT | EPOLLRDHUP);
  EXPECT_EQ(Inq(*pair.server), 100);
  EXPECT_EQ(Info(*pair.server).tcpi_bytes_received, 101u);
  EXPECT_EQ(RecvBytes(*pair.server, 1'000), 100);
  EXPECT_EQ(RecvBytes(*pair.server, 1'000), 0);
  EXPECT_EQ(SendBytes(*pair.server, 50), 50);
  Run(milliseconds(1));
  EXPECT_EQ(RecvBytes(*pair.client, 100), 50);
  EXPECT_EQ(pair.server->Shutdown(SHUT_WR), 0);
  Run(milliseconds(1));
  // The end of an orderly close reads CLOSE on both sides.
  EXPECT_EQ(Info(*pair.client).tcpi_state, kClosed);
  EXPECT_EQ(Info(*pair.server).tcpi_state, kClosed);
  EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_received, 51u);
  EXPECT_EQ(SocketError(*pair.client), 0);
}

// docs/kernel.md 2.
TEST_F(TcpTest, AResetIsToldOnceToWhicheverCallComesFirst) {
  for (int first = 0; first < 3; ++first) {
    Pair pair = Make();
    Ear ear(*pair.client);
    SetLingerZero(*pair.server);
    pair.server.reset();
    Run(milliseconds(1));
    EXPECT_EQ(pair.client->Poll(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    EXPECT_NE(ear.heard & EPOLLERR, 0u);
    if (first == 0) {
      EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
    } else if (first == 1) {
      EXPECT_EQ(SendBytes(*pair.client, 1), -ECONNRESET);
    } else {
      EXPECT_EQ(SocketError(*pair.client), ECONNRESET);
    }
    EXPECT_EQ(SendBytes(*pair.client, 1), -EPIPE);
    EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
    EXPECT_EQ(SocketError(*pair.client), 0);
    EXPECT_EQ(Info(*pair.client).tcpi_state, kClosed);
  }
}

TEST_F(TcpTest, AZeroLengthSendTakesTheError) {
  Pair pair = Make();
  SetLingerZero(*pair.server);
  pair.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(SendBytes(*pair.client, 0), -ECONNRESET);
  EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
}

TEST_F(TcpTest, DataBeforeAResetStaysReadable) {
  Pair pair = Make();
  ASSERT_EQ(SendBytes(*pair.server, 100), 100);
  Run(milliseconds(1));
  SetLingerZero(*pair.server);
  pair.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(Inq(*pair.client), 100);
  EXPECT_EQ(RecvBytes(*pair.client, 1'000), 100);
  EXPECT_EQ(RecvBytes(*pair.client, 1'000), -ECONNRESET);
}

// "Did the peer's FIN arrive?": also when a reset followed.
TEST_F(TcpTest, TheFigureOfTheFinSurvivesAReset) {
  Pair pair = Make();
  ASSERT_EQ(SendBytes(*pair.server, 100), 100);
  pair.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kCloseWait);
  EXPECT_EQ(SendBytes(*pair.client, 10), 10);  // A successful send is never proof.
  Run(milliseconds(1));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kClosed);
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_received - 0 - static_cast<unsigned>(Inq(*pair.client)),
            1u);
  EXPECT_EQ(RecvBytes(*pair.client, 1'000), 100);
  EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
  EXPECT_EQ(SendBytes(*pair.client, 1), -EPIPE);
}

TEST_F(TcpTest, ShutdownOfALiveSocketDestroysDataAndShutWrDoesNot) {
  Pair lossy = Make();
  EXPECT_EQ(lossy.client->Shutdown(SHUT_RDWR), 0);
  Run(milliseconds(1));
  ASSERT_EQ(SendBytes(*lossy.server, 1'000), 1'000);  // Still sending.
  Run(milliseconds(1));
  EXPECT_EQ(Info(*lossy.server).tcpi_state, kClosed);
  EXPECT_EQ(SocketError(*lossy.server), EPIPE);  // It is in CLOSE_WAIT.
  EXPECT_EQ(SocketError(*lossy.client), ECONNRESET);

  Pair whole = Make();
  EXPECT_EQ(whole.client->Shutdown(SHUT_WR), 0);
  Run(milliseconds(1));
  ASSERT_EQ(SendBytes(*whole.server, 1'000), 1'000);
  whole.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(ReadAll(*whole.client), 1'000u);
}

// docs/kernel.md 10: what holds the file keeps the connection.
TEST_F(TcpTest, TheConnectionLivesAsLongAsTheFile) {
  Pair pair = Make();
  const Socket operation = pair.server;
  pair.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);
}

TEST_F(TcpTest, AClosedListenerResetsWhatNobodyAccepted) {
  Socket listener = Listener(server_);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(milliseconds(1));
  ASSERT_EQ(Info(*socket).tcpi_state, kEstablished);
  listener.reset();
  Run(milliseconds(1));
  EXPECT_EQ(SocketError(*socket), ECONNRESET);
}

TEST_F(TcpTest, SsKillIsEconnabortedThenEof) {
  const Pair pair = Make();
  EXPECT_EQ(client_.tcp().Abort(AddressOf(server_, kPort)), 1u);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNABORTED);
  EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
  Run(milliseconds(1));
  EXPECT_EQ(SocketError(*pair.server), ECONNRESET);
}

// --- Table C1

class TcpAccountTest : public TcpTest {
 protected:
  // W bytes written by the client, of which the server's application reads `read`.
  Pair Written(std::size_t size, std::size_t read) {
    Pair pair = Make();
    EXPECT_EQ(SendBytes(*pair.client, size), static_cast<ssize_t>(size));
    Run(milliseconds(2));
    EXPECT_EQ(RecvBytes(*pair.server, read), static_cast<ssize_t>(read));
    return pair;
  }

  void Expect(SocketFile& socket, std::uint8_t state, std::uint64_t acked, int outq, int unsent) {
    const tcp_info info = Info(socket);
    EXPECT_EQ(info.tcpi_state, state);
    EXPECT_EQ(info.tcpi_bytes_acked, acked);
    EXPECT_EQ(Outq(socket), outq);
    EXPECT_EQ(Unsent(socket), unsent);
    EXPECT_EQ(info.tcpi_notsent_bytes, static_cast<std::uint32_t>(unsent));
    if (state == kClosed) {
      EXPECT_EQ(info.tcpi_unacked, 0u);
    }
  }
};

TEST_F(TcpAccountTest, CloseWithUnreadDataResets) {
  for (const bool linger_zero : {true, false}) {
    Pair pair = Written(10'000, 3'000);
    if (linger_zero) SetLingerZero(*pair.server);
    pair.server.reset();
    Run(milliseconds(1));
    EXPECT_EQ(pair.client->Poll() & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR),
              EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    Expect(*pair.client, kClosed, 10'001, 0, 0);
    EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
    Expect(*pair.client, kClosed, 10'001, 0, 0);  // Frozen.
  }
}

TEST_F(TcpAccountTest, ResetWithTheSendBufferFull) {
  Pair pair = Make(200'000, 50'000);
  std::uint64_t written = 0;
  ssize_t size = 0;
  while ((size = SendBytes(*pair.client, 100'000)) > 0) {
    written += static_cast<std::uint64_t>(size);
    Run(milliseconds(2));
  }
  const auto received = static_cast<std::uint64_t>(Inq(*pair.server));
  EXPECT_EQ(received, 50'000u);
  SetLingerZero(*pair.server);
  pair.server.reset();
  Run(milliseconds(2));
  Expect(*pair.client, kClosed, 50'001, static_cast<int>(written - 50'000),
         static_cast<int>(written - 50'000));
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
}

TEST_F(TcpAccountTest, WritesAfterTheFinAreTakenAndLost) {
  for (const std::size_t late : {std::size_t{10}, std::size_t{500}}) {
    Pair pair = Written(10'000, 10'000);
    pair.server.reset();
    Run(milliseconds(1));
    EXPECT_EQ(pair.client->Poll(), EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    EXPECT_EQ(Info(*pair.client).tcpi_state, kCloseWait);
    EXPECT_EQ(SendBytes(*pair.client, late), static_cast<ssize_t>(late));
    Run(milliseconds(1));
    Expect(*pair.client, kClosed, 10'001, static_cast<int>(late), 0);
    EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
    EXPECT_EQ(SendBytes(*pair.client, 1), -EPIPE);
  }
}

TEST_F(TcpAccountTest, AcksLostThenReset) {
  Pair pair = Written(10, 10);
  network_.PartitionOneWay(server_, client_);
  ASSERT_EQ(SendBytes(*pair.client, 10'000), 10'000);
  Run(milliseconds(2));
  EXPECT_EQ(RecvBytes(*pair.server, 20'000), 10'000);
  network_.Heal(client_, server_);
  SetLingerZero(*pair.server);
  pair.server.reset();
  Run(milliseconds(1));
  Expect(*pair.client, kClosed, 11, 10'000, 0);  // The ACK in a RST is not processed.
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
}

TEST_F(TcpAccountTest, AcksLostThenFin) {
  Pair pair = Written(10, 10);
  network_.PartitionOneWay(server_, client_);
  ASSERT_EQ(SendBytes(*pair.client, 10'000), 10'000);
  Run(milliseconds(2));
  EXPECT_EQ(RecvBytes(*pair.server, 20'000), 10'000);
  network_.Heal(client_, server_);
  pair.server.reset();
  Run(milliseconds(1));
  EXPECT_EQ(RecvBytes(*pair.client, 1), 0);
  Expect(*pair.client, kCloseWait, 10'011, 0, 0);  // The FIN carries the ACK.
}

TEST_F(TcpAccountTest, APeerThatIsCutOffIsTimedOut) {
  Pair pair = Written(10'000, 10'000);
  Set(*pair.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 1'000);
  network_.Partition(client_, server_);
  ASSERT_EQ(SendBytes(*pair.client, 5'000), 5'000);
  const Duration took = UntilState(*pair.client, kClosed, minutes(1));
  EXPECT_GE(took, seconds(1));
  EXPECT_LE(took, milliseconds(1'440));
  Expect(*pair.client, kClosed, 10'001, 5'000, 0);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ETIMEDOUT);
}

TEST_F(TcpAccountTest, AnOwnLinkThatIsDownSendsNothing) {
  Pair pair = Written(10'000, 10'000);
  Set(*pair.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 1'000);
  network_.path(client_, server_).policy = Path::Policy::kRouteThrow;
  ASSERT_EQ(SendBytes(*pair.client, 5'000), 5'000);
  const Duration took = UntilState(*pair.client, kClosed, minutes(1));
  EXPECT_GE(took, seconds(1));
  EXPECT_LE(took, milliseconds(1'500));
  Expect(*pair.client, kClosed, 10'001, 5'000, 5'000);
  EXPECT_GT(Info(*pair.client).tcpi_bytes_sent, 15'000u);  // Counts failed transmissions.
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ETIMEDOUT);
}

TEST_F(TcpAccountTest, KeepaliveEndsAnIdleConnection) {
  Pair pair = Written(10'000, 10'000);
  Set(*pair.client, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  Set(*pair.client, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  Set(*pair.client, IPPROTO_TCP, TCP_KEEPCNT, 2);
  Set(*pair.client, SOL_SOCKET, SO_KEEPALIVE, 1);
  Run(minutes(10));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);  // The peer answers.
  network_.Partition(client_, server_);
  const Duration took = UntilState(*pair.client, kClosed, minutes(1));
  EXPECT_GE(took, milliseconds(2'000));  // 2.75 s
  EXPECT_LE(took, milliseconds(4'200));
  Expect(*pair.client, kClosed, 10'001, 0, 0);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ETIMEDOUT);
}

TEST_F(TcpAccountTest, KeepaliveCountsFromTheLastAnswer) {
  Pair pair = Written(10, 10);
  Set(*pair.client, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  Set(*pair.client, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  Set(*pair.client, SOL_SOCKET, SO_KEEPALIVE, 1);
  const std::uint32_t before = Info(*pair.client).tcpi_segs_out;
  Run(seconds(105));
  const std::uint32_t probes = Info(*pair.client).tcpi_segs_out - before;
  EXPECT_GE(probes, 7u);  // One in ten seconds, or a little more.
  EXPECT_LE(probes, 10u);
}

TEST_F(TcpAccountTest, AnAcknowledgementClearsTheSoftError) {
  Pair pair = Written(10, 10);
  network_.path(client_, server_).policy = Path::Policy::kIcmpHost;
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  Run(milliseconds(10));
  network_.HealAll();
  Run(seconds(1));
  EXPECT_EQ(Outq(*pair.client), 0);
  EXPECT_EQ(SocketError(*pair.client), 0);
}

// docs/kernel.md 5.
TEST_F(TcpAccountTest, SocketErrorLiesOnALiveConnection) {
  Pair pair = Written(10'000, 10'000);
  Ear ear(*pair.client);
  network_.path(client_, server_).policy = Path::Policy::kNoNeighbour;
  ASSERT_EQ(SendBytes(*pair.client, 5'000), 5'000);
  Run(seconds(25));
  EXPECT_EQ(ear.count, 0);  // No event.
  Expect(*pair.client, kEstablished, 10'001, 5'000, 0);
  EXPECT_EQ(SocketError(*pair.client), EHOSTUNREACH);
  network_.HealAll();
  Run(minutes(2));
  EXPECT_EQ(Inq(*pair.server), 5'000);
  EXPECT_EQ(SocketError(*pair.client), 0);
}

// docs/kernel.md 7.
TEST_F(TcpAccountTest, TheErrorOfADeadConnectionIsTheSoftOne) {
  const std::pair<Path::Policy, int> cases[] = {{Path::Policy::kIcmpHost, EHOSTUNREACH},
                                                {Path::Policy::kIcmpPort, ECONNREFUSED},
                                                {Path::Policy::kIcmpNet, ENETUNREACH}};
  for (const auto& [policy, error] : cases) {
    Pair pair = Written(10, 10);
    Set(*pair.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 1'000);
    network_.path(client_, server_).policy = policy;
    ASSERT_EQ(SendBytes(*pair.client, 5'000), 5'000);
    const Duration took = UntilState(*pair.client, kClosed, minutes(1));
    EXPECT_GE(took, seconds(1));
    EXPECT_LE(took, milliseconds(1'500));
    EXPECT_EQ(RecvBytes(*pair.client, 1), -error);
    network_.HealAll();
  }
  EXPECT_EQ(faults_.hits(Fault::kSoftErrorDeath), 3u);
}

TEST_F(TcpAccountTest, APeerThatRebootedAnswersWithAReset) {
  Pair pair = Written(10'000, 10'000);
  Ear ear(*pair.client);
  server_.Crash();
  Run(seconds(10));
  server_.Boot();
  Run(hours(1));
  EXPECT_EQ(ear.count, 0);  // No event: the connection is half open.
  ASSERT_EQ(SendBytes(*pair.client, 100), 100);
  Run(milliseconds(1));
  Expect(*pair.client, kClosed, 10'001, 100, 0);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
}

TEST_F(TcpTest, WithoutTimeoutsADeadPeerIsFoundAfterFifteenMinutes) {
  const Pair pair = Make();
  network_.Partition(client_, server_);
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  const Duration took = UntilState(*pair.client, kClosed, hours(1));
  EXPECT_GE(took, milliseconds(924'600));  // tcp_retries2
  EXPECT_LE(took, milliseconds(924'600) * 9 / 8);
  EXPECT_EQ(SocketError(*pair.client), ETIMEDOUT);
  EXPECT_GE(Info(*pair.client).tcpi_total_retrans, 14u);
}

TEST_F(TcpTest, RetransmissionsBackOff) {
  const Pair pair = Make();
  network_.Partition(client_, server_);
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  const std::pair<int, unsigned> expected[] = {{190, 0},   {230, 1},   {590, 1},  {660, 2},
                                               {1'390, 2}, {1'500, 3}, {3'300, 4}};
  const Instant begin = schedule_.now();
  for (const auto& [at, count] : expected) {
    schedule_.RunUntil(begin + milliseconds(at));
    EXPECT_EQ(Info(*pair.client).tcpi_total_retrans, count) << at;
  }
  network_.HealAll();
  Run(seconds(10));
  EXPECT_EQ(Inq(*pair.server), 10);
  EXPECT_EQ(Outq(*pair.client), 0);
  EXPECT_EQ(Info(*pair.client).tcpi_backoff, 0);
}

TEST_F(TcpTest, APartitionOfOneWayLetsDataThroughAndNoAck) {
  const Pair pair = Make();
  network_.PartitionOneWay(server_, client_);
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  Run(seconds(5));
  EXPECT_EQ(Inq(*pair.server), 10);  // Once, however often it was sent.
  EXPECT_EQ(Outq(*pair.client), 10);
  network_.Heal(client_, server_);
  Run(seconds(10));
  EXPECT_EQ(Outq(*pair.client), 0);
  EXPECT_EQ(Info(*pair.client).tcpi_bytes_acked, 11u);
}

TEST_F(TcpTest, ASegmentForACrashedHostVanishes) {
  const Pair pair = Make();
  server_.Crash();
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  Run(seconds(5));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);
  EXPECT_EQ(pair.server->Poll() & EPOLLHUP, std::uint32_t{EPOLLHUP});
  server_.Boot();
  Run(seconds(10));
  EXPECT_EQ(SocketError(*pair.client), ECONNRESET);
}

TEST_F(TcpTest, AClientThatRebootedOpensTheSamePortAgain) {
  client_.SetEphemeralPorts(40'000, 40'000);
  const Pair pair = Make();
  client_.Crash();
  Run(seconds(1));
  client_.Boot();
  const Socket again = New(client_);
  ASSERT_EQ(Connect(*again, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(seconds(2));
  EXPECT_EQ(Info(*again).tcpi_state, kEstablished);
  EXPECT_EQ(SocketError(*pair.server), ECONNRESET);
}

TEST_F(TcpTest, LatencyAndBandwidthAddUp) {
  Path& path = network_.path(client_, server_);
  path.latency = milliseconds(40);
  path.bytes_per_second = 100'000;
  const Socket listener = Listener(server_);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(milliseconds(100));
  int error = 0;
  const Socket accepted = listener->Accept(&error);
  ASSERT_NE(accepted, nullptr);
  ASSERT_EQ(SendBytes(*socket, 50'000), 50'000);
  Run(milliseconds(100));
  EXPECT_EQ(Inq(*accepted), 0);  // A tenth of a second's worth comes at once.
  Run(milliseconds(430));
  EXPECT_EQ(Inq(*accepted), 40'000);
  Run(milliseconds(20));
  EXPECT_EQ(Inq(*accepted), 50'000);
}

TEST_F(TcpTest, JitterNeverReorders) {
  const Pair pair = Make(300'000, 300'000);
  network_.path(client_, server_).jitter = milliseconds(5);
  for (int i = 0; i < 1'000; ++i) {
    ASSERT_EQ(SendBytes(*pair.client, 10), 10);
    Run(microseconds(10));
  }
  Run(milliseconds(20));
  EXPECT_EQ(Inq(*pair.server), 10'000);
  EXPECT_EQ(Info(*pair.client).tcpi_total_retrans, 0u);
}

TEST_F(TcpTest, SeveralLostSegmentsCostOneTimeout) {
  const Pair pair = Make(400'000, 200'000);
  network_.Partition(client_, server_);
  ASSERT_EQ(SendBytes(*pair.client, 190'000), 190'000);
  Run(milliseconds(50));
  network_.HealAll();
  Run(milliseconds(200));
  EXPECT_EQ(Inq(*pair.server), 190'000);
}

TEST_F(TcpTest, LossIsAStallAndNothingElse) {
  Path& out = network_.path(client_, server_);
  Path& back = network_.path(server_, client_);
  const Pair pair = Make(0, 8'000);
  out.loss = back.loss = 65'536 / 5;
  out.jitter = back.jitter = milliseconds(3);
  std::string sent;
  std::string got;
  Random random(Seed());
  while (sent.size() < 200'000) {
    std::string text;
    for (std::uint64_t i = random.Between(1, 3'000); i > 0; --i) {
      text.push_back(static_cast<char>(random.Below(256)));
    }
    const ssize_t size = SendText(*pair.client, text);
    if (size > 0) sent.append(text, 0, static_cast<std::size_t>(size));
    Run(milliseconds(20));
    std::string part;
    while (RecvBytes(*pair.server, 5'000, &part) > 0) got += part;
  }
  out.loss = back.loss = 0;
  for (int i = 0; i < 1'000 && got.size() < sent.size(); ++i) {
    Run(seconds(1));
    std::string part;
    while (RecvBytes(*pair.server, 5'000, &part) > 0) got += part;
  }
  EXPECT_TRUE(got == sent) << got.size() << " of " << sent.size();
}

// --- Giving up a live connection

TEST_F(TcpTest, DisconnectingTwiceIsExactAndOnceIsNot) {
  const Pair pair = Make(0, 4'000);
  ASSERT_EQ(SendBytes(*pair.client, 20'000), 20'000);
  Run(milliseconds(5));  // 4,000 acknowledged, 16,000 unsent.
  Ear ear(*pair.client);
  ASSERT_EQ(Disconnect(*pair.client), 0);
  const auto q1 = static_cast<std::uint32_t>(Outq(*pair.client));
  const auto n1 = static_cast<std::uint32_t>(Unsent(*pair.client));
  EXPECT_NE(q1, 16'000u);  // One alone is no figure.
  ASSERT_EQ(Disconnect(*pair.client), 0);
  const auto q2 = static_cast<std::uint32_t>(Outq(*pair.client));
  const std::uint32_t k = q2 - q1;
  EXPECT_EQ(k, 4'000u + 2);  // The largest window plus 2.
  EXPECT_EQ(20'000 - (q1 - k), 4'000u);
  EXPECT_EQ(n1 - k, 16'000u);
  // It wakes whoever waits: ECONNRESET once, ENOTCONN after it.
  EXPECT_NE(ear.heard, 0u);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ECONNRESET);
  EXPECT_EQ(RecvBytes(*pair.client, 1), -ENOTCONN);
  EXPECT_EQ(Inq(*pair.client), 0);
  Run(milliseconds(1));
  EXPECT_EQ(Inq(*pair.server), 4'000);
  EXPECT_EQ(RecvBytes(*pair.server, 5'000), 4'000);
  EXPECT_EQ(RecvBytes(*pair.server, 5'000), -ECONNRESET);
  // The descriptor is kept.
  EXPECT_EQ(Connect(*pair.client, AddressOf(server_, kPort)), -EINPROGRESS);
  Run(milliseconds(2));
  EXPECT_EQ(Info(*pair.client).tcpi_state, kEstablished);
}

// --- Death and the account, over random schedules

TEST_F(TcpTest, TheAccountOfADeathIsExactOverRandomSchedules) {
  const std::uint64_t seed = Seed();
  std::printf("HOLDFAST_SEED=%" PRIu64 "\n", seed);
  network_.KeepRecords(true);
  Random random(seed);
  int dead = 0;
  for (int round = 0; round < 300; ++round) {
    network_.HealAll();
    Path& out = network_.path(client_, server_);
    Path& back = network_.path(server_, client_);
    out.jitter = back.jitter = microseconds(random.Below(2'000));
    out.loss = back.loss = 0;
    Pair made = Make(static_cast<int>(random.Between(3'000, 100'000)),
                     static_cast<int>(random.Between(2'000, 60'000)));
    out.loss = back.loss = random.Below(2) == 0 ? 0 : 6'000;
    Set(*made.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 3'000);
    Socket client = std::move(made.client);
    Socket server = std::move(made.server);
    const std::shared_ptr<ConnectionRecord> record = network_.records().back();
    std::uint64_t written[2] = {};
    std::uint64_t read[2] = {};
    const auto traffic = [&](Socket& socket, int side) {
      if (socket == nullptr) return;
      if (random.Below(3) > 0) {
        const ssize_t size = SendBytes(*socket, random.Between(1, 30'000));
        if (size > 0) written[side] += static_cast<std::uint64_t>(size);
      }
      if (random.Below(3) == 0) {
        const ssize_t size = RecvBytes(*socket, random.Between(1, 30'000));
        if (size > 0) read[side] += static_cast<std::uint64_t>(size);
      }
    };
    for (std::uint64_t i = random.Between(1, 12); i > 0; --i) {
      traffic(client, 0);
      traffic(server, 1);
      Run(microseconds(random.Below(3'000)));
    }
    const std::uint64_t kind = random.Below(6);
    bool given_up = false;
    if (kind == 0) {
      SetLingerZero(*server);
      server.reset();
    } else if (kind == 1) {
      server.reset();
    } else if (kind == 2) {
      network_.Partition(client_, server_);
    } else if (kind == 3) {
      network_.PartitionOneWay(server_, client_);
    } else if (kind == 4) {
      client_.tcp().Abort(AddressOf(server_, kPort));
    } else {
      given_up = true;
    }
    if (!given_up) {
      for (int i = 0; i < 10; ++i) {
        traffic(client, 0);
        Run(seconds(1));
      }
    }
    std::uint64_t acked = 0;
    std::uint64_t unsent = 0;
    if (Info(*client).tcpi_state == kClosed) {
      ++dead;
      const tcp_info info = Info(*client);
      const auto outq = static_cast<std::uint64_t>(Outq(*client));
      ASSERT_EQ(written[0], outq + info.tcpi_bytes_acked - 1);
      ASSERT_EQ(static_cast<std::uint32_t>(Unsent(*client)), info.tcpi_notsent_bytes);
      acked = written[0] - outq;
      unsent = info.tcpi_notsent_bytes;
    } else {
      ASSERT_EQ(Disconnect(*client), 0);
      const auto q1 = static_cast<std::uint32_t>(Outq(*client));
      const auto n1 = static_cast<std::uint32_t>(Unsent(*client));
      ASSERT_EQ(Disconnect(*client), 0);
      const std::uint32_t k = static_cast<std::uint32_t>(Outq(*client)) - q1;
      acked = written[0] - (q1 - k);
      unsent = n1 - k;
    }
    client.reset();
    network_.HealAll();
    Run(minutes(5));
    ASSERT_EQ(record->sent[0], written[0]);
    ASSERT_LE(acked, record->received_by_kernel[1]) << "round " << round << " kind " << kind;
    ASSERT_LE(record->received_by_kernel[1], written[0] - unsent) << "round " << round;
    ASSERT_LE(record->read_by_application[1], record->received_by_kernel[1]);
    server.reset();
    Run(minutes(30));
    ASSERT_TRUE(record->ended[0] && record->ended[1]) << "round " << round << " kind " << kind;
  }
  EXPECT_GT(dead, 100);
  EXPECT_EQ(client_.tcp().connections() + server_.tcp().connections(), 0u);
}

// --- Faults that strike on their own

TEST_F(TcpTest, EveryRefusalOfAConnectStrikes) {
  struct Case {
    Fault fault;
    int at_once;
    int later;
  };
  const Case cases[] = {{Fault::kNetUnreachable, ENETUNREACH, 0},
                        {Fault::kProhibited, EACCES, 0},
                        {Fault::kBlackhole, EINVAL, 0},
                        {Fault::kAddressNotAvailable, EADDRNOTAVAIL, 0},
                        {Fault::kNoMemory, ENOBUFS, 0},
                        {Fault::kHostUnreachable, 0, EHOSTUNREACH},
                        {Fault::kRefusedIcmpPort, 0, ECONNREFUSED},
                        {Fault::kProtocolUnreachable, 0, ENOPROTOOPT},
                        {Fault::kRefusedReset, 0, ECONNREFUSED},
                        {Fault::kConnectSilent, 0, ETIMEDOUT}};
  const Socket listener = Listener(server_);
  for (const Case& c : cases) {
    faults_.SetRate(c.fault, 65'536);
    const Socket socket = New(client_);
    EXPECT_EQ(Connect(*socket, AddressOf(server_, kPort)),
              c.at_once != 0 ? -c.at_once : -EINPROGRESS);
    Run(minutes(3));
    if (c.later != 0) {
      EXPECT_EQ(SocketError(*socket), c.later);
    }
    EXPECT_GE(faults_.hits(c.fault), 1u) << ToString(c.fault);
    faults_.SetRate(c.fault, 0);
  }
}

TEST_F(TcpTest, ALateConnectSucceedsAfterAllPatience) {
  const Socket listener = Listener(server_);
  faults_.SetRate(Fault::kLateConnect, 65'536);
  const Socket socket = New(client_);
  ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
  const Duration took = UntilState(*socket, kEstablished, minutes(2));
  EXPECT_GE(took, seconds(5));
  EXPECT_LE(took, seconds(76));
}

TEST_F(TcpTest, WhatStrikesALiveConnectionLooksAsItShould) {
  struct Case {
    Fault fault;
    std::uint8_t state;
    ssize_t then_recv;
  };
  const Case cases[] = {{Fault::kResetWithDataQueued, kClosed, -ECONNRESET},
                        {Fault::kResetTakenByOther, kClosed, 0},
                        {Fault::kFin, kCloseWait, 0},
                        {Fault::kFinThenReset, kClosed, 0},
                        {Fault::kHalfClose, kCloseWait, 0},
                        {Fault::kSilentLoss, kEstablished, -EAGAIN},
                        {Fault::kTimedOut, kClosed, -ETIMEDOUT},
                        {Fault::kAborted, kClosed, -ECONNABORTED}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(ToString(c.fault)));
    const Pair pair = Make();
    ASSERT_EQ(SendBytes(*pair.client, 10), 10);
    faults_.SetRate(c.fault, 65'536);
    Run(microseconds(150));  // The data has arrived, the acknowledgement has not.
    faults_.SetRate(c.fault, 0);
    Run(milliseconds(10));
    EXPECT_EQ(faults_.hits(c.fault), 1u);
    EXPECT_EQ(Info(*pair.server).tcpi_state, c.state);
    EXPECT_EQ(RecvBytes(*pair.server, 100), 10);  // What was queued stays readable.
    EXPECT_EQ(RecvBytes(*pair.server, 100), c.then_recv);
  }
}

TEST_F(TcpTest, AWindowThatAFaultClosedOpensAgain) {
  const Pair pair = Make();
  ASSERT_EQ(SendBytes(*pair.server, 10), 10);
  faults_.SetRate(Fault::kZeroWindow, 65'536);
  Run(microseconds(150));
  faults_.SetRate(Fault::kZeroWindow, 0);
  ASSERT_EQ(SendBytes(*pair.client, 1'000), 1'000);
  Run(microseconds(500));
  EXPECT_EQ(Unsent(*pair.client), 1'000);
  Run(minutes(2));
  EXPECT_EQ(Inq(*pair.server), 1'000);
}

TEST_F(TcpTest, PartialCallsAndStormsLoseNothing) {
  const Pair pair = Make(20'000, 10'000);
  for (const Fault fault :
       {Fault::kPartialSend, Fault::kPartialReceive, Fault::kEagainStorm, Fault::kNoMemory}) {
    faults_.SetRate(fault, 20'000);
  }
  std::uint64_t sent = 0;
  std::uint64_t got = 0;
  Ear in(*pair.server);
  while (sent < 500'000) {
    const ssize_t size = SendBytes(*pair.client, 7'000);
    if (size > 0) sent += static_cast<std::uint64_t>(size);
    Run(milliseconds(1));
    // Only after an edge, as a reader does that trusts epoll.
    if (std::exchange(in.heard, 0) == 0) continue;
    for (;;) {
      const ssize_t part = RecvBytes(*pair.server, 4'096);
      if (part <= 0) break;
      got += static_cast<std::uint64_t>(part);
      if (part < 4'096) break;
    }
  }
  for (int i = 0; i < 10'000 && got < sent; ++i) {
    Run(milliseconds(10));
    if (std::exchange(in.heard, 0) == 0) continue;
    for (;;) {
      const ssize_t part = RecvBytes(*pair.server, 4'096);
      if (part <= 0) break;
      got += static_cast<std::uint64_t>(part);
      if (part < 4'096) break;
    }
  }
  EXPECT_EQ(got, sent);
  EXPECT_GE(faults_.hits(Fault::kEagainStorm), 10u);
  EXPECT_GE(faults_.hits(Fault::kPartialReceive), 10u);
}

TEST_F(TcpTest, ConnectionsThatAreStruckAtOnceAreNotAccepted) {
  for (const Fault fault : {Fault::kResetAfterConnect, Fault::kFinAfterConnect}) {
    faults_.SetRate(fault, 65'536);
    const Socket listener = Listener(server_);
    const Socket socket = New(client_);
    ASSERT_EQ(Connect(*socket, AddressOf(server_, kPort)), -EINPROGRESS);
    Run(milliseconds(1));
    EXPECT_FALSE(listener->HasPending());
    EXPECT_EQ(RecvBytes(*socket, 1), fault == Fault::kResetAfterConnect ? -ECONNRESET : 0);
    faults_.SetRate(fault, 0);
    socket->Shutdown(SHUT_WR);
    Run(minutes(2));
  }
}

TEST_F(TcpTest, CorruptionFlipsOneBit) {
  const Pair pair = Make();
  faults_.SetRate(Fault::kCorruption, 65'536);
  ASSERT_EQ(SendText(*pair.client, std::string(100, 'x')), 100);
  Run(milliseconds(1));
  std::string got;
  ASSERT_EQ(RecvBytes(*pair.server, 200, &got), 100);
  int bits = 0;
  for (const char byte : got) bits += __builtin_popcount(static_cast<unsigned>(byte ^ 'x') & 255u);
  EXPECT_EQ(bits, 1);
}

// Whatever strikes: the account holds, the bytes are a prefix of what was sent, and in the end
// nothing is left. Also from a host to itself.
TEST_F(TcpTest, TheAccountHoldsUnderEveryFaultThatStrikes) {
  const std::uint64_t seed = Seed();
  std::printf("HOLDFAST_SEED=%" PRIu64 "\n", seed);
  network_.KeepRecords(true);
  Random random(seed);
  const Fault kinds[] = {Fault::kNetUnreachable,
                         Fault::kProhibited,
                         Fault::kBlackhole,
                         Fault::kAddressNotAvailable,
                         Fault::kNoMemory,
                         Fault::kHostUnreachable,
                         Fault::kRefusedIcmpPort,
                         Fault::kProtocolUnreachable,
                         Fault::kSoftIcmpWhileOwned,
                         Fault::kRefusedReset,
                         Fault::kConnectSilent,
                         Fault::kLateConnect,
                         Fault::kResetAfterConnect,
                         Fault::kFinAfterConnect,
                         Fault::kPartialSend,
                         Fault::kPartialReceive,
                         Fault::kEagainStorm,
                         Fault::kResetWithDataQueued,
                         Fault::kResetTakenByOther,
                         Fault::kFin,
                         Fault::kFinThenReset,
                         Fault::kHalfClose,
                         Fault::kZeroWindow,
                         Fault::kSilentLoss,
                         Fault::kTimedOut,
                         Fault::kSoftErrorDeath,
                         Fault::kAborted};
  for (int round = 0; round < 1'500; ++round) {
    SCOPED_TRACE(round);
    for (const Fault kind : kinds) {
      faults_.SetRate(kind,
                      random.Below(3) == 0 ? static_cast<std::uint32_t>(random.Below(8'000)) : 0);
    }
    Path& out = network_.path(client_, server_);
    Path& back = network_.path(server_, client_);
    out.jitter = back.jitter = microseconds(random.Below(2'000));
    out.loss = back.loss = random.Below(3) == 0 ? 3'000 : 0;
    Host& target = random.Below(3) == 0 ? client_ : server_;
    Socket listener = Listener(target);
    Set(*listener, SOL_SOCKET, SO_RCVBUF, static_cast<int>(random.Between(1'200, 50'000)));
    Socket client = New(client_);
    Set(*client, IPPROTO_TCP, TCP_USER_TIMEOUT, 20'000);
    Connect(*client, AddressOf(target, kPort));
    Run(milliseconds(random.Between(1, 3'000)));
    int error = 0;
    Socket server = listener->Accept(&error);
    std::shared_ptr<ConnectionRecord> record;
    if (GetPeer(*client) == 0) record = network_.records().back();
    std::uint64_t written = 0;
    std::uint64_t read = 0;
    for (std::uint64_t i = random.Between(1, 20); i > 0; --i) {
      std::string text;
      for (std::uint64_t j = random.Between(1, 9'000); j > 0; --j) {
        text.push_back(static_cast<char>((written + text.size()) % 251));
      }
      const ssize_t size = SendText(*client, text);
      if (size > 0) written += static_cast<std::uint64_t>(size);
      std::string got;
      if (server != nullptr && RecvBytes(*server, random.Between(1, 9'000), &got) > 0) {
        for (const char byte : got) ASSERT_EQ(byte, static_cast<char>(read++ % 251));
        if (random.Below(2) == 0) SendBytes(*server, random.Between(1, 9'000));
      }
      if (random.Below(2) == 0) RecvBytes(*client, 10'000);
      Run(microseconds(random.Below(50'000)));
    }
    if (record != nullptr) {
      ASSERT_EQ(record->sent[0], written);
      std::uint64_t acked = 0;
      std::uint64_t unsent = 0;
      if (Info(*client).tcpi_state == kClosed) {
        const auto outq = static_cast<std::uint64_t>(Outq(*client));
        ASSERT_EQ(written, outq + Info(*client).tcpi_bytes_acked - 1);
        acked = written - outq;
        unsent = static_cast<std::uint64_t>(Unsent(*client));
      } else {
        ASSERT_EQ(Disconnect(*client), 0);
        const auto q1 = static_cast<std::uint32_t>(Outq(*client));
        const auto n1 = static_cast<std::uint32_t>(Unsent(*client));
        ASSERT_EQ(Disconnect(*client), 0);
        const std::uint32_t k = static_cast<std::uint32_t>(Outq(*client)) - q1;
        acked = written - (q1 - k);
        unsent = n1 - k;
      }
      faults_.SetEnabled(false);
      Run(seconds(5));
      ASSERT_LE(acked, record->received_by_kernel[1]);
      ASSERT_LE(record->received_by_kernel[1], written - unsent);
      ASSERT_LE(read, record->received_by_kernel[1]);
      ASSERT_EQ(read, record->read_by_application[1]);
    }
    client.reset();
    server.reset();
    listener.reset();
    out.loss = back.loss = 0;
    faults_.SetEnabled(false);
    Run(hours(1));
    faults_.SetEnabled(true);
    ASSERT_EQ(client_.tcp().connections() + server_.tcp().connections(), 0u);
  }
  for (const Fault kind : kinds) EXPECT_GE(faults_.hits(kind), 10u) << ToString(kind);
}

// --- Idle connections

TEST_F(TcpTest, AnIdleConnectionHasNothingToDo) {
  const Pair pair = Make();
  ASSERT_EQ(SendBytes(*pair.client, 10), 10);
  Run(seconds(10));
  const std::uint64_t before = schedule_.events_run();
  Run(hours(48));
  EXPECT_EQ(schedule_.events_run(), before);
}

// One thread of traffic, one hash.
TEST_F(TcpTest, TheSameSeedGivesTheSameTrace) {
  std::uint64_t hashes[2] = {};
  for (std::uint64_t& hash : hashes) {
    Schedule schedule;
    Trace trace;
    FaultPlan faults(5);
    Network network(schedule, faults, trace);
    Host& client = network.AddHost("a");
    Host& server = network.AddHost("b");
    network.path(client, server).loss = 10'000;
    network.path(client, server).jitter = milliseconds(2);
    const Socket listener = NewTcpSocket(server, AF_INET);
    const SocketAddress any = V4(INADDR_ANY, kPort);
    ASSERT_EQ(listener->Bind(any.data(), any.size()), 0);
    ASSERT_EQ(listener->Listen(8), 0);
    for (int i = 0; i < 20; ++i) {
      const Socket socket = NewTcpSocket(client, AF_INET);
      EXPECT_EQ(Connect(*socket, AddressOf(server, kPort)), -EINPROGRESS);
      schedule.RunUntil(schedule.now() + seconds(3));
      SendBytes(*socket, 1'000);
      schedule.RunUntil(schedule.now() + milliseconds(3));
    }
    hash = trace.hash();
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_NE(hashes[0], Trace().hash());
}

}  // namespace
}  // namespace holdfast::internal::sim
