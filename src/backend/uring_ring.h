// One io_uring and its receive buffers, driven through Kernel: the mechanics below backend/uring.cc.
//
// liburing 2.3 gives the structs and the inline helpers that fill in submissions (io_uring_get_sqe,
// io_uring_prep_*, io_uring_buf_ring_*). Its submitting, waiting and registering functions are not
// used: they are system calls that would pass the Kernel by, and they leave IORING_ENTER_GETEVENTS out
// when a completion is visible already, so that with DEFER_TASKRUN the rest may wait for ever.
//
// UringRing adds three things to the struct: the set-up that tries flag by flag what this kernel takes;
// memory for what submissions point at (an address, a msghdr with its iovecs), which the kernel copies
// when it takes the submission (IORING_FEAT_SUBMIT_STABLE); and a backlog, because a verb cannot fail:
// before Enable, or when the kernel is out of memory, a full queue cannot be emptied.
//
//   UringRing ring(kernel);
//   if (absl::Status opened = ring.Open({}); !opened.ok()) return opened;
//   ring.Enable();
//   io_uring_prep_poll_add(ring.Stage(word).sqe, fd, POLLIN);
//   ring.Enter(1, kNeverTimeout, UringRing::kSubmit | UringRing::kGetEvents);
//
// Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2). One thread: the one that called
// Enable, and any one before that.
#ifndef HOLDFAST_BACKEND_URING_RING_H_
#define HOLDFAST_BACKEND_URING_RING_H_

#include <liburing.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "backend/backend.h"
#include "base/try_vector.h"
#include "core/error_table.h"
#include "sys/fork_mark.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// The fast send, the one way to send here (SEND or SENDMSG). DONTWAIT: it is done when the enter that
// submitted it returns, or it never was. WAITALL makes "short" a failure, and only a failure posts a
// completion under IOSQE_CQE_SKIP_SUCCESS: without it the count of a short send would be lost. Nowhere
// else: on a receive, or a send that waits, it swallows the error that comes after some bytes (net.c).
inline constexpr int kFastSendFlags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;

// "io_uring_setup: EPERM, switched off, or seccomp (containers): epoll". Requires: result < 0.
[[nodiscard]] std::string WhyNot(Call call, int result);

class UringRing {
 public:
  // What a submission points at, until the kernel has taken it.
  union Scratch {
    struct Message {
      msghdr header;
      iovec parts[kSendPartsMax];
    } message;
    sockaddr_storage address;
  };
  struct Staged {
    io_uring_sqe* sqe;  // Prepare it at once: the pointer is good until the next Stage or Enter.
    Scratch* scratch;
    std::uint32_t position;  // For consumed(). Wraps.
  };
  // What Enter does besides waiting.
  enum EnterFlags : unsigned { kSubmit = 1, kGetEvents = 2 };

  explicit UringRing(Kernel& kernel) noexcept : kernel_(kernel) {}
  UringRing(const UringRing&) = delete;
  UringRing& operator=(const UringRing&) = delete;
  ~UringRing();  // Nothing may be in flight whose memory is freed sooner.

  // Creates the ring, disabled. Unimplemented, with a reason, when this kernel cannot or will not;
  // ResourceExhausted when the process or the host is out of descriptors.
  [[nodiscard]] absl::Status Open(const BackendOptions& options);
  // Makes the calling thread the only one that may enter. 0 or -errno.
  [[nodiscard]] int Enable() noexcept;

  [[nodiscard]] bool enabled() const noexcept { return enabled_; }
  // What the kernel has and the options do not forbid.
  [[nodiscard]] bool has(UringFeature feature) const noexcept { return (features_ & feature) != 0; }
  // The descriptor for Kernel::RingRegister.
  [[nodiscard]] int fd() const noexcept { return ring_.ring_fd; }

  // --- Submissions.
  // The next one, with its user_data, which io_uring_prep_* leaves alone. Never null: what has no room
  // in the queue waits in the backlog, in order. Where there is no memory for that either, the program ends.
  [[nodiscard]] Staged Stage(std::uint64_t user_data) noexcept;
  [[nodiscard]] bool full() const noexcept;
  [[nodiscard]] bool backlogged() const noexcept { return !backlog_.empty(); }
  // The thread that enabled it has ended, and its table of registered rings with it.
  void ForgetRegistration() noexcept { registered_by_ = {}; }
  // The position of the first one that the kernel has not taken.
  [[nodiscard]] std::uint32_t submission_head() const noexcept {
    return io_uring_smp_load_acquire(ring_.sq.khead);
  }
  // True once the kernel has taken the submission at `position`.
  [[nodiscard]] bool consumed(std::uint32_t position) const noexcept {
    return static_cast<std::int32_t>(submission_head() - position) > 0;
  }

