#include "machine/send_queue.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace holdfast::internal {

bool SendQueue::Append(std::span<const std::byte> bytes) noexcept {
  if (bytes.empty()) return true;
  const std::size_t room = tail_ == nullptr ? 0 : kBlockSize - Place(end_, tail_base_);

  // All the memory first, so that a refusal leaves nothing behind.
  Block* fresh = nullptr;
  Block** link = &fresh;
  for (std::size_t space = room; space < bytes.size(); space += kBlockSize) {
    *link = pool_.Get();
    if (*link == nullptr) {
      ReturnBlocks(fresh);
      return false;
    }
    link = &(*link)->next;
  }

  if (head_ == nullptr) {
    head_ = tail_ = cursor_ = fresh;
    head_base_ = tail_base_ = cursor_base_ = end_;
  } else {
    tail_->next = fresh;
  }
  while (!bytes.empty()) {
    if (Place(end_, tail_base_) == kBlockSize) {
      tail_ = tail_->next;
      tail_base_ += kBlockSize;
    }
    const std::size_t place = Place(end_, tail_base_);
    const std::size_t size = std::min(bytes.size(), kBlockSize - place);
    std::memcpy(tail_->data + place, bytes.data(), size);
    end_ += size;
    bytes = bytes.subspan(size);
  }
  MoveCursor();
  return true;
}

std::size_t SendQueue::Gather(std::span<iovec> out) const noexcept {
  std::size_t count = 0;
  std::uint64_t offset = sent_;
  std::uint64_t base = cursor_base_;
  for (Block* block = cursor_; count < out.size() && offset < end_; block = block->next) {
    const std::size_t place = Place(offset, base);
    const std::size_t size = std::min(Place(end_, offset), kBlockSize - place);
    out[count++] = {block->data + place, size};
    offset += size;
    base += kBlockSize;
  }
  return count;
}

void SendQueue::OnSent(std::size_t bytes) noexcept {
  HOLDFAST_CHECK(bytes <= queued());
  sent_ += bytes;
  MoveCursor();
}

void SendQueue::Release(std::uint64_t boundary) noexcept {
  HOLDFAST_CHECK(boundary <= sent_);
  if (boundary <= released_) return;
  released_ = boundary;
  if (released_ == end_) {
    ReturnBlocks(head_);
    head_ = tail_ = cursor_ = nullptr;
    return;
  }
  // The cursor is never behind: it stands at or behind sent(), and that is not below `boundary`.
  while (Place(released_, head_base_) >= kBlockSize) {
    Block* block = head_;
    head_ = block->next;
    head_base_ += kBlockSize;
    pool_.Put(block);
  }
}

void SendQueue::Clear() noexcept {
  ReturnBlocks(head_);
  head_ = tail_ = cursor_ = nullptr;
  released_ = sent_ = end_ = 0;
}

void SendQueue::CheckInvariants() const {
  HOLDFAST_CHECK(released_ <= sent_ && sent_ <= end_);
  HOLDFAST_CHECK((head_ == nullptr) == (released_ == end_));
  if (head_ == nullptr) {
    HOLDFAST_CHECK(tail_ == nullptr && cursor_ == nullptr);
    return;
  }
  HOLDFAST_CHECK(head_base_ <= released_ && Place(released_, head_base_) < kBlockSize);
  HOLDFAST_CHECK(tail_base_ < end_ && Place(end_, tail_base_) <= kBlockSize);
  HOLDFAST_CHECK(cursor_base_ <= sent_ && Place(sent_, cursor_base_) <= kBlockSize);
  HOLDFAST_CHECK(Place(sent_, cursor_base_) < kBlockSize || cursor_ == tail_);
  bool cursor_seen = false;
  std::uint64_t base = head_base_;
  for (const Block* block = head_; block != nullptr; block = block->next, base += kBlockSize) {
    HOLDFAST_CHECK((block == tail_) == (block->next == nullptr));
    HOLDFAST_CHECK((block == tail_) == (base == tail_base_));
    HOLDFAST_CHECK((block == cursor_) == (base == cursor_base_));
    cursor_seen = cursor_seen || block == cursor_;
  }
  HOLDFAST_CHECK(cursor_seen);
}

void SendQueue::MoveCursor() noexcept {
  while (cursor_ != tail_ && Place(sent_, cursor_base_) >= kBlockSize) {
    cursor_ = cursor_->next;
    cursor_base_ += kBlockSize;
  }
}

void SendQueue::ReturnBlocks(Block* block) noexcept {
  while (block != nullptr) {
    Block* next = block->next;
    pool_.Put(block);
    block = next;
  }
}

}  // namespace holdfast::internal
