// The matrix as data: what is done to a network or to a peer, and what a link must tell of it.
//
// A cell is a row of docs/kernel.md's tables (C1: deaths; C3: broken networks), and what it expects is
// what stands there and in tests/data/errors.csv. matrix_test.cc plays it.
#ifndef HOLDFAST_TESTS_NETNS_CELLS_H_
#define HOLDFAST_TESTS_NETNS_CELLS_H_

#include <chrono>
#include <string>
#include <vector>

#include <holdfast/error.h>
#include <holdfast/time.h>

namespace holdfast::test {

// One thing that is done. Texts may say {near} {far} {absent} {beyond} (addresses), {bits} (of their
// network), {ip} ("ip -4" or "ip -6") and {port}, the peer's.
struct Step {
  enum class Do {
    // Network. `text` is a command, a rule of nft(8), or "name=value".
    kNear,
    kFar,
    kNearOut,  // A rule for what leaves the near host, and so on.
    kFarIn,
    kFarOut,
    kUnfilter,  // No rules any more, on either host.
    kNearSysctl,
    kFarSysctl,
    kAwaitNoCarrier,  // The near host has noticed: the kernel takes up to a second to tell itself.
    // This host. `count` sockets that connect to the peer and stay.
    kConnectRaw,
    kNoDescriptors,
    kDescriptors,
    // The link.
    kSend,       // `count` messages of 1000 bytes.
    kFill,       // Messages until the pipe takes no more.
    kAwaitAcks,  // Until the peer's kernel has all.
    // The peer.
    kPeerReads,   // `count` bytes.
    kPeerResets,  // Closes with SO_LINGER 0.
    kPeerCloses,
    kPeerIsKilled,  // SIGKILL, in a process of its own.
  };
  Do what;
  std::string text = {};
  int count = 0;
};
using Steps = std::vector<Step>;

// Which of the families a cell is played with.
enum Families : unsigned { kNoFamily = 0, kV4 = 1, kV6 = 2, kUnix = 4, kBoth = kV4 | kV6 };

// The link must say exactly this, so long after the last step; or, where `error` is none, must be up, and
// not say anything, until `latest`.
struct Expected {
  Error error{};
  Duration earliest{0};
  Duration latest{0};
  // Where the same death may be told to either of two calls.
  Operation or_operation = Operation::kNone;
};

// The messages of the session. kAny: not judged; kSome: at least one.
struct ExpectedAccount {
  static constexpr int kAny = -1;
  static constexpr int kSome = -2;
  int acked = kAny;
  int in_doubt = kAny;
  int unsent = kAny;
};

struct Cell {
  std::string name;
  Families families = kBoth;
  Families smoke = kNoFamily;  // With these it is in `make test`, too.
  std::string target = "{far}";
  std::string bind = "";
  int backlog = 128;  // Of the peer.
  // Of the link's socket; 0 as the kernel has them. Keepalive: after a second, each second, twice.
  int user_timeout_ms = 0;
  int syn_count = 0;
  bool keepalive = false;
  Duration connect_timeout = std::chrono::seconds(20);

  Steps before = {};  // Before the link starts.
  Steps then = {};    // Once it is up.
  Expected expected;
  ExpectedAccount account = {};
  // What SO_ERROR shows of a link that must stay up.
  int soft_error = 0;
  // What a connect would say of the route that there is then, where it says something. An IPv6 connection
  // keeps that as its soft error, and dies with it; an IPv4 one does not (docs/kernel.md 7).
  int route_error = 0;
  // Makes it good again: then the link is up and everything arrives. Nothing: it is not tried.
  Steps heal = {};
};

// Attempts to connect.
[[nodiscard]] const std::vector<Cell>& ConnectCells();
// Trouble of the network that a connection outlives.
[[nodiscard]] const std::vector<Cell>& AliveCells();
// Ends of connections.
[[nodiscard]] const std::vector<Cell>& DeathCells();
// Ends of connections about which ICMP, or the neighbour's silence, had something to say before.
[[nodiscard]] const std::vector<Cell>& SoftDeathCells();

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NETNS_CELLS_H_
