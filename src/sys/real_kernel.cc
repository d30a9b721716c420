// Linux behind the seam of sys/kernel.h: one system call a method, its value or -errno, no more.
//
// libc's wrappers answer -1 and leave the reason in errno; Answer() folds the two into one value at
// once, before anything else can overwrite errno. Some methods do a word more than their call, for
// a reason that stands beside it: EpollWait (a kernel without epoll_pwait2), TimerFdSet (a deadline
// of zero is none to timerfd), Write (signal handlers), RingSetup (a ring is several calls, and
// half a ring must not be left behind), StartThread (a signature of its own, and signals), GetAddrInfo
// (a stale errno).
//
// With HOLDFAST_NO_URING the ring methods answer -ENOSYS, as a kernel without io_uring does, and
// liburing is neither included nor linked.
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>

#include "sys/kernel.h"

#ifndef HOLDFAST_NO_URING
#include <liburing.h>
#endif

namespace holdfast::internal {
namespace {

constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr std::int64_t kNanosecondsPerMillisecond = 1'000'000;

template <typename Value>
Value Answer(Value value) noexcept {
  return value >= 0 ? value : static_cast<Value>(-errno);
}

timespec ToTimespec(std::int64_t nanoseconds) noexcept {
  timespec spec{};
  spec.tv_sec = nanoseconds / kNanosecondsPerSecond;
  spec.tv_nsec = nanoseconds % kNanosecondsPerSecond;
  return spec;
}

class LinuxKernel final : public Kernel {
 public:
  int Socket(int domain, int type, int protocol) noexcept override {
    return Answer(::socket(domain, type, protocol));
  }

  int SocketPair(int domain, int type, int protocol, int fds[2]) noexcept override {
    return Answer(::socketpair(domain, type, protocol, fds));
  }

  int Bind(int fd, const sockaddr* address, socklen_t size) noexcept override {
    return Answer(::bind(fd, address, size));
  }

  int Listen(int fd, int backlog) noexcept override { return Answer(::listen(fd, backlog)); }

  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept override {
    return Answer(::accept4(fd, address, size, flags));
  }

  int Connect(int fd, const sockaddr* address, socklen_t size) noexcept override {
    return Answer(::connect(fd, address, size));
  }

  ssize_t Send(int fd, const void* data, std::size_t size, int flags) noexcept override {
    return Answer(::send(fd, data, size, flags));
  }

  ssize_t SendMsg(int fd, const msghdr* message, int flags) noexcept override {
    return Answer(::sendmsg(fd, message, flags));
  }

  ssize_t Recv(int fd, void* data, std::size_t size, int flags) noexcept override {
    return Answer(::recv(fd, data, size, flags));
  }

  ssize_t RecvMsg(int fd, msghdr* message, int flags) noexcept override {
    return Answer(::recvmsg(fd, message, flags));
  }

  int Shutdown(int fd, int how) noexcept override { return Answer(::shutdown(fd, how)); }

  int Close(int fd) noexcept override { return Answer(::close(fd)); }

  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept override {
    return Answer(::getsockopt(fd, level, name, value, size));
  }

  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) noexcept override {
    return Answer(::setsockopt(fd, level, name, value, size));
  }

  int GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept override {
    return Answer(::getsockname(fd, address, size));
  }

  int GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept override {
    return Answer(::getpeername(fd, address, size));
  }

  int Ioctl(int fd, unsigned long request, int* value) noexcept override {
    return Answer(::ioctl(fd, request, value));
  }

  int EpollCreate() noexcept override { return Answer(::epoll_create1(EPOLL_CLOEXEC)); }

  int EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept override {
    return Answer(::epoll_ctl(epoll_fd, operation, fd, event));
  }

  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override {
    const bool for_ever = timeout == kNeverTimeout;
    const timespec spec = ToTimespec(for_ever ? 0 : timeout.count());
    const int ready =
        Answer(::epoll_pwait2(epoll_fd, events, events_max, for_ever ? nullptr : &spec, nullptr));
    // A kernel before 5.11 says ENOSYS; a seccomp filter that is older than the call says EPERM,
    // which no epoll wait says for any other reason (epoll_wait(2), ERRORS).
    if (ready != -ENOSYS && ready != -EPERM) return ready;
    // The older call takes any negative timeout for "for ever"; the newer one refuses it.
    if (timeout < Duration::zero()) return -EINVAL;
    return Answer(
        ::epoll_wait(epoll_fd, events, events_max, for_ever ? -1 : ToMilliseconds(timeout)));
  }

  int EventFd() noexcept override { return Answer(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)); }

  int TimerFd() noexcept override {
    return Answer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  }

  int TimerFdSet(int fd, Instant deadline) noexcept override {
    itimerspec spec{};
    if (deadline != kNever) {
      // Zero would disarm the timer and a negative time is EINVAL (timerfd_settime(2)); both are
      // long past and mean "at once", which the first nanosecond of the clock says.
      const std::int64_t nanoseconds = deadline.time_since_epoch().count();
      spec.it_value = ToTimespec(nanoseconds > 0 ? nanoseconds : 1);
    }
    return Answer(::timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, nullptr));
  }

  ssize_t Read(int fd, void* data, std::size_t size) noexcept override {
    return Answer(::read(fd, data, size));
  }

  ssize_t Write(int fd, const void* data, std::size_t size) noexcept override {
    // A signal handler must leave errno as it found it (signal-safety(7)).
    const int errno_before = errno;
    const ssize_t written = Answer(::write(fd, data, size));
    errno = errno_before;
    return written;
  }

