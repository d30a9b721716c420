// Small herds in the simulated world.
#include "herd/herd.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "herd/policy.h"

namespace holdfast::herd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kLinks = 300;

struct Outcome {
  bool all_up = false;
  Figures figures;
  std::string bins;
  std::uint64_t taken_in = 0;
  std::uint64_t in_vain = 0;
  std::uint64_t hash = 0;
};

Outcome Play(HerdOptions options, Duration limit = 5min) {
  options.links = kLinks;
  Herd herd(options);
  Outcome outcome;
  EXPECT_TRUE(herd.Gather());
  herd.Lose();
  outcome.all_up = herd.Return(limit);
  outcome.figures = herd.tally().Finish(herd.since_loss());
  outcome.bins = herd.tally().Csv(herd.since_loss(), 1s);
  outcome.taken_in = herd.taken_in();
  outcome.hash = herd.world().hash();
  outcome.in_vain = herd.CountInVain();
  EXPECT_EQ(herd.taken_in(), outcome.taken_in);
  EXPECT_EQ(herd.starved(), 0u);
  return outcome;
}

HerdOptions WithPolicy(const char* name, Loss loss = Loss::kKill) {
  return {.backoff = ParsePolicy(name)->backoff, .loss = loss};
}

class HerdTest : public testing::TestWithParam<std::pair<Loss, BackendKind>> {};

TEST_P(HerdTest, EveryLinkComesBackAndEveryDialIsAccountedFor) {
  const auto [loss, backend] = GetParam();

  const Outcome outcome = Play({.loss = loss, .outage = 30s, .backend = backend});

  EXPECT_TRUE(outcome.all_up);
  EXPECT_EQ(outcome.figures.ups, kLinks);
  EXPECT_EQ(outcome.figures.dialing, 0u);
  EXPECT_EQ(outcome.figures.dials, outcome.figures.ups + outcome.figures.wasted);
  EXPECT_EQ(outcome.figures.wasted,
            outcome.figures.outage.wasted + outcome.figures.recovery.wasted);
  EXPECT_EQ(outcome.figures.dials, outcome.figures.outage.dials + outcome.figures.recovery.dials);
  EXPECT_GE(outcome.figures.outage.wasted,
            kLinks);  // At least one try each, while nobody is there.
}

// A tenth of the links a second: the last one is taken in after ten seconds at the earliest, but for what
// a greeting takes on its way.
TEST_P(HerdTest, TheServerTakesInNoMoreThanItsRate) {
  const auto [loss, backend] = GetParam();

  const Outcome outcome = Play({.loss = loss, .outage = 30s, .backend = backend});

  ASSERT_TRUE(outcome.figures.up_after[2].has_value());
  EXPECT_GE(*outcome.figures.up_after[0], 5s);
  EXPECT_GE(*outcome.figures.up_after[2], 10s);
  EXPECT_EQ(outcome.taken_in,
            outcome.figures.ups + outcome.in_vain);  // All are up: none is on its way.
}

TEST_P(HerdTest, TheSameSeedIsTheSameHerd) {
  const auto [loss, backend] = GetParam();
  const HerdOptions options{.loss = loss, .outage = 30s, .backend = backend, .seed = 7};
  HerdOptions other = options;
  other.seed = 8;

  const Outcome first = Play(options);
  const Outcome again = Play(options);

  EXPECT_EQ(first.bins, again.bins);
  EXPECT_EQ(first.hash, again.hash);
  EXPECT_NE(first.bins, Play(other).bins);
}

#ifdef HOLDFAST_NO_URING
constexpr BackendKind kOtherBackend = BackendKind::kEpoll;
#else
constexpr BackendKind kOtherBackend = BackendKind::kUring;
#endif

INSTANTIATE_TEST_SUITE_P(Sim, HerdTest,
                         testing::Values(std::pair(Loss::kCrash, BackendKind::kEpoll),
                                         std::pair(Loss::kKill, BackendKind::kEpoll),
                                         std::pair(Loss::kKill, kOtherBackend)));

TEST(HerdLessonTest, WithoutJitterTheHerdDialsInStep) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    HerdOptions ours = WithPolicy("ours");
    HerdOptions exponential = WithPolicy("exponential");
    ours.seed = exponential.seed = seed;

    const Figures spread = Play(ours).figures;
    const Figures in_step = Play(exponential).figures;

    EXPECT_GT(in_step.outage.peak_grain, spread.outage.peak_grain);
    EXPECT_GT(in_step.recovery.peak_grain, spread.recovery.peak_grain);
    EXPECT_GT(in_step.recovery.peak_over_mean_hundredths(),
              spread.recovery.peak_over_mean_hundredths());
  }
}

TEST(HerdLessonTest, WithoutBackoffEveryLinkDialsManyTimesASecondForNothing) {
  const Figures naive = Play(WithPolicy("none")).figures;
  const Figures ours = Play(WithPolicy("ours")).figures;

  EXPECT_GT(naive.late_dials_per_second, 5 * kLinks);  // 100 ms, and a round trip of up to 98 ms.
  EXPECT_LT(ours.late_dials_per_second, kLinks);
  EXPECT_GT(naive.wasted, 10 * ours.wasted);
}

// A hundred are taken in within the second, each in time: nobody's patience has ended.
TEST(HerdCountTest, AGreetingThatIsOnItsWayWhenTheLimitEndsIsNotInVain) {
  HerdOptions options = WithPolicy("none");
  options.accept_rate = 100;
  options.patience = 5s;

  const Outcome outcome = Play(options, 1s);

  EXPECT_FALSE(outcome.all_up);
  EXPECT_GT(outcome.taken_in, outcome.figures.ups);  // Some are on their way.
  EXPECT_EQ(outcome.in_vain, 0u);
}

TEST(HerdCountTest, WhoWatchesIsCalledEveryTenthOfASecondAndChangesNothing) {
  HerdOptions options = WithPolicy("ours");
  options.links = 20;
  options.outage = 2s;
  Herd herd(options);
  ASSERT_TRUE(herd.Gather());
  int looks = 0;
  herd.Watch([&looks] { ++looks; });

  herd.Lose();
  EXPECT_EQ(looks, 20);
  EXPECT_EQ(herd.since_loss(), 2s);
  EXPECT_FALSE(herd.Return(250ms));  // Twenty at two a second.

  EXPECT_EQ(looks, 23);
  EXPECT_EQ(herd.since_loss(), 2250ms);
}

// 300 links that come every ten seconds or so, when they are not served within five, are 30 a second.
TEST(HerdLessonTest, AServerThatIsSlowerThanItsHerdServesThoseWhoHaveGone) {
  HerdOptions slow = WithPolicy("ours");
  slow.accept_rate = 15;
  const Outcome collapsed = Play(slow, 1min);
  EXPECT_FALSE(collapsed.all_up);
  EXPECT_GT(collapsed.taken_in, 4 * collapsed.figures.ups);
  EXPECT_GT(collapsed.in_vain, 3 * collapsed.figures.ups);

  // Waiting longer, ...
  HerdOptions patient = WithPolicy("cap60");
  patient.accept_rate = 15;
  EXPECT_TRUE(Play(patient, 2min).all_up);

  // ... or a queue that is no longer than what is served in time: four seconds of five.
  slow.queue = 60;
  const Outcome bounded = Play(slow, 1min);
  EXPECT_TRUE(bounded.all_up);
  EXPECT_EQ(bounded.taken_in, bounded.figures.ups);
  EXPECT_EQ(bounded.in_vain, 0u);
}

}  // namespace
}  // namespace holdfast::herd
