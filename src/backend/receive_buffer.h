// The bytes that one backend receives into, one delivery at a time.
//
// A span given to OnReceive is dead after the callback. Nothing would show who keeps one all the
// same: the bytes stay, and are often even the right ones. So the buffer is poisoned for
// AddressSanitizer except while an `Open` of it is alive, from before the read to after the
// callback.
//
//   const ReceiveBuffer::Open open(buffer);
//   kernel.Recv(fd, open.data(), open.size(), 0);
//   ... the callback
#ifndef HOLDFAST_BACKEND_RECEIVE_BUFFER_H_
#define HOLDFAST_BACKEND_RECEIVE_BUFFER_H_

#include <cstddef>
#include <memory>
#include <new>

#include "base/poison.h"

namespace holdfast::internal {

class ReceiveBuffer {
 public:
  class Open {
   public:
    explicit Open(const ReceiveBuffer& buffer) noexcept : buffer_(buffer) {
      Unpoison(data(), size());
    }
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;
    ~Open() { Poison(data(), size()); }

    [[nodiscard]] std::byte* data() const noexcept { return buffer_.data_.get(); }
    [[nodiscard]] std::size_t size() const noexcept { return buffer_.size_; }

   private:
    const ReceiveBuffer& buffer_;
  };

  // Without memory it is not valid().
  explicit ReceiveBuffer(std::size_t size) noexcept
      : data_(new (std::nothrow) std::byte[size]), size_(size) {
    if (valid()) Poison(data_.get(), size_);
  }
  ReceiveBuffer(const ReceiveBuffer&) = delete;
  ReceiveBuffer& operator=(const ReceiveBuffer&) = delete;
  ~ReceiveBuffer() {
    if (valid()) Unpoison(data_.get(), size_);
  }

  [[nodiscard]] bool valid() const noexcept { return data_ != nullptr; }

 private:
  const std::unique_ptr<std::byte[]> data_;
  const std::size_t size_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_RECEIVE_BUFFER_H_
