#include "swarm/link_checker.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <holdfast/endpoint.h>

namespace holdfast::swarm {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

// Of a connection that is short of memory (net/connection.cc).
constexpr Duration kPauseMax = 100ms;

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

LinkChecker::LinkChecker(std::string name, const LinkOptions& options, const Oracle& oracle,
                         Report report)
    : name_(std::move(name)), options_(options), oracle_(oracle), report_(std::move(report)) {}

void LinkChecker::Fail(Instant now, const std::string& what) {
  report_("at " + std::to_string(now.time_since_epoch().count()) + " ns, " + name_ + ": " + what);
}

void LinkChecker::CheckAlive(Instant now, const char* callback) {
  if (destroyed_) Fail(now, std::string(callback) + " after the handle was destroyed");
  if (state_ == State::kClosed) Fail(now, std::string(callback) + " after on_closed");
}

void LinkChecker::CheckDue(Instant due, Instant now, Needs needs, const char* what) {
  if (now <= due) return;
  const Duration late = oracle_.Unexplained(due, now, needs);
  if (late == Duration::zero()) return;
  Fail(now, std::string(what) + " was due " + Text(now - due) + " ago, and nothing explains " +
                Text(late) + " of it");
}

// --- Calls of the user.

void LinkChecker::OnStart(Instant now) {
  if (state_ != State::kIdle || closing_) return;
  state_ = State::kBetween;
  dial_due_ = now;
}

void LinkChecker::OnSent(Instant now, std::uint64_t sequence, std::uint64_t begin,
                         std::size_t size) {
  if (sequence != last_sequence_ + 1) {
    Fail(now, "sequence " + std::to_string(sequence) + " after " + std::to_string(last_sequence_));
  }
  if (state_ != State::kUp) Fail(now, "a message was taken while the link is not up");
  messages_.push_back({.sequence = sequence,
                       .begin = begin,
                       .end = begin + size,
                       .sent = now,
                       .of_session = !gate_open_});
  last_sequence_ = sequence;
}

std::uint64_t LinkChecker::OnMarkHealthy(Instant now, std::uint64_t begin) {
  if (state_ != State::kUp || closing_ || dropped_.has_value()) return 0;  // Too late.
  marked_ = true;
  BeHealthy();
  return OpenGate(now, begin);
}

std::uint64_t LinkChecker::OnUpReturned(Instant now, std::uint64_t begin) {
  if (options_.login_timeout > Duration::zero()) return 0;
  if (state_ != State::kUp || closing_ || dropped_.has_value()) return 0;
  return OpenGate(now, begin);
}

std::uint64_t LinkChecker::OpenGate(Instant now, std::uint64_t begin) {
  if (gate_open_) return 0;
  gate_open_ = true;
  std::uint64_t end = begin;
  for (Message& message : kept_) {
    const std::uint64_t size = message.end - message.begin;
    message.begin = end;
    message.end = end += size;
    message.sent = now;
    messages_.push_back(message);
  }
  kept_.clear();
  return end - begin;
}

void LinkChecker::BeHealthy() {
  attempt_ = failures_ = protocol_errors_ = 0;
  unhealthy_since_.reset();
}

void LinkChecker::OnRetryNow(Instant now) {
  if (state_ == State::kBetween && !closing_) dial_due_ = std::min(dial_due_, now);
}

void LinkChecker::OnDrop(Instant, const Error& error) {
  if (state_ == State::kUp && !closing_ && !dropped_.has_value()) dropped_ = error;
}

void LinkChecker::OnClose(Instant now, Duration drain, ClosedReason reason) {
  if (closing_ || state_ == State::kEnding || state_ == State::kClosed) return;
  closing_ = true;
  close_reason_ = reason;
  closed_at_ = now;
  closed_due_ = state_ == State::kUp ? SaturatingAdd(now, drain) : now;
}

// --- Dialing.

void LinkChecker::OnDial(Instant now, std::uint32_t attempt, std::string_view endpoint) {
  CheckAlive(now, "on_dial");
  if (state_ != State::kBetween) Fail(now, "on_dial while an attempt or a session is on");
  if (closing_) Fail(now, "on_dial after Close");
  if (attempt != attempt_ + 1) {
    Fail(now, "attempt " + std::to_string(attempt) + " after " + std::to_string(attempt_));
  }
  if (now < dial_due_) Fail(now, "dialed " + Text(dial_due_ - now) + " early");
  CheckDue(dial_due_, now, Needs::kToRun, "the dial");
  attempt_ = attempt;
  if (!unhealthy_since_.has_value()) unhealthy_since_ = now;
  dial_due_ = kNever;
  dialed_ = now;
  const absl::StatusOr<Endpoint> parsed = Endpoint::Parse(endpoint);
  literal_ = parsed.ok() && parsed->literal().has_value();
  state_ = State::kDialing;
}

void LinkChecker::CheckAttempt(Instant now) {
  CheckDue(SaturatingAdd(dialed_, options_.attempt_timeout), now, Needs::kToBeTold,
           "the attempt's end");
  if (literal_) {
    CheckDue(SaturatingAdd(dialed_, options_.connect_timeout), now, Needs::kToBeTold,
             "the connect's end");
  }
}

void LinkChecker::OnUp(Instant now, const SocketAddress& local) {
  CheckAlive(now, "on_up");
  if (state_ != State::kDialing) Fail(now, "on_up without an attempt");
  if (closing_) Fail(now, "on_up after Close");
  CheckAttempt(now);
  if (!oracle_.Find(local, now).has_value())
    Fail(now, "up from an address that opened no connection");
  state_ = State::kUp;
  ++ups_;
  local_ = local;
  up_ = life_ = now;
  told_bytes_ = 0;
  marked_ = garbage_ = proven_ = false;
  dropped_.reset();
  messages_.clear();
  echoed_ = 0;
  gate_open_ = false;
  reader_.Reset();
}

// --- A session.

bool LinkChecker::kernel_life() const { return options_.ping.empty() && !options_.on_heartbeat; }

bool LinkChecker::judged() const { return options_.silence_max > Duration::zero(); }

// TCP_INFO tells the age of the last acknowledgement in milliseconds, rounded down.
Instant LinkChecker::last_life() const {
  if (!kernel_life()) return life_;
  const std::optional<Oracle::Truth> truth = oracle_.Find(local_, up_);
  return truth.has_value() ? std::max(life_, truth->last_ack) : life_;
}

// A peer that is judged at all has never been silent for longer than silence_max. A stall of more than a
// quarter of it grants one fresh lease, from its end.
void LinkChecker::CheckSilence(Instant now) {
  if (!judged()) return;
  const Instant life = last_life();
  const Instant due = life + options_.silence_max + (kernel_life() ? 1ms : 0ms);
  if (now <= due) return;
  const Duration late = oracle_.Unexplained(due, now, Needs::kToBeTold);
  // The kernel may have heard something meanwhile, of which the link learns when it is due to ask.
  const Duration stalled = now - life_ - oracle_.Unexplained(life_, now, Needs::kToBeTold);
  const bool lease = stalled > options_.silence_max / 4;
  if (late > (lease ? options_.silence_max : 0ms)) {
    Fail(now, "silent for " + Text(now - life) + ", and nothing explains " + Text(late));
  }
}

void LinkChecker::CheckSession(Instant now) {
  if (closing_ || dropped_.has_value()) return;
  CheckSilence(now);
  if (options_.login_timeout > Duration::zero() && !marked_) {
    CheckDue(SaturatingAdd(up_, options_.login_timeout), now, Needs::kToBeTold, "the login's end");
  }
}

void LinkChecker::OnData(Instant now, std::span<const std::byte> bytes) {
  CheckAlive(now, "on_data");
  if (state_ != State::kUp) Fail(now, "on_data while not up");
  if (bytes.empty()) Fail(now, "on_data without data");
  if (dropped_.has_value()) Fail(now, "on_data after Drop");
  CheckSession(now);
  life_ = now;
  told_bytes_ += bytes.size();
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
        if (echoed_ == messages_.size() || message.sequence != messages_[echoed_].sequence) {
          Fail(now,
               "echo " + std::to_string(message.sequence) + " where " +
                   (echoed_ == messages_.size() ? "nothing"
                                                : std::to_string(messages_[echoed_].sequence)) +
                   " was to come");
          break;
        }
        ever_echoed_.resize(std::max<std::size_t>(ever_echoed_.size(), message.sequence + 1));
        if (ever_echoed_[message.sequence] && options_.on_loss != OnLoss::kReplayUnacked) {
          Fail(now, "message " + std::to_string(message.sequence) + " arrived twice");
        }
        ever_echoed_[message.sequence] = true;
        if (messages_[echoed_].sent >= healed_) proven_ = true;
        ++echoed_;
        break;
      }
    }
  }
}

