// Two small lives over a kernel that fails on demand, each of which comes through whatever happens to it:
// a link that is up four times, and a listener that is opened four times and echoes to one client each.
//
// A life first passes without a fault, which counts the calls that it makes; then with one, at a number
// that is known. It notes every error that the library tells, and is over only when all its bytes made
// the way and back: that is the recovery. Time is the HastyKernel's, so no wait costs any.
#ifndef HOLDFAST_TESTS_SWEEP_SCENARIO_H_
#define HOLDFAST_TESTS_SWEEP_SCENARIO_H_

#include <linux/net_tstamp.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>

#include "net/stream_fixture.h"
#include "sweep/hasty_kernel.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {

inline constexpr int kSessions = 4;

// kFull: more than the pipe holds is sent, every send leaves a message in the socket's error queue, and
// each session is woken by a thread from outside. So a life makes nearly every call that there is.
enum class Manner { kPlain, kFull };

// What a session sends: one write of one block, and one of several.
inline const std::string& PayloadOf(Manner manner) {
  static const std::string plain = "hello" + std::string(10'000, 'x') + "!";
  static const std::string more_than_fits = "hello" + std::string(200'000, 'x') + "!";
  return manner == Manner::kPlain ? plain : more_than_fits;
}

// A reactor over a kernel that fails on demand and does not wait. Many lives pass on one, one at a time.
class Loop {
 public:
  explicit Loop(BackendKind backend,
                const std::function<void(internal::FaultKernel&)>& prepare = {}) {
    if (prepare) prepare(kernel_);
    ReactorOptions options;
    options.backend = backend;
    options.seed = 1;
    options.kernel = &kernel_;
    options.submission_entries = 32;
    options.completion_entries = 64;
    options.receive_buffers = 8;
    options.receive_buffer_bytes = 16 << 10;
    auto reactor = Reactor::Create(options);
    status_ = reactor.status();
    if (reactor.ok()) reactor_ = *std::move(reactor);
  }
  [[nodiscard]] HastyKernel& hasty() { return hasty_; }
  [[nodiscard]] internal::FaultKernel& kernel() { return kernel_; }
  [[nodiscard]] const absl::Status& status() const { return status_; }
  [[nodiscard]] Reactor& reactor() { return *reactor_; }
  [[nodiscard]] bool idle() const {
    const ReactorStats stats = reactor_->stats();
    return stats.links + stats.streams + stats.listeners + stats.open_sockets + stats.send_blocks ==
           0;
  }

 private:
  HastyKernel hasty_;
  internal::FaultKernel kernel_{hasty_};
  absl::Status status_;
  std::unique_ptr<Reactor> reactor_;
};

// What both lives share: the loop, the notes.
class Life {
 public:
  Life(Loop& loop, Family family, Manner manner)
      : family_(family),
        manner_(manner),
        hasty_(loop.hasty()),
        kernel_(loop.kernel()),
        reactor_(&loop.reactor()) {}
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;
  virtual ~Life() = default;

  // Lives on until it is over, or `limit` passes on its clock; false then. A turn that comes back for
  // nothing takes no time on that clock, so turns are bounded too.
  [[nodiscard]] bool RunFor(Duration limit, std::uint64_t turns_limit = kTurnsMax) {
    const Instant end = kernel_.ClockNow() + limit;
    const std::uint64_t turns_max = turns() + turns_limit;
    while (!over()) {
      if (kernel_.ClockNow() >= end || turns() > turns_max) return false;
      Step();
      EXPECT_TRUE(reactor_->RunFor(5ms).ok());
    }
    return true;
  }
  // Lives on until Run refuses to; OK when it never does.
  [[nodiscard]] absl::Status RunUntilRefused() {
    while (!over()) {
      Step();
      if (absl::Status status = reactor_->RunFor(5ms); !status.ok()) {
        loop_ended_ = true;
        return status;
      }
    }
    return absl::OkStatus();
  }
  // As RunFor, in slices of the reactor's own, so that few turns are ours.
  void RunSlices(int count, Duration length) {
    for (int i = 0; i < count && !over(); ++i) {
      Step();
      EXPECT_TRUE(reactor_->RunFor(length).ok());
    }
  }
  // Ends what is left of it, and gives its reactor the last turns.
  void Destroy() {
    hasty_.peer = [] {};
    End();
    for (int turn = 0; turn < 20 && !loop_ended_; ++turn) EXPECT_TRUE(reactor_->Poll().ok());
  }

  [[nodiscard]] internal::FaultKernel& kernel() { return kernel_; }
  [[nodiscard]] Reactor& reactor() { return *reactor_; }
  [[nodiscard]] std::uint64_t turns() const { return reactor_->stats().turns; }
  [[nodiscard]] bool over() const { return done_ == kSessions && ended_ && *knocks_ == 0; }
  // What the library told that the life did not do itself.
  [[nodiscard]] const std::vector<Error>& told() const { return told_; }
  [[nodiscard]] const std::vector<absl::Status>& refused() const { return refused_; }
  // How the end that the peer made was told.
  [[nodiscard]] const std::optional<Error>& peer_end() const { return peer_end_; }
  [[nodiscard]] int callbacks() const { return callbacks_; }
  [[nodiscard]] int permanent_ends() const { return permanent_ends_; }

 protected:
  static constexpr std::uint64_t kTurnsMax = 100'000;

  virtual void ActAsPeer() = 0;
  virtual void Step() = 0;
  virtual void End() = 0;
  void MeetPeer() {
    hasty_.peer_is_lazy = manner_ == Manner::kFull;
    hasty_.peer = [this] {
      if (std::exchange(woken_, true)) return ActAsPeer();
      ++*knocks_;
      std::thread([this] { reactor_->Post([knocks = knocks_] { --*knocks; }); }).join();
    };
  }
  [[nodiscard]] const std::string& payload() const { return PayloadOf(manner_); }
  // Of both lives' sockets, an accepted one has them of its listener.
  void Prepare(SocketOptions& options) const {
    if (manner_ == Manner::kPlain) return;
    options.on_socket = [](int fd) {
      const int flags =
          SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_TSONLY;
      EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)), 0);
      const int least = 1;  // The kernel knows how little it can do with.
      EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
    };
  }
  // A delayed acknowledgement takes its 40 ms of the kernel's own time, which the HastyKernel has not.
  static void Acknowledge(const Fd& peer) {
    const int at_once = 1;
    ::setsockopt(peer.get(), IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof(at_once));
  }
  // The next time that the loop waits, another thread has something for it to do.
  void BeWoken() { woken_ = manner_ == Manner::kPlain; }
  void Note(const Error& error) {
    ++callbacks_;
    if (error.operation == Operation::kUser) return;                 // Its own doing.
    if (error.error_class == ErrorClass::kEof && error.code == 0) {  // The peer's.
      peer_end_ = error;
      return;
    }
    told_.push_back(error);
  }

  const Family family_;
  const Manner manner_;
  HastyKernel& hasty_;
  internal::FaultKernel& kernel_;
  Reactor* const reactor_;
  int done_ = 0;
  bool ended_ = false;
  bool loop_ended_ = false;
  std::vector<Error> told_;
  std::optional<Error> peer_end_;
  std::vector<absl::Status> refused_;
  int callbacks_ = 0;
  int permanent_ends_ = 0;
  bool woken_ = true;
  std::shared_ptr<int> knocks_ = std::make_shared<int>(0);  // That nobody has answered yet.
};

