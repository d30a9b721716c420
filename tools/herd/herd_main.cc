// holdfast-herd: a herd of links loses its server, one backoff policy after the other. `make herd`.
//
// Each policy runs in a process of its own, so that its memory is its own, and all in the same world: same
// seed, same server, same moment.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "herd/herd.h"
#include "herd/memory.h"
#include "herd/policy.h"
#include "herd/tally.h"

namespace holdfast::herd {
namespace {

constexpr const char* kCsv = ".csv";

struct Options {
  HerdOptions herd;
  std::vector<Policy> policies;  // Those that have a name, where none is given.
  Duration limit = std::chrono::minutes(5);
  Duration bin = std::chrono::seconds(1);
  std::string prefix;  // Of the CSV files; empty: there are none.
  unsigned jobs = 1;
};

void Usage(std::FILE* out) {
  std::fputs(
      "usage: holdfast-herd [OPTION]...\n"
      "\n"
      "Simulates links of the shipped library that lose their one server and dial it again, and "
      "says\n"
      "what each backoff policy does to it. One process for each policy.\n"
      "\n"
      "  --links=N           how many (10000)\n"
      "  --loss=crash|kill   power loss, which is silence, or kill -9, which hangs up and refuses "
      "(crash)\n"
      "  --outage=D          how long the server is gone: 100ms, 60s, 5min, 2h (60s)\n"
      "  --limit=D           how long to wait for all links after that (5min)\n"
      "  --policy=P          a name from below, or "
      "NAME:initial=100ms,multiplier=1.5,max=10s,jitter=full\n"
      "                      (or equal, or none); may be given several times (all that are below)\n"
      "  --accept-rate=N     clients that the server takes in a second (a tenth of the links)\n"
      "  --queue=N           clients that wait to be taken in; it hangs up on more (no bound)\n"
      "  --backlog=N         its listen(2) backlog (4096)\n"
      "  --descriptors=N     its limit of descriptors (two for each link)\n"
      "  --patience=D        how long a connected client waits to be taken in (5s)\n"
      "  --links-per-host=N  client hosts have 28232 ports each (2000)\n"
      "  --backend=NAME      epoll or uring (epoll)\n"
      "  --seed=N            decides all that is left to chance (1)\n"
      "  --out=PREFIX        writes CSV files: PREFIX and a policy's name, what happened in each "
      "bin;\n"
      "                      PREFIX and summary, the figures of all of them\n"
      "  --bin=D             of these, a multiple of 100ms (1s)\n"
      "  --jobs=N            processes at once (1)\n"
      "\n",
      out);
  for (const Policy& policy : NamedPolicies()) {
    std::fprintf(out, "  %-12s %s\n", policy.name.c_str(), policy.meaning.c_str());
  }
}

// --- Options.

template <typename Number>
bool Take(std::string_view argument, std::string_view name, Number least, Number* number) {
  if (!argument.starts_with(name)) return false;
  const std::string_view text = argument.substr(name.size());
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least) return false;
  *number = value;
  return true;
}

// A multiple of `unit`.
bool TakeDuration(std::string_view argument, std::string_view name, Duration unit,
                  Duration* value) {
  if (!argument.starts_with(name)) return false;
  const std::optional<Duration> parsed = ParseDuration(argument.substr(name.size()));
  if (!parsed.has_value() || *parsed % unit != Duration::zero()) return false;
  *value = *parsed;
  return true;
}

bool TakePolicy(std::string_view argument, std::vector<Policy>* policies) {
  constexpr std::string_view kName = "--policy=";
  if (!argument.starts_with(kName)) return false;
  std::optional<Policy> policy = ParsePolicy(argument.substr(kName.size()));
  if (!policy.has_value()) return false;
  // Each has a file of its name.
  for (const Policy& other : *policies) {
    if (other.name == policy->name) return false;
  }
  policies->push_back(*std::move(policy));
  return true;
}

bool TakeWord(std::string_view argument, Options* options) {
  if (argument == "--loss=crash") {
    options->herd.loss = Loss::kCrash;
  } else if (argument == "--loss=kill") {
    options->herd.loss = Loss::kKill;
  } else if (argument == "--backend=epoll") {
    options->herd.backend = BackendKind::kEpoll;
  } else if (argument == "--backend=uring") {
    options->herd.backend = BackendKind::kUring;
  } else if (argument.starts_with("--out=") && argument.size() > 6) {
    options->prefix = argument.substr(6);
  } else {
    return false;
  }
  return true;
}

bool TakeOption(std::string_view argument, Options* options) {
  constexpr Duration kMillisecond = std::chrono::milliseconds(1);
  HerdOptions& herd = options->herd;
  return TakeWord(argument, options) || TakePolicy(argument, &options->policies) ||
         Take(argument, "--links=", 1u, &herd.links) ||
         Take(argument, "--accept-rate=", 1u, &herd.accept_rate) ||
         Take(argument, "--backlog=", 1, &herd.backlog) ||
         Take(argument, "--descriptors=", std::size_t{1}, &herd.descriptors) ||
         Take(argument, "--queue=", std::size_t{1}, &herd.queue) ||
         Take(argument, "--links-per-host=", 1u, &herd.links_per_host) ||
         Take(argument, "--seed=", std::uint64_t{0}, &herd.seed) ||
         Take(argument, "--jobs=", 1u, &options->jobs) ||
         TakeDuration(argument, "--outage=", kGrain, &herd.outage) ||
         TakeDuration(argument, "--limit=", kMillisecond, &options->limit) ||
         TakeDuration(argument, "--patience=", kMillisecond, &herd.patience) ||
         TakeDuration(argument, "--bin=", kGrain, &options->bin);
}

// --- One policy.

// What a run has to tell, by a pipe.
struct Report {
  Figures figures;
  std::uint64_t taken_in = 0;
  std::uint64_t in_vain = 0;  // Of these: clients that had hung up.
  std::uint64_t starved = 0;
  std::uint64_t hash = 0;
  // Beyond what the process had before; nothing: it could not be read.
  std::optional<std::uint64_t> idle_bytes;  // All links up.
  std::optional<std::uint64_t> peak_bytes;  // The most since then.
  std::int64_t cpu_ms = 0;
  std::int64_t wall_ms = 0;
};

rusage UsageSoFar() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage;
}

