#include "backend/uring_sends.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::internal {

void FastSends::Submit(Socket& socket, std::uint32_t position, std::span<const iovec> parts,
                       bool silent) {
  HOLDFAST_CHECK(socket.send_phase == SendPhase::kNothing);
  socket.send_phase = SendPhase::kSubmitted;
  socket.send_position = position;
  // What it comes to if no completion says otherwise; 0: there will be one.
  socket.send_result = {silent ? static_cast<std::int32_t>(socket.send_size) : 0, Call::kCqeSend};
  submitted_.PushBack(socket);
  if constexpr (kPoisons) {
    if (!parts_.TryExtend(socket.slot + 1, {})) return;
    parts_[socket.slot].count = parts.size();
    std::copy(parts.begin(), parts.end(), parts_[socket.slot].parts);
    SetGuard(socket, true);
  }
}

void FastSends::Note(const UringRing& ring) noexcept {
  for (const unsigned tail = ring.completion_tail(); noted_ != tail; ++noted_) {
    const std::uint64_t word = ring.completion(noted_).user_data;
    if (UserDataKind(word) != static_cast<std::uint8_t>(OpKind::kSend)) continue;
    Socket* const socket = slots_.Find(UserDataSlot(word), UserDataGeneration(word));
    if (socket == nullptr || socket->send_phase != SendPhase::kSubmitted) continue;
    socket->Unlink();
    socket->send_phase = SendPhase::kNothing;
  }
}

unsigned FastSends::Settle(const UringRing& ring) noexcept {
  unsigned succeeded = 0;
  while (!submitted_.empty() && ring.consumed(submitted_.front()->send_position)) {
    Socket& socket = *submitted_.PopFront();
    socket.send_phase = SendPhase::kNothing;
    if (socket.send_result.value == 0) continue;
    ++succeeded;
    socket.send_phase = SendPhase::kKnown;
    silent_.PushBack(socket);
    SetGuard(socket, true);
  }
  return succeeded;
}

void FastSends::Hurry(Socket& socket) noexcept {
  HOLDFAST_CHECK(socket.send_phase == SendPhase::kKnown);
  socket.Unlink();
  prompt_.PushBack(socket);
}

Socket* FastSends::Pop() noexcept {
  return prompt_.empty() ? silent_.PopFront() : prompt_.PopFront();
}

void FastSends::SetGuard(const Socket& socket, bool guarded) noexcept {
  if constexpr (kPoisons) {
    if (socket.slot >= parts_.size()) return;
    const Parts& parts = parts_[socket.slot];
    for (const iovec& part : std::span(parts.parts, parts.count)) {
      if (guarded) {
        Poison(part.iov_base, part.iov_len);
      } else {
        Unpoison(part.iov_base, part.iov_len);
      }
    }
  }
}

void FastSends::SetGuards(bool guarded) noexcept {
  if constexpr (kPoisons) {
    for (const Socket& socket : submitted_) SetGuard(socket, guarded);
  }
}

}  // namespace holdfast::internal
