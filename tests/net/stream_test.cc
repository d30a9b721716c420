// A stream over real sockets, both backends: bytes both ways, pauses, half-close, and every way to end.
#include <holdfast/stream.h>

#include <array>
#include <random>
#include <tuple>

#include "net/stream_fixture.h"
#include "support/seed.h"

namespace holdfast::test {
namespace {

class StreamTest : public StreamFixture {
 protected:
  // Calls a method of a stream, during which nothing may be told.
  template <class Call>
  auto Inside(Call call) {
    struct Guard {
      explicit Guard(StreamDiary& diary) : diary_(diary) { diary_.inside_call = true; }
      ~Guard() { diary_.inside_call = false; }
      StreamDiary& diary_;
    } guard(diary_);
    return call();
  }
  [[nodiscard]] bool Closed(Duration limit = 10s) {
    return RunUntil([&] { return diary_.closes > 0; }, limit);
  }
  // A stream that accepted more than any pipe takes, and a peer that has read nothing.
  [[nodiscard]] Ends MakeClogged(std::size_t size, StreamOptions options = {}) {
    Ends ends = MakeStarted(diary_, std::move(options));
    EXPECT_EQ(ends.stream->Send(std::string(size, 'c')), SendStatus::kQueued);
    EXPECT_TRUE(RunUntil([&] { return Look(ends.peer) == Sight::kBytes; }));
    return ends;
  }

  StreamDiary diary_;
};
HOLDFAST_FOR_BOTH_BACKENDS(StreamTest);

// Bytes that depend on nothing but their place, so that a lost or moved one is seen.
class Pattern {
 public:
  explicit Pattern(std::uint64_t seed) : random_(seed) {}
  std::string Next(std::size_t size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }

 private:
  std::mt19937_64 random_;
};

// --- Bytes.

// A server that echoes within its bounds: what it could not send yet it keeps, and reads no further.
class BoundedEcho {
 public:
  std::shared_ptr<const StreamOptions> Options() {
    auto options = std::make_shared<StreamOptions>();
    options->queue_high = 12 << 10;  // Less than one turn receives.
    options->queue_low = 4 << 10;
    options->queue_max = 24 << 10;
    options->on_data = [this](Stream& stream, std::span<const std::byte> bytes) {
      EXPECT_FALSE(paused_);
      pending_ += AsText(bytes);
      Push(stream);
    };
    options->on_writable = [this](Stream& stream) {
      EXPECT_TRUE(stream.writable());
      Push(stream);
    };
    options->on_closed = [this](Stream&, const StreamClosed& end) { closed = end; };
    return options;
  }

  int pauses = 0;
  std::optional<StreamClosed> closed;

 private:
  void Push(Stream& stream) {
    while (!pending_.empty() && stream.writable()) {
      const std::size_t size = std::min<std::size_t>(pending_.size(), 12 << 10);
      ASSERT_EQ(stream.Send(pending_.substr(0, size)), SendStatus::kQueued);
      pending_.erase(0, size);
    }
    if (!pending_.empty() && !paused_) {
      ++pauses;
      stream.PauseReceive();
    } else if (pending_.empty() && paused_) {
      stream.ResumeReceive();
    }
    paused_ = !pending_.empty();
  }

  std::string pending_;
  bool paused_ = false;
};

TEST_P(StreamTest, EchoesMegabytesOfRandomSizesAgainstBackpressure) {
  const std::uint64_t seed = internal::PrintedSeed();
  constexpr std::size_t kTotal = 6 << 20;
  BoundedEcho echo;
  Ends ends = MakeEnds();
  ends.stream->Start(echo.Options());
  std::mt19937_64 random(seed);
  Pattern out(seed + 1);
  Pattern expected(seed + 1);
  std::string chunk;
  std::size_t sent = 0;
  std::size_t received = 0;
  ASSERT_TRUE(RunUntil(
      [&] {
        while (sent < kTotal) {
          if (chunk.empty()) {
            const std::size_t size = 1 + random() % (random() % 8 == 0 ? 200'000 : 3'000);
            chunk = out.Next(std::min(size, kTotal - sent));
          }
          const std::size_t taken = WriteAvailable(ends.peer, chunk);
          sent += taken;
          chunk.erase(0, taken);
          if (!chunk.empty()) break;
        }
        // The peer reads only when it can write no more: until then its window is closing.
        if (!chunk.empty() && WriteAvailable(ends.peer, chunk.substr(0, 1)) == 1) {
          chunk.erase(0, 1);
          ++sent;
          return false;
        }
        const std::string got = ReadAvailable(ends.peer);
        received += got.size();
        EXPECT_TRUE(got == expected.Next(got.size())) << "before byte " << received;
        return received >= kTotal || HasFailure();
      },
      60s))
      << received << " of " << kTotal;
  EXPECT_GT(echo.pauses, 0);
  ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
  ASSERT_TRUE(RunUntil([&] { return echo.closed.has_value(); }));
  EXPECT_EQ(echo.closed->error.error_class, ErrorClass::kEof);
  EXPECT_TRUE(echo.closed->delivered);
  EXPECT_EQ(echo.closed->bytes_received, kTotal);
  EXPECT_EQ(echo.closed->bytes_sent, kTotal);
}

TEST_P(StreamTest, OddSizesArriveUnchangedInBothDirections) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    StreamDiary diary;
    Ends ends = MakeStarted(diary, {}, family);
    Pattern pattern(7);
    std::string to_peer;
    std::string to_stream;
    for (const std::size_t size : {1u, 2u, 63u, 64u, 65u, 4095u, 4096u, 4097u, 8191u, 65537u}) {
      const std::string text = pattern.Next(size);
      to_peer += text;
      EXPECT_EQ(ends.stream->Send(text), SendStatus::kQueued);
      const std::string other = pattern.Next(size);
      to_stream += other;
      std::size_t taken = 0;
      ASSERT_TRUE(RunUntil([&] {
        taken += WriteAvailable(ends.peer, std::string_view(other).substr(taken));
        return taken == other.size();
      }));
    }
    EXPECT_TRUE(ReadFrom(ends.peer, to_peer.size()) == to_peer);
    EXPECT_TRUE(RunUntil([&] { return diary.data.size() >= to_stream.size(); }));
    EXPECT_TRUE(diary.data == to_stream);
  }
}

