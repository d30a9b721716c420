// The schedule of holdfast-echod --chaos. `make fuzz`; text_input.h says what must hold.
#include "fuzz/text_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return holdfast::fuzz::Play(&holdfast::fuzz::CheckChaos, data, size);
}
