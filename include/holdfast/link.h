// A connection that stays up: the stream that is re-established.
//
//   auto link = holdfast::Link::Create(*reactor, {
//       .endpoints   = {"feed-a.example.com:7000", "feed-b.example.com:7000"},
//       .silence_max = 20s,
//       .ping        = "PING\r\n",
//       .on_up       = [](holdfast::Link& l) { l.Send("SUBSCRIBE all\r\n"); },
//       .on_data     = [](holdfast::Link&, std::span<const std::byte> bytes) { ... },
//       .on_down     = [](holdfast::Link&, const holdfast::Down& d) { ... },
//   });
//
// What is called back, and in which order (docs/link.md):
//
//   Start -> ( dialing -> (on_up -> on_data* -> on_down) | on_down )* -> on_closed
//
// on_down comes for every failed attempt and every loss, with the reason and the wait before the next
// attempt; every on_up gets exactly one on_down; on_closed is last. An attempt that we cancel ourselves
// (Close while dialing) gets no on_down. Between a loss and its on_down, Send says kNotUp and no on_data
// comes. There is no default limit of attempts or of time, and the first connect is an attempt like any
// other.
//
// Reactor thread only (but for the stop token, which any thread may trigger). No callback runs inside
// the call that caused it; any method may be called from any callback of the same reactor; the handle
// may be destroyed in any state and any callback, its own included, and then nothing more is called
// (docs/lifetimes.md). A Link is neither copied nor moved, so Link& stays good.
#ifndef HOLDFAST_LINK_H_
#define HOLDFAST_LINK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/backoff.h>
#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include <holdfast/framing.h>
#include <holdfast/link_state.h>
#include <holdfast/message.h>
#include <holdfast/socket_options.h>
#include <holdfast/stream.h>
#include <holdfast/time.h>
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"

namespace holdfast {

class Link;
class Reactor;
namespace internal {
class LinkCore;
}

// TCP_INFO at the end of a connection (tcp(7)); zeros where there was none.
struct TcpSnapshot {
  Duration rtt{0};                    // Smoothed round trip time.
  std::uint32_t retransmissions = 0;  // In the connection's whole life.
  Duration last_ack_age{0};           // Since the last acknowledgement arrived.
  std::uint64_t acked_bytes = 0;      // Acknowledged by the peer's kernel.
  std::uint64_t unsent_bytes = 0;     // Taken from us by this kernel and never sent.
};

// What became of the messages of one session: those that were accepted in it or sent again, but for those
// that expired. In the order of the wire first the acked ones, then those in doubt, then the unsent.
struct Account {
  // Of the session's first message, or the next to be given; 0 where its numbers are not one row, because
  // some were sent again, held, or expired.
  std::uint64_t first_sequence = 0;
  std::uint64_t acked = 0;
  std::uint64_t in_doubt = 0;
  std::uint64_t unsent = 0;

  [[nodiscard]] constexpr std::uint64_t total() const noexcept { return acked + in_doubt + unsent; }
  // nullopt: no message of this session, or first_sequence is 0.
  [[nodiscard]] constexpr std::optional<Fate> FateOf(std::uint64_t sequence) const noexcept {
    if (first_sequence == 0 || sequence < first_sequence || sequence - first_sequence >= total())
      return std::nullopt;
    const std::uint64_t index = sequence - first_sequence;
    if (index < acked) return Fate::kAcked;
    return index < acked + in_doubt ? Fate::kInDoubt : Fate::kUnsent;
  }
};

// A failed attempt, or the end of a session. The views die with the callback.
struct Down : Account {
  Error error{};
  // The attempt's number since the link was last healthy, from 1; 0 at the end of a session that had
  // proved healthy.
  std::uint32_t attempt = 0;
  // The wait before the next attempt; nullopt: there is none, and on_closed is the next callback.
  std::optional<Duration> retry_in = std::nullopt;
  std::string_view endpoint{};  // As written in the options.
  SocketAddress peer{};         // The address that it was about; empty when there was none yet.
  SocketAddress local{};        // Of the session; empty for a failed attempt.
  bool was_up = false;          // The end of a session, not a failed attempt.
  Duration up_for{0};           // How long the session was up.
  TcpSnapshot tcp{};
  // Those of its messages that were not acked, with their bytes. What is not kept() is handed back here,
  // once, and forgotten.
  Messages messages{};

