// The inputs that the fuzzers of text found worth keeping are played again, without libFuzzer; and what once
// went wrong stands here by name.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <holdfast/endpoint.h>
#include "echo/chaos.h"
#include "fuzz/text_input.h"

namespace holdfast::fuzz {
namespace {

struct Target {
  const char* name;
  std::string (*check)(std::string_view);
  // Taken, and not merely refused; so that a corpus that has lost touch is noticed.
  bool (*taken)(const std::string&);
};

class TextCorpusTest : public testing::TestWithParam<Target> {};

TEST_P(TextCorpusTest, EveryInputHoldsThePromises) {
  const char* const root = std::getenv("HOLDFAST_ROOT");
  const std::filesystem::path folder =
      std::filesystem::path(root != nullptr ? root : ".") / "tests/fuzz/corpus" / GetParam().name;
  int inputs = 0;
  int taken = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    EXPECT_EQ(GetParam().check(text), "") << entry.path();
    ++inputs;
    if (GetParam().taken(text)) ++taken;
  }
  EXPECT_GE(inputs, 8);
  EXPECT_GE(taken, 2);
  EXPECT_LT(taken, inputs);
}

std::string TargetName(const testing::TestParamInfo<Target>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    All, TextCorpusTest,
    testing::Values(Target{"endpoint", &CheckEndpoint,
                           [](const std::string& text) { return Endpoint::Parse(text).ok(); }},
                    Target{"chaos", &CheckChaos,
                           [](const std::string& text) { return echo::ParseChaos(text).ok(); }},
                    Target{"framing", &CheckFraming,
                           [](const std::string& text) { return CountMessages(text) >= 2; }},
                    Target{"flags", &CheckFlags,
                           [](const std::string& text) {
                             return text.find("json") != std::string::npos;
                           }}),
    TargetName);

// Whoever reads a C string stops at its NUL: what stands behind it was taken, and looked at by nobody.
TEST(EndpointFuzzTest, ANulByteIsRefusedWhereverItStands) {
  for (const std::string& text :
       {std::string("[::1\0x]:7", 9), std::string("127.0.0.1\0x:7", 13),
        std::string("[fe80::1%lo\0x]:7", 16), std::string("localhost\0:7", 12)}) {
    EXPECT_FALSE(Endpoint::Parse(text).ok()) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace holdfast::fuzz
