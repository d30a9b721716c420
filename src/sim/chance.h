// Chance, and who decides it.
//
// Whatever a simulated kernel or network leaves to chance (does this fault strike now, how many bytes, how
// long) is asked of one object, so that one seed is one run. A fuzzer wants to decide instead: then the bytes
// that it mutates are what happens, and no seed stands between an input and its story. So a Chooser can be
// set, and answers every question from then on. A virtual Random was rejected: the swarm draws hundreds of
// millions of times, and a branch on a null pointer is all that it should pay.
//
// A chooser need not be fair. It is asked for each occasion of a fault whose rate is above 0, and may be sure
// that the draws that follow at once are about the fault that it let strike. One thread.
#ifndef HOLDFAST_SIM_CHANCE_H_
#define HOLDFAST_SIM_CHANCE_H_

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/random.h"

namespace holdfast::internal::sim {

enum class Fault : std::uint8_t;  // faults.h

class Chooser {
 public:
  virtual ~Chooser() = default;
  // An occasion for `fault`.
  [[nodiscard]] virtual bool Strikes(Fault fault) noexcept = 0;
  // A number in [0, bound); any 64 bits where `bound` is 0.
  [[nodiscard]] virtual std::uint64_t Below(std::uint64_t bound) noexcept = 0;
  // Which of `count` tasks that may run is the next: a number below `count`. They stand in the order in
  // which they were woken; `count` is at least 2.
  [[nodiscard]] virtual std::size_t NextTask(std::size_t count) noexcept = 0;
};

// The draws of Random, or those of somebody else.
class Chance {
 public:
  explicit Chance(std::uint64_t seed) noexcept : random_(seed) {}

  // Null: the seed decides again. Outlives its use.
  void SetChooser(Chooser* chooser) noexcept { chooser_ = chooser; }
  [[nodiscard]] Chooser* chooser() const noexcept { return chooser_; }

  std::uint64_t Below(std::uint64_t bound) noexcept {
    return chooser_ == nullptr ? random_.Below(bound) : chooser_->Below(bound);
  }
  std::uint64_t Next() noexcept { return Below(0); }
  // Both ends included. Requires: low <= high.
  std::uint64_t Between(std::uint64_t low, std::uint64_t high) noexcept {
    HOLDFAST_CHECK(low <= high);
    return low + Below(high - low + 1);  // The whole range wraps to 0, which Below takes as such.
  }

 private:
  Random random_;
  Chooser* chooser_ = nullptr;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_CHANCE_H_
