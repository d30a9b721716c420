// When it is worth asking the kernel how much is acknowledged.
#ifndef HOLDFAST_MACHINE_TRIM_POLICY_H_
#define HOLDFAST_MACHINE_TRIM_POLICY_H_

#include <cstddef>

namespace holdfast::internal {

// Acknowledged bytes and messages are not to be held for long: so after every 64 KiB written and after
// every 256 messages. One SIOCOUTQ costs as much as a third of a send, so asking after each of them was
// rejected. What the last of these leaves is asked for by the connection: once a second while it sends
// nothing, until all is acknowledged.
class TrimPolicy {
 public:
  // The kernel took `bytes`.
  void OnWritten(std::size_t bytes) noexcept { bytes_ += bytes; }
  // A message was accepted.
  void OnMessage() noexcept { ++messages_; }
  [[nodiscard]] bool due() const noexcept {
    return bytes_ >= kBytesMax || messages_ >= kMessagesMax;
  }
  // The kernel was asked, or the session ended.
  void Reset() noexcept { bytes_ = messages_ = 0; }

 private:
  static constexpr std::size_t kBytesMax = 64 * 1024;
  static constexpr std::size_t kMessagesMax = 256;

  std::size_t bytes_ = 0;
  std::size_t messages_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_TRIM_POLICY_H_
