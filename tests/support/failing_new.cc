#include "support/failing_new.h"

#include <limits>
#include <new>

namespace holdfast::internal {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();
thread_local std::size_t successes_left = kUnlimited;

}  // namespace

FailingNew::FailingNew(std::size_t successes) noexcept { successes_left = successes; }
FailingNew::~FailingNew() { successes_left = kUnlimited; }

}  // namespace holdfast::internal

// Replaces the library's own, which would call the plain operator as well; so sanitizers see an
// ordinary allocation.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  using holdfast::internal::kUnlimited;
  using holdfast::internal::successes_left;
  if (successes_left == 0) return nullptr;
  if (successes_left != kUnlimited) --successes_left;
  return ::operator new(size);
}
