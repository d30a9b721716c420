// The checker of chaos against histories written by hand: the sound one is accepted, and each that breaks one
// promise is refused, for that promise.
//
// The sound history is one link and two processes of one server. Its first session carries messages 1 to 5
// and ends as the first process is killed; an attempt is refused; the second session (6, 7) proves healthy
// and dies silently; the third (8 to 10) lasts to the end.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "e2e/process.h"

namespace holdfast::e2e {
namespace {

using Files = std::map<std::string, std::string>;

constexpr const char* kEvents =
    R"({"event":"start","t_us":0,"backend":"epoll","reason":"","links":1,"version":"1"}
{"event":"dial","t_us":1000,"link":0,"attempt":1,"endpoint":"s0.chaos:7000"}
{"event":"up","t_us":2000,"link":0,"attempt":1,"local":"10.78.1.2:40001","peer":"10.77.1.2:7000"}
{"event":"down","t_us":502000,"link":0,"operation":"receive","class":"eof","errno":"","action":"back_off","peer":"10.77.1.2:7000","up_us":500000,"acked":3,"in_doubt":1,"unsent":1}
{"event":"retry","t_us":502010,"link":0,"delay_us":40000,"attempt":2}
{"event":"dial","t_us":542100,"link":0,"attempt":2,"endpoint":"s0.chaos:7000"}
{"event":"dial_failed","t_us":542300,"link":0,"attempt":2,"operation":"connect","class":"refused","errno":"ECONNREFUSED","action":"back_off","peer":"10.77.1.2:7000"}
{"event":"retry","t_us":542310,"link":0,"delay_us":60000,"attempt":3}
{"event":"dial","t_us":602400,"link":0,"attempt":3,"endpoint":"s0.chaos:7000"}
{"event":"up","t_us":603000,"link":0,"attempt":3,"local":"10.78.1.2:40002","peer":"10.77.1.2:7000"}
{"event":"down","t_us":4603000,"link":0,"operation":"heartbeat","class":"timeout","errno":"","action":"back_off","peer":"10.77.1.2:7000","up_us":4000000,"acked":2,"in_doubt":0,"unsent":0}
{"event":"retry","t_us":4603010,"link":0,"delay_us":30000,"attempt":1}
{"event":"dial","t_us":4633100,"link":0,"attempt":1,"endpoint":"s0.chaos:7000"}
{"event":"up","t_us":4634000,"link":0,"attempt":1,"local":"10.78.1.2:40003","peer":"10.77.1.2:7000"}
{"event":"down","t_us":22000000,"link":0,"operation":"user","class":"cancelled","errno":"","action":"surface","peer":"10.77.1.2:7000","up_us":17366000,"acked":3,"in_doubt":0,"unsent":0}
{"event":"closed","t_us":22000010,"link":0,"reason":"user","class":"cancelled"}
{"event":"summary","t_us":22000020,"sent":10,"echoed":6,"lost":4,"replayed":0,"refused":0,"duplicated":0,"reordered":0,"ups":3,"downs":3,"dials":4,"lost_acked":2,"lost_in_doubt":1,"lost_unsent":1,"timer_lateness_us":2000,"adds_up":true}
)";

constexpr const char* kAccount =
    R"({"link":0,"sequence":3,"local":"10.78.1.2:40001","fate":"acked"}
{"link":0,"sequence":4,"local":"10.78.1.2:40001","fate":"in_doubt"}
{"link":0,"sequence":5,"local":"10.78.1.2:40001","fate":"unsent"}
{"link":0,"sequence":7,"local":"10.78.1.2:40002","fate":"acked"}
)";

constexpr const char* kKilledEvents = R"({"event":"accepted","t_us":1,"peer":"10.78.1.2:40001"}
)";
constexpr const char* kKilledLog = R"({"peer":"10.78.1.2:40001","link":0,"sequence":1}
{"peer":"10.78.1.2:40001","link":0,"sequence":2}
{"peer":"10.78.1.2:40001","link":0,"sequence":3}
)";

