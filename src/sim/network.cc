#include "sim/network.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

#include "base/check.h"

namespace holdfast::internal::sim {
namespace {

constexpr std::uint32_t kNobody = UINT32_MAX;  // The number of no host.
constexpr std::uint64_t kHeaderBytes = 66;     // Ethernet, IPv4, TCP with options.
constexpr Duration kNeighbourTimeout = std::chrono::milliseconds(3070);  // docs/kernel.md C3.
constexpr std::uint64_t kTraceSegment = 0x40;
constexpr std::uint64_t kTracePolicy = kTraceSegment + 1;

// By Path::Policy.
constexpr const char* kPolicyNames[] = {"open",
                                        "silence",
                                        "reject by RST",
                                        "host unreachable",
                                        "net unreachable",
                                        "port unreachable",
                                        "protocol unreachable",
                                        "route: unreachable",
                                        "route: prohibit",
                                        "route: blackhole",
                                        "route: throw",
                                        "no neighbour"};
constexpr Duration kQueueMax =
    std::chrono::seconds(1);  // What may wait before a line, in its own time.

// What a router or a firewall says, or the sender's own table, as the errno of a connect.
int ErrorOf(Path::Policy policy) noexcept {
  switch (policy) {
    case Path::Policy::kIcmpHost:
    case Path::Policy::kRouteUnreachable:
    case Path::Policy::kNoNeighbour:
      return EHOSTUNREACH;
    case Path::Policy::kIcmpNet:
    case Path::Policy::kRouteThrow:
      return ENETUNREACH;
    case Path::Policy::kIcmpPort:
      return ECONNREFUSED;
    case Path::Policy::kIcmpProtocol:
      return ENOPROTOOPT;
    case Path::Policy::kRouteProhibit:
      return EACCES;
    case Path::Policy::kRouteBlackhole:
      return EINVAL;
    default:
      return 0;
  }
}

bool IsRoute(Path::Policy policy) noexcept {
  return policy == Path::Policy::kRouteUnreachable || policy == Path::Policy::kRouteProhibit ||
         policy == Path::Policy::kRouteBlackhole || policy == Path::Policy::kRouteThrow;
}

// The kind that a refusal counts as; what happens to an established connection is silence to it.
Fault KindOf(Path::Policy policy, bool connects) noexcept {
  if (!connects) return Fault::kSilentLoss;
  switch (policy) {
    case Path::Policy::kRejectReset:
      return Fault::kRefusedReset;
    case Path::Policy::kIcmpHost:
    case Path::Policy::kRouteUnreachable:
    case Path::Policy::kNoNeighbour:
      return Fault::kHostUnreachable;
    case Path::Policy::kIcmpNet:
    case Path::Policy::kRouteThrow:
      return Fault::kNetUnreachable;
    case Path::Policy::kIcmpPort:
      return Fault::kRefusedIcmpPort;
    case Path::Policy::kIcmpProtocol:
      return Fault::kProtocolUnreachable;
    case Path::Policy::kRouteProhibit:
      return Fault::kProhibited;
    case Path::Policy::kRouteBlackhole:
      return Fault::kBlackhole;
    default:
      return Fault::kConnectSilent;
  }
}

std::vector<SocketAddress> DefaultAddresses(std::uint32_t number) {
  const std::uint32_t index = number + 1;
  TcpAddress v6;
  v6.ip[0] = 0xfd;
  for (std::size_t i = 0; i < 4; ++i) {
    v6.ip[12 + i] = static_cast<std::uint8_t>(index >> (24 - 8 * i));
  }
  return {TcpAddress::V4((10u << 24) | index).ToSocketAddress(AF_INET),
          v6.ToSocketAddress(AF_INET6)};
}

}  // namespace

// --- Network

Network::~Network() = default;

Host& Network::AddHost(std::string name, std::vector<SocketAddress> addresses) {
  const auto number = static_cast<std::uint32_t>(hosts_.size());
  if (addresses.empty()) addresses = DefaultAddresses(number);
  hosts_.push_back(std::make_unique<Host>(*this, number, std::move(name), std::move(addresses)));
  Host& host = *hosts_.back();
  for (const SocketAddress& address : host.addresses()) {
    hosts_by_ip_.emplace(TcpAddress::From(address.data()).ip, &host);
  }
  return host;
}

Host* Network::FindHost(const SocketAddress& address) noexcept {
  return FindHost(TcpAddress::From(address.data()));
}

Host* Network::FindHost(const TcpAddress& address) noexcept {
  const auto found = hosts_by_ip_.find(address.ip);
  return found == hosts_by_ip_.end() ? nullptr : found->second;
}

void Network::SetPolicy(const Host& from, const Host& to, Path::Policy policy) {
  path(from, to).SetPolicy(policy);
  trace_.Mix(from.number(), kTracePolicy,
             (std::int64_t{to.number()} << 8) + static_cast<std::int64_t>(policy));
  if (!trace_.told()) return;
  trace_.Tell(schedule_.now(), from.name(),
              "to " + to.name() + ": " + kPolicyNames[static_cast<std::size_t>(policy)]);
}

void Network::Partition(Host& a, Host& b) {
  PartitionOneWay(a, b);
  PartitionOneWay(b, a);
}

void Network::Heal(Host& a, Host& b) {
  SetPolicy(a, b, Path::Policy::kForward);
  SetPolicy(b, a, Path::Policy::kForward);
}

// Also of the ways to addresses that are nobody's.
void Network::HealAll() {
  for (auto& [ends, way] : ways_) way.path.SetPolicy(Path::Policy::kForward);
  trace_.Mix(0, kTracePolicy + 1, 0);
  if (trace_.told()) trace_.Tell(schedule_.now(), "network", "healed");
}

std::shared_ptr<ConnectionRecord> Network::NewRecord(std::uint64_t id, const TcpTuple& tuple) {
  if (!keep_records_) return nullptr;
  auto record = std::make_shared<ConnectionRecord>();
  record->id = id;
  record->opened_at = schedule_.now();
  record->last_ack_at.fill(schedule_.now());
  const int domain = tuple.local.is_v4() ? AF_INET : AF_INET6;
  record->opener = tuple.local.ToSocketAddress(domain);
  record->acceptor = tuple.peer.ToSocketAddress(domain);
  // Almost always at the end; a late SYN-ACK of an older one may come after a newer one's.
  const auto place =
      std::upper_bound(records_.begin(), records_.end(), id,
                       [](std::uint64_t value, const auto& other) { return value < other->id; });
  records_.insert(place, record);
  return record;
}

std::shared_ptr<ConnectionRecord> Network::RecordOf(std::uint64_t id) const {
  const auto place =
      std::lower_bound(records_.begin(), records_.end(), id,
                       [](const auto& other, std::uint64_t value) { return other->id < value; });
  return place != records_.end() && (*place)->id == id ? *place : nullptr;
}

const ConnectionRecord* Network::RecordOpenedFrom(const SocketAddress& opener, Instant by) const {
  const auto found = std::find_if(records_.rbegin(), records_.rend(), [&](const auto& record) {
    return record->opener == opener && record->opened_at <= by;
  });
  return found == records_.rend() ? nullptr : found->get();
}

// --- Segments

Network::Way& Network::WayTo(Host& from, const TcpAddress& to) {
  if (from.Owns(to)) return ways_[{from.number(), from.number()}];
  const Host* const host = FindHost(to);
  Way& way = ways_[{from.number(), host == nullptr ? kNobody : host->number()}];
  if (host == nullptr) way.path.policy = Path::Policy::kNoNeighbour;
  return way;
}

Duration Network::LatencyTo(Host& from, const TcpAddress& to) {
  return from.Owns(to) ? Duration::zero() : WayTo(from, to).path.latency;
}

int Network::Route(Host& from, const TcpAddress& to) {
  const Path::Policy policy = WayTo(from, to).path.policy;
  if (!IsRoute(policy)) return 0;
  faults_.Hit(KindOf(policy, true));
  return -ErrorOf(policy);
}

int Network::Transmit(Host& from, Segment segment) {
  if (!from.up()) return 0;
  Way& way = WayTo(from, segment.to);
  const bool connects = segment.flags == kSyn;
  const Path& path = way.path;
  const Path::Policy policy = path.syn_only && !connects ? Path::Policy::kForward : path.policy;
  if (policy == Path::Policy::kForward) {
    if (path.loss > 0 && faults_.random().Below(65536) < path.loss) {
      TraceSegment(from, segment, "lost");
      return 0;
    }
    TraceSegment(from, segment, "");
    Forward(from, way, std::move(segment));
    return 0;
  }
  TraceSegment(from, segment, "stopped");
  faults_.Hit(path.icmp_while_owned && connects && segment.owned ? Fault::kSoftIcmpWhileOwned
                                                                 : KindOf(policy, connects));
  if (IsRoute(policy)) return -ErrorOf(policy);
  if (segment.has(kRst)) return 0;  // Nobody answers to a reset.
  if (policy == Path::Policy::kRejectReset) {
    Segment reset;
    reset.from = segment.to;
    reset.to = segment.from;
    reset.flags = kRst | kAck;
    reset.seq = segment.ack;
    reset.ack = segment.end();
    local_.push_back({&from, std::move(reset)});
  } else if (policy == Path::Policy::kNoNeighbour) {
    SayIcmp(from, segment, EHOSTUNREACH, kNeighbourTimeout);
  } else if (policy != Path::Policy::kDrop) {
    const bool owned = path.icmp_while_owned && segment.owned;
    SayIcmp(from, segment, ErrorOf(policy), owned ? Duration::zero() : path.latency);
  }
  return 0;
}

void Network::SayIcmp(Host& to, const Segment& about, int error, Duration delay) {
  Segment message;
  message.from = about.to;
  message.to = about.from;
  message.seq = about.seq;
  message.icmp_error = error;
  message.owned = delay == Duration::zero();
  if (message.owned) {
    local_.push_back({&to, std::move(message)});
    return;
  }
  schedule_.After(delay, [this, host = &to, message = std::move(message)]() mutable {
    Deliver(*host, std::move(message));
  });
}

void Network::Forward(Host& from, Way& way, Segment segment) {
  if (from.Owns(segment.to)) {
    local_.push_back({&from, std::move(segment)});
    return;
  }
  const Path& path = way.path;
  Instant leaves = schedule_.now();
  if (path.bytes_per_second > 0) {
    // The queue before a slow line is finite, and what finds it full is lost.
    if (way.free_at > SaturatingAdd(leaves, kQueueMax)) {
      faults_.Hit(Fault::kSilentLoss);
      return TraceSegment(from, segment, " lost: the queue is full");
    }
    // 64 KiB in nanoseconds fit 64 bits; a line slower than a byte a second would not.
    const std::uint64_t size = segment.payload.size() + kHeaderBytes;
    const std::uint64_t nanoseconds = size * 1'000'000'000 / path.bytes_per_second;
    leaves = SaturatingAdd(std::max(leaves, way.free_at),
                           Duration(static_cast<std::int64_t>(nanoseconds)));
    way.free_at = leaves;
  }
  Instant arrives = SaturatingAdd(leaves, path.latency);
  if (path.jitter > Duration::zero()) {
    const auto most = static_cast<std::uint64_t>(path.jitter.count());
    arrives = SaturatingAdd(arrives,
                            Duration(static_cast<std::int64_t>(faults_.random().Below(most + 1))));
  }
  if (arrives == kNever) return TraceSegment(from, segment, " never arrives");
  arrives = std::max(arrives, way.last_arrival);
  way.last_arrival = arrives;
  schedule_.At(arrives,
               [this, host = FindHost(segment.to), segment = std::move(segment)]() mutable {
                 Deliver(*host, std::move(segment));
               });
}

void Network::Deliver(Host& to, Segment segment) {
  to.Arrive(std::move(segment));
  DrainLocal();
}

void Network::DrainLocal() {
  if (draining_) return;
  draining_ = true;
  while (!local_.empty()) {
    Local next = std::move(local_.front());
    local_.pop_front();
    next.host->Arrive(std::move(next.segment));
  }
  draining_ = false;
}

void Network::TraceSegment(const Host& from, const Segment& segment, const char* fate) {
  const auto size = static_cast<std::int64_t>(segment.payload.size());
  trace_.Mix(from.number(), kTraceSegment + 4 + segment.flags,
             static_cast<std::int64_t>(segment.seq), size * 2 + (*fate == '\0' ? 0 : 1));
  if (!trace_.told()) return;
  // Offsets in the stream instead of sequence numbers, whose upper bits name the connection.
  constexpr std::uint64_t kOffset = (std::uint64_t{1} << 36) - 1;
  std::string line = "tcp " + segment.from.ToString() + " > " + segment.to.ToString();
  if (segment.has(kSyn)) line += " SYN";
  if (segment.has(kFin)) line += " FIN";
  if (segment.has(kRst)) line += " RST";
  if (segment.has(kAck)) line += " ack " + std::to_string(segment.ack & kOffset);
  line += " seq " + std::to_string(segment.seq & kOffset) + " size " + std::to_string(size) +
          " window " + std::to_string(segment.window);
  if (*fate != '\0') line.append(" (").append(fate).append(")");
  trace_.Tell(schedule_.now(), from.name(), line);
}

}  // namespace holdfast::internal::sim
