// The peer of the proof: a process of its own that writes down every message that it reads, and is killed,
// stopped and told to misbehave. What it wrote stays when it is killed: the log is memory that the test has
// as well.
//
// A message begins with a MessageHeader. The first of a connection says which of the link's sessions this is.
// A ping is answered with "P", and each message, where it is asked to, with "A" and its sequence; answers
// stand behind a length of one byte.
//
// The child is forked from a process that may have threads, so it does nothing but system calls.
#ifndef HOLDFAST_TESTS_PROOF_RECORDER_H_
#define HOLDFAST_TESTS_PROOF_RECORDER_H_

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "net/peer_process.h"

namespace holdfast::test {

constexpr std::size_t kMessageMax = 1 << 20;

inline std::string MakeHello(std::uint32_t session) {
  const MessageHeader header{.kind = MessageHeader::kHello, .sequence = session};
  return {reinterpret_cast<const char*>(&header), sizeof(header)};
}

// Whole messages in the order in which they were read. One process writes at a time.
struct Log {
  struct Entry {
    std::uint32_t session;
    std::uint32_t sound;  // 1: every byte is as it was sent.
    std::uint64_t sequence;
  };
  static constexpr std::size_t kEntriesMax = 4 << 20;

  std::atomic<std::uint64_t> count;
  std::atomic<std::uint64_t> nonsense;  // Headers that nobody has sent; messages before a hello.
  Entry entries[kEntriesMax];
};

class Recorder {
 public:
  enum class Answers { kPings, kPingsAndMessages };

