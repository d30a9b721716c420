// An operation of a simulated ring, from its submission to its last completion (struct io_kiocb).
#ifndef HOLDFAST_SIM_RING_OPERATION_H_
#define HOLDFAST_SIM_RING_OPERATION_H_

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/intrusive_list.h"
#include "sim/file.h"
#include "sim/ring.h"

namespace holdfast::internal::sim {

// Operations are pooled; `state` and `file` are what is new for each.
struct Ring::Operation final : PollWaiter, TaggedListNode<Ring> {
  using Waiter = PollWaiter;          // On its file, while it waits.
  using Work = TaggedListNode<Ring>;  // On the ring's task work.

  explicit Operation(Ring& owner) noexcept : ring(owner) {}

  void OnWake(std::uint32_t events) override { ring.OnWake(*this, events); }
  [[nodiscard]] bool waits() const noexcept { return static_cast<const Waiter*>(this)->linked(); }

  struct State {
    // What was submitted.
    std::uint64_t user_data = 0;
    std::uint64_t serial = 0;  // Of the ring; tells two uses of one Operation apart.
    int fd = -1;               // For the story: the file is what counts.
    std::uint8_t opcode = 0;
    bool skip_success = false;   // IOSQE_CQE_SKIP_SUCCESS
    bool select_buffer = false;  // IOSQE_BUFFER_SELECT
    bool multishot = false;
    bool poll_first = false;  // IORING_RECVSEND_POLL_FIRST
    bool no_wait = false;     // MSG_DONTWAIT
    bool wait_all = false;    // MSG_WAITALL
    std::uint16_t group = 0;
    int flags = 0;                // MSG_ or SOCK_
    std::byte* data = nullptr;    // A receive's.
    std::size_t size = 0;         // A receive's; 0: the whole buffer.
    sockaddr* address = nullptr;  // An accept's, the user's.
    socklen_t* address_size = nullptr;

    // How far it is.
    std::size_t done = 0;      // Bytes, in a transfer of all or nothing.
    std::uint32_t events = 0;  // Which it waits for, or would.
    unsigned arms = 0;
    unsigned rounds = 0;       // Of a multishot receive, in one go.
    bool in_progress = false;  // Of a connect.
    bool saw_abort = false;    // Of a connect.
    bool in_worker = false;    // It has polled so often in vain that a kernel worker waits for it.

    // What has happened to it.
    bool indexed = false;  // A cancel finds it.
    bool queued = false;   // It is task work, or that is being done.
    bool held = false;     // It is task work that a fault keeps back.
    bool again = false;    // As task work it begins anew: it was ready when it was armed.
    bool cancelled = false;
    bool last_try = false;       // Cancelled, it may still succeed (kCancelRace).
    unsigned wakes = 0;          // Since it was last looked at.
    std::uint32_t woken_by = 0;  // The events of the first of them; 0: unknown.

    // What it comes to.
    std::int32_t result = 0;
    std::uint32_t result_flags = 0;
    bool failed = false;  // Its completion is posted although successes are skipped.
  };

  Ring& ring;
  State state;
  std::shared_ptr<File> file;
  SocketFile* socket = nullptr;            // `file`, where it is one.
  std::vector<iovec> parts;                // What is still to be sent.
  std::unique_ptr<sockaddr_storage> peer;  // A connect's.
  socklen_t peer_size = 0;
  Operation* older = nullptr;  // Of the same user_data, in the index.
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_RING_OPERATION_H_
