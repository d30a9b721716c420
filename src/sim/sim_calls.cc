#include "sim/sim_kernel.h"

#include <linux/io_uring.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include <holdfast/endpoint.h>

#include "base/check.h"
#include "sim/epoll.h"
#include "sim/event_file.h"
#include "sim/ring.h"
#include "sim/tcp.h"
#include "sim/unix_socket.h"

namespace holdfast::internal::sim {
namespace {

constexpr int kSocketFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kEventsPerWaitMax = 1024;
constexpr std::size_t kPartsMax = 1024;  // UIO_MAXIOV

// How long a process works that has made kCallsPerInstant calls.
constexpr Duration kBusySpell = std::chrono::microseconds(10);
// How long a child takes from fork(2) to exec(2), at most: it may do a thing or two before.
constexpr Duration kExecMax = std::chrono::seconds(2);
std::string AddressText(const sockaddr* address, socklen_t size) {
  if (address == nullptr) return "-";
  if (address->sa_family == AF_UNSPEC) return "unspecified";
  return SocketAddress(address, size).ToString();
}

std::string AnswerText(std::int64_t value) {
  if (value >= 0) return std::to_string(value);
  const char* const name = strerrorname_np(static_cast<int>(-value));
  return name != nullptr ? std::string("-") + name : std::to_string(value);
}

std::string EventsText(std::uint32_t events) {
  constexpr std::pair<std::uint32_t, std::string_view> kNames[] = {
      {EPOLLIN, "in"},   {EPOLLOUT, "out"}, {EPOLLRDHUP, "rdhup"},    {EPOLLHUP, "hup"},
      {EPOLLERR, "err"}, {EPOLLET, "et"},   {EPOLLONESHOT, "oneshot"}};
  std::string text;
  for (const auto& [bit, name] : kNames) {
    if ((events & bit) == 0) continue;
    if (!text.empty()) text += '|';
    text += name;
  }
  return text;
}

std::size_t SizeOf(const iovec* parts, std::size_t count) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < count; ++i) size += parts[i].iov_len;
  return size;
}

}  // namespace

// In the trace: never renumbered.
enum class SimKernel::Call : std::uint8_t {
  kSocket,
  kSocketPair,
  kBind,
  kListen,
  kAccept4,
  kConnect,
  kSend,
  kRecv,
  kShutdown,
  kClose,
  kGetSockOpt,
  kSetSockOpt,
  kGetSockName,
  kGetPeerName,
  kIoctl,
  kEpollCreate,
  kEpollCtl,
  kEpollWait,
  kEpollEvent,
  kEventFd,
  kTimerFd,
  kTimerFdSet,
  kRead,
  kWrite,
  kRingSetup,
  kRingExit,
  kRingRegister,
  kRingEnter,
  kClockNow,
  kGetRandom,
  kStartThread,
  kGetAddrInfo,
  kDie,
};

namespace {

// In the order of Call.
constexpr std::string_view kCallNames[] = {
    "socket",         "socketpair",      "bind",          "listen",
    "accept4",        "connect",         "send",          "recv",
    "shutdown",       "close",           "getsockopt",    "setsockopt",
    "getsockname",    "getpeername",     "ioctl",         "epoll_create1",
    "epoll_ctl",      "epoll_pwait2",    "event",         "eventfd",
    "timerfd",        "timerfd_settime", "read",          "write",
    "io_uring_setup", "ring exit",       "ring register", "io_uring_enter",
    "clock_gettime",  "getrandom",       "thread",        "getaddrinfo",
    "dies",
};

}  // namespace

// Whoever waits for one file, in whatever call.
class SimKernel::Blocked final : public PollWaiter {
 public:
  explicit Blocked(Schedule& schedule) : schedule_(schedule) {}

  void OnWake(std::uint32_t) override { schedule_.Wake(wait.sleeper); }

  Wait wait;

 private:
  Schedule& schedule_;
};

SimKernel::SimKernel(World& world, Host& host) : world_(world), host_(host) {}

SimKernel::~SimKernel() {
  HOLDFAST_CHECK(waits_.empty() && blocked_.empty() && stopped_.empty() && threads_ == 0);
  for (std::shared_ptr<File>& ring : registered_rings_) ring.reset();
  // One after the other, for what one leaves may wake another.
  for (std::shared_ptr<File>& file : files_) std::exchange(file, nullptr).reset();
}

