// The destructor law, generated: in every callback, every public method of everything, and then this
// handle destroyed or not (docs/lifetimes.md 1 to 6). Two tables below span the space; a test is one
// cell of callback x method x end, on each backend.
//
// Every cell checks the same: nothing is called after a destructor returned; on_closed comes exactly
// once and last where the handle still lives; no descriptor is left; no error of class kInvalid.
// Whether memory that is gone was touched is for AddressSanitizer to say.
#include <sys/eventfd.h>

#include <array>
#include <cstring>
#include <stop_token>
#include <thread>

#include <holdfast/holdfast.h>

#include "core/error_codes.h"
#include "net/stream_fixture.h"
#include "sys/fault_kernel.h"

namespace holdfast::test {
namespace {

enum class Who {
  kLink,
  kStream,
  kListener,
  kTimer,
  kWatcher,
  kOtherLink,
  kOtherStream,
  kOtherListener,
  kNobody,  // Of a post, and of what an action made.
};
constexpr std::size_t kWhoCount = static_cast<std::size_t>(Who::kNobody) + 1;

enum class Callback {
  kLinkDial,
  kLinkState,
  kLinkUp,
  kLinkData,
  kLinkWritable,
  kLinkHeartbeat,
  kLinkDecide,
  kLinkDown,
  kLinkClosed,
  kStreamData,
  kStreamEof,
  kStreamWritable,
  kStreamClosed,
  kListenerAccept,
  kListenerError,
  kListenerClosed,
  kTimer,
  kWatch,
  kPost,
};

// One of everything, and one more of what has callbacks of its own; raw sockets at the other ends.
class World {
 public:
  using Action = void (*)(World&);

  World(Reactor& reactor, internal::FaultKernel& faults, Callback subject, Action action,
        bool destroy_after)
      : reactor_(reactor),
        faults_(faults),
        subject_(subject),
        action_(action),
        destroy_after_(destroy_after) {}

  // --- What an action may touch. Null where it is destroyed.
  std::unique_ptr<Link> link;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Timer> timer;
  std::unique_ptr<Watcher> watcher;
  std::unique_ptr<Link> other_link;
  std::unique_ptr<Stream> other_stream;
  std::unique_ptr<Listener> other_listener;
  std::vector<std::unique_ptr<Stream>> accepted;
  std::stop_source stop;
  std::shared_ptr<const StreamOptions> stream_options;

  [[nodiscard]] Reactor& reactor() { return reactor_; }
  [[nodiscard]] const std::string& server() const { return server_.endpoint(); }

  void Destroy(Who who) {
    switch (who) {
      case Who::kLink:
        link.reset();
        break;
      case Who::kStream:
        stream.reset();
        break;
      case Who::kListener:
        listener.reset();
        break;
      case Who::kTimer:
        timer.reset();
        break;
      case Who::kWatcher:
        watcher.reset();
        break;
      case Who::kOtherLink:
        other_link.reset();
        break;
      case Who::kOtherStream:
        other_stream.reset();
        break;
      case Who::kOtherListener:
        other_listener.reset();
        break;
      case Who::kNobody:
        return;
    }
    record(who).gone = true;
  }
  void DestroyEverything() {
    for (std::size_t i = 0; i + 1 < kWhoCount; ++i) Destroy(static_cast<Who>(i));
    accepted.clear();
    made_links_.clear();
    made_listeners_.clear();
    made_timers_.clear();
  }

  // --- What an action may make.
  void MakeLink() {
    made_links_.push_back(*Link::Create(reactor_, LinkOptionsOf(Who::kNobody)));
    made_links_.back()->Start();
  }
  void MakeListener() {
    made_listeners_.push_back(*Listener::Create(
        reactor_,
        {.endpoint = "127.0.0.1:0", .on_accept = [](Listener&, std::unique_ptr<Stream>) {}}));
  }
  void MakeTimer() {
    made_timers_.push_back(std::make_unique<Timer>(reactor_, [] {}));
    made_timers_.back()->Arm(reactor_.Now());
  }
  void MakeWatcher() {
    watcher.reset();
    record(Who::kWatcher).gone = true;
    absl::StatusOr<std::unique_ptr<Watcher>> made = reactor_.Watch(
        events_.get(), kWatchReadable, [this](unsigned) { Told(Who::kWatcher, Callback::kWatch); });
    ASSERT_TRUE(made.ok()) << made.status();
    watcher = *std::move(made);
    record(Who::kWatcher).gone = false;
  }

  // --- The course of a test.

