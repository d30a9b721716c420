// epoll(7) over simulated files: the interest list, the ready list, and their order, as in Linux.
//
// A wake of a file puts its item at the end of the ready list. A collection takes items from the
// front, asks each file what is so *now*, and passes over what is not so any more; a level-triggered
// item that was reported goes back to the end, an edge-triggered one leaves the list until the next
// wake, a one-shot one is deaf until it is changed. What a small buffer left over stays in front.
//
// An item belongs to a file and the number under which it was added, and lives as long as the file,
// not the number: a file that is closed but still held elsewhere (an operation of a ring) keeps
// reporting, and nobody can remove it any more, as in Linux (epoll(7), question 6).
//
// The instance is a file itself: it can be watched by another one. Waiting is not done here but by
// the kernel's facade, which also draws the faults.
//
// Sources: fs/eventpoll.c of Linux 6.18 (ep_insert, ep_modify, ep_poll_callback, ep_send_events).
#ifndef HOLDFAST_SIM_EPOLL_H_
#define HOLDFAST_SIM_EPOLL_H_

#include <sys/epoll.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/intrusive_list.h"
#include "sim/chance.h"
#include "sim/file.h"

namespace holdfast::internal::sim {

class Epoll final : public File {
 public:
  Epoll();
  ~Epoll() override;

  [[nodiscard]] Epoll* AsEpoll() override { return this; }
  // EPOLLIN while a collection would find something.
  [[nodiscard]] std::uint32_t Poll() const override;

  // epoll_ctl(2) of `fd`, which stands for `file`: 0, -EEXIST, -ENOENT, -EPERM, -EINVAL, -ELOOP.
  int Control(int operation, int fd, File& file, const epoll_event& event);

  struct Ready {
    int fd;
    epoll_event event;
  };
  // Up to `count` events that are so now. Never waits.
  [[nodiscard]] std::size_t Collect(Ready* ready, std::size_t count);

  [[nodiscard]] std::size_t size() const noexcept { return items_.size(); }

  // --- Faults.
  // Another event first than the one that came first, which goes to the end of the ready list.
  // False when there are not two.
  bool Rotate();
  // An EPOLLIN of a socket that has nothing to read, as if another had been there first. False
  // where the draw meets none that could have it.
  [[nodiscard]] bool DrawSpurious(Chance& chance, Ready* ready);

 private:
  struct Item;
  struct Key {
    int fd;
    const File* file;
    bool operator==(const Key&) const noexcept = default;
  };
  // By number alone: a number stands for one file at nearly all times. Only ever looked up in.
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept {
      return static_cast<std::size_t>(key.fd);
    }
  };

  int Add(int fd, File& file, const epoll_event& event);
  void MakeReady(Item& item);
  void Remove(Item& item);
  // True when `other` is this instance or watches it, over however many steps.
  [[nodiscard]] bool IsWatchedBy(Epoll& other, int depth) const;

  std::unordered_map<Key, std::unique_ptr<Item>, KeyHash> lookup_;
  std::vector<Item*> items_;  // In the order of their coming, but for holes filled from the end.
  // Poll drops from it what is not ready any more, as in Linux.
  mutable IntrusiveList<Item, TaggedListNode<Epoll>> ready_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_EPOLL_H_
