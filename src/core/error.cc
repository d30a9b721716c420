#include <holdfast/error.h>

#include <netdb.h>

#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace holdfast {
namespace {

// gai_strerror(3) has texts but no symbols: the values of glibc's <netdb.h>, all of them.
std::string_view EaiName(int code) noexcept {
  switch (code) {
    case EAI_BADFLAGS:
      return "EAI_BADFLAGS";
    case EAI_NONAME:
      return "EAI_NONAME";
    case EAI_AGAIN:
      return "EAI_AGAIN";
    case EAI_FAIL:
      return "EAI_FAIL";
    case EAI_NODATA:
      return "EAI_NODATA";
    case EAI_FAMILY:
      return "EAI_FAMILY";
    case EAI_SOCKTYPE:
      return "EAI_SOCKTYPE";
    case EAI_SERVICE:
      return "EAI_SERVICE";
    case EAI_ADDRFAMILY:
      return "EAI_ADDRFAMILY";
    case EAI_MEMORY:
      return "EAI_MEMORY";
    case EAI_SYSTEM:
      return "EAI_SYSTEM";
    case EAI_OVERFLOW:
      return "EAI_OVERFLOW";
    case EAI_INPROGRESS:
      return "EAI_INPROGRESS";
    case EAI_CANCELED:
      return "EAI_CANCELED";
    case EAI_NOTCANCELED:
      return "EAI_NOTCANCELED";
    case EAI_ALLDONE:
      return "EAI_ALLDONE";
    case EAI_INTR:
      return "EAI_INTR";
    case EAI_IDN_ENCODE:
      return "EAI_IDN_ENCODE";
    default:
      return "";
  }
}

// The text of a code, "Unknown error" where the C library has none. strerrordesc_np (glibc 2.32) is
// neither translated nor kept in a buffer, as strerror(3) is: safe on any thread.
std::string_view CodeDescription(int code) noexcept {
  const char* text = code < 0 ? gai_strerror(code) : strerrordesc_np(code);
  return text != nullptr ? text : "Unknown error";
}

// The last column of the class table in docs/errors.md. absl::ErrnoToStatusCode knows no call and
// would say otherwise.
absl::StatusCode StatusCodeOf(ErrorClass error_class) noexcept {
  switch (error_class) {
    case ErrorClass::kNone:
      return absl::StatusCode::kOk;
    case ErrorClass::kTryAgain:
    case ErrorClass::kEof:
    case ErrorClass::kRefused:
    case ErrorClass::kReset:
    case ErrorClass::kUnreachable:
    case ErrorClass::kNameTemporary:
      return absl::StatusCode::kUnavailable;
    case ErrorClass::kCancelled:
      return absl::StatusCode::kCancelled;
    case ErrorClass::kTimeout:
      return absl::StatusCode::kDeadlineExceeded;
    case ErrorClass::kResource:
      return absl::StatusCode::kResourceExhausted;
    case ErrorClass::kNameNotFound:
      return absl::StatusCode::kNotFound;
    case ErrorClass::kLocalAddress:
      return absl::StatusCode::kFailedPrecondition;
    case ErrorClass::kPermission:
      return absl::StatusCode::kPermissionDenied;
    case ErrorClass::kProtocol:
    case ErrorClass::kInvalid:
      return absl::StatusCode::kInternal;
    case ErrorClass::kUnsupported:
      return absl::StatusCode::kUnimplemented;
    case ErrorClass::kUnknown:
      return absl::StatusCode::kUnknown;
  }
  return absl::StatusCode::kUnknown;
}

}  // namespace

std::string_view ToString(Operation operation) noexcept {
  switch (operation) {
    case Operation::kNone:
      return "none";
    case Operation::kResolve:
      return "resolve";
    case Operation::kSocket:
      return "socket";
    case Operation::kBind:
      return "bind";
    case Operation::kListen:
      return "listen";
    case Operation::kConnect:
      return "connect";
    case Operation::kAccept:
      return "accept";
    case Operation::kSend:
      return "send";
    case Operation::kReceive:
      return "receive";
    case Operation::kShutdown:
      return "shutdown";
    case Operation::kClose:
      return "close";
    case Operation::kHeartbeat:
      return "heartbeat";
    case Operation::kOption:
      return "option";
    case Operation::kBackend:
      return "backend";
    case Operation::kUser:
      return "user";
  }
  return "";
}

std::string_view ToString(ErrorClass error_class) noexcept {
  switch (error_class) {
    case ErrorClass::kNone:
      return "none";
    case ErrorClass::kTryAgain:
      return "try_again";
    case ErrorClass::kCancelled:
      return "cancelled";
    case ErrorClass::kEof:
      return "eof";
    case ErrorClass::kTimeout:
      return "timeout";
    case ErrorClass::kRefused:
      return "refused";
    case ErrorClass::kReset:
      return "reset";
    case ErrorClass::kUnreachable:
      return "unreachable";
    case ErrorClass::kResource:
      return "resource";
    case ErrorClass::kNameTemporary:
      return "name_temporary";
    case ErrorClass::kNameNotFound:
      return "name_not_found";
    case ErrorClass::kLocalAddress:
      return "local_address";
    case ErrorClass::kPermission:
      return "permission";
    case ErrorClass::kProtocol:
      return "protocol";
    case ErrorClass::kUnsupported:
      return "unsupported";
    case ErrorClass::kInvalid:
      return "invalid";
    case ErrorClass::kUnknown:
      return "unknown";
  }
  return "";
}

std::string_view ToString(Action action) noexcept {
  switch (action) {
    case Action::kNone:
      return "none";
    case Action::kRetryInPlace:
      return "retry_in_place";
    case Action::kBackOff:
      return "back_off";
    case Action::kBackOffSlow:
      return "back_off_slow";
    case Action::kNextAddress:
      return "next_address";
    case Action::kPause:
      return "pause";
    case Action::kFallBack:
      return "fall_back";
    case Action::kSurface:
      return "surface";
    case Action::kStop:
      return "stop";
    case Action::kIgnore:
      return "ignore";
    case Action::kVerify:
      return "verify";
  }
  return "";
}

std::string Error::CodeName() const {
  if (code == 0) return "";
  if (code < 0) {
    const std::string_view name = EaiName(code);
    return name.empty() ? std::to_string(code) : std::string(name);
  }
  const char* name = strerrorname_np(code);
  return name != nullptr ? name : std::to_string(code);
}

std::string Error::ToString() const {
  if (*this == Error{}) return "no error";
  std::string text(holdfast::ToString(operation));
  text += ": ";
  if (code == 0) {
    text += holdfast::ToString(error_class);
    return text;
  }
  text += CodeDescription(code);
  text += " (";
  text += CodeName();
  text += ')';
  return text;
}

absl::Status Error::ToStatus() const {
  const absl::StatusCode status = StatusCodeOf(error_class);
  return status == absl::StatusCode::kOk ? absl::OkStatus() : absl::Status(status, ToString());
}

}  // namespace holdfast
