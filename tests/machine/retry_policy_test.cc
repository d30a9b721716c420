#include "machine/retry_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kLowest = 0;
constexpr std::uint64_t kHighest = std::numeric_limits<std::uint64_t>::max();

constexpr Error kRefused{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, 111};
constexpr Error kSlow{Operation::kConnect, ErrorClass::kPermission, Action::kBackOffSlow, 13};
constexpr Error kResource{Operation::kSocket, ErrorClass::kResource, Action::kBackOff, 24};
constexpr Error kPermanent{Operation::kSocket, ErrorClass::kPermission, Action::kStop, 13};

Instant At(Duration since_start) { return Instant(hours(1)) + since_start; }

RetryPolicy::Decision Again(Duration wait) { return {.retry_in = wait}; }

// A decision to stop; whether the reason is right is all that counts.
void ExpectClosed(const RetryPolicy::Decision& decision, ClosedReason reason) {
  EXPECT_EQ(decision.retry_in, std::nullopt);
  EXPECT_EQ(decision.reason, reason);
}

class RetryPolicyTest : public testing::Test {
 protected:
  // Dials and fails at once; the widest wait unless told otherwise.
  RetryPolicy::Decision FailDial(const Error& error = kRefused, Verdict verdict = Verdict::kByClass,
                                 Duration now = Duration(0), std::uint64_t random = kHighest) {
    policy.OnDial(At(now));
    return policy.OnFailure(error, verdict, At(now), random);
  }

  RetryOptions options;
  RetryPolicy policy{options};
};

TEST_F(RetryPolicyTest, AttemptsCountFromOneSinceHealthy) {
  EXPECT_EQ(policy.attempt(), 0u);

  policy.OnDial(At({}));
  EXPECT_EQ(policy.attempt(), 1u);

  static_cast<void>(policy.OnFailure(kRefused, Verdict::kByClass, At({}), kLowest));
  EXPECT_EQ(policy.attempt(), 1u);
  policy.OnDial(At({}));
  EXPECT_EQ(policy.attempt(), 2u);

  policy.OnHealthy();
  EXPECT_EQ(policy.attempt(), 0u);
}

TEST_F(RetryPolicyTest, TheFirstWaitAfterTheVeryFirstDialIsWaitZero) {
  EXPECT_EQ(FailDial(kRefused, Verdict::kByClass, {}, kLowest), Again(Duration(0)));
}

TEST_F(RetryPolicyTest, WaitsGrowWithEveryFailedAttempt) {
  EXPECT_EQ(FailDial(), Again(milliseconds(100)));
  EXPECT_EQ(FailDial(), Again(milliseconds(150)));
  EXPECT_EQ(FailDial(), Again(milliseconds(225)));
  for (int i = 0; i < 100; ++i) static_cast<void>(FailDial());
  EXPECT_EQ(FailDial(), Again(seconds(10)));
}

TEST_F(RetryPolicyTest, TheLossOfAHealthySessionIsWaitedForAsTheFirst) {
  for (int i = 0; i < 20; ++i) static_cast<void>(FailDial());
  policy.OnDial(At({}));
  policy.OnHealthy();

  EXPECT_EQ(policy.OnFailure(kRefused, Verdict::kByClass, At({}), kHighest),
            Again(milliseconds(100)));
  EXPECT_EQ(FailDial(), Again(milliseconds(150)));
}

TEST_F(RetryPolicyTest, ASessionThatWasUpButNotHealthyIsOneMoreFailedAttempt) {
  static_cast<void>(FailDial());
  static_cast<void>(FailDial());
  policy.OnDial(At({}));  // It came up, and the server closed it.
  EXPECT_EQ(policy.OnFailure(kRefused, Verdict::kByClass, At({}), kHighest),
            Again(milliseconds(225)));
  EXPECT_EQ(policy.attempt(), 3u);
}

TEST_F(RetryPolicyTest, APermanentErrorEndsIt) {
  ExpectClosed(FailDial(kPermanent), ClosedReason::kPermanent);
}

TEST_F(RetryPolicyTest, ExactlyTheTemporaryErrorsAreRetried) {
  for (const Action action :
       {Action::kNone, Action::kRetryInPlace, Action::kBackOff, Action::kBackOffSlow,
        Action::kNextAddress, Action::kPause, Action::kFallBack, Action::kSurface, Action::kStop,
        Action::kIgnore, Action::kVerify}) {
    const Error error{Operation::kConnect, ErrorClass::kUnknown, action, 1};
    EXPECT_EQ(FailDial(error).retry_in.has_value(), error.IsTemporary()) << ToString(action);
  }
}

TEST_F(RetryPolicyTest, TheUserMayBackOffAfterAPermanentError) {
  EXPECT_EQ(FailDial(kPermanent, Verdict::kBackOff), Again(milliseconds(100)));
}

