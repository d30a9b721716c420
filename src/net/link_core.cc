// The life of a link's core, and what the user asks of it; net/link.cc has the events.
#include <algorithm>
#include <utility>

#include "net/link_core.h"

namespace holdfast::internal {
namespace {

RetryOptions ToRetryOptions(const LinkOptions& options) {
  return {.backoff = options.backoff,
          .attempts_max = options.attempts_max,
          .give_up_after = options.give_up_after,
          .protocol_errors_max = options.protocol_errors_max};
}

}  // namespace

// --- Life.

std::unique_ptr<Link> LinkCore::Create(ReactorCore& core,
                                       std::shared_ptr<const LinkOptions> options, void* user) {
  std::unique_ptr<Link> handle(new Link);
  auto* const link = new LinkCore(core, std::move(options), user);
  link->handle_ = handle.get();
  handle->core_ = link;
  ReactorCore::Population& population = core.population();
  ++population.handles;
  ++population.cores;
  ++population.links;
  core.Enlist(*link);
  // Last: a token that was triggered already posts here and now.
  if (link->options_->stop.stop_possible()) {
    link->stop_.emplace(link->options_->stop, StopPoster{link});
  }
  return handle;
}

LinkCore::LinkCore(ReactorCore& core, std::shared_ptr<const LinkOptions> options, void* user)
    : TimerNode([](TimerNode& node) { static_cast<LinkCore&>(node).OnTimer(); }),
      core_(core),
      options_(std::move(options)),
      user_(user),
      id_(core.NextLinkId()),
      retry_options_(ToRetryOptions(*options_)),
      policy_(retry_options_),
      liveness_({}),
      dialer_(core, *this),
      connection_(core, *this, Keep::kUntilAcked) {
  if (options_->acked_by == AckedBy::kPeer) {
    connection_.queue().SetAckedBy(MessageQueue::AckedBy::kPeer);
  }
  if (options_->hold_while_down || options_->on_loss != OnLoss::kHandBack) {
    delivery_.backlog = std::make_unique<MessageQueue>(core.blocks());
  }
}

void LinkCore::Abandon() noexcept {
  handle_ = nullptr;
  core_.Leave(*this);
  stop_.reset();  // Waits for a poster on another thread; after it nothing is posted.
  task_ = Task::kNone;
  if (Deferred::linked()) Deferred::Unlink();
  StopSessionDeadlines();
  retry_at_ = kNever;
  core_.Cancel(*this);
  if (connection_.busy()) connection_.Settle(Error::Cancelled());
  if (dialer_.busy()) dialer_.Cancel();
  --core_.population().handles;
  --core_.population().links;
  BuryWhenSettled();
}

void LinkCore::BuryWhenSettled() noexcept {
  if (connection_.busy() || dialer_.busy() || mail_.load() == Mail::kPosted) return;
  --core_.population().cores;
  core_.Bury(*this);
}

void LinkCore::StopPoster::operator()() const noexcept {
  link->mail_.store(Mail::kPosted);
  link->core_.PostNode(*link);
}

void LinkCore::Deliver() noexcept {
  mail_.store(Mail::kDelivered);
  if (handle_ == nullptr) {
    BuryWhenSettled();
  } else {
    Close(options_->drain, ClosedReason::kStop);
  }
}

void LinkCore::Discard() noexcept {
  mail_.store(Mail::kDelivered);
  if (handle_ == nullptr) BuryWhenSettled();
}

// --- What the user asks for.

void LinkCore::Drop(const Error& error) {
  declared_ = error.failed() ? error : Error::Protocol();
  Fire(LinkEvent::kDrop, declared_);
}

void LinkCore::Close(Duration drain, ClosedReason reason) {
  if (!reason_.has_value()) {
    reason_ = reason;
    drain_ = drain;
  }
  Fire(LinkEvent::kClose);
}

void LinkCore::Pause() noexcept {
  if (state() != LinkState::kUp) return;
  connection_.Pause();
  liveness_.OnPaused(core_.now());
  Rearm();
}

void LinkCore::Resume() noexcept {
  if (state() != LinkState::kUp) return;
  connection_.Resume();
  liveness_.OnResumed(core_.now());
  Rearm();
}

void LinkCore::ShutDown(Duration drain) noexcept {
  if (state() == LinkState::kDraining) {
    connection_.HastenDrain(SaturatingAdd(core_.now(), drain));
  } else {
    Close(drain, ClosedReason::kUser);
  }
}

LinkStats LinkCore::stats() const noexcept {
  LinkStats stats = stats_;
  stats.bytes_sent += connection_.written();
  if (connection_.busy()) stats.bytes_received += connection_.received();
  return stats;
}

}  // namespace holdfast::internal