// --- The trace.

// Useful calls are those that take, give, open or end something.
bool SimKernel::IsProgress(Call call, std::int64_t value) noexcept {
  switch (call) {
    case Call::kSocket:
    case Call::kSocketPair:
    case Call::kBind:
    case Call::kListen:
    case Call::kAccept4:
    case Call::kShutdown:
    case Call::kClose:
    case Call::kWrite:
      return value >= 0;
    case Call::kConnect:
      return value == 0 || value == -EINPROGRESS;
    case Call::kSend:
    case Call::kRecv:
    case Call::kRead:
      return value > 0;
    default:
      return false;
  }
}

void SimKernel::Count(Call call, int fd, std::int64_t value) {
  if (IsProgress(call, value)) NoteProgress();
  const std::uint64_t what = static_cast<std::uint64_t>(call);
  world_.trace.Mix(host_.number(), what, fd, value);
  const Instant now = world_.schedule.now();
  if (now != busy_since_) {
    busy_since_ = now;
    calls_ = 0;
  } else if (++calls_ == kCallsPerInstant) {
    world_.schedule.Stall(kBusySpell);
    owes_way_ = true;
  }
}

void SimKernel::Tell(Call call, int fd, std::int64_t value, std::string_view detail) {
  std::string line(kCallNames[static_cast<std::size_t>(call)]);
  if (fd >= 0) line += ' ' + std::to_string(fd);
  if (!detail.empty()) line.append(1, ' ').append(detail);
  line += " -> " + AnswerText(value);
  world_.trace.Tell(world_.schedule.now(), host_.name(), line);
}

template <typename Value, typename Detail>
Value SimKernel::Answer(Call call, int fd, Value value, Detail detail) {
  if (world_.trace.told()) Tell(call, fd, value, detail());
  Count(call, fd, value);
  return value;
}

template <typename Value>
Value SimKernel::Answer(Call call, int fd, Value value) {
  return Answer(call, fd, value, [] { return std::string_view(); });
}

// --- The descriptor table.

File* SimKernel::Peek(int fd) const noexcept {
  const std::int64_t index = std::int64_t{fd} - kFirstDescriptor;
  if (index < 0 || index >= static_cast<std::int64_t>(files_.size())) return nullptr;
  return files_[static_cast<std::size_t>(index)].get();
}

SocketFile* SimKernel::PeekSocket(int fd, int* error) const noexcept {
  File* const file = Peek(fd);
  SocketFile* const socket = file != nullptr ? file->AsSocket() : nullptr;
  if (socket == nullptr) *error = file == nullptr ? -EBADF : -ENOTSOCK;
  return socket;
}

std::shared_ptr<File> SimKernel::Find(int fd) const {
  File* const file = Peek(fd);
  return file != nullptr ? file->shared_from_this() : nullptr;
}

bool SimKernel::table_full() const noexcept {
  return (free_.empty() ? files_.size() : free_.top()) >= descriptor_limit_;
}

int SimKernel::Install(std::shared_ptr<File> file) {
  if (table_full()) return -EMFILE;
  std::size_t index = files_.size();
  if (free_.empty()) {
    files_.push_back(std::move(file));
  } else {
    index = free_.top();
    free_.pop();
    files_[index] = std::move(file);
  }
  ++open_;
  return kFirstDescriptor + static_cast<int>(index);
}

int SimKernel::InstallSocket(std::shared_ptr<SocketFile> socket, int type) {
  socket->nonblocking = (type & SOCK_NONBLOCK) != 0;
  return Install(std::move(socket));
}

int SimKernel::Close(int fd) noexcept {
  if (Peek(fd) == nullptr) return Answer(Call::kClose, fd, -EBADF);
  const auto index = static_cast<std::uint32_t>(fd - kFirstDescriptor);
  // The number is free before the file goes, whose end may wake somebody.
  const std::shared_ptr<File> file = std::move(files_[index]);
  files_[index] = nullptr;
  free_.push(index);
  --open_;
  if (!dead_ && file->AsSocket() != nullptr && file.use_count() == 1 &&
      world_.faults.Strikes(Fault::kCompletionAfterClose)) {
    Inherit(file);
  }
  return Answer(Call::kClose, fd, 0);
}

