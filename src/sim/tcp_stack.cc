// The ports and tables of a host's TCP.
//
// Sources: net/ipv4/inet_connection_sock.c (inet_csk_get_port), inet_hashtables.c
// (__inet_hash_connect), tcp_minisocks.c (tcp_timewait_state_process) of Linux 6.18.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "sim/tcp_connection.h"

namespace holdfast::internal::sim {
namespace {

constexpr Duration kTimeWait = std::chrono::seconds(60);         // TCP_TIMEWAIT_LEN
constexpr Duration kTimeWaitReusable = std::chrono::seconds(1);  // tcp_tw_reuse on loopback

// May a segment for `to` belong to a socket that is bound to `local`?
bool Covers(const TcpConnection& bound, const TcpAddress& to) noexcept {
  if (to.is_v4() && bound.domain() == AF_INET6 && bound.options().v6_only) return false;
  const TcpAddress& local = bound.local();
  if (local.ip == to.ip) return true;
  if (!local.is_any()) return false;
  return bound.domain() == AF_INET6 && !local.is_v4() ? true : to.is_v4();
}

// Could one segment be for both?
bool Overlap(const TcpConnection& a, const TcpConnection& b) noexcept {
  const bool a_any = a.local().is_any();
  const bool b_any = b.local().is_any();
  if (!a_any && !b_any) return a.local().ip == b.local().ip;
  if (a_any && !b_any) return Covers(a, b.local());
  if (b_any && !a_any) return Covers(b, a.local());
  const bool a_v4_only = a.local().is_v4();
  const bool b_v4_only = b.local().is_v4();
  const bool a_v6_only = !a_v4_only && a.options().v6_only;
  const bool b_v6_only = !b_v4_only && b.options().v6_only;
  return !((a_v4_only && b_v6_only) || (a_v6_only && b_v4_only));
}

}  // namespace

// --- Connections

std::shared_ptr<TcpConnection> TcpStack::Find(const TcpTuple& tuple) const {
  const auto found = connections_.find(tuple);
  return found == connections_.end() ? nullptr : found->second;
}

void TcpStack::AddConnection(std::shared_ptr<TcpConnection> connection) {
  EndTimeWait(connection->tuple());
  const TcpTuple tuple = connection->tuple();
  HOLDFAST_CHECK(connections_.emplace(tuple, std::move(connection)).second);
}

void TcpStack::RemoveConnection(TcpConnection& connection) {
  const auto found = connections_.find(connection.tuple());
  if (found != connections_.end() && found->second.get() == &connection) connections_.erase(found);
}

void TcpStack::AddListener(TcpConnection& connection) {
  ports_[connection.local().port].listeners.push_back(&connection);
}

void TcpStack::RemoveListener(TcpConnection& connection) {
  const auto found = ports_.find(connection.local().port);
  if (found == ports_.end()) return;
  auto& listeners = found->second.listeners;
  listeners.erase(std::remove(listeners.begin(), listeners.end(), &connection), listeners.end());
}

TcpConnection* TcpStack::FindListener(const TcpTuple& tuple) {
  const auto found = ports_.find(tuple.local.port);
  if (found == ports_.end()) return nullptr;
  // The nearest: one of this address before one of any; among equals the tuple decides, as with
  // SO_REUSEPORT.
  const auto nearness = [&](const TcpConnection& listener) {
    if (!Covers(listener, tuple.local)) return 0;
    if (!listener.local().is_any()) return 3;
    return listener.local().is_v4() == tuple.local.is_v4() ? 2 : 1;
  };
  int best = 1;
  std::size_t equals = 0;
  for (TcpConnection* const listener : found->second.listeners) {
    const int near = nearness(*listener);
    if (near > best) {
      best = near;
      equals = 0;
    }
    if (near == best) ++equals;
  }
  if (equals == 0) return nullptr;
  std::size_t index = TcpTupleHash()(tuple) % equals;
  for (TcpConnection* const listener : found->second.listeners) {
    if (nearness(*listener) == best && index-- == 0) return listener;
  }
  return nullptr;
}

std::size_t TcpStack::Abort(const SocketAddress& peer) {
  const TcpAddress wanted = TcpAddress::From(peer.data());
  std::vector<std::shared_ptr<TcpConnection>> found;
  for (auto& [number, port] : ports_) {
    for (TcpConnection& connection : port.owners) {
      const TcpAddress& at = connection.tuple().peer;
      if (at.ip == wanted.ip && (wanted.port == 0 || at.port == wanted.port)) {
        found.push_back(connection.shared_from_this());
      }
    }
  }
  for (const auto& connection : found) connection->Abort();
  host_.network().DrainLocal();
  return found.size();
}

std::size_t TcpStack::connecting() const {
  return static_cast<std::size_t>(
      std::count_if(connections_.begin(), connections_.end(),
                    [](const auto& entry) { return entry.second->state() == TcpState::kSynSent; }));
}

void TcpStack::Clear() {
  time_waits_.clear();
  time_wait_order_.clear();
  while (!ports_.empty()) {
    Port& port = ports_.begin()->second;
    TcpConnection* const owner = port.owners.front();
    if (owner == nullptr) {
      ports_.erase(ports_.begin());
      continue;
    }
    // Forgetting one may take its port with it.
    const std::shared_ptr<TcpConnection> hold = owner->shared_from_this();
    owner->Forget();
  }
  HOLDFAST_CHECK(connections_.empty());
}

// --- Segments

void TcpStack::Arrive(Segment segment) {
  const TcpTuple tuple{segment.to, segment.from};
  if (const auto connection = Find(tuple)) {
    connection->Arrive(std::move(segment));
    return;
  }
  if (segment.icmp_error != 0) return;
  if (!time_waits_.empty() && ArriveInTimeWait(tuple, segment)) return;
  if (segment.flags == kSyn) {
    if (TcpConnection* const listener = FindListener(tuple)) {
      const std::shared_ptr<TcpConnection> hold = listener->shared_from_this();
      listener->Arrive(std::move(segment));
      return;
    }
  }
  Refuse(segment);
}

void TcpStack::Refuse(const Segment& segment) {
  if (segment.has(kRst)) return;
  if (segment.flags == kSyn) host_.network().faults().Hit(Fault::kRefusedReset);
  Segment reset;
  reset.from = segment.to;
  reset.to = segment.from;
  reset.flags = kRst;
  if (segment.has(kAck)) {
    reset.seq = segment.ack;
  } else {
    reset.flags |= kAck;
    reset.ack = segment.end();
  }
  network().Transmit(host_, std::move(reset));
}

// --- Ports

void TcpStack::Own(TcpConnection& connection, Port& port) {
  HOLDFAST_CHECK(!connection.on_port_);
  port.owners.PushBack(connection);
  connection.on_port_ = true;
}

void TcpStack::TakePort(TcpConnection& connection, std::uint16_t number) {
  connection.tuple_.local.port = number;
  Own(connection, ports_[number]);
}

void TcpStack::SharePort(TcpConnection& child, TcpConnection& listener) {
  Own(child, ports_[listener.local().port]);
}

void TcpStack::ReleasePort(TcpConnection& connection) {
  if (!connection.on_port_) return;
  connection.on_port_ = false;
  ++releases_;
  IntrusiveList<TcpConnection>::Remove(connection);
  DropIfFree(connection.local().port);
}

void TcpStack::DropIfFree(std::uint16_t number) {
  const auto found = ports_.find(number);
  if (found == ports_.end()) return;
  if (found->second.owners.empty() && found->second.time_waits == 0) ports_.erase(found);
}

// inet_csk_bind_conflict
bool TcpStack::Conflicts(Port& port, const TcpConnection& connection) {
  const TcpOptions& options = connection.options();
  const bool tolerant = options.reuse_address || options.reuse_port;
  if (port.strict_time_waits > 0 || (port.time_waits > 0 && !tolerant)) return true;
  for (const TcpConnection& other : port.owners) {
    if (&other == &connection || !Overlap(connection, other)) continue;
    const bool both_reuse = options.reuse_address && other.options().reuse_address;
    const bool both_share = options.reuse_port && other.options().reuse_port;
    if (both_share) continue;
    if (both_reuse && other.state() != TcpState::kListen) continue;
    return true;
  }
  return false;
}

int TcpStack::CheckListen(TcpConnection& connection) {
  const auto found = ports_.find(connection.local().port);
  if (found == ports_.end()) return 0;
  return Conflicts(found->second, connection) ? -EADDRINUSE : 0;
}

int TcpStack::BindPort(TcpConnection& connection) {
  PurgeTimeWaits();
  const std::uint16_t wanted = connection.local().port;
  if (wanted != 0) {
    const auto found = ports_.find(wanted);
    if (found != ports_.end() && Conflicts(found->second, connection)) return -EADDRINUSE;
    TakePort(connection, wanted);
    return 0;
  }
  const std::uint32_t low = host_.port_first();
  const std::uint32_t count = host_.port_last() - low + 1u;
  const auto start = static_cast<std::uint32_t>(network().faults().random().Below(count)) | 1u;
  for (const std::uint32_t parity : {0u, 1u}) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t offset = (start + i) % count;
      if ((offset & 1) == parity) continue;  // First the odd ones.
      const auto number = static_cast<std::uint16_t>(low + offset);
      if (ports_.contains(number)) continue;
      TakePort(connection, number);
      return 0;
    }
  }
  return -EADDRINUSE;
}

