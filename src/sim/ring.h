// io_uring(7), simulated: a ring reads submissions from ordinary memory and writes completions to it.
//
// The semantics are those of Linux 6.18 with DEFER_TASKRUN, because that is where rings surprise. An
// operation that can be done at once is done by the submission, and its completion is in the queue
// when the enter goes on. One that must wait is armed on its file; a wake of the file makes a piece
// of task work, which is done, and its completion made, only by an enter with GETEVENTS, in the order
// of the wakes. A full completion queue ends what is multishot and puts completions aside, in order.
//
// What nobody can see through backend/uring.cc is left out: links, drains, fixed files and buffers,
// SQPOLL, IOPOLL, zero copy, bundles, incremental buffers, timeouts, kernel workers. Such a submission
// is refused by EINVAL, as by a kernel that has never heard of it. Rings without DEFER_TASKRUN do
// their task work in every enter, and nowhere else.
//
// Faults that strike here: kNoMemory (of an operation, of an enter), kSubmissionFull,
// kCompletionOverflow, kCompletionOrder, kCompletionAfterClose, kBuffersEmpty, kMultishotEnds,
// kCancelRace, kConnectOddPath, kAcceptLimit, kInterrupted; and of a wait kLateTimer and kClock.
//
// The memory of the queues is the ring's, so that liburing 2.3's inline functions work on it; it goes
// with the last reference to the ring (a descriptor, a registered index). One thread.
//
// Sources: io_uring/{io_uring,poll,net,kbuf,cancel,eventfd,register}.c of Linux 6.18, docs/kernel.md C2.
#ifndef HOLDFAST_SIM_RING_H_
#define HOLDFAST_SIM_RING_H_

#include "sim/file.h"

#ifdef HOLDFAST_NO_URING

namespace holdfast::internal::sim {

// There is never one.
class Ring {
 public:
  static int Register(unsigned, void*, unsigned) { return 0; }
  static int Enter(unsigned, unsigned, unsigned, void*, std::size_t) { return 0; }
  static void Die() {}
};

}  // namespace holdfast::internal::sim

#else

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include <holdfast/time.h>

#include "base/intrusive_list.h"
#include "sim/sim_kernel.h"

struct io_uring;
struct io_uring_buf_ring;
struct io_uring_cqe;
struct io_uring_params;
struct io_uring_sqe;

namespace holdfast::internal::sim {

class Ring final : public File {
 public:
  // io_uring_setup(2) and the mapping: fills in `parameters` and `ring`. 0 or -errno.
  static int Setup(SimKernel& kernel, unsigned entries, io_uring_params* parameters,
                   io_uring* ring);
  // Closes the descriptor. What is in flight ends with the ring: at once, unless the ring is
  // registered, for then the process holds it to its end, as in Linux.
  static void Exit(SimKernel& kernel, io_uring* ring);

  // Sizes are powers of two. For Setup.
  Ring(SimKernel& kernel, unsigned submissions, unsigned completions, unsigned setup_flags);
  ~Ring() override;

  [[nodiscard]] Ring* AsRing() override { return this; }
  // io_uring_poll: EPOLLIN while there are completions or task work. But task work wakes nobody.
  [[nodiscard]] std::uint32_t Poll() const override;

  // io_uring_register(2), io_uring_enter(2). The caller holds the ring.
  int Register(unsigned opcode, void* argument, unsigned count);
  int Enter(unsigned to_submit, unsigned min_complete, unsigned flags, void* argument,
            std::size_t argument_size);
  // The process is dead: whatever is in flight ends as -ECANCELED at the next enter, and whatever is
  // submitted after it at once.
  void Die();

  // In flight: submitted, and without their last completion. What was put aside by an overflow is
  // not among them.
  [[nodiscard]] std::size_t operations() const noexcept { return pool_.size() - free_.size(); }

 private:
  struct Operation;  // ring_operation.h
  using WorkList = IntrusiveList<Operation, TaggedListNode<Ring>>;

  // What an attempt of an operation came to.
  enum class Outcome : std::uint8_t {
    kDone,   // Its result is known.
    kWait,   // It must wait for its file (-EAGAIN).
    kAgain,  // It has had its share, and goes to the end of the task work.
  };
  struct Completion {
    std::uint64_t user_data;
    std::int32_t result;
    std::uint32_t flags;
  };
  // IORING_REGISTER_PBUF_RING. The tail is in the user's memory, the head is ours.
  struct BufferGroup {
    io_uring_buf_ring* ring;
    std::uint16_t mask;
    std::uint16_t head = 0;
  };
  struct Buffer {
    std::byte* data;
    std::size_t size;
    std::uint16_t id;
  };
  struct Free {
    void operator()(void* memory) const noexcept;
  };
  // What a real ring maps, without the entries.
  struct Shared {
    unsigned sq_head = 0;
    unsigned sq_tail = 0;
    unsigned sq_mask;
    unsigned sq_entries;
    unsigned sq_flags = 0;
    unsigned sq_dropped = 0;
    unsigned cq_head = 0;
    unsigned cq_tail = 0;
    unsigned cq_mask;
    unsigned cq_entries;
    unsigned cq_flags = 0;
    unsigned cq_overflow = 0;
  };

