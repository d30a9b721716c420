// The checks of _FORTIFY_SOURCE take a jump to another stack for one into a frame that is gone.
#undef _FORTIFY_SOURCE

#include "sim/fiber.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "base/poison.h"

#if defined(__SANITIZE_THREAD__)
#define HOLDFAST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HOLDFAST_TSAN 1
#endif
#endif

#ifdef HOLDFAST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HOLDFAST_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// A frame that is left by a jump never returns, and AddressSanitizer's red zones in it would stay.
#ifdef HOLDFAST_ASAN
#define HOLDFAST_JUMPS __attribute__((no_sanitize("address"), noinline))
#else
#define HOLDFAST_JUMPS __attribute__((noinline))
#endif

namespace holdfast::internal::sim {
namespace {

// --- Stacks.

std::size_t GuardBytes() noexcept {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return page;
}

void* MapStack() noexcept {
  const std::size_t guard = GuardBytes();
  void* const mapped = ::mmap(nullptr, guard + Fiber::kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  HOLDFAST_CHECK(mapped != MAP_FAILED);
  HOLDFAST_CHECK(::mprotect(mapped, guard, PROT_NONE) == 0);
  return static_cast<char*>(mapped) + guard;
}

void UnmapStack(void* stack) noexcept {
  const std::size_t guard = GuardBytes();
  ::munmap(static_cast<char*>(stack) - guard, guard + Fiber::kStackBytes);
}

// Stacks that wait for a fiber, linked through their first word. Trivial, so that a fiber of a
// static object may still give its stack back when the thread's own objects are gone: `closed`
// says so, and the stack is unmapped.
struct FreeStack {
  FreeStack* next;
};
struct FreeStacks {
  FreeStack* first;
  bool closed;
};
constinit thread_local FreeStacks free_stacks{nullptr, false};

struct FreeStacksEnd {
  ~FreeStacksEnd() {
    free_stacks.closed = true;
    while (free_stacks.first != nullptr) {
      UnmapStack(std::exchange(free_stacks.first, free_stacks.first->next));
    }
  }
};

void* TakeStack() {
  static thread_local FreeStacksEnd end;  // Made on first use, so that it runs at the thread's end.
  static_cast<void>(end);
  if (free_stacks.first == nullptr) return MapStack();
  return std::exchange(free_stacks.first, free_stacks.first->next);
}

void GiveStackBack(void* stack) noexcept {
  // The frame that left the fiber for good never returned, and its red zones still stand.
  Unpoison(stack, Fiber::kStackBytes);
  if (free_stacks.closed) {
    UnmapStack(stack);
  } else {
    free_stacks.first = new (stack) FreeStack{free_stacks.first};
  }
}

}  // namespace

// --- Switching.

struct Fiber::State {
  absl::AnyInvocable<void()> body;
  void* stack = nullptr;  // Null until the first Resume.
  bool running = false;
  bool done = false;
  ucontext_t entry;  // Where the body starts.
  jmp_buf inside;    // Where Yield goes on.
  jmp_buf outside;   // Where Resume goes on.

  // What AddressSanitizer keeps for a stack that is left, and which stack we came from.
  void* inside_frames = nullptr;
  void* outside_frames = nullptr;
  const void* outside_stack = nullptr;
  std::size_t outside_stack_size = 0;
  // ThreadSanitizer's own notion of a fiber.
  void* inside_tsan = nullptr;
  void* outside_tsan = nullptr;

  // Each is called on the side that it names, just before it is left and just after it is entered.
  void LeaveOutside() noexcept {
#ifdef HOLDFAST_ASAN
    __sanitizer_start_switch_fiber(&outside_frames, stack, kStackBytes);
#endif
#ifdef HOLDFAST_TSAN
    outside_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(inside_tsan, 0);
#endif
  }
  void EnterOutside() noexcept {
#ifdef HOLDFAST_ASAN
    __sanitizer_finish_switch_fiber(outside_frames, nullptr, nullptr);
#endif
  }
  void LeaveInside() noexcept {
#ifdef HOLDFAST_ASAN
    __sanitizer_start_switch_fiber(done ? nullptr : &inside_frames, outside_stack,
                                   outside_stack_size);
#endif
#ifdef HOLDFAST_TSAN
    __tsan_switch_to_fiber(outside_tsan, 0);
#endif
  }
  void EnterInside() noexcept {
#ifdef HOLDFAST_ASAN
    __sanitizer_finish_switch_fiber(inside_frames, &outside_stack, &outside_stack_size);
#endif
  }

  [[noreturn]] void Start() noexcept;
  static void Enter() noexcept;

  static constinit thread_local State* starting;
};

// makecontext(3) passes ints; the pointer goes another way.
constinit thread_local Fiber::State* Fiber::State::starting = nullptr;

HOLDFAST_JUMPS void Fiber::State::Enter() noexcept {
  State& state = *starting;
  state.EnterInside();
  state.body();
  state.body = nullptr;
  state.done = true;
  state.LeaveInside();
  _longjmp(state.outside, 1);
}

HOLDFAST_JUMPS void Fiber::State::Start() noexcept {
  HOLDFAST_CHECK(::getcontext(&entry) == 0);
  entry.uc_stack.ss_sp = stack;
  entry.uc_stack.ss_size = kStackBytes;
  entry.uc_link = nullptr;
  ::makecontext(&entry, &State::Enter, 0);
  starting = this;
  LeaveOutside();
  ::setcontext(&entry);
  HOLDFAST_CHECK(false);  // setcontext(3) returns only on failure.
  std::abort();
}

Fiber::Fiber(absl::AnyInvocable<void()> body) : state_(new State) {
  state_->body = std::move(body);
}

Fiber::~Fiber() {
  HOLDFAST_CHECK(state_->done || state_->stack == nullptr);
  if (state_->stack != nullptr) {
#ifdef HOLDFAST_TSAN
    __tsan_destroy_fiber(state_->inside_tsan);
#endif
    GiveStackBack(state_->stack);
  }
  delete state_;
}

HOLDFAST_JUMPS void Fiber::Resume() {
  State* const state = state_;
  HOLDFAST_CHECK(!state->done && !state->running);
  state->running = true;
  if (_setjmp(state->outside) == 0) {
    if (state->stack == nullptr) {
      state->stack = TakeStack();
#ifdef HOLDFAST_TSAN
      state->inside_tsan = __tsan_create_fiber(0);
#endif
      state->Start();
    }
    state->LeaveOutside();
    _longjmp(state->inside, 1);
  }
  state_->EnterOutside();
  state_->running = false;
}

HOLDFAST_JUMPS void Fiber::Yield() {
  State* const state = state_;
  HOLDFAST_CHECK(state->running);
  if (_setjmp(state->inside) == 0) {
    state->LeaveInside();
    _longjmp(state->outside, 1);
  }
  state_->EnterInside();
}

bool Fiber::done() const noexcept { return state_->done; }

}  // namespace holdfast::internal::sim
