#include "fuzz/order_client.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "echo/message.h"
#include "swarm/link_options.h"

namespace holdfast::fuzz {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

constexpr std::string_view kActNames[] = {
    "send",      "close",        "close now",  "drop",  "retry now",  "mark healthy",
    "ping",      "destroy",      "make",       "start", "stop token", "verdict",
    "arm timer", "cancel timer", "make timer", "post",  "stop loop",
};
static_assert(std::size(kActNames) == kActs);
constexpr std::string_view kWhereNames[] = {
    "on_dial",      "on_up",    "on_data", "on_down", "on_closed", "on_writable",
    "on_heartbeat", "on_state", "decide",  "timer",   "post",      "outside",
};
static_assert(std::size(kWhereNames) == kCallbacks + 1);

// Every ping of a link has one size, so that the checker knows where the messages lie.
std::string PingOf(std::uint8_t index) {
  std::string ping;
  echo::Encode({.kind = echo::MessageKind::kPing, .link = index}, ping);
  return ping;
}

template <typename Enum>
std::size_t Index(Enum value) {
  return static_cast<std::size_t>(value);
}

}  // namespace

// --- LinkUser.

LinkUser::LinkUser(Client& client, const LinkPlan& plan, std::uint8_t index)
    : client_(client),
      stage_(client.stage_),
      plan_(plan),
      index_(index),
      make_timer_(client.reactor(), [this] { Make(true); }) {
  Make(true);
}

LinkUser::~LinkUser() {
  if (checker_ != nullptr) checker_->OnDestroyed(Now());
}

Instant LinkUser::Now() const { return client_.reactor().Now(); }

Duration LinkUser::bound() const {
  const LinkOptions& options = plan_.options;
  return options.backoff.max * 4 + options.attempt_timeout * 2 + options.silence_max * 3 +
         options.drain + 60s;
}

std::string LinkUser::Describe() const {
  std::string text = Concat("link ", index_);
  if (link_ == nullptr) return text + " is not made";
  text = Concat(text, " is ", ToString(link_->state()));
  return last_.empty() ? text : Concat(text, ", last: ", last_);
}

