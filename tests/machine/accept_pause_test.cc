#include "machine/accept_pause.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace holdfast::internal {
namespace {

using std::chrono::milliseconds;

std::vector<Duration> Pauses(AcceptPause& pause, int count) {
  std::vector<Duration> pauses;
  for (int i = 0; i < count; ++i) pauses.push_back(pause.OnFailure());
  return pauses;
}

TEST(AcceptPauseTest, StartsAtFiveMillisecondsAndDoublesToOneSecond) {
  AcceptPause pause;
  const std::vector<Duration> expected = {milliseconds(5),    milliseconds(10),  milliseconds(20),
                                          milliseconds(40),   milliseconds(80),  milliseconds(160),
                                          milliseconds(320),  milliseconds(640), milliseconds(1000),
                                          milliseconds(1000), milliseconds(1000)};
  EXPECT_EQ(Pauses(pause, 11), expected);
}

TEST(AcceptPauseTest, StaysAtOneSecondForEver) {
  AcceptPause pause;
  for (int i = 0; i < 100'000; ++i) EXPECT_LE(pause.OnFailure(), milliseconds(1000));
  EXPECT_EQ(pause.OnFailure(), milliseconds(1000));
}

TEST(AcceptPauseTest, BeginsAnewAfterASuccess) {
  AcceptPause pause;
  static_cast<void>(Pauses(pause, 20));
  pause.OnSuccess();
  EXPECT_EQ(pause.OnFailure(), milliseconds(5));
  EXPECT_EQ(pause.OnFailure(), milliseconds(10));
}

}  // namespace
}  // namespace holdfast::internal
