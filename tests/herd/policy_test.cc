// What the herd's options accept.
#include "herd/policy.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>

namespace holdfast::herd {
namespace {

using namespace std::chrono_literals;

TEST(PolicyTest, OursIsTheDefaultOfTheLibrary) {
  ASSERT_TRUE(ParsePolicy("ours").has_value());
  EXPECT_EQ(ParsePolicy("ours")->backoff, BackoffOptions{});
}

TEST(PolicyTest, TheNaiveLoopNeverWaitsLonger) {
  const std::optional<Policy> none = ParsePolicy("none");
  ASSERT_TRUE(none.has_value());
  EXPECT_EQ(BackoffDelay(none->backoff, 0, 0), 100ms);
  EXPECT_EQ(BackoffDelay(none->backoff, 1000, ~std::uint64_t{0}), 100ms);
}

TEST(PolicyTest, NamesAreDifferent) {
  for (const Policy& a : NamedPolicies()) {
    for (const Policy& b : NamedPolicies()) EXPECT_TRUE(&a == &b || a.name != b.name) << a.name;
  }
}

TEST(PolicyTest, OneOfYourOwnHasANameAndWhatDiffers) {
  const std::optional<Policy> mine =
      ParsePolicy("mine:initial=2s,max=5min,multiplier=1.25,jitter=equal");

  ASSERT_TRUE(mine.has_value());
  EXPECT_EQ(mine->name, "mine");
  const BackoffOptions expected{
      .initial = 2s, .multiplier = 1.25, .max = 300s, .jitter = Jitter::kEqual};
  EXPECT_EQ(mine->backoff, expected);
  EXPECT_EQ(ParsePolicy("mine:max=30s")->backoff, BackoffOptions{.max = 30s});
}

TEST(PolicyTest, WhatIsNoPolicyIsRefused) {
  for (const char* const text :
       {"", "mine", "mine:", ":max=1s", "a b:max=1s", "../x:max=1s", "mine:max",
        "mine:max=", "mine:max=10", "mine:speed=1s", "mine:jitter=some", "mine:multiplier=0.999",
        "mine:multiplier=1024.001", "mine:multiplier=1.0001", "mine:multiplier=x",
        "mine:initial=2s,max=1s"}) {
    EXPECT_FALSE(ParsePolicy(text).has_value()) << text;
  }
}

TEST(PolicyTest, DurationsAreWholeNumbersWithAUnit) {
  EXPECT_EQ(ParseDuration("100ms"), 100ms);
  EXPECT_EQ(ParseDuration("60s"), 60s);
  EXPECT_EQ(ParseDuration("5min"), 5min);
  EXPECT_EQ(ParseDuration("2h"), 2h);
  EXPECT_EQ(ParseDuration("2562047h"), 2'562'047h);  // 2^63 - 1 nanoseconds are 2,562,047.8 hours.
  for (const char* const text :
       {"", "s", "60", "0s", "-1s", "1.5s", "60 s", "1m", "2562048h", "99999999999999999999s"}) {
    EXPECT_EQ(ParseDuration(text), std::nullopt) << text;
  }
}

TEST(PolicyTest, DurationsAreToldShortly) {
  EXPECT_EQ(ToText(100ms), "100 ms");
  EXPECT_EQ(ToText(60s), "60 s");
  EXPECT_EQ(ToText(1500ms), "1.5 s");
}

TEST(PolicyTest, SecondsHaveTheDecimalsThatTheyNeed) {
  EXPECT_EQ(ToSeconds(2min), "120");
  EXPECT_EQ(ToSeconds(1500ms), "1.5");
  EXPECT_EQ(ToSeconds(500ms), "0.5");  // A limit of it is not "more than 0 s".
  EXPECT_EQ(ToSeconds(50ms), "0.05");
  EXPECT_EQ(ToSeconds(10s + 1ms), "10.001");
}

}  // namespace
}  // namespace holdfast::herd
