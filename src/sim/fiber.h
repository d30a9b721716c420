// A stack of its own for code that believes it may block, told to the sanitizers.
//
// Shipped code sleeps in its kernel's wait. In a simulation that must let others run, on the same
// thread of the machine, and come back to the same place: a coroutine with a stack. C++20's have
// none, and threads would cost the determinism. makecontext(3) makes the stack, _setjmp(3) and
// _longjmp(3) change over: swapcontext(3) would make two system calls each time, for a signal mask
// that never changes.
//
//   Fiber fiber([&] { Work(); fiber.Yield(); MoreWork(); });
//   fiber.Resume();                      // Work
//   fiber.Resume();                      // MoreWork, and done()
//
// Stacks that are not in use any more are kept for the next fibers of the thread, as many as were
// in use at once. A fiber stays on the thread that made it.
#ifndef HOLDFAST_SIM_FIBER_H_
#define HOLDFAST_SIM_FIBER_H_

#include <cstddef>

#include "absl/functional/any_invocable.h"

namespace holdfast::internal::sim {

class Fiber {
 public:
  // Mapped, with a guard page below; what is not touched costs no memory.
  static constexpr std::size_t kStackBytes = std::size_t{1} << 20;

  explicit Fiber(absl::AnyInvocable<void()> body);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();  // Requires: done(), or never resumed.

  // Runs the body until it yields or returns. From outside any fiber. Requires: not done().
  void Resume();
  // Back to whoever resumed it. From inside the body.
  void Yield();
  [[nodiscard]] bool done() const noexcept;

 private:
  struct State;
  State* state_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_FIBER_H_
