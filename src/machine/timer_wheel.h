// A hierarchical timer wheel: every timeout, heartbeat and backoff of a reactor.
//
// A runtime of long-lived connections arms timers far more often than it lets them fire: a silence
// deadline moves with every message. So arming and cancelling must be nearly free, at a million
// timers as at ten, while firing stays exact to the nanosecond of the clock. Binary heaps (libuv,
// Asio, libevent) pay a logarithm and a cache miss a level for each move; one wheel of buckets (Netty,
// Linux since 2016) is as cheap as this one but fires late by a bucket. Here a slot only *sorts
// roughly*: it knows the least deadline in it and is opened exactly then; what is not due yet moves on
// to a finer slot. Nothing ticks: a reactor sleeps until next_deadline().
//
// 8 levels of 64 slots. A slot of level 0 is a tick of 2^19 ns (0.52 ms), each further level is 64
// times coarser: 34 ms, 2.1 s, 2.3 min, 2.4 h, 6.5 days, 417 days and more than 70 years are spanned
// before the next is needed, so any int64 deadline has its place. Choices that look free and are not:
//
//  - The level goes by the distance to the deadline, not by the highest bit that differs (tokio): that
//    puts all timers beyond the next 2.3 minute mark into one slot. With a million timers and no bound
//    on the work of a turn, its opening took 193 ms; by distance the worst turn took 14.
//  - Extending is lazy: a linked timer whose deadline grows is only told so, one store, and is looked at
//    when its slot opens. The rule could be "not below the slot's least deadline", but a node of 32
//    bytes has no room to name its slot; its own deadline bounds that one from above and is at hand.
//    Cancelling is lazy too. Each such timer costs at most one wake-up for nothing.
//  - Expiry has two phases. First all due slots of all levels are emptied, then timers fire or move
//    on. In one phase, a timer armed by a callback could hide a due slot behind it.
//  - Work is bounded: a turn fires *and moves* at most `budget` timers, the rest waits on a list whose
//    presence makes next_deadline() say "now".
//
// Order: the timers that one Expire fires, it fires by deadline. Equal ones fire in a deterministic
// order; those armed one after the other between two Expires fire in the order of arming, unless the
// work exceeded the budget. Over the budget order holds within each Expire, not from one to the next.
// Equal calls have equal outcomes: no clock is read, no address compared for order.
//
// Sources: Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987; kernel/time/timer.c;
// ratas (the contract for callbacks); tokio (a bitmap a level).
//
//   TimerWheel wheel(now);
//   wheel.Arm(node, now + 20s);                 // O(1), no allocation
//   ...                                         // sleep until wheel.next_deadline(), read the clock
//   wheel.Expire(now);
//
// One thread. No allocation, no error. A node is armed on one wheel at a time, and must stay where it
// is; nodes and wheel may be destroyed in any order. 12 KiB.
#ifndef HOLDFAST_MACHINE_TIMER_WHEEL_H_
#define HOLDFAST_MACHINE_TIMER_WHEEL_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include <holdfast/time.h>

#include "machine/timer_node.h"

namespace holdfast::internal {

class TimerWheel {
 public:
  // Any instant will do as a start, also one before the clock's zero.
  explicit TimerWheel(Instant now) noexcept;
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;
  // Leaves every node unarmed. Not from inside a callback.
  ~TimerWheel();

  // Lets `node` fire in the first Expire whose `now` is not before `deadline`; a deadline that has
  // passed is legal, kNever is Cancel. An armed node is moved. O(1). Allowed inside callbacks: what
  // they arm to the past or present fires in the next Expire, so that no callback can keep this one.
  void Arm(TimerNode& node, Instant deadline) noexcept {
    const std::int64_t nanos = deadline.time_since_epoch().count();
    // Later than before: its slot opens early enough, and it is looked at then. Not so for a deadline
    // that has passed: the node may wait in the very batch that is firing.
    if (node.next != nullptr && nanos >= node.deadline_ && nanos > now_) {
      node.deadline_ = nanos;
    } else {
      Relink(node, nanos);
    }
  }

  // Prevents `node` from firing; nothing if it is not armed. One store. Allowed inside callbacks, also
  // for a node that is due in the same Expire. The links stay until the slot opens, the node is armed
  // to something else, or it is destroyed.
  void Cancel(TimerNode& node) noexcept { node.deadline_ = kNeverNanos; }

