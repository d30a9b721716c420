// A kernel that hands every call on to another one: the base of those that watch or answer a few calls
// themselves.
#ifndef HOLDFAST_TESTS_SUPPORT_FORWARDING_KERNEL_H_
#define HOLDFAST_TESTS_SUPPORT_FORWARDING_KERNEL_H_

#include "sys/kernel.h"

namespace holdfast::internal {

class ForwardingKernel : public Kernel {
 public:
  explicit ForwardingKernel(Kernel& inner) noexcept : inner_(inner) {}

  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override {
    return inner_.EpollWait(epoll_fd, events, events_max, timeout);
  }
  int Socket(int domain, int type, int protocol) noexcept override {
    return inner_.Socket(domain, type, protocol);
  }
  int SocketPair(int domain, int type, int protocol, int fds[2]) noexcept override {
    return inner_.SocketPair(domain, type, protocol, fds);
  }
  int Bind(int fd, const sockaddr* address, socklen_t size) noexcept override {
    return inner_.Bind(fd, address, size);
  }
  int Listen(int fd, int backlog) noexcept override { return inner_.Listen(fd, backlog); }
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept override {
    return inner_.Accept4(fd, address, size, flags);
  }
  int Connect(int fd, const sockaddr* address, socklen_t size) noexcept override {
    return inner_.Connect(fd, address, size);
  }
  ssize_t Send(int fd, const void* data, std::size_t size, int flags) noexcept override {
    return inner_.Send(fd, data, size, flags);
  }
  ssize_t SendMsg(int fd, const msghdr* message, int flags) noexcept override {
    return inner_.SendMsg(fd, message, flags);
  }
  ssize_t Recv(int fd, void* data, std::size_t size, int flags) noexcept override {
    return inner_.Recv(fd, data, size, flags);
  }
  ssize_t RecvMsg(int fd, msghdr* message, int flags) noexcept override {
    return inner_.RecvMsg(fd, message, flags);
  }
  int Shutdown(int fd, int how) noexcept override { return inner_.Shutdown(fd, how); }
  int Close(int fd) noexcept override { return inner_.Close(fd); }
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept override {
    return inner_.GetSockOpt(fd, level, name, value, size);
  }
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) noexcept override {
    return inner_.SetSockOpt(fd, level, name, value, size);
  }
  int GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept override {
    return inner_.GetSockName(fd, address, size);
  }
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept override {
    return inner_.GetPeerName(fd, address, size);
  }
  int Ioctl(int fd, unsigned long request, int* value) noexcept override {
    return inner_.Ioctl(fd, request, value);
  }
  int EpollCreate() noexcept override { return inner_.EpollCreate(); }
  int EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept override {
    return inner_.EpollCtl(epoll_fd, operation, fd, event);
  }
  int EventFd() noexcept override { return inner_.EventFd(); }
  int TimerFd() noexcept override { return inner_.TimerFd(); }
  int TimerFdSet(int fd, Instant deadline) noexcept override {
    return inner_.TimerFdSet(fd, deadline);
  }
  ssize_t Read(int fd, void* data, std::size_t size) noexcept override {
    return inner_.Read(fd, data, size);
  }
  ssize_t Write(int fd, const void* data, std::size_t size) noexcept override {
    return inner_.Write(fd, data, size);
  }
  int RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept override {
    return inner_.RingSetup(entries, parameters, ring);
  }
  void RingExit(io_uring* ring) noexcept override { inner_.RingExit(ring); }
  int RingRegister(int ring_fd, unsigned opcode, void* argument, unsigned count) noexcept override {
    return inner_.RingRegister(ring_fd, opcode, argument, count);
  }
  int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                void* argument, std::size_t argument_size) noexcept override {
    return inner_.RingEnter(ring_fd, to_submit, min_complete, flags, argument, argument_size);
  }
  Instant ClockNow() noexcept override { return inner_.ClockNow(); }
  int GetRandom(void* data, std::size_t size) noexcept override {
    return inner_.GetRandom(data, size);
  }
  int StartThread(void (*run)(void*), void* argument) noexcept override {
    return inner_.StartThread(run, argument);
  }
  int GetAddrInfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) noexcept override {
    return inner_.GetAddrInfo(node, service, hints, result, error_number);
  }
  void FreeAddrInfo(addrinfo* result) noexcept override { inner_.FreeAddrInfo(result); }

 protected:
  Kernel& inner_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SUPPORT_FORWARDING_KERNEL_H_
