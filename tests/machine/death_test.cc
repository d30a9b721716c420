#include "machine/death.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>

#include "base/random.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

constexpr Error kNoError{};
constexpr std::uint8_t kTcpEstablished = 1;  // tcpi_state of a live connection, netinet/tcp.h.

// --- A connect.

TEST(JudgeConnectTest, ResultZeroWithAPeerThatIsNotOurselvesIsConnected) {
  EXPECT_FALSE(JudgeConnect({}).failed());
  EXPECT_FALSE(JudgeConnect({.call = Call::kCqeConnect}).failed());
  EXPECT_FALSE(JudgeConnect({.call = Call::kConnect, .is_unix = true}).failed());
}

TEST(JudgeConnectTest, AnErrorOfTheResultIsSortedAsTheTableSaysForItsCall) {
  const ConnectFacts blackhole{.connect_result = EINVAL, .call = Call::kConnect};
  EXPECT_EQ(JudgeConnect(blackhole),
            (Error{Operation::kConnect, ErrorClass::kUnreachable, Action::kBackOff, EINVAL}));
  const ConnectFacts ports_used_up{.connect_result = EADDRNOTAVAIL, .call = Call::kCqeConnect};
  EXPECT_EQ(JudgeConnect(ports_used_up),
            (Error{Operation::kConnect, ErrorClass::kResource, Action::kBackOff, EADDRNOTAVAIL}));
  const ConnectFacts reset{.connect_result = ECONNRESET, .call = Call::kConnectResult};
  EXPECT_EQ(JudgeConnect(reset),
            (Error{Operation::kConnect, ErrorClass::kReset, Action::kBackOff, ECONNRESET}));
}

TEST(JudgeConnectTest, WithoutAnAddressOfItsOwnAnIpv6SocketIsUnreachableOnBothBackends) {
  for (const Call call : {Call::kConnect, Call::kCqeConnect}) {
    const ConnectFacts facts{.connect_result = EADDRNOTAVAIL, .call = call, .is_ipv6 = true};
    EXPECT_EQ(JudgeConnect(facts), (Error{Operation::kConnect, ErrorClass::kUnreachable,
                                          Action::kNextAddress, EADDRNOTAVAIL}));
  }
}

TEST(JudgeConnectTest, AResetDuringTheHandshakeIsThePeersOnBothBackends) {
  for (const Call call : {Call::kConnectResult, Call::kCqeConnect}) {
    const ConnectFacts facts{.connect_result = ECONNRESET, .call = call};
    EXPECT_EQ(JudgeConnect(facts).error_class, ErrorClass::kReset);
    EXPECT_TRUE(JudgeConnect(facts).IsTemporary());
  }
}

TEST(JudgeConnectTest, AnErrorOfTheResultBeatsWhatTheOtherFactsSay) {
  const ConnectFacts facts{.connect_result = ECONNREFUSED,
                           .peer_name_error = ENOTCONN,
                           .socket_error = EHOSTUNREACH,
                           .self = true};
  EXPECT_EQ(JudgeConnect(facts).code, ECONNREFUSED);
}

TEST(JudgeConnectTest, AFullBacklogOnAUnixSocketIsRefusedWhicheverBackendSaysIt) {
  for (const Call call : {Call::kConnect, Call::kCqeConnect}) {
    const ConnectFacts facts{.connect_result = EAGAIN, .call = call, .is_unix = true};
    EXPECT_EQ(JudgeConnect(facts),
              (Error{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, EAGAIN}));
  }
}

TEST(JudgeConnectTest, AnAttemptThatEndedIsNeverToldToTryAgainInPlace) {
  for (const int code : {EAGAIN, EINTR, EINPROGRESS}) {
    for (const Call call : {Call::kConnect, Call::kConnectResult, Call::kCqeConnect}) {
      const Error error = JudgeConnect({.connect_result = code, .call = call});
      EXPECT_EQ(error, (Error{Operation::kConnect, ErrorClass::kUnknown, Action::kBackOff, code}));
    }
  }
}

// docs/kernel.md 1: io_uring says 0 while the socket is in SYN_SENT; SO_ERROR has the reason.
TEST(JudgeConnectTest, ResultZeroWithoutAPeerIsWhatSoErrorTells) {
  const ConnectFacts facts{
      .call = Call::kCqeConnect, .peer_name_error = ENOTCONN, .socket_error = EHOSTUNREACH};
  EXPECT_EQ(JudgeConnect(facts),
            (Error{Operation::kConnect, ErrorClass::kUnreachable, Action::kBackOff, EHOSTUNREACH}));
}

