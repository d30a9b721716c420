// HOLDFAST_CHECK states what must hold, and stops the process when it does not, in every build.
//
// It is for invariants that no input can break: our own bookkeeping (operations in flight, an unlisted
// pair of a state table, a slot's generation). What the network, the kernel or the user can do never
// reaches it: an errno is a value here (core/error_table.h) and a bad argument an absl::Status. A
// library that goes on after its own bookkeeping is wrong writes into memory that the kernel owns, so
// the process ends at the line that noticed. The library never prints otherwise.
#ifndef HOLDFAST_BASE_CHECK_H_
#define HOLDFAST_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace holdfast::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "holdfast: %s:%d: CHECK failed: %s\n", file, line, what);
  std::abort();
}

}  // namespace holdfast::internal

#define HOLDFAST_CHECK(condition)                    \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::holdfast::internal::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // HOLDFAST_BASE_CHECK_H_
