// The readiness engine: epoll(7), edge-triggered, behind the completion contract of backend.h.
//
// epoll says that something may be done, the contract that something was done. So this file keeps
// the edges it saw, makes the calls itself, and leaves what a verb knew at once to Dispatch, since
// no verb calls back. A message costs one recv, one send, and its share of one wait:
// - A descriptor is registered once, with its first operation, and left alone on the hot path.
//   (Registering per operation was rejected: the epoll_ctl churn costs 25 to 35 %; zio #510.)
// - A receive that got less than it asked for has drained the socket, and no second one finds that
//   out, unless the event told of an end (RDHUP, HUP, ERR): that edge comes only once, so then it
//   reads on to the end (nginx, ngx_recv.c). Nor where an urgent byte waits (PRI): recv(2) stops short
//   before it.
// - A send goes to the kernel inside the verb. The eventfd that wakes is never read (libuv e5cb1d3d).
//
// Wait turns all of its events into the state of their sockets before anybody is called back, so a
// callback that closes a socket leaves no event of it behind. What the kernel still reports of a
// socket that is gone (a forked child keeps it open) finds no slot, and is counted.
// Sources: epoll(7), epoll_ctl(2), connect(2), ip(7) IP_RECVERR; tcp_poll in net/ipv4/tcp.c.
#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <new>
#include <utility>

#include "backend/abandon.h"
#include "backend/answers.h"
#include "backend/backend.h"
#include "backend/ready_lists.h"
#include "backend/receive_buffer.h"
#include "backend/refusals.h"
#include "base/check.h"
#include "base/slot_map.h"
#include "core/error_codes.h"
#include "core/error_table.h"
#include "sys/fork_mark.h"

namespace holdfast::internal {
namespace {

constexpr std::size_t kEventsPerWait = 128;
constexpr unsigned kAcceptsPerTurn = 64;
constexpr unsigned kReceivesPerTurn = 8;
constexpr std::size_t kReceiveBytesPerTurn = 64 * 1024;

// The kernel may end a wait late by 50 us or 0.1 % of it, whichever is more (fs/select.c,
// select_estimate_accuracy). A long one is cut by more than that, and the loop waits for the rest.
constexpr Duration kExactWaitMax = std::chrono::milliseconds(50);
constexpr int kSlackDivisor = 512;

// Words of epoll_event that name no socket, because no generation is 0.
constexpr std::uint64_t kWakeWord = 1;
constexpr std::uint64_t kWatchWord = 2;

constexpr std::uint32_t kIn = EPOLLIN;
constexpr std::uint32_t kOut = EPOLLOUT;
constexpr std::uint32_t kEdge = EPOLLET;
constexpr std::uint32_t kDead = EPOLLHUP | EPOLLERR;
constexpr std::uint32_t kEnd = EPOLLRDHUP | EPOLLPRI | kDead;  // Read on until nothing is left.
constexpr std::uint32_t kReadable = kIn | kEnd;  // What Socket::ready_events remembers.

// True when a call on the socket's descriptor has something to take, and is asked for.
bool IsReadable(const Socket& s) noexcept {
  return (s.ready_events & kReadable) != 0 &&
         (Waits(s.receive, s.receive_result) || Waits(s.accept, s.accept_result));
}

void Ignore(const Result&) noexcept {}  // Of what leaves a registration that does no harm.

class EpollBackend final : public Backend {
 public:
  EpollBackend(Kernel& kernel, std::size_t buffer_size) noexcept
      : kernel_(kernel), buffer_(buffer_size) {}
  ~EpollBackend() override {
    HOLDFAST_CHECK(sockets_.size() == 0);
    if (wake_fd_ >= 0) kernel_.Close(wake_fd_);
    if (epoll_fd_ >= 0) kernel_.Close(epoll_fd_);
  }

