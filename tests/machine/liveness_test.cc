#include "machine/liveness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Step = Liveness::Step;

constexpr bool kMoreIsReady = false;
constexpr bool kAllDispatched = true;

Instant At(Duration since_start) { return Instant(hours(7)) + since_start; }

constexpr LivenessOptions kPings{.silence_max = seconds(20), .has_ping = true};
constexpr LivenessOptions kKernel{.silence_max = seconds(20), .kernel_life = true};

class LivenessTest : public testing::Test {
 protected:
  Step Deadline(Duration now, bool everything_dispatched = kAllDispatched) {
    return life.OnDeadline(At(now), everything_dispatched);
  }
  // Started at 0, with pings.
  void Use(const LivenessOptions& options) {
    life = Liveness(options);
    life.Start(At({}), true);
  }
  void ExpectNext(Duration when) { EXPECT_EQ(life.next_deadline(), At(when)); }

  Liveness life{kPings};
};

// --- The ordinary course.

TEST_F(LivenessTest, NothingIsDueBeforeItIsStarted) {
  EXPECT_EQ(life.next_deadline(), kNever);
  EXPECT_EQ(Deadline(hours(100)), Step::kNone);
}

TEST_F(LivenessTest, ThePingGoesOutAfterHalfOfTheSilence) {
  Use(kPings);
  ExpectNext(seconds(10));
  EXPECT_EQ(Deadline(seconds(10)), Step::kPing);
}

TEST_F(LivenessTest, APeerThatDoesNotAnswerIsDeadAtSilenceMaxAndOneTurn) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ExpectNext(seconds(20));
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  EXPECT_TRUE(life.suspect());
  ExpectNext(seconds(20));  // A turn without waiting.
  EXPECT_EQ(Deadline(seconds(20)), Step::kDead);
  EXPECT_EQ(life.next_deadline(), kNever);
}

TEST_F(LivenessTest, ACallBeforeTheDeadlineDoesNothing) {
  Use(kPings);
  EXPECT_EQ(Deadline(seconds(10) - Duration(1)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(20) - Duration(1)), Step::kNone);
  EXPECT_FALSE(life.suspect());
}

TEST_F(LivenessTest, AByteMovesBothDeadlines) {
  Use(kPings);
  life.OnReceived(At(seconds(7)));
  ExpectNext(seconds(17));
  EXPECT_EQ(Deadline(seconds(10)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(17)), Step::kPing);
  ExpectNext(seconds(27));
}

TEST_F(LivenessTest, OnePingIsSentPerSilence) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  for (const Duration now : {seconds(10), seconds(12), seconds(19)}) {
    EXPECT_EQ(Deadline(now), Step::kNone);
  }
  life.OnReceived(At(seconds(19)));
  EXPECT_EQ(Deadline(seconds(28)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(29)), Step::kPing);
}

