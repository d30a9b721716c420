// The completion contract over io_uring: multishot accept and receive, fast sends, one system call a
// turn. docs/kernel.md says what was measured and why each thing is as it is.
//
// One turn: Wait submits what the verbs staged and sleeps, in one io_uring_enter(2), and learns which
// sends succeeded in silence. Dispatch takes completions from the ring and calls back. They stay in the
// ring until Dispatch wants them; only the issuer's `held` and `sends` keep some outside of it.
//
// A submission cannot be taken back, so whatever is staged counts as armed here, and a cancel stands
// behind what it cancels. A socket is found by slot and generation; an operation is over when its own
// last completion was delivered (no IORING_CQE_F_MORE), whatever became of the cancel. Nothing runs in
// a kernel worker: sends do not wait, and everything else waits by polling. But a connect to an AF_UNIX
// listener with a full backlog would go to one, and its cancel come back as EINTR (Linux 6.18): those
// sockets alone are non-blocking and connect by connect(2), which never takes long. All others block,
// as some kernels do not wait for a socket that does not.
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "backend/abandon.h"
#include "backend/answers.h"
#include "backend/backend.h"
#include "backend/uring_issuer.h"
#include "backend/uring_polls.h"
#include "backend/uring_probe.h"
#include "base/check.h"
#include "base/slot_map.h"
#include "core/error_codes.h"
#include "sys/fork_mark.h"

namespace holdfast::internal {
namespace {

class UringBackend final : public Backend {
 public:
  UringBackend(Kernel& kernel, const BackendOptions& options)
      : kernel_(kernel), options_(options), buffers_(kernel), issuer_(kernel, stats_, slots_) {}

  ~UringBackend() override {
    HOLDFAST_CHECK(slots_.size() == 0);
    if (OwnedHere()) {
      // Our own polls name descriptors that are closed next. Elsewhere the end of the ring ends them.
      polls_.End();
      constexpr Duration kPatience = std::chrono::milliseconds(10);
      for (unsigned turn = 0; turn < 16 && polls_.in_flight() > 0; ++turn) {
        issuer_.Turn(1, kPatience);
        Dispatch(~0u);
      }
    }
  }

  absl::Status Start() {
    const std::uint32_t count = options_.buffer_count;
    if (count == 0 || (count & (count - 1)) != 0 || count > BufferRing::kCountMax) {
      return absl::InvalidArgumentError("buffer_count is no power of two up to 32768");
    }
    if (absl::Status opened = issuer_.ring.Open(options_); !opened.ok()) return opened;
    absl::Status registered = buffers_.Open(issuer_.ring.fd(), count, options_.buffer_size);
    if (!registered.ok()) return registered;
    const int polls = polls_.Open();
    if (polls < 0) {
      return absl::ResourceExhaustedError("eventfd: " + CodeText({Call::kEpollCreate1, -polls}));
    }
    issuer_.held.Reserve(options_.cq_entries);
    return absl::OkStatus();
  }

  [[nodiscard]] int ring_fd() const noexcept { return issuer_.ring.fd(); }

  const char* name() const noexcept override { return "uring"; }
  Call wait_call() const noexcept override { return Call::kIoUringEnter; }
  const BackendStats& stats() const noexcept override {
    stats_.wakes = wakes_.load(std::memory_order_relaxed);
    return stats_;
  }

  // --- The verbs.

  int Open(Socket& socket, int domain) noexcept override {
    const int type = SOCK_STREAM | SOCK_CLOEXEC | (domain == AF_UNIX ? SOCK_NONBLOCK : 0);
    const int fd = kernel_.Socket(domain, type, 0);
    if (fd < 0) return fd;
    const int adopted = Adopt(socket, fd, domain);
    if (adopted < 0) static_cast<void>(kernel_.Close(fd));
    return adopted;
  }

  int Adopt(Socket& socket, int fd, int domain) noexcept override {
    HOLDFAST_CHECK(!socket.open());
    HOLDFAST_CHECK(socket.idle());
    const auto key = slots_.Insert(&socket);
    if (!key.has_value()) return kNoMemoryCode;
    socket.fd = fd;
    socket.domain = domain;
    socket.slot = key->slot;
    socket.generation = key->generation;
    socket.send_phase = SendPhase::kNothing;
    return 0;
  }

