#include "worker/tuning/selector.h"

#include <re2/re2.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

absl::StatusOr<std::unique_ptr<RE2>> CompilePattern(const std::string& field,
                                                    const std::string& pattern) {
  auto expression = std::make_unique<RE2>(pattern, RE2::Quiet);
  if (!expression->ok()) {
    return InvalidField(
        field, absl::StrCat("\"", pattern, "\" is no RE2 expression: ", expression->error()));
  }
  return expression;
}

void AppendGroups(std::span<const Group> groups, std::vector<std::string>* names) {
  for (const Group& group : groups) {
    names->insert(names->end(), group.parameters.begin(), group.parameters.end());
  }
}

absl::StatusOr<std::vector<std::string>> IncludedParameters(const v1::Selector& selector,
                                                            std::span<const Group> groups) {
  const int blocks = static_cast<int>(groups.size()) - 2;
  std::vector<std::string> names;
  switch (selector.include_case()) {
    case v1::Selector::kHeadOnly:
      AppendGroups(groups.last(1), &names);
      return names;
    case v1::Selector::kLastBlocks:
      if (selector.last_blocks() < 0 || selector.last_blocks() > blocks) {
        return InvalidField("selector.last_blocks",
                            absl::StrCat(selector.last_blocks(), " is out of range: the model has ",
                                         blocks, " blocks, give 0 to ", blocks));
      }
      AppendGroups(groups.last(1 + selector.last_blocks()), &names);
      return names;
    case v1::Selector::kEverything:
      AppendGroups(groups, &names);
      return names;
    case v1::Selector::kNamePattern: {
      THAW_ASSIGN_OR_RETURN(auto expression,
                            CompilePattern("selector.name_pattern", selector.name_pattern()));
      AppendGroups(groups, &names);
      std::erase_if(names,
                    [&](const std::string& name) { return !RE2::FullMatch(name, *expression); });
      return names;
    }
    case v1::Selector::kKind:
    case v1::Selector::kAnyOf:
    case v1::Selector::INCLUDE_NOT_SET:
      break;
  }
  return InvalidField("selector",
                      "is not set: give head_only, last_blocks, everything or name_pattern");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SelectParameters(const v1::Selector& selector,
                                                          std::span<const Group> groups) {
  THAW_ASSIGN_OR_RETURN(std::vector<std::string> names, IncludedParameters(selector, groups));
  for (const std::string& pattern : selector.exclude_patterns()) {
    THAW_ASSIGN_OR_RETURN(auto expression, CompilePattern("selector.exclude_patterns", pattern));
    std::erase_if(names,
                  [&](const std::string& name) { return RE2::FullMatch(name, *expression); });
  }
  if (names.empty()) {
    return InvalidField("selector", absl::StrCat("{", selector.ShortDebugString(),
                                                 "} matches none of the model's parameters; names "
                                                 "must match whole, such as \"",
                                                 groups.back().parameters.front(), "\""));
  }
  return names;
}

}  // namespace thaw
