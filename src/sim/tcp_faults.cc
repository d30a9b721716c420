// Everything that strikes a TCP connection on its own, each in one place (faults.h).
//
// What ends a live connection is done by a box on the way, such as a load balancer or a firewall
// that changed its mind: it tells each side what it likes, at the right place in the stream, and
// the two never hear of each other again. So what a host sees is always what some peer could have
// done, and what was acknowledged stays true: the box acknowledges data only where it says so in
// the record.
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sim/tcp_connection.h"

namespace holdfast::internal::sim {
namespace {

using std::chrono::milliseconds;

constexpr std::uint32_t kBoxWindow = 65'536;

Duration Draw(FaultPlan& faults, std::uint64_t low_ms, std::uint64_t high_ms) {
  return milliseconds(static_cast<std::int64_t>(faults.random().Between(low_ms, high_ms)));
}

int DrawUnreachable(FaultPlan& faults) {
  constexpr int kErrors[] = {EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, ENOPROTOOPT};
  return kErrors[faults.random().Below(4)];
}

}  // namespace

// --- A connect

int TcpConnection::StrikeConnect() {
  fate_ = ConnectFate::kNone;
  FaultPlan& plan = faults();
  const auto icmp = [&](int error, ConnectFate fate = ConnectFate::kIcmp) {
    fate_ = fate;
    fate_error_ = error;
    return 0;
  };
  if (plan.Strikes(Fault::kNetUnreachable)) return -ENETUNREACH;
  if (plan.Strikes(Fault::kProhibited)) return -EACCES;
  if (plan.Strikes(Fault::kBlackhole)) return -EINVAL;
  if (plan.Strikes(Fault::kAddressNotAvailable)) return -EADDRNOTAVAIL;
  if (plan.Strikes(Fault::kNoMemory)) return -ENOBUFS;
  if (plan.Strikes(Fault::kHostUnreachable)) return icmp(EHOSTUNREACH);
  if (plan.Strikes(Fault::kRefusedIcmpPort)) return icmp(ECONNREFUSED);
  if (plan.Strikes(Fault::kProtocolUnreachable)) return icmp(ENOPROTOOPT);
  if (plan.Strikes(Fault::kSoftIcmpWhileOwned)) {
    return icmp(DrawUnreachable(plan), ConnectFate::kIcmpWhileOwned);
  }
  if (plan.Strikes(Fault::kRefusedReset)) {
    fate_ = ConnectFate::kReset;
  } else if (plan.Strikes(Fault::kConnectSilent)) {
    fate_ = ConnectFate::kSilent;
  } else if (plan.Strikes(Fault::kLateConnect)) {
    fate_ = ConnectFate::kLate;
  }
  return 0;
}

void TcpConnection::SendSynToItsFate(Segment segment) {
  const Duration latency = network().LatencyTo(stack_.host(), tuple_.peer);
  Segment answer;
  answer.from = tuple_.peer;
  answer.to = tuple_.local;
  answer.seq = segment.seq;
  switch (fate_) {
    case ConnectFate::kNone:
      network().Transmit(stack_.host(), std::move(segment));
      return;
    case ConnectFate::kSilent:
      return;
    case ConnectFate::kLate: {
      // Only the first one, and it is on its way for longer than anybody waits.
      if (!segment.owned) return;
      segment.owned = false;
      schedule().After(Draw(faults(), 5'000, 75'000),
                       [host = &stack_.host(), segment = std::move(segment)]() mutable {
                         host->network().Transmit(*host, std::move(segment));
                         host->network().DrainLocal();
                       });
      return;
    }
    case ConnectFate::kReset:
      answer.flags = kRst | kAck;
      answer.ack = segment.end();
      answer.seq = 0;
      break;
    case ConnectFate::kIcmpWhileOwned:
      answer.icmp_error = fate_error_;
      answer.owned = segment.owned;
      if (segment.owned) {
        ArriveIcmp(answer);
        return;
      }
      break;
    case ConnectFate::kIcmp:
      answer.icmp_error = fate_error_;
      break;
  }
  schedule().After(2 * latency, [host = &stack_.host(), answer = std::move(answer)]() mutable {
    if (host->up()) host->tcp().Arrive(std::move(answer));
    host->network().DrainLocal();
  });
}

bool TcpConnection::StrikeAccepted() {
  if (faults().Strikes(Fault::kResetAfterConnect)) {
    orphaned_ = true;
    SendReset();
    Done();
    return true;
  }
  if (faults().Strikes(Fault::kFinAfterConnect)) {
    options_.linger = false;
    Close();
    return true;
  }
  return false;
}

// --- A call

int TcpConnection::StrikeCall(bool sends) {
  if (now() < storm_until_) {
    if (sends) no_space_ = true;
    return -EAGAIN;
  }
  if (faults().Strikes(Fault::kEagainStorm)) {
    const Duration storm = Draw(faults(), 0, 5) + Duration(std::chrono::microseconds(1));
    storm_until_ = SaturatingAdd(now(), storm);
    WakeLater(storm, EPOLLIN | EPOLLOUT);
    stack_.host().NoteHeldBack(storm);
    return -EAGAIN;
  }
  if (faults().Strikes(Fault::kNoMemory)) {
    // The edge that the call took is given back: the memory is there again.
    WakeLater(Duration::zero(), EPOLLIN | EPOLLOUT);
    return faults().random().Below(2) == 0 ? -ENOMEM : -ENOBUFS;
  }
  return 0;
}

void TcpConnection::WakeLater(Duration delay, std::uint32_t events) {
  schedule().After(delay, [self = weak_from_this(), events] {
    if (const auto connection = self.lock()) connection->Wake(events);
  });
}

// --- What arrives

void TcpConnection::CorruptPayload(std::string& payload) {
  if (!faults().Strikes(Fault::kCorruption)) return;
  const std::uint64_t place = faults().random().Below(payload.size());
  const std::uint64_t bit = faults().random().Below(8);
  payload[place] = static_cast<char>(static_cast<unsigned char>(payload[place]) ^ (1u << bit));
}

void TcpConnection::StrikeArrival(bool has_data) {
  if (box_ != Box::kNone) return;
  FaultPlan& plan = faults();
  if (has_data && plan.Strikes(Fault::kResetWithDataQueued)) {
    Interpose(Box::kRejects, false, true);
  } else if (plan.Strikes(Fault::kResetTakenByOther)) {
    Interpose(Box::kRejects, false, true);
    // Whoever else holds the socket was told (docs/kernel.md 2).
    error_ = 0;
  } else if (plan.Strikes(Fault::kFin)) {
    Interpose(Box::kRejects, true, false);
  } else if (plan.Strikes(Fault::kFinThenReset)) {
    Interpose(Box::kRejects, true, true);
  } else if (plan.Strikes(Fault::kHalfClose)) {
    Interpose(Box::kSwallows, true, false);
  } else if (plan.Strikes(Fault::kZeroWindow)) {
    CloseWindowFor(Draw(plan, 1, std::uint64_t{1} << plan.random().Between(4, 16)));
  } else if (plan.Strikes(Fault::kSilentLoss)) {
    Interpose(Box::kSilent, false, false);
  } else if (plan.Strikes(Fault::kTimedOut)) {
    Interpose(Box::kSilent, false, false);
    Die(ETIMEDOUT);
  } else if (plan.Strikes(Fault::kSoftErrorDeath)) {
    Interpose(Box::kSilent, false, false);
    Die(DrawUnreachable(plan));
  } else if (plan.Strikes(Fault::kAborted)) {
    SendReset();
    Die(ECONNABORTED);
  }
}

// As if the peer had closed its window. It is told again with zero.
void TcpConnection::CloseWindowFor(Duration duration) {
  window_closed_ = duration > Duration::zero();
  if (window_closed_) {
    snd_wnd_ = static_cast<std::uint32_t>(snd_nxt_ - snd_una_);  // What is on its way was allowed.
    end_at_ = SaturatingAdd(now(), duration);
    Arm();
    return;
  }
  snd_wnd_ = peer_window_;
  probing_since_ = kNever;
  probe_at_ = kNever;
  backoff_ = 0;
  Output();
}

// --- The box

void TcpConnection::Interpose(Box box, bool fin, bool reset) {
  const std::uint8_t first = fin ? kFin | kAck : reset ? kRst : 0;
  const auto speak = [&](TcpConnection& end, Duration delay) {
    if (first == 0) return;
    const std::uint64_t ack = end.snd_una_;
    end.schedule().After(delay, [self = end.weak_from_this(), first, ack] {
      if (const auto connection = self.lock()) connection->DeliverFromBox(first, ack);
    });
    if (!fin || !reset) return;
    end.schedule().After(delay + milliseconds(1), [self = end.weak_from_this(), ack] {
      if (const auto connection = self.lock()) connection->DeliverFromBox(kRst, ack);
    });
  };
  const Duration latency = network().LatencyTo(stack_.host(), tuple_.peer);
  Host* const host =
      stack_.host().Owns(tuple_.peer) ? &stack_.host() : network().FindHost(tuple_.peer);
  if (host != nullptr) {
    const auto other = host->tcp().Find({tuple_.peer, tuple_.local});
    if (other != nullptr && other.get() != this && other->box_ == Box::kNone) {
      other->box_ = box;
      speak(*other, latency);
    }
  }
  box_ = box;
  if (!fin && reset) {
    DeliverFromBox(kRst, snd_una_);  // Right behind the data that came.
  } else {
    speak(*this, Duration::zero());
  }
}

void TcpConnection::DeliverFromBox(std::uint8_t flags, std::uint64_t ack) {
  Segment segment;
  segment.from = tuple_.peer;
  segment.to = tuple_.local;
  segment.flags = flags;
  segment.ack = std::max(ack, snd_una_);
  segment.window = kBoxWindow;
  segment.from_box = true;
  if (stack_.host().up() && alive()) Arrive(std::move(segment));
  network().DrainLocal();
}

void TcpConnection::AnswerFromBox(const Segment& segment) {
  if (box_ == Box::kSilent || segment.has(kRst)) return;
  const bool probe = segment.end() == segment.seq && segment.seq < snd_nxt_;
  if (segment.end() == segment.seq && !probe) return;  // Nobody answers an acknowledgement.
  std::uint8_t flags = kAck;
  std::uint64_t ack = snd_una_;
  if (box_ == Box::kSwallows) {
    ack = segment.end();
    if (record_ != nullptr) {
      std::uint64_t& received = record_->received_by_kernel[1 - side_];
      received = std::max(received, segment.seq + segment.payload.size() - (iss_ + 1));
    }
  } else if (probe || !segment.payload.empty() || segment.seq != snd_una_) {
    flags = kRst;
  } else {
    ack = segment.end();  // A FIN with everything before it acknowledged.
  }
  if (probe) ack = snd_una_;
  const Duration latency = network().LatencyTo(stack_.host(), tuple_.peer);
  schedule().After(2 * latency, [self = weak_from_this(), flags, ack] {
    if (const auto connection = self.lock()) connection->DeliverFromBox(flags, ack);
  });
}

}  // namespace holdfast::internal::sim
