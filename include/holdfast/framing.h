// How a stream of bytes is cut into messages: on_message instead of on_data.
//
//   .framing    = holdfast::Delimiter{'\n', 64 << 10},
//   .on_message = [](holdfast::Link& l, std::span<const std::byte> message) { ... },
//
// A message is what stands between the marks of its frame, without them. It is a view of the bytes where
// they were received, or of a copy where they came in parts; it dies with the call. A frame that is longer
// than its maximum, or malformed, ends the connection with ErrorClass::kProtocol, operation kReceive, code
// EMSGSIZE or EBADMSG: known from its first bytes, before they are stored. Memory grows with what has
// arrived of a frame, never with what the peer says is to come. What a connection that ends leaves of a
// frame is dropped. Send frames nothing: the marks are the sender's to write.
//
// Values, shared by any number of connections; any thread.
#ifndef HOLDFAST_FRAMING_H_
#define HOLDFAST_FRAMING_H_

#include <bit>
#include <cstddef>
#include <memory>
#include <span>
#include <variant>

namespace holdfast {

// A message ends with `byte`: lines, NUL-terminated texts, FIX's last field. Two of them in a row are an
// empty message.
struct Delimiter {
  char byte = '\n';
  std::size_t max = 64 << 10;  // Of a message, in bytes, without the delimiter; >= 1.
};

// A message stands behind its length: an unsigned number of `width` bytes, which does not count itself. A
// length of 0 is an empty message.
struct LengthPrefix {
  std::size_t width = 4;  // In bytes, 1 to 8.
  std::endian order = std::endian::big;
  std::size_t max = 64 << 10;  // Of a message, in bytes, without its length; >= 1.
};

// What a Framer sees in the bytes that it is shown.
class FrameCut {
 public:
  enum class Kind : unsigned char { kMore, kFrame, kMalformed };

  // The frame is not all here. It has `at_least` bytes in all, if that is known: then it is shown again
  // when they have come.
  [[nodiscard]] static constexpr FrameCut More(std::size_t at_least = 0) noexcept {
    return {Kind::kMore, at_least, 0, 0};
  }
  // The frame is the first `size` bytes, and the message in it [begin, end) of them. Requires:
  // begin <= end <= size <= bytes shown, and seen < size.
  [[nodiscard]] static constexpr FrameCut Frame(std::size_t size, std::size_t begin,
                                                std::size_t end) noexcept {
    return {Kind::kFrame, size, begin, end};
  }
  // These bytes begin no frame.
  [[nodiscard]] static constexpr FrameCut Malformed() noexcept {
    return {Kind::kMalformed, 0, 0, 0};
  }

  [[nodiscard]] constexpr Kind kind() const noexcept { return kind_; }
  [[nodiscard]] constexpr std::size_t size() const noexcept { return size_; }
  [[nodiscard]] constexpr std::size_t begin() const noexcept { return begin_; }
  [[nodiscard]] constexpr std::size_t end() const noexcept { return end_; }

 private:
  constexpr FrameCut(Kind kind, std::size_t size, std::size_t begin, std::size_t end) noexcept
      : kind_(kind), size_(size), begin_(begin), end_(end) {}
  Kind kind_;
  std::size_t size_;
  std::size_t begin_;
  std::size_t end_;
};

// A framing of your own. It keeps no state, since many connections share it.
class Framer {
 public:
  virtual ~Framer() = default;
  // `bytes` are what is here from the start of a frame on, never none, sometimes with bytes of the next
  // one behind; the first `seen` of them were shown before, and the answer was More. An answer that breaks
  // what Frame requires counts as Malformed.
  [[nodiscard]] virtual FrameCut Cut(std::span<const std::byte> bytes,
                                     std::size_t seen) const noexcept = 0;
  // The longest frame, in bytes, all of it; > 0, and always the same.
  [[nodiscard]] virtual std::size_t max() const noexcept = 0;
};

// None: bytes come to on_data as they are received.
using Framing =
    std::variant<std::monostate, Delimiter, LengthPrefix, std::shared_ptr<const Framer>>;

}  // namespace holdfast

#endif  // HOLDFAST_FRAMING_H_
