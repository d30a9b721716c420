#include "swarm/host_oracle.h"

namespace holdfast::swarm {

std::optional<Oracle::Truth> HostOracle::Find(const SocketAddress& local, Instant opened_by) const {
  const internal::sim::ConnectionRecord* const record =
      world_.network.RecordOpenedFrom(local, opened_by);
  if (record == nullptr) return std::nullopt;
  return Truth{.received = record->received_by_kernel[1],
               .acked = record->acked[0],
               .transmitted = record->transmitted[0],
               .received_here = record->readable[0],
               .last_ack = record->last_ack_at[0],
               .fin_at = record->fin_at[0],
               .reset_at = record->reset_at[0]};
}

}  // namespace holdfast::swarm
