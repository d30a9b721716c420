// Linux, simulated: one Kernel for each simulated process, over the world's time, network and faults.
//
// It implements both dialects. epoll is sim/epoll.h, a ring is sim/ring.h, sockets are sim/tcp.h and
// sim/unix_socket.h; here stand the descriptor table, the checks that every call makes (EBADF,
// ENOTSOCK, EMFILE), the waits, the clock, chance, and names. Descriptors start at 1 << 20, so that
// one that reaches the real kernel fails at once.
//
// A call takes no time, and its effects on other hosts come as events. Blocking calls give way to
// the Schedule. A process that makes 10,000 calls at one instant has spun, or worked hard: those
// take 10 us, so that the world goes on (kCallsPerInstant).
//
// Faults that strike here: kSocketLimit, kAcceptLimit, kNoMemory, kConnectOddPath, kEpollSpace,
// kInterrupted, kCompletionOrder, kCompletionAfterClose (epoll's), kLateTimer, kClock, kBackendLost. Those of streams, of rings and
// of names strike where these are.
#ifndef HOLDFAST_SIM_SIM_KERNEL_H_
#define HOLDFAST_SIM_SIM_KERNEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "base/intrusive_list.h"
#include "sim/delays.h"
#include "sim/epoll.h"
#include "sim/faults.h"
#include "sim/file.h"
#include "sim/names.h"
#include "sim/network.h"
#include "sim/schedule.h"
#include "sim/trace.h"
#include "sys/kernel.h"

namespace holdfast::internal::sim {

class Ring;

// What the processes of a world share.
struct World {
  explicit World(std::uint64_t seed)
      : faults(seed), network(schedule, faults, trace), names(schedule, faults, trace) {}

  Schedule schedule;
  Trace trace;
  FaultPlan faults;
  Network network;
  Names names;
  std::uint64_t completions = 0;  // Of rings and of epoll alike.
  unsigned giving_way = 0;        // Processes in the middle of a call: SimKernel::GiveWay.
  Delays stalls;                  // Of the clock: nobody ran.
};

class SimKernel final : public Kernel {
 public:
  static constexpr int kFirstDescriptor = 1 << 20;

  // A process on `host`. Both outlive it.
  SimKernel(World& world, Host& host);
  SimKernel(const SimKernel&) = delete;
  SimKernel& operator=(const SimKernel&) = delete;
  ~SimKernel() override;  // Closes what is open, as the end of a process does.

  [[nodiscard]] World& world() noexcept { return world_; }
  [[nodiscard]] Host& host() noexcept { return host_; }
  [[nodiscard]] std::size_t open_descriptors() const noexcept { return open_; }
  // Waits that nothing came of, from the fourth in a row on: they did not sleep, or until their timeout
  // alone, and the process had done nothing since the one before: no byte taken or given, nothing opened
  // or closed, no connection made. Who spins has many. What only the process itself knows to be of use (a
  // timer that was due, a post) counts among them as well.
  [[nodiscard]] std::uint64_t waits_in_vain() const noexcept { return waits_in_vain_; }
  // RLIMIT_NOFILE.
  void SetDescriptorLimit(std::size_t limit) noexcept { descriptor_limit_ = limit; }
  // How much of the time between the two, the second not after now, it could have run in: it was not
  // frozen, no wait was late (kLateTimer), the clock did not stall. With kToBeTold: and everything that
  // had happened had been told (Host::held_back).
  [[nodiscard]] Duration RunningTime(Instant from, Instant until, Needs needs) const;
  // The first time from `at` on, which is not after now, at which it could run, be it for an instant.
  [[nodiscard]] Instant RunsFrom(Instant at) const;
  // False: io_uring_setup says what `error` (-errno) says, or EPERM (seccomp) where that is 0.
  void SetRings(bool allowed, int error) noexcept {
    rings_allowed_ = allowed;
    ring_error_ = error;
  }

  [[nodiscard]] bool rings_allowed() const noexcept { return rings_allowed_; }

  // What the world does to the process.
  // Wakes whoever waits in EpollWait or RingEnter, for nothing: what was done to a reactor from
  // outside of it is seen.
  void Interrupt();
  // The host is gone: from now on calls do nothing to it and answer something harmless, so that the
  // objects of the process can be destroyed; every operation ends at once. Close and what is of the
  // process alone (epoll, eventfd) go on working, and a wait that finds nothing ends at once: the
  // process's own clock has then gone on by its timeout.
  void Die();
  [[nodiscard]] bool dead() const noexcept { return dead_; }
  // SIGSTOP and SIGCONT: the process does not come back from a call that gives way, while the host
  // goes on. Death ends it, too.
  void Freeze() noexcept;
  void Thaw();
  // What StartThread started and has not ended; it knows this kernel.
  [[nodiscard]] std::size_t threads() const noexcept { return threads_; }

