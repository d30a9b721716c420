// The echo server: sends back what it gets, holds back who does not read, and misbehaves on schedule.
//
// It echoes bytes and parses messages only for its log. Backpressure is the stream's own: while a
// peer's echoes wait (writable() is false) nothing more is read from it, so a peer that never reads
// costs a bounded queue and TCP's window stops it.
//
// A change of mode does to the connections that are open what it does to new ones: refuse and eof close
// them in good order, reset resets them, stall leaves them unread, and up lets the stalled go on.
#ifndef HOLDFAST_TOOLS_ECHO_SERVER_H_
#define HOLDFAST_TOOLS_ECHO_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <holdfast/listener.h>
#include <holdfast/reactor.h>
#include <holdfast/stream.h>
#include <holdfast/timer.h>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "echo/chaos.h"
#include "echo/json_line.h"
#include "echo/output.h"

namespace holdfast::echo {

struct ServerOptions {
  std::string endpoint = {};
  std::vector<ChaosPhase> chaos = {};  // At least one phase.
  bool json = false;
  int log_fd = -1;  // Where a line for every message received goes; -1 = nowhere.
};

class Server {
 public:
  // Listens at once, and prints where. InvalidArgument for the endpoint; else what bind or listen said,
  // but for a port that is taken: it is tried again, from Run, for a second. The reactor outlives the
  // server.
  static absl::StatusOr<std::unique_ptr<Server>> Create(Reactor& reactor, ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The first one closes everything in good order and then stops the reactor; the next one at once.
  void Interrupt();
  // After the reactor stopped: prints the summary and returns the exit status.
  int Finish();

 private:
  struct Peer;

  Server(Reactor& reactor, ServerOptions options);

  absl::Status Listen();
  void ListenAgain();
  void Begin();
  void Apply(ChaosMode mode);
  void NextPhase();
  void OnSocket(int fd);
  void OnAccept(std::unique_ptr<Stream> stream);
  void OnData(Peer& peer, std::span<const std::byte> bytes);
  void Log(Peer& peer, std::span<const std::byte> bytes);
  void Reset(Peer& peer);
  void Forget(Peer& peer, const Error& error, bool delivered);
  void CloseAll();
  void StopIfIdle();
  void Say(std::string_view text);
  void SayListening();
  JsonLine& Event(std::string_view event);
  void Tell();

  Reactor& reactor_;
  ServerOptions options_;
  Instant start_;
  Output out_;
  Output log_;
  JsonLine line_;
  std::string log_lines_;
  std::shared_ptr<const StreamOptions> stream_options_;
  std::unique_ptr<Listener> listener_;
  bool listening_closes_ = false;  // True from Listener::Close until its on_closed.
  bool told_listening_ = false;    // True once the address was printed.
  bool begun_ = false;             // True once it listened for the first time.
  bool ending_ = false;            // True from the first Interrupt on.
  int exit_status_ = 0;
  ChaosMode mode_ = ChaosMode::kUp;
  std::size_t phase_ = 0;  // Index of the current phase.
  std::unique_ptr<Timer> phase_timer_;
  std::unique_ptr<Timer> listen_timer_;
  std::unordered_map<Peer*, std::unique_ptr<Peer>> peers_;
  // Sockets just accepted, by the peer's address: the descriptor that a reset needs.
  std::unordered_map<std::string, int> accepted_;
  std::uint64_t connections_ = 0;
  std::uint64_t bytes_ = 0;  // Received.
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_SERVER_H_
