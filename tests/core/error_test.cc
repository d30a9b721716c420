#include <holdfast/error.h>

#include <gtest/gtest.h>
#include <netdb.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace holdfast {
namespace {

static_assert(sizeof(Error) == 16);
static_assert(std::is_trivially_copyable_v<Error>);
static_assert(!Error{}.failed());
static_assert(!Error{}.IsTemporary());
static_assert(Error::Deadline(Operation::kHeartbeat).IsTimeout());
static_assert(Error::Deadline(Operation::kHeartbeat).IsTemporary());
static_assert(Error::Deadline(Operation::kConnect).code == 0);
static_assert(Error::Protocol().IsTemporary());
static_assert(!Error::Cancelled().IsTemporary());
static_assert(Error::Cancelled().failed());

const std::vector<std::pair<Operation, std::string>> kOperations = {
    {Operation::kNone, "none"},       {Operation::kResolve, "resolve"},
    {Operation::kSocket, "socket"},   {Operation::kBind, "bind"},
    {Operation::kListen, "listen"},   {Operation::kConnect, "connect"},
    {Operation::kAccept, "accept"},   {Operation::kSend, "send"},
    {Operation::kReceive, "receive"}, {Operation::kShutdown, "shutdown"},
    {Operation::kClose, "close"},     {Operation::kHeartbeat, "heartbeat"},
    {Operation::kOption, "option"},   {Operation::kBackend, "backend"},
    {Operation::kUser, "user"},
};

struct ClassFacts {
  ErrorClass error_class;
  std::string name;
  absl::StatusCode status;
};
const std::vector<ClassFacts> kClasses = {
    {ErrorClass::kNone, "none", absl::StatusCode::kOk},
    {ErrorClass::kTryAgain, "try_again", absl::StatusCode::kUnavailable},
    {ErrorClass::kCancelled, "cancelled", absl::StatusCode::kCancelled},
    {ErrorClass::kEof, "eof", absl::StatusCode::kUnavailable},
    {ErrorClass::kTimeout, "timeout", absl::StatusCode::kDeadlineExceeded},
    {ErrorClass::kRefused, "refused", absl::StatusCode::kUnavailable},
    {ErrorClass::kReset, "reset", absl::StatusCode::kUnavailable},
    {ErrorClass::kUnreachable, "unreachable", absl::StatusCode::kUnavailable},
    {ErrorClass::kResource, "resource", absl::StatusCode::kResourceExhausted},
    {ErrorClass::kNameTemporary, "name_temporary", absl::StatusCode::kUnavailable},
    {ErrorClass::kNameNotFound, "name_not_found", absl::StatusCode::kNotFound},
    {ErrorClass::kLocalAddress, "local_address", absl::StatusCode::kFailedPrecondition},
    {ErrorClass::kPermission, "permission", absl::StatusCode::kPermissionDenied},
    {ErrorClass::kProtocol, "protocol", absl::StatusCode::kInternal},
    {ErrorClass::kUnsupported, "unsupported", absl::StatusCode::kUnimplemented},
    {ErrorClass::kInvalid, "invalid", absl::StatusCode::kInternal},
    {ErrorClass::kUnknown, "unknown", absl::StatusCode::kUnknown},
};

struct ActionFacts {
  Action action;
  std::string name;
  bool dials_again;
};
const std::vector<ActionFacts> kActions = {
    {Action::kNone, "none", false},
    {Action::kRetryInPlace, "retry_in_place", true},
    {Action::kBackOff, "back_off", true},
    {Action::kBackOffSlow, "back_off_slow", true},
    {Action::kNextAddress, "next_address", true},
    {Action::kPause, "pause", true},
    {Action::kFallBack, "fall_back", false},
    {Action::kSurface, "surface", true},
    {Action::kStop, "stop", false},
    {Action::kIgnore, "ignore", false},
    {Action::kVerify, "verify", true},
};

TEST(ErrorTest, NamesAreSnakeCaseWithoutTheK) {
  for (const auto& [operation, name] : kOperations) EXPECT_EQ(ToString(operation), name);
  for (const ClassFacts& facts : kClasses) EXPECT_EQ(ToString(facts.error_class), facts.name);
  for (const ActionFacts& facts : kActions) EXPECT_EQ(ToString(facts.action), facts.name);
}

TEST(ErrorTest, TheListsOfThisTestAreWhole) {
  EXPECT_EQ(kOperations.size(), static_cast<std::size_t>(Operation::kUser) + 1);
  EXPECT_EQ(kClasses.size(), static_cast<std::size_t>(ErrorClass::kUnknown) + 1);
  EXPECT_EQ(kActions.size(), static_cast<std::size_t>(Action::kVerify) + 1);
}

TEST(ErrorTest, OnlyTheActionDecidesWhetherItIsTemporary) {
  for (const ActionFacts& facts : kActions) {
    for (const ClassFacts& klass : kClasses) {
      const Error error{Operation::kConnect, klass.error_class, facts.action, 0};
      EXPECT_EQ(error.IsTemporary(), facts.dials_again) << facts.name;
    }
  }
}

TEST(ErrorTest, OnlyTheClassDecidesWhetherItIsATimeoutOrAFailure) {
  for (const ClassFacts& facts : kClasses) {
    const Error error{Operation::kSend, facts.error_class, Action::kBackOff, ETIMEDOUT};
    EXPECT_EQ(error.IsTimeout(), facts.name == "timeout") << facts.name;
    EXPECT_EQ(error.failed(), facts.name != "none") << facts.name;
  }
}

TEST(ErrorTest, TextNamesOperationReasonAndSymbol) {
  const Error refused{Operation::kConnect, ErrorClass::kRefused, Action::kBackOff, ECONNREFUSED};
  EXPECT_EQ(refused.ToString(), "connect: Connection refused (ECONNREFUSED)");
  const Error name{Operation::kResolve, ErrorClass::kNameNotFound, Action::kBackOffSlow,
                   EAI_NONAME};
  EXPECT_EQ(name.ToString(), "resolve: Name or service not known (EAI_NONAME)");
  const Error reset{Operation::kReceive, ErrorClass::kReset, Action::kBackOff, ECONNRESET};
  EXPECT_EQ(reset.ToString(), "receive: Connection reset by peer (ECONNRESET)");
}

TEST(ErrorTest, TextWithoutACodeNamesTheClass) {
  EXPECT_EQ(Error::Deadline(Operation::kHeartbeat).ToString(), "heartbeat: timeout");
  EXPECT_EQ((Error{Operation::kReceive, ErrorClass::kEof, Action::kBackOff, 0}).ToString(),
            "receive: eof");
  EXPECT_EQ(Error::Cancelled().ToString(), "user: cancelled");
  EXPECT_EQ(Error::Protocol().ToString(), "user: protocol");
  EXPECT_EQ(Error{}.ToString(), "no error");
}

TEST(ErrorTest, ACodeWithoutASymbolIsShownAsANumber) {
  const Error high{Operation::kSend, ErrorClass::kUnknown, Action::kBackOff, 4000};
  EXPECT_EQ(high.CodeName(), "4000");
  EXPECT_EQ(high.ToString(), "send: Unknown error (4000)");
  const Error low{Operation::kResolve, ErrorClass::kUnknown, Action::kBackOff, -77};
  EXPECT_EQ(low.CodeName(), "-77");
  EXPECT_EQ(low.ToString(), "resolve: Unknown error (-77)");
}

TEST(ErrorTest, CodeNamesAreSymbols) {
  const std::vector<std::pair<int, std::string>> names = {
      {0, ""},
      {EAGAIN, "EAGAIN"},
      {EWOULDBLOCK, "EAGAIN"},  // The same number on Linux.
      {ETIMEDOUT, "ETIMEDOUT"},
      {ENOTSUP, "EOPNOTSUPP"},  // The same number on Linux.
      {EBADFD, "EBADFD"},
      {EAI_BADFLAGS, "EAI_BADFLAGS"},
      {EAI_NONAME, "EAI_NONAME"},
      {EAI_AGAIN, "EAI_AGAIN"},
      {EAI_FAIL, "EAI_FAIL"},
      {EAI_NODATA, "EAI_NODATA"},
      {EAI_FAMILY, "EAI_FAMILY"},
      {EAI_SOCKTYPE, "EAI_SOCKTYPE"},
      {EAI_SERVICE, "EAI_SERVICE"},
      {EAI_ADDRFAMILY, "EAI_ADDRFAMILY"},
      {EAI_MEMORY, "EAI_MEMORY"},
      {EAI_SYSTEM, "EAI_SYSTEM"},
      {EAI_OVERFLOW, "EAI_OVERFLOW"},
      {EAI_INPROGRESS, "EAI_INPROGRESS"},
      {EAI_CANCELED, "EAI_CANCELED"},
      {EAI_NOTCANCELED, "EAI_NOTCANCELED"},
      {EAI_ALLDONE, "EAI_ALLDONE"},
      {EAI_INTR, "EAI_INTR"},
      {EAI_IDN_ENCODE, "EAI_IDN_ENCODE"},
  };
  for (const auto& [code, name] : names) EXPECT_EQ(Error{.code = code}.CodeName(), name);
}

TEST(ErrorTest, EveryCodeThatTheCLibraryKnowsHasASymbol) {
  for (int code = -200; code <= 200; ++code) {
    const Error error{Operation::kConnect, ErrorClass::kUnknown, Action::kBackOff, code};
    // glibc 2.36 has a number for EAI_OVERFLOW, but no text.
    const bool known =
        code > 0 ? strerrordesc_np(code) != nullptr
                 : code == EAI_OVERFLOW || std::strcmp(gai_strerror(code), "Unknown error") != 0;
    const bool named = !error.CodeName().empty() && error.CodeName().front() == 'E';
    EXPECT_EQ(named, known) << code;
    EXPECT_EQ(error.ToString().find("connect: "), 0u) << code;
  }
}

TEST(ErrorTest, TheStatusFollowsTheClassAndCarriesTheText) {
  for (const ClassFacts& facts : kClasses) {
    const Error error{Operation::kSend, facts.error_class, Action::kBackOff, EPIPE};
    EXPECT_EQ(error.ToStatus().code(), facts.status) << facts.name;
    EXPECT_EQ(error.ToStatus().message(),
              facts.status == absl::StatusCode::kOk ? "" : "send: Broken pipe (EPIPE)");
  }
  EXPECT_TRUE(Error{}.ToStatus().ok());
}

TEST(ErrorTest, EqualityLooksAtEveryField) {
  const Error error{Operation::kSend, ErrorClass::kReset, Action::kBackOff, EPIPE};
  EXPECT_EQ(error, error);
  for (Error other : {Error{Operation::kReceive, ErrorClass::kReset, Action::kBackOff, EPIPE},
                      Error{Operation::kSend, ErrorClass::kEof, Action::kBackOff, EPIPE},
                      Error{Operation::kSend, ErrorClass::kReset, Action::kStop, EPIPE},
                      Error{Operation::kSend, ErrorClass::kReset, Action::kBackOff, EIO}}) {
    EXPECT_NE(error, other);
  }
}

}  // namespace
}  // namespace holdfast