  void Build() {
    stream_options = std::make_shared<const StreamOptions>(StreamOptionsOf(Who::kStream));
    {
      std::vector<std::unique_ptr<Stream>> streams;
      std::unique_ptr<Listener> maker = *Listener::Create(
          reactor_,
          {.endpoint = "127.0.0.1:0", .on_accept = [&](Listener&, std::unique_ptr<Stream> made) {
             streams.push_back(std::move(made));
           }});
      stream_peer_ = ConnectTo(maker->local());
      other_peer_ = ConnectTo(maker->local());
      ASSERT_TRUE(Turn([&] { return streams.size() == 2; }));
      stream = std::move(streams[0]);
      other_stream = std::move(streams[1]);
    }
    stream->Start(stream_options);
    other_stream->Start(std::make_shared<const StreamOptions>(StreamOptionsOf(Who::kOtherStream)));
    timer = std::make_unique<Timer>(reactor_, [this] { Told(Who::kTimer, Callback::kTimer); });
    events_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    MakeWatcher();
    other_link = *Link::Create(reactor_, LinkOptionsOf(Who::kOtherLink));
    other_link->Start();
    link = *Link::Create(reactor_, LinkOptionsOf(Who::kLink));
    if (subject_ >= Callback::kStreamData) {
      link->Start();
      ASSERT_TRUE(Turn([&] { return link->state() == LinkState::kUp; }));
    }
    // Last: an injected error of accept may come with the first turn.
    other_listener = MakeListenerOf(Who::kOtherListener);
    listener = MakeListenerOf(Who::kListener);
  }
  void Provoke() {
    ASSERT_TRUE(Turn([&] {
      if (!fired_) Cause();
      return fired_;
    })) << "the callback under test never came";
  }
  // Whatever could still call somebody gets every reason to.
  void StirUp() {
    for (const Fd& peer : link_peers_) static_cast<void>(WriteAvailable(peer, "stir"));
    static_cast<void>(WriteAvailable(stream_peer_, "stir"));
    static_cast<void>(WriteAvailable(other_peer_, "stir"));
    if (listener != nullptr && !listener->local().empty() && record(Who::kListener).closes == 0) {
      late_peer_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      ::connect(late_peer_.get(), listener->local().data(), listener->local().size());
    }
    if (timer != nullptr) timer->Arm(reactor_.Now());
    if (stream != nullptr) static_cast<void>(stream->Send(std::string(8192, 's')));
    if (link != nullptr) static_cast<void>(link->Send(std::string(8192, 'l')));
    RunTurns(8);
    for (Fd& peer : link_peers_) ResetPeer(peer);
    link_peers_.clear();
    ResetPeer(stream_peer_);
    ResetPeer(other_peer_);
    RunTurns(8);
  }
  // Everything that still lives is closed, and says so once.
  void WindDown() {
    if (link != nullptr) link->Close(0ms);
    if (other_link != nullptr) other_link->Close(0ms);
    if (stream != nullptr) stream->Drop(Error::Cancelled());
    if (other_stream != nullptr) other_stream->Drop(Error::Cancelled());
    if (listener != nullptr) listener->Close();
    if (other_listener != nullptr) other_listener->Close();
    constexpr Who kClosing[] = {Who::kLink,      Who::kStream,      Who::kListener,
                                Who::kOtherLink, Who::kOtherStream, Who::kOtherListener};
    EXPECT_TRUE(Turn([&] {
      return std::all_of(std::begin(kClosing), std::end(kClosing),
                         [&](Who who) { return record(who).gone || record(who).closes > 0; });
    })) << "on_closed is owed";
    RunTurns(4);
    for (const Who who : kClosing) {
      EXPECT_LE(record(who).closes, 1) << static_cast<int>(who);
    }
    DestroyEverything();
    RunTurns(4);
  }

 private:
  struct Record {
    bool gone = false;
    int closes = 0;
  };
  Record& record(Who who) { return records_[static_cast<std::size_t>(who)]; }

