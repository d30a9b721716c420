#include "machine/timer_wheel.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace holdfast::internal {

TimerWheel::TimerWheel(Instant now) noexcept
    : now_(now.time_since_epoch().count()), expired_to_(now_) {
  Reset(open_);
  Reset(due_);
  for (auto& level : slots_) {
    for (Slot& slot : level) Reset(slot);
  }
}

TimerWheel::~TimerWheel() {
  HOLDFAST_CHECK(!expiring_);
  ReleaseAll(open_);
  for (auto& level : slots_) {
    for (Slot& slot : level) ReleaseAll(slot);
  }
}

Instant TimerWheel::next_deadline() const noexcept {
  if (!Empty(open_) || !Empty(due_)) return Instant(Duration(expired_to_));
  // Within a level the slots lie in the order of time, so that the first one has the least deadline.
  std::int64_t least = kNeverNanos;
  for (unsigned level = 0; level < kLevels; ++level) {
    if (bitmaps_[level] == 0) continue;
    least = std::min(least, slots_[level][FirstIndex(level)].least);
  }
  return Instant(Duration(least));
}

std::size_t TimerWheel::Expire(Instant now, std::size_t budget) noexcept {
  HOLDFAST_CHECK(!expiring_);
  expiring_ = true;
  const std::int64_t nanos = now.time_since_epoch().count();
  OpenDueSlots(nanos);
  // Only now: a slot that is due is found from where the wheel stood when it was filled.
  now_ = std::max(now_, nanos);
  expired_to_ = nanos;
  TakeFromOpen(nanos, budget);
  const std::size_t fired = FireDue(nanos);
  expiring_ = false;
  return fired;
}

// Coarse levels first: of equal deadlines, the one on the coarser level was armed longer ago.
void TimerWheel::OpenDueSlots(std::int64_t now) noexcept {
  for (unsigned level = kLevels; level-- > 0;) {
    while (bitmaps_[level] != 0) {
      const unsigned index = FirstIndex(level);
      Slot& slot = slots_[level][index];
      if (slot.least > now) break;
      bitmaps_[level] &= ~(std::uint64_t{1} << index);
      SpliceBack(open_, slot);
    }
  }
}

// Takes up to `budget` nodes from the open list and gathers those that are due, in order. Calls nobody,
// so that the batch is complete before the first callback can disturb it.
void TimerWheel::TakeFromOpen(std::int64_t now, std::size_t budget) noexcept {
  bool sorted = true;
  std::int64_t latest = INT64_MIN;
  for (; budget > 0 && !Empty(open_); --budget) {
    TimerNode& node = PopFront(open_);
    if (!IsDueElseSettle(node, now)) continue;
    sorted = sorted && node.deadline_ >= latest;
    latest = node.deadline_;
    PushBack(due_, node);
  }
  if (!sorted) SortByDeadline(due_);
}

// An earlier callback of the batch may have cancelled a later node, destroyed it, or put it off: so the
// deadline is looked at again. (Put off to the past or present, it is no longer on the list.)
std::size_t TimerWheel::FireDue(std::int64_t now) noexcept {
  std::size_t fired = 0;
  while (!Empty(due_)) {
    TimerNode& node = PopFront(due_);
    if (!IsDueElseSettle(node, now)) continue;
    ++fired;
    node.callback_(node);  // May destroy the node.
  }
  return fired;
}

// Whether an unlinked node is due. If not, it is put where it belongs: into a slot, or nowhere when it
// was cancelled.
bool TimerWheel::IsDueElseSettle(TimerNode& node, std::int64_t now) noexcept {
  if (node.deadline_ == kNeverNanos) return false;
  if (node.deadline_ <= now) return true;
  Insert(node);
  return false;
}

void TimerWheel::Relink(TimerNode& node, std::int64_t deadline) noexcept {
  HOLDFAST_CHECK(node.callback_ != nullptr);
  node.deadline_ = deadline;
  if (deadline == kNeverNanos) return;  // Cancel
  if (node.next != nullptr) Unlink(node);
  Insert(node);
}

// The level is that at which the deadline is less than 64 slots ahead.
void TimerWheel::Insert(TimerNode& node) noexcept {
  const std::int64_t current = TickAt(now_, 0);
  const std::int64_t tick = std::max(TickAt(node.deadline_, 0), current);
  const auto distance = static_cast<std::uint64_t>(tick - current);
  unsigned level = (static_cast<unsigned>(std::bit_width(distance | 1)) - 1) / kSlotBits;
  // Less than 64 whole slots can reach into a 65th, where the current slot would be met again.
  const unsigned shift = kSlotBits * level;
  level += static_cast<unsigned>(((tick >> shift) - (current >> shift)) >> kSlotBits);

  const unsigned index = IndexOf(tick >> (kSlotBits * level));
  Slot& slot = slots_[level][index];
  // What an empty slot remembers is from another turn of the wheel, or from a timer that is gone.
  slot.least = Empty(slot) ? node.deadline_ : std::min(slot.least, node.deadline_);
  bitmaps_[level] |= std::uint64_t{1} << index;
  PushBack(slot, node);
}

