#include "machine/liveness.h"

#include <algorithm>

namespace holdfast::internal {

void Liveness::Start(Instant now, bool pings_now) noexcept {
  running_ = true;
  pings_ = paused_ = false;
  next_scheduled_ = kNever;
  last_life_ = now;
  silence_ = {};
  if (pings_now) StartPings(now);
}

void Liveness::StartPings(Instant now) noexcept {
  if (pings_ || !options_.has_ping) return;  // Of no effect while stopped: Start begins anew.
  pings_ = true;
  pings_since_ = now;
  if (options_.ping_interval > Duration::zero()) {
    next_scheduled_ = SaturatingAdd(now, options_.ping_interval);
  }
}

void Liveness::Stop() noexcept {
  running_ = paused_ = false;
  silence_ = {};
}

void Liveness::OnPaused(Instant now) noexcept {
  if (!running_ || paused_) return;
  paused_ = true;
  // The next ping is due half a silence after the last, as between the answers of a live peer.
  if (silence_.pinged) pings_since_ = SaturatingAdd(now, half());
  silence_ = {};
}

void Liveness::OnResumed(Instant now) noexcept {
  if (!paused_) return;
  paused_ = false;
  OnReceived(now);
}

Instant Liveness::next_deadline() const noexcept {
  if (!running_) return kNever;
  if (silence_.suspect) return confirm_at_;
  return std::min({death_deadline(), ping_deadline(), next_scheduled_});
}

Liveness::Step Liveness::OnDeadline(Instant now, bool everything_dispatched) noexcept {
  if (now < next_deadline()) return Step::kNone;
  GrantLeaseAfterStall(now);

  if (silence_.suspect) {
    if (everything_dispatched || now >= SaturatingAdd(suspect_since_, options_.silence_max / 4)) {
      Stop();
      return Step::kDead;
    }
    confirm_at_ = now;
    return Step::kNone;
  }
  if (now >= death_deadline()) {
    if (!options_.has_ping) return Step::kAskKernel;
    Suspect(now);
    return Step::kNone;
  }
  return TakePing(now) ? Step::kPing : Step::kNone;
}

void Liveness::OnPingSkipped(Instant now) noexcept {
  silence_.pinged = false;
  pings_since_ = SaturatingAdd(now, options_.silence_max / 16);
}

void Liveness::OnKernelLife(Instant last_ack, Instant now) noexcept {
  if (!running_) return;
  if (last_ack > last_life_) {
    last_life_ = std::min(last_ack, now);
    silence_ = {};
  }
  if (now >= death_deadline()) Suspect(now);
}

bool Liveness::judges() const noexcept {
  return options_.silence_max > Duration::zero() && (options_.has_ping || options_.kernel_life);
}

// Rounded up: a byte after the ping then never asks for an earlier deadline than the one armed.
Duration Liveness::half() const noexcept { return options_.silence_max - options_.silence_max / 2; }

Instant Liveness::death_deadline() const noexcept {
  const bool unseen = paused_ && options_.has_ping;  // What would be life, nobody would see.
  return judges() && !unseen ? SaturatingAdd(last_life_, options_.silence_max) : kNever;
}

Instant Liveness::ping_deadline() const noexcept {
  if (!judges() || !pings_ || silence_.pinged) return kNever;
  return std::max(SaturatingAdd(last_life_, half()), pings_since_);
}

void Liveness::Suspect(Instant now) noexcept {
  silence_.suspect = true;
  suspect_since_ = confirm_at_ = now;
}

// Requires: now >= next_deadline().
void Liveness::GrantLeaseAfterStall(Instant now) noexcept {
  if (!judges() || silence_.lease_granted) return;
  if (now <= SaturatingAdd(next_deadline(), options_.silence_max / 4)) return;
  last_life_ = now;
  silence_ = {.lease_granted = true};
}

// True when a ping is due; one serves both the silence and the schedule. A schedule that was missed is
// not made up for in a burst.
bool Liveness::TakePing(Instant now) noexcept {
  const bool for_silence = now >= ping_deadline();
  const bool for_schedule = now >= next_scheduled_;
  if (for_silence && paused_) pings_since_ = SaturatingAdd(now, half());
  if (for_silence && !paused_) silence_.pinged = true;
  if (for_schedule) {
    const Instant next = SaturatingAdd(next_scheduled_, options_.ping_interval);
    next_scheduled_ = next > now ? next : SaturatingAdd(now, options_.ping_interval);
  }
  return for_silence || for_schedule;
}

}  // namespace holdfast::internal
