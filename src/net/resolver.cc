#include "net/resolver.h"

#include <netinet/in.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "base/intrusive_list.h"
#include "core/endpoint_parts.h"
#include "core/error_codes.h"
#include "core/error_table.h"
#include "sys/fork_mark.h"

namespace holdfast::internal {
namespace {

constexpr int kThreadsMax = 4;  // Of a kernel.

// False when there is no memory for them.
[[nodiscard]] bool CopyAddresses(const addrinfo* list, std::uint16_t port,
                                 TryVector<SocketAddress>* addresses) noexcept {
  for (; list != nullptr && addresses->size() < kAddressesMax; list = list->ai_next) {
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
    const SocketAddress address(reinterpret_cast<const sockaddr*>(&storage), list->ai_addrlen);
    if (!addresses->TryPushBack(address)) return false;
  }
  return true;
}

}  // namespace

// One look-up. Two hold it, the thread and the resolver (or the mailbox, on the resolver's behalf);
// the last one deletes it. `mutex_` orders the thread's post against a cancellation: after Cancel the
// reactor is never touched again.
class ResolveRequest final : public MailNode, public ListNode {
 public:
  // Requires: a host of at most kHostSizeMax bytes.
  ResolveRequest(Resolver& resolver, std::string_view host, std::uint16_t port) noexcept
      : kernel_(resolver.core_.kernel()),
        core_(&resolver.core_),
        resolver_(&resolver),
        port_(port) {
    HOLDFAST_CHECK(host.size() <= kHostSizeMax);
    std::memcpy(host_, host.data(), host.size());
  }

  // On a thread of the pool.
  void Work() noexcept {
    if (!IsWanted()) return Unref();  // Forgotten while it waited for a thread.
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    int error_number = 0;
    const int eai = kernel_.GetAddrInfo(host_, nullptr, &hints, &list, &error_number);
    if (eai != 0) {
      error_ = ClassifyResolve(eai, error_number);
    } else {
      const bool copied = CopyAddresses(list, port_, &addresses_);
      kernel_.FreeAddrInfo(list);
      if (!copied) {
        error_ = NoMemory(-kNoMemoryCode);
      } else if (addresses_.empty()) {  // An answer without an address of a family that we speak.
        error_ = {Operation::kResolve, ErrorClass::kNameNotFound, Action::kBackOffSlow, 0};
      }
    }
    Finish();
  }
  // The look-up never ran: this host has no thread for it.
  void Fail(int error_number) noexcept {
    error_ = NoMemory(error_number);
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
    // Whoever waits for it may still be destroyed, by what is discarded after this. In a forked child a
    // resolver that has been destroyed has not said so (Cancel).
    if (resolver_ != nullptr && !fork_.forked()) resolver_->request_ = nullptr;
    Unref();
  }

 private:
  ~ResolveRequest() = default;

  [[nodiscard]] static Error NoMemory(int error_number) noexcept {
    return {Operation::kResolve, ErrorClass::kResource, Action::kBackOff, error_number};
  }

  // The thread that posted may still be waking the reactor, which must not end before it has. A forked
  // child has no such thread, and a mutex that it may have left locked.
  void AwaitPoster() noexcept {
    if (fork_.forked()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
  }

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
  const ForkMark fork_;
  std::mutex mutex_;
  ReactorCore* core_;    // Null once cancelled. Guarded by mutex_.
  bool posted_ = false;  // True from the moment it is in the mailbox. Guarded by mutex_.
  Resolver* resolver_;   // The reactor's thread only.
  char host_[kHostSizeMax + 1] = {};
  const std::uint16_t port_;
  Error error_{};
  TryVector<SocketAddress> addresses_;
  std::atomic<int> references_{2};
};

namespace {

// The threads of one kernel and what waits for them. Nobody waits for work: a thread works off the
// queue and ends when that is empty. So a thread costs one pthread_create(3) whenever all was quiet
// before, which is little beside a look-up; and a kernel whose threads are coroutines of one thread of
// the machine needs no condition variable, on which they would all sleep at once.
struct Pool : ListNode {
  explicit Pool(Kernel& of) noexcept : kernel(of) {}
  Kernel& kernel;
  IntrusiveList<ResolveRequest> queue;
  int threads = 0;
};

// A pool stands here only while it has a thread (and so while anything is queued): nobody says when a
// kernel ends, and another one may come to its address.
struct Registry {
  ForkMark fork;
  std::mutex mutex;  // Of all pools. Never held during a look-up or a post.
  IntrusiveList<Pool> pools;

  [[nodiscard]] Pool* Find(const Kernel& kernel) noexcept {
    for (Pool& pool : pools) {
      if (&pool.kernel == &kernel) return &pool;
    }
    return nullptr;
  }
  void Remove(Pool* pool) noexcept {
    pool->Unlink();
    delete pool;
  }
};

// Never destroyed: threads are detached and may outlive every static destructor. A child of fork(2) begins
// anew: of its parent's it has neither the threads nor, maybe, the mutex. Null without memory.
Registry* Pools() noexcept {
  static constinit std::atomic<Registry*> current{nullptr};
  Registry* known = current.load(std::memory_order_acquire);
  if (known != nullptr && !known->fork.forked()) return known;
  auto* const fresh = new (std::nothrow) Registry;
  if (fresh == nullptr) return nullptr;
  if (current.compare_exchange_strong(known, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh;  // Another thread was faster.
  return known;
}

// The body of a thread.
void WorkOff(void* mine) {
  Pool* const pool = static_cast<Pool*>(mine);
  Registry& registry = *Pools();  // Which has this pool.
  for (;;) {
    ResolveRequest* request = nullptr;
    {
      const std::lock_guard<std::mutex> lock(registry.mutex);
      request = pool->queue.PopFront();
      if (request == nullptr) {
        if (--pool->threads == 0) registry.Remove(pool);
        return;
      }
    }
    request->Work();
  }
}

// 0, or the errno for which no thread will ever come to it.
int Enqueue(Kernel& kernel, ResolveRequest& request) noexcept {
  Registry* const registry = Pools();
  if (registry == nullptr) return -kNoMemoryCode;
  const std::lock_guard<std::mutex> lock(registry->mutex);
  Pool* pool = registry->Find(kernel);
  if (pool == nullptr) {
    pool = new (std::nothrow) Pool(kernel);
    if (pool == nullptr) return -kNoMemoryCode;
    registry->pools.PushBack(*pool);
  }
  pool->queue.PushBack(request);
  if (pool->threads == kThreadsMax) return 0;
  const int error = -kernel.StartThread(&WorkOff, pool);
  if (error == 0) ++pool->threads;
  if (pool->threads > 0) return 0;  // Where none could be started one of the others comes to it.
  request.Unlink();
  registry->Remove(pool);
  return error;
}

}  // namespace

bool Resolver::Resolve(std::string_view host, std::uint16_t port) noexcept {
  HOLDFAST_CHECK(request_ == nullptr);
  request_ = new (std::nothrow) ResolveRequest(*this, host, port);
  if (request_ == nullptr) return false;
  if (const int error = Enqueue(core_.kernel(), *request_); error != 0) request_->Fail(error);
  return true;
}

void Resolver::Cancel() noexcept {
  if (request_ == nullptr) return;
  ResolveRequest* const request = std::exchange(request_, nullptr);
  // In a child of fork(2) its thread, and with it its last reference, is gone.
  if (!core_.forked()) request->Cancel();
}

}  // namespace holdfast::internal
