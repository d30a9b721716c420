// AF_UNIX stream sockets of a simulated host, and the names that they are bound to.
//
// As in unix(7): what is sent is in the peer's queue when the call returns, and its memory counts
// against the sender's SO_SNDBUF until the peer has read it. A connect succeeds at once, before
// anybody accepts, or says EAGAIN while the backlog is full. There is no handshake, no
// acknowledgement, no TCP_INFO and no SIOCOUTQNSD; SIOCOUTQ counts memory, not bytes.
//
// Sources: net/unix/af_unix.c of Linux 6.18 (unix_stream_connect, unix_stream_sendmsg,
// unix_stream_read_generic, unix_release_sock, unix_poll, unix_writable), docs/kernel.md C3.
#ifndef HOLDFAST_SIM_UNIX_SOCKET_H_
#define HOLDFAST_SIM_UNIX_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "sim/file.h"

namespace holdfast::internal::sim {

class Host;
class UnixSocket;

// What is bound on a host. A name is the bytes of sun_path: an abstract one begins with a zero byte
// and is free again when its socket is closed; a path is a file that stays until it is unlinked.
class UnixNames {
 public:
  UnixNames() = default;
  UnixNames(const UnixNames&) = delete;
  UnixNames& operator=(const UnixNames&) = delete;

  // unlink(2): 0 or -ENOENT.
  int Unlink(const std::string& path);
  // The host has lost its power: files stay, nobody is behind them.
  void Crash();

 private:
  friend class UnixSocket;

  // -EADDRINUSE when the name is taken.
  int Bind(const std::string& name, UnixSocket& socket);
  // The name of the next autobind: a zero byte and five hexadecimal digits.
  std::string AutobindName();
  void Release(const std::string& name, const UnixSocket& socket);
  // Whoever is bound, or null with `error` = -ENOENT (no such file) or -ECONNREFUSED.
  UnixSocket* Find(const std::string& name, int* error) const;

  std::map<std::string, UnixSocket*> bound_;  // Null: a file that nobody is behind any more.
  std::uint32_t autobinds_ = 0;
};

// socket(2), socketpair(2) of AF_UNIX. `host` outlives them.
[[nodiscard]] std::shared_ptr<SocketFile> NewUnixSocket(Host& host);
[[nodiscard]] std::pair<std::shared_ptr<SocketFile>, std::shared_ptr<SocketFile>> NewUnixPair(
    Host& host);

// The memory that the kernel takes for `size` bytes sent at once, at most kUnixChunkMax: what
// counts against SO_SNDBUF and shows in SIOCOUTQ. For tests.
inline constexpr std::size_t kUnixChunkMax = 36'544;
[[nodiscard]] std::size_t UnixChunkMemory(std::size_t size) noexcept;

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_UNIX_SOCKET_H_
