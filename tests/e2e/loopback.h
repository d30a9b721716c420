// Sockets of the test itself, for peers that misbehave in ways that no server of ours does.
#ifndef HOLDFAST_TESTS_E2E_LOOPBACK_H_
#define HOLDFAST_TESTS_E2E_LOOPBACK_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "e2e/process.h"

namespace holdfast::e2e {

// Whether one of `events` is there before `patience` is over.
inline bool Ready(int fd, short events, std::chrono::milliseconds patience = kPatience) {
  pollfd poll_fd{.fd = fd, .events = events, .revents = 0};
  return poll(&poll_fd, 1, static_cast<int>(patience.count())) == 1;
}

// A descriptor that is closed at the end.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Socket& operator=(Socket&&) = delete;

  [[nodiscard]] int fd() const { return fd_; }

  // Exactly so many bytes; fewer when the peer ended or nothing came in time.
  std::string Read(std::size_t size) const {
    std::string text;
    while (text.size() < size && Ready(fd_, POLLIN)) {
      std::array<char, 65536> buffer;
      const ssize_t got = recv(fd_, buffer.data(), std::min(buffer.size(), size - text.size()), 0);
      if (got <= 0) break;
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return text;
  }
  void Write(std::string_view text) const {
    while (!text.empty() && Ready(fd_, POLLOUT)) {
      const ssize_t put = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (put <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(put));
    }
  }

 private:
  int fd_;
};

inline sockaddr_in Loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// A server that is the test.
class RawServer {
 public:
  RawServer() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof address;
    if (bind(socket_.fd(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(socket_.fd(), 16) != 0 ||
        getsockname(socket_.fd(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::abort();
    }
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }

  [[nodiscard]] const std::string& address() const { return address_; }
  // fd() is -1 when nobody comes in time.
  [[nodiscard]] Socket Accept() const {
    return Socket(
        Ready(socket_.fd(), POLLIN) ? accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC) : -1);
  }

 private:
  Socket socket_;
  std::string address_;
};

// A connection to "127.0.0.1:PORT".
inline Socket ConnectTo(const std::string& address) {
  const auto port = static_cast<std::uint16_t>(std::stoi(address.substr(address.find(':') + 1)));
  const sockaddr_in to = Loopback(port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    close(fd);
    return Socket(-1);
  }
  return Socket(fd);
}

}  // namespace holdfast::e2e

#endif  // HOLDFAST_TESTS_E2E_LOOPBACK_H_
