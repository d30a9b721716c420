// Names of a simulated world: what they answer, when, and what each of their faults makes of it.
#include "sim/names.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <initializer_list>
#include <string>
#include <vector>

#include <holdfast/endpoint.h>

namespace holdfast::internal::sim {
namespace {

using namespace std::chrono_literals;

SocketAddress Address(const std::string& text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  return *endpoint->literal();
}

std::vector<SocketAddress> Addresses(std::initializer_list<const char*> texts) {
  std::vector<SocketAddress> addresses;
  for (const char* const text : texts) addresses.push_back(Address(text));
  return addresses;
}

class NamesTest : public ::testing::Test {
 protected:
  // What a look-up answered: "10.0.0.1:0 10.0.0.2:0", or the error.
  struct Result {
    int error = 0;
    int error_number = 0;
    std::string addresses = {};
    Duration took{0};
  };
  // On a task, as a thread of the resolver does it. Runs the world until it has answered.
  Result Lookup(const char* node, const char* service = nullptr, const addrinfo* hints = nullptr) {
    Result result;
    schedule_.Spawn([&] { result = LookupHere(node, service, hints); });
    schedule_.RunUntil(kNever);
    return result;
  }
  Result LookupHere(const char* node, const char* service = nullptr,
                    const addrinfo* hints = nullptr) {
    Result result;
    const Instant begin = schedule_.now();
    addrinfo* list = nullptr;
    result.error_number = -1;
    result.error = names_.Lookup(node, service, hints, &list, &result.error_number);
    result.took = schedule_.now() - begin;
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
      EXPECT_EQ(entry->ai_family, entry->ai_addr->sa_family);
      if (!result.addresses.empty()) result.addresses += ' ';
      result.addresses += SocketAddress(entry->ai_addr, entry->ai_addrlen).ToString();
    }
    Names::Free(list);
    return result;
  }

  Schedule schedule_;
  FaultPlan faults_{7};
  Trace trace_;
  Names names_{schedule_, faults_, trace_};
};

TEST_F(NamesTest, ANameAnswersItsAddressesInTheirOrderAfterAMillisecond) {
  names_.Set("feed", {.addresses = Addresses({"10.0.0.2:0", "[fd00::2]:0", "10.0.0.1:0"})});
  const Result result = Lookup("feed");
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.error_number, 0);
  EXPECT_EQ(result.addresses, "10.0.0.2:0 [fd00::2]:0 10.0.0.1:0");
  EXPECT_EQ(result.took, 1ms);
}

TEST_F(NamesTest, AnUnknownNameIsNoName) {
  const Result result = Lookup("nobody");
  EXPECT_EQ(result.error, EAI_NONAME);
  EXPECT_EQ(result.error_number, 0);
  EXPECT_EQ(result.addresses, "");
}

TEST_F(NamesTest, AnAnswerMayBeAnErrorWithAnErrno) {
  names_.Set("feed", {.error = EAI_SYSTEM, .error_number = ENFILE});
  const Result result = Lookup("feed");
  EXPECT_EQ(result.error, EAI_SYSTEM);
  EXPECT_EQ(result.error_number, ENFILE);
}

TEST_F(NamesTest, ANameWithoutAddressesHasNoData) {
  names_.Set("feed", {});
  EXPECT_EQ(Lookup("feed").error, EAI_NODATA);
}

TEST_F(NamesTest, NumbersAndLocalhostNeedNoZoneAndNoTime) {
  EXPECT_EQ(Lookup("192.0.2.7", "7000").addresses, "192.0.2.7:7000");
  EXPECT_EQ(Lookup("2001:db8::7", "7000").addresses, "[2001:db8::7]:7000");
  EXPECT_EQ(Lookup("localhost").addresses, "[::1]:0 127.0.0.1:0");
  EXPECT_EQ(schedule_.now(), Schedule::kStart);
}

