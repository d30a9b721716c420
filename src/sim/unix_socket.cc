#include "sim/unix_socket.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string_view>
#include <vector>

#include "sim/network.h"

namespace holdfast::internal::sim {
namespace {

// What a change of state wakes: everybody, whatever they wait for.
constexpr std::uint32_t kEverything = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR;

// shutdown(2), as bits.
constexpr unsigned kNoReceive = 1;
constexpr unsigned kNoSend = 2;
constexpr unsigned kBothDown = kNoReceive | kNoSend;

// net.core of a stock 6.18, and the limits of SO_SNDBUF and SO_RCVBUF (net/core/sock.c).
constexpr int kBufferDefault = 212'992;
constexpr std::uint32_t kBufferMax = 4'194'304;
constexpr int kSendBufferMin = 4'608;
constexpr int kReceiveBufferMin = 2'304;
constexpr int kSomaxconn = 4'096;

// The parts of an skb on x86-64: its head is a piece of a page or comes of a slab, with the shared
// info behind the data; what the head does not take goes to whole pages.
constexpr std::size_t kPage = 4'096;
constexpr std::size_t kSkb = 256;
constexpr std::size_t kSharedInfo = 320;
constexpr std::size_t kHeadMin = 512;
constexpr std::size_t kHeadDataMax = kPage - kSharedInfo;
static_assert(kUnixChunkMax == kHeadDataMax + 8 * kPage);

constexpr std::size_t kPathOffset = offsetof(sockaddr_un, sun_path);

}  // namespace

std::size_t UnixChunkMemory(std::size_t size) noexcept {
  std::size_t pages = 0;
  if (size > kHeadDataMax) pages = (size - kHeadDataMax + kPage - 1) / kPage * kPage;
  const std::size_t head = size > pages ? size - pages : 0;
  return kSkb + std::max(kHeadMin, std::bit_ceil(head + kSharedInfo)) + pages;
}

class UnixSocket final : public SocketFile {
 public:
  explicit UnixSocket(Host& host) : host_(host) {}
  ~UnixSocket() override;

  static void Join(UnixSocket& a, UnixSocket& b);

  // --- SocketFile.
  std::uint32_t Poll() const override;
  int domain() const override { return AF_UNIX; }
  int Bind(const sockaddr* address, socklen_t size) override;
  int Listen(int backlog) override;
  std::shared_ptr<SocketFile> Accept(int* error) override;
  bool HasPending() const override { return !pending_.empty(); }
  int Connect(const sockaddr* address, socklen_t size) override;
  ssize_t Send(const iovec* parts, std::size_t count, int flags) override;
  ssize_t Recv(void* data, std::size_t size, int flags) override;
  int Shutdown(int how) override;
  int GetSockOpt(int level, int name, void* value, socklen_t* size) override;
  int SetSockOpt(int level, int name, const void* value, socklen_t size) override;
  int GetSockName(sockaddr* address, socklen_t* size) const override;
  int GetPeerName(sockaddr* address, socklen_t* size) const override;
  int Ioctl(unsigned long request, int* value) override;

 private:
  enum class State { kClosed, kConnected, kListening };

  // What one turn of the loop in sendmsg(2) made.
  struct Chunk {
    std::string data;
    std::size_t read = 0;
    std::size_t memory = 0;
  };

  // -EINVAL, or 0 with the name as it is bound.
  static int ParseName(const sockaddr* address, socklen_t size, std::string* name);
  static void CopyName(const std::string& name, sockaddr* address, socklen_t* size);

  [[nodiscard]] bool backlog_full() const { return pending_.size() > backlog_; }
  [[nodiscard]] bool writable() const {
    // The count of the kernel begins at 1 (sk_wmem_alloc).
    return state_ != State::kListening &&
           (memory_ + 1) * 4 <= static_cast<std::size_t>(send_buffer_);
  }
  [[nodiscard]] std::size_t unread() const;
  void Free(std::size_t memory);
  int TakeError() { return -std::exchange(error_, 0); }
  void WakeConnects();

