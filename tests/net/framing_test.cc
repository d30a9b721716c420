// Framed links and streams: whole messages to on_message, whatever the user does in it.
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/error_codes.h"
#include "net/link_fixture.h"
#include "net/stream_fixture.h"
#include "support/seed.h"

namespace holdfast::test {
namespace {

class FramingTest : public LinkFixture {
 protected:
  // A link of lines that keeps them in lines_.
  [[nodiscard]] LinkOptions LineOptions(const RawServer& server) {
    LinkOptions options = Options(server.endpoint());
    options.framing = Delimiter{'\n', 100};
    options.on_data = {};
    options.on_message = [this](Link&, std::span<const std::byte> line) {
      lines_.emplace_back(AsText(line));
    };
    return options;
  }
  std::vector<std::string> lines_;
};
HOLDFAST_FOR_BOTH_BACKENDS(FramingTest);

using Lines = std::vector<std::string>;

TEST_P(FramingTest, ALinkIsToldWholeMessages) {
  for (const Family family : {Family::kInet, Family::kUnix}) {
    diary_ = {};
    lines_.clear();
    RawServer server(family);
    Fd peer;
    std::unique_ptr<Link> link = MakeUp(server, peer, LineOptions(server));
    ASSERT_EQ(WriteAvailable(peer, "one\n\nthr"), 8u);
    ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_received == 8; }));
    EXPECT_EQ(lines_, (Lines{"one", ""}));
    ASSERT_EQ(WriteAvailable(peer, "ee\nfour\n"), 8u);
    ASSERT_TRUE(RunUntil([&] { return lines_.size() == 4; }));
    EXPECT_EQ(lines_, (Lines{"one", "", "three", "four"}));
  }
}

TEST_P(FramingTest, TheNextSessionBeginsWithAFrameOfItsOwn) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, LineOptions(server));
  ASSERT_EQ(WriteAvailable(peer, "half a li"), 9u);
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_received == 9; }));
  peer.Reset();
  peer = AcceptFrom(server);
  ASSERT_EQ(WriteAvailable(peer, "a whole one\n"), 12u);
  ASSERT_TRUE(RunUntil([&] { return !lines_.empty(); }));
  EXPECT_EQ(lines_, Lines{"a whole one"});
}

TEST_P(FramingTest, APeerThatSendsTooMuchIsGivenUpAfterWhatWasWhole) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, LineOptions(server));
  const std::string text = "good\n" + std::string(101, 'x');
  ASSERT_EQ(WriteAvailable(peer, text), text.size());
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(lines_, Lines{"good"});
  const Error& error = diary_.downs[0].error;
  EXPECT_EQ(error.error_class, ErrorClass::kProtocol);
  EXPECT_EQ(error.operation, Operation::kReceive);
  EXPECT_EQ(error.code, -internal::kTooLongCode);
  EXPECT_TRUE(diary_.downs[0].retry_in.has_value());
}

TEST_P(FramingTest, ThreeSessionsOfNonsenseInARowAreEnough) {
  class Nothing : public Framer {
   public:
    FrameCut Cut(std::span<const std::byte>, std::size_t) const noexcept override {
      return FrameCut::Malformed();
    }
    std::size_t max() const noexcept override { return 1; }
  };
  RawServer server;
  LinkOptions options = LineOptions(server);
  options.framing = std::make_shared<Nothing>();
  std::unique_ptr<Link> link = Make(std::move(options));
  link->Start();
  for (int session = 0; session < 3; ++session) {
    Fd peer = AcceptFrom(server);
    ASSERT_EQ(WriteAvailable(peer, "x"), 1u);
    ASSERT_TRUE(RunUntilDowns(static_cast<std::size_t>(session) + 1));
    EXPECT_EQ(diary_.downs.back().error.code, -internal::kMalformedCode);
  }
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.closed->reason, ClosedReason::kProtocol);
}

TEST_P(FramingTest, NonsenseDoesNotDisturbAClose) {
  RawServer server;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, LineOptions(server));
  EXPECT_EQ(link->Send("last").status, SendStatus::kQueued);
  link->Close(1h);
  EXPECT_EQ(ReadFrom(peer, 4), "last");
  const std::string text = "farewell\n" + std::string(200, 'x') + "\nmore\n";
  ASSERT_EQ(WriteAvailable(peer, text), text.size());
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_received == text.size(); }));
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(lines_, Lines{"farewell"});
  EXPECT_EQ(diary_.closed->acked, 1u);
  EXPECT_EQ(diary_.closed->error.error_class, ErrorClass::kCancelled);
}