  // Makes the descriptors. Call once and first; the destructor closes what there is.
  [[nodiscard]] absl::Status Start() {
    if (!buffer_.valid()) return absl::ResourceExhaustedError("epoll: no memory to receive into");
    epoll_fd_ = kernel_.EpollCreate();
    wake_fd_ = epoll_fd_ < 0 ? epoll_fd_ : kernel_.EventFd();  // Both fail for the same reasons.
    if (wake_fd_ < 0) return Classify(Call::kEpollCreate1, -wake_fd_).ToStatus();
    const Result result = Control(EPOLL_CTL_ADD, wake_fd_, kIn | kEdge, kWakeWord);
    return result.ok() ? absl::OkStatus() : result.error().ToStatus();
  }

  const char* name() const noexcept override { return "epoll"; }
  Call wait_call() const noexcept override { return Call::kEpollWait; }
  const BackendStats& stats() const noexcept override {
    stats_.wakes = wakes_.load(std::memory_order_relaxed);
    return stats_;
  }

  // --- The verbs.

  int Open(Socket& socket, int domain) noexcept override {
    const int fd = kernel_.Socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fd;
    const int result = Adopt(socket, fd, domain);
    if (result < 0) kernel_.Close(fd);
    return result;
  }

  int Adopt(Socket& socket, int fd, int domain) noexcept override {
    HOLDFAST_CHECK(!socket.open());
    const auto key = sockets_.Insert(&socket);
    if (!key.has_value()) return kNoMemoryCode;
    socket.fd = fd;
    socket.domain = domain;
    socket.slot = key->slot;
    socket.generation = key->generation;
    socket.interest = 0;
    socket.ready_events = 0;
    ForgetResults(socket);
    return 0;
  }

  void Connect(Socket& socket, const sockaddr* address, socklen_t size) noexcept override {
    HOLDFAST_CHECK(socket.connect == OpState::kIdle);
    socket.connect = OpState::kArmed;
    ++stats_.syscalls;
    Result result{kernel_.Connect(socket.fd, address, size), Call::kConnect};
    // Under way; or interrupted, which ends the call but not the handshake.
    if (IsTryAgain(result)) {
      result = SetInterest(socket, socket.interest | kOut | kEdge);
      if (result.ok()) return;
    }
    ready_.Complete(socket, socket.connect_result, result);
  }

  void Accept(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.accept == OpState::kIdle);
    socket.accept = OpState::kArmed;
    // Level-triggered: what one turn leaves in the queue, the next wait tells again.
    const Result result = SetInterest(socket, kIn);
    if (!result.ok()) ready_.Complete(socket, socket.accept_result, result);
  }

  void Receive(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.receive == OpState::kIdle);
    socket.receive = OpState::kArmed;
    const bool waits_for_room =
        Waits(socket.send, socket.send_result) || Waits(socket.connect, socket.connect_result);
    // The first time this looks at the socket anew: what came before is not lost.
    const std::uint32_t out = waits_for_room ? kOut : 0;
    const Result result = SetInterest(socket, kIn | EPOLLPRI | EPOLLRDHUP | kEdge | out);
    if (!result.ok()) {
      ready_.Complete(socket, socket.receive_result, result);
    } else if (IsReadable(socket)) {
      ready_.Add(socket);
    }
  }

  void Send(Socket& socket, std::span<const iovec> parts, Notify notify) noexcept override {
    HOLDFAST_CHECK(socket.send == OpState::kIdle);
    HOLDFAST_CHECK(!parts.empty() && parts.size() <= kSendPartsMax);
    socket.send = OpState::kArmed;
    socket.send_size = 0;
    for (const iovec& part : parts) socket.send_size += static_cast<std::uint32_t>(part.iov_len);
    ++stats_.syscalls;
    ++stats_.sends;
    Result result{static_cast<std::int32_t>(SendNow(socket.fd, parts)), Call::kSend};
    if (result.ok() && static_cast<std::uint32_t>(result.value) == socket.send_size) {
      // Not sooner: a stream that fills the pipe again and again would pay two epoll_ctl each time.
      if (socket.connect == OpState::kIdle) Ignore(SetInterest(socket, socket.interest & ~kOut));
      if (notify == Notify::kWithNextEvent) return ready_.CompleteQuietly(socket, result);
    } else if (result.ok()) {
      ++stats_.sends_short;
    } else if (IsNotReady(result.value)) {
      ++stats_.sends_blocked;
      // In any case, for it looks at the socket anew: the room may be there by now.
      result = Register(socket, socket.interest | kOut | kEdge);
      if (result.ok()) return;
    } else if (IsTryAgain(result)) {
      result.value = 0;  // A signal: nothing was taken, and another attempt may come at once.
    }
    ready_.Complete(socket, socket.send_result, result);
  }

