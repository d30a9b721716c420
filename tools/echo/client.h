// The echo client: links that carry numbered messages to an echo server, and the account of them.
//
// One Client drives all links of the process over shared options. What to send comes from a schedule
// (--rate), from the echoes (--rate=0: so many in flight), or from standard input. It ends by
// itself (count, duration, end of input) or by Interrupt, and then waits for the echoes, closes every
// link in good order, and checks that the account adds up.
#ifndef HOLDFAST_TOOLS_ECHO_CLIENT_H_
#define HOLDFAST_TOOLS_ECHO_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <holdfast/link.h>
#include <holdfast/reactor.h>
#include <holdfast/timer.h>
#include "absl/status/statusor.h"
#include "echo/histogram.h"
#include "echo/json_line.h"
#include "echo/line_source.h"
#include "echo/message.h"
#include "echo/message_book.h"
#include "echo/output.h"
#include "echo/report.h"

namespace holdfast::echo {

// More links than this are not told one by one.
inline constexpr std::uint32_t kCrowd = 16;

struct ClientOptions {
  LinkOptions link = {};  // All but the callbacks, which the client sets.
  std::uint32_t connections = 1;
  std::size_t message_bytes = 64;  // kHeaderBytes to kMessageBytesMax.
  // Between two messages of a link; 0 = as fast as echoes return, `depth` in flight.
  Duration period = std::chrono::seconds(1);
  std::uint64_t depth = 1;
  std::uint64_t count = 0;  // Accepted messages of each link; 0 = no end.
  Duration duration{0};     // From Start; 0 = no end.
  // Standard input instead of a load; needs connections == 1.
  Content content = Content::kLoad;
  int account_fd = -1;  // Where the account goes, -1 = nowhere.
};

class Client {
 public:
  // InvalidArgument as Link::Create says it. The reactor and the reporter outlive the client.
  static absl::StatusOr<std::unique_ptr<Client>> Create(Reactor& reactor, Reporter& reporter,
                                                        ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Start();
  // The first one ends as --drain says; the next one at once.
  void Interrupt();
  // After the reactor stopped: tells the summary and returns the exit status.
  int Finish();

 private:
  struct Lane;
  enum class Phase {
    kRunning,
    kFinishing,  // Nothing more is sent; waits for echoes, then for the links to close.
  };

  Client(Reactor& reactor, Reporter& reporter, ClientOptions options, Duration drain);

  void OnUp(Lane& lane);
  void OnData(Lane& lane, std::span<const std::byte> bytes);
  void OnMessage(Lane& lane, const Message& message, Instant now);
  void OnDown(Lane& lane, const Down& down);
  void OnClosed(Lane& lane, const Closed& closed);

  // Sends what may be sent now.
  void Pump(Lane& lane);
  void PumpLines(Lane& lane);
  void Pace(Lane& lane);
  bool Send(Lane& lane, MessageKind kind, std::string_view payload);
  [[nodiscard]] bool LoadDone(const Lane& lane) const;
  void FinishIfDone();

  void BeginToFinish();
  void CloseIfEchoed(Lane& lane);
  void Close(Lane& lane, Duration drain);
  // Ends a link whose close takes too long for the user.
  void Abandon(Lane& lane);
  void EndSession(Lane& lane, const Down& down);
  void AddProblem(const Lane& lane, std::string_view problem);
  void AddAccountLine(const Lane& lane, std::uint64_t sequence, std::string_view local,
                      std::string_view fate);
  void WriteAccount();
  void ShowLive();
  [[nodiscard]] std::string UpText() const;
  [[nodiscard]] std::string LiveText() const;

  Reactor& reactor_;
  Reporter& reporter_;
  ClientOptions options_;  // Without its `link`, which the links share.
  Duration drain_;
  std::string payload_;  // Of every load message.
  std::string wire_;     // The message being sent.
  std::string account_;  // Lines not yet written.
  JsonLine line_;
  Output account_out_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::size_t closed_ = 0;  // Lanes whose link is closed.
  Phase phase_ = Phase::kRunning;
  bool closed_by_itself_ = false;  // True once a link closed for another reason than our asking.
  Instant finish_by_ = kNever;
  Histogram round_trips_;
  Duration last_round_trip_{0};
  std::vector<std::string> problems_;
  std::unique_ptr<LineSource> lines_;
  std::unique_ptr<Timer> duration_timer_;
  std::unique_ptr<Timer> finish_timer_;
  std::unique_ptr<Timer> live_timer_;
  std::unique_ptr<Timer> crowd_timer_;
  std::string crowd_text_;  // The last note of how many links are up.
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_CLIENT_H_