void LinkUser::Make(bool start) {
  Destroy();
  make_timer_.Cancel();
  stop_ = std::stop_source();
  stop_asked_ = false;
  close_untold_.reset();
  auto options = std::make_shared<LinkOptions>(swarm::CopyWithoutCallbacks(plan_.options));
  options->stop = stop_.get_token();

  Incarnation& made = client_.incarnations_.emplace_back();
  made.client = client_.number_;
  made.checker = std::make_unique<swarm::LinkChecker>(
      Concat("link ", index_), *options, *stage_.oracles[client_.number_],
      [this_stage = &stage_](const std::string& violation) { this_stage->Violate(violation); });
  checker_ = made.checker.get();

  // Each callback knows its own checker: after a Make in one of them another link has come.
  swarm::LinkChecker& checker = *checker_;
  options->on_dial = [this, &checker](Link&, std::uint32_t attempt, std::string_view endpoint) {
    Enter(checker, Where::kDial);
    checker.OnDial(Now(), attempt, endpoint);
    Leave(Where::kDial);
  };
  options->on_up = [this, &checker](Link& link) {
    Enter(checker, Where::kUp);
    checker.OnUp(Now(), link.local());
    session_bytes_ = 0;
    pings_before_ = link.stats().pings;
    replies_ = 0;
    if (plan_.greeting.has_value()) Send(*plan_.greeting);
    Leave(Where::kUp);
    // Nothing is kept here (OnLoss::kHandBack), so that the gate lets nothing out.
    if (checker_ == &checker && link_ != nullptr) {
      static_cast<void>(checker.OnUpReturned(Now(), session_bytes_));
    }
  };
  options->on_data = [this, &checker](Link& link, std::span<const std::byte> bytes) {
    Enter(checker, Where::kData);
    checker.OnData(Now(), bytes);
    if (checker.garbage()) {
      const Error error = Error::Protocol();
      checker.OnDrop(Now(), error);
      link.Drop(error);
    } else if (stage_.disturbed && plan_.greeting.has_value() && replies_ < plan_.replies) {
      ++replies_;
      Send(*plan_.greeting);
    }
    Leave(Where::kData);
  };
  options->on_writable = [this, &checker](Link&) {
    Enter(checker, Where::kWritable);
    Leave(Where::kWritable);
  };
  options->on_state = [this, &checker](Link&, LinkState) {
    Enter(checker, Where::kState);
    in_state_ = true;
    Leave(Where::kState);
    in_state_ = false;
  };
  if (plan_.pings_itself) {
    options->on_heartbeat = [this, &checker](Link& link) {
      Enter(checker, Where::kHeartbeat);
      static_cast<void>(link.Ping(PingOf(index_)));
      Leave(Where::kHeartbeat);
    };
  }
  options->decide = [this, &checker](const Down& down) {
    Enter(checker, Where::kDecide);
    verdict_ = plan_.overrules && !down.error.IsTemporary() ? Verdict::kBackOff : Verdict::kByClass;
    Leave(Where::kDecide);
    checker.SetVerdict(verdict_);
    return verdict_;
  };
  options->on_down = [this, &checker](Link&, const Down& down) {
    Enter(checker, Where::kDown);
    checker.OnDown(Now(), down);
    last_ = down.ToString();
    Leave(Where::kDown);
  };
  options->on_closed = [this, &checker](Link&, const Closed& closed) {
    Enter(checker, Where::kClosed);
    checker.OnClosed(Now(), closed);
    if (!closing_) make_timer_.Arm(Now() + 20ms);
    Leave(Where::kClosed);
  };
  made.options = std::move(options);
  auto link = Link::Create(client_.reactor(), made.options);
  if (!link.ok()) return stage_.Violate("Link::Create: " + link.status().ToString());
  link_ = *std::move(link);
  if (start) Start();
}

void LinkUser::Start() {
  checker_->OnStart(Now());
  link_->Start();
}

void LinkUser::Destroy() {
  if (link_ == nullptr) return;
  checker_->OnDestroyed(Now());
  link_.reset();
  if (!closing_) make_timer_.Arm(Now() + 20ms);
}

void LinkUser::Settle() {
  if (link_ == nullptr || checker_->closed()) return Make(true);
  if (link_->state() == LinkState::kIdle) Start();
}

void LinkUser::Close() {
  closing_ = true;
  make_timer_.Cancel();
  if (link_ == nullptr) return;
  checker_->OnClose(Now(), plan_.options.drain);
  link_->Close();
}

void LinkUser::CheckOverdue() {
  if (link_ == nullptr) return;
  NoteStopToken(*checker_);
  checker_->CheckOverdue(stage_.world.Now());
}

void LinkUser::Send(std::uint8_t amount) {
  constexpr std::size_t kSizes[] = {32, 33, 100, 500, 1400, 4000, 16'000, 70'000};
  const std::size_t size = kSizes[amount % std::size(kSizes)];
  const std::size_t count = 1 + amount / std::size(kSizes) % 6;
  const std::string payload(size - echo::kHeaderBytes, 'x');
  for (std::size_t i = 0; i < count && stage_.bytes_left >= size; ++i) {
    // Its sequence is the one that Send will give it.
    echo::Encode({.kind = echo::MessageKind::kLoad,
                  .link = index_,
                  .sequence = link_->stats().messages + 1,
                  .payload = payload},
                 message_);
    const std::uint64_t pings = (link_->stats().pings - pings_before_) * PingOf(index_).size();
    const SendResult result = link_->Send(message_);
    if (result.status != SendStatus::kQueued) return;
    stage_.bytes_left -= size;
    checker_->OnSent(Now(), result.sequence, session_bytes_ + pings, size);
    session_bytes_ += size;
  }
}

