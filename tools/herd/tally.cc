#include "herd/tally.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::herd {
namespace {

constexpr std::size_t kLateGrains = 10 * kGrainsPerSecond;

// Grains until `at`, the one it lies in not counted; and those that it takes to reach it.
std::size_t GrainOf(Duration at) noexcept { return static_cast<std::size_t>(at / kGrain); }
std::size_t GrainsTo(Duration at) noexcept { return GrainOf(at + kGrain - Duration(1)); }

}  // namespace

std::uint64_t Phase::peak_over_mean_hundredths() const noexcept {
  if (dials == 0) return 0;
  const auto grains = static_cast<std::uint64_t>(length / kGrain);
  const std::uint64_t of_peak = std::min<std::uint64_t>(grains, kGrainsPerSecond);
  return peak_second * grains * 100 / (dials * of_peak);
}

Tally::Tally(std::uint64_t links, Duration outage) : links_(links), outage_(outage) {
  HOLDFAST_CHECK(links > 0);
}

Tally::Grain& Tally::At(Duration at) {
  HOLDFAST_CHECK(at >= Duration::zero());
  const std::size_t index = GrainOf(at);
  if (index >= grains_.size()) grains_.resize(index + 1);
  return grains_[index];
}

void Tally::OnDial(Duration at) {
  ++At(at).dials;
  ++dials_;
}

void Tally::OnUp(Duration at, Duration dialed) {
  HOLDFAST_CHECK(dialed <= at && up_ < links_);
  ++At(at).ups;
  ++up_;
  ++ups_;
  for (std::size_t i = 0; i < Figures::kShares.size(); ++i) {
    const bool reached = up_ * 100 >= links_ * Figures::kShares[i];
    if (reached && !up_after_[i].has_value()) up_after_[i] = at - outage_;
  }
}

void Tally::OnFailed(Duration dialed) { ++wasted_[dialed >= outage_]; }

void Tally::OnDown(Duration at) {
  HOLDFAST_CHECK(up_ > 0);
  ++At(at).downs;
  --up_;
}

Phase Tally::Measure(std::size_t begin, std::size_t end) const {
  Phase phase;
  phase.length = kGrain * static_cast<Duration::rep>(end - begin);
  const auto dials = [&](std::size_t grain) -> std::uint64_t {
    return grain < grains_.size() ? grains_[grain].dials : 0;
  };
  std::uint64_t second = 0;  // Of the grains up to this one, ten at most.
  for (std::size_t i = begin; i < end; ++i) {
    phase.peak_grain = std::max(phase.peak_grain, dials(i));
    second += dials(i);
    if (i >= begin + kGrainsPerSecond) second -= dials(i - kGrainsPerSecond);
    phase.peak_second = std::max(phase.peak_second, second);
    phase.dials += dials(i);
  }
  return phase;
}

Figures Tally::Finish(Duration end) const {
  Figures figures;
  figures.links = links_;
  figures.dials = dials_;
  figures.ups = ups_;
  figures.wasted = wasted_[0] + wasted_[1];
  figures.dialing = figures.dials - figures.ups - figures.wasted;
  const std::size_t back = GrainsTo(outage_);
  figures.outage = Measure(0, back);
  const Phase late = Measure(back - std::min(back, kLateGrains), back);
  if (back > 0) {
    figures.late_dials_per_second =
        late.dials * kGrainsPerSecond / static_cast<std::uint64_t>(late.length / kGrain);
  }
  figures.recovery = Measure(back, std::max(back, GrainsTo(end)));
  figures.outage.wasted = wasted_[0];
  figures.recovery.wasted = wasted_[1];
  figures.up_after = up_after_;
  return figures;
}

std::string Tally::Csv(Duration end, Duration bin) const {
  const std::size_t width = std::max<std::size_t>(GrainOf(bin), 1);
  const std::size_t grains = GrainsTo(end);
  std::string text = "t_ms,dials_per_s,ups_per_s,up\n";
  std::uint64_t up = 0;
  for (std::size_t begin = 0; begin < grains; begin += width) {
    std::uint64_t dials = 0;
    std::uint64_t ups = 0;
    for (std::size_t i = begin; i < std::min(begin + width, grains_.size()); ++i) {
      dials += grains_[i].dials;
      ups += grains_[i].ups;
      up += grains_[i].ups;
      up -= grains_[i].downs;
    }
    const auto t_ms = begin * static_cast<std::size_t>(kGrain / std::chrono::milliseconds(1));
    text += std::to_string(t_ms) + ',' + std::to_string(dials * kGrainsPerSecond / width) + ',' +
            std::to_string(ups * kGrainsPerSecond / width) + ',' + std::to_string(up) + '\n';
  }
  return text;
}

}  // namespace holdfast::herd