TEST_P(StreamTest, SendsOfOneTurnLeaveTogether) {
  Ends ends = MakeStarted(diary_);
  RunTurns(3);
  const std::uint64_t before = reactor().stats().sends;
  for (int i = 0; i < 64; ++i)
    EXPECT_EQ(ends.stream->Send(std::string(64, 'm')), SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(ends.peer, 64 * 64), std::string(64 * 64, 'm'));
  EXPECT_EQ(reactor().stats().sends - before, 1u);
}

TEST_P(StreamTest, KnowsItsUserAndBothAddresses) {
  Ends ends = MakeEnds();
  int user = 0;
  StreamOptions options;
  diary_.Attach(options);
  const SocketAddress local = ends.stream->local();
  const SocketAddress peer = ends.stream->peer();
  EXPECT_EQ(ends.stream->user(), nullptr);
  EXPECT_FALSE(ends.stream->open());
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)), &user);
  EXPECT_TRUE(ends.stream->open());
  EXPECT_TRUE(ends.stream->writable());
  EXPECT_EQ(ends.stream->user(), &user);
  EXPECT_EQ(ends.stream->local(), local);
  EXPECT_EQ(ends.stream->peer(), peer);
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  ASSERT_EQ(::getsockname(ends.peer.get(), reinterpret_cast<sockaddr*>(&storage), &size), 0);
  EXPECT_EQ(peer, SocketAddress(reinterpret_cast<sockaddr*>(&storage), size));
  ASSERT_EQ(::getpeername(ends.peer.get(), reinterpret_cast<sockaddr*>(&storage), &size), 0);
  EXPECT_EQ(local, SocketAddress(reinterpret_cast<sockaddr*>(&storage), size));
}

TEST_P(StreamTest, ASecondStartChangesNothing) {
  Ends ends = MakeStarted(diary_);
  StreamDiary other;
  StreamOptions options;
  other.Attach(options);
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)), &other);
  EXPECT_EQ(ends.stream->user(), nullptr);
  ASSERT_EQ(WriteAvailable(ends.peer, "mine"), 4u);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "mine"; }));
  EXPECT_TRUE(other.lines.empty());
}

// --- Pauses.

TEST_P(StreamTest, PausingInTheMiddleOfABurstLosesAndReordersNothing) {
  const std::uint64_t seed = internal::PrintedSeed();
  constexpr std::size_t kTotal = 1 << 20;
  std::mt19937_64 random(seed);
  Pattern out(seed);
  Pattern expected(seed);
  Ends ends = MakeEnds();
  bool paused = false;
  bool resume_soon = false;
  int pauses = 0;
  std::size_t received = 0;
  auto options = std::make_shared<StreamOptions>();
  options->on_data = [&](Stream& stream, std::span<const std::byte> bytes) {
    ASSERT_FALSE(paused) << "on_data after PauseReceive, at byte " << received;
    ASSERT_TRUE(AsText(bytes) == expected.Next(bytes.size())) << "behind byte " << received;
    received += bytes.size();
    switch (random() % 4) {
      case 0:
        stream.PauseReceive();
        paused = resume_soon = true;
        ++pauses;
        break;
      case 1:  // Taken back at once,
        stream.PauseReceive();
        stream.ResumeReceive();
        break;
      case 2:  // and once more.
        stream.PauseReceive();
        stream.ResumeReceive();
        stream.PauseReceive();
        paused = resume_soon = true;
        break;
      default:
        break;
    }
  };
  ends.stream->Start(options);
  std::string text;
  std::size_t sent = 0;
  ASSERT_TRUE(RunUntil(
      [&] {
        if (text.empty() && sent < kTotal)
          text = out.Next(std::min<std::size_t>(64 << 10, kTotal - sent));
        const std::size_t taken = WriteAvailable(ends.peer, text);
        text.erase(0, taken);
        sent += taken;
        RunTurns(static_cast<int>(random() % 4));
        if (std::exchange(resume_soon, false)) {
          paused = false;
          ends.stream->ResumeReceive();
        }
        return received == kTotal || HasFailure();
      },
      30s))
      << received;
  EXPECT_GT(pauses, 0);
}