  // Every callback of everything passes here.
  void Told(Who who, Callback callback) {
    Record& mine = record(who);
    EXPECT_FALSE(mine.gone) << "callback " << static_cast<int>(callback) << " of "
                            << static_cast<int>(who) << " after its destructor returned";
    if (who != Who::kNobody) {
      EXPECT_EQ(mine.closes, 0) << "callback " << static_cast<int>(callback) << " of "
                                << static_cast<int>(who) << " after on_closed";
      const bool last = callback == Callback::kLinkClosed || callback == Callback::kStreamClosed ||
                        callback == Callback::kListenerClosed;
      if (last) ++mine.closes;
    }
    EXPECT_FALSE(inside_) << "callback " << static_cast<int>(callback) << " inside a call";
    const bool it_is = callback == subject_ && who == SubjectOwner() && !fired_;
    if (!it_is) return;
    fired_ = true;
    inside_ = true;
    action_(*this);
    if (destroy_after_) Destroy(SubjectOwner());
    inside_ = false;
  }
  [[nodiscard]] Who SubjectOwner() const {
    if (subject_ <= Callback::kLinkClosed) return Who::kLink;
    if (subject_ <= Callback::kStreamClosed) return Who::kStream;
    if (subject_ <= Callback::kListenerClosed) return Who::kListener;
    if (subject_ == Callback::kTimer) return Who::kTimer;
    return subject_ == Callback::kWatch ? Who::kWatcher : Who::kNobody;
  }

  LinkOptions LinkOptionsOf(Who who) {
    LinkOptions options;
    options.endpoints = {server_.endpoint()};
    options.backoff = {.initial = 1ms, .multiplier = 1.5, .max = 2ms};
    options.queue_high = 4096;
    options.queue_low = 1024;
    options.queue_max = 1 << 20;
    if (who == Who::kLink) {
      options.stop = stop.get_token();
      if (subject_ == Callback::kLinkHeartbeat) options.silence_max = 100ms;
    }
    options.on_dial = [=, this](Link&, std::uint32_t, std::string_view) {
      Told(who, Callback::kLinkDial);
    };
    options.on_state = [=, this](Link&, LinkState) { Told(who, Callback::kLinkState); };
    options.on_up = [=, this](Link&) { Told(who, Callback::kLinkUp); };
    options.on_data = [=, this](Link&, std::span<const std::byte>) {
      Told(who, Callback::kLinkData);
    };
    options.on_writable = [=, this](Link&) { Told(who, Callback::kLinkWritable); };
    options.on_heartbeat = [=, this](Link&) { Told(who, Callback::kLinkHeartbeat); };
    options.decide = [=, this](const Down&) {
      Told(who, Callback::kLinkDecide);
      return Verdict::kByClass;
    };
    options.on_down = [=, this](Link&, const Down& down) {
      const std::string endpoint(down.endpoint);
      Told(who, Callback::kLinkDown);
      EXPECT_EQ(down.endpoint, endpoint);  // The views live as long as the callback.
    };
    options.on_closed = [=, this](Link&, const Closed&) { Told(who, Callback::kLinkClosed); };
    return options;
  }
  StreamOptions StreamOptionsOf(Who who) {
    StreamOptions options;
    options.queue_high = 4096;
    options.queue_low = 1024;
    options.queue_max = 1 << 20;
    options.on_data = [=, this](Stream&, std::span<const std::byte> bytes) {
      const std::string before(AsText(bytes));
      Told(who, Callback::kStreamData);
      EXPECT_EQ(AsText(bytes), before);  // The view lives as long as the callback.
    };
    options.on_eof = [=, this](Stream&) { Told(who, Callback::kStreamEof); };
    options.on_writable = [=, this](Stream&) { Told(who, Callback::kStreamWritable); };
    options.on_closed = [=, this](Stream&, const StreamClosed&) {
      Told(who, Callback::kStreamClosed);
    };
    return options;
  }
  std::unique_ptr<Listener> MakeListenerOf(Who who) {
    ListenerOptions options;
    options.endpoint = "127.0.0.1:0";
    options.socket.on_socket = [=, this](int fd) {
      if (who == Who::kListener && subject_ == Callback::kListenerError) RefuseAccepts(fd);
    };
    options.on_accept = [=, this](Listener&, std::unique_ptr<Stream> made) {
      accepted.push_back(std::move(made));
      Told(who, Callback::kListenerAccept);
    };
    options.on_error = [=, this](Listener&, const Error&) { Told(who, Callback::kListenerError); };
    options.on_closed = [=, this](Listener&) { Told(who, Callback::kListenerClosed); };
    return *Listener::Create(reactor_, std::move(options));
  }
  void RefuseAccepts(int fd) {
    if (std::strcmp(reactor_.backend(), "epoll") == 0) {
      faults_.Inject({.call = internal::KernelCall::kAccept4, .result = -EMFILE, .fd = fd});
    } else {
      faults_.InjectRingOp({.op = internal::RingOp::kAccept, .result = -EMFILE, .fd = fd});
    }
  }

