#include "echo/report.h"

#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>

#include <holdfast/version.h>
#include "echo/json_line.h"

namespace holdfast::echo {
namespace {

std::int64_t Microseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

Duration Since(Instant start) { return std::chrono::steady_clock::now() - start; }

class JsonReporter final : public Reporter {
 public:
  explicit JsonReporter(Instant start) : start_(start), out_(STDOUT_FILENO) {}

  void Start(std::string_view backend, std::string_view reason, std::uint32_t links) override {
    Begin("start")
        .Add("backend", backend)
        .Add("reason", reason)
        .Add("links", links)
        .Add("version", HOLDFAST_VERSION);
    End();
  }

  void Dial(std::uint32_t link, std::uint32_t attempt, std::string_view endpoint) override {
    Begin("dial").Add("link", link).Add("attempt", attempt).Add("endpoint", endpoint);
    End();
  }

  void Up(std::uint32_t link, std::uint32_t attempt, std::string_view local,
          std::string_view peer) override {
    Begin("up").Add("link", link).Add("attempt", attempt).Add("local", local).Add("peer", peer);
    End();
  }

  void Down(std::uint32_t link, const holdfast::Down& down) override {
    Begin(down.was_up ? "down" : "dial_failed").Add("link", link);
    if (!down.was_up) line_.Add("attempt", down.attempt);
    line_.Add("operation", ToString(down.error.operation))
        .Add("class", ToString(down.error.error_class))
        .Add("errno", down.error.CodeName())
        .Add("action", ToString(down.error.action))
        .Add("peer", down.peer.ToString());
    if (down.was_up) {
      line_.Add("up_us", Microseconds(down.up_for))
          .Add("acked", down.acked)
          .Add("in_doubt", down.in_doubt)
          .Add("unsent", down.unsent);
    }
    End();
    if (down.retry_in) {
      Begin("retry")
          .Add("link", link)
          .Add("delay_us", Microseconds(*down.retry_in))
          .Add("attempt", down.attempt + 1);
      End();
    }
  }

  void Closed(std::uint32_t link, const holdfast::Closed& closed) override {
    Begin("closed")
        .Add("link", link)
        .Add("reason", ToString(closed.reason))
        .Add("class", ToString(closed.error.error_class));
    End();
  }

  void Echo(std::uint32_t link, std::uint64_t sequence, std::string_view text) override {
    Begin("echo").Add("link", link).Add("sequence", sequence).Add("text", text);
    End();
  }

  void Note(std::string_view text) override {
    Begin("note").Add("text", text);
    End();
  }

