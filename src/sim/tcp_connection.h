// One end of a TCP connection, or a listener: what Linux calls a struct sock.
//
// It may outlive its descriptor (a close sends a FIN and waits), and so is owned by its TcpSocket,
// by the stack's table while it is not in CLOSE, and by the accept queue of a listener, whichever
// lasts longest. Whoever calls in from outside holds a reference: a change to CLOSE drops the
// stack's.
//
// Sources: net/ipv4/tcp.c, tcp_input.c, tcp_output.c, tcp_timer.c of Linux 6.18, whose function is
// named where one is followed; RFC 9293; docs/kernel.md for what was measured.
//
// Idle, it has no event in the schedule; with keepalive it has one, and with anything else pending
// one more. A deadline that moves away leaves the event where it is: it looks again when it comes.
#ifndef HOLDFAST_SIM_TCP_CONNECTION_H_
#define HOLDFAST_SIM_TCP_CONNECTION_H_

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include <holdfast/time.h>

#include "base/intrusive_list.h"
#include "sim/byte_queue.h"
#include "sim/file.h"
#include "sim/network.h"
#include "sim/segment.h"
#include "sim/tcp.h"

namespace holdfast::internal::sim {

class TcpSocket;

// The values of tcpi_state (include/net/tcp_states.h).
enum class TcpState : std::uint8_t {
  kEstablished = 1,
  kSynSent,
  kSynReceived,
  kFinWait1,
  kFinWait2,
  kTimeWait,  // Never of a TcpConnection: the stack keeps those.
  kClose,
  kCloseWait,
  kLastAck,
  kListen,
  kClosing,
};
[[nodiscard]] const char* ToString(TcpState state) noexcept;

inline constexpr std::uint8_t kReceiveShutdown = 1;
inline constexpr std::uint8_t kSendShutdown = 2;
inline constexpr std::uint8_t kShutdownMask = 3;

// What setsockopt(2) sets and an accepted connection inherits. Buffers in bytes as the kernel
// counts them, twice what was asked for; times in the units of the option.
struct TcpOptions {
  std::uint32_t send_buffer = 0;  // 0: the default, which depends on the path.
  std::uint32_t receive_buffer = 131'072;
  std::uint32_t user_timeout_ms = 0;
  std::uint16_t keepalive_idle_s = 7200;
  std::uint16_t keepalive_interval_s = 75;
  std::uint8_t keepalive_probes = 9;
  std::uint8_t syn_retries = 0;  // 0: tcp_syn_retries.
  bool keepalive = false;
  bool nodelay = false;
  bool cork = false;
  bool linger = false;
  std::uint16_t linger_s = 0;
  bool reuse_address = false;
  bool reuse_port = false;
  bool v6_only = false;
  bool bind_without_port = false;
};

class TcpConnection final : public std::enable_shared_from_this<TcpConnection>, public ListNode {
 public:
  static constexpr std::uint64_t kSegmentMax = 65'536;  // GSO and GRO.

  TcpConnection(TcpStack& stack, int domain) noexcept;
  TcpConnection(const TcpConnection&) = delete;
  TcpConnection& operator=(const TcpConnection&) = delete;
  ~TcpConnection();

  [[nodiscard]] TcpState state() const noexcept { return state_; }
  [[nodiscard]] bool alive() const noexcept { return state_ != TcpState::kClose; }
  [[nodiscard]] const TcpAddress& local() const noexcept { return tuple_.local; }
  [[nodiscard]] const TcpTuple& tuple() const noexcept { return tuple_; }
  [[nodiscard]] int domain() const noexcept { return domain_; }
  [[nodiscard]] const TcpOptions& options() const noexcept { return options_; }
  [[nodiscard]] std::uint64_t rcv_nxt() const noexcept { return rcv_nxt_; }
  [[nodiscard]] std::uint64_t snd_nxt() const noexcept { return snd_nxt_; }

  // --- From the stack.
  // A segment of this connection, or a SYN for this listener. The caller holds a reference.
  void Arrive(Segment segment);
  // The host lost its power: state CLOSE, and nobody hears of it.
  void Forget();
  // ss -K (tcp_abort).
  void Abort();

 private:
  friend class TcpSocket;
  friend class TcpStack;

  struct Listener {
    std::deque<std::shared_ptr<TcpConnection>> queue;
    std::size_t backlog = 0;
  };

  // What will become of a connect that a fault struck.
  enum class ConnectFate : std::uint8_t { kNone, kSilent, kLate, kReset, kIcmp, kIcmpWhileOwned };
  // What a box on the way that ended the connection does with what still comes.
  enum class Box : std::uint8_t { kNone, kRejects, kSwallows, kSilent };

