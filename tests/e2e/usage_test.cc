// The command lines: what --help says, and how bad usage ends. No backend matters here.
#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <holdfast/version.h>

#include "e2e/echo_fixture.h"
#include "e2e/process.h"

namespace holdfast::e2e {
namespace {

struct Ended {
  int status = -1;
  std::string output;
  std::string errors;
};

Ended RunOnce(std::string_view program, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), Program(program));
  Process process(arguments);
  const auto status = process.Wait();
  return {status.value_or(-1), process.output(), process.errors()};
}

TEST(UsageTest, HelpFitsAScreenAndNamesEveryFlagWithItsDefault) {
  const std::pair<const char*, std::vector<std::string>> programs[] = {
      {"holdfast-echo",
       {"backend=auto",
        "connections=1",
        "size=64",
        "rate=1",
        "depth=1",
        "count=0",
        "duration=0",
        "silence_max=20s",
        "ping=",
        "backoff_initial=100ms",
        "backoff_multiplier=1.5",
        "backoff_max=10s",
        "jitter=full",
        "healthy_after=10s",
        "connect_timeout=5s",
        "attempts_max=0",
        "on_loss=hand_back",
        "drain=5s",
        "seed=0",
        "stdin",
        "json",
        "quiet",
        "account="}},
      {"holdfast-echod", {"backend=auto", "chaos=", "json", "log="}},
  };
  for (const auto& [program, flags] : programs) {
    for (const char* help : {"--help", "-h", "-help"}) {
      const Ended ended = RunOnce(program, {help});
      EXPECT_EQ(ended.status, 0);
      EXPECT_EQ(ended.errors, "");
      EXPECT_TRUE(ended.output.starts_with(std::string("usage: ") + program)) << ended.output;
      for (const std::string& flag : flags) {
        EXPECT_NE(ended.output.find("  --" + flag), std::string::npos) << flag;
      }
      EXPECT_NE(ended.output.find("Exit status: 0 "), std::string::npos);
      EXPECT_NE(ended.output.find("Examples\n"), std::string::npos);
      std::istringstream lines(ended.output);
      int count = 0;
      for (std::string line; std::getline(lines, line); ++count)
        EXPECT_LE(line.size(), 100u) << line;
      EXPECT_LE(count, 50) << program;
    }
  }
}

TEST(UsageTest, SaysItsVersion) {
  for (const char* program : {"holdfast-echo", "holdfast-echod"}) {
    const Ended ended = RunOnce(program, {"--version"});
    EXPECT_EQ(ended.status, 0);
    EXPECT_EQ(ended.output, std::string(program) + " " HOLDFAST_VERSION "\n");
  }
}

TEST(UsageTest, BadUsageOfTheClientEndsWithStatus1AndNamesWhatIsWrong) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "endpoint"},
      {{"nonsense"}, "nonsense"},
      {{"127.0.0.1:70000"}, "70000"},
      {{"127.0.0.1:7000", "[::1:7000"}, "[::1:7000"},
      {{"--nosuch", "h:1"}, "nosuch"},
      {{"--rate=fast", "h:1"}, "rate"},
      {{"--rate=-1", "h:1"}, "--rate"},
      {{"--rate=nan", "h:1"}, "--rate"},
      {{"--size=31", "h:1"}, "--size=31"},
      {{"--size=1048577", "h:1"}, "--size=1048577"},
      {{"--connections=0", "h:1"}, "--connections"},
      {{"--depth=0", "h:1"}, "--depth"},
      {{"--count=-1", "h:1"}, "count"},
      {{"--duration=-1s", "h:1"}, "--duration"},
      {{"--duration=5", "h:1"}, "duration"},
      {{"--drain=-1s", "h:1"}, "--drain"},
      {{"--silence_max=10ms", "h:1"}, "silence_max"},
      {{"--silence_max=-1s", "h:1"}, "silence_max"},
      {{"--silence_max=1s", "--ping=", "h:1"}, "silence_max"},
      {{"--backoff_initial=0", "h:1"}, "backoff.initial"},
      {{"--backoff_multiplier=0", "h:1"}, "backoff.multiplier"},
      {{"--backoff_multiplier=0.5", "h:1"}, "backoff.multiplier"},
      {{"--backoff_max=1ms", "h:1"}, "backoff.max"},
      {{"--connect_timeout=0", "h:1"}, "connect_timeout"},
      {{"--jitter=some", "h:1"}, "jitter"},
      {{"--backend=kqueue", "h:1"}, "backend"},
      {{"--on_loss=replay", "h:1"}, "it is one of: hand_back replay_unsent replay_unacked"},
      {{"--on_loss=forget", "h:1"}, "on_loss"},
      {{"--stdin", "--rate=5", "h:1"}, "--rate"},
      {{"--stdin", "--connections=2", "h:1"}, "--connections"},
      {{"--account=/no/such/directory/file", "h:1"}, "--account"},
  };
  for (const auto& [arguments, word] : cases) {
    const Ended ended = RunOnce("holdfast-echo", arguments);
    const std::string shown = testing::PrintToString(arguments);
    EXPECT_EQ(ended.status, 1) << shown;
    EXPECT_EQ(ended.output, "") << shown;
    EXPECT_NE(ended.errors.find(word), std::string::npos) << shown << ": " << ended.errors;
  }
}

TEST(UsageTest, BadUsageOfTheServerEndsWithStatus1AndNamesWhatIsWrong) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "PORT"},
      {{"1", "2"}, "PORT"},
      {{"70000"}, "70000"},
      {{"localhost:0"}, "localhost"},
      {{"--chaos=down", "0"}, "down"},
      {{"--chaos=up:2", "0"}, "up:2"},
      {{"--log=/no/such/directory/file", "0"}, "--log"},
      {{"--backend=kqueue", "0"}, "backend"},
      {{"192.0.2.1:0"}, "192.0.2.1"},  // An address that no host has (RFC 5737).
  };
  for (const auto& [arguments, word] : cases) {
    const Ended ended = RunOnce("holdfast-echod", arguments);
    const std::string shown = testing::PrintToString(arguments);
    EXPECT_EQ(ended.status, 1) << shown;
    EXPECT_EQ(ended.output, "") << shown;
    EXPECT_NE(ended.errors.find(word), std::string::npos) << shown << ": " << ended.errors;
  }
}

TEST(UsageTest, ThePortOfAnotherServerIsNotTaken) {
  Process first({Program("holdfast-echod"), "0"});
  const auto line = first.Line(Clock::now() + kPatience);
  ASSERT_TRUE(line);
  const std::string address = line->substr(std::string("listening on ").size());
  const Ended second = RunOnce("holdfast-echod", {address});
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.errors.find("EADDRINUSE"), std::string::npos) << second.errors;
}

TEST(DemoTest, ShowsTheLinkComeBackInLessThanHalfAMinute) {
  const Clock::time_point begin = Clock::now();
  Process demo({InRepository("tools/demo.sh")});
  EXPECT_EQ(demo.Wait(begin + std::chrono::seconds(30)), 0) << demo.output() << demo.errors();
  EXPECT_NE(demo.output().find("epoll: the link came back"), std::string::npos) << demo.output();
  EXPECT_EQ(demo.errors(), "");
}

}  // namespace
}  // namespace holdfast::e2e
