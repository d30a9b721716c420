// What became of the fast sends of a ring: the book between Backend::Send and OnSend.
//
// A silent send (IOSQE_CQE_SKIP_SUCCESS) posts a completion only if it failed or was short, and it has
// done so when the enter that took it returns. So after each enter, in this order: every send that has a
// completion is struck out (Note), and then every other one that the kernel has taken succeeded in
// full (Settle). The count of what the kernel took is exact by that (docs/kernel.md, "Fast sends").
//
// Under AddressSanitizer what a send refers to is poisoned until OnSend, but for the time of an enter,
// since a simulated kernel is a part of this process.
#ifndef HOLDFAST_BACKEND_URING_SENDS_H_
#define HOLDFAST_BACKEND_URING_SENDS_H_

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "backend/socket.h"
#include "backend/uring_ring.h"
#include "base/intrusive_list.h"
#include "base/poison.h"
#include "base/slot_map.h"
#include "base/try_vector.h"

namespace holdfast::internal {

class FastSends {
 public:
  explicit FastSends(const SlotMap<Socket>& slots) noexcept : slots_(slots) {}
  FastSends(const FastSends&) = delete;
  FastSends& operator=(const FastSends&) = delete;

  // A send was staged at `position`: it goes from kNothing to kSubmitted.
  void Submit(Socket& socket, std::uint32_t position, std::span<const iovec> parts, bool silent);
  // Around every enter: BeforeEnter; Note; Settle, unless completions may be missing from the ring, and
  // then after a later enter; AfterEnter.
  void BeforeEnter() noexcept { SetGuards(false); }
  void Note(const UringRing& ring) noexcept;
  // Returns the number of sends that were found to have succeeded.
  unsigned Settle(const UringRing& ring) noexcept;
  void AfterEnter() noexcept { SetGuards(true); }

  // Who cancels a send whose success is known waits for it: it no longer waits for an event.
  void Hurry(Socket& socket) noexcept;
  // A send whose success is known, those that are waited for first; null if there is none.
  [[nodiscard]] Socket* Pop() noexcept;
  [[nodiscard]] bool empty() const noexcept { return prompt_.empty() && silent_.empty(); }
  [[nodiscard]] bool has_prompt() const noexcept { return !prompt_.empty(); }

  // Poisons or frees what the send of `socket` refers to.
  void SetGuard(const Socket& socket, bool guarded) noexcept;

 private:
  void SetGuards(bool guarded) noexcept;

  const SlotMap<Socket>& slots_;
  IntrusiveList<Socket> submitted_;  // In the order of their submission.
  IntrusiveList<Socket> silent_;     // Known; told with the next event.
  IntrusiveList<Socket> prompt_;     // Known; Wait must not sleep on them.
  unsigned noted_ = 0;               // Completions before this position were looked at.
  // By slot; empty without AddressSanitizer. What there is no memory for is not guarded.
  struct Parts {
    iovec parts[kSendPartsMax];
    std::size_t count;
  };
  TryVector<Parts> parts_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_SENDS_H_