void SimKernel::Inherit(std::shared_ptr<File> file) {
  std::erase_if(inherited_, [](const auto& held) { return *held == nullptr; });
  inherited_.push_back(std::make_shared<std::shared_ptr<File>>(std::move(file)));
  const auto wait = static_cast<std::int64_t>(world_.faults.random().Below(kExecMax.count()));
  host_.NoteHeldBack(Duration(wait));
  world_.schedule.After(Duration(wait), [held = std::weak_ptr(inherited_.back())] {
    if (const auto alive = held.lock()) std::exchange(*alive, nullptr).reset();
  });
}

// --- Blocking calls.

bool SimKernel::AwaitEvent(File& file) {
  if (dead_ || world_.faults.Strikes(Fault::kInterrupted)) return false;
  Blocked blocked(world_.schedule);
  file.AddWaiter(blocked);
  blocked_.PushBack(blocked.wait);
  const bool woken = world_.schedule.Block(blocked.wait.sleeper, kNever);
  AwaitThaw();
  blocked.wait.Unlink();
  blocked.Unlink();
  return woken && !dead_;
}

template <typename Attempt>
ssize_t SimKernel::BlockWhile(SocketFile& socket, int flags, Attempt attempt) {
  ssize_t result = attempt();
  if (socket.nonblocking || (flags & MSG_DONTWAIT) != 0) return result;
  const std::shared_ptr<File> held = socket.shared_from_this();
  // On the loopback the handshake is over by now, and nothing will wake us for it.
  if (result == -EINPROGRESS) result = attempt();
  while (result == -EAGAIN || result == -EINPROGRESS || result == -EALREADY) {
    if (!AwaitEvent(socket)) return -EINTR;
    result = attempt();
  }
  return result;
}

void SimKernel::Die() {
  if (dead_) return;
  dead_ = true;
  Answer(Call::kDie, -1, 0);
  for (const auto& held : std::exchange(inherited_, {})) std::exchange(*held, nullptr).reset();
  // What is in flight on a ring may hold the last reference of another file.
  const auto end = [](std::shared_ptr<File> file) {
    if (file != nullptr && file->AsRing() != nullptr) file->AsRing()->Die();
  };
  for (std::size_t i = 0; i < files_.size(); ++i) end(files_[i]);
  for (std::size_t i = 0; i < registered_rings_.size(); ++i) end(registered_rings_[i]);
  Interrupt();
  for (Wait& wait : blocked_) world_.schedule.Wake(wait.sleeper);
  Thaw();
}

// --- Faults of any call.

int SimKernel::DrawNoMemory() {
  if (!world_.faults.Strikes(Fault::kNoMemory)) return 0;
  return world_.faults.random().Below(2) == 0 ? -ENOMEM : -ENOBUFS;
}

// --- Sockets.

int SimKernel::Socket(int domain, int type, int protocol) noexcept {
  const auto open = [&]() -> int {
    if (dead_) return -ENOBUFS;
    if ((type & ~(kSocketFlags | 0xf)) != 0) return -EINVAL;
    const bool internet = domain == AF_INET || domain == AF_INET6;
    if (!internet && domain != AF_UNIX) return -EAFNOSUPPORT;
    if ((type & ~kSocketFlags) != SOCK_STREAM) return -ESOCKTNOSUPPORT;
    if (protocol != 0 && (!internet || protocol != IPPROTO_TCP)) return -EPROTONOSUPPORT;
    if (world_.faults.Strikes(Fault::kSocketLimit)) {
      return world_.faults.random().Below(2) == 0 ? -EMFILE : -ENFILE;
    }
    if (const int error = DrawNoMemory(); error != 0) return error;
    if (table_full()) {
      world_.faults.Hit(Fault::kSocketLimit);
      return -EMFILE;
    }
    return InstallSocket(internet ? NewTcpSocket(host_, domain) : NewUnixSocket(host_), type);
  };
  return Answer(Call::kSocket, -1, open(), [&] {
    return domain == AF_UNIX ? "unix" : domain == AF_INET6 ? "inet6" : "inet";
  });
}

