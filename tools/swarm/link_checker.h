// Holds one link to its promises: what it calls back, when, and what it says became of the messages.
//
// It is told everything that the user of the link sees (callbacks, and the calls that he made), and, by
// whoever watches the simulated network, what the peer's kernel really received on each session. From the
// public headers alone it derives what must be so, with arithmetic of its own: sharing code with the
// library would share its mistakes.
//
//   grammar   Start -> ( dialing -> (on_up -> on_data* -> on_down) | on_down )* -> on_closed
//   backoff   each wait within its bounds, kept to the nanosecond, and reset only by health
//   liveness  a heartbeat death never before silence_max, and no silence longer than that
//   account   acked <= received by the peer's kernel; nothing unsent was received, ever
//   delivery  echoes are those of this session's messages, in order, none twice
#ifndef HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_
#define HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <holdfast/link.h>
#include "absl/functional/any_invocable.h"
#include "echo/message.h"

namespace holdfast::swarm {

class LinkChecker {
 public:
  // How late the loop itself may be, by the faults that are on: 0 where nothing stalls.
  struct Allowances {
    Duration loop{0};        // A wait that ends late, a clock that stalls.
    Duration completion{0};  // A final completion that comes late.
    bool handshake = false;  // A handshake may look done when it is not.
  };
  using Report = absl::AnyInvocable<void(const std::string& violation)>;

  // `options` outlives it.
  LinkChecker(std::string name, const LinkOptions& options, Report report);

  void SetAllowances(const Allowances& allowances) { allowances_ = allowances; }
  // The process stood still for that time, which has just ended.
  void OnFrozen(Instant from, Instant until);

  // --- Calls of the user.
  void OnStart(Instant now);
  // A message was taken; its bytes are [begin, begin + size) of the session's stream, pings included.
  void OnSent(Instant now, std::uint64_t sequence, std::uint64_t begin, std::size_t size);
  void OnMarkHealthy(Instant now);
  void OnRetryNow(Instant now);
  void OnDrop(Instant now, const Error& error);
  void OnClose(Instant now);
  void SetVerdict(Verdict verdict) { verdict_ = verdict; }  // What `decide` has just said.
  // The handle was destroyed, or its process died: nothing may follow.
  void OnDestroyed() { destroyed_ = true; }

  // --- Callbacks.
  void OnDial(Instant now, std::uint32_t attempt);
  void OnUp(Instant now, const SocketAddress& local);
  void OnData(Instant now, std::span<const std::byte> bytes);
  void OnDown(Instant now, const Down& down);
  void OnClosed(Instant now, const Closed& closed);

  // --- The truth, at the end of the run: of the session that was opened from `local` at `up`.
  struct Session {
    SocketAddress local;
    Instant up;
    bool told = false;            // False: its process died, or its handle, before on_down.
    Error error = {};             // What it died of,
    Instant down = kNever;        // when,
    Duration lateness{0};         // and how late that may have been.
    std::uint64_t acked_end = 0;  // The end of the last message called acked.
    std::uint64_t unsent_begin =
        0;  // The begin of the first one called unsent; else of what never was.
  };
  [[nodiscard]] const std::vector<Session>& sessions() const { return sessions_; }
  struct Truth {
    std::uint64_t
        received;      // Bytes that the peer's kernel received, in order, until the run's end.
    Instant fin_at;    // When this side's kernel received a FIN,
    Instant reset_at;  // or a RST; kNever: it did not.
  };
  void CheckTruth(const Session& session, const Truth& truth);

  [[nodiscard]] bool up() const { return state_ == State::kUp; }
  [[nodiscard]] bool dialing() const { return state_ == State::kDialing && !destroyed_; }
  [[nodiscard]] bool closed() const { return state_ == State::kClosed; }
  // What came is no echo of ours: Drop is due.
  [[nodiscard]] bool garbage() const { return garbage_; }
  [[nodiscard]] std::uint64_t cycles() const { return cycles_; }
  [[nodiscard]] std::uint64_t messages() const { return last_sequence_; }
  [[nodiscard]] std::uint64_t ups() const { return ups_; }
  [[nodiscard]] std::uint64_t downs() const { return downs_; }  // Failed attempts as well.
  // The longest wait before an attempt that the options allow.
  [[nodiscard]] Duration WaitMax() const;

 private:
  enum class State { kIdle, kBetween, kDialing, kUp, kEnding, kClosed };

  void Fail(Instant now, const std::string& what);
  void CheckAlive(Instant now, const char* callback);
  void CheckSilence(Instant now);
  void CheckStallGuard(Instant now);
  void CheckWait(Instant now, const Down& down);
  [[nodiscard]] Duration Lateness() const;

  const std::string name_;
  const LinkOptions& options_;
  Report report_;
  Allowances allowances_;
  State state_ = State::kIdle;
  bool destroyed_ = false;
  bool closing_ = false;  // Close was called,
  Instant closed_at_{};   // first at this time.
  Verdict verdict_ = Verdict::kByClass;

  // Dialing.
  std::uint32_t attempt_ = 0;   // Since healthy.
  std::uint32_t failures_ = 0;  // The same.
  std::optional<Instant> dial_due_;
  bool cut_short_ = false;  // RetryNow.
  Instant dialed_{};

  // The session.
  Instant up_{};
  Instant life_{};  // The last byte received.
  bool marked_ = false;
  unsigned freezes_ = 0;  // Since the last byte.
  Instant frozen_from_{};
  Instant frozen_until_{};
  std::optional<Error> dropped_;
  std::uint64_t first_sequence_ = 0;
  std::uint64_t last_sequence_ = 0;  // Of all sessions.
  struct Message {
    std::uint64_t begin;
    std::uint64_t end;
  };
  std::vector<Message> messages_;  // Of this session.
  std::uint64_t echoed_ = 0;       // The last echo's sequence.
  echo::MessageReader reader_;
  bool garbage_ = false;

  std::vector<Session> sessions_;
  std::optional<Account> last_account_;
  std::uint64_t ups_ = 0;
  std::uint64_t downs_ = 0;
  std::uint64_t cycles_ = 0;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LINK_CHECKER_H_
