#include "echo/message_book.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace holdfast::echo {
namespace {

constexpr std::int64_t kEchoed = std::numeric_limits<std::int64_t>::min();

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
  base_ = next_;
  echoed_last_ = 0;
  in_flight_ = 0;
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
  if (sequence < session_first_ || sequence >= next_) return Echo::kForeign;
  if (sequence < base_ || At(sequence) == kEchoed) {
    ++counts_.duplicated;
    return Echo::kDuplicate;
  }
  round_trip = now - Instant(Duration(At(sequence)));
  At(sequence) = kEchoed;
  if (sequence < echoed_last_) ++counts_.reordered;
  echoed_last_ = std::max(echoed_last_, sequence);
  ++counts_.echoed;
  --in_flight_;
  while (base_ < next_ && At(base_) == kEchoed) ++base_;
  return Echo::kFirst;
}

Account MessageBook::KnownAccount() const {
  const std::uint64_t acked = echoed_last_ == 0 ? 0 : echoed_last_ - session_first_ + 1;
  return {.first_sequence = session_first_,
          .acked = acked,
          .in_doubt = next_ - session_first_ - acked,
          .unsent = 0};
}

std::string MessageBook::EndSession(
    const Account& account, absl::FunctionRef<void(std::uint64_t sequence, Fate fate)> lost) {
  const std::uint64_t sent = next_ - session_first_;
  std::string problem;
  if (account.total() != sent) {
    problem = absl::StrCat(sent, " messages were sent in the session, but acked ", account.acked,
                           " + in_doubt ", account.in_doubt, " + unsent ", account.unsent, " = ",
                           account.total());
  } else if (sent > 0 && account.first_sequence != session_first_) {
    problem = absl::StrCat("the session's first message is ", session_first_,
                           ", but its account begins at ", account.first_sequence);
  } else if (account.FateOf(echoed_last_) == Fate::kUnsent) {
    problem =
        absl::StrCat("message ", echoed_last_, " was echoed, but the account calls it unsent");
  }
  for (std::uint64_t sequence = base_; sequence < next_; ++sequence) {
    if (At(sequence) == kEchoed) continue;
    // Where the account says nothing, nothing is known, and that has a name.
    const Fate fate = account.FateOf(sequence).value_or(Fate::kInDoubt);
    ++counts_.lost_by_fate[static_cast<std::size_t>(fate)];
    lost(sequence, fate);
  }
  BeginSession();  // What comes between two sessions belongs to none of them.
  return problem;
}

}  // namespace holdfast::echo