int SimKernel::SocketPair(int domain, int type, int protocol, int fds[2]) noexcept {
  const auto open = [&]() -> int {
    if (dead_) return -ENOBUFS;
    if (domain == AF_INET || domain == AF_INET6) return -EOPNOTSUPP;
    if (domain != AF_UNIX) return -EAFNOSUPPORT;
    if ((type & ~kSocketFlags) != SOCK_STREAM) return -ESOCKTNOSUPPORT;
    if (protocol != 0) return -EPROTONOSUPPORT;
    auto [first, second] = NewUnixPair(host_);
    const int first_fd = InstallSocket(std::move(first), type);
    if (first_fd < 0) return first_fd;
    const int second_fd = InstallSocket(std::move(second), type);
    if (second_fd < 0) {
      static_cast<void>(Close(first_fd));
      return second_fd;
    }
    fds[0] = first_fd;
    fds[1] = second_fd;
    return 0;
  };
  return Answer(Call::kSocketPair, -1, open());
}

int SimKernel::Bind(int fd, const sockaddr* address, socklen_t size) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result); socket != nullptr && !dead_) {
    result = size > sizeof(sockaddr_storage) ? -EINVAL : socket->Bind(address, size);
  }
  return Answer(Call::kBind, fd, result, [&] { return AddressText(address, size); });
}

int SimKernel::Listen(int fd, int backlog) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result); socket != nullptr && !dead_) {
    result = socket->Listen(backlog);
  }
  return Answer(Call::kListen, fd, result);
}

int SimKernel::Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept {
  int error = 0;
  SocketFile* const listener = PeekSocket(fd, &error);
  const auto accept = [&]() -> int {
    if (listener == nullptr) return error;
    if ((flags & ~kSocketFlags) != 0) return -EINVAL;
    if (dead_) return -EAGAIN;
    FaultPlan& faults = world_.faults;
    if (faults.Strikes(Fault::kInterrupted)) return -EINTR;
    if (listener->HasPending()) {
      if (faults.Strikes(Fault::kAcceptLimit)) {
        return faults.random().Below(2) == 0 ? -EMFILE : -ENFILE;
      }
      if (const int none = DrawNoMemory(); none != 0) return none;
    }
    // The descriptor comes first (net/socket.c): without one the connection stays queued.
    if (table_full()) {
      if (listener->HasPending()) faults.Hit(Fault::kAcceptLimit);
      return -EMFILE;
    }
    std::shared_ptr<SocketFile> accepted;
    const ssize_t result = BlockWhile(*listener, 0, [&]() -> ssize_t {
      int why = 0;
      accepted = listener->Accept(&why);
      return accepted != nullptr ? 0 : why;
    });
    if (result < 0) return static_cast<int>(result);
    if (address != nullptr && accepted->AcceptedFrom(address, size) != 0) *size = 0;
    return InstallSocket(std::move(accepted), flags);
  };
  return Answer(Call::kAccept4, fd, accept());
}

int SimKernel::Connect(int fd, const sockaddr* address, socklen_t size) noexcept {
  int error = 0;
  SocketFile* const socket = PeekSocket(fd, &error);
  const auto connect = [&]() -> int {
    if (socket == nullptr) return error;
    if (size > sizeof(sockaddr_storage)) return -EINVAL;
    if (dead_) return address->sa_family == AF_UNSPEC ? 0 : -ENETUNREACH;
    if (const int none = DrawNoMemory(); none != 0) return none;
    const auto result = static_cast<int>(
        BlockWhile(*socket, 0, [&]() -> ssize_t { return socket->Connect(address, size); }));
    // A signal ends the call; the connection is still made (connect(2)).
    if (result == -EINPROGRESS && world_.faults.Strikes(Fault::kConnectOddPath)) return -EINTR;
    return result;
  };
  return Answer(Call::kConnect, fd, connect(), [&] { return AddressText(address, size); });
}

