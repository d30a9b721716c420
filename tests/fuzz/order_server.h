// The other side: an echo server of the shipped Listener and Stream whose user may do anything, and is held
// to what streams and listeners promise.
#ifndef HOLDFAST_TESTS_FUZZ_ORDER_SERVER_H_
#define HOLDFAST_TESTS_FUZZ_ORDER_SERVER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <holdfast/holdfast.h>
#include "fuzz/order_stage.h"

namespace holdfast::fuzz {

// What one session said at its end, to be held against what the network knows.
struct Delivery {
  SocketAddress peer;
  Instant accepted{};
  std::uint64_t sent = 0;      // Taken by Stream::Send.
  bool delivered = false;      // All of it, says on_closed.
  std::uint64_t received = 0;  // Told by on_data.
};

class Server {
 public:
  Server(Stage& stage, Reactor& reactor, std::uint8_t number, bool half_open,
         std::vector<Delivery>& deliveries);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void Perform(const ServerDeed& deed, ServerWhere where);
  [[nodiscard]] bool stopped() const { return stopped_; }
  // The mischief is over: listens, and reads from everybody.
  void Settle();
  // For good.
  void Destroy();

 private:
  struct Session {
    Server* server = nullptr;
    std::uint64_t id = 0;
    std::unique_ptr<Stream> stream = nullptr;
    Delivery delivery = {};
    bool started = false;
    bool paused = false;
    bool eof = false;
    ServerWhere last_where = ServerWhere::kAccept;
  };

  void Listen();
  void Start(Session& session);
  void OnAccept(std::unique_ptr<Stream> stream);
  void OnData(Session& session, std::span<const std::byte> bytes);
  void OnEof(Session& session);
  void OnClosed(Session& session, const StreamClosed& closed);
  void PerformOnSession(const ServerDeed& deed, Session& session);
  // What was planned for this callback, by which no session need survive.
  void Leave(ServerWhere where, Session* session);

  Stage& stage_;
  Reactor& reactor_;
  const std::uint8_t number_;
  std::vector<Delivery>& deliveries_;
  std::shared_ptr<const StreamOptions> options_;
  std::unique_ptr<Listener> listener_;
  bool listener_closing_ = false;
  std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::uint64_t sessions_made_ = 0;
  std::unique_ptr<Timer> timer_;         // Of plans.
  std::unique_ptr<Timer> listen_timer_;  // Tries again.
  bool hold_ = false;
  bool refuse_ = false;
  bool stopped_ = false;
};

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_ORDER_SERVER_H_
