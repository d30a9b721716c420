// The bytes of one session that are on their way out, addressed by their place in its stream.
//
//      released()         sent()             end()
//   ------|==================|------------------|------>  wire offset, from 0 for each session
//         | the kernel took  | queued: not yet  | appended next
//         | them; not known  | given to it      |
//         | to be acked      |                  |
//
// Bytes are copied in once, into blocks of the reactor's pool, one behind the other: 64 small messages
// are one part of one send. They never move afterwards, since a send may be in the kernel's hands:
// appending goes behind them. Blocks return to the pool when all of their bytes are released, and a
// queue whose bytes are all released holds none. A ring that grows by copying was rejected for the
// first reason, a list of messages for a node and a part of each.
//
//   queue.Append(bytes);
//   iovec parts[16];
//   const size_t count = queue.Gather(parts);   // sendmsg(2) took n
//   queue.OnSent(n);
//   queue.Release(acked);                       // or queue.Release(queue.sent()): nothing is kept
//
// Pure but for the pool. Reactor thread.
#ifndef HOLDFAST_MACHINE_SEND_QUEUE_H_
#define HOLDFAST_MACHINE_SEND_QUEUE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/block_pool.h"

namespace holdfast::internal {

class SendQueue {
 public:
  // The pool must outlive the queue.
  explicit SendQueue(BlockPool& pool) noexcept : pool_(pool) {}
  ~SendQueue() { Clear(); }
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  // Copies `bytes` behind end(), whole or not at all: false when there is no memory, and nothing has
  // changed. Allowed while gathered bytes are in the kernel's hands.
  [[nodiscard]] bool Append(std::span<const std::byte> bytes) noexcept;
  // Fills `out` with the queued bytes from sent() on, as far as it reaches; returns how many parts.
  // No part is empty. They stay valid until OnSent passes them and Release, or Clear, gives them up.
  [[nodiscard]] std::size_t Gather(std::span<iovec> out) const noexcept;
  // The kernel took the next `bytes`. Requires: bytes <= queued().
  void OnSent(std::size_t bytes) noexcept;
  // Bytes below `boundary` are no longer needed. One that goes back changes nothing.
  // Requires: boundary <= sent().
  void Release(std::uint64_t boundary) noexcept;
  // Forgets everything and begins at offset 0. Requires: nothing of it is in the kernel's hands.
  void Clear() noexcept;

  [[nodiscard]] std::uint64_t released() const noexcept { return released_; }
  // W of the account: what the kernel took in this session.
  [[nodiscard]] std::uint64_t sent() const noexcept { return sent_; }
  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }
  // Bytes that the kernel has not taken.
  [[nodiscard]] std::size_t queued() const noexcept {
    return static_cast<std::size_t>(end_ - sent_);
  }
  // Bytes that take up memory here.
  [[nodiscard]] std::size_t held() const noexcept {
    return static_cast<std::size_t>(end_ - released_);
  }

  // Walks the blocks and checks that they hold what the members say. For tests.
  void CheckInvariants() const;

 private:
  // How far `offset` lies behind `base`.
  [[nodiscard]] static std::size_t Place(std::uint64_t offset, std::uint64_t base) noexcept {
    return static_cast<std::size_t>(offset - base);
  }

  void MoveCursor() noexcept;
  void ReturnBlocks(Block* block) noexcept;

  BlockPool& pool_;
  Block* head_ = nullptr;          // Null exactly when held() is 0.
  Block* tail_ = nullptr;          // The block that the next byte goes to, or behind.
  Block* cursor_ = nullptr;        // The block of the byte at sent(); tail_ when there is none yet.
  std::uint64_t head_base_ = 0;    // The wire offset of the first byte of head_'s data.
  std::uint64_t tail_base_ = 0;    // Of tail_'s.
  std::uint64_t cursor_base_ = 0;  // Of cursor_'s.
  std::uint64_t released_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t end_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_SEND_QUEUE_H_