ssize_t SimKernel::SendParts(SocketFile& socket, const iovec* parts, std::size_t count, int flags) {
  const std::size_t size = SizeOf(parts, count);
  if (dead_) return static_cast<ssize_t>(size);
  if (count > kPartsMax) return -EMSGSIZE;
  if (const int none = DrawNoMemory(); none != 0) return none;
  if (socket.nonblocking || (flags & MSG_DONTWAIT) != 0) return socket.Send(parts, count, flags);
  // A blocking send ends when all is taken, or with what was taken when something came between.
  std::vector<iovec> left(parts, parts + count);
  std::size_t sent = 0;
  std::size_t first = 0;
  const ssize_t result = BlockWhile(socket, flags, [&]() -> ssize_t {
    const ssize_t taken = socket.Send(left.data() + first, count - first, flags);
    if (taken < 0) return taken;
    sent += static_cast<std::size_t>(taken);
    auto skip = static_cast<std::size_t>(taken);
    while (first < count && skip >= left[first].iov_len) skip -= left[first++].iov_len;
    if (first == count) return 0;
    left[first].iov_base = static_cast<char*>(left[first].iov_base) + skip;
    left[first].iov_len -= skip;
    return -EAGAIN;
  });
  return sent > 0 ? static_cast<ssize_t>(sent) : result;
}

ssize_t SimKernel::Send(int fd, const void* data, std::size_t size, int flags) noexcept {
  const iovec part{const_cast<void*>(data), size};  // Only read.
  int error = 0;
  SocketFile* const socket = PeekSocket(fd, &error);
  const ssize_t result = socket != nullptr ? SendParts(*socket, &part, 1, flags) : error;
  return Answer(Call::kSend, fd, result, [&] { return std::to_string(size); });
}

ssize_t SimKernel::SendMsg(int fd, const msghdr* message, int flags) noexcept {
  int error = 0;
  SocketFile* const socket = PeekSocket(fd, &error);
  const ssize_t result =
      socket != nullptr ? SendParts(*socket, message->msg_iov, message->msg_iovlen, flags) : error;
  return Answer(Call::kSend, fd, result,
                [&] { return std::to_string(SizeOf(message->msg_iov, message->msg_iovlen)); });
}

ssize_t SimKernel::ReceiveParts(SocketFile& socket, const iovec* parts, std::size_t count,
                                int flags) {
  if (dead_) return -EAGAIN;
  if (count > kPartsMax) return -EMSGSIZE;
  if ((flags & MSG_ERRQUEUE) != 0) flags |= MSG_DONTWAIT;
  if (const int none = DrawNoMemory(); none != 0) return none;
  const auto receive = [&](void* data, std::size_t size) {
    return BlockWhile(socket, flags, [&] { return socket.Recv(data, size, flags); });
  };
  if (count == 0) return receive(nullptr, 0);
  if (count == 1) return receive(parts[0].iov_base, parts[0].iov_len);
  std::string whole(SizeOf(parts, count), '\0');
  const ssize_t result = receive(whole.data(), whole.size());
  std::size_t copied = 0;
  const std::size_t size = result > 0 ? static_cast<std::size_t>(result) : 0;
  for (std::size_t i = 0; i < count && copied < size; ++i) {
    const std::size_t part = std::min(parts[i].iov_len, size - copied);
    std::memcpy(parts[i].iov_base, whole.data() + copied, part);
    copied += part;
  }
  return result;
}

ssize_t SimKernel::Recv(int fd, void* data, std::size_t size, int flags) noexcept {
  const iovec part{data, size};
  int error = 0;
  SocketFile* const socket = PeekSocket(fd, &error);
  const ssize_t result = socket != nullptr ? ReceiveParts(*socket, &part, 1, flags) : error;
  return Answer(Call::kRecv, fd, result);
}

ssize_t SimKernel::RecvMsg(int fd, msghdr* message, int flags) noexcept {
  int error = 0;
  SocketFile* const socket = PeekSocket(fd, &error);
  const ssize_t result = socket != nullptr
                             ? ReceiveParts(*socket, message->msg_iov, message->msg_iovlen, flags)
                             : error;
  if (result >= 0) {
    message->msg_namelen = 0;
    message->msg_controllen = 0;
    message->msg_flags = flags & MSG_ERRQUEUE;
  }
  return Answer(Call::kRecv, fd, result,
                [&] { return (flags & MSG_ERRQUEUE) != 0 ? "errqueue" : ""; });
}

int SimKernel::Shutdown(int fd, int how) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result); socket != nullptr && !dead_) {
    result = socket->Shutdown(how);
  }
  return Answer(Call::kShutdown, fd, result, [&] {
    return how == SHUT_RD ? "read" : how == SHUT_WR ? "write" : "both";
  });
}

