// The faults that a simulated kernel and network can do on their own: what, how often, and how often so far.
//
// A FaultPlan has a rate for each kind, in 1/65,536 of the occasions on which it could strike; whether it
// does is drawn from a seed. What a test schedules by
// hand (a partition, a crash) counts its hit as well, by Hit. Order and names are those of docs/simulation.md.
//
// A Chooser (chance.h) may decide instead of the rates and the seed; a rate of 0 stays 0.
#ifndef HOLDFAST_SIM_FAULTS_H_
#define HOLDFAST_SIM_FAULTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/chance.h"

namespace holdfast::internal::sim {

enum class Fault : std::uint8_t {
  // connect
  kRefusedReset,
  kRefusedIcmpPort,
  kConnectSilent,
  kHostUnreachable,
  kSoftIcmpWhileOwned,  // res 0 in SYN_SENT
  kNetUnreachable,
  kProhibited,
  kBlackhole,
  kAddressNotAvailable,
  kProtocolUnreachable,
  kSelfConnect,
  kResetAfterConnect,
  kFinAfterConnect,
  kLateConnect,     // succeeds after our timeout
  kConnectOddPath,  // EINTR of connect, EINPROGRESS on the ring
  // stream
  kPartialSend,
  kPartialReceive,
  kEagainStorm,
  kResetWithDataQueued,
  kResetTakenByOther,
  kFin,
  kFinThenReset,
  kHalfClose,
  kZeroWindow,
  kSilentLoss,
  kTimedOut,
  kSoftErrorDeath,
  kAborted,  // ECONNABORTED, as `ss -K` does
  kCorruption,
  kCompletionOrder,  // late and reordered completions, spurious wake-ups
  // resources
  kSocketLimit,
  kAcceptLimit,
  kNoMemory,
  kAllocationFailure,
  kCompletionOverflow,
  kSubmissionFull,
  kBuffersEmpty,
  kMultishotEnds,
  kEpollSpace,
  // time and process
  kClock,      // stall and jump
  kLateTimer,  // the wait ends late
  kInterrupted,
  kCancelRace,  // ENOENT, EALREADY
  kCompletionAfterClose,
  kDestroyInCallback,
  kPostDuringStop,
  kBackendLost,
  // names
  kNameTryAgain,
  kNameUnknown,
  kNameOutOfDescriptors,
  kNameNoData,
  kNameSlow,
  kNameChanged,
  kCount,
};
inline constexpr std::size_t kFaultKinds = static_cast<std::size_t>(Fault::kCount);
static_assert(kFaultKinds == 53);

// "refused_reset", ...
[[nodiscard]] std::string_view ToString(Fault fault) noexcept;

class FaultPlan {
 public:
  // No faults.
  explicit FaultPlan(std::uint64_t seed) noexcept : chance_(seed) {}

  // 0: never, 65,536: always.
  void SetRate(Fault fault, std::uint32_t rate) noexcept { rates_[Index(fault)] = rate; }
  [[nodiscard]] std::uint32_t rate(Fault fault) const noexcept { return rates_[Index(fault)]; }
  // False: nothing strikes. The rates are kept, and hold again from true on.
  void SetEnabled(bool enabled) noexcept { enabled_ = enabled; }
  [[nodiscard]] bool enabled() const noexcept { return enabled_; }

  // An occasion for `fault`: true, and counted, when it strikes. Draws only where the rate is above 0.
  [[nodiscard]] bool Strikes(Fault fault) noexcept {
    if (!Draws(fault)) return false;
    Hit(fault);
    return true;
  }
  // The same, not counted yet: for who must look first whether it can strike. Hit counts it then.
  [[nodiscard]] bool Draws(Fault fault) noexcept {
    const std::uint32_t rate = rates_[Index(fault)];
    if (rate == 0 || !enabled_) return false;
    if (Chooser* const chooser = chance_.chooser(); chooser != nullptr) {
      return chooser->Strikes(fault);
    }
    return chance_.Below(65536) < rate;
  }
  // It struck by other means (scheduled by hand, or as a consequence).
  void Hit(Fault fault) noexcept { ++hits_[Index(fault)]; }
  [[nodiscard]] std::uint64_t hits(Fault fault) const noexcept { return hits_[Index(fault)]; }

  // For what else a fault must draw (how many bytes, how long).
  [[nodiscard]] Chance& random() noexcept { return chance_; }
  // Null: chance decides again. Outlives its use.
  void SetChooser(Chooser* chooser) noexcept { chance_.SetChooser(chooser); }

 private:
  static std::size_t Index(Fault fault) noexcept { return static_cast<std::size_t>(fault); }

  Chance chance_;
  bool enabled_ = true;
  std::array<std::uint32_t, kFaultKinds> rates_{};
  std::array<std::uint64_t, kFaultKinds> hits_{};
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_FAULTS_H_
