// The echo pair on one backend: starts it, reads its events, holds every one of them against the schema.
#ifndef HOLDFAST_TESTS_E2E_ECHO_FIXTURE_H_
#define HOLDFAST_TESTS_E2E_ECHO_FIXTURE_H_

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <holdfast/reactor.h>

#include "e2e/json.h"
#include "e2e/process.h"
#include "e2e/schema.h"

namespace holdfast::e2e {

inline const Schema& EventSchema() {
  static const Schema schema = [] {
    auto loaded = Schema::Load(InRepository("tests/data/events.schema.json"));
    return loaded ? *loaded : Schema(Json());  // Then every line fails, and says why.
  }();
  return schema;
}

// A line that must be what the schema calls `definition`.
inline Json ValidLine(std::string_view line, std::string_view definition) {
  const auto json = Json::Parse(line);
  if (!json) {
    ADD_FAILURE() << "no JSON: " << line;
    return Json();
  }
  const std::string problem = EventSchema().Problem(definition, *json);
  EXPECT_EQ(problem, "") << definition << ": " << line;
  return *json;
}

// A program that writes one event a line, and all that it wrote so far.
class EventProcess : public Process {
 public:
  EventProcess(const std::vector<std::string>& arguments, std::string definition,
               Input input = Input::kNothing, int input_fd = -1)
      : Process(arguments, input, input_fd), definition_(std::move(definition)) {}

  // The next event named `name`, passing over others; nullopt, and a failed test, when none comes.
  std::optional<Json> Await(std::string_view name) {
    const Clock::time_point deadline = Clock::now() + kPatience;
    while (auto line = Line(deadline)) {
      Json event = Take(*line);
      if (event.Str("event") == name) return event;
    }
    ADD_FAILURE() << "no event " << name << " after:\n" << output() << errors();
    return std::nullopt;
  }

  // Reads what is left, waits for the end, and returns the exit status (-1: it does not end).
  int End() {
    const std::optional<int> status = Wait();
    while (auto line = Line(Clock::now())) Take(*line);
    EXPECT_TRUE(status) << "it does not end; so far:\n" << output() << errors();
    return status.value_or(-1);
  }
  int EndBy(int signal) {
    Signal(signal);
    return End();
  }

  [[nodiscard]] const std::vector<Json>& events() const { return events_; }
  [[nodiscard]] std::vector<Json> Named(std::string_view name) const {
    std::vector<Json> found;
    for (const Json& event : events_) {
      if (event.Str("event") == name) found.push_back(event);
    }
    return found;
  }
  // The last event, after End.
  [[nodiscard]] Json Summary() const {
    if (events_.empty() || events_.back().Str("event") != "summary") {
      ADD_FAILURE() << "no summary at the end of:\n" << output() << errors();
      return Json();
    }
    return events_.back();
  }

 private:
  Json Take(std::string_view line) {
    events_.push_back(ValidLine(line, definition_));
    return events_.back();
  }

  std::string definition_;
  std::vector<Json> events_;
};

// The order of the events of each link: dial, then up and down or dial_failed; after both a retry, or
// closed as the last of all. Times never go back.
inline void ExpectGrammar(const std::vector<Json>& events) {
  std::map<std::int64_t, std::string> before;
  std::int64_t time = 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const std::string name = events[i].Str("event");
    EXPECT_GE(events[i].Int("t_us"), time) << "event " << i;
    time = events[i].Int("t_us");
    EXPECT_EQ(name == "start", i == 0) << name;
    EXPECT_EQ(name == "summary", i + 1 == events.size()) << name;
    if (name == "start" || name == "summary" || name == "note" || name == "echo") continue;
    std::string& last = before[events[i].Int("link")];
    static const std::set<std::pair<std::string_view, std::string_view>> kAllowed = {
        {"", "dial"},
        {"retry", "dial"},
        {"dial", "up"},
        {"dial", "dial_failed"},
        {"up", "down"},
        {"down", "retry"},
        {"dial_failed", "retry"},
        {"down", "closed"},
        {"dial_failed", "closed"},
        {"retry", "closed"},
        {"dial", "closed"},
        {"", "closed"}};
    EXPECT_TRUE(kAllowed.contains({last, name})) << name << " after " << last << ", event " << i;
    last = name;
  }
  for (const auto& [link, last] : before) EXPECT_EQ(last, "closed") << "link " << link;
}

// One line of an account or a log.
struct Sent {
  std::int64_t link;
  std::string local;
  std::int64_t sequence;
  friend auto operator<=>(const Sent&, const Sent&) = default;
};

class EchoTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string backend = GetParam();
    const auto reactor = Reactor::Create(
        {.backend = backend == "uring" ? BackendKind::kUring : BackendKind::kEpoll});
    if (!reactor.ok()) GTEST_SKIP() << backend << " is not to be had here: " << reactor.status();
    std::string pattern = (std::filesystem::temp_directory_path() / "holdfast-e2e-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  [[nodiscard]] std::string File(std::string_view name) const {
    return (directory_ / name).string();
  }

  using Arguments = std::vector<std::string>;

  [[nodiscard]] std::vector<std::string> Command(std::string_view program,
                                                 Arguments arguments) const {
    arguments.insert(arguments.begin(), {Program(program), std::string("--backend=") + GetParam()});
    return arguments;
  }

  // A server, and in address_ where it listens.
  std::unique_ptr<EventProcess> StartServer(std::string_view endpoint = "0", Arguments flags = {}) {
    flags.insert(flags.end(), {"--json", std::string(endpoint)});
    auto server = std::make_unique<EventProcess>(Command("holdfast-echod", flags), "echod_event");
    if (const auto listening = server->Await("listening")) address_ = listening->Str("address");
    return server;
  }
  std::unique_ptr<EventProcess> StartClient(Arguments flags,
                                            Process::Input input = Process::Input::kNothing,
                                            int input_fd = -1) {
    flags.insert(flags.end(), {"--json", address_});
    return std::make_unique<EventProcess>(Command("holdfast-echo", flags), "echo_event", input,
                                          input_fd);
  }

  // An address that nobody listens on, and on which a server can.
  void FindFreeAddress() { EXPECT_EQ(StartServer()->EndBy(SIGTERM), 0); }

  // What an end must say when nothing is wrong: status 0, an account that adds up.
  static void ExpectAddsUp(const EventProcess& client) {
    const Json summary = client.Summary();
    EXPECT_EQ(summary.Int("sent"), summary.Int("echoed") + summary.Int("lost"));
    EXPECT_EQ(summary.Int("lost"), summary.Int("lost_acked") + summary.Int("lost_in_doubt") +
                                       summary.Int("lost_unsent"));
    EXPECT_EQ(summary.Int("duplicated"), 0);
    EXPECT_EQ(summary.Int("reordered"), 0);
    EXPECT_EQ(summary.Int("ups"), std::ssize(client.Named("up")));
    EXPECT_EQ(summary.Int("downs"), std::ssize(client.Named("down")));
    EXPECT_EQ(summary.Int("dials"), std::ssize(client.Named("dial")));
    std::int64_t accounted = 0;
    for (const Json& down : client.Named("down")) {
      accounted += down.Int("acked") + down.Int("in_doubt") + down.Int("unsent");
    }
    EXPECT_EQ(summary.Int("sent"), accounted);
    EXPECT_EQ(client.errors(), "");
    ExpectGrammar(client.events());
  }

  // A write(2) that SIGKILL interrupts has written a part, and the log of the next server stands behind it:
  // what is left of a line is nobody's word.
  static void Kill(EventProcess& server, const std::string& log) {
    server.Kill();
    std::ifstream file(log, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::filesystem::resize_file(log, text.rfind('\n') + 1);
  }
  static std::vector<Json> Lines(const std::string& path, std::string_view definition) {
    std::vector<Json> lines;
    std::ifstream file(path);
    EXPECT_TRUE(file) << path;
    for (std::string line; std::getline(file, line);) lines.push_back(ValidLine(line, definition));
    return lines;
  }
  // The messages that an account gives this fate.
  static std::set<Sent> OfFate(const std::vector<Json>& account, std::string_view fate) {
    std::set<Sent> found;
    for (const Json& line : account) {
      if (line.Str("fate") == fate) {
        found.insert({line.Int("link"), line.Str("local"), line.Int("sequence")});
      }
    }
    return found;
  }
  // The messages that a server received, once each.
  static std::set<Sent> Received(const std::vector<Json>& log) {
    std::set<Sent> found;
    for (const Json& line : log) {
      EXPECT_TRUE(found.insert({line.Int("link"), line.Str("peer"), line.Int("sequence")}).second)
          << "received twice: " << line.Str("peer") << " " << line.Int("sequence");
    }
    return found;
  }

  std::string address_;
  std::filesystem::path directory_;
};

inline std::string BackendName(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}

}  // namespace holdfast::e2e

#endif  // HOLDFAST_TESTS_E2E_ECHO_FIXTURE_H_
