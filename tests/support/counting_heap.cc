#include "support/counting_heap.h"

#include <cerrno>
#include <cstddef>
#include <cstdlib>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HOLDFAST_OTHER_HEAP
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define HOLDFAST_OTHER_HEAP
#endif

#ifdef HOLDFAST_OTHER_HEAP

namespace holdfast::internal {
bool CanCountHeapCalls() noexcept { return false; }
std::uint64_t HeapCalls() noexcept { return 0; }
}  // namespace holdfast::internal

#else

namespace holdfast::internal {
namespace {
// Plain data of the executable: reading it allocates nothing, not even for a new thread.
constinit thread_local std::uint64_t calls = 0;
}  // namespace

bool CanCountHeapCalls() noexcept { return true; }
std::uint64_t HeapCalls() noexcept { return calls; }

}  // namespace holdfast::internal

extern "C" {

// glibc's own, under the names that it keeps for those who replace the others.
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* block);

void* malloc(std::size_t size) {
  ++holdfast::internal::calls;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++holdfast::internal::calls;
  return __libc_calloc(count, size);
}
void* realloc(void* block, std::size_t size) {
  ++holdfast::internal::calls;
  return __libc_realloc(block, size);
}
void free(void* block) {
  if (block != nullptr) ++holdfast::internal::calls;
  __libc_free(block);
}
void* memalign(std::size_t alignment, std::size_t size) {
  ++holdfast::internal::calls;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
  void* const made = memalign(alignment, size);
  if (made == nullptr) return ENOMEM;
  *block = made;
  return 0;
}

}  // extern "C"

#endif
