// io_uring_register(2) of a simulated ring.
#ifndef HOLDFAST_NO_URING

#include <liburing.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "sim/event_file.h"
#include "sim/ring.h"
#include "sim/ring_operation.h"

namespace holdfast::internal::sim {
namespace {

constexpr std::uint8_t kOperations[] = {
    IORING_OP_NOP,          IORING_OP_POLL_ADD, IORING_OP_SENDMSG, IORING_OP_ACCEPT,
    IORING_OP_ASYNC_CANCEL, IORING_OP_CONNECT,  IORING_OP_SEND,    IORING_OP_RECV,
};
constexpr std::uint8_t kOperationLast = 62;  // Of 6.18; most are not supported.
constexpr unsigned kProbeMax = 256;

constexpr std::uint64_t kPage = 4096;
constexpr unsigned kBuffersMax = 1U << 15;

}  // namespace

int Ring::Register(unsigned opcode, void* argument, unsigned count) {
  switch (opcode) {
    case IORING_REGISTER_ENABLE_RINGS:
      if (argument != nullptr || count != 0) return -EINVAL;
      if (!disabled_) return -EBADFD;
      disabled_ = false;
      return 0;
    case IORING_REGISTER_PROBE:
      return RegisterProbe(argument, count);
    case IORING_REGISTER_PBUF_RING:
      return RegisterBuffers(argument, count);
    case IORING_UNREGISTER_PBUF_RING:
      return UnregisterBuffers(argument, count);
    case IORING_REGISTER_EVENTFD:
      return RegisterEventFd(argument, count);
    case IORING_UNREGISTER_EVENTFD:
      if (argument != nullptr || count != 0) return -EINVAL;
      if (event_fd_ == nullptr) return -ENXIO;
      event_fd_ = nullptr;
      return 0;
    case IORING_REGISTER_RING_FDS:
      return RegisterRingFds(argument, count, true);
    case IORING_UNREGISTER_RING_FDS:
      return RegisterRingFds(argument, count, false);
    default:
      return -EINVAL;
  }
}

int Ring::RegisterProbe(void* argument, unsigned count) {
  if (argument == nullptr || count > kProbeMax) return -EINVAL;
  const unsigned listed = std::min<unsigned>(count, kOperationLast + 1);
  const std::size_t size = sizeof(io_uring_probe) + listed * sizeof(io_uring_probe_op);
  // Whoever asks asks with zeros.
  const auto* const bytes = static_cast<const unsigned char*>(argument);
  if (std::any_of(bytes, bytes + size, [](unsigned char byte) { return byte != 0; })) {
    return -EINVAL;
  }
  auto* const probe = static_cast<io_uring_probe*>(argument);
  probe->last_op = kOperationLast;
  probe->ops_len = static_cast<std::uint8_t>(listed);
  for (unsigned i = 0; i < listed; ++i) probe->ops[i].op = static_cast<std::uint8_t>(i);
  for (const std::uint8_t operation : kOperations) {
    if (operation < listed) probe->ops[operation].flags = IO_URING_OP_SUPPORTED;
  }
  return 0;
}

int Ring::RegisterBuffers(const void* argument, unsigned count) {
  if (argument == nullptr || count != 1) return -EINVAL;
  io_uring_buf_reg wanted;
  std::memcpy(&wanted, argument, sizeof(wanted));
  // `pad` has become flags: buffers of the kernel's own, incremental ones.
  if (wanted.pad != 0 || wanted.resv[0] != 0 || wanted.resv[1] != 0 || wanted.resv[2] != 0) {
    return -EINVAL;
  }
  if (wanted.ring_addr == 0) return -EFAULT;
  if (wanted.ring_addr % kPage != 0) return -EINVAL;
  if (!std::has_single_bit(wanted.ring_entries) || wanted.ring_entries > kBuffersMax) {
    return -EINVAL;
  }
  // NOLINTNEXTLINE(performance-no-int-to-ptr): that is how it is passed.
  auto* const ring = reinterpret_cast<io_uring_buf_ring*>(wanted.ring_addr);
  const auto mask = static_cast<std::uint16_t>(wanted.ring_entries - 1);
  const bool added = groups_.try_emplace(wanted.bgid, BufferGroup{ring, mask}).second;
  return added ? 0 : -EEXIST;
}

int Ring::UnregisterBuffers(const void* argument, unsigned count) {
  if (argument == nullptr || count != 1) return -EINVAL;
  io_uring_buf_reg wanted;
  std::memcpy(&wanted, argument, sizeof(wanted));
  return groups_.erase(wanted.bgid) == 1 ? 0 : -ENOENT;
}

int Ring::RegisterEventFd(const void* argument, unsigned count) {
  if (argument == nullptr || count != 1) return -EINVAL;
  if (event_fd_ != nullptr) return -EBUSY;
  int fd = -1;
  std::memcpy(&fd, argument, sizeof(fd));
  std::shared_ptr<File> file = kernel_.Find(fd);
  if (file == nullptr) return -EBADF;
  // Of all files an eventfd alone may be written eight bytes to.
  constexpr std::uint64_t kNothing = 0;
  if (file->Write(&kNothing, sizeof(kNothing)) != sizeof(kNothing)) return -EINVAL;
  event_fd_ = std::move(file);
  return 0;
}

int Ring::RegisterRingFds(void* argument, unsigned count, bool add) {
  constexpr unsigned kAnyIndex = ~0U;
  constexpr unsigned kUpdatesMax = 16;  // IO_RINGFD_REG_MAX
  if (argument == nullptr || count == 0 || count > kUpdatesMax) return -EINVAL;
  auto* const updates = static_cast<io_uring_rsrc_update*>(argument);
  int done = 0;
  int error = 0;
  for (; done < static_cast<int>(count); ++done) {
    io_uring_rsrc_update& update = updates[done];
    if (update.resv != 0) {
      error = -EINVAL;
    } else if (!add) {
      error = update.data != 0 ? -EINVAL : kernel_.RemoveRegisteredRing(update.offset);
    } else if (update.offset != kAnyIndex) {
      error = -EINVAL;  // Nobody here asks for one of his choice.
    } else {
      std::shared_ptr<File> file = kernel_.Find(static_cast<int>(update.data));
      error = file == nullptr ? -EBADF : file->AsRing() == nullptr ? -EOPNOTSUPP : 0;
      if (error == 0) error = kernel_.AddRegisteredRing(std::move(file));
      if (error >= 0) update.offset = static_cast<unsigned>(error);
    }
    if (error < 0) break;
  }
  return done > 0 ? done : error;
}

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_NO_URING
