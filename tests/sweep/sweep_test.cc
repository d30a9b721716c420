// Every row of the error table that a link, a listener or a stream can meet, made to happen: by each
// backend, to each side, at the 1st, 2nd, middle and last time that the call is made, and for good.
//
// What is expected is the row itself. A code that is to be retried in place or ignored is told to nobody;
// any other is told with exactly the operation, class, action and code of its row. Either way all bytes
// arrive in the end, nothing is left behind, and the loop does not spin meanwhile. What cannot be reached
// stands in kUnreached with the reason, and nothing else may.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "core/error_table.h"
#include "sweep/scenario.h"

namespace holdfast::test {
namespace {

using internal::Call;
using internal::Classify;
using internal::CodeText;
using internal::Detail;
using internal::Entry;
using internal::Fault;
using internal::FaultKernel;
using internal::FaultMode;
using internal::FindInTables;
using internal::KernelCall;
using internal::kErrorTable;
using internal::kForever;
using internal::OperationOf;
using internal::RingFault;
using internal::RingOp;
using internal::Row;

// Why no fault of this sweep brings a row about. Checked in both directions.
struct Unreached {
  Row row;
  const char* why;
};
constexpr const char* kEvents = "never looked up: what an event says is asked of the socket";
constexpr const char* kFacts =
    "never looked up: SO_ERROR and getpeername say more, and are believed";
constexpr const char* kCancel =
    "only with a completion in place of the cancel, which would leave running what it ends; "
    "uring_test has the real ones";
constexpr const char* kShadowed = "the rows of accept, connect, recv and send answer for it first";
constexpr Unreached kUnreached[] = {
    {{Call::kConnectResult, 0, Detail::kSynSent}, kFacts},
    {{Call::kConnectResult, 0, Detail::kSelfConnect},
     "made by the kernel alone: dialer_test does it"},
    {{Call::kRecv, EAGAIN}, "said of a socket that has bytes it costs the edge, as no kernel does"},
    {{Call::kEpollEvent, EPOLLERR}, kEvents},
    {{Call::kEpollEvent, EPOLLERR | EPOLLHUP}, kEvents},
    {{Call::kEpollEvent, EPOLLRDHUP | EPOLLIN}, kEvents},
    {{Call::kCqeAny, EBADF}, kShadowed},
    {{Call::kCqeAny, ENOTSOCK}, kShadowed},
    {{Call::kCqeAny, EFAULT}, kShadowed},
    {{Call::kCqeConnect, 0, Detail::kSynSent}, kFacts},
    {{Call::kCqeRecv, 0, Detail::kCloseWait},
     "never looked up: both backends ask the rows of recv how a stream ended"},
    {{Call::kCqeCancel, 0}, kCancel},
    {{Call::kCqeCancel, ENOENT}, kCancel},
    {{Call::kCqeCancel, EALREADY}, kCancel},
};

const Unreached* FindUnreached(const Row& row) {
  for (const Unreached& unreached : kUnreached) {
    if (unreached.row == row) return &unreached;
  }
  return nullptr;
}

// How a code is brought about, and which call the library asks the table for then.
struct Injection {
  Call asked{};
  std::optional<Fault> fault = std::nullopt;
  std::optional<RingFault> ring_fault = std::nullopt;

