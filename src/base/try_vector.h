// A vector whose growth may fail, and says so: for what the runtime needs while it runs.
//
// std::vector answers a shortage of memory with an exception, which ends a program that is built without
// them. Here the caller is told, and makes it a failed attempt or a full queue. Elements are moved by
// memcpy, so they are trivially copyable; a moved-from vector is empty.
//
//   TryVector<SocketAddress> addresses;
//   if (!addresses.TryPushBack(address)) return OutOfMemory();
//
// Ownership: its elements, by value. One thread.
#ifndef HOLDFAST_BASE_TRY_VECTOR_H_
#define HOLDFAST_BASE_TRY_VECTOR_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace holdfast::internal {

template <class T>
class TryVector {
 public:
  TryVector() noexcept = default;
  TryVector(TryVector&& other) noexcept { Swap(other); }
  TryVector& operator=(TryVector&& other) noexcept {
    TryVector(std::move(other)).Swap(*this);
    return *this;
  }
  ~TryVector() { delete[] bytes_; }

  // False, and nothing changed, when there is no memory for `count` elements in all.
  [[nodiscard]] bool TryReserve(std::size_t count) noexcept {
    if (count <= capacity_) return true;
    auto* const bytes = new (std::nothrow) std::byte[count * sizeof(T)];
    if (bytes == nullptr) return false;
    if (size_ > 0) std::memcpy(bytes, bytes_, size_ * sizeof(T));
    delete[] std::exchange(bytes_, bytes);
    capacity_ = count;
    return true;
  }
  // At least doubles the capacity where it is full. False, and nothing changed, without memory. Requires:
  // `elements` are not of this vector.
  [[nodiscard]] bool TryAppend(std::span<const T> elements) noexcept {
    const std::size_t size = size_ + elements.size();
    if (size > capacity_ && !TryReserve(std::max(size, 2 * capacity_))) return false;
    if (!elements.empty())
      std::memcpy(bytes_ + size_ * sizeof(T), elements.data(), elements.size_bytes());
    size_ = size;
    return true;
  }
  [[nodiscard]] bool TryPushBack(const T& element) noexcept { return TryAppend({&element, 1}); }
  // Up to `size` elements in all, the new ones copies of `element`. Never makes it smaller.
  [[nodiscard]] bool TryExtend(std::size_t size, const T& element) noexcept {
    if (!TryReserve(size)) return false;
    while (size_ < size) new (bytes_ + size_++ * sizeof(T)) T(element);
    return true;
  }
  // Empties it and keeps the memory; `= {}` gives that back.
  void Clear() noexcept { size_ = 0; }

  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] T* data() noexcept { return std::launder(reinterpret_cast<T*>(bytes_)); }
  [[nodiscard]] const T* data() const noexcept {
    return std::launder(reinterpret_cast<const T*>(bytes_));
  }
  [[nodiscard]] T* begin() noexcept { return data(); }
  [[nodiscard]] T* end() noexcept { return data() + size_; }
  [[nodiscard]] const T* begin() const noexcept { return data(); }
  [[nodiscard]] const T* end() const noexcept { return data() + size_; }
  // Requires: index < size().
  [[nodiscard]] T& operator[](std::size_t index) noexcept { return data()[index]; }
  [[nodiscard]] const T& operator[](std::size_t index) const noexcept { return data()[index]; }

 private:
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);

  void Swap(TryVector& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  std::byte* bytes_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BASE_TRY_VECTOR_H_