  Recorder(const RawServer& server, Answers answers) : server_(server), answers_(answers) {
    void* const memory = ::mmap(nullptr, sizeof(Log), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(memory, MAP_FAILED);
    log_ = static_cast<Log*>(memory);
    Start();
  }
  ~Recorder() {
    if (child_ > 0) Kill();
    ::munmap(log_, sizeof(Log));
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void Start();
  // Returns when it is no more.
  void Kill() {
    EXPECT_EQ(::kill(child_, SIGKILL), 0);
    EXPECT_EQ(::waitpid(child_, nullptr, 0), child_);
    child_ = -1;
  }
  // Returns when it is stopped.
  void Stop() const {
    EXPECT_EQ(::kill(child_, SIGSTOP), 0);
    int status = 0;
    EXPECT_EQ(::waitpid(child_, &status, WUNTRACED), child_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  void Continue() const { EXPECT_EQ(::kill(child_, SIGCONT), 0); }
  // Of the connection that it accepted last: a FIN, behind which it reads on; or a reset, with which it throws
  // away what it has not read.
  void End() { Command('F'); }
  void Reset() { Command('R'); }
  // Reads what is there of all connections, and ends.
  void Finish() {
    Command('Q');
    int status = -1;
    EXPECT_EQ(::waitpid(child_, &status, 0), child_);
    EXPECT_EQ(status, 0);
    child_ = -1;
  }

  [[nodiscard]] std::span<const Log::Entry> entries() const { return {log_->entries, log_->count}; }
  [[nodiscard]] std::uint64_t nonsense() const { return log_->nonsense; }

 private:
  static constexpr int kListener = 3;
  static constexpr int kCommands = 4;
  static constexpr int kConnectionsMax = 256;

  // What is read of one connection, in the child.
  struct Reading {
    std::uint32_t session = 0;  // 0: no hello yet.
    std::size_t have = 0;       // Bytes of the message that is arriving.
    bool sound = true;
    MessageHeader header;
  };

  void Command(char command) const { EXPECT_EQ(::write(commands_.get(), &command, 1), 1); }
  [[noreturn]] void Serve();
  void Take(int fd, Reading& reading, const char* data, std::size_t size);
  void TakeWhole(int fd, Reading& reading);
  static void Answer(int fd, char kind, std::uint64_t sequence);
  bool ReadSome(int fd, Reading& reading);

  const RawServer& server_;
  const Answers answers_;
  Log* log_ = nullptr;
  Fd commands_;
  pid_t child_ = -1;
};

inline void Recorder::Start() {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  commands_ = Fd(pipe_fds[1]);
  const Fd read_end(pipe_fds[0]);
  child_ = ::fork();
  if (child_ == 0) {
    ::signal(SIGPIPE, SIG_IGN);
    // Descriptors of the test must not live on here. First out of the way of the two that stay.
    const int listener = ::fcntl(server_.fd(), F_DUPFD, 100);
    const int commands = ::fcntl(read_end.get(), F_DUPFD, 100);
    ::dup2(listener, kListener) == kListener&& ::dup2(commands, kCommands) == kCommands
        ? void()
        : ::_exit(1);
    ::close_range(5, ~0u, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Serve();
  }
  ASSERT_GT(child_, 0);
}

inline void Recorder::Answer(int fd, char kind, std::uint64_t sequence) {
  char text[1 + 1 + sizeof(sequence)] = {1, kind};
  if (kind == 'A') {
    text[0] = 1 + sizeof(sequence);
    std::memcpy(text + 2, &sequence, sizeof(sequence));
  }
  const auto size = static_cast<std::size_t>(text[0]) + 1;
  // Nobody reads, or all is over: then the link finds out, and sends again what has no answer.
  if (::send(fd, text, size, MSG_DONTWAIT | MSG_NOSIGNAL) != static_cast<ssize_t>(size)) {
    ::shutdown(fd, SHUT_WR);
  }
}

inline void Recorder::TakeWhole(int fd, Reading& reading) {
  const MessageHeader& header = reading.header;
  if (header.kind == MessageHeader::kHello) {
    reading.session = static_cast<std::uint32_t>(header.sequence);
  } else if (header.kind == MessageHeader::kPing) {
    Answer(fd, 'P', 0);
  } else {
    const std::uint64_t count = log_->count.load();
    if (count == Log::kEntriesMax) ::_exit(3);
    log_->entries[count] = {reading.session, reading.sound, header.sequence};
    log_->count.store(count + 1);
    if (answers_ == Answers::kPingsAndMessages) Answer(fd, 'A', header.sequence);
  }
}

inline void Recorder::Take(int fd, Reading& reading, const char* data, std::size_t size) {
  MessageHeader& header = reading.header;
  for (std::size_t i = 0; i < size;) {
    if (reading.have < sizeof(header)) {
      reinterpret_cast<char*>(&header)[reading.have++] = data[i++];
      if (reading.have < sizeof(header)) continue;
      const bool known = header.kind == MessageHeader::kHello ||
                         (reading.session != 0 && (header.kind == MessageHeader::kMessage ||
                                                   header.kind == MessageHeader::kPing));
      if (!known || header.size < sizeof(header) || header.size > kMessageMax) {
        ++log_->nonsense;
        header.size = sizeof(header);
      }
      reading.sound = true;
    } else {
      const std::size_t part = std::min(size - i, header.size - reading.have);
      const char body = static_cast<char>(header.sequence * 31 + 7);  // MakeMessage.
      for (std::size_t k = 0; k < part; ++k) {
        reading.sound = reading.sound && data[i + k] == body;
      }
      reading.have += part;
      i += part;
    }
    if (reading.have < header.size) continue;
    TakeWhole(fd, reading);
    reading.have = 0;
  }
}

// False at the end of the connection.
inline bool Recorder::ReadSome(int fd, Reading& reading) {
  static char buffer[65536];
  const ssize_t size = ::recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
  if (size > 0) Take(fd, reading, buffer, static_cast<std::size_t>(size));
  return size > 0 || (size < 0 && errno == EAGAIN);
}

inline void Recorder::Serve() {
  static Reading readings[kConnectionsMax];
  static pollfd polled[kConnectionsMax];
  for (pollfd& entry : polled) entry = {.fd = -1, .events = POLLIN, .revents = 0};
  polled[0].fd = kListener;
  polled[1].fd = kCommands;
  int newest = -1;
  for (;;) {
    if (::poll(polled, kConnectionsMax, -1) < 0) continue;
    for (int i = 2; i < kConnectionsMax; ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0 || ReadSome(polled[i].fd, readings[i]))
        continue;
      ::close(std::exchange(polled[i].fd, -1));
      if (newest == i) newest = -1;
    }
    for (int fd; (fd = ::accept4(kListener, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      newest = 2;
      while (newest < kConnectionsMax && polled[newest].fd >= 0) ++newest;
      if (newest == kConnectionsMax) ::_exit(2);
      polled[newest].fd = fd;
      readings[newest] = Reading{};
    }
    char command = 0;
    if (polled[1].revents != 0 && ::read(kCommands, &command, 1) != 1) ::_exit(4);
    if (command == 'F' && newest >= 0) ::shutdown(polled[newest].fd, SHUT_WR);
    if (command == 'R' && newest >= 0) {
      const linger hard{.l_onoff = 1, .l_linger = 0};
      ::setsockopt(polled[newest].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
      ::close(std::exchange(polled[newest].fd, -1));
      newest = -1;
    }
    if (command == 'Q') {
      for (int i = 2; i < kConnectionsMax; ++i) {
        pollfd there = {.fd = polled[i].fd, .events = POLLIN, .revents = 0};
        while (there.fd >= 0 && ::poll(&there, 1, 0) == 1 && ReadSome(there.fd, readings[i]))
          continue;
      }
      ::_exit(0);
    }
  }
}

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_PROOF_RECORDER_H_
