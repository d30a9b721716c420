#include "machine/death.h"

namespace holdfast::internal {
namespace {

// "Try again" is an answer while something goes on. What is over, for a reason that should not have
// ended it, is over for an unknown one.
[[nodiscard]] Error Ended(Error error) noexcept {
  if (error.error_class == ErrorClass::kTryAgain) {
    error.error_class = ErrorClass::kUnknown;
    error.action = Action::kBackOff;
  }
  return error;
}

}  // namespace

Error JudgeConnect(const ConnectFacts& facts) noexcept {
  if (facts.connect_result != 0) {
    Detail detail = Detail::kNone;
    if (facts.is_unix) detail = Detail::kUnix;
    if (facts.is_ipv6) detail = Detail::kIpv6;
    const Error error = Classify(facts.call, facts.connect_result, detail);
    // The ring's row takes a reset during the handshake for a shutdown of our own. Nobody shuts down a
    // socket that is connecting, and what was cancelled is not judged: it is the peer's.
    if (error.error_class == ErrorClass::kCancelled) {
      return Ended(Classify(Call::kConnectResult, facts.connect_result));
    }
    return Ended(error);
  }
  if (facts.peer_name_error != 0) {
    if (facts.socket_error != 0) return Ended(Classify(Call::kConnectResult, facts.socket_error));
    // A bug of ours (a closed descriptor) stays one. Whatever else getpeername says, the connection
    // was made and is no more.
    const Error error = Classify(Call::kGetpeername, facts.peer_name_error);
    if (error.error_class == ErrorClass::kInvalid) return error;
    return {Operation::kConnect, ErrorClass::kReset, Action::kBackOff, facts.peer_name_error};
  }
  if (facts.self) return Classify(Call::kConnectResult, 0, Detail::kSelfConnect);
  return {};
}

bool FinArrived(const DeathFacts& facts, std::uint64_t bytes_read) noexcept {
  return facts.tcp && facts.info_valid && facts.bytes_received - bytes_read - facts.inq == 1;
}

Error OnceClosed(Error error, const DeathFacts& facts) noexcept {
  if (!facts.tcp || !facts.info_valid || facts.tcp_state != kTcpClose) return error;
  const Entry* entry = FindInTables({Call::kRecv, error.code, Detail::kClosed});
  if (error.code == 0 || entry == nullptr) return error;
  error.error_class = entry->error_class;
  error.action = entry->action;
  return error;
}

Error JudgeDeath(const DeathFacts& facts, const Error& sticky, bool saw_eof,
                 std::uint64_t bytes_read) noexcept {
  if (FinArrived(facts, bytes_read)) return Classify(Call::kRecv, 0, Detail::kCloseWait);
  if (!facts.tcp && saw_eof) return Classify(Call::kRecv, 0);

  if (sticky.failed() && (sticky.code == 0 || IsTelling(sticky.code))) {
    return OnceClosed(sticky, facts);
  }
  if (facts.socket_error != 0) {
    return OnceClosed(Ended(Classify(Call::kRecv, facts.socket_error)), facts);
  }
  if (saw_eof && !facts.info_valid) return Classify(Call::kRecv, 0);
  return Classify(Call::kRecv, 0, Detail::kClosed);
}

}  // namespace holdfast::internal
