#include "worker/tuning/module_names.h"

#include <re2/re2.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/edit_distance.h"
#include "common/base/status.h"

namespace thaw {

bool NamesModule(absl::string_view module, absl::string_view target) {
  return module == target || (absl::EndsWith(module, target) && module.size() > target.size() &&
                              module[module.size() - target.size() - 1] == '.');
}

std::vector<std::string> NearestModules(absl::string_view wanted,
                                        std::span<const std::string> names) {
  constexpr size_t kShown = 3, kLongest = 256;
  std::set<std::pair<size_t, std::string>> ranked;
  std::set<std::string> seen;
  for (const std::string& name : names) {
    for (size_t dot = 0; dot != std::string::npos;) {
      const std::string end = name.substr(dot);
      if (end.size() <= kLongest && wanted.size() <= kLongest && seen.insert(end).second) {
        ranked.emplace(EditDistance(wanted, end), end);
      }
      const size_t next = name.find('.', dot);
      dot = next == std::string::npos ? next : next + 1;
    }
  }
  std::vector<std::string> nearest;
  for (const auto& [distance, name] : ranked) {
    if (nearest.size() < kShown) nearest.push_back(name);
  }
  return nearest;
}

template <typename Value>
absl::StatusOr<Value> ByPattern(absl::string_view field,
                                const google::protobuf::Map<std::string, Value>& patterns,
                                absl::string_view module, Value otherwise) {
  std::optional<std::pair<std::string, Value>> found;
  for (const auto& [pattern, value] : patterns) {
    const RE2 expression(absl::StrCat("(?:.*\\.)?(?:", pattern, ")"), RE2::Quiet);
    if (!expression.ok()) {
      return InvalidField(
          field, absl::StrCat("\"", pattern, "\" is no RE2 expression: ", expression.error()));
    }
    if (!RE2::FullMatch(std::string(module), expression)) continue;
    if (found && found->second != value) {
      return InvalidField(field, absl::StrCat("\"", std::min(found->first, pattern), "\" and \"",
                                              std::max(found->first, pattern), "\" both match ",
                                              module, " with different values"));
    }
    found.emplace(pattern, value);
  }
  return found ? found->second : otherwise;
}

template absl::StatusOr<int32_t> ByPattern(absl::string_view,
                                           const google::protobuf::Map<std::string, int32_t>&,
                                           absl::string_view, int32_t);
template absl::StatusOr<double> ByPattern(absl::string_view,
                                          const google::protobuf::Map<std::string, double>&,
                                          absl::string_view, double);

}  // namespace thaw
