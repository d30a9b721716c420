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

// What Send says where there is no connection to send on.
constexpr SendStatus kSendStatus[kLinkStateCount] = {
    SendStatus::kNotUp, SendStatus::kNotUp, SendStatus::kNotUp,   SendStatus::kNotUp,
    SendStatus::kNotUp, SendStatus::kNotUp, SendStatus::kClosing, SendStatus::kClosing};

// A message counts at least so many bytes against queue_max, so that small ones cannot grow the ledger
// past its bound.
constexpr std::size_t kLedgerEntrySize = 16;

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
      ledger_(core.blocks()),
      dialer_(core, *this),
      connection_(core, *this, Keep::kUntilAcked) {}

void LinkCore::Abandon() noexcept {
  handle_ = nullptr;
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

SendResult LinkCore::Send(std::span<const std::byte> message) {
  if (connection_.can_send()) {
    // Its entry before its bytes: what is taken is accounted for. Room first, because what that lets
    // go of ends a reservation.
    connection_.MakeRoom(message.size());
    if (ledger_.outstanding() >= messages_max() || !ledger_.Reserve()) {
      connection_.Refuse();
      return {SendStatus::kFull, 0};
    }
  }
  const std::uint64_t begin = connection_.accepted();
  switch (connection_.Send(message)) {
    case Connection::Queued::kFull:
      return {SendStatus::kFull, 0};
    case Connection::Queued::kTooLarge:
      return {SendStatus::kTooLarge, 0};
    case Connection::Queued::kClosed:
      return {kSendStatus[static_cast<std::size_t>(state())], 0};
    case Connection::Queued::kYes:
      break;
  }
  const std::uint64_t sequence = ledger_.next_sequence();
  HOLDFAST_CHECK(ledger_.Push(begin, connection_.accepted()));
  ++stats_.messages;
  return {SendStatus::kQueued, sequence};
}

bool LinkCore::Ping(std::span<const std::byte> bytes) {
  if (!connection_.can_send()) return false;
  connection_.MakeRoom(bytes.size());
  if (connection_.queued() > 0 || !connection_.HasRoom(bytes.size())) {
    liveness_.OnPingSkipped(core_.now());  // It is owed.
    Rearm();
    return false;
  }
  if (connection_.Send(bytes) != Connection::Queued::kYes) return false;
  ++stats_.pings;
  return true;
}

std::size_t LinkCore::messages_max() const noexcept {
  return std::max<std::size_t>(options_->queue_max / kLedgerEntrySize, 1);
}

void LinkCore::OnWritable() noexcept {
  if (ledger_.outstanding() > messages_max() / 2) return connection_.Refuse();  // Not yet.
  Call(options_->on_writable);
}

LinkStats LinkCore::stats() const noexcept {
  LinkStats stats = stats_;
  stats.bytes_sent += connection_.written();
  if (connection_.busy()) stats.bytes_received += connection_.received();
  return stats;
}

}  // namespace holdfast::internal
