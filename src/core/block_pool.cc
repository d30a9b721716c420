#include "core/block_pool.h"

#include <new>

#include "base/check.h"
#include "base/poison.h"

namespace holdfast::internal {

BlockPool::~BlockPool() {
  HOLDFAST_CHECK(in_use_ == 0);
  while (free_list_ != nullptr) {
    Block* block = free_list_;
    free_list_ = block->next;
    Unpoison(block->data, sizeof(block->data));
    delete block;
  }
}

Block* BlockPool::Get() noexcept {
  Block* block = free_list_;
  if (block != nullptr) {
    free_list_ = block->next;
    --free_count_;
    Unpoison(block->data, sizeof(block->data));
  } else {
    block = new (std::nothrow) Block;
    if (block == nullptr) return nullptr;
  }
  block->next = nullptr;
  block->users = 0;
  ++in_use_;
  return block;
}

void BlockPool::Put(Block* block) noexcept {
  HOLDFAST_CHECK(block != nullptr && in_use_ > 0);
  --in_use_;
  if (free_count_ == free_max_) {
    delete block;
    return;
  }
  block->next = free_list_;
  free_list_ = block;
  ++free_count_;
  // It belongs to nobody now: whoever still touches its bytes is stopped there.
  Poison(block->data, sizeof(block->data));
}

}  // namespace holdfast::internal
