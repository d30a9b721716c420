// Memory for bytes that wait: blocks of 4,096, taken from and given back to a free list.
//
// A reactor owns one pool. Message queues hold blocks only while something waits, so an idle
// link holds none, and in steady state a message costs no call of the heap: its block comes from the
// list and returns there. Blocks are singly linked by whoever has them; a list needs no node of its own.
//
// A pool that only grows was rejected: one stalled peer with 8 MiB queued would keep 8 MiB for ever.
// At most `free_max` blocks wait in the list, what is above goes back to the heap. A slab was rejected
// too: a block is one allocation, so that AddressSanitizer sees its ends, and a free block is poisoned.
//
//   BlockPool pool;
//   if (Block* block = pool.Get()) pool.Put(block);
//
// One thread: the reactor's. Nothing here throws; out of memory is an answer.
#ifndef HOLDFAST_CORE_BLOCK_POOL_H_
#define HOLDFAST_CORE_BLOCK_POOL_H_

#include <cstddef>
#include <cstdint>

namespace holdfast::internal {

inline constexpr std::size_t kBlockSize = 4096;

struct Block {
  Block* next;          // The holder's, or the free list's.
  std::uint32_t users;  // The holder's: how many still need it.
  alignas(16) std::byte data[kBlockSize];
};

class BlockPool {
 public:
  // `free_max`: how many free blocks are kept for reuse; the default keeps 4 MiB.
  explicit BlockPool(std::size_t free_max = 1024) noexcept : free_max_(free_max) {}
  // Requires: every block was put back.
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // A block with `next` null, no users and data undefined, or nullptr when there is no memory.
  [[nodiscard]] Block* Get() noexcept;
  // Takes back what Get gave; its data must not be touched afterwards. Requires: not null.
  void Put(Block* block) noexcept;

  // Blocks that are somebody's now.
  [[nodiscard]] std::size_t in_use() const noexcept { return in_use_; }
  // Blocks that wait for reuse; never more than free_max.
  [[nodiscard]] std::size_t free() const noexcept { return free_count_; }

 private:
  Block* free_list_ = nullptr;
  std::size_t free_count_ = 0;
  std::size_t free_max_;
  std::size_t in_use_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_BLOCK_POOL_H_
