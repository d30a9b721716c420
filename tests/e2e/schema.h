// A validator for the part of JSON Schema (draft 7) that tests/data/events.schema.json uses: type,
// const, enum, required, properties, additionalProperties, minimum, maximum, oneOf, anyOf, and $ref into
// the same file. A keyword that it does not know is an error, so that no schema passes unread.
#ifndef HOLDFAST_TESTS_E2E_SCHEMA_H_
#define HOLDFAST_TESTS_E2E_SCHEMA_H_

#include <cstdint>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "e2e/json.h"

namespace holdfast::e2e {

class Schema {
 public:
  explicit Schema(Json root) : root_(std::move(root)) {}

  // The schema in a file; nullopt when it is not there or no JSON.
  static std::optional<Schema> Load(const std::string& path) {
    std::ifstream file(path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    auto root = Json::Parse(text);
    if (!root) return std::nullopt;
    return Schema(*std::move(root));
  }

  // "" when `value` is what `definitions/NAME` says, else the first thing that is wrong with it.
  [[nodiscard]] std::string Problem(std::string_view name, const Json& value) const {
    const Json* const definition = Resolve("#/definitions/" + std::string(name));
    return definition == nullptr ? "no definition " + std::string(name) : Check(*definition, value);
  }

 private:
  [[nodiscard]] const Json* Resolve(std::string_view reference) const {
    if (!reference.starts_with("#/")) return nullptr;
    reference.remove_prefix(2);
    const Json* at = &root_;
    while (at != nullptr) {
      const std::size_t slash = reference.find('/');
      at = at->Find(reference.substr(0, slash));
      if (slash == std::string_view::npos) return at;
      reference.remove_prefix(slash + 1);
    }
    return nullptr;
  }

  static bool IsOfType(std::string_view type, const Json& value) {
    if (type == "object") return value.As<Json::Object>() != nullptr;
    if (type == "array") return value.As<Json::Array>() != nullptr;
    if (type == "string") return value.As<std::string>() != nullptr;
    if (type == "integer") return value.As<std::int64_t>() != nullptr;
    if (type == "boolean") return value.As<bool>() != nullptr;
    return false;
  }

  [[nodiscard]] std::string Check(const Json& schema, const Json& value) const {
    const auto* const keywords = schema.As<Json::Object>();
    if (keywords == nullptr) return "a schema that is no object";
    for (const auto& [keyword, argument] : *keywords) {
      std::string problem = CheckKeyword(schema, keyword, argument, value);
      if (!problem.empty()) return problem;
    }
    return {};
  }

  [[nodiscard]] std::string CheckKeyword(const Json& schema, std::string_view keyword,
                                         const Json& argument, const Json& value) const {
    if (keyword == "description" || keyword == "title") return {};
    if (keyword == "$ref") {
      const Json* const target = Resolve(*argument.As<std::string>());
      return target == nullptr ? "a reference to nothing" : Check(*target, value);
    }
    if (keyword == "type") {
      const std::string& type = *argument.As<std::string>();
      return IsOfType(type, value) ? "" : "not of type " + type;
    }
    if (keyword == "const") return argument == value ? "" : "not the constant";
    if (keyword == "enum") {
      for (const Json& allowed : *argument.As<Json::Array>()) {
        if (allowed == value) return {};
      }
      return "none of the enum";
    }
    if (keyword == "minimum" || keyword == "maximum") {
      const auto* const number = value.As<std::int64_t>();
      if (number == nullptr) return {};
      const std::int64_t bound = *argument.As<std::int64_t>();
      return keyword == "minimum" ? (*number >= bound ? "" : "below the minimum")
                                  : (*number <= bound ? "" : "above the maximum");
    }
    if (keyword == "required") {
      for (const Json& name : *argument.As<Json::Array>()) {
        if (value.Find(*name.As<std::string>()) == nullptr) {
          return "without " + *name.As<std::string>();
        }
      }
      return {};
    }
    if (keyword == "properties") {
      for (const auto& [name, property] : *argument.As<Json::Object>()) {
        const Json* const member = value.Find(name);
        if (member == nullptr) continue;
        const std::string problem = Check(property, *member);
        if (!problem.empty()) return name + ": " + problem;
      }
      return {};
    }
    if (keyword == "additionalProperties") {
      const auto* const members = value.As<Json::Object>();
      if (members == nullptr || *argument.As<bool>()) return {};
      for (const auto& [name, member] : *members) {
        const Json* const properties = schema.Find("properties");
        if (properties == nullptr || properties->Find(name) == nullptr)
          return "unknown member " + name;
      }
      return {};
    }
    if (keyword == "oneOf" || keyword == "anyOf") {
      int matches = 0;
      std::string problems;
      for (const Json& one : *argument.As<Json::Array>()) {
        const std::string problem = Check(one, value);
        matches += problem.empty() ? 1 : 0;
        problems += (problems.empty() ? "" : "; ") + problem;
      }
      if (matches == 1 || (matches > 1 && keyword == "anyOf")) return {};
      return matches == 0 ? "none of: " + problems : "more than one of oneOf";
    }
    return "a keyword that this validator does not know: " + std::string(keyword);
  }

  Json root_;
};

}  // namespace holdfast::e2e

#endif  // HOLDFAST_TESTS_E2E_SCHEMA_H_
