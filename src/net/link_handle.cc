// The public side of a link: it forwards; and the texts of what it tells.
#include <new>
#include <utility>

#include <holdfast/link.h>
#include "core/out_of_memory.h"
#include "net/link_core.h"
#include "net/options.h"
#include "net/outside.h"

namespace holdfast {
namespace {

// "800 ms"; "12.3 s" from 10 s on; whole milliseconds, rounded up, so that it is never "0 ms" early.
std::string FormatWait(Duration wait) {
  const std::int64_t ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  if (ms < 10'000) return std::to_string(ms) + " ms";
  const std::int64_t tenths = (ms + 50) / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

// What is smaller is copied: then many of them are one part of a send.
constexpr std::size_t kMoveMin = 1024;

template <class Container>
SendResult SendMoved(internal::LinkCore& core, Container&& message, const SendOptions& options) {
  if (message.size() < kMoveMin) {
    return core.Send({std::as_bytes(std::span(message.data(), message.size()))}, options);
  }
  using Owned = internal::OwnedBytes<std::remove_cvref_t<Container>>;
  auto* const owned = new (std::nothrow) Owned(std::move(message));
  if (owned == nullptr) return {SendStatus::kFull, 0};
  const SendResult result = core.Send({owned->bytes(), owned}, options);
  if (result.status != SendStatus::kQueued) {
    message = owned->GiveBack();
    owned->Release();
  }
  return result;
}

}  // namespace

std::string Down::ToString() const {
  // "connect: Connection refused (ECONNREFUSED)" with the peer behind the operation.
  std::string text = error.ToString();
  const std::string where = peer.empty() ? std::string(endpoint) : peer.ToString();
  const std::size_t colon = text.find(':');
  text.insert(colon == std::string::npos ? text.size() : colon, " " + where);
  text +=
      retry_in.has_value() ? ", next attempt in " + FormatWait(*retry_in) : ", no further attempt";
  return text;
}

absl::StatusOr<std::unique_ptr<Link>> Link::Create(Reactor& reactor, LinkOptions options,
                                                   void* user) {
  return internal::OrOutOfMemory([&] {
    return Create(reactor, std::make_shared<const LinkOptions>(std::move(options)), user);
  });
}

absl::StatusOr<std::unique_ptr<Link>> Link::Create(Reactor& reactor,
                                                   std::shared_ptr<const LinkOptions> options,
                                                   void* user) {
  using LinkOrStatus = absl::StatusOr<std::unique_ptr<Link>>;
  return internal::OrOutOfMemory([&]() -> LinkOrStatus {
    internal::ReactorCore& core = internal::ReactorCore::Of(reactor);
    if (absl::Status status = core.CheckProcess(); !status.ok()) return status;
    if (options == nullptr) return absl::InvalidArgumentError("LinkOptions = nullptr");
    if (absl::Status status = internal::ValidateLinkOptions(*options); !status.ok()) return status;
    return internal::LinkCore::Create(core, std::move(options), user);
  });
}

Link::~Link() {
  if (core_ != nullptr) core_->Abandon();
}
void Link::Start() { core_->Start(); }
SendResult Link::Send(std::span<const std::byte> message, const SendOptions& options) {
  return core_->Send({message}, options);
}
SendResult Link::Send(std::string&& message, const SendOptions& options) {
  return SendMoved(*core_, std::move(message), options);
}
SendResult Link::Send(std::vector<std::byte>&& message, const SendOptions& options) {
  return SendMoved(*core_, std::move(message), options);
}
SendResult Link::SendBorrowed(std::span<const std::byte> message,
                              absl::AnyInvocable<void()> release, const SendOptions& options) {
  auto* const borrowed =
      new (std::nothrow) internal::BorrowedBytes(core_->reactor(), message, std::move(release));
  if (borrowed == nullptr) return {SendStatus::kFull, 0};
  const SendResult result = core_->Send({message, borrowed}, options);
  if (result.status != SendStatus::kQueued) delete borrowed;
  return result;
}
bool Link::Ping(std::span<const std::byte> bytes) { return core_->Ping(bytes); }
void Link::PauseReceive() { core_->Pause(); }
void Link::ResumeReceive() { core_->Resume(); }
bool Link::Acknowledge(std::uint64_t sequence) { return core_->Acknowledge(sequence); }
SendStatus Link::Flush(absl::AnyInvocable<void(Link&, bool all_acked)> done) {
  return core_->Flush(std::move(done));
}
void Link::MarkHealthy() { core_->MarkHealthy(); }
void Link::RetryNow() { core_->RetryNow(); }
void Link::Drop(const Error& error) { core_->Drop(error); }
void Link::Close() { core_->Close(core_->options().drain, ClosedReason::kUser); }
void Link::Close(Duration drain) { core_->Close(drain, ClosedReason::kUser); }
LinkState Link::state() const noexcept { return core_->state(); }
bool Link::writable() const noexcept { return core_->writable(); }
std::size_t Link::queued_bytes() const noexcept { return core_->queued_bytes(); }
SocketAddress Link::local() const noexcept { return core_->local(); }
SocketAddress Link::peer() const noexcept { return core_->peer(); }
LinkStats Link::stats() const noexcept { return core_->stats(); }
std::vector<Transition> Link::history() const {
  return core_->reactor().recorder().Read(core_->id());
}
const TcpSnapshot& Link::last_tcp() const noexcept { return core_->last_tcp(); }
std::uint32_t Link::id() const noexcept { return core_->id(); }
void* Link::user() const noexcept { return core_->user(); }
const LinkOptions& Link::options() const noexcept { return core_->options(); }

}  // namespace holdfast
