#include "swarm/link_checker.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

namespace holdfast::swarm {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

__extension__ using Wide = unsigned __int128;

std::string Text(Duration duration) { return std::to_string(duration.count()) + " ns"; }

// min(max, initial * multiplier^n), and the same rounded up: the library may round between its steps.
struct Bounds {
  std::int64_t low;
  std::int64_t high;
};

std::int64_t Power(std::int64_t initial, std::uint32_t multiplier_1024ths, std::uint32_t n,
                   std::int64_t max) {
  Wide value = static_cast<Wide>(initial) << 20;
  const Wide limit = static_cast<Wide>(max) << 20;
  for (std::uint32_t i = 0; i < n && value < limit; ++i) value = value * multiplier_1024ths / 1024;
  return static_cast<std::int64_t>(std::min(value, limit) >> 20);
}

// DESIGN: uniform in [initial, min(max, initial * multiplier^n)]; the first wait in [0, initial], or
// [initial, initial] where this host ran out of something; times four where the table says slow.
Bounds WaitBounds(const BackoffOptions& options, const Error& error, std::uint32_t n) {
  const std::int64_t factor = error.action == Action::kBackOffSlow ? 4 : 1;
  const std::int64_t initial = options.initial.count() * factor;
  const std::int64_t max = options.max.count() * factor;
  const bool resource = error.error_class == ErrorClass::kResource;
  // A nanosecond for rounding.
  const std::int64_t high = Power(initial, options.multiplier.in_1024ths(), n, max) + 1;
  switch (options.jitter) {
    case Jitter::kFull:
      if (n == 0) return {resource ? std::min(initial, high) : 0, high};
      return {std::min(initial, high - 2), high};
    case Jitter::kEqual:
      return {(n == 0 && resource ? high - 2 : (high - 2) / 2), high};
    case Jitter::kNone:
      return {high - 2, high};
  }
  return {0, 0};
}

}  // namespace

LinkChecker::LinkChecker(std::string name, const LinkOptions& options, Report report)
    : name_(std::move(name)), options_(options), report_(std::move(report)) {}

void LinkChecker::Fail(Instant now, const std::string& what) {
  report_("at " + std::to_string(now.time_since_epoch().count()) + " ns, " + name_ + ": " + what);
}

void LinkChecker::CheckAlive(Instant now, const char* callback) {
  if (destroyed_) Fail(now, std::string(callback) + " after the handle was destroyed");
  if (state_ == State::kClosed) Fail(now, std::string(callback) + " after on_closed");
}

void LinkChecker::OnFrozen(Instant from, Instant until) {
  ++freezes_;
  frozen_from_ = from;
  frozen_until_ = until;
}

Duration LinkChecker::Lateness() const { return allowances_.loop; }

Duration LinkChecker::WaitMax() const { return options_.backoff.max * 4; }

// --- Calls of the user.

void LinkChecker::OnStart(Instant now) {
  if (state_ != State::kIdle) return;
  state_ = State::kBetween;
  dial_due_ = now;
}

void LinkChecker::OnSent(Instant now, std::uint64_t sequence, std::uint64_t begin,
                         std::size_t size) {
  if (sequence != last_sequence_ + 1) {
    Fail(now, "sequence " + std::to_string(sequence) + " after " + std::to_string(last_sequence_));
  }
  if (state_ != State::kUp) Fail(now, "a message was taken while the link is not up");
  if (messages_.empty()) first_sequence_ = sequence;
  messages_.push_back({begin, begin + size});
  last_sequence_ = sequence;
}

void LinkChecker::OnMarkHealthy(Instant) {
  if (state_ != State::kUp || closing_ || dropped_.has_value()) return;  // Too late.
  marked_ = true;
  attempt_ = failures_ = 0;
}

void LinkChecker::OnRetryNow(Instant) { cut_short_ = true; }

void LinkChecker::OnDrop(Instant, const Error& error) {
  if (state_ == State::kUp && !closing_ && !dropped_.has_value()) dropped_ = error;
}

void LinkChecker::OnClose(Instant now) {
  if (!closing_) closed_at_ = now;
  closing_ = true;
}

// --- Callbacks.

void LinkChecker::OnDial(Instant now, std::uint32_t attempt) {
  CheckAlive(now, "on_dial");
  if (state_ != State::kBetween) Fail(now, "on_dial while an attempt or a session is on");
  if (closing_) Fail(now, "on_dial after Close");
  if (attempt != attempt_ + 1) {
    Fail(now, "attempt " + std::to_string(attempt) + " after " + std::to_string(attempt_));
  }
  if (dial_due_.has_value() && !cut_short_) {
    if (now < *dial_due_) Fail(now, "dialed " + Text(*dial_due_ - now) + " early");
    if (now > *dial_due_ + Lateness()) Fail(now, "dialed " + Text(now - *dial_due_) + " late");
  }
  attempt_ = attempt;
  cut_short_ = false;
  dial_due_.reset();
  dialed_ = now;
  state_ = State::kDialing;
}