// --- The end of a session.

// We called it dead.
void LinkChecker::CheckDeath(Instant now) {
  const Instant life = last_life();
  if (now - life >= options_.silence_max) return;
  // What came while it was being told of, or settled, comes too late.
  if (kernel_life() && oracle_.Unexplained(life, now, Needs::kToBeTold) == Duration::zero()) return;
  Fail(now, "called dead " + Text(now - life) + " after its last sign of life");
}

// A loop that stood still when the peer was to be judged, and for more than a quarter of silence_max longer,
// grants one fresh lease: the peer's answers may lie unread, or it was never asked.
void LinkChecker::CheckStallGuard(Instant now) {
  const Duration silence = options_.silence_max;
  const Instant due = life_ + silence;
  const Instant back = oracle_.RunsFrom(due);
  if (back <= due + silence / 4) return;
  // It may have been granted before that, for another stall.
  const bool first = silence - oracle_.Unexplained(life_, due, Needs::kToRun) <= silence / 4;
  const Instant earliest = first ? back + silence : life_ + silence + silence / 2 + silence / 4;
  if (now < earliest) {
    Fail(now, "called dead " + Text(now - back) + " after the loop had stood still");
  }
}

// Healthy by surviving: the wheel's turn may come late, never early.
void LinkChecker::CheckHealth(Instant now, const Down& down) {
  const Instant healthy_at = SaturatingAdd(up_, options_.healthy_after);
  if (!marked_ && down.attempt == 0 && now < healthy_at) {
    Fail(now, "healthy " + Text(now - up_) + " after it came up");
  }
  if (!marked_ && down.attempt != 0 && !closing_ && now > healthy_at) {
    CheckDue(healthy_at, now, Needs::kToBeTold, "being healthy");
  }
  if (down.attempt == 0) BeHealthy();
}

