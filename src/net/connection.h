// A connected socket with a queue before it and an honest end behind it: what Stream and Link share.
//
// It sends what is queued, once a turn; it hands on what is received; and when the connection ends, for
// whatever reason, it waits until nothing of it is in flight, reads the figures, and says once why it
// ended and which bytes the peer's kernel has (docs/kernel.md, "Death and the account"). A connection
// that is given up alive is disconnected twice, so that the kernel sends nothing that was called unsent.
//
//     kOpen --- Drain ---> kDraining --- drained, or its deadline -+
//       |                      |                                   |
//       +----- a failure ------+---> kLost: OnLost                 |
//       |                      |       |                           v
//       +----------------------+-------+-------- Settle ---> kSettling --- idle ---> kNone: OnSettled
//
// It owns no timer: it names its next deadline. Wire offsets count bytes of the session from 0, here and
// in the queue, above any byte transform that may come below.
#ifndef HOLDFAST_NET_CONNECTION_H_
#define HOLDFAST_NET_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include "backend/socket.h"
#include "base/try_vector.h"
#include "machine/account.h"
#include "machine/frame_reader.h"
#include "machine/message_queue.h"
#include "machine/trim_policy.h"
#include "reactor/reactor_core.h"
#include "sys/socket_calls.h"

namespace holdfast::internal {

// How a connection ended. Wire offsets of the session.
struct SessionEnd {
  // Always failed(). kCancelled: closed by us, or drained in good order.
  Error error{};
  WireAccount account{};
  MessageQueue::Fates fates{};  // Of its messages; those that are not acked wait in queue().
  DeathFacts facts{};
  bool delivered = false;        // Everything that was accepted is with the peer's kernel.
  std::uint64_t bytes_sent = 0;  // Taken by this kernel.
  std::uint64_t bytes_received = 0;
};

// Each call but OnBytes, OnMessage, OnAcked and OnDeadlineChanged is the last thing that the connection does
// before it returns to the loop; the owner may destroy its handle in it, and it runs inside no call of the
// owner's but OnDeadline.
class ConnectionOwner {
 public:
  // As they were received; where they are framed, their messages follow.
  virtual void OnBytes(std::span<const std::byte> bytes) noexcept = 0;
  virtual void OnMessage(std::span<const std::byte> message) noexcept = 0;
  // The peer's FIN, verified; nothing more will be received. The write side is as it was.
  virtual void OnEndOfFile() noexcept = 0;
  // It is lost: nothing more is received or sent. Settle() is due.
  virtual void OnLost() noexcept = 0;
  virtual void OnWritable() noexcept = 0;
  // It was looked what the peer's kernel has. May run inside MakeRoom, and in the middle of things:
  // nothing may be ended in it.
  virtual void OnAcked() noexcept = 0;
  virtual void OnSettled(const SessionEnd& end) noexcept = 0;
  // next_deadline() is earlier than it was. May run inside Drain, Send and Refuse, and in the middle of
  // things: nothing may be ended in it.
  virtual void OnDeadlineChanged() noexcept = 0;

 protected:
  ~ConnectionOwner() = default;
};

// What happens to bytes that the kernel took.
enum class Keep : std::uint8_t {
  kUntilAcked,  // Link: kept, and counted against the hard limit, until the peer's kernel has them.
  kUntilSent,   // Stream.
};

struct ConnectionLimits {
  std::size_t high = 0;
  std::size_t low = 0;
  std::size_t max = 0;
};

class Connection final : public SocketEvents, public Flushable, public Deferred {
 public:
  Connection(ReactorCore& core, ConnectionOwner& owner, Keep keep) noexcept;
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Requires: !busy(). Receives from now on. `framing` lives as long as the owner.
  void Open(std::unique_ptr<Socket> socket, const ConnectionLimits& limits,
            const Framing& framing) noexcept;
  [[nodiscard]] bool busy() const noexcept { return phase_ != Phase::kNone; }

  // Neither lost nor being ended.
  [[nodiscard]] bool in_use() const noexcept {
    return phase_ == Phase::kOpen || phase_ == Phase::kDraining;
  }
  // Drain is allowed: neither lost nor being ended.
  [[nodiscard]] bool can_drain() const noexcept { return phase_ == Phase::kOpen; }

