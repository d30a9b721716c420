#include "support/failing_new.h"

#include <limits>
#include <new>

namespace holdfast::internal {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();
thread_local std::size_t successes_left = kUnlimited;

bool Succeeds() noexcept {
  if (successes_left == 0) return false;
  if (successes_left != kUnlimited) --successes_left;
  return true;
}

}  // namespace

FailingNew::FailingNew(std::size_t successes) noexcept { successes_left = successes; }
FailingNew::~FailingNew() { successes_left = kUnlimited; }

}  // namespace holdfast::internal

// Replace the library's own, which would call the plain operators as well; so sanitizers see an
// ordinary allocation.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::internal::Succeeds() ? ::operator new(size) : nullptr;
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::internal::Succeeds() ? ::operator new[](size) : nullptr;
}
