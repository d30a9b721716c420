#include "machine/account.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

constexpr std::uint8_t kTcpEstablished = 1;  // tcpi_state of a live connection, netinet/tcp.h.

// --- A connection that the kernel ended.

DeathFacts Dead(std::uint64_t bytes_acked, std::uint32_t outq, std::uint32_t notsent,
                bool own_fin = false) {
  return {.tcp = true,
          .info_valid = true,
          .tcp_state = kTcpClose,
          .bytes_acked = bytes_acked,
          .notsent_bytes = notsent,
          .outq_valid = true,
          .outq = outq,
          .own_fin = own_fin};
}

// The measured deaths of docs/kernel.md C1, active openers all. What the account must say of them is what
// was measured to be true at the peer.
struct MeasuredDeath {
  std::string_view name;
  std::uint8_t state;
  std::uint64_t written;
  std::uint64_t bytes_acked;
  std::uint32_t outq;
  std::uint32_t notsent;
  std::uint64_t acked;
  std::uint64_t unsent;
};
constexpr MeasuredDeath kMeasuredDeaths[] = {
    {"linger 0, unread", kTcpClose, 10'000, 10'001, 0, 0, 10'000, 0},
    {"RST, send buffer full", kTcpClose, 202'720, 127'105, 75'616, 75'616, 127'104, 75'616},
    {"FIN, then write 10", kTcpClose, 10'010, 10'001, 10, 0, 10'000, 0},
    {"FIN, write 500", kTcpClose, 10'500, 10'001, 500, 0, 10'000, 0},
    {"ACKs lost, then RST", kTcpClose, 10'010, 11, 10'000, 0, 10, 0},
    {"ACKs lost, then FIN", kTcpCloseWait, 10'010, 10'011, 0, 0, 10'010, 0},
    {"peer link down", kTcpClose, 15'000, 10'001, 5'000, 0, 10'000, 0},
    {"own link down", kTcpClose, 15'000, 10'001, 5'000, 5'000, 10'000, 5'000},
    {"nft drop, idle", kTcpClose, 10'000, 10'001, 0, 0, 10'000, 0},
    {"peer link down, alive", kTcpEstablished, 15'000, 10'001, 5'000, 0, 10'000, 0},
    {"peer rebooted", kTcpClose, 10'100, 10'001, 100, 0, 10'000, 0},
    {"zero window", kTcpClose, 47'784, 4'345, 43'440, 43'440, 4'344, 43'440},
};

TEST(AccountOfDeadTest, SaysWhatWasMeasuredAtThePeer) {
  for (const MeasuredDeath& death : kMeasuredDeaths) {
    DeathFacts facts = Dead(death.bytes_acked, death.outq, death.notsent);
    facts.tcp_state = death.state;
    const WireAccount account = AccountOfDead(death.written, facts);
    EXPECT_EQ(account.acked, death.acked) << death.name;
    EXPECT_EQ(account.sent_boundary, death.written - death.unsent) << death.name;
    EXPECT_EQ(account.exact, death.state == kTcpClose || death.acked == death.written)
        << death.name;
  }
}

TEST(AccountOfDeadTest, APassiveOpenerHasNoSynInItsCount) {
  EXPECT_EQ(AccountOfDead(15'000, Dead(10'000, 5'000, 2'000)), (WireAccount{10'000, 13'000, true}));
}

TEST(AccountOfDeadTest, OurFinIsOneMoreByteUntilItIsAcknowledged) {
  // Nothing acknowledged: 100 bytes and the FIN wait.
  EXPECT_EQ(AccountOfDead(100, Dead(1, 101, 0, true)), (WireAccount{0, 100, true}));
  // All bytes acknowledged, the FIN not.
  EXPECT_EQ(AccountOfDead(100, Dead(101, 1, 0, true)), (WireAccount{100, 100, true}));
  // The FIN as well.
  EXPECT_EQ(AccountOfDead(100, Dead(102, 0, 0, true)), (WireAccount{100, 100, true}));
}

TEST(AccountOfDeadTest, OurFinIsTheLastOfTheUnsentBytesAndNoneOfOurs) {
  EXPECT_EQ(AccountOfDead(100, Dead(71, 31, 1, true)), (WireAccount{70, 100, true}));
  EXPECT_EQ(AccountOfDead(100, Dead(71, 31, 11, true)), (WireAccount{70, 90, true}));
  EXPECT_EQ(AccountOfDead(100, Dead(1, 101, 101, true)), (WireAccount{0, 0, true}));
}

TEST(AccountOfDeadTest, ALiveConnectionProvesNothingUnsent) {
  DeathFacts facts = Dead(10'001, 5'000, 4'000);
  for (const std::uint8_t state : {kTcpEstablished, kTcpCloseWait}) {
    facts.tcp_state = state;
    EXPECT_EQ(AccountOfDead(15'000, facts), (WireAccount{10'000, 15'000, false}));
  }
}

TEST(AccountOfDeadTest, WithoutTcpInfoOnlySiocoutqSpeaks) {
  DeathFacts facts = Dead(10'001, 5'000, 4'000);
  facts.info_valid = false;
  EXPECT_EQ(AccountOfDead(15'000, facts), (WireAccount{10'000, 15'000, false}));
}

TEST(AccountOfDeadTest, WithoutSiocoutqAllIsInDoubt) {
  DeathFacts facts = Dead(10'001, 5'000, 4'000);
  facts.outq_valid = false;
  EXPECT_EQ(AccountOfDead(15'000, facts), (WireAccount{0, 15'000, false}));
}

TEST(AccountOfDeadTest, OnAUnixSocketAllIsInDoubt) {
  DeathFacts facts = Dead(10'001, 5'000, 4'000);
  facts.tcp = false;
  EXPECT_EQ(AccountOfDead(15'000, facts), (WireAccount{0, 15'000, false}));
}

TEST(AccountOfDeadTest, FiguresThatContradictEachOtherProveNothing) {
  const WireAccount nothing{0, 15'000, false};
  EXPECT_EQ(AccountOfDead(15'000, Dead(10'001, 15'001, 0)), nothing);  // More than was written.
  EXPECT_EQ(AccountOfDead(15'000, Dead(10'001, 5'000, 5'001)),
            nothing);                                                // Unsent, yet acknowledged.
  EXPECT_EQ(AccountOfDead(15'000, Dead(9'999, 5'000, 0)), nothing);  // Not the identity.
  EXPECT_EQ(AccountOfDead(15'000, Dead(10'002, 5'000, 0)), nothing);
  EXPECT_EQ(AccountOfDead(15'000, Dead(10'003, 5'000, 0, true)), nothing);
}

TEST(AccountOfDeadTest, NothingWrittenIsAllAcknowledged) {
  EXPECT_EQ(AccountOfDead(0, Dead(1, 0, 0)), (WireAccount{0, 0, true}));
}

TEST(AccountOfDeadTest, FourGigabytesAreNoBoundary) {
  constexpr std::uint64_t kWritten = (std::uint64_t{1} << 33) + 10;
  EXPECT_EQ(AccountOfDead(kWritten, Dead(kWritten - 4, 5, 3)),
            (WireAccount{kWritten - 5, kWritten - 3, true}));
}

TEST(AckedBoundaryTest, IsWhatSiocoutqNoLongerCounts) {
  EXPECT_EQ(AckedBoundary(100, 30, false), 70u);
  EXPECT_EQ(AckedBoundary(100, 0, false), 100u);
  EXPECT_EQ(AckedBoundary(100, 100, false), 0u);
  EXPECT_EQ(AckedBoundary(100, 101, false), 0u);
  EXPECT_EQ(AckedBoundary(100, 0xffff'ffff, false), 0u);
  EXPECT_EQ(AckedBoundary(100, 101, true), 0u);
  EXPECT_EQ(AckedBoundary(100, 102, true), 0u);
  EXPECT_EQ(AckedBoundary(100, 1, true), 100u);
  EXPECT_EQ(AckedBoundary(100, 0, true), 100u);
  EXPECT_EQ(AckedBoundary(0, 1, true), 0u);
}

TEST(AccountOfUnknownTest, OnlyWhatWasNeverWrittenIsUnsent) {
  EXPECT_EQ(AccountOfUnknown(100, 0), (WireAccount{0, 100, false}));
  EXPECT_EQ(AccountOfUnknown(100, 40), (WireAccount{40, 100, false}));
  EXPECT_EQ(AccountOfUnknown(100, 100), (WireAccount{100, 100, true}));
  EXPECT_EQ(AccountOfUnknown(100, 101), (WireAccount{100, 100, true}));
}

// --- A live connection given up.

// The positions of Linux's struct tcp_sock, counted as it counts them: modulo 2^32, from a random
// initial sequence number, and what two disconnects do to them (tcp_disconnect in net/ipv4/tcp.c).
struct KernelPositions {
  std::uint32_t write_seq;
  std::uint32_t snd_nxt;
  std::uint32_t snd_una;
  std::uint32_t max_window;

  [[nodiscard]] std::uint32_t outq() const { return write_seq - snd_una; }
  [[nodiscard]] std::uint32_t notsent() const { return write_seq - snd_nxt; }
  void Disconnect() {
    write_seq += max_window + 2;
    if (write_seq == 0) write_seq = 1;
  }

  DisconnectFigures GiveUp() {
    DisconnectFigures figures{.valid = true, .outq_before = outq()};
    Disconnect();
    figures.q1 = outq();
    figures.n1 = notsent();
    Disconnect();
    figures.q2 = outq();
    return figures;
  }
};

KernelPositions Positions(std::uint32_t initial, std::uint64_t written, std::uint64_t acked,
                          std::uint64_t sent, bool own_fin) {
  return {.write_seq = initial + static_cast<std::uint32_t>(written) + (own_fin ? 1 : 0),
          .snd_nxt = initial + static_cast<std::uint32_t>(sent),
          .snd_una = initial + static_cast<std::uint32_t>(acked),
          .max_window = 65'535};
}

TEST(AccountOfGivenUpTest, TwoDisconnectsTellBothBoundaries) {
  const DisconnectFigures figures = Positions(1'000, 200'000, 70'000, 120'000, false).GiveUp();
  EXPECT_EQ(AccountOfGivenUp(200'000, 0, figures, false), (WireAccount{70'000, 120'000, true}));
}

TEST(AccountOfGivenUpTest, WorkedByHand) {
  // K = 1,600 - 1,100 = 500; unacknowledged 1,100 - 500 = 600; unsent 750 - 500 = 250.
  const DisconnectFigures figures{
      .valid = true, .outq_before = 640, .q1 = 1'100, .n1 = 750, .q2 = 1'600};
  EXPECT_EQ(AccountOfGivenUp(1'000, 300, figures, false), (WireAccount{400, 750, true}));
}

TEST(AccountOfGivenUpTest, SequenceNumbersMayWrapAnywhere) {
  for (std::uint32_t distance = 0; distance < 400'000; distance += 997) {
    const DisconnectFigures figures =
        Positions(0u - distance, 200'000, 70'000, 120'000, false).GiveUp();
    EXPECT_EQ(AccountOfGivenUp(200'000, 0, figures, false), (WireAccount{70'000, 120'000, true}))
        << distance;
  }
}

TEST(AccountOfGivenUpTest, TheSecondFigureMayWrap) {
  constexpr std::uint32_t kStep = 0x3fff'c002;  // The largest there is: 65,535 << 14, plus 2.
  constexpr std::uint32_t kUnacked = 0x9000'0000;
  constexpr std::uint64_t kWritten = std::uint64_t{1} << 40;
  const DisconnectFigures figures{.valid = true,
                                  .outq_before = kUnacked,
                                  .q1 = kUnacked + kStep,
                                  .n1 = 7 + kStep,
                                  .q2 = static_cast<std::uint32_t>(kUnacked + 2ull * kStep)};
  ASSERT_LT(figures.q2, figures.q1);
  EXPECT_EQ(AccountOfGivenUp(kWritten, 0, figures, false),
            (WireAccount{kWritten - kUnacked, kWritten - 7, true}));
}

TEST(AccountOfGivenUpTest, OurFinCountsAsOneByteBehindOurs) {
  // Of 100 bytes and the FIN: nothing sent; 90 sent; all but the FIN; all; all acknowledged.
  struct {
    std::uint64_t acked, sent;
    WireAccount account;
  } const cases[] = {{0, 0, {0, 0, true}},         {30, 90, {30, 90, true}},
                     {30, 100, {30, 100, true}},   {30, 101, {30, 100, true}},
                     {100, 101, {100, 100, true}}, {101, 101, {100, 100, true}}};
  for (const auto& [acked, sent, account] : cases) {
    const DisconnectFigures figures = Positions(5, 100, acked, sent, true).GiveUp();
    EXPECT_EQ(AccountOfGivenUp(100, 0, figures, true), account) << acked << " " << sent;
  }
}

TEST(AccountOfGivenUpTest, FailedCallsLeaveWhatWasKnownBefore) {
  DisconnectFigures figures = Positions(1, 1'000, 400, 700, false).GiveUp();
  figures.valid = false;
  EXPECT_EQ(AccountOfGivenUp(1'000, 250, figures, false), (WireAccount{250, 1'000, false}));
}

TEST(AccountOfGivenUpTest, ImplausibleFiguresLeaveWhatSiocoutqSaidBefore) {
  const DisconnectFigures good = Positions(1, 1'000, 400, 700, false).GiveUp();
  const WireAccount fallback{400, 1'000, false};
  ASSERT_EQ(AccountOfGivenUp(1'000, 250, good, false), (WireAccount{400, 700, true}));
  const std::uint32_t step = good.q2 - good.q1;

  DisconnectFigures figures = good;
  figures.n1 = step - 1;  // n1 < K
  EXPECT_EQ(AccountOfGivenUp(1'000, 250, figures, false), fallback);

  figures = good;
  figures.n1 = figures.q1 + 1;  // More unsent than unacknowledged.
  EXPECT_EQ(AccountOfGivenUp(1'000, 250, figures, false), fallback);

  figures = good;
  figures.q1 += 1'000, figures.q2 += 1'000;  // q1 - K > W
  figures.outq_before = 0xffff'ffff;
  EXPECT_EQ(AccountOfGivenUp(1'000, 250, figures, false), (WireAccount{250, 1'000, false}));

  figures = good;
  figures.q1 += 1, figures.q2 += 1;  // More unacknowledged than before.
  EXPECT_EQ(AccountOfGivenUp(1'000, 250, figures, false), fallback);
}

TEST(AccountOfGivenUpTest, ALessThanKnownBeforeIsImplausible) {
  DisconnectFigures figures = Positions(1, 1'000, 400, 700, false).GiveUp();
  EXPECT_EQ(AccountOfGivenUp(1'000, 401, figures, false), (WireAccount{401, 1'000, false}));
}

TEST(AccountOfGivenUpTest, ADisconnectThatResetsAllPositionsIsNotTakenForAnAcknowledgement) {
  const DisconnectFigures zeroed{.valid = true, .outq_before = 600};
  EXPECT_EQ(AccountOfGivenUp(1'000, 0, zeroed, false), (WireAccount{400, 1'000, false}));
}

TEST(AccountOfGivenUpTest, ADisconnectThatChangesNothingIsImplausible) {
  const DisconnectFigures same{.valid = true, .outq_before = 600, .q1 = 600, .n1 = 300, .q2 = 600};
  EXPECT_EQ(AccountOfGivenUp(1'000, 0, same, false), (WireAccount{400, 1'000, false}));
}

// The largest window and 2: no window is smaller than none.
TEST(AccountOfGivenUpTest, AStepBelowTwoIsImplausible) {
  DisconnectFigures figures{.valid = true, .outq_before = 600, .q1 = 602, .n1 = 302, .q2 = 604};
  EXPECT_EQ(AccountOfGivenUp(1'000, 0, figures, false), (WireAccount{400, 700, true}));
  figures = {.valid = true, .outq_before = 600, .q1 = 601, .n1 = 301, .q2 = 602};
  EXPECT_EQ(AccountOfGivenUp(1'000, 0, figures, false), (WireAccount{400, 1'000, false}));
}

TEST(AccountOfGivenUpTest, AStepAboveTheLargestWindowIsImplausible) {
  constexpr std::uint32_t kStep = 0x3fff'c003;
  const DisconnectFigures figures{.valid = true,
                                  .outq_before = 600,
                                  .q1 = 600 + kStep,
                                  .n1 = 300 + kStep,
                                  .q2 = 600 + 2 * kStep};
  EXPECT_EQ(AccountOfGivenUp(1'000, 0, figures, false), (WireAccount{400, 1'000, false}));
}

// More than 4 GiB written: a difference that wrapped would be "below W".
TEST(AccountOfGivenUpTest, AFigureBelowTheStepIsImplausibleHoweverMuchWasWritten) {
  constexpr std::uint64_t kWritten = std::uint64_t{1} << 40;
  const DisconnectFigures figures{
      .valid = true, .outq_before = 0xffff'ffff, .q1 = 400, .n1 = 800, .q2 = 900};
  EXPECT_EQ(AccountOfGivenUp(kWritten, 7, figures, false),
            (WireAccount{kWritten - 0xffff'ffff, kWritten, false}));
}

// tcp_disconnect skips sequence number 0, so that for one position in four billion K differs between
// the two disconnects by one, and the figures are off by one. No byte that was sent becomes unsent.
TEST(AccountOfGivenUpTest, ASkippedZeroNeverTurnsASentByteIntoAnUnsentOne) {
  const KernelPositions from_zero = Positions(0, 1'000, 400, 700, false);
  const std::uint32_t step = from_zero.max_window + 2;
  for (const std::uint32_t distance : {step, 2 * step}) {
    KernelPositions positions = Positions(0u - distance - 1'000, 1'000, 400, 700, false);
    ASSERT_EQ(positions.write_seq + distance, 0u);
    EXPECT_GE(AccountOfGivenUp(1'000, 0, positions.GiveUp(), false).sent_boundary, 700u);
  }
}

// Acknowledgements may arrive between reading SIOCOUTQ and disconnecting; bytes are not written.
TEST(AccountOfGivenUpTest, RandomPositionsAreFoundAgain) {
  Random random(PrintedSeed());
  for (int round = 0; round < 100'000; ++round) {
    const std::uint64_t written = random.Below(std::uint64_t{1} << random.Between(1, 40));
    const bool own_fin = random.Below(2) == 0;
    const std::uint64_t last = written + (own_fin ? 1 : 0);
    const std::uint64_t in_flight_max = std::min<std::uint64_t>(last, 1u << 30);
    const std::uint64_t acked = last - random.Below(in_flight_max + 1);
    const std::uint64_t sent = random.Between(acked, last);
    KernelPositions positions =
        Positions(static_cast<std::uint32_t>(random.Next()), written, acked, sent, own_fin);
    positions.max_window = static_cast<std::uint32_t>(random.Between(1, 65'535u << 14));
    // The one start in four billion that makes a step longer is a test of its own.
    if (positions.write_seq + positions.max_window + 2 == 0) continue;
    if (positions.write_seq + 2 * (positions.max_window + 2) == 0) continue;

    DisconnectFigures figures = positions.GiveUp();
    const std::uint64_t acked_before = acked - random.Below(std::min<std::uint64_t>(acked, 9) + 1);
    figures.outq_before = static_cast<std::uint32_t>(last - acked_before);

    const WireAccount account =
        AccountOfGivenUp(written, std::min(acked_before, written), figures, own_fin);
    ASSERT_EQ(account, (WireAccount{std::min(acked, written), std::min(sent, written), true}));
  }
}

TEST(AccountTest, BoundariesAreInOrderWhateverTheFiguresSay) {
  Random random(PrintedSeed());
  const auto figure = [&random] {
    return static_cast<std::uint32_t>(random.Below(std::uint64_t{1} << random.Between(1, 32)));
  };
  for (int round = 0; round < 200'000; ++round) {
    const std::uint64_t written = random.Below(std::uint64_t{1} << random.Between(1, 34));
    const bool own_fin = random.Below(2) == 0;
    DeathFacts facts = Dead(0, figure(), figure(), own_fin);
    facts.bytes_acked = written + random.Below(4) - facts.outq;
    if (random.Below(4) == 0) facts.tcp_state = kTcpEstablished;
    const DisconnectFigures figures{true, figure(), figure(), figure(), figure()};
    for (const WireAccount& account :
         {AccountOfDead(written, facts), AccountOfUnknown(written, figure()),
          AccountOfGivenUp(written, random.Below(written + 1), figures, own_fin)}) {
      ASSERT_LE(account.acked, account.sent_boundary);
      ASSERT_LE(account.sent_boundary, written);
    }
  }
}

}  // namespace
}  // namespace holdfast::internal
