// Networks of a test's own that break on command: namespaces, a cable between two of them, and commands
// that run inside one (network_namespaces(7), veth(4), ip(8), nft(8)).
//
// A namespace belongs to a thread, a socket for ever to the one that it was made in. So a test lives in
// one, makes its peer's sockets in the other, and uses both from the one thread. Namespaces have no name
// here: the last descriptor and the last socket take them away, whatever way the test ended.
#ifndef HOLDFAST_TESTS_NETNS_NAMESPACES_H_
#define HOLDFAST_TESTS_NETNS_NAMESPACES_H_

#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "net/net_fixture.h"

namespace holdfast::test {

// The descriptor of a network namespace.
class Namespace {
 public:
  // A new one, with nothing but a loopback that is down. Leaves the thread where it was.
  Namespace();

  // Where this thread is now.
  [[nodiscard]] static Namespace Current() {
    return Namespace(Fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)));
  }
  // Empty, or why this process cannot make namespaces.
  [[nodiscard]] static std::string WhyNot();

  [[nodiscard]] int fd() const { return fd_.get(); }
  // What another process may call it.
  [[nodiscard]] std::string Path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd());
  }

 private:
  explicit Namespace(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

// This thread is in `there` for as long as this lives.
class Inside {
 public:
  explicit Inside(const Namespace& there) : before_(Namespace::Current()) {
    EXPECT_EQ(::setns(there.fd(), CLONE_NEWNET), 0) << std::strerror(errno);
  }
  ~Inside() { EXPECT_EQ(::setns(before_.fd(), CLONE_NEWNET), 0) << std::strerror(errno); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Namespace before_;
};

inline Namespace::Namespace() {
  const Namespace before = Current();
  EXPECT_EQ(::unshare(CLONE_NEWNET), 0) << std::strerror(errno);
  fd_ = Current().fd_;
  EXPECT_EQ(::setns(before.fd(), CLONE_NEWNET), 0) << std::strerror(errno);
}

inline std::string Namespace::WhyNot() {
  if (::geteuid() != 0) return "not root";
  const Namespace before = Current();
  if (::unshare(CLONE_NEWNET) != 0) return std::string("unshare: ") + std::strerror(errno);
  return ::setns(before.fd(), CLONE_NEWNET) == 0 ? "" : std::strerror(errno);
}

// Runs a program in a namespace and waits for it. `command` is split at spaces and seen by no shell. When
// it does not say 0, the test has failed with what it printed.
inline void RunIn(const Namespace& where, const std::string& command) {
  std::istringstream stream(command);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const Fd output(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDERR_FILENO);
  pid_t child = -1;
  int failed = 0;
  {
    const Inside inside(where);
    failed = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  }
  ::posix_spawn_file_actions_destroy(&actions);
  ASSERT_EQ(failed, 0) << command << ": " << std::strerror(failed);
  write_end.Reset();

  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = ::read(output.get(), buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<std::size_t>(size));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0) << command << ": " << text;
}

// Writes a file of /proc/sys/net, which shows the namespace that the writer is in.
inline void SetSysctl(const Namespace& where, const std::string& name, const std::string& value) {
  const Inside inside(where);
  const Fd file(::open(("/proc/sys/net/" + name).c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(file.valid()) << name << ": " << std::strerror(errno);
  ASSERT_EQ(::write(file.get(), value.data(), value.size()), static_cast<ssize_t>(value.size()))
      << name << ": " << std::strerror(errno);
}

// Two hosts and a cable: near0, where the test's links are, and far0, where their peers are. Addresses
// are those that RFC 5737 and RFC 3849 keep for documents.
class Network {
 public:
  Network() {
    RunIn(near_, "ip link add near0 type veth peer name far0 netns " + far_.Path());
    RunIn(near_, "ip link set lo up");
    RunIn(near_, "ip link set near0 up");
    RunIn(far_, "ip link set lo up");
    RunIn(far_, "ip link set far0 up");
    GiveAddresses(near_, "near0", "1");
    GiveAddresses(far_, "far0", "2");
    // The kernel answers a second SYN of a rejected connection with silence when it counts its ICMP.
    for (const char* name : {"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"}) {
      SetSysctl(near_, name, "0");
      SetSysctl(far_, name, "0");
    }
    AwaitPacket("192.0.2.2:0");
    AwaitPacket("[2001:db8::2]:0");
  }
  [[nodiscard]] const Namespace& near() const { return near_; }
  [[nodiscard]] const Namespace& far() const { return far_; }

 private:
  static void GiveAddresses(const Namespace& where, const std::string& device,
                            const std::string& host) {
    // They are usable at once, and stay when their device is down.
    SetSysctl(where, "ipv6/conf/" + device + "/keep_addr_on_down", "1");
    RunIn(where, "ip addr add 192.0.2." + host + "/24 broadcast + dev " + device);
    RunIn(where, "ip addr add 2001:db8::" + host + "/64 dev " + device + " nodad");
  }
  // Until one has arrived. The first question for a neighbour may be lost while a cable becomes ready; then
  // a SYN is sent again after a second, and its connection waits three for every acknowledgement (RFC 6298).
  void AwaitPacket(const std::string& far) const {
    const SocketAddress any = *Endpoint::Parse(far)->literal();
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    Fd receiver;
    {
      const Inside inside(far_);
      receiver = Fd(::socket(any.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    }
    ASSERT_EQ(::bind(receiver.get(), any.data(), any.size()), 0) << std::strerror(errno);
    ASSERT_EQ(::getsockname(receiver.get(), reinterpret_cast<sockaddr*>(&bound), &size), 0);
    const Inside inside(near_);
    const Fd sender(::socket(any.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    pollfd arrived{.fd = receiver.get(), .events = POLLIN, .revents = 0};
    for (int i = 0; i < 500 && ::poll(&arrived, 1, 10) == 0; ++i) {
      static_cast<void>(
          ::sendto(sender.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&bound), size));
    }
    ASSERT_EQ(arrived.revents, POLLIN) << far;
  }

  Namespace near_;
  Namespace far_;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NETNS_NAMESPACES_H_
