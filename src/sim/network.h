// Hosts and what lies between them: latency, bandwidth, loss, partitions, and routers that say no.
//
// A segment that is sent on a path arrives after the path's latency, behind what was sent on it
// before (first in, first out, unless it is lost). A lost one is gone: TCP finds out by its timer,
// so that loss is seen as a stall, as by a user of TCP. What a router or a firewall says instead of
// forwarding comes back as an ICMP message or at once as the error of a route (docs/kernel.md C3).
//
// Loopback (an address of the host itself) has no latency: what is sent has arrived when the call
// returns.
#ifndef HOLDFAST_SIM_NETWORK_H_
#define HOLDFAST_SIM_NETWORK_H_

#include <netinet/in.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <holdfast/endpoint.h>
#include <holdfast/time.h>

#include "sim/delays.h"
#include "sim/faults.h"
#include "sim/file.h"
#include "sim/schedule.h"
#include "sim/segment.h"
#include "sim/trace.h"

namespace holdfast::internal::sim {

class Network;
class TcpStack;   // tcp.h: the connections and listeners of a host.
class UnixNames;  // unix_socket.h: the AF_UNIX names of a host.

class Host {
 public:
  Host(Network& network, std::uint32_t number, std::string name,
       std::vector<SocketAddress> addresses);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  ~Host();

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint32_t number() const noexcept { return number_; }
  // Port 0; beside 127.0.0.0/8 and ::1, which every host has.
  [[nodiscard]] const std::vector<SocketAddress>& addresses() const noexcept { return addresses_; }
  [[nodiscard]] bool Owns(const SocketAddress& address) const noexcept;
  [[nodiscard]] bool Owns(const TcpAddress& address) const noexcept;
  // The address to send from to `to`; false when there is none of its family.
  [[nodiscard]] bool SourceFor(const TcpAddress& to, TcpAddress* source) const noexcept;
  [[nodiscard]] Network& network() noexcept { return network_; }
  [[nodiscard]] TcpStack& tcp() noexcept { return *tcp_; }
  [[nodiscard]] UnixNames& unix_names() noexcept { return *unix_; }

  // Power lost: connections and listeners are gone, and nobody is told. Segments for it vanish
  // while it is down; once it is up again (Boot) they are answered by a RST.
  void Crash();
  // From the network. Vanishes where the host is down.
  void Arrive(Segment segment);
  void Boot() noexcept { up_ = true; }
  // When something had happened that a process here was not told yet: completions that are late and out
  // of order, calls that say EAGAIN although they need not, descriptors that a child holds.
  void NoteHeldBack(Duration duration);
  [[nodiscard]] const Delays& held_back() const noexcept { return held_back_; }
  [[nodiscard]] bool up() const noexcept { return up_; }

  // The range that connect(2) draws local ports from.
  void SetEphemeralPorts(std::uint16_t first, std::uint16_t last) noexcept {
    port_first_ = first;
    port_last_ = last;
  }
  [[nodiscard]] std::uint16_t port_first() const noexcept { return port_first_; }
  [[nodiscard]] std::uint16_t port_last() const noexcept { return port_last_; }

 private:
  Network& network_;
  const std::uint32_t number_;
  const std::string name_;
  const std::vector<SocketAddress> addresses_;
  bool up_ = true;
  std::uint16_t port_first_ = 32768;
  std::uint16_t port_last_ = 60999;
  Delays held_back_;
  std::unique_ptr<TcpStack> tcp_;
  std::unique_ptr<UnixNames> unix_;
};

// One direction between two hosts.
struct Path {
  // What becomes of a segment (or only of a SYN: `syn_only`) that is sent here.
  enum class Policy : std::uint8_t {
    kForward,
    kDrop,              // A partition, a firewall that says nothing.
    kRejectReset,       // nft reject with tcp reset: ECONNREFUSED, ECONNRESET.
    kIcmpHost,          // EHOSTUNREACH
    kIcmpNet,           // ENETUNREACH
    kIcmpPort,          // ECONNREFUSED
    kIcmpProtocol,      // ENOPROTOOPT
    kRouteUnreachable,  // The sender's own routing table, at once: EHOSTUNREACH
    kRouteProhibit,     // EACCES
    kRouteBlackhole,    // EINVAL
    kRouteThrow,        // ENETUNREACH
    kNoNeighbour,       // Nobody answers ARP: EHOSTUNREACH after 3.07 s
  };
  Policy policy = Policy::kForward;
  bool syn_only = false;
  // ICMP reaches the sender while its connect holds the socket: res 0 in SYN_SENT over a ring, and
  // a soft error that becomes hard 1.02 s later (docs/kernel.md 1, C3). Else at once and hard.
  bool icmp_while_owned = false;
  Duration latency{std::chrono::microseconds(100)};
  Duration jitter{0};                  // Uniform on top; never reorders.
  std::uint64_t bytes_per_second = 0;  // 0: no limit.
  std::uint32_t loss = 0;              // Of 65,536 segments.