constexpr const char* kEndedEvents =
    R"({"event":"accepted","t_us":1,"peer":"10.78.1.2:40002"}
{"event":"closed","t_us":2,"peer":"10.78.1.2:40002","class":"reset","errno":"ECONNRESET","received":2,"delivered":false}
{"event":"accepted","t_us":3,"peer":"10.78.1.2:40003"}
{"event":"closed","t_us":4,"peer":"10.78.1.2:40003","class":"eof","errno":"","received":3,"delivered":true}
)";
// Four lines of 49 bytes are before the mark, and the last one of 50 behind it.
constexpr const char* kEndedLog = R"({"peer":"10.78.1.2:40002","link":0,"sequence":6}
{"peer":"10.78.1.2:40002","link":0,"sequence":7}
{"peer":"10.78.1.2:40003","link":0,"sequence":8}
{"peer":"10.78.1.2:40003","link":0,"sequence":9}
{"peer":"10.78.1.2:40003","link":0,"sequence":10}
)";

constexpr const char* kManifest = R"({"seed": 1, "healed": 106.0, "faults": [], "actions": [],
"clients": [{"name": "client-0", "backend": "epoll", "links": 1, "started": [100.0, 100.01], "status": 0,
  "held": {"before": 12, "after": 12, "dead": 0},
  "link": {"silence_max": 2.0, "backoff_initial": 0.05, "backoff_multiplier": 1.5, "backoff_max": 1.0,
           "healthy_after": 3.0, "connect_timeout": 1.5}}],
"servers": [
 {"name": "server-0-0", "server": 0, "end": "killed", "status": -9, "mark": null, "held": null},
 {"name": "server-0-1", "server": 0, "end": "ended", "status": 0, "mark": 196,
  "held": {"before": null, "after": 9, "dead": 0}}]}
)";

Files SoundHistory() {
  return {{"manifest.json", kManifest},   {"client-0.events", kEvents},
          {"client-0.account", kAccount}, {"server-0-0.events", kKilledEvents},
          {"server-0-0.log", kKilledLog}, {"server-0-1.events", kEndedEvents},
          {"server-0-1.log", kEndedLog}};
}

struct Verdict {
  int status;
  std::string output;
};

