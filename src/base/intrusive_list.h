// A circular doubly linked list whose links live in the elements: no allocation, O(1) unlinking.
//
// The runtime moves long-lived objects between queues (ready sockets, links waiting for a turn) on
// its hot path, where neither an allocation nor a search is allowed. std::list allocates a node for
// each element and needs an iterator to erase; a vector of pointers needs a search. Boost.Intrusive
// does all this and more, and would be a dependency for sixty lines.
//
//   struct Job : ListNode { int number; };
//   Job job;
//   IntrusiveList<Job> ready;
//   ready.PushBack(job);
//   job.Unlink();                        // O(1), without naming the list.
//
// An element that is on several lists at once derives from a tagged node for each of them:
//
//   struct Idle; struct Dirty;
//   struct Entry : TaggedListNode<Idle>, TaggedListNode<Dirty> {};
//   IntrusiveList<Entry, TaggedListNode<Idle>> idle;
//
// Ownership: none; elements and list only point at each other. An element must be unlinked before it
// is destroyed, and a list emptied: neither destructor unlinks, both check. Unlinking silently would
// hide that a queue still had work for a dead object; where dying on a list is in order (timers), the
// node has a type of its own. One thread. Every operation but iteration and CheckInvariants is O(1).
#ifndef HOLDFAST_BASE_INTRUSIVE_LIST_H_
#define HOLDFAST_BASE_INTRUSIVE_LIST_H_

#include <cstddef>
#include <iterator>
#include <type_traits>

#include "base/check.h"

namespace holdfast::internal {

// The links of one element on one list. Both null exactly while it is on none.
struct ListNode {
  ListNode() noexcept = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { HOLDFAST_CHECK(!linked()); }

  [[nodiscard]] bool linked() const noexcept { return next != nullptr; }

  // Takes the element off its list. Requires: linked().
  void Unlink() noexcept {
    HOLDFAST_CHECK(linked());
    prev->next = next;
    next->prev = prev;
    prev = nullptr;
    next = nullptr;
  }

  ListNode* prev = nullptr;
  ListNode* next = nullptr;
};

// A ListNode told apart by type, for elements that are on several lists.
template <class Tag>
struct TaggedListNode : ListNode {};

// T derives from Node, which is ListNode or a TaggedListNode. Neither copied nor moved: the elements
// point at it.
template <class T, class Node = ListNode>
class IntrusiveList {
  static_assert(std::is_base_of_v<ListNode, Node>);

 public:
  // Survives any change of the list but the unlinking of the element it stands on: step past an
  // element before you unlink it.
  class Iterator {
   public:
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = T*;
    using reference = T&;

    Iterator() noexcept = default;
    explicit Iterator(ListNode* node) noexcept : node_(node) {}

    T& operator*() const noexcept { return *Element(node_); }
    T* operator->() const noexcept { return Element(node_); }
    Iterator& operator++() noexcept {
      node_ = node_->next;
      return *this;
    }
    Iterator operator++(int) noexcept {
      Iterator before = *this;
      ++*this;
      return before;
    }
    Iterator& operator--() noexcept {
      node_ = node_->prev;
      return *this;
    }
    Iterator operator--(int) noexcept {
      Iterator before = *this;
      --*this;
      return before;
    }
    bool operator==(const Iterator& other) const noexcept = default;

   private:
    ListNode* node_ = nullptr;
  };

  IntrusiveList() noexcept {
    root_.prev = &root_;
    root_.next = &root_;
  }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  // Requires: empty().
  ~IntrusiveList() {
    HOLDFAST_CHECK(empty());
    root_.prev = nullptr;  // So that the root, too, dies unlinked.
    root_.next = nullptr;
  }

  [[nodiscard]] bool empty() const noexcept { return root_.next == &root_; }

  // The first or last element; null when there is none.
  [[nodiscard]] T* front() noexcept { return empty() ? nullptr : Element(root_.next); }
  [[nodiscard]] T* back() noexcept { return empty() ? nullptr : Element(root_.prev); }

  [[nodiscard]] Iterator begin() noexcept { return Iterator(root_.next); }
  [[nodiscard]] Iterator end() noexcept { return Iterator(&root_); }

  // Requires: the element is on no list of this node type.
  void PushBack(T& element) noexcept {
    ListNode* const node = &static_cast<Node&>(element);
    HOLDFAST_CHECK(!node->linked());
    node->prev = root_.prev;
    node->next = &root_;
    root_.prev->next = node;
    root_.prev = node;
  }

  // Unlinks and returns the first element; null when there is none.
  T* PopFront() noexcept {
    T* const element = front();
    if (element != nullptr) static_cast<Node*>(element)->Unlink();
    return element;
  }

  // Unlinks `element`, which is on some list of this node type: what element.Unlink() does, for
  // elements with several nodes, where that name would be ambiguous.
  static void Remove(T& element) noexcept { static_cast<Node&>(element).Unlink(); }

  // Moves all elements of `other` to the back of this list, in their order; `other` is empty then.
  void Splice(IntrusiveList& other) noexcept {
    HOLDFAST_CHECK(&other != this);
    if (other.empty()) return;
    ListNode* const first = other.root_.next;
    ListNode* const last = other.root_.prev;
    first->prev = root_.prev;
    root_.prev->next = first;
    last->next = &root_;
    root_.prev = last;
    other.root_.prev = &other.root_;
    other.root_.next = &other.root_;
  }

  // Aborts unless every link is answered by its counterpart. O(n); for tests.
  void CheckInvariants() const {
    const ListNode* node = &root_;
    do {
      HOLDFAST_CHECK(node->next != nullptr);
      HOLDFAST_CHECK(node->next->prev == node);
      node = node->next;
    } while (node != &root_);
  }

 private:
  static T* Element(ListNode* node) noexcept { return static_cast<T*>(static_cast<Node*>(node)); }

  ListNode root_;  // Its `next` is the first element, its `prev` the last; itself when empty.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BASE_INTRUSIVE_LIST_H_
