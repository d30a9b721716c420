#include "net/link_core.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/endpoint_parts.h"
#include "core/error_codes.h"
#include "sys/socket_calls.h"

namespace holdfast::internal {
namespace {

LivenessOptions ToLivenessOptions(const LinkOptions& options, int domain) {
  const bool has_ping = !options.ping.empty() || options.on_heartbeat;
  return {.silence_max = options.silence_max,
          .ping_interval = options.ping_interval,
          .has_ping = has_ping,
          .kernel_life = !has_ping && domain != AF_UNIX};
}

}  // namespace

// --- Events in, a table row, actions out.

void LinkCore::Fire(LinkEvent event, const Error& cause) {
  const LinkState from = state();
  const LinkAction action = machine_.On(event);
  if (state() != from) {
    core_.recorder().Record({core_.now(), id_, from, state(), cause});
    if (options_->on_state) core_.Defer(*this);
  }
  Do(action);
}

void LinkCore::Do(LinkAction action) {
  switch (action) {
    case LinkAction::kNothing:
      return;
    case LinkAction::kDial:
      retry_at_ = kNever;
      return Later(Task::kDial);
    case LinkAction::kOpenSession:
      return OpenSession();
    case LinkAction::kEstablish:
      login_at_ = kNever;
      liveness_.StartPings(core_.now());
      OpenGate();
      [[fallthrough]];
    case LinkAction::kCountHealthy:
      healthy_at_ = kNever;
      policy_.OnHealthy();
      return Rearm();
    case LinkAction::kSettle:
      return Settle();
    case LinkAction::kJudge:
      return Judge();
    case LinkAction::kReport:
      return Report();
    case LinkAction::kReportEnd:
      return ReportEnd();
    case LinkAction::kAbandonDial:
      if (dialer_.busy()) dialer_.Cancel();
      if (!dialer_.busy()) Later(Task::kSettled);
      return;
    case LinkAction::kDrain:
      StopSessionDeadlines();
      if (drain_ > Duration::zero()) {
        connection_.Drain(SaturatingAdd(core_.now(), drain_));
      } else {
        connection_.Settle(Error::Cancelled());
      }
      return Rearm();
    case LinkAction::kFinish:
      retry_at_ = kNever;
      return Later(Task::kSettled);
  }
}

void LinkCore::Later(Task task) {
  task_ = task;
  core_.Defer(*this);
  Rearm();
}

void LinkCore::RunDeferred() noexcept {
  if (!CallFlushed(Delivery::Flushes::kOver) || !CallWritable()) return;
  switch (std::exchange(task_, Task::kNone)) {
    case Task::kNone:
      break;
    case Task::kDial:
      return Dial();
    case Task::kSettled:
      return Fire(LinkEvent::kSettled);
  }
  ReportState();
}

// --- Dialing.

void LinkCore::Dial() {
  policy_.OnDial(core_.now());
  ++stats_.dials;
  const std::string& text = options_->endpoints[endpoint_];
  // Anew for every attempt, for the sake of a scope: its interface may be another by now, or gone.
  EndpointParts endpoint;
  std::string_view problem;
  if (const Error failure = TakeApart(text, &endpoint, &problem); failure.failed()) {
    OnDialFailed(failure, {});  // As Start does with an attempt that fails at once.
  } else {
    dialer_.Start(endpoint, endpoint_,
                  {.socket = &options_->socket,
                   .connect_timeout = options_->connect_timeout,
                   .attempt_timeout = options_->attempt_timeout});
  }
  Rearm();
  ReportState();
  Call(options_->on_dial, policy_.attempt(), text);
}

void LinkCore::OnDialed(Dialed dialed) noexcept {
  session_.reset(new (std::nothrow) Session);
  if (session_ == nullptr) {
    core_.backend().Close(*dialed.socket);
    --core_.population().sockets;
    return OnDialFailed(Classify(Call::kSocket, -kNoMemoryCode), dialed.peer);
  }
  session_->socket = std::move(dialed.socket);
  session_->local = dialed.local;
  session_->peer = dialed.peer;
  Fire(LinkEvent::kConnected);
}

void LinkCore::OnDialFailed(const Error& error, const SocketAddress& peer) noexcept {
  failure_ = error;
  failure_peer_ = peer;
  Fire(LinkEvent::kFailed, error);
}

void LinkCore::OnDialCancelled() noexcept {
  if (handle_ == nullptr) return BuryWhenSettled();
  Fire(LinkEvent::kSettled);
}

// --- A session.

void LinkCore::OpenSession() {
  const Instant now = core_.now();
  const int domain = session_->socket->domain;
  session_->up_since = now;
  ++stats_.ups;
  delivery_.gate = Delivery::Gate::kShut;
  declared_ = {};
  healthy_at_ = SaturatingAdd(now, options_->healthy_after);
  if (options_->login_timeout > Duration::zero()) {
    login_at_ = SaturatingAdd(now, options_->login_timeout);
  }
  liveness_ = Liveness(ToLivenessOptions(*options_, domain));
  liveness_.Start(now, options_->login_timeout == Duration::zero());
  if (domain != AF_UNIX && options_->silence_max > Duration::zero()) {
    ApplyBackstop(core_.kernel(), session_->socket->fd, options_->silence_max);
  }
  connection_.Open(
      std::move(session_->socket),
      {.high = options_->queue_high, .low = options_->queue_low, .max = options_->queue_max},
      options_->framing);
  Rearm();
  ReportState();
  if (!Call(options_->on_up)) return;
  if (options_->login_timeout == Duration::zero()) OpenGate();
}

void LinkCore::OnBytes(std::span<const std::byte> bytes) noexcept {
  liveness_.OnReceived(core_.now());  // Extends a deadline: the timer finds out when it fires.
  Call(options_->on_data, bytes);
}

void LinkCore::StopSessionDeadlines() noexcept {
  healthy_at_ = login_at_ = kNever;
  liveness_.Stop();
}

void LinkCore::Settle() {
  StopSessionDeadlines();
  Rearm();
  if (connection_.busy()) return connection_.Settle(declared_);
  Later(Task::kSettled);
}

void LinkCore::OnSettled(const SessionEnd& end) noexcept {
  static_cast<Account&>(session_->account) = CloseAccount(end);
  session_->up_for = core_.now() - session_->up_since;
  stats_.bytes_sent += end.bytes_sent;
  stats_.bytes_received += end.bytes_received;
  last_tcp_ = {.rtt = std::chrono::microseconds(end.facts.rtt_us),
               .retransmissions = end.facts.retransmits,
               .last_ack_age = std::chrono::milliseconds(end.facts.last_ack_recv_ms),
               .acked_bytes = end.account.acked,
               .unsent_bytes = end.bytes_sent - end.account.sent_boundary};
  // That the peer took its time to close is no failure: what it has is in the account.
  const bool drain_over = end.error == Error::Deadline(Operation::kClose);
  failure_ = drain_over ? Error::Cancelled() : end.error;
  failure_peer_ = session_->peer;
  if (handle_ == nullptr) return BuryWhenSettled();
  Fire(LinkEvent::kSettled, end.error);
}

// --- The end of an attempt or of a session.

Down LinkCore::MakeDown() const {
  Down down;
  down.error = failure_;
  down.attempt = policy_.attempt();
  down.retry_in = retry_in_;
  down.endpoint = options_->endpoints[endpoint_];
  down.peer = failure_peer_;
  if (session_ == nullptr) return down;
  static_cast<Account&>(down) = session_->account;
  down.local = session_->local;
  down.was_up = true;
  down.up_for = session_->up_for;
  down.tcp = last_tcp_;
  down.messages = connection_.queue().View(retry_in_ ? options_->on_loss : OnLoss::kHandBack);
  return down;
}

Verdict LinkCore::AskUser(const Down& down, std::uint64_t random) const {
  if (!options_->decide) return Verdict::kByClass;
  RetryPolicy rehearsal = policy_;
  Down would_be = down;
  would_be.retry_in =
      rehearsal.OnFailure(failure_, Verdict::kByClass, core_.now(), random).retry_in;
  return options_->decide(would_be);
}

void LinkCore::Judge() {
  if (session_ == nullptr) core_.Count(failure_);  // A session's are counted where they occur.
  retry_in_.reset();
  const std::uint64_t random = core_.random().Next();
  const Verdict verdict = AskUser(MakeDown(), random);
  if (handle_ == nullptr) return;                         // `decide` destroyed it,
  if (reason_.has_value()) return Later(Task::kSettled);  // or closed it.
  const RetryPolicy::Decision decision = policy_.OnFailure(failure_, verdict, core_.now(), random);
  retry_in_ = decision.retry_in;
  if (retry_in_.has_value()) return Fire(LinkEvent::kRetry, failure_);
  reason_ = decision.reason;
  Fire(LinkEvent::kGiveUp, failure_);
}

void LinkCore::Report() {
  const Down down = MakeDown();
  // An endpoint that never got a session to be healthy makes room for the next one; not where this
  // host is what failed.
  if (down.attempt > 0 && failure_.error_class != ErrorClass::kResource) {
    endpoint_ = (endpoint_ + 1) % options_->endpoints.size();
  }
  if (down.was_up) ++stats_.downs;
  CountHandedBack(connection_.queue(), options_->on_loss);
  failure_ = {};
  session_.reset();
  retry_at_ = SaturatingAdd(core_.now(), *retry_in_);
  Rearm();
  ReportState();
  if (!Call(options_->on_down, down)) return;
  HandBack(options_->on_loss);
  OnAcked();
  Rearm();
}

void LinkCore::ReportEnd() {
  core_.Leave(*this);
  retry_in_.reset();
  const Down down = MakeDown();
  Closed closed;
  static_cast<Account&>(closed) = down;
  closed.reason = *reason_;
  closed.error = down.error.failed() ? down.error : Error::Cancelled();
  if (down.was_up) ++stats_.downs;
  CountHandedBack(connection_.queue(), OnLoss::kHandBack);
  failure_ = {};
  session_.reset();
  Rearm();
  ReportState();
  if (down.error.failed() && !Call(options_->on_down, down)) return;
  closed.messages = LastMessages();
  if (!CallFlushed(Delivery::Flushes::kAll) || !Call(options_->on_closed, closed)) return;
  if (delivery_.backlog != nullptr) delivery_.backlog->Clear();
}

void LinkCore::ReportState() {
  if (reported_ == state()) return;
  Call(options_->on_state, std::exchange(reported_, state()));
}

// --- The one timer.

void LinkCore::Rearm() noexcept {
  if (handle_ == nullptr) return;
  Instant deadline =
      std::min({retry_at_, healthy_at_, login_at_, liveness_.next_deadline(), next_expiry()});
  if (dialer_.busy()) deadline = std::min(deadline, dialer_.next_deadline());
  if (connection_.busy()) deadline = std::min(deadline, connection_.next_deadline());
  core_.Arm(*this, deadline);
}

// Each step acts on its own deadline alone, so that what an earlier one ended is not due any more.
void LinkCore::OnTimer() noexcept {
  if (core_.forked()) return;
  const Instant now = core_.now();
  if (dialer_.busy()) dialer_.OnDeadline(now);
  if (connection_.busy()) connection_.OnDeadline(now);
  if (now >= login_at_) {
    declared_ = Error::Deadline(Operation::kUser);
    Fire(LinkEvent::kFailed, declared_);
  }
  if (now >= healthy_at_) Fire(LinkEvent::kSurvived);
  if (now >= retry_at_) Fire(LinkEvent::kRetryDue);
  if (now >= next_expiry()) ExpireMessages(now);
  if (now >= liveness_.next_deadline()) OnLivenessDeadline();
  Rearm();
}

void LinkCore::OnLivenessDeadline() noexcept {
  if (liveness_.paused() && connection_.DiedUnseen()) return Fire(LinkEvent::kFailed);
  switch (liveness_.OnDeadline(core_.now(), core_.everything_dispatched())) {
    case Liveness::Step::kNone:
      return;
    case Liveness::Step::kPing:
      if (!options_->ping.empty()) {
        static_cast<void>(Ping(std::as_bytes(std::span(options_->ping))));
      }
      Call(options_->on_heartbeat);
      return;
    case Liveness::Step::kAskKernel:
      liveness_.OnKernelLife(connection_.LastHeard().value_or(Instant::min()), core_.now());
      return;
    case Liveness::Step::kDead:
      declared_ = Error::Deadline(Operation::kHeartbeat);
      Fire(LinkEvent::kFailed, declared_);
      return;
  }
}

}  // namespace holdfast::internal
