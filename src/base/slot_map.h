// Numbers for objects that the kernel names back to us: slots with generations.
//
// What goes to the kernel as user_data must not be a pointer, since a completion may come after its
// object is gone (libxev #233). It is generation << 32 | slot << 8 | kind: the slot finds the object
// with one indexed load, the generation says whether it is still the one that was meant, and the kind
// is the caller's own byte. A hash map of serial numbers would do the same for more memory and a
// search. A slot is given out again at once (the last one freed first, while its line is in cache);
// its generation tells the tenants apart, and returns only after 2^32 - 1 of them.
//
//   SlotMap<Socket> sockets;
//   const auto key = sockets.Insert(&socket);                    // nullopt: no memory, or no slot
//   sqe->user_data = PackUserData(key->generation, key->slot, kReceive);
//   ...
//   Socket* s = sockets.Find(UserDataSlot(word), UserDataGeneration(word));   // null: stale
//
// Ownership: payloads are the caller's and must stay until removed. Errors: memory that cannot be had
// is an answer, nothing throws. One thread. All operations O(1), but for the growth of Insert.
#ifndef HOLDFAST_BASE_SLOT_MAP_H_
#define HOLDFAST_BASE_SLOT_MAP_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "base/check.h"

namespace holdfast::internal {

// Slots have 24 bits in the word that the kernel carries.
inline constexpr std::uint32_t kSlotCountMax = 1u << 24;

// Requires: slot < kSlotCountMax. No word packed from a SlotMap's key is 0, since no generation is.
[[nodiscard]] constexpr std::uint64_t PackUserData(std::uint32_t generation, std::uint32_t slot,
                                                   std::uint8_t kind) noexcept {
  HOLDFAST_CHECK(slot < kSlotCountMax);
  return std::uint64_t{generation} << 32 | std::uint64_t{slot} << 8 | kind;
}
[[nodiscard]] constexpr std::uint32_t UserDataGeneration(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word >> 32);
}
[[nodiscard]] constexpr std::uint32_t UserDataSlot(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word >> 8) & (kSlotCountMax - 1);
}
[[nodiscard]] constexpr std::uint8_t UserDataKind(std::uint64_t word) noexcept {
  return static_cast<std::uint8_t>(word & 0xff);
}

// The generation of a slot's next tenant. Wraps past 0, so that no key is ever all zeros.
[[nodiscard]] constexpr std::uint32_t NextGeneration(std::uint32_t generation) noexcept {
  return generation == ~0u ? 1 : generation + 1;
}

template <class T>
class SlotMap {
 public:
  struct Key {
    std::uint32_t slot;
    std::uint32_t generation;
    bool operator==(const Key&) const noexcept = default;
  };

  // At most `slot_count_max` payloads at a time.
  explicit SlotMap(std::uint32_t slot_count_max = kSlotCountMax) noexcept
      : slot_count_max_(slot_count_max) {
    HOLDFAST_CHECK(slot_count_max <= kSlotCountMax);
  }
  SlotMap(const SlotMap&) = delete;
  SlotMap& operator=(const SlotMap&) = delete;
  // Payloads still in the map are left alone.
  ~SlotMap() { delete[] entries_; }

  // Makes room for `count` payloads in all, so that inserting up to then allocates nothing. False,
  // and nothing changed, when the memory or that many slots cannot be had.
  [[nodiscard]] bool Reserve(std::uint32_t count) noexcept {
    if (count > slot_count_max_) return false;
    return count <= capacity_ || Grow(count);
  }

  // Gives `payload` a slot. nullopt, and nothing changed, when there is neither memory nor slot.
  // Requires: payload != nullptr.
  [[nodiscard]] std::optional<Key> Insert(T* payload) noexcept {
    HOLDFAST_CHECK(payload != nullptr);
    if (free_ == kNone && !HaveFreshSlot()) return std::nullopt;
    std::uint32_t slot = free_;
    if (slot != kNone) {
      free_ = entries_[slot].next_free;
    } else {
      slot = slot_count_++;
      entries_[slot].generation = 1;
    }
    entries_[slot].payload = payload;
    entries_[slot].next_free = kNone;
    ++size_;
    return Key{slot, entries_[slot].generation};
  }