int SimKernel::GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept {
  int result = 0;
  SocketFile* const socket = PeekSocket(fd, &result);
  if (socket != nullptr && dead_) {
    std::memset(value, 0, *size);
  } else if (socket != nullptr) {
    result = socket->GetSockOpt(level, name, value, size);
  }
  return Answer(Call::kGetSockOpt, fd, result,
                [&] { return std::to_string(level) + ' ' + std::to_string(name); });
}

int SimKernel::SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result); socket != nullptr && !dead_) {
    result = socket->SetSockOpt(level, name, value, size);
  }
  return Answer(Call::kSetSockOpt, fd, result,
                [&] { return std::to_string(level) + ' ' + std::to_string(name); });
}

int SimKernel::GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result)) {
    result = dead_ ? -ENOBUFS : socket->GetSockName(address, size);
  }
  return Answer(Call::kGetSockName, fd, result,
                [&] { return result == 0 ? AddressText(address, *size) : std::string(); });
}

int SimKernel::GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept {
  int result = 0;
  if (SocketFile* const socket = PeekSocket(fd, &result)) {
    result = dead_ ? -ENOTCONN : socket->GetPeerName(address, size);
  }
  return Answer(Call::kGetPeerName, fd, result,
                [&] { return result == 0 ? AddressText(address, *size) : std::string(); });
}

int SimKernel::Ioctl(int fd, unsigned long request, int* value) noexcept {
  int result = 0;
  SocketFile* const socket = PeekSocket(fd, &result);
  if (result == -ENOTSOCK) result = -ENOTTY;
  if (socket != nullptr && dead_) {
    *value = 0;
  } else if (socket != nullptr) {
    result = socket->Ioctl(request, value);
  }
  return Answer(Call::kIoctl, fd, result, [&] {
    return std::to_string(request) + (result == 0 ? ' ' + std::to_string(*value) : std::string());
  });
}

// --- Readiness.

int SimKernel::EpollCreate() noexcept {
  return Answer(Call::kEpollCreate, -1, Install(std::make_shared<Epoll>()));
}

int SimKernel::EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept {
  const auto control = [&]() -> int {
    File* const instance = Peek(epoll_fd);
    File* const file = Peek(fd);
    const bool has_event = operation != EPOLL_CTL_DEL;
    if (has_event && event == nullptr) return -EFAULT;
    if (instance == nullptr || file == nullptr) return -EBADF;
    if (!file->pollable()) return -EPERM;
    if (instance == file || instance->AsEpoll() == nullptr) return -EINVAL;
    // Of sockets alone: what makes a backend itself is not one connection's matter.
    if (operation == EPOLL_CTL_ADD && file->AsSocket() != nullptr && !dead_) {
      if (world_.faults.Strikes(Fault::kEpollSpace)) return -ENOSPC;
      if (world_.faults.Strikes(Fault::kNoMemory)) return -ENOMEM;
    }
    return instance->AsEpoll()->Control(operation, fd, *file, has_event ? *event : epoll_event{});
  };
  return Answer(Call::kEpollCtl, epoll_fd, control(), [&] {
    constexpr std::string_view kOperations[] = {"?", "add", "del", "mod"};
    const bool known = operation >= EPOLL_CTL_ADD && operation <= EPOLL_CTL_MOD;
    std::string text(kOperations[known ? operation : 0]);
    text += ' ' + std::to_string(fd);
    if (operation != EPOLL_CTL_DEL && event != nullptr) text += ' ' + EventsText(event->events);
    return text;
  });
}

// What is ready now, into `events`.
int SimKernel::CollectEvents(Epoll& epoll, epoll_event* events, int events_max) {
  const auto room = static_cast<std::size_t>(std::min(events_max, kEventsPerWaitMax));
  if (ready_.size() < room) ready_.resize(room);
  FaultPlan& faults = world_.faults;
  bool spurious = false;
  if (faults.Draws(Fault::kCompletionOrder)) {
    spurious = faults.random().Below(2) == 0;
    if (!spurious && epoll.Rotate()) faults.Hit(Fault::kCompletionOrder);
  }
  std::size_t count = epoll.Collect(ready_.data(), room);
  if (spurious && count < room && epoll.DrawSpurious(faults.random(), &ready_[count])) {
    faults.Hit(Fault::kCompletionOrder);
    ++count;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Epoll::Ready& ready = ready_[i];
    events[i] = ready.event;
    if (world_.trace.told()) {
      Tell(Call::kEpollEvent, ready.fd, 1, EventsText(ready.event.events));
    }
    Count(Call::kEpollEvent, ready.fd, ready.event.events);
  }
  world_.completions += count;
  return static_cast<int>(count);
}