  enum class Queued : std::uint8_t { kYes, kFull, kTooLarge, kClosed };
  // Where `size` bytes would not fit: asks the kernel what is acknowledged by now, and lets go of it.
  void MakeRoom(std::size_t size) noexcept;
  [[nodiscard]] bool HasRoom(std::size_t size) const noexcept {
    return queue_.held() + size <= limits_.max && MemoryInBounds();
  }
  // The owner refused a Send for a limit of its own: OnWritable follows, as after Queued::kFull.
  void Refuse() noexcept;
  // Bytes that belong to no message. Copies or refuses whole.
  [[nodiscard]] Queued Send(std::span<const std::byte> bytes) noexcept;
  // The same, but that nobody is told of room where it is refused.
  [[nodiscard]] bool SendIfRoom(std::span<const std::byte> bytes) noexcept;
  // A message: copied, or taken over where it is queued. Requires: can_send().
  [[nodiscard]] Queued Send(const Payload& payload, const MessageQueue::Label& label) noexcept;
  // Sends what waits in `backlog` next, whatever the limits.
  void Join(MessageQueue& backlog) noexcept;
  // Has the bytes back that wait for room in the pipe, since some of them are not wanted any more. Requires,
  // as WatchAcks: in_use().
  void TakeBack() noexcept;
  // Looks for acknowledgements, though nothing is sent, until all is acknowledged: OnAcked.
  void WatchAcks() noexcept;
  void Pause() noexcept;
  void Resume() noexcept;
  // Flushes, then shuts the write side.
  void CloseWrite() noexcept;
  // Flushes, shuts the write side, reads to the end of file, waits until everything is acknowledged;
  // settles then, or when `deadline` has passed. OnSettled follows, or OnLost.
  void Drain(Instant deadline) noexcept;
  // While it drains: by then at the latest.
  void HastenDrain(Instant deadline) noexcept;
  // Ends it: cancels what is in flight; OnSettled follows, never inside this call. `why` says that we
  // declare it dead; not failed(): it died by itself, find out how.
  void Settle(const Error& why) noexcept;

  [[nodiscard]] Instant next_deadline() const noexcept;
  void OnDeadline(Instant now) noexcept;
  // When the peer's kernel last acknowledged or sent something; nullopt where ours cannot say.
  [[nodiscard]] std::optional<Instant> LastHeard() const noexcept;
  // TCP says that it is over, which no event tells while nobody receives.
  [[nodiscard]] bool DiedUnseen() const noexcept;

  [[nodiscard]] int fd() const noexcept { return socket_ == nullptr ? -1 : socket_->fd; }
  [[nodiscard]] bool writable() const noexcept { return room_ == Room::kYes; }
  [[nodiscard]] bool can_send() const noexcept {
    return phase_ == Phase::kOpen && write_ == WriteSide::kOpen && !core_.forked();
  }
  [[nodiscard]] std::size_t queued() const noexcept { return queue_.queued(); }
  // The messages of the session; between OnSettled and the next Open, what is left of them.
  [[nodiscard]] MessageQueue& queue() noexcept { return queue_; }
  [[nodiscard]] const MessageQueue& queue() const noexcept { return queue_; }
  [[nodiscard]] std::uint64_t written() const noexcept { return queue_.sent(); }
  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }

  // SocketEvents.
  void OnConnect(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }
  void OnAccept(Socket&, Result) noexcept override { HOLDFAST_CHECK(false); }
  void OnReceive(Socket& socket, Result result, const std::byte* data) noexcept override;
  void OnSend(Socket& socket, Result result) noexcept override;
  // Flushable, Deferred.
  void Flush() noexcept override;
  void RunDeferred() noexcept override;

