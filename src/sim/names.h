// The names of a simulated world: zones that change, lie or stall.
//
// One table serves all hosts: what differs between resolvers of real hosts is a fault here. Beside it
// numeric addresses answer themselves, and "localhost" answers ::1 and 127.0.0.1, both at once, as with
// glibc and its usual /etc/hosts.
//
// Faults: kNameSlow (30 s more: two name servers that say nothing, three times 5 s each), kNameTryAgain
// (EAI_AGAIN), kNameUnknown (EAI_NONAME), kNameOutOfDescriptors (EAI_NONAME with errno EMFILE,
// docs/kernel.md 11), kNameNoData (EAI_NODATA), kNameChanged: a zone under a load balancer or in a move.
// Several addresses stand in another order from then on, and at times one is left out; before a single
// one stands another that nobody has.
//
// Source: getaddrinfo(3) of glibc 2.36, resolv.conf(5). Nobody else's state: one world's, one thread's.
#ifndef HOLDFAST_SIM_NAMES_H_
#define HOLDFAST_SIM_NAMES_H_

#include <netdb.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <holdfast/endpoint.h>
#include <holdfast/time.h>
#include "base/intrusive_list.h"
#include "sim/faults.h"
#include "sim/schedule.h"
#include "sim/trace.h"

namespace holdfast::internal::sim {

class Names {
 public:
  Names(Schedule& schedule, FaultPlan& faults, Trace& trace) noexcept
      : schedule_(schedule), faults_(faults), trace_(trace) {}
  Names(const Names&) = delete;
  Names& operator=(const Names&) = delete;

  // What a look-up of `name` answers from now on. Without an entry: EAI_NONAME.
  struct Answer {
    std::vector<SocketAddress> addresses = {};     // Port 0. Empty with error 0: EAI_NODATA.
    int error = 0;                                 // An EAI_ value.
    int error_number = 0;                          // errno beside it (EMFILE with EAI_NONAME).
    Duration delay{std::chrono::milliseconds(1)};  // Duration::max(): never, but for EndAll.
  };
  void Set(const std::string& name, Answer answer) { answers_[name] = std::move(answer); }
  // Look-ups that go on end at once, with EAI_AGAIN: the world ends.
  void EndAll();

  // getaddrinfo(3) on a task: gives way for the answer's delay; the answer is the one at its end.
  // Of `hints` the family, the type and AI_NUMERICHOST count; `service` is null or a number. The list
  // is made by `new` and freed by Free.
  int Lookup(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
             int* error_number);
  static void Free(addrinfo* list);

 private:
  struct Pending : ListNode {
    Schedule::Sleeper sleeper;
  };

  // Fills the addresses in; 0 or an EAI_ value.
  int LookupName(const std::string& name, std::vector<SocketAddress>* addresses, int* error_number);
  // False when EndAll ended it.
  bool Pause(Duration delay);
  bool Strikes(Fault fault, const std::string& name);
  std::vector<SocketAddress> Change(Answer& answer);

  Schedule& schedule_;
  FaultPlan& faults_;
  Trace& trace_;
  std::map<std::string, Answer> answers_;
  IntrusiveList<Pending> pending_;
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_NAMES_H_