TEST_F(RetryPolicyTest, TheUserMayDialAgainAtOnceAlsoAfterAPermanentError) {
  EXPECT_EQ(FailDial(kRefused, Verdict::kRetryNow), Again(Duration(0)));
  EXPECT_EQ(FailDial(kPermanent, Verdict::kRetryNow), Again(Duration(0)));
}

TEST_F(RetryPolicyTest, AnAttemptThatWasRetriedAtOnceCountsForTheNextWait) {
  static_cast<void>(FailDial(kRefused, Verdict::kRetryNow));
  static_cast<void>(FailDial(kRefused, Verdict::kRetryNow));
  EXPECT_EQ(FailDial(), Again(milliseconds(225)));
}

TEST_F(RetryPolicyTest, TheUserMayStopIt) {
  ExpectClosed(FailDial(kRefused, Verdict::kStop), ClosedReason::kDecided);
  ExpectClosed(FailDial(kPermanent, Verdict::kStop), ClosedReason::kDecided);
}

TEST_F(RetryPolicyTest, SlowMeansInitialAndMaxTimesFour) {
  EXPECT_EQ(FailDial(kSlow), Again(milliseconds(400)));
  EXPECT_EQ(FailDial(kSlow), Again(milliseconds(600)));
  EXPECT_EQ(FailDial(kSlow, Verdict::kByClass, {}, kLowest), Again(milliseconds(400)));
  for (int i = 0; i < 100; ++i) static_cast<void>(FailDial(kSlow));
  EXPECT_EQ(FailDial(kSlow), Again(seconds(40)));
  EXPECT_EQ(FailDial(kSlow, Verdict::kBackOff), Again(seconds(40)));
  EXPECT_EQ(FailDial(kRefused), Again(seconds(10)));
}

TEST_F(RetryPolicyTest, SlowSaturates) {
  options.backoff.initial = Duration::max() / 4 + Duration(1);
  options.backoff.max = Duration::max();
  EXPECT_EQ(FailDial(kSlow), Again(Duration::max()));
  EXPECT_EQ(FailDial(kSlow, Verdict::kByClass, {}, kLowest), Again(Duration::max()));
}

TEST_F(RetryPolicyTest, OutOfResourcesTheFirstWaitHasAFloor) {
  EXPECT_EQ(FailDial(kResource, Verdict::kByClass, {}, kLowest), Again(milliseconds(100)));
  policy.OnHealthy();
  EXPECT_EQ(FailDial(kRefused, Verdict::kByClass, {}, kLowest), Again(Duration(0)));
}

TEST_F(RetryPolicyTest, ThereIsNoLimitByDefault) {
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(FailDial(kRefused, Verdict::kByClass, hours(24 * i)).retry_in.has_value());
  }
}

TEST_F(RetryPolicyTest, AttemptsMaxAttemptsAreMadeAndNoMore) {
  options.attempts_max = 3;
  EXPECT_TRUE(FailDial().retry_in.has_value());
  EXPECT_TRUE(FailDial().retry_in.has_value());
  ExpectClosed(FailDial(), ClosedReason::kAttempts);
}

TEST_F(RetryPolicyTest, AttemptsAreCountedAnewAfterAHealthySession) {
  options.attempts_max = 2;
  EXPECT_TRUE(FailDial().retry_in.has_value());
  policy.OnDial(At({}));
  policy.OnHealthy();

  // The loss itself is no failed attempt.
  EXPECT_TRUE(policy.OnFailure(kRefused, Verdict::kByClass, At({}), 0).retry_in.has_value());
  EXPECT_TRUE(FailDial().retry_in.has_value());
  ExpectClosed(FailDial(), ClosedReason::kAttempts);
}

TEST_F(RetryPolicyTest, NoDialBeginsLaterThanGiveUpAfter) {
  options.give_up_after = seconds(60);
  options.backoff = {.initial = seconds(10), .max = seconds(10), .jitter = Jitter::kNone};
  EXPECT_EQ(FailDial(kRefused, Verdict::kByClass, seconds(0)), Again(seconds(10)));
  // 50 s + 10 s is not later.
  EXPECT_EQ(FailDial(kRefused, Verdict::kByClass, seconds(50)), Again(seconds(10)));
  ExpectClosed(FailDial(kRefused, Verdict::kByClass, seconds(50) + Duration(1)),
               ClosedReason::kTime);
}

TEST_F(RetryPolicyTest, TheClockOfGiveUpAfterStartsAtTheFirstDial) {
  options.give_up_after = seconds(60);
  options.backoff = {.initial = seconds(10), .max = seconds(10), .jitter = Jitter::kNone};
  policy.OnDial(At(seconds(100)));
  EXPECT_EQ(policy.OnFailure(kRefused, Verdict::kByClass, At(seconds(150)), 0), Again(seconds(10)));
  policy.OnDial(At(seconds(160)));
  ExpectClosed(policy.OnFailure(kRefused, Verdict::kByClass, At(seconds(160)), 0),
               ClosedReason::kTime);
}