 private:
  enum class Phase : std::uint8_t {
    kNone,      // No socket.
    kOpen,      // In use.
    kDraining,  // Closing in good order; drain_deadline_ runs.
    kLost,      // OnLost was called; waits for Settle.
    kSettling,  // Everything cancelled; waits until the socket is idle.
  };
  enum class WriteSide : std::uint8_t {
    kOpen,
    kClosing,  // Takes nothing more; is shut once the queue is empty.
    kShut,     // Our FIN is sent, or queued behind the last byte.
    kFailed,   // A send failed; what is received still counts, until receiving ends too.
  };
  enum class ReadSide : std::uint8_t {
    kOpen,
    kPaused,  // By the user. What arrived meanwhile is in held_.
    kEnded,   // The peer's FIN, verified.
  };
  enum class Room : std::uint8_t {
    kYes,
    kNo,       // The high mark was reached; OnWritable at the low mark.
    kRefused,  // A Send was refused; OnWritable at the low mark and with half of the limit free.
  };
  // A run of answers that this host is short of something. It is over once the call, made again, is
  // under way: it lasts only while the call fails and waits to be made again.
  struct Stall {
    Instant since = kNever;  // Of the first; kNever: there is none.
    Error error{};           // The last.
    bool waits = false;      // To be made again, at the next poll.
  };

  // What the send in flight is to us.
  enum class SendUse : std::uint8_t { kWanted, kTakenBack };
  enum class Acks : std::uint8_t { kUnwatched, kWatched };

  // Twice the limit and a little, for what small messages need besides their bytes: beyond it, messages that
  // were acknowledged out of order leave blocks behind in which others still are.
  [[nodiscard]] bool MemoryInBounds() const noexcept {
    constexpr std::size_t kFree = 4 * kBlockSize;
    return queue_.memory() <= kFree || (queue_.memory() - kFree) / 2 <= limits_.max;
  }
  [[nodiscard]] Queued Admit(std::size_t size) const noexcept;
  [[nodiscard]] Queued Enqueued(bool taken) noexcept;
  [[nodiscard]] static bool IsOver(const Stall& stall, OpState operation) noexcept;
  void StartReceive() noexcept;
  void Deliver(std::span<const std::byte> bytes) noexcept;
  void DeliverMessages(std::span<const std::byte> bytes) noexcept;
  void DeliverHeld() noexcept;
  void Hold(std::span<const std::byte> bytes) noexcept;
  void FailFrames(int code) noexcept;
  void LoseBy(const Error& error) noexcept;
  void OnReceiveEnd(Result result) noexcept;
  void Note(const Error& error) noexcept;
  void Stalled(Stall& stall, const Error& error) noexcept;
  void FailWrite(const Error& error) noexcept;
  void Lose() noexcept;
  void ContinueDrain() noexcept;
  void CheckRoom() noexcept;
  void PollSoon() noexcept;
  // Spends one SIOCOUTQ to learn what is acknowledged, and lets go of it.
  void Trim() noexcept;
  void TrimLater() noexcept;
  [[nodiscard]] DeathFacts ReadFacts(DeathKind kind) noexcept;
  void Finish() noexcept;
  [[nodiscard]] WireAccount ReadAccount(const DeathFacts& facts) noexcept;

  ReactorCore& core_;
  ConnectionOwner& owner_;
  std::unique_ptr<Socket> socket_;
  MessageQueue queue_;
  TrimPolicy trim_;
  ConnectionLimits limits_;
  const Framing* framing_ = nullptr;
  FrameReader frames_;
  const Keep keep_;
  Phase phase_ = Phase::kNone;
  WriteSide write_ = WriteSide::kOpen;
  ReadSide read_ = ReadSide::kOpen;
  Room room_ = Room::kYes;
  SendUse send_use_ = SendUse::kWanted;
  Acks acks_ = Acks::kUnwatched;
  Error sticky_{};    // The first telling failure of a call.
  Error declared_{};  // Why we gave it up, if we did.
  std::uint64_t received_ = 0;
  TryVector<std::byte> held_;  // Bounded by what the kernel had completed when it was paused.
  Instant drain_deadline_ = kNever;
  Instant poll_at_ = kNever;  // The next look at something that gives no event.
  Duration poll_interval_{0};
  Instant trim_at_ = kNever;  // The next look for acknowledgements while nothing is being sent.
  Stall send_stall_;
  Stall receive_stall_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_CONNECTION_H_
