#include "machine/attempt.h"

#include <gtest/gtest.h>

namespace holdfast::internal {
namespace {

Error Of(ErrorClass error_class) { return {Operation::kConnect, error_class, Action::kBackOff, 0}; }

TEST(AttemptTest, ExhaustionThenRefusedThenResetThenUnreachableThenTimeoutThenTheRest) {
  constexpr ErrorClass kMostTellingFirst[] = {ErrorClass::kResource, ErrorClass::kRefused,
                                              ErrorClass::kReset,    ErrorClass::kUnreachable,
                                              ErrorClass::kTimeout,  ErrorClass::kPermission};
  for (std::size_t i = 0; i < std::size(kMostTellingFirst); ++i) {
    for (std::size_t j = 0; j < std::size(kMostTellingFirst); ++j) {
      EXPECT_EQ(IsMoreTelling(Of(kMostTellingFirst[i]), Of(kMostTellingFirst[j])), i < j);
    }
  }
}

TEST(AttemptTest, AmongEqualsTheFirstStays) {
  EXPECT_FALSE(IsMoreTelling(Of(ErrorClass::kUnknown), Of(ErrorClass::kPermission)));
  EXPECT_FALSE(IsMoreTelling(Of(ErrorClass::kTimeout), Of(ErrorClass::kTimeout)));
}

}  // namespace
}  // namespace holdfast::internal