#ifdef HOLDFAST_NO_URING
  int RingSetup(unsigned, io_uring_params*, io_uring*) noexcept override { return -ENOSYS; }
  void RingExit(io_uring*) noexcept override {}
  int RingRegister(int, unsigned, void*, unsigned) noexcept override { return -ENOSYS; }
  int RingEnter(int, unsigned, unsigned, unsigned, void*, std::size_t) noexcept override {
    return -ENOSYS;
  }
#else
  // What io_uring_queue_init_params of liburing 2.3 does, less its fault: told NO_SQARRAY (6.6), it
  // writes the identity map over the ring's head and tail, because sq_off.array is 0 then.
  // io_uring_queue_mmap clears `ring`, then sets its pointers, flags and ring_fd.
  int RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept override {
    const int fd = ::io_uring_setup(entries, parameters);
    if (fd < 0) return fd;
    const int mapped = ::io_uring_queue_mmap(fd, parameters, ring);
    if (mapped != 0) {
      ::close(fd);
      return mapped;
    }
    ring->features = parameters->features;
    if ((parameters->flags & kSetupNoSqArray) != 0) {
      ring->sq.array = nullptr;
    } else {
      for (unsigned i = 0; i < ring->sq.ring_entries; ++i) ring->sq.array[i] = i;
    }
    // The rings are shared memory: a forked child that touched them would corrupt its parent's.
    const int hidden = ::io_uring_ring_dontfork(ring);
    if (hidden != 0) {
      ::io_uring_queue_exit(ring);
      return hidden;
    }
    return 0;
  }

  void RingExit(io_uring* ring) noexcept override { ::io_uring_queue_exit(ring); }

  int RingRegister(int ring_fd, unsigned opcode, void* argument, unsigned count) noexcept override {
    return ::io_uring_register(static_cast<unsigned>(ring_fd), opcode, argument, count);
  }

  // `argument` is a sigset_t, or an io_uring_getevents_arg with IORING_ENTER_EXT_ARG (5.11).
  int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                void* argument, std::size_t argument_size) noexcept override {
    return ::io_uring_enter2(static_cast<unsigned>(ring_fd), to_submit, min_complete, flags,
                             static_cast<sigset_t*>(argument), argument_size);
  }
#endif

  Instant ClockNow() noexcept override {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);  // Cannot fail: the clock exists since Linux 2.6.
    return Instant(Duration(now.tv_sec * kNanosecondsPerSecond + now.tv_nsec));
  }

  int GetRandom(void* data, std::size_t size) noexcept override {
    return static_cast<int>(Answer(::getrandom(data, size, 0)));
  }

  int StartThread(void (*run)(void*), void* argument) noexcept override {
    auto* const start = new (std::nothrow) Start{run, argument};
    if (start == nullptr) return -ENOMEM;
    // No signal of the user's is ever handled on a thread of ours: it inherits the mask of its
    // creator, who has all of them blocked meanwhile (pthread_create(3), NOTES).
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread{};
    const int error = ::pthread_create(
        &thread, nullptr,
        [](void* started) -> void* {
          const Start what = *static_cast<Start*>(started);
          delete static_cast<Start*>(started);
          what.run(what.argument);
          return nullptr;
        },
        start);
    if (error == 0) {
      ::pthread_detach(thread);
    } else {
      delete start;
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return -error;
  }

  int GetAddrInfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) noexcept override {
    // Without descriptors the resolver says EAI_NONAME, and only errno tells (EMFILE); an errno
    // left over from before would be a lie.
    errno = 0;
    const int answer = ::getaddrinfo(node, service, hints, result);
    *error_number = errno;
    return answer;
  }

  void FreeAddrInfo(addrinfo* result) noexcept override { ::freeaddrinfo(result); }

 private:
  struct Start {
    void (*run)(void*);
    void* argument;
  };

#ifndef HOLDFAST_NO_URING
  // IORING_SETUP_NO_SQARRAY of linux/io_uring.h, newer than liburing 2.3's copy.
  static constexpr unsigned kSetupNoSqArray = 1U << 16;
#endif

  // Rounded up, because waking early would be a turn for nothing; cut to what an int holds, which
  // is 24 days.
  static int ToMilliseconds(Duration timeout) noexcept {
    const std::int64_t whole = timeout.count() / kNanosecondsPerMillisecond;
    const std::int64_t rounded_up =
        whole + (timeout.count() % kNanosecondsPerMillisecond != 0 ? 1 : 0);
    return rounded_up < INT_MAX ? static_cast<int>(rounded_up) : INT_MAX;
  }
};

// In a union because it must outlive every static object and every detached resolver thread: a
// member of a union is never destroyed.
union Storage {
  constexpr Storage() noexcept : kernel() {}
  ~Storage() {}
  LinuxKernel kernel;
};

constinit Storage storage;

}  // namespace

Kernel& RealKernel() noexcept { return storage.kernel; }

}  // namespace holdfast::internal
