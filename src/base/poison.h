// Marks memory that nobody may touch for now, so that AddressSanitizer catches whoever does; nothing at
// all in other builds. The kernel's own reads and writes are not seen by it.
#ifndef HOLDFAST_BASE_POISON_H_
#define HOLDFAST_BASE_POISON_H_

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define HOLDFAST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOLDFAST_ASAN 1
#endif
#endif

#ifdef HOLDFAST_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace holdfast::internal {

#ifdef HOLDFAST_ASAN
inline constexpr bool kPoisons = true;
inline void Poison(const void* data, std::size_t size) noexcept {
  __asan_poison_memory_region(data, size);
}
inline void Unpoison(const void* data, std::size_t size) noexcept {
  __asan_unpoison_memory_region(data, size);
}
#else
inline constexpr bool kPoisons = false;
inline void Poison(const void*, std::size_t) noexcept {}
inline void Unpoison(const void*, std::size_t) noexcept {}
#endif

}  // namespace holdfast::internal

#endif  // HOLDFAST_BASE_POISON_H_
