#include "machine/send_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "support/failing_new.h"
#include "support/seed.h"

namespace holdfast::internal {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Bytes that tell where they stand, so that a block too many or too few is seen.
std::string Pattern(std::uint64_t offset, std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((offset + i) * 31 + (offset + i) / 4096);
  }
  return text;
}

std::vector<iovec> GatherParts(const SendQueue& queue, std::size_t parts_max) {
  std::vector<iovec> parts(parts_max);
  parts.resize(queue.Gather(parts));
  return parts;
}

std::string Text(const std::vector<iovec>& parts) {
  std::string text;
  for (const iovec& part : parts)
    text.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return text;
}

class SendQueueTest : public testing::Test {
 protected:
  void TearDown() override { queue.CheckInvariants(); }

  void Append(std::size_t size) {
    ASSERT_TRUE(queue.Append(Bytes(Pattern(queue.end(), size))));
    queue.CheckInvariants();
  }

  BlockPool pool;
  SendQueue queue{pool};
};

TEST_F(SendQueueTest, GivesWhatItWasGiven) {
  ASSERT_TRUE(queue.Append(Bytes("hello, ")));
  ASSERT_TRUE(queue.Append(Bytes("world")));
  EXPECT_EQ(Text(GatherParts(queue, 16)), "hello, world");
  EXPECT_EQ(queue.queued(), 12u);
  EXPECT_EQ(queue.sent(), 0u);
  EXPECT_EQ(queue.end(), 12u);
}

TEST_F(SendQueueTest, SixtyFourSmallMessagesAreOnePart) {
  for (int i = 0; i < 64; ++i) Append(64);
  const std::vector<iovec> parts = GatherParts(queue, 16);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].iov_len, 64u * 64u);
}

TEST_F(SendQueueTest, AnEmptyQueueHoldsNoBlockAndGathersNothing) {
  EXPECT_TRUE(queue.Append({}));
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_TRUE(GatherParts(queue, 16).empty());
  queue.OnSent(0);
  queue.Release(0);
}

TEST_F(SendQueueTest, GatherStopsWhereThePartsDo) {
  Append(5 * 4096);
  EXPECT_EQ(Text(GatherParts(queue, 2)), Pattern(0, 2 * 4096));
  EXPECT_TRUE(GatherParts(queue, 0).empty());
}

TEST_F(SendQueueTest, AShortSendIsContinuedWhereItStopped) {
  Append(10'000);
  for (const std::size_t bytes : {1u, 4'094u, 1u, 1u, 4'095u, 1'000u}) {
    queue.OnSent(bytes);
    queue.CheckInvariants();
    EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(queue.sent(), 10'000 - queue.sent()));
  }
}

TEST_F(SendQueueTest, WhatWasSentIsHeldUntilItIsReleased) {
  Append(3 * 4096);
  queue.OnSent(2 * 4096);
  EXPECT_EQ(pool.in_use(), 3u);
  EXPECT_EQ(queue.held(), 3u * 4096);

  queue.Release(4095);
  EXPECT_EQ(pool.in_use(), 3u);
  queue.Release(4096);
  EXPECT_EQ(pool.in_use(), 2u);
  EXPECT_EQ(queue.released(), 4096u);
  EXPECT_EQ(queue.held(), 2u * 4096);
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(2 * 4096, 4096));
}

TEST_F(SendQueueTest, AReleaseThatGoesBackChangesNothing) {
  Append(100);
  queue.OnSent(100);
  queue.Release(60);
  queue.Release(50);
  EXPECT_EQ(queue.released(), 60u);
}

TEST_F(SendQueueTest, AQueueWithEverythingReleasedHoldsNoBlock) {
  Append(100);
  queue.OnSent(100);
  EXPECT_EQ(pool.in_use(), 1u);
  queue.Release(100);
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_EQ(queue.held(), 0u);
  EXPECT_EQ(queue.sent(), 100u);
}

TEST_F(SendQueueTest, OffsetsGoOnAfterTheQueueWasEmpty) {
  Append(100);
  queue.OnSent(100);
  queue.Release(100);
  Append(50);
  EXPECT_EQ(queue.end(), 150u);
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(100, 50));
  queue.OnSent(20);
  EXPECT_EQ(queue.sent(), 120u);
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(120, 30));
}

TEST_F(SendQueueTest, AFullLastBlockIsNotThePlaceOfTheNextByte) {
  Append(4096);
  queue.OnSent(4096);
  EXPECT_TRUE(GatherParts(queue, 16).empty());
  Append(10);
  const std::vector<iovec> parts = GatherParts(queue, 16);
  ASSERT_EQ(parts.size(), 1u);  // No empty part before it.
  EXPECT_EQ(Text(parts), Pattern(4096, 10));
  queue.Release(4096);
  EXPECT_EQ(pool.in_use(), 1u);
}

