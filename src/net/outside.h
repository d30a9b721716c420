// Bytes of the user's that a message is sent from without a copy.
#ifndef HOLDFAST_NET_OUTSIDE_H_
#define HOLDFAST_NET_OUTSIDE_H_

#include <span>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "machine/message_queue.h"
#include "reactor/reactor_core.h"

namespace holdfast::internal {

// A string or vector that was moved in.
template <class Container>
class OwnedBytes final : public OutsideBytes {
 public:
  explicit OwnedBytes(Container&& container) noexcept
      : OutsideBytes({}), container_(std::move(container)) {
    bytes_ = std::as_bytes(std::span(container_.data(), container_.size()));
  }
  // It was refused.
  [[nodiscard]] Container&& GiveBack() noexcept { return std::move(container_); }
  void Release() noexcept override { delete this; }

 private:
  Container container_;
};

// Bytes that stay the user's. The callback comes from the loop, or from the reactor's destructor.
class BorrowedBytes final : public OutsideBytes, private Deferred {
 public:
  BorrowedBytes(ReactorCore& core, std::span<const std::byte> bytes,
                absl::AnyInvocable<void()>&& release) noexcept
      : OutsideBytes(bytes), core_(core), release_(std::move(release)) {}
  ~BorrowedBytes() = default;
  void Release() noexcept override { core_.Defer(*this); }

 private:
  void RunDeferred() noexcept override {
    if (release_) release_();
    delete this;
  }

  ReactorCore& core_;
  absl::AnyInvocable<void()> release_;
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_OUTSIDE_H_
