// What a link keeps of its messages beyond one session; net/link_delivery.cc is what it does with it.
//
// The messages of the session that is up are in its Connection, in the order of the wire. The backlog has
// those that wait for the next one: kept of the last, and held since. It joins them, in one step, when the
// gate opens: once on_up has returned, or, with login_timeout, at MarkHealthy. Until then what is sent
// belongs to the session. So there is one order, first to last: the connection's queue, then the backlog.
#ifndef HOLDFAST_NET_DELIVERY_H_
#define HOLDFAST_NET_DELIVERY_H_

#include <cstdint>
#include <memory>

#include <holdfast/link.h>
#include "base/intrusive_list.h"
#include "machine/message_queue.h"

namespace holdfast::internal {

struct Delivery {
  Delivery() noexcept = default;
  ~Delivery() {
    while (const FlushWait* const wait = flushes.PopFront()) delete wait;
  }
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  enum class Gate : std::uint8_t { kShut, kOpen };
  enum class Backlog : std::uint8_t { kHasRoom, kRefused };  // Refused: on_writable is owed.
  enum class Flushes : std::uint8_t { kOver, kAll };
  struct FlushWait : ListNode {
    std::uint64_t through = 0;  // The last message that was accepted before.
    bool all_acked = true;      // So far.
    absl::AnyInvocable<void(Link&, bool)> done;
  };

  std::uint64_t next_sequence = 1;
  Gate gate = Gate::kShut;
  Backlog room = Backlog::kHasRoom;
  std::unique_ptr<MessageQueue> backlog;  // Only where the options keep or hold anything.
  IntrusiveList<FlushWait> flushes;       // In the order of the calls.
  Instant next_look = Instant::min();     // For expired messages, not before.
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_DELIVERY_H_