bool WriteFile(const std::string& path, std::string_view text) {
  std::FILE* const file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return false;
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return std::fclose(file) == 0 && written;
}

[[noreturn]] void Work(const Options& options, const Policy& policy, int out) {
  using Clock = std::chrono::steady_clock;  // Of the machine: for the figure of speed alone.
  const Clock::time_point begin = Clock::now();
  MemoryMeter memory;
  HerdOptions herd_options = options.herd;
  herd_options.backoff = policy.backoff;
  Herd herd(herd_options);
  if (!herd.Gather()) {
    std::fprintf(stderr, "%s: the links do not come up in the first place\n", policy.name.c_str());
    std::_Exit(1);
  }
  Report report;
  report.idle_bytes = memory.Look();
  herd.Watch([&memory] { memory.Look(); });
  herd.Lose();
  herd.Return(options.limit);
  report.figures = herd.tally().Finish(herd.since_loss());
  report.taken_in = herd.taken_in();
  report.starved = herd.starved();
  report.hash = herd.world().hash();
  if (!options.prefix.empty()) {
    const std::string path = options.prefix + policy.name + kCsv;
    if (!WriteFile(path, herd.tally().Csv(herd.since_loss(), options.bin))) {
      std::perror(path.c_str());
      std::_Exit(1);
    }
  }
  const rusage usage = UsageSoFar();
  report.peak_bytes = memory.peak();
  report.cpu_ms = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
                  (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
  report.wall_ms = (Clock::now() - begin) / std::chrono::milliseconds(1);
  report.in_vain = herd.CountInVain();
  const bool told = ::write(out, &report, sizeof(report)) == sizeof(report);
  std::_Exit(told ? 0 : 1);  // Nobody waits for a million links to be taken down in good order.
}

struct Worker {
  pid_t pid = -1;
  int in = -1;
};

Worker Begin(const Options& options, const Policy& policy) {
  int ends[2];
  if (::pipe(ends) != 0) return {};
  std::fflush(stdout);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(ends[0]);
    Work(options, policy, ends[1]);
  }
  ::close(ends[1]);
  if (pid < 0) ::close(ends[0]);
  return pid < 0 ? Worker{} : Worker{pid, ends[0]};
}

