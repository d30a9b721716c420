// What counts as memory of a run.
#include "herd/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

namespace holdfast::herd {
namespace {

// A file of its own, of any text, that looks like /proc/self/statm.
class StatmFile {
 public:
  StatmFile() : path_(testing::TempDir() + "statm-" + std::to_string(::getpid())) {}
  ~StatmFile() { std::remove(path_.c_str()); }
  void Write(const std::string& text) {
    std::FILE* const file = std::fopen(path_.c_str(), "w");
    std::fputs(text.c_str(), file);
    std::fclose(file);
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

const auto kPage = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));

TEST(MemoryTest, PagesWithAFileBehindThemAreNotCounted) {
  StatmFile file;
  file.Write("765 433 405 5 0 123 0\n");
  EXPECT_EQ(AnonymousBytes(file.path()), 28 * kPage);
}

TEST(MemoryTest, WhatCannotBeReadIsUnknown) {
  EXPECT_EQ(AnonymousBytes("/nonexistent/statm"), std::nullopt);
  StatmFile file;
  for (const char* const text : {"", "765 433", "resident", "765 404 405 5 0 123 0"}) {
    file.Write(text);
    EXPECT_EQ(AnonymousBytes(file.path()), std::nullopt) << text;
  }
}

TEST(MemoryTest, FiguresAreBeyondWhatThereWasAtFirstAndThePeakIsTheMostThatWasSeen) {
  StatmFile file;
  file.Write("1000 150 50");
  MemoryMeter memory(file.path());
  EXPECT_EQ(memory.peak(), 0u);

  file.Write("1000 180 50");
  EXPECT_EQ(memory.Look(), 30 * kPage);
  file.Write("1000 220 100");
  EXPECT_EQ(memory.Look(), 20 * kPage);
  EXPECT_EQ(memory.peak(), 30 * kPage);

  // Less than at first is nothing, not very much.
  file.Write("1000 140 50");
  EXPECT_EQ(memory.Look(), 0u);
}

TEST(MemoryTest, APeakThatMayHaveBeenMissedIsUnknown) {
  StatmFile file;
  file.Write("1000 150 50");
  MemoryMeter memory(file.path());
  file.Write("");
  EXPECT_EQ(memory.Look(), std::nullopt);
  file.Write("1000 160 50");
  EXPECT_EQ(memory.Look(), 10 * kPage);
  EXPECT_EQ(memory.peak(), std::nullopt);

  MemoryMeter never("/nonexistent/statm");
  EXPECT_EQ(never.Look(), std::nullopt);
  EXPECT_EQ(never.peak(), std::nullopt);
}

TEST(MemoryTest, CodeThatRunsForTheFirstTimeIsNoMemoryOfARun) {
  constexpr std::size_t kSize = 1 << 20;
  std::FILE* const program = std::fopen("/proc/self/exe", "r");
  ASSERT_NE(program, nullptr);
  MemoryMeter memory;

  void* const of_file =
      ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE | MAP_POPULATE, ::fileno(program), 0);
  ASSERT_NE(of_file, MAP_FAILED);
  const std::optional<std::uint64_t> with_file = memory.Look();
  ASSERT_TRUE(with_file.has_value());
  EXPECT_LT(*with_file, kSize / 2);

  void* const own = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(own, MAP_FAILED);
  EXPECT_GE(memory.Look(), kSize);

  ::munmap(own, kSize);
  ::munmap(of_file, kSize);
  std::fclose(program);
}

}  // namespace
}  // namespace holdfast::herd