  // "receive 192.0.2.7:7000: Connection reset by peer (ECONNRESET), next attempt in 800 ms"
  [[nodiscard]] std::string ToString() const;
};

// The end. The account is that of the session that Close ended (the one its on_down told as well), and
// zero when the link was not up.
struct Closed : Account {
  ClosedReason reason = ClosedReason::kUser;
  Error error{};  // The last failure; kCancelled for a clean Close.
  // What was kept or held for a session that will not be: handed back here.
  Messages messages{};
};

struct SendResult {
  SendStatus status = SendStatus::kNotUp;
  // The message's number when kQueued: from 1, never restarted. Else 0.
  std::uint64_t sequence = 0;
};

struct SendOptions {
  // Worthless later: not begun by then, it is not sent, and on_expired hands it back; nor is it sent again.
  // Counts from Send, goes on while the link is down; 0 = no limit.
  Duration ttl{0};
};

// Who says that a message has arrived.
enum class AckedBy : std::uint8_t {
  kPeersKernel,  // TCP. Says nothing of the application; on AF_UNIX there is no such thing.
  kPeer,         // Its application: Acknowledge(sequence) for each.
};

// Shared by any number of links. What is wrong in it is said by Create.
struct LinkOptions {
  // At least one (endpoint.h). After a failed attempt, or a session that was never healthy, the next one
  // is tried, in this order, round and round; not after kResource, which is about this host.
  std::vector<std::string> endpoints = {};

  BackoffOptions backoff = {};
  std::uint32_t attempts_max = 0;                     // Since last healthy; 0 = no limit.
  Duration give_up_after{0};                          // Since last healthy; 0 = no limit.
  std::uint32_t protocol_errors_max = 3;              // In a row without becoming healthy; >= 1.
  Duration healthy_after = std::chrono::seconds(10);  // Up for so long = healthy; backoff restarts.

  // For one address; > 0. Keep it above 3.07 s: then a dead neighbour becomes EHOSTUNREACH.
  Duration connect_timeout = std::chrono::seconds(5);
  Duration attempt_timeout = std::chrono::seconds(15);  // From the look-up to on_up; > 0.
  Duration login_timeout{0};                            // From on_up to MarkHealthy(); 0 = off.

  // The one number of liveness: a peer from which nothing came for so long is dead, idle or busy, and
  // the link goes down within this time (plus the loop's own lateness, and at most a quarter of it more
  // while the loop never runs dry) with kTimeout, operation kHeartbeat, code 0. 0 = off; else >= 100 ms.
  //   With `ping` or `on_heartbeat` only received bytes are life; after half of it without any, the ping
  // goes out. With neither, an acknowledgement by the peer's *kernel* is life too: a dead host is
  // found, a stuck process behind a live kernel is NOT; and silence_max must be >= 2 s. On AF_UNIX
  // without ping nothing is judged. A peer that stops reading for so long looks just like a dead one.
  Duration silence_max = std::chrono::seconds(20);
  std::string ping = {};
  // Pings on schedule too; 0 = only in silence; <= silence_max; needs ping or on_heartbeat.
  Duration ping_interval{0};

  // Marks in bytes: writable() is false from high down to low queued; `queue_max` bounds what is queued
  // *and* not yet acknowledged by the peer's kernel, and the number of such messages, which count 48
  // bytes each there, even empty ones; what is kept and held as well. What on_up sends has as much room of
  // its own. 0 < low <= high <= max.
  std::size_t queue_high = 256 << 10;
  std::size_t queue_low = 64 << 10;
  std::size_t queue_max = 8 << 20;
  OnLoss on_loss = OnLoss::kHandBack;
  // Until then a message is outstanding: counted against queue_max, handed back or sent again. With kPeer
  // what on_up sends, and before MarkHealthy, is still the kernel's to acknowledge. kReplayUnacked on an
  // AF_UNIX endpoint needs kPeer.
  AckedBy acked_by = AckedBy::kPeersKernel;
  // Send while there is no session (and before Start) queues for the next one, instead of kNotUp. Sent
  // behind what on_up sends and what is replayed; with login_timeout after MarkHealthy.
  bool hold_while_down = false;

