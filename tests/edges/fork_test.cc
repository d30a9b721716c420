// fork(2) without exec: what the child may still ask of its parent's reactor, what it is told, and that the
// parent notices nothing of it, whatever the child does.
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edges/in_child.h"
#include "net/link_fixture.h"
#include "net/names_kernel.h"
#include "net/stream_fixture.h"

namespace holdfast::test {
namespace {

// One of everything on one reactor, busy.
class ForkTest : public StreamFixture {
 protected:
  void SetUp() override {
    StreamFixture::SetUp();
    if (IsSkipped()) return;
    reactor_.reset();
    without_reactor_ = OpenDescriptors();
    MakeReactor({.kernel = &names_});
    names_.Set("hangs", {.hangs = true});
    names_.Set("answers", {.addresses = {"127.0.0.1"}});
  }
  void TearDown() override {
    DestroyAll();
    names_.Release();
    for (Fd* const fd :
         {&stream_.peer, &unstarted_.peer, &paused_.peer, &peer_, &watched_, &filler_}) {
      fd->Reset();
    }
    StreamFixture::TearDown();
  }

  // The connections that are up, with nothing more to do for the moment.
  void MakeConnections() {
    link_ = MakeLink(server_.endpoint(), diary_);
    peer_ = AcceptFrom(server_);
    ASSERT_TRUE(RunUntil([&] { return link_->state() == LinkState::kUp; }));
    stream_ = MakeStarted(stream_diary_);
    unstarted_ = MakeEnds();
    paused_ = MakeStarted(paused_diary_);
    paused_.stream->PauseReceive();
    watched_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    auto watcher = reactor().Watch(watched_.get(), kWatchReadable, [this](unsigned) {
      std::uint64_t count = 0;
      watch_calls_ += ::read(watched_.get(), &count, sizeof(count)) == sizeof(count) ? 1 : 0;
    });
    ASSERT_TRUE(watcher.ok()) << watcher.status();
    watcher_ = *std::move(watcher);
    timer_ = std::make_unique<Timer>(reactor(), [this] { ++timer_calls_; });
  }
  // Links that are under way: one looks its name up, one connects, one waits to try again.
  void MakeAttempts() {
    resolving_ = MakeLink("hangs:7", other_diary_);
    refused_ = MakeLink(closed_port_.endpoint(), other_diary_);
    // A listener whose queue is full: its SYNs are dropped, so that a connect stays under way.
    filler_ = ConnectTo(busy_server_.endpoint());
    connecting_ = MakeLink(busy_server_.endpoint(), other_diary_);
    ASSERT_TRUE(RunUntil([&] {
      return resolving_->state() == LinkState::kResolving &&
             connecting_->state() == LinkState::kConnecting &&
             refused_->state() == LinkState::kBackoff && names_.inside() == 1;
    }));
  }
  void DestroyAll() {
    for (auto* const link : {&resolving_, &refused_, &connecting_, &link_}) link->reset();
    for (Ends* const ends : {&stream_, &unstarted_, &paused_}) ends->stream.reset();
    watcher_.reset();
    timer_.reset();
    CloseListeners();
  }

  // Everything that was up before the fork is up after it, and works.
  void ExpectThatAllGoesOn() {
    EXPECT_EQ(link_->state(), LinkState::kUp) << diary_.Text();
    EXPECT_EQ(link_->Send("from the link").status, SendStatus::kQueued);
    EXPECT_EQ(ReadFrom(peer_, 13), "from the link");
    WriteAvailable(peer_, "to the link");
    EXPECT_EQ(stream_.stream->Send("from the stream"), SendStatus::kQueued);
    EXPECT_EQ(ReadFrom(stream_.peer, 15), "from the stream");
    WriteAvailable(stream_.peer, "to the stream");
    WriteAvailable(paused_.peer, "to the paused one");
    paused_.stream->ResumeReceive();
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(watched_.get(), &one, sizeof(one)), 8);
    timer_->Arm(reactor().Now());
    EXPECT_TRUE(RunUntil([&] {
      return diary_.data == "to the link" && stream_diary_.data == "to the stream" &&
             paused_diary_.data == "to the paused one" && watch_calls_ == 1 && timer_calls_ == 1;
    })) << diary_.data
        << ", " << stream_diary_.data << ", " << paused_diary_.data << ", " << watch_calls_
        << " calls of the watcher, " << timer_calls_ << " of the timer";
    const Ends accepted = MakeEnds();  // The listener accepts.
    EXPECT_NE(accepted.stream, nullptr);
    EXPECT_EQ(diary_.ups, 1);
    EXPECT_TRUE(diary_.downs.empty()) << diary_.Text();
    EXPECT_EQ(stream_diary_.closes + paused_diary_.closes, 0);
  }

