#include "echo/server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>

#include <holdfast/endpoint.h>
#include <holdfast/version.h>
#include "echo/message.h"
#include "echo/report.h"

namespace holdfast::echo {
namespace {

// How long a connection that the server closes may take to read what is on its way to it.
constexpr Duration kDrain = std::chrono::seconds(1);
// Between two attempts to listen again on a port that is taken.
constexpr Duration kListenAgain = std::chrono::milliseconds(20);
// How long a new server waits for its port. A process that is killed while io_uring works for it leaves
// its sockets to a worker of the kernel, and its port is free only milliseconds after it is gone.
constexpr Duration kListenFirst = std::chrono::seconds(1);
// Beyond it entries are left over from sockets that died before they were handed out.
constexpr std::size_t kAcceptedMax = 4096;

// Removes a socket file that nobody listens on any more: closing a socket leaves its file behind, and
// bind(2) would refuse the path for ever (unix(7)).
void UnlinkLeftOver(const std::string& endpoint_text) {
  const auto endpoint = Endpoint::Parse(endpoint_text);
  if (!endpoint.ok() || !endpoint->literal() || endpoint->literal()->family() != AF_UNIX) return;
  const SocketAddress& address = *endpoint->literal();
  const char* const path = reinterpret_cast<const sockaddr_un*>(address.data())->sun_path;
  struct stat status {};
  if (path[0] == '\0' || lstat(path, &status) != 0 || !S_ISSOCK(status.st_mode)) return;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  if (connect(fd, address.data(), address.size()) != 0 && errno == ECONNREFUSED) unlink(path);
  close(fd);
}

SocketAddress PeerOf(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  if (getpeername(fd, address, &size) != 0) return {};
  return {address, size};
}

// From now on closing the socket resets the connection, socket(7).
void ResetOnClose(int fd) {
  const linger reset{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

}  // namespace

struct Server::Peer {
  std::unique_ptr<Stream> stream;
  std::string address;
  int fd = -1;                 // The stream's, while it is open; -1 when not known.
  bool started = false;        // False while it is stalled from its beginning.
  std::uint64_t received = 0;  // Bytes.
  bool understood = true;      // False from the first byte on that is no message of ours.
  MessageReader reader;
};

absl::StatusOr<std::unique_ptr<Server>> Server::Create(Reactor& reactor, ServerOptions options) {
  std::unique_ptr<Server> server(new Server(reactor, std::move(options)));
  const absl::Status status = server->Listen();
  if (status.ok()) {
    server->Begin();
  } else if (absl::IsFailedPrecondition(status)) {
    server->listen_timer_->Arm(SaturatingAdd(server->start_, kListenAgain));
  } else {
    return status;
  }
  return server;
}

void Server::Begin() {
  begun_ = true;
  if (options_.json) {
    Event("start")
        .Add("backend", reactor_.backend())
        .Add("reason", reactor_.backend_reason())
        .Add("version", HOLDFAST_VERSION);
    Tell();
  }
  const ChaosPhase& first = options_.chaos.front();
  Apply(first.mode);
  // With `refuse` it is said once it is true that nobody listens.
  if (first.mode != ChaosMode::kRefuse) SayListening();
  if (first.lasts) {
    phase_timer_->Arm(SaturatingAdd(std::chrono::steady_clock::now(), *first.lasts));
  }
}

Server::Server(Reactor& reactor, ServerOptions options)
    : reactor_(reactor),
      options_(std::move(options)),
      start_(std::chrono::steady_clock::now()),
      out_(STDOUT_FILENO),
      log_(options_.log_fd) {
  const auto peer_of = [](Stream& stream) -> Peer& { return *static_cast<Peer*>(stream.user()); };
  StreamOptions stream_options;
  stream_options.drain = kDrain;
  stream_options.on_data = [this, peer_of](Stream& stream, std::span<const std::byte> bytes) {
    OnData(peer_of(stream), bytes);
  };
  stream_options.on_eof = [](Stream& stream) { stream.Close(); };
  stream_options.on_writable = [this](Stream& stream) {
    if (mode_ != ChaosMode::kStall) stream.ResumeReceive();
  };
  stream_options.on_closed = [this, peer_of](Stream& stream, const StreamClosed& closed) {
    Forget(peer_of(stream), closed.error, closed.delivered);
  };
  stream_options_ = std::make_shared<const StreamOptions>(std::move(stream_options));
  phase_timer_ = std::make_unique<Timer>(reactor, [this] { NextPhase(); });
  listen_timer_ = std::make_unique<Timer>(reactor, [this] { ListenAgain(); });
}

Server::~Server() = default;

// --- Listening ------------------------------------------------------------------------------------------

absl::Status Server::Listen() {
  ListenerOptions listener_options;
  listener_options.endpoint = options_.endpoint;
  listener_options.socket.on_socket = [this](int fd) { OnSocket(fd); };
  listener_options.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
    OnAccept(std::move(stream));
  };
  listener_options.on_error = [this](Listener&, const Error& error) {
    if (options_.json) {
      Event("listener_error")
          .Add("operation", ToString(error.operation))
          .Add("class", ToString(error.error_class))
          .Add("errno", error.CodeName())
          .Add("action", ToString(error.action));
      Tell();
    } else {
      Say("listener: " + error.ToString());
    }
    if (error.action != Action::kStop) return;
    exit_status_ = 3;
    CloseAll();
  };
  listener_options.on_closed = [this](Listener&) {
    listener_.reset();
    listening_closes_ = false;
    if (!told_listening_) SayListening();
    if (mode_ != ChaosMode::kRefuse && !ending_) ListenAgain();
  };
  UnlinkLeftOver(options_.endpoint);
  auto listener = Listener::Create(reactor_, std::move(listener_options));
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  // From now on the port that it got, not the one that was asked for.
  options_.endpoint = listener_->local().ToString();
  return absl::OkStatus();
}

void Server::ListenAgain() {
  if (listener_ != nullptr || ending_ || mode_ == ChaosMode::kRefuse) return;
  const absl::Status status = Listen();
  if (status.ok()) {
    if (!begun_) Begin();
    return;
  }
  if (!begun_ && reactor_.Now() - start_ >= kListenFirst) {
    std::fprintf(stderr, "holdfast-echod: %s: %s\n", options_.endpoint.c_str(),
                 std::string(status.message()).c_str());
    exit_status_ = 1;
    return CloseAll();
  }
  listen_timer_->Arm(SaturatingAdd(reactor_.Now(), kListenAgain));
}

void Server::OnSocket(int fd) {
  const SocketAddress peer = PeerOf(fd);
  if (peer.family() != AF_INET && peer.family() != AF_INET6) return;
  if (accepted_.size() >= kAcceptedMax) accepted_.clear();
  accepted_[peer.ToString()] = fd;
}

// --- Modes ----------------------------------------------------------------------------------------------

void Server::NextPhase() {
  phase_ = (phase_ + 1) % options_.chaos.size();
  const ChaosPhase& phase = options_.chaos[phase_];
  Apply(phase.mode);
  if (options_.json) {
    Event("mode").Add("mode", ToString(phase.mode));
    Tell();
  } else {
    Say("mode " + std::string(ToString(phase.mode)));
  }
  if (phase.lasts) phase_timer_->Arm(SaturatingAdd(reactor_.Now(), *phase.lasts));
}

void Server::Apply(ChaosMode mode) {
  mode_ = mode;
  if (mode == ChaosMode::kRefuse) {
    listen_timer_->Cancel();
    if (listener_ != nullptr && !listening_closes_) {
      listening_closes_ = true;
      listener_->Close();
    }
  } else {
    ListenAgain();
  }
  std::vector<Peer*> peers;  // A reset takes its peer out of the map.
  for (const auto& [peer, owned] : peers_) peers.push_back(peer);
  for (Peer* const peer : peers) {
    if (mode == ChaosMode::kStall) {
      if (peer->started) peer->stream->PauseReceive();
      continue;
    }
    if (mode == ChaosMode::kReset) {
      Reset(*peer);
      continue;
    }
    if (!peer->started) {
      peer->started = true;
      peer->stream->Start(stream_options_, peer);
    } else if (peer->stream->writable()) {
      peer->stream->ResumeReceive();
    }
    if (mode != ChaosMode::kUp) peer->stream->Close();
  }
}

void Server::OnAccept(std::unique_ptr<Stream> stream) {
  ++connections_;
  auto owned = std::make_unique<Peer>();
  Peer* const peer = owned.get();
  peer->address = stream->peer().ToString();
  if (const auto accepted = accepted_.find(peer->address); accepted != accepted_.end()) {
    peer->fd = accepted->second;
    accepted_.erase(accepted);
  }
  peer->stream = std::move(stream);
  peers_.emplace(peer, std::move(owned));
  if (options_.json) {
    Event("accepted").Add("peer", peer->address);
    Tell();
  }
  if (mode_ == ChaosMode::kStall) return;
  if (mode_ == ChaosMode::kReset) return Reset(*peer);
  peer->started = true;
  peer->stream->Start(stream_options_, peer);
  if (mode_ != ChaosMode::kUp) peer->stream->Close();
}

void Server::Reset(Peer& peer) {
  // The descriptor is the library's, and its number may be another connection's by now.
  if (peer.fd >= 0 && PeerOf(peer.fd) == peer.stream->peer()) ResetOnClose(peer.fd);
  Forget(peer, Error::Cancelled(), false);
}

void Server::Forget(Peer& peer, const Error& error, bool delivered) {
  if (options_.json) {
    Event("closed")
        .Add("peer", peer.address)
        .Add("class", ToString(error.error_class))
        .Add("errno", error.CodeName())
        .Add("received", peer.received)
        .Add("delivered", delivered);
    Tell();
  }
  peers_.erase(&peer);
  StopIfIdle();
}

// --- Echoing --------------------------------------------------------------------------------------------

void Server::OnData(Peer& peer, std::span<const std::byte> bytes) {
  bytes_ += bytes.size();
  peer.received += bytes.size();
  // Before the echo leaves: what a client sees echoed is in the log, whatever happens next.
  if (options_.log_fd >= 0) Log(peer, bytes);
  const SendStatus status = peer.stream->Send(bytes);
  if (status == SendStatus::kFull || status == SendStatus::kTooLarge) {
    // A hole in the echo would look like a loss on the way.
    return peer.stream->Drop(Error::Protocol());
  }
  // A dying stream is not writable either, and is read to its end.
  if (status == SendStatus::kQueued && !peer.stream->writable()) peer.stream->PauseReceive();
}

void Server::Log(Peer& peer, std::span<const std::byte> bytes) {
  log_lines_.clear();
  while (peer.understood) {
    const MessageReader::Found found = peer.reader.Read(bytes);
    if (found == MessageReader::Found::kMore) break;
    if (found == MessageReader::Found::kGarbage) {
      peer.understood = false;
      break;
    }
    const Message& message = peer.reader.message();
    if (message.kind == MessageKind::kPing) continue;
    line_.Clear();
    line_.Add("peer", peer.address).Add("link", message.link).Add("sequence", message.sequence);
    log_lines_ += line_.Finish();
  }
  log_.Write(log_lines_);
}

// --- The end --------------------------------------------------------------------------------------------

void Server::Interrupt() {
  if (!ending_) return CloseAll();
  peers_.clear();
  reactor_.Stop();
}

void Server::CloseAll() {
  ending_ = true;
  phase_timer_->Cancel();
  listen_timer_->Cancel();
  listener_.reset();
  Apply(ChaosMode::kEof);
  StopIfIdle();
}

void Server::StopIfIdle() {
  if (ending_ && peers_.empty()) reactor_.Stop();
}

int Server::Finish() {
  UnlinkLeftOver(options_.endpoint);
  if (begun_ && options_.json) {
    Event("summary").Add("connections", connections_).Add("bytes", bytes_);
    Tell();
  } else if (begun_) {
    Say(std::to_string(connections_) + " connections, " + std::to_string(bytes_) +
        " bytes received");
  }
  if (!log_.broken()) return exit_status_;
  std::fprintf(stderr, "holdfast-echod: the log could not be written\n");
  return 3;
}

// --- What it says ---------------------------------------------------------------------------------------

void Server::SayListening() {
  told_listening_ = true;
  if (options_.json) {
    const auto endpoint = Endpoint::Parse(options_.endpoint);
    Event("listening")
        .Add("address", options_.endpoint)
        .Add("port", endpoint.ok() ? endpoint->port() : std::uint16_t{0});
    Tell();
  } else {
    out_.Write("listening on " + options_.endpoint + "\n");
  }
}

void Server::Say(std::string_view text) {
  char time[32];
  const Duration since = std::chrono::steady_clock::now() - start_;
  std::snprintf(time, sizeof time, "%8.3f s  ", static_cast<double>(since.count()) / 1e9);
  out_.Write(std::string(time).append(text).append("\n"));
}

JsonLine& Server::Event(std::string_view event) {
  const Duration since = std::chrono::steady_clock::now() - start_;
  line_.Clear();
  return line_.Add("event", event)
      .Add("t_us", std::chrono::duration_cast<std::chrono::microseconds>(since).count());
}

void Server::Tell() { out_.Write(line_.Finish()); }

}  // namespace holdfast::echo
