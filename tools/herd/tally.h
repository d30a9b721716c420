// What a herd did, counted: dials and comebacks by the tenth of a second, and the figures made of them.
//
// Pure arithmetic in integers: whoever feeds it says when. Time is counted from the loss of the server,
// and a link is up when the server that came back has greeted it: all are down at the loss, also those
// that do not know it yet. A dial is an attempt of a Link to connect, whatever the kernel sends for it.
//
//   Tally tally(links, outage);
//   tally.OnDial(at);                 // A link dials: ...
//   tally.OnUp(now, dialed);          // ... and is greeted,
//   tally.OnFailed(dialed);           // ... or is not.
//   const Figures figures = tally.Finish(end);
#ifndef HOLDFAST_TOOLS_HERD_TALLY_H_
#define HOLDFAST_TOOLS_HERD_TALLY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <holdfast/time.h>

namespace holdfast::herd {

// What is counted is counted in grains.
inline constexpr Duration kGrain = std::chrono::milliseconds(100);
inline constexpr std::size_t kGrainsPerSecond = 10;

// Of the outage, or of the time from the server's return on.
struct Phase {
  Duration length{0};  // In whole grains.
  std::uint64_t dials = 0;
  std::uint64_t wasted = 0;  // Dials that began in it and ended without a greeting.
  // The most dials in any second that lies wholly in it; all of them where it is shorter than one.
  std::uint64_t peak_second = 0;
  std::uint64_t peak_grain = 0;  // The most dials in a tenth of a second.
  // The fullest second, over the mean of the phase (its dials, over its length); in hundredths, rounded
  // down. 0 when there was no dial, 1.00 for a phase that is not longer than its fullest second.
  [[nodiscard]] std::uint64_t peak_over_mean_hundredths() const noexcept;
};

struct Figures {
  std::uint64_t links = 0;
  std::uint64_t dials = 0;
  std::uint64_t ups = 0;
  std::uint64_t wasted = 0;
  std::uint64_t dialing = 0;  // Still under way at the end: dials = ups + wasted + dialing.
  Phase outage;
  // Dials a second in the last ten seconds of the outage: what the policy comes to when it lasts. Rounded
  // down; all of it where it is shorter.
  std::uint64_t late_dials_per_second = 0;
  Phase recovery;  // From the server's return until the end.
  // From the server's return until so many per cent of the links, rounded up, were up for the first
  // time.
  static constexpr std::array<unsigned, 3> kShares = {50, 99, 100};
  std::array<std::optional<Duration>, 3> up_after{};
};

class Tally {
 public:
  // Requires: links > 0.
  Tally(std::uint64_t links, Duration outage);

  // All times are >= 0.
  void OnDial(Duration at);
  // A link is greeted, which dialed at `dialed`.
  void OnUp(Duration at, Duration dialed);
  // The dial of `dialed` is over, without a greeting.
  void OnFailed(Duration dialed);
  // A link that was up is not any more.
  void OnDown(Duration at);

  [[nodiscard]] std::uint64_t up() const noexcept { return up_; }
  [[nodiscard]] std::uint64_t ups() const noexcept { return ups_; }  // Greetings, so far.
  [[nodiscard]] bool all_up() const noexcept { return up_ == links_; }

  // Of what there was until `end`, at which all were up, or nobody wants to wait any longer.
  [[nodiscard]] Figures Finish(Duration end) const;
  // "t_ms,dials_per_s,ups_per_s,up" and a line for each bin from the loss to `end`: when it begins, what
  // happened in it a second, and how many links were up at its end. `bin` is a multiple of the grain; the
  // last one may reach beyond the end.
  [[nodiscard]] std::string Csv(Duration end, Duration bin) const;

 private:
  struct Grain {
    std::uint32_t dials = 0;
    std::uint32_t ups = 0;
    std::uint32_t downs = 0;
  };

  [[nodiscard]] Grain& At(Duration at);
  [[nodiscard]] Phase Measure(std::size_t begin, std::size_t end) const;

  const std::uint64_t links_;
  const Duration outage_;
  std::vector<Grain> grains_;
  std::uint64_t up_ = 0;
  std::uint64_t dials_ = 0;
  std::uint64_t ups_ = 0;
  std::array<std::uint64_t, 2> wasted_{};  // Of dials of the outage, and of those after it.
  std::array<std::optional<Duration>, 3> up_after_{};
};

}  // namespace holdfast::herd

#endif  // HOLDFAST_TOOLS_HERD_TALLY_H_
