// Holds one link to its promises: what it calls back, when, and what it says became of the messages.
//
// It is told everything that the user of the link sees (callbacks, and the calls that he made), and may ask
// an Oracle that sees the simulated kernels and the network. From the public headers alone it derives what
// must be so, with arithmetic of its own: sharing code with the library would share its mistakes.
//
//   grammar   Start -> ( on_dial -> ( on_up -> on_data* )? -> on_down )* -> on_closed
//   deadlines each wait, address, attempt, login, silence and drain ends when it is due, to the nanosecond,
//             but for time in which a fault kept the process from running; and none before
//   backoff   each wait within its bounds, and reset only by health
//   the end   given up exactly when, and for the reason that, the options and `decide` say
//   liveness  judged by received bytes, without a ping by the acknowledgements that came
//   account   acked: what the peer's kernel acknowledged, all of it and no more; unsent: what was never
//             handed to the network; and nothing acked that was not received, nothing unsent that was
//   delivery  echoes are those of this session's messages, in the order of the wire, none twice; a session
//             that ended in good order has told every byte that came; what is kept is what the policy says,
//             goes out when the gate opens, and with kReplayUnsent no message ever arrives twice
#ifndef HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_
#define HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/link.h>
#include "absl/functional/any_invocable.h"
#include "echo/message.h"
#include "sim/delays.h"

namespace holdfast::swarm {

using internal::sim::Needs;

// What is known to who sees through the kernel and the network of the process.
class Oracle {
 public:
  virtual ~Oracle() = default;

  // How much of the time between the two no fault explains: the process could have run; with kToBeTold: and
  // what had happened had been told to it.
  [[nodiscard]] virtual Duration Unexplained(Instant from, Instant until, Needs needs) const = 0;
  // The first time from `at` on at which the process could run, be it for an instant.
  [[nodiscard]] virtual Instant RunsFrom(Instant at) const = 0;
  // A handshake may look done when it is not (docs/kernel.md 1).
  [[nodiscard]] virtual bool OddHandshakes() const = 0;
  // A connection as both kernels know it, in bytes of the stream from here to the peer.
  struct Truth {
    std::uint64_t received;       // By the peer's kernel, in order.
    std::uint64_t acked;          // As this kernel knows.
    std::uint64_t transmitted;    // Handed to the network at least once.
    std::uint64_t received_here;  // Of the other stream, by this kernel.
    Instant last_ack;             // When anything of the peer's kernel came.
    Instant fin_at;               // When the peer's FIN came here,
    Instant reset_at;             // or a RST; kNever: it did not.
  };
  // Of the connection that was the last one opened from `local` by then, as things stand; nullopt: there
  // was none.
  [[nodiscard]] virtual std::optional<Truth> Find(const SocketAddress& local,
                                                  Instant opened_by) const = 0;
  // The kernel says ENOMEM and ENOBUFS at times. A receive is tried again after a pause then, and an
  // abort that the kernel refused leaves an account without its figures.
  [[nodiscard]] virtual bool ShortOfMemory() const = 0;
  // Bytes may have changed on the way.
  [[nodiscard]] virtual bool Corrupts() const = 0;
};

class LinkChecker {
 public:
  using Report = absl::AnyInvocable<void(const std::string& violation)>;

  // `options` and `oracle` outlive it.
  LinkChecker(std::string name, const LinkOptions& options, const Oracle& oracle, Report report);

  // --- Calls of the user.
  void OnStart(Instant now);
  // A message was taken; its bytes are [begin, begin + size) of the session's stream, pings included.
  void OnSent(Instant now, std::uint64_t sequence, std::uint64_t begin, std::size_t size);
  // `begin`: of the bytes that go out next, pings included. Answers how many bytes were kept and go out now.
  [[nodiscard]] std::uint64_t OnMarkHealthy(Instant now, std::uint64_t begin);
  // on_up has returned; the same.
  [[nodiscard]] std::uint64_t OnUpReturned(Instant now, std::uint64_t begin);
  void OnRetryNow(Instant now);
  void OnDrop(Instant now, const Error& error);
  void OnClose(Instant now, Duration drain, ClosedReason reason = ClosedReason::kUser);
  // The link is to be closed before the next callback or behind it, nobody can tell: a stop token was
  // triggered, or Close was called when the next callback was decided already.
  void OnCloseAsked(ClosedReason reason) { asked_.insert(reason); }
  void SetVerdict(Verdict verdict) { verdict_ = verdict; }  // What `decide` has just said.
  // The handle was destroyed, or its process died: nothing may follow.
  void OnDestroyed(Instant now) {
    destroyed_ = true;
    destroyed_at_ = now;
  }

  // --- Callbacks.
  void OnDial(Instant now, std::uint32_t attempt, std::string_view endpoint);
  void OnUp(Instant now, const SocketAddress& local);
  void OnData(Instant now, std::span<const std::byte> bytes);
  void OnDown(Instant now, const Down& down);
  void OnClosed(Instant now, const Closed& closed);