void LinkChecker::CheckAccount(Instant now, const Down& down, const Oracle::Truth& truth) {
  if (down.total() != messages_.size()) {
    Fail(now, "an account of " + std::to_string(down.total()) + " messages, not " +
                  std::to_string(messages_.size()));
    return;
  }
  bool in_row = true;
  for (std::size_t i = 1; i < messages_.size(); ++i) {
    in_row = in_row && messages_[i].sequence == messages_[i - 1].sequence + 1;
  }
  const std::uint64_t first = !in_row ? 0 : messages_.empty() ? 0 : messages_.front().sequence;
  if (!messages_.empty() && down.first_sequence != first) {
    Fail(now, "an account from " + std::to_string(down.first_sequence) + ", not " +
                  std::to_string(first));
  }
  if (echoed_ > down.acked + down.in_doubt) Fail(now, "an echo of what was never sent");

  const auto acked = std::count_if(messages_.begin(), messages_.end(), [&](const Message& message) {
    return message.end <= truth.acked;
  });
  const auto unsent =
      std::count_if(messages_.begin(), messages_.end(), [&](const Message& message) {
        return message.begin >= truth.transmitted && !message.in_doubt;
      });
  if (!oracle_.ShortOfMemory() && (static_cast<std::uint64_t>(acked) != down.acked ||
                                   static_cast<std::uint64_t>(unsent) != down.unsent)) {
    Fail(now, std::to_string(down.acked) + " acked, " + std::to_string(down.in_doubt) +
                  " in doubt, " + std::to_string(down.unsent) + " unsent of " +
                  std::to_string(messages_.size()) + ", but its kernel knew " +
                  std::to_string(acked) + " as acked and never sent " + std::to_string(unsent));
  }
  const std::uint64_t unsent_begin = CheckList(now, down);
  sessions_.push_back({.local = local_,
                       .up = up_,
                       .acked_end = down.acked > 0 ? messages_[down.acked - 1].end : 0,
                       .unsent_begin = unsent_begin});
}

