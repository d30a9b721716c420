#include "backend/uring_probe.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backend/uring_prepare.h"
#include "backend/uring_ring.h"

namespace holdfast::internal {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

constexpr unsigned kEntries = 8;
constexpr unsigned kBufferSize = 256;
constexpr std::size_t kSmallSize = 64;
constexpr std::size_t kLargeSize = 8u << 20;  // More than any pipe of the pair takes.
constexpr int kPipeSize = 64 << 10;           // SO_SNDBUF, lest a host's default exceeds 8 MiB.
constexpr Duration kPatience = 1s;            // Nothing here takes longer than a few microseconds.

enum Word : std::uint64_t { kReceiveWord = 1, kSendWord, kCancelWord };

struct Seen {
  std::uint64_t word;
  int result;
  unsigned flags;
};

// An answer to an enter that no later one will change: seccomp(2).
bool IsRefused(int result) {
  return result < 0 && Classify(Call::kIoUringEnter, -result).action == Action::kFallBack;
}

// A pair of sockets that closes itself.
class Pair {
 public:
  explicit Pair(Kernel& kernel) : kernel_(kernel) {
    result = kernel.SocketPair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() {
    if (result < 0) return;
    for (const int fd : fds) static_cast<void>(kernel_.Close(fd));
  }

  int fds[2] = {-1, -1};
  int result;

 private:
  Kernel& kernel_;
};

class SelfTest {
 public:
  explicit SelfTest(Kernel& kernel) : kernel_(kernel), buffers_(kernel), ring_(kernel) {}

  absl::Status Run() {
    const absl::Status opened =
        ring_.Open({.sq_entries = kEntries, .cq_entries = 2 * kEntries, .buffer_count = 2});
    if (!opened.ok()) return opened;
    if (!ring_.has(kUringSkipSuccess)) return Failed("no completion can be left out");
    const absl::Status registered = buffers_.Open(ring_.fd(), 2, kBufferSize);
    if (!registered.ok()) return registered;
    const int enabled = ring_.Enable();
    if (enabled < 0) return Failed(WhyNot(Call::kIoUringRegister, enabled));
    const Pair pair(kernel_);
    if (pair.result < 0) {
      const std::string why = "self-test: " + WhyNot(Call::kSocket, pair.result);
      return Classify(Call::kSocket, -pair.result).error_class == ErrorClass::kResource
                 ? absl::ResourceExhaustedError(why)
                 : absl::UnimplementedError(why);
    }
    const absl::Status received = TryReceive(pair);
    // Also after a failure: its submission names a descriptor that is about to be closed.
    const absl::Status ended = EndReceive();
    if (!received.ok()) return received;
    if (!ended.ok()) return ended;
    return TryFastSend(pair.fds[1]);
  }

 private:
  // Where the ring may not be entered at all, that is the reason.
  [[nodiscard]] absl::Status Failed(const std::string& what) const {
    return absl::UnimplementedError(
        "self-test: " + (IsRefused(entered_) ? WhyNot(Call::kIoUringEnter, entered_) : what));
  }

  // Submits, and answers what has completed since; waits for one completion if `wait`.
  std::vector<Seen> Turn(bool wait) {
    entered_ = ring_.Enter(wait ? 1 : 0, kPatience, UringRing::kSubmit | UringRing::kGetEvents);
    std::vector<Seen> seen;
    const unsigned head = ring_.completion_head();
    const unsigned count = ring_.completion_tail() - head;
    for (unsigned i = 0; i < count; ++i) {
      const io_uring_cqe& cqe = ring_.completion(head + i);
      seen.push_back({cqe.user_data, cqe.res, cqe.flags});
      if (cqe.user_data == kReceiveWord && (cqe.flags & IORING_CQE_F_MORE) == 0) {
        receive_ended_ = true;
      }
    }
    ring_.Consume(count);
    return seen;
  }

  void StageSend(int fd, const std::byte* data, std::size_t size) {
    const iovec part{const_cast<std::byte*>(data), size};  // Only read.
    PrepareSend(ring_.Stage(kSendWord), fd, {&part, 1}, true);
  }

