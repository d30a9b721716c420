// A kernel that is there and may not be used: io_uring taken away by seccomp(2), before a reactor is made or
// while it runs; and no memory that may be locked. The reactor is one over epoll then, and says why; or, where
// it is too late for that, it says so instead of spinning.
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>
#include <memory>
#include <string>
#include <thread>

#include "edges/in_child.h"
#include "net/net_fixture.h"
#include "support/fail_call.h"

namespace holdfast::test {
namespace {

#ifdef HOLDFAST_NO_URING
constexpr bool kHasUring = false;
#else
constexpr bool kHasUring = true;
#endif

// A link of `reactor` that comes up and gets back what it sends. "" or what went wrong.
std::string TryALink(Reactor& reactor) {
  RawServer server;
  Diary diary;
  LinkOptions options;
  options.endpoints = {server.endpoint()};
  diary.Attach(options);
  auto link = Link::Create(reactor, std::move(options));
  if (!link.ok()) return std::string(link.status().message());
  (*link)->Start();
  Fd peer;
  bool sent = false;
  const Instant end = std::chrono::steady_clock::now() + 10s;
  while (diary.data != "hello") {
    if (std::chrono::steady_clock::now() >= end) return "no echo: " + diary.Text();
    if (const absl::Status status = reactor.RunFor(1ms); !status.ok()) {
      return std::string(status.message());
    }
    if (!peer.valid()) peer = server.Accept();
    if (!sent && diary.ups == 1) sent = (*link)->Send("hello").status == SendStatus::kQueued;
    if (!peer.valid()) continue;
    const std::string text = ReadAvailable(peer);
    if (::send(peer.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return "no answer sent";
  }
  return "";
}

struct Refusal {
  unsigned call;
  int error;
  const char* name;     // Of the test.
  const char* meaning;  // What the reason says: the row of tests/data/errors.csv.
};

std::string RefusalName(const testing::TestParamInfo<Refusal>& info) { return info.param.name; }

class SeccompTest : public testing::TestWithParam<Refusal> {
 protected:
  void SetUp() override {
    if (!kHasUring) GTEST_SKIP() << "built without io_uring";
    if (!Reactor::Create({.backend = BackendKind::kUring}).ok()) {
      GTEST_SKIP() << "SKIPPED, not tested here: this kernel has no io_uring for us";
    }
  }
  // Runs `body` on a thread on which the call of the parameter is refused: a filter is a matter of its
  // thread and ends with it.
  template <typename Body>
  void RunFiltered(Body body) {
    bool filtered = false;
    std::thread thread([&] {
      filtered = internal::FailCall(GetParam().call, GetParam().error);
      if (filtered) body();
    });
    thread.join();
    if (!filtered) GTEST_SKIP() << "SKIPPED, not tested here: this process may not use seccomp";
  }
};

// Also where another reactor of the process had io_uring before: SetUp's.
TEST_P(SeccompTest, TheReactorIsOneOverEpollAndSaysWhyAndALinkWorks) {
  RunFiltered([] {
    auto reactor = Reactor::Create({});
    ASSERT_TRUE(reactor.ok()) << reactor.status();
    EXPECT_STREQ((*reactor)->backend(), "epoll");
    const std::string& reason = (*reactor)->backend_reason();
    EXPECT_EQ(reason.find("epoll: io_uring unavailable: "), 0u) << reason;
    EXPECT_NE(reason.find(GetParam().meaning), std::string::npos) << reason;
    EXPECT_EQ(TryALink(**reactor), "");
  });
}

TEST_P(SeccompTest, WhoAsksForIoUringIsToldThatThereIsNone) {
  RunFiltered([] {
    const absl::Status status = Reactor::Create({.backend = BackendKind::kUring}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find(GetParam().meaning), std::string_view::npos) << status;
  });
}

INSTANTIATE_TEST_SUITE_P(
    Refused, SeccompTest,
    testing::Values(Refusal{SYS_io_uring_setup, EPERM, "SetupEPERM", "io_uring_setup: EPERM"},
                    Refusal{SYS_io_uring_setup, ENOSYS, "SetupENOSYS", "io_uring_setup: ENOSYS"},
                    Refusal{SYS_io_uring_setup, EACCES, "SetupEACCES", "io_uring_setup: EACCES"},
                    Refusal{SYS_io_uring_enter, EPERM, "EnterEPERM", "io_uring_enter: EPERM"},
                    Refusal{SYS_io_uring_enter, ENOSYS, "EnterENOSYS", "io_uring_enter: ENOSYS"},
                    Refusal{SYS_io_uring_register, EINVAL, "RegisterEINVAL",
                            "io_uring_register: EINVAL"}),
    RefusalName);

// A sandbox that is closed behind a program that has started.
class LateSeccompTest : public SeccompTest {};

TEST_P(LateSeccompTest, ARunningReactorSaysThatIoUringWasTakenAwayAndEndsWithoutIt) {
  const std::size_t descriptors = OpenDescriptors();
  std::thread([] {
    auto made = Reactor::Create({.backend = BackendKind::kUring});
    ASSERT_TRUE(made.ok()) << made.status();
    Reactor& reactor = **made;
    RawServer server;
    Diary diary;
    LinkOptions options;
    options.endpoints = {server.endpoint()};
    options.on_up = [](Link&) {
      if (!internal::FailCall(GetParam().call, GetParam().error)) ::_exit(1);
    };
    auto link = Link::Create(reactor, std::move(options));
    ASSERT_TRUE(link.ok()) << link.status();
    (*link)->Start();

    const absl::Status status = reactor.RunFor(10s);

    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_NE(status.message().find(GetParam().meaning), std::string_view::npos) << status;
    EXPECT_EQ(reactor.Run(), status);  // It stays so.
    EXPECT_EQ((*link)->state(), LinkState::kUp);
    link->reset();
    made->reset();
    // What a program can do about it.
    auto next = Reactor::Create({});
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_STREQ((*next)->backend(), "epoll") << (*next)->backend_reason();
    EXPECT_EQ(TryALink(**next), "");
  }).join();
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

INSTANTIATE_TEST_SUITE_P(
    Refused, LateSeccompTest,
    testing::Values(Refusal{SYS_io_uring_enter, EPERM, "EnterEPERM", "(EPERM)"},
                    Refusal{SYS_io_uring_enter, ENOSYS, "EnterENOSYS", "(ENOSYS)"}),
    RefusalName);

#ifdef SYS_epoll_wait
constexpr unsigned kEpollWaitNumber = SYS_epoll_wait;
#else  // What epoll_wait(3) calls where it is no system call of its own.
constexpr unsigned kEpollWaitNumber = SYS_epoll_pwait;
#endif

// epoll is as easy to take away, and no other backend is left then.
TEST(LateSeccompOfEpollTest, ARunningReactorThatMayNotWaitAnyMoreSaysSoAndEnds) {
  const std::size_t descriptors = OpenDescriptors();
  bool filtered = false;
  std::thread([&filtered] {
    auto made = Reactor::Create({.backend = BackendKind::kEpoll});
    ASSERT_TRUE(made.ok()) << made.status();
    filtered = internal::FailCall(SYS_epoll_pwait2, ENOSYS) &&
               internal::FailCall(kEpollWaitNumber, EACCES);
    if (!filtered) return;

    const absl::Status status = (*made)->RunFor(10s);

    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_NE(status.message().find("(EACCES)"), std::string_view::npos) << status;
    EXPECT_EQ((*made)->Run(), status);  // It stays so.
  }).join();
  EXPECT_EQ(OpenDescriptors(), descriptors);
  if (!filtered) GTEST_SKIP() << "SKIPPED, not tested here: this process may not use seccomp";
}

// In a child, because who gives up root does not get it back. Linux counts what a ring maps against the
// limit, unless the process has CAP_IPC_LOCK.
class NoLockedMemoryTest : public testing::TestWithParam<BackendKind> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED, not tested here: only root can become nobody";
  }
  // A reactor of the user `nobody`, who may lock nothing, and a link on it.
  static std::string TryAsNobody(BackendKind backend) {
    const rlimit none{0, 0};
    constexpr uid_t kNobody = 65534;
    if (::setrlimit(RLIMIT_MEMLOCK, &none) != 0 || ::setgid(kNobody) != 0 ||
        ::setuid(kNobody) != 0) {
      return "cannot become nobody";
    }
    auto reactor = Reactor::Create({.backend = backend});
    if (!reactor.ok()) {
      // Refused, and it says what is short: that is an answer where io_uring was asked for.
      const bool says_why = absl::IsUnimplemented(reactor.status()) &&
                            reactor.status().message().find("ENOMEM") != std::string_view::npos;
      return backend == BackendKind::kUring && says_why ? "" : reactor.status().ToString();
    }
    const std::string& reason = (*reactor)->backend_reason();
    const bool fell_back =
        backend == BackendKind::kAuto && (*reactor)->backend() == std::string("epoll");
    if (fell_back && reason.find("io_uring unavailable: ") == std::string::npos) return reason;
    if (fell_back && kHasUring && reason.find("ENOMEM") == std::string::npos) return reason;
    return TryALink(**reactor);
  }
};

TEST_P(NoLockedMemoryTest, AnUnprivilegedUserGetsALinkThatWorksOrIsToldWhatIsShort) {
  EXPECT_EQ(InChild([] { return TryAsNobody(GetParam()); }), "");
}

std::string AnyBackendName(const testing::TestParamInfo<BackendKind>& info) {
  return info.param == BackendKind::kAuto ? "automatic" : BackendName(info);
}

INSTANTIATE_TEST_SUITE_P(AnyBackend, NoLockedMemoryTest,
                         testing::Values(BackendKind::kAuto, BackendKind::kUring,
                                         BackendKind::kEpoll),
                         AnyBackendName);

}  // namespace
}  // namespace holdfast::test
