#include "base/slot_map.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "support/failing_new.h"

namespace holdfast::internal {
namespace {

using Map = SlotMap<int>;

TEST(SlotMapTest, FindsWhatWasInserted) {
  int a = 1, b = 2;
  Map map;
  const auto key_a = map.Insert(&a);
  const auto key_b = map.Insert(&b);
  ASSERT_TRUE(key_a && key_b);
  EXPECT_EQ(map.Find(key_a->slot, key_a->generation), &a);
  EXPECT_EQ(map.Find(key_b->slot, key_b->generation), &b);
  EXPECT_NE(key_a->slot, key_b->slot);
  EXPECT_EQ(map.size(), 2u);
  map.CheckInvariants();
}

TEST(SlotMapTest, ARemovedKeyFindsNothingEvenAfterItsSlotIsTakenAgain) {
  int a = 1, b = 2;
  Map map;
  const auto old_key = *map.Insert(&a);
  map.Remove(old_key);
  EXPECT_EQ(map.Find(old_key.slot, old_key.generation), nullptr);
  const auto new_key = *map.Insert(&b);
  EXPECT_EQ(new_key.slot, old_key.slot);
  EXPECT_NE(new_key.generation, old_key.generation);
  EXPECT_EQ(map.Find(old_key.slot, old_key.generation), nullptr);
  EXPECT_EQ(map.Find(new_key.slot, new_key.generation), &b);
}

TEST(SlotMapTest, NumbersThatWereNeverGivenOutFindNothing) {
  int a = 1;
  Map map;
  EXPECT_EQ(map.Find(0, 0), nullptr);
  EXPECT_EQ(map.Find(0, 1), nullptr);
  const auto key = *map.Insert(&a);
  EXPECT_EQ(map.Find(key.slot, 0), nullptr);
  EXPECT_EQ(map.Find(key.slot, key.generation + 1), nullptr);
  EXPECT_EQ(map.Find(key.slot + 1, 1), nullptr);
  EXPECT_EQ(map.Find(~0u, ~0u), nullptr);
  map.Remove(key);
  // The free slot already has its next generation; nobody holds it yet.
  EXPECT_EQ(map.Find(key.slot, key.generation + 1), nullptr);
}

TEST(SlotMapTest, NoMoreSlotsThanAllowed) {
  int a = 1;
  Map map(3);
  const auto first = map.Insert(&a);
  EXPECT_TRUE(first && map.Insert(&a) && map.Insert(&a));
  EXPECT_EQ(map.Insert(&a), std::nullopt);
  EXPECT_EQ(map.size(), 3u);
  map.CheckInvariants();
  map.Remove(*first);
  EXPECT_TRUE(map.Insert(&a));
}

TEST(SlotMapTest, GrowthKeepsKeysAndNumbersEverySlotOnce) {
  std::vector<int> payloads(10000);
  Map map;
  std::vector<Map::Key> keys;
  std::set<std::uint32_t> slots;
  for (int& payload : payloads) {
    keys.push_back(*map.Insert(&payload));
    slots.insert(keys.back().slot);
  }
  EXPECT_EQ(slots.size(), payloads.size());
  EXPECT_LT(*slots.rbegin(), payloads.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(map.Find(keys[i].slot, keys[i].generation), &payloads[i]);
  }
  map.CheckInvariants();
}

class SlotMapMemoryTest : public testing::Test {
 protected:
  Map map_;
  int payload_ = 1;
};

TEST_F(SlotMapMemoryTest, TheFirstInsertWithoutMemoryIsRefused) {
  {
    const FailingNew exhausted(0);
    EXPECT_FALSE(map_.Insert(&payload_));
    EXPECT_EQ(map_.size(), 0u);
    map_.CheckInvariants();
  }
  EXPECT_TRUE(map_.Insert(&payload_));
}

TEST_F(SlotMapMemoryTest, FailingGrowthLeavesEverythingAsItWas) {
  ASSERT_TRUE(map_.Reserve(10));
  const auto key = *map_.Insert(&payload_);
  for (int i = 1; i < 10; ++i) ASSERT_TRUE(map_.Insert(&payload_));
  {
    const FailingNew exhausted(0);
    EXPECT_FALSE(map_.Insert(&payload_));
    EXPECT_FALSE(map_.Reserve(11));
    EXPECT_EQ(map_.size(), 10u);
    EXPECT_EQ(map_.Find(key.slot, key.generation), &payload_);
    map_.CheckInvariants();
    map_.Remove(key);
    EXPECT_TRUE(map_.Insert(&payload_)) << "a freed slot needs no memory";
  }
  EXPECT_TRUE(map_.Insert(&payload_));
}

TEST_F(SlotMapMemoryTest, NothingIsAllocatedWithinTheReserve) {
  ASSERT_TRUE(map_.Reserve(1000));
  const FailingNew exhausted(0);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(map_.Insert(&payload_));
  EXPECT_FALSE(map_.Reserve(kSlotCountMax + 1));
}

// Growth costs a logarithm of calls, not one for each payload.
TEST_F(SlotMapMemoryTest, GrowthDoubles) {
  const FailingNew scarce(17);  // 2^17 > 100,000
  for (int i = 0; i < 100000; ++i) ASSERT_TRUE(map_.Insert(&payload_));
}

TEST(SlotMapTest, UserDataIsGenerationThenSlotThenKind) {
  static_assert(PackUserData(0x12345678, 0xabcdef, 0x9a) == 0x12345678abcdef9a);
  static_assert(PackUserData(~0u, kSlotCountMax - 1, 0xff) == ~std::uint64_t{0});
  static_assert(UserDataGeneration(0x12345678abcdef9a) == 0x12345678);
  static_assert(UserDataSlot(0x12345678abcdef9a) == 0xabcdef);
  static_assert(UserDataKind(0x12345678abcdef9a) == 0x9a);
  int a = 1;
  Map map;
  const auto key = *map.Insert(&a);
  EXPECT_NE(PackUserData(key.generation, key.slot, 0), 0u);
}

TEST(SlotMapTest, GenerationsNeverComeToZero) {
  static_assert(NextGeneration(1) == 2);
  static_assert(NextGeneration(~0u - 1) == ~0u);
  static_assert(NextGeneration(~0u) == 1);
}

TEST(SlotMapDeathTest, MisuseIsABug) {
  int a = 1;
  Map map;
  const auto key = *map.Insert(&a);
  EXPECT_DEATH((void)map.Insert(nullptr), "CHECK failed");
  EXPECT_DEATH((void)PackUserData(1, kSlotCountMax, 0), "CHECK failed");
  EXPECT_DEATH(Map(kSlotCountMax + 1), "CHECK failed");
  map.Remove(key);
  EXPECT_DEATH(map.Remove(key), "CHECK failed");
}

std::uint64_t Seed() {
  const char* const text = std::getenv("HOLDFAST_SEED");
  const std::uint64_t seed =
      text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
  std::printf("HOLDFAST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// Every key that was ever given out finds its payload while it lives and nothing afterwards.
TEST(SlotMapTest, AgreesWithAMapOfAllKeysEverGivenOut) {
  Random random(Seed());
  std::vector<int> payloads(50);
  Map map(200);
  std::vector<Map::Key> live;
  std::map<std::pair<std::uint32_t, std::uint32_t>, int*> model;  // null: was removed
  for (int step = 0; step < 20000; ++step) {
    // The tide turns every 500 steps, so that the map runs full and empty.
    if (random.Below(100) < (step / 500 % 2 == 0 ? 70u : 30u)) {
      int& payload = payloads[random.Below(payloads.size())];
      const auto key = map.Insert(&payload);
      ASSERT_EQ(key.has_value(), live.size() < 200);
      if (key) {
        ASSERT_TRUE(model.emplace(std::pair(key->slot, key->generation), &payload).second)
            << "a key was given out twice";
        live.push_back(*key);
      }
    } else if (!live.empty()) {
      std::swap(live[random.Below(live.size())], live.back());
      map.Remove(live.back());
      model[{live.back().slot, live.back().generation}] = nullptr;
      live.pop_back();
    }
    map.CheckInvariants();
    ASSERT_EQ(map.size(), live.size());
  }
  for (const auto& [key, payload] : model) ASSERT_EQ(map.Find(key.first, key.second), payload);
}

}  // namespace
}  // namespace holdfast::internal