  // How long Close() without an argument, and a stop token, may take to flush.
  Duration drain = std::chrono::seconds(5);
  // Triggered, from any thread: Close(drain).
  std::stop_token stop = {};
  SocketOptions socket = {};
  // With it whole messages come to on_message, and on_data is not to be set. A peer that sends a frame that
  // is too long, or malformed, is given up as Drop does, but for a link that is being closed, which says
  // no more of what it receives.
  Framing framing = {};

  absl::AnyInvocable<void(Link&) const> on_up = {};
  // Bytes received, in order; the view dies with the call.
  absl::AnyInvocable<void(Link&, std::span<const std::byte>) const> on_data = {};
  // A whole message, where they are framed; the view dies with the call.
  absl::AnyInvocable<void(Link&, std::span<const std::byte> message) const> on_message = {};
  absl::AnyInvocable<void(Link&, const Down&) const> on_down = {};
  absl::AnyInvocable<void(Link&, const Closed&) const> on_closed = {};
  // Once for each return of writable() to true.
  absl::AnyInvocable<void(Link&) const> on_writable = {};
  // A message outlived its ttl. Its fate() is kUnsent: it never left; or kInDoubt: a session that was lost
  // had begun it, and no other will. The view dies with the call.
  absl::AnyInvocable<void(Link&, const Message&) const> on_expired = {};
  // The peer has been silent for half of silence_max, or ping_interval has passed: make it talk, with
  // Ping() or Send(). Instead of, or beside, `ping`; also where that was skipped (Ping).
  absl::AnyInvocable<void(Link&) const> on_heartbeat = {};
  // An attempt begins: its number, the endpoint as written.
  absl::AnyInvocable<void(Link&, std::uint32_t attempt, std::string_view endpoint) const> on_dial =
      {};
  // For gauges: the state changed from `from`. Changes within one turn are told as one.
  absl::AnyInvocable<void(Link&, LinkState from) const> on_state = {};
  // Just before on_down; may overrule what the class says. `down.retry_in` is what it would be.
  absl::AnyInvocable<Verdict(const Down&) const> decide = {};
};

struct LinkStats {
  std::uint64_t dials = 0;  // Attempts begun.
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;  // on_down after on_up.
  std::uint64_t messages = 0;
  std::uint64_t bytes_sent = 0;  // Taken by this host's kernel, pings included.
  std::uint64_t bytes_received = 0;
  std::uint64_t pings = 0;
  // Messages by their end; those of the session that is up once it ends.
  std::uint64_t acked = 0;
  std::uint64_t in_doubt = 0;  // Handed back.
  std::uint64_t unsent = 0;    // Handed back.
  std::uint64_t expired = 0;
  std::uint64_t replayed = 0;  // Sent in another session than before; each time counts.
};

class Link {
 public:
  // InvalidArgument names the field and the value. Takes the options by value, or shared by many links.
  // `user` is returned by user().
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Link>> Create(Reactor& reactor,
                                                                    LinkOptions options,
                                                                    void* user = nullptr);
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Link>> Create(
      Reactor& reactor, std::shared_ptr<const LinkOptions> options, void* user = nullptr);
  // Aborts; nothing is called back afterwards, not even on_closed. Every state, every callback.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Begins the first attempt in the next turn. Cannot fail; a second one does nothing.
  void Start();

  // Copies or refuses whole; never blocks, kills the link, drops silently, or calls back. By state:
  // kUp: kQueued, kFull or kTooLarge, but as if down once a write has failed and the loss is about to
  // be told; kDraining, kClosed: kClosing; else kNotUp, or, with hold_while_down, as in kUp. It does not
  // frame; an empty message is one, too, and gets a sequence number.
  SendResult Send(std::span<const std::byte> message, const SendOptions& options = {});
  SendResult Send(std::string_view message, const SendOptions& options = {}) {
    return Send(std::as_bytes(std::span(message)), options);
  }
  // Not copied from 1 KiB on: moved in, and freed once the message has come to its end. What is refused
  // stays in `message`.
  SendResult Send(std::string&& message, const SendOptions& options = {});
  SendResult Send(std::vector<std::byte>&& message, const SendOptions& options = {});
  SendResult Send(const char* message, const SendOptions& options = {}) {
    return Send(std::string_view(message), options);
  }
  // Never copied: they stay as they are until `release` is called, from the loop, once for each such Send
  // that answered kQueued: when the message is acked, handed back (after the callback), expired or
  // abandoned. Also after the link is gone, at the latest in the reactor's destructor.
  SendResult SendBorrowed(std::span<const std::byte> message, absl::AnyInvocable<void()> release,
                          const SendOptions& options = {});
  // Bytes outside the account: no sequence number, never handed back. Skipped (false) unless kUp with
  // nothing queued, so that it never stands between the parts of a message, and with room below
  // queue_max. One skipped in silence is owed: the next is due a sixteenth of silence_max later.
  bool Ping(std::span<const std::byte> bytes);
  bool Ping(std::string_view bytes) { return Ping(std::as_bytes(std::span(bytes))); }