  [[nodiscard]] Network& network() const noexcept { return stack_.network(); }
  [[nodiscard]] Schedule& schedule() const noexcept { return network().schedule(); }
  [[nodiscard]] FaultPlan& faults() const noexcept { return network().faults(); }
  [[nodiscard]] Instant now() const noexcept { return schedule().now(); }

  // --- tcp_connection.cc: states and what the socket calls ask for.
  void SetState(TcpState state);
  void Wake(std::uint32_t events);
  void WakeAll();         // sk_state_change
  void WakeWriteSpace();  // sk_stream_write_space
  [[nodiscard]] std::size_t send_buffer() const noexcept;
  [[nodiscard]] bool IsWriteable() const noexcept;  // __sk_stream_is_writeable
  [[nodiscard]] std::size_t SendRoom() const noexcept;
  [[nodiscard]] int TakeError() noexcept;  // sock_error
  void QueueError(int error);              // sock_queue_err_skb
  [[nodiscard]] bool DequeueError();       // sock_dequeue_err_skb
  void Purge();                            // tcp_write_queue_purge
  void Done();                             // tcp_done
  void Die(int error);                     // tcp_done_with_error
  void TimeOut();                          // tcp_write_err
  void Disconnect();                       // tcp_disconnect
  void CloseWriteSide();                   // tcp_shutdown, tcp_close_state, tcp_send_fin
  void Close();                            // __tcp_close
  void StopListening();                    // inet_csk_listen_stop
  void BeginTimeWait();
  void BeginConnect(const TcpAddress& peer);
  [[nodiscard]] std::shared_ptr<TcpConnection> Accept();
  [[nodiscard]] bool has_data_sent() const noexcept { return snd_nxt_ != snd_una_; }

  // --- tcp_output.cc: segments and timers.
  [[nodiscard]] std::uint64_t SegmentMax();
  void Output();  // tcp_write_xmit
  // False when it could not leave the host.
  bool Emit(std::uint8_t flags, std::uint64_t seq, std::string payload = {});
  bool SendData(std::uint64_t seq, std::uint64_t size, bool fin);
  void SendSyn(bool owned);
  void SendSynAck() { Emit(kSyn | kAck, iss_); }
  void SendAck() { Emit(kAck, snd_nxt_); }
  void SendReset() { Emit(kRst | kAck, snd_nxt_); }
  void SendProbe() { Emit(kAck, snd_una_ - 1); }
  bool Retransmit();
  [[nodiscard]] std::uint64_t DataEnd() const noexcept {
    return write_seq_ - (fin_queued_ ? 1 : 0);
  }
  [[nodiscard]] std::uint64_t WindowEnd() const noexcept { return snd_una_ + snd_wnd_; }
  [[nodiscard]] std::uint32_t SelectWindow() const noexcept;  // __tcp_select_window
  [[nodiscard]] std::uint32_t AnnounceWindow() noexcept;
  void OnRead();  // tcp_cleanup_rbuf
  void MeasureRoundTrip(Duration sample) noexcept;

  [[nodiscard]] Instant TimerAt(Duration delay) const noexcept;
  [[nodiscard]] Duration Timeout() const noexcept;                // icsk_rto with its back-off
  [[nodiscard]] bool TimedOut(unsigned boundary) const noexcept;  // retransmits_timed_out
  void StartRetransmitTimer();
  void StartProbeTimer();
  void StartKeepalive();
  [[nodiscard]] Duration KeepaliveElapsed() const noexcept;
  void Arm();  // Sees to it that an event comes for each deadline.
  void OnTimer(Instant at);
  void OnKeepaliveEvent(Instant at);
  void OnRetransmitTimer();
  void OnProbeTimer();
  void OnKeepalive();

  // --- tcp_input.cc: what arrives.
  void ArriveAtListener(Segment& segment);
  void ArriveInSynSent(Segment& segment);
  void ArriveInSynReceived(Segment& segment);
  void ArriveConnected(Segment& segment);
  void ArriveIcmp(const Segment& message);
  void OnReset();  // tcp_reset
  // False when the segment is to be dropped.
  [[nodiscard]] bool OnAck(const Segment& segment);
  void OnOwnFinAcked();
  void OnData(Segment& segment);
  void OnFin();  // tcp_fin
  void CheckSpace();
  // True when the accept queue took it.
  [[nodiscard]] bool Offer(std::shared_ptr<TcpConnection> child);
  void Establish();