TEST_F(LivenessTest, ASkippedPingIsOwedASixteenthLater) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  life.OnPingSkipped(At(seconds(10)));
  ExpectNext(milliseconds(11'250));
  EXPECT_EQ(Deadline(milliseconds(11'249)), Step::kNone);
  EXPECT_EQ(Deadline(milliseconds(11'250)), Step::kPing);
  ExpectNext(seconds(20));
}

TEST_F(LivenessTest, SkippedPingsDoNotPutDeathOff) {
  Use(kPings);
  for (Instant now = At(seconds(10)); now < At(seconds(20)); now = life.next_deadline()) {
    ASSERT_EQ(life.OnDeadline(now, kAllDispatched), Step::kPing);
    life.OnPingSkipped(now);
  }
  ExpectNext(seconds(20));
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(20)), Step::kDead);
}

TEST_F(LivenessTest, AnOddSilenceIsHalvedUpwards) {
  Use({.silence_max = seconds(20) + Duration(1), .has_ping = true});
  ExpectNext(seconds(10) + Duration(1));
  ASSERT_EQ(Deadline(seconds(10) + Duration(1)), Step::kPing);
  life.OnReceived(At(seconds(10) + Duration(1)));
  EXPECT_GE(life.next_deadline(), At(seconds(20) + Duration(1)));  // What the timer is armed for.
}

TEST_F(LivenessTest, StopEndsAllDeadlines) {
  Use(kPings);
  life.Stop();
  EXPECT_EQ(life.next_deadline(), kNever);
  EXPECT_EQ(Deadline(seconds(100)), Step::kNone);
  life.OnReceived(At(seconds(100)));  // A receive that was on its way.
  EXPECT_EQ(life.next_deadline(), kNever);
  life.OnKernelLife(At(seconds(100)), At(seconds(200)));
  EXPECT_FALSE(life.suspect());
}

TEST_F(LivenessTest, ANewSessionStartsFromItsOwnStart) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20)), Step::kNone);
  life.Start(At(seconds(100)), true);
  EXPECT_FALSE(life.suspect());
  ExpectNext(seconds(110));
  EXPECT_EQ(Deadline(seconds(110)), Step::kPing);
}

TEST_F(LivenessTest, NobodyDiesAfterTheEnd) {
  Use(kPings);
  life.Stop();
  for (int turn = 0; turn < 3; ++turn) {
    EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
    EXPECT_FALSE(life.suspect());
  }
}

TEST_F(LivenessTest, ANewSessionWaitsForItsOwnLogin) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(5), .has_ping = true});
  life.Stop();
  life.StartPings(At(seconds(50)));
  EXPECT_EQ(life.next_deadline(), kNever);
  life.Start(At(seconds(100)), false);
  ExpectNext(seconds(120));
  life.StartPings(At(seconds(101)));
  ExpectNext(seconds(106));
}

// --- Confirmation.

TEST_F(LivenessTest, AByteOfTheTurnInBetweenClearsTheSuspicion) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20)), Step::kNone);
  ASSERT_TRUE(life.suspect());
  life.OnReceived(At(seconds(20)));
  EXPECT_FALSE(life.suspect());
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  ExpectNext(seconds(30));
  EXPECT_EQ(Deadline(seconds(30)), Step::kPing);
}

TEST_F(LivenessTest, NothingIsJudgedWhileMoreIsReady) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20)), Step::kNone);
  for (int turn = 1; turn < 5; ++turn) {
    const Duration now = seconds(20) + milliseconds(turn);
    EXPECT_EQ(Deadline(now, kMoreIsReady), Step::kNone);
    EXPECT_TRUE(life.suspect());
    ExpectNext(now);
  }
  EXPECT_EQ(Deadline(seconds(20) + milliseconds(5)), Step::kDead);
}

// A loop that never runs dry puts the judgement off by a quarter of silence_max, and no longer.
TEST_F(LivenessTest, ALoopThatNeverRunsDryJudgesAfterAQuarter) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20), kMoreIsReady), Step::kNone);
  for (Duration now = seconds(20); now < seconds(25); now += milliseconds(500)) {
    ASSERT_EQ(Deadline(now, kMoreIsReady), Step::kNone);
    ASSERT_TRUE(life.suspect());
  }
  EXPECT_EQ(Deadline(seconds(25), kMoreIsReady), Step::kDead);
}

TEST_F(LivenessTest, EverySuspicionHasAQuarterOfItsOwn) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20), kMoreIsReady), Step::kNone);
  ASSERT_EQ(Deadline(seconds(24), kMoreIsReady), Step::kNone);
  life.OnReceived(At(seconds(24)));
  ASSERT_EQ(Deadline(seconds(34)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(44), kMoreIsReady), Step::kNone);
  EXPECT_EQ(Deadline(seconds(48), kMoreIsReady), Step::kNone);
  EXPECT_EQ(Deadline(seconds(49) - Duration(1), kMoreIsReady), Step::kNone);
  EXPECT_EQ(Deadline(seconds(49), kMoreIsReady), Step::kDead);
}

