// Tells a kernel that refuses to be waited on for good from one that has no memory or no time just now.
//
// A seccomp filter that came after the set-up (EPERM, ENOSYS, whatever it likes), a descriptor that was
// closed under us: each wait ends at once with the same answer, and a loop that only tries again burns a
// processor and serves nobody. After so many in a row the backend says so, and Run ends.
#ifndef HOLDFAST_BACKEND_REFUSALS_H_
#define HOLDFAST_BACKEND_REFUSALS_H_

#include <holdfast/error.h>
#include "core/error_table.h"

namespace holdfast::internal {

class Refusals {
 public:
  // What io_uring_enter(2) or epoll_wait(2) said: a count, or -errno.
  void Note(Call call, int result) noexcept {
    last_ = result;
    in_a_row_ = result < 0 && IsForGood(Classify(call, -result)) ? in_a_row_ + 1 : 0;
  }
  // -errno once it is for good, else 0.
  [[nodiscard]] int answer() const noexcept { return in_a_row_ < kMax ? 0 : last_; }

 private:
  // Without another answer in between. None of them waits: it is a fraction of a millisecond.
  static constexpr unsigned kMax = 128;

  // Lost completions (kFallBack of a kResource) are counted, and the ring works on.
  static bool IsForGood(const Error& error) noexcept {
    return error.action == Action::kStop || error.error_class == ErrorClass::kUnknown ||
           (error.action == Action::kFallBack && error.error_class != ErrorClass::kResource);
  }

  unsigned in_a_row_ = 0;
  int last_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_REFUSALS_H_