  // --- For rings.
  // Gives way like Schedule::Block, and is woken by Interrupt and Die as well.
  struct Wait : ListNode {
    Schedule::Sleeper sleeper;
    bool interrupted = false;  // By Interrupt or Die.
  };
  bool Block(Wait& wait, Instant deadline);
  // What strikes a wait of either dialect: the deadline that it really has (kLateTimer), and, at its
  // end, the time that the process was stopped for (kClock).
  struct Timeout {
    Instant due;   // What it asked for,
    Instant ends;  // and gets.
  };
  [[nodiscard]] Timeout DrawTimeout(Duration timeout);
  void EndWait(const Timeout& timeout);
  // At the begin of a wait, also of one that will not sleep; and whenever something useful was done.
  void NoteWait() noexcept {
    if (++fruitless_waits_ >= 4) ++waits_in_vain_;
  }
  void NoteProgress() noexcept { fruitless_waits_ = 0; }
  // Others run whose turn it is, once this process has made too many calls at one instant. Every
  // wait calls it, also one that finds something at once. True: it was interrupted meanwhile.
  bool GiveWayIfBusy();
  // While the process is stopped: at its begin, and at the end of every call that gave way.
  void AwaitThaw();
  // IORING_REGISTER_RING_FDS: the index by which io_uring_enter(2) knows the ring from now on, or
  // -EBUSY; and its end.
  [[nodiscard]] int AddRegisteredRing(std::shared_ptr<File> ring);
  int RemoveRegisteredRing(unsigned index);

  // What a wait of a dead process that finds nothing does; `timeout` is kNeverTimeout for none.
  void WaitOfTheDead(Duration timeout);
  // Install would say -EMFILE.
  [[nodiscard]] bool table_full() const noexcept;

  // Null when it is not open.
  [[nodiscard]] std::shared_ptr<File> Find(int fd) const;
  // The descriptor, or -EMFILE.
  [[nodiscard]] int Install(std::shared_ptr<File> file);

