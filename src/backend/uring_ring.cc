#include "backend/uring_ring.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <holdfast/error.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/poison.h"

namespace holdfast::internal {
namespace {

// Newer than the linux/io_uring.h of liburing 2.3. Without it an idle loop is accounted as waiting for
// a disk (iowait), Linux 6.15.
constexpr unsigned kFeatureNoIowait = 1u << 17;
constexpr unsigned kEnterNoIowait = 1u << 7;

// Of the ring: completions are made by the thread that enters, when it enters. This is where io_uring
// gains most, and needs one issuer (Linux 6.1).
constexpr unsigned kSetupRequired = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                    IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE |
                                    IORING_SETUP_CLAMP;

// What a kernel may not know, in the order in which it is done without.
struct OptionalSetup {
  UringFeature feature;
  unsigned flag;
};
constexpr OptionalSetup kSetupOptional[] = {
    {kUringTaskrunFlag, IORING_SETUP_TASKRUN_FLAG},
    {kUringSubmitAll, IORING_SETUP_SUBMIT_ALL},
};

// A completion queue that fits where locked memory is short: 16 KiB.
constexpr unsigned kSmallCompletionQueue = 1024;

constexpr unsigned kRequiredFeatures =
    IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;

constexpr unsigned kRequiredOperations[] = {
    IORING_OP_RECV,    IORING_OP_SEND,         IORING_OP_SENDMSG,  IORING_OP_ACCEPT,
    IORING_OP_CONNECT, IORING_OP_ASYNC_CANCEL, IORING_OP_POLL_ADD,
};

absl::Status ToStatus(Call call, int result) {
  // Out of descriptors is no answer about io_uring: epoll would be refused, too.
  if (Classify(call, -result).action == Action::kSurface) {
    return absl::ResourceExhaustedError(WhyNot(call, result));
  }
  return absl::UnimplementedError(WhyNot(call, result));
}

}  // namespace

std::string WhyNot(Call call, int result) {
  const Row row{call, -result};
  std::string why = std::string(ToString(call)) + ": " + CodeText(row);
  if (const Entry* const entry = FindInTables(row)) why += ", " + std::string(entry->meaning);
  return why;
}

// --- UringRing.

UringRing::~UringRing() {
  if (!open_) return;
  if (fork_.forked()) {
    // The ring was not mapped here, and what may be mapped in its place by now is not ours.
    static_cast<void>(kernel_.Close(fd()));
    return;
  }
  // The index holds the ring, and what is in flight on it, also when the descriptor is closed. Another
  // thread has another table; this one's is let go when it ends.
  if ((enter_flags_ & IORING_ENTER_REGISTERED_RING) != 0 &&
      registered_by_ == std::this_thread::get_id()) {
    io_uring_rsrc_update update{};
    update.offset = static_cast<__u32>(enter_fd_);
    static_cast<void>(kernel_.RingRegister(fd(), IORING_UNREGISTER_RING_FDS, &update, 1));
  }
  kernel_.RingExit(&ring_);
}

absl::Status UringRing::Open(const BackendOptions& options) {
  features_ = ((1u << kUringFeatureCount) - 1) & ~options.disable_mask;
  unsigned completions = std::max(options.cq_entries, options.sq_entries);
  const OptionalSetup* next_to_drop = std::begin(kSetupOptional);
  for (;;) {
    io_uring_params parameters{};
    parameters.flags = kSetupRequired;
    parameters.cq_entries = completions;
    for (const OptionalSetup& optional : kSetupOptional) {
      if (has(optional.feature)) parameters.flags |= optional.flag;
    }
    const int result = kernel_.RingSetup(options.sq_entries, &parameters, &ring_);
    if (result >= 0) break;
    const Error error = Classify(Call::kIoUringSetup, -result);
    const bool fall_back = error.action == Action::kFallBack;
    if (fall_back && error.error_class == ErrorClass::kUnsupported &&
        next_to_drop != std::end(kSetupOptional)) {
      features_ &= ~std::uint32_t{(next_to_drop++)->feature};
    } else if (fall_back && error.error_class == ErrorClass::kResource &&
               completions > std::max(kSmallCompletionQueue, options.sq_entries)) {
      completions = std::max(kSmallCompletionQueue, options.sq_entries);
    } else {
      return ToStatus(Call::kIoUringSetup, result);
    }
  }
  open_ = true;
  enter_fd_ = ring_.ring_fd;
  scratch_ = std::make_unique_for_overwrite<Scratch[]>(ring_.sq.ring_entries);
  return CheckAbilities();
}

absl::Status UringRing::CheckAbilities() {
  if ((ring_.features & kRequiredFeatures) != kRequiredFeatures) {
    return absl::UnimplementedError("io_uring: a feature of Linux 5.11 is missing");
  }
  if ((ring_.features & IORING_FEAT_CQE_SKIP) == 0) features_ &= ~std::uint32_t{kUringSkipSuccess};
  if ((ring_.features & kFeatureNoIowait) != 0) enter_flags_ |= kEnterNoIowait;

  constexpr unsigned kOperationsMax = 256;
  alignas(io_uring_probe)
      std::byte memory[sizeof(io_uring_probe) + kOperationsMax * sizeof(io_uring_probe_op)] = {};
  auto* const probe = reinterpret_cast<io_uring_probe*>(memory);
  const int result =
      kernel_.RingRegister(ring_.ring_fd, IORING_REGISTER_PROBE, probe, kOperationsMax);
  if (result < 0) return ToStatus(Call::kIoUringRegister, result);
  for (const unsigned operation : kRequiredOperations) {
    if (operation >= probe->ops_len || (probe->ops[operation].flags & IO_URING_OP_SUPPORTED) == 0) {
      return absl::UnimplementedError(
          absl::StrCat("io_uring: this kernel has no operation ", operation));
    }
  }
  return absl::OkStatus();
}

int UringRing::Enable() noexcept {
  const int result = kernel_.RingRegister(fd(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (result < 0) return result;
  enabled_ = true;
  if (has(kUringRegisteredRing)) {
    // Saves the lookup of the descriptor in every enter; the index is this thread's own.
    io_uring_rsrc_update update{};
    update.offset = ~0u;
    update.data = static_cast<__u64>(fd());
    if (kernel_.RingRegister(fd(), IORING_REGISTER_RING_FDS, &update, 1) == 1) {
      enter_fd_ = static_cast<int>(update.offset);
      enter_flags_ |= IORING_ENTER_REGISTERED_RING;
      registered_by_ = std::this_thread::get_id();
    } else {
      features_ &= ~std::uint32_t{kUringRegisteredRing};
    }
  }
  return 0;
}

bool UringRing::full() const noexcept {
  return ring_.sq.sqe_tail - submission_head() == ring_.sq.ring_entries;
}

UringRing::Staged UringRing::Stage(std::uint64_t user_data) noexcept {
  const std::size_t waiting = backlog_.size() - backlog_head_;
  const std::uint32_t position = ring_.sq.sqe_tail + static_cast<std::uint32_t>(waiting);
  if (backlog_.empty()) {
    if (io_uring_sqe* const sqe = io_uring_get_sqe(&ring_)) {
      sqe->user_data = user_data;
      return {sqe, &scratch_[position & ring_.sq.ring_mask], position};
    }
  }
  HOLDFAST_CHECK(backlog_.TryPushBack({}));
  Waiting& last = backlog_[backlog_.size() - 1];
  auto* const sqe = reinterpret_cast<io_uring_sqe*>(last.sqe);
  sqe->user_data = user_data;
  return {sqe, &last.scratch, position};
}

void UringRing::MoveBacklog() noexcept {
  for (; backlog_head_ < backlog_.size(); ++backlog_head_) {
    const std::uint32_t position = ring_.sq.sqe_tail;
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return;
    Scratch& scratch = scratch_[position & ring_.sq.ring_mask];
    const Waiting& first = backlog_[backlog_head_];
    std::memcpy(sqe, first.sqe, sizeof(first.sqe));
    scratch = first.scratch;
    // What pointed into the backlog points here now.
    if (sqe->opcode == IORING_OP_CONNECT) sqe->addr = reinterpret_cast<__u64>(&scratch.address);
    if (sqe->opcode == IORING_OP_SENDMSG) {
      sqe->addr = reinterpret_cast<__u64>(&scratch.message.header);
      scratch.message.header.msg_iov = scratch.message.parts;
    }
  }
  backlog_ = {};
  backlog_head_ = 0;
}

int UringRing::Enter(unsigned completions, Duration timeout, unsigned flags) noexcept {
  unsigned to_submit = 0;
  if ((flags & kSubmit) != 0) {
    MoveBacklog();
    io_uring_smp_store_release(ring_.sq.ktail, ring_.sq.sqe_tail);
    to_submit = ring_.sq.sqe_tail - submission_head();
  }
  const bool asked = has_flags();
  const unsigned tail = completion_tail();
  const int result = CallEnter(to_submit, completions, timeout, (flags & kGetEvents) != 0);
  // One that did not take all submissions has done nothing else.
  const bool ran = (flags & kGetEvents) != 0 && result == static_cast<int>(to_submit);
  asked_in_vain_ = asked && ran && completion_tail() == tail;
  return result;
}

int UringRing::CallEnter(unsigned to_submit, unsigned completions, Duration timeout,
                         bool get_events) noexcept {
  const unsigned flags = enter_flags_ | (get_events ? IORING_ENTER_GETEVENTS : 0u);
  if (completions == 0 || timeout == kNeverTimeout) {
    return kernel_.RingEnter(enter_fd_, to_submit, completions, flags, nullptr, 0);
  }
  const auto seconds = std::chrono::floor<std::chrono::seconds>(timeout);
  __kernel_timespec limit{};
  limit.tv_sec = seconds.count();
  limit.tv_nsec = (timeout - seconds).count();
  io_uring_getevents_arg argument{};
  argument.ts = reinterpret_cast<__u64>(&limit);
  return kernel_.RingEnter(enter_fd_, to_submit, completions, flags | IORING_ENTER_EXT_ARG,
                           &argument, sizeof(argument));
}

bool UringRing::has_work() const noexcept {
  return has_submissions() || (has_flags() && !asked_in_vain_);
}

bool UringRing::overflowed() const noexcept { return (SqFlags() & IORING_SQ_CQ_OVERFLOW) != 0; }

// --- BufferRing.

BufferRing::~BufferRing() {
  if (ring_ == nullptr) return;
  Unpoison(buffers_, count_ * stride_);
  std::free(ring_);
}

absl::Status BufferRing::Open(int ring_fd, unsigned count, unsigned size) {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kLine = 64;
  stride_ = (size + kLine - 1) / kLine * kLine + kLine;
  const std::size_t entries_size = (count * sizeof(io_uring_buf) + kPage - 1) / kPage * kPage;
  const std::size_t total = (entries_size + count * stride_ + kPage - 1) / kPage * kPage;
  void* const memory = std::aligned_alloc(kPage, total);
  if (memory == nullptr) return absl::ResourceExhaustedError("no memory for receive buffers");
  std::memset(memory, 0, entries_size);
  ring_ = static_cast<io_uring_buf_ring*>(memory);
  buffers_ = static_cast<std::byte*>(memory) + entries_size;
  count_ = count;
  size_ = size;

  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<__u64>(memory);
  registration.ring_entries = count;
  registration.bgid = kGroup;
  const int result = kernel_.RingRegister(ring_fd, IORING_REGISTER_PBUF_RING, &registration, 1);
  if (result < 0) return ToStatus(Call::kIoUringRegister, result);
  Poison(buffers_, count_ * stride_);
  for (unsigned id = 0; id < count; ++id) Publish(id);
  return absl::OkStatus();
}

const std::byte* BufferRing::Show(unsigned id, std::size_t size) noexcept {
  HOLDFAST_CHECK(id < count_);
  HOLDFAST_CHECK(size <= size_);
  Unpoison(At(id), size);
  return At(id);
}

void BufferRing::Return(unsigned id) noexcept {
  HOLDFAST_CHECK(id < count_);
  Poison(At(id), size_);
  Publish(id);
}

void BufferRing::Publish(unsigned id) noexcept {
  io_uring_buf_ring_add(ring_, At(id), size_, static_cast<std::uint16_t>(id),
                        io_uring_buf_ring_mask(count_), 0);
  io_uring_buf_ring_advance(ring_, 1);
}

}  // namespace holdfast::internal
