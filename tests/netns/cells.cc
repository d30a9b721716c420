// The cells, in the order of docs/kernel.md. What each expects is from that page and from
// tests/data/errors.csv, never from a run.
//
// Elsewhere: accept(2) without descriptors (ListenerTest), getaddrinfo(3) (ResolverTest), connecting to
// oneself and names of AF_UNIX that nobody listens on (DialerTest), a shortage of memory (FaultTest). Left
// out: UDP, and a second connect(2) on one descriptor, which this library does not use; the 135 s of a
// connect without a deadline, which every connect here has; TCP memory, which needs a memory cgroup.
#include "netns/cells.h"

#include <cerrno>
#include <utility>

namespace holdfast::test {
namespace {

using namespace std::chrono_literals;
using Do = Step::Do;

Step Near(std::string command) { return {Do::kNear, std::move(command)}; }
Step Far(std::string command) { return {Do::kFar, std::move(command)}; }
Step NearOut(std::string rule) { return {Do::kNearOut, std::move(rule)}; }
Step FarIn(std::string rule) { return {Do::kFarIn, std::move(rule)}; }
Step FarOut(std::string rule) { return {Do::kFarOut, std::move(rule)}; }
Step Unfilter() { return {Do::kUnfilter}; }
Step NearSysctl(std::string setting) { return {Do::kNearSysctl, std::move(setting)}; }
Step FarSysctl(std::string setting) { return {Do::kFarSysctl, std::move(setting)}; }
Step ConnectRaw(int count) { return {Do::kConnectRaw, {}, count}; }
Step Send(int count) { return {Do::kSend, {}, count}; }
Step Fill() { return {Do::kFill}; }
Step AwaitAcks() { return {Do::kAwaitAcks}; }
Step PeerReads(int bytes) { return {Do::kPeerReads, {}, bytes}; }
Step PeerResets() { return {Do::kPeerResets}; }
Step PeerCloses() { return {Do::kPeerCloses}; }
Step PeerIsKilled() { return {Do::kPeerIsKilled}; }

// What a slow machine may add to a time that the kernel measures.
constexpr Duration kRoom = 2s;
// Shorter than any timer of a connect.
constexpr Duration kAtOnceMax = 900ms;

Expected AtOnce(const Error& error) { return {error, 0ms, kAtOnceMax}; }
Expected Within(const Error& error, Duration earliest, Duration latest) {
  return {error, earliest, latest + kRoom};
}
Expected Alive(Duration watched = 1100ms) { return {.error = {}, .latest = watched}; }

Error Connect(ErrorClass error_class, int code, Action action = Action::kBackOff) {
  return {Operation::kConnect, error_class, action, code};
}
Error Unreachable(int code) { return Connect(ErrorClass::kUnreachable, code); }
// On an IPv6 socket EADDRNOTAVAIL says that, or that no port is free; nothing tells them apart.
Error NoIpv6Address() {
  return Connect(ErrorClass::kUnreachable, EADDRNOTAVAIL, Action::kNextAddress);
}
Error Receive(ErrorClass error_class, int code) {
  return {Operation::kReceive, error_class, Action::kBackOff, code};
}
Error Reset() { return Receive(ErrorClass::kReset, ECONNRESET); }
Error Eof() { return Receive(ErrorClass::kEof, 0); }
Error TimedOut(int code = ETIMEDOUT) { return Receive(ErrorClass::kTimeout, code); }

// Routes that lead nowhere, and what they say to a connect.
struct Route {
  const char* name;
  const char* add;
  const char* del;
  int error;
};
constexpr Route kRoutes[] = {
    {"UnreachableRoute", "{ip} route add unreachable {far}", "{ip} route del unreachable {far}",
     EHOSTUNREACH},
    {"ProhibitRoute", "{ip} route add prohibit {far}", "{ip} route del prohibit {far}", EACCES},
    {"BlackholeRoute", "{ip} route add blackhole {far}", "{ip} route del blackhole {far}", EINVAL},
    {"ThrowRoute", "{ip} route add throw {far}", "{ip} route del throw {far}", ENETUNREACH},
};

// The rejections that a firewall can send, and what they mean to a connect.
struct Rejection {
  const char* name;
  const char* rule;
  Families family;
  Error connect;
};
const std::vector<Rejection>& Rejections() {
  static const std::vector<Rejection> rejections = {
      {"HostUnreachable", "icmp type host-unreachable", kV4, Unreachable(EHOSTUNREACH)},
      {"HostProhibited", "icmp type host-prohibited", kV4, Unreachable(EHOSTUNREACH)},
      {"AdminProhibited", "icmp type admin-prohibited", kV4, Unreachable(EHOSTUNREACH)},
      {"NetUnreachable", "icmp type net-unreachable", kV4, Unreachable(ENETUNREACH)},
      {"NetProhibited", "icmp type net-prohibited", kV4, Unreachable(ENETUNREACH)},
      {"PortUnreachable", "icmp type port-unreachable", kV4,
       Connect(ErrorClass::kRefused, ECONNREFUSED)},
      {"ProtUnreachable", "icmp type prot-unreachable", kV4, Unreachable(ENOPROTOOPT)},
      {"NoRoute", "icmpv6 type no-route", kV6, Unreachable(ENETUNREACH)},
      {"AddrUnreachable", "icmpv6 type addr-unreachable", kV6, Unreachable(EHOSTUNREACH)},
      {"PortUnreachable", "icmpv6 type port-unreachable", kV6,
       Connect(ErrorClass::kRefused, ECONNREFUSED)},
      {"AdminProhibited", "icmpv6 type admin-prohibited", kV6,
       Connect(ErrorClass::kPermission, EACCES, Action::kBackOffSlow)},
      {"PolicyFail", "icmpv6 type policy-fail", kV6,
       Connect(ErrorClass::kPermission, EACCES, Action::kBackOffSlow)},
      {"RejectRoute", "icmpv6 type reject-route", kV6,
       Connect(ErrorClass::kPermission, EACCES, Action::kBackOffSlow)},
  };
  return rejections;
}
std::string RejectWith(const Rejection& rejection) {
  return std::string("tcp dport {port} reject with ") + rejection.rule;
}

// Where a rejection comes from.
struct Place {
  const char* name;
  Step (*rule)(std::string);
  Families smoke;
};
constexpr Place kOwnFirewall{"OwnFirewall", NearOut, kV4};
constexpr Place kTheirFirewall{"TheirFirewall", FarIn, kV6};

Steps After(Steps first, const Steps& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}
// 10,000 bytes that the peer's kernel has, of which its application has read 3,000, or all.
Steps AfterUnread(const Steps& rest) {
  return After({Send(10), AwaitAcks(), PeerReads(3000)}, rest);
}
Steps AfterAllRead(const Steps& rest) {
  return After({Send(10), PeerReads(10'000), AwaitAcks()}, rest);
}

// A rejection by each, one of each family.
Families InSmokeSet(const Place& place, const Rejection& rejection) {
  const bool refuses = rejection.connect.error_class == ErrorClass::kRefused;
  return refuses && place.smoke == rejection.family ? rejection.family : kNoFamily;
}

const char kDrop[] = "tcp dport {port} drop";
const char kRejectByReset[] = "tcp dport {port} reject with tcp reset";

}  // namespace

const std::vector<Cell>& ConnectCells() {
  static const std::vector<Cell> cells = [] {
    std::vector<Cell> all = {
        {.name = "AFreshNamespaceHasNoRoute",
         .families = kV4,
         .before = {Near("ip link del near0"), Near("ip link set lo down")},
         .expected = AtOnce(Unreachable(ENETUNREACH))},
        {.name = "AFreshNamespaceHasNoAddress",
         .families = kV6,
         .before = {Near("ip link del near0"), Near("ip link set lo down")},
         .expected = AtOnce(NoIpv6Address())},
        {.name = "NoRoute",
         .smoke = kV6,
         .target = "{beyond}",
         .expected = AtOnce(Unreachable(ENETUNREACH))},
        {.name = "OwnLinkDown",
         .before = {Near("ip link set near0 down")},
         .expected = AtOnce(Unreachable(ENETUNREACH)),
         .heal = {Near("ip link set near0 up")}},
        {.name = "TheirLinkDown",
         .before = {Far("ip link set far0 down"), {Do::kAwaitNoCarrier}},
         .expected = Within(Unreachable(EHOSTUNREACH), 2900ms, 3070ms),
         .heal = {Far("ip link set far0 up")}},
        {.name = "TheirLinkDownAndRoutesWithoutCarrierIgnored",
         .before = {NearSysctl("ipv4/conf/all/ignore_routes_with_linkdown=1"),
                    NearSysctl("ipv4/conf/near0/ignore_routes_with_linkdown=1"),
                    NearSysctl("ipv6/conf/all/ignore_routes_with_linkdown=1"),
                    NearSysctl("ipv6/conf/near0/ignore_routes_with_linkdown=1"),
                    Far("ip link set far0 down"),
                    {Do::kAwaitNoCarrier}},
         .expected = AtOnce(Unreachable(ENETUNREACH)),
         .heal = {Far("ip link set far0 up")}},
        {.name = "AbsentHost",
         .target = "{absent}",
         .expected = Within(Unreachable(EHOSTUNREACH), 2900ms, 3070ms)},
        {.name = "OwnFirewallDropsAndOurDeadlineEndsIt",
         .smoke = kV4,
         .connect_timeout = 500ms,
         .before = {NearOut(kDrop)},
         .expected = Within(Error::Deadline(Operation::kConnect), 500ms, 500ms),
         .heal = {Unfilter()}},
        {.name = "TheirFirewallDropsAndOurDeadlineEndsIt",
         .connect_timeout = 2s,
         .before = {FarIn(kDrop)},
         .expected = Within(Error::Deadline(Operation::kConnect), 2s, 2s),
         .heal = {Unfilter()}},
        {.name = "OwnFirewallRejectsByReset",
         .smoke = kV6,
         .before = {NearOut(kRejectByReset)},
         .expected = AtOnce(Connect(ErrorClass::kRefused, ECONNREFUSED)),
         .heal = {Unfilter()}},
        {.name = "TheirFirewallRejectsByReset",
         .before = {FarIn(kRejectByReset)},
         .expected = AtOnce(Connect(ErrorClass::kRefused, ECONNREFUSED)),
         .heal = {Unfilter()}},
        {.name = "UnreachableRoute",
         .before = {Near("{ip} route add unreachable {far}")},
         .expected = AtOnce(Unreachable(EHOSTUNREACH)),
         .heal = {Near("{ip} route del unreachable {far}")}},
        {.name = "ProhibitRoute",
         .smoke = kV4,
         .before = {Near("{ip} route add prohibit {far}")},
         .expected = AtOnce(Connect(ErrorClass::kPermission, EACCES, Action::kBackOffSlow)),
         .heal = {Near("{ip} route del prohibit {far}")}},
        {.name = "BlackholeRoute",
         .smoke = kV6,
         .before = {Near("{ip} route add blackhole {far}")},
         .expected = AtOnce(Unreachable(EINVAL)),
         .heal = {Near("{ip} route del blackhole {far}")}},
        {.name = "ThrowRoute",
         .before = {Near("{ip} route add throw {far}")},
         .expected = AtOnce(Unreachable(ENETUNREACH)),
         .heal = {Near("{ip} route del throw {far}")}},
        {.name = "GatewayWithoutRoute",
         .target = "{beyond}",
         .before = {FarSysctl("ipv4/ip_forward=1"), FarSysctl("ipv6/conf/all/forwarding=1"),
                    Near("{ip} route add {beyond} via {far}")},
         .expected = Within(Unreachable(ENETUNREACH), 0ms, 1020ms)},
        {.name = "GatewayWithUnreachableRoute",
         .families = kV4,
         .target = "{beyond}",
         .before = {FarSysctl("ipv4/ip_forward=1"), Far("{ip} route add unreachable {beyond}"),
                    Near("{ip} route add {beyond} via {far}")},
         .expected = Within(Unreachable(EHOSTUNREACH), 0ms, 1020ms)},
        {.name = "GatewayWithUnreachableRouteAsIpv6SaysIt",
         .families = kV6,
         .target = "{beyond}",
         .before = {FarSysctl("ipv6/conf/all/forwarding=1"),
                    Far("{ip} route add unreachable {beyond}"),
                    Near("{ip} route add {beyond} via {far}")},
         .expected = Within(Unreachable(ENETUNREACH), 0ms, 1020ms)},
        {.name = "SourceThatTheRouteDoesNotTake",
         .families = kV4,
         .bind = "127.0.0.1",
         .expected = AtOnce(Unreachable(EINVAL))},
        {.name = "LinkLocalWithoutScope",
         .families = kV6,
         .target = "fe80::2",
         .expected = AtOnce(Unreachable(EINVAL))},
        {.name = "Broadcast",
         .families = kV4,
         .target = "192.0.2.255",
         .expected = AtOnce(Unreachable(ENETUNREACH))},
        {.name = "EphemeralPortsUsedUp",
         .families = kV4,
         .smoke = kV4,
         .before = {NearSysctl("ipv4/ip_local_port_range=40000 40003"), ConnectRaw(4)},
         .expected = AtOnce(Connect(ErrorClass::kResource, EADDRNOTAVAIL)),
         .heal = {NearSysctl("ipv4/ip_local_port_range=40000 40009")}},
        {.name = "EphemeralPortsUsedUpAsIpv6SaysIt",
         .families = kV6,
         .before = {NearSysctl("ipv4/ip_local_port_range=40000 40003"), ConnectRaw(4)},
         .expected = AtOnce(NoIpv6Address()),
         .heal = {NearSysctl("ipv4/ip_local_port_range=40000 40009")}},
        {.name = "EphemeralPortsUsedUpAndBound",
         .bind = "{near}",
         .before = {NearSysctl("ipv4/ip_local_port_range=40000 40003"), ConnectRaw(4)},
         .expected =
             AtOnce({Operation::kBind, ErrorClass::kLocalAddress, Action::kSurface, EADDRINUSE}),
         .heal = {NearSysctl("ipv4/ip_local_port_range=40000 40009")}},
        {.name = "BacklogFull",
         .backlog = 1,
         .connect_timeout = 2s,
         .before = {ConnectRaw(2)},
         .expected = Within(Error::Deadline(Operation::kConnect), 2s, 2s)},
        {.name = "BacklogFullAndAbortOnOverflow",
         .backlog = 1,
         .connect_timeout = 2s,
         .before = {FarSysctl("ipv4/tcp_abort_on_overflow=1"), ConnectRaw(2)},
         .expected = Within(Error::Deadline(Operation::kConnect), 2s, 2s)},
        {.name = "UnixBacklogFull",
         .families = kUnix,
         .smoke = kUnix,
         .backlog = 1,
         .before = {ConnectRaw(2)},
         .expected = AtOnce(Connect(ErrorClass::kRefused, EAGAIN))},
        {.name = "NoDescriptorLeft",
         .families = static_cast<Families>(kV4 | kUnix),
         .before = {{Do::kNoDescriptors}},
         .expected = AtOnce({Operation::kSocket, ErrorClass::kResource, Action::kBackOff, EMFILE}),
         .heal = {{Do::kDescriptors}}},
        {.name = "BoundToATentativeAddress",
         .families = kV6,
         .bind = "2001:db8::8",
         .before = {Near("ip addr add 2001:db8::8/64 dev near0")},
         .expected =
             AtOnce({Operation::kBind, ErrorClass::kLocalAddress, Action::kSurface, EADDRNOTAVAIL}),
         .heal = {Near("ip addr show dev near0")}},  // Time alone, about 2 s.
        {.name = "Ipv6IsOff",
         .families = kV6,
         .before = {NearSysctl("ipv6/conf/all/disable_ipv6=1")},
         .expected = AtOnce(NoIpv6Address())},
        {.name = "Ipv6IsOffAndBound",
         .families = kV6,
         .bind = "::1",
         .before = {NearSysctl("ipv6/conf/all/disable_ipv6=1")},
         .expected = AtOnce(
             {Operation::kBind, ErrorClass::kLocalAddress, Action::kSurface, EADDRNOTAVAIL})},
        {.name = "UserTimeoutOfAConnect",
         .user_timeout_ms = 500,
         .before = {NearOut(kDrop)},
         .expected = Within(Connect(ErrorClass::kTimeout, ETIMEDOUT), 900ms, 1010ms),
         .heal = {Unfilter()}},
        {.name = "OneRepeatedSyn",
         .syn_count = 1,
         .before = {NearOut(kDrop)},
         .expected = Within(Connect(ErrorClass::kTimeout, ETIMEDOUT), 2900ms, 3060ms),
         .heal = {Unfilter()}},
    };
    for (const Place& place : {kOwnFirewall, kTheirFirewall}) {
      for (const Rejection& rejection : Rejections()) {
        all.push_back({.name = std::string(place.name) + "Rejects" + rejection.name,
                       .families = rejection.family,
                       .smoke = InSmokeSet(place, rejection),
                       .before = {place.rule(RejectWith(rejection))},
                       .expected = Within(rejection.connect, 0ms, 1020ms),
                       .heal = {Unfilter()}});
      }
    }
    return all;
  }();
  return cells;
}

const std::vector<Cell>& AliveCells() {
  static const std::vector<Cell> cells = [] {
    std::vector<Cell> all = {
        {.name = "OwnLinkDown",
         .then = {Near("ip link set near0 down"), Send(5)},
         .expected = Alive(),
         .route_error = ENETUNREACH,
         .heal = {Near("ip link set near0 up")}},
        {.name = "TheirLinkDown",
         .then = {Far("ip link set far0 down"), Send(5)},
         .expected = Alive(6s),
         .soft_error = EHOSTUNREACH,
         .heal = {Far("ip link set far0 up")}},
        {.name = "LinkDeleted",
         .then = {Near("ip link del near0"), Send(5)},
         .expected = Alive(),
         .route_error = ENETUNREACH},
        {.name = "OwnAddressRemoved",
         .then = {Near("ip addr del {near}/{bits} dev near0"), Send(5)},
         .expected = Alive(),
         .route_error = ENETUNREACH,
         .heal = {Near("ip addr add {near}/{bits} dev near0")}},
        {.name = "OwnFirewallDrops",
         .then = {NearOut(kDrop), Send(5)},
         .expected = Alive(),
         .heal = {Unfilter()}},
        {.name = "TheirFirewallDrops",
         .then = {FarIn(kDrop), Send(5)},
         .expected = Alive(),
         .heal = {Unfilter()}},
    };
    for (const Route& route : kRoutes) {
      all.push_back({.name = route.name,
                     .then = {Near(route.add), Send(5)},
                     .expected = Alive(),
                     .route_error = route.error,
                     .heal = {Near(route.del)}});
    }
    for (const Place& place : {kOwnFirewall, kTheirFirewall}) {
      for (const Rejection& rejection : Rejections()) {
        all.push_back({.name = std::string(place.name) + "Rejects" + rejection.name,
                       .families = rejection.family,
                       .smoke = static_cast<Families>(InSmokeSet(place, rejection) & kV6),
                       .then = {place.rule(RejectWith(rejection)), Send(5)},
                       .expected = Alive(),
                       .soft_error = rejection.connect.code,
                       .heal = {Unfilter()}});
      }
    }
    return all;
  }();
  return cells;
}

const std::vector<Cell>& DeathCells() {
  static const std::vector<Cell> cells = [] {
    std::vector<Cell> all = {
        // --- By the peer (C1).
        {.name = "LingerZeroWithBytesUnread",
         .smoke = kV4,
         .then = AfterUnread({PeerResets()}),
         .expected = AtOnce(Reset()),
         .account = {10, 0, 0}},
        {.name = "CloseWithBytesUnread",
         .then = AfterUnread({PeerCloses()}),
         .expected = AtOnce(Reset()),
         .account = {10, 0, 0}},
        {.name = "KilledWithBytesUnread",
         .then = AfterUnread({PeerIsKilled()}),
         .expected = AtOnce(Reset()),
         .account = {10, 0, 0}},
        {.name = "UnixCloseWithBytesUnread",
         .families = kUnix,
         .then = {Send(10), PeerReads(3000), PeerCloses()},
         .expected = AtOnce(Reset()),
         .account = {0, 10, 0}},
        {.name = "UnixKilledWithAllRead",
         .families = kUnix,
         .smoke = kUnix,
         .then = {Send(10), PeerReads(10'000), PeerIsKilled()},
         .expected = AtOnce(Eof()),
         .account = {0, 10, 0}},
        {.name = "ResetWithAFullSendBuffer",
         .then = {Fill(), PeerResets()},
         .expected = {Reset(), 0ms, kAtOnceMax, Operation::kSend},
         .account = {.acked = ExpectedAccount::kSome, .unsent = ExpectedAccount::kSome}},
        {.name = "KilledWithAllReadAndThenWrittenTo",
         .then = AfterAllRead({PeerIsKilled(), Send(1)}),
         .expected = AtOnce(Eof()),
         .account = {.acked = 10}},
        {.name = "FinAndThenWrittenTo",
         .then = AfterAllRead({PeerCloses(), Send(5)}),
         .expected = AtOnce(Eof()),
         .account = {.acked = 10}},
        {.name = "AcknowledgementsLostAndReset",
         .smoke = kV6,
         .then = {Send(1), PeerReads(1000), AwaitAcks(),
                  FarOut("tcp sport {port} tcp flags & rst == 0 drop"), Send(10), PeerReads(10'000),
                  PeerResets()},
         .expected = AtOnce(Reset()),
         .account = {1, 10, 0}},
        {.name = "AcknowledgementsLostAndFin",
         .then = {Send(1), PeerReads(1000), AwaitAcks(),
                  FarOut("tcp sport {port} tcp flags & (fin|rst) == 0 drop"), Send(10),
                  PeerReads(10'000), PeerCloses()},
         .expected = AtOnce(Eof()),
         .account = {11, 0, 0}},
        {.name = "PeerRebootedAndThenWrittenTo",
         .then = AfterAllRead({FarOut("tcp sport {port} drop"), PeerResets(), Unfilter(), Send(1)}),
         .expected = AtOnce(Reset()),
         .account = {10, 1, 0}},
        {.name = "PeerDoesNotRead",
         .user_timeout_ms = 1000,
         .then = {Fill()},
         .expected = {TimedOut(), 900ms, 1270ms + kRoom, Operation::kSend},
         .account = {.unsent = ExpectedAccount::kSome}},
        // --- By the network (C1 and C3).
        // Until this host has noticed, veth(4) gives packets back, and they are unsent; then they are lost in
        // a queue that takes everything.
        {.name = "TheirLinkDown",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({Far("ip link set far0 down"), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {.acked = 10},
         .heal = {Far("ip link set far0 up")}},
        {.name = "TheirLinkDownAndNoticed",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({Far("ip link set far0 down"), {Do::kAwaitNoCarrier}, Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {10, 5, 0},
         .heal = {Far("ip link set far0 up")}},
        {.name = "OwnLinkDown",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({Near("ip link set near0 down"), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1230ms),
         .account = {10, 0, 5},
         .route_error = ENETUNREACH,
         .heal = {Near("ip link set near0 up")}},
        {.name = "TheirFirewallDrops",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({FarIn(kDrop), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {10, 5, 0},
         .heal = {Unfilter()}},
        {.name = "OwnFirewallDrops",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({NearOut(kDrop), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {.acked = 10},
         .heal = {Unfilter()}},
        {.name = "DropsWhileIdleAndKeepaliveFindsIt",
         .keepalive = true,
         .then = AfterAllRead({FarIn(kDrop)}),
         .expected = Within(TimedOut(), 1s, 3s),
         .account = {10, 0, 0},
         .heal = {Unfilter()}},
        {.name = "LinkDeleted",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({Near("ip link del near0"), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {.acked = 10},
         .route_error = ENETUNREACH},
        {.name = "OwnAddressRemoved",
         .user_timeout_ms = 1000,
         .then = AfterAllRead({Near("ip addr del {near}/{bits} dev near0"), Send(5)}),
         .expected = Within(TimedOut(), 1s, 1440ms),
         .account = {.acked = 10},
         .route_error = ENETUNREACH,
         .heal = {Near("ip addr add {near}/{bits} dev near0")}},
        {.name = "OwnFirewallRejectsByReset",
         .smoke = kV6,
         .then = AfterAllRead({NearOut(kRejectByReset), Send(1)}),
         .expected = AtOnce(Reset()),
         .account = {.acked = 10},
         .heal = {Unfilter()}},
        {.name = "TheirFirewallRejectsByReset",
         .then = AfterAllRead({FarIn(kRejectByReset), Send(1)}),
         .expected = AtOnce(Reset()),
         .account = {.acked = 10},
         .heal = {Unfilter()}},
        {.name = "DestroyedByAnAdministrator",
         .smoke = kV6,
         .then = AfterAllRead({Near("ss -K -t dport = {port}")}),
         .expected = AtOnce(Receive(ErrorClass::kReset, ECONNABORTED)),
         .account = {10, 0, 0}},
    };
    for (const Route& route : kRoutes) {
      all.push_back({.name = route.name,
                     .smoke = route.error == EINVAL ? kV6 : kNoFamily,
                     .user_timeout_ms = 1000,
                     .then = AfterAllRead({Near(route.add), Send(5)}),
                     .expected = Within(TimedOut(), 1s, 1440ms),
                     .account = {.acked = 10},
                     .route_error = route.error,
                     .heal = {Near(route.del)}});
    }
    return all;
  }();
  return cells;
}

const std::vector<Cell>& SoftDeathCells() {
  static const std::vector<Cell> cells = [] {
    std::vector<Cell> all = {
        {.name = "TheirLinkDownForSoLongThatTheNeighbourIsGivenUp",
         .user_timeout_ms = 4500,
         .then = {Far("ip link set far0 down"), Send(5)},
         .expected = Within(TimedOut(EHOSTUNREACH), 3s, 4500ms + 1s),
         .account = {.acked = 0},
         .heal = {Far("ip link set far0 up")}},
    };
    for (const Place& place : {kOwnFirewall, kTheirFirewall}) {
      for (const Rejection& rejection : Rejections()) {
        all.push_back({.name = std::string(place.name) + "Rejects" + rejection.name,
                       .families = rejection.family,
                       .smoke = InSmokeSet(place, rejection),
                       .user_timeout_ms = 1000,
                       .then = {place.rule(RejectWith(rejection)), Send(5)},
                       .expected = Within(TimedOut(rejection.connect.code), 1s, 1440ms),
                       .account = {.acked = 0},
                       .heal = {Unfilter()}});
      }
    }
    return all;
  }();
  return cells;
}

}  // namespace holdfast::test
