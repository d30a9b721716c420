// Counts what a thread asks of the heap: malloc and its kin, and with them operator new and delete.
//
// A test binary that refers to HeapCalls gets malloc replaced by one that counts and then asks glibc's
// own (__libc_malloc). Counters are per thread, so that a peer on another thread does not disturb.
//
//   const std::uint64_t before = HeapCalls();
//   ...
//   EXPECT_EQ(HeapCalls() - before, 0u);
//
// Sanitizers bring a heap of their own: there, and on other C libraries, nothing is counted, and
// CanCountHeapCalls() says so.
#ifndef HOLDFAST_TESTS_SUPPORT_COUNTING_HEAP_H_
#define HOLDFAST_TESTS_SUPPORT_COUNTING_HEAP_H_

#include <cstdint>

namespace holdfast::internal {

[[nodiscard]] bool CanCountHeapCalls() noexcept;
// Calls of malloc, calloc, realloc, free, aligned_alloc, posix_memalign and memalign by this thread
// since it began. free(nullptr) is none.
[[nodiscard]] std::uint64_t HeapCalls() noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SUPPORT_COUNTING_HEAP_H_
