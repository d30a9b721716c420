#include "machine/retry_policy.h"

#include <limits>

namespace holdfast::internal {
namespace {

[[nodiscard]] std::uint32_t Incremented(std::uint32_t count) noexcept {
  return count == std::numeric_limits<std::uint32_t>::max() ? count : count + 1;
}

[[nodiscard]] Duration TimesFour(Duration duration) noexcept {
  return duration > Duration::max() / 4 ? Duration::max() : duration * 4;
}

[[nodiscard]] bool Reached(std::uint32_t count, std::uint32_t max) noexcept {
  return max != 0 && count >= max;
}

}  // namespace

void RetryPolicy::OnDial(Instant now) noexcept {
  attempt_ = Incremented(attempt_);
  if (!unhealthy_since_) unhealthy_since_ = now;
}

void RetryPolicy::OnHealthy() noexcept {
  attempt_ = 0;
  failures_ = 0;
  protocol_errors_ = 0;
  unhealthy_since_.reset();
}

RetryPolicy::Decision RetryPolicy::OnFailure(const Error& error, Verdict verdict, Instant now,
                                             std::uint64_t random) noexcept {
  if (!unhealthy_since_) unhealthy_since_ = now;
  if (error.error_class == ErrorClass::kProtocol) protocol_errors_ = Incremented(protocol_errors_);
  const Duration wait = verdict == Verdict::kRetryNow ? Duration::zero() : Wait(error, random);
  failures_ = Incremented(failures_);

  if (verdict == Verdict::kStop) return {std::nullopt, ClosedReason::kDecided};
  if (verdict == Verdict::kByClass && !error.IsTemporary()) {
    return {std::nullopt, ClosedReason::kPermanent};
  }
  if (Reached(protocol_errors_, options_->protocol_errors_max)) {
    return {std::nullopt, ClosedReason::kProtocol};
  }
  if (Reached(attempt_, options_->attempts_max)) return {std::nullopt, ClosedReason::kAttempts};
  if (options_->give_up_after > Duration::zero() &&
      SaturatingAdd(now, wait) > SaturatingAdd(*unhealthy_since_, options_->give_up_after)) {
    return {std::nullopt, ClosedReason::kTime};
  }
  return {wait, ClosedReason::kPermanent};
}

Duration RetryPolicy::Wait(const Error& error, std::uint64_t random) const noexcept {
  BackoffOptions backoff = options_->backoff;
  if (error.action == Action::kBackOffSlow) {
    backoff.initial = TimesFour(backoff.initial);
    backoff.max = TimesFour(backoff.max);
  }
  const FirstWait first_wait =
      error.error_class == ErrorClass::kResource ? FirstWait::kFromInitial : FirstWait::kFromZero;
  return BackoffDelay(backoff, failures_, random, first_wait);
}

}  // namespace holdfast::internal
