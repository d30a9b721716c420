// What Create refuses, and what the options do to the socket and to callbacks that are shared.
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "net/link_fixture.h"

namespace holdfast::test {
namespace {

class LinkOptionsTest : public LinkFixture {};
HOLDFAST_FOR_BOTH_BACKENDS(LinkOptionsTest);

struct BadOption {
  const char* field;
  const char* value;
  std::function<void(LinkOptions&)> spoil;
};

const std::vector<BadOption>& BadOptions() {
  static const auto* const options = new std::vector<BadOption>{
      {"endpoints", "{}", [](LinkOptions& o) { o.endpoints.clear(); }},
      {"endpoints[0]", "70000", [](LinkOptions& o) { o.endpoints = {"127.0.0.1:70000"}; }},
      {"endpoints[0]", "no-port", [](LinkOptions& o) { o.endpoints = {"no-port"}; }},
      {"endpoints[0]", "127.0.0.1:http", [](LinkOptions& o) { o.endpoints = {"127.0.0.1:http"}; }},
      {"endpoints[0]", "127.0.0.1:0", [](LinkOptions& o) { o.endpoints = {"127.0.0.1:0"}; }},
      {"endpoints[0]", "name:0", [](LinkOptions& o) { o.endpoints = {"name:0"}; }},
      {"endpoints[0]", "1.2.3.256:1", [](LinkOptions& o) { o.endpoints = {"1.2.3.256:1"}; }},
      {"endpoints[0]", "[::1:7", [](LinkOptions& o) { o.endpoints = {"[::1:7"}; }},
      {"endpoints[0]", "unix:", [](LinkOptions& o) { o.endpoints = {"unix:"}; }},
      {"endpoints[1]", "b ad:1",
       [](LinkOptions& o) {
         o.endpoints = {"a:1", "b ad:1"};
       }},
      {"backoff.initial", "0s", [](LinkOptions& o) { o.backoff.initial = 0ms; }},
      {"backoff.initial", "-1ms", [](LinkOptions& o) { o.backoff.initial = -1ms; }},
      {"backoff.max", "99ms", [](LinkOptions& o) { o.backoff.max = 99ms; }},
      {"backoff.multiplier", "0/1024", [](LinkOptions& o) { o.backoff.multiplier = 0; }},
      {"backoff.multiplier", "922/1024", [](LinkOptions& o) { o.backoff.multiplier = 0.9; }},
      {"backoff.multiplier", "0/1024", [](LinkOptions& o) { o.backoff.multiplier = -2; }},
      {"backoff.multiplier", "0/1024",
       [](LinkOptions& o) { o.backoff.multiplier = std::numeric_limits<double>::quiet_NaN(); }},
      {"backoff.multiplier", "/1024", [](LinkOptions& o) { o.backoff.multiplier = 1025; }},
      {"give_up_after", "-1s", [](LinkOptions& o) { o.give_up_after = -1s; }},
      {"protocol_errors_max", "0", [](LinkOptions& o) { o.protocol_errors_max = 0; }},
      {"healthy_after", "-1ns", [](LinkOptions& o) { o.healthy_after = -1ns; }},
      {"connect_timeout", "0s", [](LinkOptions& o) { o.connect_timeout = 0s; }},
      {"connect_timeout", "-5s", [](LinkOptions& o) { o.connect_timeout = -5s; }},
      {"attempt_timeout", "0s", [](LinkOptions& o) { o.attempt_timeout = 0s; }},
      {"login_timeout", "-1s", [](LinkOptions& o) { o.login_timeout = -1s; }},
      {"silence_max", "-1s", [](LinkOptions& o) { o.silence_max = -1s; }},
      {"silence_max", "99ms",
       [](LinkOptions& o) {
         o.silence_max = 99ms;
         o.ping = "P";
       }},
      {"silence_max", "1999ms", [](LinkOptions& o) { o.silence_max = 1999ms; }},
      {"ping_interval", "-1s",
       [](LinkOptions& o) {
         o.ping = "P";
         o.ping_interval = -1s;
       }},
      {"ping_interval", "1s", [](LinkOptions& o) { o.ping_interval = 1s; }},
      {"ping_interval", "21s",
       [](LinkOptions& o) {
         o.ping = "P";
         o.ping_interval = 21s;
       }},
      {"ping", "9 bytes",
       [](LinkOptions& o) {
         o.ping = "PINGPING!";
         o.queue_low = o.queue_high = o.queue_max = 8;
       }},
      {"queue_low", "0", [](LinkOptions& o) { o.queue_low = 0; }},
      {"queue_high", "65535", [](LinkOptions& o) { o.queue_high = (64 << 10) - 1; }},
      {"queue_max", "262143", [](LinkOptions& o) { o.queue_max = (256 << 10) - 1; }},
      {"drain", "-1s", [](LinkOptions& o) { o.drain = -1s; }},
      {"socket.send_buffer", "-1", [](LinkOptions& o) { o.socket.send_buffer = -1; }},
      {"socket.receive_buffer", "-2", [](LinkOptions& o) { o.socket.receive_buffer = -2; }},
      {"socket.notsent_lowat", "-3", [](LinkOptions& o) { o.socket.notsent_lowat = -3; }},
      {"socket.bind_address", "nowhere", [](LinkOptions& o) { o.socket.bind_address = "nowhere"; }},
      {"socket.bind_address", "a-name:0",
       [](LinkOptions& o) { o.socket.bind_address = "a-name:0"; }},
  };
  return *options;
}

TEST_P(LinkOptionsTest, WhatIsWrongIsSaidByCreateWithFieldAndValue) {
  for (const BadOption& bad : BadOptions()) {
    LinkOptions options;
    options.endpoints = {"127.0.0.1:7000"};
    bad.spoil(options);
    const auto link = Link::Create(reactor(), std::move(options));
    ASSERT_FALSE(link.ok()) << bad.field << " = " << bad.value;
    EXPECT_EQ(link.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(link.status().message());
    EXPECT_NE(message.find(std::string("LinkOptions.") + bad.field), std::string::npos) << message;
    EXPECT_NE(message.find(bad.value), std::string::npos) << message << " lacks " << bad.value;
  }
}

TEST_P(LinkOptionsTest, TheBoundsThemselvesAreAllowed) {
  const std::vector<std::function<void(LinkOptions&)>> good = {
      [](LinkOptions&) {},
      [](LinkOptions& o) { o.silence_max = 0s; },
      [](LinkOptions& o) { o.silence_max = 2s; },
      [](LinkOptions& o) {
        o.silence_max = 100ms;
        o.ping = "P";
      },
      [](LinkOptions& o) {
        o.silence_max = 100ms;
        o.on_heartbeat = [](Link&) {};
      },
      [](LinkOptions& o) {
        o.silence_max = 1s;
        o.ping = "P";
        o.ping_interval = 1s;
      },
      [](LinkOptions& o) {
        o.silence_max = 0s;
        o.ping = "P";
        o.ping_interval = 1h;
      },
      [](LinkOptions& o) { o.backoff = {.initial = 1ns, .multiplier = 1, .max = 1ns}; },
      [](LinkOptions& o) { o.backoff.multiplier = 1024; },
      [](LinkOptions& o) { o.queue_low = o.queue_high = o.queue_max = 1; },
      [](LinkOptions& o) {
        o.endpoints = {"[::1]:1", "unix:@x", "unix:/x", "a.b:65535"};
      },
      [](LinkOptions& o) {
        o.connect_timeout = o.attempt_timeout = Duration::max();
        o.healthy_after = o.give_up_after = o.drain = Duration::max();
        o.login_timeout = Duration::max();
      },
  };
  for (std::size_t i = 0; i < good.size(); ++i) {
    LinkOptions options;
    options.endpoints = {"127.0.0.1:7000"};
    good[i](options);
    const auto link = Link::Create(reactor(), std::move(options));
    EXPECT_TRUE(link.ok()) << i << ": " << link.status();
  }
}

TEST_P(LinkOptionsTest, NoOptionsAtAllAreRefused) {
  const auto link = Link::Create(reactor(), std::shared_ptr<const LinkOptions>());
  EXPECT_EQ(link.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(LinkOptionsTest, DurationsWithoutEndNeitherOverflowNorExpire) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.connect_timeout = options.attempt_timeout = Duration::max();
  options.healthy_after = options.login_timeout = options.silence_max = Duration::max();
  options.give_up_after = Duration::max();
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(link->Send("x").status, SendStatus::kQueued);
  EXPECT_EQ(ReadFrom(peer, 1), "x");
  link->Close(Duration::max());
  peer.Reset();
  ASSERT_TRUE(RunUntilClosed());
  EXPECT_EQ(diary_.Text(), "dial1 up down:cancelled closed:user");
}

TEST_P(LinkOptionsTest, ManyLinksShareOneSetOfOptionsAndTellThemselvesApart) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  struct Place {
    int index = 0;
    int ups = 0;
    std::string data;
  };
  options.on_up = [](Link& link) {
    auto& place = *static_cast<Place*>(link.user());
    ++place.ups;
    EXPECT_EQ(link.Send(std::string(1, static_cast<char>('a' + place.index))).sequence, 1u);
  };
  options.on_data = [](Link& link, std::span<const std::byte> bytes) {
    static_cast<Place*>(link.user())->data += AsText(bytes);
  };
  auto shared = std::make_shared<const LinkOptions>(std::move(options));
  std::vector<Place> places(10);
  std::vector<std::unique_ptr<Link>> links;
  for (std::size_t i = 0; i < places.size(); ++i) {
    places[i].index = static_cast<int>(i);
    auto link = Link::Create(reactor(), shared, &places[i]);
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_EQ(&(*link)->options(), shared.get());
    EXPECT_EQ((*link)->user(), &places[i]);
    links.push_back(*std::move(link));
    links.back()->Start();
  }
  EXPECT_EQ(shared.use_count(), 11);

  std::vector<Fd> peers;
  ASSERT_TRUE(RunUntil([&] {
    if (Fd peer = server.Accept(); peer.valid()) peers.push_back(std::move(peer));
    for (const Fd& peer : peers) {
      const std::string got = ReadAvailable(peer);
      EXPECT_EQ(::send(peer.get(), got.data(), got.size(), 0), static_cast<ssize_t>(got.size()));
    }
    return std::all_of(places.begin(), places.end(),
                       [](const Place& place) { return !place.data.empty(); });
  }));
  for (const Place& place : places) {
    EXPECT_EQ(place.ups, 1);
    EXPECT_EQ(place.data, std::string(1, static_cast<char>('a' + place.index)));
  }
  for (std::size_t i = 1; i < links.size(); ++i) EXPECT_NE(links[i]->id(), links[0]->id());
  links.clear();
  ASSERT_TRUE(RunUntil([&] { return shared.use_count() == 1; }));
}

int IntOption(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
  return value;
}

TEST_P(LinkOptionsTest, TheSocketIsSetUpAsAskedForBeforeItConnects) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  int fd = -1;
  bool connected_too_early = false;
  options.socket.send_buffer = 30'000;
  options.socket.receive_buffer = 20'000;
  options.socket.notsent_lowat = 16'384;
  options.socket.on_socket = [&](int socket) {
    fd = socket;
    sockaddr_storage storage;
    socklen_t size = sizeof(storage);
    connected_too_early = ::getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &size) == 0;
  };
  options.silence_max = 20s;
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_FALSE(connected_too_early);
  ASSERT_GE(fd, 0);
  EXPECT_NE(IntOption(fd, IPPROTO_TCP, TCP_NODELAY), 0);
  // socket(7): the kernel doubles what is asked for.
  EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_SNDBUF), 60'000);
  EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_RCVBUF), 40'000);
  EXPECT_EQ(IntOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 16'384);
  // The kernel's own limits: keepalive after half of silence_max, all over at twice of it.
  EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(IntOption(fd, IPPROTO_TCP, TCP_KEEPIDLE), 10);
  EXPECT_EQ(IntOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 40'000);
  EXPECT_LE(
      10 + IntOption(fd, IPPROTO_TCP, TCP_KEEPINTVL) * IntOption(fd, IPPROTO_TCP, TCP_KEEPCNT), 40);
  EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
}

TEST_P(LinkOptionsTest, NagleIsLeftOnWhereAskedFor) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  int fd = -1;
  options.socket.nodelay = false;
  options.silence_max = 0s;
  options.socket.on_socket = [&](int socket) { fd = socket; };
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(IntOption(fd, IPPROTO_TCP, TCP_NODELAY), 0);
  EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_KEEPALIVE), 0);  // silence_max 0: nothing is judged.
}

