// Which of an attempt's failures to tell.
//
// An endpoint has several addresses, and each fails in its own way; one report must do. The one that
// says most about the peer wins: refused (a host answered) over reset, over unreachable, over a
// time-out, over the rest. Exhaustion of this host ends an attempt at once and is therefore told above
// all. Among equals the first stays.
#ifndef HOLDFAST_MACHINE_ATTEMPT_H_
#define HOLDFAST_MACHINE_ATTEMPT_H_

#include <holdfast/error.h>

namespace holdfast::internal {

[[nodiscard]] constexpr int TellingRank(ErrorClass error_class) noexcept {
  if (error_class == ErrorClass::kResource) return 5;
  if (error_class == ErrorClass::kRefused) return 4;
  if (error_class == ErrorClass::kReset) return 3;
  if (error_class == ErrorClass::kUnreachable) return 2;
  if (error_class == ErrorClass::kTimeout) return 1;
  return 0;
}

[[nodiscard]] constexpr bool IsMoreTelling(const Error& error, const Error& than) noexcept {
  return TellingRank(error.error_class) > TellingRank(than.error_class);
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_ATTEMPT_H_
