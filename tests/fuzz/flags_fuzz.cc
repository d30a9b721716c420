// The values of flags that the echo pair reads itself. `make fuzz`; text_input.h says what must hold.
#include "fuzz/text_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return holdfast::fuzz::Play(&holdfast::fuzz::CheckFlags, data, size);
}
