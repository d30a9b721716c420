// The figures of a herd, against small herds that were counted by hand.
#include "herd/tally.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>

namespace holdfast::herd {
namespace {

using namespace std::chrono_literals;

// So many dials at once.
void Dial(Tally& tally, Duration at, int count) {
  for (int i = 0; i < count; ++i) tally.OnDial(at);
}

TEST(TallyTest, ADialBelongsToTheOutageUntilTheServerIsBack) {
  Tally tally(10, 2s);
  Dial(tally, 0s, 3);
  Dial(tally, 1999ms, 4);
  Dial(tally, 2s, 5);

  const Figures figures = tally.Finish(3s);

  EXPECT_EQ(figures.outage.dials, 7u);
  EXPECT_EQ(figures.outage.length, 2s);
  EXPECT_EQ(figures.recovery.dials, 5u);
  EXPECT_EQ(figures.recovery.length, 1s);
  EXPECT_EQ(figures.dials, 12u);
}

TEST(TallyTest, ThePeakIsTheFullestSecondWhereverItBegins) {
  Tally tally(10, 3s);
  // 2 + 3 + 4 lie between 0.5 s and 1.5 s; no second of the clock has more than 6.
  Dial(tally, 0s, 1);
  Dial(tally, 500ms, 2);
  Dial(tally, 900ms, 3);
  Dial(tally, 1499ms, 4);
  Dial(tally, 1500ms, 1);

  const Figures figures = tally.Finish(3s);

  EXPECT_EQ(figures.outage.peak_second, 9u);
  EXPECT_EQ(figures.outage.peak_grain, 4u);
}

TEST(TallyTest, ASecondThatReachesIntoTheOtherPhaseIsOfNeither) {
  Tally tally(10, 2s);
  Dial(tally, 1900ms, 7);
  Dial(tally, 2s, 8);

  const Figures figures = tally.Finish(4s);

  EXPECT_EQ(figures.outage.peak_second, 7u);
  EXPECT_EQ(figures.recovery.peak_second, 8u);
}

TEST(TallyTest, PeakOverMeanIsTheFullestSecondOverDialsASecondOfThePhase) {
  Tally tally(10, 4s);
  Dial(tally, 0s, 4);
  Dial(tally, 500ms, 2);
  Dial(tally, 2s, 1);
  Dial(tally, 3s, 1);
  Dial(tally, 4s, 5);

  const Figures figures = tally.Finish(10s);

  // 8 dials in 4 s are 2 a second, and 6 are three times that. 5 in 6 s: 5 / (5 / 6).
  EXPECT_EQ(figures.outage.peak_over_mean_hundredths(), 300u);
  EXPECT_EQ(figures.recovery.peak_over_mean_hundredths(), 600u);
  EXPECT_EQ(Tally(1, 1s).Finish(2s).outage.peak_over_mean_hundredths(), 0u);
}

TEST(TallyTest, NoPeakIsBelowTheMeanAlsoOfAPhaseUnderASecond) {
  Tally tally(10, 300ms);
  Dial(tally, 0s, 4);
  Dial(tally, 200ms, 2);
  Dial(tally, 300ms, 5);

  const Figures figures = tally.Finish(1200ms);

  // All six dials of the outage are in its fullest second; of the 0.9 s after it the same is true.
  EXPECT_EQ(figures.outage.peak_second, 6u);
  EXPECT_EQ(figures.outage.peak_over_mean_hundredths(), 100u);
  EXPECT_EQ(figures.recovery.peak_over_mean_hundredths(), 100u);
}

TEST(TallyTest, TheLateDialsAreThoseOfTheLastTenSecondsOfTheOutage) {
  Tally tally(10, 20s);
  Dial(tally, 9999ms, 100);
  Dial(tally, 10s, 30);
  Dial(tally, 19999ms, 25);
  Dial(tally, 20s, 100);
  EXPECT_EQ(tally.Finish(21s).late_dials_per_second, 5u);  // 55 in ten seconds, rounded down.

  Tally brief(10, 2s);
  Dial(brief, 0s, 9);
  EXPECT_EQ(brief.Finish(3s).late_dials_per_second, 4u);  // All of it.
}

TEST(TallyTest, EveryDialIsAGreetingOrWastedOrUnderWay) {
  Tally tally(4, 2s);
  Dial(tally, 1s, 3);
  Dial(tally, 2s, 3);
  tally.OnFailed(1s);
  tally.OnFailed(1s);
  tally.OnFailed(2s);
  tally.OnUp(2500ms, 1s);  // A SYN of the outage, sent again.
  tally.OnUp(2500ms, 2s);

  const Figures figures = tally.Finish(3s);

  EXPECT_EQ(figures.dials, 6u);
  EXPECT_EQ(figures.ups, 2u);
  EXPECT_EQ(figures.wasted, 3u);
  EXPECT_EQ(figures.dialing, 1u);
  EXPECT_EQ(figures.outage.wasted, 2u);
  EXPECT_EQ(figures.recovery.wasted, 1u);
}

TEST(TallyTest, SharesAreReachedWithTheLinkThatMakesThemWhole) {
  // 50 %, 99 % and 100 % of 200 are 100, 198 and 200 links; one comes up each second.
  Tally tally(200, 60s);
  for (int i = 1; i <= 200; ++i) {
    tally.OnDial(60s);
    tally.OnUp(60s + i * 1s, 60s);
  }
  const Figures figures = tally.Finish(260s);
  EXPECT_EQ(figures.up_after[0], 100s);
  EXPECT_EQ(figures.up_after[1], 198s);
  EXPECT_EQ(figures.up_after[2], 200s);

  // Half of three links are two of them, and all but a hundredth are three.
  Tally three(3, 1s);
  three.OnUp(2s, 1s);
  three.OnUp(3s, 1s);
  EXPECT_EQ(three.Finish(4s).up_after[0], 2s);
  EXPECT_EQ(three.Finish(4s).up_after[1], std::nullopt);
}

TEST(TallyTest, ALinkThatGoesDownAgainLeavesTheTimesAsTheyWere) {
  Tally tally(2, 1s);
  tally.OnUp(2s, 1s);
  tally.OnDown(3s);
  EXPECT_EQ(tally.up(), 0u);
  tally.OnUp(4s, 3s);
  EXPECT_FALSE(tally.all_up());
  tally.OnUp(5s, 3s);
  EXPECT_TRUE(tally.all_up());

  EXPECT_EQ(tally.Finish(5s).up_after[0], 1s);
  EXPECT_EQ(tally.Finish(5s).up_after[2], 4s);
}

TEST(TallyTest, TheCsvHasALineForEachBinAndTheLinksUpAtItsEnd) {
  Tally tally(5, 1s);
  Dial(tally, 0s, 4);
  Dial(tally, 499ms, 2);
  Dial(tally, 500ms, 1);
  Dial(tally, 1100ms, 3);
  tally.OnUp(1200ms, 1100ms);
  tally.OnUp(1300ms, 1100ms);
  tally.OnDown(1600ms);

  EXPECT_EQ(tally.Csv(1601ms, 500ms),
            "t_ms,dials_per_s,ups_per_s,up\n"
            "0,12,0,0\n"
            "500,2,0,0\n"
            "1000,6,4,2\n"
            "1500,0,0,1\n");
}

}  // namespace
}  // namespace holdfast::herd
