#include "echo/message_book.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace holdfast::echo {
namespace {

constexpr std::int64_t kEchoed = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kLost = kEchoed + 1;

bool IsOver(std::int64_t sent_at) { return sent_at <= kLost; }

}  // namespace

void MessageCounts::Add(const MessageCounts& other) {
  sent += other.sent;
  echoed += other.echoed;
  duplicated += other.duplicated;
  reordered += other.reordered;
  refused += other.refused;
  for (std::size_t i = 0; i < lost_by_fate.size(); ++i) lost_by_fate[i] += other.lost_by_fate[i];
}

void MessageBook::BeginSession() {
  session_first_ = next_;
  if (kept_in_flight_ == 0) base_ = next_;
  echoed_last_ = 0;
  in_flight_ = kept_in_flight_;
}

void MessageBook::Sent(Instant now) {
  if (next_ - base_ == sent_at_.size()) {
    std::vector<std::int64_t> larger(sent_at_.size() * 2);
    for (std::uint64_t sequence = base_; sequence < next_; ++sequence) {
      larger[sequence & (larger.size() - 1)] = At(sequence);
    }
    sent_at_ = std::move(larger);
  }
  At(next_) = now.time_since_epoch().count();
  ++next_;
  ++in_flight_;
  ++counts_.sent;
}

MessageBook::Echo MessageBook::Echoed(std::uint64_t sequence, Instant now, Duration& round_trip) {
  const bool of_session = sequence >= session_first_ || session_kept_ > 0;
  if (!of_session || sequence == 0 || sequence >= next_) return Echo::kForeign;
  if (sequence < base_ || IsOver(At(sequence))) {
    ++counts_.duplicated;
    return Echo::kDuplicate;
  }
  round_trip = now - Instant(Duration(At(sequence)));
  At(sequence) = kEchoed;
  if (sequence < echoed_last_) ++counts_.reordered;
  echoed_last_ = std::max(echoed_last_, sequence);
  ++counts_.echoed;
  --in_flight_;
  while (base_ < next_ && IsOver(At(base_))) ++base_;
  return Echo::kFirst;
}

Account MessageBook::KnownAccount() const {
  if (session_kept_ > 0) {
    const std::uint64_t total = session_kept_ + next_ - session_first_;
    return {.acked = total - in_flight_, .in_doubt = in_flight_};
  }
  const std::uint64_t acked = echoed_last_ == 0 ? 0 : echoed_last_ - session_first_ + 1;
  return {.first_sequence = session_first_,
          .acked = acked,
          .in_doubt = next_ - session_first_ - acked,
          .unsent = 0};
}

void MessageBook::Lose(std::uint64_t sequence, Fate fate) {
  At(sequence) = kLost;
  ++counts_.lost_by_fate[static_cast<std::size_t>(fate)];
}

std::string MessageBook::EndSession(
    const Account& account, std::span<const LeftOver> left,
    absl::FunctionRef<void(std::uint64_t sequence, Fate fate)> lost) {
  const std::uint64_t sent = session_kept_ + next_ - session_first_;
  std::string problem;
  if (account.total() != sent) {
    problem = absl::StrCat(sent, " messages were sent in the session, but acked ", account.acked,
                           " + in_doubt ", account.in_doubt, " + unsent ", account.unsent, " = ",
                           account.total());
  } else if (session_kept_ == 0 && sent > 0 && account.first_sequence != session_first_) {
    problem = absl::StrCat("the session's first message is ", session_first_,
                           ", but its account begins at ", account.first_sequence);
  } else if (account.FateOf(echoed_last_) == Fate::kUnsent) {
    problem =
        absl::StrCat("message ", echoed_last_, " was echoed, but the account calls it unsent");
  }
  session_kept_ = kept_in_flight_ = 0;
  std::uint64_t last = 0;
  auto next_left = left.begin();
  for (std::uint64_t sequence = base_; sequence < next_; ++sequence) {
    while (next_left != left.end() && next_left->sequence < sequence) ++next_left;
    const bool listed = next_left != left.end() && next_left->sequence == sequence;
    if (IsOver(At(sequence))) continue;
    // Where nothing is said of it, nothing is known, and that has a name.
    const Fate unlisted = account.first_sequence == 0 ? Fate::kAcked : Fate::kInDoubt;
    const Fate fate = listed ? next_left->fate : account.FateOf(sequence).value_or(unlisted);
    lost(sequence, fate);
    if (listed && next_left->kept) {
      ++kept_in_flight_;
    } else {
      Lose(sequence, fate);
    }
  }
  for (const LeftOver& message : left) {
    if (message.sequence <= last) {
      problem = absl::StrCat("message ", message.sequence, " is told behind message ", last);
    }
    last = message.sequence;
    if (message.kept) ++session_kept_;
    const bool echoed = message.sequence < base_ || At(message.sequence) == kEchoed;
    if (echoed && message.fate == Fate::kUnsent) {
      problem = absl::StrCat("message ", last, " was echoed, but is told to be unsent");
    }
  }
  while (base_ < next_ && IsOver(At(base_))) ++base_;
  in_flight_ = 0;  // What comes between two sessions belongs to none of them.
  session_first_ = next_;
  return problem;
}

void MessageBook::Close(std::span<const LeftOver> left) {
  for (const LeftOver& message : left) {
    const bool open = message.sequence >= base_ && message.sequence < next_;
    if (open && !IsOver(At(message.sequence))) Lose(message.sequence, message.fate);
  }
  session_kept_ = kept_in_flight_ = 0;
}

}  // namespace holdfast::echo
