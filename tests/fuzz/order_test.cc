// The inputs that the event-order fuzzer found worth keeping are played again, without it: as they are, and
// with every process on either backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/order_world.h"

namespace holdfast::fuzz {
namespace {

using Bytes = std::vector<std::uint8_t>;
struct File {
  std::string name;
  Bytes bytes;
};

std::vector<File> Corpus() {
  const char* const root = std::getenv("HOLDFAST_ROOT");
  const std::filesystem::path folder =
      std::filesystem::path(root != nullptr ? root : ".") / "tests/fuzz/corpus/order";
  std::vector<File> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    files.push_back({entry.path().filename(), Bytes(std::istreambuf_iterator<char>(in), {})});
  }
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.name < b.name; });
  return files;
}

OrderResult Play(const File& file, std::optional<BackendKind> backend) {
  OrderOptions options;
  options.backend = backend;
  OrderResult result = PlayOrder(file.bytes, std::move(options));
  for (const std::string& violation : result.violations) {
    ADD_FAILURE() << "tests/fuzz/corpus/order/" << file.name << ": " << violation;
  }
  return result;
}

// Over the whole corpus, so that a fuzzer that has lost touch with the runtime is noticed.
void PlayAll(std::optional<BackendKind> backend) {
  const std::vector<File> corpus = Corpus();
  ASSERT_GE(corpus.size(), 20U);
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;
  std::uint64_t messages = 0;
  std::array<std::uint64_t, internal::sim::kFaultKinds> hits{};
  for (const File& file : corpus) {
    const OrderResult result = Play(file, backend);
    ups += result.ups;
    downs += result.downs;
    messages += result.messages;
    for (std::size_t i = 0; i < hits.size(); ++i) hits[i] += result.hits[i];
  }
  EXPECT_GE(ups, 2 * corpus.size());
  EXPECT_GE(downs, 2 * corpus.size());
  EXPECT_GE(messages, corpus.size());
  if (backend.has_value()) return;
  for (std::size_t i = 0; i < hits.size(); ++i) {
    EXPECT_GT(hits[i], 0U) << "no input makes this fault strike: "
                           << ToString(static_cast<Fault>(i));
  }
}

TEST(EventOrderTest, EveryInputOfTheCorpusHoldsThePromises) { PlayAll(std::nullopt); }
#ifndef HOLDFAST_NO_URING
TEST(EventOrderTest, EveryInputHoldsThePromisesOverUring) { PlayAll(BackendKind::kUring); }
#endif
TEST(EventOrderTest, EveryInputHoldsThePromisesOverEpoll) { PlayAll(BackendKind::kEpoll); }

TEST(EventOrderTest, OneInputIsOneRunToTheLastEvent) {
  const std::vector<File> corpus = Corpus();
  for (std::size_t i = 0; i < corpus.size(); i += 10) {  // The others would only take longer.
    EXPECT_EQ(Play(corpus[i], std::nullopt).hash, Play(corpus[i], std::nullopt).hash)
        << corpus[i].name;
  }
}

TEST(EventOrderTest, NoBytesAtAllAreAQuietDay) {
  const OrderResult result = PlayOrder({});
  EXPECT_TRUE(result.violations.empty());
  EXPECT_EQ(result.ups, 1U);
  EXPECT_EQ(result.downs, 1U);  // By Close.
}

}  // namespace
}  // namespace holdfast::fuzz