  // One more reason for the callback under test.
  void Cause() {
    if (subject_ <= Callback::kLinkClosed) link->Start();
    const bool up = link->state() == LinkState::kUp;
    switch (subject_) {
      case Callback::kLinkDial:
      case Callback::kLinkState:
      case Callback::kLinkUp:
      case Callback::kLinkHeartbeat:
        return;
      case Callback::kLinkData:
        for (const Fd& peer : link_peers_) static_cast<void>(WriteAvailable(peer, "data"));
        return;
      case Callback::kLinkWritable:
        if (up && link->writable()) static_cast<void>(link->Send(std::string(8192, 'w')));
        return;
      case Callback::kLinkDecide:
      case Callback::kLinkDown:
        if (up) link_peers_.clear();
        return;
      case Callback::kLinkClosed:
        if (up) link->Close(0ms);
        return;
      case Callback::kStreamData:
        static_cast<void>(WriteAvailable(stream_peer_, "data"));
        return;
      case Callback::kStreamEof:
        ::shutdown(stream_peer_.get(), SHUT_WR);
        return;
      case Callback::kStreamWritable:
        if (stream->writable()) static_cast<void>(stream->Send(std::string(8192, 'w')));
        return;
      case Callback::kStreamClosed:
        return stream->Close(0ms);
      case Callback::kListenerAccept:
      case Callback::kListenerError:
        if (!late_peer_.valid()) late_peer_ = ConnectTo(listener->local());
        return;
      case Callback::kListenerClosed:
        return listener->Close();
      case Callback::kTimer:
        if (!timer->armed()) timer->Arm(reactor_.Now());
        return;
      case Callback::kWatch: {
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(events_.get(), &one, sizeof(one)), 8);
        return;
      }
      case Callback::kPost:
        return reactor_.Post([this] { Told(Who::kNobody, Callback::kPost); });
    }
  }

  void RunTurns(int count) {
    for (int i = 0; i < count; ++i) {
      AcceptPeers();
      EXPECT_TRUE(reactor_.RunFor(0ms).ok());
    }
  }
  // Turns until `done`; those of the first moments do not sleep.
  [[nodiscard]] bool Turn(const std::function<bool()>& done) {
    for (int i = 0; i < 5000; ++i) {
      if (done()) return true;
      AcceptPeers();
      EXPECT_TRUE(reactor_.RunFor(i < 100 ? 0ms : 1ms).ok());
    }
    return false;
  }
  void AcceptPeers() {
    for (;;) {
      Fd peer = server_.Accept();
      if (!peer.valid()) return;
      link_peers_.push_back(std::move(peer));
    }
  }