  [[nodiscard]] std::unique_ptr<Link> MakeLink(const std::string& endpoint, Diary& diary) {
    LinkOptions options;
    options.endpoints = {endpoint};
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    options.connect_timeout = 1h;
    options.attempt_timeout = 1h;
    diary.Attach(options);
    auto link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << link.status();
    (*link)->Start();
    return *std::move(link);
  }

  NamesKernel& names_ = NamesKernel::Make();
  std::size_t without_reactor_ = 0;
  RawServer server_;
  RawServer busy_server_{Family::kInet, 0, 0};
  ClosedPort closed_port_;
  Fd filler_;
  Fd peer_;
  Fd watched_;
  Diary diary_;
  Diary other_diary_;
  StreamDiary stream_diary_;
  StreamDiary paused_diary_;
  std::unique_ptr<Link> link_;
  std::unique_ptr<Link> resolving_;
  std::unique_ptr<Link> refused_;
  std::unique_ptr<Link> connecting_;
  Ends stream_;
  Ends unstarted_;
  Ends paused_;
  std::unique_ptr<Watcher> watcher_;
  std::unique_ptr<Timer> timer_;
  int watch_calls_ = 0;
  int timer_calls_ = 0;

 private:
  static Fd ConnectTo(const std::string& endpoint) {
    return test::ConnectTo(*Endpoint::Parse(endpoint)->literal());
  }
};

bool SaysForked(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition &&
         status.message().find("fork") != std::string_view::npos;
}

TEST_P(ForkTest, EveryWayInToldTheChildThatItIsOne) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  EXPECT_EQ(
      InChild([&] {
        Complaints complaints;
        complaints.Expect(SaysForked(reactor().Run()), "Run");
        complaints.Expect(SaysForked(reactor().RunFor(1h)), "RunFor");
        complaints.Expect(SaysForked(reactor().Poll()), "Poll");
        complaints.Expect(
            SaysForked(reactor().Watch(watched_.get(), kWatchReadable, [](unsigned) {}).status()),
            "Watch");
        LinkOptions options;
        options.endpoints = {server_.endpoint()};
        complaints.Expect(SaysForked(Link::Create(reactor(), std::move(options)).status()),
                          "Link::Create");
        complaints.Expect(
            SaysForked(Listener::Create(reactor(), {.endpoint = "127.0.0.1:0",
                                                    .on_accept = [](Listener&, auto) {}})
                           .status()),
            "Listener::Create");
        complaints.Expect(reactor().fd() == -1, "fd");
        complaints.Expect(link_->Send("x").status == SendStatus::kNotUp, "Link::Send");
        complaints.Expect(!link_->Ping("PING"), "Link::Ping");
        complaints.Expect(!link_->writable(), "Link::writable");
        complaints.Expect(stream_.stream->Send("x") == SendStatus::kClosing, "Stream::Send");
        return complaints.text();
      }),
      "");
  ExpectThatAllGoesOn();
}

// A callback forks, and the child returns from it like its parent: into a turn that is not its own.
class ForkInCallbackTest : public ForkTest {
 protected:
  // What each callback of the turn does, in both processes.
  void Fork() {
    if (child_ >= 0) return;
    EXPECT_EQ(stream_.stream->Send("once"), SendStatus::kQueued);  // Leaves at the end of the turn.
    child_ = ::fork();
    ASSERT_GE(child_, 0);
    if (child_ > 0) return;
    calls_ = 0;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(20);
  }
  // A callback of it forks. Runs on in both processes; the child ends here.
  void RunBoth() {
    reactor().Post([this] { ++calls_; });
    const absl::Status status = reactor().RunFor(50ms);
    if (child_ == 0) ::_exit(SaysForked(status) ? calls_ : 100);
    ASSERT_GT(child_, 0);
    EXPECT_TRUE(status.ok()) << status;
    int ended = 0;
    ASSERT_EQ(::waitpid(child_, &ended, 0), child_);
    EXPECT_TRUE(WIFEXITED(ended)) << "killed by signal " << WTERMSIG(ended);
    EXPECT_EQ(WEXITSTATUS(ended), 0) << "callbacks in the child, or 100: Run did not say so";
    EXPECT_GT(calls_, 0);
    EXPECT_EQ(ReadFrom(stream_.peer, 4), "once");
  }

  pid_t child_ = -1;
  int calls_ = 0;  // After the fork.
};

