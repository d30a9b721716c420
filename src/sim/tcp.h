// TCP of a simulated host: its ports, its connections, and how a segment finds its socket.
//
// The protocol is Linux 6.18's (net/ipv4/tcp*.c), as far as a socket call, a poll, an ioctl or the
// peer can see it: states and errors, buffers and windows, timers with their granularity, and the
// figures that outlive a connection (docs/kernel.md). What nobody can see from there is left out:
// congestion control, selective acknowledgements, delayed acknowledgements, Nagle's algorithm,
// reordering, urgent data, IP fragments. Each was left out because a user of sockets knows it only
// as delay, and delay is a Path's.
//
//   tcp_socket.h       a descriptor: the socket calls, the options (struct socket)
//   tcp_connection.h   the protocol behind it, which may outlive it (struct sock)
//   tcp_faults.cc      everything that strikes on its own
//
// A send to the own host, by any of its addresses, has arrived and been acknowledged when the call
// returns. Not thread-safe; calls and events of a world do not nest (Network::DrainLocal).
#ifndef HOLDFAST_SIM_TCP_H_
#define HOLDFAST_SIM_TCP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include <holdfast/time.h>

#include "base/intrusive_list.h"
#include "sim/file.h"
#include "sim/network.h"
#include "sim/segment.h"

namespace holdfast::internal::sim {

class TcpConnection;

// socket(2) with AF_INET or AF_INET6 and SOCK_STREAM.
[[nodiscard]] std::shared_ptr<SocketFile> NewTcpSocket(Host& host, int domain);

class TcpStack {
 public:
  explicit TcpStack(Host& host) noexcept : host_(host) {}
  TcpStack(const TcpStack&) = delete;
  TcpStack& operator=(const TcpStack&) = delete;
  ~TcpStack() { Clear(); }

  [[nodiscard]] Host& host() noexcept { return host_; }
  [[nodiscard]] Network& network() noexcept { return host_.network(); }

  // Established, opening and closing ones, with and without a descriptor; not TIME_WAIT.
  [[nodiscard]] std::size_t connections() const noexcept { return connections_.size(); }

  // Memory pressure (docs/kernel.md 13): no socket's send queue grows beyond it. A send gets EAGAIN, and
  // EPOLLOUT comes only after most of the queue has drained. 0: no limit.
  void SetMemoryLimit(std::size_t bytes_per_socket) noexcept { memory_limit_ = bytes_per_socket; }
  [[nodiscard]] std::size_t memory_limit() const noexcept { return memory_limit_; }

  // ss -K: every connection here whose peer is (or is at) this address is destroyed with
  // ECONNABORTED. How many.
  std::size_t Abort(const SocketAddress& peer);

  // Handshakes that were begun here, by sockets that are still open, and are not over.
  [[nodiscard]] std::size_t connecting() const;

  // --- For Network and Host.
  void Arrive(Segment segment);
  // A crash: everything is forgotten and nobody is told.
  void Clear();

  // --- For connections.
  [[nodiscard]] std::shared_ptr<TcpConnection> Find(const TcpTuple& tuple) const;
  void AddConnection(std::shared_ptr<TcpConnection> connection);
  void RemoveConnection(TcpConnection& connection);
  // The listener for a SYN to `tuple.local`; null: nobody listens.
  [[nodiscard]] TcpConnection* FindListener(const TcpTuple& tuple);
  void AddListener(TcpConnection& connection);
  void RemoveListener(TcpConnection& connection);

  // Takes the port of connection.local(), or for 0 a free one (an odd one first, as Linux's bind
  // does). 0, or -EADDRINUSE.
  int BindPort(TcpConnection& connection);
  // A port for a connect to `peer` from connection.local()'s address: even ones first, as Linux
  // does (which is how a client comes to connect to itself, docs/kernel.md 4). 0, or -EADDRNOTAVAIL.
  int BindForConnect(TcpConnection& connection, const TcpAddress& peer);
  // Takes exactly this port for a connect, even one that is bound.
  void TakePort(TcpConnection& connection, std::uint16_t port);
  // Another connection on the port of `listener`.
  void SharePort(TcpConnection& child, TcpConnection& listener);
  void ReleasePort(TcpConnection& connection);
  // Does somebody else forbid to listen here? 0, or -EADDRINUSE.
  [[nodiscard]] int CheckListen(TcpConnection& connection);
  [[nodiscard]] bool IsTaken(const TcpTuple& tuple);

  void AddTimeWait(const TcpConnection& connection);
  // The reset that answers a segment which nobody wants.
  void Refuse(const Segment& segment);

 private:
  struct Port {
    IntrusiveList<TcpConnection> owners;
    std::vector<TcpConnection*> listeners;
    std::uint32_t time_waits = 0;
    std::uint32_t strict_time_waits = 0;  // Of sockets without SO_REUSEADDR and SO_REUSEPORT.
    bool by_connect = false;              // Only connect(2) chose it: any number may share it.
  };
  struct TimeWait {
    Instant until;
    std::uint64_t rcv_nxt;
    std::uint64_t snd_nxt;
    bool strict;
  };

  [[nodiscard]] static bool Conflicts(Port& port, const TcpConnection& connection);
  [[nodiscard]] std::uint32_t& Perturbation(std::uint64_t hash) noexcept;
  void Own(TcpConnection& connection, Port& port);
  void DropIfFree(std::uint16_t number);
  void PurgeTimeWaits();
  void EndTimeWait(const TcpTuple& tuple);
  // True when it was for a connection in TIME_WAIT, and is dealt with.
  [[nodiscard]] bool ArriveInTimeWait(const TcpTuple& tuple, const Segment& segment);

  Host& host_;
  std::size_t memory_limit_ = 0;
  std::unordered_map<TcpTuple, std::shared_ptr<TcpConnection>, TcpTupleHash> connections_;
  std::map<std::uint16_t, Port> ports_;
  std::unordered_map<TcpTuple, TimeWait, TcpTupleHash> time_waits_;
  std::deque<std::pair<Instant, TcpTuple>> time_wait_order_;
  std::uint64_t releases_ = 0;  // Of ports, so far.
  std::uint64_t even_full_hash_ = 0;
  std::uint64_t even_full_releases_ = UINT64_MAX;
  std::array<std::uint32_t, 64> perturbations_{};  // Of connect's choice of ports, by destination.
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_TCP_H_
