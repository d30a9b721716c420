#include "herd/herd.h"

#include <algorithm>
#include <deque>
#include <span>
#include <string>
#include <utility>

#include <holdfast/link.h>
#include <holdfast/listener.h>
#include <holdfast/stream.h>
#include <holdfast/timer.h>

#include "base/check.h"

namespace holdfast::herd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::string_view kGreeting = "+";
constexpr std::string_view kPing = ".";
constexpr std::string_view kPong = ",";

// Beyond what its connections take: the listener, the reactor's own.
constexpr std::size_t kSpareDescriptors = 64;

// One way.
constexpr milliseconds kLatencyMin{5};
constexpr std::uint64_t kLatencySpread = 45;  // In milliseconds; what is drawn stays below it.

}  // namespace

HerdOptions WithDefaults(HerdOptions options) {
  if (options.accept_rate == 0) options.accept_rate = std::max(options.links / 10, 1u);
  if (options.descriptors == 0) {
    options.descriptors = std::size_t{2} * options.links + kSpareDescriptors;
  }
  return options;
}

// --- The server.

class Herd::Server {
 public:
  Server(Reactor& reactor, const HerdOptions& options, const bool* resting, std::uint64_t* taken_in)
      : reactor_(reactor),
        cost_(Duration(seconds(1)) / options.accept_rate),
        queue_(options.queue),
        resting_(resting),
        taken_in_(taken_in),
        turn_(reactor, [this] { TakeIn(); }) {
    session_->on_data = [](Stream& stream, std::span<const std::byte>) { stream.Send(kPong); };
    session_->on_closed = [this](Stream& stream, const StreamClosed&) { Forget(stream); };
    ListenerOptions listener;
    listener.endpoint = "0.0.0.0:7000";
    listener.backlog = options.backlog;
    listener.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
      if (queue_ != 0 && waiting_.size() >= queue_) return;  // It is closed with its handle.
      if (waiting_.empty()) turn_.Arm(done_at_ = reactor_.Now() + cost_);
      waiting_.push_back(std::move(stream));
    };
    auto made = Listener::Create(reactor, std::move(listener));
    HOLDFAST_CHECK(made.ok());
    listener_ = *std::move(made);
  }

 private:
  void TakeIn() {
    const Instant now = reactor_.Now();
    if (*resting_) return;
    while (!waiting_.empty() && done_at_ <= now) {
      Greet(std::move(waiting_.front()));
      waiting_.pop_front();
      done_at_ += cost_;
    }
    if (!waiting_.empty()) turn_.Arm(done_at_);
  }

  void Greet(std::unique_ptr<Stream> stream) {
    std::size_t place = streams_.size();
    if (free_.empty()) {
      streams_.emplace_back();
    } else {
      place = free_.back();
      free_.pop_back();
    }
    stream->Start(session_, reinterpret_cast<void*>(place));
    stream->Send(kGreeting);
    streams_[place] = std::move(stream);
    ++*taken_in_;
  }

  void Forget(Stream& stream) {
    const auto place = reinterpret_cast<std::uintptr_t>(stream.user());
    free_.push_back(place);
    streams_[place].reset();
  }

  Reactor& reactor_;
  const Duration cost_;
  const std::size_t queue_;
  const bool* const resting_;
  std::uint64_t* const taken_in_;
  const std::shared_ptr<StreamOptions> session_ = std::make_shared<StreamOptions>();
  std::deque<std::unique_ptr<Stream>> waiting_;  // Not started: nobody looks at them.
  Instant done_at_{};                            // When the first of them is taken in.
  // By place, which the stream knows: they end in the same order whatever their addresses are.
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<std::size_t> free_;
  std::unique_ptr<Listener> listener_;
  Timer turn_;
};

// --- The clients of one host.

struct Herd::Clients {
  Clients(Reactor& of, Duration interval, Duration delay)
      : reactor(of), every(interval), timer(of, [this] { Start(); }) {
    timer.Arm(next = reactor.Now() + delay);
  }
  // One after the other.
  void Start() {
    for (; started < links.size() && next <= reactor.Now(); next += every)
      links[started++]->Start();
    if (started < links.size()) timer.Arm(next);
  }

  Reactor& reactor;
  const Duration every;
  Instant next{};
  std::size_t started = 0;
  std::vector<std::unique_ptr<Link>> links;
  Timer timer;
};

// --- The herd.