  Reactor& reactor_;
  internal::FaultKernel& faults_;
  const Callback subject_;
  const Action action_;
  const bool destroy_after_;
  bool fired_ = false;
  bool inside_ = false;
  std::array<Record, kWhoCount> records_;
  RawServer server_;
  std::vector<Fd> link_peers_;  // Of every link.
  Fd stream_peer_;
  Fd other_peer_;
  Fd late_peer_;
  Fd events_;
  std::vector<std::unique_ptr<Link>> made_links_;
  std::vector<std::unique_ptr<Listener>> made_listeners_;
  std::vector<std::unique_ptr<Timer>> made_timers_;
};

// --- The tables.

struct CallbackRow {
  Callback callback;
  const char* name;
};
constexpr CallbackRow kCallbacks[] = {
    {Callback::kLinkDial, "LinkDial"},
    {Callback::kLinkState, "LinkState"},
    {Callback::kLinkUp, "LinkUp"},
    {Callback::kLinkData, "LinkData"},
    {Callback::kLinkWritable, "LinkWritable"},
    {Callback::kLinkHeartbeat, "LinkHeartbeat"},
    {Callback::kLinkDecide, "LinkDecide"},
    {Callback::kLinkDown, "LinkDown"},
    {Callback::kLinkClosed, "LinkClosed"},
    {Callback::kStreamData, "StreamData"},
    {Callback::kStreamEof, "StreamEof"},
    {Callback::kStreamWritable, "StreamWritable"},
    {Callback::kStreamClosed, "StreamClosed"},
    {Callback::kListenerAccept, "ListenerAccept"},
    {Callback::kListenerError, "ListenerError"},
    {Callback::kListenerClosed, "ListenerClosed"},
    {Callback::kTimer, "Timer"},
    {Callback::kWatch, "Watch"},
    {Callback::kPost, "Post"},
};

struct ActionRow {
  const char* name;
  World::Action act;
};
// Every public method, on the link, the stream and the listener of the world, in whatever state the
// callback finds them; and what may be destroyed and made there.
constexpr ActionRow kActions[] = {
    {"Nothing", [](World&) {}},
    {"LinkStart", [](World& w) { w.link->Start(); }},
    {"LinkSend", [](World& w) { static_cast<void>(w.link->Send(std::string(8192, 'a'))); }},
    {"LinkPing", [](World& w) { static_cast<void>(w.link->Ping("ping")); }},
    {"LinkMarkHealthy", [](World& w) { w.link->MarkHealthy(); }},
    {"LinkRetryNow", [](World& w) { w.link->RetryNow(); }},
    {"LinkDrop", [](World& w) { w.link->Drop(Error::Protocol()); }},
    {"LinkClose", [](World& w) { w.link->Close(); }},
    {"LinkCloseZero", [](World& w) { w.link->Close(0ms); }},
    {"LinkSendAndClose",
     [](World& w) {
       static_cast<void>(w.link->Send("last"));
       w.link->Close(1s);
     }},
    {"LinkStop", [](World& w) { w.stop.request_stop(); }},
    {"LinkAccessors",
     [](World& w) {
       Link& link = *w.link;
       EXPECT_EQ(link.state() == LinkState::kUp,
                 !link.local().empty() && link.state() == LinkState::kUp);
       static_cast<void>(link.writable());
       static_cast<void>(link.queued_bytes());
       static_cast<void>(link.peer());
       EXPECT_GE(link.stats().dials, link.stats().ups);
       static_cast<void>(link.history());
       static_cast<void>(link.last_tcp());
       EXPECT_EQ(link.user(), nullptr);
       EXPECT_GT(link.id(), 0u);
       EXPECT_EQ(link.options().endpoints.size(), 1u);
     }},
    {"StreamStart", [](World& w) { w.stream->Start(w.stream_options); }},
    {"StreamSend", [](World& w) { static_cast<void>(w.stream->Send(std::string(8192, 'a'))); }},
    {"StreamPause", [](World& w) { w.stream->PauseReceive(); }},
    {"StreamResume", [](World& w) { w.stream->ResumeReceive(); }},
    {"StreamPauseAndResume",
     [](World& w) {
       w.stream->PauseReceive();
       w.stream->ResumeReceive();
     }},
    {"StreamCloseWrite", [](World& w) { w.stream->CloseWrite(); }},
    {"StreamClose", [](World& w) { w.stream->Close(); }},
    {"StreamCloseZero", [](World& w) { w.stream->Close(0ms); }},
    {"StreamDrop", [](World& w) { w.stream->Drop(Error::Protocol()); }},
    {"StreamAccessors",
     [](World& w) {
       Stream& stream = *w.stream;
       static_cast<void>(stream.open());
       static_cast<void>(stream.writable());
       static_cast<void>(stream.queued_bytes());
       static_cast<void>(stream.local());
       EXPECT_FALSE(stream.peer().empty());
       EXPECT_EQ(stream.user(), nullptr);
     }},
    {"ListenerClose", [](World& w) { w.listener->Close(); }},
    {"ListenerAccessors",
     [](World& w) {
       EXPECT_FALSE(w.listener->local().empty());
       static_cast<void>(w.listener->stats());
       EXPECT_EQ(w.listener->user(), nullptr);
     }},
    {"TimerArm", [](World& w) { w.timer->Arm(w.reactor().Now()); }},
    {"TimerArmFar", [](World& w) { w.timer->Arm(w.reactor().Now() + 1h); }},
    {"TimerCancel",
     [](World& w) {
       w.timer->Cancel();
       EXPECT_FALSE(w.timer->armed());
     }},
    {"ReactorPostAndStop",
     [](World& w) {
       w.reactor().Post([] {});
       w.reactor().Stop();
     }},
    {"ReactorRun",
     [](World& w) {
       EXPECT_EQ(w.reactor().Run().code(), absl::StatusCode::kFailedPrecondition);
       EXPECT_EQ(w.reactor().RunFor(1ms).code(), absl::StatusCode::kFailedPrecondition);
       EXPECT_EQ(w.reactor().Poll().code(), absl::StatusCode::kFailedPrecondition);
     }},
    {"ReactorAccessors",
     [](World& w) {
       static_cast<void>(w.reactor().stats());
       static_cast<void>(w.reactor().history());
       static_cast<void>(w.reactor().backend_reason());
       EXPECT_GE(w.reactor().fd(), 0);
     }},
    {"DestroyLink", [](World& w) { w.Destroy(Who::kLink); }},
    {"DestroyStream", [](World& w) { w.Destroy(Who::kStream); }},
    {"DestroyListener", [](World& w) { w.Destroy(Who::kListener); }},
    {"DestroyTimer", [](World& w) { w.Destroy(Who::kTimer); }},
    {"DestroyWatcher", [](World& w) { w.Destroy(Who::kWatcher); }},
    {"DestroyOtherLink", [](World& w) { w.Destroy(Who::kOtherLink); }},
    {"DestroyOtherStream", [](World& w) { w.Destroy(Who::kOtherStream); }},
    {"DestroyOtherListener", [](World& w) { w.Destroy(Who::kOtherListener); }},
    {"DestroyAccepted", [](World& w) { w.accepted.clear(); }},
    {"DestroyEverything", [](World& w) { w.DestroyEverything(); }},
    {"StartAccepted",
     [](World& w) {
       for (const auto& stream : w.accepted) stream->Start(nullptr);
     }},
    {"MakeLink", [](World& w) { w.MakeLink(); }},
    {"MakeListener", [](World& w) { w.MakeListener(); }},
    {"MakeTimer", [](World& w) { w.MakeTimer(); }},
    {"MakeWatcher", [](World& w) { w.MakeWatcher(); }},
};

using Cell = std::tuple<BackendKind, int, int, bool>;

std::string CellName(const testing::TestParamInfo<Cell>& info) {
  const auto& [backend, callback, action, destroy] = info.param;
  return std::string(backend == BackendKind::kUring ? "uring" : "epoll") + "_In" +
         kCallbacks[callback].name + "_" + kActions[action].name + (destroy ? "_ThenDestroy" : "");
}

// A reactor, and what must be true when a test is over.
template <class Parameter>
class DestroyFixture : public testing::TestWithParam<Parameter> {
 protected:
  // A kernel of one's own outlives every look-up of a name, also a forgotten one; RealKernel does.
  void Open(BackendKind backend, internal::Kernel& kernel = internal::RealKernel()) {
    descriptors_ = OpenDescriptors();
    ReactorOptions options;
    options.backend = backend;
    options.seed = 1;
    options.kernel = &kernel;
    absl::StatusOr<std::unique_ptr<Reactor>> made = Reactor::Create(options);
    if (made.status().code() == absl::StatusCode::kUnimplemented) {
      GTEST_SKIP() << "this machine has no such backend: " << made.status();
    }
    ASSERT_TRUE(made.ok()) << made.status();
    reactor_ = *std::move(made);
  }
  void TearDown() override {
    if (reactor_ == nullptr) return;
    EXPECT_EQ(reactor_->stats().bugs, 0u);
    EXPECT_EQ(reactor_->stats().links, 0u);
    EXPECT_EQ(reactor_->stats().streams, 0u);
    EXPECT_EQ(reactor_->stats().listeners, 0u);
    EXPECT_EQ(reactor_->stats().open_sockets, 0u);
    EXPECT_EQ(reactor_->stats().send_blocks, 0u);
    reactor_.reset();
    ExpectNoDescriptorLeft();
  }
  // A forgotten look-up may have a file open (/etc/hosts) until its thread is done with it.
  void ExpectNoDescriptorLeft() {
    const Instant end = std::chrono::steady_clock::now() + 5s;
    while (OpenDescriptors() != descriptors_ && std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
    }
    EXPECT_EQ(OpenDescriptors(), descriptors_);
  }

