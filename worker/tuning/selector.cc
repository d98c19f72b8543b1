#include "worker/tuning/selector.h"

#include <re2/re2.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/edit_distance.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kNamedNames = 3;

// One mark for each of the selectable parameters.
using Marks = std::vector<bool>;

bool IsOfKind(const Parameter& parameter, v1::Selector::Kind kind) {
  switch (kind) {
    case v1::Selector::BIASES:
      return parameter.bias;
    case v1::Selector::NORMS:
      return parameter.kind == ParameterKind::kNorm;
    case v1::Selector::EMBEDDINGS:
      return parameter.kind == ParameterKind::kEmbedding;
    case v1::Selector::ATTENTION:
      return parameter.kind == ParameterKind::kAttention;
    case v1::Selector::FEED_FORWARD:
      return parameter.kind == ParameterKind::kFeedForward;
    case v1::Selector::ADDED_PARTS:
      return parameter.added() || parameter.beside_added;
    default:
      return false;
  }
}

absl::StatusOr<std::unique_ptr<RE2>> CompilePattern(const std::string& field,
                                                    const std::string& pattern) {
  auto expression = std::make_unique<RE2>(pattern, RE2::Quiet);
  if (!expression->ok()) {
    return InvalidField(
        field, absl::StrCat("\"", pattern, "\" is no RE2 expression: ", expression->error()));
  }
  return expression;
}

// What stands in `pattern` for itself, more or less: enough to look for what was meant.
std::string LiteralText(absl::string_view pattern) {
  std::string text;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const bool repeated = i + 1 < pattern.size() &&
                          absl::string_view("*+?").find(pattern[i + 1]) != std::string::npos;
    if (c == '\\' && i + 1 < pattern.size()) {
      if (absl::ascii_ispunct(static_cast<unsigned char>(pattern[++i]))) text += pattern[i];
    } else if (absl::string_view("*+?()[]{}|^$").find(c) == std::string::npos &&
               !(c == '.' && repeated)) {
      text += c;
    }
  }
  return text;
}

class Selectable {
 public:
  Selectable(std::span<const Group> groups, const Parameters& parameters)
      : head_(static_cast<int>(groups.size()) - 1) {
    for (const Group& group : groups) {
      for (const std::string& name : group.parameters) all_.push_back(parameters.Find(name));
    }
  }

  absl::StatusOr<Marks> Choose(const std::string& field, const v1::Selector& selector) const {
    THAW_ASSIGN_OR_RETURN(Marks chosen, Include(field, selector));
    const Marks included = chosen;
    for (int i = 0; i < selector.exclude_patterns_size(); ++i) {
      const std::string at = absl::StrCat(field, ".exclude_patterns[", i, "]");
      THAW_ASSIGN_OR_RETURN(const auto expression,
                            CompilePattern(at, selector.exclude_patterns(i)));
      Remove(WhereNamed(*expression), &chosen);
    }
    for (int i = 0; i < selector.and_not_size(); ++i) {
      const std::string at = absl::StrCat(field, ".and_not[", i, "]");
      THAW_ASSIGN_OR_RETURN(const Marks excluded, Choose(at, selector.and_not(i)));
      Remove(excluded, &chosen);
    }
    if (Any(chosen)) return chosen;
    return InvalidField(
        field, absl::StrCat("{", selector.ShortDebugString(), "} ",
                            Any(included)
                                ? absl::StrCat("takes out again all that it chooses"
                                               ", such as \"",
                                               Names(included).front(), "\": give less to take out")
                                : WhyNothing(selector)));
  }

  std::vector<std::string> Names(const Marks& chosen) const {
    std::vector<std::string> names;
    for (size_t i = 0; i < all_.size(); ++i) {
      if (chosen[i]) names.push_back(all_[i]->name);
    }
    return names;
  }

 private:
  static bool Any(const Marks& marks) {
    return std::find(marks.begin(), marks.end(), true) != marks.end();
  }

  static void Remove(const Marks& excluded, Marks* chosen) {
    for (size_t i = 0; i < excluded.size(); ++i) {
      if (excluded[i]) (*chosen)[i] = false;
    }
  }

  template <typename Condition>
  Marks Where(Condition condition) const {
    Marks marks(all_.size());
    for (size_t i = 0; i < all_.size(); ++i) marks[i] = condition(*all_[i]);
    return marks;
  }

