// The users of links: what they do, in which callback, and what they are told.
#ifndef HOLDFAST_TESTS_FUZZ_ORDER_CLIENT_H_
#define HOLDFAST_TESTS_FUZZ_ORDER_CLIENT_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <holdfast/holdfast.h>
#include "fuzz/order_stage.h"
#include "swarm/link_checker.h"

namespace holdfast::fuzz {

// How a link is used, for as long as the world stands.
struct LinkPlan {
  std::uint32_t client = 0;
  LinkOptions options;        // Without callbacks.
  bool pings_itself = false;  // on_heartbeat instead of `ping`.
  bool overrules = false;     // decide: a permanent error is backed off, too.
  // What it says when it comes up, as the amount of Act::kSend; and again at every echo, so many times.
  std::optional<std::uint8_t> greeting = std::nullopt;
  unsigned replies = 0;
};

// One link that was made, and what it was held to. Kept to the end of the world.
struct Incarnation {
  std::shared_ptr<const LinkOptions> options;
  std::unique_ptr<swarm::LinkChecker> checker;
  std::uint32_t client = 0;
};

class Client;

class LinkUser {
 public:
  LinkUser(Client& client, const LinkPlan& plan, std::uint8_t index);
  ~LinkUser();
  LinkUser(const LinkUser&) = delete;
  LinkUser& operator=(const LinkUser&) = delete;

  [[nodiscard]] std::uint8_t index() const { return index_; }
  [[nodiscard]] bool up() const { return link_ != nullptr && link_->state() == LinkState::kUp; }
  [[nodiscard]] bool ended() const { return link_ == nullptr || checker_->closed(); }
  // Within so long it is up, when nothing is wrong any more.
  [[nodiscard]] Duration bound() const;
  // "link 1 is in backoff, last: connect: Connection refused (ECONNREFUSED)"
  [[nodiscard]] std::string Describe() const;

  void Perform(const Deed& deed, Where where);
  // Somebody has to have a link that is started: the mischief is over.
  void Settle();
  // For good.
  void Close();
  // While its loop runs: is anything that it waits for overdue?
  void CheckOverdue();
  void Destroy();

 private:
  friend class Client;

  void Make(bool start);
  void Start();
  void Send(std::uint8_t amount);
  // A callback has come, and at its end: what the user does in it. May destroy the link.
  void Enter(swarm::LinkChecker& checker, Where where);
  void Leave(Where where);
  void TellClose();
  void NoteStopToken(swarm::LinkChecker& checker);
  [[nodiscard]] Instant Now() const;

  Client& client_;
  Stage& stage_;
  const LinkPlan& plan_;
  const std::uint8_t index_;
  swarm::LinkChecker* checker_ = nullptr;
  std::unique_ptr<Link> link_;
  std::stop_source stop_;
  bool stop_asked_ = false;
  bool in_state_ = false;                 // In on_state.
  std::optional<Duration> close_untold_;  // The drain of a Close that the checker does not know of.
  Timer make_timer_;
  Verdict verdict_ = Verdict::kByClass;
  Where last_where_ = Where::kClosed;
  std::string message_;
  std::string last_;  // Why it went down.
  std::uint64_t session_bytes_ = 0;
  std::uint64_t pings_before_ = 0;
  unsigned replies_ = 0;  // In this session.
  bool closing_ = false;
};

// A process with links, timers and posts.
class Client {
 public:
  Client(Stage& stage, Reactor& reactor, std::uint32_t number, const std::vector<LinkPlan>& plans,
         std::vector<Incarnation>& incarnations);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] Reactor& reactor() { return reactor_; }
  [[nodiscard]] std::vector<std::unique_ptr<LinkUser>>& users() { return users_; }
  // By the user of that link, or of another one where the link is not of this process.
  void Perform(const Deed& deed, Where where);
  // Stop was called.
  [[nodiscard]] bool stopped() const { return stopped_; }
  // At the end: is a timer overdue, or a post lost?
  void CheckNoneLost();

 private:
  friend class LinkUser;
  struct Slot {
    std::unique_ptr<Timer> timer;
    Instant due = kNever;  // kNever: not armed.
  };

  void MakeTimer(std::size_t index);
  void Arm(std::size_t index, std::uint8_t amount);
  void OnTimer(std::size_t index);
  void Post();
  // What was planned for here is done, by whichever user.
  void CarryOut(Where where);

  Stage& stage_;
  Reactor& reactor_;
  const std::uint32_t number_;
  std::vector<Incarnation>& incarnations_;
  std::vector<std::unique_ptr<LinkUser>> users_;
  std::array<Slot, 3> slots_;
  std::uint64_t posted_ = 0;
  std::uint64_t posts_run_ = 0;
  bool stopped_ = false;
};

}  // namespace holdfast::fuzz

#endif  // HOLDFAST_TESTS_FUZZ_ORDER_CLIENT_H_