  // For every segment, and ICMP at once.
  void SetPolicy(Policy of_all) noexcept {
    policy = of_all;
    syn_only = icmp_while_owned = false;
  }
};

// What became of the bytes of one connection, as somebody knows who sees both kernels: the oracle
// of the checkers. Index 0 is the side that opened, index 1 the one that accepted. Bytes, without
// SYN and FIN. Stays when both ends are gone.
struct ConnectionRecord {
  std::uint64_t id = 0;  // Of a world, by the order of the connects; gaps where one failed.
  Instant opened_at{};   // When the first of the two sides was connected.
  SocketAddress opener;
  SocketAddress acceptor;
  std::array<std::uint64_t, 2> sent{};  // Taken by this side's kernel.
  std::array<std::uint64_t, 2>
      received_by_kernel{};                 // By this side's kernel, or a box before it, in order.
  std::array<std::uint64_t, 2> readable{};  // Handed to this side's socket.
  std::array<std::uint64_t, 2> read_by_application{};  // On this side.
  std::array<std::uint64_t, 2> transmitted{};  // Handed to the network at least once, by this side.
  std::array<std::uint64_t, 2> acked{};        // As this side's kernel knows.
  std::array<Instant, 2> last_ack_at{};  // The last segment that said so much, or nothing new.
  std::array<Instant, 2> fin_at{kNever, kNever};    // The peer's FIN came to this side's kernel,
  std::array<Instant, 2> reset_at{kNever, kNever};  // or a RST.
  std::array<bool, 2> ended{};                      // This side's state is CLOSE.
};

class Network {
 public:
  Network(Schedule& schedule, FaultPlan& faults, Trace& trace) noexcept
      : schedule_(schedule), faults_(faults), trace_(trace) {}
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  ~Network();

  [[nodiscard]] Schedule& schedule() noexcept { return schedule_; }
  [[nodiscard]] FaultPlan& faults() noexcept { return faults_; }
  [[nodiscard]] Trace& trace() noexcept { return trace_; }

  // Without addresses: 10.0.0.N and fd00::N, in the order of the calls.
  Host& AddHost(std::string name, std::vector<SocketAddress> addresses = {});
  [[nodiscard]] std::size_t hosts() const noexcept { return hosts_.size(); }
  [[nodiscard]] Host& host(std::size_t index) noexcept { return *hosts_[index]; }
  // Null: nobody has this address. Loopback addresses are nobody's here.
  [[nodiscard]] Host* FindHost(const SocketAddress& address) noexcept;
  [[nodiscard]] Host* FindHost(const TcpAddress& address) noexcept;

  // The path from one host to another, made on first use. Changes hold for what is sent from then
  // on. From a host to itself the latency is 0 whatever stands here, but the policy holds.
  [[nodiscard]] Path& path(const Host& from, const Host& to) {
    return ways_[{from.number(), to.number()}].path;
  }
  void SetPolicy(const Host& from, const Host& to, Path::Policy policy);
  // Both ways, or one: kDrop.
  void Partition(Host& a, Host& b);
  void PartitionOneWay(Host& from, Host& to) { SetPolicy(from, to, Path::Policy::kDrop); }
  void Heal(Host& a, Host& b);
  void HealAll();

  // Off (at first) costs nothing; on, every connection that is opened from now on leaves a record.
  void KeepRecords(bool keep) noexcept { keep_records_ = keep; }
  // In the order in which the connections were opened.
  [[nodiscard]] const std::vector<std::shared_ptr<ConnectionRecord>>& records() const noexcept {
    return records_;
  }
  // Of the last one that was opened from this address by then. Null: none was.
  [[nodiscard]] const ConnectionRecord* RecordOpenedFrom(const SocketAddress& opener,
                                                         Instant by) const;

  // --- For the TCP stacks.
  // The segment goes on its way. -errno when a route of the sender refuses it at once.
  int Transmit(Host& from, Segment segment);
  // -errno when a route of `from` refuses `to` at once.
  [[nodiscard]] int Route(Host& from, const TcpAddress& to);
  // Delivers what hosts sent to themselves: at the end of every call and event of a stack, and
  // nowhere inside, as the softirq that runs when a socket is let go. Nested calls do nothing.
  void DrainLocal();
  // A number for a new connection.
  [[nodiscard]] std::uint64_t NextConnection() noexcept { return ++connections_; }
  // The record of a connection that opens, or null.
  [[nodiscard]] std::shared_ptr<ConnectionRecord> NewRecord(std::uint64_t id,
                                                            const TcpTuple& tuple);
  [[nodiscard]] std::shared_ptr<ConnectionRecord> RecordOf(std::uint64_t id) const;
  // The latency of the path, for what answers on it.
  [[nodiscard]] Duration LatencyTo(Host& from, const TcpAddress& to);

 private:
  // A path and what is on it.
  struct Way {
    Path path = {};
    Instant free_at = Instant::min();       // Its sender's line is busy until then.
    Instant last_arrival = Instant::min();  // Nothing arrives before what was sent earlier.
  };
  using Ip = std::array<std::uint8_t, 16>;

  [[nodiscard]] Way& WayTo(Host& from, const TcpAddress& to);
  void Forward(Host& from, Way& way, Segment segment);
  void Deliver(Host& to, Segment segment);
  void SayIcmp(Host& to, const Segment& about, int error, Duration delay);
  void TraceSegment(const Host& from, const Segment& segment, const char* fate);

  Schedule& schedule_;
  FaultPlan& faults_;
  Trace& trace_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::unordered_map<Ip, Host*, TcpIpHash> hosts_by_ip_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Way> ways_;
  struct Local {
    Host* host;
    Segment segment;
  };
  std::deque<Local> local_;
  bool draining_ = false;
  std::uint64_t connections_ = 0;
  bool keep_records_ = false;
  std::vector<std::shared_ptr<ConnectionRecord>> records_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_NETWORK_H_