TEST_F(NamesTest, HintsChooseTheFamilyAndForbidNames) {
  names_.Set("feed", {.addresses = Addresses({"[fd00::2]:0", "10.0.0.2:0"})});
  addrinfo hints{};
  hints.ai_family = AF_INET;
  EXPECT_EQ(Lookup("feed", "80", &hints).addresses, "10.0.0.2:80");
  hints.ai_family = AF_INET6;
  EXPECT_EQ(Lookup("feed", "80", &hints).addresses, "[fd00::2]:80");
  names_.Set("old", {.addresses = Addresses({"10.0.0.2:0"})});
  EXPECT_EQ(Lookup("old", "80", &hints).error, EAI_NODATA);
  hints = {};
  hints.ai_flags = AI_NUMERICHOST;
  EXPECT_EQ(Lookup("feed", nullptr, &hints).error, EAI_NONAME);
}

TEST_F(NamesTest, AServiceIsANumber) {
  names_.Set("feed", {.addresses = Addresses({"10.0.0.2:0"})});
  EXPECT_EQ(Lookup("feed", "http").error, EAI_SERVICE);
  EXPECT_EQ(Lookup("feed", "70x").error, EAI_SERVICE);
  EXPECT_EQ(Lookup(nullptr, "80").error, EAI_NONAME);
}

TEST_F(NamesTest, TheAnswerIsTheOneAtTheEndOfTheLookUp) {
  names_.Set("feed", {.addresses = Addresses({"10.0.0.1:0"}), .delay = 10s});
  schedule_.After(5s, [&] { names_.Set("feed", {.addresses = Addresses({"10.0.0.2:0"})}); });
  const Result result = Lookup("feed");
  EXPECT_EQ(result.took, 10s);
  EXPECT_EQ(result.addresses, "10.0.0.2:0");
  // A name that comes while somebody asks for it.
  schedule_.After(500us, [&] { names_.Set("new", {.addresses = Addresses({"10.0.0.3:0"})}); });
  EXPECT_EQ(Lookup("new").addresses, "10.0.0.3:0");
}

TEST_F(NamesTest, LookUpsGoOnSideBySide) {
  names_.Set("slow", {.addresses = Addresses({"10.0.0.1:0"}), .delay = 10s});
  names_.Set("fast", {.addresses = Addresses({"10.0.0.2:0"})});
  std::string order;
  for (const char* const name : {"slow", "fast"}) {
    schedule_.Spawn([this, name, &order] { order += LookupHere(name).addresses + ' '; });
  }
  schedule_.RunUntil(kNever);
  EXPECT_EQ(order, "10.0.0.2:0 10.0.0.1:0 ");
  EXPECT_EQ(schedule_.now(), Schedule::kStart + 10s);
}

TEST_F(NamesTest, TheEndOfTheWorldEndsEvenALookUpThatNeverAnswers) {
  names_.Set("stalled", {.addresses = Addresses({"10.0.0.1:0"}), .delay = Duration::max()});
  Result result;
  schedule_.Spawn([&] { result = LookupHere("stalled"); });
  schedule_.RunUntil(Schedule::kStart + 24h);
  EXPECT_EQ(schedule_.tasks(), 1u);
  names_.EndAll();
  schedule_.RunReady();
  EXPECT_EQ(schedule_.tasks(), 0u);
  EXPECT_EQ(result.error, EAI_AGAIN);
  EXPECT_EQ(result.took, 24h);
}

// --- Faults.

TEST_F(NamesTest, EachFaultIsWhatItsNameSaysAndIsCounted) {
  struct Case {
    Fault fault;
    int error;
    int error_number;
    Duration took;
  };
  for (const Case& expected : {
           Case{Fault::kNameTryAgain, EAI_AGAIN, 0, 1ms},
           Case{Fault::kNameUnknown, EAI_NONAME, 0, 1ms},
           Case{Fault::kNameOutOfDescriptors, EAI_NONAME, EMFILE, 1ms},
           Case{Fault::kNameNoData, EAI_NODATA, 0, 1ms},
           Case{Fault::kNameSlow, 0, 0, 30s + 1ms},
       }) {
    SCOPED_TRACE(ToString(expected.fault));
    names_.Set("feed", {.addresses = Addresses({"10.0.0.1:0"})});
    std::string story;
    trace_.SetSink([&](std::string_view line) { story += std::string(line) + '\n'; });
    faults_.SetRate(expected.fault, 65536);
    const Result result = Lookup("feed");
    faults_.SetRate(expected.fault, 0);
    EXPECT_EQ(result.error, expected.error);
    EXPECT_EQ(result.error_number, expected.error_number);
    EXPECT_EQ(result.took, expected.took);
    EXPECT_EQ(faults_.hits(expected.fault), 1u);
    EXPECT_NE(story.find("feed: " + std::string(ToString(expected.fault))), std::string::npos)
        << story;
    // And it is over.
    EXPECT_EQ(Lookup("feed").addresses, "10.0.0.1:0");
    EXPECT_EQ(faults_.hits(expected.fault), 1u);
  }
}

