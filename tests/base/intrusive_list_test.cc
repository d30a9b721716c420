#include "base/intrusive_list.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "base/random.h"

namespace holdfast::internal {
namespace {

struct Item : ListNode {
  explicit Item(int n) : number(n) {}
  int number;
};

using ItemList = IntrusiveList<Item>;

std::vector<int> Numbers(ItemList& list) {
  list.CheckInvariants();
  std::vector<int> numbers;
  for (Item& item : list) numbers.push_back(item.number);
  return numbers;
}

void Clear(ItemList& list) {
  while (list.PopFront() != nullptr) {
  }
}

using Order = std::vector<int>;

TEST(IntrusiveListTest, ANewListIsEmptyAndANewNodeUnlinked) {
  ItemList list;
  const Item item(1);
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.front(), nullptr);
  EXPECT_EQ(list.back(), nullptr);
  EXPECT_EQ(list.PopFront(), nullptr);
  EXPECT_EQ(list.begin(), list.end());
  EXPECT_FALSE(item.linked());
}

TEST(IntrusiveListTest, WhatIsPushedStandsInOrder) {
  Item a(1), b(2), c(3);
  ItemList list;
  for (Item* item : {&a, &b, &c}) list.PushBack(*item);
  EXPECT_EQ(Numbers(list), (Order{1, 2, 3}));
  EXPECT_EQ(list.front(), &a);
  EXPECT_EQ(list.back(), &c);
  EXPECT_TRUE(b.linked());
  Clear(list);
}

TEST(IntrusiveListTest, PopFrontTakesTheFirstAndUnlinksIt) {
  Item a(1), b(2);
  ItemList list;
  list.PushBack(a);
  list.PushBack(b);
  EXPECT_EQ(list.PopFront(), &a);
  EXPECT_FALSE(a.linked());
  EXPECT_EQ(Numbers(list), (Order{2}));
  EXPECT_EQ(list.PopFront(), &b);
  EXPECT_TRUE(list.empty());
}

TEST(IntrusiveListTest, UnlinkTakesAnElementOutOfAnyPlace) {
  Item a(1), b(2), c(3);
  ItemList list;
  for (Item* item : {&a, &b, &c}) list.PushBack(*item);
  b.Unlink();
  EXPECT_EQ(Numbers(list), (Order{1, 3}));
  c.Unlink();
  EXPECT_EQ(Numbers(list), (Order{1}));
  a.Unlink();
  EXPECT_TRUE(list.empty());
  EXPECT_FALSE(a.linked() || b.linked() || c.linked());
}

TEST(IntrusiveListTest, AnUnlinkedElementCanBeLinkedAgain) {
  Item a(1), b(2);
  ItemList list;
  list.PushBack(a);
  list.PushBack(b);
  a.Unlink();
  list.PushBack(a);
  EXPECT_EQ(Numbers(list), (Order{2, 1}));
  Clear(list);
}

TEST(IntrusiveListTest, SpliceMovesAllToTheBackAndLeavesTheOtherEmpty) {
  Item a(1), b(2), c(3), d(4);
  ItemList list, other;
  list.PushBack(a);
  list.PushBack(b);
  other.PushBack(c);
  other.PushBack(d);
  list.Splice(other);
  EXPECT_EQ(Numbers(list), (Order{1, 2, 3, 4}));
  EXPECT_EQ(Numbers(other), Order{});
  Clear(list);
}

TEST(IntrusiveListTest, SpliceWithAnEmptyListOnEitherSide) {
  Item a(1);
  ItemList list, other;
  other.PushBack(a);
  list.Splice(other);
  EXPECT_EQ(Numbers(list), (Order{1}));
  list.Splice(other);
  EXPECT_EQ(Numbers(list), (Order{1}));
  EXPECT_TRUE(other.empty());
  Clear(list);
}

TEST(IntrusiveListTest, AnElementMayBeUnlinkedBehindTheIterator) {
  Item a(1), b(2), c(3);
  ItemList list;
  for (Item* item : {&a, &b, &c}) list.PushBack(*item);
  for (auto it = list.begin(); it != list.end();) {
    Item& item = *it++;
    if (item.number != 2) item.Unlink();
  }
  EXPECT_EQ(Numbers(list), (Order{2}));
  Clear(list);
}

TEST(IntrusiveListTest, IterationGoesBothWays) {
  Item a(1), b(2);
  ItemList list;
  list.PushBack(a);
  list.PushBack(b);
  auto it = list.end();
  EXPECT_EQ((--it)->number, 2);
  EXPECT_EQ((--it)->number, 1);
  EXPECT_EQ(it, list.begin());
  Clear(list);
}

struct Red;
struct Blue;
struct Both : TaggedListNode<Red>, TaggedListNode<Blue> {
  std::uint64_t payload = 7;  // Off the start of the object, so that a wrong cast would show.
};

TEST(IntrusiveListTest, OneElementCanBeOnTwoListsByTag) {
  Both x, y;
  IntrusiveList<Both, TaggedListNode<Red>> red;
  IntrusiveList<Both, TaggedListNode<Blue>> blue;
  red.PushBack(x);
  red.PushBack(y);
  blue.PushBack(y);
  blue.PushBack(x);
  EXPECT_EQ(red.front(), &x);
  EXPECT_EQ(blue.front(), &y);
  EXPECT_EQ(blue.front()->payload, 7u);
  IntrusiveList<Both, TaggedListNode<Blue>>::Remove(x);
  EXPECT_EQ(red.PopFront(), &x);
  EXPECT_EQ(red.PopFront(), &y);
  EXPECT_EQ(blue.PopFront(), &y);
  EXPECT_TRUE(blue.empty());
}

TEST(IntrusiveListDeathTest, ALinkedElementMustNotDie) {
  EXPECT_DEATH(
      {
        ItemList list;
        auto item = std::make_unique<Item>(1);
        list.PushBack(*item);
        item.reset();
      },
      "CHECK failed: !linked");
}

TEST(IntrusiveListDeathTest, AListWithElementsMustNotDie) {
  Item item(1);
  EXPECT_DEATH(
      {
        ItemList list;
        list.PushBack(item);
      },
      "CHECK failed: empty");
}

TEST(IntrusiveListDeathTest, LinkingTwiceAndUnlinkingTwiceAreBugs) {
  Item item(1);
  ItemList list, other;
  EXPECT_DEATH(item.Unlink(), "CHECK failed: linked");
  list.PushBack(item);
  EXPECT_DEATH(other.PushBack(item), "CHECK failed");
  EXPECT_DEATH(list.Splice(list), "CHECK failed");
  Clear(list);
}

std::uint64_t Seed() {
  const char* const text = std::getenv("HOLDFAST_SEED");
  const std::uint64_t seed =
      text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
  std::printf("HOLDFAST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// Two lists and twenty elements against std::list, by random operations.
TEST(IntrusiveListTest, AgreesWithAListOfPointersUnderRandomOperations) {
  Random random(Seed());
  std::vector<std::unique_ptr<Item>> items;
  for (int i = 0; i < 20; ++i) items.push_back(std::make_unique<Item>(i));
  ItemList lists[2];
  std::list<int> models[2];
  for (int step = 0; step < 20000; ++step) {
    const std::size_t side = random.Below(2);
    ItemList& list = lists[side];
    std::list<int>& model = models[side];
    Item& item = *items[random.Below(items.size())];
    switch (random.Below(8)) {
      case 0:
        list.Splice(lists[1 - side]);
        model.splice(model.end(), models[1 - side]);
        break;
      case 1: {
        const Item* const popped = list.PopFront();
        ASSERT_EQ(popped == nullptr, model.empty());
        if (popped != nullptr) {
          ASSERT_EQ(popped->number, model.front());
          model.pop_front();
        }
        break;
      }
      default:
        if (item.linked()) {
          item.Unlink();
          for (auto& m : models) m.remove(item.number);
        } else {
          list.PushBack(item);
          model.push_back(item.number);
        }
    }
    for (int i : {0, 1}) ASSERT_EQ(Numbers(lists[i]), Order(models[i].begin(), models[i].end()));
  }
  for (ItemList& list : lists) Clear(list);
}

}  // namespace
}  // namespace holdfast::internal
