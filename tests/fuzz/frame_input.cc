#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/framing.h>
#include "fuzz/text_input.h"
#include "machine/frame_reader.h"

namespace holdfast::fuzz {
namespace {

using Found = internal::FrameReader::Found;

struct Story {
  std::vector<std::string> messages;
  Found end = Found::kMore;
  bool operator==(const Story&) const = default;
};

enum class Kind { kDelimiter, kBig, kLittle, kOwn };

struct Input {
  Kind kind = Kind::kDelimiter;
  std::size_t max = 1;  // Of a message.
  std::size_t width = 1;
  unsigned char delimiter = 0;
  std::uint32_t parts = 0;  // What the sizes of the parts are drawn from.
  std::string_view text;
};

constexpr std::size_t kHead = 5;

std::optional<Input> ReadInput(std::string_view text) {
  if (text.size() < kHead) return std::nullopt;
  const auto byte = [&text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  return Input{.kind = static_cast<Kind>(byte(0) % 4),
               .max = byte(1) + std::size_t{1},
               .width = 1 + byte(2) % std::size_t{8},
               .delimiter = byte(3),
               .parts = byte(4),
               .text = text.substr(kHead)};
}

// '<', and all up to '>': anything else begins no frame.
class Angles : public Framer {
 public:
  explicit Angles(std::size_t max) : max_(max) {}
  FrameCut Cut(std::span<const std::byte> bytes, std::size_t seen) const noexcept override {
    if (bytes[0] != std::byte{'<'}) return FrameCut::Malformed();
    for (std::size_t i = seen; i < bytes.size(); ++i) {
      if (bytes[i] == std::byte{'>'}) return FrameCut::Frame(i + 1, 1, i);
    }
    return FrameCut::More();
  }
  std::size_t max() const noexcept override { return max_ + 2; }

 private:
  const std::size_t max_;
};

Framing MakeFraming(const Input& input) {
  switch (input.kind) {
    case Kind::kDelimiter:
      return Delimiter{static_cast<char>(input.delimiter), input.max};
    case Kind::kBig:
      return LengthPrefix{input.width, std::endian::big, input.max};
    case Kind::kLittle:
      return LengthPrefix{input.width, std::endian::little, input.max};
    case Kind::kOwn:
      break;
  }
  return std::make_shared<Angles>(input.max);
}

// --- What is to be found, by somebody who has all of the text.

// The next frame is `text` up to `end`, if that is there.
bool TakeUpTo(std::string_view& text, std::size_t end, std::size_t skip, const Input& input,
              Story& story) {
  const bool whole = end != std::string_view::npos;
  const std::size_t size = whole ? end - skip : text.size() - std::min(skip, text.size());
  if (size > input.max) {
    story.end = Found::kTooLong;
    return false;
  }
  if (!whole) return false;
  story.messages.emplace_back(text.substr(skip, size));
  text.remove_prefix(end + 1);
  return true;
}

bool TakePrefixed(std::string_view& text, const Input& input, Story& story) {
  if (text.size() < input.width) return false;
  // As a number of base 256 that stops growing where it is too long already.
  std::size_t length = 0;
  for (std::size_t i = 0; i < input.width; ++i) {
    const std::size_t at = input.kind == Kind::kBig ? i : input.width - 1 - i;
    length = std::min<std::size_t>(length * 256 + static_cast<unsigned char>(text[at]), 1 << 20);
  }
  if (length > input.max) {
    story.end = Found::kTooLong;
    return false;
  }
  if (text.size() < input.width + length) return false;
  story.messages.emplace_back(text.substr(input.width, length));
  text.remove_prefix(input.width + length);
  return true;
}

bool TakeOne(std::string_view& text, const Input& input, Story& story) {
  if (input.kind == Kind::kDelimiter) {
    return TakeUpTo(text, text.find(static_cast<char>(input.delimiter)), 0, input, story);
  }
  if (input.kind != Kind::kOwn) return TakePrefixed(text, input, story);
  if (text.front() == '<') return TakeUpTo(text, text.find('>'), 1, input, story);
  story.end = Found::kMalformed;
  return false;
}

Story Expected(const Input& input) {
  Story story;
  std::string_view text = input.text;
  while (!text.empty() && TakeOne(text, input, story)) continue;
  return story;
}

// --- What is found in parts.

std::string ReadInParts(const Input& input, Story& story) {
  internal::FrameReader reader;
  const Framing framing = MakeFraming(input);
  std::string_view text = input.text;
  std::uint32_t draw = input.parts;
  while (!text.empty()) {
    draw = draw * 1'664'525 + 1'013'904'223;
    // Of memory of its own: who looks behind its end, or after its life, is found out.
    const std::vector<char> part(
        text.begin(), text.begin() + std::min<std::size_t>(1 + (draw >> 24) % 97, text.size()));
    text.remove_prefix(part.size());
    std::span<const std::byte> bytes = std::as_bytes(std::span(part));
    for (;;) {
      const internal::FrameReader::Next next = reader.Read(framing, bytes);
      if (next.found != Found::kMessage) {
        if (!bytes.empty() && next.found == Found::kMore) return "bytes that were not taken";
        if (story.end == Found::kMore) story.end = next.found;
        break;
      }
      if (story.end != Found::kMore) return "a message behind the end";
      story.messages.emplace_back(reinterpret_cast<const char*>(next.message.data()),
                                  next.message.size());
      if (reader.memory() > 2 * (input.max + 8)) return "more memory than twice the maximum";
    }
    if (reader.memory() > 2 * (input.max + 8)) return "more memory than twice the maximum";
  }
  return "";
}

}  // namespace

std::string CheckFraming(std::string_view text) {
  const std::optional<Input> input = ReadInput(text);
  if (!input.has_value()) return "";
  const Story expected = Expected(*input);
  Story story;
  if (std::string broken = ReadInParts(*input, story); !broken.empty()) return broken;
  if (story.messages != expected.messages) {
    return std::to_string(story.messages.size()) + " messages, or others, instead of " +
           std::to_string(expected.messages.size());
  }
  return story.end == expected.end ? "" : "another end";
}

std::size_t CountMessages(std::string_view text) {
  const std::optional<Input> input = ReadInput(text);
  return input.has_value() ? Expected(*input).messages.size() : 0;
}

}  // namespace holdfast::fuzz
