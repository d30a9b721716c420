// Whether to dial again, and when: all the ways to go on and to stop in one place.
//
// Three things decide after a failed attempt or a lost session, in this order: what the user's `decide`
// says, what the error's class says (permanent exactly when !Error::IsTemporary()), and the limits
// (attempts, time, protocol errors). A wait grows with every failure since the link was last healthy,
// and nothing but being healthy makes it short again: a server that accepts and closes at once must not
// be dialed in a loop.
//
//   policy.OnDial(now);                                               // attempt() == 1
//   auto decision = policy.OnFailure(error, Verdict::kByClass, now, random.Next());
//   if (decision.retry_in) Arm(now + *decision.retry_in); else Close(decision.reason);
//
// Pure: time and randomness are arguments. Reactor thread.
#ifndef HOLDFAST_MACHINE_RETRY_POLICY_H_
#define HOLDFAST_MACHINE_RETRY_POLICY_H_

#include <cstdint>
#include <optional>

#include <holdfast/backoff.h>
#include <holdfast/error.h>
#include <holdfast/link_state.h>
#include <holdfast/time.h>

namespace holdfast::internal {

struct RetryOptions {
  BackoffOptions backoff{};
  std::uint32_t attempts_max = 0;         // Failed attempts in a row; 0: no limit.
  Duration give_up_after{0};              // Time without being healthy; 0: no limit.
  std::uint32_t protocol_errors_max = 3;  // Without being healthy in between; 0: no limit.
};

class RetryPolicy {
 public:
  struct Decision {
    std::optional<Duration> retry_in;                // nullopt: no further attempt.
    ClosedReason reason = ClosedReason::kPermanent;  // Why not; has no meaning beside retry_in.

    friend constexpr bool operator==(const Decision&, const Decision&) noexcept = default;
  };

  // `options` are shared by many links and must outlive the policy.
  explicit RetryPolicy(const RetryOptions& options) noexcept : options_(&options) {}
  explicit RetryPolicy(const RetryOptions&&) = delete;

  // An attempt starts. The first one of all starts the clock of give_up_after.
  void OnDial(Instant now) noexcept;
  // The link proved healthy: attempts, waits, protocol errors begin anew, the clock stops.
  void OnHealthy() noexcept;
  // An attempt failed or a session was lost. The loss of a healthy session starts the clock of
  // give_up_after.
  //   kStop       no more: kDecided.
  //   kByClass    no more when the error is permanent: kPermanent.
  //   kRetryNow   again without a wait, kBackOff after one; also after a permanent error.
  // Then the limits, whatever the verdict: protocol_errors_max violations since healthy (kProtocol),
  // attempts_max attempts since healthy (kAttempts), a next attempt that would come later than
  // give_up_after (kTime). Where several hold, the first one named here is the reason.
  // The wait is BackoffDelay of the failures since healthy, the first one 0; for kResource the first
  // is not below `initial`; for kBackOffSlow initial and max are times 4. `random`: 64 uniform bits.
  [[nodiscard]] Decision OnFailure(const Error& error, Verdict verdict, Instant now,
                                   std::uint64_t random) noexcept;

  // The attempt on its way, or of the session that is not yet healthy: from 1; 0 once healthy and
  // before the first.
  [[nodiscard]] std::uint32_t attempt() const noexcept { return attempt_; }

 private:
  [[nodiscard]] Duration Wait(const Error& error, std::uint64_t random) const noexcept;

  const RetryOptions* options_;
  std::optional<Instant> unhealthy_since_;  // The clock of give_up_after; nullopt: it stands still.
  std::uint32_t attempt_ = 0;
  std::uint32_t failures_ = 0;         // Since healthy: the number of the next wait.
  std::uint32_t protocol_errors_ = 0;  // Since healthy.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_RETRY_POLICY_H_