  // --- tcp_faults.cc: what strikes on its own.
  // A refusal before anything is sent, as -errno, or 0; may set a fate.
  int StrikeConnect();
  void SendSynToItsFate(Segment segment);
  // True when the accepted connection was struck, and is not to be queued.
  [[nodiscard]] bool StrikeAccepted();
  void StrikeArrival(bool has_data);
  void CorruptPayload(std::string& payload);
  // What a send or a receive is told instead of doing anything: -errno, or 0.
  int StrikeCall(bool sends);
  void CloseWindowFor(Duration duration);
  // From now on nothing of this connection reaches its peer: a box answers for both.
  void Interpose(Box box, bool fin, bool reset);
  void AnswerFromBox(const Segment& segment);
  void DeliverFromBox(std::uint8_t flags, std::uint64_t ack);
  void WakeLater(Duration delay, std::uint32_t events);

  TcpStack& stack_;
  File* file_ = nullptr;  // Null: nobody holds it any more, or nobody has accepted it yet.
  TcpTuple tuple_;
  TcpOptions options_;
  const int domain_;
  TcpState state_ = TcpState::kClose;
  bool on_port_ = false;        // On the stack's list of tuple_.local.port.
  bool address_bound_ = false;  // bind(2) chose it, and a disconnect leaves it.
  bool port_bound_ = false;
  bool orphaned_ = false;                    // SOCK_DEAD
  std::weak_ptr<TcpConnection> request_of_;  // rsk_listener: whose half-open request this is.
  std::uint8_t shutdown_ = 0;
  bool peer_fin_ = false;       // SOCK_DONE
  bool eof_read_ = false;       // The FIN counts as read.
  bool fin_queued_ = false;     // Ours stands at the end of write_seq_.
  bool no_space_ = false;       // SOCK_NOSPACE: somebody waits for room.
  bool window_closed_ = false;  // A fault: what the peer announces is kept from us.
  ConnectFate fate_ = ConnectFate::kNone;
  Box box_ = Box::kNone;
  std::uint8_t errors_queued_ = 0;
  int queued_error_ = 0;
  int fate_error_ = 0;
  int error_ = 0;       // sk_err
  int soft_error_ = 0;  // sk_err_soft

  // Sending. snd_una_ <= snd_nxt_ <= write_seq_; send_ holds the data from snd_una_ on.
  ByteQueue send_;
  std::uint64_t iss_ = 0;
  std::uint64_t snd_una_ = 0;
  std::uint64_t snd_nxt_ = 0;
  std::uint64_t write_seq_ = 0;
  std::uint64_t snd_wl1_ = 0;
  std::uint64_t recover_ = 0;  // What stood below it was sent before a timeout.
  std::uint32_t snd_wnd_ = 0;
  std::uint32_t max_window_ = 0;
  std::uint32_t peer_window_ = 0;  // As last announced, behind window_closed_.
  std::uint32_t moderated_ = 0;    // The send buffer under memory pressure; 0: there is none.

  // Receiving.
  ByteQueue receive_;
  std::uint64_t irs_ = 0;
  std::uint64_t rcv_nxt_ = 0;
  std::uint64_t rcv_edge_ = 0;  // The right edge of the window last announced.

  // Figures of TCP_INFO.
  std::uint64_t bytes_acked_ = 0;
  std::uint64_t bytes_received_ = 0;
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t bytes_retransmitted_ = 0;
  std::uint32_t segments_out_ = 0;
  std::uint32_t segments_in_ = 0;
  std::uint32_t total_retransmits_ = 0;
  std::uint32_t rtt_us_ = 0;  // Smoothed, RFC 6298; 0: none yet.
  std::uint32_t rtt_variation_us_ = 0;
  Instant last_sent_{};
  Instant last_received_{};
  Instant last_ack_{};
  std::uint64_t timed_seq_ = 0;  // The end of the data that is being timed; 0: none.
  Instant timed_at_{};

  // Timers.
  std::uint8_t retransmits_ = 0;
  std::uint8_t timeouts_ =
      0;  // Of a SYN, which backs off only after some (tcp_syn_linear_timeouts).
  std::uint8_t backoff_ = 0;
  std::uint8_t probes_ = 0;
  Instant head_sent_at_{};          // retrans_stamp
  Instant probing_since_ = kNever;  // icsk_probes_tstamp
  Instant retransmit_at_ = kNever;
  Instant probe_at_ = kNever;
  Instant end_at_ = kNever;  // Of FIN_WAIT2 without a descriptor, or of a closed window.
  Instant keepalive_at_ = kNever;
  Instant event_at_ = kNever;             // When an event comes for one of the first three.
  Instant keepalive_event_at_ = kNever;   // And for the last.
  Instant storm_until_ = Instant::min();  // A fault: every call gets EAGAIN.

  std::unique_ptr<Listener> listener_;
  std::shared_ptr<ConnectionRecord> record_;
  std::uint64_t opener_ = 0;  // The number of the connection that opened.
  std::uint8_t side_ = 0;     // In the record: 0 opened, 1 accepted.
};

}  // namespace holdfast::internal::sim

#endif  // HOLDFAST_SIM_TCP_CONNECTION_H_
