#include "core/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "base/random.h"
#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

// The promise that makes "4 KiB blocks" mean 4 KiB of payload, and vectors of entries aligned.
static_assert(sizeof(Block::data) == 4096);
static_assert(alignof(Block) >= 16);

TEST(BlockPoolTest, EveryBlockInUseIsAnotherOneAndAligned) {
  BlockPool pool;
  std::set<Block*> blocks;
  for (int i = 0; i < 10; ++i) blocks.insert(pool.Get());

  EXPECT_EQ(blocks.size(), 10u);
  for (Block* block : blocks) {
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block->data) % 16, 0u);
    EXPECT_EQ(block->next, nullptr);
    std::memset(block->data, 0xab, sizeof block->data);
    pool.Put(block);
  }
}

TEST(BlockPoolTest, ABlockPutBackIsGivenAgainBeforeTheHeapIsAsked) {
  BlockPool pool;
  Block* block = pool.Get();
  pool.Put(block);

  const FailingNew no_memory(0);
  EXPECT_EQ(pool.Get(), block);
  EXPECT_EQ(block->next, nullptr);

  std::memset(block->data, 0, sizeof block->data);  // It is the holder's again, every byte of it.
  pool.Put(block);
}

TEST(BlockPoolTest, CountsTheBlocksThatAreSomebodysAndTheOnesThatWait) {
  BlockPool pool;
  Block* first = pool.Get();
  Block* second = pool.Get();
  EXPECT_EQ(pool.in_use(), 2u);
  EXPECT_EQ(pool.free(), 0u);

  pool.Put(first);
  EXPECT_EQ(pool.in_use(), 1u);
  EXPECT_EQ(pool.free(), 1u);

  pool.Put(second);
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_EQ(pool.free(), 2u);
}

TEST(BlockPoolTest, KeepsNoMoreFreeBlocksThanItWasTold) {
  BlockPool pool(3);
  std::vector<Block*> blocks(10);
  for (Block*& block : blocks) block = pool.Get();
  for (Block* block : blocks) pool.Put(block);

  EXPECT_EQ(pool.free(), 3u);
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(BlockPoolTest, KeepsNothingWhenToldToKeepNothing) {
  BlockPool pool(0);
  pool.Put(pool.Get());
  EXPECT_EQ(pool.free(), 0u);
}

TEST(BlockPoolTest, OutOfMemoryIsAnAnswerThatCountsNothing) {
  BlockPool pool;
  {
    const FailingNew no_memory(0);
    EXPECT_EQ(pool.Get(), nullptr);
    EXPECT_EQ(pool.in_use(), 0u);
  }
  Block* block = pool.Get();
  ASSERT_NE(block, nullptr);
  pool.Put(block);
}

TEST(BlockPoolDeathTest, ABlockThatWasNotPutBackIsNoticed) {
  EXPECT_DEATH(
      {
        BlockPool pool;
        static_cast<void>(pool.Get());
      },
      "in_use_ == 0");
}

#if defined(__SANITIZE_ADDRESS__)
TEST(BlockPoolDeathTest, TouchingABlockThatWasPutBackIsNoticed) {
  BlockPool pool;
  Block* block = pool.Get();
  pool.Put(block);
  EXPECT_DEATH(block->data[17] = std::byte{1}, "use-after-poison");
}
#endif

TEST(BlockPoolTest, RandomGetsAndPutsNeverShareABlock) {
  Random random(PrintedSeed());
  constexpr std::size_t kFreeMax = 8;
  BlockPool pool(kFreeMax);
  std::vector<Block*> held;
  std::set<Block*> distinct;
  std::size_t free_blocks = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (held.empty() || random.Below(100) < (step / 1000 % 2 == 0 ? 60u : 40u)) {
      Block* block = pool.Get();
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(distinct.insert(block).second);
      std::memset(block->data, static_cast<int>(step & 0x7f), sizeof block->data);
      block->next = block;  // The holder's to use.
      held.push_back(block);
      free_blocks -= free_blocks > 0 ? 1 : 0;
    } else {
      std::swap(held[random.Below(held.size())], held.back());
      distinct.erase(held.back());
      pool.Put(held.back());
      held.pop_back();
      free_blocks = std::min(free_blocks + 1, kFreeMax);
    }
    ASSERT_EQ(pool.in_use(), held.size());
    ASSERT_EQ(pool.free(), free_blocks);
  }
  for (Block* block : held) pool.Put(block);
}

}  // namespace
}  // namespace holdfast::internal
