// The other side: an echo server of the shipped Listener and Stream, which may misbehave.
#ifndef HOLDFAST_TOOLS_SWARM_SERVER_PROGRAM_H_
#define HOLDFAST_TOOLS_SWARM_SERVER_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <holdfast/holdfast.h>
#include "swarm/loop_checker.h"
#include "swarm/play.h"
#include "swarm/scenario.h"

namespace holdfast::swarm {

inline constexpr std::uint16_t kServerPort = 7000;

class ServerProgram {
 public:
  ServerProgram(Play& play, Reactor& reactor, const ServerPlan& plan, LoopChecker& loop);
  ~ServerProgram();
  ServerProgram(const ServerProgram&) = delete;
  ServerProgram& operator=(const ServerProgram&) = delete;

 private:
  enum class Manner { kEcho, kEnd, kReset, kStall, kHalfClose, kGarbage };
  struct Session {
    ServerProgram* program;
    std::uint64_t id;
    std::unique_ptr<Stream> stream = nullptr;
    Manner manner = Manner::kEcho;
    std::uint64_t patience = 0;  // Bytes until it misbehaves.
    std::uint64_t received = 0;
    std::unique_ptr<Timer> timer = nullptr;  // Resumes, or reads on.
  };

  void Listen(std::string endpoint);
  void OnAccept(std::unique_ptr<Stream> stream);
  void OnData(Session& session, std::span<const std::byte> bytes);
  void Misbehave(Session& session);
  void Forget(std::uint64_t id) { sessions_.erase(id); }

  Play& play_;
  Reactor& reactor_;
  const ServerPlan& plan_;
  LoopChecker& loop_;
  std::shared_ptr<const StreamOptions> options_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> unbound_;  // To be tried again.
  std::unique_ptr<Timer> listen_timer_;
  std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::uint64_t next_id_ = 0;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_SERVER_PROGRAM_H_