  // --- From outside.
  // From time to time, while its process runs: is anything overdue?
  void CheckOverdue(Instant now);
  // No fault strikes any more. A message that is sent from now on and echoed proves that the link is up.
  void OnHealed(Instant now) { healed_ = now; }
  [[nodiscard]] bool proven() const { return state_ == State::kUp && proven_; }
  // Proven, or up since before the healing and unable to prove it. Without a ping a session that is older may have a box on the way that answers
  // for the peer; and one whose bytes were corrupted may wait for the end of a message that is none.
  [[nodiscard]] bool recovered() const {
    return proven() || (up() && up_ < healed_ && (kernel_life() || oracle_.Corrupts()));
  }
  // By when it must be proven, in a world where every endpoint but those of this host answers at once.
  // `look_up_max`: how long one may be busy with names that were asked for before.
  [[nodiscard]] Instant RecoveryDeadline(Duration look_up_max) const;
  // At the end of the run, of every session that was told: what was acked and never received, what was
  // unsent and received after all.
  void CheckSessions();

  [[nodiscard]] bool up() const { return state_ == State::kUp && !destroyed_; }
  // A handshake of it may be on its way; of a link that was destroyed, until the turn ends.
  [[nodiscard]] bool dialing(Instant now) const {
    return state_ == State::kDialing && (!destroyed_ || destroyed_at_ == now);
  }
  [[nodiscard]] bool closed() const { return state_ == State::kClosed; }
  // What came is no echo of ours: Drop is due.
  [[nodiscard]] bool garbage() const { return garbage_; }
  [[nodiscard]] std::uint64_t cycles() const { return cycles_; }
  [[nodiscard]] std::uint64_t messages() const { return last_sequence_; }
  [[nodiscard]] std::uint64_t ups() const { return ups_; }
  [[nodiscard]] std::uint64_t downs() const { return downs_; }  // Failed attempts as well.
  // Of the waits with full jitter behind the first: those in the lower and in the upper half.
  [[nodiscard]] std::uint64_t waits_low() const { return waits_low_; }
  [[nodiscard]] std::uint64_t waits_high() const { return waits_high_; }

 private:
  enum class State { kIdle, kBetween, kDialing, kUp, kEnding, kClosed };
  struct Message {
    std::uint64_t sequence;
    std::uint64_t begin;
    std::uint64_t end;
    Instant sent;
    bool of_session = false;  // Sent before the gate opened: never kept.
    bool in_doubt = false;    // In an earlier session.
  };
  // A session that was told of, to be looked at again when all that was on its way has arrived.
  struct Session {
    SocketAddress local;
    Instant up;
    std::uint64_t acked_end;  // The end of the last message called acked.
    std::uint64_t
        unsent_begin;  // The begin of the first one called unsent; else of what never was.
  };

  void Fail(Instant now, const std::string& what);
  void CheckAlive(Instant now, const char* callback);
  // `what` was due and is not, or only now, done.
  void CheckDue(Instant due, Instant now, Needs needs, const char* what);
  void CheckAttempt(Instant now);
  void CheckSession(Instant now);
  void CheckSilence(Instant now);
  void CheckDeath(Instant now);
  void CheckStallGuard(Instant now);
  void CheckHealth(Instant now, const Down& down);
  void CheckAccount(Instant now, const Down& down, const Oracle::Truth& truth);
  [[nodiscard]] std::uint64_t CheckList(Instant now, const Down& down);
  [[nodiscard]] std::uint64_t OpenGate(Instant now, std::uint64_t begin);
  void CheckReason(Instant now, const Down& down, const Oracle::Truth& truth);
  void CheckDrain(Instant now, const Down& down, const Oracle::Truth& truth);
  void EndSession(Instant now, const Down& down);
  void CheckRetry(Instant now, const Down& down);
  void CheckWait(Instant now, Duration wait, const Error& error, std::uint32_t n);
  void BeHealthy();
  [[nodiscard]] bool judged() const;
  [[nodiscard]] bool kernel_life() const;
  [[nodiscard]] Instant last_life() const;

  const std::string name_;
  const LinkOptions& options_;
  const Oracle& oracle_;
  Report report_;
  State state_ = State::kIdle;
  bool destroyed_ = false;
  Instant destroyed_at_{};
  bool closing_ = false;  // Close was called:
  ClosedReason close_reason_{};
  Instant closed_at_{};
  Instant closed_due_ = kNever;  // on_closed is to come by then.
  std::set<ClosedReason> asked_;
  Verdict verdict_ = Verdict::kByClass;
  std::optional<ClosedReason> given_up_;
  Instant healed_ = kNever;
  bool proven_ = false;

  // Dialing.
  std::uint32_t attempt_ = 0;          // Since healthy.
  std::uint32_t failures_ = 0;         // The same.
  std::uint32_t protocol_errors_ = 0;  // The same.
  std::optional<Instant> unhealthy_since_;
  Instant dial_due_ = kNever;
  Instant dialed_{};
  bool literal_ = false;  // The endpoint needs no look-up and has one address.

  // The session.
  SocketAddress local_;
  Instant up_{};
  Instant life_{};  // The last byte received.
  std::uint64_t told_bytes_ = 0;
  bool marked_ = false;
  std::optional<Error> dropped_;
  std::uint64_t last_sequence_ = 0;  // Of all sessions.
  std::vector<Message> messages_;    // Of this session, in the order of the wire.
  std::vector<Message> kept_;        // Of earlier ones, for the next gate.
  std::size_t echoed_ = 0;           // Messages of this session.
  std::vector<bool> ever_echoed_;    // By sequence.
  bool gate_open_ = false;
  echo::MessageReader reader_;
  bool garbage_ = false;

  std::vector<Session> sessions_;
  std::optional<Account> last_account_;
  std::uint64_t ups_ = 0;
  std::uint64_t downs_ = 0;
  std::uint64_t cycles_ = 0;
  std::uint64_t waits_low_ = 0;
  std::uint64_t waits_high_ = 0;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_
