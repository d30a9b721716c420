#include "base/try_vector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

std::vector<int> Contents(const TryVector<int>& vector) { return {vector.begin(), vector.end()}; }

TEST(TryVectorTest, HoldsWhatStdVectorHolds) {
  Random random(PrintedSeed());
  TryVector<int> vector;
  std::vector<int> model;
  for (int round = 0; round < 2000; ++round) {
    const int value = static_cast<int>(random.Below(1000));
    switch (random.Below(6)) {
      case 0: {
        const std::vector<int> more(random.Below(20), value);
        ASSERT_TRUE(vector.TryAppend(more));
        model.insert(model.end(), more.begin(), more.end());
        break;
      }
      case 1: {
        const std::size_t size = random.Below(60);
        ASSERT_TRUE(vector.TryExtend(size, value));
        if (model.size() < size) model.resize(size, value);
        break;
      }
      case 2:
        vector.Clear();
        model.clear();
        break;
      case 3: {
        TryVector<int> taken(std::move(vector));
        EXPECT_TRUE(vector.empty());
        vector = std::move(taken);
        break;
      }
      default:
        ASSERT_TRUE(vector.TryPushBack(value));
        model.push_back(value);
        break;
    }
    ASSERT_EQ(Contents(vector), model);
    ASSERT_EQ(vector.size(), model.size());
    ASSERT_EQ(vector.empty(), model.empty());
    if (!model.empty()) {
      ASSERT_EQ(vector[model.size() - 1], model.back());
    }
  }
}

TEST(TryVectorTest, WithoutMemoryNothingIsAddedAndNothingLost) {
  TryVector<int> vector;
  {
    const FailingNew exhausted(0);
    EXPECT_FALSE(vector.TryPushBack(1));
    EXPECT_FALSE(vector.TryExtend(1, 1));
    EXPECT_TRUE(vector.TryAppend({}));
    EXPECT_TRUE(vector.empty());
  }
  ASSERT_TRUE(vector.TryReserve(2));
  const FailingNew exhausted(0);
  EXPECT_TRUE(vector.TryPushBack(1));
  EXPECT_TRUE(vector.TryPushBack(2));
  EXPECT_FALSE(vector.TryPushBack(3));
  EXPECT_EQ(Contents(vector), (std::vector<int>{1, 2}));
  vector.Clear();
  EXPECT_TRUE(vector.TryPushBack(4)) << "Clear keeps the memory";
  vector = {};
  EXPECT_FALSE(vector.TryPushBack(5)) << "an empty one has none";
}

TEST(TryVectorTest, GrowthDoubles) {
  const FailingNew scarce(18);  // 2^17 > 100,000, and the first.
  TryVector<int> vector;
  for (int i = 0; i < 100000; ++i) ASSERT_TRUE(vector.TryPushBack(i));
}

}  // namespace
}  // namespace holdfast::internal
