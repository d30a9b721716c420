// The messages of one session in order, until it is known what became of each.
//
// A message is where its bytes stand in the session's stream: [begin, end) in wire offsets. When the
// connection ends, two boundaries (machine/account.h) decide about all of them: acknowledged, in doubt,
// unsent, in this order, because the stream is in order. So a ledger is a queue of offsets that is cut
// twice, 16 bytes a message, in blocks of the reactor's pool, and an idle one holds no block. Sequence
// numbers start at 1 and never restart: a session is a range of them.
//
//   ledger.StartSession();
//   ledger.Push(0, 64);                             // sequence 1
//   ledger.OnAcked(64);                             // known acked, forgotten
//   Ledger::Fates fates = ledger.Settle(64, 128);   // at the end of the session
//
// Bytes that belong to no message (pings) leave gaps between entries. No clock, no syscall; memory
// comes from the pool alone. Reactor thread.
#ifndef HOLDFAST_MACHINE_LEDGER_H_
#define HOLDFAST_MACHINE_LEDGER_H_

#include <cstddef>
#include <cstdint>

#include "core/block_pool.h"

namespace holdfast::internal {

class Ledger {
 public:
  // What became of the messages of a session: the first `acked` of them were acknowledged by the
  // peer's kernel, the `in_doubt` that follow may have arrived, the `unsent` last ones never left.
  // The sum is accepted().
  struct Fates {
    std::uint64_t first_sequence = 0;  // Of the session; the next one to be given when it had none.
    std::uint64_t acked = 0;
    std::uint64_t in_doubt = 0;
    std::uint64_t unsent = 0;

    friend constexpr bool operator==(const Fates&, const Fates&) noexcept = default;
  };

  // The pool must outlive the ledger.
  explicit Ledger(BlockPool& pool) noexcept : pool_(pool) {}
  ~Ledger() { Clear(); }
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // A new session: wire offsets begin anew and the counts are 0; the sequence goes on.
  void StartSession() noexcept { Clear(); }
  // The sequence that the next Push gives.
  [[nodiscard]] std::uint64_t next_sequence() const noexcept { return next_sequence_; }
  // Makes sure that the next Push finds memory, so that a message is accounted for before its bytes are
  // taken. False when there is none. Holds until that Push, the next OnAcked, or the session's end.
  [[nodiscard]] bool Reserve() noexcept;
  // Accepts a message under next_sequence(). False when there is no memory: nothing has changed.
  // Requires: begin <= end, and begin at or behind the end of the message before.
  [[nodiscard]] bool Push(std::uint64_t begin, std::uint64_t end) noexcept;
  // Everything below `boundary` is acknowledged: messages that end there or before are counted and
  // forgotten. A boundary that goes back changes nothing. A binary search in each block that it
  // frees, and in one more.
  void OnAcked(std::uint64_t boundary) noexcept;
  // The end of the session. Final: what is outstanding is divided, every block is released, and only
  // StartSession follows. The counts stay readable until then; a boundary below what OnAcked was told
  // takes nothing back. O(blocks).
  [[nodiscard]] Fates Settle(std::uint64_t acked_boundary, std::uint64_t sent_boundary) noexcept;
  // Forgets the session and releases every block.
  void Clear() noexcept;

  // Messages of this session: accepted, and known to be acknowledged.
  [[nodiscard]] std::uint64_t accepted() const noexcept { return accepted_; }
  [[nodiscard]] std::uint64_t acked() const noexcept { return acked_; }
  // The sequence of this session's first message, given or to be given.
  [[nodiscard]] std::uint64_t first_sequence() const noexcept { return next_sequence_ - accepted_; }
  // Messages held here: accepted and not yet known to be acknowledged; 0 after Settle.
  [[nodiscard]] std::size_t outstanding() const noexcept { return count_; }

  // Walks the blocks and checks that they hold what the members say. For tests: O(outstanding).
  void CheckInvariants() const;

 private:
  struct Entry {
    std::uint64_t begin;
    std::uint64_t end;
  };
  static constexpr std::size_t kPerBlock = kBlockSize / sizeof(Entry);

  [[nodiscard]] static Entry* EntriesOf(Block* block) noexcept;
  // Entries in head_. Requires: count_ > 0.
  [[nodiscard]] std::size_t HeadCount() const noexcept;
  void DropHead() noexcept;
  void ReleaseSpare() noexcept;
  void ReleaseBlocks() noexcept;

  BlockPool& pool_;
  Block* head_ = nullptr;  // The oldest entries; null when there are none.
  Block* tail_ = nullptr;
  Block* spare_ = nullptr;      // Reserved for the next entry; null once it is used.
  std::size_t head_index_ = 0;  // The oldest entry's place in head_.
  std::size_t count_ = 0;       // Entries from there on; only the tail block is not full.
  std::uint64_t accepted_ = 0;
  std::uint64_t acked_ = 0;
  std::uint64_t next_sequence_ = 1;
};

// When it is worth asking the kernel how much is acknowledged, so that acknowledged bytes and messages
// are not held for long: after every 64 KiB written and after every 256 messages. One SIOCOUTQ
// costs as much as a third of a send, so asking after each of them was rejected. What the last of these
// leaves is asked for by the connection: once a second while it sends nothing, until all is acknowledged.
class TrimPolicy {
 public:
  // The kernel took `bytes`.
  void OnWritten(std::size_t bytes) noexcept { bytes_ += bytes; }
  // A message was accepted.
  void OnMessage() noexcept { ++messages_; }
  [[nodiscard]] bool due() const noexcept {
    return bytes_ >= kBytesMax || messages_ >= kMessagesMax;
  }
  // The kernel was asked, or the session ended.
  void Reset() noexcept { bytes_ = messages_ = 0; }

 private:
  static constexpr std::size_t kBytesMax = 64 * 1024;
  static constexpr std::size_t kMessagesMax = 256;

  std::size_t bytes_ = 0;
  std::size_t messages_ = 0;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_LEDGER_H_
