#include "common/base/json.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, int max_depth) {
  using nlohmann::json;
  // The parser takes a NUL for the end of the text and would not look at what follows.
  if (text.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("JSON: holds a NUL byte");
  }
  std::vector<std::set<std::string>> keys;
  std::string problem;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > max_depth && problem.empty())
      problem = absl::StrCat("nested deeper than ", max_depth);
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second && problem.empty()) {
          problem =
              absl::StrCat("key \"", parsed.get<std::string>(), "\" occurs twice in one object");
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    json value = json::parse(text.begin(), text.end(), watch);
    if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat("JSON: ", problem));
    return value;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: ", error.what()));
  }
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  auto parsed = ParseJson(text);
  if (!parsed.ok()) return Annotate(parsed.status(), path);
  return parsed;
}

}  // namespace thaw