  void Connect(Socket& socket, const sockaddr* address, socklen_t size) noexcept override {
    HOLDFAST_CHECK(socket.connect == OpState::kIdle);
    socket.connect = OpState::kArmed;
    if (socket.domain == AF_UNIX) {
      // Known at once; a completion of its own brings it to Dispatch.
      ++stats_.syscalls;
      socket.connect_result = {kernel_.Connect(socket.fd, address, size), Call::kConnect};
      return io_uring_prep_nop(issuer_.Stage(WordOf(socket, OpKind::kConnect)).sqe);
    }
    PrepareConnect(issuer_.Stage(WordOf(socket, OpKind::kConnect)), socket.fd, address, size);
  }

  void Accept(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.accept == OpState::kIdle);
    socket.accept = OpState::kArmed;
    issuer_.StageAccept(socket);
  }

  void Receive(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.receive == OpState::kIdle);
    socket.receive = OpState::kArmed;
    issuer_.StageReceive(socket, false);
  }

  void Send(Socket& socket, std::span<const iovec> parts, Notify notify) noexcept override {
    HOLDFAST_CHECK(socket.send == OpState::kIdle);
    socket.send = OpState::kArmed;
    issuer_.StageSend(socket, parts,
                      notify == Notify::kWithNextEvent && issuer_.ring.has(kUringSkipSuccess));
  }

  void Cancel(Socket& socket, OpKind kind) noexcept override {
    if (fork_.forked()) return;
    OpState* const states[] = {&socket.connect, &socket.accept, &socket.receive, &socket.send};
    OpState& state = *states[static_cast<unsigned>(kind) - 1];
    if (state != OpState::kArmed) return;
    state = OpState::kCancelling;
    const bool outward = kind == OpKind::kSend || kind == OpKind::kConnect;
    if (outward && socket.send_phase == SendPhase::kKnown) return issuer_.sends.Hurry(socket);
    // Its poll is being cancelled already.
    if (outward && socket.send_phase == SendPhase::kPolled) return;
    if (outward && socket.send_phase == SendPhase::kPolling) {
      return issuer_.StageCancel(WordOf(socket, kPollOut));
    }
    // A silent send that is still to be submitted will be past cancelling by then: the cancel says so
    // with a completion, and so ends the Wait that learns of the success.
    issuer_.StageCancel(WordOf(socket, kind));
  }

  void Close(Socket& socket) noexcept override {
    HOLDFAST_CHECK(socket.open());
    HOLDFAST_CHECK(socket.idle());
    slots_.Remove({socket.slot, socket.generation});
    static_cast<void>(kernel_.Close(socket.fd));
    socket.fd = -1;
  }

  // --- The loop.

  int Enable() noexcept override {
    if (fork_.forked()) return kWrongThreadCode;
    if (issuer_.ring.enabled()) return OwnedHere() ? issuer_.refusal() : kWrongThreadCode;
    const int result = issuer_.ring.Enable();
    if (result < 0) return result;
    owner_ = std::this_thread::get_id();
    if (!issuer_.embedding.active()) polls_.ArmWake();
    return 0;
  }

  void Abandon() noexcept override {
    owner_ = {};
    issuer_.ring.ForgetRegistration();
    slots_.ForEach([this](Socket& socket) {
      if (socket.send != OpState::kIdle) issuer_.sends.SetGuard(socket, false);
      EndByForce(socket);
    });
  }

  void Wait(Duration timeout) noexcept override { issuer_.Wait(timeout); }

  bool Dispatch(unsigned budget) noexcept override {
    ++turn_;
    issuer_.Take(budget);
    // Sends that are known and completions share the budget, lest either starves the other.
    unsigned left = budget;
    left -= DispatchSends(budget / 2 + (budget & turn_ & 1));
    left -= DispatchHeld(left);
    DispatchSends(left);
    if (fork_.forked()) return false;
    return HasReady() || !issuer_.sends.empty() || issuer_.ring.has_work();
  }

  bool HasReady() const noexcept override { return issuer_.HasReady(); }

  void Wake() noexcept override {
    if (fork_.forked()) return;
    wakes_.fetch_add(1, std::memory_order_relaxed);
    polls_.Wake();
  }

  int SetWatch(int fd, void (*callback)(void*), void* context) noexcept override {
    return polls_.Watch(fd, callback, context);
  }

  int fd() noexcept override { return issuer_.Embed(polls_.wake_fd(), polls_.watch_fd()); }

 private:
  // A child's only thread has the name of the one that forked.
  [[nodiscard]] bool OwnedHere() const noexcept {
    return !fork_.forked() && owner_ == std::this_thread::get_id();
  }

  // --- Dispatching: each answers, or adds to `told`, the number of callbacks.

  unsigned DispatchSends(unsigned budget) noexcept {
    for (unsigned told = 0; told < budget && !fork_.forked(); ++told) {
      Socket* const socket = issuer_.sends.Pop();
      if (socket == nullptr) return told;
      FinishSend(*socket, socket->send_result);
    }
    return budget;
  }

