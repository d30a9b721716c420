// The messages on their way out, in the order of the wire, from their acceptance until it is known what
// became of each.
//
//    acknowledged      sent, not yet          queued
//      and gone          acknowledged
//   ...............|==================|------------------------>
//                  first item         cursor                last item
//
// An item is one message (a sequence number, perhaps a deadline) or bytes that belong to none (a ping; a
// stream's). Its bytes are copied once, into blocks of the reactor's pool, one item behind the other, so
// that 64 small ones are one part of one send; or they stay where the user has them (OutsideBytes). They
// never move, since a send may be in the kernel's hands. A message that is no longer wanted goes at once,
// wherever it stands, and what stands behind it closes up: a place in the stream is given only when the
// kernel takes the first byte.
//
// When a session ends two boundaries (machine/account.h) decide about all of it: acknowledged, in doubt,
// unsent. What is left can be sent again, whole and in order, behind what the next session sends first:
// queues are joined without a copy.
//
//   queue.AppendMessage(bytes, {.sequence = 7});
//   iovec parts[16];
//   const size_t count = queue.Gather(parts, now);   // sendmsg(2) took n
//   queue.OnSent(n);
//   queue.OnAcked(boundary);
//   MessageQueue::Fates fates = queue.Settle({acked, sent_boundary});   // the session's end
//
// 48 bytes a message besides its own; an empty queue holds no block. No clock, no syscall; memory comes
// from the pool alone. Reactor thread.
#ifndef HOLDFAST_MACHINE_MESSAGE_QUEUE_H_
#define HOLDFAST_MACHINE_MESSAGE_QUEUE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <holdfast/link_state.h>
#include <holdfast/message.h>
#include <holdfast/time.h>
#include "base/check.h"
#include "core/block_pool.h"

namespace holdfast::internal {

// Bytes that stay where the user has them.
class OutsideBytes {
 public:
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }
  // They are no longer needed. Called once; the object is gone afterwards.
  virtual void Release() noexcept = 0;

 protected:
  explicit OutsideBytes(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}
  ~OutsideBytes() = default;
  std::span<const std::byte> bytes_;
};

// The bytes of a message, to be copied, or to be taken over where they are.
struct Payload {
  std::span<const std::byte> bytes;
  OutsideBytes* outside = nullptr;  // Null: to be copied. Else `bytes` are its own.
};

class MessageQueue {
 public:
  // Who has to acknowledge a message before it is forgotten.
  enum class AckedBy : std::uint8_t { kPeersKernel, kPeer };
  // What a message outlives.
  enum class Scope : std::uint8_t {
    kSession,  // Nothing: it is never sent in another one.
    kLink,     // Its session, where the policy says so.
  };
  struct Label {
    std::uint64_t sequence = 0;  // > 0.
    Scope scope = Scope::kLink;
    Instant deadline = kNever;  // Not yet begun by then, it expires.
  };
  // In wire offsets of the session; acked <= sent.
  struct Boundaries {
    std::uint64_t acked = 0;
    std::uint64_t sent = 0;
  };
  // What became of the messages of a session.
  struct Fates {
    std::uint64_t first_sequence = 0;  // Of a session whose numbers are in one row; else 0.
    std::uint64_t acked = 0;
    std::uint64_t in_doubt = 0;
    std::uint64_t unsent = 0;

    friend constexpr bool operator==(const Fates&, const Fates&) noexcept = default;
  };

 private:
  struct Item;
  struct ItemBlock;
  // Where an item stands; block null: behind the last.
  struct Place {
    ItemBlock* block = nullptr;
    std::size_t index = 0;
    friend bool operator==(const Place&, const Place&) noexcept = default;
  };

 public:
  // A message as somebody else may see it. Good until the queue changes.
  class Message {
   public:
    [[nodiscard]] std::uint64_t sequence() const noexcept;
    [[nodiscard]] std::size_t size() const noexcept;
    [[nodiscard]] Fate fate() const noexcept;
    [[nodiscard]] Scope scope() const noexcept;
    // Requires: out.size() >= size().
    void CopyTo(std::span<std::byte> out) const noexcept;

   private:
    friend class MessageQueue;
    friend class holdfast::Message;
    explicit Message(const Item* item) noexcept : item_(item) {}
    const Item* item_;
  };

  // The pool must outlive the queue.
  explicit MessageQueue(BlockPool& pool) noexcept : pool_(pool) {}
  ~MessageQueue() { Clear(); }
  MessageQueue(const MessageQueue&) = delete;
  MessageQueue& operator=(const MessageQueue&) = delete;

  void SetAckedBy(AckedBy who) noexcept { acked_by_ = who; }

  // Copies bytes that belong to no message, whole or not at all: false when there is no memory, and
  // nothing has changed. Allowed, as the next, while gathered bytes are in the kernel's hands.
  [[nodiscard]] bool Append(std::span<const std::byte> bytes) noexcept;
  // A message; an empty one is one, too. What is outside is taken over, but for false.
  [[nodiscard]] bool AppendMessage(const Payload& payload, const Label& label) noexcept;

