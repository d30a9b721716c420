// Whether io_uring does here what backend/uring.cc builds on: tried, not concluded from a version.
//
// Flags and opcodes say what a kernel claims. Two things are worth trying before every connection of a
// process hangs on them: that a multishot receive delivers what was sent, and that a fast send tells the
// three cases apart: all taken (no completion), a part taken (its count), nothing taken (EAGAIN).
// Backports, seccomp filters and other people's kernels (gVisor) have got either wrong.
#ifndef HOLDFAST_BACKEND_URING_PROBE_H_
#define HOLDFAST_BACKEND_URING_PROBE_H_

#include "absl/status/status.h"
#include "sys/kernel.h"

namespace holdfast::internal {

// Tries it on a throw-away ring of 8 entries and a pair of AF_UNIX sockets. Unimplemented, with a reason,
// when something is not as expected; ResourceExhausted when the process is out of descriptors. Leaves
// nothing behind. The success of RealKernel() is remembered: once a process; then it only looks whether
// this thread may still enter `ring_fd`, a ring that is not enabled yet. Any thread.
[[nodiscard]] absl::Status SelfTestUring(Kernel& kernel, int ring_fd);

}  // namespace holdfast::internal

#endif  // HOLDFAST_BACKEND_URING_PROBE_H_
