// A TCP descriptor: the socket calls over a TcpConnection (struct socket over struct sock).
//
// The calls answer as Linux does in every state, right or wrong: net/ipv4/af_inet.c and tcp.c are
// followed call by call. None blocks (file.h).
#ifndef HOLDFAST_SIM_TCP_SOCKET_H_
#define HOLDFAST_SIM_TCP_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "sim/file.h"
#include "sim/tcp_connection.h"

struct tcp_info;

namespace holdfast::internal::sim {

class TcpSocket final : public SocketFile {
 public:
  // `connected`: it comes from accept(2).
  TcpSocket(std::shared_ptr<TcpConnection> connection, bool connected);
  ~TcpSocket() override;  // The close(2) of the last descriptor.

  [[nodiscard]] std::uint32_t Poll() const override;
  [[nodiscard]] int domain() const override { return c_->domain(); }
  int Bind(const sockaddr* address, socklen_t size) override;
  int Listen(int backlog) override;
  std::shared_ptr<SocketFile> Accept(int* error) override;
  [[nodiscard]] bool HasPending() const override;
  int Connect(const sockaddr* address, socklen_t size) override;
  ssize_t Send(const iovec* parts, std::size_t count, int flags) override;
  ssize_t Recv(void* data, std::size_t size, int flags) override;
  int Shutdown(int how) override;
  int GetSockOpt(int level, int name, void* value, socklen_t* size) override;
  int SetSockOpt(int level, int name, const void* value, socklen_t size) override;
  int GetSockName(sockaddr* address, socklen_t* size) const override;
  int GetPeerName(sockaddr* address, socklen_t* size) const override;
  int AcceptedFrom(sockaddr* address, socklen_t* size) const override;
  int Ioctl(unsigned long request, int* value) override;

 private:
  // sock->state, which connect(2) goes by.
  enum class Progress : std::uint8_t { kUnconnected, kConnecting, kConnected, kDisconnecting };
  // Around every call: what it sent to the own host has arrived when it returns.
  class Call {
   public:
    explicit Call(TcpConnection& connection)
        : network_(connection.network()), connection_(connection) {}
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() {
      network_.DrainLocal();
      if (connection_.alive()) connection_.Arm();
    }

   private:
    Network& network_;
    TcpConnection& connection_;
  };

  [[nodiscard]] int CheckAddress(const sockaddr* address, socklen_t size) const;
  int BeginConnect(const TcpAddress& peer);
  [[nodiscard]] int GetOption(int level, int name, int* value);
  [[nodiscard]] int SetOption(int level, int name, int value);
  void FillTcpInfo(tcp_info* info) const;

  const std::shared_ptr<TcpConnection> c_;
  Progress progress_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_TCP_SOCKET_H_
