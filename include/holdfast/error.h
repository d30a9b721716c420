// What went wrong, sorted by what to do about it.
//
// A bare errno cannot say whether to try again: EADDRNOTAVAIL from connect(2) means that the ephemeral
// ports are used up, from bind(2) that the address is not on this host; EINVAL from connect(2) is a
// blackhole route. So every failure is looked up by (call, errno) in one table and becomes an `Error`:
// the operation, its class (an instruction), the action the runtime takes, and the raw code (an
// explanation). docs/errors.md prints the table. A "temporary" bit alone was rejected: Go deprecated
// its own (golang/go#45729), because nobody can say what it means; ours means one thing only.
//
// Values, no exceptions; all types here are trivially copyable and may be used on any thread.
#ifndef HOLDFAST_ERROR_H_
#define HOLDFAST_ERROR_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace holdfast {

// The operation that failed, named alike by both backends.
enum class Operation {
  kNone,       // Nothing failed.
  kResolve,    // getaddrinfo(3)
  kSocket,     // socket(2)
  kBind,       // bind(2)
  kListen,     // listen(2)
  kConnect,    // connect(2), its result, and the check that it is really connected
  kAccept,     // accept4(2)
  kSend,       // send(2), sendmsg(2)
  kReceive,    // recv(2)
  kShutdown,   // shutdown(2)
  kClose,      // close(2)
  kHeartbeat,  // our own judgement that the peer is silent
  kOption,     // getsockopt(2), setsockopt(2)
  kBackend,    // epoll(7), io_uring(7)
  kUser,       // Drop(), Close(), a stop token
};

// What a failure means to the one who must decide. docs/errors.md says more about each.
enum class ErrorClass {
  kNone,           // No error.
  kTryAgain,       // Repeat, or wait for readiness. Internal: never seen in a callback.
  kCancelled,      // We asked for it: Close, Stop, a stop token.
  kEof,            // The peer ended the connection in good order (FIN).
  kTimeout,        // A deadline passed: ours, or the kernel's.
  kRefused,        // Nobody listens there.
  kReset,          // The connection existed and was destroyed.
  kUnreachable,    // No way to the peer: route, link, neighbour, ICMP.
  kResource,       // This host ran out: descriptors, memory, ports.
  kNameTemporary,  // The name could not be looked up now.
  kNameNotFound,   // The name does not exist, or has no address.
  kLocalAddress,   // bind/listen: the address is taken, or not on this host (yet).
  kPermission,     // Forbidden: mode, route, firewall, security module.
  kProtocol,       // The peer broke the protocol.
  kUnsupported,    // This kernel cannot.
  kInvalid,        // A bug, ours or the caller's. Counted; never aborts.
  kUnknown,        // Not in the table: backed off like any loss, never a crash.
};

// What the runtime does about it by default.
enum class Action {
  kNone,          // Nothing to do.
  kRetryInPlace,  // The same call again, at once or when ready; the connection lives.
  kBackOff,       // Close, wait as the backoff says, dial again.
  kBackOffSlow,   // The same with initial and max times 4.
  kNextAddress,   // Another address of the same endpoint; back off when there is none.
  kPause,         // A listener rests: 5 ms doubling to 1 s, reset by a success.
  kFallBack,      // Do without: fewer flags, a smaller ring, epoll.
  kSurface,       // Tell the caller; a link backs off.
  kStop,          // Permanent: a link closes.
  kIgnore,        // Expected here; go on.
  kVerify,        // The code alone does not decide: look at the socket.
};

// Names in snake case without the k, as in the event log: "name_not_found", "back_off".
[[nodiscard]] std::string_view ToString(Operation operation) noexcept;
[[nodiscard]] std::string_view ToString(ErrorClass error_class) noexcept;
[[nodiscard]] std::string_view ToString(Action action) noexcept;

// One failure. 16 bytes, a value.
struct [[nodiscard]] Error {
  Operation operation = Operation::kNone;
  ErrorClass error_class = ErrorClass::kNone;
  Action action = Action::kNone;
  // An errno (positive) or an EAI_ value of getaddrinfo(3) (negative). 0 where no call failed: a
  // deadline of ours, a FIN, a decision of the user. Where an errno decided (EAI_NONAME with
  // EMFILE) the errno is kept.
  int code = 0;

  // A protocol violation found by the application, for Link::Drop and Stream::Drop.
  [[nodiscard]] static constexpr Error Protocol() noexcept {
    return {Operation::kUser, ErrorClass::kProtocol, Action::kBackOff, 0};
  }
  // We ended it ourselves: Close, Stop, a stop token.
  [[nodiscard]] static constexpr Error Cancelled() noexcept {
    return {Operation::kUser, ErrorClass::kCancelled, Action::kIgnore, 0};
  }
  // A deadline of our own passed while doing `operation` (kHeartbeat: the peer was silent).
  [[nodiscard]] static constexpr Error Deadline(Operation operation) noexcept {
    return {operation, ErrorClass::kTimeout, Action::kBackOff, 0};
  }

  // False for class kNone: the value-initialized Error, and answers that are no failure.
  [[nodiscard]] constexpr bool failed() const noexcept { return error_class != ErrorClass::kNone; }
  // True for every kTimeout, the kernel's and ours.
  [[nodiscard]] constexpr bool IsTimeout() const noexcept {
    return error_class == ErrorClass::kTimeout;
  }
  // True exactly when the default policy dials again after this error, and says nothing else.
  [[nodiscard]] constexpr bool IsTemporary() const noexcept {
    switch (action) {
      case Action::kRetryInPlace:
      case Action::kBackOff:
      case Action::kBackOffSlow:
      case Action::kNextAddress:
      case Action::kPause:
      case Action::kSurface:
      case Action::kVerify:
        return true;
      case Action::kNone:
      case Action::kFallBack:
      case Action::kStop:
      case Action::kIgnore:
        return false;
    }
    return false;
  }

  // "connect: Connection refused (ECONNREFUSED)"; "heartbeat: timeout"; "resolve: Name or service
  // not known (EAI_NONAME)". Allocates.
  [[nodiscard]] std::string ToString() const;
  // The errno's or EAI's symbol ("ECONNREFUSED", "EAI_AGAIN"), "" for code 0, the number in text
  // when this C library knows no symbol.
  [[nodiscard]] std::string CodeName() const;
  // As the class says, not as absl::ErrnoToStatusCode would: kInvalid is kInternal, kCancelled
  // kCancelled, kTimeout kDeadlineExceeded, kResource kResourceExhausted, ... OK for kNone.
  [[nodiscard]] absl::Status ToStatus() const;

  friend constexpr bool operator==(const Error&, const Error&) noexcept = default;
};
static_assert(sizeof(Error) == 16);

}  // namespace holdfast

#endif  // HOLDFAST_ERROR_H_
