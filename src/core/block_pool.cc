#include "core/block_pool.h"

#include <new>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define HOLDFAST_POISON_FREE_BLOCKS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOLDFAST_POISON_FREE_BLOCKS
#endif
#endif

#ifdef HOLDFAST_POISON_FREE_BLOCKS
#include <sanitizer/asan_interface.h>
#endif

namespace holdfast::internal {
namespace {

// A block in the free list belongs to nobody: whoever still touches its bytes is stopped there.
void Poison([[maybe_unused]] Block* block) noexcept {
#ifdef HOLDFAST_POISON_FREE_BLOCKS
  ASAN_POISON_MEMORY_REGION(block->data, sizeof block->data);
#endif
}

void Unpoison([[maybe_unused]] Block* block) noexcept {
#ifdef HOLDFAST_POISON_FREE_BLOCKS
  ASAN_UNPOISON_MEMORY_REGION(block->data, sizeof block->data);
#endif
}

}  // namespace

BlockPool::~BlockPool() {
  HOLDFAST_CHECK(in_use_ == 0);
  while (free_list_ != nullptr) {
    Block* block = free_list_;
    free_list_ = block->next;
    Unpoison(block);
    delete block;
  }
}

Block* BlockPool::Get() noexcept {
  Block* block = free_list_;
  if (block != nullptr) {
    free_list_ = block->next;
    --free_count_;
    Unpoison(block);
  } else {
    block = new (std::nothrow) Block;
    if (block == nullptr) return nullptr;
  }
  block->next = nullptr;
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
  Poison(block);
}

}  // namespace holdfast::internal
