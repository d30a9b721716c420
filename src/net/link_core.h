// The link behind the public class: events in, a table row, actions out.
//
// What decides is elsewhere and pure: LinkMachine (where to go), RetryPolicy (whether and when to dial),
// Liveness (whether the peer lives), MessageQueue (what became of each message), and the judgements of
// machine/death and machine/account. What touches the kernel is the Dialer and the Connection. This
// class routes between them, owns the one timer node, and calls the user back.
// What becomes of messages beyond their session is in net/link_delivery.cc.
//
// It outlives its handle by the time that the kernel still needs: a handle that is destroyed abandons
// its core, which settles what is in flight and is then buried.
#ifndef HOLDFAST_NET_LINK_CORE_H_
#define HOLDFAST_NET_LINK_CORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

#include <holdfast/link.h>
#include "machine/link_machine.h"
#include "machine/liveness.h"
#include "machine/message_queue.h"
#include "machine/retry_policy.h"
#include "machine/timer_node.h"
#include "net/connection.h"
#include "net/delivery.h"
#include "net/dialer.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

class LinkCore final : public Mortal,
                       public Deferred,
                       public MailNode,
                       public Closable,
                       public ConnectionOwner,
                       public DialerOwner,
                       private TimerNode {
 public:
  [[nodiscard]] static std::unique_ptr<Link> Create(ReactorCore& core,
                                                    std::shared_ptr<const LinkOptions> options,
                                                    void* user);
  ~LinkCore() override = default;

  // The handle is gone: aborts, calls nobody back any more, buries itself when all has settled.
  void Abandon() noexcept;

  void Start() { Fire(LinkEvent::kStart); }
  void RetryNow() { Fire(LinkEvent::kRetryNow); }
  void MarkHealthy() { Fire(LinkEvent::kHealthy); }
  [[nodiscard]] bool Acknowledge(std::uint64_t sequence) noexcept;
  [[nodiscard]] SendStatus Flush(absl::AnyInvocable<void(Link&, bool)> done);
  void Drop(const Error& error);
  void Close(Duration drain, ClosedReason reason);
  [[nodiscard]] SendResult Send(const Payload& payload, const SendOptions& options);
  [[nodiscard]] bool Ping(std::span<const std::byte> bytes);
  void Pause() noexcept;
  void Resume() noexcept;

  [[nodiscard]] LinkState state() const noexcept { return machine_.state(); }
  [[nodiscard]] bool writable() const noexcept;
  [[nodiscard]] std::size_t queued_bytes() const noexcept;
  [[nodiscard]] SocketAddress local() const { return session_ ? session_->local : SocketAddress(); }
  [[nodiscard]] SocketAddress peer() const { return session_ ? session_->peer : SocketAddress(); }
  [[nodiscard]] LinkStats stats() const noexcept;
  [[nodiscard]] const TcpSnapshot& last_tcp() const noexcept { return last_tcp_; }
  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  [[nodiscard]] void* user() const noexcept { return user_; }
  [[nodiscard]] const LinkOptions& options() const noexcept { return *options_; }
  [[nodiscard]] ReactorCore& reactor() const noexcept { return core_; }

  // Deferred, MailNode (the stop token's), Closable.
  void RunDeferred() noexcept override;
  void Deliver() noexcept override;
  void Discard() noexcept override;
  void ShutDown(Duration drain) noexcept override;
  // ConnectionOwner.
  void OnBytes(std::span<const std::byte> bytes) noexcept override;
  void OnMessage(std::span<const std::byte> message) noexcept override {
    Call(options_->on_message, message);
  }
  void OnEndOfFile() noexcept override { Fire(LinkEvent::kFailed); }
  void OnLost() noexcept override { Fire(LinkEvent::kFailed); }
  void OnWritable() noexcept override;
  void OnAcked() noexcept override;
  void OnSettled(const SessionEnd& end) noexcept override;
  void OnDeadlineChanged() noexcept override { Rearm(); }
  // DialerOwner.
  void OnDialConnecting() noexcept override { Fire(LinkEvent::kResolved); }
  void OnDialed(Dialed dialed) noexcept override;
  void OnDialFailed(const Error& error, const SocketAddress& peer) noexcept override;
  void OnDialCancelled() noexcept override;

 private:
  // From on_up to its on_down.
  struct Session {
    std::unique_ptr<Socket> socket;  // Until the connection has it.
    SocketAddress local;
    SocketAddress peer;
    Instant up_since{};
    Duration up_for{0};
    Account account{};
  };
  // What the loop is to do for us next; nothing else of ours runs before it.
  enum class Task : std::uint8_t { kNone, kDial, kSettled };
  // The stop token's node.
  enum class Mail : std::uint8_t { kNone, kPosted, kDelivered };
  struct StopPoster {
    LinkCore* link;
    void operator()() const noexcept;
  };

  LinkCore(ReactorCore& core, std::shared_ptr<const LinkOptions> options, void* user);

  void Fire(LinkEvent event, const Error& cause = {});
  void Do(LinkAction action);
  void Dial();
  void OpenSession();
  void Settle();
  void Judge();
  void Report();
  void ReportEnd();
  void ReportState();
  void Later(Task task);
  // Messages (net/link_delivery.cc).
  [[nodiscard]] std::size_t messages_max() const noexcept;
  [[nodiscard]] SendStatus StatusWithoutSession() const noexcept;
  [[nodiscard]] bool holds() const noexcept;
  [[nodiscard]] SendStatus SendInSession(const Payload& payload,
                                         MessageQueue::Label label) noexcept;
  [[nodiscard]] SendStatus Hold(const Payload& payload, const MessageQueue::Label& label) noexcept;
  void OpenGate() noexcept;
  [[nodiscard]] Instant next_expiry() const noexcept;
  void ExpireMessages(Instant now);
  [[nodiscard]] Account CloseAccount(const SessionEnd& end) noexcept;
  void HandBack(OnLoss rule) noexcept;
  [[nodiscard]] Messages LastMessages() noexcept;
  void CountHandedBack(const MessageQueue& queue, OnLoss rule) noexcept;
  void NoteLost(std::uint64_t sequence) noexcept;
  [[nodiscard]] bool IsOutstanding(std::uint64_t through) const noexcept;
  [[nodiscard]] bool CallFlushed(Delivery::Flushes which);
  [[nodiscard]] bool CallWritable();
  [[nodiscard]] Down MakeDown() const;
  [[nodiscard]] Verdict AskUser(const Down& down, std::uint64_t random) const;
  void OnTimer() noexcept;
  void OnLivenessDeadline() noexcept;
  void StopSessionDeadlines() noexcept;
  void Rearm() noexcept;
  void BuryWhenSettled() noexcept;

  // True when the handle is still there afterwards.
  template <class Function, class... Arguments>
  bool Call(const Function& function, Arguments&&... arguments) {
    if (handle_ != nullptr && function) {
      function(*handle_, std::forward<Arguments>(arguments)...);
    }
    return handle_ != nullptr;
  }

  ReactorCore& core_;
  const std::shared_ptr<const LinkOptions> options_;
  Link* handle_ = nullptr;  // Null once abandoned.
  void* const user_;
  const std::uint32_t id_;
  LinkMachine machine_;
  LinkState reported_ = LinkState::kIdle;  // By on_state.
  Task task_ = Task::kNone;
  std::atomic<Mail> mail_{Mail::kNone};
  const RetryOptions retry_options_;
  RetryPolicy policy_;
  Liveness liveness_;
  Dialer dialer_;
  Connection connection_;
  Delivery delivery_;
  std::unique_ptr<Session> session_;
  std::size_t endpoint_ = 0;  // Index of the current attempt's endpoint.
  Error failure_{};           // Of the attempt or session that ended; failed() = on_down is owed.
  SocketAddress failure_peer_;
  Error declared_{};  // Why we give the session up; not failed(): it died by itself.
  std::optional<Duration> retry_in_;
  std::optional<ClosedReason> reason_;
  Duration drain_{0};
  Instant retry_at_ = kNever;
  Instant healthy_at_ = kNever;
  Instant login_at_ = kNever;
  LinkStats stats_;
  TcpSnapshot last_tcp_;
  std::optional<std::stop_callback<StopPoster>> stop_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_LINK_CORE_H_
