// The two examples of docs/simulation.md: a user's code, a user's tests, public headers alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <holdfast/holdfast.h>
#include <holdfast/sim.h>

namespace {

// --- example
using namespace holdfast;
using namespace std::chrono_literals;

// What you ship: a client that subscribes whenever it is up.
std::unique_ptr<Link> MakeFeed(Reactor& reactor) {
  LinkOptions options{.endpoints = {"server:7000"}, .silence_max = 20s, .ping = "PING\n"};
  options.on_up = [](Link& link) { link.Send("SUBSCRIBE all\n"); };
  std::unique_ptr<Link> link = *Link::Create(reactor, std::move(options));
  link->Start();
  return link;
}

// What the test brings: a server that counts subscriptions.
struct Server {
  Server(Reactor& reactor, int& subscriptions) {
    session->on_data = [&](Stream& stream, std::span<const std::byte> bytes) {
      if (static_cast<char>(bytes.front()) == 'S') ++subscriptions;
      stream.Send("OK\n");
    };
    ListenerOptions options{.endpoint = "0.0.0.0:7000"};
    options.on_accept = [&](Listener&, std::unique_ptr<Stream> stream) {
      stream->Start(session);
      streams.push_back(std::move(stream));
    };
    listener = *Listener::Create(reactor, std::move(options));
  }
  std::shared_ptr<StreamOptions> session = std::make_shared<StreamOptions>();
  std::vector<std::unique_ptr<Stream>> streams;
  std::unique_ptr<Listener> listener;
};

TEST(MyFeed, ResubscribesAfterItsServerRestarts) {
  int subscriptions = 0;
  SimWorld world;
  SimHost& server = world.AddHost("server");
  SimHost& client = world.AddHost("client");
  server.Run([&](Reactor& reactor) { return Server(reactor, subscriptions); });
  client.Run(MakeFeed);
  EXPECT_TRUE(world.RunUntil([&] { return subscriptions == 1; }, 5s)) << world.replay();
  server.Crash();
  world.RunFor(24h);
  server.Restart();
  EXPECT_TRUE(world.RunUntil([&] { return subscriptions == 2; }, 20s)) << world.replay();
}
// --- example

// --- example
// What you ship: a gateway that keeps a link to each of its devices.
struct Gateway {
  // When each device was dialed.
  using Dials = std::map<const Link*, std::vector<Instant>>;
  Gateway(Reactor& reactor, int devices, Dials& dials) {
    auto options = std::make_shared<LinkOptions>();
    options->endpoints = {"devices:7000"};
    options->backoff = {.initial = 2s, .multiplier = 2.0, .max = 60s};
    options->on_dial = [&](Link& link, std::uint32_t, std::string_view) {
      dials[&link].push_back(reactor.Now());
    };
    for (int i = 0; i < devices; ++i) {
      links.push_back(*Link::Create(reactor, options));
      links.back()->Start();
    }
  }
  std::vector<std::unique_ptr<Link>> links;
};

TEST(MyGateway, NeverDialsADeviceMoreThanTwiceASecondWhateverHappens) {
  Gateway::Dials dials;
  SimWorld world;
  SimHost& devices = world.AddHost("devices");
  SimHost& host = world.AddHost("gateway");
  devices.Run([](Reactor& reactor) {  // They hang up on everybody.
    ListenerOptions options{.endpoint = "0.0.0.0:7000"};
    options.on_accept = [](Listener&, std::unique_ptr<Stream>) {};
    return *Listener::Create(reactor, std::move(options));
  });
  host.Run([&](Reactor& reactor) { return Gateway(reactor, 50, dials); });
  world.Always("two dials of a device at most in any second", [&] {
    return std::all_of(dials.begin(), dials.end(), [](const auto& device) {
      const std::vector<Instant>& at = device.second;
      return at.size() < 3 || at.back() - at[at.size() - 3] > 1s;
    });
  });
  for (int second = 0; second < 3600 && world.broken().empty(); ++second) {
    const std::uint64_t luck = world.Draw(100);
    if (luck == 0) devices.Crash();
    if (luck == 1) devices.Restart();
    if (luck == 2) world.Partition(host, devices);
    if (luck == 3) world.Heal();
    world.RunFor(1s);
  }
  EXPECT_EQ(world.broken(), "");
  EXPECT_EQ(dials.size(), 50u);
}
// --- example

// The page shows what is tested here, to the letter.
TEST(ExamplesTest, AreThoseOfThePage) {
  const auto read = [](const std::filesystem::path& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::filesystem::path here(__FILE__);
  const std::string source = read(here);
  const std::string page = read(here.parent_path() / "../../docs/simulation.md");
  ASSERT_FALSE(source.empty());
  ASSERT_FALSE(page.empty());
  const std::string mark = "\n// --- " + std::string("example\n");
  int examples = 0;
  for (std::size_t begin = source.find(mark); begin != std::string::npos; ++examples) {
    begin += mark.size();
    const std::size_t end = source.find(mark, begin);
    ASSERT_NE(end, std::string::npos);
    const std::string code = source.substr(begin, end - begin);
    EXPECT_NE(page.find("```cpp\n" + code + "\n```"), std::string::npos) << code;
    begin = source.find(mark, end + 1);
  }
  EXPECT_EQ(examples, 2);
}

}  // namespace
