// What the echo pair says on the wire: messages that can be told apart, so that loss, order and
// duplication are seen and not assumed.
//
//   offset  size
//        0     4  magic "HFE1"
//        4     2  kind (MessageKind)
//        6     2  zero
//        8     4  length of the whole message in bytes, header included
//       12     4  link, 0-based
//       16     8  sequence, Link::Send's own
//       24     8  checksum over bytes 0 to 23 and the payload
//       32        payload
//
// Numbers are little endian. The checksum takes 8 bytes at a time, because it is most of what the pair
// does besides waiting: from FNV's 64-bit basis, for each word of the header and then of the payload,
// whose last one is filled up with zeros, h = (h ^ word) * FNV's prime; h ^= h >> 32. The server echoes bytes and need not understand any of this; it reads it
// only for its log. A text format was rejected: a payload would have to be escaped to be found again.
#ifndef HOLDFAST_TOOLS_ECHO_MESSAGE_H_
#define HOLDFAST_TOOLS_ECHO_MESSAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace holdfast::echo {

inline constexpr std::size_t kHeaderBytes = 32;
// Of a whole message. A length beyond it is garbage, so no peer can make a reader wait for ever.
inline constexpr std::size_t kMessageBytesMax = 1 << 20;

enum class MessageKind : std::uint16_t {
  kLoad = 1,  // Made up, padded to --size.
  kLine = 2,  // A line of standard input.
  kPing = 3,  // Proves that the peer lives; no account mentions it.
};

struct Message {
  MessageKind kind = MessageKind::kLoad;
  std::uint32_t link = 0;
  std::uint64_t sequence = 0;
  // Filled by a reader that keeps payloads, until its next Read.
  std::string_view payload = {};
};

// Replaces `out` by the message on the wire; allocates only while `out` is too small.
// Requires: kHeaderBytes + payload <= kMessageBytesMax.
void Encode(const Message& message, std::string& out);

// The checksum of bytes that come in pieces.
class Checksum {
 public:
  void Add(const unsigned char* bytes, std::size_t size);
  // Of all that was added so far.
  [[nodiscard]] std::uint64_t value() const;

 private:
  // FNV-1a, draft-eastlake-fnv: small, and good enough to notice bytes out of place.
  std::uint64_t hash_ = 14695981039346656037u;
  std::uint64_t word_ = 0;  // What is not yet a whole word,
  unsigned filled_ = 0;     // and of how many bits.
};

// Finds the messages in a stream of bytes, wherever it is cut. Memory: a header, and, when it keeps
// payloads, the payload bytes that really arrived; never what a length claims.
class MessageReader {
 public:
  enum class Found {
    kMessage,  // message() is whole and its checksum right.
    kMore,     // All bytes are used up.
    kGarbage,  // Not one of ours: wrong magic, length or checksum. Final until Reset.
  };
  enum class Payload { kSkip, kKeep };

  explicit MessageReader(Payload payload = Payload::kSkip) : keep_(payload) {}

  // Takes from the front of `bytes` up to the end of the next message.
  Found Read(std::span<const std::byte>& bytes);
  [[nodiscard]] const Message& message() const { return message_; }
  // A new connection begins.
  void Reset();

 private:
  bool ParseHeader();

  Payload keep_;
  std::array<unsigned char, kHeaderBytes> header_{};
  std::size_t have_ = 0;       // Bytes of the current message, header included.
  std::size_t length_ = 0;     // Of the current message; 0 while its header is not whole.
  std::uint64_t claimed_ = 0;  // The checksum, as the header says,
  Checksum checksum_;          // and as it is.
  bool garbage_ = false;       // True from the first byte that could not be ours until Reset.
  std::string payload_;
  Message message_;
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_MESSAGE_H_
