// Notices that the peer is gone, within one number: `silence_max` since its last sign of life.
//
// TCP itself says nothing about an idle connection to a host that was switched off, and needs minutes
// for a busy one. So silence is measured here, by received bytes, and provoked: after half of
// silence_max without a byte the ping goes out. With a ping only received bytes are life. Without one,
// an acknowledgement by the peer's *kernel* counts too, which finds a dead host and does not find a
// stuck process behind a live kernel.
//
// Two guards keep it from killing the innocent:
//  - A deadline is confirmed one turn later. At the deadline the machine turns suspect and asks for one
//    more turn without waiting (its next deadline is now); it judges when a wait returned everything
//    and still no byte had come. What the kernel already has beats the deadline. A loop that never runs
//    dry delivers a share of everybody's in each turn: there it judges a quarter of silence_max later.
//  - The stall guard. When this loop itself was late by more than a quarter of silence_max (suspend,
//    SIGSTOP, a debugger), the peer's answers may lie unread, or our ping unsent: one fresh lease of
//    silence_max is granted, once, until the next sign of life.
// While the user has paused receiving nobody sees a byte, so no byte can be missed: silence is not judged
// by bytes then, but the ping goes out every half of silence_max all the same, for the peer may judge
// us, and a send finds a connection that died. Where the kernel's acknowledgements are life they are
// judged on: the kernel hears the peer for us. The end of the pause is a fresh lease.
//
// So a death is never declared before silence_max has passed since the last sign of life, and without
// a stall one turn after that, or a quarter of silence_max in a loop that never runs dry.
//
// Rejected: a timer moved by every byte (receiving is one store here, the timer is re-armed when it
// fires); counting missed pings (one number more, and the time to notice becomes their product).
//
//   switch (liveness.OnDeadline(now, everything_dispatched)) {
//     case Liveness::Step::kNone: break;
//     case Liveness::Step::kPing: SendPingUnlessBytesWait(); break;
//     case Liveness::Step::kAskKernel: liveness.OnKernelLife(now - last_ack_age, now); break;
//     case Liveness::Step::kDead: Fail(Error::Deadline(Operation::kHeartbeat)); return;
//   }
//   Arm(liveness.next_deadline());
//
// Pure: time is an argument and never goes back. Reactor thread.
#ifndef HOLDFAST_MACHINE_LIVENESS_H_
#define HOLDFAST_MACHINE_LIVENESS_H_

#include <holdfast/time.h>

namespace holdfast::internal {

struct LivenessOptions {
  Duration silence_max{0};  // 0: nothing is judged.
  // Pings on schedule besides, for peers that want to hear them; 0: none.
  Duration ping_interval{0};
  bool has_ping = false;     // A ping text or on_heartbeat: only received bytes are life.
  bool kernel_life = false;  // TCP without a ping. With neither nothing is judged.
};

class Liveness {
 public:
  enum class Step {
    kNone,       // Nothing to do but to arm next_deadline().
    kPing,       // Send the ping, or skip it while bytes wait: the machine does not mind.
    kAskKernel,  // Read when the peer's kernel last acknowledged; answer with OnKernelLife at once.
    kDead,       // The peer is gone. Nothing follows until Start.
  };

  // Nothing runs until Start.
  explicit Liveness(const LivenessOptions& options) noexcept : options_(options) {}

  // The connection is up: that is its first sign of life. `pings_now` false: no ping goes out before
  // StartPings, since the login must come first; silence is judged all the same.
  void Start(Instant now, bool pings_now) noexcept;
  // The login is done. The schedule of ping_interval begins; a ping is due at once when half of the
  // silence has passed already, so the caller arms next_deadline() anew. A no-op while stopped or when
  // pings have started.
  void StartPings(Instant now) noexcept;
  // The connection is down: no deadline.
  void Stop() noexcept;

  // The user reads no more, and reads again: in between no OnReceived comes, and none is missed. A
  // suspicion is taken back. The caller arms next_deadline() anew after OnResumed. No-ops while stopped,
  // and where nothing changes.
  void OnPaused(Instant now) noexcept;
  void OnResumed(Instant now) noexcept;

  // Bytes came. For every receive: two stores.
  void OnReceived(Instant now) noexcept {
    last_life_ = now;
    silence_ = {};
  }

  // When OnDeadline wants to be called; kNever when nothing is to come. May move to a later time
  // without notice (OnReceived): a timer that fires early is only armed again.
  [[nodiscard]] Instant next_deadline() const noexcept;
  // Called at next_deadline() or any time later, at most once a turn, after the completions of the
  // turn were dispatched; before the deadline it is a no-op. `everything_dispatched`: the last wait's
  // completions are all delivered; false: more are ready now, and a suspicion that is younger than a
  // quarter of silence_max is put off.
  [[nodiscard]] Step OnDeadline(Instant now, bool everything_dispatched) noexcept;
  // The ping did not go out, because bytes wait in the queue. It is owed: due again after a sixteenth of
  // silence_max, so that a peer which only answers pings is not called dead for our own backlog.
  void OnPingSkipped(Instant now) noexcept;
  // The answer to kAskKernel, in the same turn. An acknowledgement newer than the last sign of life is
  // one itself; where that is silence_max ago too, or none is newer, the machine turns suspect.
  // Where the kernel could not be asked: Instant::min().
  void OnKernelLife(Instant last_ack, Instant now) noexcept;

  // True exactly while a death waits for its confirmation.
  [[nodiscard]] bool suspect() const noexcept { return silence_.suspect; }
  // True exactly between OnPaused and OnResumed.
  [[nodiscard]] bool paused() const noexcept { return paused_; }

 private:
  // What has happened since the last sign of life.
  struct Silence {
    bool pinged = false;         // Its ping went out.
    bool suspect = false;        // It lasted silence_max; the next OnDeadline confirms.
    bool lease_granted = false;  // The stall guard has spoken.
  };

  [[nodiscard]] bool judges() const noexcept;
  [[nodiscard]] Duration half() const noexcept;
  [[nodiscard]] Instant death_deadline() const noexcept;
  [[nodiscard]] Instant ping_deadline() const noexcept;
  void Suspect(Instant now) noexcept;
  void GrantLeaseAfterStall(Instant now) noexcept;
  [[nodiscard]] bool TakePing(Instant now) noexcept;

  LivenessOptions options_;
  bool running_ = false;
  bool pings_ = false;   // Pings may go out.
  bool paused_ = false;  // Nobody receives: bytes prove nothing.
  Silence silence_;
  Instant last_life_{};              // The last sign of life, or the start of a fresh lease.
  Instant pings_since_{};            // No ping is due before.
  Instant next_scheduled_ = kNever;  // The next ping of ping_interval.
  Instant confirm_at_{};             // While suspect: the turn after this time confirms.
  Instant suspect_since_{};
};

}  // namespace holdfast::internal

#endif  // HOLDFAST_MACHINE_LIVENESS_H_