TEST_F(LivenessTest, NobodyIsDeadInTheTurnOfTheDeadlineItself) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(24), kAllDispatched), Step::kNone);
  EXPECT_EQ(Deadline(seconds(24), kAllDispatched), Step::kDead);
}

// --- The stall guard.

TEST_F(LivenessTest, ALoopThatWasLateByMoreThanAQuarterGrantsAFreshLease) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(25) + Duration(1)), Step::kNone);  // 5 s and a bit late.
  EXPECT_FALSE(life.suspect());
  ExpectNext(seconds(35) + Duration(1));
}

TEST_F(LivenessTest, ALoopThatWasLateByAQuarterGrantsNone) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(25)), Step::kNone);
  EXPECT_TRUE(life.suspect());
}

TEST_F(LivenessTest, LatenessIsMeasuredAgainstTheDeadlineThatWasNamed) {
  Use(kPings);
  // The ping's deadline was 10 s: 16 s is late by more than a quarter, though nobody is dead yet.
  EXPECT_EQ(Deadline(seconds(16)), Step::kNone);
  ExpectNext(seconds(26));
  EXPECT_EQ(Deadline(seconds(26)), Step::kPing);
  ExpectNext(seconds(36));
}

TEST_F(LivenessTest, TheFreshLeaseHasAPingOfItsOwn) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(hours(1)), Step::kNone);  // Suspended, resumed.
  ExpectNext(hours(1) + seconds(10));
  EXPECT_EQ(Deadline(hours(1) + seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(hours(1) + seconds(20)), Step::kNone);
  EXPECT_EQ(Deadline(hours(1) + seconds(20)), Step::kDead);
}

TEST_F(LivenessTest, ASecondStallWithoutLifeGrantsNothing) {
  Use(kPings);
  ASSERT_EQ(Deadline(hours(1)), Step::kNone);
  ASSERT_FALSE(life.suspect());
  ASSERT_EQ(Deadline(hours(2)), Step::kNone);
  EXPECT_TRUE(life.suspect());
  EXPECT_EQ(Deadline(hours(3)), Step::kDead);
}

TEST_F(LivenessTest, AByteMakesRoomForTheNextLease) {
  Use(kPings);
  ASSERT_EQ(Deadline(hours(1)), Step::kNone);
  life.OnReceived(At(hours(1) + seconds(1)));
  ASSERT_EQ(Deadline(hours(2)), Step::kNone);
  EXPECT_FALSE(life.suspect());
  ExpectNext(hours(2) + seconds(10));
}

TEST_F(LivenessTest, AStallBeforeTheConfirmationIsAStallToo) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20)), Step::kNone);
  ASSERT_TRUE(life.suspect());
  EXPECT_EQ(Deadline(seconds(25) + Duration(1)), Step::kNone);
  EXPECT_FALSE(life.suspect());
  ExpectNext(seconds(35) + Duration(1));
}

TEST_F(LivenessTest, AByteThatTheStalledLoopFindsFirstIsLifeAndNoStall) {
  Use(kPings);
  life.OnReceived(At(hours(1)));  // Completions come before timers.
  EXPECT_EQ(Deadline(hours(1)), Step::kNone);
  // The lease is still there to be granted.
  ASSERT_EQ(Deadline(hours(2)), Step::kNone);
  EXPECT_FALSE(life.suspect());
}

// --- Without a ping.

TEST_F(LivenessTest, WithoutAPingThePeersKernelIsAskedAtTheDeadline) {
  Use(kKernel);
  ExpectNext(seconds(20));
  EXPECT_EQ(Deadline(seconds(10)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(20)), Step::kAskKernel);
}

TEST_F(LivenessTest, AnAcknowledgementRearmsFromItself) {
  Use(kKernel);
  ASSERT_EQ(Deadline(seconds(20)), Step::kAskKernel);
  life.OnKernelLife(At(seconds(12)), At(seconds(20)));
  EXPECT_FALSE(life.suspect());
  ExpectNext(seconds(32));
  EXPECT_EQ(Deadline(seconds(32)), Step::kAskKernel);
}

