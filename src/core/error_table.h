// The error table: what each failure of each call means, and what the runtime does about it.
//
// One errno says different things to different calls (EADDRNOTAVAIL: ports used up to connect(2),
// not our address to bind(2)), and sometimes to the same call (0 from recv(2): an end in good
// order, or a reset that another call has already reported). So the key is (call, code, detail),
// and the table is data: one array, grouped by call, printed into docs/errors.md by `make docs` and
// held row by row against tests/data/errors.csv, which names the source (manual page, kernel
// function, probe) of every row. No policy is written a second time anywhere else.
//
// Rejected: a switch per operation (cannot be printed, and a row missing from it is not seen);
// absl::ErrnoToStatusCode (knows no call: EPIPE becomes FAILED_PRECONDITION, EADDRNOTAVAIL
// ALREADY_EXISTS).
//
// `Classify` is total and constexpr: every key has an answer, an unlisted one is kUnknown, backed
// off. It reads constant memory only: any thread, no allocation, a few binary searches over keys
// that are sorted at compile time (one for a plain call whose key is listed).
//
//   const int result = kernel.Send(fd, bytes);  // a count, or -errno
//   if (result < 0) return Classify(Call::kSend, -result);
#ifndef HOLDFAST_CORE_ERROR_TABLE_H_
#define HOLDFAST_CORE_ERROR_TABLE_H_

#include <netdb.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <holdfast/error.h>

namespace holdfast::internal {

// What was asked of the kernel (or of the C library) when the code came back.
enum class Call : std::uint8_t {
  kSocket,
  kConnect,        // What connect(2) itself returned.
  kConnectResult,  // SO_ERROR after the handshake ended (epoll).
  kAccept4,
  kBind,
  kListen,
  kSend,  // send(2), sendmsg(2)
  kRecv,
  kShutdown,
  kClose,
  kGetpeername,
  kSetsockopt,
  kGetsockopt,
  kEpollCreate1,
  kEpollCtl,
  kEpollWait,
  kEpollEvent,  // The code is one of the three event masks in the table.
  kIoUringSetup,
  kIoUringRegister,
  kIoUringEnter,
  kCqeAny,      // A completion of an operation that has no rows of its own below.
  kCqeConnect,  // The immediate failure and the result of the handshake in one.
  kCqeRecv,
  kCqeSend,
  kCqeAccept,
  kCqeCancel,
  kGetaddrinfo,
};
inline constexpr std::size_t kCallCount = static_cast<std::size_t>(Call::kGetaddrinfo) + 1;

// What the caller knows besides the code. A detail that is not listed for a code does no harm: the
// row without detail answers.
enum class Detail : std::uint8_t {
  kNone,
  kUnix,         // The socket is AF_UNIX.
  kIpv6,         // The socket is AF_INET6.
  kSynSent,      // No error was shown, but getpeername(2) says that the handshake is not done.
  kSelfConnect,  // The local address equals the peer's.
  kClosed,  // The kernel ended the stream and the peer's FIN did not arrive: TCP_INFO says CLOSE.
  kCloseWait,        // The stream ended and the peer's FIN did arrive.
  kLocalExhaustion,  // errno beside EAI_NONAME: EMFILE, ENFILE, ENOMEM.
  kMalformedName,    // errno beside EAI_NONAME: EMSGSIZE, EINVAL.
};

// The key of a row. `code` is a positive errno (callers pass -result), 0 where no call failed, a
// negative EAI_ value for kGetaddrinfo, a mask of events for kEpollEvent.
struct Row {
  Call call;
  int code;
  Detail detail = Detail::kNone;

