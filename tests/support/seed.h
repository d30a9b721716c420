// The seed of a random test: HOLDFAST_SEED from the environment, else a new one; printed either way,
// so that a failure can be run again.
#ifndef HOLDFAST_TESTS_SUPPORT_SEED_H_
#define HOLDFAST_TESTS_SUPPORT_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace holdfast::internal {

inline std::uint64_t PrintedSeed() {
  const char* const text = std::getenv("HOLDFAST_SEED");
  const std::uint64_t seed =
      text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
  std::printf("HOLDFAST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SUPPORT_SEED_H_
