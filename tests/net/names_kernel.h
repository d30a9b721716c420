// Linux with a resolver of the test's own: names answer what a script says, or hang until they may not.
//
// Everything but GetAddrInfo and FreeAddrInfo is passed on; threads are counted. One is never destroyed,
// as Linux is not: threads that look names up are detached, and hang as long as a test wants them to.
#ifndef HOLDFAST_TESTS_NET_NAMES_KERNEL_H_
#define HOLDFAST_TESTS_NET_NAMES_KERNEL_H_

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <holdfast/endpoint.h>

#include "net/net_fixture.h"
#include "support/forwarding_kernel.h"
#include "sys/kernel.h"

namespace holdfast::test {

class NamesKernel final : public internal::ForwardingKernel {
 public:
  NamesKernel() noexcept : ForwardingKernel(internal::RealKernel()) {}

  struct Answer {
    int eai = 0;
    int error_number = 0;
    std::vector<std::string> addresses = {};  // "127.0.0.2", "::1"; another family: "unix".
    bool hangs = false;                       // Until Release().
  };

  // Lives as long as the process.
  [[nodiscard]] static NamesKernel& Make() {
    static auto* const all = new std::vector<std::unique_ptr<NamesKernel>>;
    return *all->emplace_back(std::make_unique<NamesKernel>());
  }

  // What `name` answers from now on; an unknown one is EAI_NONAME.
  void Set(const std::string& name, Answer answer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    answers_[name] = std::move(answer);
  }
  // Every look-up that hangs, now or later, answers.
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] int calls() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return calls_;
  }
  // Look-ups that are going on, and the most there ever were at once.
  [[nodiscard]] int inside() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return inside_;
  }
  [[nodiscard]] int inside_max() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return inside_max_;
  }
  // Threads that run now, and all that ever did.
  [[nodiscard]] int threads() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return threads_;
  }
  [[nodiscard]] int threads_started() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return threads_started_;
  }
  [[nodiscard]] bool service_was_asked() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return service_was_asked_;
  }

  int StartThread(void (*run)(void*), void* argument) noexcept override {
    auto* const start = new Start{*this, run, argument};
    Count(1);
    const int result = inner_.StartThread(
        [](void* started) {
          const std::unique_ptr<Start> what(static_cast<Start*>(started));
          what->run(what->argument);
          what->kernel.Count(-1);
        },
        start);
    if (result != 0) {
      Count(-1);
      delete start;
    }
    return result;
  }
  int GetAddrInfo(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) noexcept override {
    std::unique_lock<std::mutex> lock(mutex_);
    ++calls_;
    inside_max_ = std::max(inside_max_, ++inside_);
    service_was_asked_ = service_was_asked_ || service != nullptr;
    const auto found = answers_.find(node);
    const Answer answer = found == answers_.end() ? Answer{.eai = EAI_NONAME} : found->second;
    if (answer.hangs) changed_.wait(lock, [this] { return released_; });
    *error_number = answer.error_number;
    *result = nullptr;
    if (answer.eai == 0) {
      *result = MakeList(answer.addresses, hints != nullptr ? hints->ai_socktype : SOCK_STREAM);
    }
    --inside_;
    return answer.eai;
  }
  void FreeAddrInfo(addrinfo* result) noexcept override {
    while (result != nullptr) {
      addrinfo* const next = result->ai_next;
      delete reinterpret_cast<sockaddr_storage*>(result->ai_addr);
      delete result;
      result = next;
    }
  }

 private:
  struct Start {
    NamesKernel& kernel;
    void (*run)(void*);
    void* argument;
  };

  void Count(int change) {
    const std::lock_guard<std::mutex> lock(mutex_);
    threads_ += change;
    if (change > 0) ++threads_started_;
  }

  static addrinfo* MakeList(const std::vector<std::string>& addresses, int type) {
    addrinfo* list = nullptr;
    for (auto text = addresses.rbegin(); text != addresses.rend(); ++text) {
      auto* const storage = new sockaddr_storage{};
      auto* const entry = new addrinfo{};
      auto* const v4 = reinterpret_cast<sockaddr_in*>(storage);
      auto* const v6 = reinterpret_cast<sockaddr_in6*>(storage);
      entry->ai_addrlen = sizeof(sockaddr_un);
      entry->ai_family = AF_UNIX;
      if (::inet_pton(AF_INET, text->c_str(), &v4->sin_addr) == 1) {
        entry->ai_family = AF_INET;
        entry->ai_addrlen = sizeof(sockaddr_in);
      } else if (::inet_pton(AF_INET6, text->c_str(), &v6->sin6_addr) == 1) {
        entry->ai_family = AF_INET6;
        entry->ai_addrlen = sizeof(sockaddr_in6);
      }
      storage->ss_family = static_cast<sa_family_t>(entry->ai_family);
      entry->ai_socktype = type;
      entry->ai_addr = reinterpret_cast<sockaddr*>(storage);
      entry->ai_next = list;
      list = entry;
    }
    return list;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Answer> answers_;
  bool released_ = false;
  bool service_was_asked_ = false;
  int calls_ = 0;
  int inside_ = 0;
  int inside_max_ = 0;
  int threads_ = 0;
  int threads_started_ = 0;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_NET_NAMES_KERNEL_H_