TEST_P(StreamTest, NothingComesBetweenPauseAndResume) {
  Ends ends = MakeStarted(diary_);
  ends.stream->PauseReceive();
  ASSERT_EQ(WriteAvailable(ends.peer, "held back"), 9u);
  RunQuietSpell();
  EXPECT_EQ(diary_.Text(), "");
  Inside([&] { ends.stream->ResumeReceive(); });
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "held back"; }));
}

TEST_P(StreamTest, APauseBeforeStartHolds) {
  Ends ends = MakeEnds();
  ends.stream->PauseReceive();
  StreamOptions options;
  diary_.Attach(options);
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
  ASSERT_EQ(WriteAvailable(ends.peer, "early"), 5u);
  RunQuietSpell();
  EXPECT_EQ(diary_.data, "");
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "early"; }));
}

TEST_P(StreamTest, APausedStreamHoldsThePeerBackByItsWindow) {
  Ends ends = MakeStarted(diary_);
  ends.stream->PauseReceive();
  const std::string text(1 << 20, 'w');
  std::size_t sent = 0;
  std::size_t last = 1;
  // Until several turns on end take nothing more: the window is closed.
  for (int idle = 0; idle < 20; idle = sent == last ? idle + 1 : 0) {
    last = sent;
    sent += WriteAvailable(ends.peer, text);
    RunTurns(2);
    ASSERT_LT(sent, 64u << 20) << "a paused stream takes everything";
  }
  EXPECT_EQ(diary_.data, "");
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.data.size() == sent; }));
}

TEST_P(StreamTest, TheEndOfAPausedStreamWaitsBehindItsBytes) {
  Ends ends = MakeStarted(diary_);
  ends.stream->PauseReceive();
  ASSERT_EQ(WriteAvailable(ends.peer, "last words"), 10u);
  ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
  RunQuietSpell();
  EXPECT_EQ(diary_.Text(), "");
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.eofs > 0; }));
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.Text(), "data eof");
  EXPECT_TRUE(ends.stream->open());
}

TEST_P(StreamTest, AResetOfAPausedStreamWaitsBehindItsBytes) {
  Ends ends = MakeStarted(diary_);
  ends.stream->PauseReceive();
  ASSERT_EQ(WriteAvailable(ends.peer, "last words"), 10u);
  RunTurns(2);
  ResetPeer(ends.peer);
  RunQuietSpell();
  EXPECT_EQ(diary_.Text(), "");
  ends.stream->ResumeReceive();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.data, "last words");
  EXPECT_EQ(diary_.Text(), "data closed:reset");
  EXPECT_EQ(diary_.closed.error.CodeName(), "ECONNRESET");
}

// A burst fills several completions of one turn; the first is told, the others are held.
class HeldStreamTest : public StreamTest {
 protected:
  static constexpr std::size_t kBurst = 48 << 10;

  // A stream that was paused inside the first on_data of a burst.
  [[nodiscard]] Ends MakePausedInBurst(std::function<void(Stream&)> inside = {}) {
    Ends ends = MakeEnds();
    StreamOptions options;
    diary_.Attach(options);
    options.on_data = [this, inside](Stream& stream, std::span<const std::byte> bytes) {
      diary_.Write("data");
      diary_.data += AsText(bytes);
      if (std::exchange(fresh_, false)) {
        stream.PauseReceive();
        if (inside) inside(stream);
      }
    };
    ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    EXPECT_EQ(WriteAvailable(ends.peer, std::string(kBurst, 'h')), kBurst);
    EXPECT_TRUE(RunUntil([&] { return !fresh_; }));
    return ends;
  }
  bool fresh_ = true;
};
HOLDFAST_FOR_BOTH_BACKENDS(HeldStreamTest);

TEST_P(HeldStreamTest, CloseRightAfterResumeStillTellsWhatWasHeldAndEnds) {
  Ends ends = MakePausedInBurst();
  RunQuietSpell();
  Inside([&] {
    ends.stream->ResumeReceive();
    ends.stream->Close(20s);
  });
  ASSERT_TRUE(RunUntil([&] { return Look(ends.peer) == Sight::kEnd; }));
  ends.peer.Reset();
  const std::uint64_t turns = reactor().stats().turns;
  ASSERT_TRUE(Closed(5s)) << reactor().stats().turns - turns << " turns";
  EXPECT_EQ(diary_.data.size(), kBurst);
  EXPECT_TRUE(diary_.closed.delivered);
}

