// What the echo client tells its user: the events of its links, as they happen, and a summary.
//
// Two voices, one interface: JSON, one event a line (tests/data/events.schema.json), or text for people.
// A reporter decides nothing and is called on the reactor's thread.
#ifndef HOLDFAST_TOOLS_ECHO_REPORT_H_
#define HOLDFAST_TOOLS_ECHO_REPORT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <holdfast/link.h>
#include <holdfast/time.h>
#include "echo/histogram.h"
#include "echo/message_book.h"
#include "echo/output.h"

namespace holdfast::echo {

struct Summary {
  MessageCounts messages;
  std::uint64_t ups = 0;
  std::uint64_t downs = 0;
  std::uint64_t dials = 0;
  std::uint64_t replayed = 0;
  const Histogram* round_trips = nullptr;  // Nanoseconds.
  Duration timer_lateness{0};              // The latest a timer ever ran.
  std::span<const std::string> problems;   // Why the account does not add up; none when it does.
};

class Reporter {
 public:
  virtual ~Reporter() = default;

  virtual void Start(std::string_view backend, std::string_view reason, std::uint32_t links) = 0;
  virtual void Dial(std::uint32_t link, std::uint32_t attempt, std::string_view endpoint) = 0;
  virtual void Up(std::uint32_t link, std::uint32_t attempt, std::string_view local,
                  std::string_view peer) = 0;
  virtual void Down(std::uint32_t link, const holdfast::Down& down) = 0;
  virtual void Closed(std::uint32_t link, const holdfast::Closed& closed) = 0;
  // The echo of a line of standard input.
  virtual void Echo(std::uint32_t link, std::uint64_t sequence, std::string_view text) = 0;
  // Something about the program itself.
  virtual void Note(std::string_view text) = 0;
  virtual void End(const Summary& summary) = 0;
  // One line that stays below the others. "" removes it.
  virtual void Live(std::string_view text) = 0;
  [[nodiscard]] virtual bool live() const = 0;
  // Whoever read the events is gone.
  [[nodiscard]] virtual bool broken() const = 0;
};

// Everything to standard output.
std::unique_ptr<Reporter> MakeJsonReporter(Instant start);

enum class Transitions {
  kTell,   // One line each.
  kCrowd,  // Not of each link: there are more than anybody could read.
  kHide,   // The summary alone.
};
// With kLines as the content, standard output carries the echoes alone and all else goes to standard
// error, so that the program stands in a pipe like cat(1).
enum class Content { kLoad, kLines };
std::unique_ptr<Reporter> MakeTextReporter(Instant start, Transitions transitions, Content content,
                                           std::uint32_t links);

// "450 ms", "12.3 s", "17 us": for people.
std::string Readable(Duration duration);

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_REPORT_H_
