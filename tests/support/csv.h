// tests/data/errors.csv and its like, taken apart.
#ifndef HOLDFAST_TESTS_SUPPORT_CSV_H_
#define HOLDFAST_TESTS_SUPPORT_CSV_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace holdfast::test {

// RFC 4180: fields in quotes may hold commas, line ends, and quotes written twice.
inline std::vector<std::vector<std::string>> ParseCsv(std::string_view text) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row;
  std::string field;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      const bool doubled = c == '"' && i + 1 < text.size() && text[i + 1] == '"';
      if (doubled) ++i;
      if (c == '"' && !doubled) {
        quoted = false;
      } else {
        field += c;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',' || c == '\n') {
      row.push_back(std::exchange(field, ""));
      if (c == '\n') rows.push_back(std::exchange(row, {}));
    } else if (c != '\r') {
      field += c;
    }
  }
  if (!row.empty() || !field.empty()) {
    row.push_back(field);
    rows.push_back(row);
  }
  return rows;
}

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_SUPPORT_CSV_H_