  // The payload, or null when the slot was given up since, or never given out. Takes any numbers.
  [[nodiscard]] T* Find(std::uint32_t slot, std::uint32_t generation) const noexcept {
    if (slot >= slot_count_) return nullptr;
    const Entry& entry = entries_[slot];
    return entry.generation == generation ? entry.payload : nullptr;
  }

  // Gives the slot up; from now on the key finds nothing. Requires: the key finds something.
  void Remove(Key key) noexcept {
    HOLDFAST_CHECK(Find(key.slot, key.generation) != nullptr);
    Entry& entry = entries_[key.slot];
    entry.payload = nullptr;
    entry.generation = NextGeneration(entry.generation);
    entry.next_free = free_;
    free_ = key.slot;
    --size_;
  }

  // The number of payloads.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  // Calls `function` for each payload, in the order of the slots. It may remove the one that it is given.
  template <class Function>
  void ForEach(Function function) {
    for (std::uint32_t slot = 0; slot < slot_count_; ++slot) {
      if (entries_[slot].payload != nullptr) function(*entries_[slot].payload);
    }
  }

  // Aborts unless free list and payloads agree. O(n); for tests.
  void CheckInvariants() const {
    std::size_t used = 0;
    for (std::uint32_t slot = 0; slot < slot_count_; ++slot) {
      HOLDFAST_CHECK(entries_[slot].generation != 0);
      if (entries_[slot].payload != nullptr) ++used;
    }
    std::size_t free = 0;
    for (std::uint32_t slot = free_; slot != kNone; slot = entries_[slot].next_free) {
      HOLDFAST_CHECK(slot < slot_count_);
      HOLDFAST_CHECK(entries_[slot].payload == nullptr);
      HOLDFAST_CHECK(++free <= slot_count_);  // Else the list runs in a circle.
    }
    HOLDFAST_CHECK(used == size_);
    HOLDFAST_CHECK(used + free == slot_count_);
    HOLDFAST_CHECK(slot_count_ <= capacity_);
    HOLDFAST_CHECK(capacity_ <= slot_count_max_);
  }

 private:
  static constexpr std::uint32_t kNone = ~0u;
  static constexpr std::uint32_t kCapacityFirst = 64;

  struct Entry {
    T* payload;                // Null exactly while the slot is free.
    std::uint32_t generation;  // Of the tenant, or of the next one. Never 0.
    std::uint32_t next_free;   // The next free slot, or kNone.
  };
  static_assert(sizeof(Entry) == 16);

  // Makes sure that the slot behind the last one used has an entry.
  bool HaveFreshSlot() noexcept {
    if (slot_count_ < capacity_) return true;
    if (slot_count_ == slot_count_max_) return false;
    return Grow(std::min(std::max(kCapacityFirst, 2 * capacity_), slot_count_max_));
  }

  bool Grow(std::uint32_t capacity) noexcept {
    auto* const entries = new (std::nothrow) Entry[capacity];
    if (entries == nullptr) return false;
    if (slot_count_ > 0) std::memcpy(entries, entries_, slot_count_ * sizeof(Entry));
    delete[] std::exchange(entries_, entries);
    capacity_ = capacity;
    return true;
  }

  Entry* entries_ = nullptr;
  std::uint32_t slot_count_ = 0;  // Slots that were ever given out; the entries behind are raw.
  std::uint32_t capacity_ = 0;    // Entries that there is memory for.
  std::uint32_t free_ = kNone;    // The slot freed last.
  const std::uint32_t slot_count_max_;
  std::size_t size_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BASE_SLOT_MAP_H_
