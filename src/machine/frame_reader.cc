#include "machine/frame_reader.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace holdfast::internal {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t kSizeMax = std::numeric_limits<std::size_t>::max();
// What is shown at least of a frame whose length is not known.
constexpr std::size_t kShownMin = 64;

constexpr std::size_t Add(std::size_t a, std::size_t b) noexcept {
  return b > kSizeMax - a ? kSizeMax : a + b;
}

FrameCut CutBy(const Delimiter& delimiter, Bytes bytes, std::size_t seen) noexcept {
  const void* const at = std::memchr(
      bytes.data() + seen, static_cast<unsigned char>(delimiter.byte), bytes.size() - seen);
  if (at == nullptr) return FrameCut::More();
  const auto end = static_cast<std::size_t>(static_cast<const std::byte*>(at) - bytes.data());
  return FrameCut::Frame(end + 1, 0, end);
}

FrameCut CutBy(const LengthPrefix& prefix, Bytes bytes) noexcept {
  if (bytes.size() < prefix.width) return FrameCut::More(prefix.width);
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < prefix.width; ++i) {
    const std::size_t at = prefix.order == std::endian::big ? i : prefix.width - 1 - i;
    length = length << 8 | std::to_integer<std::uint64_t>(bytes[at]);
  }
  const std::size_t size = Add(prefix.width, length);
  return size > bytes.size() ? FrameCut::More(size) : FrameCut::Frame(size, prefix.width, size);
}

FrameCut Cut(const Framing& framing, Bytes bytes, std::size_t seen) noexcept {
  if (const auto* delimiter = std::get_if<Delimiter>(&framing))
    return CutBy(*delimiter, bytes, seen);
  if (const auto* prefix = std::get_if<LengthPrefix>(&framing)) return CutBy(*prefix, bytes);
  const FrameCut cut = (*std::get_if<std::shared_ptr<const Framer>>(&framing))->Cut(bytes, seen);
  const bool sound = cut.kind() != FrameCut::Kind::kFrame ||
                     (cut.begin() <= cut.end() && cut.end() <= cut.size() &&
                      cut.size() <= bytes.size() && cut.size() > seen);
  return sound ? cut : FrameCut::Malformed();
}

// Of a whole frame; less than what no frame can have (kSizeMax).
std::size_t MaxOf(const Framing& framing) noexcept {
  if (const auto* delimiter = std::get_if<Delimiter>(&framing)) {
    return std::min(Add(delimiter->max, 1), kSizeMax - 1);
  }
  if (const auto* prefix = std::get_if<LengthPrefix>(&framing)) {
    return std::min(Add(prefix->max, prefix->width), kSizeMax - 1);
  }
  return (*std::get_if<std::shared_ptr<const Framer>>(&framing))->max();
}

}  // namespace

FrameReader::Next FrameReader::Read(const Framing& framing, Bytes& bytes) noexcept {
  if (stage_ == Stage::kTold) Reset();  // The message in parts_ is not looked at any more.
  if (stage_ == Stage::kOver) bytes = {};
  if (bytes.empty()) return {};
  return parts_.empty() ? ReadWhole(framing, bytes) : ReadOn(framing, bytes);
}

FrameReader::Next FrameReader::End(Found why) noexcept {
  parts_ = {};
  stage_ = Stage::kOver;
  return {.found = why};
}

// What the framing says, held against the limits.
FrameReader::Next FrameReader::Take(const FrameCut& cut, Bytes shown, std::size_t max) noexcept {
  if (cut.kind() == FrameCut::Kind::kMalformed) return End(Found::kMalformed);
  if (cut.kind() == FrameCut::Kind::kFrame) {
    if (cut.size() > max) return End(Found::kTooLong);
    return {Found::kMessage, shown.subspan(cut.begin(), cut.end() - cut.begin())};
  }
  needed_ = std::max(cut.size(), shown.size() + 1);
  return needed_ > max ? End(Found::kTooLong) : Next{};
}

FrameReader::Next FrameReader::ReadWhole(const Framing& framing, Bytes& bytes) noexcept {
  const FrameCut cut = Cut(framing, bytes, 0);
  const Next next = Take(cut, bytes, MaxOf(framing));
  if (next.found == Found::kMessage) {
    bytes = bytes.subspan(cut.size());
  } else if (next.found == Found::kMore) {
    if (!parts_.TryAppend(bytes)) return End(Found::kNoMemory);
    bytes = {};
  }
  return next;
}

FrameReader::Next FrameReader::ReadOn(const Framing& framing, Bytes& bytes) noexcept {
  while (!bytes.empty()) {
    const std::size_t seen = parts_.size();
    const std::size_t missing = needed_ - seen;
    const std::size_t wanted =
        missing > 1 ? missing : std::min(std::max(seen, kShownMin), MaxOf(framing) - seen);
    const std::size_t taken = std::min(wanted, bytes.size());
    if (!parts_.TryAppend(bytes.first(taken))) return End(Found::kNoMemory);
    if (parts_.size() < needed_) {
      bytes = {};
      break;
    }
    const Bytes shown(parts_.data(), parts_.size());
    const FrameCut cut = Cut(framing, shown, seen);
    const Next next = Take(cut, shown, MaxOf(framing));
    if (next.found == Found::kMore) {
      bytes = bytes.subspan(taken);
      continue;
    }
    if (next.found == Found::kMessage) {
      bytes = bytes.subspan(cut.size() - seen);
      stage_ = Stage::kTold;
    }
    return next;
  }
  return {};
}

}  // namespace holdfast::internal
