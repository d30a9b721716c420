#include "sim/tcp_socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "sim/network.h"

namespace holdfast::internal::sim {
namespace {

constexpr int kBacklogMax = 4096;                         // net.core.somaxconn
constexpr std::uint32_t kModeratedSendBufferMin = 4'608;  // SOCK_MIN_SNDBUF

bool IsOpening(TcpState state) noexcept {
  return state == TcpState::kSynSent || state == TcpState::kSynReceived;
}

}  // namespace

std::shared_ptr<SocketFile> NewTcpSocket(Host& host, int domain) {
  // Not make_shared: a timer's weak_ptr would keep the memory of a connection that is gone.
  std::shared_ptr<TcpConnection> connection(new TcpConnection(host.tcp(), domain));
  return std::make_shared<TcpSocket>(std::move(connection), false);
}

TcpSocket::TcpSocket(std::shared_ptr<TcpConnection> connection, bool connected)
    : c_(std::move(connection)),
      progress_(connected ? Progress::kConnected : Progress::kUnconnected) {
  c_->file_ = this;
}

TcpSocket::~TcpSocket() {
  if (!c_->alive()) {
    // Also the way of a socket that survives its world: nothing of the stack is touched.
    c_->file_ = nullptr;
    c_->orphaned_ = true;
    if (c_->on_port_) c_->stack_.ReleasePort(*c_);
    return;
  }
  const Call call(*c_);
  c_->Close();
}

// tcp_poll
std::uint32_t TcpSocket::Poll() const {
  TcpConnection& c = *c_;
  if (c.state_ == TcpState::kListen) return HasPending() ? std::uint32_t{EPOLLIN} : 0;
  std::uint32_t events = 0;
  if (c.shutdown_ == kShutdownMask || !c.alive()) events |= EPOLLHUP;
  if ((c.shutdown_ & kReceiveShutdown) != 0) events |= EPOLLIN | EPOLLRDHUP;
  if (!IsOpening(c.state_)) {
    const bool storm = c.alive() && c.now() < c.storm_until_;
    if (!c.receive_.empty() && !storm) events |= EPOLLIN;
    if ((c.shutdown_ & kSendShutdown) != 0 || (c.IsWriteable() && !storm)) {
      events |= EPOLLOUT;
    } else {
      c.no_space_ = true;
    }
  }
  if (c.error_ != 0 || c.errors_queued_ > 0) events |= EPOLLERR;
  return events;
}

// --- Addresses

int TcpSocket::CheckAddress(const sockaddr* address, socklen_t size) const {
  if (address == nullptr) return -EFAULT;
  const bool v4 = domain() == AF_INET;
  if (size < (v4 ? sizeof(sockaddr_in) : std::size_t{24})) return -EINVAL;  // SIN6_LEN_RFC2133
  return address->sa_family == domain() ? 0 : -EAFNOSUPPORT;
}

// __inet_bind
int TcpSocket::Bind(const sockaddr* address, socklen_t size) {
  TcpConnection& c = *c_;
  if (const int error = CheckAddress(address, size); error != 0) return error;
  const TcpAddress wanted = TcpAddress::From(address);
  const bool bound = c.alive() || c.on_port_;
  if (bound && domain() == AF_INET6) return -EINVAL;  // __inet6_bind asks for this first.
  if (!wanted.is_any() && !c.stack_.host().Owns(wanted)) return -EADDRNOTAVAIL;
  if (bound) return -EINVAL;
  TcpAddress before = c.tuple_.local;
  before.ip = domain() == AF_INET ? TcpAddress::V4(INADDR_ANY).ip : TcpAddress().ip;
  c.tuple_.local = wanted;
  if (wanted.port != 0 || !c.options_.bind_without_port) {
    if (const int error = c.stack_.BindPort(c); error != 0) {
      c.tuple_.local = before;
      return error;
    }
  }
  if (!wanted.is_any()) c.address_bound_ = true;  // Nothing takes it back: SOCK_BINDADDR_LOCK.
  if (domain() == AF_INET6 && !wanted.is_any() && !wanted.is_v4()) c.options_.v6_only = true;
  c.port_bound_ = wanted.port != 0;
  return 0;
}

int TcpSocket::GetSockName(sockaddr* address, socklen_t* size) const {
  const SocketAddress local = c_->tuple_.local.ToSocketAddress(domain());
  CopyAddress(local.data(), local.size(), address, size);
  return 0;
}

int TcpSocket::GetPeerName(sockaddr* address, socklen_t* size) const {
  if (!c_->alive() || c_->state_ == TcpState::kSynSent) return -ENOTCONN;
  return AcceptedFrom(address, size);
}

// inet_getname, whose `peer` is 2 here
int TcpSocket::AcceptedFrom(sockaddr* address, socklen_t* size) const {
  const TcpAddress& peer = c_->tuple_.peer;
  if (peer.port == 0) return -ENOTCONN;
  const SocketAddress name = peer.ToSocketAddress(domain());
  CopyAddress(name.data(), name.size(), address, size);
  return 0;
}

// --- Listening

// __inet_listen_sk
int TcpSocket::Listen(int backlog) {
  TcpConnection& c = *c_;
  if (progress_ != Progress::kUnconnected) return -EINVAL;
  if (c.alive() && c.state_ != TcpState::kListen) return -EINVAL;
  // A negative one is a large one.
  const int capped = backlog < 0 ? kBacklogMax : std::min(backlog, kBacklogMax);
  if (c.state_ != TcpState::kListen) {
    if (!c.on_port_) {
      c.tuple_.local.port = 0;  // What getsockname still tells may be a port long let go of.
      if (const int error = c.stack_.BindPort(c); error != 0) return error;
    } else if (const int error = c.stack_.CheckListen(c); error != 0) {
      return error;
    }
    c.listener_ = std::make_unique<TcpConnection::Listener>();
    c.SetState(TcpState::kListen);
    c.stack_.AddListener(c);
  }
  c.listener_->backlog = static_cast<std::size_t>(capped);
  return 0;
}

bool TcpSocket::HasPending() const {
  return c_->listener_ != nullptr && !c_->listener_->queue.empty();
}

std::shared_ptr<SocketFile> TcpSocket::Accept(int* error) {
  *error = 0;
  if (c_->state_ != TcpState::kListen) {
    *error = -EINVAL;
    return nullptr;
  }
  if (!HasPending()) {
    *error = -EAGAIN;
    return nullptr;
  }
  if (c_->faults().Strikes(Fault::kNoMemory)) {
    *error = -ENOBUFS;
    // The connection stays queued, and an edge would not come again.
    c_->WakeLater(Duration::zero(), EPOLLIN);
    return nullptr;
  }
  return std::make_shared<TcpSocket>(c_->Accept(), true);
}

// --- Connecting

// __inet_stream_connect
int TcpSocket::Connect(const sockaddr* address, socklen_t size) {
  const Call call(*c_);
  if (address == nullptr) return -EFAULT;
  if (size < sizeof(address->sa_family)) return -EINVAL;
  if (address->sa_family == AF_UNSPEC) {
    c_->Disconnect();
    progress_ = Progress::kUnconnected;
    return 0;
  }
  if (progress_ == Progress::kConnected) return -EISCONN;
  if (progress_ == Progress::kDisconnecting) return -EINVAL;
  if (progress_ == Progress::kUnconnected) {
    if (c_->alive()) return -EISCONN;
    if (const int error = CheckAddress(address, size); error != 0) return error;
    return BeginConnect(TcpAddress::From(address));
  }
  if (IsOpening(c_->state_)) return -EALREADY;
  if (c_->alive()) {
    progress_ = Progress::kConnected;
    return 0;
  }
  const int error = c_->TakeError();
  progress_ = Progress::kUnconnected;
  c_->Disconnect();
  return error == 0 ? -ECONNABORTED : -error;
}

// tcp_v4_connect: a route first, then an address, then a port.
int TcpSocket::BeginConnect(const TcpAddress& to) {
  TcpConnection& c = *c_;
  Host& host = c.stack_.host();
  TcpAddress peer = to;
  if (peer.is_any()) {
    // The wildcard means this host.
    if (peer.is_v4()) {
      peer.ip = TcpAddress::V4(0x7f000001).ip;
    } else {
      peer.ip = {};
      peer.ip[15] = 1;
    }
  }
  if (peer.is_group()) return -ENETUNREACH;
  if (domain() == AF_INET6 && peer.is_v4() && c.options_.v6_only) return -ENETUNREACH;
  TcpAddress source = c.tuple_.local;
  if (!host.SourceFor(peer, &source)) return -ENETUNREACH;
  if (c.address_bound_ && !c.tuple_.local.is_any()) {
    if (c.tuple_.local.is_loopback() && !host.Owns(peer)) return -EINVAL;
    if (c.tuple_.local.is_v4() != peer.is_v4()) return -ENETUNREACH;
    source.ip = c.tuple_.local.ip;
  }
  if (const int error = c.network().Route(host, peer); error != 0) return error;
  if (const int error = c.StrikeConnect(); error != 0) return error;

  const TcpAddress before = c.tuple_.local;
  c.tuple_.local.ip = source.ip;
  const auto fail = [&](int error) {
    c.tuple_.local = before;
    if (error == -EADDRNOTAVAIL) c.faults().Hit(Fault::kAddressNotAvailable);
    return error;
  };
  if (c.on_port_) {
    if (c.stack_.IsTaken({c.tuple_.local, peer})) return fail(-EADDRNOTAVAIL);
  } else {
    // Nobody there, and the port is one that connect draws from: it could be drawn.
    const bool could_be_self = host.Owns(peer) && peer.ip == c.tuple_.local.ip &&
                               peer.port >= host.port_first() && peer.port <= host.port_last() &&
                               c.stack_.FindListener({peer, peer}) == nullptr &&
                               !c.stack_.IsTaken({peer, peer});
    if (could_be_self && c.faults().rate(Fault::kSelfConnect) > 0 &&
        c.faults().Strikes(Fault::kSelfConnect)) {
      c.stack_.TakePort(c, peer.port);
    } else if (const int error = c.stack_.BindForConnect(c, peer); error != 0) {
      return fail(error);
    } else if (c.tuple_.local == peer) {
      c.faults().Hit(Fault::kSelfConnect);
    }
  }
  progress_ = Progress::kConnecting;
  c.BeginConnect(peer);
  return -EINPROGRESS;
}

// --- Data

// tcp_sendmsg_locked
ssize_t TcpSocket::Send(const iovec* parts, std::size_t count, int flags) {
  const Call call(*c_);
  TcpConnection& c = *c_;
  if ((flags & MSG_OOB) != 0) return -EOPNOTSUPP;
  const auto broken = [&] {
    const int error = c.TakeError();
    return -(error == 0 ? EPIPE : error);
  };
  if (IsOpening(c.state_)) {
    const int error = c.TakeError();
    return error == 0 ? -EAGAIN : -error;
  }
  if (c.state_ != TcpState::kEstablished && c.state_ != TcpState::kCloseWait) return broken();
  if (c.error_ != 0 || (c.shutdown_ & kSendShutdown) != 0) return broken();

  std::size_t total = 0;
  for (std::size_t i = 0; i < count; ++i) total += parts[i].iov_len;
  if (total == 0) return 0;
  if (const int error = c.StrikeCall(true); error != 0) return error;
  std::size_t room = c.SendRoom();
  if (const std::size_t limit = c.stack_.memory_limit(); limit != 0) {
    const std::size_t left = limit > c.send_.size() ? limit - c.send_.size() : 0;
    if (left < room) {
      room = left;
      // sk_stream_moderate_sndbuf
      if (left < total) {
        c.moderated_ = std::max(static_cast<std::uint32_t>(limit / 2), kModeratedSendBufferMin);
      }
    }
  }
  std::size_t taken = std::min(total, room);
  if (taken < total) c.no_space_ = true;
  if (taken == 0) return -EAGAIN;
  if (taken > 1 && c.faults().Strikes(Fault::kPartialSend)) {
    taken = static_cast<std::size_t>(c.faults().random().Between(1, taken - 1));
    c.no_space_ = true;  // There is a short answer only where somebody waits for room.
  }
  std::size_t left = taken;
  for (std::size_t i = 0; i < count && left > 0; ++i) {
    const std::size_t size = std::min(left, parts[i].iov_len);
    if (size > 0)
      c.send_.Append(std::string_view(static_cast<const char*>(parts[i].iov_base), size));
    left -= size;
  }
  c.write_seq_ += taken;
  if (c.record_ != nullptr) c.record_->sent[c.side_] += taken;
  c.Output();
  return static_cast<ssize_t>(taken);
}

// tcp_recvmsg_locked
ssize_t TcpSocket::Recv(void* data, std::size_t size, int flags) {
  const Call call(*c_);
  TcpConnection& c = *c_;
  if ((flags & MSG_ERRQUEUE) != 0) return c.DequeueError() ? 0 : -EAGAIN;
  if (c.state_ == TcpState::kListen) return -ENOTCONN;
  if ((flags & MSG_OOB) != 0) return -EINVAL;
  if (c.alive() && c.state_ != TcpState::kSynSent) {
    if (const int error = c.StrikeCall(false); error != 0) return error;
  }
  if (!c.receive_.empty()) {
    std::size_t taken = std::min(size, c.receive_.size());
    if (taken > 1 && c.faults().Strikes(Fault::kPartialReceive)) {
      taken = 1;
      c.WakeLater(Duration::zero(), EPOLLIN);  // As if the rest came just behind it.
    }
    if (taken > 0) std::memcpy(data, c.receive_.View(0, taken).data(), taken);
    if ((flags & MSG_PEEK) != 0) return static_cast<ssize_t>(taken);
    c.receive_.Pop(taken);
    if (c.record_ != nullptr) c.record_->read_by_application[c.side_] += taken;
    c.OnRead();
    return static_cast<ssize_t>(taken);
  }
  if (c.peer_fin_) return 0;
  if (c.error_ != 0) return -c.TakeError();
  if ((c.shutdown_ & kReceiveShutdown) != 0) return 0;
  return c.alive() ? -EAGAIN : -ENOTCONN;
}

// inet_shutdown
int TcpSocket::Shutdown(int how) {
  const Call call(*c_);
  TcpConnection& c = *c_;
  if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR) return -EINVAL;
  const auto bits = static_cast<std::uint8_t>(how + 1);
  int result = 0;
  if (progress_ == Progress::kConnecting) {
    const bool open = c.alive() && !IsOpening(c.state_);
    progress_ = open ? Progress::kConnected : Progress::kDisconnecting;
  }
  switch (c.state_) {
    case TcpState::kListen:
      if ((bits & kReceiveShutdown) == 0) break;
      c.Disconnect();
      progress_ = Progress::kUnconnected;
      break;
    case TcpState::kSynSent:
      c.Disconnect();
      progress_ = Progress::kUnconnected;
      break;
    default:
      if (!c.alive()) result = -ENOTCONN;
      c.shutdown_ |= bits;
      if ((bits & kSendShutdown) != 0) c.CloseWriteSide();
  }
  c.WakeAll();
  return result;
}

// tcp_ioctl
int TcpSocket::Ioctl(unsigned long request, int* value) {
  const TcpConnection& c = *c_;
  const auto answer = [&](std::uint64_t figure) {
    // 32 bits, as the sequence numbers whose difference it is.
    *value = static_cast<int>(static_cast<std::uint32_t>(IsOpening(c.state_) ? 0 : figure));
    return 0;
  };
  if (request != SIOCINQ && request != SIOCOUTQ && request != SIOCOUTQNSD) return -ENOTTY;
  if (c.state_ == TcpState::kListen) return -EINVAL;
  if (request == SIOCINQ) return answer(c.receive_.size());
  return answer(c.write_seq_ - (request == SIOCOUTQ ? c.snd_una_ : c.snd_nxt_));
}

}  // namespace holdfast::internal::sim
