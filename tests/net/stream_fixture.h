// What the tests of Stream and Listener share: a listener on the reactor that hands out unstarted
// streams, a raw peer at the other end of each, and a diary of what a stream told.
#ifndef HOLDFAST_TESTS_NET_STREAM_FIXTURE_H_
#define HOLDFAST_TESTS_NET_STREAM_FIXTURE_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "net/net_fixture.h"

namespace holdfast::test {

// A raw, non-blocking socket connected to `address`; invalid, and a failed test, where that fails.
inline Fd ConnectTo(const SocketAddress& address) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), address.data(), address.size()), 0) << address.ToString();
  EXPECT_EQ(::fcntl(fd.get(), F_SETFL, O_NONBLOCK), 0);
  return fd;
}

// How a raw socket stands, without taking anything: bytes to read, its end, or nothing yet.
enum class Sight { kNothing, kBytes, kEnd, kReset };
inline Sight Look(const Fd& fd) {
  char byte = 0;
  const ssize_t size = ::recv(fd.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (size > 0) return Sight::kBytes;
  if (size == 0) return Sight::kEnd;
  return errno == EAGAIN ? Sight::kNothing : Sight::kReset;
}

// Everything a stream told, in order: "data", "eof", "writable", "closed:<class>".
struct StreamDiary {
  std::vector<std::string> lines;
  std::string data;
  int writables = 0;
  int eofs = 0;
  int closes = 0;
  StreamClosed closed{};
  // True while a test is inside one of the stream's methods: nothing may be told then.
  bool inside_call = false;

  [[nodiscard]] std::string Text() const {
    std::string text;
    for (const std::string& line : lines) text += (text.empty() ? "" : " ") + line;
    return text;
  }
  void Write(const std::string& line) {
    EXPECT_FALSE(inside_call) << line << " inside the call that caused it";
    EXPECT_EQ(closes, 0) << line << " after on_closed";
    if (lines.empty() || lines.back() != line || line != "data") lines.push_back(line);
  }
  // Callbacks that write here. `on_eof` is left out unless it is asked for: without it a stream
  // behaves differently.
  void Attach(StreamOptions& options, bool with_eof = true) {
    options.on_data = [this](Stream&, std::span<const std::byte> bytes) {
      Write("data");
      data += AsText(bytes);
    };
    if (with_eof) {
      options.on_eof = [this](Stream&) {
        Write("eof");
        ++eofs;
      };
    }
    options.on_writable = [this](Stream&) {
      Write("writable");
      ++writables;
    };
    options.on_closed = [this](Stream&, const StreamClosed& end) {
      Write("closed:" + std::string(ToString(end.error.error_class)));
      ++closes;
      closed = end;
    };
  }
};

class StreamFixture : public NetTest {
 protected:
  void TearDown() override {
    CloseListeners();
    NetTest::TearDown();
  }
  // And what they accepted and nobody took.
  void CloseListeners() {
    waiting_.clear();
    for (std::unique_ptr<Listener>& listener : listeners_) listener.reset();
  }

  struct Ends {
    Fd peer;
    std::unique_ptr<Stream> stream;  // Unstarted.
  };
  // A connection between a raw socket and a stream of the reactor.
  [[nodiscard]] Ends MakeEnds(Family family = Family::kInet) {
    std::unique_ptr<Listener>& listener = listeners_[family == Family::kInet ? 0 : 1];
    if (listener == nullptr) {
      absl::StatusOr<std::unique_ptr<Listener>> made = Listener::Create(
          reactor(), {.endpoint = family == Family::kInet ? "127.0.0.1:0" : AbstractName(),
                      .on_accept = [this](Listener&, std::unique_ptr<Stream> stream) {
                        waiting_.push_back(std::move(stream));
                      }});
      EXPECT_TRUE(made.ok()) << made.status();
      listener = *std::move(made);
    }
    Ends ends;
    ends.peer = ConnectTo(listener->local());
    EXPECT_TRUE(RunUntil([&] { return !waiting_.empty(); }));
    ends.stream = std::move(waiting_.front());
    waiting_.pop_front();
    return ends;
  }
  // The same, started with callbacks that write into `diary`.
  [[nodiscard]] Ends MakeStarted(StreamDiary& diary, StreamOptions options = {},
                                 Family family = Family::kInet) {
    Ends ends = MakeEnds(family);
    diary.Attach(options);
    ends.stream->Start(std::make_shared<const StreamOptions>(std::move(options)));
    return ends;
  }
  // Exactly `count` turns, none of which sleeps.
  void RunTurns(int count) {
    for (int i = 0; i < count; ++i) EXPECT_TRUE(reactor().RunFor(0ms).ok());
  }
  // A spell in which nothing is expected: long enough for a loopback to deliver and for a dozen turns.
  void RunQuietSpell() {
    RunTurns(12);
    EXPECT_TRUE(reactor().RunFor(10ms).ok());
    RunTurns(12);
  }
  static std::string AbstractName() {
    static int count = 0;
    return "unix:@holdfast-test-" + std::to_string(getpid()) + "-" + std::to_string(++count);
  }

 private:
  std::unique_ptr<Listener> listeners_[2];
  std::deque<std::unique_ptr<Stream>> waiting_;
};

// All of `text` into a raw peer, as far as it takes it now; the number of bytes taken.
inline std::size_t WriteAvailable(const Fd& fd, std::string_view text) {
  std::size_t taken = 0;
  while (taken < text.size()) {
    const ssize_t size =
        ::send(fd.get(), text.data() + taken, text.size() - taken, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size <= 0) break;
    taken += static_cast<std::size_t>(size);
  }
  return taken;
}

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NET_STREAM_FIXTURE_H_
