// Makes `new (std::nothrow)` fail on demand, so that "out of memory" can be tested.
//
// A test binary that uses it gets the replaced operator; until a test asks, it allocates as ever.
#ifndef HOLDFAST_TESTS_SUPPORT_FAILING_NEW_H_
#define HOLDFAST_TESTS_SUPPORT_FAILING_NEW_H_

#include <cstddef>

namespace holdfast::internal {

// While one of these lives, `new (std::nothrow)` succeeds `successes` times and then answers null. One
// at a time, on one thread.
class FailingNew {
 public:
  explicit FailingNew(std::size_t successes) noexcept;
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SUPPORT_FAILING_NEW_H_