TEST_P(ForkInCallbackTest, TheChildOfAPostIsToldAndTheParentGoesOn) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  reactor().Post([this] { Fork(); });
  ASSERT_NO_FATAL_FAILURE(RunBoth());
  ExpectThatAllGoesOn();
}

TEST_P(ForkInCallbackTest, TheChildOfATimerIsToldAndTheParentGoesOn) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  Timer first(reactor(), [this] { Fork(); });
  Timer second(reactor(), [this] { calls_ += child_ >= 0 ? 1 : 0; });
  first.Arm(reactor().Now());
  second.Arm(reactor().Now() + 1ns);
  ASSERT_NO_FATAL_FAILURE(RunBoth());
  ExpectThatAllGoesOn();
}

TEST_P(ForkInCallbackTest, TheChildOfAReceiveIsToldAndTakesNoByteOfTheParents) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  std::string received;
  auto options = std::make_shared<StreamOptions>();
  options->on_data = [&](Stream&, std::span<const std::byte> bytes) {
    if (child_ == 0) ++calls_;
    received += AsText(bytes);
    Fork();
  };
  Ends ends = MakeEnds();
  ends.stream->Start(options);
  // More than one receive, so that the turn would go on with it.
  const std::string much(300'000, 'm');
  const std::size_t written = WriteAvailable(ends.peer, much);
  ASSERT_NO_FATAL_FAILURE(RunBoth());
  EXPECT_TRUE(RunUntil([&] { return received.size() == written; })) << received.size();
  ends.stream.reset();
  ExpectThatAllGoesOn();
}

// All of them in one receive.
TEST_P(ForkInCallbackTest, TheChildOfAMessageIsToldNoOther) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  std::string received;
  auto options = std::make_shared<StreamOptions>();
  options->framing = Delimiter{};
  options->on_message = [&](Stream&, std::span<const std::byte> line) {
    if (child_ == 0) ++calls_;
    received += AsText(line);
    Fork();
  };
  Ends ends = MakeEnds();
  ends.stream->Start(options);
  ASSERT_EQ(WriteAvailable(ends.peer, "a\nb\nc\n"), 6u);
  ASSERT_NO_FATAL_FAILURE(RunBoth());
  EXPECT_TRUE(RunUntil([&] { return received == "abc"; })) << received;
  ends.stream.reset();
  ExpectThatAllGoesOn();
}

HOLDFAST_FOR_BOTH_BACKENDS(ForkInCallbackTest);

TEST_P(ForkTest, TheParentNoticesNothingOfAChildThatEndsEverythingItHas) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  ASSERT_NO_FATAL_FAILURE(MakeAttempts());
  // Bytes that the peer's kernel has not acknowledged: given up in the parent, this link would be
  // disconnected, so that they never arrive.
  const std::string much(8u << 20, 'm');
  ASSERT_EQ(link_->Send(std::string_view(much).substr(0, 4u << 20)).status, SendStatus::kQueued);
  ASSERT_TRUE(reactor().RunFor(1ms).ok());
  const std::uint64_t timers = reactor().stats().timers_fired;
  // What the test holds itself: four peers, the eventfd, the filler, and the child's end of the pipe.
  const std::size_t left = without_reactor_ + 7;

  EXPECT_EQ(InChild([&] {
              DestroyAll();
              reactor_.reset();
              Complaints complaints;
              complaints.Expect(OpenDescriptors() == left, std::to_string(OpenDescriptors()) +
                                                               " descriptors instead of " +
                                                               std::to_string(left));
              return complaints.text();
            }),
            "");

  EXPECT_EQ(ReadFrom(peer_, 4u << 20), much.substr(0, 4u << 20));
  ExpectThatAllGoesOn();
  EXPECT_EQ(resolving_->state(), LinkState::kResolving);
  EXPECT_EQ(connecting_->state(), LinkState::kConnecting);
  EXPECT_EQ(refused_->state(), LinkState::kBackoff);
  EXPECT_GT(reactor().stats().timers_fired, timers);
  // The connect that was under way is still heard of.
  const Fd first = AcceptFrom(busy_server_);
  EXPECT_TRUE(RunUntil([&] { return connecting_->state() == LinkState::kUp; }));
  names_.Release();
  EXPECT_TRUE(RunUntil([&] { return resolving_->state() != LinkState::kResolving; }));
}

