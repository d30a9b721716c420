// How long a listener rests after an accept that failed for want of something (Action::kPause).
//
// Out of descriptors, accept4(2) fails at once and the connection stays queued, so a listener that tries
// again at once burns a whole core. 5 ms, doubling to 1 s, back to 5 ms with the first success: what
// net/http does, and no reserve descriptor (accepting in order to close takes the connection away from
// a peer whose kernel would have waited). One object a listener, the same for both backends.
#ifndef HOLDFAST_MACHINE_ACCEPT_PAUSE_H_
#define HOLDFAST_MACHINE_ACCEPT_PAUSE_H_

#include <algorithm>
#include <chrono>

#include <holdfast/time.h>

namespace holdfast::internal {

class AcceptPause {
 public:
  static constexpr Duration kInitial = std::chrono::milliseconds(5);
  static constexpr Duration kMax = std::chrono::seconds(1);

  // Accepting failed: how long to rest before the next try.
  [[nodiscard]] Duration OnFailure() noexcept {
    const Duration pause = next_;
    next_ = std::min(next_ * 2, kMax);
    return pause;
  }
  // A connection was accepted.
  void OnSuccess() noexcept { next_ = kInitial; }

 private:
  Duration next_ = kInitial;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_ACCEPT_PAUSE_H_