  // Fills `out` with queued bytes, as far as it reaches; returns how many parts. No part is empty.
  // What is due by `now` and not yet begun is passed over, and expires. They stay valid until OnSent.
  [[nodiscard]] std::size_t Gather(std::span<iovec> out, Instant now) noexcept;
  // The kernel took `bytes` of what was gathered last; the rest is queued again.
  void OnSent(std::size_t bytes) noexcept;
  // Bytes of the session below `boundary` are acknowledged. One that goes back changes nothing.
  // Requires: boundary <= sent().
  void OnAcked(std::uint64_t boundary) noexcept;
  // The peer has this message: nothing more is wanted of it. False: none of this number is here.
  bool Acknowledge(std::uint64_t sequence) noexcept;

  // What is here is of a new session. Requires: it is queued.
  void StartSession() noexcept;
  // The end of the session: what is outstanding is divided, everything that is no message goes, and
  // wire offsets begin anew. What is left is queued. Requires: nothing is in the kernel's hands.
  Fates Settle(const Boundaries& boundaries) noexcept;
  // All of its messages, for the user to see. `rule` says which are kept.
  [[nodiscard]] Messages View(OnLoss rule) const noexcept { return Messages(this, rule); }
  // The same, to be passed on alone.
  [[nodiscard]] static holdfast::Message ViewOf(const Message& message, OnLoss rule) noexcept {
    return holdfast::Message(message.item_, rule);
  }
  // Whether a message outlives its session under this rule.
  [[nodiscard]] static bool IsKept(const Message& message, OnLoss rule) noexcept;
  // What is left after Settle, or waits.
  template <class Function>
  void ForEach(Function function) const {
    for (Place place = head_; place.block != nullptr; place = After(place)) {
      if (IsMessage(place)) function(MessageOf(place));
    }
  }
  // Lets go of the messages of which `condition` is true.
  template <class Condition>
  void DropIf(Condition condition) noexcept {
    const Walk walk(*this);
    for (Place place = head_; place.block != nullptr; place = After(place)) {
      if (IsMessage(place) && condition(MessageOf(place))) Drop(At(place));
    }
  }
  // Everything of `other`, which is queued, behind what is here; or before it, where all of this is
  // queued as well. Requires: nothing of `other` has been sent in this session.
  void JoinBehind(MessageQueue& other) noexcept;
  void JoinBefore(MessageQueue& other) noexcept;

  // Messages that are due and not begun: tells `function` of each, while it still is here. It may append
  // and acknowledge. True: one of them may be in the kernel's hands, and goes only when those bytes are
  // taken back (OnSent).
  template <class Function>
  bool Expire(Instant now, Function function) {
    bool in_hands = false;
    {
      const Walk walk(*this);
      next_expiry_ = kNever;
      for (Place place = head_; place.block != nullptr; place = After(place)) {
        switch (LookAtDeadline(place, now)) {
          case Due::kNo:
            break;
          case Due::kInHands:
            in_hands = true;
            break;
          case Due::kYes:
            function(MessageOf(place));
            if (IsMessage(place)) Drop(At(place));  // Else `function` has acknowledged it.
            break;
        }
      }
    }
    return in_hands;
  }
  // No message that waits is due before; kNever: none has a deadline.
  [[nodiscard]] Instant next_expiry() const noexcept { return next_expiry_; }

  // Forgets everything and begins at offset 0. Requires: nothing of it is in the kernel's hands.
  void Clear() noexcept;

  // W of the account: what the kernel took in this session.
  [[nodiscard]] std::uint64_t sent() const noexcept { return sent_; }
  // What is known to be acknowledged of it.
  [[nodiscard]] std::uint64_t released() const noexcept { return released_; }
  // Bytes that the kernel has not taken.
  [[nodiscard]] std::size_t queued() const noexcept { return queued_; }
  // Bytes that are not forgotten.
  [[nodiscard]] std::size_t held() const noexcept { return held_; }
  // Memory of the pool, in bytes.
  [[nodiscard]] std::size_t memory() const noexcept { return blocks_ * kBlockSize; }
  // Messages that are not forgotten.
  [[nodiscard]] std::size_t messages() const noexcept { return messages_; }
  // Messages of this session that are known to be acknowledged.
  [[nodiscard]] std::uint64_t acked() const noexcept { return acked_; }

  // Whether a message with a number up to `sequence` is here. O(1) where the first one is.
  [[nodiscard]] bool HasThrough(std::uint64_t sequence) const noexcept;

  // Walks the items and checks that they are what the members say. For tests.
  void CheckInvariants() const;

 private:
  friend class holdfast::Message;
  friend class holdfast::Messages;

