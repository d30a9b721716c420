#include "machine/frame_reader.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

using Found = FrameReader::Found;

std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A type, a length and so many bytes; a type of '!' begins no frame.
class Tagged : public Framer {
 public:
  explicit Tagged(std::size_t max) : max_(max) {}
  FrameCut Cut(std::span<const std::byte> bytes, std::size_t seen) const noexcept override {
    shown += bytes.size() - seen;
    if (bytes[0] == std::byte{'!'}) return FrameCut::Malformed();
    if (bytes.size() < 2) return FrameCut::More();
    const std::size_t size = 2 + std::to_integer<std::size_t>(bytes[1]);
    return size > bytes.size() ? FrameCut::More(size) : FrameCut::Frame(size, 2, size);
  }
  std::size_t max() const noexcept override { return max_; }
  mutable std::size_t shown = 0;  // Bytes that were new to it.

 private:
  const std::size_t max_;
};

// Says what it is told to say, whatever it sees.
class Scripted : public Framer {
 public:
  explicit Scripted(FrameCut cut) : cut_(cut) {}
  FrameCut Cut(std::span<const std::byte>, std::size_t) const noexcept override { return cut_; }
  std::size_t max() const noexcept override { return 100; }

 private:
  const FrameCut cut_;
};

struct Story {
  std::vector<std::string> messages;
  Found end = Found::kMore;
  bool operator==(const Story&) const = default;
};

// Gives it `text` in parts, each of a size that `part_size` says.
template <class PartSize>
Story ReadAll(const Framing& framing, std::string_view text, PartSize part_size) {
  FrameReader reader;
  Story story;
  while (!text.empty() && story.end == Found::kMore) {
    const std::string part(text.substr(0, part_size()));  // Of its own: a view of it shows if kept.
    text.remove_prefix(part.size());
    std::span<const std::byte> bytes = AsBytes(part);
    for (;;) {
      const FrameReader::Next next = reader.Read(framing, bytes);
      if (next.found != Found::kMessage) {
        story.end = next.found;
        break;
      }
      story.messages.push_back(AsText(next.message));
    }
  }
  return story;
}

Story ReadAtOnce(const Framing& framing, std::string_view text) {
  return ReadAll(framing, text, [&] { return text.size(); });
}

Story ReadByteByByte(const Framing& framing, std::string_view text) {
  return ReadAll(framing, text, [] { return std::size_t{1}; });
}

std::string Prefixed(std::string_view message, std::size_t width, std::endian order) {
  std::string prefix;
  for (std::size_t i = 0; i < width; ++i) {
    const std::size_t at = order == std::endian::big ? width - 1 - i : i;
    prefix += static_cast<char>(at < 8 ? message.size() >> (8 * at) : 0);
  }
  return prefix + std::string(message);
}

TEST(FrameReaderTest, ADelimiterEndsAMessageAndIsNoPartOfIt) {
  const Story expected = {{"one", "", "three"}, Found::kMore};
  EXPECT_EQ(ReadAtOnce(Delimiter{'\n', 5}, "one\n\nthree\nfo"), expected);
  EXPECT_EQ(ReadByteByByte(Delimiter{'\n', 5}, "one\n\nthree\nfo"), expected);
  // Bytes above 127 are delimiters like any other.
  EXPECT_EQ(ReadAtOnce(Delimiter{'\xff', 5}, "a\xff"), (Story{{"a"}, Found::kMore}));
}

TEST(FrameReaderTest, ALengthStandsBeforeItsMessageInEitherOrder) {
  for (const std::endian order : {std::endian::big, std::endian::little}) {
    for (std::size_t width = 1; width <= 8; ++width) {
      const std::string text = Prefixed("one", width, order) + Prefixed("", width, order) +
                               Prefixed("three", width, order);
      const Framing framing = LengthPrefix{width, order, 5};
      const Story expected = {{"one", "", "three"}, Found::kMore};
      EXPECT_EQ(ReadAtOnce(framing, text + "\0"), expected) << width;
      EXPECT_EQ(ReadByteByByte(framing, text), expected) << width;
    }
  }
  // Two bytes of which both count.
  const Story one = ReadAtOnce(LengthPrefix{2, std::endian::big, 1000},
                               std::string("\x01\x02", 2) + std::string(0x0102, 'x'));
  EXPECT_EQ(one.messages, std::vector<std::string>{std::string(0x0102, 'x')});
}

TEST(FrameReaderTest, AFramerOfOnesOwnCutsAsItLikes) {
  const Framing framing = std::make_shared<Tagged>(100);
  const std::string text("a\3onea\0b\5three", 14);
  const Story expected = {{"one", "", "three"}, Found::kMore};
  EXPECT_EQ(ReadAtOnce(framing, text), expected);
  EXPECT_EQ(ReadByteByByte(framing, text), expected);
  EXPECT_EQ(ReadAtOnce(framing, "a\1x!more"), (Story{{"x"}, Found::kMalformed}));
  EXPECT_EQ(ReadByteByByte(framing, "a\1x!more"), (Story{{"x"}, Found::kMalformed}));
}

