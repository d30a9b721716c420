// Nothing lost: what a link says became of its messages, held against what a real peer has read.
//
// A link sends for all it is worth while its peer, a process behind a cable, is killed, stopped, reset, cut off
// and made to lose packets, at random moments. The peer writes down every message; the link's user writes down
// what on_down, on_expired and Acknowledge say. Then the two are joined (docs/delivery.md):
//
//   acked     was received                     unsent    was not received on a session that it was unsent of
//   expired   was not received, or was in       in doubt  may be either
//             doubt before
//   in a session sequences only grow; under kHandBack and kReplayUnsent none comes twice, under
//   kReplayUnacked none is missing; each message has one end, and the link's counters are the sum of them.
//
// What a peer that is killed, or throws its connection away, had not read is lost, though its kernel has
// acknowledged it: TCP says no more. Such sessions are exempt from the two rules that this breaks, but for
// AckedBy::kPeer, where the process itself acknowledges.
//
// `make test` plays a few rounds; HOLDFAST_PROOF=whole (make proof) 1,000 for each backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "netns/namespaces.h"
#include "proof/recorder.h"
#include "support/seed.h"

namespace holdfast::test {
namespace {

struct Policy {
  const char* name;
  OnLoss on_loss;
  AckedBy acked_by;
};

enum class End { kNone, kAcked, kInDoubt, kUnsent, kExpired };

enum class Trouble { kKill, kReset, kFin, kRejected, kCutOff, kStop, kPause, kLoss };
constexpr std::size_t kTroubles = 8;

// What the user of a link knows.
class Book {
 public:
  explicit Book(const Policy& policy) : policy_(policy) {}

  void OnUp() { ++session_; }
  [[nodiscard]] std::uint32_t session() const { return session_; }
  // What the peer has not read of this session is lost, and of others that have just ended.
  void MayLose(Instant now) {
    careless_.insert(session_);
    for (const auto& [session, at] : ended_) {
      if (at > now - 1s) careless_.insert(session);
    }
  }

  void OnAccepted(std::uint64_t sequence, bool of_session) {
    EXPECT_TRUE(ends_.emplace(sequence, End::kNone).second) << sequence << " was given twice";
    if (of_session) hellos_.insert(sequence);
    outstanding_.insert(sequence);
  }
  void OnExpired(const Message& message) {
    Finish(message.sequence(), End::kExpired);
    if (message.fate() == Fate::kUnsent) never_sent_.insert(message.sequence());
  }
  void OnAcknowledged(std::uint64_t sequence) { Finish(sequence, End::kAcked); }

  void OnDown(const Down& down, Instant down_at) {
    std::set<std::uint64_t> listed;
    for (const Message& message : down.messages) {
      const std::uint64_t sequence = message.sequence();
      EXPECT_TRUE(listed.insert(sequence).second) << sequence << " is listed twice";
      EXPECT_TRUE(outstanding_.contains(sequence)) << sequence << " is listed after its end";
      if (message.fate() == Fate::kUnsent && down.was_up) unsent_.push_back({session_, sequence});
      if (!message.kept()) {
        Finish(sequence, message.fate() == Fate::kInDoubt ? End::kInDoubt : End::kUnsent);
      }
    }
    if (!down.was_up) return;
    ended_.push_back({session_, down_at});
    // The session's messages that are not listed are acked, and stand first on its wire: behind its hello by
    // their numbers. What is not listed besides them was accepted later, and is held for the next session.
    std::uint64_t acked = policy_.acked_by == AckedBy::kPeersKernel ? down.acked : 0;
    for (const std::uint64_t sequence : std::set(hellos_)) {
      if (listed.contains(sequence) || !outstanding_.contains(sequence)) continue;
      Finish(sequence, End::kAcked);
      if (acked > 0) --acked;
    }
    for (const std::uint64_t sequence : std::set(outstanding_)) {
      if (acked == 0) break;
      if (listed.contains(sequence)) continue;
      Finish(sequence, End::kAcked);
      --acked;
    }
    EXPECT_EQ(acked, 0u) << "more acked than there were";
  }