int SimKernel::WaitForEvents(Epoll& epoll, epoll_event* events, int events_max, Duration timeout) {
  const bool interrupted = GiveWayIfBusy();
  NoteWait();
  int count = CollectEvents(epoll, events, events_max);
  if (count > 0 || interrupted) return count;
  if (timeout == Duration::zero()) {
    if (!world_.schedule.pressing()) return 0;
    GiveWay();
    return CollectEvents(epoll, events, events_max);
  }
  if (world_.faults.Strikes(Fault::kInterrupted)) return -EINTR;

  const Timeout drawn = DrawTimeout(timeout);
  const std::shared_ptr<File> held = epoll.shared_from_this();
  Blocked waiter(world_.schedule);
  epoll.AddWaiter(waiter);
  for (;;) {
    const bool woken = Block(waiter.wait, drawn.ends);
    count = CollectEvents(epoll, events, events_max);
    if (count > 0 || !woken || waiter.wait.interrupted) break;
    waiter.wait.sleeper.woken = false;  // For nothing: it was no event any more.
  }
  waiter.Unlink();
  EndWait(drawn);
  return count;
}

int SimKernel::WaitOfTheDead(Epoll& epoll, epoll_event* events, int events_max, Duration timeout) {
  const int count = CollectEvents(epoll, events, events_max);
  if (count > 0) return count;
  WaitOfTheDead(timeout);
  return CollectEvents(epoll, events, events_max);
}

int SimKernel::EpollWait(int epoll_fd, epoll_event* events, int events_max,
                         Duration timeout) noexcept {
  const auto wait = [&]() -> int {
    File* const file = Peek(epoll_fd);
    if (events_max <= 0 || timeout < Duration::zero()) return -EINVAL;
    if (file == nullptr) return -EBADF;
    Epoll* const epoll = file->AsEpoll();
    if (epoll == nullptr) return -EINVAL;
    if (dead_) return WaitOfTheDead(*epoll, events, events_max, timeout);
    return WaitForEvents(*epoll, events, events_max, timeout);
  };
  return Answer(Call::kEpollWait, epoll_fd, wait());
}

int SimKernel::EventFd() noexcept {
  return Answer(Call::kEventFd, -1, Install(std::make_shared<EventFile>()));
}

int SimKernel::TimerFd() noexcept {
  return Answer(Call::kTimerFd, -1, Install(std::make_shared<TimerFile>(world_.schedule)));
}

int SimKernel::TimerFdSet(int fd, Instant deadline) noexcept {
  File* const file = Peek(fd);
  int result = file == nullptr ? -EBADF : 0;
  if (file != nullptr) {
    TimerFile* const timer = file->AsTimer();
    if (timer != nullptr) timer->Set(deadline);
    if (timer == nullptr) result = -EINVAL;
  }
  return Answer(Call::kTimerFdSet, fd, result);
}

ssize_t SimKernel::Read(int fd, void* data, std::size_t size) noexcept {
  File* const file = Peek(fd);
  return Answer(Call::kRead, fd, file != nullptr ? file->Read(data, size) : ssize_t{-EBADF});
}

ssize_t SimKernel::Write(int fd, const void* data, std::size_t size) noexcept {
  File* const file = Peek(fd);
  return Answer(Call::kWrite, fd, file != nullptr ? file->Write(data, size) : ssize_t{-EBADF});
}

// --- Rings.

int SimKernel::RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept {
  const auto setup = [&]() -> int {
#ifdef HOLDFAST_NO_URING
    static_cast<void>(entries);
    static_cast<void>(parameters);
    static_cast<void>(ring);
    return -ENOSYS;
#else
    if (!rings_allowed_) return ring_error_ != 0 ? ring_error_ : -EPERM;
    if (world_.faults.Strikes(Fault::kBackendLost)) {
      constexpr int kReasons[] = {-ENOSYS, -EPERM, -ENOMEM};
      return kReasons[world_.faults.random().Below(std::size(kReasons))];
    }
    return Ring::Setup(*this, entries, parameters, ring);
#endif
  };
  return Answer(Call::kRingSetup, -1, setup());
}

