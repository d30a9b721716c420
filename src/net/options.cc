#include "net/options.h"

#include <array>
#include <cstdint>

#include <holdfast/endpoint.h>
#include "net/socket_setup.h"

namespace holdfast {
namespace internal {
namespace {

using namespace std::chrono_literals;

// The first complaint wins; a chain of checks reads as the list of rules that it is.
class Checker {
 public:
  explicit Checker(std::string_view owner) : owner_(owner) {}

  Checker& Require(bool holds, std::string_view field, std::string_view value,
                   std::string_view rule) {
    if (holds || !status_.ok()) return *this;
    std::string message(owner_);
    message.append(".").append(field).append(" = ").append(value).append(": ").append(rule);
    status_ = absl::InvalidArgumentError(message);
    return *this;
  }
  Checker& Require(bool holds, std::string_view field, Duration value, std::string_view rule) {
    return holds ? *this : Require(false, field, FormatDuration(value), rule);
  }
  Checker& Require(bool holds, std::string_view field, std::uint64_t value, std::string_view rule) {
    return holds ? *this : Require(false, field, std::to_string(value), rule);
  }
  Checker& Require(const absl::Status& status) {
    if (status_.ok()) status_ = status;
    return *this;
  }
  [[nodiscard]] const absl::Status& status() const { return status_; }

