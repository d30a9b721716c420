#include "net/resolver.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "core/error_table.h"

namespace holdfast::internal {
namespace {

constexpr int kThreadsMax = 4;

std::vector<SocketAddress> CopyAddresses(const addrinfo* list, std::uint16_t port) {
  std::vector<SocketAddress> addresses;
  for (; list != nullptr && addresses.size() < kAddressesMax; list = list->ai_next) {
    sockaddr_storage storage{};
    if (list->ai_addrlen > sizeof(storage)) continue;
    std::memcpy(&storage, list->ai_addr, list->ai_addrlen);
    if (list->ai_family == AF_INET) {
      reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
    } else if (list->ai_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = htons(port);
    } else {
      continue;
    }
    addresses.emplace_back(reinterpret_cast<const sockaddr*>(&storage), list->ai_addrlen);
  }
  return addresses;
}

}  // namespace

// One look-up. Two hold it, the thread and the resolver (or the mailbox, on the resolver's behalf);
// the last one deletes it. `mutex_` orders the thread's post against a cancellation: after Cancel the
// reactor is never touched again.
class ResolveRequest final : public MailNode {
 public:
  ResolveRequest(Resolver& resolver, std::string host, std::uint16_t port)
      : kernel_(resolver.core_.kernel()),
        core_(&resolver.core_),
        resolver_(&resolver),
        host_(std::move(host)),
        port_(port) {}

  // On a thread of the pool.
  void Work() noexcept {
    if (!IsWanted()) return Unref();  // Forgotten while it waited for a thread.
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    int error_number = 0;
    const int eai = kernel_.GetAddrInfo(host_.c_str(), nullptr, &hints, &list, &error_number);
    if (eai != 0) {
      error_ = ClassifyResolve(eai, error_number);
    } else {
      addresses_ = CopyAddresses(list, port_);
      kernel_.FreeAddrInfo(list);
      if (addresses_.empty()) {  // An answer without an address of a family that we speak.
        error_ = {Operation::kResolve, ErrorClass::kNameNotFound, Action::kBackOffSlow, 0};
      }
    }
    Finish();
  }
  // The look-up never ran: this host has no thread for it.
  void Fail(int error_number) noexcept {
    error_ = {Operation::kResolve, ErrorClass::kResource, Action::kBackOff, error_number};
    Finish();
  }
  // On the reactor's thread.
  void Cancel() noexcept {
    bool posted = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      core_ = nullptr;
      resolver_ = nullptr;
      posted = posted_;
    }
    if (!posted) Unref();  // Else the mailbox holds this reference, and lets it go.
  }

  void Deliver() noexcept override {
    AwaitPoster();
    if (Resolver* const resolver = std::exchange(resolver_, nullptr); resolver != nullptr) {
      resolver->request_ = nullptr;
      resolver->client_.OnResolved(error_, std::move(addresses_));
    }
    Unref();
  }
  void Discard() noexcept override {
    AwaitPoster();
    Unref();
  }

 private:
  ~ResolveRequest() = default;

  // The thread that posted may still be waking the reactor, which must not end before it has.
  void AwaitPoster() noexcept { const std::lock_guard<std::mutex> lock(mutex_); }

  [[nodiscard]] bool IsWanted() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    return core_ != nullptr;
  }

  void Finish() noexcept {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (core_ != nullptr) {
        posted_ = true;
        core_->PostNode(*this);
      }
    }
    Unref();
  }
  void Unref() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  Kernel& kernel_;
  std::mutex mutex_;
  ReactorCore* core_;    // Null once cancelled. Guarded by mutex_.
  bool posted_ = false;  // True from the moment it is in the mailbox. Guarded by mutex_.
  Resolver* resolver_;   // The reactor's thread only.
  const std::string host_;
  const std::uint16_t port_;
  Error error_{};
  std::vector<SocketAddress> addresses_;
  std::atomic<int> references_{2};
};

namespace {

// Leaked on purpose: its threads are detached and may outlive every static destructor.
class Pool {
 public:
  static Pool& Get() {
    static Pool* const pool = new Pool;
    return *pool;
  }

  void Submit(ResolveRequest& request) {
    int error = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(&request);
      if (idle_ < queue_.size() && threads_ < kThreadsMax) error = StartThread();
      if (error == 0 || threads_ > 0) {
        ready_.notify_one();
        return;
      }
      queue_.pop_back();
    }
    request.Fail(error);
  }

 private:
  int StartThread() {
    // No signal of the user's is ever handled on a thread of ours.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    const int error = pthread_create(
        &thread, &attributes,
        [](void* pool) -> void* {
          static_cast<Pool*>(pool)->Loop();
          return nullptr;
        },
        this);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error == 0) ++threads_;
    return error;
  }

  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      ++idle_;
      ready_.wait(lock, [this] { return !queue_.empty(); });
      --idle_;
      ResolveRequest* const request = queue_.front();
      queue_.pop_front();
      lock.unlock();
      request->Work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<ResolveRequest*> queue_;  // Bounded by the number of links, one each.
  std::size_t idle_ = 0;
  int threads_ = 0;
};

}  // namespace

void Resolver::Resolve(const std::string& host, std::uint16_t port) {
  HOLDFAST_CHECK(request_ == nullptr);
  request_ = new ResolveRequest(*this, host, port);
  Pool::Get().Submit(*request_);
}

void Resolver::Cancel() noexcept {
  if (request_ != nullptr) std::exchange(request_, nullptr)->Cancel();
}

}  // namespace holdfast::internal