// What is told of the messages that were not acked: all of them, in order, whole, kept as the policy says.
// Those are what the next session has to send. Where the first one that is told to be unsent begins.
std::uint64_t LinkChecker::CheckList(Instant now, const Down& down) {
  std::uint64_t unsent_begin = UINT64_MAX;
  if (down.messages.size() != down.in_doubt + down.unsent) {
    Fail(now, "a list of " + std::to_string(down.messages.size()) + " messages for " +
                  std::to_string(down.in_doubt + down.unsent));
    return unsent_begin;
  }
  std::vector<Message> kept;
  auto expected = messages_.begin() + static_cast<std::ptrdiff_t>(down.acked);
  for (const holdfast::Message& told : down.messages) {
    Message message = *expected++;
    const bool in_doubt = told.fate() == Fate::kInDoubt;
    if (told.sequence() != message.sequence || told.size() != message.end - message.begin) {
      Fail(now, "message " + std::to_string(told.sequence()) + " is told in the place of " +
                    std::to_string(message.sequence));
      break;
    }
    if (!in_doubt) unsent_begin = std::min(unsent_begin, message.begin);
    if (message.in_doubt && !in_doubt) Fail(now, "what was in doubt is called unsent");
    const bool keeps = down.retry_in.has_value() && !message.of_session &&
                       (options_.on_loss == OnLoss::kReplayUnacked ||
                        (options_.on_loss == OnLoss::kReplayUnsent && !in_doubt));
    if (told.kept() != keeps) {
      Fail(now,
           "message " + std::to_string(told.sequence()) + (keeps ? " is not" : " is") + " kept");
    }
    message.in_doubt = in_doubt;
    if (keeps) kept.push_back(message);
  }
  if (!kept.empty() && !kept_.empty()) Fail(now, "kept before the gate opened");
  if (!kept.empty()) kept_ = std::move(kept);
  return unsent_begin;
}

void LinkChecker::CheckReason(Instant now, const Down& down, const Oracle::Truth& truth) {
  const bool eof = down.error.error_class == ErrorClass::kEof;
  if (eof && truth.fin_at > now) Fail(now, "ended in good order, but no FIN came");
  if (down.error.code == ECONNRESET && truth.reset_at > now) Fail(now, "reset, but no RST came");
  if (dropped_.has_value() && !closing_ && down.error.error_class != dropped_->error_class) {
    Fail(now, "dropped, and down for another reason");
  }
  if (closing_ || dropped_.has_value()) return;
  // Short of memory it receives after a pause, and an end may come before that.
  const bool short_of_memory = oracle_.ShortOfMemory();
  if (eof && told_bytes_ != truth.received_here && !short_of_memory) {
    Fail(now, "ended in good order after " + std::to_string(told_bytes_) + " bytes, but " +
                  std::to_string(truth.received_here) + " came");
  }
  const Instant end = std::min(truth.fin_at, truth.reset_at);
  if (end == kNever) return;
  const Duration late = oracle_.Unexplained(end, now, Needs::kToBeTold);
  if (late > (short_of_memory ? kPauseMax : 0ms)) {
    Fail(now, "told of the session's end " + Text(now - end) + " later, and nothing explains " +
                  Text(late) + " of it");
  }
}

// Close waits until the peer's kernel has everything and the peer has closed, or until the drain is over.
void LinkChecker::CheckDrain(Instant now, const Down& down, const Oracle::Truth& truth) {
  if (!closing_ || down.error.error_class != ErrorClass::kCancelled || now >= closed_due_) return;
  if (down.acked != down.total() || truth.fin_at > now) {
    Fail(now, "closed " + Text(closed_due_ - now) + " before its drain was over, with " +
                  std::to_string(down.total() - down.acked) + " messages not acked");
  }
}

void LinkChecker::EndSession(Instant now, const Down& down) {
  ++cycles_;
  const bool heartbeat = down.error.operation == Operation::kHeartbeat &&
                         down.error.error_class == ErrorClass::kTimeout;
  if (heartbeat && !dropped_.has_value()) {
    CheckDeath(now);
    // A ping on schedule that a stall made late uses the lease up, even where a byte has just come.
    if (!kernel_life() && options_.ping_interval == Duration::zero()) CheckStallGuard(now);
  }
  const bool login = down.error == Error::Deadline(Operation::kUser);
  if (login && !dropped_.has_value() && now - up_ < options_.login_timeout) {
    Fail(now, "out of time for the login after " + Text(now - up_));
  }
  CheckSession(now);
  CheckHealth(now, down);
  if (const std::optional<Oracle::Truth> truth = oracle_.Find(local_, up_); truth.has_value()) {
    CheckAccount(now, down, *truth);
    CheckReason(now, down, *truth);
    CheckDrain(now, down, *truth);
  }
  messages_.clear();
}

