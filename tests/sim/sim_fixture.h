// What the tests of floor 6 share: small worlds, and kernels to hold against each other.
#ifndef HOLDFAST_TESTS_SIM_SIM_FIXTURE_H_
#define HOLDFAST_TESTS_SIM_SIM_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/network.h"
#include "sim/sim_kernel.h"
#include "sys/kernel.h"

namespace holdfast::internal::sim {

using namespace std::chrono_literals;  // NOLINT: of a test, and the literals only.

// A world of one host with one process, without faults: to a test, a Linux with a loopback.
struct LoopbackWorld {
  explicit LoopbackWorld(std::uint64_t seed = 1)
      : world(seed), host(world.network.AddHost("local")), kernel(world, host) {}
  ~LoopbackWorld() {
    // What tests leave open (resolver threads wait for ever) is no fault; a descriptor is.
    EXPECT_EQ(kernel.open_descriptors(), 0U);
  }

  World world;
  Host& host;
  SimKernel kernel;
};

// The kernel of a fresh LoopbackWorld; the one before is gone then. For suites over kernels, such
// as the conformance suite of the backends: BackendCase{"sim_epoll", &LoopbackKernel, ...}.
inline Kernel& LoopbackKernel() {
  static std::unique_ptr<LoopbackWorld> world;
  world.reset();  // First, so that two never live at once.
  world = std::make_unique<LoopbackWorld>();
  return world->kernel;
}

// A kernel to run a test over: what is promised of the simulated one holds for Linux.
struct KernelCase {
  std::string_view name;
  Kernel& (*kernel)();
};
inline void PrintTo(const KernelCase& kernel_case, std::ostream* out) { *out << kernel_case.name; }
inline std::string KernelCaseName(const testing::TestParamInfo<KernelCase>& info) {
  return std::string(info.param.name);
}
inline auto BothKernels() {
  return testing::Values(KernelCase{"Sim", &LoopbackKernel}, KernelCase{"Linux", &RealKernel});
}

// Closes its descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  Descriptor(Kernel& kernel, int fd) : kernel_(&kernel), fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept { *this = std::move(other); }
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(kernel_, other.kernel_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { Close(); }

  operator int() const { return fd_; }  // NOLINT: it stands for one.
  void Close() {
    if (fd_ >= 0) static_cast<void>(kernel_->Close(std::exchange(fd_, -1)));
  }

 private:
  Kernel* kernel_ = nullptr;
  int fd_ = -1;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_TESTS_SIM_SIM_FIXTURE_H_
