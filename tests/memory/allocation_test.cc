// Every allocation of the library fails once, and then all from it on for a while: a Create says
// kResourceExhausted, what runs says kFull or kResource and goes on, and nothing is lost that was promised.
//
// A scenario is played again and again: in the first run its allocation number 0 fails, in the second
// number 1, until one ends in which none did. What Post, Timer and the texts allocate is asked for with
// plain new on the user's behalf, and is not part of a scenario.
#include <netinet/in.h>

#include <array>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>

#include "memory/failing_heap.h"
#include "net/net_fixture.h"
#include "support/forwarding_kernel.h"

namespace holdfast::test {
namespace {

using internal::FailingHeap;
using Exempt = FailingHeap::Exempt;

// Linux, where every name has two addresses: nobody listens at the first one.
class TwoAddresses final : public internal::ForwardingKernel {
 public:
  TwoAddresses() noexcept : ForwardingKernel(internal::RealKernel()) {
    for (std::size_t i = 0; i < list_.size(); ++i) {
      addresses_[i].sin_family = AF_INET;
      addresses_[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 - static_cast<in_addr_t>(i));
      list_[i].ai_family = AF_INET;
      list_[i].ai_addr = reinterpret_cast<sockaddr*>(&addresses_[i]);
      list_[i].ai_addrlen = sizeof(addresses_[i]);
    }
    list_[0].ai_next = &list_[1];
  }
  int GetAddrInfo(const char*, const char*, const addrinfo*, addrinfo** result,
                  int* error_number) noexcept override {
    *error_number = 0;
    *result = list_.data();
    return 0;
  }
  void FreeAddrInfo(addrinfo*) noexcept override {}

 private:
  std::array<sockaddr_in, 2> addresses_{};
  std::array<addrinfo, 2> list_{};
};

// One run of a scenario: a reactor on a heap that fails, over a kernel that no reactor has tried before.
class Scene {
 public:
  // What `create` makes; where it has no memory it says so, and is asked again once there is some.
  template <class Create>
  auto Insist(Create create) {
    auto made = create();
    if (!made.ok()) {
      EXPECT_TRUE(FailingHeap::struck());
      FailingHeap::End();
      EXPECT_EQ(made.status().code(), absl::StatusCode::kResourceExhausted) << made.status();
      made = create();
      EXPECT_TRUE(made.ok()) << made.status();
    }
    return *std::move(made);
  }

