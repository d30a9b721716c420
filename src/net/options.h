// What is wrong in options, said once, at creation: every message names the field and the value.
#ifndef HOLDFAST_NET_OPTIONS_H_
#define HOLDFAST_NET_OPTIONS_H_

#include <string>
#include <string_view>

#include <holdfast/link.h>
#include <holdfast/listener.h>
#include "absl/status/status.h"

namespace holdfast::internal {

// "100ms", "2s", "1500us", "7ns": the largest unit that says it exactly.
[[nodiscard]] std::string FormatDuration(Duration duration);

[[nodiscard]] absl::Status ValidateLinkOptions(const LinkOptions& options);
[[nodiscard]] absl::Status ValidateListenerOptions(const ListenerOptions& options);

}  // namespace holdfast::internal

#endif  // HOLDFAST_NET_OPTIONS_H_
