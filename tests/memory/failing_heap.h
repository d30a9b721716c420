// Makes operator new fail on demand: the plain one, which throws, as well as the one that says null.
//
// A test binary that refers to it gets every form of new and delete replaced (but for the aligned ones);
// until a test asks, they allocate as ever. What the C library allocates for itself is not touched.
#ifndef HOLDFAST_TESTS_MEMORY_FAILING_HEAP_H_
#define HOLDFAST_TESTS_MEMORY_FAILING_HEAP_H_

#include <cstdint>

namespace holdfast::internal {

// While one of these lives, allocations are counted from 0, on every thread. One at a time.
class FailingHeap {
 public:
  enum class Fails {
    kOne,         // Allocation number `index` alone.
    kAllFromThen  // It, and all that follow, until End().
  };
  FailingHeap(std::uint64_t index, Fails fails) noexcept;
  ~FailingHeap() { End(); }
  FailingHeap(const FailingHeap&) = delete;
  FailingHeap& operator=(const FailingHeap&) = delete;

  // Whether one has failed.
  [[nodiscard]] static bool struck() noexcept;
  // From now on there is memory again.
  static void End() noexcept;

  // What this thread allocates while one of these lives is the test's own: it neither counts nor fails.
  class Exempt {
   public:
    Exempt() noexcept;
    ~Exempt();
    Exempt(const Exempt&) = delete;
    Exempt& operator=(const Exempt&) = delete;
  };
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_MEMORY_FAILING_HEAP_H_