TEST_P(HeldStreamTest, AResetRightAfterResumeComesBehindWhatWasHeld) {
  Ends ends = MakePausedInBurst();
  RunQuietSpell();
  ResetPeer(ends.peer);
  ends.stream->ResumeReceive();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.data.size(), kBurst);
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kReset);
}

TEST_P(HeldStreamTest, APeerThatClosedMeanwhileIsToldBehindWhatWasHeld) {
  Ends ends = MakePausedInBurst();
  ends.peer.Reset();
  RunQuietSpell();
  EXPECT_EQ(diary_.eofs, 0);
  ends.stream->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return diary_.eofs > 0; }));
  EXPECT_EQ(diary_.data.size(), kBurst);
}

TEST_P(HeldStreamTest, CloseWhilePausedTellsNoMoreBytes) {
  Ends ends = MakePausedInBurst();
  EXPECT_EQ(ends.stream->Send("farewell"), SendStatus::kQueued);
  const std::size_t told = diary_.data.size();
  Inside([&] { ends.stream->Close(); });
  EXPECT_EQ(WriteAvailable(ends.peer, "unheard"), 7u);
  EXPECT_EQ(ReadFrom(ends.peer, 8), "farewell");
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.data.size(), told);
  EXPECT_EQ(diary_.Text(), "data closed:cancelled");
  EXPECT_TRUE(diary_.closed.delivered);
}

TEST_P(HeldStreamTest, CloseInsideThePausingCallbackTellsNoMoreBytes) {
  Ends ends = MakePausedInBurst([](Stream& stream) { stream.Close(); });
  const std::size_t told = diary_.data.size();
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.data.size(), told);
}

TEST_P(StreamTest, PauseAfterCloseTellsNoMoreBytes) {
  Ends ends = MakeStarted(diary_);
  ends.stream->Close();
  ends.stream->PauseReceive();
  ASSERT_EQ(WriteAvailable(ends.peer, "unheard"), 7u);
  RunQuietSpell();
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.data, "");
}

// --- Half-close.

TEST_P(StreamTest, AfterThePeersEndItStillSends) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    diary_ = {};
    Ends ends = MakeStarted(diary_, {}, family);
    ASSERT_EQ(WriteAvailable(ends.peer, "question"), 8u);
    ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
    ASSERT_TRUE(RunUntil([&] { return diary_.eofs == 1; }));
    EXPECT_EQ(diary_.data, "question");
    EXPECT_TRUE(ends.stream->open());
    const std::string answer = Pattern(1).Next(200'000);
    EXPECT_EQ(ends.stream->Send(answer), SendStatus::kQueued);
    EXPECT_TRUE(ReadFrom(ends.peer, answer.size()) == answer);
    EXPECT_EQ(diary_.Text(), "data eof");
    ends.stream->Close();
    ASSERT_TRUE(Closed());
    EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kEof);
    EXPECT_TRUE(diary_.closed.delivered);
    EXPECT_EQ(Look(ends.peer), Sight::kEnd);
  }
}

TEST_P(StreamTest, AfterCloseWriteItStillReceives) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    diary_ = {};
    Ends ends = MakeStarted(diary_, {}, family);
    const std::string text = Pattern(2).Next(300'000);
    EXPECT_EQ(ends.stream->Send(text), SendStatus::kQueued);
    Inside([&] { ends.stream->CloseWrite(); });
    EXPECT_EQ(ends.stream->Send("late"), SendStatus::kClosing);
    EXPECT_FALSE(ends.stream->writable());
    EXPECT_TRUE(ReadFrom(ends.peer, text.size()) == text);
    ASSERT_TRUE(RunUntil([&] { return Look(ends.peer) == Sight::kEnd; }));
    ASSERT_EQ(WriteAvailable(ends.peer, "still here"), 10u);
    ASSERT_TRUE(RunUntil([&] { return diary_.data == "still here"; }));
    EXPECT_EQ(diary_.Text(), "data");
    ends.stream->CloseWrite();
    ends.peer.Reset();
    ASSERT_TRUE(RunUntil([&] { return diary_.eofs == 1; }));
    ends.stream->Close();
    ASSERT_TRUE(Closed());
    EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kEof);
    EXPECT_TRUE(diary_.closed.delivered);
  }
}

TEST_P(StreamTest, WithoutOnEofItDrainsAndClosesByItself) {
  Ends ends = MakeEnds();
  auto options = std::make_shared<StreamOptions>();
  diary_.Attach(*options, /*with_eof=*/false);
  const std::string text = Pattern(3).Next(1 << 20);
  ends.stream->Start(options);
  EXPECT_EQ(ends.stream->Send(text), SendStatus::kQueued);
  ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
  EXPECT_TRUE(ReadFrom(ends.peer, text.size()) == text);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kEof);
  EXPECT_TRUE(diary_.closed.delivered);
  EXPECT_FALSE(ends.stream->open());
  EXPECT_EQ(Look(ends.peer), Sight::kEnd);
}

