// A peer in a process of its own, which can be stopped and continued (signal(7)): its kernel goes on
// acknowledging while it does not run. What a test cannot show with a raw socket of its own process.
//
// It accepts every connection of a listening socket that the test made. As an echo server it sends back
// what it reads. As a recorder it reads to the end of every connection and then reports, in one record
// on a pipe, what arrived: whole messages in sequence, bytes, and whether anything was out of order.
//
// The child is forked from a process that may have threads, so it does nothing but system calls.
#ifndef HOLDFAST_TESTS_NET_PEER_PROCESS_H_
#define HOLDFAST_TESTS_NET_PEER_PROCESS_H_

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "net/net_fixture.h"

namespace holdfast::test {

// What stands before every message of a recorded connection.
struct MessageHeader {
  static constexpr std::uint32_t kMessage = 0x4d455353;
  static constexpr std::uint32_t kPing = 0x50494e47;   // Not counted.
  static constexpr std::uint32_t kHello = 0x48454c4f;  // Nor this: says which session it is.

  std::uint32_t kind = kMessage;
  std::uint32_t size = sizeof(MessageHeader);  // With this header.
  std::uint64_t sequence = 0;
};

// A message of `size` bytes, at least a header's, whose every byte depends on its sequence.
inline std::string MakeMessage(std::uint64_t sequence, std::size_t size) {
  const MessageHeader header{.size = static_cast<std::uint32_t>(size), .sequence = sequence};
  std::string message(size, static_cast<char>(sequence * 31 + 7));
  std::memcpy(message.data(), &header, sizeof(header));
  return message;
}
inline std::string MakePing() {
  const MessageHeader header{.kind = MessageHeader::kPing};
  return {reinterpret_cast<const char*>(&header), sizeof(header)};
}

// What a recorder saw of one connection.
struct Received {
  std::uint16_t peer_port = 0;  // The link's local port.
  bool in_order = true;         // Sequences without a gap, every byte as it was sent.
  bool partial = false;         // The last message began to arrive and did not end.
  std::uint64_t first_sequence = 0;
  std::uint64_t whole = 0;  // Whole messages.
  std::uint64_t bytes = 0;  // All that arrived, pings included.
};

class PeerProcess {
 public:
  enum class Kind { kEcho, kRecord };

  PeerProcess(const RawServer& server, Kind kind) {
    int pipe_fds[2];
    EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
    reports_ = Fd(pipe_fds[0]);
    Fd write_end(pipe_fds[1]);
    child_ = ::fork();
    if (child_ == 0) {
      // Descriptors of the test must not live on here: a connection ends when its last one is closed.
      ::dup2(server.fd(), 3) == 3 && ::dup2(write_end.get(), 4) == 4 ? void() : ::_exit(1);
      ::close_range(5, ~0u, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Serve(kind);
      ::_exit(0);
    }
    EXPECT_GT(child_, 0);
    char ready = 0;
    EXPECT_EQ(::read(reports_.get(), &ready, 1), 1);
    EXPECT_EQ(::fcntl(reports_.get(), F_SETFL, O_NONBLOCK), 0);
  }
  ~PeerProcess() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  // Returns when it really is stopped.
  void Stop() const {
    EXPECT_EQ(::kill(child_, SIGSTOP), 0);
    int status = 0;
    EXPECT_EQ(::waitpid(child_, &status, WUNTRACED), child_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  void Continue() const { EXPECT_EQ(::kill(child_, SIGCONT), 0); }
  void Kill() const { EXPECT_EQ(::kill(child_, SIGKILL), 0); }

  // The next connection that ended, if there is one.
  [[nodiscard]] std::optional<Received> Report() const {
    Received received;
    if (::read(reports_.get(), &received, sizeof(received)) != sizeof(received)) {
      return std::nullopt;
    }
    return received;
  }

 private:
  static constexpr int kConnectionsMax = 64;
  static constexpr int kListener = 3;
  static constexpr int kReports = 4;

  // One connection of a recorder, in the child.
  struct Recording {
    Received received;
    std::uint64_t next_sequence = 0;
    std::size_t have = 0;  // Bytes of the message that is arriving.
    MessageHeader header;

    void Take(const char* data, std::size_t size) {
      received.bytes += size;
      for (std::size_t i = 0; i < size;) {
        if (have < sizeof(header)) {
          reinterpret_cast<char*>(&header)[have++] = data[i++];
          if (have == sizeof(header)) Begin();
        } else {
          const std::size_t part = std::min(size - i, std::size_t{header.size} - have);
          const char expected = static_cast<char>(header.sequence * 31 + 7);
          for (std::size_t k = 0; k < part; ++k) {
            received.in_order = received.in_order && data[i + k] == expected;
          }
          have += part;
          i += part;
        }
        if (have >= sizeof(header) && have == header.size) End();
      }
      received.partial = have > 0 && (have < sizeof(header) || IsMessage());
    }
    [[nodiscard]] bool IsMessage() const { return header.kind == MessageHeader::kMessage; }
    void Begin() {
      const bool sane = header.size >= sizeof(header) && header.size <= (64u << 20) &&
                        (IsMessage() || header.kind == MessageHeader::kPing);
      if (!sane) {
        received.in_order = false;
        header.size = sizeof(header);
      }
      if (!IsMessage()) return;
      if (received.first_sequence == 0) next_sequence = received.first_sequence = header.sequence;
      received.in_order = received.in_order && header.sequence == next_sequence;
      next_sequence = header.sequence + 1;
    }
    void End() {
      if (IsMessage()) ++received.whole;
      have = 0;
    }
  };

  static void Serve(Kind kind) {
    static Recording recordings[kConnectionsMax];
    static pollfd polled[kConnectionsMax + 1];
    static char buffer[65536];
    polled[0] = {.fd = kListener, .events = POLLIN, .revents = 0};
    for (int i = 1; i <= kConnectionsMax; ++i)
      polled[i] = {.fd = -1, .events = POLLIN, .revents = 0};
    static_cast<void>(!::write(kReports, "r", 1));
    for (;;) {
      if (::poll(polled, kConnectionsMax + 1, -1) < 0) continue;
      for (int i = 1; i <= kConnectionsMax; ++i) {
        if (polled[i].fd < 0 || polled[i].revents == 0) continue;
        const ssize_t size = ::recv(polled[i].fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN) continue;
        if (size > 0 && kind == Kind::kEcho) {
          static_cast<void>(
              !::send(polled[i].fd, buffer, static_cast<std::size_t>(size), MSG_NOSIGNAL));
        } else if (size > 0) {
          recordings[i - 1].Take(buffer, static_cast<std::size_t>(size));
        } else {
          const Received& received = recordings[i - 1].received;
          if (kind == Kind::kRecord) {
            static_cast<void>(!::write(kReports, &received, sizeof(received)));
          }
          ::close(polled[i].fd);
          polled[i].fd = -1;
        }
      }
      if (polled[0].revents == 0) continue;
      sockaddr_in address{};  // IPv6 has its port in the same place.
      socklen_t size = sizeof(address);
      const int fd = ::accept4(kListener, reinterpret_cast<sockaddr*>(&address), &size, 0);
      if (fd < 0) continue;
      int place = 1;
      while (place <= kConnectionsMax && polled[place].fd >= 0) ++place;
      if (place > kConnectionsMax) ::_exit(2);
      polled[place].fd = fd;
      recordings[place - 1] = Recording{};
      recordings[place - 1].received.peer_port = ntohs(address.sin_port);
    }
  }

  Fd reports_;
  pid_t child_ = -1;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NET_PEER_PROCESS_H_
