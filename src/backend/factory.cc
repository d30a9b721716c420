// Which engine: io_uring where the kernel lets us and it proves itself, else epoll; and why.
//
// Containers commonly forbid io_uring (the default seccomp profile of Docker and containerd), so
// that epoll is no rare second best: the reason is kept in words, because "why is this one slower?"
// is asked where nobody can attach a debugger. Who asks for one engine gets that one or an error,
// never the other in silence. Being out of descriptors is no property of the kernel: it fails the
// creation, since epoll would only fail with the next descriptor.
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "backend/backend.h"

namespace holdfast::internal {

#ifdef HOLDFAST_NO_URING
absl::StatusOr<std::unique_ptr<Backend>> CreateUringBackend(Kernel&, const BackendOptions&) {
  return absl::UnimplementedError("built without io_uring");
}
#endif

namespace {

absl::StatusOr<BackendChoice> WithReason(absl::StatusOr<std::unique_ptr<Backend>> backend,
                                         std::string reason) {
  if (!backend.ok()) return backend.status();
  return BackendChoice{*std::move(backend), std::move(reason)};
}

}  // namespace

absl::StatusOr<BackendChoice> CreateBackend(Kernel& kernel, BackendWanted wanted,
                                            const BackendOptions& options) {
  std::string who = "the options";
  if (const char* const text = std::getenv("HOLDFAST_BACKEND"); text != nullptr && *text != '\0') {
    const std::string name = text;
    if (name != "uring" && name != "epoll") {
      return absl::InvalidArgumentError("HOLDFAST_BACKEND=" + name + ": uring or epoll");
    }
    wanted = name == "uring" ? BackendWanted::kUring : BackendWanted::kEpoll;
    who = "HOLDFAST_BACKEND";
  }

  if (wanted == BackendWanted::kEpoll) {
    return WithReason(CreateEpollBackend(kernel, options), "epoll: asked for by " + who);
  }
  absl::StatusOr<std::unique_ptr<Backend>> uring = CreateUringBackend(kernel, options);
  if (wanted == BackendWanted::kUring) {
    return WithReason(std::move(uring), "uring: asked for by " + who);
  }
  if (!absl::IsUnimplemented(uring.status())) {
    return WithReason(std::move(uring), "uring: available, and its self-test passed");
  }
  return WithReason(CreateEpollBackend(kernel, options),
                    "epoll: io_uring unavailable: " + std::string(uring.status().message()));
}

}  // namespace holdfast::internal