TEST(FrameReaderTest, WhatAFramerMayNotSayCountsAsMalformed) {
  for (const FrameCut cut : {FrameCut::Frame(0, 0, 0), FrameCut::Frame(2, 2, 1),
                             FrameCut::Frame(2, 0, 3), FrameCut::Frame(5, 0, 5)}) {
    EXPECT_EQ(ReadAtOnce(std::make_shared<Scripted>(cut), "1234"), (Story{{}, Found::kMalformed}));
  }
  // A frame that was whole before, when it said that it was not.
  class Forgetful : public Framer {
   public:
    FrameCut Cut(std::span<const std::byte>, std::size_t seen) const noexcept override {
      return seen == 0 ? FrameCut::More() : FrameCut::Frame(1, 0, 1);
    }
    std::size_t max() const noexcept override { return 100; }
  };
  EXPECT_EQ(ReadByteByByte(std::make_shared<Forgetful>(), "1234"), (Story{{}, Found::kMalformed}));
}

TEST(FrameReaderTest, MoreMayBeLessThanThereIs) {
  // "At least one" of four bytes: shown again with the next.
  EXPECT_EQ(ReadByteByByte(std::make_shared<Scripted>(FrameCut::More(1)), "1234"),
            (Story{{}, Found::kMore}));
}

TEST(FrameReaderTest, AMessageInOnePieceIsNotCopied) {
  const std::string text = "first\nsecond\nthi";
  std::span<const std::byte> bytes = AsBytes(text);
  FrameReader reader;
  const Framing framing = Delimiter{'\n', 100};
  EXPECT_EQ(static_cast<const void*>(reader.Read(framing, bytes).message.data()), text.data());
  EXPECT_EQ(static_cast<const void*>(reader.Read(framing, bytes).message.data()), text.data() + 6);
  EXPECT_EQ(reader.memory(), 0u);
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMore);
  EXPECT_TRUE(bytes.empty());
  EXPECT_GT(reader.memory(), 0u);
}

TEST(FrameReaderTest, BetweenTwoMessagesNothingIsHeld) {
  FrameReader reader;
  const Framing framing = Delimiter{'\n', 100};
  std::span<const std::byte> bytes = AsBytes("fir");
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMore);
  bytes = AsBytes("st\nsecond\n");
  EXPECT_EQ(AsText(reader.Read(framing, bytes).message), "first");
  const auto second = reader.Read(framing, bytes);
  EXPECT_EQ(AsText(second.message), "second");
  EXPECT_EQ(reader.memory(), 0u);
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMore);
  EXPECT_EQ(reader.memory(), 0u);
}

TEST(FrameReaderTest, TheMaximumIsOfTheMessageAndExact) {
  const std::string at(10, 'x');
  const std::string above(11, 'x');
  const Story fits = {{at}, Found::kMore};
  const Story too_long = {{}, Found::kTooLong};
  for (const auto& read : {&ReadAtOnce, &ReadByteByByte}) {
    EXPECT_EQ(read(Delimiter{'\n', 10}, at + "\n"), fits);
    EXPECT_EQ(read(Delimiter{'\n', 10}, above + "\n"), too_long);
    EXPECT_EQ(read(Delimiter{'\n', 10}, above), too_long);  // Known without its end.
    EXPECT_EQ(read(Delimiter{'\n', 10}, at), (Story{{}, Found::kMore}));
    const Framing prefix = LengthPrefix{4, std::endian::big, 10};
    EXPECT_EQ(read(prefix, Prefixed(at, 4, std::endian::big)), fits);
    // Known from its length.
    EXPECT_EQ(read(prefix, Prefixed(above, 4, std::endian::big).substr(0, 4)), too_long);
    EXPECT_EQ(read(std::make_shared<Tagged>(12), "a\x0a" + at), fits);
    EXPECT_EQ(read(std::make_shared<Tagged>(12), "a\x0b"), too_long);
    // Whole, and known only then.
    EXPECT_EQ(read(std::make_shared<Tagged>(1), std::string("a\0", 2)), too_long);
  }
}

TEST(FrameReaderTest, NoLengthIsAddedOverTheEdge) {
  const std::string all_ones(8, '\xff');
  for (const std::size_t max : {std::size_t{1}, SIZE_MAX - 8, SIZE_MAX}) {
    const FailingNew no_memory(0);  // Nor is any asked for, but to keep what has come.
    EXPECT_EQ(ReadAtOnce(LengthPrefix{8, std::endian::big, max}, all_ones).end, Found::kTooLong);
  }
}

TEST(FrameReaderTest, MemoryGrowsWithWhatHasComeAndNotWithWhatIsClaimed) {
  const Framing framing = LengthPrefix{4, std::endian::big, 1 << 30};
  FrameReader reader;
  const std::string head("\x3f\xff\xff\xff", 4);  // A gigabyte.
  std::span<const std::byte> bytes = AsBytes(head);
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMore);
  EXPECT_LE(reader.memory(), 128u);
  const std::string part(1000, 'x');
  for (std::size_t come = 1004; come < 300'000; come += 1000) {
    bytes = AsBytes(part);
    ASSERT_EQ(reader.Read(framing, bytes).found, Found::kMore);
    ASSERT_LE(reader.memory(), 2 * come);
  }
}

