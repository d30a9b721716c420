// What a program inherits from the library without having asked: no SIGPIPE, and no descriptor in the
// programs that it starts.
#include <signal.h>
#include <array>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "edges/in_child.h"
#include "net/link_fixture.h"
#include "net/names_kernel.h"
#include "net/stream_fixture.h"

namespace holdfast::test {
namespace {

// --- SIGPIPE (signal(7)) ends a process that did not ask about it.

// As a program has it that never heard of it: raised, it ends this process.
void LetSigpipeKill() {
  ::signal(SIGPIPE, SIG_DFL);
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGPIPE);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

class SigpipeLinkTest : public LinkFixture {};
class SigpipeStreamTest : public StreamFixture {};

// Small messages and large ones go by different calls: send, sendmsg, and the ring's SEND and SENDMSG.
TEST_P(SigpipeLinkTest, ALinkWhosePeerHasGoneIsToldSoByNoSignal) {
  LetSigpipeKill();
  for (const std::size_t count : {1U, 3U}) {
    SCOPED_TRACE(count);
    RawServer server;
    Fd peer;
    diary_ = {};
    std::unique_ptr<Link> link = MakeUp(server, peer);
    server.Close();
    ResetPeer(peer);
    // Sent in the turn that has not yet heard of the reset, and for as long as it says that it is up.
    const std::string part(5000, 'x');
    EXPECT_TRUE(RunUntil([&] {
      for (std::size_t i = 0; i < count; ++i) static_cast<void>(link->Send(part));
      return !diary_.downs.empty();
    }));
    EXPECT_TRUE(diary_.Has("down:reset")) << diary_.Text();
  }
}

// The peer's side is shut, and its kernel answers what we go on sending with a reset: the second send
// would be told EPIPE, and with it the signal.
TEST_P(SigpipeStreamTest, AStreamThatSendsIntoAClosedConnectionIsToldSoByNoSignal) {
  LetSigpipeKill();
  for (const Family family : {Family::kInet, Family::kUnix}) {
    StreamDiary diary;
    StreamOptions options;
    diary.Attach(options, true);  // With on_eof: the stream stays, and may still send.
    Ends ends = MakeEnds(family);
    ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    ends.peer.Reset();
    ASSERT_TRUE(RunUntil([&] { return diary.eofs == 1; }));
    EXPECT_TRUE(RunUntil([&] {
      static_cast<void>(ends.stream->Send("anybody?"));
      return diary.closes == 1;
    }));
    // Its FIN came first, and that is what ended it.
    EXPECT_EQ(diary.closed.error.error_class, ErrorClass::kEof) << diary.Text();
  }
}

HOLDFAST_FOR_BOTH_BACKENDS(SigpipeLinkTest);
HOLDFAST_FOR_BOTH_BACKENDS(SigpipeStreamTest);

// --- Close-on-exec.

// The numbers of what is open, but for the directory that is being read.
std::set<int> Descriptors() {
  std::set<int> all;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (const dirent* const entry = ::readdir(directory)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != ::dirfd(directory)) all.insert(fd);
  }
  ::closedir(directory);
  return all;
}

std::string NameOf(int fd) {
  std::array<char, 256> name{};
  const ssize_t size =
      ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), name.data(), name.size() - 1);
  return size < 0 ? "?" : std::string(name.data(), static_cast<std::size_t>(size));
}

class CloseOnExecTest : public StreamFixture {};

// Whatever the library opens it opens so in the call that opens it, since another thread may fork at any
// time: so it is looked at in every state that a reactor passes through, not only at the end.
TEST_P(CloseOnExecTest, NoDescriptorOfABusyReactorIsInheritedByAProgram) {
  reactor_.reset();
  const std::set<int> before = Descriptors();
  NamesKernel& names = NamesKernel::Make();
  names.Set("hangs", {.hangs = true});
  MakeReactor({.kernel = &names});
  std::set<std::string> kinds;
  const auto look = [&] {
    for (const int fd : Descriptors()) {
      if (before.count(fd) > 0) continue;
      kinds.insert(NameOf(fd).substr(0, NameOf(fd).find_first_of("[")));
      EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd << ": " << NameOf(fd);
    }
  };
  look();
  RawServer server;
  RawServer unix_server(Family::kUnix);
  RawServer busy_server(Family::kInet, 0, 0);
  const Fd filler = ConnectTo(*Endpoint::Parse(busy_server.endpoint())->literal());
  const ClosedPort closed_port;
  Diary diary;
  std::vector<std::unique_ptr<Link>> links;
  for (const std::string& endpoint :
       {server.endpoint(), unix_server.endpoint(), busy_server.endpoint(), closed_port.endpoint(),
        std::string("hangs:7")}) {
    LinkOptions options;
    options.endpoints = {endpoint};
    diary.Attach(options);
    auto link = Link::Create(reactor(), std::move(options));
    ASSERT_TRUE(link.ok()) << link.status();
    (*link)->Start();
    links.push_back(*std::move(link));
  }
  const Fd peer = AcceptFrom(server);
  const Fd unix_peer = AcceptFrom(unix_server);
  StreamDiary stream_diary;
  Ends started = MakeStarted(stream_diary);
  Ends unstarted = MakeEnds(Family::kUnix);
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const Fd reader(pipe_fds[0]);
  const Fd writer(pipe_fds[1]);
  auto watcher = reactor().Watch(reader.get(), kWatchReadable, [](unsigned) {});
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  ASSERT_GE(reactor().fd(), 0);
  EXPECT_TRUE(RunUntil([&] {
    look();
    return diary.ups == 2 && !diary.downs.empty() && names.inside() == 1 &&
           links[2]->state() == LinkState::kConnecting;
  })) << diary.Text();
  look();
  // The look was at something: sockets, and what a backend is made of.
  EXPECT_EQ(kinds.count("socket:"), 1u);
  EXPECT_EQ(kinds.count("anon_inode:"), 1u);
  EXPECT_GE(Descriptors().size(), before.size() + 20);

  // And a program that is started now has none of it.
  EXPECT_EQ(InChild([&] {
              // Numbers, one a line, of the shell's own descriptors; 0 to 2 are anybody's.
              const std::string script =
                  "for fd in /proc/$$/fd/*; do n=${fd##*/}; "
                  "[ $n -gt 2 ] && readlink $fd; done | "
                  "grep -c -e socket: -e anon_inode: ; exit 0";
              ::execl("/bin/sh", "sh", "-c", ("test $(" + script + ") -eq 0").c_str(), nullptr);
              return std::string("no shell");
            }),
            "");
  links.clear();
  names.Release();
  CloseListeners();
  started.stream.reset();
  unstarted.stream.reset();
  watcher->reset();
}

HOLDFAST_FOR_BOTH_BACKENDS(CloseOnExecTest);

}  // namespace
}  // namespace holdfast::test