// A frame that comes slowly is life, though no message comes of it.
TEST_P(FramingTest, APeerInTheMiddleOfAMessageIsAlive) {
  RawServer server;
  LinkOptions options = LineOptions(server);
  options.silence_max = 200ms;
  options.ping = "PING";
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  for (int i = 0; i < 12; ++i) {
    ASSERT_EQ(WriteAvailable(peer, "x"), 1u);
    const auto received = static_cast<std::uint64_t>(i) + 1;
    ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_received == received; }));
    EXPECT_TRUE(reactor().RunFor(50ms).ok());
  }
  EXPECT_TRUE(diary_.downs.empty());
  EXPECT_TRUE(lines_.empty());
}

// --- What the user does in on_message. The peer's bytes come in one piece.

TEST_P(FramingTest, APauseHoldsTheMessagesBehind) {
  RawServer server;
  LinkOptions options = LineOptions(server);
  options.on_message = [&](Link& link, std::span<const std::byte> line) {
    lines_.emplace_back(AsText(line));
    if (lines_.back() == "stop") link.PauseReceive();
    if (lines_.back() == "blink") {
      link.PauseReceive();
      link.ResumeReceive();
    }
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_EQ(WriteAvailable(peer, "blink\nstop\nb\nstop\nc\nhal"), 23u);
  ASSERT_TRUE(RunUntil([&] { return lines_.size() == 2; }));
  ASSERT_EQ(WriteAvailable(peer, "f\n"), 2u);
  EXPECT_TRUE(reactor().RunFor(10ms).ok());
  EXPECT_EQ(lines_, (Lines{"blink", "stop"}));
  link->ResumeReceive();
  EXPECT_EQ(lines_.size(), 2u);  // Not inside the call.
  ASSERT_TRUE(RunUntil([&] { return lines_.size() == 4; }));
  EXPECT_TRUE(reactor().RunFor(10ms).ok());
  EXPECT_EQ(lines_, (Lines{"blink", "stop", "b", "stop"}));
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return lines_.size() == 6; }));
  EXPECT_EQ(lines_, (Lines{"blink", "stop", "b", "stop", "c", "half"}));
}

TEST_P(FramingTest, APauseBehindTheLastMessageHoldsWhatIsStillToCome) {
  RawServer server;
  LinkOptions options = LineOptions(server);
  options.on_message = [&](Link& link, std::span<const std::byte> line) {
    lines_.emplace_back(AsText(line));
    link.PauseReceive();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_EQ(WriteAvailable(peer, "a\n"), 2u);
  ASSERT_TRUE(RunUntil([&] { return lines_.size() == 1; }));
  ASSERT_EQ(WriteAvailable(peer, "b\n"), 2u);
  EXPECT_TRUE(reactor().RunFor(10ms).ok());
  EXPECT_EQ(lines_, Lines{"a"});
  link->ResumeReceive();
  ASSERT_TRUE(RunUntil([&] { return lines_.size() == 2; }));
  EXPECT_EQ(lines_, (Lines{"a", "b"}));
}

TEST_P(FramingTest, TheEndOfThePeerWaitsBehindTheMessagesThatAreHeld) {
  RawServer server;
  LinkOptions options = LineOptions(server);
  options.on_message = [&](Link& link, std::span<const std::byte> line) {
    lines_.emplace_back(AsText(line));
    link.PauseReceive();
  };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  ASSERT_EQ(WriteAvailable(peer, "a\nb\nc\n"), 6u);
  peer.Reset();
  for (std::size_t count = 1; count <= 3; ++count) {
    ASSERT_TRUE(RunUntil([&] { return lines_.size() == count; }));
    EXPECT_TRUE(diary_.downs.empty());
    link->ResumeReceive();
  }
  ASSERT_TRUE(RunUntilDowns(1));
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kEof);
}

TEST_P(FramingTest, NothingIsToldBehindADropOrTheEndOfTheHandle) {
  for (const bool destroy : {false, true}) {
    diary_ = {};
    lines_.clear();
    RawServer server;
    std::unique_ptr<Link> link;
    LinkOptions options = LineOptions(server);
    options.on_message = [&](Link& self, std::span<const std::byte> line) {
      lines_.emplace_back(AsText(line));
      if (lines_.back() != "b") return;
      if (destroy) {
        link.reset();
      } else {
        self.Drop(Error::Protocol());
      }
    };
    Fd peer;
    link = MakeUp(server, peer, std::move(options));
    ASSERT_EQ(WriteAvailable(peer, "a\nb\nc\n"), 6u);
    ASSERT_TRUE(RunUntil([&] { return lines_.size() == 2; }));
    EXPECT_TRUE(reactor().RunFor(10ms).ok());
    EXPECT_EQ(lines_, (Lines{"a", "b"}));
    EXPECT_EQ(link == nullptr, destroy);
  }
}

