// What arrives at a TCP connection.
//
// Sources: net/ipv4/tcp_input.c (tcp_rcv_state_process, tcp_validate_incoming, tcp_ack, tcp_fin,
// tcp_reset), tcp_minisocks.c and tcp_ipv4.c (tcp_v4_err) of Linux 6.18.
//
// Paths keep the order, so the only gap is one that a loss left: what comes behind a gap is dropped
// and sent again, as if nobody had memory to keep it.
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "sim/tcp_connection.h"

namespace holdfast::internal::sim {

void TcpConnection::Arrive(Segment segment) {
  ++segments_in_;
  if (segment.icmp_error != 0) {
    ArriveIcmp(segment);
  } else if (state_ == TcpState::kListen) {
    ArriveAtListener(segment);
  } else if (box_ != Box::kNone && !segment.from_box) {
    return;  // The box speaks for the peer now.
  } else {
    // It speaks at the right place, whatever was on its way when it came between.
    if (segment.from_box) segment.seq = rcv_nxt_;
    if (state_ == TcpState::kSynSent) {
      ArriveInSynSent(segment);
    } else if (state_ == TcpState::kSynReceived) {
      ArriveInSynReceived(segment);
    } else if (alive()) {
      ArriveConnected(segment);
    }
  }
  if (alive()) Arm();
}

// tcp_v4_conn_request: the child exists from here on, but nobody can accept it yet.
void TcpConnection::ArriveAtListener(Segment& segment) {
  if (segment.has(kRst)) return;
  if (segment.flags != kSyn) {
    stack_.Refuse(segment);
    return;
  }
  if (listener_->queue.size() > listener_->backlog) return;  // Full: as if it had been lost.
  const std::shared_ptr<TcpConnection> child(new TcpConnection(stack_, domain_));
  child->options_ = options_;
  child->tuple_ = {segment.to, segment.from};
  child->shutdown_ = shutdown_;
  child->address_bound_ = address_bound_;  // sk_userlocks; but not the port's.
  child->opener_ = segment.opener;
  child->side_ = 1;
  child->request_of_ = weak_from_this();
  child->iss_ = network().NextConnection() << 36;
  child->snd_una_ = child->iss_ + 1;  // The SYN of a passive opener is not counted as acked.
  child->snd_nxt_ = child->write_seq_ = child->iss_ + 1;
  child->irs_ = segment.seq;
  child->rcv_nxt_ = segment.seq + 1;
  child->snd_wnd_ = child->max_window_ = child->peer_window_ = segment.window;
  child->snd_wl1_ = segment.seq;
  child->state_ = TcpState::kSynReceived;
  child->last_received_ = child->last_ack_ = child->head_sent_at_ = now();
  child->timed_seq_ = child->iss_ + 1;
  child->timed_at_ = now();
  stack_.SharePort(*child, *this);
  stack_.AddConnection(child);
  child->StartRetransmitTimer();
  child->SendSynAck();
  child->Arm();
}

// tcp_rcv_synsent_state_process
void TcpConnection::ArriveInSynSent(Segment& segment) {
  if (segment.has(kAck)) {
    if (segment.ack != snd_nxt_) {
      // From an older connection that the peer still believes in. It learns, and we try again soon.
      if (retransmits_ == 0) retransmit_at_ = TimerAt(std::chrono::milliseconds(2));
      if (!segment.has(kRst)) stack_.Refuse(segment);
      return;
    }
    if (segment.has(kRst)) {
      OnReset();
      return;
    }
    if (!segment.has(kSyn)) return;
    irs_ = segment.seq;
    rcv_nxt_ = segment.seq + 1;
    snd_wl1_ = segment.seq;
    if (!OnAck(segment)) return;
    snd_wnd_ = max_window_ = peer_window_ = segment.window;
    record_ = network().NewRecord(opener_, tuple_);
    Establish();
    SendAck();
    WakeAll();
    return;
  }
  if (segment.has(kRst) || !segment.has(kSyn)) return;
  // Two SYNs that crossed, or our own: a connection to itself.
  irs_ = segment.seq;
  rcv_nxt_ = segment.seq + 1;
  snd_wnd_ = max_window_ = peer_window_ = segment.window;
  snd_wl1_ = segment.seq;
  state_ = TcpState::kSynReceived;
  SendSynAck();
}

void TcpConnection::ArriveInSynReceived(Segment& segment) {
  if (segment.has(kRst)) {
    if (file_ != nullptr || orphaned_) {
      OnReset();
    } else {
      SetState(TcpState::kClose);  // A half-open request is forgotten without a word.
    }
    return;
  }
  const bool passive = side_ == 1;
  if (segment.has(kSyn) && !segment.has(kAck)) {
    SendSynAck();  // Ours was lost.
    return;
  }
  if (!segment.has(kAck)) return;
  const std::uint64_t expected = iss_ + 1;
  if (segment.ack < expected || segment.ack > snd_nxt_) {
    stack_.Refuse(segment);
    return;
  }
  if (passive) {
    // Who has listened there since knows nothing of it.
    const std::shared_ptr<TcpConnection> listener = request_of_.lock();
    if (listener == nullptr || listener->state_ != TcpState::kListen) {
      SendReset();
      SetState(TcpState::kClose);
      return;
    }
    if (listener->listener_->queue.size() > listener->listener_->backlog) return;
    record_ = network().RecordOf(opener_);
    if (!OnAck(segment)) return;
    if (timed_seq_ != 0) MeasureRoundTrip(now() - timed_at_);
    snd_wnd_ = peer_window_ = segment.window;
    Establish();
    if (!StrikeAccepted() && listener->Offer(shared_from_this())) listener->Wake(EPOLLIN);
    // A shutdown of the socket before it listened.
    if ((shutdown_ & kSendShutdown) != 0) CloseWriteSide();
  } else {
    if (!OnAck(segment)) return;
    snd_wnd_ = peer_window_ = segment.window;
    record_ = network().NewRecord(opener_, tuple_);
    Establish();
    WakeAll();
    if ((shutdown_ & kSendShutdown) != 0) CloseWriteSide();
  }
  // The answer to its own SYN has another one in it, and nothing more.
  if (!segment.has(kSyn) && alive()) ArriveConnected(segment);
}

void TcpConnection::Establish() {
  state_ = TcpState::kEstablished;
  retransmit_at_ = kNever;
  retransmits_ = timeouts_ = backoff_ = 0;
  timed_seq_ = 0;
  last_received_ = now();
  StartKeepalive();
}

// tcp_validate_incoming, tcp_rcv_state_process
void TcpConnection::ArriveConnected(Segment& segment) {
  const std::uint64_t window_end = std::max(rcv_edge_, rcv_nxt_);
  if (segment.has(kRst)) {
    if (segment.seq == rcv_nxt_) {
      OnReset();
    } else if (segment.seq > rcv_nxt_ && segment.seq <= window_end) {
      SendAck();  // A challenge (RFC 5961): the peer resets again, at the right place.
    }
    return;
  }
  if (segment.has(kSyn)) {
    SendAck();
    return;
  }
  if (segment.end() < rcv_nxt_ || segment.seq > window_end) {
    SendAck();  // A probe, or something that was there already.
    return;
  }
  if (!segment.has(kAck)) return;
  const bool has_data = !segment.payload.empty();
  if (!OnAck(segment) || !alive()) return;

  const bool had_something = has_data || segment.has(kFin);
  if (segment.seq > rcv_nxt_) {
    if (had_something) SendAck();
    return;
  }
  const std::uint64_t fresh_end = segment.seq + segment.payload.size();
  if ((state_ == TcpState::kFinWait1 || state_ == TcpState::kFinWait2) &&
      (shutdown_ & kReceiveShutdown) != 0 && has_data && fresh_end > rcv_nxt_) {
    // Nobody will read it: the sender must learn that it is lost (RFC 1122 4.2.2.13).
    stack_.Refuse(segment);
    OnReset();
    return;
  }
  const std::uint32_t segments_before = segments_out_;
  if (has_data) OnData(segment);
  if (segment.has(kFin) && alive() && rcv_nxt_ == fresh_end && !peer_fin_) OnFin();
  if (!alive()) return;
  Output();
  if (had_something && segments_out_ == segments_before) SendAck();
  if (state_ == TcpState::kEstablished) StrikeArrival(has_data);
}

void TcpConnection::OnData(Segment& segment) {
  if (peer_fin_) return;
  const std::uint64_t old = rcv_nxt_ - segment.seq;
  const std::uint64_t window_end = std::max(rcv_edge_, rcv_nxt_);
  if (old >= segment.payload.size()) return;
  segment.payload.erase(0, static_cast<std::size_t>(old));
  const std::uint64_t most = window_end - rcv_nxt_;
  if (segment.payload.size() > most) segment.payload.resize(static_cast<std::size_t>(most));
  const std::uint64_t size = segment.payload.size();
  if (size == 0) return;
  CorruptPayload(segment.payload);
  rcv_nxt_ += size;
  bytes_received_ += size;
  last_received_ = now();
  if (record_ != nullptr) {
    record_->received_by_kernel[side_] += size;
    record_->readable[side_] += size;
  }
  receive_.Append(std::move(segment.payload));
  segment.payload = std::string();
  Wake(EPOLLIN);
}

void TcpConnection::OnFin() {
  if (record_ != nullptr) record_->fin_at[side_] = schedule().now();
  ++rcv_nxt_;
  ++bytes_received_;
  peer_fin_ = true;
  shutdown_ |= kReceiveShutdown;
  switch (state_) {
    case TcpState::kEstablished:
    case TcpState::kSynReceived:
      state_ = TcpState::kCloseWait;
      WakeAll();
      break;
    case TcpState::kFinWait1:
      SendAck();
      state_ = TcpState::kClosing;
      WakeAll();
      break;
    case TcpState::kFinWait2:
      SendAck();
      BeginTimeWait();  // Wakes.
      break;
    default:
      break;
  }
}

void TcpConnection::OnReset() {
  if (record_ != nullptr) record_->reset_at[side_] = schedule().now();
  switch (state_) {
    case TcpState::kSynSent:
      Die(ECONNREFUSED);
      return;
    case TcpState::kCloseWait:
      Die(EPIPE);
      return;
    case TcpState::kClose:
      return;
    default:
      Die(ECONNRESET);
  }
}

bool TcpConnection::OnAck(const Segment& segment) {
  if (segment.ack > snd_nxt_) return false;  // Of what was never sent.
  if (segment.ack < snd_una_) return true;   // An old one.
  // Something worked.
  soft_error_ = 0;
  probes_ = 0;
  last_ack_ = now();
  if (record_ != nullptr) record_->last_ack_at[side_] = last_ack_;
  const std::uint64_t acked = segment.ack - snd_una_;
  if (acked > 0) {
    const auto data = static_cast<std::size_t>(std::min<std::uint64_t>(acked, send_.size()));
    if (data > 0) send_.Pop(data);
    snd_una_ = segment.ack;
    bytes_acked_ += acked;
    if (record_ != nullptr) {
      record_->acked[side_] = std::min(snd_una_ - (iss_ + 1), record_->sent[side_]);  // No FIN.
    }
    retransmits_ = timeouts_ = 0;
    backoff_ = 0;
    if (timed_seq_ != 0 && snd_una_ >= timed_seq_) {
      MeasureRoundTrip(now() - timed_at_);
      timed_seq_ = 0;
    }
    retransmit_at_ = kNever;
    if (has_data_sent()) {
      head_sent_at_ = now();
      StartRetransmitTimer();
    }
  }
  if (acked > 0 || segment.seq > snd_wl1_ ||
      (segment.seq == snd_wl1_ && segment.window > peer_window_) || segment.from_box) {
    snd_wl1_ = segment.seq;
    peer_window_ = segment.window;
  } else if (segment.seq == snd_wl1_ && segment.window == 0) {
    peer_window_ = 0;
  }
  if (!window_closed_) {
    snd_wnd_ = peer_window_;
  } else {
    snd_wnd_ -= static_cast<std::uint32_t>(std::min<std::uint64_t>(acked, snd_wnd_));
  }
  max_window_ = std::max(max_window_, snd_wnd_);
  if (state_ == TcpState::kSynSent || state_ == TcpState::kSynReceived) return true;
  if (acked > 0 && has_data_sent() && snd_una_ < recover_) Retransmit();
  if (!has_data_sent() && snd_nxt_ < write_seq_) {
    // tcp_ack_probe
    if (WindowEnd() > snd_nxt_) {
      backoff_ = 0;
      probing_since_ = kNever;
      probe_at_ = kNever;
    } else if (probe_at_ != kNever) {
      StartProbeTimer();
    }
  } else if (snd_nxt_ == write_seq_) {
    probe_at_ = kNever;
    probing_since_ = kNever;
  }
  if (acked > 0) {
    if (fin_queued_ && snd_una_ == write_seq_) OnOwnFinAcked();
    CheckSpace();
  }
  if (alive()) Output();
  return true;
}

// tcp_v4_err. What connect(2) holds, or what is connected, keeps the error for later: it is told
// only if nothing else works in the end (docs/kernel.md 1, 5, 7).
void TcpConnection::ArriveIcmp(const Segment& message) {
  if (message.seq > snd_nxt_ || (message.seq < snd_una_ && state_ != TcpState::kSynSent)) return;
  switch (state_) {
    case TcpState::kSynSent:
      QueueError(message.icmp_error);
      if (message.owned) {
        soft_error_ = message.icmp_error;
      } else {
        Die(message.icmp_error);
      }
      break;
    case TcpState::kSynReceived:
    case TcpState::kListen:
    case TcpState::kClose:
      break;
    default:
      soft_error_ = message.icmp_error;
  }
}

}  // namespace holdfast::internal::sim
