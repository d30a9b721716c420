// The last transitions of all links of a reactor, for the question that follows every outage.
//
// One ring a reactor, not one a link: ten thousand links share 128 KiB, and what one of them did is
// filtered out when somebody asks.
#ifndef HOLDFAST_REACTOR_FLIGHT_RECORDER_H_
#define HOLDFAST_REACTOR_FLIGHT_RECORDER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include <holdfast/link_state.h>

namespace holdfast::internal {

class FlightRecorder {
 public:
  static constexpr std::size_t kCapacity = 4096;

  FlightRecorder() : ring_(std::make_unique<Transition[]>(kCapacity)) {}

  void Record(const Transition& transition) noexcept {
    ring_[recorded_ % kCapacity] = transition;
    ++recorded_;
  }

  // Oldest first. `link` 0: of all links.
  [[nodiscard]] std::vector<Transition> Read(std::uint32_t link) const {
    std::vector<Transition> lines;
    const std::uint64_t first = recorded_ > kCapacity ? recorded_ - kCapacity : 0;
    for (std::uint64_t i = first; i < recorded_; ++i) {
      const Transition& line = ring_[i % kCapacity];
      if (link == 0 || line.link == link) lines.push_back(line);
    }
    return lines;
  }

 private:
  std::unique_ptr<Transition[]> ring_;
  std::uint64_t recorded_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_REACTOR_FLIGHT_RECORDER_H_