void LinkChecker::OnUp(Instant now, const SocketAddress& local) {
  CheckAlive(now, "on_up");
  if (state_ != State::kDialing) Fail(now, "on_up without an attempt");
  if (closing_) Fail(now, "on_up after Close");
  if (now - dialed_ > options_.attempt_timeout + Lateness()) {
    Fail(now, "up " + Text(now - dialed_) + " after the dial, later than attempt_timeout");
  }
  state_ = State::kUp;
  ++ups_;
  up_ = life_ = now;
  freezes_ = 0;
  marked_ = garbage_ = false;
  dropped_.reset();
  messages_.clear();
  first_sequence_ = 0;
  echoed_ = last_sequence_;
  reader_.Reset();
  sessions_.push_back({.local = local, .up = now});
}

// A peer that is judged at all has never been silent for longer than silence_max and what the loop itself was
// late; a stall of more than a quarter grants one fresh lease.
void LinkChecker::CheckSilence(Instant now) {
  const bool judged =
      options_.silence_max > Duration::zero() && (!options_.ping.empty() || options_.on_heartbeat);
  if (!judged || closing_) return;
  Duration allowed = options_.silence_max + Lateness() + allowances_.completion;
  if (Lateness() > options_.silence_max / 4) allowed += options_.silence_max;
  if (now - life_ > allowed) {
    Fail(now, "silent for " + Text(now - life_) + ", longer than silence_max");
  }
}

// A loop that stood still from before any deadline until more than a quarter of silence_max after the last
// of them grants a fresh lease: the peer was never asked.
void LinkChecker::CheckStallGuard(Instant now) {
  const Duration silence = options_.silence_max;
  if (options_.ping.empty() || freezes_ != 1) return;
  const bool unasked = frozen_from_ + 1ms < life_ + silence / 2;
  const bool late = frozen_until_ > life_ + silence + silence / 4 + 1ms;
  if (unasked && late && now < frozen_until_ + silence) {
    Fail(now, "called dead " + Text(now - frozen_until_) + " after the loop stood still");
  }
}

void LinkChecker::OnData(Instant now, std::span<const std::byte> bytes) {
  CheckAlive(now, "on_data");
  if (state_ != State::kUp) Fail(now, "on_data while not up");
  if (bytes.empty()) Fail(now, "on_data without data");
  if (dropped_.has_value()) Fail(now, "on_data after Drop");
  CheckSilence(now);
  life_ = now;
  freezes_ = 0;
  while (!garbage_ && !bytes.empty()) {
    switch (reader_.Read(bytes)) {
      case echo::MessageReader::Found::kGarbage:
        garbage_ = true;  // The network corrupted it, or the user sees to it: no more to be read.
        break;
      case echo::MessageReader::Found::kMore:
        break;
      case echo::MessageReader::Found::kMessage: {
        const echo::Message& message = reader_.message();
        if (message.kind == echo::MessageKind::kPing) break;
        if (message.sequence != echoed_ + 1 || message.sequence > last_sequence_) {
          Fail(now, "echo " + std::to_string(message.sequence) + " after " +
                        std::to_string(echoed_) + ", sent up to " + std::to_string(last_sequence_));
        }
        echoed_ = message.sequence;
        break;
      }
    }
  }
}

void LinkChecker::OnDown(Instant now, const Down& down) {
  CheckAlive(now, "on_down");
  ++downs_;
  if (!down.error.failed()) Fail(now, "on_down without an error");
  if (down.was_up != (state_ == State::kUp)) Fail(now, "on_down: was_up is wrong");
  if (state_ != State::kUp && state_ != State::kDialing) {
    Fail(now, "on_down without an attempt or a session");
  }
  // One that had failed when Close was called, and was to be told in the same turn, is told.
  if (state_ == State::kDialing && closing_ && now > closed_at_ + Lateness()) {
    Fail(now, "on_down for an attempt that Close ended");
  }
  if (state_ == State::kUp) {
    if (down.total() != messages_.size()) {
      Fail(now, "an account of " + std::to_string(down.total()) + " messages, not " +
                    std::to_string(messages_.size()));
    }
    if (!messages_.empty() && down.first_sequence != first_sequence_) {
      Fail(now, "an account from " + std::to_string(down.first_sequence) + ", not " +
                    std::to_string(first_sequence_));
    }
    const std::uint64_t echoes =
        messages_.empty() || echoed_ < first_sequence_ ? 0 : echoed_ - first_sequence_ + 1;
    if (echoes > down.acked + down.in_doubt) Fail(now, "an echo of what was never sent");
    ++cycles_;
    Session& session = sessions_.back();
    session.told = down.total() == messages_.size();
    session.error = down.error;
    session.down = now;
    session.lateness = Lateness() + allowances_.completion;
    if (closing_) session.lateness += options_.drain;
    session.unsent_begin = UINT64_MAX;
    if (session.told && down.acked > 0) session.acked_end = messages_[down.acked - 1].end;
    if (session.told && down.unsent > 0) {
      session.unsent_begin = messages_[down.acked + down.in_doubt].begin;
    }
    messages_.clear();
    const bool heartbeat = down.error.operation == Operation::kHeartbeat &&
                           down.error.error_class == ErrorClass::kTimeout;
    if (heartbeat && !dropped_.has_value() && !options_.ping.empty() &&
        now - life_ < options_.silence_max) {
      Fail(now, "called dead " + Text(now - life_) + " after its last byte");
    }
    if (heartbeat && !dropped_.has_value()) CheckStallGuard(now);
    CheckSilence(now);
    if (dropped_.has_value() && !closing_ && down.error.error_class != dropped_->error_class) {
      Fail(now, "dropped, and down for another reason");
    }
    // Healthy by surviving: the wheel's turn may come late, never early.
    if (!marked_ && down.attempt == 0 && now - up_ < options_.healthy_after) {
      Fail(now, "healthy " + Text(now - up_) + " after it came up");
    }
    if (!marked_ && down.attempt != 0 && !closing_ &&
        now - up_ >
            options_.healthy_after + Lateness() + allowances_.completion + options_.silence_max) {
      Fail(now, "not healthy after " + Text(now - up_));
    }
    if (down.attempt == 0) attempt_ = failures_ = 0;
  } else if (now - dialed_ > options_.attempt_timeout + Lateness() + allowances_.completion) {
    Fail(now, "an attempt of " + Text(now - dialed_) + ", longer than attempt_timeout");
  }
  if (!down.was_up && down.error.code == ENOTCONN && !allowances_.handshake) {
    Fail(now, "an attempt was given up in the middle of its handshake");
  }
  if (down.attempt != attempt_) {
    Fail(now,
         "down with attempt " + std::to_string(down.attempt) + ", not " + std::to_string(attempt_));
  }
  CheckWait(now, down);
  last_account_ = static_cast<const Account&>(down);
  if (!down.was_up) last_account_.reset();
  state_ = down.retry_in.has_value() ? State::kBetween : State::kEnding;
  if (down.retry_in.has_value()) dial_due_ = now + *down.retry_in;
}

