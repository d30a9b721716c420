// What a TCP connection sends, and its timers.
//
// Sources: net/ipv4/tcp_output.c, tcp_timer.c and kernel/time/timer.c of Linux 6.18; RFC 6298.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "sim/tcp_connection.h"

namespace holdfast::internal::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kRtoMin = milliseconds(200);
constexpr Duration kRtoMax = seconds(120);
constexpr Duration kRtoOfSyn = seconds(1);                   // TCP_TIMEOUT_INIT
constexpr unsigned kRetries = 15;                            // tcp_retries2
constexpr unsigned kRetriesOfOrphan = 8;                     // tcp_orphan_retries
constexpr unsigned kRetriesOfSyn = 6;                        // tcp_syn_retries
constexpr unsigned kRetriesOfSynAck = 5;                     // tcp_synack_retries
constexpr unsigned kLinearTimeoutsOfSyn = 4;                 // tcp_syn_linear_timeouts
constexpr Duration kProbeIntervalLocal = milliseconds(500);  // TCP_RESOURCE_PROBE_INTERVAL
constexpr Duration kJiffy = milliseconds(1);                 // HZ 1000
constexpr std::uint64_t kSegmentBytes = 1'448;               // Of an Ethernet's.
constexpr std::uint64_t kSillyWindow = kSegmentBytes;        // Less is not announced.

}  // namespace

// --- Segments

// A slow line gets less at once, so that an acknowledgement comes back before what is behind it has left
// (tcp_tso_autosize; its milliseconds of the pacing rate are a tenth of a second of the line's here).
std::uint64_t TcpConnection::SegmentMax() {
  Host* const peer = network().FindHost(tuple_.peer);
  const std::uint64_t rate =
      peer != nullptr ? network().path(stack_.host(), *peer).bytes_per_second : 0;
  return rate == 0 ? kSegmentMax : std::clamp(rate / 10, kSegmentBytes, kSegmentMax);
}

void TcpConnection::Output() {
  switch (state_) {
    case TcpState::kEstablished:
    case TcpState::kCloseWait:
    case TcpState::kFinWait1:
    case TcpState::kClosing:
    case TcpState::kLastAck:
      break;
    default:
      return;
  }
  bool left = true;
  const std::uint64_t end = DataEnd();
  while (left && snd_nxt_ < write_seq_) {
    const std::uint64_t room = WindowEnd() > snd_nxt_ ? WindowEnd() - snd_nxt_ : 0;
    const std::uint64_t data = end > snd_nxt_ ? end - snd_nxt_ : 0;
    std::uint64_t size = std::min({data, room, kSegmentMax});
    if (size > kSegmentBytes) size = std::min(size, SegmentMax());
    const bool fin = fin_queued_ && size == data && room > size;
    if (size == 0 && !fin) break;
    left = SendData(snd_nxt_, size, fin);
    if (!left) break;
    if (snd_nxt_ == snd_una_) head_sent_at_ = now();
    snd_nxt_ += size + (fin ? 1 : 0);
    if (record_ != nullptr) record_->transmitted[side_] += size;
    if (timed_seq_ == 0) {
      timed_seq_ = snd_nxt_;
      timed_at_ = now();
    }
  }
  if (has_data_sent()) {
    probe_at_ = kNever;
    if (retransmit_at_ == kNever) StartRetransmitTimer();
  } else if (snd_nxt_ < write_seq_ && probe_at_ == kNever) {
    // A closed window, or a route that is gone (tcp_check_probe_timer).
    if (left) faults().Hit(Fault::kZeroWindow);
    StartProbeTimer();
  }
}

bool TcpConnection::Emit(std::uint8_t flags, std::uint64_t seq, std::string payload) {
  Segment segment;
  segment.from = tuple_.local;
  segment.to = tuple_.peer;
  segment.flags = flags;
  segment.seq = seq;
  if ((flags & kAck) != 0) segment.ack = rcv_nxt_;
  segment.window = AnnounceWindow();
  segment.payload = std::move(payload);
  segment.opener = opener_;
  ++segments_out_;
  if (box_ != Box::kNone) {
    AnswerFromBox(segment);
    return true;
  }
  return network().Transmit(stack_.host(), std::move(segment)) == 0;
}