  enum class Stage : std::uint8_t {
    kQueued,
    kLate,      // Queued, and not to be sent any more: Expire tells of it.
    kGathered,  // In the kernel's hands, not yet begun.
    kBegun,     // The kernel took its first byte, or all.
    kGone,      // Nothing of it is needed.
  };
  enum class Due : std::uint8_t { kNo, kYes, kInHands };
  struct Item {
    std::uint64_t sequence;  // 0: bytes of no message.
    std::uint64_t wire;      // Offset of its first byte, once begun.
    std::uint64_t size;
    Instant deadline;
    union {
      Block* block;           // Of its first byte; null where it has none.
      OutsideBytes* outside;  // Where is_outside.
    };
    std::uint16_t offset;  // In `block`.
    Stage stage;
    Scope scope;
    Fate fate;  // kAcked until a session that had it has ended.
    bool is_outside;
    bool acknowledged;  // By the peer; the bytes are needed until the kernel has them.
  };
  static constexpr std::size_t kItemsPerBlock =
      (kBlockSize - 2 * sizeof(std::uint16_t)) / sizeof(Item);
  // In the data of a Block.
  struct ItemBlock {
    Item items[kItemsPerBlock];
    std::uint16_t begin;
    std::uint16_t end;
  };
  static_assert(sizeof(ItemBlock) <= kBlockSize);

  // While one lives no block of items goes, so that places stay good.
  class Walk {
   public:
    explicit Walk(MessageQueue& queue) noexcept : queue_(queue) {
      HOLDFAST_CHECK(!queue_.walked_);
      queue_.walked_ = true;
    }
    ~Walk() {
      queue_.walked_ = false;
      queue_.Shrink();
    }
    Walk(const Walk&) = delete;
    Walk& operator=(const Walk&) = delete;

   private:
    MessageQueue& queue_;
  };

  [[nodiscard]] static Item& At(const Place& place) noexcept {
    return place.block->items[place.index];
  }
  [[nodiscard]] static Block* BlockOf(ItemBlock* block) noexcept;
  [[nodiscard]] static ItemBlock* ItemsOf(Block* block) noexcept;
  [[nodiscard]] static Place After(Place place) noexcept;
  // The first message from `place` on.
  [[nodiscard]] static Place MessageFrom(Place place) noexcept;
  [[nodiscard]] static Place FirstOf(ItemBlock* block) noexcept;
  [[nodiscard]] static bool IsMessage(const Place& place) noexcept {
    return At(place).stage != Stage::kGone && At(place).sequence != 0;
  }
  [[nodiscard]] static Message MessageOf(const Place& place) noexcept {
    return Message(&At(place));
  }

  [[nodiscard]] Block* GetBlock() noexcept;
  void Put(Block* block) noexcept;
  void Unuse(Block* block) noexcept;
  // Memory for `size` bytes behind those that are there: null blocks where there is none.
  struct Room {
    bool ok = false;
    Block* fresh = nullptr;  // What the last block has no room for.
  };
  [[nodiscard]] Room FindRoom(std::size_t size) noexcept;
  void ReturnRoom(const Room& room) noexcept;
  void CopyIn(std::span<const std::byte> bytes, Room room, Item& item) noexcept;
  [[nodiscard]] Item* NewItem() noexcept;
  void Count(Item& item, const Label& label) noexcept;
  void CountInRow(std::uint64_t sequence) noexcept;
  [[nodiscard]] Item* Growing() noexcept;
  [[nodiscard]] Due LookAtDeadline(const Place& place, Instant now) noexcept;
  void ReleaseBytes(Item& item) noexcept;
  void TrimFront(Item& item) noexcept;
  void Finish(Item& item) noexcept;
  void FinishAcked(Item& item) noexcept;
  void Drop(Item& item) noexcept;
  void DropAcked(Item& item) noexcept;
  void Shrink() noexcept;
  void CloseOpenBlock() noexcept;
  void Take(MessageQueue& other) noexcept;

  BlockPool& pool_;
  ItemBlock* tail_ = nullptr;       // The last items.
  Place head_;                      // The first item.
  Place cursor_;                    // The first of which a byte is queued.
  Place unacked_;                   // The first that the peer's kernel is not known to have.
  std::uint64_t cursor_taken_ = 0;  // Bytes of the item at cursor_ that the kernel took.
  Block* open_ = nullptr;           // Where the next byte is copied to, or behind.
  std::size_t open_used_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t released_ = 0;
  std::size_t queued_ = 0;
  std::size_t held_ = 0;
  std::size_t messages_ = 0;
  std::size_t blocks_ = 0;
  std::uint64_t acked_ = 0;
  std::uint64_t row_first_ = 0;  // Of the session's messages, in a row without a gap so far.
  std::uint64_t row_last_ = 0;
  Instant next_expiry_ = kNever;
  bool walked_ = false;  // A Walk is on.
  AckedBy acked_by_ = AckedBy::kPeersKernel;
  bool in_row_ = true;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_MESSAGE_QUEUE_H_