  Marks WhereNamed(const RE2& expression) const {
    return Where([&](const Parameter& p) { return RE2::FullMatch(p.name, expression); });
  }

  absl::StatusOr<Marks> Include(const std::string& field, const v1::Selector& selector) const {
    const int blocks = head_ - 1;
    switch (selector.include_case()) {
      case v1::Selector::kHeadOnly:
        return Where([&](const Parameter& p) { return p.group == head_; });
      case v1::Selector::kLastBlocks:
        if (selector.last_blocks() < 0 || selector.last_blocks() > blocks) {
          return InvalidField(
              absl::StrCat(field, ".last_blocks"),
              absl::StrCat(selector.last_blocks(), " is out of range: the model has ", blocks,
                           " blocks, give 0 to ", blocks));
        }
        return Where([&](const Parameter& p) { return p.group >= head_ - selector.last_blocks(); });
      case v1::Selector::kEverything:
        return Marks(all_.size(), true);
      case v1::Selector::kNamePattern: {
        THAW_ASSIGN_OR_RETURN(
            const auto expression,
            CompilePattern(absl::StrCat(field, ".name_pattern"), selector.name_pattern()));
        return WhereNamed(*expression);
      }
      case v1::Selector::kKind:
        return Where([&](const Parameter& p) { return IsOfKind(p, selector.kind()); });
      case v1::Selector::kAnyOf: {
        Marks chosen(all_.size());
        for (int i = 0; i < selector.any_of().values_size(); ++i) {
          THAW_ASSIGN_OR_RETURN(
              const Marks more,
              Choose(absl::StrCat(field, ".any_of.values[", i, "]"), selector.any_of().values(i)));
          for (size_t j = 0; j < more.size(); ++j) chosen[j] = chosen[j] || more[j];
        }
        return chosen;
      }
      case v1::Selector::INCLUDE_NOT_SET:
        break;
    }
    return InvalidField(field,
                        "is not set: give head_only, last_blocks, everything, name_pattern, kind "
                        "or any_of");
  }

  // Of a selector whose `include` chooses nothing.
  std::string WhyNothing(const v1::Selector& selector) const {
    if (selector.has_kind()) {
      return absl::StrCat("chooses nothing: the model has no parameters of this kind, but ",
                          absl::StrJoin(Kinds(), ", "));
    }
    if (selector.has_name_pattern()) {
      return absl::StrCat(
          "matches none of the model's parameters; names must match whole, and the "
          "nearest are \"",
          absl::StrJoin(NearestNames(LiteralText(selector.name_pattern())), "\", \""), "\"");
    }
    return "chooses nothing: give another selector";
  }

  // The kinds that the model has.
  std::vector<std::string> Kinds() const {
    std::vector<std::string> kinds;
    for (int i = 1; v1::Selector::Kind_IsValid(i); ++i) {
      const auto kind = static_cast<v1::Selector::Kind>(i);
      if (Any(Where([&](const Parameter& p) { return IsOfKind(p, kind); }))) {
        kinds.push_back(v1::Selector::Kind_Name(kind));
      }
    }
    return kinds;
  }

  // Those that hold what is nearest to `text`, of these the ones with the least beside it.
  std::vector<std::string> NearestNames(const std::string& text) const {
    std::vector<std::tuple<size_t, size_t, std::string>> ranked;
    for (const Parameter* parameter : all_) {
      ranked.emplace_back(EditDistanceWithin(text, parameter->name),
                          EditDistance(text, parameter->name), parameter->name);
    }
    const size_t named = std::min(kNamedNames, ranked.size());
    std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(named),
                      ranked.end());
    std::vector<std::string> names;
    for (size_t i = 0; i < named; ++i) names.push_back(std::get<2>(ranked[i]));
    return names;
  }

  const int head_;  // the index of its group
  std::vector<const Parameter*> all_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> SelectParameters(absl::string_view field,
                                                          const v1::Selector& selector,
                                                          std::span<const Group> groups,
                                                          const Parameters& parameters) {
  const Selectable selectable(groups, parameters);
  THAW_ASSIGN_OR_RETURN(const Marks chosen, selectable.Choose(std::string(field), selector));
  return selectable.Names(chosen);
}

}  // namespace thaw
