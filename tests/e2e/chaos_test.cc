#include "echo/chaos.h"

#include <chrono>
#include <string>

#include <gtest/gtest.h>

namespace holdfast::echo {
namespace {

using namespace std::chrono_literals;

TEST(ChaosTest, IsUpForGoodWhenNothingIsSaid) {
  const auto chaos = ParseChaos("");
  ASSERT_TRUE(chaos.ok());
  ASSERT_EQ(chaos->size(), 1u);
  EXPECT_EQ(chaos->front().mode, ChaosMode::kUp);
  EXPECT_EQ(chaos->front().lasts, std::nullopt);
}

TEST(ChaosTest, ReadsASchedule) {
  const auto chaos = ParseChaos("up:2s,refuse:3s,reset:1s,eof:100ms,stall");
  ASSERT_TRUE(chaos.ok()) << chaos.status();
  ASSERT_EQ(chaos->size(), 5u);
  EXPECT_EQ((*chaos)[0].mode, ChaosMode::kUp);
  EXPECT_EQ((*chaos)[0].lasts, 2s);
  EXPECT_EQ((*chaos)[1].mode, ChaosMode::kRefuse);
  EXPECT_EQ((*chaos)[2].mode, ChaosMode::kReset);
  EXPECT_EQ((*chaos)[3].lasts, 100ms);
  EXPECT_EQ((*chaos)[4].mode, ChaosMode::kStall);
  EXPECT_EQ((*chaos)[4].lasts, std::nullopt);
}

TEST(ChaosTest, NamesTheSameModesAsItReads) {
  for (const char* name : {"up", "refuse", "eof", "reset", "stall"}) {
    EXPECT_EQ(ToString(ParseChaos(name)->front().mode), name);
  }
}

TEST(ChaosTest, NamesThePartThatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"down", "down"},     {"up:2s,,eof:1s", "''"},
      {"up:2", "up:2"},     {"up:0", "up:0"},
      {"up:-1s", "up:-1s"}, {"up:999us", "up:999us"},
      {"up:", "up:"},       {"up,refuse:1s", "'up'"},
      {"up:1s,", "''"},     {"up:1s;eof:1s", "up:1s;eof:1s"},
      {"UP", "UP"},
  };
  for (const auto& [text, part] : cases) {
    const auto chaos = ParseChaos(text);
    EXPECT_FALSE(chaos.ok()) << text;
    EXPECT_NE(std::string(chaos.status().message()).find(part), std::string::npos)
        << text << " -> " << chaos.status();
  }
}

}  // namespace
}  // namespace holdfast::echo
