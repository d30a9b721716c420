// What the programs of a run share: chance, whether trouble is still made, and whom to tell.
#ifndef HOLDFAST_TOOLS_SWARM_PLAY_H_
#define HOLDFAST_TOOLS_SWARM_PLAY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <holdfast/link.h>
#include "base/random.h"
#include "sim/faults.h"
#include "swarm/link_checker.h"

namespace holdfast::swarm {

class Play {
 public:
  explicit Play(std::uint64_t seed) : random_(seed) {}
  Play(const Play&) = delete;
  Play& operator=(const Play&) = delete;

  [[nodiscard]] internal::Random& random() { return random_; }
  // A chance of `rate` in 65,536.
  [[nodiscard]] bool Strikes(std::uint32_t rate) { return random_.Below(65536) < rate; }
  // False once everything has healed: programs behave from then on.
  [[nodiscard]] bool disturbed() const { return disturbed_; }

  [[nodiscard]] virtual internal::sim::FaultPlan& faults() = 0;
  virtual void Violate(const std::string& violation) = 0;
  // Of a link of that client, which is about to be made; lives as long as the run.
  [[nodiscard]] virtual LinkChecker& NewChecker(std::shared_ptr<const LinkOptions> options,
                                                std::size_t link, std::size_t client) = 0;
  // A link of that client has begun to dial.
  virtual void CheckSingleDial(std::size_t client) = 0;

 protected:
  ~Play() = default;
  bool disturbed_ = true;

 private:
  internal::Random random_;
};

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_PLAY_H_