TEST_F(RetryPolicyTest, TheClockOfGiveUpAfterStartsAnewWhenAHealthySessionIsLost) {
  options.give_up_after = seconds(60);
  options.backoff = {.initial = seconds(10), .max = seconds(10), .jitter = Jitter::kNone};
  policy.OnDial(At(seconds(0)));
  policy.OnHealthy();
  EXPECT_EQ(policy.OnFailure(kRefused, Verdict::kByClass, At(seconds(1'000)), 0),
            Again(seconds(10)));
  // A dial does not restart it.
  EXPECT_EQ(FailDial(kRefused, Verdict::kByClass, seconds(1'050)), Again(seconds(10)));
  ExpectClosed(FailDial(kRefused, Verdict::kByClass, seconds(1'051)), ClosedReason::kTime);
}

TEST_F(RetryPolicyTest, RetryingAtOnceIsBoundByTheLimitsToo) {
  options.give_up_after = seconds(60);
  EXPECT_EQ(FailDial(kRefused, Verdict::kRetryNow, seconds(0)), Again(Duration(0)));
  EXPECT_EQ(FailDial(kRefused, Verdict::kRetryNow, seconds(60)), Again(Duration(0)));
  ExpectClosed(FailDial(kRefused, Verdict::kRetryNow, seconds(61)), ClosedReason::kTime);
  options.attempts_max = 4;
  ExpectClosed(FailDial(kRefused, Verdict::kRetryNow, seconds(0)), ClosedReason::kAttempts);
  ExpectClosed(FailDial(kPermanent, Verdict::kBackOff, seconds(0)), ClosedReason::kAttempts);
}

TEST_F(RetryPolicyTest, AnEndlessWaitIsNotBeyondAnEndlessPatience) {
  options.give_up_after = Duration::max();
  options.backoff = {.initial = Duration::max(), .max = Duration::max(), .jitter = Jitter::kNone};
  EXPECT_EQ(FailDial(), Again(Duration::max()));
}

TEST_F(RetryPolicyTest, ProtocolErrorsAreForgivenUntilTheThird) {
  EXPECT_TRUE(FailDial(Error::Protocol()).retry_in.has_value());
  EXPECT_TRUE(FailDial(Error::Protocol()).retry_in.has_value());
  ExpectClosed(FailDial(Error::Protocol()), ClosedReason::kProtocol);
}

TEST_F(RetryPolicyTest, OnlyAHealthySessionForgivesProtocolErrors) {
  static_cast<void>(FailDial(Error::Protocol()));
  static_cast<void>(FailDial(Error::Protocol()));
  EXPECT_TRUE(FailDial(kRefused).retry_in.has_value());  // Says nothing about the protocol.
  policy.OnDial(At({}));
  policy.OnHealthy();
  EXPECT_TRUE(FailDial(Error::Protocol()).retry_in.has_value());
  EXPECT_TRUE(FailDial(Error::Protocol()).retry_in.has_value());
  EXPECT_TRUE(FailDial(kRefused).retry_in.has_value());
  ExpectClosed(FailDial(Error::Protocol()), ClosedReason::kProtocol);
}

TEST_F(RetryPolicyTest, TheViolationThatEndsAHealthySessionIsTheFirst) {
  options.protocol_errors_max = 1;
  policy.OnDial(At({}));
  policy.OnHealthy();
  ExpectClosed(policy.OnFailure(Error::Protocol(), Verdict::kByClass, At({}), 0),
               ClosedReason::kProtocol);
}

TEST_F(RetryPolicyTest, ProtocolErrorsHaveNoLimitWhenItIsZero) {
  options.protocol_errors_max = 0;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(FailDial(Error::Protocol()).retry_in.has_value());
}

TEST_F(RetryPolicyTest, WhereSeveralReasonsHoldTheErrorSpeaksBeforeTheLimits) {
  options = {.attempts_max = 1, .give_up_after = Duration(1), .protocol_errors_max = 1};
  const Error both{Operation::kUser, ErrorClass::kProtocol, Action::kStop, 0};
  ExpectClosed(FailDial(both, Verdict::kStop), ClosedReason::kDecided);
  ExpectClosed(FailDial(both), ClosedReason::kPermanent);
  ExpectClosed(FailDial(Error::Protocol()), ClosedReason::kProtocol);
  policy.OnHealthy();
  ExpectClosed(FailDial(kRefused), ClosedReason::kAttempts);
  options.attempts_max = 0;
  ExpectClosed(FailDial(kRefused), ClosedReason::kTime);
}

// The rules once more, written down as history instead of counters.
struct Model {
  struct Event {
    enum { kDial, kHealthy, kFailure } kind;
    Error error;
    Duration time;
  };
  std::vector<Event> since_healthy;

  [[nodiscard]] std::uint32_t Count(int kind) const {
    return static_cast<std::uint32_t>(
        std::count_if(since_healthy.begin(), since_healthy.end(),
                      [kind](const Event& event) { return event.kind == kind; }));
  }

  // `since_healthy` ends with the failure that is judged.
  [[nodiscard]] RetryPolicy::Decision Decide(const RetryOptions& options, Verdict verdict,
                                             std::uint64_t random) const {
    const Event& failure = since_healthy.back();
    BackoffOptions backoff = options.backoff;
    if (failure.error.action == Action::kBackOffSlow) {
      backoff.initial *= 4;
      backoff.max *= 4;
    }
    const bool exhausted = failure.error.error_class == ErrorClass::kResource;
    Duration wait = BackoffDelay(backoff, Count(Event::kFailure) - 1, random,
                                 exhausted ? FirstWait::kFromInitial : FirstWait::kFromZero);
    if (verdict == Verdict::kRetryNow) wait = Duration(0);
    const auto violations =
        std::count_if(since_healthy.begin(), since_healthy.end(), [](const Event& event) {
          return event.kind == Event::kFailure && event.error.error_class == ErrorClass::kProtocol;
        });
    const auto over = [](auto count, std::uint32_t max) {
      return max > 0 && count >= static_cast<decltype(count)>(max);
    };

    if (verdict == Verdict::kStop) return {std::nullopt, ClosedReason::kDecided};
    if (verdict == Verdict::kByClass && failure.error.action == Action::kStop) {
      return {std::nullopt, ClosedReason::kPermanent};
    }
    if (over(violations, options.protocol_errors_max)) {
      return {std::nullopt, ClosedReason::kProtocol};
    }
    if (over(Count(Event::kDial), options.attempts_max)) {
      return {std::nullopt, ClosedReason::kAttempts};
    }
    if (options.give_up_after > Duration(0) &&
        failure.time + wait > since_healthy.front().time + options.give_up_after) {
      return {std::nullopt, ClosedReason::kTime};
    }
    return Again(wait);
  }
};

TEST(RetryPolicyModelTest, RandomLivesAreDecidedAsTheRulesSay) {
  Random random(PrintedSeed());
  constexpr Error kErrors[] = {kRefused, kSlow, kResource, kPermanent, Error::Protocol()};
  constexpr Verdict kVerdicts[] = {Verdict::kByClass,  Verdict::kByClass, Verdict::kByClass,
                                   Verdict::kRetryNow, Verdict::kBackOff, Verdict::kStop};
  for (int life = 0; life < 2'000; ++life) {
    const RetryOptions options{
        .backoff = {.initial = milliseconds(random.Between(1, 500)),
                    .multiplier = static_cast<double>(random.Between(10, 30)) / 10,
                    .max = milliseconds(random.Between(500, 20'000))},
        .attempts_max = static_cast<std::uint32_t>(random.Below(2) * random.Between(1, 20)),
        .give_up_after = seconds(random.Below(2) * random.Between(1, 120)),
        .protocol_errors_max = static_cast<std::uint32_t>(random.Below(6))};
    RetryPolicy policy(options);
    Model model;
    Duration now{};
    for (int step = 0; step < 60; ++step) {
      now += milliseconds(random.Below(3'000));
      policy.OnDial(At(now));
      model.since_healthy.push_back({Model::Event::kDial, {}, now});
      ASSERT_EQ(policy.attempt(), model.Count(Model::Event::kDial));

      now += milliseconds(random.Below(3'000));
      if (random.Below(8) == 0) {
        policy.OnHealthy();
        model.since_healthy.clear();
        ASSERT_EQ(policy.attempt(), 0u);
        now += milliseconds(random.Below(100'000));
      }

      const Error error = kErrors[random.Below(std::size(kErrors))];
      const Verdict verdict = kVerdicts[random.Below(std::size(kVerdicts))];
      const std::uint64_t bits = random.Next();
      const RetryPolicy::Decision decision = policy.OnFailure(error, verdict, At(now), bits);
      model.since_healthy.push_back({Model::Event::kFailure, error, now});
      const RetryPolicy::Decision expected = model.Decide(options, verdict, bits);
      ASSERT_EQ(decision.retry_in, expected.retry_in) << "life " << life << " step " << step;
      if (!decision.retry_in) {
        ASSERT_EQ(decision.reason, expected.reason) << "life " << life << " step " << step;
      }
      // The walk goes on after a stop as well: the counters must not care.
      now += decision.retry_in.value_or(Duration(0));
    }
  }
}

}  // namespace
}  // namespace holdfast::internal
