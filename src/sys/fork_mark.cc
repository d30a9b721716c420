#include "sys/fork_mark.h"

#include <pthread.h>

namespace holdfast::internal {

constinit std::atomic<std::uint32_t> ForkMark::forks_so_far_{0};

// Only memory can be short here (ENOMEM); then forks go unseen, as they did before anybody counted.
bool ForkMark::CountForks() noexcept {
  return pthread_atfork(nullptr, nullptr,
                        [] { forks_so_far_.fetch_add(1, std::memory_order_relaxed); }) == 0;
}

ForkMark::ForkMark() noexcept {
  [[maybe_unused]] static const bool counted = CountForks();
  forks_ = forks_so_far_.load(std::memory_order_relaxed);
}

}  // namespace holdfast::internal
