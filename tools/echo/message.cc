#include "echo/message.h"

#include <endian.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace holdfast::echo {
namespace {

constexpr std::string_view kMagic = "HFE1";
constexpr std::size_t kKindAt = 4;
constexpr std::size_t kLengthAt = 8;
constexpr std::size_t kLinkAt = 12;
constexpr std::size_t kSequenceAt = 16;
constexpr std::size_t kChecksumAt = 24;

constexpr std::uint64_t kHashPrime = 1099511628211u;

std::uint64_t Mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * kHashPrime;
  return hash ^ (hash >> 32);
}

template <typename T>
void Put(unsigned char* at, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<unsigned char>(value >> (8 * i));
}

template <typename T>
T Get(const unsigned char* at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{at[i]} << (8 * i);
  return static_cast<T>(value);
}

}  // namespace

void Checksum::Add(const unsigned char* bytes, std::size_t size) {
  std::size_t i = 0;
  while (i < size) {
    if (filled_ == 0 && size - i >= sizeof(word_)) {
      std::uint64_t word;
      std::memcpy(&word, bytes + i, sizeof(word));
      hash_ = Mix(hash_, le64toh(word));
      i += sizeof(word_);
      continue;
    }
    word_ |= std::uint64_t{bytes[i++]} << filled_;
    filled_ += 8;
    if (filled_ < 64) continue;
    hash_ = Mix(hash_, word_);
    word_ = filled_ = 0;
  }
}

std::uint64_t Checksum::value() const { return filled_ == 0 ? hash_ : Mix(hash_, word_); }

void Encode(const Message& message, std::string& out) {
  const std::size_t length = kHeaderBytes + message.payload.size();
  HOLDFAST_CHECK(length <= kMessageBytesMax);
  out.resize(length);
  auto* const bytes = reinterpret_cast<unsigned char*>(out.data());
  std::memset(bytes, 0, kHeaderBytes);
  std::memcpy(bytes, kMagic.data(), kMagic.size());
  Put(bytes + kKindAt, static_cast<std::uint16_t>(message.kind));
  Put(bytes + kLengthAt, static_cast<std::uint32_t>(length));
  Put(bytes + kLinkAt, message.link);
  Put(bytes + kSequenceAt, message.sequence);
  if (!message.payload.empty()) {
    std::memcpy(bytes + kHeaderBytes, message.payload.data(), message.payload.size());
  }
  Checksum checksum;
  checksum.Add(bytes, kChecksumAt);
  checksum.Add(bytes + kHeaderBytes, message.payload.size());
  Put(bytes + kChecksumAt, checksum.value());
}

void MessageReader::Reset() {
  have_ = 0;
  length_ = 0;
  garbage_ = false;
  payload_.clear();
}

bool MessageReader::ParseHeader() {
  const unsigned char* const header = header_.data();
  if (std::memcmp(header, kMagic.data(), kMagic.size()) != 0) return false;
  const auto kind = Get<std::uint16_t>(header + kKindAt);
  if (kind < 1 || kind > 3) return false;
  const auto length = Get<std::uint32_t>(header + kLengthAt);
  if (length < kHeaderBytes || length > kMessageBytesMax) return false;
  message_.kind = static_cast<MessageKind>(kind);
  message_.link = Get<std::uint32_t>(header + kLinkAt);
  message_.sequence = Get<std::uint64_t>(header + kSequenceAt);
  message_.payload = {};
  length_ = length;
  claimed_ = Get<std::uint64_t>(header + kChecksumAt);
  checksum_ = Checksum();
  checksum_.Add(header, kChecksumAt);
  payload_.clear();
  return true;
}

MessageReader::Found MessageReader::Read(std::span<const std::byte>& bytes) {
  while (!garbage_) {
    if (have_ < kHeaderBytes) {
      const std::size_t taken = std::min(kHeaderBytes - have_, bytes.size());
      if (taken > 0) std::memcpy(header_.data() + have_, bytes.data(), taken);
      bytes = bytes.subspan(taken);
      have_ += taken;
      if (have_ < kHeaderBytes) return Found::kMore;
      if (!ParseHeader()) break;
    }
    const std::size_t taken = std::min(length_ - have_, bytes.size());
    const auto* const data = reinterpret_cast<const unsigned char*>(bytes.data());
    checksum_.Add(data, taken);
    if (keep_ == Payload::kKeep) payload_.append(reinterpret_cast<const char*>(data), taken);
    bytes = bytes.subspan(taken);
    have_ += taken;
    if (have_ < length_) return Found::kMore;
    if (checksum_.value() != claimed_) break;
    have_ = 0;
    message_.payload = payload_;
    return Found::kMessage;
  }
  garbage_ = true;
  return Found::kGarbage;
}

}  // namespace holdfast::echo