std::optional<Report> End(const Worker& worker) {
  if (worker.pid < 0) return std::nullopt;
  Report report;
  const bool whole = ::read(worker.in, &report, sizeof(report)) == sizeof(report);
  ::close(worker.in);
  ::waitpid(worker.pid, nullptr, 0);
  return whole ? std::optional<Report>(report) : std::nullopt;
}

// --- What is printed.

std::string Hundredths(std::uint64_t value) {
  const std::string rest = std::to_string(value % 100);
  return std::to_string(value / 100) + (rest.size() < 2 ? ".0" : ".") + rest;
}

// Of a second, rounded.
std::string Tenths(Duration duration) {
  const std::int64_t tenths = (duration + kGrain / 2) / kGrain;
  return std::to_string(tenths / 10) + '.' + std::to_string(tenths % 10);
}

std::string UpAfter(const std::optional<Duration>& after, Duration limit) {
  return after.has_value() ? Tenths(*after) : ">" + ToSeconds(limit);
}

// Of `bytes`, for each of so many links.
std::string PerLink(const std::optional<std::uint64_t>& bytes, std::uint64_t links) {
  return bytes.has_value() ? std::to_string(*bytes / links) : "?";
}

void PrintHead(const HerdOptions& options) {
  std::printf("%u links, %s for %s; the server takes in %u a second; seed %llu\n\n", options.links,
              options.loss == Loss::kCrash ? "crash" : "kill", ToText(options.outage).c_str(),
              options.accept_rate, static_cast<unsigned long long>(options.seed));
  std::printf("%-11s %9s | %-31s | %-31s | %-17s | %4s | %-11s | %s\n", "", "", "outage",
              "from the return on", "seconds until up", "in", "bytes/link", "seconds");
  std::printf(
      "%-11s %9s | %9s %7s %6s %6s | %8s %8s %6s %6s | %5s %5s %5s | %4s | %5s %5s | %6s %6s\n",
      "policy", "dials", "dials", "peak/s", "/mean", "late/s", "dials", "wasted", "peak/s", "/mean",
      "50 %", "99 %", "100 %", "vain", "idle", "peak", "cpu", "wall");
}

void Print(const Policy& policy, const Report& report, Duration limit) {
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  const Figures& figures = report.figures;
  const std::uint64_t links = figures.links;
  const std::uint64_t vain = report.taken_in == 0 ? 0 : report.in_vain * 100 / report.taken_in;
  std::printf(
      "%-11s %9llu | %9llu %7llu %6s %6llu | %8llu %8llu %6llu %6s | %5s %5s %5s | %3llu%% | %5s "
      "%5s | %6s %6s\n",
      policy.name.c_str(), number(figures.dials), number(figures.outage.dials),
      number(figures.outage.peak_second),
      Hundredths(figures.outage.peak_over_mean_hundredths()).c_str(),
      number(figures.late_dials_per_second), number(figures.recovery.dials),
      number(figures.recovery.wasted), number(figures.recovery.peak_second),
      Hundredths(figures.recovery.peak_over_mean_hundredths()).c_str(),
      UpAfter(figures.up_after[0], limit).c_str(), UpAfter(figures.up_after[1], limit).c_str(),
      UpAfter(figures.up_after[2], limit).c_str(), number(vain),
      PerLink(report.idle_bytes, links).c_str(), PerLink(report.peak_bytes, links).c_str(),
      Tenths(std::chrono::milliseconds(report.cpu_ms)).c_str(),
      Tenths(std::chrono::milliseconds(report.wall_ms)).c_str());
  if (report.starved > 0) {
    std::printf(
        "  %llu attempts failed for want of ports or descriptors: --links-per-host is too high\n",
        number(report.starved));
  }
}

