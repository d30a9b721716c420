// Between the verbs and the kernel: stages the submissions of sockets, enters, and keeps what came back.
//
// It knows words and queues, and calls nobody back: what a completion means to its socket is said in
// backend/uring.cc. Its one rule is in Enter: after each io_uring_enter(2), and before anything else,
// the sends are settled (backend/uring_sends.h), and an overflow of the completion queue is emptied
// first, because the answer to a send may be in it.
#ifndef HOLDFAST_BACKEND_URING_ISSUER_H_
#define HOLDFAST_BACKEND_URING_ISSUER_H_

#include <cstdint>

#include "backend/backend.h"
#include "backend/refusals.h"
#include "backend/socket.h"
#include "backend/uring_embed.h"
#include "backend/uring_held.h"
#include "backend/uring_prepare.h"
#include "backend/uring_ring.h"
#include "backend/uring_sends.h"
#include "base/slot_map.h"

namespace holdfast::internal {

// Low bytes of user_data beside OpKind. A cancel carries the kind of its target.
inline constexpr std::uint8_t kPollOut = 0x10;  // A send (or connect) waits for room.
inline constexpr std::uint8_t kWakePoll = 0x11;
inline constexpr std::uint8_t kWatchPoll = 0x12;
inline constexpr std::uint8_t kCancelOf = 0x40;

[[nodiscard]] inline std::uint64_t WordOf(const Socket& socket, std::uint8_t kind) noexcept {
  return PackUserData(socket.generation, socket.slot, kind);
}
[[nodiscard]] inline std::uint64_t WordOf(const Socket& socket, OpKind kind) noexcept {
  return WordOf(socket, static_cast<std::uint8_t>(kind));
}

class UringIssuer {
 public:
  // `stats` and `slots` outlive it.
  UringIssuer(Kernel& kernel, BackendStats& stats, const SlotMap<Socket>& slots) noexcept
      : embedding(kernel), ring(kernel), sends(slots), stats_(stats) {}

  // --- Staging. A full queue is submitted first.
  [[nodiscard]] UringRing::Staged Stage(std::uint64_t word) noexcept {
    if (ring.full() && ring.enabled()) Enter(0, Duration::zero(), UringRing::kSubmit);
    embedding.Signal();  // Another loop must come round to submit it.
    return ring.Stage(word);
  }
  void StageAccept(Socket& socket) noexcept {
    PrepareAccept(Stage(WordOf(socket, OpKind::kAccept)).sqe, socket.fd,
                  ring.has(kUringMultishotAccept));
  }
  void StageReceive(Socket& socket, bool wait_first) noexcept {
    PrepareReceive(Stage(WordOf(socket, OpKind::kReceive)).sqe, socket.fd,
                   ring.has(kUringMultishotReceive), wait_first);
  }
  void StageSend(Socket& socket, std::span<const iovec> parts, bool silent) noexcept {
    const UringRing::Staged staged = Stage(WordOf(socket, OpKind::kSend));
    socket.send_size = PrepareSend(staged, socket.fd, parts, silent);
    sends.Submit(socket, staged.position, parts, silent);
  }
  void StagePollOut(Socket& socket) noexcept {
    socket.send_phase = SendPhase::kPolling;
    PreparePollOut(Stage(WordOf(socket, kPollOut)).sqe, socket.fd);
  }
  void StageCancel(std::uint64_t target) noexcept {
    PrepareCancel(Stage(target | kCancelOf).sqe, target, ring.has(kUringSkipSuccess));
  }

  // --- The kernel.
  // As Backend::Wait.
  void Wait(Duration timeout) noexcept;
  // As Backend::fd, or -errno. `event_fd` is the eventfd of Wake.
  int Embed(int event_fd, int watch_fd) noexcept;
  // Submits what is staged and waits for `completions`, in one system call.
  void Turn(unsigned completions, Duration timeout) noexcept {
    ++stats_.waits;
    Enter(completions, timeout, UringRing::kSubmit | UringRing::kGetEvents);
  }
  // One system call, or a few after an overflow. True if the kernel took a submission.
  bool Enter(unsigned completions, Duration timeout, unsigned flags) noexcept;

  // Moves at most `count_max` completions from the ring to `held`.
  void Take(std::size_t count_max) noexcept {
    sends.Note(ring);  // Nothing new since Enter, on Linux; but what is taken must have been seen.
    held.Take(ring, count_max);
  }

  // -errno where the kernel refuses every enter for good, else 0.
  [[nodiscard]] int refusal() const noexcept { return refusals_.answer(); }

  // True when there is something to deliver that must not wait.
  [[nodiscard]] bool HasReady() const noexcept {
    return !held.empty() || ring.has_completion() || sends.has_prompt();
  }

  UringEmbedding embedding;
  UringRing ring;
  FastSends sends;
  HeldCompletions held;

 private:
  void NoteAnswer(int result) noexcept;

  BackendStats& stats_;
  Refusals refusals_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_ISSUER_H_
