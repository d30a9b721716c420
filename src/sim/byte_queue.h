// Bytes first in, first out, in one piece of memory that is there only while there are bytes.
//
// A hundred thousand idle connections must cost nothing but themselves, and a std::deque allocates
// half a kilobyte when it is empty.
#ifndef HOLDFAST_SIM_BYTE_QUEUE_H_
#define HOLDFAST_SIM_BYTE_QUEUE_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace holdfast::internal::sim {

class ByteQueue {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return data_.size() - head_; }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }

  void Append(std::string_view bytes) { data_.append(bytes); }
  // Without a copy where the queue is empty.
  void Append(std::string&& bytes) {
    if (empty()) {
      data_ = std::move(bytes);
      head_ = 0;
    } else {
      data_.append(bytes);
    }
  }

  // Valid until the next change. Requires: offset + size <= size().
  [[nodiscard]] std::string_view View(std::size_t offset, std::size_t size) const {
    HOLDFAST_CHECK(offset + size <= this->size());
    return std::string_view(data_).substr(head_ + offset, size);
  }

  // Requires: size <= size().
  void Pop(std::size_t size) {
    HOLDFAST_CHECK(size <= this->size());
    head_ += size;
    if (empty()) {
      Clear();
    } else if (head_ > data_.size() / 2) {
      data_.erase(0, head_);  // Each byte is moved at most once for one that went.
      head_ = 0;
    }
  }

  void Clear() noexcept {
    std::string().swap(data_);
    head_ = 0;
  }

 private:
  std::string data_;
  std::size_t head_ = 0;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_BYTE_QUEUE_H_