  unsigned DispatchHeld(unsigned budget) noexcept {
    unsigned told = 0;
    issuer_.held.Begin();
    while (!issuer_.held.done() && told < budget && !fork_.forked()) {
      Completion completion = issuer_.held.Peek();
      Socket* const socket =
          slots_.Find(UserDataSlot(completion.user_data), UserDataGeneration(completion.user_data));
      if (socket != nullptr && ExceedsShare(completion, *socket, turn_)) {
        issuer_.held.PutAside();
      } else if (Deliver(completion, socket, told)) {
        issuer_.held.Drop();
      } else {
        issuer_.held.Replace(completion);
      }
    }
    issuer_.held.End();
    return told;
  }

  // False when `completion` was changed into the end of its operation, and is to be delivered again.
  [[nodiscard]] bool Deliver(Completion& completion, Socket* socket, unsigned& told) noexcept {
    const std::uint8_t kind = completion.kind();
    if ((kind & kCancelOf) != 0) {
      DeliverCancel(completion);
    } else if (kind == kWakePoll) {
      polls_.DeliverWake(completion);
    } else if (kind == kWatchPoll) {
      told += polls_.DeliverWatch(completion);
    } else if (socket == nullptr) {
      DropStale(completion);
    } else if (kind == kPollOut) {
      DeliverPollOut(*socket, completion, told);
    } else {
      switch (static_cast<OpKind>(kind)) {
        case OpKind::kConnect:
          DeliverConnect(*socket, completion, told);
          break;
        case OpKind::kAccept:
          return DeliverAccept(*socket, completion, told);
        case OpKind::kReceive:
          return DeliverReceive(*socket, completion, told);
        case OpKind::kSend:
          DeliverSend(*socket, completion, told);
          break;
      }
    }
    return true;
  }

  bool DeliverReceive(Socket& socket, Completion& completion, unsigned& told) noexcept {
    const std::int32_t result = completion.result;
    const bool again = IsTryAgain({result, Call::kCqeRecv});
    if (result > 0) {
      ++stats_.receives;
      ++told;
      socket.events->OnReceive(
          socket, {result, Call::kCqeRecv},
          buffers_.Show(completion.buffer(), static_cast<std::size_t>(result)));
    }
    if (fork_.forked()) return true;  // A child of the callback's making: the ring is not its own.
    ReturnBuffer(completion);
    if (completion.more()) return true;
    if (result <= 0 && (!again || socket.receive == OpState::kCancelling)) {
      ++told;
      socket.receive = OpState::kIdle;
      socket.events->OnReceive(socket, {again ? kCancelledCode : result, Call::kCqeRecv}, nullptr);
      return true;
    }
    if (socket.receive == OpState::kCancelling) return MakeEnd(completion);
    if (IsOutOfBuffers(result)) ++stats_.buffers_exhausted;
    if (issuer_.ring.has(kUringMultishotReceive)) ++stats_.multishot_rearmed;
    // Submitted after this turn, which gives buffers back. After a failure it waits for data first.
    issuer_.StageReceive(socket, again);
    return true;
  }

  bool DeliverAccept(Socket& socket, Completion& completion, unsigned& told) noexcept {
    const std::int32_t result = completion.result;
    const bool again = IsTryAgain({result, Call::kCqeAccept});
    if (result >= 0) {
      ++told;
      socket.events->OnAccept(socket, {result, Call::kCqeAccept});
    }
    if (completion.more() || fork_.forked()) return true;
    if (result < 0 && (!again || socket.accept == OpState::kCancelling)) {
      ++told;
      socket.accept = OpState::kIdle;
      socket.events->OnAccept(socket, {again ? kCancelledCode : result, Call::kCqeAccept});
      return true;
    }
    if (socket.accept == OpState::kCancelling) return MakeEnd(completion);
    if (issuer_.ring.has(kUringMultishotAccept)) ++stats_.multishot_rearmed;
    issuer_.StageAccept(socket);
    return true;
  }

  // The operation brought something, is over in the kernel, and was cancelled: its end is ours to tell.
  bool MakeEnd(Completion& completion) noexcept {
    completion = {completion.user_data, kCancelledCode, 0};
    return false;
  }

  void DeliverConnect(Socket& socket, const Completion& completion, unsigned& told) noexcept {
    const bool local = socket.domain == AF_UNIX;
    Result result{completion.result, Call::kCqeConnect};
    if (local) result = socket.connect_result;
    if (IsTryAgain(result, local ? Detail::kUnix : Detail::kNone)) {
      // The handshake goes on: a second connect would be told EALREADY (connect(2), EINTR).
      if (socket.connect == OpState::kArmed) return issuer_.StagePollOut(socket);
      result.value = kCancelledCode;
    }
    ++told;
    FinishConnect(socket, result);
  }

