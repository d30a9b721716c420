#include "sim/tcp_connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace holdfast::internal::sim {
namespace {

constexpr std::uint32_t kEverything = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
constexpr Duration kFinTimeout = std::chrono::seconds(60);  // tcp_fin_timeout

// What a socket may queue before anybody sets SO_SNDBUF: what tcp_sndbuf_expand makes of the first
// window, with the segments of an Ethernet and with those of loopback.
constexpr std::uint32_t kSendBuffer = 87'040;
constexpr std::uint32_t kSendBufferOfLoopback = 2'626'560;

}  // namespace

const char* ToString(TcpState state) noexcept {
  constexpr const char* kNames[] = {"",           "ESTABLISHED", "SYN_SENT",  "SYN_RECV",
                                    "FIN_WAIT1",  "FIN_WAIT2",   "TIME_WAIT", "CLOSE",
                                    "CLOSE_WAIT", "LAST_ACK",    "LISTEN",    "CLOSING"};
  return kNames[static_cast<std::size_t>(state)];
}

TcpConnection::TcpConnection(TcpStack& stack, int domain) noexcept
    : stack_(stack), domain_(domain) {
  if (domain == AF_INET) tuple_.local = TcpAddress::V4(INADDR_ANY);
}

TcpConnection::~TcpConnection() {
  if (on_port_) stack_.ReleasePort(*this);
}

// tcp_set_state
void TcpConnection::SetState(TcpState state) {
  const TcpState before = std::exchange(state_, state);
  if (state != TcpState::kClose) return;
  if (record_ != nullptr) record_->ended[side_] = true;
  retransmit_at_ = probe_at_ = end_at_ = keepalive_at_ = kNever;
  event_at_ = keepalive_event_at_ = kNever;
  if (before == TcpState::kListen) {
    stack_.RemoveListener(*this);
  } else if (before != TcpState::kClose) {
    stack_.RemoveConnection(*this);
  }
  if (on_port_ && !port_bound_) stack_.ReleasePort(*this);
}

void TcpConnection::Wake(std::uint32_t events) {
  if (file_ == nullptr) return;
  // Whoever is woken may let go of the last reference.
  const std::shared_ptr<File> file = file_->weak_from_this().lock();
  if (file != nullptr) file->Wake(events);
}

void TcpConnection::WakeAll() { Wake(kEverything); }

std::size_t TcpConnection::send_buffer() const noexcept {
  std::uint32_t size = options_.send_buffer;
  if (size == 0) {
    size = stack_.host().Owns(tuple_.peer) ? kSendBufferOfLoopback : kSendBuffer;
  }
  return moderated_ == 0 ? size : std::min(size, moderated_);
}

bool TcpConnection::IsWriteable() const noexcept {
  const std::size_t queued = send_.size();
  return queued + queued / 2 <= send_buffer();
}

std::size_t TcpConnection::SendRoom() const noexcept {
  const std::size_t size = send_buffer();
  return size > send_.size() ? size - send_.size() : 0;
}

void TcpConnection::WakeWriteSpace() {
  if (!IsWriteable()) return;
  no_space_ = false;
  moderated_ = 0;
  Wake(EPOLLOUT);
}

// tcp_check_space
void TcpConnection::CheckSpace() {
  if (no_space_) WakeWriteSpace();
}

int TcpConnection::TakeError() noexcept { return std::exchange(error_, 0); }

void TcpConnection::QueueError(int error) {
  if (errors_queued_ < UINT8_MAX) ++errors_queued_;
  queued_error_ = error;
  Wake(EPOLLERR);
}

// Draining the queue takes the error that the last message left, too.
bool TcpConnection::DequeueError() {
  if (errors_queued_ == 0) return false;
  --errors_queued_;
  error_ = errors_queued_ > 0 ? queued_error_ : 0;
  if (errors_queued_ > 0) Wake(EPOLLERR);
  return true;
}

void TcpConnection::Purge() {
  send_.Clear();
  backoff_ = 0;
  timed_seq_ = 0;
}

void TcpConnection::Done() {
  SetState(TcpState::kClose);
  shutdown_ = kShutdownMask;
  WakeAll();
}

void TcpConnection::Die(int error) {
  error_ = error;
  Purge();
  Done();
  Wake(EPOLLERR);
}

void TcpConnection::TimeOut() {
  faults().Hit(soft_error_ != 0 ? Fault::kSoftErrorDeath : Fault::kTimedOut);
  Die(soft_error_ != 0 ? soft_error_ : ETIMEDOUT);
}

void TcpConnection::Forget() {
  file_ = nullptr;
  send_.Clear();
  receive_.Clear();
  listener_.reset();
  SetState(TcpState::kClose);
  shutdown_ = kShutdownMask;
  if (on_port_) stack_.ReleasePort(*this);
}

void TcpConnection::Abort() {
  if (!alive()) return;
  faults().Hit(Fault::kAborted);
  if (state_ == TcpState::kListen) {
    StopListening();
    SetState(TcpState::kClose);
  }
  const bool tell = state_ != TcpState::kSynSent && alive();
  if (tell) SendReset();
  Die(ECONNABORTED);
}

