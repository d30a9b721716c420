// The bytes of a fuzzer as a script: what the user does, what goes wrong, and what is left to chance.
//
// A mutation should change one thing. So nothing here counts bytes: a byte of 0xc0 and above begins a
// command, the bytes below it that follow are its operands, as many as it takes (those that are missing are
// 0), and any other byte lets time pass. A byte that is lost or put in spoils one command and no other; a
// piece of one input makes sense in another. For the same reason a command says beforehand what chance is to
// do ("of the next calls that could be interrupted the third is, by this number"), instead of chance taking
// the next byte: otherwise one segment more would be another story from there on.
//
//   header (17 bytes)  who there is, over which backend, and the options of up to three links
//   00..bf             time passes: up to 64 instants at which something happens, or 8 us to 0.5 s
//   c0..ff             a command, the table in order_world.cc
#ifndef HOLDFAST_TESTS_FUZZ_ORDER_INPUT_H_
#define HOLDFAST_TESTS_FUZZ_ORDER_INPUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>

#include <holdfast/time.h>
#include "sim/chance.h"
#include "sim/faults.h"

namespace holdfast::fuzz {

inline constexpr std::uint8_t kFirstCommand = 0xc0;  // What is below is an operand.
inline constexpr std::size_t kOperandsMax = 5;

struct Command {
  std::uint8_t code = 0;  // From 0; or, where `is_time`, what the byte says.
  bool is_time = false;
  std::array<std::uint8_t, kOperandsMax> operands{};  // Each below kFirstCommand.
};

class OrderInput {
 public:
  // `operands_of` says how many operands a code takes; it and the bytes outlive this.
  OrderInput(std::span<const std::uint8_t> bytes, std::size_t (*operands_of)(std::uint8_t code))
      : rest_(bytes), operands_of_(operands_of) {}

  // A byte of the header; 0 when the bytes are used up.
  [[nodiscard]] std::uint8_t Header();
  // Nothing when the bytes are used up.
  [[nodiscard]] std::optional<Command> Next();

 private:
  std::span<const std::uint8_t> rest_;
  std::size_t (*operands_of_)(std::uint8_t code);
};

// Chance, as the commands have arranged it. What nobody arranged does not happen.
class Luck final : public internal::sim::Chooser {
 public:
  // Of the next occasions for `fault` one strikes (`when` < 64: after so many), or several of the next seven
  // (the bits of `when` - 63). `detail` decides what else the fault draws.
  void Arrange(internal::sim::Fault fault, std::uint8_t when, std::uint8_t detail) noexcept;
  // The next draw that is not a fault's (jitter, loss, a port) is this share of 192.
  void Push(std::uint8_t share) { shares_.push_back(share); }
  // Which of the tasks that may run go next, as digits.
  void PushTasks(std::uint8_t digits) noexcept { tasks_ = tasks_ * kFirstCommand + digits; }

  // The kind that struck last, since this was asked last; kCount: none.
  [[nodiscard]] std::size_t TakeLast() noexcept {
    return std::exchange(last_, internal::sim::kFaultKinds);
  }

  bool Strikes(internal::sim::Fault fault) noexcept override;
  std::uint64_t Below(std::uint64_t bound) noexcept override;
  std::size_t NextTask(std::size_t count) noexcept override;

 private:
  struct Arranged {
    std::uint64_t occasions = 0;  // The next one is the lowest bit.
    std::uint8_t detail = 0;
  };

  std::array<Arranged, internal::sim::kFaultKinds> faults_{};
  std::optional<unsigned> detail_;  // Of the fault that has just struck; what is left of it.
  std::deque<std::uint8_t> shares_;
  std::uint64_t tasks_ = 0;
  std::size_t last_ = internal::sim::kFaultKinds;
  std::uint64_t words_ = 0;  // Drawn as whole words: never twice the same.
};

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_ORDER_INPUT_H_