Verdict Check(const Files& files) {
  std::string folder = (std::filesystem::temp_directory_path() / "holdfast-chaos-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return {-1, "no folder"};
  for (const auto& [name, text] : files) {
    std::ofstream(std::filesystem::path(folder) / name, std::ios::binary) << text;
  }
  Process checker(
      {"/usr/bin/env", "python3", "-B", InRepository("tools/chaos/checker.py"), folder});
  const int status = checker.Wait().value_or(-1);
  std::filesystem::remove_all(folder);
  return {status, checker.output() + checker.errors()};
}

// A change of the sound history, and the rule that it breaks.
struct Breach {
  const char* name;
  const char* file;
  std::string from;  // Stands in the file exactly once.
  std::string to;
  const char* rule;
  const char* says;  // Part of the violation's text.
};

std::string LineOf(const char* text, const char* part) {
  const std::string all = text;
  const std::size_t at = all.find(part);
  const std::size_t begin = all.rfind('\n', at) + 1;
  return all.substr(begin, all.find('\n', at) + 1 - begin);
}

std::vector<Breach> GrammarBreaches() {
  const std::string down = LineOf(kEvents, "\"t_us\":502000");
  const std::string failed = LineOf(kEvents, "\"t_us\":542300");
  const std::string closed = LineOf(kEvents, "\"event\":\"closed\"");
  const char* const events = "client-0.events";
  return {
      {"TwoDowns", events, down, down + down, "grammar", "down after down"},
      {"AnUpWithoutADown", events, down, "", "grammar", "an up without a down"},
      {"AFailureAfterAnUp", events, down, down + failed, "grammar", "dial_failed after down"},
      {"AFailureToldTwice", events, failed, failed + failed, "grammar", "dial_failed after dial_f"},
      {"SomethingAfterClosed", events, closed, closed + failed, "grammar", "dial_failed after clo"},
      {"ClosedTwice", events, closed, closed + closed, "grammar", "closed after closed"},
      {"NeverClosed", events, closed, "", "grammar", "the last event is down"},
      {"NoDialBeforeUp", events, LineOf(kEvents, "\"t_us\":602400"), "", "grammar",
       "up after retry"},
      {"TimeGoesBack", events, "\"t_us\":603000", "\"t_us\":602000", "grammar", "after 602400 us"},
      {"ALinkThatSaysNothing", "manifest.json", "\"links\": 1", "\"links\": 2", "grammar",
       "1 links said something"},
      {"NoSummary", events, LineOf(kEvents, "\"event\":\"summary\""), "", "end", "no summary"},
  };
}

std::vector<Breach> ErrorBreaches() {
  const char* const events = "client-0.events";
  return {
      {"NoOperation", events, "\"operation\":\"connect\"", "\"operation\":\"none\"", "errors",
       "not all of"},
      {"NoClass", events, "\"class\":\"refused\"", "\"class\":\"none\"", "errors", "not all of"},
      {"NoErrno", events, "\"errno\":\"ECONNREFUSED\",", "", "errors", "not all of"},
      {"AnErrnoLost", events, R"("class":"refused","errno":"ECONNREFUSED")",
       R"("class":"unreachable","errno":"")", "errors", "have no errno"},
      {"AnotherClassThanTheTable", events, "\"class\":\"refused\"", "\"class\":\"reset\"", "errors",
       "the table has ['refused']"},
      {"AnErrnoThatTheTableDoesNotKnow", events, "ECONNREFUSED", "EDOM", "errors",
       "the table has []"},
      {"AServerThatMetGarbage", "server-0-1.events", "\"class\":\"reset\"",
       "\"class\":\"protocol\"", "errors", "closed: protocol"},
  };
}

std::vector<Breach> BackoffBreaches() {
  const char* const events = "client-0.events";
  return {
      {"AFirstWaitTooLong", events, "\"delay_us\":40000", "\"delay_us\":50001", "backoff",
       "wait 0 is 50001 us, not within [0, 50000]"},
      {"ASecondWaitTooLong", events, "\"delay_us\":60000", "\"delay_us\":75001", "backoff",
       "wait 1 is 75001 us, not within [50000, 75000]"},
      {"ASecondWaitTooShort", events, "\"delay_us\":60000", "\"delay_us\":49999", "backoff",
       "wait 1 is 49999 us"},
      {"AWaitThatKeepsGrowingAfterHealth", events, "\"delay_us\":30000", "\"delay_us\":60000",
       "backoff", "wait 0 is 60000 us"},
      {"ADialBeforeItsWaitIsOver", events, "\"delay_us\":60000", "\"delay_us\":900000", "backoff",
       "dialed 0.840 s early"},
      {"ADialLongAfterItsWait", events, R"("t_us":542310,"link":0,"delay_us":60000)",
       R"("t_us":542310,"link":0,"delay_us":-400000)", "backoff", "late"},
      // The first session lived for half a second, and 3 s are healthy.
      {"AttemptsThatRestartAtConnect", events, R"("delay_us":40000,"attempt":2)",
       R"("delay_us":40000,"attempt":1)", "attempts", "attempt 1 comes after 1"},
      {"AttemptsThatDoNotRestartAfterHealth", events, R"("delay_us":30000,"attempt":1)",
       R"("delay_us":30000,"attempt":4)", "attempts", "attempt 4 comes after 0"},
      {"AFailureOfAnotherAttempt", events, R"("dial_failed","t_us":542300,"link":0,"attempt":2)",
       R"("dial_failed","t_us":542300,"link":0,"attempt":5)", "attempts",
       "attempt 5 failed, not 2"},
      {"ADialOfAnotherAttemptThanAnnounced", events, R"("t_us":602400,"link":0,"attempt":3)",
       R"("t_us":602400,"link":0,"attempt":4)", "attempts", "dial of attempt 4, not 3"},
  };
}

std::vector<Breach> AccountBreaches() {
  const char* const events = "client-0.events";
  const char* const account = "client-0.account";
  const std::string third = LineOf(kAccount, "\"sequence\":3");
  return {
      {"AnAckTooMany", events, R"("acked":2,"in_doubt":0)", R"("acked":3,"in_doubt":0)", "summary",
       "sent is 10, its events and account say 11"},
      {"AMessageThatHasNoFate", account, third, "", "summary", "lost is 4"},
      {"AMessageWithTwoFates", account, third, third + third, "account", "accounted for twice"},
      {"AFateThatTheDownDoesNotKnow", account, R"("fate":"in_doubt")", R"("fate":"unsent")",
       "account", "unsent, but its down says in_doubt"},
      {"AMessageOfNoSession", account, R"("sequence":7)", R"("sequence":11)", "account",
       "no session accepted it"},
      {"AnEchoThatCameTwice", events, "\"duplicated\":0", "\"duplicated\":1", "summary",
       "duplicated is 1"},
      {"AnEchoOutOfOrder", events, "\"reordered\":0", "\"reordered\":1", "summary",
       "reordered is 1"},
      {"AnAccountThatTheClientItselfDoubts", events, "\"adds_up\":true", "\"adds_up\":false",
       "summary", "adds_up is False"},
      {"UnsentYetReceived", "server-0-0.log", LineOf(kKilledLog, "\"sequence\":3"),
       LineOf(kKilledLog, "\"sequence\":3") +
           R"({"peer":"10.78.1.2:40001","link":0,"sequence":4}
{"peer":"10.78.1.2:40001","link":0,"sequence":5}
)",
       "account", "1 messages called unsent were received"},
      // The server read the last session to its end in good order.
      {"AckedYetNeverRead", "server-0-1.log", LineOf(kEndedLog, "\"sequence\":10"), "", "account",
       "3 acked, but the server read 2 to the end"},
  };
}