  Scene(BackendKind backend, std::uint64_t index, FailingHeap::Fails fails)
      : descriptors_(OpenDescriptors()), heap_(index, fails) {
    reactor_ = Insist(
        [&] { return Reactor::Create({.backend = backend, .seed = 1, .kernel = kernel_.get()}); });
  }
  ~Scene() {
    EXPECT_EQ(reactor_->stats().bugs, 0u);
    reactor_.reset();
    FailingHeap::End();
    EXPECT_EQ(OpenDescriptors(), descriptors_);
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  [[nodiscard]] Reactor& reactor() { return *reactor_; }

  std::unique_ptr<Link> MakeStarted(const std::shared_ptr<const LinkOptions>& options) {
    std::unique_ptr<Link> link = Insist([&] { return Link::Create(reactor(), options); });
    link->Start();
    return link;
  }
  // Turns until `done`. A heap without memory has some again after ten turns.
  template <class Done>
  [[nodiscard]] bool Until(Done done) {
    const Instant end = std::chrono::steady_clock::now() + 10s;
    for (int turn = 0; std::chrono::steady_clock::now() < end; ++turn) {
      if (done()) return true;
      if (turn == 10) FailingHeap::End();
      if (!reactor_->RunFor(1ms).ok()) return false;
    }
    return false;
  }

 private:
  const std::size_t descriptors_;
  const std::unique_ptr<TwoAddresses> kernel_ = std::make_unique<TwoAddresses>();
  FailingHeap heap_;
  std::unique_ptr<Reactor> reactor_;
};

// A raw peer that sends back what it reads, without memory.
class EchoPeer {
 public:
  explicit EchoPeer(RawServer& server) : server_(server) {}
  // Takes the newest connection, and echoes what is there.
  void Turn() {
    if (Fd next = server_.Accept(); next.valid()) {
      peer_ = std::move(next);
      ++accepted_;
    }
    for (;;) {
      const ssize_t size = ::recv(peer_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (size <= 0) return;
      EXPECT_EQ(::send(peer_.get(), buffer_.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL),
                size);
    }
  }
  void Reset() { ResetPeer(peer_); }
  [[nodiscard]] int accepted() const { return accepted_; }

 private:
  RawServer& server_;
  Fd peer_;
  int accepted_ = 0;
  std::array<char, 16384> buffer_{};
};

class AllocationTest : public testing::TestWithParam<BackendKind> {
 protected:
  void SetUp() override {
    const auto reactor = Reactor::Create({.backend = GetParam()});
    if (reactor.status().code() == absl::StatusCode::kUnimplemented) {
      GTEST_SKIP() << "this machine has no such backend: " << reactor.status();
    }
  }
  // Plays `scenario` until no allocation is left that could fail.
  template <class Scenario>
  void Sweep(Scenario scenario) {
    for (const auto fails : {FailingHeap::Fails::kOne, FailingHeap::Fails::kAllFromThen}) {
      bool struck = true;
      std::uint64_t index = 0;
      for (; struck && !HasFailure(); ++index) {
        SCOPED_TRACE("allocation " + std::to_string(index));
        Begin();
        Scene scene(GetParam(), index, fails);
        scenario(scene);
        struck = FailingHeap::struck();
      }
      EXPECT_GT(index, 3u) << "there was nothing to fail";
    }
  }
  // As Sweep, each time with a link to `server`, which echoes.
  template <class Scenario>
  void SweepLink(RawServer& server, const std::shared_ptr<const LinkOptions>& options,
                 Scenario scenario) {
    Sweep([&](Scene& scene) {
      EchoPeer peer(server);
      const std::unique_ptr<Link> link = scene.MakeStarted(options);
      scenario(scene, *link, peer);
    });
  }
  // A link that dials again soon and counts what it is told.
  [[nodiscard]] std::shared_ptr<LinkOptions> Options(std::vector<std::string> endpoints) {
    auto options = std::make_shared<LinkOptions>();
    options->endpoints = std::move(endpoints);
    options->backoff = {.initial = 1ms, .multiplier = 1.5, .max = 4ms};
    options->on_up = [this](Link&) {
      ++ups_;
      received_ = 0;
    };
    options->on_data = [this](Link&, std::span<const std::byte> bytes) {
      received_ += bytes.size();
    };
    options->on_down = [this](Link&, const Down& down) {
      dropped_ = dropped_ || down.error.error_class == ErrorClass::kProtocol;
      EXPECT_TRUE(down.error.error_class != ErrorClass::kResource || FailingHeap::struck());
    };
    options->on_closed = [this](Link&, const Closed& closed) { closed_ = closed.reason; };
    return options;
  }
  // Up, and `count` messages there and back within one session.
  [[nodiscard]] bool Echoes(Scene& scene, Link& link, EchoPeer& peer, std::size_t count) {
    int session = 0;
    std::size_t sent = 0;
    return scene.Until([&] {
      peer.Turn();
      if (link.state() != LinkState::kUp) return false;
      if (std::exchange(session, ups_) != ups_) sent = 0;
      for (; sent < count; ++sent) {
        const SendResult result = link.Send(std::string_view(message_.data(), message_.size()));
        if (result.status == SendStatus::kQueued) continue;
        EXPECT_EQ(result.status, SendStatus::kFull);
        break;
      }
      return received_ == count * message_.size();
    });
  }
  [[nodiscard]] bool Closes(Scene& scene, Link& link, Duration drain) {
    link.Close(drain);
    return scene.Until([&] { return closed_.has_value(); }) && closed_ == ClosedReason::kUser;
  }

  int ups_ = 0;
  std::size_t received_ = 0;
  bool dropped_ = false;
  std::optional<ClosedReason> closed_;

 private:
  void Begin() {
    ups_ = 0;
    received_ = 0;
    dropped_ = false;
    closed_.reset();
  }

