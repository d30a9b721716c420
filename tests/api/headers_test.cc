// The public law as a program sees it that includes one header and nothing else of ours.
#include <holdfast/holdfast.h>

#include <gtest/gtest.h>

#include <netdb.h>
#include <cerrno>
#include <type_traits>

namespace holdfast {
namespace {

using namespace std::chrono_literals;

// --- What must hold at compile time.

static_assert(sizeof(Error) == 16);
static_assert(std::is_trivially_copyable_v<Error>);
static_assert(std::is_trivially_copyable_v<Account>);
static_assert(std::is_trivially_copyable_v<SendResult>);
static_assert(std::is_trivially_copyable_v<TcpSnapshot>);
static_assert(std::is_trivially_copyable_v<SocketAddress>);
static_assert(std::is_nothrow_default_constructible_v<SocketAddress>);

// Handles are neither copied nor moved, so that a reference in a callback stays good.
template <class T>
constexpr bool kStaysPut = !std::is_copy_constructible_v<T> && !std::is_move_constructible_v<T> &&
                           !std::is_copy_assignable_v<T> && !std::is_move_assignable_v<T>;
static_assert(kStaysPut<Link> && kStaysPut<Stream> && kStaysPut<Listener> && kStaysPut<Timer> &&
              kStaysPut<Watcher> && kStaysPut<Reactor>);

// IsTemporary, action by action: whether the default policy dials again.
constexpr bool IsTemporary(Action action) {
  return Error{Operation::kConnect, ErrorClass::kUnknown, action, 1}.IsTemporary();
}
static_assert(IsTemporary(Action::kRetryInPlace));
static_assert(IsTemporary(Action::kBackOff));
static_assert(IsTemporary(Action::kBackOffSlow));
static_assert(IsTemporary(Action::kNextAddress));
static_assert(IsTemporary(Action::kPause));
static_assert(IsTemporary(Action::kSurface));
static_assert(IsTemporary(Action::kVerify));
static_assert(!IsTemporary(Action::kNone));
static_assert(!IsTemporary(Action::kFallBack));
static_assert(!IsTemporary(Action::kStop));
static_assert(!IsTemporary(Action::kIgnore));

static_assert(!Error{}.failed());
static_assert(Error::Protocol().error_class == ErrorClass::kProtocol);
static_assert(Error::Protocol().operation == Operation::kUser);
static_assert(Error::Protocol().IsTemporary());
static_assert(!Error::Cancelled().IsTemporary());
static_assert(Error::Deadline(Operation::kHeartbeat).IsTimeout());
static_assert(!Error::Protocol().IsTimeout());

// Fates come in the order of their sequences: acked, in doubt, unsent.
constexpr Account kAccount{.first_sequence = 10, .acked = 2, .in_doubt = 3, .unsent = 1};
static_assert(kAccount.total() == 6);
static_assert(kAccount.FateOf(9) == std::nullopt);
static_assert(kAccount.FateOf(10) == Fate::kAcked);
static_assert(kAccount.FateOf(11) == Fate::kAcked);
static_assert(kAccount.FateOf(12) == Fate::kInDoubt);
static_assert(kAccount.FateOf(14) == Fate::kInDoubt);
static_assert(kAccount.FateOf(15) == Fate::kUnsent);
static_assert(kAccount.FateOf(16) == std::nullopt);
static_assert(Account{}.total() == 0 && Account{}.FateOf(0) == std::nullopt);
static_assert(Account{.first_sequence = UINT64_MAX, .acked = 1}.FateOf(UINT64_MAX) == Fate::kAcked);

static_assert(BackoffMultiplier(1.5).in_1024ths() == 1536);
static_assert(BackoffMultiplier(-1.0).in_1024ths() == 0);
static_assert(SaturatingAdd(kNever, -1s) == kNever);
static_assert(SaturatingAdd(Instant{}, Duration::max()) == kNever);
static_assert(SaturatingAdd(Instant{}, 5ns) == Instant(5ns));

// The defaults that users may count on.
TEST(DefaultsTest, AreThoseOfTheHeaders) {
  const LinkOptions link;
  EXPECT_EQ(link.backoff.initial, 100ms);
  EXPECT_EQ(link.backoff.multiplier, BackoffMultiplier(1.5));
  EXPECT_EQ(link.backoff.max, 10s);
  EXPECT_EQ(link.backoff.jitter, Jitter::kFull);
  EXPECT_EQ(link.attempts_max, 0u);
  EXPECT_EQ(link.give_up_after, 0s);
  EXPECT_EQ(link.protocol_errors_max, 3u);
  EXPECT_EQ(link.healthy_after, 10s);
  EXPECT_EQ(link.connect_timeout, 5s);
  EXPECT_EQ(link.attempt_timeout, 15s);
  EXPECT_EQ(link.login_timeout, 0s);
  EXPECT_EQ(link.silence_max, 20s);
  EXPECT_EQ(link.queue_high, 256u << 10);
  EXPECT_EQ(link.queue_low, 64u << 10);
  EXPECT_EQ(link.queue_max, 8u << 20);
  EXPECT_EQ(link.on_loss, OnLoss::kHandBack);
  EXPECT_TRUE(link.socket.nodelay);
  EXPECT_FALSE(link.stop.stop_possible());
  EXPECT_EQ(ReactorOptions{}.backend, BackendKind::kAuto);
  EXPECT_EQ(ListenerOptions{}.backlog, 4096);
  EXPECT_FALSE(ListenerOptions{}.reuse_port);
}

// --- Down::ToString.

Down Refused() {
  Down down;
  down.error = {Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, ECONNREFUSED};
  down.endpoint = "localhost:1";
  down.peer = *Endpoint::Parse("127.0.0.1:1")->literal();
  down.retry_in = 800ms;
  return down;
}

TEST(DownTextTest, NamesTheOperationThePeerTheReasonAndTheWait) {
  EXPECT_EQ(Refused().ToString(),
            "connect 127.0.0.1:1: Connection refused (ECONNREFUSED), next attempt in 800 ms");
}

TEST(DownTextTest, WaitsAreInMillisecondsBelowTenSecondsAndInTenthsFromThereOn) {
  const auto wait_of = [](Duration wait) {
    Down down = Refused();
    down.retry_in = wait;
    const std::string text = down.ToString();
    return text.substr(text.rfind(" in ") + 4);
  };
  EXPECT_EQ(wait_of(0ms), "0 ms");
  EXPECT_EQ(wait_of(1ns), "1 ms");  // Never shown as less than it is.
  EXPECT_EQ(wait_of(1ms), "1 ms");
  EXPECT_EQ(wait_of(9'999ms), "9999 ms");
  EXPECT_EQ(wait_of(10s), "10.0 s");
  EXPECT_EQ(wait_of(12'300ms), "12.3 s");
  EXPECT_EQ(wait_of(1h), "3600.0 s");
}

TEST(DownTextTest, SaysSoWhenThereIsNoFurtherAttempt) {
  Down down = Refused();
  down.retry_in.reset();
  EXPECT_EQ(down.ToString(),
            "connect 127.0.0.1:1: Connection refused (ECONNREFUSED), no further attempt");
}

TEST(DownTextTest, NamesTheEndpointWhereThereIsNoAddressYet) {
  Down down = Refused();
  down.peer = {};
  down.endpoint = "feed.example.com:7000";
  down.error = {Operation::kResolve, ErrorClass::kNameNotFound, Action::kBackOffSlow, EAI_NONAME};
  EXPECT_EQ(
      down.ToString(),
      "resolve feed.example.com:7000: Name or service not known (EAI_NONAME), next attempt in "
      "800 ms");
}

TEST(DownTextTest, ADeadlineOfOursHasNoCode) {
  Down down = Refused();
  down.error = Error::Deadline(Operation::kHeartbeat);
  EXPECT_EQ(down.ToString(), "heartbeat 127.0.0.1:1: timeout, next attempt in 800 ms");
}

TEST(DownTextTest, AnIPv6PeerStandsInBrackets) {
  Down down = Refused();
  down.peer = *Endpoint::Parse("[2001:db8::7]:7000")->literal();
  EXPECT_EQ(
      down.ToString(),
      "connect [2001:db8::7]:7000: Connection refused (ECONNREFUSED), next attempt in 800 ms");
}

TEST(DownTextTest, AUnixPeerIsNamedByItsPath) {
  Down down = Refused();
  down.peer = *Endpoint::Parse("unix:/run/feed.sock")->literal();
  EXPECT_EQ(
      down.ToString(),
      "connect unix:/run/feed.sock: Connection refused (ECONNREFUSED), next attempt in 800 ms");
}

// --- Names.

TEST(NamesTest, AreInSnakeCaseWithoutTheK) {
  EXPECT_EQ(ToString(LinkState::kConnecting), "connecting");
  EXPECT_EQ(ToString(LinkState::kBackoff), "backoff");
  EXPECT_EQ(ToString(ClosedReason::kPermanent), "permanent");
  EXPECT_EQ(ToString(Verdict::kByClass), "by_class");
  EXPECT_EQ(ToString(Fate::kInDoubt), "in_doubt");
  EXPECT_EQ(ToString(ErrorClass::kNameNotFound), "name_not_found");
  EXPECT_EQ(ToString(Action::kBackOff), "back_off");
  EXPECT_EQ(ToString(SendStatus::kTooLarge), "too_large");
}

// A loop that is made, stopped and destroyed needs nothing but the header either.
TEST(ReactorHeaderTest, TheLoopOfTheFirstExampleRuns) {
  absl::StatusOr<std::unique_ptr<Reactor>> reactor = Reactor::Create({});
  ASSERT_TRUE(reactor.ok()) << reactor.status();
  (*reactor)->Stop();
  EXPECT_TRUE((*reactor)->Run().ok());
}

}  // namespace
}  // namespace holdfast