  // No on_data, no on_message after PauseReceive returned, until ResumeReceive; what had arrived by then is kept (no
  // more than the reactor's receive buffers hold) and delivered first, in order. The peer is held back
  // by TCP's own window. Only in kUp, else they do nothing; a pause belongs to its session, and the next
  // one begins unpaused. Close while paused drops what was not delivered.
  //   A pause never makes a live peer look dead: silence is not judged by bytes meanwhile, and
  // ResumeReceive grants a fresh silence_max. Pings go out every half of silence_max, answered or not.
  // The price is that a death is noticed later. A TCP connection that was reset: with the next ping, or
  // Send, or within silence_max. A peer that vanished: within silence_max without a ping (the kernel's
  // acknowledgements are judged on); with one within 2.5 times that, when the kernel has given it up. A
  // process that is stuck, a peer that has closed in good order, and on AF_UNIX any end: with
  // ResumeReceive, or a Send that fails. A session that ends while paused takes what was not delivered
  // with it.
  void PauseReceive();
  void ResumeReceive();

  // The peer's application has this message (AckedBy::kPeer): it is acked, and never sent again. Any
  // order, any state, also from on_down for a message of its list. False: no such message is outstanding.
  // O(outstanding messages before it).
  bool Acknowledge(std::uint64_t sequence);
  // `done` is called once, when every message that was accepted before has come to its end: true where
  // all of them are acked, false where one was handed back or has expired. With nothing outstanding in the
  // next turn. On AF_UNIX: taken by the kernel. kQueued; kFull without memory and kClosing once closed,
  // when it is not called.
  SendStatus Flush(absl::AnyInvocable<void(Link&, bool all_acked)> done);

  // The session is established (logged in, greeted): backoff, attempts and protocol errors start anew,
  // login_timeout is met. Without it the link counts as healthy after `healthy_after`.
  void MarkHealthy();
  // Cuts a wait short: dials in the next turn. Only in kBackoff.
  void RetryNow();
  // Goes down with this error, and on as its action says: Drop(Error::Protocol()) when the peer talks
  // nonsense. Requires error.failed(); one that is not counts as Error::Protocol(). Only in kUp.
  void Drop(const Error& error);
  // Up: flushes, shuts the write side, reads to the peer's end of file and waits until the peer's
  // kernel has everything, `drain` long at most (zero: gives up at once); on_closed says what it has.
  // Else: ends at once. A second one does nothing; before Start is no error.
  void Close();
  void Close(Duration drain);

  [[nodiscard]] LinkState state() const noexcept;
  [[nodiscard]] bool writable() const noexcept;
  // Accepted, not yet taken by the kernel; what is held or kept included.
  [[nodiscard]] std::size_t queued_bytes() const noexcept;
  [[nodiscard]] SocketAddress local() const noexcept;  // Of the session; empty when not up.
  [[nodiscard]] SocketAddress peer() const noexcept;
  [[nodiscard]] LinkStats stats() const noexcept;
  // What the flight recorder of the reactor still has of this link, oldest first.
  [[nodiscard]] std::vector<Transition> history() const;
  [[nodiscard]] const TcpSnapshot& last_tcp() const noexcept;  // Of the last session that ended.
  [[nodiscard]] std::uint32_t id() const noexcept;
  [[nodiscard]] void* user() const noexcept;
  [[nodiscard]] const LinkOptions& options() const noexcept;

 private:
  friend class internal::LinkCore;
  Link() noexcept = default;
  internal::LinkCore* core_ = nullptr;  // Null only where Create failed.
};

}  // namespace holdfast

#endif  // HOLDFAST_LINK_H_
