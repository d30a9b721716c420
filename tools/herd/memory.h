// How much memory a run of this process takes.
//
// Counted are the resident pages that no file is behind: heap, stacks, mappings. Those of the program itself
// are not, because they come in when their code runs first, at any time, and are no link's. The kernel has no
// high-water mark for that (ru_maxrss has the pages of files in it), so the peak is the most that a look
// found; the heap gives little back between two.
//
//   MemoryMeter memory;
//   Work();
//   memory.Look();                                 // As often as you like.
//   std::optional<std::uint64_t> most = memory.peak();
#ifndef HOLDFAST_TOOLS_HERD_MEMORY_H_
#define HOLDFAST_TOOLS_HERD_MEMORY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace holdfast::herd {

// From `path`, in the form of /proc/self/statm: pages in all, resident, and of these with a file behind them
// (proc(5); exact from Linux 6.17 on, before that to some pages for each processor). Nothing where it cannot
// be read or says something else.
[[nodiscard]] std::optional<std::uint64_t> AnonymousBytes(const std::string& path);

// All figures are bytes beyond those that there were when the meter was made.
class MemoryMeter {
 public:
  explicit MemoryMeter(std::string path = "/proc/self/statm")
      : path_(std::move(path)), first_(AnonymousBytes(path_)), peak_(first_) {}

  // What there is now. Nothing where this look failed, or the first one of all.
  std::optional<std::uint64_t> Look();
  // The most that any look has seen. Nothing where one failed: what it missed may have been the most.
  [[nodiscard]] std::optional<std::uint64_t> peak() const noexcept { return Beyond(peak_); }

 private:
  [[nodiscard]] std::optional<std::uint64_t> Beyond(
      const std::optional<std::uint64_t>& bytes) const noexcept;

  const std::string path_;
  const std::optional<std::uint64_t> first_;
  std::optional<std::uint64_t> peak_;
};

}  // namespace holdfast::herd

#endif  // HOLDFAST_TOOLS_HERD_MEMORY_H_
