// The error table against the real programs: strace(1) makes one system call of holdfast-echo or
// holdfast-echod fail, and the events that they write must name the class of that row of
// tests/data/errors.csv, and their links come back, or close, as the row says.
//
// One run is one row and one number: the Nth such call of the program. Five links dial at once, so that a
// call which a link makes once is made five times, and four of them must notice nothing. A part of the
// rows runs with `make test`; HOLDFAST_STRACE=whole runs each of them with N from 1 to 5.
//
// Over epoll: what an io_uring does passes through no system call that could be made to fail. And strace
// replaces the call, so that a descriptor whose close "failed" stays open until the program ends.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "e2e/echo_fixture.h"
#include "support/csv.h"

namespace holdfast::e2e {
namespace {

struct Row {
  std::string call, code, error_class, action;  // The class without its k, in lower case, with '_'.

  [[nodiscard]] std::string Name() const { return call + " " + code; }
  // Also where the row says to do without, and there is nothing to do without (SO_ERROR).
  [[nodiscard]] bool permanent() const {
    return action == "fail-permanent" || action == "bug-assert" || action == "fallback";
  }
};

// The system call behind a row's word, in this libc and on this backend; "" for a word that is none.
std::string SyscallOf(const std::string& word) {
  static const std::map<std::string, std::string> kNames = {
      {"send", "sendto"},
      {"recv", "recvfrom"},
      {"epoll_wait", "epoll_pwait2"},
      {"connect-result", "getsockopt"},
  };
  static const std::set<std::string> kAsTheyAre = {
      "socket", "connect",   "setsockopt", "getsockopt",    "getpeername", "shutdown",
      "close",  "epoll_ctl", "accept4",    "epoll_create1", "bind",        "listen"};
  const auto found = kNames.find(word);
  if (found != kNames.end()) return found->second;
  return kAsTheyAre.contains(word) ? word : "";
}

bool IsServers(const Row& row) {
  return row.call == "accept4" || row.call == "bind" || row.call == "listen";
}

int NumberOf(const std::string& code) {
  for (int number = 1; number < 200; ++number) {
    const char* const name = strerrorname_np(number);
    if (name != nullptr && code == name) return number;
  }
  return 0;
}

// "kNameNotFound" is "name_not_found" in an event.
std::string ClassInEvents(const std::string& word) {
  std::string name;
  for (const char c : word.substr(1)) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper && !name.empty()) name += '_';
    name += upper ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return name;
}

// Every row of the runtime that is an errno of a system call which the pair makes over TCP and epoll.
std::vector<Row> Rows() {
  std::ifstream file(InRepository("tests/data/errors.csv"));
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<Row> rows;
  for (const std::vector<std::string>& line : test::ParseCsv(text)) {
    if (line.size() != 7 || line[6] != "runtime") continue;
    if (SyscallOf(line[0]).empty() || NumberOf(line[1]) == 0) continue;
    rows.push_back(
        {line[0], line[1], ClassInEvents(line[3]), line[4].substr(0, line[4].find(':'))});
  }
  return rows;
}

// What a run must look like.
enum class Expected {
  kUnnoticed,  // Every link comes up once and gets all its echoes.
  kNamed,  // One link fails and names the row; it comes back, or closes where that is permanent.
  kComesBack,     // One link may fail, by whatever name; all get their echoes and end as asked.
  kNamedAtStart,  // The program does not start, and names the errno.
};

// What the call was for, from the line that strace wrote of it; and what follows from it (DESIGN: what is
// optional is done without, what ends is not disturbed, what decides fails the attempt).
Expected ExpectedOf(const Row& row, const std::string& line) {
  const auto has = [&line](std::string_view part) { return line.find(part) != std::string::npos; };
  const bool try_again = row.error_class == "try_again";
  if (row.call == "close" || row.call == "epoll_wait") return Expected::kUnnoticed;
  if (row.call == "epoll_create1") return Expected::kNamedAtStart;
  if (row.call == "connect") return try_again ? Expected::kComesBack : Expected::kNamed;
  if (row.call == "shutdown") return Expected::kComesBack;  // The last thing that a link does.
  if (row.call == "epoll_ctl") {
    if (has("EPOLL_CTL_DEL")) return Expected::kUnnoticed;
    // The eventfd, the reactor's Watch, and the signals: before any link.
    const bool of_socket = has("u64=4294967") && !has("EPOLL_CTL_ADD, 3,");
    return of_socket ? Expected::kNamed : Expected::kNamedAtStart;
  }
  if (row.call == "setsockopt") {
    const bool backstop = !has("TCP_NODELAY") && !has("SO_OOBINLINE");
    return backstop || row.action == "ignore" ? Expected::kUnnoticed : Expected::kNamed;
  }
  if (row.call == "getsockopt") return has("SO_ERROR") ? Expected::kNamed : Expected::kUnnoticed;
  if (row.call == "send" || row.call == "recv") {
    const bool again = try_again || row.action == "retry-now" || row.action == "wait-ready";
    return again ? Expected::kUnnoticed : Expected::kNamed;
  }
  return Expected::kNamed;
}

class StraceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v strace >/dev/null && strace -o /dev/null true") != 0) {
      GTEST_SKIP() << "SKIPPED, not tested here: no strace (apt-get install strace), or it may not "
                      "trace";
    }
    std::string pattern =
        (std::filesystem::temp_directory_path() / "holdfast-strace-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  static constexpr int kLinks = 5;
  static constexpr int kOwnCloses = 4;  // Two epoll instances, the eventfd, the signalfd.
  static constexpr int kMessages = 2;

  // The command line that runs `command` with the Nth call of the row failing.
  [[nodiscard]] std::vector<std::string> Injected(const Row& row, int n,
                                                  std::vector<std::string> command) const {
    const std::string call = SyscallOf(row.call);
    std::string what = call + ":error=" + row.code;
    if (row.call == "connect-result") {
      // The call succeeds, and what it tells is another number: SO_ERROR.
      char number[3];
      std::snprintf(number, sizeof(number), "%02x", NumberOf(row.code));
      what = call + ":poke_exit=@arg4=" + number + "000000";
    }
    // -D: the program is our child, and strace the one that nobody waits for but the pipes.
    // LeakSanitizer cannot look at a process that is traced; what leaks is found elsewhere.
    std::string asan = std::getenv("ASAN_OPTIONS") == nullptr ? "" : std::getenv("ASAN_OPTIONS");
    asan += ":detect_leaks=0";
    std::vector<std::string> strace = {
        "/usr/bin/env", "ASAN_OPTIONS=" + asan,
        "strace",       "-D",
        "-f",           "-qq",
        "-o",           Log(),
        "-e",           "trace=" + call,
        "-e",           "inject=" + what + ":when=" + std::to_string(n)};
    strace.insert(strace.end(), command.begin(), command.end());
    return strace;
  }
  [[nodiscard]] std::string Log() const { return (directory_ / "log").string(); }
  // The call that was made to fail, as strace wrote it; "" when the program made fewer of them.
  [[nodiscard]] std::string InjectedLine() const {
    std::ifstream log(Log());
    for (std::string line; std::getline(log, line);) {
      if (line.find("INJECTED") != std::string::npos) return line;
    }
    return "";
  }

  std::unique_ptr<EventProcess> StartServer() {
    auto server = std::make_unique<EventProcess>(
        std::vector<std::string>{Program("holdfast-echod"), "--backend=epoll", "--json",
                                 "127.0.0.1:0"},
        "echod_event");
    if (const auto listening = server->Await("listening")) address_ = listening->Str("address");
    return server;
  }
  [[nodiscard]] std::vector<std::string> Client() const {
    return {Program("holdfast-echo"),
            "--backend=epoll",
            "--json",
            "--connections=" + std::to_string(kLinks),
            "--count=" + std::to_string(kMessages),
            "--rate=0",
            "--backoff_initial=1ms",
            "--backoff_max=10ms",
            "--silence_max=4s",  // An edge that EAGAIN used up is followed by the answer to a ping.
            "--drain=200ms",
            address_};
  }

  std::filesystem::path directory_;
  std::string address_;
};

