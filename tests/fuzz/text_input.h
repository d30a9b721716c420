// What is read from people and peers, for the fuzzers and for the suite that plays their corpora again:
// endpoints, the chaos schedule, the values of flags, framed messages. Each takes any bytes, and answers which promise they broke, or "".
#ifndef HOLDFAST_TESTS_FUZZ_TEXT_INPUT_H_
#define HOLDFAST_TESTS_FUZZ_TEXT_INPUT_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace holdfast::fuzz {

// Endpoint::Parse. What it takes is an address that is written and read again as itself, or a name with
// nothing in it that a resolver would trip over; what it refuses it names.
std::string CheckEndpoint(std::string_view text);

// echo::ParseChaos. What it takes, written out again, is the same schedule; every phase has a mode and a
// length, and only the last may be without end.
std::string CheckChaos(std::string_view text);

// The values that the echo pair reads itself, and Given: the first byte says which, a command line has one
// argument a line. (absl's own parsing ends the process where it finds a mistake.)
std::string CheckFlags(std::string_view text);

// FrameReader. The first five bytes choose a framing, its limits and the sizes of the parts in which the rest
// is received. In parts it finds the messages, and the end, that a reader of the whole text finds.
std::string CheckFraming(std::string_view text);
// How many messages it finds.
std::size_t CountMessages(std::string_view text);

// The body of a fuzzer: says what was broken, and aborts.
inline int Play(std::string (*check)(std::string_view), const std::uint8_t* data,
                std::size_t size) {
  const std::string broken = check({reinterpret_cast<const char*>(data), size});
  if (broken.empty()) return 0;
  std::fprintf(stderr, "violated: %s\n", broken.c_str());
  std::abort();
}

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_TEXT_INPUT_H_