void TimerWheel::Unlink(TimerNode& node) noexcept {
  TimerLink* const prev = node.prev;
  TimerLink* const next = node.next;
  prev->next = next;
  next->prev = prev;
  node.prev = node.next = nullptr;
  if (prev != next) return;
  // Both are the sentinel of a list that is empty now. Its address tells the slot, if it is one.
  const auto offset =
      reinterpret_cast<std::uintptr_t>(prev) - reinterpret_cast<std::uintptr_t>(slots_.data());
  if (offset >= sizeof(slots_)) return;
  const std::size_t number = offset / sizeof(Slot);
  bitmaps_[number / kSlots] &= ~(std::uint64_t{1} << (number % kSlots));
}

unsigned TimerWheel::FirstIndex(unsigned level) const noexcept {
  const unsigned current = IndexOf(TickAt(now_, level));
  const auto ahead = static_cast<unsigned>(
      std::countr_zero(std::rotr(bitmaps_[level], static_cast<int>(current))));
  return (current + ahead) & (kSlots - 1);
}

void TimerWheel::PushBack(TimerLink& list, TimerNode& node) noexcept {
  node.prev = list.prev;
  node.next = &list;
  list.prev->next = &node;
  list.prev = &node;
}

TimerNode& TimerWheel::PopFront(TimerLink& list) noexcept {
  auto& node = static_cast<TimerNode&>(*list.next);
  list.next = node.next;
  list.next->prev = &list;
  node.prev = node.next = nullptr;
  return node;
}

void TimerWheel::SpliceBack(TimerLink& target, TimerLink& source) noexcept {
  if (Empty(source)) return;
  source.next->prev = target.prev;
  target.prev->next = source.next;
  source.prev->next = &target;
  target.prev = source.prev;
  Reset(source);
}

// Merges two chains that end in null, by deadline; of equal ones those of `early` come first.
TimerLink* TimerWheel::Merge(TimerLink* early, TimerLink* late) noexcept {
  TimerLink* head = nullptr;
  TimerLink** tail = &head;
  while (early != nullptr && late != nullptr) {
    const bool take_late =
        static_cast<TimerNode*>(late)->deadline_ < static_cast<TimerNode*>(early)->deadline_;
    TimerLink*& taken = take_late ? late : early;
    *tail = taken;
    tail = &taken->next;
    taken = taken->next;
  }
  *tail = early != nullptr ? early : late;
  return head;
}

// Merge sort from the bottom up: run i is null or a sorted chain of 2^i nodes, all of them earlier in
// the list than those of the runs below. Stable, in place, O(n log n).
void TimerWheel::SortByDeadline(TimerLink& list) noexcept {
  std::array<TimerLink*, 64> runs{};
  list.prev->next = nullptr;
  for (TimerLink* node = list.next; node != nullptr;) {
    TimerLink* run = node;
    node = node->next;
    run->next = nullptr;
    std::size_t i = 0;
    for (; runs[i] != nullptr; ++i) {
      run = Merge(runs[i], run);
      runs[i] = nullptr;
    }
    runs[i] = run;
  }
  TimerLink* sorted = nullptr;
  for (TimerLink* run : runs) {
    if (run != nullptr) sorted = Merge(run, sorted);
  }
  TimerLink* last = &list;
  for (TimerLink* node = sorted; node != nullptr; node = node->next) {
    last->next = node;
    node->prev = last;
    last = node;
  }
  last->next = &list;
  list.prev = last;
}

void TimerWheel::ReleaseAll(TimerLink& list) noexcept {
  while (!Empty(list)) PopFront(list);
}

void TimerWheel::CheckList(const TimerLink& list, std::int64_t least) {
  const TimerLink* link = &list;
  do {
    HOLDFAST_CHECK(link->next != nullptr);
    HOLDFAST_CHECK(link->next->prev == link);
    link = link->next;
    if (link == &list) return;
    HOLDFAST_CHECK(static_cast<const TimerNode*>(link)->deadline_ >= least);
  } while (true);
}

void TimerWheel::CheckInvariants() const {
  HOLDFAST_CHECK(expiring_ || Empty(due_));
  CheckList(open_, INT64_MIN);
  CheckList(due_, INT64_MIN);
  for (unsigned level = 0; level < kLevels; ++level) {
    for (unsigned index = 0; index < kSlots; ++index) {
      const Slot& slot = slots_[level][index];
      if ((bitmaps_[level] >> index & 1) == 0) {
        HOLDFAST_CHECK(Empty(slot) && slot.prev == &slot);
        continue;
      }
      CheckList(slot, slot.least);
      HOLDFAST_CHECK(slot.least != kNeverNanos);  // What is cancelled is not put into a slot.
      // The least deadline lies within the slot's own time; the past is kept in the current tick.
      std::int64_t ahead = TickAt(slot.least, level) - TickAt(now_, level);
      if (level == 0) ahead = std::max(ahead, std::int64_t{0});
      HOLDFAST_CHECK(ahead >= 0 && ahead < std::int64_t{kSlots});
      HOLDFAST_CHECK(IndexOf(TickAt(now_, level) + ahead) == index);
    }
  }
}

}  // namespace holdfast::internal
