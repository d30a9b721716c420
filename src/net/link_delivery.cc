// What becomes of a link's messages: which wait for the next session, in which order they go out, which
// are handed back, and when it is known of each.
#include <algorithm>
#include <memory>
#include <new>
#include <utility>

#include "net/link_core.h"

namespace holdfast::internal {
namespace {

// What Send says where there is no connection to send on, and nothing is held.
constexpr SendStatus kSendStatus[kLinkStateCount] = {
    SendStatus::kNotUp, SendStatus::kNotUp, SendStatus::kNotUp,   SendStatus::kNotUp,
    SendStatus::kNotUp, SendStatus::kNotUp, SendStatus::kClosing, SendStatus::kClosing};

// A message counts at least so many bytes against queue_max, so that small ones cannot grow the queue
// past its bound.
constexpr std::size_t kMessageCost = 48;

// A look at all messages for expired ones costs about so much for each; at most a twentieth of the time
// is spent on it.
constexpr Duration kLookInterval = std::chrono::nanoseconds(40);

}  // namespace

SendStatus LinkCore::StatusWithoutSession() const noexcept {
  return kSendStatus[static_cast<std::size_t>(state())];
}

bool LinkCore::holds() const noexcept {
  return options_->hold_while_down && !connection_.can_send() && !core_.forked() &&
         StatusWithoutSession() == SendStatus::kNotUp;
}

std::size_t LinkCore::messages_max() const noexcept {
  return std::max<std::size_t>(options_->queue_max / kMessageCost, 1);
}

// --- Sending.

SendResult LinkCore::Send(const Payload& payload, const SendOptions& options) {
  MessageQueue::Label label{.sequence = delivery_.next_sequence};
  if (options.ttl > Duration::zero()) label.deadline = SaturatingAdd(core_.now(), options.ttl);
  const SendStatus status = holds() ? Hold(payload, label) : SendInSession(payload, label);
  if (status != SendStatus::kQueued) return {status, 0};
  ++delivery_.next_sequence;
  ++stats_.messages;
  if (label.deadline != kNever) Rearm();
  return {status, label.sequence};
}

SendStatus LinkCore::SendInSession(const Payload& payload, MessageQueue::Label label) noexcept {
  if (!connection_.can_send()) return StatusWithoutSession();
  if (delivery_.gate == Delivery::Gate::kShut) label.scope = MessageQueue::Scope::kSession;
  connection_.MakeRoom(payload.bytes.size());
  if (connection_.queue().messages() >= messages_max()) {
    connection_.Refuse();
    return SendStatus::kFull;
  }
  switch (connection_.Send(payload, label)) {
    case Connection::Queued::kYes:
      return SendStatus::kQueued;
    case Connection::Queued::kFull:
      return SendStatus::kFull;
    case Connection::Queued::kTooLarge:
      return SendStatus::kTooLarge;
    case Connection::Queued::kClosed:
      break;
  }
  return StatusWithoutSession();
}

SendStatus LinkCore::Hold(const Payload& payload, const MessageQueue::Label& label) noexcept {
  MessageQueue& backlog = *delivery_.backlog;
  if (payload.bytes.size() > options_->queue_max) return SendStatus::kTooLarge;
  // What a session that is ending may leave has its place already.
  const std::size_t held = backlog.held() + connection_.queue().held();
  const std::size_t messages = backlog.messages() + connection_.queue().messages();
  if (held + payload.bytes.size() > options_->queue_max || messages >= messages_max() ||
      !backlog.AppendMessage(payload, label)) {
    delivery_.room = Delivery::Backlog::kRefused;
    return SendStatus::kFull;
  }
  return SendStatus::kQueued;
}

bool LinkCore::Ping(std::span<const std::byte> bytes) {
  if (!connection_.can_send()) return false;
  connection_.MakeRoom(bytes.size());
  if (connection_.queued() == 0 && connection_.SendIfRoom(bytes)) {
    ++stats_.pings;
    return true;
  }
  liveness_.OnPingSkipped(core_.now());  // It is owed.
  Rearm();
  return false;
}

bool LinkCore::writable() const noexcept {
  if (connection_.can_send()) return connection_.writable();
  return holds() && delivery_.room == Delivery::Backlog::kHasRoom &&
         delivery_.backlog->queued() < options_->queue_high;
}

std::size_t LinkCore::queued_bytes() const noexcept {
  const std::size_t waiting = delivery_.backlog == nullptr ? 0 : delivery_.backlog->queued();
  return connection_.queued() + waiting;
}

void LinkCore::OnWritable() noexcept {
  if (connection_.queue().messages() > messages_max() / 2) return connection_.Refuse();  // Not yet.
  Call(options_->on_writable);
}

// The session is established: what waited goes out, behind what it has sent so far.
void LinkCore::OpenGate() noexcept {
  if (!connection_.can_send() || delivery_.gate == Delivery::Gate::kOpen) return;
  delivery_.gate = Delivery::Gate::kOpen;
  if (!delivery_.flushes.empty()) connection_.WatchAcks();
  if (delivery_.backlog == nullptr) return;
  delivery_.backlog->ForEach([this](const MessageQueue::Message& message) {
    if (message.fate() != Fate::kAcked) ++stats_.replayed;
  });
  connection_.Join(*delivery_.backlog);
  const auto room = std::exchange(delivery_.room, Delivery::Backlog::kHasRoom);
  if (room == Delivery::Backlog::kRefused) connection_.Refuse();
}

// --- The end of messages.

Account LinkCore::CloseAccount(const SessionEnd& end) noexcept {
  Account account;
  account.first_sequence = end.fates.first_sequence;
  account.acked = end.fates.acked;
  account.in_doubt = end.fates.in_doubt;
  account.unsent = end.fates.unsent;
  if (account.total() == 0) account.first_sequence = delivery_.next_sequence;
  if (!end.facts.tcp && !end.account.exact && options_->acked_by == AckedBy::kPeersKernel) {
    // AF_UNIX knows no acknowledgement: what was let go of when it was written is in doubt.
    stats_.in_doubt += account.acked;
    account.in_doubt += std::exchange(account.acked, 0);
  }
  stats_.acked += account.acked;
  return account;
}

// The session's messages have been told: what `rule` does not keep is forgotten, and the rest is first
// in the backlog.
void LinkCore::HandBack(OnLoss rule) noexcept {
  MessageQueue& queue = connection_.queue();
  queue.DropIf([rule](const MessageQueue::Message& message) {
    return !MessageQueue::IsKept(message, rule);
  });
  if (queue.messages() > 0) delivery_.backlog->JoinBefore(queue);
}

// No session follows: what waited for one is told in the end.
Messages LinkCore::LastMessages() noexcept {
  HandBack(OnLoss::kHandBack);
  if (delivery_.backlog == nullptr) return {};
  CountHandedBack(*delivery_.backlog, OnLoss::kHandBack);
  return delivery_.backlog->View(OnLoss::kHandBack);
}

// Before they are told.
void LinkCore::CountHandedBack(const MessageQueue& queue, OnLoss rule) noexcept {
  queue.ForEach([this, rule](const MessageQueue::Message& message) {
    if (MessageQueue::IsKept(message, rule)) return;
    ++(message.fate() == Fate::kInDoubt ? stats_.in_doubt : stats_.unsent);
    NoteLost(message.sequence());
  });
}

void LinkCore::NoteLost(std::uint64_t sequence) noexcept {
  for (Delivery::FlushWait& wait : delivery_.flushes) {
    if (sequence <= wait.through) wait.all_acked = false;
  }
}

bool LinkCore::Acknowledge(std::uint64_t sequence) noexcept {
  MessageQueue* const backlog = delivery_.backlog.get();
  const bool waited = backlog != nullptr && backlog->Acknowledge(sequence);
  if (waited) {
    ++stats_.acked;
  } else if (!connection_.queue().Acknowledge(sequence)) {
    return false;
  } else if (!connection_.busy()) {
    ++stats_.acked;  // Of a session that has ended: its account is closed.
  }
  OnAcked();
  return true;
}

Instant LinkCore::next_expiry() const noexcept {
  Instant next = connection_.in_use() ? connection_.queue().next_expiry() : kNever;
  if (delivery_.backlog != nullptr) next = std::min(next, delivery_.backlog->next_expiry());
  return std::max(next, delivery_.next_look);
}

void LinkCore::ExpireMessages(Instant now) {
  const auto expire = [this](const MessageQueue::Message& message) {
    ++stats_.expired;
    NoteLost(message.sequence());
    Call(options_->on_expired, MessageQueue::ViewOf(message, OnLoss::kHandBack));
  };
  std::size_t looked_at = connection_.queue().messages();
  if (connection_.in_use() && connection_.queue().Expire(now, expire)) connection_.TakeBack();
  if (delivery_.backlog != nullptr) {
    looked_at += delivery_.backlog->messages();
    static_cast<void>(delivery_.backlog->Expire(now, expire));
  }
  const Duration pause = kLookInterval * static_cast<std::int64_t>(looked_at);
  delivery_.next_look = SaturatingAdd(now, pause);
  OnAcked();
}

// --- Flush.

SendStatus LinkCore::Flush(absl::AnyInvocable<void(Link&, bool)> done) {
  if (StatusWithoutSession() == SendStatus::kClosing) return SendStatus::kClosing;
  auto* const wait = new (std::nothrow) Delivery::FlushWait;
  if (wait == nullptr) return SendStatus::kFull;
  wait->through = delivery_.next_sequence - 1;
  wait->done = std::move(done);
  delivery_.flushes.PushBack(*wait);
  if (connection_.in_use()) connection_.WatchAcks();
  core_.Defer(*this);
  return SendStatus::kQueued;
}

bool LinkCore::IsOutstanding(std::uint64_t through) const noexcept {
  const MessageQueue* const backlog = delivery_.backlog.get();
  return connection_.queue().HasThrough(through) ||
         (backlog != nullptr && backlog->HasThrough(through));
}

void LinkCore::OnAcked() noexcept {
  const bool flushed =
      !delivery_.flushes.empty() && !IsOutstanding(delivery_.flushes.front()->through);
  if (flushed || delivery_.room == Delivery::Backlog::kRefused) core_.Defer(*this);
}

// While there is no session: what expired, was handed back or acknowledged has made room. False: the handle
// is gone.
bool LinkCore::CallWritable() {
  if (delivery_.room == Delivery::Backlog::kHasRoom || !holds()) return handle_ != nullptr;
  const MessageQueue& backlog = *delivery_.backlog;
  if (backlog.queued() > options_->queue_low || backlog.held() > options_->queue_max / 2 ||
      backlog.messages() > messages_max() / 2) {
    return handle_ != nullptr;
  }
  delivery_.room = Delivery::Backlog::kHasRoom;
  return Call(options_->on_writable);
}

// Tells of the flushes that are over, but for those that are asked for meanwhile. False: the handle is
// gone.
bool LinkCore::CallFlushed(Delivery::Flushes which) {
  IntrusiveList<Delivery::FlushWait> waits;
  waits.Splice(delivery_.flushes);
  while (!waits.empty() && handle_ != nullptr) {
    if (which == Delivery::Flushes::kOver && IsOutstanding(waits.front()->through)) break;
    const std::unique_ptr<Delivery::FlushWait> wait(waits.PopFront());
    if (wait->done) wait->done(*handle_, wait->all_acked);
  }
  waits.Splice(delivery_.flushes);
  delivery_.flushes.Splice(waits);
  return handle_ != nullptr;
}

}  // namespace holdfast::internal
