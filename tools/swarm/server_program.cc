#include "swarm/server_program.h"

#include <chrono>
#include <iterator>
#include <utility>

namespace holdfast::swarm {

using namespace std::chrono_literals;  // NOLINT: the literals only.

ServerProgram::ServerProgram(Play& play, Reactor& reactor, const ServerPlan& plan,
                             LoopChecker& loop)
    : play_(play), reactor_(reactor), plan_(plan), loop_(loop) {
  StreamOptions options;
  options.drain = 500ms;
  options.on_data = [](Stream& stream, std::span<const std::byte> bytes) {
    auto& session = *static_cast<Session*>(stream.user());
    session.program->OnData(session, bytes);
  };
  options.on_closed = [](Stream& stream, const StreamClosed&) {
    auto& session = *static_cast<Session*>(stream.user());
    session.program->loop_.OnCallback();
    session.program->Forget(session.id);
  };
  options_ = std::make_shared<const StreamOptions>(std::move(options));
  listen_timer_ = std::make_unique<Timer>(reactor_, [this] {
    for (std::string& endpoint : std::exchange(unbound_, {})) Listen(std::move(endpoint));
  });
  Listen("[::]:" + std::to_string(kServerPort));  // Of both families (ipv6(7), IPV6_V6ONLY).
}

ServerProgram::~ServerProgram() { sessions_.clear(); }

void ServerProgram::Listen(std::string endpoint) {
  auto listener = Listener::Create(
      reactor_,
      {.endpoint = endpoint, .on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
         OnAccept(std::move(stream));
       }});
  if (listener.ok()) return listeners_.push_back(*std::move(listener));
  // Out of something, by a fault: a server tries again.
  unbound_.push_back(std::move(endpoint));
  listen_timer_->Arm(reactor_.Now() + 500ms);
}

void ServerProgram::OnAccept(std::unique_ptr<Stream> stream) {
  loop_.OnCallback();
  const std::uint64_t id = ++next_id_;
  auto session = std::make_unique<Session>(Session{.program = this, .id = id});
  session->stream = std::move(stream);
  Random& random = play_.random();
  if (play_.disturbed() && play_.Strikes(plan_.misbehaves)) {
    constexpr Manner kManners[] = {Manner::kEnd, Manner::kReset, Manner::kStall, Manner::kHalfClose,
                                   Manner::kGarbage};
    session->manner = kManners[random.Below(std::size(kManners))];
    session->patience = random.Below(2) == 0 ? 0 : random.Below(4000);
  }
  Session& placed = *session;
  sessions_.emplace(id, std::move(session));
  placed.stream->Start(options_, &placed);
  if (placed.manner != Manner::kEcho && placed.patience == 0) Misbehave(placed);
}

void ServerProgram::OnData(Session& session, std::span<const std::byte> bytes) {
  loop_.OnCallback();
  session.received += bytes.size();
  const SendStatus sent = session.stream->Send(bytes);
  if (sent == SendStatus::kFull) session.stream->Close(0ms);  // Nobody reads its echoes.
  if (session.manner != Manner::kEcho && session.received > session.patience && play_.disturbed()) {
    Misbehave(session);
  }
  if (plan_.slow && session.timer == nullptr && session.stream->open()) {
    session.stream->PauseReceive();
    session.timer = std::make_unique<Timer>(reactor_, [&session] {
      session.program->loop_.OnCallback();
      session.stream->ResumeReceive();
      if (session.timer != nullptr) session.timer.reset();
    });
    session.timer->Arm(reactor_.Now() + 30ms);
  }
}

void ServerProgram::Misbehave(Session& session) {
  auto& faults = play_.faults();
  switch (std::exchange(session.manner, Manner::kEcho)) {
    case Manner::kEcho:
      return;
    case Manner::kEnd:
      faults.Hit(Fault::kFin);
      return session.stream->Close(0ms);
    case Manner::kReset:
      return session.stream->Drop(Error::Protocol());
    case Manner::kStall:
      faults.Hit(Fault::kZeroWindow);
      session.stream->PauseReceive();
      session.timer =
          std::make_unique<Timer>(reactor_, [&session] { session.stream->ResumeReceive(); });
      session.timer->Arm(reactor_.Now() +
                         Duration(static_cast<std::int64_t>(play_.random().Below(15'000'000'000))));
      return;
    case Manner::kHalfClose:
      faults.Hit(Fault::kHalfClose);
      return session.stream->CloseWrite();
    case Manner::kGarbage:
      static_cast<void>(session.stream->Send("this is not one of our messages, whatever it is"));
      return;
  }
}

}  // namespace holdfast::swarm