// --- Close.

TEST_P(StreamTest, CloseDeliversEverythingToASlowReader) {
  constexpr std::size_t kTotal = 6 << 20;
  Ends ends = MakeStarted(diary_);
  const std::string text = Pattern(4).Next(kTotal);
  EXPECT_EQ(ends.stream->Send(text), SendStatus::kQueued);
  Inside([&] { ends.stream->Close(30s); });
  EXPECT_FALSE(ends.stream->open());
  std::string got;
  char buffer[40'000];
  ASSERT_TRUE(RunUntil(
      [&] {
        const ssize_t size = ::recv(ends.peer.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
        if (size > 0) got.append(buffer, static_cast<std::size_t>(size));
        EXPECT_EQ(diary_.closes, 0) << "closed before the peer had read its end";
        return size == 0;
      },
      30s));
  EXPECT_TRUE(got == text);
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error, Error::Cancelled());
  EXPECT_TRUE(diary_.closed.delivered);
  EXPECT_EQ(diary_.closed.bytes_sent, kTotal);
}

TEST_P(StreamTest, CloseZeroGivesUpAtOnceAndSaysSo) {
  Ends ends = MakeClogged(8 << 20);
  Inside([&] { ends.stream->Close(0ms); });
  RunTurns(3);
  ASSERT_EQ(diary_.closes, 1);
  EXPECT_EQ(diary_.closed.error, Error::Cancelled());
  EXPECT_FALSE(diary_.closed.delivered);
  EXPECT_LT(diary_.closed.bytes_sent, 8u << 20);
  // A reset: the peer may not take the beginning for the whole.
  ASSERT_TRUE(RunUntil([&] {
    static_cast<void>(ReadAvailable(ends.peer));
    return Look(ends.peer) == Sight::kReset || Look(ends.peer) == Sight::kEnd;
  }));
}

// Paused, it has nothing in flight that could delay the end.
TEST_P(StreamTest, TheEndOfAPausedStreamIsNotToldInsideTheCallEither) {
  using Way = void (*)(Stream&);
  for (const Way way : {Way{[](Stream& stream) { stream.Close(0ms); }},
                        Way{[](Stream& stream) { stream.Drop(Error::Protocol()); }}}) {
    diary_ = {};
    Ends ends = MakeStarted(diary_);
    ends.stream->PauseReceive();
    RunTurns(3);
    Inside([&] { way(*ends.stream); });
    EXPECT_EQ(diary_.closes, 0);
    RunTurns(2);
    EXPECT_EQ(diary_.closes, 1);
  }
}

TEST_P(StreamTest, ADrainThatTakesTooLongIsATimeout) {
  Ends ends = MakeClogged(8 << 20);
  const Instant begin = reactor().Now();
  ends.stream->Close(60ms);
  ASSERT_TRUE(Closed());
  EXPECT_GE(reactor().Now() - begin, 60ms);
  EXPECT_EQ(diary_.closed.error, Error::Deadline(Operation::kClose));
  EXPECT_FALSE(diary_.closed.delivered);
}

TEST_P(StreamTest, APeerThatKeepsItsSideOpenHasEverythingAllTheSame) {
  Ends ends = MakeStarted(diary_);
  EXPECT_EQ(ends.stream->Send("all of it"), SendStatus::kQueued);
  ends.stream->Close(60ms);
  EXPECT_EQ(ReadFrom(ends.peer, 9), "all of it");
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error, Error::Deadline(Operation::kClose));
  EXPECT_TRUE(diary_.closed.delivered);
}

TEST_P(StreamTest, CloseWithoutAnArgumentTakesTheDrainOfTheOptions) {
  StreamOptions options;
  options.drain = 60ms;
  Ends ends = MakeClogged(8 << 20, std::move(options));
  const Instant begin = reactor().Now();
  ends.stream->Close();
  ASSERT_TRUE(Closed());
  EXPECT_GE(reactor().Now() - begin, 60ms);
  EXPECT_LT(reactor().Now() - begin, 4s);
}

TEST_P(StreamTest, WhatComesWhileDrainingIsTold) {
  Ends ends = MakeStarted(diary_);
  ends.stream->Close();
  ASSERT_EQ(WriteAvailable(ends.peer, "parting"), 7u);
  ASSERT_TRUE(RunUntil([&] { return diary_.data == "parting"; }));
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.Text(), "data closed:cancelled");
}

TEST_P(StreamTest, ASecondCloseChangesNothing) {
  Ends ends = MakeStarted(diary_);
  Inside([&] {
    ends.stream->Close();
    ends.stream->Close();
  });
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  Inside([&] { ends.stream->Close(); });
  RunQuietSpell();
  EXPECT_EQ(diary_.closes, 1);
}