void TcpConnection::Disconnect() {
  const TcpState before = state_;
  switch (before) {
    case TcpState::kListen:
      StopListening();
      break;
    case TcpState::kEstablished:
    case TcpState::kCloseWait:
    case TcpState::kFinWait1:
    case TcpState::kFinWait2:
    case TcpState::kSynReceived:
      SendReset();
      error_ = ECONNRESET;
      break;
    case TcpState::kClosing:
    case TcpState::kLastAck:
      if (snd_nxt_ != write_seq_) {
        SendReset();
        error_ = ECONNRESET;
      }
      break;
    case TcpState::kSynSent:
      error_ = ECONNRESET;
      break;
    default:
      break;
  }
  // A port that a bind(2) chose is let go of at the end of a connection only.
  if (before != TcpState::kClose) SetState(TcpState::kClose);
  Purge();
  receive_.Clear();
  tuple_.peer.port = 0;
  if (!address_bound_) {
    tuple_.local.ip = domain_ == AF_INET ? TcpAddress::V4(INADDR_ANY).ip : TcpAddress().ip;
  }
  shutdown_ = 0;
  peer_fin_ = false;
  eof_read_ = false;
  fin_queued_ = false;
  no_space_ = false;
  rtt_us_ = 0;
  rtt_variation_us_ = 0;
  // snd_una_ and snd_nxt_ stay where they are: docs/kernel.md, "Giving up a live connection".
  write_seq_ += max_window_ + 2;
  probes_ = 0;
  probing_since_ = kNever;
  bytes_acked_ = 0;
  bytes_received_ = 0;
  bytes_sent_ = 0;
  bytes_retransmitted_ = 0;
  total_retransmits_ = 0;
  segments_in_ = 0;
  segments_out_ = 0;
  Wake(EPOLLERR);
}

void TcpConnection::CloseWriteSide() {
  switch (state_) {
    case TcpState::kEstablished:
    case TcpState::kSynReceived:
      state_ = TcpState::kFinWait1;
      break;
    case TcpState::kCloseWait:
      state_ = TcpState::kLastAck;
      break;
    default:
      return;
  }
  fin_queued_ = true;
  ++write_seq_;
  Output();
}

void TcpConnection::Close() {
  const std::shared_ptr<TcpConnection> self = shared_from_this();
  file_ = nullptr;
  orphaned_ = true;
  shutdown_ = kShutdownMask;
  const bool unread = !receive_.empty();
  receive_.Clear();
  switch (state_) {
    case TcpState::kClose:
      break;
    case TcpState::kListen:
      StopListening();
      SetState(TcpState::kClose);
      break;
    case TcpState::kSynSent:
      SetState(TcpState::kClose);
      break;
    default:
      if (unread) {
        // What was acknowledged will never be read, and the peer is told.
        SendReset();
        SetState(TcpState::kClose);
        Purge();
      } else if (options_.linger && options_.linger_s == 0) {
        Disconnect();
      } else {
        CloseWriteSide();
        if (state_ == TcpState::kFinWait2) end_at_ = TimerAt(kFinTimeout);
        Arm();
      }
  }
  if (!alive() && on_port_) stack_.ReleasePort(*this);
}

void TcpConnection::StopListening() {
  const std::unique_ptr<Listener> listener = std::move(listener_);
  for (const std::shared_ptr<TcpConnection>& child : listener->queue) {
    if (child->alive()) child->Disconnect();
  }
}

// tcp_time_wait: what is left of the connection is the stack's, and the socket is in CLOSE.
void TcpConnection::BeginTimeWait() {
  stack_.AddTimeWait(*this);
  Done();
}

void TcpConnection::OnOwnFinAcked() {
  switch (state_) {
    case TcpState::kFinWait1:
      state_ = TcpState::kFinWait2;
      shutdown_ |= kSendShutdown;
      if (orphaned_) {
        end_at_ = TimerAt(kFinTimeout);
      } else {
        WakeAll();
      }
      break;
    case TcpState::kClosing:
      BeginTimeWait();
      break;
    case TcpState::kLastAck:
      Done();
      break;
    default:
      break;
  }
}

void TcpConnection::BeginConnect(const TcpAddress& peer) {
  opener_ = network().NextConnection();
  side_ = 0;
  record_ = nullptr;
  tuple_.peer = peer;
  iss_ = opener_ << 36;
  snd_una_ = iss_;
  snd_nxt_ = write_seq_ = iss_ + 1;
  snd_wnd_ = max_window_ = 0;
  rcv_nxt_ = rcv_edge_ = 0;
  recover_ = 0;
  retransmits_ = timeouts_ = backoff_ = probes_ = 0;
  soft_error_ = 0;
  error_ = 0;
  box_ = Box::kNone;
  head_sent_at_ = now();
  last_ack_ = last_received_ = now();
  timed_seq_ = snd_nxt_;
  timed_at_ = now();
  state_ = TcpState::kSynSent;
  stack_.AddConnection(shared_from_this());
  StartRetransmitTimer();
  SendSyn(true);
}

std::shared_ptr<TcpConnection> TcpConnection::Accept() {
  if (listener_ == nullptr || listener_->queue.empty()) return nullptr;
  std::shared_ptr<TcpConnection> child = std::move(listener_->queue.front());
  listener_->queue.pop_front();
  return child;
}

bool TcpConnection::Offer(std::shared_ptr<TcpConnection> child) {
  // sk_acceptq_is_full: one more than the backlog fits.
  if (listener_->queue.size() > listener_->backlog) return false;
  listener_->queue.push_back(std::move(child));
  return true;
}

}  // namespace holdfast::internal::sim
