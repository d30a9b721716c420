// The seam: every call that holdfast makes to the operating system, and nothing else.
//
// One virtual method is one system call (or one libc call, for names and threads). It answers a value or -errno
// and keeps no state: no policy, no retry, no loop, no handling of EINTR. What to do about an answer
// is decided elsewhere (core/error_table.h, machine/). Because both backends run over this class
// unchanged, the two most dangerous files of the library, backend/epoll.cc and backend/uring.cc, can
// be run over a kernel that fails on demand (FaultKernel) or that is simulated altogether.
//
// Cost: one indirect call beside a system call, not measurable (185-227 ns against 184-226 ns for a
// recv of 64 bytes).
//
// Descriptors are ints of *this* Kernel: never pass one to another. Addresses are real sockaddrs.
// RealKernel is stateless, so any thread may call it; the contract for others is one thread per
// reactor, and StartThread, GetAddrInfo, FreeAddrInfo, Write and ClockNow from any thread. A thread
// that StartThread made is one of this Kernel's: of a simulated one it may be a coroutine, which gives
// way inside of GetAddrInfo and nowhere else, so nobody holds a lock there.
#ifndef HOLDFAST_SYS_KERNEL_H_
#define HOLDFAST_SYS_KERNEL_H_

#include <netdb.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include <holdfast/time.h>

// liburing's, only named here: kernels without io_uring never look inside.
struct io_uring;
struct io_uring_params;

namespace holdfast::internal {

class Kernel {
 public:
  virtual ~Kernel() = default;

  // --- Sockets: socket(2), bind(2), listen(2), accept4(2), connect(2), ...
  virtual int Socket(int domain, int type, int protocol) noexcept = 0;
  virtual int SocketPair(int domain, int type, int protocol, int fds[2]) noexcept = 0;
  virtual int Bind(int fd, const sockaddr* address, socklen_t size) noexcept = 0;
  virtual int Listen(int fd, int backlog) noexcept = 0;
  virtual int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept = 0;
  // Also the disconnect of an AF_UNSPEC address (connect(2); tcp_disconnect on Linux).
  virtual int Connect(int fd, const sockaddr* address, socklen_t size) noexcept = 0;
  virtual ssize_t Send(int fd, const void* data, std::size_t size, int flags) noexcept = 0;
  virtual ssize_t SendMsg(int fd, const msghdr* message, int flags) noexcept = 0;
  virtual ssize_t Recv(int fd, void* data, std::size_t size, int flags) noexcept = 0;
  virtual ssize_t RecvMsg(int fd, msghdr* message, int flags) noexcept = 0;
  virtual int Shutdown(int fd, int how) noexcept = 0;
  // Whatever it answers, the descriptor is gone: never call it twice (close(2), NOTES).
  virtual int Close(int fd) noexcept = 0;
  virtual int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept = 0;
  virtual int SetSockOpt(int fd, int level, int name, const void* value,
                         socklen_t size) noexcept = 0;
  virtual int GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept = 0;
  virtual int GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept = 0;
  // ioctl(2) with an int result: SIOCOUTQ, SIOCOUTQNSD, SIOCINQ (tcp(7)).
  virtual int Ioctl(int fd, unsigned long request, int* value) noexcept = 0;

  // --- Readiness: epoll(7), eventfd(2), timerfd_create(2).
  virtual int EpollCreate() noexcept = 0;  // EPOLL_CLOEXEC
  virtual int EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept = 0;
  // epoll_pwait2(2) with a relative timeout; kNeverTimeout waits for ever. A kernel without it
  // (before 5.11) is served by epoll_wait(2) with the milliseconds rounded up.
  virtual int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                        Duration timeout) noexcept = 0;
  virtual int EventFd() noexcept = 0;  // EFD_NONBLOCK | EFD_CLOEXEC
  virtual int TimerFd() noexcept = 0;  // CLOCK_MONOTONIC, non-blocking, cloexec
  virtual int TimerFdSet(int fd, Instant deadline) noexcept = 0;  // absolute; kNever disarms
  virtual ssize_t Read(int fd, void* data, std::size_t size) noexcept = 0;
  virtual ssize_t Write(int fd, const void* data, std::size_t size) noexcept = 0;  // signal-safe

  // --- Rings: io_uring_setup(2), io_uring_register(2), io_uring_enter(2).
  // Creates the ring and maps it into `ring` (io_uring_queue_mmap; a simulated kernel points it at
  // ordinary memory). On failure nothing is left behind.
  virtual int RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept = 0;
  // Unmaps and closes. Nothing may be in flight.
  virtual void RingExit(io_uring* ring) noexcept = 0;
  virtual int RingRegister(int ring_fd, unsigned opcode, void* argument,
                           unsigned count) noexcept = 0;
  virtual int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                        void* argument, std::size_t argument_size) noexcept = 0;

  // --- Time, chance, process, names.
  virtual Instant ClockNow() noexcept = 0;  // clock_gettime(2), CLOCK_MONOTONIC
  virtual int GetRandom(void* data, std::size_t size) noexcept = 0;
  // CPU and descriptor limits are not asked for: EMFILE says it.
  // pthread_create(3): a detached thread with every signal blocked. 0 or -errno. Never runs `run`
  // inside this call.
  virtual int StartThread(void (*run)(void*), void* argument) noexcept = 0;
  // getaddrinfo(3): 0 or an EAI_ value; `error_number` is errno after the call, which was set to 0
  // before it. Blocks; called on resolver threads only.
  virtual int GetAddrInfo(const char* node, const char* service, const addrinfo* hints,
                          addrinfo** result, int* error_number) noexcept = 0;
  virtual void FreeAddrInfo(addrinfo* result) noexcept = 0;
};

// The timeout of EpollWait that never passes.
inline constexpr Duration kNeverTimeout = Duration::max();

// Linux. Final and stateless; lives as long as the process.
[[nodiscard]] Kernel& RealKernel() noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_SYS_KERNEL_H_