// The events of attempts and connections that failed, but for those that were closed as asked.
std::vector<Json> Failures(const EventProcess& client) {
  std::vector<Json> failures = client.Named("dial_failed");
  for (const Json& down : client.Named("down")) {
    if (down.Str("class") != "cancelled") failures.push_back(down);
  }
  return failures;
}

void ExpectAllLinksServed(const EventProcess& client, int status, int links) {
  EXPECT_EQ(status, 0);
  EXPECT_EQ(client.errors(), "");
  for (const Json& closed : client.Named("closed")) EXPECT_EQ(closed.Str("reason"), "user");
  EXPECT_EQ(std::ssize(client.Named("closed")), links);
  const Json summary = client.Summary();
  EXPECT_EQ(summary.Int("sent"), summary.Int("echoed") + summary.Int("lost"));
  ExpectGrammar(client.events());
}

void ExpectNamed(const EventProcess& client, const Row& row, int status, int links) {
  const std::vector<Json> failures = Failures(client);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].Str("class"), row.error_class);
  // What only says that another call was told, or asks what it is, is told by its class alone.
  const bool names_itself = row.code != "EPIPE" && row.call != "getpeername";
  if (names_itself) {
    EXPECT_EQ(failures[0].Str("errno"), row.code);
  }
  if (!row.permanent()) return ExpectAllLinksServed(client, status, links);
  EXPECT_EQ(status, 3);
  for (const Json& closed : client.Named("closed")) {
    const bool failed = closed.Int("link") == failures[0].Int("link");
    EXPECT_EQ(closed.Str("reason"), failed ? "permanent" : "user");
    if (failed) {
      EXPECT_EQ(closed.Str("class"), row.error_class);
    }
  }
  EXPECT_EQ(std::ssize(client.Named("closed")), links);
}