TEST_P(ForkTest, TheParentNoticesNothingOfAChildThatClosesDropsAndPauses) {
  ASSERT_NO_FATAL_FAILURE(MakeConnections());
  ASSERT_NO_FATAL_FAILURE(MakeAttempts());
  ASSERT_GE(reactor().fd(), 0);  // From now on whatever is given to do must be noted somewhere.
  const Instant later = reactor().Now() + 50ms;
  timer_->Arm(later);
  EXPECT_EQ(InChild([&] {
              link_->Drop(Error::Protocol());
              link_->Close();
              resolving_->Close();
              connecting_->Close(0s);
              refused_->RetryNow();
              stream_.stream->PauseReceive();
              stream_.stream->ResumeReceive();
              stream_.stream->CloseWrite();
              stream_.stream->Close(1h);
              paused_.stream->ResumeReceive();
              paused_.stream->Close(1h);
              unstarted_.stream->Start(nullptr);
              timer_->Arm(kNever);
              reactor().Post([] { ::_exit(3); });
              reactor().Stop();
              return std::string();
            }),
            "");
  EXPECT_EQ(reactor().stats().posts, 0u);
  // Another loop, asleep on the descriptor, is woken by the timer that the child disarmed.
  pollfd waited{.fd = reactor().fd(), .events = POLLIN, .revents = 0};
  while (timer_calls_ == 0 && ::poll(&waited, 1, 10'000) == 1) {
    ASSERT_TRUE(reactor().Poll().ok());
  }
  EXPECT_EQ(timer_calls_, 1);
  timer_calls_ = 0;
  ExpectThatAllGoesOn();
}

// A child has nothing where its parent has the ring, and what it maps may come to lie there.
TEST_P(ForkTest, TheEndOfAReactorInTheChildUnmapsNothingThatIsTheChilds) {
  if (GetParam() == BackendKind::kEpoll) GTEST_SKIP() << "no ring, and nothing to unmap";
  std::vector<std::pair<std::uintptr_t, std::size_t>> rings;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("io_uring") == std::string::npos) continue;
    char* rest = nullptr;
    const std::uintptr_t begin = std::strtoul(line.c_str(), &rest, 16);
    rings.emplace_back(begin, std::strtoul(rest + 1, nullptr, 16) - begin);
  }
  ASSERT_FALSE(rings.empty());
  EXPECT_EQ(InChild([&] {
              Complaints complaints;
              for (const auto& [begin, size] : rings) {
                void* const place = reinterpret_cast<void*>(begin);
                complaints.Expect(
                    ::mmap(place, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == place,
                    "mmap");
              }
              reactor_.reset();
              for (const auto& [begin, size] : rings) {
                complaints.Expect(::msync(reinterpret_cast<void*>(begin), size, MS_ASYNC) == 0,
                                  "unmapped");
              }
              return complaints.text();
            }),
            "");
}

// g++ says it with a macro, clang++ with a feature.
#ifdef __SANITIZE_THREAD__
constexpr bool kThreadsAfterFork = false;
#elif defined(__has_feature)
constexpr bool kThreadsAfterFork = !__has_feature(thread_sanitizer);
#else
constexpr bool kThreadsAfterFork = true;
#endif

TEST_P(ForkTest, AChildMakesAReactorOfItsOwnWithLookUpsOfItsOwn) {
  if (!kThreadsAfterFork) {
    GTEST_SKIP() << "SKIPPED: ThreadSanitizer forbids threads in a forked child";
  }
  // The parent's threads, all it may have, are busy; none of them is in the child.
  Diary diary;
  std::vector<std::unique_ptr<Link>> hanging;
  for (int i = 0; i < 5; ++i) hanging.push_back(MakeLink("hangs:7", diary));
  ASSERT_TRUE(RunUntil([&] { return names_.inside() == 4; }));
  const std::string endpoint = "answers:" + std::to_string(server_.port());
  EXPECT_EQ(InChild([&] {
              hanging.clear();
              reactor_.reset();
              MakeReactor({.kernel = &names_});
              Complaints complaints;
              std::unique_ptr<Link> own = MakeLink(endpoint, diary_);
              Fd peer = AcceptFrom(server_);
              WriteAvailable(peer, "hello");
              complaints.Expect(RunUntil([&] { return diary_.data == "hello"; }), diary_.Text());
              own.reset();
              // And is a parent itself.
              complaints.Expect(InChild([&] {
                                  return SaysForked(reactor().Poll()) ? "" : "a grandchild's Poll";
                                }) == "",
                                "the grandchild");
              complaints.Expect(reactor().Poll().ok(), "Poll after a fork of its own");
              reactor_.reset();
              return complaints.text();
            }),
            "");
  names_.Release();
  EXPECT_TRUE(RunUntil([&] { return diary.downs.size() == 5; }));
}

HOLDFAST_FOR_BOTH_BACKENDS(ForkTest);

}  // namespace
}  // namespace holdfast::test