Herd::Herd(const HerdOptions& options)
    : options_(WithDefaults(options)),
      members_(options.links),
      world_(SimOptions{.seed = options.seed, .backend = options.backend}) {
  server_ = &world_.AddHost("server");
  server_->SetDescriptorLimit(options_.descriptors);
  server_->Run([this](Reactor& reactor) {
    return std::make_unique<Server>(reactor, options_, &resting_, &taken_in_);
  });
  // A quarter slower than the server could take them in, and through one period of heartbeats at least.
  gathering_ = std::max(Duration(seconds(1)) / options_.accept_rate * 5 / 4 * options_.links,
                        Duration(seconds(10)));
  std::uint32_t number = 0;
  for (std::uint32_t first = 0; first < options_.links; first += options_.links_per_host) {
    AddClients(first, std::min(options_.links_per_host, options_.links - first), number++);
  }
}

Herd::~Herd() = default;

void Herd::AddClients(std::uint32_t first, std::uint32_t count, std::uint32_t number) {
  SimHost& host = world_.AddHost("clients-" + std::to_string(number));
  host.SetDescriptorLimit(std::size_t{2} * count + kSpareDescriptors);
  const Duration latency = kLatencyMin + milliseconds(world_.Draw(kLatencySpread));
  world_.SetPath(host, *server_, SimPath{.latency = latency});
  // Their turns to dial first are dealt round: a host is not up before the next one begins.
  const Duration every = gathering_ / count;
  const Duration delay = every * number * options_.links_per_host / options_.links;
  host.Run([this, first, count, every, delay](Reactor& reactor) {
    auto options = std::make_shared<LinkOptions>();
    options->endpoints = {server_->address() + ":7000"};
    options->backoff = options_.backoff;
    options->login_timeout = options_.patience;
    options->ping = kPing;
    options->on_dial = [this](Link& link, std::uint32_t, std::string_view) {
      OnDial(*static_cast<Member*>(link.user()));
    };
    options->on_data = [this](Link& link, std::span<const std::byte>) {
      if (OnGreeting(*static_cast<Member*>(link.user()))) link.MarkHealthy();
    };
    options->on_down = [this](Link& link, const Down& down) {
      OnDown(*static_cast<Member*>(link.user()), down.error);
    };
    auto clients = std::make_unique<Clients>(reactor, every, delay);
    clients->links.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      auto made = Link::Create(reactor, options, &members_[first + i]);
      HOLDFAST_CHECK(made.ok());
      clients->links.push_back(*std::move(made));
    }
    return clients;
  });
}

void Herd::OnDial(Member& member) {
  member.stage = Stage::kDialing;
  if (!tally_.has_value()) return;
  member.dialed = since_loss();
  tally_->OnDial(member.dialed);
}

bool Herd::OnGreeting(Member& member) {
  if (member.stage != Stage::kDialing) return false;
  member.stage = Stage::kUp;
  if (tally_.has_value()) {
    tally_->OnUp(since_loss(), member.dialed);
  } else {
    ++gathered_;
  }
  return true;
}

void Herd::OnDown(Member& member, const Error& error) {
  if (error.error_class == ErrorClass::kResource) ++starved_;
  const Stage before = std::exchange(member.stage, Stage::kNone);
  if (before == Stage::kNone) return;
  if (!tally_.has_value()) {
    if (before == Stage::kUp) --gathered_;
  } else if (before == Stage::kUp) {
    tally_->OnDown(since_loss());
  } else {
    tally_->OnFailed(member.dialed);
  }
}

bool Herd::Gather() {
  const auto all = [this] { return gathered_ == options_.links; };
  if (!world_.RunUntil(all, gathering_ + seconds(60))) return false;
  world_.RunFor(seconds(10));
  return all();
}

void Herd::Lose() {
  lost_at_ = world_.Now();
  tally_.emplace(options_.links, options_.outage);
  for (Member& member : members_) member.stage = Stage::kNone;
  if (options_.loss == Loss::kCrash) {
    server_->Crash();
  } else {
    server_->Kill();
  }
  for (Duration left = options_.outage; left > Duration::zero(); left -= kGrain) {
    world_.RunFor(std::min(left, kGrain));
    look_();
  }
}

bool Herd::Return(Duration limit) {
  taken_in_ = 0;
  server_->Restart();
  bool all_up = false;
  for (Duration left = limit; !all_up && left > Duration::zero(); left -= kGrain) {
    all_up = world_.RunUntil([this] { return tally_->all_up(); }, std::min(left, kGrain));
    look_();
  }
  return all_up;
}

std::uint64_t Herd::CountInVain() {
  resting_ = true;
  world_.RunFor(kLatencyMin + milliseconds(kLatencySpread));
  return taken_in_ - tally_->ups();
}

}  // namespace holdfast::herd