  // Bytes that a fast send passed on come out of a multishot receive, which goes on.
  absl::Status TryReceive(const Pair& pair) {
    PrepareReceive(ring_.Stage(kReceiveWord).sqe, pair.fds[1], true, false);
    if (!Turn(false).empty()) return Failed("a receive ended before there was anything");

    for (unsigned round = 1; round <= 2; ++round) {
      std::array<std::byte, kSmallSize> message;
      message.fill(static_cast<std::byte>(round));
      StageSend(pair.fds[0], message.data(), message.size());
      const std::vector<Seen> seen = Turn(true);
      if (seen.size() != 1 || seen[0].word != kReceiveWord ||
          seen[0].result != static_cast<int>(message.size()) ||
          (seen[0].flags & IORING_CQE_F_MORE) == 0 || (seen[0].flags & IORING_CQE_F_BUFFER) == 0) {
        return Failed("a multishot receive does not tell what was sent");
      }
      const unsigned id = seen[0].flags >> IORING_CQE_BUFFER_SHIFT;
      const std::byte* const shown = buffers_.Show(id, message.size());
      const bool same = std::equal(message.begin(), message.end(), shown);
      buffers_.Return(id);
      if (!same) return Failed("a multishot receive does not deliver what was sent");
    }
    return absl::OkStatus();
  }

  // Cancelling ends the receive with a completion of its own, which follows the cancel's.
  absl::Status EndReceive() {
    if (receive_ended_) return absl::OkStatus();
    PrepareCancel(ring_.Stage(kCancelWord).sqe, kReceiveWord, false);
    for (unsigned turn = 0; turn < 2 && !receive_ended_; ++turn) Turn(true);
    return receive_ended_ ? absl::OkStatus() : Failed("a cancelled receive does not end");
  }

  // Into a pipe that nobody reads: all of it, then a part, then nothing.
  absl::Status TryFastSend(int fd) {
    static_cast<void>(kernel_.SetSockOpt(fd, SOL_SOCKET, SO_SNDBUF, &kPipeSize, sizeof(kPipeSize)));
    // Untouched pages of calloc cost nothing; what the pipe does not take is never read.
    const std::unique_ptr<void, decltype(&std::free)> memory(std::calloc(1, kLargeSize),
                                                             &std::free);
    if (memory == nullptr) return absl::ResourceExhaustedError("self-test: no memory");
    const auto* const data = static_cast<const std::byte*>(memory.get());

    StageSend(fd, data, kSmallSize);
    if (!Turn(false).empty()) return Failed("a send that fits is not silent");
    StageSend(fd, data, kLargeSize);
    const std::vector<Seen> large = Turn(false);
    if (large.size() != 1 || large[0].result <= 0 ||
        large[0].result >= static_cast<int>(kLargeSize)) {
      return Failed("a send that does not fit is not told short");
    }
    StageSend(fd, data, kSmallSize);
    const std::vector<Seen> blocked = Turn(false);
    if (blocked.size() != 1 || blocked[0].result >= 0 ||
        Classify(Call::kCqeSend, -blocked[0].result).error_class != ErrorClass::kTryAgain) {
      return Failed("a send into a full pipe is not sent back");
    }
    return absl::OkStatus();
  }

  Kernel& kernel_;
  BufferRing buffers_;  // Outlives the ring.
  UringRing ring_;
  bool receive_ended_ = false;
  int entered_ = 0;  // The answer to the last enter.
};

}  // namespace

absl::Status SelfTestUring(Kernel& kernel, int ring_fd) {
  static std::atomic<bool> passed = false;  // Of RealKernel() only.
  const bool real = &kernel == &RealKernel();
  if (real && passed.load()) {
    // The kernel is the same, but a sandbox may have been closed around this process since. A ring that
    // is not enabled yet says so (EBADFD), where the call is allowed.
    const int result = kernel.RingEnter(ring_fd, 0, 0, 0, nullptr, 0);
    return IsRefused(result) ? absl::UnimplementedError(WhyNot(Call::kIoUringEnter, result))
                             : absl::OkStatus();
  }
  const absl::Status status = SelfTest(kernel).Run();
  if (real && status.ok()) passed.store(true);
  return status;
}

}  // namespace holdfast::internal
