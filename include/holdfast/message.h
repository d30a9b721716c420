// Messages that a link could not deliver, with their bytes and what became of each.
//
//   .on_down = [](holdfast::Link&, const holdfast::Down& down) {
//     for (const holdfast::Message& message : down.messages) {
//       if (!message.kept()) Save(message.sequence(), message.fate(), message.Text());
//     }
//   },
//
// Views: they die with the callback that they are passed to. Reactor thread.
#ifndef HOLDFAST_MESSAGE_H_
#define HOLDFAST_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>

#include <holdfast/link_state.h>

namespace holdfast {

namespace internal {
class MessageQueue;
}

// What to do with messages that a lost session leaves behind (docs/delivery.md). What on_up sends, and
// with login_timeout everything before MarkHealthy, belongs to its session: it is always handed back.
enum class OnLoss : std::uint8_t {
  kHandBack,      // on_down hands them all back; nothing is sent again.
  kReplayUnsent,  // What never left this host is sent in the next session: no message arrives twice.
                  // What is in doubt is handed back.
  kReplayUnacked,  // What is not acknowledged is sent again: no message is lost; some arrive twice.
};

class Message {
 public:
  // As Send gave it.
  [[nodiscard]] std::uint64_t sequence() const noexcept;
  [[nodiscard]] std::size_t size() const noexcept;
  // kInDoubt or kUnsent, over all sessions that had it.
  [[nodiscard]] Fate fate() const noexcept;
  // The link keeps it and sends it again: this is not its end.
  [[nodiscard]] bool kept() const noexcept;
  // Requires: out.size() >= size().
  void CopyTo(std::span<std::byte> out) const noexcept;
  // A copy of its bytes. Allocates.
  [[nodiscard]] std::string Text() const;

 private:
  friend class Messages;
  friend class internal::MessageQueue;
  Message(const void* item, OnLoss rule) noexcept : item_(item), rule_(rule) {}
  const void* item_;
  OnLoss rule_;
};

// A forward range of Message, in the order in which they were, or were to be, sent.
class Messages {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Message;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = Message;

    Message operator*() const noexcept;
    Iterator& operator++() noexcept;
    void operator++(int) noexcept { ++*this; }
    friend bool operator==(const Iterator&, const Iterator&) noexcept = default;

   private:
    friend class Messages;
    Iterator(const void* block, std::size_t index, OnLoss rule) noexcept
        : block_(block), index_(index), rule_(rule) {}
    const void* block_;
    std::size_t index_;
    OnLoss rule_;
  };

  Messages() noexcept = default;  // None.
  [[nodiscard]] Iterator begin() const noexcept;
  [[nodiscard]] Iterator end() const noexcept { return {nullptr, 0, rule_}; }
  [[nodiscard]] bool empty() const noexcept { return begin() == end(); }
  // O(1).
  [[nodiscard]] std::size_t size() const noexcept;

 private:
  friend class internal::MessageQueue;
  Messages(const internal::MessageQueue* queue, OnLoss rule) noexcept
      : queue_(queue), rule_(rule) {}
  const internal::MessageQueue* queue_ = nullptr;
  OnLoss rule_ = OnLoss::kHandBack;
};

}  // namespace holdfast

#endif  // HOLDFAST_MESSAGE_H_