class StraceClientTest : public StraceTest {
 protected:
  // The calls of close(2) that the loader of the program makes before ours begin.
  int LoadersCloses() {
    EventProcess client(Injected({"close", "EIO", "", ""}, 1000, Client()), "echo_event");
    EXPECT_EQ(client.End(), 0);
    std::ifstream log(Log());
    int closes = 0;
    for (std::string line; std::getline(log, line);) {
      if (line.find("close(") != std::string::npos) ++closes;
    }
    return closes - kLinks - kOwnCloses;
  }

  // True when the call was made, and failed.
  bool Try(const Row& row, int n) {
    const int nth = row.call == "close" ? loaders_closes_ + n : n;
    EventProcess client(Injected(row, nth, Client()), "echo_event");
    const int status = client.End();
    const std::string line = InjectedLine();
    SCOPED_TRACE(row.Name() + ", number " + std::to_string(n) + ": " + line + "\n" +
                 client.output() + client.errors());
    const bool elsewhere =
        row.call == "connect-result" && line.find("SO_ERROR") == std::string::npos;
    if (line.empty() || elsewhere) {
      ExpectAllLinksServed(client, status, kLinks);
      return false;
    }
    switch (ExpectedOf(row, line)) {
      case Expected::kUnnoticed:
        EXPECT_TRUE(Failures(client).empty());
        EXPECT_EQ(client.Summary().Int("echoed"), kLinks * kMessages);
        ExpectAllLinksServed(client, status, kLinks);
        break;
      case Expected::kComesBack:
        EXPECT_LE(Failures(client).size(), 1u);
        EXPECT_GE(client.Summary().Int("ups"), kLinks);
        ExpectAllLinksServed(client, status, kLinks);
        break;
      case Expected::kNamed:
        ExpectNamed(client, row, status, kLinks);
        break;
      case Expected::kNamedAtStart:
        EXPECT_EQ(status, 1);
        EXPECT_NE(client.errors().find(row.code), std::string::npos);
        break;
    }
    return true;
  }

