// holdfast-echod: the echo server, honest or on purpose not. The flags are read here; server.h does the
// work.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>
#include "absl/flags/flag.h"
#include "echo/chaos.h"
#include "echo/flag_help.h"
#include "echo/server.h"
#include "echo/signals.h"

ABSL_FLAG(std::string, chaos, "", "what it does to its clients; empty = up");
ABSL_FLAG(std::string, log, "", "a file for every message received: peer, link, sequence, in JSON");
ABSL_FLAG(bool, json, false, "one JSON event a line");
ABSL_FLAG(holdfast::BackendKind, backend, holdfast::BackendKind::kAuto, "auto, uring or epoll");

namespace {

namespace echo = holdfast::echo;

const echo::ProgramHelp& Help() {
  static const echo::ProgramHelp help{
      .name = "holdfast-echod",
      .head = R"(usage: holdfast-echod [FLAG...] [HOST:]PORT

Sends back what it receives; from a peer that does not read, it stops reading. PORT alone is a port
of 127.0.0.1; port 0 is one that the kernel chooses, and "listening on" names it. HOST is an
address: 0.0.0.0:PORT, [::]:PORT; or unix:/path, unix:@name. Ctrl-C ends it; a second one at once.
A port that is taken is tried for a second: the kernel frees that of a killed server a moment late.
)",
      .groups = {{"Flags", {"chaos", "log", "json", "backend"}}},
      .tail =
          R"(Chaos is MODE, or a schedule of MODE:DURATION,... that starts anew at its end; a last MODE without
a duration stays. Where the mode changes, connections that are open are treated like new ones.
  up       echoes; connections that were stalled go on
  refuse   nobody listens; connections are closed in good order
  eof      accepts, and closes in good order
  reset    accepts, and resets (on unix: closes)
  stall    accepts, and neither reads nor answers

Exit status: 0 ended by a signal; 1 bad usage, or it cannot listen; 3 it could not go on.

Examples
  holdfast-echod 7000
  holdfast-echod --chaos=up:2s,refuse:3s,reset:1s --log=received.json [::]:7000
)"};
  return help;
}

// "7000" is a port of the loopback: an echo server is open to the network only when told to be.
std::string EndpointOf(const std::string& argument) {
  const bool port_alone = argument.find_first_not_of("0123456789") == std::string::npos;
  return port_alone ? "127.0.0.1:" + argument : argument;
}

int OpenLog() {
  const std::string path = absl::GetFlag(FLAGS_log);
  if (path.empty()) return -1;
  // Appended to, because a server that was killed and started again goes on with its log.
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) echo::BadUsage(Help(), "--log=" + path + ": cannot be written");
  return fd;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments = echo::ParseCommandLine(argc, argv, Help());
  if (arguments.size() != 1 || arguments.front().empty()) {
    echo::BadUsage(Help(), "one [HOST:]PORT is needed");
  }
  echo::ServerOptions options;
  options.endpoint = EndpointOf(arguments.front());
  options.json = absl::GetFlag(FLAGS_json);
  auto chaos = echo::ParseChaos(absl::GetFlag(FLAGS_chaos));
  if (!chaos.ok()) echo::BadUsage(Help(), "--chaos: " + std::string(chaos.status().message()));
  options.chaos = *std::move(chaos);
  options.log_fd = OpenLog();

  const echo::Signals signals;
  holdfast::ReactorOptions reactor_options;
  reactor_options.backend = absl::GetFlag(FLAGS_backend);
  auto reactor = holdfast::Reactor::Create(std::move(reactor_options));
  if (!reactor.ok()) echo::BadUsage(Help(), std::string(reactor.status().message()));
  auto server = echo::Server::Create(**reactor, std::move(options));
  if (!server.ok()) {
    echo::BadUsage(Help(), arguments.front() + ": " + std::string(server.status().message()));
  }
  auto watch = signals.Watch(**reactor, [&server] { (*server)->Interrupt(); });
  if (!watch.ok()) echo::BadUsage(Help(), std::string(watch.status().message()));

  if (const absl::Status run = (*reactor)->Run(); !run.ok()) {
    std::fprintf(stderr, "holdfast-echod: %s\n", run.ToString().c_str());
    return 1;
  }
  return (*server)->Finish();
}