TEST(JudgeConnectTest, ResultZeroWithoutAPeerAndWithoutAReasonIsReset) {
  const Error expected{Operation::kConnect, ErrorClass::kReset, Action::kBackOff, ENOTCONN};
  EXPECT_EQ(JudgeConnect({.peer_name_error = ENOTCONN}), expected);
  EXPECT_EQ(JudgeConnect({.peer_name_error = ENOTCONN, .is_unix = true}), expected);
  EXPECT_EQ(JudgeConnect({.peer_name_error = ENOBUFS}).error_class, ErrorClass::kReset);
}

TEST(JudgeConnectTest, AskingAClosedDescriptorForItsPeerStaysABug) {
  EXPECT_EQ(JudgeConnect({.peer_name_error = EBADF}).error_class, ErrorClass::kInvalid);
}

// docs/kernel.md 4.
TEST(JudgeConnectTest, AConnectionToOurselvesIsRefused) {
  EXPECT_EQ(JudgeConnect({.call = Call::kCqeConnect, .self = true}),
            (Error{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, 0}));
}

TEST(JudgeConnectTest, NothingButAllThreeProofsIsConnected) {
  for (const int result : {0, ECONNREFUSED}) {
    for (const int peer : {0, ENOTCONN}) {
      for (const int socket_error : {0, ETIMEDOUT}) {
        for (const bool self : {false, true}) {
          for (const bool is_unix : {false, true}) {
            const ConnectFacts facts{result, Call::kCqeConnect, peer, socket_error, self, is_unix};
            const Error error = JudgeConnect(facts);
            EXPECT_EQ(error.failed(), result != 0 || peer != 0 || self);
            EXPECT_EQ(error.IsTemporary(), error.failed());
          }
        }
      }
    }
  }
}

// --- The death of a connection.

const Error kEndInGoodOrder{Operation::kReceive, ErrorClass::kEof, Action::kBackOff, 0};
const Error kResetUntold{Operation::kReceive, ErrorClass::kReset, Action::kBackOff, 0};

// 1,000 bytes received, of which the tests below have read 900 and left 100.
DeathFacts TcpFacts(bool fin, std::uint8_t state = kTcpClose) {
  return {.tcp = true,
          .info_valid = true,
          .tcp_state = state,
          .bytes_received = fin ? 1001u : 1000u,
          .outq_valid = true,
          .inq = 100};
}
constexpr std::uint64_t kRead = 900;

TEST(FinArrivedTest, OneByteMoreThanReadAndWaitingIsTheFin) {
  EXPECT_TRUE(FinArrived(TcpFacts(true), kRead));
  EXPECT_FALSE(FinArrived(TcpFacts(false), kRead));
}

TEST(FinArrivedTest, NothingReceivedAtAllIsNoFin) {
  EXPECT_FALSE(FinArrived({.tcp = true, .info_valid = true}, 0));
  EXPECT_TRUE(FinArrived({.tcp = true, .info_valid = true, .bytes_received = 1}, 0));
}

TEST(FinArrivedTest, MissingOrContradictingFiguresProveNothing) {
  DeathFacts facts = TcpFacts(true);
  facts.info_valid = false;
  EXPECT_FALSE(FinArrived(facts, kRead));
  facts = TcpFacts(true);
  facts.tcp = false;
  EXPECT_FALSE(FinArrived(facts, kRead));
  EXPECT_FALSE(FinArrived(TcpFacts(true), kRead + 100));  // More read than received.
  EXPECT_FALSE(FinArrived(TcpFacts(true), kRead - 1));
}

TEST(JudgeDeathTest, TheFinIsAnEndInGoodOrderInEveryState) {
  // CLOSE when the peer's FIN follows our own, or when a reset followed it: state says nothing.
  for (const std::uint8_t state : {kTcpCloseWait, kTcpClose, kTcpEstablished}) {
    for (const bool saw_eof : {false, true}) {
      EXPECT_EQ(JudgeDeath(TcpFacts(true, state), kNoError, saw_eof, kRead), kEndInGoodOrder);
    }
  }
}