std::vector<Breach> DeliveryBreaches() {
  const char* const log = "server-0-1.log";
  const std::string sixth = LineOf(kEndedLog, "\"sequence\":6");
  const std::string seventh = LineOf(kEndedLog, "\"sequence\":7");
  return {
      {"AGap", "server-0-0.log", LineOf(kKilledLog, "\"sequence\":2"), "", "delivery",
       "received 3, not 2"},
      {"ADuplicate", log, sixth, sixth + sixth, "delivery", "received 6, not 7"},
      {"TwoOutOfOrder", log, sixth + seventh, seventh + sixth, "delivery", "received 7, not 6"},
      {"AMessageThatNobodySent", log, "\"sequence\":10", "\"sequence\":11", "delivery",
       "no session sent it"},
      {"AMessageOfAnotherConnection", log, sixth,
       R"({"peer":"10.78.1.2:40009","link":0,"sequence":6}
)",
       "delivery", "no session sent it"},
      {"AMessageFromNobodyThatNobodySent", log, sixth,
       R"({"peer":"","link":0,"sequence":11}
)" + sixth,
       "delivery", "from nobody: no session sent it"},
      {"AnUnsentMessageFromNobody", log, sixth,
       R"({"peer":"","link":0,"sequence":5}
)" + sixth,
       "delivery", "from nobody: every client calls it unsent"},
      {"OneSessionAtTwoServers", log, sixth,
       R"({"peer":"10.78.1.2:40001","link":0,"sequence":4}
)" + sixth,
       "delivery", "received by server-0-0 and server-0-1"},
      {"AnEchoOfWhatNeverArrived", "server-0-0.log",
       LineOf(kKilledLog, "\"sequence\":2") + LineOf(kKilledLog, "\"sequence\":3"), "", "delivery",
       "2 was echoed, but 1 were received"},
      {"ALineThatIsNoJson", log, sixth, "{\"peer\":\n" + sixth, "format", "no JSON"},
      {"ALineThatAServerLeftUnfinished", log, "\"sequence\":10}\n", "\"sequence\":10}", "format",
       "not finished"},
  };
}

