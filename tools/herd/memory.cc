#include "herd/memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace holdfast::herd {

std::optional<std::uint64_t> AnonymousBytes(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return std::nullopt;
  unsigned long long total = 0;
  unsigned long long resident = 0;
  unsigned long long of_files = 0;
  const int fields = std::fscanf(file, "%llu %llu %llu", &total, &resident, &of_files);
  std::fclose(file);
  if (fields != 3 || of_files > resident) return std::nullopt;
  return (resident - of_files) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::optional<std::uint64_t> MemoryMeter::Look() {
  const std::optional<std::uint64_t> now = AnonymousBytes(path_);
  peak_ = now.has_value() && peak_.has_value() ? std::max(now, peak_) : std::nullopt;
  return Beyond(now);
}

std::optional<std::uint64_t> MemoryMeter::Beyond(
    const std::optional<std::uint64_t>& bytes) const noexcept {
  if (!bytes.has_value() || !first_.has_value()) return std::nullopt;
  return *bytes - std::min(*bytes, *first_);
}

}  // namespace holdfast::herd
