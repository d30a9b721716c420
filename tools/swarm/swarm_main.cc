// holdfast-sim: runs seeds and says what was seen. `make sim SEEDS=2000 JOBS=2`.
//
// Each worker is a process of its own, because a run is one thread and a failed HOLDFAST_CHECK ends a process:
// the seed that did it is named by whoever waits for it.
#include <poll.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "swarm/run.h"

namespace holdfast::swarm {
namespace {

using internal::sim::Fault;
using internal::sim::kFaultKinds;

struct Options {
  std::uint64_t first = 1;
  std::uint64_t seeds = 1;
  std::uint64_t jobs = 1;
  bool trace = false;
  bool hashes = false;   // One line a seed: to compare compilers.
  bool targets = false;  // Fails unless the swarm is broad enough (every fault kind hit, ...).
};

void Usage(std::FILE* out) {
  std::fputs(
      "usage: holdfast-sim [--first=N] [--seeds=N] [--jobs=N] [--hashes] [--targets] [--trace]\n"
      "\n"
      "Runs the shipped runtime over a simulated kernel, one world a seed, and checks its "
      "promises.\n"
      "A seed is ended after a minute of CPU time, or ten minutes of any. SIGINT ends all, with\n"
      "what was seen so far.\n"
      "\n"
      "HOLDFAST_SEED=N in the environment plays that one seed again, in this process and without\n"
      "a limit: what hangs waits for a debugger.\n"
      "\n"
      "  --first=N    the first seed (1)\n"
      "  --seeds=N    how many, one after the other (1)\n"
      "  --jobs=N     processes at once (1)\n"
      "  --hashes     print each seed with the hash of its events\n"
      "  --targets    fail when a kind of fault was hit less than 20 times, or too little "
      "happened\n"
      "  --trace      play HOLDFAST_SEED, or else the first seed, and print it line by line\n",
      out);
}

constexpr std::uint64_t kAnySeed = ~std::uint64_t{0};

// A whole number from `least` to `most`, and nothing beside it.
bool Parse(std::string_view text, std::uint64_t least, std::uint64_t most, std::uint64_t* value) {
  std::uint64_t parsed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  if (parsed < least || parsed > most) return false;
  *value = parsed;
  return true;
}

bool Take(std::string_view argument, std::string_view name, std::uint64_t least, std::uint64_t most,
          std::uint64_t* value) {
  return argument.starts_with(name) && Parse(argument.substr(name.size()), least, most, value);
}

// What a worker tells of one seed; the text of violations follows.
struct Line {
  std::uint64_t seed;
  std::uint64_t hash;
  std::uint64_t completions;
  std::uint64_t ups;
  std::uint64_t downs;
  std::uint64_t cycles;
  std::uint64_t messages;
  std::int64_t virtual_ns;
  std::array<std::uint64_t, kFaultKinds> hits;
  std::uint32_t violations;
  std::uint32_t text_bytes;
};

void WriteAll(int fd, const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(fd, from, size);
    if (written <= 0) std::_Exit(1);
    from += written;
    size -= static_cast<std::size_t>(written);
  }
}

bool ReadAll(int fd, void* data, std::size_t size) {
  char* to = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = ::read(fd, to, size);
    if (got <= 0) return false;
    to += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

// Set by SIGINT and SIGTERM: what has been seen so far is told, and no more is looked at.
volatile std::sig_atomic_t stopped = 0;

void HandleStops() {
  struct sigaction action {};
  action.sa_handler = [](int) { stopped = 1; };
  action.sa_flags = SA_RESTART;  // Which poll(2) never is (signal(7)).
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

// A run that takes so much of a processor goes round in circles; one that takes so long altogether sleeps,
// for a machine that is as busy as that is none to test on.
constexpr time_t kCpuSecondsPerSeedMax = 60;
constexpr time_t kSecondsPerSeedMax = 600;

void LimitTo(time_t cpu_seconds, time_t seconds) {
  itimerval limit{};
  limit.it_value.tv_sec = cpu_seconds;
  ::setitimer(ITIMER_PROF, &limit, nullptr);  // SIGPROF.
  limit.it_value.tv_sec = seconds;
  ::setitimer(ITIMER_REAL, &limit, nullptr);  // SIGALRM.
}

// Seeds first + job, first + job + jobs, ...
[[noreturn]] void Work(const Options& options, std::uint64_t job, int out) {
  ::signal(SIGINT, SIG_IGN);  // The parent ends us.
  ::signal(SIGTERM, SIG_IGN);
  for (std::uint64_t i = job; i < options.seeds; i += options.jobs) {
    const std::uint64_t seed = options.first + i;
    WriteAll(out, &seed, sizeof(seed));  // So that a crash has a name.
    LimitTo(kCpuSecondsPerSeedMax, kSecondsPerSeedMax);
    const RunResult result = RunSeed(seed, {});
    LimitTo(0, 0);
    std::string text;
    for (const std::string& violation : result.violations) text += "  " + violation + "\n";
    Line line{};
    line.seed = seed;
    line.hash = result.hash;
    line.completions = result.completions;
    line.ups = result.ups;
    line.downs = result.downs;
    line.cycles = result.cycles;
    line.messages = result.messages;
    line.virtual_ns = result.virtual_time.count();
    line.hits = result.hits;
    line.violations = static_cast<std::uint32_t>(result.violations.size());
    line.text_bytes = static_cast<std::uint32_t>(text.size());
    WriteAll(out, &line, sizeof(line));
    WriteAll(out, text.data(), text.size());
  }
  std::exit(0);  // With all that looks for leaks.
}

struct Totals {
  std::uint64_t seeds = 0;
  std::uint64_t failed = 0;
  std::uint64_t completions = 0;
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;
  std::uint64_t cycles = 0;
  std::uint64_t messages = 0;
  std::uint64_t virtual_seconds = 0;
  std::uint64_t hash = 0;  // Of all seeds, whatever their order.
  std::array<std::uint64_t, kFaultKinds> hits{};
  std::unordered_set<std::uint64_t> hashes;
};

void Replay(std::uint64_t seed) {
  std::printf(
      "replay: HOLDFAST_SEED=%llu make sim    (--trace of build/bin/holdfast-sim tells the "
      "story)\n",
      static_cast<unsigned long long>(seed));
}

struct Worker {
  pid_t pid = 0;
  int pipe = -1;  // Negative: it has ended.
};

// What `worker` did in the middle of `seed`.
void ReportDeath(const Worker& worker, std::uint64_t seed, Totals* totals) {
  int status = 0;
  ::waitpid(worker.pid, &status, 0);
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  ++totals->seeds;
  ++totals->failed;
  std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed),
              signal == SIGPROF   ? "did not end within a minute of CPU time"
              : signal == SIGALRM ? "did not end within ten minutes"
                                  : "the process died");
  Replay(seed);
}

// Reads what a worker tells of one seed. False when there is no more to come.
bool Collect(const Options& options, const Worker& worker, Totals* totals) {
  std::uint64_t seed = 0;
  if (!ReadAll(worker.pipe, &seed, sizeof(seed))) {
    int status = 0;
    ::waitpid(worker.pid, &status, 0);
    if (status == 0) return false;
    ++totals->failed;
    std::printf("a process did not end well: a sanitizer has said why\n");
    return false;
  }
  Line line{};
  std::string text;
  bool whole = ReadAll(worker.pipe, &line, sizeof(line));
  if (whole) {
    text.resize(line.text_bytes);
    whole = ReadAll(worker.pipe, text.data(), text.size());
  }
  if (!whole) {
    ReportDeath(worker, seed, totals);
    return false;
  }
  ++totals->seeds;
  totals->completions += line.completions;
  totals->ups += line.ups;
  totals->downs += line.downs;
  totals->cycles += line.cycles;
  totals->messages += line.messages;
  totals->virtual_seconds += static_cast<std::uint64_t>(line.virtual_ns / 1'000'000'000);
  for (std::size_t i = 0; i < kFaultKinds; ++i) totals->hits[i] += line.hits[i];
  totals->hash += line.hash * (line.seed | 1);
  totals->hashes.insert(line.hash);
  if (options.hashes) {
    std::printf("%llu %016llx\n", static_cast<unsigned long long>(line.seed),
                static_cast<unsigned long long>(line.hash));
  }
  if (line.violations > 0) {
    ++totals->failed;
    std::printf("seed %llu: %u violations\n%s", static_cast<unsigned long long>(line.seed),
                line.violations, text.c_str());
    Replay(line.seed);
  }
  return true;
}

// From whoever has something to tell, for a worker whose pipe is full waits.
void CollectAll(const Options& options, std::vector<Worker> workers, Totals* totals) {
  std::vector<pollfd> waits;
  while (!workers.empty() && stopped == 0) {
    waits.clear();
    for (const Worker& worker : workers) waits.push_back({worker.pipe, POLLIN, 0});
    if (::poll(waits.data(), waits.size(), -1) <= 0) continue;
    for (std::size_t i = workers.size(); i-- > 0;) {
      if (waits[i].revents == 0 || Collect(options, workers[i], totals)) continue;
      ::close(workers[i].pipe);
      workers.erase(workers.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  for (const Worker& worker : workers) {
    ::kill(worker.pid, SIGKILL);
    ::waitpid(worker.pid, nullptr, 0);
    ::close(worker.pipe);
  }
}

bool Targets(const Totals& totals) {
  bool good = true;
  const auto want = [&good](bool holds, const std::string& what) {
    if (holds) return;
    good = false;
    std::printf("not enough: %s\n", what.c_str());
  };
  for (std::size_t i = 0; i < kFaultKinds; ++i) {
    want(totals.hits[i] >= 20, "hits of " + std::string(ToString(static_cast<Fault>(i))));
  }
  want(totals.completions >= 1'000'000, "completions");
  want(totals.cycles >= 50 * totals.seeds, "cycles a seed");
  want(totals.hashes.size() == totals.seeds, "different hashes");
  return good;
}

int RunOne(std::uint64_t seed, bool trace) {
  absl::AnyInvocable<void(std::string_view)> tell;
  if (trace) {
    tell = [](std::string_view line) {
      std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
    };
  }
  const RunResult result = RunSeed(seed, std::move(tell));
  for (const std::string& violation : result.violations) std::printf("  %s\n", violation.c_str());
  std::printf("seed %llu: hash %016llx, %llu completions, %llu ups, %llu downs, %zu violations\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(result.hash),
              static_cast<unsigned long long>(result.completions),
              static_cast<unsigned long long>(result.ups),
              static_cast<unsigned long long>(result.downs), result.violations.size());
  return result.violations.empty() ? 0 : 1;
}

int RunAll(const Options& options) {
  using Clock = std::chrono::steady_clock;  // Of the machine: for the figure of speed alone.
  const Clock::time_point begin = Clock::now();
  Totals totals;
  std::vector<Worker> workers;
  std::fflush(stdout);
  HandleStops();
  for (std::uint64_t job = 0; job < options.jobs; ++job) {
    int ends[2];
    if (::pipe(ends) != 0) return 2;
    const pid_t pid = ::fork();
    if (pid < 0) return 2;
    if (pid == 0) {
      ::close(ends[0]);
      Work(options, job, ends[1]);
    }
    ::close(ends[1]);
    workers.push_back({pid, ends[0]});
  }
  CollectAll(options, std::move(workers), &totals);

  const auto elapsed = std::max<std::int64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count(), 1);
  const auto per_seed = [&totals](std::uint64_t sum) {
    return static_cast<unsigned long long>(sum / std::max<std::uint64_t>(totals.seeds, 1));
  };
  if (stopped != 0) std::printf("stopped by a signal: this is how far it came\n");
  std::printf("%-22s %12s\n", "fault", "hits");
  for (std::size_t i = 0; i < kFaultKinds; ++i) {
    const std::string_view name = ToString(static_cast<Fault>(i));
    std::printf("%-22.*s %12llu\n", static_cast<int>(name.size()), name.data(),
                static_cast<unsigned long long>(totals.hits[i]));
  }
  std::printf(
      "%llu seeds from %llu, %llu failed; %lld seeds/s; %llu completions; %llu virtual hours; %llu "
      "messages; a seed: %llu ups, %llu downs, %llu cycles; hash %016llx\n",
      static_cast<unsigned long long>(totals.seeds), static_cast<unsigned long long>(options.first),
      static_cast<unsigned long long>(totals.failed),
      static_cast<long long>(static_cast<std::int64_t>(totals.seeds) * 1000 / elapsed),
      static_cast<unsigned long long>(totals.completions),
      static_cast<unsigned long long>(totals.virtual_seconds / 3600),
      static_cast<unsigned long long>(totals.messages), per_seed(totals.ups),
      per_seed(totals.downs), per_seed(totals.cycles),
      static_cast<unsigned long long>(totals.hash));
  if (options.targets && !Targets(totals)) return 1;
  return totals.failed == 0 && totals.seeds == options.seeds ? 0 : 1;
}

int Main(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--help") return Usage(stdout), 0;
    if (argument == "--trace") {
      options.trace = true;
    } else if (argument == "--hashes") {
      options.hashes = true;
    } else if (argument == "--targets") {
      options.targets = true;
    } else if (!Take(argument, "--jobs=", 1, 64, &options.jobs) &&
               !Take(argument, "--first=", 0, kAnySeed, &options.first) &&
               !Take(argument, "--seeds=", 1, kAnySeed, &options.seeds)) {
      std::fprintf(stderr, "holdfast-sim: what is %s?\n\n", arguments[i]);
      return Usage(stderr), 2;
    }
  }
  const char* const seed = std::getenv("HOLDFAST_SEED");
  if (seed != nullptr && !Parse(seed, 0, kAnySeed, &options.first)) {
    std::fprintf(stderr, "holdfast-sim: HOLDFAST_SEED=%s is no seed\n", seed);
    return 2;
  }
  if (seed == nullptr && !options.trace) return RunAll(options);
  if (options.hashes || options.targets) {
    std::fprintf(stderr,
                 "holdfast-sim: %s plays one seed again, --hashes and --targets are of many\n",
                 seed != nullptr ? "HOLDFAST_SEED" : "--trace");
    return 2;
  }
  return RunOne(options.first, options.trace);
}

}  // namespace
}  // namespace holdfast::swarm

int main(int count, char** arguments) { return holdfast::swarm::Main(count, arguments); }