TEST_P(StreamTest, DropGivesTheReasonBack) {
  Ends ends = MakeStarted(diary_);
  Inside([&] { ends.stream->Drop(Error::Protocol()); });
  EXPECT_FALSE(ends.stream->open());
  EXPECT_EQ(ends.stream->Send("late"), SendStatus::kClosing);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error, Error::Protocol());
  EXPECT_EQ(diary_.Text(), "closed:protocol");
}

TEST_P(StreamTest, DropWithoutAFailureIsAProtocolError) {
  Ends ends = MakeStarted(diary_);
  ends.stream->Drop(Error{});
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error, Error::Protocol());
}

TEST_P(StreamTest, DropEndsADrainThatIsUnderWay) {
  Ends ends = MakeClogged(8 << 20);
  ends.stream->Close(1h);
  RunTurns(3);
  EXPECT_EQ(diary_.closes, 0);
  ends.stream->Drop(Error::Protocol());
  RunTurns(3);
  EXPECT_EQ(diary_.Text(), "closed:protocol");
}

// --- Why it ended.

TEST_P(StreamTest, AResetIsAReset) {
  Ends ends = MakeStarted(diary_);
  ResetPeer(ends.peer);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kReset);
  EXPECT_EQ(diary_.closed.error.CodeName(), "ECONNRESET");
  EXPECT_EQ(diary_.Text(), "closed:reset");
}

TEST_P(StreamTest, AResetWithBytesOnTheirWayIsNotDelivered) {
  Ends ends = MakeClogged(8 << 20);
  ResetPeer(ends.peer);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kReset);
  EXPECT_FALSE(diary_.closed.delivered);
}

TEST_P(StreamTest, AResetWhileDrainingIsAReset) {
  Ends ends = MakeClogged(8 << 20);
  ends.stream->Close(20s);
  RunTurns(3);
  ResetPeer(ends.peer);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kReset);
  EXPECT_FALSE(diary_.closed.delivered);
}

// The peer ended first and our end is queued: nothing is armed that a reset could end, and SIOCOUTQ stands
// still for ever (docs/kernel.md, "Death and the account").
TEST_P(StreamTest, AResetBehindThePeersEndIsFoundLongBeforeTheDrainIsOver) {
  Ends ends = MakeStarted(diary_);
  ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
  ASSERT_TRUE(RunUntil([&] { return diary_.eofs == 1; }));
  EXPECT_EQ(ends.stream->Send(std::string(300'000, 'u')), SendStatus::kQueued);
  ends.stream->Close(Duration::max());
  ASSERT_TRUE(RunUntil([&] { return ends.stream->queued_bytes() == 0; }));
  RunQuietSpell();
  EXPECT_EQ(diary_.closes, 0) << "the peer has not acknowledged it";
  ends.peer.Reset();  // With bytes unread, which is a reset.
  ASSERT_TRUE(Closed(5s));
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kEof) << "its FIN did arrive";
  EXPECT_FALSE(diary_.closed.delivered);
  EXPECT_EQ(diary_.closed.bytes_sent, 300'000u);
}

TEST_P(StreamTest, AnEndOfFileIsAnEndOfFile) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    StreamDiary diary;
    StreamOptions options;
    diary.Attach(options, /*with_eof=*/false);
    Ends ends = MakeEnds(family);
    ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    ASSERT_EQ(WriteAvailable(ends.peer, "bye"), 3u);
    ends.peer.Reset();
    ASSERT_TRUE(RunUntil([&] { return diary.closes > 0; }));
    EXPECT_EQ(diary.Text(), "data closed:eof");
    EXPECT_EQ(diary.closed.error.code, 0);
    EXPECT_TRUE(diary.closed.delivered);
    EXPECT_EQ(diary.closed.bytes_received, 3u);
  }
}

// An urgent byte (MSG_OOB) is a byte of the stream: left out, it would be counted for a FIN, or hide one.
TEST_P(StreamTest, AnUrgentByteIsReadInItsPlaceAndIsNoEnd) {
  for (const bool in_order : {true, false}) {
    StreamDiary diary;
    Ends ends = MakeStarted(diary);
    ASSERT_EQ(WriteAvailable(ends.peer, "before"), 6u);
    ASSERT_EQ(::send(ends.peer.get(), "!", 1, MSG_OOB), 1);
    ASSERT_EQ(WriteAvailable(ends.peer, "behind"), 6u);
    ASSERT_TRUE(RunUntil([&] { return diary.data.size() >= 12; }));
    RunQuietSpell();
    if (in_order) {
      ends.peer.Reset();
      ASSERT_TRUE(RunUntil([&] { return diary.eofs == 1; }));
      ends.stream->Close();
    } else {
      ResetPeer(ends.peer);
    }
    ASSERT_TRUE(RunUntil([&] { return diary.closes > 0; }));
    EXPECT_EQ(diary.closed.error.error_class, in_order ? ErrorClass::kEof : ErrorClass::kReset);
    EXPECT_EQ(diary.data, "before!behind");
  }
}

TEST_P(StreamTest, OnUnixSocketsAPeerThatLeftBytesUnreadWasAReset) {
  Ends ends = MakeStarted(diary_, {}, Family::kUnix);
  EXPECT_EQ(ends.stream->Send("unread"), SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return Look(ends.peer) == Sight::kBytes; }));
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.error.error_class, ErrorClass::kReset);
}