void LinkChecker::OnDown(Instant now, const Down& down) {
  CheckAlive(now, "on_down");
  ++downs_;
  if (!down.error.failed()) Fail(now, "on_down without an error");
  if (down.was_up != (state_ == State::kUp)) Fail(now, "on_down: was_up is wrong");
  if (state_ != State::kUp && state_ != State::kDialing) {
    Fail(now, "on_down without an attempt or a session");
  }
  if (state_ == State::kUp) {
    EndSession(now, down);
  } else {
    // One that had failed when Close was called, and was to be told in the same turn, is told.
    if (closing_)
      CheckDue(closed_at_, now, Needs::kToBeTold, "on_down for an attempt that Close ended");
    CheckAttempt(now);
    const bool deadline = down.error.error_class == ErrorClass::kTimeout && down.error.code == 0;
    if (deadline && now - dialed_ < std::min(options_.connect_timeout, options_.attempt_timeout)) {
      Fail(now, "out of time after " + Text(now - dialed_));
    }
    if (down.error.code == ENOTCONN && !oracle_.OddHandshakes()) {
      Fail(now, "an attempt was given up in the middle of its handshake");
    }
  }
  if (down.attempt != attempt_) {
    Fail(now,
         "down with attempt " + std::to_string(down.attempt) + ", not " + std::to_string(attempt_));
  }
  CheckRetry(now, down);
  last_account_.reset();
  if (down.was_up) last_account_ = static_cast<const Account&>(down);
  state_ = down.retry_in.has_value() ? State::kBetween : State::kEnding;
  if (down.retry_in.has_value()) dial_due_ = SaturatingAdd(now, *down.retry_in);
}

// --- Whether to dial again, and when.

void LinkChecker::CheckRetry(Instant now, const Down& down) {
  const Verdict verdict = std::exchange(verdict_, Verdict::kByClass);
  const std::uint32_t n = failures_++;
  if (!unhealthy_since_.has_value()) unhealthy_since_ = now;
  if (down.error.error_class == ErrorClass::kProtocol) ++protocol_errors_;
  if (closing_) {
    if (down.retry_in.has_value()) Fail(now, "another attempt after Close");
    return;
  }
  const auto reached = [](std::uint32_t count, std::uint32_t max) {
    return max != 0 && count >= max;
  };
  if (verdict == Verdict::kStop) {
    given_up_ = ClosedReason::kDecided;
  } else if (verdict == Verdict::kByClass && !down.error.IsTemporary()) {
    given_up_ = ClosedReason::kPermanent;
  } else if (reached(protocol_errors_, options_.protocol_errors_max)) {
    given_up_ = ClosedReason::kProtocol;
  } else if (reached(attempt_, options_.attempts_max)) {
    given_up_ = ClosedReason::kAttempts;
  }
  const bool limited = !given_up_.has_value() && options_.give_up_after > Duration::zero();
  const Instant limit = limited ? SaturatingAdd(*unhealthy_since_, options_.give_up_after) : kNever;
  if (!down.retry_in.has_value()) {
    const auto wait_max = verdict == Verdict::kRetryNow
                              ? Duration::zero()
                              : Duration(WaitBounds(options_.backoff, down.error, n).high);
    if (limited && SaturatingAdd(now, wait_max) > limit) given_up_ = ClosedReason::kTime;
    if (!given_up_.has_value() && asked_.empty()) Fail(now, "no further attempt, for no reason");
    return;
  }
  if (given_up_.has_value()) {
    Fail(now, "another attempt, although it was to give up: " + std::string(ToString(*given_up_)));
  }
  if (SaturatingAdd(now, *down.retry_in) > limit) Fail(now, "another attempt after give_up_after");
  if (verdict != Verdict::kRetryNow) {
    CheckWait(now, *down.retry_in, down.error, n);
  } else if (*down.retry_in != Duration::zero()) {
    Fail(now, "a wait although decide said now");
  }
}