  // io_uring_enter(2), once; its answer. Waits for `completions` (0: not at all), at most `timeout`.
  int Enter(unsigned completions, Duration timeout, unsigned flags) noexcept;
  // True when there are submissions, or the kernel says that it has work of ours to do and has not just
  // been asked in vain. Without kUringTaskrunFlag it does not say. Linux 6.18 leaves IORING_SQ_TASKRUN set
  // when work was added while other work ran, and was done with it (__io_run_local_work): who believes it
  // never sleeps. To sleep is safe: a wait does what there is before it sleeps.
  [[nodiscard]] bool has_work() const noexcept;
  // False when an enter without waiting would find nothing to do.
  [[nodiscard]] bool must_enter() const noexcept {
    return !has(kUringTaskrunFlag) || has_submissions() || has_flags();
  }
  // True while completions wait in the kernel for room in the queue.
  [[nodiscard]] bool overflowed() const noexcept;

  // --- Completions, first in first out.
  [[nodiscard]] unsigned completion_head() const noexcept { return *ring_.cq.khead; }
  [[nodiscard]] unsigned completion_tail() const noexcept {
    return io_uring_smp_load_acquire(ring_.cq.ktail);
  }
  [[nodiscard]] bool has_completion() const noexcept {
    return completion_head() != completion_tail();
  }
  // The one at `position`, which lies in [head, tail).
  [[nodiscard]] const io_uring_cqe& completion(unsigned position) const noexcept {
    return ring_.cq.cqes[position & ring_.cq.ring_mask];
  }
  // Gives `count` entries at the head back to the kernel.
  void Consume(unsigned count) noexcept { io_uring_cq_advance(&ring_, count); }

 private:
  [[nodiscard]] int CallEnter(unsigned to_submit, unsigned completions, Duration timeout,
                              bool get_events) noexcept;
  [[nodiscard]] bool has_submissions() const noexcept {
    return backlogged() || ring_.sq.sqe_tail != submission_head();
  }
  [[nodiscard]] bool has_flags() const noexcept {
    return (SqFlags() & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
  }
  [[nodiscard]] unsigned SqFlags() const noexcept {
    return io_uring_smp_load_acquire(ring_.sq.kflags);
  }
  [[nodiscard]] absl::Status CheckAbilities();
  void MoveBacklog() noexcept;

  Kernel& kernel_;
  const ForkMark fork_;
  io_uring ring_{};
  bool open_ = false;
  bool enabled_ = false;
  std::uint32_t features_ = 0;
  int enter_fd_ = -1;                   // The ring's descriptor, or its index as a registered one.
  unsigned enter_flags_ = 0;            // Given with every enter.
  bool asked_in_vain_ = false;          // has_flags() before the last enter, which brought nothing.
  std::thread::id registered_by_;       // Whose table has the index; none: nobody's.
  std::unique_ptr<Scratch[]> scratch_;  // One for each entry of the queue.
  // Empty but for the two cases above. Entries before backlog_head_ were moved into the queue.
  struct Waiting {
    alignas(io_uring_sqe) std::byte sqe[64];  // Which ends in an array of no size.
    Scratch scratch;
  };
  TryVector<Waiting> backlog_;
  std::size_t backlog_head_ = 0;
};

// The provided buffers of a ring: IORING_REGISTER_PBUF_RING, Linux 5.19. The kernel takes them first in,
// first out, so that what is published is what stays in cache: keep it small. Each lies 64 bytes off a
// power of two, since else all first lines would share a few sets of the L1 cache.
//
// Under AddressSanitizer a buffer is poisoned but for the bytes that are being shown, so that a
// receiver that keeps the pointer is caught. A kernel that writes as a part of this process must lift
// that first (ASAN_UNPOISON_MEMORY_REGION); a real one is not seen by it.
class BufferRing {
 public:
  explicit BufferRing(Kernel& kernel) noexcept : kernel_(kernel) {}
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;
  ~BufferRing();  // Requires: the ring has ended, or was never told.

  // Registers `count` (a power of two, at most kCountMax) buffers of `size` bytes. Unimplemented, with a
  // reason, when the kernel will not.
  [[nodiscard]] absl::Status Open(int ring_fd, unsigned count, unsigned size);

  // The bytes that a completion says are in buffer `id`, until Return.
  [[nodiscard]] const std::byte* Show(unsigned id, std::size_t size) noexcept;
  // Gives the buffer back to the kernel.
  void Return(unsigned id) noexcept;

  static constexpr unsigned kCountMax = 32768;
  // The group for IOSQE_BUFFER_SELECT.
  static constexpr std::uint16_t kGroup = 0;

 private:
  [[nodiscard]] std::byte* At(unsigned id) noexcept { return buffers_ + id * stride_; }
  void Publish(unsigned id) noexcept;

  Kernel& kernel_;
  io_uring_buf_ring* ring_ = nullptr;  // One block: the entries, then the buffers.
  std::byte* buffers_ = nullptr;
  unsigned count_ = 0;
  unsigned size_ = 0;
  std::size_t stride_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_RING_H_
