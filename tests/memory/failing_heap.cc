#include "memory/failing_heap.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace holdfast::internal {
namespace {

constexpr std::uint64_t kNever = ~std::uint64_t{0};

std::atomic<std::uint64_t> counted{0};
std::atomic<std::uint64_t> first_failure{kNever};
std::atomic<std::uint64_t> last_failure{kNever};
std::atomic<bool> has_struck{false};
thread_local int exempt = 0;

void* Allocate(std::size_t size) noexcept {
  if (exempt == 0 && first_failure != kNever) {
    const std::uint64_t number = counted++;
    if (number >= first_failure && number <= last_failure) {
      has_struck = true;
      return nullptr;
    }
  }
  return std::malloc(size == 0 ? 1 : size);
}

void* AllocateOrThrow(std::size_t size) {
  if (void* const memory = Allocate(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

FailingHeap::FailingHeap(std::uint64_t index, Fails fails) noexcept {
  has_struck = false;
  counted = 0;
  last_failure = fails == Fails::kOne ? index : kNever;
  first_failure = index;
}

bool FailingHeap::struck() noexcept { return has_struck; }
void FailingHeap::End() noexcept { first_failure = kNever; }

FailingHeap::Exempt::Exempt() noexcept { ++exempt; }
FailingHeap::Exempt::~Exempt() { --exempt; }

}  // namespace holdfast::internal

void* operator new(std::size_t size) { return holdfast::internal::AllocateOrThrow(size); }
void* operator new[](std::size_t size) { return holdfast::internal::AllocateOrThrow(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::internal::Allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::internal::Allocate(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