std::uint32_t& TcpStack::Perturbation(std::uint64_t hash) noexcept {
  return perturbations_[hash % perturbations_.size()];
}

bool TcpStack::IsTaken(const TcpTuple& tuple) {
  if (connections_.contains(tuple)) return true;
  const auto found = time_waits_.find(tuple);
  if (found == time_waits_.end()) return false;
  const Instant began = found->second.until - kTimeWait;
  const bool reusable =
      host_.Owns(tuple.peer) && network().schedule().now() - began >= kTimeWaitReusable;
  return !reusable;
}

int TcpStack::BindForConnect(TcpConnection& connection, const TcpAddress& peer) {
  PurgeTimeWaits();
  const std::uint32_t low = host_.port_first();
  std::uint32_t count = host_.port_last() - low + 1u;
  if (count > 1) count &= ~1u;
  TcpTuple tuple{connection.local(), peer};
  tuple.local.port = 0;
  const std::uint64_t hash = TcpTupleHash()(tuple);
  std::uint32_t& perturbation = Perturbation(hash >> 32);
  const auto start =
      static_cast<std::uint32_t>((perturbation + static_cast<std::uint32_t>(hash)) % count) & ~1u;
  const std::uint32_t parities = count > 1 ? 2 : 1;
  // Where all even ones were taken and none has come back, nobody need look at them again.
  const bool even_full = even_full_hash_ == hash && even_full_releases_ == releases_;
  for (std::uint32_t parity = even_full ? 1 : 0; parity < parities; ++parity) {
    if (parity == 1) {
      even_full_hash_ = hash;
      even_full_releases_ = releases_;
    }
    for (std::uint32_t i = 0; i < count; i += 2) {
      tuple.local.port = static_cast<std::uint16_t>(low + (start + parity + i) % count);
      const auto found = ports_.find(tuple.local.port);
      if (found != ports_.end() && !found->second.by_connect) continue;
      if (found != ports_.end() && IsTaken(tuple)) continue;
      TakePort(connection, tuple.local.port);
      ports_[tuple.local.port].by_connect = true;
      const auto skip = static_cast<std::uint32_t>(network().faults().random().Below(8)) * 2;
      perturbation += std::max(i, skip) + 2;
      return 0;
    }
  }
  return -EADDRNOTAVAIL;
}