  std::unique_ptr<Reactor> reactor_;
  std::size_t descriptors_ = 0;
};

class DestroyTest : public DestroyFixture<Cell> {
 protected:
  internal::FaultKernel faults_{internal::RealKernel()};
};
INSTANTIATE_TEST_SUITE_P(
    All, DestroyTest,
    testing::Combine(testing::Values(BackendKind::kUring, BackendKind::kEpoll),
                     testing::Range(0, static_cast<int>(std::size(kCallbacks))),
                     testing::Range(0, static_cast<int>(std::size(kActions))), testing::Bool()),
    CellName);

TEST_P(DestroyTest, NothingIsCalledAfterwardsAndTheEndIsToldOnce) {
  const auto& [backend, callback, action, destroy] = GetParam();
  Open(backend, faults_);
  if (IsSkipped()) return;
  const bool injects = kCallbacks[callback].callback == Callback::kListenerError;
  if (injects && backend == BackendKind::kUring && !faults_.ring_faults_supported()) {
    GTEST_SKIP() << "this kernel cannot inject results into io_uring (before Linux 6.10)";
  }
  World world(*reactor_, faults_, kCallbacks[callback].callback, kActions[action].act, destroy);
  ASSERT_NO_FATAL_FAILURE(world.Build());
  ASSERT_NO_FATAL_FAILURE(world.Provoke());
  world.StirUp();
  world.WindDown();
}

// --- From outside, in every state.

using StateCell = std::tuple<BackendKind, LinkState>;
std::string StateName(const testing::TestParamInfo<StateCell>& info) {
  const auto& [backend, state] = info.param;
  return std::string(backend == BackendKind::kUring ? "uring_" : "epoll_") +
         std::string(ToString(state));
}
class DestroyLinkInStateTest : public DestroyFixture<StateCell> {
 protected:
  [[nodiscard]] bool RunUntilState(LinkState state) {
    for (int i = 0; i < 5000; ++i) {
      if (link_->state() == state) return true;
      EXPECT_TRUE(reactor_->RunFor(i < 100 ? 0ms : 1ms).ok());
    }
    return false;
  }
  // A listener that never answers: its queue is full (listen(2), backlog 0 holds one).
  void FillBacklog(const RawServer& server, std::vector<Fd>& peers) {
    for (int i = 0; i < 4; ++i) {
      Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      address.sin_port = htons(server.port());
      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
      peers.push_back(std::move(fd));
    }
  }
  void Make(const std::string& endpoint) {
    LinkOptions options;
    options.endpoints = {endpoint};
    options.backoff = {.initial = 1h, .max = 1h, .jitter = Jitter::kNone};
    const auto told = [this] { EXPECT_FALSE(gone_) << "a callback after the destructor"; };
    options.on_dial = [=](Link&, std::uint32_t, std::string_view) { told(); };
    options.on_state = [=](Link&, LinkState) { told(); };
    options.on_up = [=](Link&) { told(); };
    options.on_data = [=](Link&, std::span<const std::byte>) { told(); };
    options.on_writable = [=](Link&) { told(); };
    options.on_down = [=](Link&, const Down&) { told(); };
    options.on_closed = [=](Link&, const Closed&) { told(); };
    options.decide = [=](const Down&) {
      told();
      return Verdict::kByClass;
    };
    link_ = *Link::Create(*reactor_, std::move(options));
  }

