// One JSON object on one line, written field by field in the order of the calls.
//
//   JsonLine line;
//   line.Add("event", "dial").Add("attempt", 3);
//   out.Write(line.Finish());                     // {"event":"dial","attempt":3}\n
//
// A writer of 60 lines instead of a package: the event log has only strings, integers and booleans.
#ifndef HOLDFAST_TOOLS_ECHO_JSON_LINE_H_
#define HOLDFAST_TOOLS_ECHO_JSON_LINE_H_

#include <concepts>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace holdfast::echo {

class JsonLine {
 public:
  // Control characters, quotes and backslashes are escaped (RFC 8259); bytes that are not UTF-8
  // become U+FFFD, so that every line can be parsed.
  JsonLine& Add(std::string_view key, std::string_view value);
  JsonLine& Add(std::string_view key, const char* value) {
    return Add(key, std::string_view(value));
  }
  template <std::integral T>
  JsonLine& Add(std::string_view key, T value) {
    Key(key);
    if constexpr (std::same_as<T, bool>) {
      text_ += value ? "true" : "false";
    } else {
      absl::StrAppend(&text_, value);
    }
    return *this;
  }
  // The line with its newline; the writer is empty again after the next Clear.
  std::string_view Finish();
  void Clear() { text_.clear(); }

 private:
  void Key(std::string_view key);
  void Quoted(std::string_view text);

  std::string text_;
};

}  // namespace holdfast::echo

#endif  // HOLDFAST_TOOLS_ECHO_JSON_LINE_H_