void LinkChecker::CheckWait(Instant now, Duration wait, const Error& error, std::uint32_t n) {
  const Bounds bounds = WaitBounds(options_.backoff, error, n);
  if (wait.count() < bounds.low || wait.count() > bounds.high) {
    Fail(now, "wait " + std::to_string(n) + " of " + Text(wait) + ", not within " +
                  std::to_string(bounds.low) + " to " + std::to_string(bounds.high) + " ns");
  }
  if (options_.backoff.jitter != Jitter::kFull || n == 0 || bounds.high - bounds.low < 1000) return;
  ++(wait.count() < bounds.low + (bounds.high - bounds.low) / 2 ? waits_low_ : waits_high_);
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
  if (closed.messages.size() != kept_.size()) {
    Fail(now, "on_closed hands " + std::to_string(closed.messages.size()) + " messages back, not " +
                  std::to_string(kept_.size()));
  }
  if (!closing_ && !given_up_.has_value() && asked_.empty()) {
    Fail(now, "on_closed although nobody closed");
  }
  const ClosedReason reason = given_up_.value_or(close_reason_);
  if (closed.reason != reason && !asked_.contains(closed.reason)) {
    Fail(now, "closed because of " + std::string(ToString(closed.reason)) + ", not " +
                  std::string(ToString(reason)));
  }
  CheckDue(closed_due_, now, Needs::kToBeTold, "on_closed");
  state_ = State::kClosed;
}

// --- From outside.

void LinkChecker::CheckOverdue(Instant now) {
  if (destroyed_) return;
  if (state_ != State::kClosed) CheckDue(closed_due_, now, Needs::kToBeTold, "on_closed");
  if (closing_) return;
  if (state_ == State::kBetween) CheckDue(dial_due_, now, Needs::kToRun, "the dial");
  if (state_ == State::kDialing) CheckAttempt(now);
  if (state_ == State::kUp) CheckSession(now);
}

Instant LinkChecker::RecoveryDeadline(Duration look_up_max) const {
  constexpr Duration kMadeAnew = 500ms;       // By its user.
  constexpr Duration kCatchUp = 20s;          // A server that had stalled, and reads on.
  constexpr Duration kRetransmission = 5min;  // Of TCP, where nothing but TCP notices.
  constexpr Duration kAnswer = 3s;            // A listener that rests, and messages there and back.
  const Duration wait = std::max(options_.backoff.initial, options_.backoff.max);
  const Duration slow_wait = 4 * wait;
  Instant dial = healed_;
  switch (state_) {
    case State::kIdle:
    case State::kEnding:
    case State::kClosed:
      dial += kMadeAnew;
      break;
    case State::kBetween:
      if (dial_due_ != kNever) dial = dial_due_;
      break;
    case State::kDialing:
      dial = dialed_ + options_.attempt_timeout + slow_wait;
      break;
    case State::kUp:
      dial += (judged() ? 2 * options_.silence_max + kCatchUp : kRetransmission) + slow_wait;
      break;
  }
  if (closing_ && closed_due_ != kNever) dial = std::max(dial, closed_due_ + kMadeAnew);
  // Each endpoint once, of which some are nobody's; and once more where a listener is not back yet.
  const auto rounds = static_cast<int>(options_.endpoints.size() + 1);
  return std::max(dial, healed_) + rounds * wait + look_up_max + kAnswer;
}

void LinkChecker::CheckSessions() {
  for (const Session& session : sessions_) {
    const std::optional<Oracle::Truth> truth = oracle_.Find(session.local, session.up);
    if (!truth.has_value()) continue;
    if (session.acked_end > truth->received) {
      Fail(session.up, "acked up to byte " + std::to_string(session.acked_end) +
                           " of this session, but the peer's kernel received " +
                           std::to_string(truth->received));
    }
    if (session.unsent_begin < truth->received) {
      Fail(session.up, "unsent from byte " + std::to_string(session.unsent_begin) +
                           " of this session, but the peer's kernel received " +
                           std::to_string(truth->received));
    }
  }
}

}  // namespace holdfast::swarm
