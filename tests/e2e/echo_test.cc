// The echo pair from outside: what the client says when its server is away, dies, hangs or lies, and how
// it ends.
#include <pty.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <csignal>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "e2e/echo_fixture.h"
#include "e2e/loopback.h"

namespace holdfast::e2e {
namespace {

INSTANTIATE_TEST_SUITE_P(Backend, EchoTest, testing::Values("epoll", "uring"), BackendName);

TEST_P(EchoTest, EndsAfterItsCountWithEveryMessageEchoed) {
  const auto server = StartServer();
  const auto client = StartClient({"--rate=0", "--depth=8", "--count=1000"});
  EXPECT_EQ(client->End(), 0);
  EXPECT_EQ(client->Summary().Int("sent"), 1000);
  EXPECT_EQ(client->Summary().Int("echoed"), 1000);
  EXPECT_EQ(client->Summary().Int("refused"), 0);
  EXPECT_GT(client->Summary().Int("rtt_max_us"), 0);
  ExpectAddsUp(*client);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  EXPECT_EQ(server->Summary().Int("bytes"), 64 * 1000);
}

TEST_P(EchoTest, HoldsManyLinksAndMessagesOfEverySize) {
  const auto server = StartServer();
  for (const int size : {32, 33, 5000, 1 << 20}) {
    const auto client = StartClient({"--connections=20", "--rate=0", "--depth=3", "--count=10",
                                     "--size=" + std::to_string(size)});
    EXPECT_EQ(client->End(), 0) << size;
    EXPECT_EQ(client->Summary().Int("echoed"), 200) << size;
    EXPECT_EQ(client->Summary().Int("ups"), 20) << size;
    ExpectAddsUp(*client);
  }
}

TEST_P(EchoTest, KeepsToItsRate) {
  const auto server = StartServer();
  const auto client = StartClient({"--rate=200", "--count=100"});
  EXPECT_EQ(client->End(), 0);
  ExpectAddsUp(*client);
  ASSERT_EQ(client->Named("down").size(), 1u);
  // The first goes out at once and 99 periods of 5 ms follow; never early.
  EXPECT_GE(client->Named("down")[0].Int("up_us"), 99 * 5000);
}

TEST_P(EchoTest, DialsUntilItsServerComes) {
  FindFreeAddress();
  const auto client = StartClient({"--backoff_initial=20ms", "--backoff_max=50ms"});
  for (int i = 0; i < 3; ++i) {
    const auto failed = client->Await("dial_failed");
    ASSERT_TRUE(failed);
    EXPECT_EQ(failed->Int("attempt"), i + 1);
    EXPECT_EQ(failed->Str("operation"), "connect");
    EXPECT_EQ(failed->Str("class"), "refused");
    EXPECT_EQ(failed->Str("errno"), "ECONNREFUSED");
    EXPECT_EQ(failed->Str("peer"), address_);
  }
  const auto server = StartServer(address_);
  ASSERT_TRUE(client->Await("up"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  ExpectAddsUp(*client);
  for (const Json& retry : client->Named("retry")) EXPECT_LE(retry.Int("delay_us"), 50'000);
}

TEST_P(EchoTest, ComesBackWhenItsServerIsKilledAndStartedAgain) {
  auto server = StartServer();
  const auto client = StartClient({"--rate=0", "--depth=16", "--size=256", "--backoff_max=200ms"});
  ASSERT_TRUE(client->Await("up"));
  server->Kill();
  const auto down = client->Await("down");
  ASSERT_TRUE(down);
  EXPECT_TRUE(down->Str("class") == "reset" || down->Str("class") == "eof") << down->Str("class");
  ASSERT_TRUE(client->Await("dial_failed"));
  server = StartServer(address_);
  ASSERT_TRUE(client->Await("up"));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  // More than two when a dial reached the dying server while its listener was still open.
  EXPECT_GE(client->Named("up").size(), 2u);
  EXPECT_GE(client->Summary().Int("echoed"), 16);
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, WaitsForItsEchoesWhenInterrupted) {
  const auto server = StartServer();
  for (const int signal : {SIGINT, SIGTERM}) {
    const auto client = StartClient({"--rate=0", "--depth=64", "--connections=4"});
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(client->Await("up"));
    EXPECT_EQ(client->EndBy(signal), 0);
    EXPECT_GE(client->Summary().Int("sent"), 4 * 64);
    EXPECT_EQ(client->Summary().Int("lost"), 0);
    ExpectAddsUp(*client);
    for (const Json& closed : client->Named("closed")) EXPECT_EQ(closed.Str("reason"), "user");
    for (const Json& down : client->Named("down")) EXPECT_EQ(down.Str("class"), "cancelled");
  }
}

TEST_P(EchoTest, EndsAtOnceWhenInterruptedTwice) {
  const auto server = StartServer("0", {"--chaos=stall"});
  const auto client = StartClient({"--silence_max=0", "--drain=1h", "--ping="});
  ASSERT_TRUE(client->Await("up"));
  client->Signal(SIGINT);
  client->Signal(SIGTERM);
  EXPECT_EQ(client->End(), 0);
  EXPECT_EQ(client->Summary().Int("lost"), client->Summary().Int("sent"));
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, EndsAfterItsDrainWhenTheEchoesDoNotCome) {
  const auto server = StartServer("0", {"--chaos=stall"});
  const auto client = StartClient({"--count=1", "--drain=200ms"});
  EXPECT_EQ(client->End(), 0);
  EXPECT_EQ(client->Summary().Int("lost"), 1);
  ExpectAddsUp(*client);
  ASSERT_EQ(client->Named("down").size(), 1u);
  EXPECT_GE(client->Named("down")[0].Int("up_us"), 200'000);
}

TEST_P(EchoTest, NoticesAServerThatStallsWithinItsSilence) {
  const auto server = StartServer("0", {"--chaos=stall"});
  const auto client = StartClient({"--silence_max=400ms"});
  const auto up = client->Await("up");
  const auto down = client->Await("down");
  ASSERT_TRUE(up && down);
  EXPECT_EQ(down->Str("class"), "timeout");
  EXPECT_EQ(down->Str("operation"), "heartbeat");
  EXPECT_EQ(down->Str("errno"), "");
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  ExpectAddsUp(*client);
  EXPECT_GE(down->Int("up_us"), 400'000);
  const std::int64_t lateness = client->Summary().Int("timer_lateness_us");
  // Beyond a quarter of the silence the loop itself stood still, and grants a fresh lease.
  if (lateness < 100'000) {
    EXPECT_LE(down->Int("up_us"), 400'000 + 50'000 + lateness);
    EXPECT_LE(down->Int("t_us") - up->Int("t_us"), 400'000 + 50'000 + lateness + 10'000);
  }
}

TEST_P(EchoTest, ItsPingsKeepAnIdleLinkUp) {
  const auto server = StartServer();
  // One message, then silence three times longer than allowed.
  const auto client = StartClient(
      {"--rate=0.001", "--silence_max=200ms", "--duration=700ms", "--ping=are you there"});
  EXPECT_EQ(client->End(), 0);
  EXPECT_EQ(client->Named("down").size(), 1u);
  EXPECT_EQ(client->Summary().Int("sent"), 1);
  ExpectAddsUp(*client);
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  // The pings went both ways, and the account knows nothing of them.
  EXPECT_GT(server->Summary().Int("bytes"), 64);
}

TEST_P(EchoTest, GivesUpAfterItsAttempts) {
  FindFreeAddress();
  const auto client =
      StartClient({"--attempts_max=3", "--backoff_initial=10ms", "--backoff_max=20ms"});
  EXPECT_EQ(client->End(), 3);
  EXPECT_EQ(client->Named("dial_failed").size(), 3u);
  EXPECT_EQ(client->Named("retry").size(), 2u);
  ASSERT_EQ(client->Named("closed").size(), 1u);
  EXPECT_EQ(client->Named("closed")[0].Str("reason"), "attempts");
  EXPECT_EQ(client->Named("closed")[0].Str("class"), "refused");
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, ClosesWhenItsServerTalksNonsense) {
  const RawServer server;
  address_ = server.address();
  const auto client = StartClient({"--backoff_initial=5ms", "--backoff_max=10ms"});
  for (int i = 0; i < 3; ++i) {
    const Socket peer = server.Accept();
    ASSERT_GE(peer.fd(), 0);
    peer.Write("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    peer.Read(1 << 20);
  }
  EXPECT_EQ(client->End(), 3);
  ASSERT_EQ(client->Named("closed").size(), 1u);
  EXPECT_EQ(client->Named("closed")[0].Str("reason"), "protocol");
  for (const Json& down : client->Named("down")) {
    EXPECT_EQ(down.Str("class"), "protocol");
    EXPECT_EQ(down.Str("operation"), "user");
  }
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, SeesEchoesThatAreMissingDoubledOrOutOfOrder) {
  const RawServer server;
  address_ = server.address();
  const auto client = StartClient(
      {"--rate=0", "--depth=4", "--count=4", "--drain=200ms", "--account=" + File("account")});
  const Socket peer = server.Accept();
  const std::string messages = peer.Read(4 * 64);
  ASSERT_EQ(messages.size(), 4u * 64);
  const auto message = [&](std::size_t i) { return messages.substr((i - 1) * 64, 64); };
  peer.Write(message(1) + message(1) + message(3) + message(2));
  EXPECT_EQ(client->End(), 0);
  const Json summary = client->Summary();
  EXPECT_EQ(summary.Int("sent"), 4);
  EXPECT_EQ(summary.Int("echoed"), 3);
  EXPECT_EQ(summary.Int("lost"), 1);
  EXPECT_EQ(summary.Int("duplicated"), 1);
  EXPECT_EQ(summary.Int("reordered"), 1);
  const std::vector<Json> account = Lines(File("account"), "account_line");
  ASSERT_EQ(account.size(), 1u);
  EXPECT_EQ(account[0].Int("sequence"), 4);
  EXPECT_EQ(account[0].Str("local"), client->Named("up")[0].Str("local"));
}

TEST_P(EchoTest, DropsALinkWhoseEchoIsNotWhatItSent) {
  const RawServer server;
  address_ = server.address();
  const auto client = StartClient({"--attempts_max=1"});
  const Socket peer = server.Accept();
  std::string message = peer.Read(64);
  ASSERT_EQ(message.size(), 64u);
  message[50] = static_cast<char>(message[50] ^ 1);
  peer.Write(message);
  const auto down = client->Await("down");
  ASSERT_TRUE(down);
  EXPECT_EQ(down->Str("class"), "protocol");
  EXPECT_EQ(client->End(), 3);
}

TEST_P(EchoTest, TriesItsEndpointsInTurn) {
  FindFreeAddress();
  const std::string nobody = address_;
  const auto server = StartServer();
  const auto client = StartClient({"--count=1", "--backoff_initial=5ms", nobody});
  EXPECT_EQ(client->End(), 0);
  ASSERT_EQ(client->Named("dial").size(), 2u);
  EXPECT_EQ(client->Named("dial")[0].Str("endpoint"), nobody);
  EXPECT_EQ(client->Named("dial")[1].Str("endpoint"), address_);
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, WorksOverUnixSocketsAndTakesAPathOver) {
  for (const std::string& endpoint :
       {std::string("unix:") + File("socket"), "unix:@holdfast-e2e-" + std::to_string(getpid())}) {
    auto server = StartServer(endpoint);
    EXPECT_EQ(address_, endpoint);
    const auto client = StartClient({"--rate=0", "--depth=4", "--backoff_max=100ms"});
    ASSERT_TRUE(client->Await("up")) << endpoint;
    server->Kill();
    ASSERT_TRUE(client->Await("dial_failed")) << endpoint;
    // The socket file of the one that was killed is still there.
    server = StartServer(endpoint);
    ASSERT_TRUE(client->Await("up")) << endpoint;
    EXPECT_EQ(client->EndBy(SIGINT), 0);
    EXPECT_GE(client->Summary().Int("echoed"), 4);
    ExpectAddsUp(*client);
    EXPECT_EQ(server->EndBy(SIGTERM), 0);
    EXPECT_FALSE(std::filesystem::exists(File("socket")));
  }
}

// --- The server's side ----------------------------------------------------------------------------------

TEST_P(EchoTest, ItsServerDoesToAnOpenConnectionWhatItsModeSays) {
  const std::pair<const char*, const char*> modes[] = {
      {"up:200ms,eof", "eof"}, {"up:200ms,reset", "reset"}, {"up:200ms,refuse", "eof"}};
  for (const auto& [chaos, error_class] : modes) {
    const auto server = StartServer("0", {std::string("--chaos=") + chaos});
    // Idle, so that only the mode ends it.
    const auto client = StartClient({"--rate=0.001", "--backoff_initial=10s", "--jitter=none"});
    const auto down = client->Await("down");
    ASSERT_TRUE(down) << chaos;
    EXPECT_EQ(down->Str("class"), error_class) << chaos;
    EXPECT_EQ(down->Str("errno"), std::string(error_class) == "reset" ? "ECONNRESET" : "") << chaos;
    EXPECT_EQ(client->EndBy(SIGINT), 0);
    ExpectAddsUp(*client);
  }
}

TEST_P(EchoTest, ItsServerGoesRoundItsSchedule) {
  const auto server = StartServer(
      "0", {"--chaos=up:150ms,refuse:150ms,eof:150ms,reset:150ms", "--log=" + File("log")});
  const auto client = StartClient({"--rate=500", "--backoff_initial=5ms", "--backoff_max=20ms",
                                   "--account=" + File("account")});
  // Two rounds: the port is taken again after each refusal.
  std::vector<std::string> modes;
  while (modes.size() < 8) {
    const auto mode = server->Await("mode");
    ASSERT_TRUE(mode);
    modes.push_back(mode->Str("mode"));
  }
  EXPECT_EQ(modes, (std::vector<std::string>{"refuse", "eof", "reset", "up", "refuse", "eof",
                                             "reset", "up"}));
  EXPECT_EQ(client->EndBy(SIGINT), 0);
  ExpectAddsUp(*client);
  std::set<std::string> classes;
  for (const Json& event : client->events()) {
    if (event.Str("event") == "down" || event.Str("event") == "dial_failed") {
      classes.insert(event.Str("class"));
    }
  }
  classes.erase("cancelled");
  EXPECT_EQ(classes, (std::set<std::string>{"refused", "eof", "reset"}));
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
  // The number of refused messages is told twice.
  std::int64_t refused = 0;
  for (const Json& line : Lines(File("account"), "account_line")) {
    if (line.Str("fate") != "refused") continue;
    ++refused;
    EXPECT_EQ(line.Int("sequence"), 0);
  }
  EXPECT_EQ(refused, client->Summary().Int("refused"));
  EXPECT_GT(refused, 0);
}

TEST_P(EchoTest, ItsServerGoesOnWithWhatItStalled) {
  const auto server = StartServer("0", {"--chaos=stall:300ms,up"});
  const auto client = StartClient({"--count=1"});
  EXPECT_EQ(client->End(), 0);
  EXPECT_EQ(client->Summary().Int("echoed"), 1);
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, ItsServerHoldsBackAPeerThatDoesNotRead) {
  const auto server = StartServer();
  const Socket peer = ConnectTo(address_);
  ASSERT_GE(peer.fd(), 0);
  const std::string chunk(1 << 16, 'x');
  std::size_t written = 0;
  // Far more than all kernel buffers between the two can hold.
  constexpr std::size_t kFar = std::size_t{256} << 20;
  while (written < kFar && Ready(peer.fd(), POLLOUT, std::chrono::milliseconds(500))) {
    const ssize_t size = send(peer.fd(), chunk.data(), chunk.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ASSERT_GT(size, 0);
    written += static_cast<std::size_t>(size);
  }
  EXPECT_LT(written, kFar) << "nothing held it back";
  // Nothing is lost by it: all comes back once the peer reads.
  shutdown(peer.fd(), SHUT_WR);
  EXPECT_EQ(peer.Read(written + 1).size(), written);
  const auto closed = server->Await("closed");
  ASSERT_TRUE(closed);
  EXPECT_EQ(closed->Str("class"), "eof");
  EXPECT_EQ(closed->Int("received"), static_cast<std::int64_t>(written));
}

TEST_P(EchoTest, ItsServerLetsGoOfAPeerThatLeavesWithoutReading) {
  const auto server = StartServer();
  {
    const Socket peer = ConnectTo(address_);
    ASSERT_GE(peer.fd(), 0);
    const std::string chunk(1 << 16, 'x');
    while (Ready(peer.fd(), POLLOUT, std::chrono::milliseconds(200))) {
      ASSERT_GT(send(peer.fd(), chunk.data(), chunk.size(), MSG_NOSIGNAL | MSG_DONTWAIT), 0);
    }
  }  // Closing with bytes unread resets the connection, which the server has stopped to read.
  EXPECT_TRUE(server->Await("closed"));
}

TEST_P(EchoTest, ItsServerEchoesToWhoeverTalks) {
  const auto server = StartServer("0", {"--log=" + File("log")});
  const Socket peer = ConnectTo(address_);
  peer.Write("GET / HTTP/1.0\r\n\r\n and more than a header's length");
  EXPECT_EQ(peer.Read(18), "GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(server->EndBy(SIGINT), 0);
  EXPECT_TRUE(Lines(File("log"), "log_line").empty());
}

// --- Standard input -------------------------------------------------------------------------------------

TEST_P(EchoTest, EchoesTheLinesOfAPipeAndEndsWithIt) {
  const auto server = StartServer();
  Process client(
      {Program("holdfast-echo"), std::string("--backend=") + GetParam(), "--stdin", address_},
      Process::Input::kPipe);
  client.Write("one\n");
  EXPECT_EQ(client.Line(Clock::now() + kPatience), "one");
  const std::string rest = "two\n\n" + std::string(200'000, 'x') + "\nbytes \x01\xff\nno newline";
  client.Write(rest);
  client.CloseInput();
  EXPECT_EQ(client.Wait(), 0);
  EXPECT_EQ(client.output(), "one\n" + rest);
  EXPECT_NE(client.errors().find("adds up\n"), std::string::npos) << client.errors();
}

TEST_P(EchoTest, EchoesARegularFileAndAnEmptyOne) {
  const auto server = StartServer();
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "line " + std::to_string(i) + "\n";
  std::ofstream(File("input")) << text;
  const std::pair<std::string, std::string> inputs[] = {{File("input"), text}, {"/dev/null", ""}};
  for (const auto& [path, expected] : inputs) {
    const Socket file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    Process client({Program("holdfast-echo"), std::string("--backend=") + GetParam(), "--stdin",
                    "--quiet", address_},
                   Process::Input::kNothing, file.fd());
    EXPECT_EQ(client.Wait(), 0) << path;
    EXPECT_TRUE(client.output() == expected) << path;
  }
}

TEST_P(EchoTest, HoldsALineBackUntilItsServerComes) {
  FindFreeAddress();
  const auto client = StartClient({"--stdin", "--backoff_initial=20ms", "--backoff_max=50ms"},
                                  Process::Input::kPipe);
  client->Write("patience\n");
  client->CloseInput();
  ASSERT_TRUE(client->Await("dial_failed"));
  const auto server = StartServer(address_);
  EXPECT_EQ(client->End(), 0);
  ASSERT_EQ(client->Named("echo").size(), 1u);
  EXPECT_EQ(client->Named("echo")[0].Str("text"), "patience\n");
  EXPECT_EQ(client->Summary().Int("refused"), 0);
  ExpectAddsUp(*client);
}

TEST_P(EchoTest, NeverTouchesAnInputThatIsNotAskedFor) {
  const auto server = StartServer();
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const Socket reader(ends[0]);
  const Socket writer(ends[1]);
  ASSERT_EQ(write(writer.fd(), "mine\n", 5), 5);
  const auto client = StartClient({"--count=3", "--rate=0"}, Process::Input::kNothing, reader.fd());
  EXPECT_EQ(client->End(), 0);
  std::array<char, 16> left{};
  EXPECT_EQ(read(reader.fd(), left.data(), left.size()), 5);
}

TEST_P(EchoTest, EndsInGoodOrderWhenItsReaderGoesAway) {
  const auto server = StartServer();
  int status = -1;
  {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(ends[1], STDOUT_FILENO);
      execl(Program("holdfast-echo").c_str(), "holdfast-echo", "--rate=100", address_.c_str(),
            nullptr);
      _exit(127);
    }
    close(ends[1]);
    close(ends[0]);  // Before its first line, or after a few.
    waitpid(pid, &status, 0);
  }
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// --- A terminal -----------------------------------------------------------------------------------------

class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments) {
    winsize size{};
    size.ws_col = 200;
    size.ws_row = 50;
    pid_ = forkpty(&fd_, nullptr, nullptr, &size);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<char*> argv;
      for (const std::string& argument : arguments)
        argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Terminal() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    close(fd_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // What it shows up to and with `text`; all that there is when that does not come.
  std::string Until(std::string_view text) {
    std::size_t at = 0;
    while ((at = shown_.find(text)) == std::string::npos && Ready(fd_, POLLIN)) {
      std::array<char, 4096> buffer;
      const ssize_t size = read(fd_, buffer.data(), buffer.size());
      if (size <= 0) break;
      shown_.append(buffer.data(), static_cast<std::size_t>(size));
    }
    const std::size_t taken = at == std::string::npos ? shown_.size() : at + text.size();
    std::string until = shown_.substr(0, taken);
    shown_.erase(0, taken);
    return until;
  }
  void Type(std::string_view text) const {
    EXPECT_EQ(write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  int fd_ = -1;
  pid_t pid_ = -1;
  std::string shown_;
};

TEST_P(EchoTest, KeepsALiveLineOnATerminal) {
  const auto server = StartServer();
  Terminal terminal(
      {Program("holdfast-echo"), std::string("--backend=") + GetParam(), "--rate=100", address_});
  const std::string live = "up " + address_ + " for ";
  EXPECT_NE(terminal.Until(live).find(live), std::string::npos);
  // Redrawn in place, with what was sent by then.
  const std::string shown = terminal.Until("\r\x1b[Kup ");
  EXPECT_NE(shown.find("| rtt "), std::string::npos) << shown;
  EXPECT_NE(shown.find(", lost 0, replayed 0"), std::string::npos) << shown;
  terminal.Type("\x03");  // Ctrl-C.
  const std::string end = terminal.Until("adds up");
  EXPECT_NE(end.find("messages    sent "), std::string::npos) << end;
  EXPECT_EQ(terminal.Wait(), 0);
}

TEST_P(EchoTest, TalksToSomeoneAtATerminal) {
  const auto server = StartServer();
  Terminal terminal({Program("holdfast-echo"), std::string("--backend=") + GetParam(), address_});
  terminal.Until("up " + address_);
  terminal.Type("hello\n");
  // Once as the terminal's own echo, once from the server.
  EXPECT_NE(terminal.Until("hello\r\n").find("hello"), std::string::npos);
  EXPECT_NE(terminal.Until("hello\r\n").find("hello"), std::string::npos);
  terminal.Type("\x04");  // Ctrl-D.
  EXPECT_NE(terminal.Until("adds up").find("sent 1 = echoed 1"), std::string::npos);
  EXPECT_EQ(terminal.Wait(), 0);
}

}  // namespace
}  // namespace holdfast::e2e