  friend constexpr bool operator==(const Row&, const Row&) noexcept = default;
};

// A row with its answer. `meaning` is for docs/errors.md and for debugging.
struct Entry {
  Row row;
  ErrorClass error_class;
  Action action;
  std::string_view meaning;
};

// The rows, grouped by call. Their own namespace keeps the short names in.
namespace error_rows {

using enum Call;
using enum ErrorClass;
using Action::kBackOff;
using Action::kBackOffSlow;
using Action::kFallBack;
using Action::kIgnore;
using Action::kNextAddress;
using Action::kPause;
using Action::kRetryInPlace;
using Action::kStop;
using Action::kSurface;
using Action::kVerify;
using Detail::kClosed;
using Detail::kCloseWait;
using Detail::kIpv6;
using Detail::kLocalExhaustion;
using Detail::kMalformedName;
using Detail::kSelfConnect;
using Detail::kSynSent;
using Detail::kUnix;

inline constexpr Entry kEntries[] = {
    // socket(2)
    {{kSocket, EACCES}, kPermission, kStop, "a security module or seccomp forbids this socket"},
    {{kSocket, EPERM}, kPermission, kStop, "a raw socket without the privilege, or seccomp"},
    {{kSocket, EAFNOSUPPORT}, kUnsupported, kNextAddress, "this kernel has no such family (IPv6)"},
    {{kSocket, EPROTONOSUPPORT}, kUnsupported, kStop, "the family has no such protocol"},
    {{kSocket, ESOCKTNOSUPPORT}, kUnsupported, kStop, "the family has no such socket type"},
    {{kSocket, EINVAL}, kInvalid, kStop, "unknown type, protocol or flag"},
    {{kSocket, EMFILE}, kResource, kBackOff, "this process has no descriptor left"},
    {{kSocket, ENFILE}, kResource, kBackOff, "this host has no descriptor left"},
    {{kSocket, ENOBUFS}, kResource, kBackOff, "no memory for a socket"},
    {{kSocket, ENOMEM}, kResource, kBackOff, "no memory for a socket (a memory cgroup too)"},

    // connect(2), its immediate answer
    {{kConnect, 0}, kNone, kVerify, "connected at once; believe getpeername, and local != peer"},
    {{kConnect, EINPROGRESS}, kTryAgain, kRetryInPlace, "the handshake is under way; wait for it"},
    {{kConnect, EINTR}, kTryAgain, kRetryInPlace, "a signal; the handshake goes on; only wait"},
    {{kConnect, EALREADY}, kInvalid, kStop, "an earlier attempt still runs on this descriptor"},
    {{kConnect, EISCONN}, kInvalid, kStop, "already connected, or a listener"},
    {{kConnect, EAGAIN, kUnix}, kRefused, kBackOff, "the listener's backlog is full"},
    {{kConnect, EADDRNOTAVAIL}, kResource, kBackOff, "no free port to there"},
    {{kConnect, EADDRNOTAVAIL, kIpv6},
     kUnreachable,
     kNextAddress,
     "no IPv6 here (off, lo down, no address yet), or no free port"},
    {{kConnect, EADDRINUSE}, kResource, kBackOff, "both addresses and ports are in use already"},
    {{kConnect, ENETUNREACH}, kUnreachable, kBackOff, "no route, or the link is down"},
    {{kConnect, EHOSTUNREACH}, kUnreachable, kBackOff, "the route says unreachable"},
    {{kConnect, ENETDOWN}, kUnreachable, kBackOff, "the outgoing interface is down"},
    {{kConnect, EINVAL}, kUnreachable, kBackOff, "a blackhole route, or no way from this source"},
    {{kConnect, EACCES}, kPermission, kBackOffSlow, "a prohibiting route, file mode, SELinux"},
    {{kConnect, EPERM}, kPermission, kBackOffSlow, "a firewall, a cgroup program, seccomp"},
    {{kConnect, ECONNREFUSED}, kRefused, kBackOff, "nobody listens (loopback, AF_UNIX)"},
    {{kConnect, ENOENT}, kRefused, kBackOff, "AF_UNIX: no such path; not started yet?"},
    {{kConnect, EPROTOTYPE}, kInvalid, kStop, "AF_UNIX: the listener is of another socket type"},
    {{kConnect, ENOTDIR}, kInvalid, kStop, "AF_UNIX: a part of the path is no directory"},
    {{kConnect, ELOOP}, kInvalid, kStop, "AF_UNIX: too many symbolic links"},
    {{kConnect, ENAMETOOLONG}, kInvalid, kStop, "AF_UNIX: the path is too long"},
    {{kConnect, EAFNOSUPPORT}, kInvalid, kStop, "the address is of another family than the socket"},
    {{kConnect, ENODEV}, kLocalAddress, kBackOff, "the bound or scoped interface is gone"},
    {{kConnect, ENOBUFS}, kResource, kBackOff, "no memory, or the neighbour table is full"},
    {{kConnect, ENOMEM}, kResource, kBackOff, "no memory"},
    {{kConnect, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kConnect, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kConnect, EFAULT}, kInvalid, kStop, "a bad address pointer"},
    {{kConnect, ECONNABORTED}, kInvalid, kStop, "a second connect on a failed descriptor"},

    // The result of a handshake: SO_ERROR, getpeername(2), the local address
    {{kConnectResult, 0, kSynSent}, kUnreachable, kBackOff, "no error shown, yet not connected"},
    {{kConnectResult, 0, kSelfConnect}, kRefused, kBackOff, "connected to itself: nobody listens"},
    {{kConnectResult, ECONNREFUSED}, kRefused, kBackOff, "nobody listens, or a firewall says so"},
    {{kConnectResult, ETIMEDOUT},
     kTimeout,
     kBackOff,
     "no answer: silent drop, peer's backlog full"},
    {{kConnectResult, EHOSTUNREACH}, kUnreachable, kBackOff, "no neighbour, or ICMP says so"},
    {{kConnectResult, ENETUNREACH}, kUnreachable, kBackOff, "ICMP: network unreachable"},
    {{kConnectResult, EACCES}, kPermission, kBackOffSlow, "ICMPv6: forbidden there"},
    {{kConnectResult, ENOPROTOOPT}, kUnreachable, kBackOff, "ICMP: protocol unreachable"},
    {{kConnectResult, EPROTO}, kUnreachable, kBackOff, "ICMPv6: parameter problem"},
    {{kConnectResult, EOPNOTSUPP}, kUnreachable, kBackOff, "ICMP: source route failed"},
    {{kConnectResult, EHOSTDOWN}, kUnreachable, kBackOff, "ICMP: host unknown"},
    {{kConnectResult, ENONET}, kUnreachable, kBackOff, "ICMP: host isolated"},
    {{kConnectResult, EMSGSIZE}, kUnreachable, kBackOff, "ICMP: packet too big, in the handshake"},
    {{kConnectResult, ECONNRESET}, kReset, kBackOff, "reset in the handshake, or our shutdown"},
    {{kConnectResult, ECONNABORTED}, kReset, kBackOff, "the socket was destroyed (ss -K)"},
    {{kConnectResult, EPIPE},
     kReset,
     kBackOff,
     "the peer ended it, then reset it, before we looked"},
    {{kConnectResult, ENETDOWN}, kUnreachable, kBackOff, "the interface went down"},

    // accept4(2). A pending error of one queued connection says nothing about the listener.
    {{kAccept4, EAGAIN}, kTryAgain, kRetryInPlace, "nothing queued; wait"},
    {{kAccept4, EINTR}, kTryAgain, kRetryInPlace, "a signal"},
    {{kAccept4, ECONNABORTED}, kTryAgain, kRetryInPlace, "gone before it was accepted"},
    {{kAccept4, EPROTO}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, ENOPROTOOPT}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, EHOSTDOWN}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, ENONET}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, EHOSTUNREACH}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, EOPNOTSUPP}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, ENETUNREACH}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, ENETDOWN}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, ETIMEDOUT}, kTryAgain, kRetryInPlace, "pending error of one connection"},
    {{kAccept4, EMFILE}, kResource, kPause, "no descriptor left; the connection stays queued"},
    {{kAccept4, ENFILE}, kResource, kPause, "this host has no descriptor left"},
    {{kAccept4, ENOBUFS}, kResource, kPause, "no memory for a socket"},
    {{kAccept4, ENOMEM}, kResource, kPause, "no memory for a socket"},
    {{kAccept4, EPERM}, kPermission, kRetryInPlace, "a firewall forbids this one connection"},
    {{kAccept4, EINVAL}, kInvalid, kStop, "not listening, or bad flags"},
    {{kAccept4, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kAccept4, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kAccept4, EFAULT}, kInvalid, kStop, "a bad address pointer"},
    {{kAccept4, ENOSYS}, kUnsupported, kStop, "seccomp, or an ancient kernel"},

    // bind(2)
    {{kBind, EADDRINUSE}, kLocalAddress, kSurface, "the port is taken, or none is left for port 0"},
    {{kBind, EADDRNOTAVAIL}, kLocalAddress, kSurface, "the address is not on this host (yet)"},
    {{kBind, EACCES}, kPermission, kStop, "a privileged port; AF_UNIX: the directory's mode"},
    {{kBind, EPERM}, kPermission, kStop, "a cgroup program forbids it"},
    {{kBind, ENODEV}, kLocalAddress, kSurface, "the scope names no interface"},
    {{kBind, EINVAL}, kInvalid, kStop, "already bound, or a bad address length"},
    {{kBind, EAFNOSUPPORT}, kInvalid, kStop, "the address is of another family than the socket"},
    {{kBind, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kBind, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kBind, EFAULT}, kInvalid, kStop, "a bad address pointer"},
    {{kBind, ENOENT}, kInvalid, kStop, "AF_UNIX: the directory does not exist"},
    {{kBind, ENOTDIR}, kInvalid, kStop, "AF_UNIX: a part of the path is no directory"},
    {{kBind, ELOOP}, kInvalid, kStop, "AF_UNIX: too many symbolic links"},
    {{kBind, ENAMETOOLONG}, kInvalid, kStop, "AF_UNIX: the path is too long"},
    {{kBind, EROFS}, kInvalid, kStop, "AF_UNIX: a read-only file system"},
    {{kBind, ENOMEM}, kResource, kBackOff, "no memory"},

    // listen(2)
    {{kListen, EADDRINUSE}, kLocalAddress, kSurface, "another listener has the port; none is free"},
    {{kListen, EOPNOTSUPP}, kInvalid, kStop, "not a stream socket"},
    {{kListen, EINVAL}, kInvalid, kStop, "the socket is connected"},
    {{kListen, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kListen, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kListen, EACCES}, kPermission, kStop, "a security module forbids it"},

    // send(2), sendmsg(2)
    {{kSend, EAGAIN}, kTryAgain, kRetryInPlace, "the send buffer is full; wait"},
    {{kSend, EINTR}, kTryAgain, kRetryInPlace, "a signal before the first byte"},
    {{kSend, EPIPE}, kReset, kBackOff, "dead, and another call has already been told why"},
    {{kSend, ECONNRESET}, kReset, kBackOff, "the peer reset the connection"},
    {{kSend, ETIMEDOUT}, kTimeout, kBackOff, "no acknowledgement for too long"},
    {{kSend, EHOSTUNREACH},
     kUnreachable,
     kBackOff,
     "unanswered for too long; ICMP or ARP says why"},
    {{kSend, ENETUNREACH}, kUnreachable, kBackOff, "unanswered for too long; ICMP says why"},
    {{kSend, ECONNREFUSED},
     kUnreachable,
     kBackOff,
     "unanswered; ICMP: port unreachable (firewall)"},
    {{kSend, ECONNABORTED}, kReset, kBackOff, "the socket was destroyed (ss -K)"},
    {{kSend, ENOTCONN}, kInvalid, kStop, "never connected"},
    {{kSend, EISCONN}, kInvalid, kStop, "an address given on a connected socket"},
    {{kSend, ENOBUFS}, kResource, kRetryInPlace, "no memory now, or the device queue is full"},
    {{kSend, ENOMEM}, kResource, kRetryInPlace, "no memory now"},
    {{kSend, EALREADY}, kInvalid, kStop, "another fast open is under way"},
    {{kSend, ETOOMANYREFS}, kResource, kRetryInPlace, "AF_UNIX: too many descriptors in flight"},
    {{kSend, ENETDOWN}, kUnreachable, kBackOff, "the interface is down"},
    {{kSend, EIO}, kUnknown, kBackOff, "a driver or an upper layer failed"},
    {{kSend, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kSend, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kSend, EFAULT}, kInvalid, kStop, "a bad buffer pointer"},

    // recv(2). 0 is the end of the stream; the peer's FIN decides what kind of end.
    {{kRecv, 0, kClosed}, kReset, kBackOff, "no FIN came: a reset that another call was told of"},
    {{kRecv, 0, kCloseWait}, kEof, kBackOff, "the peer's FIN: an end in good order"},
    {{kRecv, 0}, kEof, kBackOff, "the end, with no TCP state to ask (AF_UNIX)"},
    {{kRecv, EAGAIN}, kTryAgain, kRetryInPlace, "no data; wait"},
    {{kRecv, EINTR}, kTryAgain, kRetryInPlace, "a signal before the first byte"},
    {{kRecv, ECONNRESET}, kReset, kBackOff, "the peer reset the connection"},
    {{kRecv, EPIPE}, kReset, kBackOff, "a reset after the peer's FIN (seen in SO_ERROR)"},
    {{kRecv, ETIMEDOUT}, kTimeout, kBackOff, "keepalive or retransmission gave up"},
    {{kRecv, EHOSTUNREACH},
     kUnreachable,
     kBackOff,
     "unanswered for too long; ICMP or ARP says why"},
    {{kRecv, ENETUNREACH}, kUnreachable, kBackOff, "unanswered for too long; ICMP says why"},
    {{kRecv, ECONNREFUSED},
     kUnreachable,
     kBackOff,
     "unanswered; ICMP: port unreachable (firewall)"},
    {{kRecv, EACCES}, kPermission, kBackOff, "unanswered; ICMPv6: forbidden there"},
    {{kRecv, EPROTO}, kProtocol, kBackOff, "ICMPv6: parameter problem, or an upper layer"},
    {{kRecv, EHOSTDOWN}, kUnreachable, kBackOff, "unanswered; ICMP: host unknown"},
    {{kRecv, ENONET}, kUnreachable, kBackOff, "unanswered; ICMP: host isolated"},
    {{kRecv, ECONNABORTED}, kReset, kBackOff, "the socket was destroyed (ss -K)"},
    {{kRecv, ENOTCONN}, kInvalid, kStop, "never connected"},
    {{kRecv, ENOMEM}, kResource, kRetryInPlace, "no memory now"},
    {{kRecv, ENOBUFS}, kResource, kRetryInPlace, "no memory now"},
    {{kRecv, EIO}, kUnknown, kBackOff, "a driver or an upper layer failed"},
    {{kRecv, EINVAL}, kInvalid, kStop, "a bad argument"},
    {{kRecv, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kRecv, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kRecv, EFAULT}, kInvalid, kStop, "a bad buffer pointer"},
    {{kRecv, EOPNOTSUPP}, kInvalid, kStop, "a flag that this socket does not know"},
    // The kernel has ended the connection, and the errno is what ICMP last said, not why: it gave up
    // for want of an acknowledgement (sk_err_soft in tcp_write_err; icmp_err_convert, icmpv6_err_convert).
    // IPv6 also keeps what the route said, a blackhole included (inet6_csk_xmit).
    {{kRecv, EHOSTUNREACH, kClosed},
     kTimeout,
     kBackOff,
     "unanswered for too long; host unreachable"},
    {{kRecv, ENETUNREACH, kClosed}, kTimeout, kBackOff, "unanswered for too long; net unreachable"},
    {{kRecv, ECONNREFUSED, kClosed},
     kTimeout,
     kBackOff,
     "unanswered for too long; port unreachable"},
    {{kRecv, ENOPROTOOPT, kClosed},
     kTimeout,
     kBackOff,
     "unanswered for too long; no such protocol"},
    {{kRecv, EHOSTDOWN, kClosed}, kTimeout, kBackOff, "unanswered for too long; host unknown"},
    {{kRecv, ENONET, kClosed}, kTimeout, kBackOff, "unanswered for too long; host isolated"},
    {{kRecv, EOPNOTSUPP, kClosed},
     kTimeout,
     kBackOff,
     "unanswered for too long; source route failed"},
    {{kRecv, EPROTO, kClosed}, kTimeout, kBackOff, "unanswered for too long; parameter problem"},
    {{kRecv, EACCES, kClosed}, kTimeout, kBackOff, "unanswered for too long; forbidden there"},
    {{kRecv, EINVAL, kClosed}, kTimeout, kBackOff, "unanswered for too long; blackhole route"},

    // shutdown(2)
    {{kShutdown, ENOTCONN}, kNone, kIgnore, "already dead"},
    {{kShutdown, EINVAL}, kInvalid, kStop, "a bad argument"},
    {{kShutdown, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kShutdown, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},

    // close(2). Whatever it says, the descriptor is gone: it is never closed again.
    {{kClose, EINTR}, kNone, kIgnore, "a signal; the descriptor is released all the same"},
    {{kClose, EIO}, kNone, kIgnore, "the descriptor is released"},
    {{kClose, ENOSPC}, kNone, kIgnore, "the descriptor is released"},
    {{kClose, EDQUOT}, kNone, kIgnore, "the descriptor is released"},
    {{kClose, EBADF}, kInvalid, kStop, "closed twice: the number may be another's by now"},

    // getpeername(2), which tells a connected socket from one that only says so
    {{kGetpeername, ENOTCONN}, kReset, kVerify, "not connected: still in the handshake, or dead"},
    {{kGetpeername, EBADF}, kInvalid, kStop, "the descriptor is closed"},

    // setsockopt(2). What is ignored is optional: the link works without it.
    {{kSetsockopt, ENOPROTOOPT}, kUnsupported, kIgnore, "this kernel has no such option"},
    {{kSetsockopt, EOPNOTSUPP}, kUnsupported, kIgnore, "not an option of this socket"},
    {{kSetsockopt, EINVAL}, kInvalid, kStop, "a bad value or length"},
    {{kSetsockopt, EPERM}, kPermission, kIgnore, "an option that needs CAP_NET_ADMIN"},
    {{kSetsockopt, EACCES}, kPermission, kIgnore, "an option that needs a privilege"},
    {{kSetsockopt, ENODEV}, kLocalAddress, kBackOff, "SO_BINDTODEVICE: no such interface (yet)"},
    {{kSetsockopt, ENOENT}, kUnsupported, kIgnore, "TCP_CONGESTION: no such module"},
    {{kSetsockopt, EDOM}, kInvalid, kStop, "a time out of range"},
    {{kSetsockopt, ENOMEM}, kResource, kBackOff, "no memory"},
    {{kSetsockopt, ENOBUFS}, kResource, kBackOff, "the limit for option memory"},
    {{kSetsockopt, EISCONN}, kInvalid, kStop, "an option that must come before connect"},
    {{kSetsockopt, ENOTCONN}, kReset, kBackOff, "an option that needs a connection: it is dead"},
    {{kSetsockopt, EADDRINUSE}, kLocalAddress, kSurface, "a port or group that is taken"},
    {{kSetsockopt, EFAULT}, kInvalid, kStop, "a bad value pointer"},
    {{kSetsockopt, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kSetsockopt, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},

    // getsockopt(2)
    {{kGetsockopt, ENOPROTOOPT}, kUnsupported, kFallBack, "this kernel has no such option"},
    {{kGetsockopt, EOPNOTSUPP}, kUnsupported, kFallBack, "TCP_INFO of a socket that is not TCP"},
    {{kGetsockopt, EINVAL}, kInvalid, kStop, "a bad length"},
    {{kGetsockopt, EFAULT}, kInvalid, kStop, "a bad value pointer"},
    {{kGetsockopt, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kGetsockopt, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},

    // epoll_create1(2)
    {{kEpollCreate1, EMFILE},
     kResource,
     kSurface,
     "no descriptor left, or too many epoll instances"},
    {{kEpollCreate1, ENFILE}, kResource, kSurface, "this host has no descriptor left"},
    {{kEpollCreate1, ENOMEM}, kResource, kSurface, "no memory"},
    {{kEpollCreate1, EINVAL}, kInvalid, kStop, "bad flags"},

    // epoll_ctl(2)
    {{kEpollCtl, EEXIST}, kInvalid, kStop, "added twice"},
    {{kEpollCtl, ENOENT}, kInvalid, kStop, "changed or removed, but never added"},
    {{kEpollCtl, EBADF}, kInvalid, kStop, "closed before it was removed"},
    {{kEpollCtl, EPERM}, kInvalid, kStop, "a file or directory cannot be waited for"},
    {{kEpollCtl, EINVAL}, kInvalid, kStop, "a bad operation, or added to itself"},
    {{kEpollCtl, ELOOP}, kInvalid, kStop, "epoll within epoll, too deep"},
    {{kEpollCtl, ENOMEM}, kResource, kBackOff, "no memory: this one connection fails"},
    {{kEpollCtl, ENOSPC}, kResource, kBackOff, "too many watches: this one connection fails"},

    // epoll_wait(2)
    {{kEpollWait, EINTR}, kTryAgain, kRetryInPlace, "a signal; the timeout is computed anew"},
    {{kEpollWait, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kEpollWait, EFAULT}, kInvalid, kStop, "a bad event pointer"},
    {{kEpollWait, EINVAL}, kInvalid, kStop, "no epoll descriptor, or no room for events"},

    // What epoll reports. It names no errno: the socket is asked.
    {{kEpollEvent, EPOLLERR}, kUnreachable, kVerify, "error queue or soft error; may be alive"},
    {{kEpollEvent, EPOLLERR | EPOLLHUP}, kReset, kBackOff, "dead; read what is left, then ask why"},
    {{kEpollEvent, EPOLLRDHUP | EPOLLIN}, kEof, kVerify, "the peer's FIN; data may be left"},

    // io_uring_setup(2)
    {{kIoUringSetup, ENOSYS}, kUnsupported, kFallBack, "no io_uring here: epoll"},
    {{kIoUringSetup, EPERM},
     kPermission,
     kFallBack,
     "switched off, or seccomp (containers): epoll"},
    {{kIoUringSetup, EACCES}, kPermission, kFallBack, "a security module forbids it: epoll"},
    {{kIoUringSetup, EINVAL}, kUnsupported, kFallBack, "an unknown flag: fewer flags, then epoll"},
    {{kIoUringSetup, ENOMEM}, kResource, kFallBack, "locked memory: a smaller ring, then epoll"},
    {{kIoUringSetup, EMFILE}, kResource, kSurface, "this process has no descriptor left"},
    {{kIoUringSetup, ENFILE}, kResource, kSurface, "this host has no descriptor left"},
    {{kIoUringSetup, ENXIO}, kInvalid, kStop, "the ring to attach to is none"},
    {{kIoUringSetup, EFAULT}, kInvalid, kStop, "a bad parameter pointer"},

    // io_uring_register(2)
    {{kIoUringRegister, EINVAL}, kUnsupported, kFallBack, "unknown to this kernel: do without"},
    {{kIoUringRegister, ENOMEM}, kResource, kFallBack, "locked memory: do without"},
    {{kIoUringRegister, EEXIST}, kInvalid, kStop, "the buffer group exists already"},
    {{kIoUringRegister, EBUSY}, kInvalid, kStop, "registered already"},

    // io_uring_enter(2)
    {{kIoUringEnter, EINTR}, kTryAgain, kRetryInPlace, "a signal; what was submitted is in"},
    {{kIoUringEnter, ETIME}, kNone, kIgnore, "the wait is over: run the timers"},
    {{kIoUringEnter, EAGAIN}, kResource, kRetryInPlace, "no memory for a request: reap first"},
    {{kIoUringEnter, EBUSY}, kResource, kRetryInPlace, "completions overflowed: reap first"},
    {{kIoUringEnter, EBADR}, kResource, kFallBack, "completions were lost: a new ring"},
    {{kIoUringEnter, EEXIST}, kInvalid, kStop, "another thread entered the ring"},
    {{kIoUringEnter, EBADFD}, kInvalid, kStop, "the ring is not enabled"},
    {{kIoUringEnter, ENXIO}, kCancelled, kIgnore, "the ring is shutting down"},
    {{kIoUringEnter, EOPNOTSUPP}, kInvalid, kStop, "the descriptor is no ring"},
    {{kIoUringEnter, EBADF}, kInvalid, kStop, "the descriptor is closed"},
    {{kIoUringEnter, EINVAL}, kInvalid, kStop, "bad flags"},
    {{kIoUringEnter, EFAULT}, kInvalid, kStop, "a bad pointer"},
    {{kIoUringEnter, EPERM}, kPermission, kFallBack, "seccomp came after the set-up: epoll"},
    {{kIoUringEnter, ENOSYS}, kUnsupported, kFallBack, "seccomp: epoll"},

    // Any completion of io_uring. Asked last: see TablesOf.
    {{kCqeAny, ECANCELED}, kCancelled, kIgnore, "cancelled by us, by a linked failure, by the end"},
    {{kCqeAny, EINVAL}, kUnsupported, kFallBack, "an operation or flag this kernel has not"},
    {{kCqeAny, EOPNOTSUPP}, kUnsupported, kFallBack, "an operation this kernel cannot do here"},
    {{kCqeAny, EBADF}, kInvalid, kStop, "the descriptor was closed"},
    {{kCqeAny, ENOTSOCK}, kInvalid, kStop, "the descriptor is no socket"},
    {{kCqeAny, EFAULT}, kInvalid, kStop, "a bad buffer pointer"},
    {{kCqeAny, EACCES}, kInvalid, kStop, "forbidden by the ring's own restrictions"},
    {{kCqeAny, EINTR}, kTryAgain, kRetryInPlace, "a worker was interrupted"},
    {{kCqeAny, EAGAIN}, kTryAgain, kRetryInPlace, "not now: submit again, or poll"},
    {{kCqeAny, ENOMEM}, kResource, kRetryInPlace, "no memory now"},

    // The completion of a connect
    {{kCqeConnect, 0}, kNone, kVerify, "connected; believe getpeername, and local != peer"},
    {{kCqeConnect, 0, kSynSent}, kUnreachable, kVerify, "not connected; SO_ERROR knows the class"},
    {{kCqeConnect, ECONNREFUSED}, kRefused, kBackOff, "nobody listens, or a firewall says so"},
    {{kCqeConnect, ETIMEDOUT}, kTimeout, kBackOff, "no answer: silent drop, peer's backlog full"},
    {{kCqeConnect, EHOSTUNREACH}, kUnreachable, kBackOff, "no neighbour, or ICMP says so"},
    {{kCqeConnect, ENETUNREACH}, kUnreachable, kBackOff, "no route, or ICMP says so"},
    {{kCqeConnect, EACCES}, kPermission, kBackOffSlow, "a prohibiting route"},
    {{kCqeConnect, EINVAL}, kUnreachable, kBackOff, "a blackhole route"},
    {{kCqeConnect, EALREADY}, kInvalid, kBackOff, "in its handshake still, after a cancel"},
    {{kCqeConnect, ECONNRESET}, kCancelled, kBackOff, "our own shutdown in the handshake"},
    {{kCqeConnect, ECANCELED}, kCancelled, kBackOff, "cancelled by us; closing ends the handshake"},
    {{kCqeConnect, ECONNABORTED}, kRefused, kBackOff, "refused, as kernels from 6.2 on say it"},
    {{kCqeConnect, EINPROGRESS}, kTryAgain, kRetryInPlace, "older kernels: poll, then SO_ERROR"},

    // The completion of a receive
    {{kCqeRecv, 0, kClosed}, kReset, kBackOff, "no FIN came: a reset that a send was told of"},
    {{kCqeRecv, 0, kCloseWait}, kEof, kBackOff, "the peer's FIN: an end in good order"},
    {{kCqeRecv, ENOBUFS},
     kTryAgain,
     kRetryInPlace,
     "the buffer ring is empty: refill, submit again"},
    {{kCqeRecv, ECONNRESET}, kReset, kBackOff, "the peer reset the connection"},
    {{kCqeRecv, ETIMEDOUT}, kTimeout, kBackOff, "keepalive or retransmission gave up"},
    {{kCqeRecv, ENOTCONN}, kInvalid, kStop, "never connected"},

    // The completion of a send
    {{kCqeSend, EPIPE}, kReset, kBackOff, "dead, and another call has already been told why"},
    {{kCqeSend, ECONNRESET}, kReset, kBackOff, "the peer reset the connection"},
    {{kCqeSend, ETIMEDOUT}, kTimeout, kBackOff, "no acknowledgement for too long"},

    // The completion of an accept
    {{kCqeAccept, EMFILE}, kResource, kPause, "no descriptor left; the connection stays queued"},
    {{kCqeAccept, ENFILE}, kResource, kPause, "this host has no descriptor left"},
    {{kCqeAccept, EINVAL}, kInvalid, kStop, "not listening"},
    {{kCqeAccept, ECONNABORTED}, kTryAgain, kRetryInPlace, "gone before it was accepted"},

    // The completion of a cancel; 0 stands for every result that is no failure.
    {{kCqeCancel, 0}, kNone, kIgnore, "cancelled; the operation's own completion follows"},
    {{kCqeCancel, ENOENT}, kNone, kIgnore, "nothing to cancel: already complete"},
    {{kCqeCancel, EALREADY}, kNone, kIgnore, "already running; its completion follows"},

    // getaddrinfo(3)
    {{kGetaddrinfo, EAI_AGAIN},
     kNameTemporary,
     kBackOff,
     "no name server answers, or not usefully"},
    {{kGetaddrinfo, EAI_NONAME}, kNameNotFound, kBackOffSlow, "no such name; it may come yet"},
    {{kGetaddrinfo, EAI_NONAME, kLocalExhaustion}, kResource, kBackOff, "no descriptor or memory"},
    {{kGetaddrinfo, EAI_NONAME, kMalformedName}, kInvalid, kStop, "not a possible name"},
    {{kGetaddrinfo, EAI_NODATA}, kNameNotFound, kBackOffSlow, "the name has no such address"},
    {{kGetaddrinfo, EAI_ADDRFAMILY}, kInvalid, kStop, "a literal of another family than asked"},
    {{kGetaddrinfo, EAI_FAIL}, kNameTemporary, kBackOffSlow, "the name server says it cannot"},
    {{kGetaddrinfo, EAI_MEMORY}, kResource, kBackOff, "no memory"},
    {{kGetaddrinfo, EAI_SYSTEM}, kUnknown, kVerify, "errno decides, by the rows of socket"},
    {{kGetaddrinfo, EAI_SERVICE}, kInvalid, kStop, "an unknown service name"},
    {{kGetaddrinfo, EAI_SOCKTYPE}, kInvalid, kStop, "a bad socket type"},
    {{kGetaddrinfo, EAI_FAMILY}, kUnsupported, kStop, "a family that is not known here"},
    {{kGetaddrinfo, EAI_BADFLAGS}, kInvalid, kStop, "bad flags"},
    {{kGetaddrinfo, EAI_OVERFLOW}, kInvalid, kStop, "the answer does not fit"},
};

}  // namespace error_rows

inline constexpr std::span<const Entry> kErrorTable = error_rows::kEntries;

// What is known but no key: nobody can look it up by a number, so it is written down apart, with
// the same class and action, and printed below the table.
struct Remark {
  std::string_view call;  // As ToString(Call) says it; "*" for all.
  std::string_view fact;
  ErrorClass error_class;
  Action action;
  std::string_view meaning;
};
inline constexpr Remark kErrorRemarks[] = {
    {"cqe:recv", "short count", ErrorClass::kReset, Action::kBackOff,
     "with wait-for-all an error after the first bytes is lost, and the next receive says 0: "
     "wait-for-all is never used to receive"},
    {"cqe:send", "short count", ErrorClass::kReset, Action::kBackOff,
     "with wait-for-all an error after the first bytes is lost: the rest is sent again, and that "
     "send says EPIPE"},
    {"getaddrinfo", "0, port > 65535", ErrorClass::kInvalid, Action::kVerify,
     "\"70000\" is taken and cut to 16 bits: an Endpoint checks its port before the call"},
    {"*", "any other code", ErrorClass::kUnknown, Action::kBackOff,
     "not in the table: close, back off, dial again, keep the number; never a crash"},
};

// The operation that a failure of `call` is reported as.
[[nodiscard]] constexpr Operation OperationOf(Call call) noexcept {
  switch (call) {
    case Call::kSocket:
      return Operation::kSocket;
    case Call::kConnect:
    case Call::kConnectResult:
    case Call::kGetpeername:
    case Call::kCqeConnect:
      return Operation::kConnect;
    case Call::kAccept4:
    case Call::kCqeAccept:
      return Operation::kAccept;
    case Call::kBind:
      return Operation::kBind;
    case Call::kListen:
      return Operation::kListen;
    case Call::kSend:
    case Call::kCqeSend:
      return Operation::kSend;
    case Call::kRecv:
    case Call::kCqeRecv:
      return Operation::kReceive;
    case Call::kShutdown:
      return Operation::kShutdown;
    case Call::kClose:
      return Operation::kClose;
    case Call::kSetsockopt:
    case Call::kGetsockopt:
      return Operation::kOption;
    case Call::kEpollCreate1:
    case Call::kEpollCtl:
    case Call::kEpollWait:
    case Call::kEpollEvent:
    case Call::kIoUringSetup:
    case Call::kIoUringRegister:
    case Call::kIoUringEnter:
    case Call::kCqeAny:
    case Call::kCqeCancel:
      return Operation::kBackend;
    case Call::kGetaddrinfo:
      return Operation::kResolve;
  }
  return Operation::kNone;
}

// The calls whose rows are asked for `call`, the first that answers wins: its own rows; for a
// completion of io_uring then the rows of the system call that it stands for, so that both backends
// name a failure alike; and the rows of any completion last. Last, because an errno that the socket
// gave says more than one the ring might have given: EACCES on a receive is an ICMPv6 answer that
// any router can send, and as "forbidden by the ring's restrictions" it would stop the link; EAGAIN
// on an AF_UNIX connect is a full backlog, and submitting again at once would spin.
[[nodiscard]] constexpr std::array<Call, 4> TablesOf(Call call) noexcept {
  switch (call) {
    case Call::kCqeConnect:
      return {call, Call::kConnectResult, Call::kConnect, Call::kCqeAny};
    case Call::kCqeRecv:
      return {call, Call::kRecv, Call::kCqeAny, call};
    case Call::kCqeSend:
      return {call, Call::kSend, Call::kCqeAny, call};
    case Call::kCqeAccept:
      return {call, Call::kAccept4, Call::kCqeAny, call};
    case Call::kCqeCancel:
      return {call, Call::kCqeAny, call, call};
    default:
      return {call, call, call, call};  // A repeated call means that no further table is asked.
  }
}

// One number per key, in the order of (call, code, detail); no two keys share one.
[[nodiscard]] constexpr std::uint64_t Packed(const Row& row) noexcept {
  return std::uint64_t{static_cast<std::uint8_t>(row.call)} << 40 |
         std::uint64_t{static_cast<std::uint32_t>(row.code)} << 8 |
         std::uint64_t{static_cast<std::uint8_t>(row.detail)};
}

// The table's keys, sorted, each with the place of its entry.
struct ErrorIndex {
  struct Slot {
    std::uint64_t key = 0;
    std::size_t entry = 0;
  };
  std::array<Slot, kErrorTable.size()> slots = {};

  consteval ErrorIndex() noexcept {
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = {Packed(kErrorTable[i].row), i};
    std::sort(slots.begin(), slots.end(), [](Slot a, Slot b) { return a.key < b.key; });
  }
};
inline constexpr ErrorIndex kErrorIndex;

// The place in kErrorTable of exactly this key, or kNotListed. Places and not pointers: to g++ 12
// under -fsanitize=undefined a comparison with nullptr is no constant expression.
inline constexpr std::size_t kNotListed = kErrorTable.size();
[[nodiscard]] constexpr std::size_t PlaceOf(const Row& row) noexcept {
  const std::uint64_t key = Packed(row);
  const auto& slots = kErrorIndex.slots;
  const auto found = std::lower_bound(
      slots.begin(), slots.end(), key,
      [](const ErrorIndex::Slot& slot, std::uint64_t wanted) { return slot.key < wanted; });
  return found != slots.end() && found->key == key ? found->entry : kNotListed;
}

// The same in the first table of TablesOf(row.call) that lists (code, detail).
[[nodiscard]] constexpr std::size_t PlaceInTables(const Row& row) noexcept {
  const std::array<Call, 4> tables = TablesOf(row.call);
  for (std::size_t i = 0; i < tables.size(); ++i) {
    if (i > 0 && tables[i] == row.call) break;
    const std::size_t place = PlaceOf({tables[i], row.code, row.detail});
    if (place != kNotListed) return place;
  }
  return kNotListed;
}

// The entry that answers for exactly this detail, its meaning included, or nullptr.
[[nodiscard]] constexpr const Entry* FindInTables(const Row& row) noexcept {
  const std::size_t place = PlaceInTables(row);
  return place == kNotListed ? nullptr : &kErrorTable[place];
}

// What happened, sorted. Total: a key with its detail is looked for in all of the call's tables,
// then the key without detail; what is in none of them is kUnknown, kBackOff. The operation is that
// of `call` itself, also where another call's row answered, and `code` is kept, except for
// kEpollEvent: a mask is no errno, so that error has code 0.
//
// Call it for what failed, and for the zeros of the table (a connect that says it succeeded, the
// end of a stream): any other success is not a failure, and asking what kind it is gives kUnknown.
[[nodiscard]] constexpr Error Classify(Call call, int code,
                                       Detail detail = Detail::kNone) noexcept {
  const Operation operation = OperationOf(call);
  const int kept = call == Call::kEpollEvent ? 0 : code;
  std::size_t place = PlaceInTables({call, code, detail});
  if (place == kNotListed && detail != Detail::kNone) place = PlaceInTables({call, code});
  if (place == kNotListed) return {operation, ErrorClass::kUnknown, Action::kBackOff, kept};
  return {operation, kErrorTable[place].error_class, kErrorTable[place].action, kept};
}

// A failed getaddrinfo(3): `eai` is what it returned, `error_number` errno right after the call,
// having been set to 0 before it (a stale errno would decide). glibc reports local trouble as names
// that do not exist: out of descriptors it says EAI_NONAME, errno EMFILE (glibc 2.36), which is no
// reason to believe the host gone; once it has asked a name server before, EAI_SYSTEM and errno 0:
// what its socket(2) said is lost, and want of something on this host is what makes that fail.
// Where the errno decided, the error's code is the errno.
[[nodiscard]] constexpr Error ClassifyResolve(int eai, int error_number) noexcept {
  if (eai == EAI_SYSTEM && error_number != 0) {
    Error error = Classify(Call::kSocket, error_number);
    error.operation = Operation::kResolve;
    return error;
  }
  if (eai == EAI_SYSTEM) return {Operation::kResolve, ErrorClass::kResource, Action::kBackOff, eai};

  Detail detail = Detail::kNone;
  if (eai == EAI_NONAME) {
    switch (error_number) {
      case EMFILE:
      case ENFILE:
      case ENOMEM:
        detail = Detail::kLocalExhaustion;
        break;
      case EMSGSIZE:
      case EINVAL:
        detail = Detail::kMalformedName;
        break;
      default:
        break;
    }
  }
  Error error = Classify(Call::kGetaddrinfo, eai, detail);
  if (detail != Detail::kNone) error.code = error_number;
  return error;
}

// The call as tests/data/errors.csv spells it: "connect-result", "cqe:recv". Static storage.
[[nodiscard]] std::string_view ToString(Call call) noexcept;
// The detail in snake case without the k; "" for kNone. Static storage.
[[nodiscard]] std::string_view ToString(Detail detail) noexcept;
// The code of a row in text: "ECONNREFUSED", "EAI_AGAIN", "EPOLLERR+EPOLLHUP", "0". Allocates.
[[nodiscard]] std::string CodeText(const Row& row);

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_ERROR_TABLE_H_
