#include "machine/account.h"

#include <algorithm>

namespace holdfast::internal {
namespace {

// The largest window that TCP can announce is 65,535 << 14 (RFC 7323); tcp_disconnect adds 2 to the
// largest one seen.
constexpr std::uint32_t kDisconnectStepMin = 2;
constexpr std::uint32_t kDisconnectStepMax = (std::uint32_t{65535} << 14) + 2;

// The end of the data when `behind` positions follow it up to the kernel's write position, which
// stands one behind the data once our FIN is queued. Requires: behind <= written + own_fin.
[[nodiscard]] std::uint64_t Boundary(std::uint64_t written, std::uint32_t behind,
                                     bool own_fin) noexcept {
  return own_fin ? std::min(written, written + 1 - behind) : written - behind;
}

[[nodiscard]] bool Plausible(std::uint64_t written, std::uint32_t unacked, std::uint32_t unsent,
                             bool own_fin) noexcept {
  return unacked <= written + (own_fin ? 1 : 0) && unsent <= unacked;
}

// bytes_acked counts what SIOCOUTQ no longer does, and the SYN if we opened the connection.
[[nodiscard]] bool AgreesWithBytesAcked(std::uint64_t written, const DeathFacts& facts) noexcept {
  const std::uint64_t acked = written + (facts.own_fin ? 1 : 0) - facts.outq;
  return facts.bytes_acked == acked || facts.bytes_acked == acked + 1;
}

}  // namespace

std::uint64_t AckedBoundary(std::uint64_t written, std::uint32_t outq, bool own_fin) noexcept {
  return Plausible(written, outq, 0, own_fin) ? Boundary(written, outq, own_fin) : 0;
}

WireAccount AccountOfUnknown(std::uint64_t written, std::uint64_t acked_before) noexcept {
  const std::uint64_t acked = std::min(acked_before, written);
  // What is acknowledged to the last byte leaves no doubt, wherever the figure came from.
  return {acked, written, acked == written};
}

WireAccount AccountOfDead(std::uint64_t written, const DeathFacts& facts) noexcept {
  // On AF_UNIX SIOCOUTQ counts the memory of what the peer has not read, not bytes.
  if (!facts.tcp || !facts.outq_valid) return AccountOfUnknown(written, 0);
  const std::uint64_t acked = AckedBoundary(written, facts.outq, facts.own_fin);
  // A kernel that goes on sending makes any count of unsent bytes stale.
  if (!facts.info_valid || facts.tcp_state != kTcpClose) return AccountOfUnknown(written, acked);
  if (!Plausible(written, facts.outq, facts.notsent_bytes, facts.own_fin) ||
      !AgreesWithBytesAcked(written, facts)) {
    return AccountOfUnknown(written, 0);
  }
  return {acked, Boundary(written, facts.notsent_bytes, facts.own_fin), true};
}

WireAccount AccountOfGivenUp(std::uint64_t written, std::uint64_t acked_before,
                             const DisconnectFigures& figures, bool own_fin) noexcept {
  if (!figures.valid) return AccountOfUnknown(written, acked_before);
  const std::uint64_t acked_at_least =
      std::max(acked_before, AckedBoundary(written, figures.outq_before, own_fin));

  const std::uint32_t step = figures.q2 - figures.q1;  // K. Modulo 2^32, as the kernel counts.
  const std::uint32_t unacked = figures.q1 - step;
  const std::uint32_t unsent = figures.n1 - step;
  // An n1 below K wraps, and says that more is unsent than unacknowledged.
  if (step < kDisconnectStepMin || step > kDisconnectStepMax || figures.q1 < step ||
      !Plausible(written, unacked, unsent, own_fin)) {
    return AccountOfUnknown(written, acked_at_least);
  }
  // Nothing was written in between, so what was not acknowledged can only have become less.
  const std::uint64_t acked = Boundary(written, unacked, own_fin);
  if (acked < acked_at_least) return AccountOfUnknown(written, acked_at_least);
  return {acked, Boundary(written, unsent, own_fin), true};
}

}  // namespace holdfast::internal
