// Cuts received bytes into messages, whatever parts they come in (framing.h).
//
// A message that lies whole in what was received is handed on where it lies. Else its parts are gathered
// in a buffer of its own, which goes with it, so that a connection between two messages holds none. Each
// byte is copied once or twice, and looked at by the framing a few times, however many parts there are:
// the buffer at least doubles, and a framing that cannot say how long its frame is is shown as much again
// as it has seen (from 64 bytes on). What it did not need of that is read again from where it came.
#ifndef HOLDFAST_MACHINE_FRAME_READER_H_
#define HOLDFAST_MACHINE_FRAME_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include <holdfast/framing.h>
#include "base/try_vector.h"

namespace holdfast::internal {

class FrameReader {
 public:
  enum class Found : std::uint8_t {
    kMessage,
    kMore,  // Nothing, yet; all bytes are taken.
    // No message will come any more; what is given now is dropped.
    kTooLong,
    kMalformed,
    kNoMemory,
  };
  struct Next {
    Found found = Found::kMore;
    std::span<const std::byte> message = {};  // Until the next call, and as long as the bytes live.
  };

  // Takes what it needs off the front of `bytes`. The framing is the same from call to call.
  [[nodiscard]] Next Read(const Framing& framing, std::span<const std::byte>& bytes) noexcept;
  // A new connection: at the start of a frame.
  void Reset() noexcept { *this = FrameReader(); }

  // What is allocated for the parts of a frame: at most twice the longest frame, and at most twice what has
  // come of it (or twice 64 bytes).
  [[nodiscard]] std::size_t memory() const noexcept { return parts_.capacity(); }

 private:
  enum class Stage : std::uint8_t { kReading, kTold, kOver };

  [[nodiscard]] Next Take(const FrameCut& cut, std::span<const std::byte> shown,
                          std::size_t max) noexcept;
  [[nodiscard]] Next ReadWhole(const Framing& framing, std::span<const std::byte>& bytes) noexcept;
  [[nodiscard]] Next ReadOn(const Framing& framing, std::span<const std::byte>& bytes) noexcept;
  [[nodiscard]] Next End(Found why) noexcept;

  TryVector<std::byte> parts_;  // From the start of the frame on, where it is not all here.
  std::size_t needed_ = 0;  // Of it, before it is looked at again; more than there is in parts_.
  Stage stage_ = Stage::kReading;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_FRAME_READER_H_
