// Work handed to a reactor by other threads, and the handshake that keeps it from sleeping over it.
//
// The list is a stack of intrusive nodes: a producer pushes with one compare-and-swap, the reactor takes
// everything with one exchange and reverses it, which makes it FIFO for each producer. Since the consumer
// always takes all, there is no ABA. A bounded queue was rejected (Post cannot fail), a mutex too (a
// signal handler and a stop token may post).
//
// The word `state_` decides who wakes whom. Producers push first and then exchange it to kNotified: if it
// was kSleeping they wake the loop. The loop exchanges it to kSleeping before its wait: if it was
// kNotified it does not sleep. Both are read-modify-writes of one atomic, so one of them sees the other:
// no wake-up is lost, and while the loop is busy a post costs no system call.
#ifndef HOLDFAST_REACTOR_MAILBOX_H_
#define HOLDFAST_REACTOR_MAILBOX_H_

#include <atomic>
#include <cstdint>

namespace holdfast::internal {

// One piece of work. While it is in a mailbox it must not be touched by its owner.
class MailNode {
 public:
  // On the reactor's thread, in its turn. The node is out of the mailbox: it may be posted again, or
  // deleted.
  virtual void Deliver() noexcept = 0;
  // Instead of Deliver, when the reactor dies first.
  virtual void Discard() noexcept = 0;

 protected:
  ~MailNode() = default;

 private:
  friend class Mailbox;
  MailNode* next_ = nullptr;
};

class Mailbox {
 public:
  // Any thread, async-signal-safe. True when the loop sleeps and must be woken.
  [[nodiscard]] bool Push(MailNode& node) noexcept {
    MailNode* head = head_.load(std::memory_order_relaxed);
    do {
      node.next_ = head;
    } while (!head_.compare_exchange_weak(head, &node, std::memory_order_release,
                                          std::memory_order_relaxed));
    return Notify();
  }
  // As Push, without a node: something else changed that the loop must look at.
  [[nodiscard]] bool Notify() noexcept {
    return state_.exchange(State::kNotified, std::memory_order_seq_cst) == State::kSleeping;
  }

  // The loop, before its wait. False: there is news, do not sleep.
  [[nodiscard]] bool BeginSleep() noexcept {
    return state_.exchange(State::kSleeping, std::memory_order_seq_cst) != State::kNotified;
  }
  // The loop, after its wait. What was pushed before is visible to TakeAll.
  void EndSleep() noexcept { state_.exchange(State::kAwake, std::memory_order_seq_cst); }

  // All there is, oldest first; follow Next.
  [[nodiscard]] MailNode* TakeAll() noexcept {
    MailNode* stack = head_.exchange(nullptr, std::memory_order_acquire);
    MailNode* oldest = nullptr;
    while (stack != nullptr) {
      MailNode* const next = stack->next_;
      stack->next_ = oldest;
      oldest = stack;
      stack = next;
    }
    return oldest;
  }
  [[nodiscard]] static MailNode* Next(const MailNode& node) noexcept { return node.next_; }
  [[nodiscard]] bool empty() const noexcept {
    return head_.load(std::memory_order_relaxed) == nullptr;
  }

 private:
  enum class State : std::uint8_t { kAwake, kSleeping, kNotified };

  std::atomic<MailNode*> head_{nullptr};
  std::atomic<State> state_{State::kAwake};
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_REACTOR_MAILBOX_H_
