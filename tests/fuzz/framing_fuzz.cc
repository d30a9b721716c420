// FrameReader: what any peer on a network may send. `make fuzz`; text_input.h says what must hold.
#include "fuzz/text_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return holdfast::fuzz::Play(&holdfast::fuzz::CheckFraming, data, size);
}