  void DeliverSend(Socket& socket, const Completion& completion, unsigned& told) noexcept {
    const std::int32_t result = completion.result;
    const bool full = result == 0 || IsTryAgain({result, Call::kCqeSend});
    ++stats_.sends;
    if (full) ++stats_.sends_blocked;
    if (full && socket.send == OpState::kArmed) {
      issuer_.sends.SetGuard(socket, true);
      return issuer_.StagePollOut(socket);
    }
    if (result > 0 && static_cast<std::uint32_t>(result) < socket.send_size) ++stats_.sends_short;
    ++told;
    FinishSend(socket, {full ? kCancelledCode : result, Call::kCqeSend});
  }

  void DeliverPollOut(Socket& socket, const Completion& completion, unsigned& told) noexcept {
    const bool connects = socket.connect != OpState::kIdle;
    const OpState state = connects ? socket.connect : socket.send;
    // Else the next poll would end at once, and so would every one after it.
    if (!connects && IsErrorAlone(completion.result)) DrainErrorQueue(kernel_, socket, stats_);
    if (HasRoom(completion.result) && socket.send_phase == SendPhase::kPolling) {
      socket.send_phase = SendPhase::kPolled;
      if (completion.more() && state == OpState::kArmed) issuer_.StageCancel(completion.user_data);
    }
    if (completion.more()) return;
    Result result{kCancelledCode, connects ? Call::kCqeConnect : Call::kCqeSend};
    if (socket.send_phase == SendPhase::kPolled) {
      result = connects ? ConnectOutcome(kernel_, socket, stats_) : Result{0, Call::kCqeSend};
    } else if (state == OpState::kArmed) {
      // A full completion queue ends a multishot poll.
      ++stats_.multishot_rearmed;
      if (completion.result >= 0) return issuer_.StagePollOut(socket);
      result.value = completion.result;
    }
    ++told;
    if (connects) {
      FinishConnect(socket, result);
    } else {
      FinishSend(socket, result);
    }
  }

  // Expected answers say nothing new. A cancel that failed for want of something is asked for again.
  void DeliverCancel(const Completion& completion) noexcept {
    if (completion.result >= 0) return;
    const Error error = Classify(Call::kCqeCancel, -completion.result);
    if (error.action != Action::kRetryInPlace) return;
    issuer_.StageCancel(completion.user_data & ~std::uint64_t{kCancelOf});
  }

  // Of a socket that was closed. Nobody else gives back what it carries.
  void DropStale(const Completion& completion) noexcept {
    ++stats_.stale_completions;
    if (completion.is(OpKind::kAccept) && completion.result >= 0) {
      static_cast<void>(kernel_.Close(completion.result));
    }
    ReturnBuffer(completion);
  }

  void ReturnBuffer(const Completion& completion) noexcept {
    if (completion.has_buffer()) buffers_.Return(completion.buffer());
  }

  void FinishConnect(Socket& socket, Result result) noexcept {
    socket.send_phase = SendPhase::kNothing;
    socket.connect = OpState::kIdle;
    socket.events->OnConnect(socket, result);
  }

  void FinishSend(Socket& socket, Result result) noexcept {
    issuer_.sends.SetGuard(socket, false);
    socket.send_phase = SendPhase::kNothing;
    socket.send = OpState::kIdle;
    socket.events->OnSend(socket, result);
  }

  Kernel& kernel_;
  const ForkMark fork_;
  const BackendOptions options_;
  mutable BackendStats stats_;  // `wakes` is brought up to date when somebody looks.
  std::atomic<std::uint64_t> wakes_ = 0;

  SlotMap<Socket> slots_;
  BufferRing buffers_;     // Outlives the ring, whose kernel writes into it.
  std::thread::id owner_;  // The thread that enabled the ring; none: not enabled, or abandoned.
  UringIssuer issuer_;
  UringPolls polls_{kernel_, issuer_};
  std::uint32_t turn_ = 0;  // Calls of Dispatch. Wraps.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateUringBackend(Kernel& kernel,
                                                            const BackendOptions& options) {
  auto backend = std::make_unique<UringBackend>(kernel, options);
  if (absl::Status started = backend->Start(); !started.ok()) return started;
  if (absl::Status tested = SelfTestUring(kernel, backend->ring_fd()); !tested.ok()) return tested;
  return backend;
}

}  // namespace holdfast::internal
