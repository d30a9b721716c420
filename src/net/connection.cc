#include "net/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "core/error_codes.h"
#include "core/error_table.h"
#include "machine/death.h"
#include "sys/socket_calls.h"

namespace holdfast::internal {
namespace {

// Some things give no event: an acknowledgement, the end of a shortage. They are looked at after 1 ms,
// then twice as late each time, up to 100 ms.
constexpr Duration kPollInitial = std::chrono::milliseconds(1);
constexpr Duration kPollMax = std::chrono::milliseconds(100);
// A shortage of kernel memory that lasts longer is a lost connection (tests/data/errors.csv, send ENOBUFS).
constexpr Duration kStallMax = std::chrono::seconds(1);
// After this long without a send what was acknowledged is let go: an idle link holds no block.
constexpr Duration kIdleTrim = std::chrono::seconds(1);

}  // namespace

Connection::Connection(ReactorCore& core, ConnectionOwner& owner, Keep keep) noexcept
    : core_(core), owner_(owner), queue_(core.blocks()), keep_(keep) {}

Connection::~Connection() {
  HOLDFAST_CHECK(phase_ == Phase::kNone);
  HOLDFAST_CHECK(socket_ == nullptr);
}

void Connection::Open(std::unique_ptr<Socket> socket, const ConnectionLimits& limits,
                      const Framing& framing) noexcept {
  HOLDFAST_CHECK(phase_ == Phase::kNone);
  HOLDFAST_CHECK(socket->idle());
  socket_ = std::move(socket);
  socket_->events = this;
  limits_ = limits;
  framing_ = &framing;
  frames_.Reset();
  phase_ = Phase::kOpen;
  write_ = WriteSide::kOpen;
  read_ = ReadSide::kOpen;
  room_ = Room::kYes;
  sticky_ = declared_ = {};
  received_ = 0;
  queue_.StartSession();
  send_use_ = SendUse::kWanted;
  acks_ = Acks::kUnwatched;
  trim_.Reset();
  send_stall_ = receive_stall_ = {};
  poll_interval_ = {};
  StartReceive();
}

// --- What the owner asks for.

void Connection::MakeRoom(std::size_t size) noexcept {
  if (!HasRoom(size) && size <= limits_.max) Trim();
}

void Connection::Refuse() noexcept {
  room_ = Room::kRefused;
  if (queue_.queued() <= limits_.low) PollSoon();  // Only acknowledgements can make room.
}

Connection::Queued Connection::Admit(std::size_t size) const noexcept {
  if (!can_send()) return Queued::kClosed;
  if (size > limits_.max) return Queued::kTooLarge;
  return HasRoom(size) ? Queued::kYes : Queued::kFull;
}

Connection::Queued Connection::Enqueued(bool taken) noexcept {
  if (!taken) {
    Refuse();
    return Queued::kFull;
  }
  trim_.OnMessage();
  if (room_ == Room::kYes && queue_.queued() >= limits_.high) room_ = Room::kNo;
  core_.MarkDirty(*this);
  return Queued::kYes;
}

Connection::Queued Connection::Send(std::span<const std::byte> bytes) noexcept {
  const Queued room = Admit(bytes.size());
  if (room == Queued::kClosed || room == Queued::kTooLarge) return room;
  return Enqueued(room == Queued::kYes && queue_.Append(bytes));
}

bool Connection::SendIfRoom(std::span<const std::byte> bytes) noexcept {
  if (Admit(bytes.size()) != Queued::kYes || !queue_.Append(bytes)) return false;
  static_cast<void>(Enqueued(true));
  return true;
}

Connection::Queued Connection::Send(const Payload& payload,
                                    const MessageQueue::Label& label) noexcept {
  const Queued room = Admit(payload.bytes.size());
  if (room == Queued::kTooLarge) return room;
  return Enqueued(room == Queued::kYes && queue_.AppendMessage(payload, label));
}

void Connection::Join(MessageQueue& backlog) noexcept {
  if (backlog.messages() == 0) return;
  queue_.JoinBehind(backlog);
  static_cast<void>(Enqueued(true));
}

void Connection::TakeBack() noexcept {
  send_use_ = SendUse::kTakenBack;
  core_.backend().Cancel(*socket_, OpKind::kSend);
}

void Connection::WatchAcks() noexcept {
  acks_ = Acks::kWatched;
  PollSoon();
}

void Connection::Pause() noexcept {
  if (!in_use() || read_ != ReadSide::kOpen) return;
  read_ = ReadSide::kPaused;
  if (phase_ == Phase::kDraining) return held_.Clear();  // It reads on, to the end, and drops.
  receive_stall_ = {};
  core_.backend().Cancel(*socket_, OpKind::kReceive);
}

void Connection::Resume() noexcept {
  if (phase_ != Phase::kOpen || read_ != ReadSide::kPaused) return;
  read_ = ReadSide::kOpen;
  core_.Defer(*this);  // What is held comes first, and not inside this call.
}

void Connection::CloseWrite() noexcept {
  if (phase_ != Phase::kOpen || write_ != WriteSide::kOpen) return;
  write_ = WriteSide::kClosing;
  core_.MarkDirty(*this);
}

void Connection::Drain(Instant deadline) noexcept {
  HOLDFAST_CHECK(phase_ == Phase::kOpen);
  phase_ = Phase::kDraining;
  drain_deadline_ = deadline;
  poll_interval_ = {};
  if (write_ == WriteSide::kOpen) write_ = WriteSide::kClosing;
  // Paused or not, it reads to the end of file; what is paused is read and dropped.
  if (read_ == ReadSide::kPaused) held_.Clear();
  StartReceive();
  core_.MarkDirty(*this);
  owner_.OnDeadlineChanged();
}

void Connection::HastenDrain(Instant deadline) noexcept {
  if (phase_ != Phase::kDraining || deadline >= drain_deadline_) return;
  drain_deadline_ = deadline;
  owner_.OnDeadlineChanged();
}

void Connection::Settle(const Error& why) noexcept {
  HOLDFAST_CHECK(phase_ != Phase::kNone);
  if (phase_ == Phase::kSettling) return;
  // What had died by itself before is not ours to name.
  if (phase_ != Phase::kLost) declared_ = why;
  phase_ = Phase::kSettling;
  drain_deadline_ = poll_at_ = trim_at_ = kNever;
  core_.backend().Cancel(*socket_, OpKind::kReceive);
  core_.backend().Cancel(*socket_, OpKind::kSend);
  core_.Defer(*this);
}

// --- Deadlines.

Instant Connection::next_deadline() const noexcept {
  return std::min({drain_deadline_, poll_at_, trim_at_});
}

// While something that was sent is not known to be acknowledged, once a second at most.
void Connection::TrimLater() noexcept {
  if (trim_at_ != kNever || queue_.held() == 0) return;
  trim_at_ = SaturatingAdd(core_.now(), kIdleTrim);
  owner_.OnDeadlineChanged();
}

void Connection::PollSoon() noexcept {
  if (poll_at_ != kNever) return;
  poll_interval_ = std::clamp(poll_interval_ * 2, kPollInitial, kPollMax);
  poll_at_ = SaturatingAdd(core_.now(), poll_interval_);
  owner_.OnDeadlineChanged();
}

void Connection::OnDeadline(Instant now) noexcept {
  if (now >= drain_deadline_) {
    Settle(Error::Deadline(Operation::kClose));
    return;
  }
  if (now >= trim_at_) {
    trim_at_ = kNever;
    Trim();
    TrimLater();
  }
  if (now < poll_at_) return;
  poll_at_ = kNever;
  if (write_ == WriteSide::kFailed) {
    Lose();  // Its receive should have ended long ago.
    return;
  }
  if (IsOver(send_stall_, socket_->send)) send_stall_ = {};
  if (IsOver(receive_stall_, socket_->receive)) receive_stall_ = {};
  for (const Stall* stall : {&send_stall_, &receive_stall_}) {
    if (stall->since == kNever || now - stall->since <= kStallMax) continue;
    Note(stall->error);
    Lose();
    return;
  }
  if (std::exchange(send_stall_.waits, false)) core_.MarkDirty(*this);
  if (std::exchange(receive_stall_.waits, false)) {
    StartReceive();
    PollSoon();  // To see whether it waits for bytes now: no event says so.
  }
  if (phase_ == Phase::kDraining) {
    ContinueDrain();
    return;
  }
  if (room_ != Room::kYes || acks_ == Acks::kWatched) {
    Trim();
    if (queue_.queued() == 0 && queue_.released() == queue_.sent()) acks_ = Acks::kUnwatched;
    if (acks_ == Acks::kWatched) PollSoon();
    CheckRoom();
  }
}

void Connection::Trim() noexcept {
  trim_.Reset();
  if (keep_ != Keep::kUntilAcked) return;
  if (socket_->domain == AF_UNIX) return owner_.OnAcked();
  const auto unacked = ReadUnacked(core_.kernel(), socket_->fd);
  if (!unacked.has_value()) return;
  const std::uint64_t boundary = AckedBoundary(queue_.sent(), *unacked, write_ == WriteSide::kShut);
  queue_.OnAcked(boundary);
  owner_.OnAcked();
}

std::optional<Instant> Connection::LastHeard() const noexcept {
  const auto age = ReadLastHeardAge(core_.kernel(), socket_->fd);
  if (!age.has_value()) return std::nullopt;
  return core_.kernel().ClockNow() - *age;
}

bool Connection::DiedUnseen() const noexcept {
  return ReadTcpState(core_.kernel(), socket_->fd) == kTcpClose;
}

// The last thing its caller does: OnWritable may end everything.
void Connection::CheckRoom() noexcept {
  if (room_ == Room::kYes || queue_.queued() > limits_.low || !can_send()) return;
  if (room_ == Room::kRefused && queue_.held() > limits_.max / 2) {
    PollSoon();
    return;
  }
  room_ = Room::kYes;
  // The interval stays: the owner may have a reason of its own to go on waiting (Refuse), and where it
  // has none, its next bytes begin anew.
  owner_.OnWritable();
}

// --- Sending.

void Connection::Flush() noexcept {
  if (!in_use() || core_.forked()) return;
  if (socket_->send != OpState::kIdle) return;  // OnSend comes back here.
  if (send_stall_.waits) return;                // So does OnDeadline.
  if (write_ != WriteSide::kOpen && write_ != WriteSide::kClosing) {
    ContinueDrain();
    return;
  }
  iovec parts[kSendPartsMax];
  const std::size_t count = queue_.Gather(parts, core_.now());
  if (count == 0) {
    // An empty message is sent with what stands before it, and acknowledged with that.
    queue_.OnSent(0);
    queue_.OnAcked(queue_.released());
    owner_.OnAcked();
    if (write_ == WriteSide::kClosing) {
      // The write side alone: both would destroy what the peer is still sending (docs/kernel.md). Where
      // the connection has died already no FIN is queued, and none may be counted.
      if (const int result = core_.kernel().Shutdown(socket_->fd, SHUT_WR); result < 0) {
        FailWrite(Classify(Call::kShutdown, -result));
        return;
      }
      write_ = WriteSide::kShut;
      ContinueDrain();
    }
    return;
  }
  std::size_t size = 0;
  for (std::size_t i = 0; i < count; ++i) size += parts[i].iov_len;
  const bool waited_for =
      size < queue_.queued() || room_ != Room::kYes || write_ == WriteSide::kClosing;
  core_.backend().Send(*socket_, std::span(parts, count),
                       waited_for ? Notify::kPromptly : Notify::kWithNextEvent);
}

void Connection::OnSend(Socket&, Result result) noexcept {
  const SendUse use = std::exchange(send_use_, SendUse::kWanted);
  queue_.OnSent(static_cast<std::size_t>(std::max(result.value, 0)));
  if (use == SendUse::kTakenBack) owner_.OnDeadlineChanged();  // What was wanted back is due.
  if (result.value > 0) {
    trim_.OnWritten(static_cast<std::size_t>(result.value));
    poll_interval_ = {};
    if (keep_ == Keep::kUntilSent || socket_->domain == AF_UNIX) {
      queue_.OnAcked(queue_.sent());
      owner_.OnAcked();
    } else if (trim_.due()) {
      Trim();
    }
  }
  if (phase_ == Phase::kLost || phase_ == Phase::kSettling) {
    if (!result.ok()) Note(result.error());
    core_.Defer(*this);
    return;
  }
  if (result.ok()) {
    send_stall_ = {};
    if (queue_.queued() > 0 || write_ == WriteSide::kClosing) {
      core_.MarkDirty(*this);
    } else {
      TrimLater();
    }
    CheckRoom();
    return;
  }
  const Error error = result.error();
  if (error.error_class == ErrorClass::kCancelled && use == SendUse::kTakenBack) {
    core_.MarkDirty(*this);
    return;
  }
  if (error.action == Action::kRetryInPlace) {
    Stalled(send_stall_, error);
    return;
  }
  FailWrite(error);
}

// The socket is dead, and its receive is about to end: what arrived before is still delivered, and the
// reason may be told there. Nothing to wait for where nothing is being received, or where the error is a
// bug (kStop): then nothing is sure any more.
void Connection::FailWrite(const Error& error) noexcept {
  Note(error);
  write_ = WriteSide::kFailed;
  // On AF_UNIX the figures say nothing more, and asking for them would take the errno that the receive is
  // about to tell.
  const bool local = socket_->domain == AF_UNIX;
  const Error meant = local ? error : OnceClosed(error, ReadFacts(DeathKind::kDeclared));
  if (meant.action == Action::kStop || socket_->receive == OpState::kIdle ||
      read_ != ReadSide::kOpen) {
    Lose();
    return;
  }
  poll_at_ = SaturatingAdd(core_.now(), kStallMax);
  owner_.OnDeadlineChanged();
}

// --- Receiving.

void Connection::StartReceive() noexcept {
  if (socket_->receive == OpState::kIdle && read_ != ReadSide::kEnded && !core_.forked()) {
    core_.backend().Receive(*socket_);
  }
}

void Connection::OnReceive(Socket&, Result result, const std::byte* data) noexcept {
  if (result.value <= 0) {
    OnReceiveEnd(result);
    return;
  }
  const std::span<const std::byte> bytes(data, static_cast<std::size_t>(result.value));
  received_ += bytes.size();
  receive_stall_ = {};
  // Closed while paused: the user does not want it.
  if (!in_use() || (read_ == ReadSide::kPaused && phase_ == Phase::kDraining)) return;
  if (read_ == ReadSide::kPaused || !held_.empty()) return Hold(bytes);
  Deliver(bytes);
}

void Connection::Hold(std::span<const std::byte> bytes) noexcept {
  if (held_.TryAppend(bytes)) return;
  // They are lost, and so is what follows them.
  LoseBy({Operation::kReceive, ErrorClass::kResource, Action::kBackOff, -kNoMemoryCode});
}

// Whatever the peer does meanwhile, this is the end's reason.
void Connection::LoseBy(const Error& error) noexcept {
  declared_ = error;
  core_.Count(declared_);
  Lose();
}

void Connection::Deliver(std::span<const std::byte> bytes) noexcept {
  owner_.OnBytes(bytes);
  if (!std::holds_alternative<std::monostate>(*framing_)) DeliverMessages(bytes);
}

// Each message may pause the rest, close the connection, or fork.
void Connection::DeliverMessages(std::span<const std::byte> bytes) noexcept {
  while (in_use() && !core_.forked()) {
    if (read_ == ReadSide::kPaused) {
      if (phase_ == Phase::kOpen && !bytes.empty()) Hold(bytes);
      return;
    }
    const FrameReader::Next next = frames_.Read(*framing_, bytes);
    switch (next.found) {
      case FrameReader::Found::kMessage:
        owner_.OnMessage(next.message);
        break;
      case FrameReader::Found::kMore:
        return;
      case FrameReader::Found::kTooLong:
        return FailFrames(kTooLongCode);
      case FrameReader::Found::kMalformed:
        return FailFrames(kMalformedCode);
      case FrameReader::Found::kNoMemory:
        return LoseBy(
            {Operation::kReceive, ErrorClass::kResource, Action::kBackOff, -kNoMemoryCode});
    }
  }
}

// What a peer says that is being closed anyway stops nothing: what was sent to it is still seen off.
void Connection::FailFrames(int code) noexcept {
  if (phase_ == Phase::kDraining) return;
  LoseBy({Operation::kReceive, ErrorClass::kProtocol, Action::kBackOff, -code});
}

void Connection::OnReceiveEnd(Result result) noexcept {
  const Error error = result.ok() ? Error{} : result.error();
  if (error.action != Action::kRetryInPlace) {
    receive_stall_ = {};
    if (error.failed()) Note(error);
  }
  if (phase_ == Phase::kLost || phase_ == Phase::kSettling) {
    core_.Defer(*this);
    return;
  }
  // Paused: the next Receive will say it again, or what is left of it; the reason is noted.
  if (read_ == ReadSide::kPaused && phase_ == Phase::kOpen) return;
  if (error.error_class == ErrorClass::kCancelled) {
    StartReceive();  // A pause that was taken back meanwhile.
    return;
  }
  if (error.action == Action::kRetryInPlace) {
    Stalled(receive_stall_, error);
    return;
  }
  if (!held_.empty()) {
    StartReceive();  // What is held comes first; the end is said again.
    return;
  }
  if (error.failed()) {
    Lose();
    return;
  }
  const bool fin =
      socket_->domain == AF_UNIX || FinArrived(ReadFacts(DeathKind::kDeclared), received_);
  if (!fin) {
    Lose();  // A reset whose error another call has taken (docs/kernel.md 2).
    return;
  }
  read_ = ReadSide::kEnded;
  if (write_ == WriteSide::kFailed) {
    Lose();
  } else if (phase_ == Phase::kDraining) {
    ContinueDrain();
  } else {
    owner_.OnEndOfFile();
  }
}

void Connection::DeliverHeld() noexcept {
  const TryVector<std::byte> held = std::move(held_);
  if (!held.empty()) Deliver({held.data(), held.size()});
}

// --- The end.

void Connection::Note(const Error& error) noexcept {
  if (error.failed() && !sticky_.failed() && IsTelling(error.code)) {
    sticky_ = error;  // Counted once it is known what it means: Finish.
  } else {
    core_.Count(error);
  }
}

// This host is short of something; the connection lives, and the same call is made again soon.
void Connection::Stalled(Stall& stall, const Error& error) noexcept {
  if (stall.since == kNever) stall.since = core_.now();
  stall.error = error;
  stall.waits = true;
  PollSoon();
}

// The call was made again, and got as far as to wait for the peer.
bool Connection::IsOver(const Stall& stall, OpState operation) noexcept {
  return stall.since != kNever && operation != OpState::kIdle;
}

void Connection::Lose() noexcept {
  phase_ = Phase::kLost;
  drain_deadline_ = poll_at_ = trim_at_ = kNever;
  owner_.OnLost();
}

void Connection::ContinueDrain() noexcept {
  if (phase_ != Phase::kDraining) return;
  if (write_ != WriteSide::kShut || read_ != ReadSide::kEnded) return;
  // In this order: what was acknowledged before the connection was over is not called lost.
  const bool over = ReadTcpState(core_.kernel(), socket_->fd) == kTcpClose;
  const auto unacked = ReadUnacked(core_.kernel(), socket_->fd);
  if (unacked.value_or(0) == 0) {
    Settle(Error::Cancelled());
  } else if (over) {
    Lose();  // By a reset, which ends nothing that is armed here; the figure stands still for ever.
  } else {
    PollSoon();
  }
}

void Connection::RunDeferred() noexcept {
  if (phase_ == Phase::kSettling) {
    if (socket_->idle()) Finish();
    return;
  }
  if (in_use() && read_ == ReadSide::kOpen) {
    StartReceive();
    DeliverHeld();
  }
}

WireAccount Connection::ReadAccount(const DeathFacts& facts) noexcept {
  const std::uint64_t written = queue_.sent();
  if (!facts.tcp) {
    // On AF_UNIX nothing is acknowledged, but bytes that the peer has not read are still counted
    // (SIOCOUTQ), and a peer that closes with bytes unread leaves ECONNRESET behind. With both sides
    // shut, none unread and no error, the peer has read everything. Else nothing is known.
    const bool read_all = write_ == WriteSide::kShut && read_ == ReadSide::kEnded &&
                          facts.outq_valid && facts.outq == 0 && facts.socket_error == 0;
    return read_all ? WireAccount{written, written, true} : AccountOfUnknown(written, 0);
  }
  if (!facts.info_valid || !facts.outq_valid) return AccountOfUnknown(written, queue_.released());
  if (facts.tcp_state == kTcpClose) return AccountOfDead(written, facts);
  if (facts.outq == 0) return {written, written, true};
  const std::uint64_t acked = AckedBoundary(written, facts.outq, facts.own_fin);
  return AccountOfGivenUp(written, acked, DisconnectTwice(core_.kernel(), socket_->fd, facts.outq),
                          facts.own_fin);
}

DeathFacts Connection::ReadFacts(DeathKind kind) noexcept {
  // A child of fork(2): it lives on in the parent. Nothing is asked, and nothing cut off.
  if (core_.forked()) return {};
  return ReadDeathFacts(core_.kernel(), socket_->fd, socket_->domain, write_ == WriteSide::kShut,
                        kind);
}

// Nothing is in flight: the figures are read now, between the last completion and close.
void Connection::Finish() noexcept {
  SessionEnd end;
  end.facts = ReadFacts(declared_.failed() ? DeathKind::kDeclared : DeathKind::kOfItself);
  end.error = declared_.failed()
                  ? declared_
                  : JudgeDeath(end.facts, sticky_, read_ == ReadSide::kEnded, received_);
  core_.Count(OnceClosed(sticky_, end.facts));
  end.account = ReadAccount(end.facts);
  const bool all_sent = queue_.queued() == 0;
  end.delivered = all_sent && (!end.facts.tcp || end.account.acked == queue_.sent());
  end.bytes_sent = queue_.sent();
  end.bytes_received = received_;
  core_.backend().Close(*socket_);
  --core_.population().sockets;
  socket_.reset();
  if (Flushable::linked()) Flushable::Unlink();
  held_ = {};
  frames_.Reset();
  end.fates = queue_.Settle({.acked = end.account.acked, .sent = end.account.sent_boundary});
  phase_ = Phase::kNone;
  drain_deadline_ = poll_at_ = trim_at_ = kNever;
  owner_.OnSettled(end);
}

}  // namespace holdfast::internal