void LinkUser::Perform(const Deed& deed, Where where) {
  if (link_ != nullptr) stage_.SawAct(deed.act, link_->state(), where);
  stage_.Tell("user", "link ", index_, ": ", kActNames[Index(deed.act)], " ", deed.amount, " (",
              kWhereNames[Index(where)], ")");
  switch (deed.act) {
    case Act::kMake:
      return Make(deed.amount % 4 != 3);
    case Act::kArmTimer:
      return client_.Arm(deed.amount % client_.slots_.size(),
                         static_cast<std::uint8_t>(deed.amount / client_.slots_.size()));
    case Act::kCancelTimer: {
      Client::Slot& slot = client_.slots_[deed.amount % client_.slots_.size()];
      slot.due = kNever;
      return slot.timer->Cancel();
    }
    case Act::kMakeTimer:
      return client_.MakeTimer(deed.amount % client_.slots_.size());
    case Act::kPost:
      return client_.Post();
    case Act::kStopLoop:
      client_.stopped_ = true;
      client_.Post();  // What was posted before Stop still runs.
      stage_.inner.faults.Hit(Fault::kPostDuringStop);
      return client_.reactor().Stop();
    case Act::kVerdict:
      verdict_ = static_cast<Verdict>(deed.amount % 4);
      return;
    default:
      break;
  }
  if (link_ == nullptr) return;
  const LinkState state = link_->state();
  // In the on_state before on_up nobody knows of the session yet, and what is done to it would be told of
  // no session.
  if (state == LinkState::kUp && !checker_->up() && deed.act != Act::kDestroy) return;
  switch (deed.act) {
    case Act::kSend:
      return Send(deed.amount);
    case Act::kClose:
    case Act::kCloseNow: {
      const Duration drain = deed.act == Act::kClose ? plan_.options.drain : Duration::zero();
      // The callback that on_state announces is already decided, and comes.
      if (!in_state_) {
        checker_->OnClose(Now(), drain);
      } else if (!close_untold_.has_value()) {
        close_untold_ = drain;
        checker_->OnCloseAsked(ClosedReason::kUser);
      }
      return link_->Close(drain);
    }
    case Act::kDrop: {
      constexpr Error kErrors[] = {Error::Protocol(), Error::Deadline(Operation::kUser),
                                   Error::Deadline(Operation::kHeartbeat)};
      const Error& error = kErrors[deed.amount % std::size(kErrors)];
      if (state == LinkState::kUp) checker_->OnDrop(Now(), error);
      return link_->Drop(error);
    }
    case Act::kRetryNow:
      if (state == LinkState::kBackoff) checker_->OnRetryNow(Now());
      return link_->RetryNow();
    case Act::kMarkHealthy:
      if (state == LinkState::kUp)
        static_cast<void>(checker_->OnMarkHealthy(Now(), session_bytes_));
      return link_->MarkHealthy();
    case Act::kPing:
      static_cast<void>(link_->Ping(PingOf(index_)));
      return;
    case Act::kDestroy:
      if (where != Where::kOutside) stage_.inner.faults.Hit(Fault::kDestroyInCallback);
      return Destroy();
    case Act::kStart:
      return Start();
    case Act::kStopToken:
      stop_asked_ = true;
      checker_->OnCloseAsked(ClosedReason::kStop);
      stop_.request_stop();
      return;
    default:
      return;
  }
}

// The stop token is heard a little later, and nobody tells us when but the state.
void LinkUser::NoteStopToken(swarm::LinkChecker& checker) {
  if (!stop_asked_ || link_ == nullptr || &checker != checker_) return;
  const LinkState state = link_->state();
  if (state == LinkState::kDraining) {
    checker.OnClose(Now(), plan_.options.drain, ClosedReason::kStop);
  }
}

void LinkUser::TellClose() {
  if (!close_untold_.has_value()) return;
  checker_->OnClose(Now(), *close_untold_);
  close_untold_.reset();
}

void LinkUser::Enter(swarm::LinkChecker& checker, Where where) {
  stage_.SawLink(std::exchange(last_where_, where), where);
  stage_.loops[client_.number_]->OnCallback();
  if (where == Where::kClosed) TellClose();
  NoteStopToken(checker);
}