TEST_F(LivenessTest, NoNewerAcknowledgementIsASuspicionThatOneTurnConfirms) {
  Use(kKernel);
  ASSERT_EQ(Deadline(seconds(20)), Step::kAskKernel);
  life.OnKernelLife(At(seconds(0)), At(seconds(20)));
  EXPECT_TRUE(life.suspect());
  ExpectNext(seconds(20));
  EXPECT_EQ(Deadline(seconds(20)), Step::kDead);
}

TEST_F(LivenessTest, AKernelThatCannotBeAskedIsASuspicion) {
  Use(kKernel);
  ASSERT_EQ(Deadline(seconds(20)), Step::kAskKernel);
  life.OnKernelLife(Instant::min(), At(seconds(20)));
  EXPECT_TRUE(life.suspect());
}

TEST_F(LivenessTest, AnAcknowledgementOlderThanTheLastByteIsNoLife) {
  Use(kKernel);
  life.OnReceived(At(seconds(15)));
  ASSERT_EQ(Deadline(seconds(35)), Step::kAskKernel);
  life.OnKernelLife(At(seconds(14)), At(seconds(35)));
  EXPECT_TRUE(life.suspect());
}

TEST_F(LivenessTest, AnAcknowledgementThatIsTooOldItselfIsASuspicionAtOnce) {
  Use(kKernel);
  ASSERT_EQ(Deadline(seconds(25)), Step::kAskKernel);  // Late, by no more than a quarter.
  life.OnKernelLife(At(seconds(5)), At(seconds(25)));
  EXPECT_TRUE(life.suspect());
}

TEST_F(LivenessTest, AnAcknowledgementIsNeverOfTheFuture) {
  Use(kKernel);
  ASSERT_EQ(Deadline(seconds(20)), Step::kAskKernel);
  life.OnKernelLife(At(hours(1)), At(seconds(20)));
  ExpectNext(seconds(40));
}

TEST_F(LivenessTest, AnAcknowledgementMakesRoomForTheNextLease) {
  Use(kKernel);
  ASSERT_EQ(Deadline(hours(1)), Step::kNone);  // The first lease.
  ASSERT_EQ(Deadline(hours(1) + seconds(20)), Step::kAskKernel);
  life.OnKernelLife(At(hours(1) + seconds(15)), At(hours(1) + seconds(20)));
  EXPECT_EQ(Deadline(hours(2)), Step::kNone);
  EXPECT_FALSE(life.suspect());
  ExpectNext(hours(2) + seconds(20));
}

TEST_F(LivenessTest, BytesAreLifeWithoutAPingToo) {
  Use(kKernel);
  life.OnReceived(At(seconds(19)));
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  ExpectNext(seconds(39));
}

TEST_F(LivenessTest, WithAPingOnlyBytesAreLife) {
  Use({.silence_max = seconds(20), .has_ping = true, .kernel_life = true});
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);  // Not asked.
  EXPECT_TRUE(life.suspect());
}

TEST_F(LivenessTest, WithoutAPingNoneIsSent) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(1), .kernel_life = true});
  ExpectNext(seconds(20));
}

// --- Nothing to judge by.

TEST_F(LivenessTest, WithNeitherPingNorKernelNothingIsJudged) {
  Use({.silence_max = seconds(20)});
  EXPECT_EQ(life.next_deadline(), kNever);
  EXPECT_EQ(Deadline(hours(100)), Step::kNone);
}

TEST_F(LivenessTest, SilenceMaxZeroJudgesNothing) {
  Use({.silence_max = Duration(0), .has_ping = true});
  EXPECT_EQ(life.next_deadline(), kNever);
  Use({.silence_max = Duration(0), .kernel_life = true});
  EXPECT_EQ(life.next_deadline(), kNever);
}