// The client: a link to a raw server that echoes. Sessions 1 and 2 it drops itself, the peer ends the
// third, the fourth is closed in good order.
class LinkLife final : public Life {
 public:
  // Of kName the address has to be looked up.
  enum class Naming { kAddress, kName };
  explicit LinkLife(Loop& loop, Family family = Family::kInet, Naming naming = Naming::kAddress,
                    Manner manner = Manner::kPlain)
      : Life(loop, family, manner), server_(family), endpoint_(server_.endpoint()) {
    if (naming == Naming::kName) endpoint_ = "localhost:" + std::to_string(server_.port());
    MeetPeer();
    MakeLink();
  }
  ~LinkLife() override { Destroy(); }

 private:
  void End() override {
    link_.reset();
    peers_.clear();
  }
  struct Peer {
    Fd fd;
    bool ended = false;
    std::size_t echoed = 0;
    std::string unsent = {};
  };

  void MakeLink() {
    LinkOptions options;
    options.endpoints = {endpoint_};
    options.backoff = {.initial = 1ms, .multiplier = 2.0, .max = 100ms};
    options.silence_max = 0s;
    options.protocol_errors_max = 1000;
    Prepare(options.socket);
    options.on_up = [this](Link& link) {
      ++callbacks_;
      BeWoken();
      got_.clear();
      EXPECT_EQ(link.Send("hello").status, SendStatus::kQueued);
      rest_sent_ = false;
    };
    options.on_data = [this](Link& link, std::span<const std::byte> bytes) {
      ++callbacks_;
      got_ += AsText(bytes);
      if (!rest_sent_) {
        rest_sent_ = true;
        link.Send(std::string_view(payload()).substr(5));
      }
      if (got_ == payload()) FinishSession(link);
    };
    options.on_down = [this](Link&, const Down& down) { Note(down.error); };
    options.on_closed = [this](Link&, const Closed& closed) {
      closed_ = true;
      if (closed.reason == ClosedReason::kUser) {
        Note(closed.error);
        ended_ = true;
      } else {
        EXPECT_EQ(closed.reason, ClosedReason::kPermanent);
        ++permanent_ends_;
      }
    };
    closed_ = false;
    link_ = *Link::Create(*reactor_, std::move(options));
    link_->Start();
  }
  void FinishSession(Link& link) {
    ++done_;
    link.MarkHealthy();
    if (done_ == 3) {
      peer_is_to_end_ = true;
    } else if (done_ >= kSessions) {
      link.Close(5s);
    } else {
      link.Drop(Error::Protocol());
    }
  }
  void Step() override {
    if (closed_ && !ended_) {
      link_.reset();
      // Everything was echoed, and then the end went wrong: it is over all the same.
      if (done_ >= kSessions) {
        ended_ = true;
      } else {
        MakeLink();  // A new one works.
      }
    }
  }
  void ActAsPeer() override {
    if (Fd fd = server_.Accept(); fd.valid()) peers_.push_back({std::move(fd)});
    for (Peer& peer : peers_) {
      char buffer[16'384];
      ssize_t size = 0;
      while ((size = ::recv(peer.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
        peer.unsent.append(buffer, static_cast<std::size_t>(size));
      }
      peer.ended = size == 0 || (size < 0 && errno != EAGAIN);
      Acknowledge(peer.fd);
      const ssize_t sent = ::send(peer.fd.get(), peer.unsent.data(), peer.unsent.size(),
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) peer.unsent.erase(0, static_cast<std::size_t>(sent));
      if (peer_is_to_end_ && &peer == &peers_.back()) peer.ended = true;
    }
    if (!peers_.empty()) peer_is_to_end_ = false;
    std::erase_if(peers_, [](const Peer& peer) { return peer.ended; });
  }

  RawServer server_;
  std::string endpoint_;
  std::vector<Peer> peers_;
  std::unique_ptr<Link> link_;
  std::string got_;
  bool rest_sent_ = false;
  bool closed_ = false;
  bool peer_is_to_end_ = false;
};

// The server: four times a listener is opened, one raw client comes and is echoed to, and it is closed.
class ListenerLife final : public Life {
 public:
  explicit ListenerLife(Loop& loop, Family family = Family::kInet, Manner manner = Manner::kPlain)
      : Life(loop, family, manner) {
    auto options = std::make_shared<StreamOptions>();
    options->on_data = [this](Stream& stream, std::span<const std::byte> bytes) {
      ++callbacks_;
      stream.Send(bytes);
    };
    options->on_closed = [this](Stream& stream, const StreamClosed& closed) {
      Note(closed.error);
      gone_.push_back(&stream);
    };
    stream_options_ = std::move(options);
    MeetPeer();
  }
  ~ListenerLife() override { Destroy(); }

 private:
  void End() override {
    streams_.clear();
    listener_.reset();
    client_.Reset();
  }
  void Open() {
    ListenerOptions options;
    options.endpoint = family_ == Family::kUnix ? "unix:@holdfast-sweep-" + std::to_string(getpid())
                                                : "127.0.0.1:0";
    Prepare(options.socket);
    options.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
      ++callbacks_;
      BeWoken();
      stream->Start(stream_options_);
      streams_.push_back(std::move(stream));
    };
    options.on_error = [this](Listener&, const Error& error) {
      Note(error);
      stopped_ = stopped_ || error.action == Action::kStop;
    };
    auto listener = Listener::Create(*reactor_, std::move(options));
    if (!listener.ok()) {
      ++callbacks_;
      refused_.push_back(listener.status());
      return;
    }
    listener_ = *std::move(listener);
  }
  void Step() override {
    for (Stream* gone : std::exchange(gone_, {})) {
      std::erase_if(streams_, [&](const auto& stream) { return stream.get() == gone; });
    }
    if (std::exchange(stopped_, false)) {
      ++permanent_ends_;
      listener_.reset();
      client_.Reset();
    }
    if (done_ == kSessions) {
      ended_ = streams_.empty();
    } else if (listener_ == nullptr) {
      Open();
    } else if (listener_->local().size() == 0) {
      listener_.reset();  // Nobody could say where it is; so it cannot be found.
    } else if (!client_.valid() && kernel_.ClockNow() >= next_client_) {
      next_client_ = kernel_.ClockNow() + 20ms;  // A client of sense does not knock without end.
      client_ = ConnectTo(listener_->local());
      got_.clear();
      asked_ = 0;
      finished_ = false;
    } else if (finished_ && Look(client_) != Sight::kNothing) {
      client_.Reset();
      listener_.reset();
      ++done_;
    }
  }
  void ActAsPeer() override {
    if (!client_.valid() || finished_) return;
    if (asked_ < payload().size() && (asked_ == 0 || got_.size() >= 5)) {
      const std::size_t part = asked_ == 0 ? 5 : payload().size() - asked_;
      const ssize_t sent =
          ::send(client_.get(), payload().data() + asked_, part, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) asked_ += static_cast<std::size_t>(sent);
    }
    got_ += ReadAvailable(client_);
    Acknowledge(client_);
    if (got_ == payload()) {
      finished_ = true;
      ::shutdown(client_.get(), SHUT_WR);
    } else if (const Sight sight = Look(client_); sight == Sight::kEnd || sight == Sight::kReset) {
      client_.Reset();  // Lost; the next step comes again.
    }
  }

  std::shared_ptr<const StreamOptions> stream_options_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<Stream*> gone_;
  Fd client_;
  std::string got_;
  Instant next_client_{};
  std::size_t asked_ = 0;
  bool finished_ = false;
  bool stopped_ = false;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_SWEEP_SCENARIO_H_
