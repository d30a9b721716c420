// A small JSON reader (RFC 8259) for the lines that the programs write. Integers only: the event log
// has no other numbers, and a line with one is refused here.
#ifndef HOLDFAST_TESTS_E2E_JSON_H_
#define HOLDFAST_TESTS_E2E_JSON_H_

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace holdfast::e2e {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;

  Json() = default;
  explicit Json(Object members) : kind_(Kind::kObject), members_(std::move(members)) {}

  // nullopt for anything but one whole value.
  static std::optional<Json> Parse(std::string_view text) {
    Json json;
    if (!Take(text, json, 0)) return std::nullopt;
    SkipSpace(text);
    if (!text.empty()) return std::nullopt;
    return json;
  }

  // The value, if it is of this type: bool, std::int64_t, std::string, Array, Object.
  template <typename T>
  [[nodiscard]] const T* As() const {
    if constexpr (std::same_as<T, bool>) return kind_ == Kind::kBool ? &bool_ : nullptr;
    if constexpr (std::same_as<T, std::int64_t>) return kind_ == Kind::kInt ? &int_ : nullptr;
    if constexpr (std::same_as<T, std::string>) return kind_ == Kind::kString ? &text_ : nullptr;
    if constexpr (std::same_as<T, Array>) return kind_ == Kind::kArray ? &items_ : nullptr;
    if constexpr (std::same_as<T, Object>) return kind_ == Kind::kObject ? &members_ : nullptr;
  }
  // The member of an object; null when there is none.
  [[nodiscard]] const Json* Find(std::string_view key) const {
    const auto* const object = As<Object>();
    if (object == nullptr) return nullptr;
    const auto found = object->find(key);
    return found == object->end() ? nullptr : &found->second;
  }
  // Members that must be there; 0 and "" when they are not, which no schema lets pass.
  [[nodiscard]] std::int64_t Int(std::string_view key) const {
    const Json* const member = Find(key);
    const auto* const value = member == nullptr ? nullptr : member->As<std::int64_t>();
    return value == nullptr ? 0 : *value;
  }
  [[nodiscard]] std::string Str(std::string_view key) const {
    const Json* const member = Find(key);
    const auto* const value = member == nullptr ? nullptr : member->As<std::string>();
    return value == nullptr ? std::string() : *value;
  }
  friend bool operator==(const Json& a, const Json& b) = default;

 private:
  enum class Kind { kNull, kBool, kInt, kString, kArray, kObject };
  static constexpr int kDepthMax = 64;

  static void SkipSpace(std::string_view& text) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  }

  static bool TakeWord(std::string_view& text, std::string_view word) {
    if (!text.starts_with(word)) return false;
    text.remove_prefix(word.size());
    return true;
  }

  // What follows the opening quote, up to and with the closing one.
  static bool TakeString(std::string_view& text, std::string& out) {
    while (!text.empty()) {
      const char c = text.front();
      text.remove_prefix(1);
      if (c == '"') return true;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (text.empty()) return false;
      const char escaped = text.front();
      text.remove_prefix(1);
      constexpr std::string_view kFrom = "\"\\/bfnrt";
      constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
      if (const std::size_t i = kFrom.find(escaped); i != std::string_view::npos) {
        out += kTo[i];
      } else if (escaped != 'u' || !TakeUnicode(text, out)) {
        return false;
      }
    }
    return false;
  }

  static bool TakeUnicode(std::string_view& text, std::string& out) {
    if (text.size() < 4) return false;
    unsigned code = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + 4, code, 16);
    if (error != std::errc() || end != text.data() + 4) return false;
    if (code >= 0xd800 && code < 0xe000)
      return false;  // Surrogates: never written by our programs.
    text.remove_prefix(4);
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xc0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      out += static_cast<char>(0xe0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    }
    return true;
  }

  static bool Take(std::string_view& text, Json& out, int depth) {
    SkipSpace(text);
    if (text.empty() || depth > kDepthMax) return false;
    const std::string_view begin = text;
    if (TakeWord(text, "null")) return true;
    if (TakeWord(text, "true") || TakeWord(text, "false")) {
      out.kind_ = Kind::kBool;
      out.bool_ = begin.starts_with('t');
      return true;
    }
    if (TakeWord(text, "\"")) return out.kind_ = Kind::kString, TakeString(text, out.text_);
    if (TakeWord(text, "[")) return out.kind_ = Kind::kArray, TakeArray(text, out.items_, depth);
    if (TakeWord(text, "{"))
      return out.kind_ = Kind::kObject, TakeObject(text, out.members_, depth);
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc()) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (!text.empty() && (text.front() == '.' || text.front() == 'e' || text.front() == 'E')) {
      return false;
    }
    out.kind_ = Kind::kInt;
    out.int_ = number;
    return true;
  }

  static bool TakeArray(std::string_view& text, Array& out, int depth) {
    SkipSpace(text);
    if (TakeWord(text, "]")) return true;
    for (;;) {
      if (!Take(text, out.emplace_back(), depth + 1)) return false;
      SkipSpace(text);
      if (TakeWord(text, "]")) return true;
      if (!TakeWord(text, ",")) return false;
    }
  }

  static bool TakeObject(std::string_view& text, Object& out, int depth) {
    SkipSpace(text);
    if (TakeWord(text, "}")) return true;
    for (;;) {
      SkipSpace(text);
      std::string key;
      if (!TakeWord(text, "\"") || !TakeString(text, key)) return false;
      SkipSpace(text);
      if (!TakeWord(text, ":")) return false;
      const auto [member, is_new] = out.try_emplace(std::move(key));
      if (!is_new || !Take(text, member->second, depth + 1)) return false;
      SkipSpace(text);
      if (TakeWord(text, "}")) return true;
      if (!TakeWord(text, ",")) return false;
    }
  }

  Kind kind_ = Kind::kNull;
  bool bool_ = false;
  std::int64_t int_ = 0;
  std::string text_;
  Array items_;
  Object members_;
};

}  // namespace holdfast::e2e

#endif  // HOLDFAST_TESTS_E2E_JSON_H_