TEST_F(LivenessTest, AnEndlessSilenceIsNeverOver) {
  Use({.silence_max = Duration::max(), .has_ping = true});
  EXPECT_EQ(Deadline(hours(1'000)), Step::kNone);
  EXPECT_FALSE(life.suspect());
}

// --- Logging in.

TEST_F(LivenessTest, NoPingGoesOutBeforeTheLoginIsDone) {
  life.Start(At({}), false);
  ExpectNext(seconds(20));
  EXPECT_EQ(Deadline(seconds(15)), Step::kNone);
  life.StartPings(At(seconds(15)));
  ExpectNext(seconds(15));  // More than half of the silence is over.
  EXPECT_EQ(Deadline(seconds(15)), Step::kPing);
  ExpectNext(seconds(20));
}

TEST_F(LivenessTest, ALateStartOfPingsIsNoStall) {
  life.Start(At({}), false);
  life.StartPings(At(seconds(19)));
  EXPECT_EQ(Deadline(seconds(19)), Step::kPing);
  ExpectNext(seconds(20));  // No fresh lease.
}

TEST_F(LivenessTest, SilenceIsJudgedDuringTheLoginToo) {
  life.Start(At({}), false);
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(20)), Step::kDead);
}

TEST_F(LivenessTest, TheScheduleBeginsWithTheEndOfTheLogin) {
  life = Liveness({.silence_max = seconds(20), .ping_interval = seconds(3), .has_ping = true});
  life.Start(At({}), false);
  life.StartPings(At(seconds(1)));
  ExpectNext(seconds(4));
  life.StartPings(At(seconds(2)));  // Again: nothing begins anew.
  ExpectNext(seconds(4));
}

TEST_F(LivenessTest, PingsDoNotStartOnAConnectionThatIsDown) {
  life.StartPings(At({}));
  EXPECT_EQ(life.next_deadline(), kNever);
}

// --- Pings on schedule.

TEST_F(LivenessTest, ScheduledPingsGoOutWhetherThePeerSpeaksOrNot) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(5), .has_ping = true});
  for (int i = 1; i <= 10; ++i) {
    ExpectNext(seconds(5 * i));
    EXPECT_EQ(Deadline(seconds(5 * i)), Step::kPing);
    life.OnReceived(At(seconds(5 * i)));
  }
}

TEST_F(LivenessTest, OnePingServesTheScheduleAndTheSilence) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(5), .has_ping = true});
  EXPECT_EQ(Deadline(seconds(5)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(10)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(10)), Step::kNone);
  ExpectNext(seconds(15));
}

TEST_F(LivenessTest, TheScheduleKeepsItsGridAndMakesUpForNothing) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(1), .has_ping = true});
  EXPECT_EQ(Deadline(seconds(1) + milliseconds(300)), Step::kPing);
  ExpectNext(seconds(2));
  EXPECT_EQ(Deadline(seconds(5)), Step::kPing);  // Three are missed.
  ExpectNext(seconds(6));
  EXPECT_EQ(Deadline(seconds(5) + milliseconds(500)), Step::kNone);
}

TEST_F(LivenessTest, ScheduledPingsAreNoLife) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(5), .has_ping = true});
  for (const int second : {5, 10, 15}) EXPECT_EQ(Deadline(seconds(second)), Step::kPing);
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(20)), Step::kDead);
}

TEST_F(LivenessTest, PingsMayBeScheduledWithoutJudgingAnybody) {
  Use({.silence_max = Duration(0), .ping_interval = seconds(5), .has_ping = true});
  ExpectNext(seconds(5));
  EXPECT_EQ(Deadline(seconds(5)), Step::kPing);
  ExpectNext(seconds(10));
  EXPECT_EQ(Deadline(hours(1)), Step::kPing);
  ExpectNext(hours(1) + seconds(5));
}

// --- Pauses of the user's.

TEST_F(LivenessTest, APausedLinkIsNeverDeadAndPingsOnEveryHalf) {
  Use(kPings);
  life.OnPaused(At(seconds(1)));
  EXPECT_TRUE(life.paused());
  for (Duration now = seconds(10); now < seconds(200); now += seconds(10)) {
    ExpectNext(now);
    ASSERT_EQ(Deadline(now), Step::kPing);
    ASSERT_EQ(Deadline(now), Step::kNone);
  }
  EXPECT_FALSE(life.suspect());
}

