#include "sim/epoll.h"

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace holdfast::internal::sim {
namespace {

// What an item keeps while a one-shot has made it deaf.
constexpr std::uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr std::uint32_t kAlways = EPOLLERR | EPOLLHUP;

constexpr int kNestingMax = 5;  // EP_MAX_NESTS, with the outermost.

}  // namespace

struct Epoll::Item final : PollWaiter, TaggedListNode<Epoll> {
  Item(Epoll& owner_in, int fd_in, File& file_in) : owner(owner_in), fd(fd_in), file(file_in) {}

  void OnWake(std::uint32_t woken) override {
    if ((events & ~kPrivateBits) == 0) return;
    if (woken != 0 && (woken & events) == 0) return;
    owner.MakeReady(*this);
  }
  void OnGone() override { owner.Remove(*this); }

  [[nodiscard]] std::uint32_t PollNow() const { return file.Poll() & events; }
  [[nodiscard]] bool is_ready() const { return static_cast<const Node*>(this)->linked(); }

  using Node = TaggedListNode<Epoll>;
  using Waiter = PollWaiter;

  Epoll& owner;
  const int fd;
  File& file;  // Outlives the item, or tells it (OnGone).
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  std::size_t index = 0;  // In items_.
};

Epoll::Epoll() = default;

Epoll::~Epoll() {
  while (!items_.empty()) {
    items_.back()->Waiter::Unlink();
    Remove(*items_.back());
  }
}

std::uint32_t Epoll::Poll() const {
  while (Item* const item = ready_.front()) {
    if (item->PollNow() != 0) return EPOLLIN;
    ready_.PopFront();
  }
  return 0;
}

// --- The interest list.

int Epoll::Control(int operation, int fd, File& file, const epoll_event& event) {
  if (!file.pollable()) return -EPERM;
  if (&file == this) return -EINVAL;
  const auto found = lookup_.find({fd, &file});
  switch (operation) {
    case EPOLL_CTL_ADD:
      return found != lookup_.end() ? -EEXIST : Add(fd, file, event);
    case EPOLL_CTL_MOD: {
      if (found == lookup_.end()) return -ENOENT;
      Item& item = *found->second;
      item.events = event.events | kAlways;
      item.data = event.data.u64;
      if (item.PollNow() != 0) MakeReady(item);
      return 0;
    }
    case EPOLL_CTL_DEL: {
      if (found == lookup_.end()) return -ENOENT;
      found->second->Waiter::Unlink();
      Remove(*found->second);
      return 0;
    }
    default:
      return -EINVAL;
  }
}

int Epoll::Add(int fd, File& file, const epoll_event& event) {
  if (Epoll* const inner = file.AsEpoll(); inner != nullptr && IsWatchedBy(*inner, 1)) {
    return -ELOOP;
  }
  auto made = std::make_unique<Item>(*this, fd, file);
  Item& item = *made;
  item.events = event.events | kAlways;
  item.data = event.data.u64;
  item.index = items_.size();
  items_.push_back(&item);
  lookup_.emplace(Key{fd, &file}, std::move(made));
  file.AddWaiter(item);
  if (item.PollNow() != 0) MakeReady(item);
  return 0;
}

// The item does not wait for its file any more.
void Epoll::Remove(Item& item) {
  if (item.is_ready()) ready_.Remove(item);
  items_.back()->index = item.index;
  std::swap(items_[item.index], items_.back());
  items_.pop_back();
  lookup_.erase({item.fd, &item.file});
}

bool Epoll::IsWatchedBy(Epoll& other, int depth) const {
  if (&other == this || depth >= kNestingMax) return true;
  for (const Item* const item : other.items_) {
    Epoll* const inner = item->file.AsEpoll();
    if (inner != nullptr && IsWatchedBy(*inner, depth + 1)) return true;
  }
  return false;
}

// --- The ready list.

void Epoll::MakeReady(Item& item) {
  if (!item.is_ready()) ready_.PushBack(item);
  Wake(EPOLLIN);
}

std::size_t Epoll::Collect(Ready* ready, std::size_t count) {
  if (ready_.empty()) return 0;
  std::size_t found = 0;
  // What is put back while this goes on is not met again.
  IntrusiveList<Item, TaggedListNode<Epoll>> taken;
  taken.Splice(ready_);
  while (found < count) {
    Item* const item = taken.PopFront();
    if (item == nullptr) break;
    const std::uint32_t events = item->PollNow();
    if (events == 0) continue;
    ready[found].fd = item->fd;
    ready[found].event.events = events;
    ready[found].event.data.u64 = item->data;
    ++found;
    if ((item->events & EPOLLONESHOT) != 0) {
      item->events &= kPrivateBits;
    } else if ((item->events & EPOLLET) == 0) {
      ready_.PushBack(*item);
    }
  }
  // What did not fit stays in front of it.
  taken.Splice(ready_);
  ready_.Splice(taken);
  return found;
}

// --- Faults.

bool Epoll::Rotate() {
  if (ready_.front() == ready_.back()) return false;
  ready_.PushBack(*ready_.PopFront());
  return true;
}

bool Epoll::DrawSpurious(Chance& chance, Ready* ready) {
  if (items_.empty()) return false;
  const Item& item = *items_[chance.Below(items_.size())];
  if ((item.events & EPOLLIN) == 0 || item.file.AsSocket() == nullptr || item.is_ready()) {
    return false;
  }
  ready->fd = item.fd;
  ready->event.events = EPOLLIN;
  ready->event.data.u64 = item.data;
  return true;
}

}  // namespace holdfast::internal::sim
