#include "sim/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace holdfast::internal::sim {
namespace {

// Stands on a list behind the waiter whose turn it is, because that may unlink itself and its
// neighbours.
class Bookmark final : public PollWaiter {
 public:
  void OnWake(std::uint32_t) override {}

  // Behind `node`, from wherever it stood.
  void PutBehind(ListNode& node) {
    if (linked()) Unlink();
    prev = &node;
    next = node.next;
    next->prev = this;
    node.next = this;
  }
};

}  // namespace

File::~File() {
  while (PollWaiter* const waiter = waiters_.PopFront()) waiter->OnGone();
}

void File::Wake(std::uint32_t events) {
  if (waiters_.empty()) return;
  if (waiters_.front() == waiters_.back()) {
    waiters_.front()->OnWake(events);
    return;
  }
  // One of the waiters may have held the last reference.
  const std::shared_ptr<File> self = weak_from_this().lock();
  Bookmark here;
  Bookmark end;
  waiters_.PushBack(end);
  for (PollWaiter* waiter = waiters_.front(); waiter != &end;) {
    here.PutBehind(*waiter);
    waiter->OnWake(events);
    waiter = static_cast<PollWaiter*>(here.next);
  }
  here.Unlink();
  end.Unlink();
}

ssize_t File::Read(void*, std::size_t) { return -EINVAL; }
ssize_t File::Write(const void*, std::size_t) { return -EINVAL; }

void CopyAddress(const void* from, socklen_t from_size, sockaddr* to, socklen_t* size) {
  if (to == nullptr || size == nullptr) return;
  const socklen_t copied = std::min(*size, from_size);
  if (copied > 0) std::memcpy(to, from, copied);
  *size = from_size;
}

}  // namespace holdfast::internal::sim
