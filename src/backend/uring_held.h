// Completions that were taken from the ring and wait to be delivered, in their order.
//
// Most stay in the ring until they are delivered. Here are those of a socket that has had its share of
// the turn, and, when the ring overflowed, as many as there is room for: the kernel needs the entries.
// A walk delivers from the front and may put some aside, which then come first in the next walk.
#ifndef HOLDFAST_BACKEND_URING_HELD_H_
#define HOLDFAST_BACKEND_URING_HELD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/socket.h"
#include "backend/uring_ring.h"
#include "base/slot_map.h"

namespace holdfast::internal {

struct Completion {
  std::uint64_t user_data;
  std::int32_t result;
  std::uint32_t flags;

  [[nodiscard]] std::uint8_t kind() const noexcept { return UserDataKind(user_data); }
  [[nodiscard]] bool is(OpKind op) const noexcept {
    return kind() == static_cast<std::uint8_t>(op);
  }
  [[nodiscard]] bool more() const noexcept { return (flags & IORING_CQE_F_MORE) != 0; }
  [[nodiscard]] bool has_buffer() const noexcept { return (flags & IORING_CQE_F_BUFFER) != 0; }
  [[nodiscard]] unsigned buffer() const noexcept { return flags >> IORING_CQE_BUFFER_SHIFT; }
};

// What one socket gets of a turn, in bytes. A receive counts as 8 KiB at least and an accept as 1 KiB,
// which makes 8 completions and 64 connections.
inline constexpr std::uint32_t kTurnShare = 64 << 10;
inline constexpr std::uint32_t kReceiveShare = kTurnShare / 8;
inline constexpr std::uint32_t kAcceptShare = kTurnShare / 64;

// Counts a completion into its socket's share of `turn`. True when it must wait for the next turn.
[[nodiscard]] inline bool ExceedsShare(const Completion& completion, Socket& socket,
                                       std::uint32_t turn) noexcept {
  const bool receive = completion.is(OpKind::kReceive);
  if (!receive && !completion.is(OpKind::kAccept)) return false;
  if (socket.turn != turn) {
    socket.turn = turn;
    socket.turn_bytes = 0;
  }
  const auto size = static_cast<std::uint32_t>(std::max(completion.result, 0));
  const std::uint32_t bytes = receive ? std::max(kReceiveShare, size) : kAcceptShare;
  if (socket.turn_bytes > 0 && socket.turn_bytes + bytes > kTurnShare) {
    socket.turn_bytes = kTurnShare;  // What comes behind it stays behind it.
    return true;
  }
  socket.turn_bytes += bytes;
  return false;
}

class HeldCompletions {
 public:
  // Makes room for `count` at least. Call once and first.
  void Reserve(std::size_t count) {
    std::size_t size = 64;
    while (size < count) size *= 2;
    entries_.resize(size);
  }

  [[nodiscard]] bool empty() const noexcept { return head_ == tail_; }
  [[nodiscard]] std::size_t room() const noexcept { return entries_.size() - (tail_ - head_); }

  // Takes at most `count_max` from the ring, and no more than there is room for.
  void Take(UringRing& ring, std::size_t count_max) noexcept {
    const unsigned first = ring.completion_head();
    const auto count = static_cast<unsigned>(
        std::min<std::size_t>({ring.completion_tail() - first, room(), count_max}));
    for (unsigned i = 0; i < count; ++i) {
      const io_uring_cqe& cqe = ring.completion(first + i);
      At(tail_++) = {cqe.user_data, cqe.res, cqe.flags};
    }
    if (count > 0) ring.Consume(count);
  }

  // --- A walk: Begin; while not done(): Peek, then PutAside, Replace or Drop; End. What is taken during
  // a walk waits for the next one.
  void Begin() noexcept {
    position_ = head_;
    end_ = tail_;
    aside_ = 0;
  }
  [[nodiscard]] bool done() const noexcept { return position_ == end_; }
  [[nodiscard]] Completion Peek() noexcept { return At(position_); }
  void PutAside() noexcept { At(head_ + aside_++) = At(position_++); }
  void Replace(const Completion& completion) noexcept { At(position_) = completion; }
  void Drop() noexcept { ++position_; }
  void End() noexcept {
    for (std::size_t i = aside_; i > 0; --i) At(position_ - aside_ + i - 1) = At(head_ + i - 1);
    head_ = position_ - aside_;
  }

 private:
  [[nodiscard]] Completion& At(std::size_t position) noexcept {
    return entries_[position & (entries_.size() - 1)];
  }

  std::vector<Completion> entries_;  // A ring of a power of two; positions run on.
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
  std::size_t position_ = 0;  // Of the walk.
  std::size_t end_ = 0;
  std::size_t aside_ = 0;  // Put aside at the front, during a walk.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_HELD_H_
