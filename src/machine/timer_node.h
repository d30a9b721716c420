// The part of a timer that hangs on the wheel: two links, a deadline, a callback; 32 bytes.
//
// What waits embeds it, so that arming a timer never allocates and the node shares a cache line with
// the connection that it serves. What it does is said in machine/timer_wheel.h.
//
// The wheel calls the callback with the node, and the owner finds itself by being derived from it. A
// pointer to the owner beside the callback was rejected: it would make 40 bytes of 32.
//
//   class Watchdog : private TimerNode {
//    public:
//     Watchdog() : TimerNode(&OnTimer) {}
//    private:
//     static void OnTimer(TimerNode& node) { static_cast<Watchdog&>(node).Bark(); }
//   };
//
// Threads: the reactor's only. Ownership: the owner's; the wheel only points at it.
#ifndef HOLDFAST_MACHINE_TIMER_NODE_H_
#define HOLDFAST_MACHINE_TIMER_NODE_H_

#include <chrono>
#include <cstdint>

#include <holdfast/time.h>

namespace holdfast::internal {

class TimerNode;
class TimerWheel;

// Runs when the deadline has come. The node is unarmed by then; the callback may arm it again, and
// may destroy it. Must not throw.
using TimerCallback = void (*)(TimerNode& node);

// The links of a circular list with a sentinel. Both null exactly while on no list.
struct TimerLink {
  TimerLink* prev = nullptr;
  TimerLink* next = nullptr;
};

class TimerNode : private TimerLink {
 public:
  // Not armed. Requires: callback != nullptr.
  constexpr explicit TimerNode(TimerCallback callback) noexcept : callback_(callback) {}
  TimerNode(const TimerNode&) = delete;
  TimerNode& operator=(const TimerNode&) = delete;
  // Allowed at any time, armed or not, in any callback, and after the wheel is gone: a destroyed
  // timer never fires.
  ~TimerNode() {
    if (next == nullptr) return;
    prev->next = next;
    next->prev = prev;
  }

  // The deadline it was last armed to; kNever once cancelled. Says nothing about being armed.
  [[nodiscard]] Instant deadline() const noexcept { return Instant(Duration(deadline_)); }

 private:
  friend class TimerWheel;

  std::int64_t deadline_ = INT64_MAX;  // Nanoseconds on the reactor's clock; INT64_MAX is kNever.
  TimerCallback callback_;
};

static_assert(sizeof(TimerNode) == 32, "two nodes a cache line");

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_TIMER_NODE_H_