  void End(const Summary& summary) override {
    const MessageCounts& messages = summary.messages;
    const auto percentile = [&](std::uint64_t part) {
      return summary.round_trips->Percentile(part) / 1000;
    };
    Begin("summary")
        .Add("sent", messages.sent)
        .Add("echoed", messages.echoed)
        .Add("lost", messages.sent - messages.echoed)
        .Add("replayed", summary.replayed)
        .Add("refused", messages.refused)
        .Add("duplicated", messages.duplicated)
        .Add("reordered", messages.reordered)
        .Add("ups", summary.ups)
        .Add("downs", summary.downs)
        .Add("dials", summary.dials)
        .Add("rtt_p50_us", percentile(50'000))
        .Add("rtt_p90_us", percentile(90'000))
        .Add("rtt_p99_us", percentile(99'000))
        .Add("rtt_p999_us", percentile(99'900))
        .Add("rtt_max_us", summary.round_trips->max() / 1000)
        .Add("lost_acked", messages.lost(Fate::kAcked))
        .Add("lost_in_doubt", messages.lost(Fate::kInDoubt))
        .Add("lost_unsent", messages.lost(Fate::kUnsent))
        .Add("timer_lateness_us", Microseconds(summary.timer_lateness))
        .Add("adds_up", summary.problems.empty());
    End();
  }

  void Live(std::string_view) override {}
  [[nodiscard]] bool live() const override { return false; }
  [[nodiscard]] bool broken() const override { return out_.broken(); }

 private:
  JsonLine& Begin(std::string_view event) {
    line_.Clear();
    return line_.Add("event", event).Add("t_us", Microseconds(Since(start_)));
  }
  void End() { out_.Write(line_.Finish()); }

  Instant start_;
  Output out_;
  JsonLine line_;
};

// printf into a string: aligned columns read better here than a chain of calls.
[[gnu::format(printf, 1, 2)]] std::string Format(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::va_list again;
  va_copy(again, arguments);
  const int size = std::vsnprintf(nullptr, 0, format, arguments);
  va_end(arguments);
  std::string text(static_cast<std::size_t>(size > 0 ? size : 0), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  return text;
}

using Count = unsigned long long;

std::string OfMessages(std::uint64_t acked, std::uint64_t in_doubt, std::uint64_t unsent) {
  return Format("%llu acked, %llu in doubt, %llu unsent", Count{acked}, Count{in_doubt},
                Count{unsent});
}

class TextReporter final : public Reporter {
 public:
  TextReporter(Instant start, Transitions transitions, Content content, std::uint32_t links)
      : start_(start),
        transitions_(transitions),
        many_(links > 1),
        echoes_(content == Content::kLines ? STDOUT_FILENO : -1),
        lines_(content == Content::kLines ? STDERR_FILENO : STDOUT_FILENO),
        // The live line shares a terminal with the lines, or has one of its own.
        live_(lines_.terminal() || content == Content::kLines ? -1 : STDERR_FILENO) {}

  void Start(std::string_view, std::string_view reason, std::uint32_t links) override {
    // The reason begins with the backend's name.
    std::string text = "holdfast-echo " HOLDFAST_VERSION " on ";
    text += reason;
    if (many_) text += Format(", %u links", links);
    Transition("start", kNoLink, text);
  }

  void Dial(std::uint32_t link, std::uint32_t attempt, std::string_view endpoint) override {
    Transition("dial", link, std::string(endpoint).append(Format(", attempt %u", attempt)));
  }

  void Up(std::uint32_t link, std::uint32_t, std::string_view local,
          std::string_view peer) override {
    Transition("up", link, std::string(peer).append(" from ").append(local));
  }

  void Down(std::uint32_t link, const holdfast::Down& down) override {
    std::string text = down.error.error_class == ErrorClass::kCancelled
                           ? down.peer.ToString() + ": closed by us"
                           : down.ToString();
    if (down.was_up) {
      text += " (up " + Readable(down.up_for) + "; " +
              OfMessages(down.acked, down.in_doubt, down.unsent) + ")";
    }
    Transition(down.was_up ? "down" : "failed", link, text);
  }

  void Closed(std::uint32_t link, const holdfast::Closed& closed) override {
    std::string text = "reason " + std::string(ToString(closed.reason));
    if (closed.error.failed() && closed.error.error_class != ErrorClass::kCancelled) {
      text += ": " + closed.error.ToString();
    }
    Transition("closed", link, text);
  }

  void Echo(std::uint32_t, std::uint64_t, std::string_view text) override {
    Live({});  // On a terminal it may be in the way.
    echoes_.Write(text);
  }

  void Note(std::string_view text) override { Transition("note", kNoLink, text); }

  void End(const Summary& summary) override {
    Live({});
    const MessageCounts& messages = summary.messages;
    std::string text = Format(
        "messages    sent %llu = echoed %llu + lost %llu; refused %llu, replayed %llu, duplicated "
        "%llu, "
        "reordered %llu\n",
        Count{messages.sent}, Count{messages.echoed}, Count{messages.lost()},
        Count{messages.refused}, Count{summary.replayed}, Count{messages.duplicated},
        Count{messages.reordered});
    text += "lost        " +
            OfMessages(messages.lost(Fate::kAcked), messages.lost(Fate::kInDoubt),
                       messages.lost(Fate::kUnsent)) +
            " when their session ended\n";
    text += Format("sessions    %llu up, %llu down, %llu dials\n", Count{summary.ups},
                   Count{summary.downs}, Count{summary.dials});
    const Histogram& round_trips = *summary.round_trips;
    if (round_trips.count() > 0) {
      const auto at = [&](std::uint64_t part) {
        return Readable(std::chrono::nanoseconds(round_trips.Percentile(part)));
      };
      text += "round trip  p50 " + at(50'000) + ", p90 " + at(90'000) + ", p99 " + at(99'000) +
              ", p99.9 " + at(99'900) + ", max " + at(100'000) + "\n";
    }
    text += summary.problems.empty() ? "account     adds up\n" : "account     DOES NOT ADD UP\n";
    lines_.Lines(text);
  }

  void Live(std::string_view text) override {
    Output& out = lines_.terminal() ? lines_ : live_;
    if (out.terminal()) out.Live(text);
  }
  [[nodiscard]] bool live() const override {
    return transitions_ != Transitions::kHide && (lines_.terminal() || live_.terminal());
  }
  [[nodiscard]] bool broken() const override { return lines_.broken() || echoes_.broken(); }

 private:
  static constexpr std::uint32_t kNoLink = ~0u;

  void Transition(const char* what, std::uint32_t link, std::string_view text) {
    if (transitions_ == Transitions::kHide) return;
    if (transitions_ == Transitions::kCrowd && link != kNoLink) return;
    const Duration since = Since(start_);
    std::string line = Format("%8.3f s  ", static_cast<double>(since.count()) / 1e9);
    if (many_ && link != kNoLink) line += Format("[%u] ", link);
    line += Format("%-7s ", what);
    lines_.Lines(line.append(text).append("\n"));
  }

  Instant start_;
  Transitions transitions_;
  bool many_;  // Lines name their link.
  Output echoes_;
  Output lines_;
  Output live_;
};

}  // namespace

std::unique_ptr<Reporter> MakeJsonReporter(Instant start) {
  return std::make_unique<JsonReporter>(start);
}

std::unique_ptr<Reporter> MakeTextReporter(Instant start, Transitions transitions, Content content,
                                           std::uint32_t links) {
  return std::make_unique<TextReporter>(start, transitions, content, links);
}

std::string Readable(Duration duration) {
  using std::chrono::nanoseconds;
  const auto of = [&](double unit) { return static_cast<double>(duration.count()) / unit; };
  if (duration < std::chrono::microseconds(10)) return Format("%.2f us", of(1e3));
  if (duration < std::chrono::milliseconds(1)) return Format("%.0f us", of(1e3));
  if (duration < std::chrono::milliseconds(10)) return Format("%.2f ms", of(1e6));
  if (duration < std::chrono::seconds(1)) return Format("%.0f ms", of(1e6));
  return Format("%.1f s", of(1e9));
}

}  // namespace holdfast::echo