void LinkChecker::CheckWait(Instant now, const Down& down) {
  const Verdict verdict = std::exchange(verdict_, Verdict::kByClass);
  const std::uint32_t n = failures_++;
  if (closing_ && down.retry_in.has_value()) Fail(now, "another attempt after Close");
  if (!down.retry_in.has_value()) return;
  if (verdict == Verdict::kRetryNow) {
    if (*down.retry_in != Duration::zero()) Fail(now, "a wait although decide said now");
    return;
  }
  if (verdict == Verdict::kStop) Fail(now, "another attempt although decide said stop");
  if (verdict == Verdict::kByClass && !down.error.IsTemporary()) {
    Fail(now, "another attempt after a permanent error");
  }
  const Bounds bounds = WaitBounds(options_.backoff, down.error, n);
  if (down.retry_in->count() < bounds.low || down.retry_in->count() > bounds.high) {
    Fail(now, "wait " + std::to_string(n) + " of " + Text(*down.retry_in) + ", not within " +
                  std::to_string(bounds.low) + " to " + std::to_string(bounds.high) + " ns");
  }
}

void LinkChecker::OnClosed(Instant now, const Closed& closed) {
  CheckAlive(now, "on_closed");
  if (state_ == State::kUp) Fail(now, "on_closed without on_down");
  const bool of_a_session = last_account_.has_value() && state_ == State::kEnding;
  if (of_a_session &&
      (closed.acked != last_account_->acked || closed.in_doubt != last_account_->in_doubt ||
       closed.unsent != last_account_->unsent)) {
    Fail(now, "on_closed has another account than on_down");
  }
  if (!of_a_session && closed.total() != 0) Fail(now, "on_closed has an account of no session");
  if (!closing_ && state_ != State::kEnding) Fail(now, "on_closed although nobody closed");
  const Duration late = closing_ ? now - closed_at_ - options_.drain : Duration::zero();
  if (late > Lateness() + allowances_.completion) {
    Fail(now, "closed " + Text(late) + " after the drain should have ended");
  }
  state_ = State::kClosed;
}

void LinkChecker::CheckTruth(const Session& session, const Truth& truth) {
  if (session.error.error_class == ErrorClass::kEof && truth.fin_at == kNever) {
    Fail(session.up, "this session ended in good order, but no FIN came");
  }
  if (session.error.code == ECONNRESET && truth.reset_at == kNever) {
    Fail(session.up, "this session was reset, but no RST came");
  }
  // Bytes that came before the end may take a moment.
  const Instant end = std::min(truth.fin_at, truth.reset_at);
  if (end != kNever && session.down != kNever && session.down > end + session.lateness + 100ms) {
    Fail(session.up, "this session was told of its end " + Text(session.down - end) + " later");
  }
  if (!session.told) return;
  if (session.acked_end > truth.received) {
    Fail(session.up, "acked up to byte " + std::to_string(session.acked_end) +
                         " of this session, but the peer's kernel received " +
                         std::to_string(truth.received));
  }
  if (session.unsent_begin < truth.received) {
    Fail(session.up, "unsent from byte " + std::to_string(session.unsent_begin) +
                         " of this session, but the peer's kernel received " +
                         std::to_string(truth.received));
  }
}

}  // namespace holdfast::swarm
