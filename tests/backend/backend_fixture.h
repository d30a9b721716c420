// What the tests of floor 3 share: a backend under test in a small world of its own, sockets that
// write down what they are told, and the other ends of their connections.
//
// Everything goes through one Kernel, the one under test: a FaultKernel counts and injects, and a
// simulated kernel can take the place of the real one. The rules that hold for every completion are
// checked here, at each of them, so that no test has to repeat them: it comes from inside Dispatch
// and not from inside a verb; every operation ends exactly once; its state is idle when its end is
// told and is not while more follows; no descriptor is left open at the end of a test.
//
//   TEST_P(ConformanceTest, BytesArrive) {
//     TestSocket socket(world());
//     Peer peer;
//     ASSERT_TRUE(world().ConnectPair(&socket, &peer));
//     socket.Receive();
//     peer.Write("hello");
//     ASSERT_TRUE(world().Await([&] { return socket.bytes == "hello"; }));
//   }
//
// A world on a kernel of one's own: BackendWorld world(fault_kernel,
// CreateEpollBackend(...).value()).
#ifndef HOLDFAST_TESTS_BACKEND_BACKEND_FIXTURE_H_
#define HOLDFAST_TESTS_BACKEND_BACKEND_FIXTURE_H_

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <holdfast/error.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/backend.h"
#include "backend/socket.h"
#include "core/error_table.h"
#include "sys/kernel.h"

namespace holdfast {

inline void PrintTo(ErrorClass error_class, std::ostream* out) { *out << ToString(error_class); }

namespace internal {

using namespace std::chrono_literals;  // NOLINT: of a test, and the literals only.

// How long a test waits for what must come. Never passes in a run that is in order.
inline constexpr Duration kPatience = 20s;
// How long a test watches that nothing comes. Not over 50 ms, up to where Wait is exact.
inline constexpr Duration kQuietSpell = 30ms;

class BackendWorld;

// An address of any family.
struct TestAddress {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }

  // The loopback, port 0; of AF_UNIX none, which bind(2) turns into an abstract one (unix(7)).
  static TestAddress Any(int domain) {
    TestAddress address;
    address.storage.ss_family = static_cast<sa_family_t>(domain);
    if (domain == AF_INET) {
      reinterpret_cast<sockaddr_in*>(&address.storage)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      address.size = sizeof(sockaddr_in);
    } else if (domain == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_addr = in6addr_loopback;
      address.size = sizeof(sockaddr_in6);
    } else {
      address.size = sizeof(sa_family_t);
    }
    return address;
  }
  static TestAddress UnixPath(std::string_view path) {
    TestAddress address;
    auto* const name = reinterpret_cast<sockaddr_un*>(&address.storage);
    name->sun_family = AF_UNIX;
    std::memcpy(name->sun_path, path.data(), path.size());
    address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
    return address;
  }
};

// The other end of a connection: a plain non-blocking descriptor that no backend knows of.
class Peer {
 public:
  Peer() = default;
  Peer(Kernel& kernel, int fd) : kernel_(&kernel), fd_(fd) {}
  Peer(Peer&& other) noexcept { *this = std::move(other); }
  Peer& operator=(Peer&& other) noexcept {
    std::swap(kernel_, other.kernel_);
    std::swap(fd_, other.fd_);
    std::swap(end, other.end);
    return *this;
  }
  ~Peer() { Close(); }

  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }

