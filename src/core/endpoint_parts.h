// An endpoint's text, taken apart without memory of its own: what a link does for every attempt, since a
// scope's interface may be another by then. Endpoint::Parse is this, with copies and a message.
#ifndef HOLDFAST_CORE_ENDPOINT_PARTS_H_
#define HOLDFAST_CORE_ENDPOINT_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <holdfast/endpoint.h>
#include <holdfast/error.h>

namespace holdfast::internal {

inline constexpr std::size_t kHostSizeMax = 253;  // RFC 1035, 2.3.4, as text.

struct EndpointParts {
  std::string_view host;  // A name to look up, a part of the text; empty where `literal` is set.
  std::uint16_t port = 0;
  std::optional<SocketAddress> literal;
};

// Not failed(): `parts` is filled in. Else kInvalid, the text, and `*problem` says what is wrong with it; or,
// where the name of a scope's interface could not be looked up, why not (Endpoint::Parse). Allocates nothing.
[[nodiscard]] Error TakeApart(std::string_view text, EndpointParts* parts,
                              std::string_view* problem) noexcept;

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_ENDPOINT_PARTS_H_
