#include "machine/ledger.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace holdfast::internal {

bool Ledger::Reserve() noexcept {
  if (spare_ == nullptr && (head_index_ + count_) % kPerBlock == 0) spare_ = pool_.Get();
  return spare_ != nullptr || (head_index_ + count_) % kPerBlock != 0;
}

bool Ledger::Push(std::uint64_t begin, std::uint64_t end) noexcept {
  HOLDFAST_CHECK(begin <= end);
  const std::size_t position = head_index_ + count_;  // Counted from the head block's first entry.
  const std::size_t index = position % kPerBlock;
  if (index == 0) {  // The first of all, too: an empty ledger stands at place 0.
    Block* block = spare_ != nullptr ? std::exchange(spare_, nullptr) : pool_.Get();
    if (block == nullptr) return false;
    block->next = nullptr;
    (tail_ == nullptr ? head_ : tail_->next) = block;
    tail_ = block;
  } else {
    HOLDFAST_CHECK(begin >= EntriesOf(tail_)[index - 1].end);
  }
  EntriesOf(tail_)[index] = {begin, end};
  ++count_;
  ++accepted_;
  ++next_sequence_;
  return true;
}

void Ledger::OnAcked(std::uint64_t boundary) noexcept {
  while (count_ > 0) {
    const Entry* first = EntriesOf(head_) + head_index_;
    const Entry* last = first + HeadCount();
    const Entry* kept = std::partition_point(
        first, last, [boundary](const Entry& entry) { return entry.end <= boundary; });
    const auto dropped = static_cast<std::size_t>(kept - first);
    acked_ += dropped;
    count_ -= dropped;
    head_index_ += dropped;
    if (kept != last) return;
    DropHead();
  }
  ReleaseSpare();
}

Ledger::Fates Ledger::Settle(std::uint64_t acked_boundary, std::uint64_t sent_boundary) noexcept {
  HOLDFAST_CHECK(acked_ + count_ == accepted_);
  OnAcked(acked_boundary);
  Fates fates{.first_sequence = first_sequence(), .acked = acked_};
  // The blocks whose last message left this host, then the one in which the boundary lies.
  while (count_ > 0) {
    const Entry* first = EntriesOf(head_) + head_index_;
    const Entry* last = first + HeadCount();
    const Entry* unsent = std::partition_point(
        first, last, [sent_boundary](const Entry& entry) { return entry.begin < sent_boundary; });
    fates.in_doubt += static_cast<std::uint64_t>(unsent - first);
    if (unsent != last) break;
    count_ -= HeadCount();
    DropHead();
  }
  fates.unsent = accepted_ - fates.acked - fates.in_doubt;
  ReleaseBlocks();
  return fates;
}

void Ledger::Clear() noexcept {
  ReleaseBlocks();
  accepted_ = 0;
  acked_ = 0;
}

void Ledger::CheckInvariants() const {
  HOLDFAST_CHECK((head_ == nullptr) == (count_ == 0));
  HOLDFAST_CHECK((tail_ == nullptr) == (count_ == 0));
  HOLDFAST_CHECK(acked_ + count_ <= accepted_);  // Less only after Settle.
  HOLDFAST_CHECK(accepted_ < next_sequence_);
  HOLDFAST_CHECK(head_index_ < kPerBlock);
  std::size_t left = count_;
  std::size_t index = head_index_;
  std::uint64_t end = 0;
  for (Block* block = head_; block != nullptr; block = block->next) {
    const std::size_t last = std::min(kPerBlock, index + left);
    HOLDFAST_CHECK(left > 0);
    left -= last - index;
    for (; index < last; ++index) {
      const Entry& entry = EntriesOf(block)[index];
      HOLDFAST_CHECK(end <= entry.begin && entry.begin <= entry.end);
      end = entry.end;
    }
    index = 0;
    HOLDFAST_CHECK((block == tail_) == (block->next == nullptr));
  }
  HOLDFAST_CHECK(left == 0);
}

Ledger::Entry* Ledger::EntriesOf(Block* block) noexcept {
  static_assert(alignof(Entry) <= 16 && kPerBlock * sizeof(Entry) == kBlockSize);
  return reinterpret_cast<Entry*>(block->data);
}

std::size_t Ledger::HeadCount() const noexcept { return std::min(count_, kPerBlock - head_index_); }

void Ledger::DropHead() noexcept {
  Block* block = head_;
  head_ = block->next;
  head_index_ = 0;
  if (head_ == nullptr) tail_ = nullptr;
  pool_.Put(block);
}

void Ledger::ReleaseBlocks() noexcept {
  while (head_ != nullptr) DropHead();
  count_ = 0;
  ReleaseSpare();
}

void Ledger::ReleaseSpare() noexcept {
  if (spare_ != nullptr) pool_.Put(std::exchange(spare_, nullptr));
}

}  // namespace holdfast::internal