TEST_P(StreamTest, OnUnixSocketsDeliveredMeansTaken) {
  Ends ends = MakeStarted(diary_, {}, Family::kUnix);
  EXPECT_EQ(ends.stream->Send("taken"), SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(ends.peer, 5), "taken");
  ends.stream->Close(0ms);
  ASSERT_TRUE(Closed());
  EXPECT_EQ(diary_.closed.bytes_sent, 5u);
  EXPECT_TRUE(diary_.closed.delivered);
}

TEST_P(StreamTest, OnUnixSocketsWhatIsQueuedIsNotDelivered) {
  Ends ends = MakeStarted(diary_, {}, Family::kUnix);
  EXPECT_EQ(ends.stream->Send(std::string(4 << 20, 'q')), SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return Look(ends.peer) == Sight::kBytes; }));
  ends.stream->Close(0ms);
  ASSERT_TRUE(Closed());
  EXPECT_FALSE(diary_.closed.delivered);
}

// --- Sending, by state.

TEST_P(StreamTest, SendSaysWhatBecameOfIt) {
  StreamOptions options;
  options.queue_high = 64;
  options.queue_low = 32;
  options.queue_max = 100;
  diary_.Attach(options);
  Ends ends = MakeEnds();
  EXPECT_EQ(ends.stream->Send("early"), SendStatus::kNotUp);
  EXPECT_FALSE(ends.stream->writable());
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
  EXPECT_EQ(ends.stream->Send(std::string(101, 'x')), SendStatus::kTooLarge);
  EXPECT_EQ(ends.stream->queued_bytes(), 0u);
  EXPECT_EQ(ends.stream->Send(std::string(60, 'a')), SendStatus::kQueued);
  EXPECT_EQ(ends.stream->queued_bytes(), 60u);
  EXPECT_TRUE(ends.stream->writable());
  EXPECT_EQ(ends.stream->Send(std::string(41, 'x')), SendStatus::kFull);
  EXPECT_EQ(ends.stream->queued_bytes(), 60u);
  EXPECT_EQ(ends.stream->Send(std::string(40, 'b')), SendStatus::kQueued);
  EXPECT_EQ(ends.stream->queued_bytes(), 100u);
  EXPECT_FALSE(ends.stream->writable());
  EXPECT_EQ(ReadFrom(ends.peer, 100), std::string(60, 'a') + std::string(40, 'b'));
  ASSERT_TRUE(RunUntil([&] { return ends.stream->queued_bytes() == 0; }));
  EXPECT_EQ(ends.stream->Send(std::string(100, 'c')), SendStatus::kQueued);
  ends.stream->Close();
  EXPECT_EQ(ends.stream->Send("late"), SendStatus::kClosing);
  EXPECT_EQ(ends.stream->queued_bytes(), 100u);
  EXPECT_EQ(ReadFrom(ends.peer, 100), std::string(100, 'c'));
  ends.peer.Reset();
  ASSERT_TRUE(Closed());
  EXPECT_EQ(ends.stream->Send("never"), SendStatus::kClosing);
}

TEST_P(StreamTest, OnWritableComesOnceForEachReturnBelowTheLowMark) {
  StreamOptions options;
  options.queue_high = 128 << 10;
  options.queue_low = 16 << 10;
  Ends ends = MakeStarted(diary_, std::move(options));
  for (int crossing = 1; crossing <= 3; ++crossing) {
    EXPECT_TRUE(ends.stream->writable());
    // Clogged for good: more than the pipe takes, several times over the high mark.
    std::size_t queued = 0;
    while (ends.stream->queued_bytes() < (512u << 10)) {
      ASSERT_EQ(ends.stream->Send(std::string(256 << 10, 'w')), SendStatus::kQueued);
      queued += 256 << 10;
      RunTurns(1);
    }
    EXPECT_FALSE(ends.stream->writable());
    EXPECT_EQ(diary_.writables, crossing - 1);
    std::size_t read = 0;
    ASSERT_TRUE(RunUntil([&] {
      read += ReadAvailable(ends.peer).size();
      // False from the high mark down to the low one.
      if (ends.stream->queued_bytes() > (16u << 10)) {
        EXPECT_FALSE(ends.stream->writable());
      }
      return read == queued;
    }));
    ASSERT_TRUE(RunUntil([&] { return diary_.writables >= crossing; }));
    RunQuietSpell();
    EXPECT_EQ(diary_.writables, crossing);
  }
}