bool TcpConnection::SendData(std::uint64_t seq, std::uint64_t size, bool fin) {
  const std::uint8_t flags = fin ? kAck | kFin : kAck;
  bytes_sent_ += size;  // Failed transmissions count (docs/kernel.md C1).
  last_sent_ = now();
  return Emit(flags, seq, std::string(send_.View(seq - snd_una_, size)));
}

void TcpConnection::SendSyn(bool owned) {
  Segment segment;
  segment.from = tuple_.local;
  segment.to = tuple_.peer;
  segment.flags = kSyn;
  segment.seq = iss_;
  segment.window = AnnounceWindow();
  segment.owned = owned;
  segment.opener = opener_;
  ++segments_out_;
  SendSynToItsFate(std::move(segment));
}

// The oldest segment once more. False when it could not leave the host.
bool TcpConnection::Retransmit() {
  timed_seq_ = 0;  // Karn: an answer could be to either.
  const std::uint64_t sent = snd_nxt_ - snd_una_;
  const std::uint64_t data = std::min<std::uint64_t>(sent, send_.size());
  const std::uint64_t size = std::min(data, SegmentMax());
  bytes_retransmitted_ += size;
  return SendData(snd_una_, size, size == data && sent > data);
}

std::uint32_t TcpConnection::SelectWindow() const noexcept {
  const std::uint64_t full = options_.receive_buffer / 2;
  const std::uint64_t used = receive_.size();
  const std::uint64_t room = full > used ? full - used : 0;
  return room < std::min(kSillyWindow, full / 2) ? 0 : static_cast<std::uint32_t>(room);
}

// The right edge of the window only ever moves forward.
std::uint32_t TcpConnection::AnnounceWindow() noexcept {
  rcv_edge_ = std::max({rcv_edge_, rcv_nxt_, rcv_nxt_ + SelectWindow()});
  return static_cast<std::uint32_t>(rcv_edge_ - rcv_nxt_);
}

void TcpConnection::OnRead() {
  if ((shutdown_ & kReceiveShutdown) != 0 || !alive()) return;
  const std::uint64_t now_open = rcv_edge_ - rcv_nxt_;
  if (2 * now_open > options_.receive_buffer / 2) return;
  const std::uint64_t would_open = SelectWindow();
  if (would_open > 0 && would_open >= 2 * now_open) SendAck();
}

// --- Timers

// mod_timer: a wheel whose slots widen with the distance. A timer is never early, and late by up to
// an eighth: that is why 127 seconds of SYNs take 135 (docs/kernel.md 9).
Instant TcpConnection::TimerAt(Duration delay) const noexcept {
  const std::int64_t clock = now().time_since_epoch() / kJiffy;
  const std::int64_t distance = (delay + kJiffy - Duration(1)) / kJiffy;
  unsigned shift = 0;
  for (std::int64_t level_end = 63; distance >= level_end && shift < 24; level_end *= 8) shift += 3;
  const std::int64_t slot = ((clock + distance) >> shift) + 1;
  return Instant(Duration((slot << shift) * kJiffy));
}

void TcpConnection::MeasureRoundTrip(Duration sample) noexcept {
  constexpr std::int64_t kMost = 1 << 30;
  const std::int64_t raw = std::chrono::duration_cast<std::chrono::microseconds>(sample).count();
  const auto rtt = static_cast<std::uint32_t>(std::clamp<std::int64_t>(raw, 1, kMost));
  if (rtt_us_ == 0) {
    rtt_us_ = rtt;
    rtt_variation_us_ = rtt / 2;
    return;
  }
  const std::uint32_t error = rtt > rtt_us_ ? rtt - rtt_us_ : rtt_us_ - rtt;
  rtt_variation_us_ = rtt_variation_us_ - rtt_variation_us_ / 4 + error / 4;
  rtt_us_ = std::max<std::uint32_t>(rtt_us_ - rtt_us_ / 8 + rtt / 8, 1);
}