  int Into(FaultKernel& kernel, std::uint64_t first, std::uint64_t count) const {
    if (fault.has_value()) {
      Fault one = *fault;
      one.first = first;
      one.count = count;
      return kernel.Inject(one);
    }
    RingFault one = *ring_fault;
    one.first = first;
    one.count = count;
    return kernel.InjectRingOp(one);
  }
};

Injection ByCall(Call asked, KernelCall call, int code, FaultMode mode = FaultMode::kReplace) {
  return {asked, Fault{.call = call, .result = -code, .mode = mode}};
}

Injection ByRing(Call asked, RingOp op, int code) {
  return {asked, std::nullopt, RingFault{.op = op, .result = -code}};
}

// Through SO_ERROR alone: the other options of a socket are asked for figures, which may be missing.
Injection BySocketError(Call asked, int result, int outcome) {
  return {asked, Fault{.call = KernelCall::kGetSockOpt,
                       .result = -result,
                       .level = SOL_SOCKET,
                       .request = SO_ERROR,
                       .outcome = outcome}};
}

// The handshake goes on whatever these say, so the real call is made.
bool GoesOn(int code) {
  return code == 0 || code == EINTR || code == EINPROGRESS || code == EAGAIN;
}

std::optional<Injection> ByCompletion(const Row& row) {
  switch (row.call) {
    case Call::kConnect:
    case Call::kConnectResult:
    case Call::kCqeConnect:
      return ByRing(Call::kCqeConnect, RingOp::kConnect, row.code);
    case Call::kAccept4:
    case Call::kCqeAccept:
      return ByRing(Call::kCqeAccept, RingOp::kAccept, row.code);
    case Call::kSend:
    case Call::kCqeSend:
      return ByRing(Call::kCqeSend, RingOp::kSend, row.code);
    case Call::kRecv:
    case Call::kCqeRecv:
      return ByRing(Call::kCqeRecv, RingOp::kRecv, row.code);
    case Call::kCqeAny:
      // The first operation whose own rows say nothing of this code.
      for (const auto& [call, op] : {std::pair{Call::kCqeRecv, RingOp::kRecv},
                                     {Call::kCqeSend, RingOp::kSend},
                                     {Call::kCqeAccept, RingOp::kAccept},
                                     {Call::kCqeConnect, RingOp::kConnect}}) {
        const Entry* const entry = FindInTables({call, row.code});
        if (entry != nullptr && entry->row.call == Call::kCqeAny) return ByRing(call, op, row.code);
      }
      // Asked for again.
      return ByRing(Call::kCqeCancel, RingOp::kAsyncCancel, row.code);
    default:
      return std::nullopt;
  }
}

std::optional<Injection> BySystemCall(const Row& row, BackendKind backend) {
  const int code = row.code;
  switch (row.call) {
    case Call::kSocket:
      return ByCall(row.call, KernelCall::kSocket, code);
    case Call::kBind:
      return ByCall(row.call, KernelCall::kBind, code);
    case Call::kListen:
      return ByCall(row.call, KernelCall::kListen, code);
    case Call::kShutdown:
      return ByCall(row.call, KernelCall::kShutdown, code);
    case Call::kClose:
      return ByCall(row.call, KernelCall::kClose, code);
    case Call::kGetpeername:
      return ByCall(row.call, KernelCall::kGetPeerName, code);
    case Call::kGetaddrinfo: {
      Injection injection = ByCall(row.call, KernelCall::kGetAddrInfo, -code);
      if (row.detail == Detail::kLocalExhaustion) injection.fault->outcome = EMFILE;
      if (row.detail == Detail::kMalformedName) injection.fault->outcome = EINVAL;
      return injection;
    }
    case Call::kSetsockopt:
      return ByCall(row.call, KernelCall::kSetSockOpt, code);
    case Call::kIoUringEnter:
      if (backend == BackendKind::kEpoll) return std::nullopt;
      return ByCall(row.call, KernelCall::kRingEnter, code);
    default:
      break;
  }
  if (backend == BackendKind::kUring) return std::nullopt;
  switch (row.call) {
    case Call::kConnect:
      return ByCall(row.call, KernelCall::kConnect, code,
                    GoesOn(code) ? FaultMode::kAfter : FaultMode::kReplace);
    case Call::kConnectResult:
      if (code == 0) return std::nullopt;
      return BySocketError(row.call, 0, code);
    case Call::kGetsockopt:
      return BySocketError(row.call, code, 0);
    case Call::kAccept4:
      return ByCall(row.call, KernelCall::kAccept4, code);
    case Call::kSend:
      return ByCall(row.call, KernelCall::kSend, code);
    case Call::kRecv:
      return ByCall(row.call, KernelCall::kRecv, code);
    case Call::kEpollCtl:
      return ByCall(row.call, KernelCall::kEpollCtl, code);
    case Call::kEpollWait:
      return ByCall(row.call, KernelCall::kEpollWait, code);
    default:
      return std::nullopt;
  }
}

std::optional<Injection> HowToInject(const Row& row, BackendKind backend) {
  if (FindUnreached(row) != nullptr) return std::nullopt;
  // Ends in good order: nobody has to inject them.
  const bool receives = row.call == Call::kRecv || row.call == Call::kCqeRecv;
  if (receives && row.code == 0 && row.detail != Detail::kClosed) return std::nullopt;
  // connect(2) is asked for an AF_UNIX socket by both.
  if (row.detail == Detail::kUnix) return ByCall(row.call, KernelCall::kConnect, row.code);
  if (auto injection = BySystemCall(row, backend)) return injection;
  return backend == BackendKind::kUring ? ByCompletion(row) : std::nullopt;
}

enum class Side { kLink, kListener };
enum class Position { kFirst, kSecond, kMiddle, kLast, kPersistent };
constexpr Position kPositions[] = {Position::kFirst, Position::kSecond, Position::kMiddle,
                                   Position::kLast, Position::kPersistent};

// Must it be told, may it be, or must it not?
enum class Telling { kMustNot, kMay, kMust };

struct Case {
  const Entry* entry;  // The row that answers.
  Injection injection;
  BackendKind backend;
  Side side;
  Position position;
  std::uint64_t occurrences;