  // --- Kernel.
  int Socket(int domain, int type, int protocol) noexcept override;
  int SocketPair(int domain, int type, int protocol, int fds[2]) noexcept override;
  int Bind(int fd, const sockaddr* address, socklen_t size) noexcept override;
  int Listen(int fd, int backlog) noexcept override;
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) noexcept override;
  int Connect(int fd, const sockaddr* address, socklen_t size) noexcept override;
  ssize_t Send(int fd, const void* data, std::size_t size, int flags) noexcept override;
  ssize_t SendMsg(int fd, const msghdr* message, int flags) noexcept override;
  ssize_t Recv(int fd, void* data, std::size_t size, int flags) noexcept override;
  ssize_t RecvMsg(int fd, msghdr* message, int flags) noexcept override;
  int Shutdown(int fd, int how) noexcept override;
  int Close(int fd) noexcept override;
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) noexcept override;
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) noexcept override;
  int GetSockName(int fd, sockaddr* address, socklen_t* size) noexcept override;
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) noexcept override;
  int Ioctl(int fd, unsigned long request, int* value) noexcept override;
  int EpollCreate() noexcept override;
  int EpollCtl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept override;
  int EpollWait(int epoll_fd, epoll_event* events, int events_max,
                Duration timeout) noexcept override;
  int EventFd() noexcept override;
  int TimerFd() noexcept override;
  int TimerFdSet(int fd, Instant deadline) noexcept override;
  ssize_t Read(int fd, void* data, std::size_t size) noexcept override;
  ssize_t Write(int fd, const void* data, std::size_t size) noexcept override;
  int RingSetup(unsigned entries, io_uring_params* parameters, io_uring* ring) noexcept override;
  void RingExit(io_uring* ring) noexcept override;
  int RingRegister(int ring_fd, unsigned opcode, void* argument, unsigned count) noexcept override;
  int RingEnter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                void* argument, std::size_t argument_size) noexcept override;
  Instant ClockNow() noexcept override;
  int GetRandom(void* data, std::size_t size) noexcept override;
  int GetAddrInfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) noexcept override;
  void FreeAddrInfo(addrinfo* result) noexcept override;
  // A task of the Schedule.
  int StartThread(void (*run)(void*), void* argument) noexcept override;

 private:
  static constexpr std::uint32_t kCallsPerInstant = 10'000;
  static constexpr std::size_t kRegisteredRingsMax = 16;  // IO_RINGFD_REG_MAX

  enum class Call : std::uint8_t;
  class Blocked;

  // Null when it is not open: without a reference of its own, for calls that do not give way.
  [[nodiscard]] File* Peek(int fd) const noexcept;
  // The socket, or null with `error` = -EBADF or -ENOTSOCK.
  [[nodiscard]] SocketFile* PeekSocket(int fd, int* error) const noexcept;
  [[nodiscard]] int InstallSocket(std::shared_ptr<SocketFile> socket, int type);
  // -ENOMEM or -ENOBUFS when there is none, 0 otherwise.
  [[nodiscard]] int DrawNoMemory();

  // A child that was forked and has not come to its exec(2) has `file` open as well: it lives on for a
  // moment, and epoll goes on telling of it under the word of who closed it (epoll(7), "Will closing a
  // file descriptor cause it to be removed").
  void Inherit(std::shared_ptr<File> file);

  // Until something happens to the file. False when the call is to end: it was interrupted, the
  // process is dead, or nothing is left in the world that could happen.
  [[nodiscard]] bool AwaitEvent(File& file);
  // Lets who may run at this instant do so. True: it was interrupted meanwhile, and a wait that follows
  // must not sleep.
  bool GiveWay();
  // Repeats `attempt` until it does not answer one of -EAGAIN, -EINPROGRESS, -EALREADY, where the
  // socket and the flags let it block.
  template <typename Attempt>
  ssize_t BlockWhile(SocketFile& socket, int flags, Attempt attempt);

  ssize_t SendParts(SocketFile& socket, const iovec* parts, std::size_t count, int flags);
  ssize_t ReceiveParts(SocketFile& socket, const iovec* parts, std::size_t count, int flags);
  int CollectEvents(Epoll& epoll, epoll_event* events, int events_max);
  int WaitForEvents(Epoll& epoll, epoll_event* events, int events_max, Duration timeout);
  int WaitOfTheDead(Epoll& epoll, epoll_event* events, int events_max, Duration timeout);

  // Writes a call down and hands its answer on. `detail` makes the text between the descriptor and
  // the answer, where somebody reads it.
  template <typename Value, typename Detail>
  Value Answer(Call call, int fd, Value value, Detail detail);
  template <typename Value>
  Value Answer(Call call, int fd, Value value);
  [[nodiscard]] static bool IsProgress(Call call, std::int64_t value) noexcept;
  void Count(Call call, int fd, std::int64_t value);
  void Tell(Call call, int fd, std::int64_t value, std::string_view detail);

  World& world_;
  Host& host_;
  std::vector<std::shared_ptr<File>> files_;  // By descriptor - kFirstDescriptor.
  // Closed descriptors, as indices into files_: the lowest is the next.
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> free_;
  std::size_t open_ = 0;
  std::size_t descriptor_limit_ = 20'000;
  bool rings_allowed_ = true;
  int ring_error_ = 0;
  std::array<std::shared_ptr<File>, kRegisteredRingsMax> registered_rings_;
  std::vector<std::shared_ptr<std::shared_ptr<File>>> inherited_;
  IntrusiveList<Wait> waits_;        // In EpollWait or RingEnter.
  IntrusiveList<Wait> blocked_;      // In another call.
  IntrusiveList<Wait> stopped_;      // By Freeze.
  std::vector<Epoll::Ready> ready_;  // Of one EpollWait at a time.

  Instant busy_since_ = Instant::min();  // The instant that calls_ is of.
  std::uint32_t calls_ = 0;
  bool owes_way_ = false;
  std::uint32_t fruitless_waits_ = 0;  // In a row.
  std::uint64_t waits_in_vain_ = 0;

  Delays stops_;                 // Frozen, or in a wait that was late.
  Instant late_since_ = kNever;  // The wait that it is in should have ended.

  std::size_t threads_ = 0;
  bool frozen_ = false;
  Instant frozen_at_{};
  bool dead_ = false;
  Duration dead_time_{0};  // What the waits of the dead have let pass.
  std::uint32_t dead_waits_ = 0;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_SIM_KERNEL_H_