  std::unique_ptr<Link> link_;
  bool gone_ = false;
};
INSTANTIATE_TEST_SUITE_P(All, DestroyLinkInStateTest,
                         testing::Combine(testing::Values(BackendKind::kUring, BackendKind::kEpoll),
                                          testing::Values(LinkState::kIdle, LinkState::kResolving,
                                                          LinkState::kConnecting, LinkState::kUp,
                                                          LinkState::kFailing, LinkState::kBackoff,
                                                          LinkState::kDraining,
                                                          LinkState::kClosed)),
                         StateName);

TEST_P(DestroyLinkInStateTest, NothingIsCalledAfterwards) {
  const auto& [backend, state] = GetParam();
  Open(backend);
  if (IsSkipped()) return;
  {
    RawServer server;
    RawServer deaf(Family::kInet, 0, /*backlog=*/0);
    const ClosedPort closed;
    std::vector<Fd> peers;
    const std::string big(4 << 20, 'x');
    switch (state) {
      case LinkState::kIdle:
        Make(server.endpoint());
        break;
      case LinkState::kResolving:
        Make("localhost:" + std::to_string(server.port()));
        link_->Start();
        // The answer of another thread is delivered by a turn; none comes in between.
        EXPECT_TRUE(reactor_->RunFor(0ms).ok());
        if (link_->state() != LinkState::kResolving) GTEST_SKIP() << "the resolver was faster";
        break;
      case LinkState::kConnecting:
        FillBacklog(deaf, peers);
        Make(deaf.endpoint());
        link_->Start();
        ASSERT_TRUE(RunUntilState(state));
        EXPECT_TRUE(reactor_->RunFor(5ms).ok());
        break;
      case LinkState::kUp:
      case LinkState::kFailing:
      case LinkState::kDraining:
      case LinkState::kClosed:
        Make(server.endpoint());
        link_->Start();
        ASSERT_TRUE(RunUntilState(LinkState::kUp));
        static_cast<void>(link_->Send(big));
        for (int i = 0; i < 3; ++i) EXPECT_TRUE(reactor_->RunFor(0ms).ok());
        if (state == LinkState::kFailing) link_->Drop(Error::Protocol());
        if (state == LinkState::kDraining) link_->Close(1h);
        if (state == LinkState::kClosed) link_->Close(0ms);
        ASSERT_TRUE(RunUntilState(state));
        break;
      case LinkState::kBackoff:
        Make(closed.endpoint());
        link_->Start();
        ASSERT_TRUE(RunUntilState(state));
        break;
    }
    ASSERT_EQ(link_->state(), state);
    link_.reset();
    gone_ = true;
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(reactor_->RunFor(0ms).ok());
    EXPECT_TRUE(reactor_->RunFor(10ms).ok());
  }
}

// The same without a turn in between: the reactor itself waits for the last completion.
TEST_P(DestroyLinkInStateTest, TheReactorMayGoRightBehindIt) {
  const auto& [backend, state] = GetParam();
  if (state != LinkState::kUp && state != LinkState::kConnecting) return;
  Open(backend);
  if (IsSkipped()) return;
  RawServer server;
  RawServer deaf(Family::kInet, 0, /*backlog=*/0);
  std::vector<Fd> peers;
  const bool connecting = state == LinkState::kConnecting;
  if (connecting) FillBacklog(deaf, peers);
  Make(connecting ? deaf.endpoint() : server.endpoint());
  link_->Start();
  ASSERT_TRUE(RunUntilState(state));
  link_.reset();
  gone_ = true;
  reactor_.reset();
  server.Close();
  deaf.Close();
  peers.clear();
  EXPECT_EQ(OpenDescriptors(), descriptors_);
}

enum class Phase { kUnstarted, kOpen, kPaused, kHalfClosed, kDraining, kDropped, kClosed };
using PhaseCell = std::tuple<BackendKind, Phase>;
std::string PhaseName(const testing::TestParamInfo<PhaseCell>& info) {
  constexpr const char* kNames[] = {"unstarted", "open",    "paused", "half_closed",
                                    "draining",  "dropped", "closed"};
  const auto& [backend, phase] = info.param;
  return std::string(backend == BackendKind::kUring ? "uring_" : "epoll_") +
         kNames[static_cast<std::size_t>(phase)];
}
class DestroyStreamInPhaseTest : public DestroyFixture<PhaseCell> {};
INSTANTIATE_TEST_SUITE_P(All, DestroyStreamInPhaseTest,
                         testing::Combine(testing::Values(BackendKind::kUring, BackendKind::kEpoll),
                                          testing::Values(Phase::kUnstarted, Phase::kOpen,
                                                          Phase::kPaused, Phase::kHalfClosed,
                                                          Phase::kDraining, Phase::kDropped,
                                                          Phase::kClosed)),
                         PhaseName);

TEST_P(DestroyStreamInPhaseTest, NothingIsCalledAfterwards) {
  const auto& [backend, phase] = GetParam();
  Open(backend);
  if (IsSkipped()) return;
  const auto turns = [&](int count) {
    for (int i = 0; i < count; ++i) EXPECT_TRUE(reactor_->RunFor(0ms).ok());
  };
  bool gone = false;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Listener> listener = *Listener::Create(
      *reactor_,
      {.endpoint = "127.0.0.1:0",
       .on_accept = [&](Listener&, std::unique_ptr<Stream> s) { stream = std::move(s); }});
  Fd peer = ConnectTo(listener->local());
  for (int i = 0; i < 1000 && stream == nullptr; ++i) EXPECT_TRUE(reactor_->RunFor(1ms).ok());
  ASSERT_NE(stream, nullptr);
  listener.reset();
  StreamOptions options;
  const auto told = [&gone] { EXPECT_FALSE(gone) << "a callback after the destructor"; };
  options.on_data = [=](Stream&, std::span<const std::byte>) { told(); };
  options.on_eof = [=](Stream&) { told(); };
  options.on_writable = [=](Stream&) { told(); };
  options.on_closed = [=](Stream&, const StreamClosed&) { told(); };
  if (phase != Phase::kUnstarted) {
    stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    EXPECT_EQ(stream->Send(std::string(4 << 20, 'x')), SendStatus::kQueued);
    turns(3);
  }
  if (phase == Phase::kPaused) stream->PauseReceive();
  if (phase == Phase::kHalfClosed) stream->CloseWrite();
  if (phase == Phase::kDraining) stream->Close(1h);
  if (phase == Phase::kDropped || phase == Phase::kClosed) stream->Drop(Error::Protocol());
  if (phase == Phase::kClosed || phase == Phase::kPaused) turns(3);
  static_cast<void>(WriteAvailable(peer, "more"));
  stream.reset();
  gone = true;
  turns(20);
  EXPECT_EQ(reactor_->stats().open_sockets, 0u);
  // Closed at the other end as well, one way or the other.
  static_cast<void>(ReadAvailable(peer));
  EXPECT_NE(Look(peer), Sight::kNothing);
}

}  // namespace
}  // namespace holdfast::test