  // Bytes taken, or -errno. Does not wait.
  ssize_t Write(std::string_view data) {
    return kernel_->Send(fd_, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  // What has arrived, at most `size`; `end` says why it stopped.
  std::string Read(std::size_t size = 1 << 20) {
    std::string data;
    while (data.size() < size) {
      std::array<char, 16384> part;
      end =
          kernel_->Recv(fd_, part.data(), std::min(part.size(), size - data.size()), MSG_DONTWAIT);
      if (end <= 0) break;
      data.append(part.data(), static_cast<std::size_t>(end));
    }
    return data;
  }
  void ShutdownWrite() { EXPECT_EQ(kernel_->Shutdown(fd_, SHUT_WR), 0); }
  // The descriptor, now the caller's.
  int Release() { return std::exchange(fd_, -1); }
  // A reset instead of a FIN.
  void Reset() {
    const linger at_once{1, 0};
    EXPECT_EQ(kernel_->SetSockOpt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    Close();
  }
  void Close() {
    if (fd_ >= 0) static_cast<void>(kernel_->Close(std::exchange(fd_, -1)));
  }

  ssize_t end = 0;  // What the last recv of Read answered: bytes, 0 at end of file, or -errno.

 private:
  Kernel* kernel_ = nullptr;
  int fd_ = -1;
};

// A listener that no backend knows of.
class PeerListener {
 public:
  static constexpr int kBoundAlone = -1;  // A backlog: who connects is refused.

  explicit PeerListener(Kernel& kernel, int domain = AF_INET, int backlog = 1024)
      : kernel_(kernel) {
    fd_ = kernel.Socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    EXPECT_GE(fd_, 0);
    const TestAddress any = TestAddress::Any(domain);
    EXPECT_EQ(kernel.Bind(fd_, any.get(), any.size), 0);
    if (backlog != kBoundAlone) {
      EXPECT_EQ(kernel.Listen(fd_, backlog), 0);
    }
    EXPECT_EQ(kernel.GetSockName(fd_, address.get(), &address.size), 0);
  }
  PeerListener(const PeerListener&) = delete;
  PeerListener& operator=(const PeerListener&) = delete;
  ~PeerListener() { Close(); }

  int fd() const { return fd_; }
  // Not open when nobody waits.
  Peer Accept() {
    return Peer(kernel_, kernel_.Accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  }
  void Close() {
    if (fd_ >= 0) static_cast<void>(kernel_.Close(std::exchange(fd_, -1)));
  }

  TestAddress address;  // Where it listens.

 private:
  Kernel& kernel_;
  int fd_ = -1;
};

// A plain socket that has called connect(2) and does not wait for the outcome.
inline Peer DialPlainly(Kernel& kernel, const TestAddress& address) {
  const int fd =
      kernel.Socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  EXPECT_GE(fd, 0);
  const int result = kernel.Connect(fd, address.get(), address.size);
  EXPECT_TRUE(result == 0 || result == -EINPROGRESS) << result;
  return Peer(kernel, fd);
}

// A socket of the backend under test, and everything that it was told.
class TestSocket final : public SocketEvents {
 public:
  explicit TestSocket(BackendWorld& world) : world_(world) {}
  TestSocket(const TestSocket&) = delete;
  TestSocket& operator=(const TestSocket&) = delete;
  inline ~TestSocket();  // Settles and closes.

  // --- The verbs; each checks that it does not call back.
  inline int Open(int domain = AF_INET);
  inline int Adopt(int fd, int domain = AF_INET);
  inline void Connect(const TestAddress& address);
  inline void Accept();
  inline void Receive();
  inline void Send(std::string_view data, Notify notify = Notify::kPromptly);
  inline void SendParts(const std::vector<std::string>& parts, Notify notify = Notify::kPromptly);
  inline void Cancel(OpKind kind);
  inline void Close();

  // Opens, binds to the loopback and listens, but does not accept yet.
  inline TestAddress Listen(int domain = AF_INET, int backlog = 1024);
  // Cancels whatever goes on and waits for its end. False if that does not come.
  inline bool Settle();
  // SO_SNDBUF, SO_RCVBUF.
  inline void SetBuffers(int send_bytes, int receive_bytes);

  inline OpState state(OpKind kind) const;
  // Operations of a kind begun and not yet ended, as the completions told it.
  int in_flight(OpKind kind) const { return begun_[Index(kind)] - ended_[Index(kind)]; }
  ErrorClass ClassOf(Result result) const {
    if (result.ok()) return ErrorClass::kNone;
    return result.error(socket.domain == AF_UNIX ? Detail::kUnix : Detail::kNone).error_class;
  }

  Socket socket{*this};

  // --- What it was told, in order.
  std::vector<Result> connects;
  std::vector<Peer> accepted;
  std::vector<Result> accept_ends;
  std::string bytes;
  std::vector<std::size_t> receives;  // The size of each delivery.
  std::vector<Result> receive_ends;
  std::vector<Result> sends;

  // Called at the end of every completion, with what it was of: the place for a test's own verbs.
  std::function<void(OpKind)> hook;

 private:
  static std::size_t Index(OpKind kind) { return static_cast<std::size_t>(kind); }

  inline void OnConnect(Socket& told, Result result) noexcept override;
  inline void OnAccept(Socket& told, Result result) noexcept override;
  inline void OnReceive(Socket& told, Result result, const std::byte* data) noexcept override;
  inline void OnSend(Socket& told, Result result) noexcept override;

  inline void Begin(OpKind kind);
  // What is true of every completion. Call first.
  inline void Check(const Socket& told, OpKind kind, bool terminal);
  void CallHook(OpKind kind) {
    if (hook) hook(kind);
  }

  BackendWorld& world_;
  std::array<int, 5> begun_{};
  std::array<int, 5> ended_{};
  std::vector<std::string> outgoing_;  // Stays as it is until OnSend.
};

// A backend, its kernel and the rules of the loop.
class BackendWorld {
 public:
  // `kernel` outlives it.
  BackendWorld(Kernel& kernel, std::unique_ptr<Backend> backend)
      : kernel_(kernel), backend_(std::move(backend)) {
    EXPECT_EQ(backend_->Enable(), 0);
  }

  Kernel& kernel() { return kernel_; }
  Backend& backend() { return *backend_; }
  const BackendStats& stats() { return backend_->stats(); }
  Instant Now() { return kernel_.ClockNow(); }

  // --- The loop.
  void Wait(Duration timeout) {
    EXPECT_FALSE(in_dispatch_) << "a test that waits inside a callback";
    backend_->Wait(timeout);
  }
  bool Dispatch(unsigned budget = 1000) {
    EXPECT_FALSE(std::exchange(in_dispatch_, true));
    const unsigned told_before = completions_;
    const bool more = backend_->Dispatch(budget);
    EXPECT_LE(completions_ - told_before, budget);
    in_dispatch_ = false;
    return more;
  }
  void Turn(Duration timeout = Duration::zero()) {
    Wait(timeout);
    Dispatch();
  }
  // Ends everything here and now. Only closing may follow.
  void Abandon() {
    in_dispatch_ = true;
    backend_->Abandon();
    in_dispatch_ = false;
  }
  // Turns until `done()`. Sleeps for as long as the backend lets it: an event that does not wake
  // the loop fails the test. False after kPatience.
  template <typename Done>
  [[nodiscard]] bool Await(Done done) {
    return TurnUntil(done, kPatience);
  }
  // The same for what the backend is not told of (the state of a Peer): looks again every
  // millisecond.
  template <typename Done>
  [[nodiscard]] bool AwaitPeer(Done done) {
    return TurnUntil(done, 1ms);
  }
  // Turns for so long; the number of Waits that it took. A loop that spins takes thousands.
  int TurnFor(Duration duration) {
    const Instant end = Now() + duration;
    int waits = 0;
    for (Instant now = Now(); now < end; now = Now(), ++waits) Turn(end - now);
    return waits;
  }

  // A connection between a socket of the backend, opened and connected here, and a peer.
  [[nodiscard]] bool ConnectPair(TestSocket* socket, Peer* peer, int domain = AF_INET) {
    PeerListener listener(kernel_, domain);
    if (socket->Open(domain) != 0) return false;
    socket->Connect(listener.address);
    if (!Await([&] { return !socket->connects.empty(); })) return false;
    if (!socket->connects.back().ok()) return false;
    return AwaitPeer([&] { return (*peer = listener.Accept()).open(); });
  }

  // Sends until the pipe is full and stays so: the last send is left waiting for room. The bytes
  // taken.
  inline std::size_t FillPipe(TestSocket& socket);

  // Whether another loop would be woken by the descriptor of the backend.
  [[nodiscard]] bool DescriptorIsReadable() {
    const int epoll = kernel_.EpollCreate();
    epoll_event event{};
    event.events = EPOLLIN;
    EXPECT_EQ(kernel_.EpollCtl(epoll, EPOLL_CTL_ADD, backend_->fd(), &event), 0);
    const int ready = kernel_.EpollWait(epoll, &event, 1, Duration::zero());
    static_cast<void>(kernel_.Close(epoll));
    return ready == 1;
  }

 private:
  friend class TestSocket;

  template <typename Done>
  bool TurnUntil(Done done, Duration sleep_max) {
    const Instant end = Now() + kPatience;
    while (!done()) {
      const Instant now = Now();
      if (now >= end) return false;
      Turn(std::min(sleep_max, end - now));
    }
    return true;
  }

  Kernel& kernel_;
  std::unique_ptr<Backend> backend_;
  bool in_dispatch_ = false;
  int verbs_ = 0;             // Verbs that are on the stack.
  unsigned completions_ = 0;  // Told so far.
};

// --- TestSocket.

TestSocket::~TestSocket() {
  if (!socket.open()) return;
  EXPECT_TRUE(Settle()) << "an operation has no end";
  if (socket.idle()) Close();
}

int TestSocket::Open(int domain) {
  ++world_.verbs_;
  const int result = world_.backend().Open(socket, domain);
  --world_.verbs_;
  EXPECT_EQ(socket.open(), result == 0);
  return result;
}

int TestSocket::Adopt(int fd, int domain) {
  ++world_.verbs_;
  const int result = world_.backend().Adopt(socket, fd, domain);
  --world_.verbs_;
  EXPECT_EQ(socket.open(), result == 0);
  return result;
}

void TestSocket::Connect(const TestAddress& address) {
  Begin(OpKind::kConnect);
  TestAddress copy = address;
  world_.backend().Connect(socket, copy.get(), copy.size);
  std::memset(&copy.storage, 0xee, sizeof(copy.storage));  // Connect has made a copy.
  --world_.verbs_;
}

void TestSocket::Accept() {
  Begin(OpKind::kAccept);
  world_.backend().Accept(socket);
  --world_.verbs_;
}

void TestSocket::Receive() {
  Begin(OpKind::kReceive);
  world_.backend().Receive(socket);
  --world_.verbs_;
}

void TestSocket::Send(std::string_view data, Notify notify) {
  SendParts({std::string(data)}, notify);
}

void TestSocket::SendParts(const std::vector<std::string>& parts, Notify notify) {
  Begin(OpKind::kSend);
  outgoing_ = parts;
  std::vector<iovec> vectors;
  for (std::string& part : outgoing_) vectors.push_back({part.data(), part.size()});
  world_.backend().Send(socket, vectors, notify);
  // The parts have been copied; only what they point at stays.
  for (iovec& vector : vectors) vector = {nullptr, 1};
  --world_.verbs_;
}

void TestSocket::Cancel(OpKind kind) {
  ++world_.verbs_;
  world_.backend().Cancel(socket, kind);
  --world_.verbs_;
}

void TestSocket::Close() {
  EXPECT_TRUE(socket.idle());
  ++world_.verbs_;
  world_.backend().Close(socket);
  --world_.verbs_;
  EXPECT_FALSE(socket.open());
}

TestAddress TestSocket::Listen(int domain, int backlog) {
  TestAddress address = TestAddress::Any(domain);
  EXPECT_EQ(Open(domain), 0);
  EXPECT_EQ(world_.kernel().Bind(socket.fd, address.get(), address.size), 0);
  EXPECT_EQ(world_.kernel().Listen(socket.fd, backlog), 0);
  address.size = sizeof(address.storage);
  EXPECT_EQ(world_.kernel().GetSockName(socket.fd, address.get(), &address.size), 0);
  return address;
}

bool TestSocket::Settle() {
  hook = nullptr;
  for (const OpKind kind : {OpKind::kConnect, OpKind::kAccept, OpKind::kReceive, OpKind::kSend}) {
    Cancel(kind);
  }
  const bool settled = world_.Await([&] { return socket.idle(); });
  for (const OpKind kind : {OpKind::kConnect, OpKind::kAccept, OpKind::kReceive, OpKind::kSend}) {
    EXPECT_EQ(in_flight(kind), 0) << "kind " << Index(kind);
  }
  return settled;
}

void TestSocket::SetBuffers(int send_bytes, int receive_bytes) {
  Kernel& kernel = world_.kernel();
  EXPECT_EQ(kernel.SetSockOpt(socket.fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(int)), 0);
  EXPECT_EQ(kernel.SetSockOpt(socket.fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(int)), 0);
}

OpState TestSocket::state(OpKind kind) const {
  switch (kind) {
    case OpKind::kConnect:
      return socket.connect;
    case OpKind::kAccept:
      return socket.accept;
    case OpKind::kReceive:
      return socket.receive;
    case OpKind::kSend:
      return socket.send;
  }
  return OpState::kIdle;
}

void TestSocket::Begin(OpKind kind) {
  ++begun_[Index(kind)];
  ++world_.verbs_;
}

void TestSocket::Check(const Socket& told, OpKind kind, bool terminal) {
  EXPECT_EQ(&told, &socket);
  EXPECT_TRUE(socket.open()) << "a completion after Close";
  EXPECT_TRUE(world_.in_dispatch_) << "a completion from outside Dispatch";
  EXPECT_EQ(world_.verbs_, 0) << "a completion from inside a verb";
  ++world_.completions_;
  if (terminal) ++ended_[Index(kind)];
  EXPECT_LE(ended_[Index(kind)], begun_[Index(kind)]) << "an end too many";
  EXPECT_EQ(state(kind) == OpState::kIdle, terminal);
}

void TestSocket::OnConnect(Socket& told, Result result) noexcept {
  Check(told, OpKind::kConnect, true);
  EXPECT_LE(result.value, 0);
  connects.push_back(result);
  CallHook(OpKind::kConnect);
}

void TestSocket::OnAccept(Socket& told, Result result) noexcept {
  Check(told, OpKind::kAccept, !result.ok());
  if (result.ok()) {
    accepted.emplace_back(world_.kernel(), result.value);
  } else {
    accept_ends.push_back(result);
  }
  CallHook(OpKind::kAccept);
}

void TestSocket::OnReceive(Socket& told, Result result, const std::byte* data) noexcept {
  Check(told, OpKind::kReceive, result.value <= 0);
  if (result.value > 0) {
    const auto size = static_cast<std::size_t>(result.value);
    bytes.append(reinterpret_cast<const char*>(data), size);
    receives.push_back(size);
  } else {
    receive_ends.push_back(result);
  }
  CallHook(OpKind::kReceive);
}

void TestSocket::OnSend(Socket& told, Result result) noexcept {
  Check(told, OpKind::kSend, true);
  // Whatever is sent next stands elsewhere; and a kernel that still reads this reads rubbish.
  for (std::string& part : outgoing_) std::memset(part.data(), '?', part.size());
  sends.push_back(result);
  CallHook(OpKind::kSend);
}

std::size_t BackendWorld::FillPipe(TestSocket& socket) {
  const std::string block(64 * 1024, 'f');
  std::size_t taken = 0;
  for (;;) {
    socket.Send(block);
    const std::size_t told = socket.sends.size();
    const Instant end = Now() + kQuietSpell;
    while (socket.sends.size() == told && Now() < end) Turn(end - Now());
    if (socket.sends.size() == told) return taken;
    EXPECT_TRUE(socket.sends.back().ok());
    if (!socket.sends.back().ok()) return taken;
    taken += static_cast<std::size_t>(socket.sends.back().value);
  }
}

// --- The fixture of a test that runs over several backends.

// One backend to run a suite over.
struct BackendCase {
  std::string name;
  Kernel& (*kernel)();
  absl::StatusOr<std::unique_ptr<Backend>> (*create)(Kernel&, const BackendOptions&);
  BackendOptions options;
  // True for the Linux that the test runs on: limits of the process and /proc apply.
  bool real = true;
};

inline void PrintTo(const BackendCase& backend_case, std::ostream* out) {
  *out << backend_case.name;
}

inline std::string CaseName(const testing::TestParamInfo<BackendCase>& info) {
  return info.param.name;
}

// epoll, io_uring, and io_uring without each thing that it can do without, on the real kernel.
inline std::vector<BackendCase> RealBackendCases() {
  std::vector<BackendCase> cases;
  cases.push_back({"epoll", &RealKernel, &CreateEpollBackend, {}});
#ifndef HOLDFAST_NO_URING
  cases.push_back({"uring", &RealKernel, &CreateUringBackend, {}});
  constexpr const char* kWithout[kUringFeatureCount] = {"taskrun_flag",     "submit_all",
                                                        "registered_ring",  "multishot_receive",
                                                        "multishot_accept", "skip_success"};
  for (unsigned bit = 0; bit < kUringFeatureCount; ++bit) {
    BackendOptions options;
    options.disable_mask = 1u << bit;
    cases.push_back(
        {std::string("uring_without_") + kWithout[bit], &RealKernel, &CreateUringBackend, options});
  }
#endif
  return cases;
}

// Open descriptors of this process.
inline std::ptrdiff_t CountDescriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                       std::filesystem::directory_iterator());
}

class BackendTest : public testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    descriptors_before_ = CountDescriptors();
    CreateWorld(GetParam().options);
  }

  void TearDown() override {
    world_.reset();
    if (GetParam().real) {
      EXPECT_EQ(CountDescriptors(), descriptors_before_);
    }
  }

  // Another world, for a test that wants other options. No socket of the old one may be open.
  void CreateWorld(const BackendOptions& options) {
    world_.reset();
    Kernel& kernel = GetParam().kernel();
    auto backend = GetParam().create(kernel, options);
    if (absl::IsUnimplemented(backend.status())) {
      std::fprintf(stderr, "SKIPPED: this kernel has no backend %s: %s\n", GetParam().name.c_str(),
                   backend.status().ToString().c_str());
      GTEST_SKIP() << "no backend " << GetParam().name << ": " << backend.status();
    }
    ASSERT_TRUE(backend.ok()) << backend.status();
    world_ = std::make_unique<BackendWorld>(kernel, std::move(*backend));
  }

  BackendWorld& world() { return *world_; }
  Kernel& kernel() { return world_->kernel(); }

 private:
  std::unique_ptr<BackendWorld> world_;
  std::ptrdiff_t descriptors_before_ = 0;
};

}  // namespace internal
}  // namespace holdfast

#endif  // HOLDFAST_TESTS_BACKEND_BACKEND_FIXTURE_H_