Duration TcpConnection::Timeout() const noexcept {
  Duration timeout = kRtoOfSyn;
  if (rtt_us_ != 0) {
    const Duration spread = std::chrono::microseconds(std::uint64_t{rtt_variation_us_} * 4);
    timeout = std::chrono::microseconds(rtt_us_) + std::max(spread, kRtoMin);
  }
  for (unsigned i = 0; i < backoff_ && timeout < kRtoMax; ++i) timeout *= 2;
  return std::min(timeout, kRtoMax);
}

bool TcpConnection::TimedOut(unsigned boundary) const noexcept {
  if (retransmits_ == 0) return false;
  const bool opening = state_ == TcpState::kSynSent || state_ == TcpState::kSynReceived;
  Duration limit = milliseconds(options_.user_timeout_ms);
  if (limit == Duration::zero()) {
    // tcp_model_timeout: what `boundary` timeouts take that double up to the maximum.
    Duration timeout = opening ? kRtoOfSyn : kRtoMin;
    for (unsigned i = 0; i <= boundary; ++i) {
      limit += timeout;
      timeout = timeout * 2 > kRtoMax ? kRtoMax : timeout * 2;
    }
  }
  return now() - head_sent_at_ >= limit;
}

// Not beyond the moment when TCP_USER_TIMEOUT will have passed (tcp_clamp_rto_to_user_timeout).
void TcpConnection::StartRetransmitTimer() {
  Duration delay = Timeout();
  if (options_.user_timeout_ms != 0 && retransmits_ > 0) {
    const Duration left = head_sent_at_ + milliseconds(options_.user_timeout_ms) - now();
    delay = std::min(delay, std::max(left, kJiffy));
  }
  retransmit_at_ = TimerAt(delay);
}

void TcpConnection::StartProbeTimer() {
  Duration delay = Timeout();
  if (options_.user_timeout_ms != 0 && probing_since_ != kNever) {
    const Duration left = probing_since_ + milliseconds(options_.user_timeout_ms) - now();
    delay = std::min(delay, std::max(left, 2 * kJiffy));
  }
  probe_at_ = TimerAt(delay);
}

void TcpConnection::StartKeepalive() {
  keepalive_at_ = options_.keepalive && alive() && state_ != TcpState::kListen
                      ? TimerAt(seconds(options_.keepalive_idle_s))
                      : kNever;
  Arm();
}

void TcpConnection::Arm() {
  const Instant at = std::min({retransmit_at_, probe_at_, end_at_});
  if (at < event_at_) {
    event_at_ = at;
    schedule().At(at, [self = weak_from_this(), at] {
      if (const auto connection = self.lock()) connection->OnTimer(at);
    });
  }
  if (keepalive_at_ < keepalive_event_at_) {
    const Instant probe = keepalive_at_;
    keepalive_event_at_ = probe;
    schedule().At(probe, [self = weak_from_this(), probe] {
      if (const auto connection = self.lock()) connection->OnKeepaliveEvent(probe);
    });
  }
}

void TcpConnection::OnTimer(Instant at) {
  if (at != event_at_) return;  // An earlier deadline came between.
  event_at_ = kNever;
  if (retransmit_at_ <= now()) OnRetransmitTimer();
  if (probe_at_ <= now()) OnProbeTimer();
  if (end_at_ <= now()) {
    end_at_ = kNever;
    if (window_closed_) CloseWindowFor(Duration::zero());
    if (orphaned_ && state_ == TcpState::kFinWait2) SetState(TcpState::kClose);
  }
  if (alive()) Arm();
  network().DrainLocal();
}

void TcpConnection::OnKeepaliveEvent(Instant at) {
  if (at != keepalive_event_at_) return;
  keepalive_event_at_ = kNever;
  if (keepalive_at_ <= now()) OnKeepalive();
  if (alive()) Arm();
  network().DrainLocal();
}

