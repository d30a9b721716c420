// The user of one link, who keeps it busy and in trouble, and tells its checker of everything; the link is
// made anew when it closed or was destroyed.
#ifndef HOLDFAST_TOOLS_SWARM_LINK_USER_H_
#define HOLDFAST_TOOLS_SWARM_LINK_USER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <holdfast/holdfast.h>
#include "swarm/link_checker.h"
#include "swarm/loop_checker.h"
#include "swarm/play.h"
#include "swarm/scenario.h"

namespace holdfast::swarm {

class LinkUser {
 public:
  LinkUser(Play& play, Reactor& reactor, const LinkPlan& plan, std::size_t index,
           LoopChecker& loop);
  ~LinkUser();
  LinkUser(const LinkUser&) = delete;
  LinkUser& operator=(const LinkUser&) = delete;

  [[nodiscard]] bool ended() const { return link_ == nullptr || checker_->closed(); }
  [[nodiscard]] const LinkChecker& checker() const { return *checker_; }
  [[nodiscard]] LinkChecker& checker() { return *checker_; }
  // "link 3 is in backoff, last: connect: Connection refused (ECONNREFUSED)"
  [[nodiscard]] std::string Describe() const;
  void Close();
  // At the end, for good.
  void Destroy();

 private:
  void Make();
  void MakeLater(Duration delay);
  void SendSome();
  void Mischief();
  [[nodiscard]] Instant Now() const { return reactor_.Now(); }

  Play& play_;
  Reactor& reactor_;
  const LinkPlan& plan_;
  const std::size_t index_;
  LoopChecker& loop_;
  LinkChecker* checker_ = nullptr;
  std::unique_ptr<Link> link_;
  Timer send_timer_;
  Timer make_timer_;
  std::string message_;
  std::string last_;  // Why it went down.
  std::uint64_t session_bytes_ = 0;
  std::uint64_t pings_before_ = 0;
  bool closing_ = false;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LINK_USER_H_