TEST(JudgeDeathTest, TheFinBeatsEveryErrorThatCameAfterIt) {
  DeathFacts facts = TcpFacts(true);
  facts.socket_error = EPIPE;  // docs/kernel.md C1: FIN, write 500, SO_ERROR says EPIPE.
  const Error sticky = Classify(Call::kSend, ECONNRESET);
  EXPECT_EQ(JudgeDeath(facts, sticky, false, kRead), kEndInGoodOrder);
}

// docs/kernel.md 2: with a send blocked, the reset is told to the send and recv says 0.
TEST(JudgeDeathTest, ARecvOfZeroWithoutTheFinIsTheResetThatASendWasToldOf) {
  const Error sticky = Classify(Call::kCqeSend, ECONNRESET);
  EXPECT_EQ(JudgeDeath(TcpFacts(false), sticky, true, kRead), sticky);
}

TEST(JudgeDeathTest, TheFirstErrorBeatsSoError) {
  DeathFacts facts = TcpFacts(false);
  facts.socket_error = EHOSTUNREACH;
  const Error sticky = Classify(Call::kRecv, ETIMEDOUT);
  EXPECT_EQ(JudgeDeath(facts, sticky, false, kRead), sticky);
}

TEST(JudgeDeathTest, SoErrorTellsWhatNoOperationWasTold) {
  DeathFacts facts = TcpFacts(false);
  facts.socket_error = ETIMEDOUT;
  EXPECT_EQ(JudgeDeath(facts, kNoError, true, kRead),
            (Error{Operation::kReceive, ErrorClass::kTimeout, Action::kBackOff, ETIMEDOUT}));
}

// docs/kernel.md 7: the kernel gave up for want of an acknowledgement, and tells what ICMP last said. So
// ECONNREFUSED is not "nobody listens", and neither EOPNOTSUPP nor a blackhole's EINVAL a bug of ours.
TEST(JudgeDeathTest, TheErrnoOfADeadConnectionThatIcmpLeftIsATimeout) {
  const DeathFacts closed = TcpFacts(false, kTcpClose);
  for (const int code : {EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, ENOPROTOOPT, EHOSTDOWN, ENONET,
                         EOPNOTSUPP, EPROTO, EACCES, EINVAL}) {
    for (const Call call : {Call::kSend, Call::kRecv, Call::kCqeSend, Call::kCqeRecv}) {
      const Error sticky = Classify(call, code);
      EXPECT_EQ(JudgeDeath(closed, sticky, false, kRead),
                (Error{sticky.operation, ErrorClass::kTimeout, Action::kBackOff, code}));
    }
    DeathFacts untold = closed;
    untold.socket_error = code;
    EXPECT_EQ(JudgeDeath(untold, kNoError, true, kRead),
              (Error{Operation::kReceive, ErrorClass::kTimeout, Action::kBackOff, code}));
  }
}

TEST(JudgeDeathTest, ThatErrnoMeansWhatItsCallSaysWhereTheKernelHasNotEndedIt) {
  const Error sticky = Classify(Call::kSend, EHOSTUNREACH);
  EXPECT_EQ(JudgeDeath(TcpFacts(false, kTcpEstablished), sticky, false, kRead), sticky);
  DeathFacts unknown = TcpFacts(false, kTcpClose);
  unknown.info_valid = false;
  EXPECT_EQ(JudgeDeath(unknown, sticky, false, kRead), sticky);
  EXPECT_EQ(JudgeDeath({.tcp = false, .tcp_state = kTcpClose}, sticky, false, kRead), sticky);
}

TEST(JudgeDeathTest, WhatEndsAConnectionByItselfKeepsItsClass) {
  for (const int code : {ECONNRESET, ETIMEDOUT, ECONNABORTED, ENOMEM, EBADF, EIO}) {
    const Error sticky = Classify(Call::kRecv, code);
    EXPECT_EQ(JudgeDeath(TcpFacts(false, kTcpClose), sticky, false, kRead), sticky);
  }
}

TEST(JudgeDeathTest, AnErrorThatIsNotTellingIsPassedOver) {
  for (const int code : {EPIPE, ECANCELED, EAGAIN, EINTR}) {
    const Error sticky{Operation::kSend, ErrorClass::kReset, Action::kBackOff, code};
    EXPECT_EQ(JudgeDeath(TcpFacts(false), sticky, true, kRead), kResetUntold);
    DeathFacts facts = TcpFacts(false);
    facts.socket_error = ETIMEDOUT;
    EXPECT_EQ(JudgeDeath(facts, sticky, true, kRead).code, ETIMEDOUT);
  }
}

