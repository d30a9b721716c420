// A short run of chaos, as `make chaos` makes a long one: a few links, a few seconds, a seed of its own each time.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "e2e/process.h"

namespace holdfast::e2e {
namespace {

std::string Schedule(const std::string& seed) {
  Process process({"/usr/bin/env", "python3", "-B", InRepository("tools/chaos/chaos.py"), "--show",
                   "--duration=20s", "--seed=" + seed});
  EXPECT_EQ(process.Wait(), 0) << process.errors();
  return process.output();
}

// A server that is dead cannot be killed, and one that was revived twice has lost its port.
TEST(ChaosScheduleTest, NothingStrikesATargetTwiceAtOnce) {
  for (const char* const seed : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
    std::map<std::string, double> busy_until;
    std::istringstream schedule(Schedule(seed));
    for (std::string line; std::getline(schedule, line);) {
      std::istringstream words(line);
      int number = 0;
      double start = 0;
      double lasts = 0;
      std::string unit, kind, variant, whom, target;
      words >> number >> start >> unit >> kind >> variant >> whom >> target >> lasts;
      ASSERT_TRUE(words) << line;
      if (kind == "end") kind = "kill";
      double& until = busy_until[kind + " " + target];
      EXPECT_GT(start, until - 0.001) << "seed " << seed << ": " << line;  // It is rounded.
      until = start + lasts;
    }
    EXPECT_FALSE(busy_until.empty());
  }
}

TEST(ChaosScheduleTest, IsDecidedByItsSeed) {
  const std::string schedule = Schedule("7");
  EXPECT_FALSE(schedule.empty());
  EXPECT_EQ(schedule, Schedule("7"));
  EXPECT_NE(schedule, Schedule("8"));
}

// A run of 40 links, and a folder of its own for its history, which is kept when the test fails.
class ChaosTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "it makes network namespaces, and that needs root";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override {
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] std::vector<std::string> Command(const std::string& duration) const {
    return {"/usr/bin/env",
            "python3",
            "-B",
            InRepository("tools/chaos/chaos.py"),
            "--duration=" + duration,
            "--links=40",
            "--bin=" + Program(""),
            "--out=" + folder_};
  }

  // Clients, servers and the run itself: all have the folder among their arguments.
  [[nodiscard]] int Processes() const {
    int count = 0;
    for (const auto& process : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(process.path() / "cmdline", std::ios::binary);
      const std::string arguments{std::istreambuf_iterator<char>(file), {}};
      if (arguments.find(folder_) != std::string::npos) ++count;
    }
    return count;
  }

  // The kernel kills what is inside after the one outside has ended.
  [[nodiscard]] bool NoProcessIsLeft() const {
    const Clock::time_point deadline = Clock::now() + kPatience;
    while (Processes() != 0) {
      if (Clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  std::string folder_ = (std::filesystem::temp_directory_path() / "holdfast-chaos-XXXXXX").string();
};

TEST_F(ChaosTest, EveryLinkSurvivesAFewSeconds) {
  Process chaos(Command("5s"));
  const std::optional<int> status = chaos.Wait(Clock::now() + 4 * kPatience);
  std::cout << chaos.output() << chaos.errors();
  if (chaos.output().find("SKIPPED") != std::string::npos) GTEST_SKIP() << chaos.output();
  EXPECT_EQ(status, 0) << "its history is in " << folder_;
  EXPECT_NE(chaos.output().find(" 0 violations\n"), std::string::npos);
  EXPECT_TRUE(NoProcessIsLeft());
}

TEST_F(ChaosTest, AnInterruptEndsAllThatItStarted) {
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    Process chaos(Command("1h"));
    const std::string client = folder_ + "/client-0.events";
    const Clock::time_point deadline = Clock::now() + kPatience;
    while (!std::filesystem::exists(client) || std::filesystem::file_size(client) == 0) {
      ASSERT_LT(Clock::now(), deadline) << chaos.output() << chaos.errors();
      if (chaos.Line(Clock::now() + std::chrono::milliseconds(20)).value_or("").find("SKIPPED") !=
          std::string::npos) {
        GTEST_SKIP() << chaos.output();
      }
    }
    EXPECT_GT(Processes(), 8);
    chaos.Signal(signal);
    EXPECT_EQ(chaos.Wait(), 128 + signal) << chaos.output() << chaos.errors();
    EXPECT_TRUE(NoProcessIsLeft()) << signal;
    std::filesystem::remove(client);
  }
}

}  // namespace
}  // namespace holdfast::e2e
