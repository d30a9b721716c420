#include "fuzz/order_server.h"

#include <chrono>
#include <iterator>
#include <utility>

namespace holdfast::fuzz {
namespace {

using namespace std::chrono_literals;  // NOLINT: the literals only.

constexpr std::string_view kActNames[] = {
    "pause",          "resume",           "garbage",   "close write", "close", "close now",
    "drop",           "destroy",          "refuse",    "hold",        "start", "listen",
    "close listener", "destroy listener", "arm timer", "stop loop",
};
static_assert(std::size(kActNames) == kServerActs);
constexpr std::string_view kWhereNames[] = {
    "on_accept", "on_data",         "on_eof", "on_writable", "on_closed",
    "on_error",  "listener closed", "timer",  "outside",
};
static_assert(std::size(kWhereNames) == kServerCallbacks + 1);

}  // namespace

Server::Server(Stage& stage, Reactor& reactor, std::uint8_t number, bool half_open,
               std::vector<Delivery>& deliveries)
    : stage_(stage), reactor_(reactor), number_(number), deliveries_(deliveries) {
  StreamOptions options;
  options.drain = 200ms;
  options.queue_max = 256 << 10;
  options.on_data = [this](Stream& stream, std::span<const std::byte> bytes) {
    OnData(*static_cast<Session*>(stream.user()), bytes);
  };
  options.on_closed = [this](Stream& stream, const StreamClosed& closed) {
    OnClosed(*static_cast<Session*>(stream.user()), closed);
  };
  options.on_writable = [this](Stream& stream) {
    Leave(ServerWhere::kWritable, static_cast<Session*>(stream.user()));
  };
  if (half_open) {
    options.on_eof = [this](Stream& stream) { OnEof(*static_cast<Session*>(stream.user())); };
  }
  options_ = std::make_shared<const StreamOptions>(std::move(options));
  timer_ = std::make_unique<Timer>(reactor_, [this] { Leave(ServerWhere::kTimer, nullptr); });
  listen_timer_ = std::make_unique<Timer>(reactor_, [this] { Listen(); });
  Listen();
}

Server::~Server() { sessions_.clear(); }

void Server::Listen() {
  if (listener_ != nullptr) return;
  ListenerOptions options{.endpoint = Concat("[::]:", kPort)};  // Of both families (ipv6(7)).
  options.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
    OnAccept(std::move(stream));
  };
  options.on_error = [this](Listener&, const Error&) {
    Leave(ServerWhere::kListenerError, nullptr);
  };
  options.on_closed = [this](Listener&) {
    if (!listener_closing_) stage_.Violate("a listener closed although nobody closed it");
    listener_closing_ = false;
    listener_.reset();
    if (!listen_timer_->armed()) listen_timer_->Arm(reactor_.Now() + 20ms);
    Leave(ServerWhere::kListenerClosed, nullptr);
  };
  auto listener = Listener::Create(reactor_, std::move(options));
  listener_closing_ = false;
  if (listener.ok()) {
    listener_ = *std::move(listener);
  } else {
    listen_timer_->Arm(reactor_.Now() + 50ms);  // Out of something, by a fault.
  }
}

void Server::Start(Session& session) {
  session.started = true;
  session.stream->Start(options_, &session);
}

void Server::OnAccept(std::unique_ptr<Stream> stream) {
  const std::uint64_t id = ++sessions_made_;
  auto made = std::make_unique<Session>(Session{.server = this, .id = id});
  made->delivery = {.peer = stream->peer(), .accepted = stage_.world.Now()};
  made->stream = std::move(stream);
  Session& session = *sessions_.emplace(id, std::move(made)).first->second;
  hold_ = refuse_ = false;
  Leave(ServerWhere::kAccept, &session);
  if (const auto found = sessions_.find(id); found != sessions_.end()) {
    if (refuse_) {
      sessions_.erase(found);
    } else if (!hold_ && !session.started) {
      Start(session);
    }
  }
}

void Server::OnData(Session& session, std::span<const std::byte> bytes) {
  if (session.paused) stage_.Violate("on_data of a stream that was paused");
  if (session.eof) stage_.Violate("on_data after on_eof");
  if (bytes.empty()) stage_.Violate("on_data of a stream without data");
  session.delivery.received += bytes.size();
  const SendStatus sent = session.stream->Send(bytes);
  if (sent == SendStatus::kQueued) session.delivery.sent += bytes.size();
  // Nobody reads its echoes, and one that is left out would be noticed.
  if (sent == SendStatus::kFull || sent == SendStatus::kTooLarge) session.stream->Close(0ms);
  Leave(ServerWhere::kData, &session);
}

