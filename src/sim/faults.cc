#include "sim/faults.h"

#include "base/check.h"

namespace holdfast::internal::sim {
namespace {

// In the order of the enumerators.
constexpr std::array<std::string_view, kFaultKinds> kNames = {
    // connect
    "refused_reset",
    "refused_icmp_port",
    "connect_silent",
    "host_unreachable",
    "soft_icmp_while_owned",
    "net_unreachable",
    "prohibited",
    "blackhole",
    "address_not_available",
    "protocol_unreachable",
    "self_connect",
    "reset_after_connect",
    "fin_after_connect",
    "late_connect",
    "connect_odd_path",
    // stream
    "partial_send",
    "partial_receive",
    "eagain_storm",
    "reset_with_data_queued",
    "reset_taken_by_other",
    "fin",
    "fin_then_reset",
    "half_close",
    "zero_window",
    "silent_loss",
    "timed_out",
    "soft_error_death",
    "aborted",
    "corruption",
    "completion_order",
    // resources
    "socket_limit",
    "accept_limit",
    "no_memory",
    "allocation_failure",
    "completion_overflow",
    "submission_full",
    "buffers_empty",
    "multishot_ends",
    "epoll_space",
    // time and process
    "clock",
    "late_timer",
    "interrupted",
    "cancel_race",
    "completion_after_close",
    "destroy_in_callback",
    "post_during_stop",
    "backend_lost",
    // names
    "name_try_again",
    "name_unknown",
    "name_out_of_descriptors",
    "name_no_data",
    "name_slow",
    "name_changed",
};
static_assert(!kNames.back().empty());

}  // namespace

std::string_view ToString(Fault fault) noexcept {
  const auto index = static_cast<std::size_t>(fault);
  HOLDFAST_CHECK(index < kFaultKinds);
  return kNames[index];
}

}  // namespace holdfast::internal::sim
