#include "fuzz/order_input.h"

#include "base/random.h"

namespace holdfast::fuzz {

using internal::sim::Fault;

std::uint8_t OrderInput::Header() {
  if (rest_.empty()) return 0;
  const std::uint8_t byte = rest_.front();
  rest_ = rest_.subspan(1);
  return byte;
}

std::optional<Command> OrderInput::Next() {
  if (rest_.empty()) return std::nullopt;
  Command command;
  const std::uint8_t first = Header();
  command.is_time = first < kFirstCommand;
  command.code = command.is_time ? first : static_cast<std::uint8_t>(first - kFirstCommand);
  if (command.is_time) return command;
  const std::size_t count = operands_of_(command.code);
  for (std::size_t i = 0; i < count && !rest_.empty() && rest_.front() < kFirstCommand; ++i) {
    command.operands[i] = Header();
  }
  return command;
}

void Luck::Arrange(Fault fault, std::uint8_t when, std::uint8_t detail) noexcept {
  Arranged& arranged = faults_[static_cast<std::size_t>(fault)];
  arranged.occasions |= when < 64 ? std::uint64_t{1} << when : when - 63U;
  arranged.detail = detail;
}

bool Luck::Strikes(Fault fault) noexcept {
  Arranged& arranged = faults_[static_cast<std::size_t>(fault)];
  const bool strikes = (arranged.occasions & 1) != 0;
  arranged.occasions >>= 1;
  detail_.reset();
  if (!strikes) return false;
  detail_ = arranged.detail;
  last_ = static_cast<std::size_t>(fault);
  return true;
}

// A detail has a digit for each draw: of a choice the choice, of a quantity its magnitude, 0 being the least.
std::uint64_t Luck::Below(std::uint64_t bound) noexcept {
  if (bound == 0) return internal::SplitMix64(words_);
  if (detail_.has_value()) {
    constexpr unsigned kMagnitudes = 12;
    const unsigned digits = bound <= kFirstCommand ? static_cast<unsigned>(bound) : kMagnitudes;
    const unsigned digit = *detail_ % digits;
    *detail_ /= digits;
    if (bound <= kFirstCommand) return digit;
    return digit == 0 ? 0 : (bound - 1) >> (2 * (kMagnitudes - 1 - digit));
  }
  if (shares_.empty()) return bound - 1;  // No jitter, no loss, some port.
  const std::uint64_t share = shares_.front();
  shares_.pop_front();
  return bound <= kFirstCommand ? share % bound : bound / kFirstCommand * share;
}

std::size_t Luck::NextTask(std::size_t count) noexcept {
  const std::size_t next = tasks_ % count;
  tasks_ /= count;
  return next;
}

}  // namespace holdfast::fuzz