TEST(FrameReaderTest, MemoryEndsAtTwiceTheMaximum) {
  const Framing framing = Delimiter{'\n', 1000};
  for (std::size_t part = 1; part < 400; part += 7) {
    FrameReader reader;
    const std::string text(part, 'x');
    Found found = Found::kMore;
    while (found == Found::kMore) {
      std::span<const std::byte> bytes = AsBytes(text);
      found = reader.Read(framing, bytes).found;
      ASSERT_LE(reader.memory(), 2002u);
    }
    EXPECT_EQ(found, Found::kTooLong);
    EXPECT_EQ(reader.memory(), 0u);
  }
}

// In whatever parts: a framing looks at each byte a few times, not once for each part.
TEST(FrameReaderTest, ALongMessageInManyPartsIsNotLookedAtOverAndOver) {
  class ToTheEnd : public Framer {
   public:
    FrameCut Cut(std::span<const std::byte> bytes, std::size_t seen) const noexcept override {
      ++calls;
      shown += bytes.size() - seen;
      for (std::size_t i = seen; i < bytes.size(); ++i) {
        if (bytes[i] == std::byte{'.'}) return FrameCut::Frame(i + 1, 0, i);
      }
      return FrameCut::More();
    }
    std::size_t max() const noexcept override { return 1 << 20; }
    mutable std::size_t calls = 0;
    mutable std::size_t shown = 0;
  };
  const auto framer = std::make_shared<ToTheEnd>();
  const std::string text = std::string(100'000, 'x') + '.';
  EXPECT_EQ(ReadAll(framer, text, [] { return std::size_t{16}; }).messages.size(), 1u);
  EXPECT_LE(framer->shown, 2 * text.size());
  EXPECT_LE(framer->calls, text.size() / 16 + 2);
  // Where the length is known it is asked twice, whatever the parts.
  const auto tagged = std::make_shared<Tagged>(1000);
  const std::string known = "a\xc8" + std::string(200, 'x');
  EXPECT_EQ(ReadByteByByte(tagged, known).messages.size(), 1u);
  EXPECT_EQ(tagged->shown, 1u + 1u + 1u);  // 'a', its length, and the last byte of all.
}

TEST(FrameReaderTest, AfterTheEndEverythingIsDropped) {
  FrameReader reader;
  const Framing framing = Delimiter{'\n', 3};
  std::span<const std::byte> bytes = AsBytes("long line\nx\n");
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kTooLong);
  bytes = AsBytes("x\ny\n");
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMore);
  EXPECT_TRUE(bytes.empty());
  reader.Reset();
  bytes = AsBytes("x\n");
  EXPECT_EQ(reader.Read(framing, bytes).found, Found::kMessage);
}

TEST(FrameReaderTest, WithoutMemoryItSaysSo) {
  for (const std::size_t successes : {0u, 1u}) {
    FrameReader reader;
    const Framing framing = Delimiter{'\n', 1000};
    const FailingNew no_memory(successes);
    Found found = Found::kMore;
    for (int parts = 0; found == Found::kMore && parts < 10; ++parts) {
      std::span<const std::byte> bytes = AsBytes("part of a line");
      found = reader.Read(framing, bytes).found;
    }
    EXPECT_EQ(found, Found::kNoMemory);
    EXPECT_EQ(reader.memory(), 0u);
  }
}

TEST(FrameReaderTest, RandomMessagesInRandomPartsComeWhole) {
  std::mt19937_64 random(PrintedSeed());
  for (int round = 0; round < 2000; ++round) {
    const std::size_t max = 1 + random() % 400;
    Story expected;
    for (auto count = random() % 20; count > 0; --count) {
      expected.messages.emplace_back(random() % 3 == 0 ? max : random() % (max + 1), 'm');
    }
    const auto kind = random() % 3;
    const std::endian order = random() % 2 == 0 ? std::endian::big : std::endian::little;
    const std::size_t width = 2 + random() % 7;
    std::string text;
    for (std::string& message : expected.messages) {
      if (kind == 2 && message.size() > 255) message.resize(255);
      for (char& c : message) c = static_cast<char>('a' + random() % 26);
      if (kind == 0) text += message + '\n';
      if (kind == 1) text += Prefixed(message, width, order);
      if (kind == 2) text += std::string("t") + static_cast<char>(message.size()) + message;
    }
    const std::array<Framing, 3> framings = {Delimiter{'\n', max}, LengthPrefix{width, order, max},
                                             std::make_shared<Tagged>(max + 2)};
    const std::size_t part_max = 1 + random() % (random() % 2 == 0 ? 8 : 1000);
    const Story story =
        ReadAll(framings[kind], text, [&] { return std::size_t{1} + random() % part_max; });
    ASSERT_EQ(story, expected) << "round " << round << ", framing " << kind;
  }
}

}  // namespace
}  // namespace holdfast::internal
