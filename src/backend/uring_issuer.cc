#include "backend/uring_issuer.h"

namespace holdfast::internal {

void UringIssuer::Wait(Duration timeout) noexcept {
  bool woken = false;
  if (embedding.active()) {
    ++stats_.syscalls;
    woken = embedding.Drain();
  }
  while (ring.backlogged() && Enter(0, Duration::zero(), UringRing::kSubmit)) {
  }
  bool sleep = timeout > Duration::zero() && !woken && !HasReady() && !ring.backlogged();
  if (sleep && embedding.active()) {
    Turn(0, Duration::zero());
    if (!HasReady()) {
      ++stats_.syscalls;
      embedding.Sleep(timeout);
    }
    sleep = false;
  }
  if (sleep || ring.must_enter()) Turn(sleep ? 1 : 0, timeout);
  // What is left (after an enter that failed, or more work than the kernel does in one) signals nothing.
  if (HasReady() || ring.has_work()) embedding.Signal();
}

int UringIssuer::Embed(int event_fd, int watch_fd) noexcept {
  if (!embedding.active()) {
    const int result = embedding.Start(ring.fd(), event_fd, watch_fd);
    if (result < 0) return result;
    // What came before the ring was told of the eventfd is found by looking.
    const bool woken = embedding.Drain();
    if (ring.enabled() && ring.must_enter()) Turn(0, Duration::zero());
    if (woken || HasReady() || ring.has_work()) embedding.Signal();
  }
  return embedding.fd();
}

void UringIssuer::NoteAnswer(int result) noexcept {
  refusals_.Note(Call::kIoUringEnter, result);
  if (result >= 0) return;
  const Error error = Classify(Call::kIoUringEnter, -result);
  const bool lost = error.error_class == ErrorClass::kResource;
  if (error.action == Action::kFallBack && lost) ++stats_.cq_overflows;  // Completions were lost.
}

bool UringIssuer::Enter(unsigned completions, Duration timeout, unsigned flags) noexcept {
  const std::uint32_t first = ring.submission_head();
  sends.BeforeEnter();
  ++stats_.syscalls;
  // The answer decides nothing: what was taken and what came stands in the ring, and after an error
  // (no memory, a signal) the next enter tries the rest.
  NoteAnswer(ring.Enter(completions, timeout, flags));
  sends.Note(ring);
  while (ring.overflowed() && held.room() > 0) {
    ++stats_.cq_overflows;
    ++stats_.syscalls;
    Take(held.room());
    const unsigned tail = ring.completion_tail();
    ring.Enter(0, Duration::zero(), UringRing::kGetEvents);
    sends.Note(ring);
    if (ring.completion_tail() == tail) break;
  }
  if (!ring.overflowed()) stats_.sends += sends.Settle(ring);
  sends.AfterEnter();
  return ring.submission_head() != first;
}

}  // namespace holdfast::internal