// tcp_retransmit_timer, tcp_write_timeout
void TcpConnection::OnRetransmitTimer() {
  retransmit_at_ = kNever;
  const bool syn = state_ == TcpState::kSynSent;
  const bool half_open = state_ == TcpState::kSynReceived;
  if (!has_data_sent() && !half_open) return;
  unsigned retries = kRetries;
  unsigned most = UINT8_MAX;
  if (syn) {
    retries = options_.syn_retries != 0 ? options_.syn_retries : kRetriesOfSyn;
    most = retries + kLinearTimeoutsOfSyn;
  } else if (half_open) {
    retries = kRetriesOfSynAck;
    most = retries;
  } else if (orphaned_) {
    retries = kRetriesOfOrphan;
  }
  if (retransmits_ >= most || TimedOut(retries)) {
    if (half_open && file_ == nullptr) {
      SetState(TcpState::kClose);  // A request that came to nothing; nobody is told.
    } else {
      TimeOut();
    }
    return;
  }
  if (retransmits_ < UINT8_MAX) ++retransmits_;
  if (timeouts_ < UINT8_MAX) ++timeouts_;
  ++total_retransmits_;
  if (syn) {
    timed_seq_ = 0;
    SendSyn(false);
  } else if (half_open) {
    timed_seq_ = 0;
    SendSynAck();
  } else {
    recover_ = snd_nxt_;
    Retransmit();
  }
  if (!syn || timeouts_ > kLinearTimeoutsOfSyn) ++backoff_;
  StartRetransmitTimer();
}

// tcp_probe_timer, tcp_send_probe0
void TcpConnection::OnProbeTimer() {
  probe_at_ = kNever;
  if (has_data_sent() || snd_nxt_ == write_seq_) {
    probes_ = 0;
    return;
  }
  const Duration limit = milliseconds(options_.user_timeout_ms);
  if (probing_since_ == kNever) {
    probing_since_ = now();
  } else if (limit != Duration::zero() && now() - probing_since_ >= limit) {
    TimeOut();
    return;
  }
  if (probes_ >= (orphaned_ ? kRetriesOfOrphan : kRetries)) {
    TimeOut();
    return;
  }
  if (snd_nxt_ < WindowEnd()) {
    Output();  // It was no window that held it up, but a route.
  } else {
    SendProbe();
  }
  if (has_data_sent()) {
    probes_ = 0;
    backoff_ = 0;
    probing_since_ = kNever;
    return;
  }
  ++probes_;
  if (snd_nxt_ < WindowEnd()) {
    probe_at_ = TimerAt(kProbeIntervalLocal);
    if (limit != Duration::zero()) {
      const Duration left = std::max(probing_since_ + limit - now(), 2 * kJiffy);
      probe_at_ = std::min(probe_at_, TimerAt(left));
    }
    return;
  }
  if (backoff_ < kRetries) ++backoff_;
  StartProbeTimer();
}

Duration TcpConnection::KeepaliveElapsed() const noexcept {
  return now() - std::max(last_received_, last_ack_);
}

// tcp_keepalive_timer
void TcpConnection::OnKeepalive() {
  keepalive_at_ = kNever;
  if (!options_.keepalive || !alive() || state_ == TcpState::kListen ||
      state_ == TcpState::kSynSent) {
    return;
  }
  const Duration idle = seconds(options_.keepalive_idle_s);
  Duration delay = idle;
  if (snd_una_ == write_seq_) {  // What waits for an answer is watched by other timers.
    const Duration elapsed = KeepaliveElapsed();
    if (elapsed >= idle) {
      const Duration limit = milliseconds(options_.user_timeout_ms);
      const bool over = limit != Duration::zero() ? elapsed >= limit && probes_ > 0
                                                  : probes_ >= options_.keepalive_probes;
      if (over) {
        SendReset();
        TimeOut();
        return;
      }
      SendProbe();
      ++probes_;
      delay = seconds(options_.keepalive_interval_s);
    } else {
      delay = idle - elapsed;
    }
  }
  keepalive_at_ = TimerAt(delay);
}

}  // namespace holdfast::internal::sim
