#include "echo/json_line.h"

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace holdfast::echo {
namespace {

std::string Of(std::string_view value) {
  JsonLine line;
  line.Add("s", value);
  return std::string(line.Finish());
}

TEST(JsonLineTest, WritesFieldsInTheirOrderOnOneLine) {
  JsonLine line;
  line.Add("event", "dial").Add("attempt", 3).Add("ok", true).Add("no", false);
  EXPECT_EQ(line.Finish(), "{\"event\":\"dial\",\"attempt\":3,\"ok\":true,\"no\":false}\n");
  line.Clear();
  line.Add("i", std::numeric_limits<std::int64_t>::min()).Add("u", ~std::uint64_t{0});
  EXPECT_EQ(line.Finish(), "{\"i\":-9223372036854775808,\"u\":18446744073709551615}\n");
}

TEST(JsonLineTest, EscapesWhatWouldEndTheStringOrTheLine) {
  EXPECT_EQ(Of("a\"b\\c\nd"), "{\"s\":\"a\\\"b\\\\c\\nd\"}\n");
  EXPECT_EQ(Of(std::string_view("\0\x01\x1f\x7f", 4)),
            "{\"s\":\"\\u0000\\u0001\\u001f\\u007f\"}\n");
}

TEST(JsonLineTest, KeepsUtf8AndReplacesWhatIsNot) {
  EXPECT_EQ(Of("\u00e9\u20ac\U0001f600"), "{\"s\":\"\u00e9\u20ac\U0001f600\"}\n");
  EXPECT_EQ(Of("\xff"), "{\"s\":\"\\ufffd\"}\n");
  EXPECT_EQ(Of("\xe2\x82"), "{\"s\":\"\\ufffd\\ufffd\"}\n");             // Cut off.
  EXPECT_EQ(Of("\xc0\x80"), "{\"s\":\"\\ufffd\\ufffd\"}\n");             // Overlong.
  EXPECT_EQ(Of("\xed\xa0\x80"), "{\"s\":\"\\ufffd\\ufffd\\ufffd\"}\n");  // A surrogate.
  EXPECT_EQ(Of("\xf4\x90\x80\x80"),
            "{\"s\":\"\\ufffd\\ufffd\\ufffd\\ufffd\"}\n");  // Beyond U+10FFFF.
}

}  // namespace
}  // namespace holdfast::echo