// Without what differs from run to run.
std::string SummaryLine(const HerdOptions& options, const Policy& policy, const Report& report) {
  const Figures& figures = report.figures;
  std::string line = policy.name;
  const auto add = [&line](std::uint64_t value) { line += ',' + std::to_string(value); };
  for (const std::uint64_t value :
       {figures.links, static_cast<std::uint64_t>(options.outage / std::chrono::milliseconds(1)),
        std::uint64_t{options.accept_rate}, figures.dials, figures.ups, figures.wasted,
        figures.dialing, figures.late_dials_per_second}) {
    add(value);
  }
  for (const Phase& phase : {figures.outage, figures.recovery}) {
    for (const std::uint64_t value : {phase.dials, phase.wasted, phase.peak_second,
                                      phase.peak_grain, phase.peak_over_mean_hundredths()}) {
      add(value);
    }
  }
  for (const std::optional<Duration>& after : figures.up_after) {
    line += ',';
    if (after.has_value()) line += std::to_string(*after / std::chrono::milliseconds(1));
  }
  add(report.taken_in);
  add(report.in_vain);
  char hash[20];
  std::snprintf(hash, sizeof(hash), ",%016llx", static_cast<unsigned long long>(report.hash));
  return line + hash + '\n';
}

constexpr std::string_view kSummaryHead =
    "policy,links,outage_ms,accept_rate,dials,ups,wasted,dialing,outage_late_dials_per_s,"
    "outage_dials,outage_wasted,outage_peak_s,outage_peak_100ms,outage_peak_over_mean_100ths,"
    "recovery_dials,recovery_wasted,recovery_peak_s,recovery_peak_100ms,"
    "recovery_peak_over_mean_100ths,up50_ms,up99_ms,up100_ms,taken_in,in_vain,hash\n";

int Run(const Options& options) {
  PrintHead(options.herd);
  std::string summary(kSummaryHead);
  std::vector<Worker> workers;
  bool good = true;
  for (std::size_t i = 0; i < options.policies.size(); ++i) {
    while (workers.size() < options.policies.size() && workers.size() < i + options.jobs) {
      workers.push_back(Begin(options, options.policies[workers.size()]));
    }
    const std::optional<Report> report = End(workers[i]);
    if (!report.has_value()) {
      std::printf("%-11s its process died\n", options.policies[i].name.c_str());
      good = false;
      continue;
    }
    Print(options.policies[i], *report, options.limit);
    summary += SummaryLine(options.herd, options.policies[i], *report);
  }
  if (!options.prefix.empty() && !WriteFile(options.prefix + "summary" + kCsv, summary)) {
    return std::perror(options.prefix.c_str()), 1;
  }
  return good ? 0 : 1;
}

int Main(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--help") return Usage(stdout), 0;
    if (!TakeOption(argument, &options)) {
      std::fprintf(stderr, "holdfast-herd: what is %s?\n\n", arguments[i]);
      return Usage(stderr), 2;
    }
  }
  if (options.policies.empty()) {
    options.policies.assign(NamedPolicies().begin(), NamedPolicies().end());
  }
  options.herd = WithDefaults(options.herd);
  return Run(options);
}

}  // namespace
}  // namespace holdfast::herd

int main(int count, char** arguments) { return holdfast::herd::Main(count, arguments); }