  std::array<char, 1000> message_{};
};
HOLDFAST_FOR_BOTH_BACKENDS(AllocationTest);

TEST_P(AllocationTest, AReactorIsMadeOrRefusedWhole) {
  Sweep([](Scene& scene) { EXPECT_TRUE(scene.reactor().RunFor(0ms).ok()); });
}

TEST_P(AllocationTest, ALinkEchoesAndCloses) {
  RawServer server;
  const auto options = Options({server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    EXPECT_TRUE(Echoes(scene, link, peer, 3));
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkThatTakesItsOptionsByValueIsMadeWholeOrNotAtAll) {
  RawServer server;
  Sweep([&](Scene& scene) {
    EchoPeer peer(server);
    const std::unique_ptr<Link> link = scene.Insist([&] {
      LinkOptions options;
      {
        const Exempt exempt;
        options.endpoints = {server.endpoint()};
        options.on_closed = [this](Link&, const Closed& closed) { closed_ = closed.reason; };
      }
      return Link::Create(scene.reactor(), std::move(options));
    });
    EXPECT_TRUE(Closes(scene, *link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkToANameTriesItsAddresses) {
  RawServer server;
  const auto options =
      Options({"a-name-that-is-longer-than-a-small-string.test:" + std::to_string(server.port())});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    EXPECT_TRUE(Echoes(scene, link, peer, 1));
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkThatIsRefusedTriesItsNextEndpoint) {
  RawServer server;
  ClosedPort closed;
  const auto options = Options({closed.endpoint(), server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    EXPECT_TRUE(Echoes(scene, link, peer, 1));
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkComesBackWheneverItIsReset) {
  RawServer server;
  const auto options = Options({server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    for (int session = 0; session < 3; ++session) {
      EXPECT_TRUE(Echoes(scene, link, peer, 2));
      const int ups = ups_;
      peer.Reset();
      EXPECT_TRUE(scene.Until([&] {
        peer.Turn();
        return ups_ > ups;
      }));
    }
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, AQueueThatCannotGrowSaysFullAndDrains) {
  RawServer server;
  const auto options = Options({server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    EXPECT_TRUE(Echoes(scene, link, peer, 600));  // Several blocks of bytes and of items.
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkPingsAndIsDropped) {
  RawServer server;
  const auto options = Options({server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    bool pinged = false;
    EXPECT_TRUE(scene.Until([&] {
      peer.Turn();
      pinged = pinged || link.Ping("ping");
      return received_ == 4;
    }));
    link.Drop(Error::Protocol());
    EXPECT_TRUE(scene.Until([&] { return dropped_; }));
    link.RetryNow();
    EXPECT_TRUE(Echoes(scene, link, peer, 1));
    EXPECT_TRUE(Closes(scene, link, 0ms));
  });
}

TEST_P(AllocationTest, ALinkOverAUnixSocketDrains) {
  RawServer server(Family::kUnix);
  const auto options = Options({server.endpoint()});
  SweepLink(server, options, [&](Scene& scene, Link& link, EchoPeer& peer) {
    EXPECT_TRUE(Echoes(scene, link, peer, 2));
    EXPECT_TRUE(Closes(scene, link, 1ms));
  });
}

TEST_P(AllocationTest, AStopTokenClosesALink) {
  RawServer server;
  Sweep([&](Scene& scene) {
    std::stop_source source = [] {
      const Exempt exempt;
      return std::stop_source();
    }();
    const auto options = [&] {
      const Exempt exempt;
      auto made = Options({server.endpoint()});
      made->stop = source.get_token();
      made->drain = 0ms;
      return made;
    }();
    EchoPeer peer(server);
    const std::unique_ptr<Link> link = scene.MakeStarted(options);
    source.request_stop();
    EXPECT_TRUE(scene.Until([&] { return closed_.has_value(); }));
    EXPECT_EQ(closed_, ClosedReason::kStop);
  });
}

// --- Listeners and streams.

// Clients of a listener under test, without memory.
class Client {
 public:
  // Connects anew: what the listener accepted in vain is closed.
  void Connect(const SocketAddress& address) {
    fd_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd_.get(), address.data(), address.size()), 0);
  }
  void Send(std::size_t size) {
    EXPECT_EQ(::send(fd_.get(), buffer_.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  void SendLineEnd() { EXPECT_EQ(::send(fd_.get(), "\n", 1, MSG_NOSIGNAL), 1); }
  // What has come since; -1 at the end.
  [[nodiscard]] ssize_t Receive() {
    const ssize_t size = ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return 0;
    return size > 0 ? size : -1;
  }
  void Close() { fd_.Reset(); }

 private:
  Fd fd_;
  std::array<char, 16384> buffer_{};
};

class StreamAllocationTest : public AllocationTest {
 protected:
  // A listener whose streams are started with `options_`.
  [[nodiscard]] std::unique_ptr<Listener> Listen(Scene& scene) {
    stream_.reset();
    shortages_ = 0;
    return scene.Insist([&] {
      ListenerOptions options;
      {
        const Exempt exempt;
        options.endpoint = "127.0.0.1:0";
        options.on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
          stream_ = std::move(stream);
          stream_->Start(options_);
        };
        options.on_error = [this](Listener&, const Error& error) {
          EXPECT_EQ(error.error_class, ErrorClass::kResource);
          EXPECT_TRUE(FailingHeap::struck());
          ++shortages_;
        };
      }
      return Listener::Create(scene.reactor(), std::move(options));
    });
  }
  // A client whose connection became a stream: one for which there was no memory is closed, and it tries
  // again.
  [[nodiscard]] bool Accepted(Scene& scene, const Listener& listener, Client& client) {
    stream_.reset();
    client.Connect(listener.local());
    return scene.Until([&] {
      if (stream_ == nullptr && client.Receive() < 0) {
        EXPECT_GT(shortages_, 0);
        client.Connect(listener.local());
      }
      return stream_ != nullptr;
    });
  }

  std::shared_ptr<const StreamOptions> options_;
  std::unique_ptr<Stream> stream_;
  int shortages_ = 0;
};
HOLDFAST_FOR_BOTH_BACKENDS(StreamAllocationTest);

TEST_P(StreamAllocationTest, AStreamEchoesAndDrains) {
  auto options = std::make_shared<StreamOptions>();
  std::optional<StreamClosed> closed;
  // What finds no room ends the stream: the client tries again.
  options->on_data = [](Stream& stream, std::span<const std::byte> bytes) {
    if (stream.Send(bytes) != SendStatus::kQueued) stream.Drop(Error::Protocol());
  };
  options->on_closed = [&](Stream&, const StreamClosed& end) { closed = end; };
  options_ = options;
  Sweep([&](Scene& scene) {
    const std::unique_ptr<Listener> listener = Listen(scene);
    Client client;
    ssize_t received = 0;
    EXPECT_TRUE(scene.Until([&] {
      if (stream_ == nullptr || received < 0) {
        received = 0;
        EXPECT_TRUE(Accepted(scene, *listener, client));
        client.Send(5000);
      }
      const ssize_t size = client.Receive();
      received = size < 0 ? size : received + size;
      return received == 5000;
    }));
    closed.reset();
    stream_->Close(1s);
    client.Close();
    EXPECT_TRUE(scene.Until([&] { return closed.has_value(); }));
    stream_.reset();
  });
}

TEST_P(StreamAllocationTest, WhatArrivesWhileAStreamIsPausedIsKeptOrTheStreamIsLost) {
  auto options = std::make_shared<StreamOptions>();
  std::size_t received = 0;
  std::optional<StreamClosed> closed;
  options->on_data = [&](Stream& stream, std::span<const std::byte> bytes) {
    received += bytes.size();
    stream.PauseReceive();
  };
  options->on_closed = [&](Stream&, const StreamClosed& end) { closed = end; };
  options_ = options;
  Sweep([&](Scene& scene) {
    const std::unique_ptr<Listener> listener = Listen(scene);
    Client client;
    received = 0;
    closed.reset();
    EXPECT_TRUE(Accepted(scene, *listener, client));
    for (int i = 0; i < 8; ++i) client.Send(16384);
    EXPECT_TRUE(scene.Until([&] {
      if (!closed.has_value()) stream_->ResumeReceive();
      return received == 8 * 16384 || closed.has_value();
    }));
    if (closed.has_value()) {
      EXPECT_TRUE(FailingHeap::struck());
      EXPECT_EQ(closed->error.error_class, ErrorClass::kResource);
    }
    stream_.reset();
  });
}

TEST_P(StreamAllocationTest, AMessageThatComesInPartsIsToldWholeOrTheStreamIsLost) {
  auto options = std::make_shared<StreamOptions>();
  std::size_t received = 0;
  std::optional<StreamClosed> closed;
  options->framing = Delimiter{'\n', 100'000};
  options->on_message = [&](Stream&, std::span<const std::byte> message) {
    received += message.size();
  };
  options->on_closed = [&](Stream&, const StreamClosed& end) { closed = end; };
  options_ = options;
  Sweep([&](Scene& scene) {
    const std::unique_ptr<Listener> listener = Listen(scene);
    Client client;
    received = 0;
    closed.reset();
    EXPECT_TRUE(Accepted(scene, *listener, client));
    for (int i = 0; i < 4; ++i) client.Send(16384);
    client.SendLineEnd();
    EXPECT_TRUE(scene.Until([&] { return received > 0 || closed.has_value(); }));
    if (closed.has_value()) {
      EXPECT_TRUE(FailingHeap::struck());
      EXPECT_EQ(closed->error.error_class, ErrorClass::kResource);
      EXPECT_EQ(received, 0u);
    } else {
      EXPECT_EQ(received, 4 * 16384u);
    }
    stream_.reset();
  });
}

TEST_P(StreamAllocationTest, AStreamWithoutOptionsNeedsNoMemoryForTheDefaults) {
  options_ = nullptr;
  Sweep([&](Scene& scene) {
    const std::unique_ptr<Listener> listener = Listen(scene);
    Client client;
    EXPECT_TRUE(Accepted(scene, *listener, client));
    stream_.reset();
  });
}

TEST_P(AllocationTest, ADescriptorIsWatched) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd read_end(fds[0]);
  const Fd write_end(fds[1]);
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  Sweep([&](Scene& scene) {
    int calls = 0;
    const std::unique_ptr<Watcher> watcher = scene.Insist([&] {
      return scene.reactor().Watch(read_end.get(), kWatchReadable, [&calls](unsigned) { ++calls; });
    });
    EXPECT_TRUE(scene.Until([&] { return calls > 0; }));
  });
}

}  // namespace
}  // namespace holdfast::test
