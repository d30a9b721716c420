#include "sim/event_file.h"

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

namespace holdfast::internal::sim {
namespace {

constexpr std::uint64_t kCountMax = std::numeric_limits<std::uint64_t>::max();

// Both kinds are read as one 64 bit number (eventfd(2), timerfd_create(2)).
ssize_t TakeCount(std::uint64_t* count, void* data, std::size_t size) {
  if (size < sizeof(*count)) return -EINVAL;
  if (*count == 0) return -EAGAIN;
  std::memcpy(data, count, sizeof(*count));
  *count = 0;
  return sizeof(*count);
}

}  // namespace

// --- EventFile.

std::uint32_t EventFile::Poll() const {
  return (count_ > 0 ? EPOLLIN : 0U) | (count_ < kCountMax - 1 ? EPOLLOUT : 0U);
}

ssize_t EventFile::Read(void* data, std::size_t size) {
  const ssize_t read = TakeCount(&count_, data, size);
  if (read > 0) Wake(EPOLLOUT);
  return read;
}

ssize_t EventFile::Write(const void* data, std::size_t size) {
  std::uint64_t added = 0;
  if (size < sizeof(added)) return -EINVAL;
  std::memcpy(&added, data, sizeof(added));
  if (added == kCountMax) return -EINVAL;
  if (added > kCountMax - 1 - count_) return -EAGAIN;
  count_ += added;
  Wake(EPOLLIN);
  return sizeof(added);
}

// --- TimerFile.

std::uint32_t TimerFile::Poll() const { return expirations_ > 0 ? EPOLLIN : 0U; }

ssize_t TimerFile::Read(void* data, std::size_t size) {
  return TakeCount(&expirations_, data, size);
}

void TimerFile::Set(Instant deadline) {
  expirations_ = 0;
  deadline_ = deadline;
  if (deadline_ <= schedule_.now()) {
    OnTime(kNever);
  } else if (deadline_ < expected_) {
    Expect(deadline_);
  }
}

void TimerFile::Expect(Instant at) {
  expected_ = at;
  schedule_.At(at, [weak = weak_from_this(), at] {
    if (const std::shared_ptr<File> file = weak.lock()) file->AsTimer()->OnTime(at);
  });
}

// An event of ours came that was made for `at`; kNever: none did.
void TimerFile::OnTime(Instant at) {
  if (at == expected_) expected_ = kNever;
  if (deadline_ <= schedule_.now()) {
    deadline_ = kNever;
    ++expirations_;
    Wake(EPOLLIN);
  } else if (deadline_ < expected_) {
    Expect(deadline_);
  }
}

}  // namespace holdfast::internal::sim