  // The fault struck the last call that this life made, so less may be told.
  [[nodiscard]] Case AsLast() const {
    Case last = *this;
    if (!persistent()) last.position = Position::kLast;
    return last;
  }
  [[nodiscard]] bool persistent() const { return position == Position::kPersistent; }
  [[nodiscard]] std::uint64_t first() const {
    switch (position) {
      case Position::kFirst:
      case Position::kPersistent:
        return 1;
      case Position::kSecond:
        return 2;
      case Position::kMiddle:
        return (occurrences + 1) / 2;
      case Position::kLast:
        break;
    }
    return occurrences;
  }
  [[nodiscard]] std::string Text() const {
    static constexpr const char* kNames[] = {"first", "second", "middle", "last", "persistent"};
    return std::string(ToString(injection.asked)) + " " + CodeText(entry->row) + " " +
           std::string(ToString(entry->row.detail)) +
           (side == Side::kLink ? " link " : " listener ") +
           (backend == BackendKind::kUring ? "uring " : "epoll ") +
           kNames[static_cast<int>(position)] + " of " + std::to_string(occurrences);
  }
};

Family FamilyOf(const Entry& entry) {
  if (entry.row.detail == Detail::kUnix) return Family::kUnix;
  return entry.row.detail == Detail::kIpv6 ? Family::kInet6 : Family::kInet;
}

std::unique_ptr<Life> MakeLife(Loop& loop, Side side, const Entry& entry) {
  if (side == Side::kListener) return std::make_unique<ListenerLife>(loop, FamilyOf(entry));
  const bool named = entry.row.call == Call::kGetaddrinfo;
  return std::make_unique<LinkLife>(loop, FamilyOf(entry),
                                    named ? LinkLife::Naming::kName : LinkLife::Naming::kAddress);
}

std::unique_ptr<Life> MakeFullLife(Loop& loop, Side side) {
  if (side == Side::kListener) {
    return std::make_unique<ListenerLife>(loop, Family::kInet, Manner::kFull);
  }
  return std::make_unique<LinkLife>(loop, Family::kInet, LinkLife::Naming::kAddress, Manner::kFull);
}

// How the row's answer is told.
Error ExpectedError(const Case& c) {
  const int code = c.entry->row.code;
  switch (c.injection.asked) {
    case Call::kCqeConnect:
      // The injected completion made no connection. That is verified, and SO_ERROR has no reason
      // (docs/kernel.md 1).
      if (GoesOn(code))
        return {Operation::kConnect, ErrorClass::kReset, Action::kBackOff, ENOTCONN};
      // Nobody here ends a handshake, so it was the peer (machine/death.h).
      if (c.entry->error_class == ErrorClass::kCancelled) {
        return Classify(Call::kConnectResult, code);
      }
      break;
    case Call::kShutdown:
      // Already dead, and nobody says of what.
      if (code == ENOTCONN) return Classify(Call::kRecv, 0, Detail::kClosed);
      break;
    case Call::kGetaddrinfo:
      if (code == EAI_SYSTEM)
        return {Operation::kResolve, ErrorClass::kResource, Action::kBackOff, code};
      if (c.injection.fault->outcome != 0) {
        return {Operation::kResolve, c.entry->error_class, c.entry->action,
                c.injection.fault->outcome};
      }
      break;
    case Call::kGetpeername:
      if (code == ENOTCONN)
        return {Operation::kConnect, ErrorClass::kReset, Action::kBackOff, code};
      break;
    default:
      break;
  }
  return {OperationOf(c.injection.asked), c.entry->error_class, c.entry->action, code};
}

Telling ExpectedTelling(const Case& c) {
  const Entry& entry = *c.entry;
  const bool link = c.side == Side::kLink;
  switch (c.injection.asked) {
    case Call::kClose:
    case Call::kEpollWait:
    case Call::kIoUringEnter:
    case Call::kCqeCancel:
      return Telling::kMustNot;  // Nothing is done about these answers.
    case Call::kGetpeername:
      return link ? Telling::kMust : Telling::kMustNot;  // A stream asks for its name alone.
    case Call::kCqeConnect:
      if (GoesOn(entry.row.code) || entry.error_class == ErrorClass::kCancelled) {
        return Telling::kMust;
      }
      break;
    case Call::kShutdown:
      return Telling::kMay;  // It is over anyhow.
    case Call::kSetsockopt:
      // Of an accepted socket nothing is told: what is wrong shows in its first receive.
      if (entry.action == Action::kIgnore) return Telling::kMustNot;
      return link || c.position == Position::kFirst || c.persistent() ? Telling::kMust
                                                                      : Telling::kMay;
    case Call::kEpollCtl:
    case Call::kConnectResult:
    case Call::kGetsockopt:
      // Later ones may be a registration that does no harm, or the figures of the end.
      return c.position == Position::kFirst || c.persistent() ? Telling::kMust : Telling::kMay;
    default:
      break;
  }
  const bool last = c.position == Position::kLast;
  const bool receives = c.injection.asked == Call::kRecv;
  if (receives && (last || (!link && c.position == Position::kMiddle))) {
    return Telling::kMay;  // It is closed, and reads to the end only.
  }
  if (entry.error_class == ErrorClass::kTryAgain || entry.action == Action::kIgnore ||
      entry.error_class == ErrorClass::kNone) {
    return Telling::kMustNot;
  }
  if (entry.action == Action::kRetryInPlace) {
    const bool shortage = entry.error_class == ErrorClass::kResource;
    return shortage && c.persistent() ? Telling::kMust : Telling::kMustNot;
  }
  return Telling::kMust;
}

// EPIPE says that another call has the reason; when none has, the end has no code.
bool Agrees(const Error& told, const Error& expected) {
  if (expected.code == EPIPE) {
    return told.error_class == expected.error_class && told.action == expected.action;
  }
  return told == expected;
}

void CheckTold(const Case& c, const Life& life) {
  const Error expected = ExpectedError(c);
  for (const Error& error : life.told()) {
    EXPECT_TRUE(Agrees(error, expected))
        << c.Text() << ": " << error.ToString() << " " << ToString(error.error_class) << " "
        << ToString(error.action);
  }
  for (const absl::Status& status : life.refused()) {
    EXPECT_EQ(status, expected.ToStatus()) << c.Text();
  }
  const std::size_t told = life.told().size() + life.refused().size();
  if (ExpectedTelling(c) == Telling::kMust) {
    EXPECT_GE(told, 1u) << c.Text();
  }
  if (ExpectedTelling(c) == Telling::kMustNot) {
    EXPECT_EQ(told, 0u) << c.Text();
  }
  if (expected.IsTemporary()) {
    EXPECT_EQ(life.permanent_ends(), 0) << c.Text();
  }
}

// Answers that say "nothing yet" of a descriptor that has something, for ever, or that wake for nothing:
// no kernel gives them, and no loop could sleep on them. A cancel allocates nothing, so its ENOMEM does not
// last either; it is asked for again in every turn.
bool WouldSpinAnyLoop(const Case& c) {
  return c.injection.asked == Call::kCqeCancel || c.entry->error_class == ErrorClass::kTryAgain ||
         c.entry->error_class == ErrorClass::kCancelled || c.injection.asked == Call::kEpollWait ||
         c.injection.asked == Call::kIoUringEnter;
}

// "No spin": at most ten turns a second in which nothing is told, attempted or made to wait for.
void CheckNoSpin(const Case& c, Life& life) {
  constexpr int kSlices = 10;
  constexpr std::uint64_t kTurnsOfASlice = 4;  // RunFor's first and last, and the life's own step.
  constexpr std::uint64_t kTurnsOfACallback = 8;  // From a timer over an attempt to its end.
  const std::uint64_t turns = life.turns();
  const int callbacks = life.callbacks();
  life.RunSlices(kSlices, 100ms);
  const auto progress = static_cast<std::uint64_t>(life.callbacks() - callbacks);
  EXPECT_LE(life.turns() - turns, 10 + kSlices * kTurnsOfASlice + progress * kTurnsOfACallback)
      << c.Text();
}

// An answer that says for good that nothing can be waited for: then Run says so and ends.
bool EndsTheLoop(const Case& c) {
  const Call asked = c.injection.asked;
  return (asked == Call::kIoUringEnter || asked == Call::kEpollWait) && c.persistent() &&
         c.entry->error_class != ErrorClass::kResource &&
         (c.entry->action == Action::kStop || c.entry->action == Action::kFallBack);
}

// Such a loop does not come back: neither it nor what it held may be left behind.
bool PlayTheLoopsEnd(const Case& c) {
  const std::size_t descriptors = OpenDescriptors();
  int rule = 0;
  bool hit = false;
  {
    Loop loop(c.backend);
    const std::unique_ptr<Life> life = MakeLife(loop, c.side, *c.entry);
    rule = c.injection.Into(life->kernel(), c.first(), kForever);
    const absl::Status status = life->RunUntilRefused();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << c.Text() << ": " << status;
    const Error why{Operation::kBackend, c.entry->error_class, c.entry->action, c.entry->row.code};
    EXPECT_NE(status.message().find(why.ToString()), status.message().npos)
        << c.Text() << ": " << status;
    hit = life->kernel().hits(rule) > 0;
    EXPECT_EQ(life->told().size(), 0u) << c.Text();
  }
  EXPECT_TRUE(hit) << c.Text();
  EXPECT_EQ(OpenDescriptors(), descriptors) << c.Text();
  return hit;
}

// An errno that a connection in TCP_CLOSE still has from a router: the kernel has given it up.
bool GivesUp(const Row& row) { return row.detail == Detail::kClosed && row.code != 0; }

// True if the rule changed something.
bool Play(Loop& loop, const Case& c) {
  const std::size_t descriptors = OpenDescriptors();
  const std::uint64_t bugs = loop.reactor().stats().bugs;
  std::unique_ptr<Life> life = MakeLife(loop, c.side, *c.entry);
  const int rule = c.injection.Into(life->kernel(), c.first(), c.persistent() ? kForever : 1);
  if (GivesUp(c.entry->row)) {
    loop.hasty().GiveUp(
        [&loop, rule] { return loop.kernel().hits(rule); },
        c.persistent() ? HastyKernel::GivenUp::kEvery : HastyKernel::GivenUp::kLatest);
  }
  if (c.persistent()) {
    static_cast<void>(life->RunFor(3s, 3'000));
    if (!life->over() && !WouldSpinAnyLoop(c)) CheckNoSpin(c, *life);
    life->kernel().Clear();
    loop.hasty().GiveUpNone();
  }
  EXPECT_TRUE(life->RunFor(60s)) << c.Text() << ": it does not recover";
  // How often a call is made is not quite the same each time: what TCP hands over in one piece today, it
  // hands over in two tomorrow.
  const bool hit = life->kernel().hits(rule) > 0;
  const std::uint64_t seen = life->kernel().seen(rule);
  EXPECT_EQ(hit, seen >= c.first()) << c.Text();
  if (hit) CheckTold(seen == c.first() ? c.AsLast() : c, *life);
  loop.hasty().GiveUpNone();
  life->kernel().Clear();
  life->Destroy();
  life.reset();
  EXPECT_TRUE(loop.idle()) << c.Text() << ": something is left";
  EXPECT_EQ(OpenDescriptors(), descriptors) << c.Text();
  if (c.entry->error_class != ErrorClass::kInvalid) {
    EXPECT_EQ(loop.reactor().stats().bugs, bugs) << c.Text();
  }
  return hit;
}

std::uint64_t CountOccurrences(Loop& loop, const Injection& injection, Side side,
                               const Entry& entry) {
  const std::unique_ptr<Life> life = MakeLife(loop, side, entry);
  const int rule = injection.Into(life->kernel(), kForever, 1);
  EXPECT_TRUE(life->RunFor(60s)) << "without a fault";
  EXPECT_TRUE(life->told().empty());
  EXPECT_TRUE(life->refused().empty());
  const std::uint64_t seen = life->kernel().seen(rule);
  life->kernel().Clear();
  return seen;
}

class Sweep {
 public:
  // Each row at every position, to each side.
  void Over(BackendKind backend) {
    Loop loop(backend);
    ASSERT_TRUE(loop.status().ok()) << loop.status();
    for (const Entry& entry : kErrorTable) {
      const std::optional<Injection> injection = HowToInject(entry.row, backend);
      if (!injection.has_value()) continue;
      const Entry* const answers =
          FindInTables({injection->asked, entry.row.code, entry.row.detail});
      if (answers == nullptr) continue;
      for (const Side side : {Side::kLink, Side::kListener}) {
        Over(loop, *answers, *injection, backend, side);
      }
    }
    // The end that the peer makes needs no fault.
    for (const Family family : {Family::kInet, Family::kUnix}) {
      LinkLife life(loop, family);
      EXPECT_TRUE(life.RunFor(60s));
      const Detail detail = family == Family::kInet ? Detail::kCloseWait : Detail::kNone;
      const Entry* const entry = FindInTables({Call::kRecv, 0, detail});
      ASSERT_TRUE(life.peer_end().has_value());
      EXPECT_EQ(life.peer_end()->error_class, entry->error_class);
      EXPECT_EQ(life.peer_end()->action, entry->action);
      ++hits_[entry];
    }
  }
  [[nodiscard]] int hits(const Entry& entry) const {
    const auto found = hits_.find(&entry);
    return found == hits_.end() ? 0 : found->second;
  }
  [[nodiscard]] int runs() const { return runs_; }

 private:
  void Over(Loop& loop, const Entry& answers, const Injection& injection, BackendKind backend,
            Side side) {
    const std::uint64_t count = CountOccurrences(loop, injection, side, answers);
    std::set<std::uint64_t> done;
    for (const Position position : kPositions) {
      const Case c{&answers, injection, backend, side, position, count};
      if (count == 0 || c.first() > count) continue;
      if (!c.persistent() && !done.insert(c.first()).second) continue;
      if (EndsTheLoop(c) ? PlayTheLoopsEnd(c) : Play(loop, c)) ++hits_[&answers];
      ++runs_;
    }
  }

  std::map<const Entry*, int> hits_;
  int runs_ = 0;
};

// The calls that make a reactor.
void SweepCreation(std::map<const Entry*, int>& hits) {
  for (const Entry& entry : kErrorTable) {
    BackendKind backend = BackendKind::kAuto;
    KernelCall call = KernelCall::kRingSetup;
    if (entry.row.call == Call::kEpollCreate1) {
      backend = BackendKind::kEpoll;
      call = KernelCall::kEpollCreate;
    } else if (entry.row.call == Call::kIoUringRegister) {
      call = KernelCall::kRingRegister;
    } else if (entry.row.call != Call::kIoUringSetup) {
      continue;
    }
    const std::size_t descriptors = OpenDescriptors();
    const std::uint64_t count = Loop(backend).kernel().calls(call);
    for (std::uint64_t first = 1; first <= count + 1; ++first) {
      int rule = 0;
      const bool persistent = first > count;
      Loop loop(backend, [&](FaultKernel& kernel) {
        rule = kernel.Inject({.call = call,
                              .result = -entry.row.code,
                              .first = persistent ? 1 : first,
                              .count = persistent ? kForever : 1});
      });
      const std::string text = std::string(ToString(entry.row.call)) + " " + CodeText(entry.row) +
                               " " + std::to_string(first) + " of " + std::to_string(count);
      EXPECT_GE(loop.kernel().hits(rule), 1u) << text;
      ++hits[&entry];
      if (entry.action == Action::kSurface) {
        EXPECT_TRUE(absl::IsResourceExhausted(loop.status())) << text << loop.status();
      } else if (backend == BackendKind::kEpoll) {
        EXPECT_EQ(loop.status(),
                  (Error{Operation::kBackend, entry.error_class, entry.action, entry.row.code}
                       .ToStatus()))
            << text;
      } else {
        // Without it, or over epoll.
        loop.kernel().Clear();
        ASSERT_TRUE(loop.status().ok()) << text << loop.status();
        EXPECT_TRUE(LinkLife(loop).RunFor(60s)) << text;
        EXPECT_TRUE(ListenerLife(loop).RunFor(60s)) << text;
      }
    }
    EXPECT_EQ(OpenDescriptors(), descriptors) << ToString(entry.row.call) << CodeText(entry.row);
  }
}

TEST(SweepTest, ALifeWithoutAFaultTellsNothing) {
  for (const BackendKind backend : {BackendKind::kEpoll, BackendKind::kUring}) {
    Loop loop(backend);
    for (const Family family : {Family::kInet, Family::kUnix}) {
      LinkLife link(loop, family);
      EXPECT_TRUE(link.RunFor(60s));
      EXPECT_TRUE(link.told().empty());
      link.Destroy();
      ListenerLife listener(loop, family);
      EXPECT_TRUE(listener.RunFor(60s));
      EXPECT_TRUE(listener.told().empty());
      EXPECT_TRUE(listener.refused().empty());
    }
    for (const Side side : {Side::kLink, Side::kListener}) {
      const std::unique_ptr<Life> full = MakeFullLife(loop, side);
      EXPECT_TRUE(full->RunFor(60s)) << static_cast<int>(side);
      EXPECT_TRUE(full->told().empty());
      EXPECT_TRUE(full->refused().empty());
    }
  }
}

TEST(SweepTest, EveryRowMeansWhatItSaysWheneverItComes) {
  {
    HastyKernel hasty;
    FaultKernel kernel(hasty);
    if (!kernel.ring_faults_supported()) {
      GTEST_SKIP() << "this kernel cannot inject results into io_uring (before Linux 6.10)";
    }
  }
  Sweep sweep;
  sweep.Over(BackendKind::kEpoll);
  sweep.Over(BackendKind::kUring);
  std::map<const Entry*, int> created;
  SweepCreation(created);
  int met = 0;
  for (const Entry& entry : kErrorTable) {
    const Unreached* const unreached = FindUnreached(entry.row);
    const int hits = sweep.hits(entry) + created[&entry];
    met += hits > 0;
    const std::string name = std::string(ToString(entry.row.call)) + " " + CodeText(entry.row) +
                             " " + std::string(ToString(entry.row.detail));
    if (unreached == nullptr) {
      EXPECT_GT(hits, 0) << name << " was never met, and no reason is given";
    } else {
      EXPECT_EQ(hits, 0) << name << " was met, in spite of: " << unreached->why;
    }
  }
  // `make coverage` reads them.
  RecordProperty("runs", sweep.runs());
  RecordProperty("rows_met", met);
  RecordProperty("rows_unreachable", static_cast<int>(std::size(kUnreached)));
  RecordProperty("rows", static_cast<int>(std::size(kErrorTable)));
}

// --- The unknown sweep: any errno of any call.

constexpr int kErrnoMax = 133;  // EHWPOISON, the last that Linux knows.

// The calls of a life that can fail, but for those with which a reactor is made.
constexpr KernelCall kCalls[] = {
    KernelCall::kSocket,     KernelCall::kBind,        KernelCall::kListen,
    KernelCall::kAccept4,    KernelCall::kConnect,     KernelCall::kSend,
    KernelCall::kSendMsg,    KernelCall::kRecv,        KernelCall::kRecvMsg,
    KernelCall::kShutdown,   KernelCall::kClose,       KernelCall::kGetSockOpt,
    KernelCall::kSetSockOpt, KernelCall::kGetSockName, KernelCall::kGetPeerName,
    KernelCall::kIoctl,      KernelCall::kWrite,       KernelCall::kEpollCtl,
    KernelCall::kEpollWait,  KernelCall::kRingEnter};
// No cancel: a completion in its place leaves running what it should have ended.
constexpr RingOp kOps[] = {RingOp::kAccept, RingOp::kConnect, RingOp::kRecv,
                           RingOp::kSend,   RingOp::kSendMsg, RingOp::kPollAdd};

// The table's answer to this code of some call, kUnknown where no call lists it; or the end of a
// connection whose reason nobody knows.
bool IsOfTheTable(const Error& error, int code) {
  if (error.code != code) return error.code == 0 || error.code == ENOTCONN;
  // Whatever getpeername(2) says, the connection was made and is no more (machine/death.cc).
  if (error == Error{Operation::kConnect, ErrorClass::kReset, Action::kBackOff, code}) return true;
  for (std::size_t call = 0; call < internal::kCallCount; ++call) {
    for (const Detail detail : {Detail::kNone, Detail::kUnix}) {
      if (error == Classify(static_cast<Call>(call), code, detail)) return true;
    }
  }
  return error.error_class == ErrorClass::kUnknown && error.action == Action::kBackOff;
}

// All of them with HOLDFAST_SWEEP=whole (make sweep), else an eighth, another one of each call.
bool IsDue(int code, int call) {
  static const bool whole = [] {
    const char* const text = std::getenv("HOLDFAST_SWEEP");
    return text != nullptr && std::string_view(text) == "whole";
  }();
  return whole || (code + call) % 8 == 0;
}

// True if the call was made at all.
bool PlayUnknown(Loop& loop, Side side, const Injection& injection, int code,
                 const std::string& text) {
  const std::size_t descriptors = OpenDescriptors();
  const std::uint64_t bugs = loop.reactor().stats().bugs;
  std::unique_ptr<Life> life = MakeFullLife(loop, side);
  const int rule = injection.Into(life->kernel(), 1, 1);
  EXPECT_TRUE(life->RunFor(60s)) << text << ": it does not recover";
  for (const Error& error : life->told()) {
    EXPECT_TRUE(IsOfTheTable(error, code)) << text << ": " << error.ToString();
  }
  const bool hit = life->kernel().hits(rule) > 0;
  life->kernel().Clear();
  life->Destroy();
  life.reset();
  EXPECT_TRUE(loop.idle()) << text << ": something is left";
  EXPECT_EQ(OpenDescriptors(), descriptors) << text;
  // A bug is what the table says is one; not each is told (a stream that is closing anyhow).
  const bool may_be_bug = std::any_of(kErrorTable.begin(), kErrorTable.end(), [&](const Entry& e) {
    return e.row.code == code && e.error_class == ErrorClass::kInvalid;
  });
  if (!may_be_bug) {
    EXPECT_EQ(loop.reactor().stats().bugs, bugs) << text;
  }
  return hit;
}

TEST(SweepTest, AnyErrorNumberOfAnyCallIsSurvived) {
  std::map<KernelCall, int> calls_hit;
  std::map<RingOp, int> ops_hit;
  bool ring_faults = true;
  for (const BackendKind backend : {BackendKind::kEpoll, BackendKind::kUring}) {
    Loop loop(backend);
    const bool uring = backend == BackendKind::kUring;
    ring_faults = loop.kernel().ring_faults_supported();
    for (const Side side : {Side::kLink, Side::kListener}) {
      for (int code = 1; code <= kErrnoMax; ++code) {
        for (const KernelCall call : kCalls) {
          // Said of a socket that has bytes it costs the edge, as no kernel does.
          if (call == KernelCall::kRecv && code == EAGAIN) continue;
          if (!IsDue(code, static_cast<int>(call))) continue;
          const std::string text = "call " + std::to_string(static_cast<int>(call)) + " errno " +
                                   std::to_string(code) + (uring ? " uring" : " epoll");
          calls_hit[call] += PlayUnknown(loop, side, ByCall(Call::kSocket, call, code), code, text);
        }
        if (!uring || !ring_faults) continue;
        for (const RingOp op : kOps) {
          if (!IsDue(code, static_cast<int>(op))) continue;
          const std::string text = "operation " + std::to_string(static_cast<int>(op)) + " errno " +
                                   std::to_string(code);
          ops_hit[op] += PlayUnknown(loop, side, ByRing(Call::kCqeAny, op, code), code, text);
        }
      }
    }
  }
  for (const KernelCall call : kCalls) {
    EXPECT_GT(calls_hit[call], 0) << "call " << static_cast<int>(call) << " is never made";
  }
  for (const RingOp op : kOps) {
    EXPECT_TRUE(ops_hit[op] > 0 || !ring_faults) << "operation " << static_cast<int>(op);
  }
  if (!ring_faults) {
    GTEST_SKIP() << "SKIPPED, not tested here: completions of io_uring (before Linux 6.10)";
  }
}

}  // namespace
}  // namespace holdfast::test