  void Cancel(Socket& socket, OpKind kind) noexcept override {
    if (fork_.forked()) return;
    switch (kind) {
      case OpKind::kConnect:
        return ready_.Cancel(socket, socket.connect, socket.connect_result, Call::kCqeConnect);
      case OpKind::kAccept:
        // Level-triggered: it would be reported for as long as nobody takes it.
        if (socket.accept == OpState::kArmed) Ignore(SetInterest(socket, 0));
        return ready_.Cancel(socket, socket.accept, socket.accept_result, Call::kCqeAccept);
      case OpKind::kReceive:
        return ready_.Cancel(socket, socket.receive, socket.receive_result, Call::kCqeRecv);
      case OpKind::kSend:
        return ready_.Cancel(socket, socket.send, socket.send_result, Call::kCqeSend);
    }
  }

  void Close(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.open() && socket.idle());
    HOLDFAST_CHECK(!socket.linked());  // What is idle has nothing to deliver.
    // close(2) alone would leave it registered for as long as a forked child has it open.
    Ignore(SetInterest(socket, 0));
    kernel_.Close(std::exchange(socket.fd, -1));
    sockets_.Remove({socket.slot, socket.generation});
  }

  // --- The loop.

  // epoll has no owner: any thread of this process can end things.
  int Enable() noexcept override { return fork_.forked() ? kWrongThreadCode : refusals_.answer(); }
  void Abandon() noexcept override {
    sockets_.ForEach([](Socket& socket) {
      socket.interest = 0;  // What is registered is the parent's.
      ForgetResults(socket);
      EndByForce(socket);
    });
  }
  void Wait(Duration timeout) noexcept override {
    timeout = HasReady() ? Duration::zero() : std::max(timeout, Duration::zero());
    if (timeout > kExactWaitMax && timeout != kNeverTimeout) timeout -= timeout / kSlackDivisor;
    std::array<epoll_event, kEventsPerWait> events;
    ++stats_.syscalls;
    ++stats_.waits;
    const int count = kernel_.EpollWait(epoll_fd_, events.data(), kEventsPerWait, timeout);
    refusals_.Note(Call::kEpollWait, count);
    kernel_has_more_ = count == static_cast<int>(kEventsPerWait);  // Negative: a signal woke us.
    for (int i = 0; i < count; ++i) OnEvent(events[static_cast<std::size_t>(i)]);
  }

  bool Dispatch(unsigned budget) noexcept override {
    if (budget > 0 && std::exchange(watch_ready_, false)) {
      --budget;
      watch_callback_(watch_context_);
    }
    ready_.BeginTurn();
    while (budget > 0 && !fork_.forked()) {
      Socket* const socket = ready_.Next();
      if (socket == nullptr) break;
      Deliver(*socket, budget);
    }
    ready_.EndTurn();
    return HasReady() || kernel_has_more_;
  }

  bool HasReady() const noexcept override { return !ready_.empty() || watch_ready_; }

  void Wake() noexcept override {
    if (fork_.forked()) return;
    const std::uint64_t one = 1;
    wakes_.fetch_add(1, std::memory_order_relaxed);
    kernel_.Write(wake_fd_, &one, sizeof(one));  // Fails at 2^64 - 1, which nobody reaches.
  }

  int SetWatch(int fd, void (*callback)(void*), void* context) noexcept override {
    if (watch_fd_ >= 0) Ignore(Control(EPOLL_CTL_DEL, watch_fd_, 0, kWatchWord));
    watch_fd_ = -1;
    watch_ready_ = false;
    watch_callback_ = callback;
    watch_context_ = context;
    if (fd < 0) return 0;
    const Result result = Control(EPOLL_CTL_ADD, fd, kIn, kWatchWord);
    if (result.ok()) watch_fd_ = fd;
    return result.value;
  }

  int fd() noexcept override { return epoll_fd_; }

 private:
  [[nodiscard]] Result Control(int action, int fd, std::uint32_t events,
                               std::uint64_t word) noexcept {
    epoll_event event{};
    event.events = events;
    event.data.u64 = word;
    ++stats_.syscalls;
    return {kernel_.EpollCtl(epoll_fd_, action, fd, &event), Call::kEpollCtl};
  }

  [[nodiscard]] Result SetInterest(Socket& socket, std::uint32_t events) noexcept {
    return socket.interest == events ? Result{0, Call::kEpollCtl} : Register(socket, events);
  }

  // Adds, changes, or, without events, removes. On failure nothing has changed.
  [[nodiscard]] Result Register(Socket& socket, std::uint32_t events) noexcept {
    int action = socket.interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (events == 0) action = EPOLL_CTL_DEL;
    const std::uint64_t word = PackUserData(socket.generation, socket.slot, 0);
    const Result result = Control(action, socket.fd, events, word);
    if (result.ok()) socket.interest = events;
    return result;
  }

  [[nodiscard]] ssize_t SendNow(int fd, std::span<const iovec> parts) noexcept {
    constexpr int kFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
    if (parts.size() == 1) return kernel_.Send(fd, parts[0].iov_base, parts[0].iov_len, kFlags);
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());  // Only read by sendmsg(2).
    message.msg_iovlen = parts.size();
    return kernel_.SendMsg(fd, &message, kFlags);
  }

  // --- From events to the state of sockets. Calls nobody back.

  void OnEvent(const epoll_event& event) noexcept {
    const std::uint64_t word = event.data.u64;
    if (word == kWakeWord) return;
    if (word == kWatchWord) {
      watch_ready_ = watch_fd_ >= 0;
      return;
    }
    Socket* const socket = sockets_.Find(UserDataSlot(word), UserDataGeneration(word));
    if (socket == nullptr) {
      ++stats_.stale_completions;
      return;
    }
    std::uint32_t events = event.events;
    const bool settled = (events & (kOut | kDead)) != 0;
    if (settled && Waits(socket->send, socket->send_result)) {
      // After an error, too: the next attempt is told which.
      ready_.Complete(*socket, socket->send_result, {0, Call::kSend});
    }
    if (settled && Waits(socket->connect, socket->connect_result)) {
      ready_.Complete(*socket, socket->connect_result, ConnectOutcome(kernel_, *socket, stats_));
    } else if ((events & kDead) == EPOLLERR) {
      DrainErrorQueue(kernel_, *socket, stats_);
      events &= ~std::uint32_t{EPOLLERR};
    }
    socket->ready_events |= events & kReadable;
    if (IsReadable(*socket)) ready_.Add(*socket);
  }

  // --- From the state of sockets to callbacks.

  // Delivers one end that the socket has, or a budget of accepts or receives. A callback that tells
  // of an end is the last that is done with a socket, which may be closed and gone after it.
  void Deliver(Socket& s, unsigned& budget) noexcept {
    if (Has(s.connect_result)) {
      s.events->OnConnect(s, TakeEnd(s, s.connect, s.connect_result, budget));
    } else if (Has(s.send_result)) {
      s.events->OnSend(s, TakeEnd(s, s.send, s.send_result, budget));
    } else if (Has(s.accept_result)) {
      s.events->OnAccept(s, TakeEnd(s, s.accept, s.accept_result, budget));
    } else if (Has(s.receive_result)) {
      s.events->OnReceive(s, TakeEnd(s, s.receive, s.receive_result, budget), nullptr);
    } else if (IsReadable(s)) {
      const bool accepts = s.accept == OpState::kArmed;
      if (accepts ? AcceptSome(s, budget) : ReceiveSome(s, budget)) ready_.Add(s);
    }
  }

  // What else the socket has comes later in the same turn.
  [[nodiscard]] Result TakeEnd(Socket& s, OpState& state, Result& place,
                               unsigned& budget) noexcept {
    --budget;
    state = OpState::kIdle;
    const Result result = std::exchange(place, {kNoResult, place.call});
    if (HasEnd(s) || IsReadable(s)) ready_.Again(s);
    return result;
  }

  // True when the turn's share is used up and there may be more.
  [[nodiscard]] bool AcceptSome(Socket& socket, unsigned& budget) noexcept {
    for (unsigned i = 0; i < kAcceptsPerTurn && budget > 0; ++i) {
      ++stats_.syscalls;
      const int fd = kernel_.Accept4(socket.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      const Result result{fd, Call::kAccept4};
      if (IsNotReady(fd)) {
        socket.ready_events &= ~kReadable;
        return false;
      }
      if (IsTryAgain(result)) continue;
      --budget;
      if (!result.ok()) {
        // Not left registered: with no descriptor free it would wake the loop for ever.
        Ignore(SetInterest(socket, 0));
        socket.ready_events &= ~kReadable;
        socket.accept = OpState::kIdle;
      }
      socket.events->OnAccept(socket, result);
      if (!result.ok() || !IsReadable(socket) || fork_.forked()) return false;
    }
    return true;
  }

  // As AcceptSome, for received bytes.
  [[nodiscard]] bool ReceiveSome(Socket& socket, unsigned& budget) noexcept {
    std::size_t bytes = 0;
    for (unsigned i = 0; i < kReceivesPerTurn && bytes < kReceiveBytesPerTurn && budget > 0; ++i) {
      const ReceiveBuffer::Open buffer(buffer_);
      ++stats_.syscalls;
      const ssize_t size = kernel_.Recv(socket.fd, buffer.data(), buffer.size(), 0);
      const Result result{static_cast<std::int32_t>(size), Call::kRecv};
      if (IsNotReady(size)) {
        socket.ready_events &= ~kReadable;
        return false;
      }
      if (IsTryAgain(result)) continue;
      --budget;
      if (size <= 0) {
        // The events stay, so that whoever receives once more gets the end once more.
        socket.receive = OpState::kIdle;
        socket.events->OnReceive(socket, result, nullptr);
        return false;
      }
      ++stats_.receives;
      bytes += static_cast<std::size_t>(size);
      const bool drained = static_cast<std::size_t>(size) < buffer.size();
      if (drained && (socket.ready_events & kEnd) == 0) socket.ready_events &= ~kReadable;
      socket.events->OnReceive(socket, result, buffer.data());
      // Drained, or cancelled by the callback; or the callback is in a child of its own making.
      if (!IsReadable(socket) || fork_.forked()) return false;
    }
    return true;
  }

  Kernel& kernel_;
  const ForkMark fork_;
  const ReceiveBuffer buffer_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  SlotMap<Socket> sockets_;
  ReadyLists ready_;

  int watch_fd_ = -1;
  void (*watch_callback_)(void*) = nullptr;
  void* watch_context_ = nullptr;
  Refusals refusals_;
  bool kernel_has_more_ = false;  // True exactly when the last wait filled its array.
  bool watch_ready_ = false;      // True from the wait that found it readable to the callback.

  mutable BackendStats stats_;  // `wakes` is brought up to date when somebody looks.
  std::atomic<std::uint64_t> wakes_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateEpollBackend(Kernel& kernel,
                                                            const BackendOptions& options) {
  std::unique_ptr<EpollBackend> backend(new (std::nothrow)
                                            EpollBackend(kernel, options.buffer_size));
  if (backend == nullptr) return absl::ResourceExhaustedError("epoll: no memory");
  if (absl::Status status = backend->Start(); !status.ok()) return status;
  return backend;
}

}  // namespace holdfast::internal
