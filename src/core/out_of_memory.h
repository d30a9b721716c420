// How a shortage of memory becomes an answer instead of an end.
//
// What the runtime needs while it runs it asks for with new (std::nothrow) (base/try_vector.h,
// core/block_pool.h). What is made once, behind a Create, may also use the standard library, which throws
// std::bad_alloc: that ends at the Create. The only catch of this library; built without exceptions
// there is nothing to catch, and the program ends as it would anywhere else.
#ifndef HOLDFAST_CORE_OUT_OF_MEMORY_H_
#define HOLDFAST_CORE_OUT_OF_MEMORY_H_

#include <new>

#include "absl/status/status.h"

namespace holdfast::internal {

// Without a message: a message needs memory.
[[nodiscard]] inline absl::Status OutOfMemory() noexcept {
  return absl::Status(absl::StatusCode::kResourceExhausted, "");
}

// What `make` returns, an absl::StatusOr; OutOfMemory() where it throws std::bad_alloc.
template <class Make>
[[nodiscard]] auto OrOutOfMemory(Make make) -> decltype(make()) {
#ifdef __cpp_exceptions
  try {
    return make();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
#else
  return make();
#endif
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_CORE_OUT_OF_MEMORY_H_