TEST_F(SendQueueTest, BytesInTheKernelsHandsStayWhereTheyAre) {
  Append(5'000);
  const std::vector<iovec> gathered = GatherParts(queue, 16);
  for (int i = 0; i < 100; ++i) Append(777);
  EXPECT_EQ(Text(gathered), Pattern(0, 5'000));

  const std::vector<iovec> again = GatherParts(queue, 64);
  EXPECT_EQ(again[0].iov_base, gathered[0].iov_base);
  EXPECT_EQ(again[1].iov_base, gathered[1].iov_base);
}

TEST(SendQueueMemoryTest, OutOfMemoryRefusesWholeAndChangesNothing) {
  BlockPool pool(0);  // Keeps no block, so that every one is asked of the heap.
  SendQueue queue(pool);
  ASSERT_TRUE(queue.Append(Bytes(Pattern(0, 100))));
  for (std::size_t blocks = 0; blocks < 4; ++blocks) {
    const FailingNew no_memory(blocks);
    EXPECT_FALSE(queue.Append(Bytes(std::string(5 * 4096 - 100, 'x')))) << blocks;
    queue.CheckInvariants();
    EXPECT_EQ(pool.in_use(), 1u);
    EXPECT_EQ(queue.end(), 100u);
  }
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(0, 100));
  const FailingNew just_enough(4);
  EXPECT_TRUE(queue.Append(Bytes(Pattern(100, 5 * 4096 - 100))));
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(0, 5 * 4096));
}

TEST_F(SendQueueTest, WhatFitsIntoTheLastBlockNeedsNoMemory) {
  Append(100);
  const FailingNew no_memory(0);
  Append(4096 - 100);
  EXPECT_FALSE(queue.Append(Bytes("x")));
}

TEST_F(SendQueueTest, ClearBeginsAtZeroAndReturnsEveryBlock) {
  Append(10'000);
  queue.OnSent(5'000);
  queue.Release(4'500);
  queue.Clear();
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_EQ(queue.released(), 0u);
  EXPECT_EQ(queue.sent(), 0u);
  EXPECT_EQ(queue.end(), 0u);
  Append(10);
  EXPECT_EQ(Text(GatherParts(queue, 16)), Pattern(0, 10));
}

TEST_F(SendQueueTest, DestructionReturnsEveryBlock) {
  {
    SendQueue other(pool);
    ASSERT_TRUE(other.Append(Bytes(std::string(10'000, 'x'))));
    EXPECT_EQ(pool.in_use(), 3u);
  }
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(SendQueueDeathTest, NothingIsSentThatIsNotQueuedNorReleasedThatIsNotSent) {
  BlockPool pool;
  SendQueue queue(pool);
  ASSERT_TRUE(queue.Append(Bytes("12345")));
  EXPECT_DEATH(queue.OnSent(6), "bytes <= queued");
  EXPECT_DEATH(queue.Release(1), "boundary <= sent_");
}

// The whole stream in one string, and three numbers.
class SendQueueModel {
 public:
  explicit SendQueueModel(Random& random) : random_(random) {}

  void Step() {
    switch (random_.Below(8)) {
      case 0:
      case 1:
      case 2:
        return Append();
      case 3:
      case 4:
        return Send();
      case 5:
      case 6:
        return Release();
      default:
        if (random_.Below(100) == 0) Clear();
    }
  }

  void Check() {
    queue_.CheckInvariants();
    ASSERT_EQ(queue_.released(), released_);
    ASSERT_EQ(queue_.sent(), sent_);
    ASSERT_EQ(queue_.end(), stream_.size());
    ASSERT_EQ(queue_.queued(), stream_.size() - sent_);
    ASSERT_EQ(queue_.held(), stream_.size() - released_);
    const std::size_t blocks_max = (queue_.held() + 2 * 4095) / 4096;
    ASSERT_LE(pool_.in_use(), blocks_max);
    ASSERT_EQ(pool_.in_use() == 0, queue_.held() == 0);
  }

 private:
  void Append() {
    const std::size_t size = random_.Below(random_.Below(10) == 0 ? 20'000 : 300);
    const std::string text = Pattern(stream_.size(), size);
    const std::size_t in_use = pool_.in_use();
    bool appended = false;
    {
      const FailingNew maybe_no_memory(random_.Below(4) == 0 ? random_.Below(3) : 1'000);
      appended = queue_.Append(Bytes(text));
    }
    if (appended) {
      stream_ += text;
    } else {
      ASSERT_EQ(pool_.in_use(), in_use);
    }
  }

  void Send() {
    const std::size_t parts_max = random_.Between(1, 16);
    const std::vector<iovec> parts = GatherParts(queue_, parts_max);
    const std::string gathered = Text(parts);
    ASSERT_EQ(gathered, stream_.substr(sent_, gathered.size()));
    ASSERT_TRUE(parts.size() == parts_max || gathered.size() == stream_.size() - sent_);
    for (const iovec& part : parts) ASSERT_GT(part.iov_len, 0u);

    if (random_.Below(2) == 0) Append();  // While they are in the kernel's hands.
    ASSERT_EQ(Text(parts), gathered);
    const std::size_t taken =
        random_.Below(2) == 0 ? gathered.size() : random_.Below(gathered.size() + 1);
    queue_.OnSent(taken);
    sent_ += taken;
  }

  void Release() {
    const std::size_t boundary = random_.Below(3) == 0 ? sent_ : random_.Below(sent_ + 1);
    queue_.Release(boundary);
    released_ = std::max(released_, boundary);
  }

  void Clear() {
    queue_.Clear();
    stream_.clear();
    released_ = sent_ = 0;
  }

  Random& random_;
  BlockPool pool_{2};
  SendQueue queue_{pool_};
  std::string stream_;
  std::size_t released_ = 0;
  std::size_t sent_ = 0;
};

TEST(SendQueueModelTest, RandomLivesKeepTheStream) {
  Random random(PrintedSeed());
  for (int life = 0; life < 20; ++life) {
    SendQueueModel model(random);
    for (int step = 0; step < 2'000; ++step) {
      model.Step();
      if (testing::Test::HasFatalFailure()) return;
      model.Check();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace holdfast::internal