// The same from a message that came in parts, whose view is of the link's own memory.
TEST_P(FramingTest, TheHandleMayEndInAMessageThatCameInParts) {
  RawServer server;
  std::unique_ptr<Link> link;
  LinkOptions options = LineOptions(server);
  options.on_message = [&](Link&, std::span<const std::byte> line) {
    link.reset();
    lines_.emplace_back(AsText(line));
  };
  Fd peer;
  link = MakeUp(server, peer, std::move(options));
  ASSERT_EQ(WriteAvailable(peer, "in pa"), 5u);
  ASSERT_TRUE(RunUntil([&] { return link->stats().bytes_received == 5; }));
  ASSERT_EQ(WriteAvailable(peer, "rts\n"), 4u);
  ASSERT_TRUE(RunUntil([&] { return !lines_.empty(); }));
  EXPECT_EQ(lines_, Lines{"in parts"});
}

// --- Streams.

class StreamFramingTest : public StreamFixture {};
HOLDFAST_FOR_BOTH_BACKENDS(StreamFramingTest);

TEST_P(StreamFramingTest, AStreamIsToldWholeMessagesAndMayAnswerEach) {
  StreamDiary diary;
  StreamOptions options;
  options.framing = LengthPrefix{2, std::endian::little, 10};
  options.on_message = [&](Stream& stream, std::span<const std::byte> message) {
    diary.Write("message");
    EXPECT_EQ(stream.Send(message), SendStatus::kQueued);
  };
  options.on_closed = [&](Stream&, const StreamClosed& closed) {
    diary.Write("closed");
    diary.closed = closed;
    ++diary.closes;
  };
  Ends ends = MakeEnds();
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
  ASSERT_EQ(WriteAvailable(ends.peer, std::string("\3\0one\0\0\5\0thr", 12)), 12u);
  EXPECT_EQ(ReadFrom(ends.peer, 3), "one");
  ASSERT_EQ(WriteAvailable(ends.peer, "ee"), 2u);
  EXPECT_EQ(ReadFrom(ends.peer, 5), "three");
  EXPECT_EQ(diary.Text(), "message message message");
  ASSERT_EQ(WriteAvailable(ends.peer, std::string("\13\0", 2)), 2u);
  ASSERT_TRUE(RunUntil([&] { return diary.closes == 1; }));
  EXPECT_EQ(diary.closed.error.error_class, ErrorClass::kProtocol);
  EXPECT_EQ(diary.closed.error.ToString(), "receive: Message too long (EMSGSIZE)");
}

TEST_P(StreamFramingTest, APauseWhileItClosesDropsTheMessagesBehind) {
  std::vector<std::string> lines;
  std::optional<StreamClosed> end;
  StreamOptions options;
  options.framing = Delimiter{};
  options.on_message = [&](Stream& stream, std::span<const std::byte> line) {
    lines.emplace_back(AsText(line));
    stream.PauseReceive();
  };
  options.on_closed = [&](Stream&, const StreamClosed& closed) { end = closed; };
  Ends ends = MakeEnds();
  ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
  ends.stream->Close(1h);
  ASSERT_EQ(WriteAvailable(ends.peer, "a\nb\nc\n"), 6u);
  ASSERT_EQ(::shutdown(ends.peer.get(), SHUT_WR), 0);
  ASSERT_TRUE(RunUntil([&] { return end.has_value(); }));
  EXPECT_EQ(lines, std::vector<std::string>{"a"});
  EXPECT_EQ(end->bytes_received, 6u);
  EXPECT_EQ(end->error.error_class, ErrorClass::kCancelled);
}

// --- Options.

std::string Complaint(const StreamOptions& options) {
  return std::string(ValidateStreamOptions(options).message());
}

TEST(FramingOptionsTest, WhatCannotBeMeantIsRefused) {
  struct Case {
    Framing framing;
    std::string_view says;
  };
  const std::vector<Case> cases = {
      {Delimiter{'\n', 0}, "framing = Delimiter: max of at least 1 byte"},
      {LengthPrefix{0, std::endian::big, 10}, "framing = LengthPrefix: width of 1 to 8 bytes"},
      {LengthPrefix{9, std::endian::big, 10}, "framing = LengthPrefix: width of 1 to 8 bytes"},
      {LengthPrefix{4, std::endian::big, 0}, "framing = LengthPrefix: max of at least 1 byte"},
      {std::shared_ptr<const Framer>(), "framing = Framer: a Framer, not nullptr"},
  };
  for (const Case& refused : cases) {
    StreamOptions options;
    options.framing = refused.framing;
    EXPECT_EQ(Complaint(options), "StreamOptions." + std::string(refused.says));
  }
  StreamOptions options;
  options.on_message = [](Stream&, std::span<const std::byte>) {};
  EXPECT_EQ(Complaint(options), "StreamOptions.on_message = {...}: needs framing");
  options.framing = Delimiter{};
  EXPECT_TRUE(ValidateStreamOptions(options).ok());
  options.on_data = [](Stream&, std::span<const std::byte>) {};
  EXPECT_EQ(Complaint(options), "StreamOptions.on_data = {...}: with framing it is on_message");
}

}  // namespace
}  // namespace holdfast::test
