#include "sim/trace.h"

#include <cinttypes>
#include <cstdio>
#include <string>

#include "sim/schedule.h"

namespace holdfast::internal::sim {

// Seconds and microseconds since the start of the world: "12.345678 gateway  connect ...".
void Trace::Tell(Instant at, std::string_view who, std::string_view what) {
  if (!sink_) return;
  const std::int64_t microseconds =
      std::chrono::floor<std::chrono::microseconds>(at - Schedule::kStart).count();
  const bool before = microseconds < 0;
  const std::uint64_t distance = before ? 0 - static_cast<std::uint64_t>(microseconds)
                                        : static_cast<std::uint64_t>(microseconds);
  char time[48];
  std::snprintf(time, sizeof(time), "%s%" PRIu64 ".%06" PRIu64, before ? "-" : "",
                distance / 1'000'000, distance % 1'000'000);
  std::string line(time);
  line.append(1, ' ').append(who);
  constexpr std::size_t kWhoWidth = 8;  // So that the verbs stand below each other.
  if (who.size() < kWhoWidth) line.append(kWhoWidth - who.size(), ' ');
  line.append(1, ' ').append(what);
  sink_(line);
}

}  // namespace holdfast::internal::sim