  // True from Arm until Cancel or until just before the callback runs.
  [[nodiscard]] bool armed(const TimerNode& node) const noexcept {
    return node.next != nullptr && node.deadline_ != kNeverNanos;
  }

  // When Expire is to be called next; kNever if nothing is armed. Never later than the least armed
  // deadline, and equal to it as long as no armed timer was cancelled, destroyed, or armed anew since
  // (each may cost one wake-up for nothing, at a deadline that it had). While an Expire has left work
  // undone it is the `now` of that Expire. It may lie in the past: then do not sleep. O(levels).
  [[nodiscard]] Instant next_deadline() const noexcept;

  // Runs the callbacks of the timers with deadline <= now, by deadline, and returns their number. At
  // most `budget` timers are fired, moved to a finer slot, or dropped as cancelled; if that was not
  // enough, next_deadline() says so. Never fires early, whatever it is given: `now` may jump ahead by
  // years, and may go back. Callbacks may arm, cancel and destroy any node, their own included, but
  // not call Expire or destroy the wheel.
  std::size_t Expire(Instant now, std::size_t budget = 256) noexcept;

  // Aborts unless links, bitmaps and least deadlines agree. O(timers); for tests, also in callbacks.
  void CheckInvariants() const;

 private:
  static constexpr unsigned kTickBits = 19;
  static constexpr unsigned kSlotBits = 6;
  static constexpr unsigned kSlots = 1u << kSlotBits;
  static constexpr unsigned kLevels = 8;
  static constexpr std::int64_t kNeverNanos = INT64_MAX;
  // The longest distance in ticks, from the least int64 to the greatest, has 45 bits.
  static_assert(kLevels * kSlotBits >= 64 - kTickBits);

  // The sentinel of a circular list of nodes. Valid while the slot's bit is set: `least` is no later
  // than any deadline in the list, and was the deadline of some node when that node was put here.
  struct Slot : TimerLink {
    std::int64_t least = 0;
  };

  static std::int64_t TickAt(std::int64_t nanos, unsigned level) noexcept {
    return nanos >> (kTickBits + kSlotBits * level);
  }
  static unsigned IndexOf(std::int64_t tick) noexcept {
    return static_cast<unsigned>(tick) & (kSlots - 1);
  }
  static bool Empty(const TimerLink& list) noexcept { return list.next == &list; }
  static void Reset(TimerLink& list) noexcept { list.prev = list.next = &list; }
  static void PushBack(TimerLink& list, TimerNode& node) noexcept;
  static TimerNode& PopFront(TimerLink& list) noexcept;
  static void SpliceBack(TimerLink& target, TimerLink& source) noexcept;
  static TimerLink* Merge(TimerLink* early, TimerLink* late) noexcept;
  static void SortByDeadline(TimerLink& list) noexcept;
  static void ReleaseAll(TimerLink& list) noexcept;
  static void CheckList(const TimerLink& list, std::int64_t least);

  // The first slot in time of a level that has any. Requires: bitmaps_[level] != 0.
  [[nodiscard]] unsigned FirstIndex(unsigned level) const noexcept;
  void Relink(TimerNode& node, std::int64_t deadline) noexcept;
  void Unlink(TimerNode& node) noexcept;
  void Insert(TimerNode& node) noexcept;
  void OpenDueSlots(std::int64_t now) noexcept;
  void TakeFromOpen(std::int64_t now, std::size_t budget) noexcept;
  std::size_t FireDue(std::int64_t now) noexcept;
  bool IsDueElseSettle(TimerNode& node, std::int64_t now) noexcept;

  std::int64_t now_;         // The greatest `now` ever given, which places the slots in time.
  std::int64_t expired_to_;  // The `now` given last: the same, unless the clock went back.
  // Bit i of a level is set when slot i may hold nodes; a clear bit says that it is empty. A set one
  // may outlive the nodes, because a dying node does not know its slot: then the slot opens for
  // nothing.
  std::array<std::uint64_t, kLevels> bitmaps_{};
  TimerLink open_;         // Nodes of opened slots that no Expire came to yet.
  TimerLink due_;          // What the running Expire is to fire, by deadline. Empty outside.
  bool expiring_ = false;  // True exactly while Expire runs.
  std::array<std::array<Slot, kSlots>, kLevels> slots_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_TIMER_WHEEL_H_
