// What a descriptor of a simulated kernel stands for, and who waits for it.
//
// As in Linux: a File lives as long as a descriptor, or an operation of a ring, holds it (a close
// under a pending operation closes nothing, docs/kernel.md 10); its destructor is the release. Poll says
// what is so now, and Wake says that something has just happened, which is an edge to those who
// wait.
#ifndef HOLDFAST_SIM_FILE_H_
#define HOLDFAST_SIM_FILE_H_

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/intrusive_list.h"

namespace holdfast::internal::sim {

class Epoll;       // epoll.h
class Ring;        // ring.h
class SocketFile;  // Below.
class TimerFile;   // event_file.h

// Somebody who wants to hear of events of a File: an entry of an epoll instance, a poll or a
// waiting operation of a ring, a blocked call. Unlinks itself when it does not want to any more.
class PollWaiter : public ListNode {
 public:
  // Something of `events` (EPOLLIN, EPOLLOUT, ...) has just come true again. May unlink this waiter
  // and any other, and add new ones, which hear of the next event. Never makes a socket call.
  virtual void OnWake(std::uint32_t events) = 0;
  // The File is being destroyed, and the waiter has been unlinked from it. Only for those who do
  // not hold the File: nothing can be asked of it any more.
  virtual void OnGone() {}

 protected:
  ~PollWaiter() = default;
};

class File : public std::enable_shared_from_this<File> {
 public:
  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  virtual ~File();

  // EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, as poll(2) would say now.
  [[nodiscard]] virtual std::uint32_t Poll() const = 0;
  // False for what epoll_ctl refuses with EPERM.
  [[nodiscard]] virtual bool pollable() const { return true; }
  // Null for anything else: ENOTSOCK, EINVAL, EOPNOTSUPP of the calls.
  [[nodiscard]] virtual SocketFile* AsSocket() { return nullptr; }
  [[nodiscard]] virtual Epoll* AsEpoll() { return nullptr; }
  [[nodiscard]] virtual Ring* AsRing() { return nullptr; }
  [[nodiscard]] virtual TimerFile* AsTimer() { return nullptr; }

  void AddWaiter(PollWaiter& waiter) { waiters_.PushBack(waiter); }
  // Before all others, where Linux's add_wait_queue(9) puts everybody: whoever was armed last hears
  // of it first (docs/kernel.md C2).
  void AddWaiterFirst(PollWaiter& waiter) {
    IntrusiveList<PollWaiter> first;
    first.PushBack(waiter);
    first.Splice(waiters_);
    waiters_.Splice(first);
  }
  // Calls every waiter once, in the order in which they came.
  void Wake(std::uint32_t events);

  // read(2), write(2): eventfd and timerfd. -EINVAL for the rest.
  virtual ssize_t Read(void* data, std::size_t size);
  virtual ssize_t Write(const void* data, std::size_t size);

 private:
  IntrusiveList<PollWaiter> waiters_;
};

// The calls of a socket, none of which blocks: -EAGAIN instead, whatever the descriptor's mode (the
// callers that may block, the ring and the facade, wait by AddWaiter and call again). Each answers
// a value or -errno, as its system call does.
class SocketFile : public File {
 public:
  [[nodiscard]] SocketFile* AsSocket() final { return this; }
  [[nodiscard]] virtual int domain() const = 0;
  virtual int Bind(const sockaddr* address, socklen_t size) = 0;
  virtual int Listen(int backlog) = 0;
  // The accepted socket, or null with `error` = -errno.
  virtual std::shared_ptr<SocketFile> Accept(int* error) = 0;
  // True when Accept would find a connection.
  [[nodiscard]] virtual bool HasPending() const = 0;
  // Begins: -EINPROGRESS (TCP), 0 (AF_UNIX, AF_UNSPEC) or -errno. Once more while it goes on:
  // -EALREADY; after it: 0 (EISCONN the time after) or the error, as connect(2).
  virtual int Connect(const sockaddr* address, socklen_t size) = 0;
  virtual ssize_t Send(const iovec* parts, std::size_t count, int flags) = 0;
  // `flags`: MSG_PEEK, MSG_ERRQUEUE (EAGAIN when empty).
  virtual ssize_t Recv(void* data, std::size_t size, int flags) = 0;
  virtual int Shutdown(int how) = 0;
  virtual int GetSockOpt(int level, int name, void* value, socklen_t* size) = 0;
  virtual int SetSockOpt(int level, int name, const void* value, socklen_t size) = 0;
  virtual int GetSockName(sockaddr* address, socklen_t* size) const = 0;
  virtual int GetPeerName(sockaddr* address, socklen_t* size) const = 0;
  // What accept(2) tells of a socket that comes from Accept: its peer, even one that has gone since.
  virtual int AcceptedFrom(sockaddr* address, socklen_t* size) const {
    return GetPeerName(address, size);
  }
  virtual int Ioctl(unsigned long request, int* value) = 0;

  // O_NONBLOCK of the open file (SOCK_NONBLOCK).
  bool nonblocking = false;
};

// Copies an address out as getsockname(2) does: cut to *size, *size is the true one.
void CopyAddress(const void* from, socklen_t from_size, sockaddr* to, socklen_t* size);

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_FILE_H_
