// Holds the error table against tests/data/errors.csv, row by row, and every other key against the
// documented order of look-up. The expectations come from the CSV and from the words of
// error_table.h, rebuilt here over a std::map; nothing is taken from what the product says.
#include "core/error_table.h"

#include <gtest/gtest.h>
#include <netdb.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <holdfast/error.h>

#include "support/csv.h"

namespace holdfast::internal {
namespace {

constexpr Detail kDetails[] = {
    Detail::kNone,         Detail::kUnix,   Detail::kIpv6,      Detail::kSynSent,
    Detail::kSelfConnect,  Detail::kClosed, Detail::kCloseWait, Detail::kLocalExhaustion,
    Detail::kMalformedName};

std::vector<Call> AllCalls() {
  std::vector<Call> calls;
  for (std::size_t i = 0; i < kCallCount; ++i) calls.push_back(static_cast<Call>(i));
  return calls;
}

// --- The data file
// ---------------------------------------------------------------------------------

std::filesystem::path RepositoryRoot() {
  if (const char* root = std::getenv("HOLDFAST_SOURCE_DIR")) return root;
  return std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
}

struct Line {
  std::string call, code, error_class, action;  // The action's first word, without its comment.
  bool runtime;
  std::string Name() const { return call + " " + code; }
};

std::string Before(const std::string& text, char end) { return text.substr(0, text.find(end)); }

std::string After(const std::string& text, char end) {
  const std::size_t at = text.find(end);
  return at == std::string::npos ? "" : text.substr(at + 1);
}

const std::vector<Line>& Lines() {
  static const std::vector<Line>* const lines = [] {
    const std::filesystem::path path = RepositoryRoot() / "tests/data/errors.csv";
    std::ifstream file(path);
    EXPECT_TRUE(file.good()) << path << ": set HOLDFAST_SOURCE_DIR to the repository's root";
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    auto* result = new std::vector<Line>;
    const std::vector<std::string> header = {"syscall", "errno",  "meaning", "class",
                                             "action",  "source", "scope"};
    bool first = true;
    for (const std::vector<std::string>& row : test::ParseCsv(text)) {
      if (row.size() != header.size()) {
        ADD_FAILURE() << "a row of " << row.size() << " fields: " << row.front();
        continue;
      }
      if (std::exchange(first, false)) {
        EXPECT_EQ(row, header);
        continue;
      }
      EXPECT_TRUE(row[6] == "runtime" || row[6] == "reference") << row[6];
      result->push_back({row[0], row[1], row[3], Before(row[4], ':'), row[6] == "runtime"});
    }
    return result;
  }();
  return *lines;
}

// --- The words of the data file
// --------------------------------------------------------------------

std::optional<Call> CallOf(const std::string& text) {
  static const std::map<std::string, Call> kCalls = {
      {"socket", Call::kSocket},
      {"connect", Call::kConnect},
      {"connect-result", Call::kConnectResult},
      {"accept4", Call::kAccept4},
      {"bind", Call::kBind},
      {"listen", Call::kListen},
      {"send", Call::kSend},
      {"recv", Call::kRecv},
      {"shutdown", Call::kShutdown},
      {"close", Call::kClose},
      {"getpeername", Call::kGetpeername},
      {"setsockopt", Call::kSetsockopt},
      {"getsockopt", Call::kGetsockopt},
      {"epoll_create1", Call::kEpollCreate1},
      {"epoll_ctl", Call::kEpollCtl},
      {"epoll_wait", Call::kEpollWait},
      {"epoll-event", Call::kEpollEvent},
      {"io_uring_setup", Call::kIoUringSetup},
      {"io_uring_register", Call::kIoUringRegister},
      {"io_uring_enter", Call::kIoUringEnter},
      {"cqe:any", Call::kCqeAny},
      {"cqe:connect", Call::kCqeConnect},
      {"cqe:recv", Call::kCqeRecv},
      {"cqe:send", Call::kCqeSend},
      {"cqe:accept", Call::kCqeAccept},
      {"cqe:cancel", Call::kCqeCancel},
      {"getaddrinfo", Call::kGetaddrinfo},
  };
  const auto found = kCalls.find(text);
  return found == kCalls.end() ? std::nullopt : std::optional(found->second);
}

std::optional<int> NumberOf(const std::string& text) {
  static const std::map<std::string, int> kNumbers = [] {
    std::map<std::string, int> numbers = {
        {"0", 0},
        {"0..n", 0},  // cqe:cancel: every result that is no failure.
        {"EPOLLERR only", EPOLLERR},
        {"EPOLLERR|EPOLLHUP", EPOLLERR | EPOLLHUP},
        {"EPOLLRDHUP|EPOLLIN", EPOLLRDHUP | EPOLLIN},
        {"EAI_AGAIN", EAI_AGAIN},
        {"EAI_NONAME", EAI_NONAME},
        {"EAI_NODATA", EAI_NODATA},
        {"EAI_ADDRFAMILY", EAI_ADDRFAMILY},
        {"EAI_FAIL", EAI_FAIL},
        {"EAI_MEMORY", EAI_MEMORY},
        {"EAI_SYSTEM", EAI_SYSTEM},
        {"EAI_SERVICE", EAI_SERVICE},
        {"EAI_SOCKTYPE", EAI_SOCKTYPE},
        {"EAI_FAMILY", EAI_FAMILY},
        {"EAI_BADFLAGS", EAI_BADFLAGS},
        {"EAI_OVERFLOW", EAI_OVERFLOW},
        {"EAI_CANCELED", EAI_CANCELED},
        {"EAI_INPROGRESS", EAI_INPROGRESS},
        {"EAI_INTR", EAI_INTR},
    };
    for (int code = 1; code < 4096; ++code) {
      if (const char* name = strerrorname_np(code)) numbers[name] = code;
    }
    return numbers;
  }();
  const auto found = kNumbers.find(text);
  return found == kNumbers.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Detail> DetailOf(const std::string& text) {
  static const std::map<std::string, Detail> kWords = {
      {"", Detail::kNone},
      {"ESTABLISHED", Detail::kNone},
      {"AF_UNIX", Detail::kUnix},
      {"SYN_SENT", Detail::kSynSent},
      {"SELF", Detail::kSelfConnect},
      {"CLOSE", Detail::kClosed},
      {"CLOSE_WAIT", Detail::kCloseWait},
      {"EMFILE|ENFILE|ENOMEM", Detail::kLocalExhaustion},
      {"EMSGSIZE|EINVAL", Detail::kMalformedName},
  };
  const auto found = kWords.find(text);
  return found == kWords.end() ? std::nullopt : std::optional(found->second);
}

// The words of tests/data/errors.csv that each action stands for.
Action ActionOf(const std::string& word) {
  static const std::map<std::string, Action> kWords = {
      {"retry-now", Action::kRetryInPlace},
      {"wait-ready", Action::kRetryInPlace},
      {"resubmit", Action::kRetryInPlace},
      {"backoff-reconnect", Action::kBackOff},
      {"close-conn", Action::kBackOff},
      {"backoff-slow", Action::kBackOffSlow},
      {"next-address", Action::kNextAddress},
      {"pause-and-retry", Action::kPause},
      {"fallback", Action::kFallBack},
      {"rebuild-ring", Action::kFallBack},
      {"surface", Action::kSurface},
      {"fail-permanent", Action::kStop},
      {"bug-assert", Action::kStop},
      {"ignore", Action::kIgnore},
      {"verify", Action::kVerify},
  };
  const auto found = kWords.find(word);
  if (found != kWords.end()) return found->second;
  ADD_FAILURE() << "no action for the word " << word;
  return Action::kNone;
}

ErrorClass ClassOf(const std::string& word) {
  static const std::map<std::string, ErrorClass> kWords = {
      {"kNone", ErrorClass::kNone},
      {"kTryAgain", ErrorClass::kTryAgain},
      {"kCancelled", ErrorClass::kCancelled},
      {"kEof", ErrorClass::kEof},
      {"kTimeout", ErrorClass::kTimeout},
      {"kRefused", ErrorClass::kRefused},
      {"kReset", ErrorClass::kReset},
      {"kUnreachable", ErrorClass::kUnreachable},
      {"kResource", ErrorClass::kResource},
      {"kNameTemporary", ErrorClass::kNameTemporary},
      {"kNameNotFound", ErrorClass::kNameNotFound},
      {"kLocalAddress", ErrorClass::kLocalAddress},
      {"kPermission", ErrorClass::kPermission},
      {"kProtocol", ErrorClass::kProtocol},
      {"kUnsupported", ErrorClass::kUnsupported},
      {"kInvalid", ErrorClass::kInvalid},
      {"kUnknown", ErrorClass::kUnknown},
  };
  const auto found = kWords.find(word);
  if (found != kWords.end()) return found->second;
  ADD_FAILURE() << "no class for the word " << word;
  return ErrorClass::kNone;
}

Operation ExpectedOperation(Call call) {
  static const std::map<Call, Operation> kOperations = {
      {Call::kSocket, Operation::kSocket},
      {Call::kConnect, Operation::kConnect},
      {Call::kConnectResult, Operation::kConnect},
      {Call::kAccept4, Operation::kAccept},
      {Call::kBind, Operation::kBind},
      {Call::kListen, Operation::kListen},
      {Call::kSend, Operation::kSend},
      {Call::kRecv, Operation::kReceive},
      {Call::kShutdown, Operation::kShutdown},
      {Call::kClose, Operation::kClose},
      {Call::kGetpeername, Operation::kConnect},
      {Call::kSetsockopt, Operation::kOption},
      {Call::kGetsockopt, Operation::kOption},
      {Call::kEpollCreate1, Operation::kBackend},
      {Call::kEpollCtl, Operation::kBackend},
      {Call::kEpollWait, Operation::kBackend},
      {Call::kEpollEvent, Operation::kBackend},
      {Call::kIoUringSetup, Operation::kBackend},
      {Call::kIoUringRegister, Operation::kBackend},
      {Call::kIoUringEnter, Operation::kBackend},
      {Call::kCqeAny, Operation::kBackend},
      {Call::kCqeConnect, Operation::kConnect},
      {Call::kCqeRecv, Operation::kReceive},
      {Call::kCqeSend, Operation::kSend},
      {Call::kCqeAccept, Operation::kAccept},
      {Call::kCqeCancel, Operation::kBackend},
      {Call::kGetaddrinfo, Operation::kResolve},
  };
  return kOperations.at(call);
}

// The key of a line, or nothing when the line is no (call, number, detail) fact.
std::optional<Row> KeyOf(const Line& line) {
  const std::optional<Call> call = CallOf(line.call);
  std::optional<int> code = NumberOf(line.code);
  std::optional<Detail> detail = Detail::kNone;
  if (!code) {
    code = NumberOf(Before(line.code, ':'));
    detail = DetailOf(After(line.code, ':'));
  }
  if (!call || !code || !detail) return std::nullopt;
  return Row{*call, *code, *detail};
}

// The lines that are no keys, by name: their place is kErrorRemarks, under these words.
std::optional<std::pair<std::string, std::string>> RemarkOf(const Line& line) {
  if (line.code.starts_with("short:")) return {{line.call, "short count"}};
  if (line.Name() == "getaddrinfo 0:port>65535") return {{"getaddrinfo", "0, port > 65535"}};
  if (line.Name() == "* *") return {{"*", "any other code"}};
  return std::nullopt;
}

// Rows that the product adds to the data file, by name: the end of a stream whose TCP state cannot
// be asked, which is every AF_UNIX stream; and the second half of the line of connect EADDRNOTAVAIL,
// whose class is that of the first half ("IPv4: ... IPv6: no usable source address").
// What ICMP may have left behind as an established connection's last soft error: icmp_err_convert
// (net/ipv4/icmp.c) and icmpv6_err_convert (net/ipv6/icmp.c), but for EMSGSIZE, which is path MTU; and
// what IPv6 keeps of a route: EINVAL is a blackhole (inet6_csk_xmit, net/ipv6/inet6_connection_sock.c).
const int kSoftErrors[] = {EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, ENOPROTOOPT, EHOSTDOWN,
                           ENONET,       EOPNOTSUPP,  EPROTO,       EACCES,      EINVAL};

const std::vector<Row>& Added() {
  static const auto* const rows = [] {
    auto* added =
        new std::vector<Row>{{Call::kRecv, 0}, {Call::kConnect, EADDRNOTAVAIL, Detail::kIpv6}};
    for (const int code : kSoftErrors) added->push_back({Call::kRecv, code, Detail::kClosed});
    return added;
  }();
  return *rows;
}

// --- The model: the data file as a map, and the documented order of look-up
// ------------------------

using Key = std::tuple<Call, int, Detail>;
using Answer = std::pair<ErrorClass, Action>;

const std::map<Key, Answer>& Model() {
  static const std::map<Key, Answer>* const model = [] {
    auto* map = new std::map<Key, Answer>;
    for (const Line& line : Lines()) {
      const std::optional<Row> key = KeyOf(line);
      if (!line.runtime || !key) continue;
      (*map)[{key->call, key->code, key->detail}] = {ClassOf(line.error_class),
                                                     ActionOf(line.action)};
    }
    (*map)[{Call::kRecv, 0, Detail::kNone}] = {ErrorClass::kEof, Action::kBackOff};
    (*map)[{Call::kConnect, EADDRNOTAVAIL, Detail::kIpv6}] = {ErrorClass::kUnreachable,
                                                              Action::kNextAddress};
    for (const int code : kSoftErrors) {
      (*map)[{Call::kRecv, code, Detail::kClosed}] = {ErrorClass::kTimeout, Action::kBackOff};
    }
    return map;
  }();
  return *model;
}

std::vector<Call> ModelTables(Call call) {
  switch (call) {
    case Call::kCqeConnect:
      return {Call::kCqeConnect, Call::kConnectResult, Call::kConnect, Call::kCqeAny};
    case Call::kCqeRecv:
      return {Call::kCqeRecv, Call::kRecv, Call::kCqeAny};
    case Call::kCqeSend:
      return {Call::kCqeSend, Call::kSend, Call::kCqeAny};
    case Call::kCqeAccept:
      return {Call::kCqeAccept, Call::kAccept4, Call::kCqeAny};
    case Call::kCqeCancel:
      return {Call::kCqeCancel, Call::kCqeAny};
    default:
      return {call};
  }
}

Error ModelClassify(Call call, int code, Detail detail) {
  const std::vector<Call> tables = ModelTables(call);
  Answer answer = {ErrorClass::kUnknown, Action::kBackOff};
  bool found = false;
  for (const Detail wanted : {detail, Detail::kNone}) {
    for (const Call table : tables) {
      const auto row = Model().find({table, code, wanted});
      if (found || row == Model().end()) continue;
      answer = row->second;
      found = true;
    }
  }
  const int kept = call == Call::kEpollEvent ? 0 : code;
  return {ExpectedOperation(call), answer.first, answer.second, kept};
}

std::string Show(const Error& error) {
  return std::string(ToString(error.operation)) + " " + std::string(ToString(error.error_class)) +
         " " + std::string(ToString(error.action)) + " " + std::to_string(error.code);
}

// --- Compile time
// ----------------------------------------------------------------------------------

static_assert(Classify(Call::kConnect, ECONNREFUSED) ==
              Error{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, ECONNREFUSED});
static_assert(Classify(Call::kConnect, EADDRNOTAVAIL).error_class == ErrorClass::kResource);
static_assert(Classify(Call::kCqeConnect, EADDRNOTAVAIL, Detail::kIpv6).error_class ==
              ErrorClass::kUnreachable);
static_assert(Classify(Call::kBind, EADDRNOTAVAIL).error_class == ErrorClass::kLocalAddress);
static_assert(Classify(Call::kSend, 4000) ==
              Error{Operation::kSend, ErrorClass::kUnknown, Action::kBackOff, 4000});
static_assert(ClassifyResolve(EAI_NONAME, EMFILE) ==
              Error{Operation::kResolve, ErrorClass::kResource, Action::kBackOff, EMFILE});

// --- The table and the data file
// -------------------------------------------------------------------

TEST(ErrorTableTest, TheDataFileIsWhole) {
  std::set<std::string> calls;
  std::size_t runtime = 0;
  for (const Line& line : Lines()) {
    if (line.call != "*") calls.insert(line.call);
    if (line.runtime) ++runtime;
  }

  EXPECT_EQ(Lines().size(), 309u);
  EXPECT_EQ(runtime, 279u);
  EXPECT_EQ(calls.size(), 33u);  // 34 with "*".
}

TEST(ErrorTableTest, QuotedFieldsAreReadAsRfc4180Says) {
  const auto rows = test::ParseCsv("a,\"b, \"\"c\"\"\",d\n\"\",e\r\nlast");

  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0], (std::vector<std::string>{"a", "b, \"c\"", "d"}));
  EXPECT_EQ(rows[1], (std::vector<std::string>{"", "e"}));
  EXPECT_EQ(rows[2], (std::vector<std::string>{"last"}));
}

TEST(ErrorTableTest, EveryRuntimeRowIsHeld) {
  std::size_t keys = 0;
  std::size_t remarks = 0;
  for (const Line& line : Lines()) {
    SCOPED_TRACE(line.Name());
    if (!line.runtime) continue;
    const ErrorClass error_class = ClassOf(line.error_class);
    const Action action = ActionOf(line.action);

    if (const auto words = RemarkOf(line)) {
      std::size_t found = 0;
      for (const Remark& remark : kErrorRemarks) {
        if (remark.call != words->first || remark.fact != words->second) continue;
        ++found;
        EXPECT_EQ(remark.error_class, error_class);
        EXPECT_EQ(remark.action, action);
        EXPECT_FALSE(remark.meaning.empty());
      }
      EXPECT_EQ(found, 1u);
      ++remarks;
      continue;
    }

    const std::optional<Row> key = KeyOf(line);
    ASSERT_TRUE(key) << "a runtime row without a key and without a remark";
    ASSERT_NE(PlaceOf(*key), kNotListed);
    const Entry& entry = kErrorTable[PlaceOf(*key)];
    EXPECT_EQ(entry.row, *key);
    EXPECT_EQ(entry.error_class, error_class) << ToString(entry.error_class);
    EXPECT_EQ(entry.action, action) << ToString(entry.action);
    EXPECT_EQ(FindInTables(*key), &entry);
    const int kept = key->call == Call::kEpollEvent ? 0 : key->code;
    const Error expected{ExpectedOperation(key->call), error_class, action, kept};
    const Error classified = Classify(key->call, key->code, key->detail);
    EXPECT_EQ(classified, expected) << Show(classified) << ", not " << Show(expected);
    ++keys;
  }

  EXPECT_EQ(keys, 275u);
  EXPECT_EQ(remarks, 4u);
  std::cout << "runtime rows held: " << keys << " as keys, " << remarks << " as remarks\n";
}

TEST(ErrorTableTest, NoRowIsWithoutALineOfTheDataFile) {
  std::set<Key> expected;
  for (const Line& line : Lines()) {
    const std::optional<Row> key = KeyOf(line);
    if (line.runtime && key) expected.insert({key->call, key->code, key->detail});
  }
  for (const Row& row : Added()) {
    EXPECT_TRUE(expected.insert({row.call, row.code, row.detail}).second) << CodeText(row);
  }

  std::set<Key> listed;
  for (const Entry& entry : kErrorTable) {
    const Key key{entry.row.call, entry.row.code, entry.row.detail};
    EXPECT_TRUE(listed.insert(key).second) << ToString(entry.row.call) << CodeText(entry.row);
    EXPECT_TRUE(expected.contains(key)) << ToString(entry.row.call) << " " << CodeText(entry.row);
  }
  EXPECT_EQ(listed, expected);
  EXPECT_EQ(std::size(kErrorRemarks), 4u);
}

TEST(ErrorTableTest, RowsOfCallsThatAreNeverMadeAreNotInTheTable) {
  std::set<Key> runtime;
  for (const Line& line : Lines()) {
    const std::optional<Row> key = KeyOf(line);
    if (line.runtime && key) runtime.insert({key->call, key->code, key->detail});
  }
  std::size_t checked = 0;
  for (const Line& line : Lines()) {
    const std::optional<Row> key = KeyOf(line);
    if (line.runtime || !key || runtime.contains({key->call, key->code, key->detail})) continue;
    EXPECT_EQ(PlaceOf(*key), kNotListed) << line.Name();
    ++checked;
  }
  EXPECT_GT(checked, 10u);
}

TEST(ErrorTableTest, EveryCallHasRowsANameAndAnOperation) {
  std::set<std::string_view> names;
  for (const Call call : AllCalls()) {
    std::size_t rows = 0;
    for (const Entry& entry : kErrorTable) rows += entry.row.call == call ? 1 : 0;
    EXPECT_GT(rows, 0u) << ToString(call);
    EXPECT_EQ(CallOf(std::string(ToString(call))), call);
    EXPECT_EQ(OperationOf(call), ExpectedOperation(call)) << ToString(call);
    names.insert(ToString(call));
  }
  EXPECT_EQ(names.size(), 27u);
}

// --- Look-up
// ---------------------------------------------------------------------------------------

TEST(ErrorTableTest, EveryKeyIsAnsweredInTheDocumentedOrder) {
  std::size_t listed = 0;
  std::size_t unlisted = 0;
  std::vector<int> codes = {INT_MIN, INT_MIN + 1, INT_MAX - 1, INT_MAX, 0x2001, 1 << 24, -4096};
  for (int code = -200; code <= 4200; ++code) codes.push_back(code);

  for (const Call call : AllCalls()) {
    for (const int code : codes) {
      for (const Detail detail : kDetails) {
        const Error expected = ModelClassify(call, code, detail);
        const Error classified = Classify(call, code, detail);
        ASSERT_EQ(classified, expected) << ToString(call) << " " << code << " " << ToString(detail)
                                        << ": " << Show(classified) << ", not " << Show(expected);
        (FindInTables({call, code, detail}) != nullptr ? listed : unlisted) += 1;
      }
    }
  }
  EXPECT_EQ(listed + unlisted, 27u * 9u * 4408u);
  EXPECT_GE(listed, kErrorTable.size());
}

TEST(ErrorTableTest, AnUnlistedKeyIsUnknownAndBackedOffWithItsCode) {
  EXPECT_EQ(Classify(Call::kConnect, 133),
            (Error{Operation::kConnect, ErrorClass::kUnknown, Action::kBackOff, 133}));
  EXPECT_EQ(Classify(Call::kCqeRecv, ENOSPC),
            (Error{Operation::kReceive, ErrorClass::kUnknown, Action::kBackOff, ENOSPC}));
  EXPECT_EQ(Classify(Call::kGetaddrinfo, -77),
            (Error{Operation::kResolve, ErrorClass::kUnknown, Action::kBackOff, -77}));
  EXPECT_EQ(Classify(Call::kSend, -EPIPE),  // A caller that forgot the sign gets no wrong row.
            (Error{Operation::kSend, ErrorClass::kUnknown, Action::kBackOff, -EPIPE}));
  EXPECT_EQ(Classify(Call::kEpollEvent, EPOLLPRI),
            (Error{Operation::kBackend, ErrorClass::kUnknown, Action::kBackOff, 0}));
}

TEST(ErrorTableTest, ADetailThatIsNotListedFallsBackToTheRowWithout) {
  EXPECT_EQ(Classify(Call::kConnect, EACCES, Detail::kUnix),
            Classify(Call::kConnect, EACCES, Detail::kNone));
  EXPECT_EQ(Classify(Call::kConnectResult, ETIMEDOUT, Detail::kSynSent).error_class,
            ErrorClass::kTimeout);
  EXPECT_EQ(Classify(Call::kRecv, 0, Detail::kUnix).error_class, ErrorClass::kEof);
}

TEST(ErrorTableTest, AnExactDetailOfAnotherTableBeatsAnOwnRowWithoutDetail) {
  // cqe:connect lists 0 as "connected"; connect-result knows the connection to oneself.
  EXPECT_EQ(Classify(Call::kCqeConnect, 0, Detail::kSelfConnect).error_class, ErrorClass::kRefused);
  // cqe:any lists EAGAIN as "submit again"; connect knows the full backlog of AF_UNIX.
  const Error full = Classify(Call::kCqeConnect, EAGAIN, Detail::kUnix);
  EXPECT_EQ(full, (Error{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, EAGAIN}));
}

TEST(ErrorTableTest, ACompletionTakesTheSystemCallsRowBeforeTheRowOfAnyCompletion) {
  const Error forbidden = Classify(Call::kCqeRecv, EACCES);
  EXPECT_EQ(forbidden.error_class, ErrorClass::kPermission);  // An ICMPv6 answer, no bug of ours.
  EXPECT_EQ(forbidden.action, Action::kBackOff);
  EXPECT_EQ(Classify(Call::kCqeConnect, EOPNOTSUPP).error_class, ErrorClass::kUnreachable);
  EXPECT_EQ(Classify(Call::kCqeAccept, ENOMEM).action, Action::kPause);
  EXPECT_EQ(Classify(Call::kCqeSend, EHOSTUNREACH).error_class, ErrorClass::kUnreachable);

  // What only the ring can say is still found, with the operation of the completion.
  EXPECT_EQ(Classify(Call::kCqeRecv, ECANCELED),
            (Error{Operation::kReceive, ErrorClass::kCancelled, Action::kIgnore, ECANCELED}));
  EXPECT_EQ(Classify(Call::kCqeSend, EOPNOTSUPP),
            (Error{Operation::kSend, ErrorClass::kUnsupported, Action::kFallBack, EOPNOTSUPP}));
}

TEST(ErrorTableTest, TheResultOfAHandshakeIsAskedBeforeItsStart) {
  const std::array<Call, 4> expected = {Call::kCqeConnect, Call::kConnectResult, Call::kConnect,
                                        Call::kCqeAny};
  EXPECT_EQ(TablesOf(Call::kCqeConnect), expected);
}

TEST(ErrorTableTest, ACompletionsOwnRowWins) {
  // recv: no memory. cqe:recv: the buffer ring is empty.
  EXPECT_EQ(Classify(Call::kCqeRecv, ENOBUFS).error_class, ErrorClass::kTryAgain);
  EXPECT_EQ(Classify(Call::kRecv, ENOBUFS).error_class, ErrorClass::kResource);
  // connect: a bug. connect-result: destroyed. cqe:connect: refused.
  EXPECT_EQ(Classify(Call::kCqeConnect, ECONNABORTED).error_class, ErrorClass::kRefused);
}

// For each errno that epoll's call lists, the completion says the same class, but for the errnos
// that the data file gives another meaning to on purpose.
void ExpectAgreement(Call completion, const std::vector<Call>& calls,
                     const std::set<int>& exceptions) {
  for (int code = 1; code <= 4095; ++code) {
    for (const Call call : calls) {
      if (PlaceOf({call, code}) == kNotListed) continue;
      const Error uring = Classify(completion, code);
      const Error epoll = Classify(call, code);
      EXPECT_EQ(uring.operation, epoll.operation);
      if (exceptions.contains(code)) {
        EXPECT_NE(uring.error_class, epoll.error_class) << strerrorname_np(code);
        EXPECT_NE(PlaceOf({completion, code}), kNotListed) << strerrorname_np(code);
      } else {
        EXPECT_EQ(uring.error_class, epoll.error_class)
            << ToString(completion) << " " << strerrorname_np(code);
      }
      break;  // The first table that lists it is the one to agree with.
    }
  }
}

TEST(ErrorTableTest, BothBackendsNameAFailureAlike) {
  // ECONNRESET: a ring's own shutdown. ECONNABORTED: how some kernels say "refused" to a ring.
  ExpectAgreement(Call::kCqeConnect, {Call::kConnectResult, Call::kConnect},
                  {ECONNRESET, ECONNABORTED});
  ExpectAgreement(Call::kCqeRecv, {Call::kRecv}, {ENOBUFS});
  ExpectAgreement(Call::kCqeSend, {Call::kSend}, {});
  ExpectAgreement(Call::kCqeAccept, {Call::kAccept4}, {});
  for (const Detail detail : {Detail::kClosed, Detail::kCloseWait, Detail::kNone, Detail::kUnix}) {
    EXPECT_EQ(Classify(Call::kCqeRecv, 0, detail), Classify(Call::kRecv, 0, detail));
  }
}

TEST(ErrorTableTest, AMaskOfEventsIsNeverShownAsAnErrno) {
  EXPECT_EQ(Classify(Call::kEpollEvent, EPOLLERR),
            (Error{Operation::kBackend, ErrorClass::kUnreachable, Action::kVerify, 0}));
  EXPECT_EQ(Classify(Call::kEpollEvent, EPOLLERR | EPOLLHUP),
            (Error{Operation::kBackend, ErrorClass::kReset, Action::kBackOff, 0}));
}

// --- Names
// -----------------------------------------------------------------------------------------

TEST(ClassifyResolveTest, LocalExhaustionIsNotAMissingName) {
  for (const int error_number : {EMFILE, ENFILE, ENOMEM}) {
    EXPECT_EQ(ClassifyResolve(EAI_NONAME, error_number),
              (Error{Operation::kResolve, ErrorClass::kResource, Action::kBackOff, error_number}));
  }
}

TEST(ClassifyResolveTest, AMalformedNameIsPermanent) {
  for (const int error_number : {EMSGSIZE, EINVAL}) {
    EXPECT_EQ(ClassifyResolve(EAI_NONAME, error_number),
              (Error{Operation::kResolve, ErrorClass::kInvalid, Action::kStop, error_number}));
  }
}

TEST(ClassifyResolveTest, AMissingNameIsAskedForAgainSlowly) {
  const Error missing{Operation::kResolve, ErrorClass::kNameNotFound, Action::kBackOffSlow,
                      EAI_NONAME};
  EXPECT_EQ(ClassifyResolve(EAI_NONAME, 0), missing);
  EXPECT_EQ(ClassifyResolve(EAI_NONAME, ENOENT), missing);  // An errno that decides nothing.
}

TEST(ClassifyResolveTest, ErrnoDecidesNothingForOtherCodes) {
  EXPECT_EQ(ClassifyResolve(EAI_AGAIN, EMFILE),
            (Error{Operation::kResolve, ErrorClass::kNameTemporary, Action::kBackOff, EAI_AGAIN}));
}

TEST(ClassifyResolveTest, ASystemErrorTakesTheRowsOfSocket) {
  EXPECT_EQ(ClassifyResolve(EAI_SYSTEM, EMFILE),
            (Error{Operation::kResolve, ErrorClass::kResource, Action::kBackOff, EMFILE}));
  EXPECT_EQ(ClassifyResolve(EAI_SYSTEM, EACCES),
            (Error{Operation::kResolve, ErrorClass::kPermission, Action::kStop, EACCES}));
  EXPECT_EQ(ClassifyResolve(EAI_SYSTEM, EIO),
            (Error{Operation::kResolve, ErrorClass::kUnknown, Action::kBackOff, EIO}));
}

TEST(ClassifyResolveTest, ASystemErrorWithoutErrnoIsWantOfSomethingHere) {
  EXPECT_EQ(ClassifyResolve(EAI_SYSTEM, 0),
            (Error{Operation::kResolve, ErrorClass::kResource, Action::kBackOff, EAI_SYSTEM}));
}

TEST(ErrorTableTest, ARowsCodeReadsAsInTheManualPages) {
  EXPECT_EQ(CodeText({Call::kConnect, ECONNREFUSED}), "ECONNREFUSED");
  EXPECT_EQ(CodeText({Call::kGetaddrinfo, EAI_AGAIN}), "EAI_AGAIN");
  EXPECT_EQ(CodeText({Call::kEpollEvent, EPOLLERR}), "EPOLLERR");
  EXPECT_EQ(CodeText({Call::kEpollEvent, EPOLLERR | EPOLLHUP}), "EPOLLERR+EPOLLHUP");
  EXPECT_EQ(CodeText({Call::kEpollEvent, EPOLLRDHUP | EPOLLIN}), "EPOLLRDHUP+EPOLLIN");
  EXPECT_EQ(CodeText({Call::kRecv, 0, Detail::kClosed}), "0");
}

TEST(ErrorTableTest, MeaningsFitIntoACellOfATable) {
  for (const Entry& entry : kErrorTable) {
    EXPECT_EQ(entry.meaning.find_first_of("|\n"), std::string_view::npos) << entry.meaning;
    EXPECT_LE(entry.meaning.size(), 60u) << entry.meaning;
  }
  for (const Remark& remark : kErrorRemarks) {
    EXPECT_EQ(remark.meaning.find_first_of("|\n"), std::string_view::npos) << remark.meaning;
  }
}

TEST(ErrorTableTest, DetailsHaveNamesInSnakeCase) {
  EXPECT_EQ(ToString(Detail::kNone), "");
  EXPECT_EQ(ToString(Detail::kUnix), "unix");
  EXPECT_EQ(ToString(Detail::kSynSent), "syn_sent");
  EXPECT_EQ(ToString(Detail::kSelfConnect), "self_connect");
  EXPECT_EQ(ToString(Detail::kClosed), "closed");
  EXPECT_EQ(ToString(Detail::kCloseWait), "close_wait");
  EXPECT_EQ(ToString(Detail::kLocalExhaustion), "local_exhaustion");
  EXPECT_EQ(ToString(Detail::kMalformedName), "malformed_name");
}

}  // namespace
}  // namespace holdfast::internal
