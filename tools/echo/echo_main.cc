// holdfast-echo: holds connections to an echo server through everything that a network does, and says
// what happened. The flags are read here; client.h does the work.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>
#include "absl/flags/flag.h"
#include "absl/time/time.h"
#include "echo/client.h"
#include "echo/flag_help.h"
#include "echo/message.h"
#include "echo/report.h"
#include "echo/signals.h"

ABSL_FLAG(std::uint32_t, connections, 1, "links held by this process");
ABSL_FLAG(std::uint32_t, size, 64, "bytes of a message: 32 (its header) to 1048576");
ABSL_FLAG(double, rate, 1, "messages a second and link; 0 = as fast as echoes return");
ABSL_FLAG(std::uint32_t, depth, 1, "messages of a link in flight when --rate=0");
ABSL_FLAG(std::uint64_t, count, 0, "ends after so many messages of each link; 0 = no end");
ABSL_FLAG(absl::Duration, duration, absl::ZeroDuration(), "ends after this time; 0 = no end");
ABSL_FLAG(bool, stdin, false, "send the lines of standard input, print their echoes, end with it");

ABSL_FLAG(absl::Duration, silence_max, absl::Seconds(20),
          "a peer that was silent for so long is dead; 0 = never");
ABSL_FLAG(std::string, ping, "ping",
          "what the message that breaks a silence carries; empty = none");
ABSL_FLAG(absl::Duration, connect_timeout, absl::Seconds(5), "for one address");
ABSL_FLAG(absl::Duration, backoff_initial, absl::Milliseconds(100), "longest first wait");
ABSL_FLAG(double, backoff_multiplier, 1.5, "growth of the wait with each attempt");
ABSL_FLAG(absl::Duration, backoff_max, absl::Seconds(10), "longest wait");
ABSL_FLAG(holdfast::Jitter, jitter, holdfast::Jitter::kFull, "of the wait: full, equal or none");
ABSL_FLAG(absl::Duration, healthy_after, absl::Seconds(10), "up so long, the backoff starts anew");
ABSL_FLAG(std::uint32_t, attempts_max, 0, "gives up after so many attempts; 0 = never");
ABSL_FLAG(holdfast::OnLoss, on_loss, holdfast::OnLoss::kHandBack,
          "hand_back: what a lost session leaves is told, and not sent again; replay_unsent: what "
          "never left goes out again; replay_unacked: what was not acknowledged does");
ABSL_FLAG(absl::Duration, drain, absl::Seconds(5),
          "how long the end may wait for what is in flight");

ABSL_FLAG(holdfast::BackendKind, backend, holdfast::BackendKind::kAuto, "auto, uring or epoll");
ABSL_FLAG(std::uint64_t, seed, 0, "of the jitter; 0 = random");
ABSL_FLAG(bool, json, false, "one JSON event a line");
ABSL_FLAG(bool, quiet, false, "the summary alone");
ABSL_FLAG(std::string, account, "", "a file for every message that was not echoed, with its fate");

namespace {

namespace echo = holdfast::echo;

const echo::ProgramHelp& Help() {
  static const echo::ProgramHelp help{
      .name = "holdfast-echo",
      .head = R"(usage: holdfast-echo [FLAG...] HOST:PORT...

Holds links to an echo server (holdfast-echod), sends numbered messages, accounts for each of them.
Endpoints are name:port, v4:port, [v6]:port, unix:/path or unix:@name; several are tried in turn.
Standard input is read only with --stdin, or when it is a terminal and no flag of the load is given.
Ctrl-C waits for the echoes in flight and prints the account; a second one ends at once.
)",
      .groups = {{"The load",
                  {"connections", "size", "rate", "depth", "count", "duration", "stdin"}},
                 {"The link",
                  {"silence_max", "ping", "connect_timeout", "backoff_initial",
                   "backoff_multiplier", "backoff_max", "jitter", "healthy_after", "attempts_max",
                   "on_loss", "drain"}},
                 {"The program", {"backend", "seed", "json", "quiet", "account"}}},
      .tail = R"(Durations are written 100ms, 2s, 1m30s.

Exit status: 0 ended as asked; 1 bad usage; 3 a link closed by itself, or an account is wrong.

Examples
  holdfast-echo localhost:7000
  holdfast-echo --rate=0 --depth=32 --connections=100 --duration=10s 10.0.0.7:7000 10.0.0.8:7000
)"};
  return help;
}

holdfast::Duration FlagDuration(const absl::Flag<absl::Duration>& flag, const char* name) {
  const absl::Duration duration = absl::GetFlag(flag);
  if (duration < absl::ZeroDuration()) {
    echo::BadUsage(Help(), "--" + std::string(name) + "=" + absl::FormatDuration(duration) +
                               ": a duration is not negative");
  }
  return absl::ToChronoNanoseconds(duration);
}

