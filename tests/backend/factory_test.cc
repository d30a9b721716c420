// Which backend is chosen, and what is said about why.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "sys/fault_kernel.h"

namespace holdfast::internal {
namespace {

#ifdef HOLDFAST_NO_URING
constexpr bool kHasUring = false;
#else
constexpr bool kHasUring = true;
#endif

class FactoryTest : public testing::Test {
 protected:
  FactoryTest() {
    const char* const text = std::getenv(kVariable);
    if (text != nullptr) before_ = text;
    unsetenv(kVariable);
  }
  ~FactoryTest() override {
    if (before_.has_value()) {
      setenv(kVariable, before_->c_str(), 1);
    } else {
      unsetenv(kVariable);
    }
  }

  void RefuseRings(int error) {
    kernel_.Inject({.call = KernelCall::kRingSetup, .result = -error, .count = kForever});
  }
  absl::StatusOr<BackendChoice> Create(BackendWanted wanted) {
    return CreateBackend(kernel_, wanted, {});
  }

  static constexpr const char* kVariable = "HOLDFAST_BACKEND";
  FaultKernel kernel_{RealKernel()};

 private:
  std::optional<std::string> before_;
};

bool StartsWith(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

TEST_F(FactoryTest, TheReasonNamesTheBackendThatWasChosen) {
  const auto choice = Create(BackendWanted::kAuto);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_TRUE(StartsWith(choice->reason, choice->backend->name() + std::string(": ")))
      << choice->reason;
  EXPECT_EQ(choice->reason.find('\n'), std::string::npos);
}

TEST_F(FactoryTest, WithoutIoUringTheAnswerIsEpollAndTheReasonSaysWhy) {
  for (const int error : {EPERM, ENOSYS, EACCES}) {
    kernel_.Clear();
    RefuseRings(error);

    const auto choice = Create(BackendWanted::kAuto);

    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_STREQ(choice->backend->name(), "epoll");
    EXPECT_TRUE(StartsWith(choice->reason, "epoll: io_uring unavailable: ")) << choice->reason;
    EXPECT_GT(choice->reason.size(), std::string("epoll: io_uring unavailable: ").size());
    if (!kHasUring) {
      EXPECT_EQ(choice->reason, "epoll: io_uring unavailable: built without io_uring");
    }
  }
}

TEST_F(FactoryTest, AnExplicitWishForIoUringFailsInsteadOfFallingBack) {
  RefuseRings(EPERM);
  EXPECT_EQ(Create(BackendWanted::kUring).status().code(), absl::StatusCode::kUnimplemented);
  setenv(kVariable, "uring", 1);
  EXPECT_EQ(Create(BackendWanted::kAuto).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Create(BackendWanted::kEpoll).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(FactoryTest, OutOfDescriptorsIsNoReasonToFallBack) {
  if (!kHasUring) GTEST_SKIP() << "built without io_uring";
  for (const int error : {EMFILE, ENFILE}) {
    kernel_.Clear();
    RefuseRings(error);
    EXPECT_EQ(Create(BackendWanted::kAuto).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST_F(FactoryTest, OutOfDescriptorsFailsEpollToo) {
  kernel_.Inject({.call = KernelCall::kEpollCreate, .result = -EMFILE});
  EXPECT_EQ(Create(BackendWanted::kEpoll).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FactoryTest, EpollOnRequest) {
  const auto choice = Create(BackendWanted::kEpoll);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_STREQ(choice->backend->name(), "epoll");
  EXPECT_EQ(choice->reason, "epoll: asked for by the options");
  EXPECT_EQ(kernel_.calls(KernelCall::kRingSetup), 0u);
}

TEST_F(FactoryTest, TheEnvironmentWins) {
  setenv(kVariable, "epoll", 1);
  for (const BackendWanted wanted :
       {BackendWanted::kAuto, BackendWanted::kUring, BackendWanted::kEpoll}) {
    const auto choice = Create(wanted);
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_STREQ(choice->backend->name(), "epoll");
    EXPECT_EQ(choice->reason, "epoll: asked for by HOLDFAST_BACKEND");
  }
}

TEST_F(FactoryTest, AnEmptyEnvironmentSaysNothing) {
  setenv(kVariable, "", 1);
  const auto choice = Create(BackendWanted::kEpoll);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->reason, "epoll: asked for by the options");
}

TEST_F(FactoryTest, AnEnvironmentThatNamesNoBackendIsAnErrorThatNamesIt) {
  for (const char* const text : {"kqueue", "EPOLL", " epoll", "epoll,uring"}) {
    setenv(kVariable, text, 1);
    const absl::Status status = Create(BackendWanted::kAuto).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(std::string("HOLDFAST_BACKEND=") + text),
              std::string::npos)
        << status;
  }
}

}  // namespace
}  // namespace holdfast::internal