  // --- ring_register.cc
  int RegisterProbe(void* argument, unsigned count);
  int RegisterBuffers(const void* argument, unsigned count);
  int UnregisterBuffers(const void* argument, unsigned count);
  int RegisterEventFd(const void* argument, unsigned count);
  int RegisterRingFds(void* argument, unsigned count, bool add);

  // --- ring_enter.cc: the queues.
  // How many were taken, or -EAGAIN when none could be.
  int Submit(unsigned count);
  int Wait(unsigned completions_min, Duration timeout);
  [[nodiscard]] bool has_work() const noexcept { return !work_.empty() || !left_.empty(); }
  [[nodiscard]] unsigned completions() const noexcept { return shared_.cq_tail - shared_.cq_head; }
  // True when it went into the queue; a completion that did not is the caller's to keep.
  bool TryPost(const Completion& completion, const Operation& operation);
  // Where it does not go into the queue it is put aside.
  void Post(const Completion& completion, const Operation& operation);
  void Put(const Completion& completion);
  void FlushOverflow();
  // Tells the eventfd and those who poll the ring of what was posted.
  void Announce();
  void SignalEventFd();
  // Counts a completion and writes it down, once.
  void Record(const Completion& completion, const Operation& operation);

  // --- ring_work.cc: task work.
  // Does at most `items_max` pieces, and goes on only while `events_min` were not reached.
  void RunWork(unsigned events_min, unsigned items_max);
  unsigned RunList(WorkList& list, unsigned items_max);
  void OnWake(Operation& operation, std::uint32_t events);
  // To the end of the task work, unless a fault holds it back.
  void Queue(Operation& operation);
  void Enqueue(Operation& operation);
  void HoldBack(Operation& operation, Duration delay);

  // --- ring_submit.cc
  // False: the submission was refused, and its completion says why.
  bool Start(const io_uring_sqe& sqe);
  // 0, or the -errno that the operation ends with.
  int Prepare(Operation& operation, const io_uring_sqe& sqe);
  int PrepareTransfer(Operation& operation, const io_uring_sqe& sqe);
  int PrepareAccept(Operation& operation, const io_uring_sqe& sqe);
  int PrepareConnect(Operation& operation, const io_uring_sqe& sqe);
  int PreparePoll(Operation& operation, const io_uring_sqe& sqe);
  int Cancel(const io_uring_sqe& sqe);
  int CancelOne(Operation& operation);
  void Index(Operation& operation);
  void Unindex(Operation& operation);
  [[nodiscard]] Operation& Allocate();
  void Release(Operation& operation);

  // --- ring_operations.cc
  // An attempt, and then the wait.
  void Begin(Operation& operation);
  void Arm(Operation& operation);
  void Run(Operation& operation);
  void RunWoken(Operation& operation);
  void RunCancelled(Operation& operation);
  Outcome Try(Operation& operation);
  Outcome TrySend(Operation& operation);
  Outcome TryReceive(Operation& operation);
  Outcome TryAccept(Operation& operation);
  Outcome TryConnect(Operation& operation);
  // The next buffer of the group, which stays the next until it is used; null: it is empty.
  [[nodiscard]] BufferGroup* PeekBuffer(const Operation& operation, Buffer* buffer);
  // A result of a multishot operation that goes on. False: it does not.
  bool PostMore(Operation& operation, std::int32_t result, std::uint32_t flags);
  // The last completion, with the operation's result or with this failure, and its end.
  void Finish(Operation& operation);
  void Fail(Operation& operation, std::int32_t result);

  SimKernel& kernel_;
  const unsigned setup_flags_;
  bool disabled_;
  bool dead_ = false;

  Shared shared_;
  std::unique_ptr<unsigned[]> array_;
  std::unique_ptr<io_uring_sqe, Free> sqes_;
  std::unique_ptr<io_uring_cqe, Free> cqes_;

  std::deque<Completion> overflow_;
  bool pretend_full_ = false;  // kCompletionOverflow, until the enter ends.
  bool posted_ = false;        // Since the last Announce.

  std::map<std::uint16_t, BufferGroup> groups_;
  std::shared_ptr<File> event_fd_;

  WorkList work_;
  WorkList left_;            // What an enter did not get to; comes first in the next.
  unsigned work_count_ = 0;  // Of work_.
  SimKernel::Wait* waiting_ = nullptr;
  unsigned waited_for_ = 0;  // That many pieces of work wake it.

  std::vector<std::unique_ptr<Operation>> pool_;
  std::vector<Operation*> free_;
  std::uint64_t serial_ = 0;
  std::unordered_map<std::uint64_t, Operation*> index_;  // By user_data: the newest.
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING

#endif  // HOLDFAST_SIM_RING_H_