void LinkUser::Leave(Where where) {
  if (where != Where::kState && where != Where::kTimer && where != Where::kPost) TellClose();
  for (std::size_t i = 0; i < stage_.plans.size(); ++i) {
    Plan& plan = stage_.plans[i];
    if (plan.link != index_ || plan.where != where) continue;
    if (plan.skip > 0) {
      --plan.skip;
      continue;
    }
    const Deed deed = plan.deed;
    stage_.plans.erase(stage_.plans.begin() + static_cast<std::ptrdiff_t>(i));
    return client_.Perform(deed, where);
  }
}

// --- Client.

Client::Client(Stage& stage, Reactor& reactor, std::uint32_t number,
               const std::vector<LinkPlan>& plans, std::vector<Incarnation>& incarnations)
    : stage_(stage), reactor_(reactor), number_(number), incarnations_(incarnations) {
  for (std::size_t i = 0; i < slots_.size(); ++i) MakeTimer(i);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (plans[i].client != number) continue;
    users_.push_back(std::make_unique<LinkUser>(*this, plans[i], static_cast<std::uint8_t>(i)));
  }
}

Client::~Client() = default;

void Client::Perform(const Deed& deed, Where where) {
  if (users_.empty()) return;
  for (const auto& user : users_) {
    if (user->index() == deed.link) return user->Perform(deed, where);
  }
  users_[deed.link % users_.size()]->Perform(deed, where);
}

void Client::CarryOut(Where where) {
  // What a user does may not remove users, but may add plans.
  for (std::size_t i = 0; i < users_.size(); ++i) users_[i]->Leave(where);
}

void Client::MakeTimer(std::size_t index) {
  slots_[index].due = kNever;
  slots_[index].timer = std::make_unique<Timer>(reactor_, [this, index] { OnTimer(index); });
}

void Client::Arm(std::size_t index, std::uint8_t amount) {
  // Mostly within a grain of the wheel, where timers are taken for each other.
  constexpr Duration kWaits[] = {Duration(0), Duration(1), 1us, 10us, 100us, 250us, 400us, 499us,
                                 500us,       501us,       1ms, 2ms,  7ms,   30ms,  110ms, 1300ms};
  slots_[index].due = reactor_.Now() + kWaits[amount % std::size(kWaits)];
  slots_[index].timer->Arm(slots_[index].due);
}

void Client::OnTimer(std::size_t index) {
  const Instant now = reactor_.Now();
  const Instant due = std::exchange(slots_[index].due, kNever);
  stage_.loops[number_]->OnCallback();
  if (due == kNever) {
    stage_.Violate(Concat("timer ", index, " fired although it was not armed"));
  } else if (now < due) {
    stage_.Violate(Concat("timer ", index, " fired ", (due - now).count(), " ns early"));
  } else if (const Duration late =
                 stage_.oracles[number_]->Unexplained(due, now, swarm::Needs::kToRun);
             late > Duration::zero()) {
    stage_.Violate(Concat("timer ", index, " fired ", (now - due).count(),
                          " ns late, and nothing explains ", late.count(), " of it"));
  }
  CarryOut(Where::kTimer);
}

void Client::Post() {
  reactor_.Post([this, number = ++posted_] {
    if (number != ++posts_run_) {
      stage_.Violate(Concat("post ", number, " ran as number ", posts_run_));
    }
    CarryOut(Where::kPost);
  });
}

void Client::CheckNoneLost() {
  if (posts_run_ != posted_) {
    stage_.Violate(Concat(posted_ - posts_run_, " posts were lost"));
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].timer->armed() != (slots_[i].due != kNever)) {
      stage_.Violate(Concat("timer ", i, ": armed() is wrong"));
    }
    if (slots_[i].due < reactor_.Now()) stage_.Violate(Concat("timer ", i, " was lost"));
  }
}

}  // namespace holdfast::fuzz
