#include "e2e/schema.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "e2e/echo_fixture.h"

namespace holdfast::e2e {
namespace {

std::string Problem(std::string_view schema, std::string_view value) {
  const auto definition = Json::Parse(schema);
  const auto json = Json::Parse(value);
  if (!definition || !json) return "no JSON";
  Json::Object definitions{{"it", *definition}};
  Json::Object root{{"definitions", Json(definitions)}};
  return Schema(Json(root)).Problem("it", *json);
}

TEST(JsonTest, ReadsWhatTheProgramsWrite) {
  const auto json =
      Json::Parse(R"( {"a":-1,"b":[true,false,null],"c":{"d":"\"\\\n\u00e9\u20ac"}} )");
  ASSERT_TRUE(json);
  EXPECT_EQ(json->Int("a"), -1);
  EXPECT_EQ(json->Find("b")->As<Json::Array>()->size(), 3u);
  EXPECT_EQ(json->Find("c")->Str("d"), "\"\\\n\u00e9\u20ac");
}

TEST(JsonTest, RefusesWhatIsNoJsonAndNumbersThatAreNoIntegers) {
  for (const char* text :
       {"", "{", "{\"a\"}", "{\"a\":1,}", "[1 2]", "\"a", "tru", "1 2", "1.5", "1e3",
        "{\"a\":1,\"a\":2}", "\"\n\"", "\"\\x\"", "\"\\u12\"", "{'a':1}"}) {
    EXPECT_FALSE(Json::Parse(text)) << text;
  }
}

TEST(SchemaTest, HoldsEveryKeyword) {
  EXPECT_EQ(Problem(R"({"type":"integer","minimum":1,"maximum":2})", "1"), "");
  EXPECT_NE(Problem(R"({"type":"integer","minimum":1})", "0"), "");
  EXPECT_NE(Problem(R"({"type":"integer","maximum":2})", "3"), "");
  EXPECT_NE(Problem(R"({"type":"integer"})", "\"1\""), "");
  EXPECT_NE(Problem(R"({"type":"string"})", "1"), "");
  EXPECT_NE(Problem(R"({"type":"boolean"})", "1"), "");
  EXPECT_NE(Problem(R"({"type":"object"})", "[]"), "");
  EXPECT_EQ(Problem(R"({"const":"a"})", "\"a\""), "");
  EXPECT_NE(Problem(R"({"const":"a"})", "\"b\""), "");
  EXPECT_EQ(Problem(R"({"enum":["a","b"]})", "\"b\""), "");
  EXPECT_NE(Problem(R"({"enum":["a","b"]})", "\"c\""), "");
  EXPECT_NE(Problem(R"({"required":["a"]})", "{\"b\":1}"), "");
  EXPECT_NE(Problem(R"({"properties":{"a":{"type":"string"}}})", "{\"a\":1}"), "");
  EXPECT_EQ(Problem(R"({"properties":{"a":{}},"additionalProperties":false})", "{\"a\":1}"), "");
  EXPECT_NE(Problem(R"({"properties":{"a":{}},"additionalProperties":false})", "{\"b\":1}"), "");
  EXPECT_NE(Problem(R"({"oneOf":[{"type":"string"},{"const":"a"}]})", "\"a\""), "");
  EXPECT_EQ(Problem(R"({"anyOf":[{"type":"string"},{"const":"a"}]})", "\"a\""), "");
  EXPECT_NE(Problem(R"({"anyOf":[{"type":"string"},{"const":1}]})", "2"), "");
  EXPECT_NE(Problem(R"({"$ref":"#/definitions/none"})", "1"), "");
  EXPECT_NE(Problem(R"({"pattern":"a"})", "\"a\""), "") << "unknown keywords are errors";
}

TEST(EventSchemaTest, TakesTheLinesOfTheProgramsAndNoOthers) {
  const Schema& schema = EventSchema();
  const auto problem = [&](std::string_view definition, std::string_view line) {
    const auto json = Json::Parse(line);
    return json ? schema.Problem(definition, *json) : "no JSON";
  };
  constexpr std::string_view kDown =
      R"({"event":"down","t_us":5,"link":0,"operation":"heartbeat","class":"timeout","errno":"",)"
      R"("action":"back_off","peer":"127.0.0.1:1","up_us":4,"acked":1,"in_doubt":2,"unsent":3})";
  EXPECT_EQ(problem("echo_event", kDown), "");
  EXPECT_NE(problem("echod_event", kDown), "");
  std::string without = std::string(kDown);
  without.replace(without.find("\"unsent\":3"), 10, "\"more\":3");
  EXPECT_NE(problem("echo_event", without), "");
  EXPECT_EQ(
      problem("echo_event", R"({"event":"retry","t_us":1,"link":0,"delay_us":0,"attempt":2})"), "");
  EXPECT_NE(problem("echo_event", R"({"event":"retry","t_us":1,"delay_us":0,"attempt":2})"), "");
  EXPECT_NE(
      problem("echo_event", R"({"event":"retry","t_us":-1,"link":0,"delay_us":0,"attempt":2})"),
      "");
  EXPECT_EQ(problem("account_line",
                    R"({"link":0,"sequence":7,"local":"127.0.0.1:40000","fate":"in_doubt"})"),
            "");
  EXPECT_NE(
      problem("account_line", R"({"link":0,"sequence":7,"local":"127.0.0.1:40000","fate":"gone"})"),
      "");
  EXPECT_EQ(problem("log_line", R"({"peer":"127.0.0.1:40000","link":0,"sequence":7})"), "");
  EXPECT_NE(problem("log_line", R"({"peer":"127.0.0.1:40000","link":0,"sequence":0})"), "");
}

}  // namespace
}  // namespace holdfast::e2e