  int loaders_closes_ = 0;
};

class StraceServerTest : public StraceTest {
 protected:
  bool Try(const Row& row, int n) {
    EventProcess server(
        Injected(row, n, {Program("holdfast-echod"), "--backend=epoll", "--json", "127.0.0.1:0"}),
        "echod_event");
    SCOPED_TRACE(row.Name() + ", number " + std::to_string(n));
    // It listens again for a while where the address may become free.
    if (row.call != "accept4" && row.error_class != "local_address") {
      EXPECT_EQ(server.End(), 1);
      EXPECT_NE(server.errors().find(row.code), std::string::npos) << server.errors();
      return !InjectedLine().empty();
    }
    const auto listening = server.Await("listening");
    if (!listening) return false;
    address_ = listening->Str("address");
    EventProcess client(Client(), "echo_event");
    if (row.permanent()) {
      // Nobody accepts any more: the server ends, and says why.
      EXPECT_EQ(server.End(), 3);
      const bool injected = !InjectedLine().empty();
      client.EndBy(SIGINT);
      ExpectListenerError(server, row);
      return injected;
    }
    const int status = client.End();
    SCOPED_TRACE(client.output() + client.errors() + server.output());
    EXPECT_TRUE(Failures(client).empty());
    ExpectAllLinksServed(client, status, kLinks);
    EXPECT_EQ(server.EndBy(SIGTERM), 0);
    const bool injected = !InjectedLine().empty();
    if (injected && row.action == "pause-and-retry") ExpectListenerError(server, row);
    return injected;
  }
  static void ExpectListenerError(const EventProcess& server, const Row& row) {
    const std::vector<Json> errors = server.Named("listener_error");
    ASSERT_EQ(errors.size(), 1u) << server.output();
    EXPECT_EQ(errors[0].Str("class"), row.error_class);
    EXPECT_EQ(errors[0].Str("errno"), row.code);
  }
};

// The rows to try: all with N from 1 to 5, or one a call with N = 1.
struct Sweep {
  std::vector<Row> rows;
  int n_max;
};
enum class Side { kClient, kServer };
Sweep Choose(Side side) {
  const char* const text = std::getenv("HOLDFAST_STRACE");
  const bool whole = text != nullptr && std::string_view(text) == "whole";
  Sweep sweep{{}, whole ? 5 : 1};
  std::set<std::string> taken;
  for (const Row& row : Rows()) {
    if (IsServers(row) != (side == Side::kServer)) continue;
    if (whole || taken.insert(row.call).second) sweep.rows.push_back(row);
  }
  return sweep;
}

template <typename Try>
void RunSweep(Side side, Try&& try_one) {
  const Sweep sweep = Choose(side);
  int runs = 0;
  int hits = 0;
  for (const Row& row : sweep.rows) {
    int row_hits = 0;
    const bool once = row.call == "bind" || row.call == "listen";  // The server, at its start.
    for (int n = 1; n <= (once ? 1 : sweep.n_max); ++n) {
      ++runs;
      row_hits += try_one(row, n) ? 1 : 0;
    }
    EXPECT_GT(row_hits, 0) << row.Name() << " was never reached";
    hits += row_hits;
  }
  std::cout << sweep.rows.size() << " rows, " << runs << " runs, " << hits
            << " in which the call was made\n";
}

TEST_F(StraceClientTest, TheClientComesBackOrClosesAsTheRowSays) {
  const auto server = StartServer();
  loaders_closes_ = LoadersCloses();
  RunSweep(Side::kClient, [&](const Row& row, int n) {
    while (server->Line(Clock::now())) {  // Lest it stops at a full pipe.
    }
    return Try(row, n);
  });
  EXPECT_EQ(server->EndBy(SIGTERM), 0);
}

TEST_F(StraceServerTest, TheServerGoesOnOrEndsAsTheRowSays) {
  RunSweep(Side::kServer, [this](const Row& row, int n) { return Try(row, n); });
}

}  // namespace
}  // namespace holdfast::e2e
