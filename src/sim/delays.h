// When a fault kept a process from running, or from hearing what had happened: what tells the lateness that
// was done to a process from its own. Written by the simulated kernel, read by checkers.
#ifndef HOLDFAST_SIM_DELAYS_H_
#define HOLDFAST_SIM_DELAYS_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <map>

#include <holdfast/time.h>

namespace holdfast::internal::sim {

// What it takes for a process to be in time with something: to run, or also to be told of what happened.
enum class Needs : std::uint8_t { kToRun, kToBeTold };

class Delays {
 public:
  // From `from` to before `until`, which may lie ahead. In any order; they may overlap.
  void Add(Instant from, Instant until) {
    if (until <= from) return;
    auto next = spans_.upper_bound(from);
    // Where one ends and another begins it ran for an instant, and they stay two.
    if (next != spans_.begin() && std::prev(next)->second > from) {
      --next;
      from = next->first;
    }
    while (next != spans_.end() && next->first < until) {
      until = std::max(until, next->second);
      next = spans_.erase(next);
    }
    spans_.emplace_hint(next, from, until);
  }

  // The end of the delay that `at` lies in, or `at`.
  [[nodiscard]] Instant EndAt(Instant at) const {
    const auto next = spans_.upper_bound(at);
    if (next == spans_.begin()) return at;
    return std::max(at, std::prev(next)->second);
  }
  // The same for one that began before `at`.
  [[nodiscard]] Instant EndOver(Instant at) const {
    const auto next = spans_.lower_bound(at);
    if (next == spans_.begin()) return at;
    return std::max(at, std::prev(next)->second);
  }
  // The begin of the first delay after `at`, or kNever.
  [[nodiscard]] Instant NextAfter(Instant at) const {
    const auto next = spans_.upper_bound(at);
    return next == spans_.end() ? kNever : next->first;
  }

  // How much of the time between the two lies in none of the delays of `all`.
  [[nodiscard]] static Duration Outside(std::initializer_list<const Delays*> all, Instant from,
                                        Instant until) {
    Duration outside{0};
    while (from < until) {
      Instant end = from;
      for (const Delays* const delays : all) end = std::max(end, delays->EndAt(end));
      if (end > from) {
        from = end;
        continue;
      }
      Instant next = until;
      for (const Delays* const delays : all) next = std::min(next, delays->NextAfter(from));
      outside += next - from;
      from = next;
    }
    return outside;
  }

 private:
  std::map<Instant, Instant> spans_;  // Begin and end, disjoint.
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_DELAYS_H_
