#include "echo/client.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <holdfast/version.h>
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace holdfast::echo {
namespace {

constexpr Duration kLivePeriod = std::chrono::milliseconds(250);
constexpr Duration kCrowdPeriod = std::chrono::seconds(1);
// A schedule that fell further behind is not caught up with: the loop stood still, and a burst of
// everything that was missed would measure nothing.
constexpr Duration kBehindMax = std::chrono::seconds(1);
// Messages that one timer callback may send before the loop gets its turn.
constexpr int kBurstMax = 1024;
constexpr std::size_t kProblemsMax = 10;

Instant ClockNow() { return std::chrono::steady_clock::now(); }

std::vector<MessageBook::LeftOver> LeftOvers(const Messages& messages) {
  std::vector<MessageBook::LeftOver> left;
  left.reserve(messages.size());
  for (const holdfast::Message& message : messages) {
    left.push_back({message.sequence(), message.fate(), message.kept()});
  }
  return left;
}

}  // namespace

// One link and what belongs to it.
struct Client::Lane {
  Lane(Client& client, std::uint32_t number)
      : index(number),
        reader(client.lines_ != nullptr ? MessageReader::Payload::kKeep
                                        : MessageReader::Payload::kSkip),
        pace(client.reactor_, [&client, this] { client.Pace(*this); }),
        pump(client.reactor_, [&client, this] { client.Pump(*this); }) {}

  enum class Phase {
    kOpen,
    kClosing,  // Close was called.
    kClosed,
  };

  const std::uint32_t index;
  Phase phase = Phase::kOpen;
  MessageBook book;
  MessageReader reader;
  Timer pace;
  Timer pump;
  Instant due{};  // Of the next message of the schedule.
  Instant up_at{};
  Instant retry_at{};
  std::uint32_t attempt = 0;
  std::uint64_t accounted = 0;  // Messages, summed over the accounts of all sessions.
  LinkStats stats;              // At the end.
  std::unique_ptr<Link> link;
};

absl::StatusOr<std::unique_ptr<Client>> Client::Create(Reactor& reactor, Reporter& reporter,
                                                       ClientOptions options) {
  LinkOptions link_options = std::move(options.link);
  const Duration drain = link_options.drain;
  std::unique_ptr<Client> client(new Client(reactor, reporter, std::move(options), drain));
  Client* const self = client.get();
  const auto lane_of = [](Link& link) -> Lane& { return *static_cast<Lane*>(link.user()); };
  link_options.on_dial = [self, lane_of](Link& link, std::uint32_t attempt,
                                         std::string_view endpoint) {
    Lane& lane = lane_of(link);
    lane.attempt = attempt;
    self->reporter_.Dial(lane.index, attempt, endpoint);
  };
  link_options.on_up = [self, lane_of](Link& link) { self->OnUp(lane_of(link)); };
  link_options.on_data = [self, lane_of](Link& link, std::span<const std::byte> bytes) {
    self->OnData(lane_of(link), bytes);
  };
  link_options.on_down = [self, lane_of](Link& link, const Down& down) {
    self->OnDown(lane_of(link), down);
  };
  link_options.on_closed = [self, lane_of](Link& link, const Closed& closed) {
    self->OnClosed(lane_of(link), closed);
  };
  link_options.on_writable = [self, lane_of](Link& link) { self->Pump(lane_of(link)); };

  const auto shared = std::make_shared<const LinkOptions>(std::move(link_options));
  for (std::uint32_t i = 0; i < self->options_.connections; ++i) {
    auto lane = std::make_unique<Lane>(*self, i);
    auto link = Link::Create(reactor, shared, lane.get());
    if (!link.ok()) return link.status();
    lane->link = *std::move(link);
    self->lanes_.push_back(std::move(lane));
  }
  return client;
}

Client::Client(Reactor& reactor, Reporter& reporter, ClientOptions options, Duration drain)
    : reactor_(reactor),
      reporter_(reporter),
      options_(std::move(options)),
      drain_(drain),
      payload_(options_.message_bytes - kHeaderBytes, 'h'),
      account_out_(options_.account_fd) {
  if (options_.content == Content::kLines) {
    lines_ = std::make_unique<LineSource>(reactor, STDIN_FILENO, [this] { Pump(*lanes_.front()); });
  }
  duration_timer_ = std::make_unique<Timer>(reactor, [this] { BeginToFinish(); });
  finish_timer_ = std::make_unique<Timer>(reactor, [this] {
    for (const auto& lane : lanes_) Close(*lane, Duration(0));
  });
  live_timer_ = std::make_unique<Timer>(reactor, [this] {
    ShowLive();
    live_timer_->Arm(reactor_.Now() + kLivePeriod);
  });
  crowd_timer_ = std::make_unique<Timer>(reactor, [this] {
    if (std::string text = UpText(); text != crowd_text_) {
      reporter_.Note(text);
      crowd_text_ = std::move(text);
    }
    crowd_timer_->Arm(reactor_.Now() + kCrowdPeriod);
  });
}

Client::~Client() = default;

void Client::Start() {
  reporter_.Start(reactor_.backend(), reactor_.backend_reason(), options_.connections);
  const Instant now = ClockNow();
  for (const auto& lane : lanes_) lane->link->Start();
  if (options_.duration > Duration(0)) {
    duration_timer_->Arm(SaturatingAdd(now, options_.duration));
  }
  // While lines are typed on a terminal, a line redrawn under them would run over them.
  if (reporter_.live() && (lines_ == nullptr || isatty(STDIN_FILENO) == 0)) live_timer_->Arm(now);
  if (options_.connections > kCrowd) crowd_timer_->Arm(now + kCrowdPeriod);
}

// --- What the links say ---------------------------------------------------------------------------------

void Client::OnUp(Lane& lane) {
  lane.up_at = reactor_.Now();
  lane.reader.Reset();
  lane.book.BeginSession();
  reporter_.Up(lane.index, lane.attempt, lane.link->local().ToString(),
               lane.link->peer().ToString());
  if (lines_ == nullptr && options_.period > Duration(0) && !lane.pace.armed() && !LoadDone(lane)) {
    // The links of one process take turns instead of sending all at once.
    lane.due = reactor_.Now() + options_.period / options_.connections * lane.index;
    lane.pace.Arm(lane.due);
  }
  if (lane.link->options().on_loss == OnLoss::kHandBack) {
    Pump(lane);
  } else {
    // What is sent in here would belong to the session, as a login does, and never be sent again.
    lane.pump.Arm(reactor_.Now());
  }
  if (lines_ != nullptr) ShowLive();
}

void Client::OnData(Lane& lane, std::span<const std::byte> bytes) {
  const Instant now = ClockNow();
  while (lane.link->state() == LinkState::kUp || lane.link->state() == LinkState::kDraining) {
    const MessageReader::Found found = lane.reader.Read(bytes);
    if (found == MessageReader::Found::kMore) break;
    if (found == MessageReader::Found::kGarbage) {
      lane.link->Drop(Error::Protocol());
      return;
    }
    OnMessage(lane, lane.reader.message(), now);
  }
  if (phase_ == Phase::kFinishing) return CloseIfEchoed(lane);
  Pump(lane);
}

void Client::OnMessage(Lane& lane, const Message& message, Instant now) {
  if (message.kind == MessageKind::kPing) return;
  Duration round_trip{0};
  const MessageBook::Echo echo = message.link == lane.index
                                     ? lane.book.Echoed(message.sequence, now, round_trip)
                                     : MessageBook::Echo::kForeign;
  switch (echo) {
    case MessageBook::Echo::kFirst:
      last_round_trip_ = round_trip;
      round_trips_.Add(static_cast<std::uint64_t>(std::max(round_trip, Duration(0)).count()));
      if (message.kind == MessageKind::kLine) {
        reporter_.Echo(lane.index, message.sequence, message.payload);
        ShowLive();
      }
      return;
    case MessageBook::Echo::kDuplicate:
      return;
    case MessageBook::Echo::kForeign:
      lane.link->Drop(Error::Protocol());
      return;
  }
}

void Client::OnDown(Lane& lane, const Down& down) {
  if (down.retry_in) lane.retry_at = SaturatingAdd(reactor_.Now(), *down.retry_in);
  EndSession(lane, down);
  if (lines_ != nullptr) {
    lines_->Want(false);
    ShowLive();
  }
  if (phase_ == Phase::kFinishing) Close(lane, Duration(0));
}

void Client::EndSession(Lane& lane, const Down& down) {
  reporter_.Down(lane.index, down);
  if (!down.was_up) return;
  lane.accounted += down.total();
  const std::string local = down.local.ToString();
  const std::string problem =
      lane.book.EndSession(down, LeftOvers(down.messages), [&](std::uint64_t sequence, Fate fate) {
        AddAccountLine(lane, sequence, local, ToString(fate));
      });
  if (!problem.empty()) AddProblem(lane, problem);
  WriteAccount();
}

void Client::OnClosed(Lane& lane, const Closed& closed) {
  reporter_.Closed(lane.index, closed);
  lane.book.Close(LeftOvers(closed.messages));
  if (closed.reason != ClosedReason::kUser && closed.reason != ClosedReason::kStop) {
    closed_by_itself_ = true;
  }
  lane.phase = Lane::Phase::kClosed;
  lane.pace.Cancel();
  lane.pump.Cancel();
  ++closed_;
  FinishIfDone();
}

// --- What is sent ---------------------------------------------------------------------------------------

bool Client::LoadDone(const Lane& lane) const {
  if (lane.phase != Lane::Phase::kOpen) return true;
  return options_.count > 0 && lane.book.counts().sent >= options_.count;
}

bool Client::Send(Lane& lane, MessageKind kind, std::string_view payload) {
  const std::uint64_t sequence = lane.book.next();
  Encode({.kind = kind, .link = lane.index, .sequence = sequence, .payload = payload}, wire_);
  const Instant now = ClockNow();
  const SendResult result = lane.link->Send(wire_);
  if (result.status != SendStatus::kQueued) return false;
  if (result.sequence != sequence) {
    // The number is already inside the message: nothing that is counted from here on would be true.
    std::fprintf(stderr, "holdfast-echo: link %u: Send gave number %llu to message %llu\n",
                 lane.index, static_cast<unsigned long long>(result.sequence),
                 static_cast<unsigned long long>(sequence));
    std::exit(3);
  }
  lane.book.Sent(now);
  return true;
}

void Client::Pump(Lane& lane) {
  if (phase_ != Phase::kRunning) return;
  if (lines_ != nullptr) return PumpLines(lane);
  if (options_.period == Duration(0)) {
    while (lane.book.in_flight() < options_.depth && !LoadDone(lane) &&
           lane.link->state() == LinkState::kUp && lane.link->writable()) {
      if (!Send(lane, MessageKind::kLoad, payload_)) break;
    }
  }
  if (LoadDone(lane) || reporter_.broken()) FinishIfDone();
}

void Client::PumpLines(Lane& lane) {
  if (reporter_.broken()) return BeginToFinish();
  const auto open = [&] { return lane.link->state() == LinkState::kUp && lane.link->writable(); };
  while (open()) {
    const std::string_view text = lines_->Front();
    // A line that was not accepted stays in front until there is room.
    if (text.empty() || !Send(lane, MessageKind::kLine, text)) break;
    lines_->Pop();
  }
  lines_->Want(open());
  if (lines_->ended()) BeginToFinish();
}

void Client::Pace(Lane& lane) {
  if (phase_ != Phase::kRunning) return;
  if (reporter_.broken()) return BeginToFinish();
  const Instant now = reactor_.Now();
  if (now - lane.due > kBehindMax) lane.due = now;
  for (int i = 0; i < kBurstMax && lane.due <= now && !LoadDone(lane); ++i) {
    if (!Send(lane, MessageKind::kLoad, payload_)) {
      lane.book.Refused();
      AddAccountLine(lane, 0, lane.link->local().ToString(), "refused");
    }
    lane.due = SaturatingAdd(lane.due, options_.period);
  }
  WriteAccount();
  if (LoadDone(lane)) return FinishIfDone();
  lane.pace.Arm(lane.due);
}

// --- The end --------------------------------------------------------------------------------------------

void Client::FinishIfDone() {
  if (closed_ == lanes_.size()) return reactor_.Stop();
  if (phase_ != Phase::kRunning) return;
  if (reporter_.broken()) return BeginToFinish();
  if (options_.count == 0) return;
  const bool done =
      std::all_of(lanes_.begin(), lanes_.end(), [&](const auto& lane) { return LoadDone(*lane); });
  if (done) BeginToFinish();
}

void Client::BeginToFinish() {
  if (phase_ == Phase::kFinishing) return;
  phase_ = Phase::kFinishing;
  if (lines_ != nullptr) lines_->Want(false);
  duration_timer_->Cancel();
  finish_by_ = SaturatingAdd(reactor_.Now(), drain_);
  finish_timer_->Arm(finish_by_);
  for (const auto& lane : lanes_) {
    lane->pace.Cancel();
    CloseIfEchoed(*lane);
  }
}

void Client::CloseIfEchoed(Lane& lane) {
  if (lane.link->state() == LinkState::kUp && lane.book.in_flight() > 0) return;
  Close(lane, std::max(finish_by_ - reactor_.Now(), Duration(0)));
}

void Client::Close(Lane& lane, Duration drain) {
  if (lane.phase != Lane::Phase::kOpen) return;
  lane.phase = Lane::Phase::kClosing;
  lane.link->Close(drain);
}

void Client::Interrupt() {
  if (phase_ == Phase::kRunning) return BeginToFinish();
  for (const auto& lane : lanes_) {
    if (lane->phase == Lane::Phase::kOpen) {
      Close(*lane, Duration(0));
    } else if (lane->phase == Lane::Phase::kClosing) {
      Abandon(*lane);
    }
  }
}

void Client::Abandon(Lane& lane) {
  // The handle goes and takes its callbacks with it, so what they would have said is said here, as far
  // as it is known: what was echoed has arrived, the rest is in doubt.
  Down down;
  down.error = Error::Cancelled();
  down.was_up = lane.link->state() == LinkState::kDraining;
  down.local = lane.link->local();
  down.peer = lane.link->peer();
  down.up_for = reactor_.Now() - lane.up_at;
  static_cast<Account&>(down) = lane.book.KnownAccount();
  lane.stats = lane.link->stats();
  lane.link.reset();
  if (down.was_up) {
    EndSession(lane, down);
    ++lane.stats.downs;
  }
  Closed closed;
  closed.error = Error::Cancelled();
  OnClosed(lane, closed);
}

int Client::Finish() {
  Summary summary;
  for (const auto& lane : lanes_) {
    if (lane->link != nullptr) lane->stats = lane->link->stats();
    const MessageCounts& counts = lane->book.counts();
    summary.messages.Add(counts);
    summary.ups += lane->stats.ups;
    summary.downs += lane->stats.downs;
    summary.dials += lane->stats.dials;
    if (counts.sent != counts.echoed + counts.lost()) {
      AddProblem(*lane, absl::StrCat("sent ", counts.sent, " is not echoed ", counts.echoed,
                                     " + lost ", counts.lost()));
    }
    summary.replayed += lane->stats.replayed;
    if (counts.sent + lane->stats.replayed != lane->accounted) {
      AddProblem(*lane, absl::StrCat("sent ", counts.sent, " and again ", lane->stats.replayed,
                                     ", but the sessions' accounts cover ", lane->accounted));
    }
    if (counts.sent != lane->stats.messages) {
      AddProblem(*lane, absl::StrCat("sent ", counts.sent, ", but the link counted ",
                                     lane->stats.messages));
    }
    if (lane->stats.ups != lane->stats.downs) {
      AddProblem(*lane, absl::StrCat(lane->stats.ups, " ups, but ", lane->stats.downs, " downs"));
    }
  }
  WriteAccount();
  if (account_out_.broken()) problems_.emplace_back("the account file could not be written");
  summary.round_trips = &round_trips_;
  summary.timer_lateness = reactor_.stats().timer_lateness_max;
  summary.problems = problems_;
  reporter_.End(summary);
  for (const std::string& problem : problems_) {
    std::fprintf(stderr, "holdfast-echo: the account does not add up: %s\n", problem.c_str());
  }
  return closed_by_itself_ || !problems_.empty() ? 3 : 0;
}

void Client::AddProblem(const Lane& lane, std::string_view problem) {
  if (problems_.size() == kProblemsMax) return;
  problems_.push_back("link " + std::to_string(lane.index) + ": " + std::string(problem));
}

void Client::AddAccountLine(const Lane& lane, std::uint64_t sequence, std::string_view local,
                            std::string_view fate) {
  if (options_.account_fd < 0) return;
  line_.Clear();
  line_.Add("link", lane.index).Add("sequence", sequence).Add("local", local).Add("fate", fate);
  account_ += line_.Finish();
}

void Client::WriteAccount() {
  account_out_.Write(account_);
  account_.clear();
}

// --- The live line --------------------------------------------------------------------------------------

void Client::ShowLive() {
  if (reporter_.live()) reporter_.Live(LiveText());
}

std::string Client::UpText() const {
  const auto up = std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) {
    return lane->link != nullptr && lane->link->state() == LinkState::kUp;
  });
  return std::to_string(up) + " of " + std::to_string(lanes_.size()) + " links up";
}

std::string Client::LiveText() const {
  std::string text;
  const Lane& first = *lanes_.front();
  if (lanes_.size() > 1) {
    text = UpText();
  } else if (first.link != nullptr) {
    const Link& link = *first.link;
    text = std::string(ToString(link.state()));
    if (link.state() == LinkState::kUp) {
      text += " " + link.peer().ToString() + " for " + Readable(reactor_.Now() - first.up_at);
    } else if (link.state() == LinkState::kBackoff) {
      text +=
          ", next attempt in " + Readable(std::max(first.retry_at - reactor_.Now(), Duration(0)));
    }
    text += " | attempts " + std::to_string(first.attempt);
  }
  if (round_trips_.count() > 0) text += " | rtt " + Readable(last_round_trip_);
  MessageCounts counts;
  std::uint64_t replayed = 0;
  for (const auto& lane : lanes_) {
    counts.Add(lane->book.counts());
    if (lane->link != nullptr) replayed += lane->link->stats().replayed;
  }
  return text + " | sent " + std::to_string(counts.sent) + ", echoed " +
         std::to_string(counts.echoed) + ", lost " + std::to_string(counts.lost()) + ", replayed " +
         std::to_string(replayed);
}

}  // namespace holdfast::echo