std::vector<Breach> EndBreaches() {
  const char* const manifest = "manifest.json";
  return {
      // 100 s + 4.634 s is when the last session began, and the bound is 13 s.
      {"UpTooLate", manifest, "\"healed\": 106.0", "\"healed\": 91.6", "liveness",
       "up 13.034 s after the last fault, not within 13.000 s"},
      {"NeverUp", manifest, "\"links\": 1", "\"links\": 2", "liveness", "link 1: never up"},
      {"LostAgainAfterTheEnd", "client-0.events", R"("operation":"user","class":"cancelled")",
       R"("operation":"heartbeat","class":"timeout")", "liveness", "its last session was lost"},
      {"UpButDumb", manifest, "\"mark\": 196", "\"mark\": 246", "liveness",
       "no new message was echoed"},
      {"AServerThatEndedBadly", manifest, R"("status": 0, "mark")", R"("status": -6, "mark")",
       "end", "server-0-1: exit status -6"},
      {"AClientThatEndedBadly", manifest, R"("status": 0,
)",
       R"("status": 3,
)",
       "end", "client-0: exit status 3"},
      {"ALinkThatGaveUp", "client-0.events", R"("reason":"user")", R"("reason":"permanent")", "end",
       "closed by itself: permanent"},
      {"ADescriptorTooMany", manifest, R"("after": 12)", R"("after": 13)", "descriptors",
       "12 descriptors at first, 13 at last"},
      {"ASocketOfADeadConnection", manifest, R"("after": 9, "dead": 0)", R"("after": 9, "dead": 1)",
       "descriptors", "1 sockets of dead connections"},
  };
}

std::vector<Breach> Breaches() {
  std::vector<Breach> all;
  for (const auto& some : {GrammarBreaches(), ErrorBreaches(), BackoffBreaches(), AccountBreaches(),
                           DeliveryBreaches(), EndBreaches()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

TEST(ChaosCheckerTest, AcceptsASoundHistory) {
  const Verdict verdict = Check(SoundHistory());
  EXPECT_EQ(verdict.status, 0) << verdict.output;
  EXPECT_NE(verdict.output.find("3 ups, 3 downs, 10 messages; every link was up"),
            std::string::npos)
      << verdict.output;
}

TEST(ChaosCheckerTest, AcceptsALineThatAKilledServerLeftUnfinished) {
  Files files = SoundHistory();
  files["server-0-0.log"] += "{\"peer\":\"10.78";
  const Verdict verdict = Check(files);
  EXPECT_EQ(verdict.status, 0) << verdict.output;
}

TEST(ChaosCheckerTest, AcceptsAMessageOfAConnectionThatWasDeadWhenItWasAccepted) {
  Files files = SoundHistory();
  files["server-0-0.log"] += R"({"peer":"","link":0,"sequence":4}
)";
  const Verdict verdict = Check(files);
  EXPECT_EQ(verdict.status, 0) << verdict.output;
}

TEST(ChaosCheckerTest, AcceptsSlowWaitsWhereTheActionIsSlow) {
  Files files = SoundHistory();
  std::string& events = files["client-0.events"];
  const std::string was =
      R"("operation":"connect","class":"refused","errno":"ECONNREFUSED","action":"back_off")";
  events.replace(
      events.find(was), was.size(),
      R"("operation":"resolve","class":"name_not_found","errno":"EAI_NONAME","action":"back_off_slow")");
  const std::string wait = R"("delay_us":60000)";
  EXPECT_EQ(Check(files).status, 1);  // 4 * 50 ms is the least.
  events.replace(events.find(wait), wait.size(), R"("delay_us":250000)");
  const Verdict verdict = Check(files);
  EXPECT_EQ(verdict.status, 0) << verdict.output;
}

class ChaosCheckerBreachTest : public testing::TestWithParam<Breach> {};

INSTANTIATE_TEST_SUITE_P(Promise, ChaosCheckerBreachTest, testing::ValuesIn(Breaches()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(ChaosCheckerBreachTest, IsRefused) {
  const Breach& breach = GetParam();
  Files files = SoundHistory();
  std::string& text = files[breach.file];
  const std::size_t at = text.find(breach.from);
  ASSERT_NE(at, std::string::npos) << "the history does not have " << breach.from;
  ASSERT_EQ(text.find(breach.from, at + 1), std::string::npos) << "twice: " << breach.from;
  text.replace(at, breach.from.size(), breach.to);
  const Verdict verdict = Check(files);
  EXPECT_EQ(verdict.status, 1);
  const std::size_t said = verdict.output.find(breach.says);
  ASSERT_NE(said, std::string::npos) << verdict.output;
  const std::size_t begin = verdict.output.rfind('\n', said) + 1;
  const std::string line = verdict.output.substr(begin, verdict.output.find('\n', said) - begin);
  EXPECT_EQ(line.rfind(std::string("chaos: VIOLATION (") + breach.rule + "): ", 0), 0u) << line;
}

}  // namespace
}  // namespace holdfast::e2e
