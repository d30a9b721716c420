#include "swarm/failing_new.h"

#include <new>

namespace holdfast::swarm {
namespace {

internal::sim::FaultPlan* asked = nullptr;

bool Fails() noexcept {
  return asked != nullptr && asked->Strikes(internal::sim::Fault::kAllocationFailure);
}

}  // namespace

FailingNew::FailingNew(internal::sim::FaultPlan& plan) noexcept { asked = &plan; }
FailingNew::~FailingNew() { asked = nullptr; }

}  // namespace holdfast::swarm

// Replace the library's own, which would call the plain operators as well.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::swarm::Fails() ? nullptr : ::operator new(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return holdfast::swarm::Fails() ? nullptr : ::operator new[](size);
}
