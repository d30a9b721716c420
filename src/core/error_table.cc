#include "core/error_table.h"

#include <holdfast/error.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace holdfast::internal {
namespace {

// The index is sorted by key, so a key that is listed twice has equal neighbours.
consteval bool EveryKeyIsListedOnce() {
  for (std::size_t i = 1; i < kErrorIndex.slots.size(); ++i) {
    if (kErrorIndex.slots[i - 1].key == kErrorIndex.slots[i].key) return false;
  }
  return true;
}
static_assert(EveryKeyIsListedOnce(), "a (call, code, detail) is listed twice in the error table");

// A reader finds all rows of a call in one place.
consteval bool RowsOfACallStandTogether() {
  bool ended[kCallCount] = {};
  for (std::size_t i = 1; i < kErrorTable.size(); ++i) {
    const Call before = kErrorTable[i - 1].row.call;
    const Call call = kErrorTable[i].row.call;
    if (before != call) ended[static_cast<std::size_t>(before)] = true;
    if (ended[static_cast<std::size_t>(call)]) return false;
  }
  return true;
}
static_assert(RowsOfACallStandTogether(), "the rows of a call are scattered in the error table");

consteval bool EveryRowHasAnActionAndAMeaning() {
  for (const Entry& entry : kErrorTable) {
    if (entry.action == Action::kNone || entry.meaning.empty()) return false;
  }
  return true;
}
static_assert(EveryRowHasAnActionAndAMeaning());

std::string EventText(int mask) {
  struct Event {
    int bit;
    std::string_view name;
  };
  static constexpr Event kEvents[] = {{EPOLLRDHUP, "EPOLLRDHUP"},
                                      {EPOLLIN, "EPOLLIN"},
                                      {EPOLLERR, "EPOLLERR"},
                                      {EPOLLHUP, "EPOLLHUP"}};
  std::string text;
  for (const Event& event : kEvents) {
    if ((mask & event.bit) == 0) continue;
    if (!text.empty()) text += '+';
    text += event.name;
  }
  return text;
}

}  // namespace

std::string_view ToString(Call call) noexcept {
  switch (call) {
    case Call::kSocket:
      return "socket";
    case Call::kConnect:
      return "connect";
    case Call::kConnectResult:
      return "connect-result";
    case Call::kAccept4:
      return "accept4";
    case Call::kBind:
      return "bind";
    case Call::kListen:
      return "listen";
    case Call::kSend:
      return "send";
    case Call::kRecv:
      return "recv";
    case Call::kShutdown:
      return "shutdown";
    case Call::kClose:
      return "close";
    case Call::kGetpeername:
      return "getpeername";
    case Call::kSetsockopt:
      return "setsockopt";
    case Call::kGetsockopt:
      return "getsockopt";
    case Call::kEpollCreate1:
      return "epoll_create1";
    case Call::kEpollCtl:
      return "epoll_ctl";
    case Call::kEpollWait:
      return "epoll_wait";
    case Call::kEpollEvent:
      return "epoll-event";
    case Call::kIoUringSetup:
      return "io_uring_setup";
    case Call::kIoUringRegister:
      return "io_uring_register";
    case Call::kIoUringEnter:
      return "io_uring_enter";
    case Call::kCqeAny:
      return "cqe:any";
    case Call::kCqeConnect:
      return "cqe:connect";
    case Call::kCqeRecv:
      return "cqe:recv";
    case Call::kCqeSend:
      return "cqe:send";
    case Call::kCqeAccept:
      return "cqe:accept";
    case Call::kCqeCancel:
      return "cqe:cancel";
    case Call::kGetaddrinfo:
      return "getaddrinfo";
  }
  return "";
}

std::string_view ToString(Detail detail) noexcept {
  switch (detail) {
    case Detail::kNone:
      return "";
    case Detail::kUnix:
      return "unix";
    case Detail::kIpv6:
      return "ipv6";
    case Detail::kSynSent:
      return "syn_sent";
    case Detail::kSelfConnect:
      return "self_connect";
    case Detail::kClosed:
      return "closed";
    case Detail::kCloseWait:
      return "close_wait";
    case Detail::kLocalExhaustion:
      return "local_exhaustion";
    case Detail::kMalformedName:
      return "malformed_name";
  }
  return "";
}

std::string CodeText(const Row& row) {
  if (row.code == 0) return "0";
  if (row.call == Call::kEpollEvent) return EventText(row.code);
  return Error{.code = row.code}.CodeName();
}

}  // namespace holdfast::internal
