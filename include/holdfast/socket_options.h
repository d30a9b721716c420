// What to set on a socket before it is used: one struct for Link, and for Listener and the sockets that
// it accepts.
#ifndef HOLDFAST_SOCKET_OPTIONS_H_
#define HOLDFAST_SOCKET_OPTIONS_H_

#include <string>

#include "absl/functional/any_invocable.h"

namespace holdfast {

struct SocketOptions {
  // TCP_NODELAY, tcp(7). Sends are coalesced by turn already; Nagle's delay would come on top.
  bool nodelay = true;
  // SO_SNDBUF, SO_RCVBUF in bytes, socket(7); 0 leaves the kernel's autotuning on.
  int send_buffer = 0;
  int receive_buffer = 0;
  // TCP_NOTSENT_LOWAT in bytes, tcp(7): how much the kernel takes that it cannot send yet; 0 = without
  // bound, until its buffer is full. What it has not taken is still ours: it expires, and is kUnsent when the
  // connection dies. Some 16 KiB to 128 KiB cost no throughput. It is a threshold: what is sent at once may
  // go above it by 64 KiB.
  int notsent_lowat = 0;
  // Link only: the local address to connect from, "192.0.2.1:0" or "[2001:db8::1]:0"; "" = the
  // kernel's choice. An address that this host has not (yet) is kLocalAddress, and backed off.
  std::string bind_address = {};
  // Called with the descriptor after the options above were set and before bind, connect or listen;
  // for a Stream, right after accept. For what is not listed here (SO_MARK, TCP_CONGESTION, ...).
  // It must not close it, change its blocking mode, or call into the reactor: for a listener's own
  // socket it runs inside Listener::Create.
  absl::AnyInvocable<void(int fd) const> on_socket = {};
};

}  // namespace holdfast

#endif  // HOLDFAST_SOCKET_OPTIONS_H_
