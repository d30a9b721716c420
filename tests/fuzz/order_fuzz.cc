// The event-order fuzzer: libFuzzer's bytes are the script of a small world (order_world.h). `make fuzz`.
//
//   build/fuzz/bin/order_fuzz FILE                    plays one input again
//   HOLDFAST_TRACE=1 build/fuzz/bin/order_fuzz FILE   and tells what happens, line by line
//
// With HOLDFAST_FUZZ_EDGES only code counts as new, so that a merge gives a small corpus.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "fuzz/order_world.h"

namespace {

// libFuzzer counts a byte of this section as it counts an edge of the program.
__attribute__((section("__libfuzzer_extra_counters")))
std::array<std::uint8_t, holdfast::fuzz::kSightings>
    sightings;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  holdfast::fuzz::OrderOptions options;
  static const bool edges_alone = std::getenv("HOLDFAST_FUZZ_EDGES") != nullptr;
  if (!edges_alone) options.sightings = sightings;
  static const bool told = std::getenv("HOLDFAST_TRACE") != nullptr;
  if (told) {
    options.tell = [](std::string_view line) {
      std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
    };
  }
  const holdfast::fuzz::OrderResult result =
      holdfast::fuzz::PlayOrder(std::span(data, size), std::move(options));
  if (told) {
    std::printf("hash %016llx, %llu completions, %llu ups, %llu downs, %llu messages\n",
                static_cast<unsigned long long>(result.hash),
                static_cast<unsigned long long>(result.completions),
                static_cast<unsigned long long>(result.ups),
                static_cast<unsigned long long>(result.downs),
                static_cast<unsigned long long>(result.messages));
  }
  if (result.violations.empty()) return 0;
  std::fflush(stdout);
  for (const std::string& violation : result.violations) {
    std::fprintf(stderr, "violated: %s\n", violation.c_str());
  }
  std::fprintf(stderr,
               "replay: order_fuzz FILE, the file that is named below; HOLDFAST_TRACE=1 tells the "
               "story\n");
  std::abort();
}