TEST_F(NamesTest, FaultsLeaveNumbersAlone) {
  faults_.SetRate(Fault::kNameTryAgain, 65536);
  faults_.SetRate(Fault::kNameSlow, 65536);
  EXPECT_EQ(Lookup("10.0.0.1").addresses, "10.0.0.1:0");
  EXPECT_EQ(Lookup("localhost").error, 0);
  EXPECT_EQ(faults_.hits(Fault::kNameTryAgain), 0u);
  EXPECT_EQ(faults_.hits(Fault::kNameSlow), 0u);
}

TEST_F(NamesTest, AChangedZoneTurnsItsListAndMayLeaveTheLastOut) {
  faults_.SetRate(Fault::kNameChanged, 65536);
  names_.Set("feed", {.addresses = Addresses({"10.0.0.1:0", "10.0.0.2:0"})});
  // Of two, every change swaps them; a list of one is the longer one without its last.
  const std::string whole[] = {"10.0.0.2:0 10.0.0.1:0", "10.0.0.1:0 10.0.0.2:0"};
  int cut = 0;
  for (int i = 0; i < 64; ++i) {
    const std::string said = Lookup("feed").addresses;
    if (said == whole[i % 2].substr(0, 10)) {
      ++cut;
    } else {
      EXPECT_EQ(said, whole[i % 2]);
    }
  }
  EXPECT_EQ(faults_.hits(Fault::kNameChanged), 64u);
  // A fair coin of 64 throws lies within these but once in 10^9.
  EXPECT_GT(cut, 8);
  EXPECT_LT(cut, 56);
  // The order stays, and nothing was lost.
  faults_.SetEnabled(false);
  EXPECT_EQ(Lookup("feed").addresses, whole[1]);
}

TEST_F(NamesTest, BeforeAnOnlyAddressAChangeSetsOneThatNobodyHas) {
  faults_.SetRate(Fault::kNameChanged, 65536);
  names_.Set("feed", {.addresses = Addresses({"10.0.0.1:0"})});
  const std::string said = Lookup("feed").addresses;
  EXPECT_EQ(said.substr(0, 8), "192.0.2.");
  EXPECT_EQ(said.substr(said.find(' ')), " 10.0.0.1:0");
  faults_.SetEnabled(false);
  EXPECT_EQ(Lookup("feed").addresses, "10.0.0.1:0");
}

TEST_F(NamesTest, WhatANameAnswersIsInTheHash) {
  const auto hash_of = [](const char* address) {
    Schedule schedule;
    FaultPlan faults(7);
    Trace trace;
    Names names(schedule, faults, trace);
    names.Set("feed", {.addresses = Addresses({address})});
    addrinfo* list = nullptr;
    int error_number = 0;
    EXPECT_EQ(names.Lookup("feed", nullptr, nullptr, &list, &error_number), 0);
    Names::Free(list);
    return trace.hash();
  };
  EXPECT_EQ(hash_of("10.0.0.1:0"), hash_of("10.0.0.1:0"));
  EXPECT_NE(hash_of("10.0.0.1:0"), hash_of("10.0.0.2:0"));
}

// As getaddrinfo(3) of glibc 2.36 does: 4464 is 70000 - 65536.
TEST_F(NamesTest, APortThatIsTooGreatKeepsItsLowerSixteenBits) {
  EXPECT_EQ(Lookup("10.0.0.1", "70000").addresses, "10.0.0.1:4464");
  EXPECT_EQ(Lookup("10.0.0.1", "65535").addresses, "10.0.0.1:65535");
}

}  // namespace
}  // namespace holdfast::internal::sim