void SimKernel::RingExit(io_uring* ring) noexcept {
#ifdef HOLDFAST_NO_URING
  static_cast<void>(ring);
#else
  Ring::Exit(*this, ring);
#endif
  Answer(Call::kRingExit, -1, 0);
}

int SimKernel::RingRegister(int ring_fd, unsigned opcode, void* argument, unsigned count) noexcept {
  const auto call = [&]() -> int {
    const std::shared_ptr<File> file = Find(ring_fd);
    if (file == nullptr) return -EBADF;
    Ring* const ring = file->AsRing();
    return ring != nullptr ? ring->Register(opcode, argument, count) : -EOPNOTSUPP;
  };
  return Answer(Call::kRingRegister, ring_fd, call(), [&] { return std::to_string(opcode); });
}

int SimKernel::RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                         void* argument, std::size_t argument_size) noexcept {
  const auto call = [&]() -> int {
    std::shared_ptr<File> file;
    if ((flags & IORING_ENTER_REGISTERED_RING) == 0) {
      file = Find(ring_fd);
    } else if (ring_fd < 0 || static_cast<std::size_t>(ring_fd) >= registered_rings_.size()) {
      return -EINVAL;
    } else {
      file = registered_rings_[static_cast<std::size_t>(ring_fd)];
    }
    if (file == nullptr) return -EBADF;
    Ring* const ring = file->AsRing();
    if (ring == nullptr) return -EOPNOTSUPP;
    if (GiveWayIfBusy()) min_complete = 0;
    return ring->Enter(to_submit, min_complete, flags, argument, argument_size);
  };
  return Answer(Call::kRingEnter, ring_fd, call(), [&] { return std::to_string(to_submit); });
}

int SimKernel::AddRegisteredRing(std::shared_ptr<File> ring) {
  for (std::size_t i = 0; i < registered_rings_.size(); ++i) {
    if (registered_rings_[i] != nullptr) continue;
    registered_rings_[i] = std::move(ring);
    return static_cast<int>(i);
  }
  return -EBUSY;
}

int SimKernel::RemoveRegisteredRing(unsigned index) {
  if (index >= registered_rings_.size()) return -EINVAL;
  registered_rings_[index] = nullptr;
  return 0;
}

// --- Time, chance, names, threads.

Instant SimKernel::ClockNow() noexcept {
  const Instant now = SaturatingAdd(world_.schedule.now(), dead_time_);
  Count(Call::kClockNow, 0, now.time_since_epoch().count());
  return now;
}

int SimKernel::GetRandom(void* data, std::size_t size) noexcept {
  auto* const bytes = static_cast<unsigned char*>(data);
  for (std::size_t i = 0; i < size; i += sizeof(std::uint64_t)) {
    std::uint64_t word = world_.faults.random().Next();
    for (std::size_t j = i; j < std::min(size, i + sizeof(word)); ++j, word >>= 8) {
      bytes[j] = static_cast<unsigned char>(word & 0xff);
    }
  }
  return Answer(Call::kGetRandom, -1, static_cast<int>(size));
}

int SimKernel::StartThread(void (*run)(void*), void* argument) noexcept {
  const bool refused = dead_ || world_.faults.Strikes(Fault::kNoMemory);
  if (!refused) {
    ++threads_;
    world_.schedule.Spawn([this, run, argument] {
      run(argument);
      --threads_;
    });
  }
  return Answer(Call::kStartThread, -1, refused ? -EAGAIN : 0);
}

int SimKernel::GetAddrInfo(const char* node, const char* service, const addrinfo* hints,
                           addrinfo** result, int* error_number) noexcept {
  *error_number = 0;
  const int answer =
      dead_ ? EAI_AGAIN : world_.names.Lookup(node, service, hints, result, error_number);
  AwaitThaw();
  if (world_.trace.told()) {
    world_.trace.Tell(world_.schedule.now(), host_.name(),
                      std::string("getaddrinfo ") + (node != nullptr ? node : "-") + " -> " +
                          (answer == 0 ? "0" : ::gai_strerror(answer)));
  }
  Count(Call::kGetAddrInfo, *error_number, answer);
  return answer;
}

void SimKernel::FreeAddrInfo(addrinfo* result) noexcept { Names::Free(result); }

}  // namespace holdfast::internal::sim