  Host& host_;
  State state_ = State::kClosed;
  bool embryo_ = false;  // Connected, not accepted.
  unsigned shutdown_ = 0;
  int error_ = 0;
  bool bound_ = false;          // In the host's names.
  std::string name_;            // Empty: unnamed.
  std::string peer_name_;       // Of a peer that is gone.
  UnixSocket* peer_ = nullptr;  // Null: never connected, or closed by now.
  std::deque<Chunk> received_;
  std::size_t memory_ = 0;  // Of what was sent and not read.
  int send_buffer_ = kBufferDefault;
  int receive_buffer_ = kBufferDefault;
  linger linger_{};
  std::map<int, int> options_;  // Those of SOL_SOCKET that are only kept.

  // Of a listener.
  std::size_t backlog_ = 0;
  std::deque<std::shared_ptr<UnixSocket>> pending_;
  std::vector<std::weak_ptr<File>> connects_;  // Blocking ones that found the backlog full.
};

// --- UnixNames.

int UnixNames::Unlink(const std::string& path) { return bound_.erase(path) == 1 ? 0 : -ENOENT; }

void UnixNames::Crash() {
  for (auto entry = bound_.begin(); entry != bound_.end();) {
    const bool abstract = entry->first.front() == '\0';
    entry->second = nullptr;
    entry = abstract ? bound_.erase(entry) : std::next(entry);
  }
}

int UnixNames::Bind(const std::string& name, UnixSocket& socket) {
  return bound_.emplace(name, &socket).second ? 0 : -EADDRINUSE;
}

std::string UnixNames::AutobindName() {
  char digits[8];
  std::snprintf(digits, sizeof(digits), "%05x", ++autobinds_ & 0xfffff);
  return std::string(1, '\0') + digits;
}

void UnixNames::Release(const std::string& name, const UnixSocket& socket) {
  const auto found = bound_.find(name);
  if (found == bound_.end() || found->second != &socket) return;
  if (name.front() == '\0') {
    bound_.erase(found);
  } else {
    found->second = nullptr;
  }
}

UnixSocket* UnixNames::Find(const std::string& name, int* error) const {
  const auto found = bound_.find(name);
  if (found != bound_.end() && found->second != nullptr) return found->second;
  *error = found == bound_.end() && name.front() != '\0' ? -ENOENT : -ECONNREFUSED;
  return nullptr;
}

// --- Names.

int UnixSocket::ParseName(const sockaddr* address, socklen_t size, std::string* name) {
  if (size <= kPathOffset || size > sizeof(sockaddr_un)) return -EINVAL;
  if (address->sa_family != AF_UNIX) return -EINVAL;
  const char* const path = reinterpret_cast<const char*>(address) + kPathOffset;
  const std::size_t room = size - kPathOffset;
  // A path ends at its zero byte; an abstract name is as long as the address says.
  name->assign(path, path[0] == '\0' ? room : ::strnlen(path, room));
  return 0;
}

void UnixSocket::CopyName(const std::string& name, sockaddr* address, socklen_t* size) {
  sockaddr_un whole{};
  whole.sun_family = AF_UNIX;
  // A path of full length has no room for its zero byte, which is told all the same (unix(7)).
  std::memcpy(whole.sun_path, name.data(), std::min(name.size(), sizeof(whole.sun_path)));
  const bool is_path = !name.empty() && name.front() != '\0';
  char bytes[sizeof(whole) + 1] = {};
  std::memcpy(bytes, &whole, sizeof(whole));
  CopyAddress(bytes, static_cast<socklen_t>(kPathOffset + name.size() + (is_path ? 1 : 0)), address,
              size);
}

int UnixSocket::Bind(const sockaddr* address, socklen_t size) {
  UnixNames& names = host_.unix_names();
  if (size == kPathOffset && address->sa_family == AF_UNIX) {
    if (!name_.empty()) return 0;  // Also where it was inherited from a listener.
    do {
      name_ = names.AutobindName();
    } while (names.Bind(name_, *this) != 0);
    bound_ = true;
    return 0;
  }
  std::string name;
  if (const int error = ParseName(address, size, &name); error != 0) return error;
  if (!name_.empty()) return -EINVAL;
  if (const int error = names.Bind(name, *this); error != 0) return error;
  name_ = std::move(name);
  bound_ = true;
  return 0;
}

int UnixSocket::GetSockName(sockaddr* address, socklen_t* size) const {
  CopyName(name_, address, size);
  return 0;
}

int UnixSocket::GetPeerName(sockaddr* address, socklen_t* size) const {
  if (state_ != State::kConnected) return -ENOTCONN;
  // A name that the other end got later counts, and the last one stays when it is gone.
  CopyName(peer_ != nullptr ? peer_->name_ : peer_name_, address, size);
  return 0;
}

// --- Connections begin.

int UnixSocket::Listen(int backlog) {
  if (!bound_ || state_ == State::kConnected) return -EINVAL;
  if (backlog < 0 || backlog > kSomaxconn) backlog = kSomaxconn;
  const bool more = static_cast<std::size_t>(backlog) > backlog_;
  backlog_ = static_cast<std::size_t>(backlog);
  state_ = State::kListening;
  if (more) WakeConnects();
  return 0;
}

void UnixSocket::WakeConnects() {
  for (const std::weak_ptr<File>& waiting : std::exchange(connects_, {})) {
    if (const std::shared_ptr<File> file = waiting.lock()) file->Wake(EPOLLOUT);
  }
}

void UnixSocket::Join(UnixSocket& a, UnixSocket& b) {
  a.state_ = State::kConnected;
  b.state_ = State::kConnected;
  a.peer_ = &b;
  b.peer_ = &a;
}

int UnixSocket::Connect(const sockaddr* address, socklen_t size) {
  std::string name;
  if (const int error = ParseName(address, size, &name); error != 0) return error;
  int error = 0;
  UnixSocket* const listener = host_.unix_names().Find(name, &error);
  if (listener == nullptr) return error;
  if (listener->state_ != State::kListening || (listener->shutdown_ & kNoReceive) != 0) {
    return -ECONNREFUSED;
  }
  if (listener->backlog_full()) {
    if (!nonblocking) listener->connects_.push_back(weak_from_this());
    return -EAGAIN;
  }
  if (state_ == State::kConnected) return -EISCONN;
  if (state_ == State::kListening) return -EINVAL;
  auto other = std::make_shared<UnixSocket>(host_);
  other->embryo_ = true;
  other->name_ = listener->name_;
  Join(*this, *other);
  listener->pending_.push_back(std::move(other));
  listener->Wake(EPOLLIN);
  return 0;
}

std::shared_ptr<SocketFile> UnixSocket::Accept(int* error) {
  if (state_ != State::kListening) {
    *error = -EINVAL;
    return nullptr;
  }
  if (pending_.empty()) {
    // Who does not wait is not told that there will never be one (skb_recv_datagram).
    *error = (shutdown_ & kNoReceive) != 0 && !nonblocking ? -EINVAL : -EAGAIN;
    return nullptr;
  }
  std::shared_ptr<UnixSocket> accepted = std::move(pending_.front());
  pending_.pop_front();
  accepted->embryo_ = false;
  WakeConnects();
  return accepted;
}

// --- Data.

std::uint32_t UnixSocket::Poll() const {
  std::uint32_t events = 0;
  if (error_ != 0) events |= EPOLLERR;
  if (shutdown_ == kBothDown || state_ == State::kClosed) events |= EPOLLHUP;
  if ((shutdown_ & kNoReceive) != 0) events |= EPOLLRDHUP | EPOLLIN;
  if (!received_.empty() || !pending_.empty()) events |= EPOLLIN;
  if (writable()) events |= EPOLLOUT;
  return events;
}

ssize_t UnixSocket::Send(const iovec* parts, std::size_t count, int) {
  if (state_ != State::kConnected) return -ENOTCONN;
  if ((shutdown_ & kNoSend) != 0) return -EPIPE;
  std::size_t size = 0;
  for (std::size_t i = 0; i < count; ++i) size += parts[i].iov_len;
  FaultPlan& faults = host_.network().faults();
  if (size > 1 && faults.Strikes(Fault::kPartialSend)) {
    size = faults.random().Between(1, size - 1);
  }

  const std::size_t limit = static_cast<std::size_t>(send_buffer_);
  const std::size_t chunk_max = std::min(limit / 2 - 64, kUnixChunkMax);
  std::size_t sent = 0;
  std::size_t part = 0;    // Where the next byte comes from.
  std::size_t offset = 0;  // Within it.
  while (sent < size) {
    if (error_ != 0) return sent > 0 ? static_cast<ssize_t>(sent) : TakeError();
    // One chunk may go beyond the limit, as in Linux.
    if (memory_ >= limit) return sent > 0 ? static_cast<ssize_t>(sent) : -EAGAIN;
    // A shutdown of the peer from before it was connected is not known here.
    if ((peer_->shutdown_ & kNoReceive) != 0) return sent > 0 ? static_cast<ssize_t>(sent) : -EPIPE;
    Chunk chunk;
    std::size_t left = std::min(size - sent, chunk_max);
    chunk.memory = UnixChunkMemory(left);
    chunk.data.reserve(left);
    while (left > 0) {
      const iovec& from = parts[part];
      const std::size_t taken = std::min(left, from.iov_len - offset);
      chunk.data.append(static_cast<const char*>(from.iov_base) + offset, taken);
      left -= taken;
      offset += taken;
      if (offset == from.iov_len) {
        ++part;
        offset = 0;
      }
    }
    sent += chunk.data.size();
    memory_ += chunk.memory;
    peer_->received_.push_back(std::move(chunk));
    peer_->Wake(EPOLLIN);
  }
  return static_cast<ssize_t>(sent);
}

ssize_t UnixSocket::Recv(void* data, std::size_t size, int flags) {
  if (state_ != State::kConnected) return -EINVAL;
  if (received_.empty()) {
    if (error_ != 0) return TakeError();
    return (shutdown_ & kNoReceive) != 0 ? 0 : -EAGAIN;
  }
  std::size_t copied = 0;
  std::size_t freed = 0;
  std::size_t chunks = 0;
  for (Chunk& chunk : received_) {
    const std::size_t taken = std::min(size - copied, chunk.data.size() - chunk.read);
    if (taken == 0) break;
    std::memcpy(static_cast<char*>(data) + copied, chunk.data.data() + chunk.read, taken);
    copied += taken;
    if ((flags & MSG_PEEK) != 0) continue;
    chunk.read += taken;
    if (chunk.read < chunk.data.size()) break;
    freed += chunk.memory;
    ++chunks;
  }
  received_.erase(received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(chunks));
  if (freed > 0 && peer_ != nullptr) peer_->Free(freed);
  return static_cast<ssize_t>(copied);
}

// The peer has read what took so much.
void UnixSocket::Free(std::size_t memory) {
  memory_ -= memory;
  if (writable()) Wake(EPOLLOUT);
}

std::size_t UnixSocket::unread() const {
  std::size_t sum = 0;
  for (const Chunk& chunk : received_) sum += chunk.data.size() - chunk.read;
  return sum;
}

// --- Connections end.

int UnixSocket::Shutdown(int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return -EINVAL;
  const unsigned own = static_cast<unsigned>(how) + 1;
  shutdown_ |= own;
  Wake(kEverything);
  if (peer_ != nullptr) {
    if ((own & kNoReceive) != 0) peer_->shutdown_ |= kNoSend;
    if ((own & kNoSend) != 0) peer_->shutdown_ |= kNoReceive;
    peer_->Wake(kEverything);
  }
  return 0;
}

UnixSocket::~UnixSocket() {
  if (bound_) host_.unix_names().Release(name_, *this);
  if (UnixSocket* const peer = std::exchange(peer_, nullptr); peer != nullptr) {
    peer->peer_ = nullptr;
    peer->peer_name_ = name_;
    peer->memory_ = 0;  // It lay in our queue.
    peer->shutdown_ = kBothDown;
    if (!received_.empty() || embryo_) peer->error_ = ECONNRESET;
    peer->Wake(kEverything);
  }
  pending_.clear();
  WakeConnects();
}

// --- Options and figures.

int UnixSocket::SetSockOpt(int level, int name, const void* value, socklen_t size) {
  if (level != SOL_SOCKET) return -EOPNOTSUPP;
  if (name == SO_LINGER) {
    if (size < sizeof(linger_)) return -EINVAL;
    std::memcpy(&linger_, value, sizeof(linger_));
    return 0;
  }
  if (name == SO_RCVTIMEO || name == SO_SNDTIMEO) return 0;
  int number = 0;
  if (size < sizeof(number)) return -EINVAL;
  std::memcpy(&number, value, sizeof(number));
  // A negative size is a huge one, and cut (sock_setsockopt).
  const auto buffer = [&] {
    return 2 * static_cast<int>(std::min(static_cast<std::uint32_t>(number), kBufferMax));
  };
  switch (name) {
    case SO_SNDBUF:
      send_buffer_ = std::max(buffer(), kSendBufferMin);
      if (writable()) Wake(EPOLLOUT);
      return 0;
    case SO_RCVBUF:
      receive_buffer_ = std::max(buffer(), kReceiveBufferMin);
      return 0;
    case SO_REUSEPORT:
      return number != 0 ? -EOPNOTSUPP : 0;
    case SO_REUSEADDR:
    case SO_KEEPALIVE:
    case SO_BROADCAST:
      options_[name] = number != 0 ? 1 : 0;
      return 0;
    case SO_PRIORITY:
    case SO_MARK:
      options_[name] = number;
      return 0;
    case SO_ERROR:
    case SO_TYPE:
    case SO_DOMAIN:
    case SO_PROTOCOL:
    case SO_ACCEPTCONN:
    default:
      return -ENOPROTOOPT;
  }
}

int UnixSocket::GetSockOpt(int level, int name, void* value, socklen_t* size) {
  if (level != SOL_SOCKET) return -EOPNOTSUPP;
  if (name == SO_LINGER) {
    *size = std::min(*size, static_cast<socklen_t>(sizeof(linger_)));
    std::memcpy(value, &linger_, *size);
    return 0;
  }
  int number = 0;
  switch (name) {
    case SO_ERROR:
      number = -TakeError();
      break;
    case SO_TYPE:
      number = SOCK_STREAM;
      break;
    case SO_DOMAIN:
      number = AF_UNIX;
      break;
    case SO_PROTOCOL:
      break;
    case SO_ACCEPTCONN:
      number = state_ == State::kListening ? 1 : 0;
      break;
    case SO_SNDBUF:
      number = send_buffer_;
      break;
    case SO_RCVBUF:
      number = receive_buffer_;
      break;
    case SO_REUSEPORT:
    case SO_REUSEADDR:
    case SO_KEEPALIVE:
    case SO_BROADCAST:
    case SO_PRIORITY:
    case SO_MARK:
      if (const auto kept = options_.find(name); kept != options_.end()) number = kept->second;
      break;
    default:
      return -ENOPROTOOPT;
  }
  *size = std::min(*size, static_cast<socklen_t>(sizeof(number)));
  std::memcpy(value, &number, *size);
  return 0;
}

int UnixSocket::Ioctl(unsigned long request, int* value) {
  switch (request) {
    case SIOCOUTQ:
      *value = static_cast<int>(memory_);
      return 0;
    case SIOCINQ:
      if (state_ == State::kListening) return -EINVAL;
      *value = static_cast<int>(unread());
      return 0;
    default:
      return -ENOTTY;
  }
}

// --- Factories.

std::shared_ptr<SocketFile> NewUnixSocket(Host& host) { return std::make_shared<UnixSocket>(host); }

std::pair<std::shared_ptr<SocketFile>, std::shared_ptr<SocketFile>> NewUnixPair(Host& host) {
  auto first = std::make_shared<UnixSocket>(host);
  auto second = std::make_shared<UnixSocket>(host);
  UnixSocket::Join(*first, *second);
  return {std::move(first), std::move(second)};
}

}  // namespace holdfast::internal::sim