TEST(JudgeDeathTest, OurOwnJudgementHasNoErrnoAndIsTellingAllTheSame) {
  const Error sticky = Error::Deadline(Operation::kHeartbeat);
  EXPECT_EQ(JudgeDeath(TcpFacts(false), sticky, true, kRead), sticky);
}

TEST(JudgeDeathTest, NothingKnownAtAllIsAReset) {
  EXPECT_EQ(JudgeDeath(TcpFacts(false), kNoError, true, kRead), kResetUntold);
  EXPECT_EQ(JudgeDeath(TcpFacts(false), kNoError, false, kRead), kResetUntold);
  EXPECT_EQ(JudgeDeath({}, kNoError, false, 0), kResetUntold);
}

TEST(JudgeDeathTest, OnAUnixSocketARecvOfZeroIsTheEnd) {
  const DeathFacts facts{.tcp = false, .socket_error = EPIPE};
  EXPECT_EQ(JudgeDeath(facts, Classify(Call::kSend, ECONNRESET), true, 17), kEndInGoodOrder);
  EXPECT_EQ(JudgeDeath(facts, Classify(Call::kRecv, ECONNRESET), false, 17),
            (Error{Operation::kReceive, ErrorClass::kReset, Action::kBackOff, ECONNRESET}));
}

TEST(JudgeDeathTest, WithoutTcpInfoARecvOfZeroIsBelievedOnlyWhereNoErrorIsKnown) {
  DeathFacts facts = TcpFacts(true);
  facts.info_valid = false;
  EXPECT_EQ(JudgeDeath(facts, kNoError, true, kRead), kEndInGoodOrder);
  EXPECT_EQ(JudgeDeath(facts, kNoError, false, kRead), kResetUntold);
  const Error sticky = Classify(Call::kCqeSend, ECONNRESET);
  EXPECT_EQ(JudgeDeath(facts, sticky, true, kRead), sticky);
  facts.socket_error = ETIMEDOUT;
  EXPECT_EQ(JudgeDeath(facts, kNoError, true, kRead).code, ETIMEDOUT);
}

TEST(JudgeDeathTest, EveryDeathHasAReasonThatACallbackMaySee) {
  Random random(PrintedSeed());
  for (int round = 0; round < 100'000; ++round) {
    const bool any_error = random.Below(2) == 0;
    const DeathFacts facts{.tcp = random.Below(4) != 0,
                           .info_valid = random.Below(4) != 0,
                           .tcp_state = static_cast<std::uint8_t>(random.Between(1, 12)),
                           .bytes_received = random.Below(4),
                           .inq = static_cast<std::uint32_t>(random.Below(3)),
                           .socket_error = any_error ? static_cast<int>(random.Below(140)) : 0};
    const int code = static_cast<int>(random.Between(1, 139));
    const Error sticky =
        IsTelling(code) && random.Below(2) == 0 ? Classify(Call::kSend, code) : kNoError;
    const std::uint64_t read = random.Below(3);
    const bool saw_eof = random.Below(2) == 0;
    const Error error = JudgeDeath(facts, sticky, saw_eof, read);

    ASSERT_TRUE(error.failed());
    ASSERT_NE(error.error_class, ErrorClass::kTryAgain);
    const bool fin =
        facts.tcp ? facts.info_valid && facts.bytes_received == read + facts.inq + 1 : saw_eof;
    if (fin) {
      ASSERT_EQ(error.error_class, ErrorClass::kEof);
    } else if (sticky.failed()) {
      ASSERT_EQ(error.operation, sticky.operation);
      ASSERT_EQ(error.code, sticky.code);
    } else if (facts.socket_error != 0) {
      ASSERT_EQ(error.code, facts.socket_error);
    }
  }
}

TEST(IsTellingTest, OnlyWhatSaysWhyIsTelling) {
  for (int code = -200; code < 200; ++code) {
    const bool silent =
        code <= 0 || code == EPIPE || code == ECANCELED || code == EAGAIN || code == EINTR;
    EXPECT_EQ(IsTelling(code), !silent) << code;
  }
}

}  // namespace
}  // namespace holdfast::internal