  void Judge(std::span<const Log::Entry> log, const LinkStats& stats) const;
  [[nodiscard]] std::size_t messages() const { return ends_.size(); }
  [[nodiscard]] std::size_t Count(End end) const {
    return static_cast<std::size_t>(std::count_if(
        ends_.begin(), ends_.end(), [end](const auto& e) { return e.second == end; }));
  }

 private:
  void Finish(std::uint64_t sequence, End end) {
    const auto found = ends_.find(sequence);
    ASSERT_NE(found, ends_.end()) << sequence << " was never accepted";
    ASSERT_EQ(found->second, End::kNone) << sequence << " has two ends";
    found->second = end;
    acked_in_[sequence] = session_;
    outstanding_.erase(sequence);
  }
  // Its last session threw away what it had not read.
  [[nodiscard]] bool MayBeLost(std::uint64_t sequence) const {
    return policy_.acked_by == AckedBy::kPeersKernel &&
           careless_.contains(acked_in_.find(sequence)->second);
  }

  const Policy& policy_;
  std::uint32_t session_ = 0;
  std::map<std::uint64_t, End> ends_;
  std::map<std::uint64_t, std::uint32_t> acked_in_;  // The session in which it came to its end.
  std::set<std::uint64_t> hellos_;
  std::set<std::uint64_t> outstanding_;
  std::set<std::uint64_t> never_sent_;  // Of those that expired.
  std::set<std::uint32_t> careless_;
  std::vector<std::pair<std::uint32_t, Instant>> ended_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> unsent_;
};

void Book::Judge(std::span<const Log::Entry> log, const LinkStats& stats) const {
  std::map<std::uint64_t, std::vector<std::uint32_t>> received;  // By sequence: on which sessions.
  std::map<std::uint32_t, std::uint64_t> last;
  for (const Log::Entry& entry : log) {
    EXPECT_EQ(entry.sound, 1u) << entry.sequence << " is not as it was sent";
    EXPECT_TRUE(ends_.contains(entry.sequence)) << entry.sequence << " was never accepted";
    std::uint64_t& before = last[entry.session];
    EXPECT_GT(entry.sequence, before) << "out of order, or twice, on session " << entry.session;
    before = entry.sequence;
    received[entry.sequence].push_back(entry.session);
  }
  for (const auto& [session, sequence] : unsent_) {
    const auto found = received.find(sequence);
    if (found == received.end()) continue;
    for (const std::uint32_t on : found->second) {
      EXPECT_GT(on, session) << sequence << " was unsent of session " << session
                             << ", and received";
    }
  }
  for (const auto& [sequence, end] : ends_) {
    EXPECT_NE(end, End::kNone) << sequence << " has no end";
    if (hellos_.contains(sequence)) continue;
    const std::size_t times = received.contains(sequence) ? received[sequence].size() : 0;
    const bool again = policy_.on_loss == OnLoss::kReplayUnacked;
    EXPECT_TRUE(end != End::kAcked || times > 0 || MayBeLost(sequence)) << sequence << " was acked";
    EXPECT_TRUE(end != End::kUnsent || times == 0) << sequence << " was unsent";
    EXPECT_TRUE(!never_sent_.contains(sequence) || times == 0) << sequence << " had expired";
    EXPECT_TRUE(again || times <= 1) << sequence << " came twice";
    EXPECT_TRUE(!again || end == End::kAcked || end == End::kExpired) << sequence << " is missing";
  }
  EXPECT_EQ(stats.messages, ends_.size());
  EXPECT_EQ(stats.acked, Count(End::kAcked));
  EXPECT_EQ(stats.in_doubt, Count(End::kInDoubt));
  EXPECT_EQ(stats.unsent, Count(End::kUnsent));
  EXPECT_EQ(stats.expired, Count(End::kExpired));
}

[[nodiscard]] bool Whole() {
  const char* const proof = std::getenv("HOLDFAST_PROOF");
  return proof != nullptr && std::string_view(proof) == "whole";
}

class ProofTest : public FixtureWithReactor,
                  public testing::WithParamInterface<std::tuple<Policy, BackendKind>> {
 protected:
  [[nodiscard]] BackendKind backend() const override { return std::get<1>(GetParam()); }
  [[nodiscard]] const Policy& policy() const { return std::get<0>(GetParam()); }

  void SetUp() override {
    if (const std::string why = Namespace::WhyNot(); !why.empty()) {
      GTEST_SKIP() << why << ": NOT TESTED: what a real peer received against the account";
    }
    FixtureWithReactor::SetUp();
    if (IsSkipped()) return;
    network_.emplace();
    if (HasFatalFailure()) return;
    inside_.emplace(network_->near());
    const Inside inside(network_->far());
    server_.emplace(*Endpoint::Parse("192.0.2.2:0")->literal());
    const int small = 64 << 10;
    ::setsockopt(server_->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  }
  void TearDown() override {
    link_.reset();
    recorder_.reset();
    server_.reset();
    inside_.reset();
    network_.reset();
    FixtureWithReactor::TearDown();
  }

  void PlayLife(int rounds);
  void PlayRound();
  void MakeLink();
  void SendSome();
  void Make(Trouble trouble);
  // The end of the session that the trouble brings.
  [[nodiscard]] bool AwaitDown(Trouble trouble, std::uint64_t downs);
  void Mend(Trouble trouble);
  void Nft(const Namespace& host, const std::string& what) const {
    RunIn(host,
          "nft add table inet test ; add chain inet test input { type filter hook input "
          "priority 0 ; } ; add rule inet test input " +
              what);
  }
  // Sends on until `done`.
  [[nodiscard]] bool SendUntil(const std::function<bool()>& done, Duration limit = 20s) {
    return RunUntil(
        [&] {
          SendSome();
          return done();
        },
        limit);
  }
  [[nodiscard]] bool up() const { return link_->state() == LinkState::kUp; }

  internal::Random random_{internal::PrintedSeed()};
  std::optional<Network> network_;
  std::optional<Inside> inside_;
  std::optional<RawServer> server_;
  std::optional<Recorder> recorder_;
  std::optional<Book> book_;
  std::unique_ptr<Link> link_;
  std::uint64_t next_ = 1;
  std::uint64_t downs_ = 0;
  std::size_t size_max_ = 0;
  Duration ttl_{0};
};

void ProofTest::MakeLink() {
  LinkOptions options;
  options.endpoints = {server_->endpoint()};
  options.backoff = {.initial = 1ms, .multiplier = 1.5, .max = 20ms};
  options.connect_timeout = 100ms;  // The SYN that was dropped is sent again after a second.
  options.silence_max = 150ms;
  options.ping = MakePing();
  options.framing = LengthPrefix{.width = 1};
  options.on_loss = policy().on_loss;
  options.acked_by = policy().acked_by;
  options.hold_while_down = random_.Below(2) == 0;
  options.queue_max = std::size_t{1} << random_.Between(18, 21);
  options.queue_high = options.queue_low = 64 << 10;
  if (random_.Below(2) == 0) options.socket.notsent_lowat = 16 << 10;
  options.on_up = [this](Link& link) {
    book_->OnUp();
    ASSERT_EQ(link.Send(MakeHello(book_->session())).status, SendStatus::kQueued);
    book_->OnAccepted(next_++, true);
  };
  options.on_message = [this](Link& link, std::span<const std::byte> answer) {
    if (answer.size() != 1 + sizeof(std::uint64_t)) return;
    std::uint64_t sequence = 0;
    std::memcpy(&sequence, answer.data() + 1, sizeof(sequence));
    if (link.Acknowledge(sequence)) book_->OnAcknowledged(sequence);
  };
  options.on_expired = [this](Link&, const Message& message) { book_->OnExpired(message); };
  options.on_down = [this](Link&, const Down& down) {
    book_->OnDown(down, reactor().Now());
    if (down.was_up) ++downs_;
  };
  absl::StatusOr<std::unique_ptr<Link>> link = Link::Create(reactor(), std::move(options));
  ASSERT_TRUE(link.ok()) << link.status();
  link_ = *std::move(link);
  link_->Start();
}

void ProofTest::SendSome() {
  for (auto burst = random_.Below(30); burst > 0; --burst) {
    const std::size_t size = random_.Between(sizeof(MessageHeader), size_max_);
    const SendOptions options{.ttl = random_.Below(4) == 0 ? ttl_ : Duration::zero()};
    const std::string message = MakeMessage(next_, size);
    const SendResult result = random_.Below(2) == 0 ? link_->Send(message, options)
                                                    : link_->Send(std::string(message), options);
    if (result.status != SendStatus::kQueued) return;
    ASSERT_EQ(result.sequence, next_);
    book_->OnAccepted(next_++, false);
  }
}

void ProofTest::Make(Trouble trouble) {
  const std::string port = std::to_string(server_->port());
  switch (trouble) {
    case Trouble::kKill:
      book_->MayLose(reactor().Now());
      return recorder_->Kill();
    case Trouble::kReset:
      book_->MayLose(reactor().Now());
      return recorder_->Reset();
    case Trouble::kFin:
      return recorder_->End();
    case Trouble::kRejected:
      return Nft(network_->far(), "tcp dport " + port + " reject with tcp reset");
    case Trouble::kCutOff:
      Nft(network_->far(), "drop");
      return Nft(network_->near(), "drop");
    case Trouble::kStop:
    case Trouble::kPause:
      return recorder_->Stop();
    case Trouble::kLoss:
      for (const Namespace* host : {&network_->near(), &network_->far()}) {
        Nft(*host, "numgen random mod 100 < " + std::to_string(random_.Between(1, 40)) + " drop");
      }
      return;
  }
}

void ProofTest::Mend(Trouble trouble) {
  switch (trouble) {
    case Trouble::kKill:
      return recorder_->Start();
    case Trouble::kReset:
    case Trouble::kFin:
      return;
    case Trouble::kStop:
    case Trouble::kPause:
      return recorder_->Continue();
    case Trouble::kRejected:
    case Trouble::kCutOff:
    case Trouble::kLoss:
      for (const Namespace* host : {&network_->near(), &network_->far()}) {
        RunIn(*host, "nft flush ruleset");
      }
  }
}

// The peer may not know of the connection yet: then it was told of another.
bool ProofTest::AwaitDown(Trouble trouble, std::uint64_t downs) {
  Instant again = reactor().Now() + 50ms;
  return SendUntil([&] {
    const bool told = trouble == Trouble::kReset || trouble == Trouble::kFin;
    if (downs_ == downs && told && up() && reactor().Now() >= again) {
      Make(trouble);
      again = reactor().Now() + 50ms;
    }
    return downs_ > downs;
  });
}

void ProofTest::PlayRound() {
  ASSERT_TRUE(SendUntil([&] { return up(); }));
  const Instant moment = reactor().Now() + std::chrono::microseconds(random_.Below(15'000));
  ASSERT_TRUE(SendUntil([&] { return reactor().Now() >= moment; }));
  const auto trouble = static_cast<Trouble>(random_.Below(kTroubles));
  const std::uint64_t downs = downs_;
  if (!up()) return;  // Another trouble still works.
  // Packets that are lost go with another end, half of the time.
  if (trouble == Trouble::kLoss && random_.Below(2) == 0) {
    Make(Trouble::kLoss);
    const auto other = static_cast<Trouble>(random_.Below(3));
    ASSERT_TRUE(SendUntil([&] { return reactor().Now() >= moment + 30ms; }));
    if (up()) {
      Make(other);
      EXPECT_TRUE(AwaitDown(other, downs)) << "loss, and trouble " << static_cast<int>(other);
      Mend(other);
    }
    return Mend(Trouble::kLoss);
  }
  Make(trouble);
  const Instant until = reactor().Now() + 60ms;
  const bool ends = trouble != Trouble::kLoss && trouble != Trouble::kPause;
  if (ends) {
    EXPECT_TRUE(AwaitDown(trouble, downs)) << "trouble " << static_cast<int>(trouble);
  } else {
    EXPECT_TRUE(SendUntil([&] { return reactor().Now() >= until; }));
  }
  Mend(trouble);
}

void ProofTest::PlayLife(int rounds) {
  next_ = 1;
  size_max_ = random_.Below(4) == 0 ? 50'000 : random_.Between(20, 3000);
  ttl_ = std::chrono::milliseconds(random_.Between(1, 60));
  book_.emplace(policy());
  recorder_.emplace(*server_, policy().acked_by == AckedBy::kPeer
                                  ? Recorder::Answers::kPingsAndMessages
                                  : Recorder::Answers::kPings);
  ASSERT_NO_FATAL_FAILURE(MakeLink());
  for (int round = 0; round < rounds; ++round) {
    ASSERT_NO_FATAL_FAILURE(PlayRound()) << "round " << round;
  }
  // Everything works again: what is outstanding arrives.
  bool flushed = false;
  ASSERT_TRUE(RunUntil([&] { return up(); }));
  ASSERT_EQ(link_->Flush([&](Link&, bool) { flushed = true; }), SendStatus::kQueued);
  ASSERT_TRUE(RunUntil([&] { return flushed; }));
  link_->Close(5s);
  ASSERT_TRUE(RunUntil([&] { return link_->state() == LinkState::kClosed; }));
  recorder_->Finish();
  EXPECT_EQ(recorder_->nonsense(), 0u);
  book_->Judge(recorder_->entries(), link_->stats());
  link_.reset();
  recorder_.reset();
}

TEST_P(ProofTest, TheAccountAgreesWithWhatThePeerHasRead) {
  const int lives = Whole() ? 10 : 1;
  std::size_t totals[5] = {};
  std::size_t messages = 0;
  for (int life = 0; life < lives; ++life) {
    ASSERT_NO_FATAL_FAILURE(PlayLife(Whole() ? 25 : 8)) << "life " << life;
    messages += book_->messages();
    for (std::size_t end = 0; end < 5; ++end) totals[end] += book_->Count(static_cast<End>(end));
    ASSERT_FALSE(HasFailure()) << "life " << life;
  }
  std::printf(
      "%zu messages: %zu acked, %zu in doubt, %zu unsent, %zu expired; %llu sessions ended\n",
      messages, totals[1], totals[2], totals[3], totals[4],
      static_cast<unsigned long long>(downs_));
  EXPECT_GT(totals[static_cast<int>(End::kAcked)], 0u);
}

constexpr Policy kPolicies[] = {
    {"HandBack", OnLoss::kHandBack, AckedBy::kPeersKernel},
    {"ReplayUnsent", OnLoss::kReplayUnsent, AckedBy::kPeersKernel},
    {"ReplayUnacked", OnLoss::kReplayUnacked, AckedBy::kPeersKernel},
    {"ReplayUnackedByPeer", OnLoss::kReplayUnacked, AckedBy::kPeer},
};

INSTANTIATE_TEST_SUITE_P(All, ProofTest,
                         testing::Combine(testing::ValuesIn(kPolicies),
                                          testing::Values(BackendKind::kUring,
                                                          BackendKind::kEpoll)),
                         [](const testing::TestParamInfo<ProofTest::ParamType>& param) {
                           const bool uring = std::get<1>(param.param) == BackendKind::kUring;
                           return std::string(std::get<0>(param.param).name) +
                                  (uring ? "_uring" : "_epoll");
                         });

}  // namespace
}  // namespace holdfast::test