holdfast::LinkOptions LinkOptionsOfFlags(std::vector<std::string> endpoints) {
  holdfast::LinkOptions options;
  options.endpoints = std::move(endpoints);
  options.backoff = {.initial = FlagDuration(FLAGS_backoff_initial, "backoff_initial"),
                     .multiplier = absl::GetFlag(FLAGS_backoff_multiplier),
                     .max = FlagDuration(FLAGS_backoff_max, "backoff_max"),
                     .jitter = absl::GetFlag(FLAGS_jitter)};
  options.attempts_max = absl::GetFlag(FLAGS_attempts_max);
  options.healthy_after = FlagDuration(FLAGS_healthy_after, "healthy_after");
  options.connect_timeout = FlagDuration(FLAGS_connect_timeout, "connect_timeout");
  // An endpoint's addresses are tried one after the other: three of them, as by default.
  options.attempt_timeout =
      std::max(options.attempt_timeout, options.connect_timeout <= options.attempt_timeout.max() / 3
                                            ? options.connect_timeout * 3
                                            : options.connect_timeout);
  options.silence_max = FlagDuration(FLAGS_silence_max, "silence_max");
  options.on_loss = absl::GetFlag(FLAGS_on_loss);
  options.drain = FlagDuration(FLAGS_drain, "drain");
  if (const std::string ping = absl::GetFlag(FLAGS_ping); !ping.empty()) {
    if (ping.size() > echo::kMessageBytesMax - echo::kHeaderBytes) {
      echo::BadUsage(Help(), "--ping: too long");
    }
    echo::Encode({.kind = echo::MessageKind::kPing, .payload = ping}, options.ping);
  }
  return options;
}

// Between two messages; 0 for no schedule.
holdfast::Duration PeriodOfFlags() {
  const double rate = absl::GetFlag(FLAGS_rate);
  if (!(rate >= 0 && rate <= 1e9)) {
    echo::BadUsage(Help(), "--rate=" + std::to_string(rate) + ": 0 to 1e9 messages a second");
  }
  if (rate == 0) return holdfast::Duration(0);
  return holdfast::Duration(std::llround(std::min(1e9 / rate, 9e18)));
}

echo::ClientOptions ClientOptionsOfFlags(std::span<char* const> arguments,
                                         std::vector<std::string> endpoints) {
  echo::ClientOptions options;
  options.link = LinkOptionsOfFlags(std::move(endpoints));
  options.connections = absl::GetFlag(FLAGS_connections);
  options.message_bytes = absl::GetFlag(FLAGS_size);
  options.period = PeriodOfFlags();
  options.depth = absl::GetFlag(FLAGS_depth);
  options.count = absl::GetFlag(FLAGS_count);
  options.duration = FlagDuration(FLAGS_duration, "duration");
  if (options.connections == 0) echo::BadUsage(Help(), "--connections=0: at least one");
  if (options.depth == 0) echo::BadUsage(Help(), "--depth=0: at least one");
  if (options.message_bytes < echo::kHeaderBytes ||
      options.message_bytes > echo::kMessageBytesMax) {
    echo::BadUsage(Help(), "--size=" + std::to_string(options.message_bytes) + ": " +
                               std::to_string(echo::kHeaderBytes) + " (its header) to " +
                               std::to_string(echo::kMessageBytesMax) + " bytes");
  }

  std::string load_flag;
  for (const char* flag : {"rate", "count", "duration", "size", "depth", "connections"}) {
    if (load_flag.empty() && echo::Given(arguments, flag)) load_flag = flag;
  }
  if (absl::GetFlag(FLAGS_stdin)) {
    // A duration ends lines as well; the others are about messages that are made up.
    if (!load_flag.empty() && load_flag != "duration") {
      echo::BadUsage(Help(), "--stdin and --" + load_flag + " exclude each other");
    }
    options.content = echo::Content::kLines;
  } else if (load_flag.empty() && isatty(STDIN_FILENO) == 1) {
    options.content = echo::Content::kLines;
  }
  return options;
}

int OpenAccount() {
  const std::string path = absl::GetFlag(FLAGS_account);
  if (path.empty()) return -1;
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) echo::BadUsage(Help(), "--account=" + path + ": cannot be written");
  return fd;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> endpoints = echo::ParseCommandLine(argc, argv, Help());
  if (endpoints.empty()) echo::BadUsage(Help(), "no endpoint given");
  echo::ClientOptions options =
      ClientOptionsOfFlags({argv, static_cast<std::size_t>(argc)}, std::move(endpoints));
  options.account_fd = OpenAccount();

  const echo::Signals signals;
  holdfast::ReactorOptions reactor_options;
  reactor_options.backend = absl::GetFlag(FLAGS_backend);
  if (const std::uint64_t seed = absl::GetFlag(FLAGS_seed); seed != 0) reactor_options.seed = seed;
  auto reactor = holdfast::Reactor::Create(std::move(reactor_options));
  if (!reactor.ok()) echo::BadUsage(Help(), std::string(reactor.status().message()));

  const holdfast::Instant start = std::chrono::steady_clock::now();
  const echo::Transitions transitions = absl::GetFlag(FLAGS_quiet) ? echo::Transitions::kHide
                                        : options.connections > echo::kCrowd
                                            ? echo::Transitions::kCrowd
                                            : echo::Transitions::kTell;
  const std::unique_ptr<echo::Reporter> reporter =
      absl::GetFlag(FLAGS_json)
          ? echo::MakeJsonReporter(start)
          : echo::MakeTextReporter(start, transitions, options.content, options.connections);
  auto client = echo::Client::Create(**reactor, *reporter, std::move(options));
  if (!client.ok()) echo::BadUsage(Help(), std::string(client.status().message()));
  auto watch = signals.Watch(**reactor, [&client] { (*client)->Interrupt(); });
  if (!watch.ok()) echo::BadUsage(Help(), std::string(watch.status().message()));

  (*client)->Start();
  if (const absl::Status run = (*reactor)->Run(); !run.ok()) {
    std::fprintf(stderr, "holdfast-echo: %s\n", run.ToString().c_str());
    return 1;
  }
  return (*client)->Finish();
}