 private:
  std::string_view owner_;
  absl::Status status_;
};

void RequireMarks(Checker& checker, std::size_t high, std::size_t low, std::size_t max) {
  checker.Require(low > 0, "queue_low", low, "at least 1 byte")
      .Require(high >= low, "queue_high", high, "not below queue_low")
      .Require(max >= high, "queue_max", max, "not below queue_high");
}

std::string_view FramingRule(const Framing& framing) {
  if (const auto* delimiter = std::get_if<Delimiter>(&framing)) {
    return delimiter->max >= 1 ? "" : "max of at least 1 byte";
  }
  if (const auto* prefix = std::get_if<LengthPrefix>(&framing)) {
    if (prefix->width < 1 || prefix->width > 8) return "width of 1 to 8 bytes";
    return prefix->max >= 1 ? "" : "max of at least 1 byte";
  }
  const auto* framer = std::get_if<std::shared_ptr<const Framer>>(&framing);
  if (framer == nullptr) return "";
  if (*framer == nullptr) return "a Framer, not nullptr";
  return (*framer)->max() >= 1 ? "" : "max() of at least 1 byte";
}

// Of LinkOptions or StreamOptions.
template <class Options>
void RequireFraming(Checker& checker, const Options& options) {
  static constexpr std::array<std::string_view, 4> kNames = {"none", "Delimiter", "LengthPrefix",
                                                             "Framer"};
  const bool framed = options.framing.index() != 0;
  const std::string_view rule = FramingRule(options.framing);
  checker.Require(rule.empty(), "framing", kNames[options.framing.index()], rule)
      .Require(framed || !options.on_message, "on_message", "{...}", "needs framing")
      .Require(!framed || !options.on_data, "on_data", "{...}", "with framing it is on_message");
}

absl::Status CheckEndpoint(std::string_view field, const std::string& text, bool port_zero) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  if (!endpoint.ok()) {
    return absl::InvalidArgumentError(std::string(field) + ": " +
                                      std::string(endpoint.status().message()));
  }
  const bool has_port =
      !endpoint->literal().has_value() || endpoint->literal()->family() != AF_UNIX;
  if (has_port && endpoint->port() == 0 && !port_zero) {
    return absl::InvalidArgumentError(std::string(field) + " = \"" + text +
                                      "\": port 0 cannot be connected to");
  }
  return absl::OkStatus();
}

bool IsUnix(const std::string& text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  return endpoint.ok() && endpoint->literal().has_value() &&
         endpoint->literal()->family() == AF_UNIX;
}

}  // namespace

std::string FormatDuration(Duration duration) {
  struct Unit {
    std::int64_t nanoseconds;
    const char* name;
  };
  constexpr std::array<Unit, 4> kUnits = {
      {{1'000'000'000, "s"}, {1'000'000, "ms"}, {1'000, "us"}, {1, "ns"}}};
  const std::int64_t count = duration.count();
  for (const Unit& unit : kUnits) {
    if (count != 0 && count % unit.nanoseconds == 0) {
      return std::to_string(count / unit.nanoseconds) + unit.name;
    }
  }
  return "0s";
}

absl::Status ValidateLinkOptions(const LinkOptions& options) {
  const bool has_ping = !options.ping.empty() || options.on_heartbeat;
  const Duration silence = options.silence_max;
  Checker checker("LinkOptions");
  checker.Require(!options.endpoints.empty(), "endpoints", "{}", "at least one");
  for (std::size_t i = 0; i < options.endpoints.size(); ++i) {
    checker.Require(CheckEndpoint("LinkOptions.endpoints[" + std::to_string(i) + "]",
                                  options.endpoints[i], /*port_zero=*/false));
    const bool needs_acks =
        options.on_loss == OnLoss::kReplayUnacked && options.acked_by == AckedBy::kPeersKernel;
    checker.Require(!needs_acks || !IsUnix(options.endpoints[i]), "on_loss", "kReplayUnacked",
                    "on an AF_UNIX endpoint it needs acked_by = kPeer");
  }
  const BackoffOptions& backoff = options.backoff;
  const std::uint32_t multiplier = backoff.multiplier.in_1024ths();
  checker.Require(backoff.initial > 0ns, "backoff.initial", backoff.initial, "more than zero")
      .Require(backoff.max >= backoff.initial, "backoff.max", backoff.max, "not below initial")
      .Require(multiplier >= 1024, "backoff.multiplier", std::to_string(multiplier) + "/1024",
               "at least 1")
      .Require(multiplier <= 1024 * 1024, "backoff.multiplier",
               std::to_string(multiplier) + "/1024", "at most 1024")
      .Require(options.give_up_after >= 0ns, "give_up_after", options.give_up_after, "not negative")
      .Require(options.protocol_errors_max >= 1, "protocol_errors_max", options.protocol_errors_max,
               "at least 1")
      .Require(options.healthy_after >= 0ns, "healthy_after", options.healthy_after, "not negative")
      .Require(options.connect_timeout > 0ns, "connect_timeout", options.connect_timeout,
               "more than zero")
      .Require(options.attempt_timeout > 0ns, "attempt_timeout", options.attempt_timeout,
               "more than zero")
      .Require(options.login_timeout >= 0ns, "login_timeout", options.login_timeout, "not negative")
      .Require(silence == 0ns || silence >= 100ms, "silence_max", silence,
               "0 (off), or at least 100ms")
      .Require(silence == 0ns || has_ping || silence >= 2s, "silence_max", silence,
               "below 2s a ping or on_heartbeat is required")
      .Require(options.ping_interval >= 0ns, "ping_interval", options.ping_interval, "not negative")
      .Require(options.ping_interval == 0ns || has_ping, "ping_interval", options.ping_interval,
               "needs ping or on_heartbeat")
      .Require(options.ping_interval == 0ns || silence == 0ns || options.ping_interval <= silence,
               "ping_interval", options.ping_interval, "not longer than silence_max")
      .Require(options.on_loss <= OnLoss::kReplayUnacked, "on_loss",
               static_cast<std::uint64_t>(options.on_loss), "no such policy")
      .Require(options.acked_by <= AckedBy::kPeer, "acked_by",
               static_cast<std::uint64_t>(options.acked_by), "nobody")
      .Require(options.drain >= 0ns, "drain", options.drain, "not negative")
      .Require(options.ping.size() <= options.queue_max, "ping",
               std::to_string(options.ping.size()) + " bytes", "not longer than queue_max");
  RequireMarks(checker, options.queue_high, options.queue_low, options.queue_max);
  RequireFraming(checker, options);
  checker.Require(ValidateSocketOptions("LinkOptions", options.socket));
  return checker.status();
}

absl::Status ValidateListenerOptions(const ListenerOptions& options) {
  Checker checker("ListenerOptions");
  checker.Require(CheckEndpoint("ListenerOptions.endpoint", options.endpoint, /*port_zero=*/true));
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(options.endpoint);
  checker
      .Require(!endpoint.ok() || endpoint->literal().has_value(), "endpoint",
               "\"" + options.endpoint + "\"", "an address, not a name")
      .Require(options.backlog >= 1, "backlog", std::to_string(options.backlog), "at least 1")
      .Require(options.socket.bind_address.empty(), "socket.bind_address",
               "\"" + options.socket.bind_address + "\"", "for links; a listener has its endpoint")
      .Require(static_cast<bool>(options.on_accept), "on_accept", "{}", "is required");
  checker.Require(ValidateSocketOptions("ListenerOptions", options.socket));
  return checker.status();
}

}  // namespace internal

absl::Status ValidateStreamOptions(const StreamOptions& options) {
  internal::Checker checker("StreamOptions");
  internal::RequireMarks(checker, options.queue_high, options.queue_low, options.queue_max);
  internal::RequireFraming(checker, options);
  checker.Require(options.drain >= Duration::zero(), "drain", options.drain, "not negative");
  return checker.status();
}

}  // namespace holdfast