TEST_F(LivenessTest, TheEndOfAPauseIsAFreshLease) {
  Use(kPings);
  life.OnPaused(At(seconds(1)));
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  life.OnResumed(At(seconds(99)));
  EXPECT_FALSE(life.paused());
  ExpectNext(seconds(109));
  EXPECT_EQ(Deadline(seconds(109)), Step::kPing);
  ExpectNext(seconds(119));
  EXPECT_EQ(Deadline(seconds(119)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(119)), Step::kDead);
}

TEST_F(LivenessTest, APauseTakesASuspicionBack) {
  Use(kPings);
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  ASSERT_EQ(Deadline(seconds(20)), Step::kNone);
  ASSERT_TRUE(life.suspect());
  life.OnPaused(At(seconds(20)));
  EXPECT_FALSE(life.suspect());
  ExpectNext(seconds(30));  // Half a silence after a ping that went out: no burst of them.
  EXPECT_EQ(Deadline(seconds(20)), Step::kNone);
  EXPECT_EQ(Deadline(seconds(30)), Step::kPing);
}

TEST_F(LivenessTest, ASkippedPingOfAPauseIsOwedASixteenthLater) {
  Use(kPings);
  life.OnPaused(At({}));
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  life.OnPingSkipped(At(seconds(10)));
  ExpectNext(milliseconds(11'250));
  EXPECT_EQ(Deadline(milliseconds(11'250)), Step::kPing);
  ExpectNext(milliseconds(21'250));
}

TEST_F(LivenessTest, TheScheduleGoesOnDuringAPause) {
  Use({.silence_max = seconds(20), .ping_interval = seconds(4), .has_ping = true});
  life.OnPaused(At({}));
  int pings = 0;
  for (Instant now = life.next_deadline(); now < At(seconds(41)); now = life.next_deadline()) {
    ASSERT_EQ(life.OnDeadline(now, kAllDispatched), Step::kPing);
    ++pings;
  }
  EXPECT_EQ(pings,
            12);  // Ten by schedule; two by silence, at 10 and 30 s: the schedule has the others.
}

TEST_F(LivenessTest, APausedLinkWithoutAPingIsJudgedByTheKernelAlone) {
  Use(kKernel);
  life.OnPaused(At(seconds(1)));
  ASSERT_EQ(Deadline(seconds(20)), Step::kAskKernel);
  life.OnKernelLife(At(seconds(15)), At(seconds(20)));
  ExpectNext(seconds(35));
  ASSERT_EQ(Deadline(seconds(35)), Step::kAskKernel);
  life.OnKernelLife(Instant::min(), At(seconds(35)));
  EXPECT_EQ(Deadline(seconds(35)), Step::kDead);
}

TEST_F(LivenessTest, APauseBelongsToItsSession) {
  Use(kPings);
  life.OnPaused(At({}));
  life.Stop();
  EXPECT_FALSE(life.paused());
  life.OnPaused(At(seconds(1)));  // A no-op while stopped.
  EXPECT_FALSE(life.paused());
  life.Start(At(seconds(100)), true);
  life.OnPaused(At(seconds(100)));
  life.Start(At(seconds(200)), true);
  ASSERT_EQ(Deadline(seconds(210)), Step::kPing);
  ExpectNext(seconds(220));
}

TEST_F(LivenessTest, PausingAndResumingTwiceChangesNothing) {
  Use(kPings);
  life.OnResumed(At(seconds(5)));  // It was not paused: no lease.
  ExpectNext(seconds(10));
  life.OnPaused(At(seconds(5)));
  ASSERT_EQ(Deadline(seconds(10)), Step::kPing);
  life.OnPaused(At(seconds(11)));
  ExpectNext(seconds(20));
}

TEST_F(LivenessTest, APauseBeforeTheLoginWaitsForItsPings) {
  life = Liveness(kPings);
  life.Start(At({}), false);
  life.OnPaused(At(seconds(1)));
  EXPECT_EQ(life.next_deadline(), kNever);
  life.StartPings(At(seconds(50)));
  ExpectNext(seconds(50));
  EXPECT_EQ(Deadline(seconds(50)), Step::kPing);
  ExpectNext(seconds(60));
}

// --- A whole loop, over random lives of the peer: what is promised, held against every turn.

// A connection as a loop sees it: bytes and acknowledgements come, turns begin when something came or a
// deadline passed, or later; the last turns have no byte at all.
class LoopSimulation {
 public:
  LoopSimulation(Random& random, const LivenessOptions& options)
      : random_(random), options_(options), life_(options) {}

  void Run() {
    life_.Start(At({}), true);
    life_times_.push_back(now_);
    for (int i = static_cast<int>(random_.Below(40)); i > 0; --i) {
      bytes_.push_back((bytes_.empty() ? Duration(0) : bytes_.back()) +
                       Duration(random_.Below(Ns(options_.silence_max) * 11 / 10)));
    }
    for (int turn = 0; !dead_ && turn < 10'000; ++turn) {
      Turn();
      if (testing::Test::HasFatalFailure()) return;
    }
    ASSERT_TRUE(dead_);
  }

 private:
  static std::uint64_t Ns(Duration duration) {
    return static_cast<std::uint64_t>(duration.count());
  }

  void Turn() {
    // Sleep until the deadline or the next byte; then the loop may be late.
    const Duration deadline = life_.next_deadline() - At({});
    Duration wake = std::max(now_, deadline);
    if (next_byte_ < bytes_.size()) wake = std::min(wake, std::max(now_, bytes_[next_byte_]));
    const Duration quarter = options_.silence_max / 4;
    Duration late(0);
    if (random_.Below(4) == 0) late = Duration(random_.Below(Ns(quarter) + 1));
    const bool stall = random_.Below(60) == 0;
    if (stall) late = quarter + Duration(random_.Below(Ns(options_.silence_max) * 5));
    now_ = wake + late;

    // A wait that returned everything, or one whose budget was used up.
    const bool everything = random_.Below(5) != 0;
    bool received = false;
    while (next_byte_ < bytes_.size() && bytes_[next_byte_] <= now_ && (everything || !received)) {
      received = true;
      ++next_byte_;
    }
    if (received) {
      life_.OnReceived(At(now_));
      NoteLife(now_);
      ASSERT_FALSE(life_.suspect());
    }
    if (life_.next_deadline() > At(now_)) return;
    Judge(everything);
  }

  void Judge(bool everything) {
    const Duration lateness = At(now_) - life_.next_deadline();
    const bool stalled = lateness > options_.silence_max / 4 && !lease_granted_;
    if (stalled) {
      lease_granted_ = true;
      life_times_.push_back(now_);
      pinged_ = suspected_ = false;
    }
    const Duration silence = now_ - life_times_.back();
    switch (life_.OnDeadline(At(now_), everything)) {
      case Step::kNone:
        if (!stalled && !suspected_) {
          ASSERT_GE(silence, options_.silence_max);  // The only reason to be called for nothing.
          ASSERT_TRUE(life_.suspect());
        }
        if (suspected_ && !stalled) {
          ASSERT_FALSE(everything);
          ASSERT_LT(now_, suspected_at_ + options_.silence_max / 4);
        }
        Note(life_.suspect());
        ASSERT_EQ(suspected_, silence >= options_.silence_max);
        break;
      case Step::kPing:
        ASSERT_TRUE(options_.has_ping);
        ASSERT_GE(silence * 2, options_.silence_max);
        ASSERT_LT(silence, options_.silence_max);
        ASSERT_FALSE(pinged_);
        pinged_ = true;
        break;
      case Step::kAskKernel: {
        ASSERT_FALSE(options_.has_ping);
        ASSERT_GE(silence, options_.silence_max);
        // The peer's kernel may live on for a while; later it does not.
        const Duration last = life_times_.back();
        const Duration ack = life_times_.size() < 60 && random_.Below(2) == 0
                                 ? Duration(random_.Between(0, Ns(now_)))
                                 : last;
        life_.OnKernelLife(At(ack), At(now_));
        if (ack > last) NoteLife(ack);
        Note(now_ - life_times_.back() >= options_.silence_max);
        ASSERT_EQ(life_.suspect(), suspected_);
        break;
      }
      case Step::kDead:
        ASSERT_TRUE(suspected_);
        ASSERT_TRUE(everything || now_ >= suspected_at_ + options_.silence_max / 4);
        ASSERT_GE(silence, options_.silence_max);
        ASSERT_EQ(life_.next_deadline(), kNever);
        dead_ = true;
        return;
    }
    // No deadline is later than promised, nor behind the turn that was asked for.
    const Instant next = life_.next_deadline();
    if (suspected_) {
      ASSERT_EQ(next, At(now_));
    } else {
      ASSERT_GT(next, At(now_));
      ASSERT_LE(next, At(life_times_.back() + options_.silence_max));
    }
  }

  void Note(bool suspected) {
    if (suspected && !suspected_) suspected_at_ = now_;
    suspected_ = suspected;
  }
  void NoteLife(Duration when) {
    life_times_.push_back(when);
    pinged_ = suspected_ = lease_granted_ = false;
  }

  Random& random_;
  LivenessOptions options_;
  Liveness life_;
  std::vector<Duration> bytes_;  // When they arrive at this host.
  std::size_t next_byte_ = 0;
  Duration now_{0};
  std::vector<Duration> life_times_;  // Signs of life, and leases.
  bool pinged_ = false;
  bool suspected_ = false;
  Duration suspected_at_{0};
  bool lease_granted_ = false;
  bool dead_ = false;
};

TEST(LivenessLoopTest, RandomLivesEndExactlyWhenPromised) {
  Random random(PrintedSeed());
  for (int i = 0; i < 20'000; ++i) {
    const bool has_ping = random.Below(2) == 0;
    const LivenessOptions options{
        .silence_max = Duration(random.Between(100'000'000, 100'000'000'000)),
        .has_ping = has_ping,
        .kernel_life = !has_ping};
    LoopSimulation(random, options).Run();
    if (testing::Test::HasFatalFailure()) FAIL() << "life " << i;
  }
}

// A punctual loop: death comes at silence_max since the last byte, to the nanosecond.
TEST(LivenessLoopTest, APunctualLoopDeclaresDeathToTheNanosecond) {
  Random random(PrintedSeed());
  for (int i = 0; i < 5'000; ++i) {
    const bool has_ping = random.Below(2) == 0;
    const auto silence_max = random.Between(100'000'000, 100'000'000'000);
    Liveness life(
        {.silence_max = Duration(silence_max),
         .ping_interval = Duration(random.Below(2) * random.Between(silence_max / 50, silence_max)),
         .has_ping = has_ping,
         .kernel_life = !has_ping});
    Duration last_byte(0);
    life.Start(At(last_byte), true);
    std::vector<Duration> bytes(random.Below(20));
    for (Duration& byte : bytes) byte = last_byte += Duration(random.Below(silence_max));

    std::size_t next_byte = 0;
    std::optional<Duration> death;
    while (!death) {
      const Instant now = life.next_deadline();
      while (next_byte < bytes.size() && At(bytes[next_byte]) <= now) {
        life.OnReceived(At(bytes[next_byte++]));
      }
      const Step step = life.OnDeadline(now, kAllDispatched);
      if (step == Step::kAskKernel) life.OnKernelLife(Instant::min(), now);
      if (step == Step::kDead) death = now - At({});
    }
    ASSERT_EQ(*death, last_byte + Duration(silence_max));
  }
}

}  // namespace
}  // namespace holdfast::internal