TEST_P(StreamTest, ASendThatWasRefusedIsFollowedByOnWritable) {
  StreamOptions options;
  options.queue_high = options.queue_low = options.queue_max = 4096;
  Ends ends = MakeStarted(diary_, std::move(options));
  EXPECT_EQ(ends.stream->Send(std::string(4000, 'x')), SendStatus::kQueued);
  EXPECT_TRUE(ends.stream->writable());
  EXPECT_EQ(ends.stream->Send(std::string(100, 'x')), SendStatus::kFull);
  EXPECT_FALSE(ends.stream->writable());
  ASSERT_TRUE(RunUntil([&] { return diary_.writables == 1; }));
  EXPECT_EQ(ends.stream->Send(std::string(100, 'x')), SendStatus::kQueued);
}

// --- Unstarted.

TEST_P(StreamTest, AnUnstartedStreamThatIsLetGoOfIsClosed) {
  using Way = void (*)(Ends&);
  for (const Way way :
       {Way{[](Ends& ends) { ends.stream.reset(); }}, Way{[](Ends& ends) { ends.stream->Close(); }},
        Way{[](Ends& ends) { ends.stream->Close(0ms); }},
        Way{[](Ends& ends) { ends.stream->Drop(Error::Protocol()); }}}) {
    Ends ends = MakeEnds();
    const std::uint64_t sockets = reactor().stats().open_sockets;
    EXPECT_EQ(Look(ends.peer), Sight::kNothing);
    way(ends);
    EXPECT_EQ(Look(ends.peer), Sight::kEnd);
    EXPECT_EQ(reactor().stats().open_sockets, sockets - 1);
    if (ends.stream == nullptr) continue;
    EXPECT_EQ(ends.stream->Send("late"), SendStatus::kClosing);
    EXPECT_TRUE(ends.stream->local().empty());
    StreamOptions options;
    StreamDiary diary;
    diary.Attach(options);
    ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    RunQuietSpell();
    EXPECT_EQ(diary.Text(), "");
    EXPECT_FALSE(ends.stream->open());
  }
}

// --- Options.

TEST_P(StreamTest, NoOptionsAreTheDefaults) {
  Ends ends = MakeEnds();
  ends.stream->Start(nullptr);
  EXPECT_EQ(ends.stream->Send(std::string((8 << 20) + 1, 'x')), SendStatus::kTooLarge);
  EXPECT_EQ(ends.stream->Send("hello"), SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(ends.peer, 5), "hello");
}

TEST_P(StreamTest, WithAFieldThatDoesNotHoldLimitsAndDrainAreTheDefaults) {
  StreamOptions options;
  options.queue_high = 64;
  options.queue_low = 32;
  options.queue_max = 64;
  options.drain = -1s;
  Ends ends = MakeStarted(diary_, std::move(options));
  EXPECT_EQ(ends.stream->Send(std::string(65, 'x')), SendStatus::kQueued);
  EXPECT_EQ(ends.stream->Send(std::string((8 << 20) + 1, 'x')), SendStatus::kTooLarge);
  ends.stream->Close();  // With five seconds, not at once.
  RunQuietSpell();
  EXPECT_EQ(diary_.closes, 0);
}

struct BadStreamOption {
  const char* says;
  std::function<void(StreamOptions&)> set;
};
void PrintTo(const BadStreamOption& option, std::ostream* out) { *out << option.says; }

class StreamOptionsTest : public testing::TestWithParam<BadStreamOption> {};
INSTANTIATE_TEST_SUITE_P(
    Each, StreamOptionsTest,
    testing::Values(BadStreamOption{"queue_low = 0", [](StreamOptions& o) { o.queue_low = 0; }},
                    BadStreamOption{"queue_high = 65535",
                                    [](StreamOptions& o) { o.queue_high = (64 << 10) - 1; }},
                    BadStreamOption{"queue_max = 262143",
                                    [](StreamOptions& o) { o.queue_max = (256 << 10) - 1; }},
                    BadStreamOption{"drain = -1ns", [](StreamOptions& o) { o.drain = -1ns; }}));

TEST_P(StreamOptionsTest, ValidateNamesTheFieldAndTheValue) {
  StreamOptions options;
  EXPECT_TRUE(ValidateStreamOptions(options).ok());
  GetParam().set(options);
  const absl::Status status = ValidateStreamOptions(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(GetParam().says), std::string_view::npos) << status;
}

TEST(StreamOptionsEdgeTest, TheEdgesOfTheRulesHold) {
  StreamOptions options;
  options.queue_low = options.queue_high = options.queue_max = 1;
  options.drain = 0ms;
  EXPECT_TRUE(ValidateStreamOptions(options).ok());
}

TEST(SendStatusTest, NamesAreInSnakeCase) {
  EXPECT_EQ(ToString(SendStatus::kQueued), "queued");
  EXPECT_EQ(ToString(SendStatus::kFull), "full");
  EXPECT_EQ(ToString(SendStatus::kTooLarge), "too_large");
  EXPECT_EQ(ToString(SendStatus::kNotUp), "not_up");
  EXPECT_EQ(ToString(SendStatus::kClosing), "closing");
}

}  // namespace
}  // namespace holdfast::test
