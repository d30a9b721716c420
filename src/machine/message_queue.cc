#include "machine/message_queue.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace holdfast::internal {
namespace {

// Byte `offset` behind the first one of `block`, in the chain that begins there.
struct Spot {
  Block* block;
  std::size_t offset;
};
Spot Find(Block* block, std::size_t offset) noexcept {
  while (offset >= kBlockSize) {
    block = block->next;
    offset -= kBlockSize;
  }
  return {block, offset};
}

// Calls function(data, size) for the parts of `size` bytes from `spot` on, until it says false.
template <class Function>
bool ForEachPart(Spot spot, std::size_t size, Function function) {
  while (size > 0) {
    const std::size_t part = std::min(size, kBlockSize - spot.offset);
    if (!function(spot.block->data + spot.offset, part)) return false;
    size -= part;
    spot = {size > 0 ? spot.block->next : nullptr, 0};
  }
  return true;
}

// Parts of one send, of which neighbours in memory are one.
class Parts {
 public:
  explicit Parts(std::span<iovec> out) noexcept : out_(out) {}
  [[nodiscard]] bool Add(const std::byte* data, std::size_t size) noexcept {
    if (count_ > 0) {
      iovec& last = out_[count_ - 1];
      if (static_cast<std::byte*>(last.iov_base) + last.iov_len == data) {
        last.iov_len += size;
        bytes_ += size;
        return true;
      }
    }
    if (count_ == out_.size()) return false;
    out_[count_++] = {const_cast<std::byte*>(data), size};
    bytes_ += size;
    return true;
  }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  const std::span<iovec> out_;
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace

// --- What is here.

std::uint64_t MessageQueue::Message::sequence() const noexcept { return item_->sequence; }
std::size_t MessageQueue::Message::size() const noexcept { return item_->size; }
Fate MessageQueue::Message::fate() const noexcept { return item_->fate; }
MessageQueue::Scope MessageQueue::Message::scope() const noexcept { return item_->scope; }

void MessageQueue::Message::CopyTo(std::span<std::byte> out) const noexcept {
  HOLDFAST_CHECK(out.size() >= item_->size);
  if (item_->is_outside) {
    std::memcpy(out.data(), item_->outside->bytes().data(), item_->size);
    return;
  }
  std::byte* to = out.data();
  ForEachPart({item_->block, item_->offset}, item_->size,
              [&to](const std::byte* data, std::size_t size) {
                std::memcpy(to, data, size);
                to += size;
                return true;
              });
}

bool MessageQueue::IsKept(const Message& message, OnLoss rule) noexcept {
  if (message.scope() == Scope::kSession) return false;
  return rule == OnLoss::kReplayUnacked ||
         (rule == OnLoss::kReplayUnsent && message.fate() != Fate::kInDoubt);
}

// --- Places.

Block* MessageQueue::BlockOf(ItemBlock* block) noexcept {
  return reinterpret_cast<Block*>(reinterpret_cast<std::byte*>(block) - offsetof(Block, data));
}
MessageQueue::ItemBlock* MessageQueue::ItemsOf(Block* block) noexcept {
  return block == nullptr ? nullptr : reinterpret_cast<ItemBlock*>(block->data);
}
MessageQueue::Place MessageQueue::FirstOf(ItemBlock* block) noexcept {
  return block == nullptr ? Place{} : Place{block, block->begin};
}
MessageQueue::Place MessageQueue::After(Place place) noexcept {
  if (++place.index < place.block->end) return place;
  return FirstOf(ItemsOf(BlockOf(place.block)->next));
}

MessageQueue::Place MessageQueue::MessageFrom(Place place) noexcept {
  while (place.block != nullptr && !IsMessage(place)) place = After(place);
  return place;
}

// --- Memory.

Block* MessageQueue::GetBlock() noexcept {
  Block* const block = pool_.Get();
  if (block != nullptr) ++blocks_;
  return block;
}

void MessageQueue::Put(Block* block) noexcept {
  --blocks_;
  pool_.Put(block);
}

void MessageQueue::Unuse(Block* block) noexcept {
  if (--block->users == 0) Put(block);
}

// All the memory first, so that a refusal leaves nothing behind.
MessageQueue::Room MessageQueue::FindRoom(std::size_t size) noexcept {
  Room room{.ok = true};
  Block** link = &room.fresh;
  for (std::size_t space = open_ == nullptr ? 0 : kBlockSize - open_used_; space < size;
       space += kBlockSize) {
    *link = GetBlock();
    if (*link == nullptr) {
      ReturnRoom(room);
      return {};
    }
    link = &(*link)->next;
  }
  return room;
}

void MessageQueue::ReturnRoom(const Room& room) noexcept {
  for (Block* block = room.fresh; block != nullptr;) Put(std::exchange(block, block->next));
}

// Behind the last byte that was copied in, and that of `item` where it has some.
void MessageQueue::CopyIn(std::span<const std::byte> bytes, Room room, Item& item) noexcept {
  if (bytes.empty()) return;
  if (open_ == nullptr) {
    open_ = room.fresh;
    open_->users = 1;
    open_used_ = 0;
  } else {
    open_->next = room.fresh;
  }
  bool has_block = item.size > 0;
  item.size += bytes.size();
  while (!bytes.empty()) {
    if (open_used_ == kBlockSize) {
      Block* const next = open_->next;
      next->users = 1;
      Unuse(std::exchange(open_, next));
      open_used_ = 0;
      has_block = false;
    }
    if (!has_block) ++open_->users;
    has_block = true;
    if (item.block == nullptr) {
      item.block = open_;
      item.offset = static_cast<std::uint16_t>(open_used_);
    }
    const std::size_t size = std::min(bytes.size(), kBlockSize - open_used_);
    std::memcpy(open_->data + open_used_, bytes.data(), size);
    open_used_ += size;
    bytes = bytes.subspan(size);
  }
}

void MessageQueue::CloseOpenBlock() noexcept {
  if (open_ != nullptr) Unuse(std::exchange(open_, nullptr));
}

void MessageQueue::ReleaseBytes(Item& item) noexcept {
  if (item.is_outside) {
    std::exchange(item.outside, nullptr)->Release();
    return;
  }
  std::size_t behind = item.offset + item.size;
  for (Block* block = std::exchange(item.block, nullptr); block != nullptr;) {
    Block* const next = behind > kBlockSize ? block->next : nullptr;
    behind -= std::min(behind, kBlockSize);
    Unuse(block);
    block = next;
  }
}

// --- Appending.

// Behind the last item, or in its place where that is gone: pings behind a message that waits long for its
// peer's answer cost no memory.
MessageQueue::Item* MessageQueue::NewItem() noexcept {
  if (tail_ != nullptr && !walked_ && tail_->items[tail_->end - 1].stage == Stage::kGone) {
    --tail_->end;
  } else if (tail_ == nullptr || tail_->end == kItemsPerBlock) {
    Block* const block = GetBlock();
    if (block == nullptr) return nullptr;
    ItemBlock* const items = ItemsOf(block);
    items->begin = items->end = 0;
    if (tail_ != nullptr) BlockOf(tail_)->next = block;
    tail_ = items;
  }
  const Place place{tail_, tail_->end++};
  if (head_.block == nullptr) head_ = place;
  if (cursor_.block == nullptr) cursor_ = place;
  if (unacked_.block == nullptr) unacked_ = place;
  Item& item = At(place);
  item = {.sequence = 0,
          .wire = 0,
          .size = 0,
          .deadline = kNever,
          .block = nullptr,
          .offset = 0,
          .stage = Stage::kQueued,
          .scope = Scope::kSession,
          .fate = Fate::kAcked,
          .is_outside = false,
          .acknowledged = false};
  return &item;
}

// The last item, where it is of no message and its bytes are not all with the kernel.
MessageQueue::Item* MessageQueue::Growing() noexcept {
  if (tail_ == nullptr || cursor_.block == nullptr) return nullptr;
  Item& last = tail_->items[tail_->end - 1];
  const bool grows = last.sequence == 0 && last.stage != Stage::kGone;
  return grows ? &last : nullptr;
}

bool MessageQueue::Append(std::span<const std::byte> bytes) noexcept {
  if (bytes.empty()) return true;
  const Room room = FindRoom(bytes.size());
  if (!room.ok) return false;
  Item* item = Growing();
  if (item == nullptr) item = NewItem();
  if (item == nullptr) {
    ReturnRoom(room);
    return false;
  }
  CopyIn(bytes, room, *item);
  queued_ += bytes.size();
  held_ += bytes.size();
  return true;
}

bool MessageQueue::AppendMessage(const Payload& payload, const Label& label) noexcept {
  const Room room = FindRoom(payload.outside == nullptr ? payload.bytes.size() : 0);
  if (!room.ok) return false;
  Item* const item = NewItem();
  if (item == nullptr) {
    ReturnRoom(room);
    return false;
  }
  if (payload.outside == nullptr) {
    CopyIn(payload.bytes, room, *item);
  } else {
    item->is_outside = true;
    item->outside = payload.outside;
    item->size = payload.bytes.size();
  }
  Count(*item, label);
  return true;
}

void MessageQueue::Count(Item& item, const Label& label) noexcept {
  HOLDFAST_CHECK(label.sequence > 0);
  item.sequence = label.sequence;
  item.scope = label.scope;
  item.deadline = label.deadline;
  next_expiry_ = std::min(next_expiry_, label.deadline);
  queued_ += item.size;
  held_ += item.size;
  ++messages_;
  CountInRow(label.sequence);
}

void MessageQueue::CountInRow(std::uint64_t sequence) noexcept {
  if (row_first_ == 0) {
    row_first_ = sequence;
  } else if (sequence != row_last_ + 1) {
    in_row_ = false;
  }
  row_last_ = sequence;
}

// --- Sending.

std::size_t MessageQueue::Gather(std::span<iovec> out, Instant now) noexcept {
  Parts parts(out);
  std::size_t taken = cursor_taken_;
  for (Place place = cursor_; place.block != nullptr; place = After(place), taken = 0) {
    Item& item = At(place);
    if (item.stage == Stage::kGone || item.stage == Stage::kLate) continue;
    if (item.stage == Stage::kQueued && item.deadline <= now) {
      item.stage = Stage::kLate;
      continue;
    }
    const std::size_t size = item.size - taken;
    const std::size_t bytes_before = parts.bytes();
    const bool whole = item.is_outside
                           ? size == 0 || parts.Add(item.outside->bytes().data() + taken, size)
                           : ForEachPart(Find(item.block, item.offset + taken), size,
                                         [&parts](const std::byte* data, std::size_t part) {
                                           return parts.Add(data, part);
                                         });
    const bool in_hands = whole || parts.bytes() > bytes_before;
    if (in_hands && item.stage == Stage::kQueued) item.stage = Stage::kGathered;
    if (!whole) break;
  }
  return parts.count();
}

void MessageQueue::OnSent(std::size_t bytes) noexcept {
  HOLDFAST_CHECK(bytes <= queued_);
  for (; cursor_.block != nullptr; cursor_ = After(cursor_), cursor_taken_ = 0) {
    Item& item = At(cursor_);
    if (item.stage == Stage::kGone || item.stage == Stage::kLate) continue;
    const std::uint64_t left = item.size - cursor_taken_;
    if (item.stage == Stage::kQueued || (bytes == 0 && left > 0)) break;
    if (item.stage == Stage::kGathered) {
      item.stage = Stage::kBegun;
      item.wire = sent_;
    }
    const std::uint64_t size = std::min<std::uint64_t>(bytes, left);
    bytes -= size;
    sent_ += size;
    queued_ -= size;
    cursor_taken_ += size;
    if (size < left) break;
    if (item.acknowledged) FinishAcked(item);
  }
  HOLDFAST_CHECK(bytes == 0);
  for (Place place = cursor_; place.block != nullptr; place = After(place)) {
    Item& item = At(place);
    if (item.stage == Stage::kQueued) break;
    if (item.stage != Stage::kGathered) continue;
    item.stage = Stage::kQueued;
    next_expiry_ = std::min(next_expiry_, item.deadline);
    if (item.acknowledged) DropAcked(item);
  }
  Shrink();
}

void MessageQueue::OnAcked(std::uint64_t boundary) noexcept {
  HOLDFAST_CHECK(boundary <= sent_);
  released_ = std::max(released_, boundary);
  for (; unacked_ != cursor_; unacked_ = After(unacked_)) {
    Item& item = At(unacked_);
    if (item.stage != Stage::kBegun) continue;
    if (item.wire + item.size > released_) break;
    const bool forgotten = acked_by_ == AckedBy::kPeersKernel || item.scope == Scope::kSession;
    if (forgotten) FinishAcked(item);
  }
  if (unacked_.block != nullptr) TrimFront(At(unacked_));
  Shrink();
}

// What is acknowledged of bytes that belong to no message is not needed again.
void MessageQueue::TrimFront(Item& item) noexcept {
  if (item.sequence != 0 || item.stage != Stage::kBegun || item.wire >= released_) return;
  const std::uint64_t size = released_ - item.wire;
  HOLDFAST_CHECK(size < item.size);
  std::size_t offset = item.offset + size;
  while (offset >= kBlockSize) {
    Unuse(std::exchange(item.block, item.block->next));
    offset -= kBlockSize;
  }
  item.offset = static_cast<std::uint16_t>(offset);
  item.wire = released_;
  item.size -= size;
  held_ -= size;
  if (unacked_ == cursor_) cursor_taken_ -= size;
}

// --- What is no longer needed.

void MessageQueue::Finish(Item& item) noexcept {
  ReleaseBytes(item);
  held_ -= item.size;
  if (item.sequence != 0) --messages_;
  item.stage = Stage::kGone;
}

void MessageQueue::FinishAcked(Item& item) noexcept {
  if (item.sequence != 0) ++acked_;
  Finish(item);
}

// A message that the kernel has nothing of.
void MessageQueue::Drop(Item& item) noexcept {
  HOLDFAST_CHECK(item.stage == Stage::kQueued || item.stage == Stage::kLate);
  queued_ -= item.size;
  in_row_ = false;
  Finish(item);
}

void MessageQueue::DropAcked(Item& item) noexcept {
  ++acked_;
  Drop(item);
}

// Takes gone items off the front; none while somebody walks.
void MessageQueue::Shrink() noexcept {
  if (walked_) return;
  while (head_.block != nullptr && At(head_).stage == Stage::kGone) {
    const Place gone = head_;
    head_ = After(gone);
    if (unacked_ == gone) unacked_ = head_;
    if (cursor_ == gone) {
      cursor_ = head_;
      cursor_taken_ = 0;
    }
    if (++gone.block->begin < gone.block->end) continue;
    if (gone.block == tail_) tail_ = nullptr;
    Put(BlockOf(gone.block));
  }
  if (head_.block == nullptr) CloseOpenBlock();
}

bool MessageQueue::Acknowledge(std::uint64_t sequence) noexcept {
  for (Place place = head_; place.block != nullptr; place = After(place)) {
    Item& item = At(place);
    if (item.sequence != sequence || item.stage == Stage::kGone) continue;
    switch (item.stage) {
      case Stage::kQueued:
      case Stage::kLate:
        DropAcked(item);
        break;
      case Stage::kBegun:
        if (place != cursor_) {
          FinishAcked(item);
          break;
        }
        [[fallthrough]];
      default:
        item.acknowledged = true;
    }
    Shrink();
    return true;
  }
  return false;
}

bool MessageQueue::HasThrough(std::uint64_t sequence) const noexcept {
  for (Place place = head_; place.block != nullptr; place = After(place)) {
    if (IsMessage(place) && At(place).sequence <= sequence) return true;
  }
  return false;
}

MessageQueue::Due MessageQueue::LookAtDeadline(const Place& place, Instant now) noexcept {
  const Item& item = At(place);
  if (item.deadline == kNever || item.stage == Stage::kGone || item.stage == Stage::kBegun) {
    return Due::kNo;
  }
  if (item.stage == Stage::kLate) return Due::kYes;
  if (item.deadline > now) {
    next_expiry_ = std::min(next_expiry_, item.deadline);
    return Due::kNo;
  }
  return item.stage == Stage::kGathered ? Due::kInHands : Due::kYes;
}

// --- Sessions.

MessageQueue::Fates MessageQueue::Settle(const Boundaries& boundaries) noexcept {
  OnAcked(std::min(boundaries.acked, sent_));
  Fates fates;
  {
    const Walk walk(*this);
    next_expiry_ = kNever;
    for (Place place = head_; place.block != nullptr; place = After(place)) {
      Item& item = At(place);
      if (item.stage == Stage::kGone) continue;
      if (item.sequence == 0) {
        Finish(item);
        continue;
      }
      if (item.acknowledged) {
        FinishAcked(item);
        continue;
      }
      const bool left = item.stage == Stage::kBegun && item.wire < boundaries.sent;
      // What an earlier session left in doubt is no less so for not being sent again.
      item.fate = left || item.fate == Fate::kInDoubt ? Fate::kInDoubt : Fate::kUnsent;
      ++(item.fate == Fate::kInDoubt ? fates.in_doubt : fates.unsent);
      item.stage = Stage::kQueued;
      next_expiry_ = std::min(next_expiry_, item.deadline);
    }
  }
  fates.acked = acked_;
  fates.first_sequence = in_row_ ? row_first_ : 0;
  StartSession();
  return fates;
}

void MessageQueue::StartSession() noexcept {
  cursor_ = unacked_ = head_;
  cursor_taken_ = 0;
  sent_ = released_ = acked_ = 0;
  queued_ = held_;
  row_first_ = row_last_ = 0;
  in_row_ = true;
}

// Leaves `other` empty; its items are somebody's already.
void MessageQueue::Take(MessageQueue& other) noexcept {
  queued_ += other.queued_;
  held_ += other.held_;
  messages_ += other.messages_;
  blocks_ += other.blocks_;
  next_expiry_ = std::min(next_expiry_, other.next_expiry_);
  other.tail_ = nullptr;
  other.head_ = {};
  other.open_ = nullptr;
  other.held_ = other.messages_ = other.blocks_ = 0;
  other.next_expiry_ = kNever;
  other.StartSession();
}

void MessageQueue::JoinBehind(MessageQueue& other) noexcept {
  HOLDFAST_CHECK(other.sent_ == 0 && !walked_ && !other.walked_);
  if (other.head_.block == nullptr) return;
  other.ForEach([this](const Message& message) { CountInRow(message.sequence()); });
  CloseOpenBlock();
  open_ = other.open_;
  open_used_ = other.open_used_;
  if (tail_ != nullptr) BlockOf(tail_)->next = BlockOf(other.head_.block);
  tail_ = other.tail_;
  for (Place* place : {&head_, &cursor_, &unacked_}) {
    if (place->block == nullptr) *place = other.head_;
  }
  Take(other);
}

void MessageQueue::JoinBefore(MessageQueue& other) noexcept {
  HOLDFAST_CHECK(sent_ == 0 && other.sent_ == 0 && !walked_ && !other.walked_);
  if (other.head_.block == nullptr) return;
  if (tail_ == nullptr) {
    open_ = other.open_;
    open_used_ = other.open_used_;
    tail_ = other.tail_;
  } else {
    other.CloseOpenBlock();
    BlockOf(other.tail_)->next = BlockOf(head_.block);
  }
  head_ = cursor_ = unacked_ = other.head_;
  in_row_ = false;
  Take(other);
}

void MessageQueue::Clear() noexcept {
  HOLDFAST_CHECK(!walked_);
  for (Place place = head_; place.block != nullptr; place = After(place)) {
    if (At(place).stage != Stage::kGone) Finish(At(place));
  }
  Shrink();
  next_expiry_ = kNever;
  StartSession();
}

void MessageQueue::CheckInvariants() const {
  std::size_t held = 0;
  std::size_t queued = 0;
  std::size_t messages = 0;
  bool cursor_seen = false;
  bool unacked_seen = false;
  for (Place place = head_; place.block != nullptr; place = After(place)) {
    const Item& item = At(place);
    HOLDFAST_CHECK(place.index >= place.block->begin && place.block->end <= kItemsPerBlock);
    HOLDFAST_CHECK((place.block == tail_) == (BlockOf(place.block)->next == nullptr));
    cursor_seen = cursor_seen || place == cursor_;
    unacked_seen = unacked_seen || place == unacked_;
    HOLDFAST_CHECK(unacked_seen || !cursor_seen);
    if (item.stage == Stage::kGone) continue;
    held += item.size;
    if (item.sequence != 0) ++messages;
    if (!cursor_seen) {
      HOLDFAST_CHECK(item.stage == Stage::kLate || item.wire + item.size <= sent_);
    }
    if (item.stage == Stage::kLate || cursor_seen) queued += item.size;
    if (place == cursor_) queued -= cursor_taken_;
  }
  HOLDFAST_CHECK(cursor_seen == (cursor_.block != nullptr));
  HOLDFAST_CHECK(unacked_seen == (unacked_.block != nullptr));
  HOLDFAST_CHECK(held == held_ && queued == queued_ && messages == messages_);
  HOLDFAST_CHECK((head_.block == nullptr) == (tail_ == nullptr));
  HOLDFAST_CHECK((head_.block == nullptr) == (blocks_ == 0));
  HOLDFAST_CHECK(released_ <= sent_);
}

}  // namespace holdfast::internal

// --- What the user sees of it.

namespace holdfast {

using internal::MessageQueue;

std::uint64_t Message::sequence() const noexcept {
  return static_cast<const MessageQueue::Item*>(item_)->sequence;
}
std::size_t Message::size() const noexcept {
  return static_cast<const MessageQueue::Item*>(item_)->size;
}
// What was in no session is unsent.
Fate Message::fate() const noexcept {
  const Fate fate = static_cast<const MessageQueue::Item*>(item_)->fate;
  return fate == Fate::kAcked ? Fate::kUnsent : fate;
}
bool Message::kept() const noexcept {
  return MessageQueue::IsKept(MessageQueue::Message(static_cast<const MessageQueue::Item*>(item_)),
                              rule_);
}
void Message::CopyTo(std::span<std::byte> out) const noexcept {
  MessageQueue::Message(static_cast<const MessageQueue::Item*>(item_)).CopyTo(out);
}
std::string Message::Text() const {
  std::string text(size(), '\0');
  CopyTo(std::as_writable_bytes(std::span(text)));
  return text;
}

Message Messages::Iterator::operator*() const noexcept {
  const auto* block = static_cast<const MessageQueue::ItemBlock*>(block_);
  return {&block->items[index_], rule_};
}

Messages::Iterator& Messages::Iterator::operator++() noexcept {
  auto* block = static_cast<MessageQueue::ItemBlock*>(const_cast<void*>(block_));
  const MessageQueue::Place next = MessageQueue::MessageFrom(MessageQueue::After({block, index_}));
  block_ = next.block;
  index_ = next.index;
  return *this;
}

Messages::Iterator Messages::begin() const noexcept {
  if (queue_ == nullptr) return end();
  const MessageQueue::Place first = MessageQueue::MessageFrom(queue_->head_);
  return {first.block, first.index, rule_};
}

std::size_t Messages::size() const noexcept { return queue_ == nullptr ? 0 : queue_->messages(); }

}  // namespace holdfast
