#include "echo/message.h"

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/seed.h"

namespace holdfast::echo {
namespace {

using Found = MessageReader::Found;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string Wire(const Message& message) {
  std::string out;
  Encode(message, out);
  return out;
}

TEST(MessageTest, IsAHeaderOf32BytesAndItsPayload) {
  EXPECT_EQ(Wire({.payload = ""}).size(), 32u);
  EXPECT_EQ(Wire({.payload = "abc"}).size(), 35u);
  EXPECT_EQ(Wire({.payload = "abc"}).substr(32), "abc");
}

// The layout and the checksum as message.h states them, worked out apart from the code.
TEST(MessageTest, LooksOnTheWireAsDescribed) {
  const std::string wire = Wire(
      {.kind = MessageKind::kLine, .link = 0x01020304, .sequence = 0x1122334455, .payload = "hi"});
  const std::string head(
      "HFE1\x02\x00\x00\x00\x22\x00\x00\x00\x04\x03\x02\x01\x55\x44\x33\x22\x11\x00\x00\x00", 24);
  ASSERT_EQ(wire.size(), 34u);
  EXPECT_EQ(wire.substr(0, 24), head);
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned long long word :
       {0x0000000231454648ull, 0x0102030400000022ull, 0x0000001122334455ull, 0x6968ull}) {
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 32;
  }
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(static_cast<unsigned char>(wire[24 + i]), (hash >> (8 * i)) & 0xff) << i;
  }
}

TEST(MessageReaderTest, FindsMessagesWhereverTheStreamIsCut) {
  std::mt19937_64 random(internal::PrintedSeed());
  std::string stream;
  std::vector<std::string> payloads;
  for (std::uint64_t i = 0; i < 200; ++i) {
    payloads.emplace_back(random() % 300, static_cast<char>('a' + i % 26));
    stream += Wire(
        {.link = static_cast<std::uint32_t>(i % 7), .sequence = i + 1, .payload = payloads.back()});
  }
  for (const std::size_t cut_max : {1u, 2u, 31u, 33u, 1000u, 100'000u}) {
    MessageReader reader(MessageReader::Payload::kKeep);
    std::uint64_t found = 0;
    for (std::size_t at = 0; at < stream.size();) {
      const std::string cut = stream.substr(at, 1 + random() % cut_max);
      at += cut.size();
      std::span<const std::byte> bytes = Bytes(cut);
      while (reader.Read(bytes) == Found::kMessage) {
        ASSERT_LT(found, payloads.size());
        EXPECT_EQ(reader.message().sequence, found + 1);
        EXPECT_EQ(reader.message().link, found % 7);
        EXPECT_EQ(reader.message().payload, payloads[found]);
        ++found;
      }
      EXPECT_TRUE(bytes.empty());
    }
    EXPECT_EQ(found, payloads.size()) << "cut_max " << cut_max;
  }
}

TEST(MessageReaderTest, CallsEveryChangedBitGarbage) {
  const std::string good = Wire({.link = 3, .sequence = 99, .payload = "payload"});
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    // More bytes follow, in case the change made the message longer.
    bad.append(2 * kMessageBytesMax, 'x');
    MessageReader reader;
    std::span<const std::byte> bytes = Bytes(bad);
    EXPECT_EQ(reader.Read(bytes), Found::kGarbage) << "bit " << bit;
  }
}

TEST(MessageReaderTest, StaysAtGarbageUntilReset) {
  MessageReader reader;
  const std::string bad(32, 'x');
  const std::string good = Wire({.sequence = 5});
  std::span<const std::byte> bytes = Bytes(bad);
  EXPECT_EQ(reader.Read(bytes), Found::kGarbage);
  bytes = Bytes(good);
  EXPECT_EQ(reader.Read(bytes), Found::kGarbage);
  reader.Reset();
  bytes = Bytes(good);
  EXPECT_EQ(reader.Read(bytes), Found::kMessage);
  EXPECT_EQ(reader.message().sequence, 5u);
}

TEST(MessageReaderTest, TakesTheLargestMessageAndRefusesALengthBeyondIt) {
  const std::string largest(kMessageBytesMax - kHeaderBytes, 'p');
  std::string wire = Wire({.payload = largest});
  MessageReader reader;
  std::span<const std::byte> bytes = Bytes(wire);
  EXPECT_EQ(reader.Read(bytes), Found::kMessage);
  // One more in the length field, kMessageBytesMax + 1; the header alone decides.
  wire.resize(kHeaderBytes);
  wire[8] = 1;
  bytes = Bytes(wire);
  EXPECT_EQ(reader.Read(bytes), Found::kGarbage);
}

}  // namespace
}  // namespace holdfast::echo