void Server::OnEof(Session& session) {
  if (std::exchange(session.eof, true)) stage_.Violate("on_eof came twice");
  const std::uint64_t id = session.id;
  Leave(ServerWhere::kEof, &session);
  const auto found = sessions_.find(id);
  if (found != sessions_.end() && found->second->stream->open()) found->second->stream->Close();
}

void Server::OnClosed(Session& session, const StreamClosed& closed) {
  if (closed.bytes_received < session.delivery.received) {
    stage_.Violate(Concat("a stream says ", closed.bytes_received,
                          " bytes were received, and told of ", session.delivery.received));
  }
  session.delivery.delivered = closed.delivered;
  deliveries_.push_back(session.delivery);
  const std::uint64_t id = session.id;
  Leave(ServerWhere::kClosed, &session);
  sessions_.erase(id);
}

void Server::Perform(const ServerDeed& deed, ServerWhere where) {
  stage_.Tell("user", "server ", number_, ": ", kActNames[static_cast<std::size_t>(deed.act)], " ",
              deed.session, " (", kWhereNames[static_cast<std::size_t>(where)], ")");
  switch (deed.act) {
    case ServerAct::kRefuse:
      refuse_ = true;
      return;
    case ServerAct::kHold:
      hold_ = true;
      return;
    case ServerAct::kListen:
      return Listen();
    case ServerAct::kCloseListener:
      if (listener_ == nullptr) return;
      listener_closing_ = true;
      return listener_->Close();
    case ServerAct::kDestroyListener:
      listener_.reset();
      return listen_timer_->Arm(reactor_.Now() + 20ms);
    case ServerAct::kArmTimer: {
      constexpr Duration kWaits[] = {Duration(0), 400us, 3ms, 30ms, 300ms};
      return timer_->Arm(reactor_.Now() + kWaits[deed.amount % std::size(kWaits)]);
    }
    case ServerAct::kStopLoop:
      stopped_ = true;
      return reactor_.Stop();
    default:
      break;
  }
  if (sessions_.empty()) return;
  const auto chosen =
      std::next(sessions_.begin(), static_cast<std::ptrdiff_t>(deed.session % sessions_.size()));
  PerformOnSession(deed, *chosen->second);
}

void Server::PerformOnSession(const ServerDeed& deed, Session& session) {
  switch (deed.act) {
    case ServerAct::kPause:
      session.paused = true;
      return session.stream->PauseReceive();
    case ServerAct::kResume:
      session.paused = false;
      return session.stream->ResumeReceive();
    case ServerAct::kGarbage:
      if (session.stream->Send("this is not one of our messages, whatever it is") ==
          SendStatus::kQueued) {
        session.delivery.sent += 47;
      }
      return;
    case ServerAct::kCloseWrite:
      return session.stream->CloseWrite();
    case ServerAct::kClose:
      return session.stream->Close();
    case ServerAct::kCloseNow:
      return session.stream->Close(0ms);
    case ServerAct::kDrop:
      return session.stream->Drop(Error::Protocol());
    case ServerAct::kDestroy:
      sessions_.erase(session.id);
      return;
    case ServerAct::kStart:
      if (!session.started) Start(session);
      return;
    default:
      return;
  }
}

void Server::Leave(ServerWhere where, Session* session) {
  stage_.loops[stage_.servers_begin + number_]->OnCallback();
  if (session != nullptr) {
    stage_.SawSession(std::exchange(session->last_where, where), where);
  }
  auto& plans = stage_.server_plans;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    ServerPlan& plan = plans[i];
    if (plan.server != number_ || plan.where != where) continue;
    if (plan.skip > 0) {
      --plan.skip;
      continue;
    }
    const ServerDeed deed = plan.deed;
    plans.erase(plans.begin() + static_cast<std::ptrdiff_t>(i));
    // Mostly it is about the session that is called back.
    if (session != nullptr && deed.session < 96 && deed.act <= ServerAct::kDestroy) {
      stage_.Tell("user", "server ", number_, ": ", kActNames[static_cast<std::size_t>(deed.act)],
                  " (", kWhereNames[static_cast<std::size_t>(where)], ")");
      return PerformOnSession(deed, *session);
    }
    return Perform(deed, where);
  }
}

void Server::Settle() {
  Listen();
  for (auto& [id, session] : sessions_) {
    if (!session->started) Start(*session);
    session->paused = false;
    session->stream->ResumeReceive();
  }
}

void Server::Destroy() {
  listen_timer_->Cancel();
  listener_.reset();
  sessions_.clear();
}

}  // namespace holdfast::fuzz