TEST_P(LinkOptionsTest, ConnectsFromTheAddressItIsBoundTo) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.socket.bind_address = "127.0.0.77:0";
  Fd peer;
  std::unique_ptr<Link> link = MakeUp(server, peer, std::move(options));
  EXPECT_EQ(link->local().ToString().substr(0, 11), "127.0.0.77:");
  EXPECT_EQ(link->peer().ToString(), server.endpoint());
}

TEST_P(LinkOptionsTest, AnAddressThatIsNotOnThisHostIsBackedOffAndReported) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.socket.bind_address = "192.0.2.1:0";
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[1].error.error_class, ErrorClass::kLocalAddress);
  EXPECT_EQ(diary_.downs[1].error.operation, Operation::kBind);
  EXPECT_EQ(diary_.downs[1].error.CodeName(), "EADDRNOTAVAIL");
  EXPECT_TRUE(diary_.downs[1].retry_in.has_value());
}

TEST_P(LinkOptionsTest, ABindAddressOfAnotherFamilyIsNoCrashAndNoBug) {
  RawServer server;
  LinkOptions options = Options(server.endpoint());
  options.socket.bind_address = "[::1]:0";
  std::unique_ptr<Link> link = MakeStarted(std::move(options));
  ASSERT_TRUE(RunUntilDowns(2));
  EXPECT_EQ(diary_.downs[0].error.operation, Operation::kBind);
  EXPECT_EQ(diary_.downs[0].error.error_class, ErrorClass::kUnsupported);
}

}  // namespace
}  // namespace holdfast::test
