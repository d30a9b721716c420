#include "swarm/link_user.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <string_view>
#include <utility>

#include "echo/message.h"
#include "swarm/link_options.h"

namespace holdfast::swarm {

using namespace std::chrono_literals;  // NOLINT: the literals only.

LinkUser::LinkUser(Play& play, Reactor& reactor, const LinkPlan& plan, std::size_t index,
                   LoopChecker& loop)
    : play_(play),
      reactor_(reactor),
      plan_(plan),
      index_(index),
      loop_(loop),
      send_timer_(reactor, [this] { SendSome(); }),
      make_timer_(reactor, [this] { Make(); }) {
  Make();
}

LinkUser::~LinkUser() {
  if (checker_ != nullptr) checker_->OnDestroyed(Now());
}

void LinkUser::MakeLater(Duration delay) {
  if (!closing_) make_timer_.Arm(Now() + delay);
}

void LinkUser::Make() {
  link_.reset();
  auto options = std::make_shared<LinkOptions>(CopyWithoutCallbacks(plan_.options));
  options->on_dial = [this](Link&, std::uint32_t attempt, std::string_view endpoint) {
    loop_.OnCallback();
    checker_->OnDial(Now(), attempt, endpoint);
    play_.CheckSingleDial(plan_.client);
    Mischief();
  };
  options->on_up = [this](Link& link) {
    loop_.OnCallback();
    checker_->OnUp(Now(), link.local());
    session_bytes_ = 0;
    pings_before_ = link.stats().pings;
    if (!send_timer_.armed()) send_timer_.Arm(Now() + plan_.send_interval);
    SendSome();
    Mischief();
    if (link_ == nullptr) return;
    session_bytes_ += checker_->OnUpReturned(Now(), session_bytes_);
  };
  options->on_data = [this](Link& link, std::span<const std::byte> bytes) {
    loop_.OnCallback();
    checker_->OnData(Now(), bytes);
    if (checker_->garbage()) {
      const Error error = Error::Protocol();
      checker_->OnDrop(Now(), error);
      link.Drop(error);
      return;
    }
    if (plan_.marks_healthy) {
      const std::uint64_t pings = (link.stats().pings - pings_before_) * link.options().ping.size();
      session_bytes_ += checker_->OnMarkHealthy(Now(), session_bytes_ + pings);
      link.MarkHealthy();
    }
    Mischief();
  };
  if (plan_.decides) {
    options->decide = [this](const Down& down) {
      Verdict verdict = down.error.IsTemporary() ? Verdict::kByClass : Verdict::kBackOff;
      if (play_.disturbed() && play_.Strikes(plan_.mischief)) {
        verdict = static_cast<Verdict>(play_.random().Below(4));
      }
      checker_->SetVerdict(verdict);
      return verdict;
    };
  }
  options->on_down = [this](Link&, const Down& down) {
    loop_.OnCallback();
    checker_->OnDown(Now(), down);
    last_ = down.ToString();
    Mischief();
  };
  options->on_closed = [this](Link&, const Closed& closed) {
    loop_.OnCallback();
    checker_->OnClosed(Now(), closed);
    MakeLater(500ms);
  };
  const std::shared_ptr<const LinkOptions> shared = std::move(options);
  checker_ = &play_.NewChecker(shared, index_, plan_.client);
  auto link = Link::Create(reactor_, shared);
  if (!link.ok()) return play_.Violate("Link::Create: " + link.status().ToString());
  link_ = *std::move(link);
  checker_->OnStart(Now());
  link_->Start();
}

void LinkUser::SendSome() {
  loop_.OnCallback();
  if (link_ == nullptr || closing_) return;
  for (std::size_t i = 0; i < plan_.burst && link_->writable(); ++i) {
    // Its sequence is the one that Send will give it.
    const std::uint64_t sequence = link_->stats().messages + 1;
    const std::string payload(plan_.message_size - std::min(plan_.message_size, echo::kHeaderBytes),
                              'x');
    echo::Encode({.kind = echo::MessageKind::kLoad,
                  .link = static_cast<std::uint32_t>(index_),
                  .sequence = sequence,
                  .payload = payload},
                 message_);
    const std::uint64_t pings =
        (link_->stats().pings - pings_before_) * link_->options().ping.size();
    const SendResult result = link_->Send(message_);
    if (result.status != SendStatus::kQueued) break;
    checker_->OnSent(Now(), result.sequence, session_bytes_ + pings, message_.size());
    session_bytes_ += message_.size();
  }
  if (plan_.send_interval > Duration::zero()) send_timer_.Arm(Now() + plan_.send_interval);
}

// In any callback the user may do anything.
void LinkUser::Mischief() {
  if (!play_.disturbed() || closing_ || plan_.mischief == 0) return;
  if (!play_.Strikes(plan_.mischief)) return;
  switch (play_.random().Below(4)) {
    case 0:
      checker_->OnClose(Now(), plan_.options.drain);
      link_->Close();
      return;
    case 1: {
      const Error error = Error::Protocol();
      checker_->OnDrop(Now(), error);
      return link_->Drop(error);
    }
    case 2:
      checker_->OnRetryNow(Now());
      return link_->RetryNow();
    default:
      play_.faults().Hit(Fault::kDestroyInCallback);
      checker_->OnDestroyed(Now());
      MakeLater(200ms);
      link_.reset();
      return;
  }
}

void LinkUser::Destroy() {
  checker_->OnDestroyed(Now());
  link_.reset();
}

void LinkUser::Close() {
  closing_ = true;
  make_timer_.Cancel();
  if (link_ == nullptr) return;
  checker_->OnClose(Now(), plan_.options.drain);
  link_->Close();
}

std::string LinkUser::Describe() const {
  std::string text = "link " + std::to_string(index_);
  if (link_ == nullptr) return text + " is not made";
  text +=
      " to " + link_->options().endpoints.front() + " is " + std::string(ToString(link_->state()));
  return last_.empty() ? text : text + ", last: " + last_;
}

}  // namespace holdfast::swarm