// --- TIME_WAIT

void TcpStack::AddTimeWait(const TcpConnection& connection) {
  PurgeTimeWaits();
  const bool strict = !connection.options().reuse_address && !connection.options().reuse_port;
  const Instant until = SaturatingAdd(network().schedule().now(), kTimeWait);
  const TimeWait entry{until, connection.rcv_nxt(), connection.snd_nxt(), strict};
  EndTimeWait(connection.tuple());
  time_waits_.emplace(connection.tuple(), entry);
  time_wait_order_.emplace_back(until, connection.tuple());
  Port& port = ports_[connection.local().port];
  ++port.time_waits;
  if (strict) ++port.strict_time_waits;
}

void TcpStack::EndTimeWait(const TcpTuple& tuple) {
  const auto found = time_waits_.find(tuple);
  if (found == time_waits_.end()) return;
  Port& port = ports_[tuple.local.port];
  --port.time_waits;
  if (found->second.strict) --port.strict_time_waits;
  time_waits_.erase(found);
  ++releases_;
  DropIfFree(tuple.local.port);
}

void TcpStack::PurgeTimeWaits() {
  const Instant now = network().schedule().now();
  while (!time_wait_order_.empty() && time_wait_order_.front().first <= now) {
    const auto [until, tuple] = time_wait_order_.front();
    time_wait_order_.pop_front();
    const auto found = time_waits_.find(tuple);
    // Another connection may have ended between the same two addresses since.
    if (found != time_waits_.end() && found->second.until == until) EndTimeWait(tuple);
  }
}

// tcp_timewait_state_process
bool TcpStack::ArriveInTimeWait(const TcpTuple& tuple, const Segment& segment) {
  PurgeTimeWaits();
  const auto found = time_waits_.find(tuple);
  if (found == time_waits_.end()) return false;
  if (segment.has(kRst)) {
    EndTimeWait(tuple);
    return true;
  }
  if (segment.flags == kSyn && segment.seq > found->second.rcv_nxt) {
    EndTimeWait(tuple);
    return false;  // A new connection may begin.
  }
  if (segment.end() == segment.seq && segment.seq >= found->second.rcv_nxt) return true;
  Segment answer;
  answer.from = segment.to;
  answer.to = segment.from;
  answer.flags = kAck;
  answer.seq = found->second.snd_nxt;
  answer.ack = found->second.rcv_nxt;
  network().Transmit(host_, std::move(answer));
  return true;
}

}  // namespace holdfast::internal::sim
