// The one source of chance: xoshiro256**, seeded through splitmix64, in integers only.
//
// Jitter of backoff, the simulator's schedules and the random tests must replay from a seed, to the
// bit, under every compiler. The engines of <random> would, its distributions need not (the standard
// leaves their algorithms open), and floating point may round differently: so the bounded draws are
// here too, by Lemire's multiplication with rejection, which is exact and nearly never divides.
// xoshiro256** is small (32 bytes, a nanosecond a draw) and passes the usual test batteries. It is
// not for secrets: 32 bytes of output give the state away.
//
//   Random random(seed);
//   const uint64_t delay = random.Between(initial, max);   // both ends included
//
// Sources: Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021; Steele, Lea
// and Flood, "Fast splittable pseudorandom number generators", 2014; Lemire, "Fast random integer
// generation in an interval", 2019. One thread a generator; a copy repeats the original's draws.
#ifndef HOLDFAST_BASE_RANDOM_H_
#define HOLDFAST_BASE_RANDOM_H_

#include <array>
#include <bit>
#include <cstdint>

#include "base/check.h"

namespace holdfast::internal {

// The next number of splitmix64, which visits every 64 bit value once: good for making a large state
// out of a small seed, and for deriving seeds from seeds.
constexpr std::uint64_t SplitMix64(std::uint64_t& state) noexcept {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t mixed = state;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return mixed ^ (mixed >> 31);
}

// The next number of xoshiro256**. Requires: not all of the state is 0.
constexpr std::uint64_t Xoshiro256StarStar(std::array<std::uint64_t, 4>& state) noexcept {
  const std::uint64_t result = std::rotl(state[1] * 5, 7) * 9;
  const std::uint64_t shifted = state[1] << 17;
  state[2] ^= state[0];
  state[3] ^= state[1];
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= shifted;
  state[3] = std::rotl(state[3], 45);
  return result;
}

class Random {
 public:
  // Any seed will do, 0 included: of four successive splitmix64 outputs at most one can be 0.
  constexpr explicit Random(std::uint64_t seed) noexcept {
    for (std::uint64_t& word : state_) word = SplitMix64(seed);
  }

  // Uniform over all 64 bit values.
  constexpr std::uint64_t Next() noexcept { return Xoshiro256StarStar(state_); }

  // Uniform over [0, bound), without bias; over all 64 bit values if `bound` is 0.
  constexpr std::uint64_t Below(std::uint64_t bound) noexcept {
    if (bound == 0) return Next();
    // The high half of a random word times the bound is below the bound. 2^64 mod bound of the words
    // are too many for an even share: they are those whose low half falls below that remainder.
    Wide product = Wide{Next()} * bound;
    if (static_cast<std::uint64_t>(product) < bound) {
      const std::uint64_t surplus = (0 - bound) % bound;
      while (static_cast<std::uint64_t>(product) < surplus) product = Wide{Next()} * bound;
    }
    return static_cast<std::uint64_t>(product >> 64);
  }

  // Uniform over [low, high], both ends included. Requires: low <= high.
  constexpr std::uint64_t Between(std::uint64_t low, std::uint64_t high) noexcept {
    HOLDFAST_CHECK(low <= high);
    return low + Below(high - low + 1);  // The whole range wraps to 0, which Below takes as such.
  }

 private:
  __extension__ using Wide = unsigned __int128;

  std::array<std::uint64_t, 4> state_{};
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BASE_RANDOM_H_
