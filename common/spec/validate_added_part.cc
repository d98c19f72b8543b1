#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/spec/added_part_kind.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr int kMostRank = 1024;
constexpr int kMostNames = 4096;
constexpr double kMostAlpha = 1e6;
constexpr int kMostVirtualTokens = 1024;
constexpr size_t kMostInitialText = 64 << 10;
constexpr int kMostReduction = 1024;
constexpr double kMostScale = 1000;

void ValidateNames(const std::string& field,
                   const google::protobuf::RepeatedPtrField<std::string>& names,
                   SpecProblems* problems) {
  if (names.size() > kMostNames) {
    problems->Add(field, absl::StrCat(names.size(), " modules; give at most ", kMostNames));
    return;
  }
  for (int i = 0; i < names.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (names[i].empty()) problems->Add(at, "is empty; give a module's name or leave it out");
    problems->ExpectName(at, names[i], 256);
    if (std::find(names.begin(), names.begin() + i, names[i]) != names.begin() + i) {
      problems->Add(at, absl::StrCat("\"", names[i], "\" is given twice"));
    }
  }
}

// By module; the fields of maps have no order, so their errors come in that of the expressions.
template <typename Map>
void ValidatePatterns(const std::string& field, const Map& patterns, SpecProblems* problems) {
  if (patterns.size() > 256) {
    problems->Add(field, absl::StrCat(patterns.size(), " expressions; give at most 256"));
    return;
  }
  std::vector<std::string> keys;
  for (const auto& [pattern, value] : patterns) keys.push_back(pattern);
  std::sort(keys.begin(), keys.end());
  for (const std::string& key : keys) {
    const std::string at = absl::StrCat(field, "[\"", key, "\"]");
    ValidatePattern(at, key, problems);
    if constexpr (std::is_same_v<typename Map::mapped_type, double>) {
      problems->ExpectWithin(at, patterns.at(key), {0, kMostAlpha, true});
    } else {
      problems->ExpectWithin(at, int64_t{patterns.at(key)}, 1, kMostRank);
    }
  }
}

void ValidateLora(const std::string& field, const v1::Lora& lora, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (lora.rank() != 0) problems->ExpectWithin(at("rank"), int64_t{lora.rank()}, 1, kMostRank);
  if (lora.has_alpha()) {
    problems->ExpectWithin(at("alpha"), lora.alpha(), {0, kMostAlpha, true});
  }
  problems->ExpectWithin(at("dropout"), lora.dropout(), {0, 1, false, true});
  if (!lora.target_pattern().empty()) {
    ValidatePattern(at("target_pattern"), lora.target_pattern(), problems);
    if (lora.target_modules_size() > 0) {
      problems->Add(at("target_pattern"), "is given beside target_modules; give one of the two");
    }
  }
  ValidateNames(at("target_modules"), lora.target_modules(), problems);
  ValidateNames(at("exclude_modules"), lora.exclude_modules(), problems);
  ValidateNames(at("modules_to_save"), lora.modules_to_save(), problems);
  for (int i = 0; i < lora.layers_to_transform_size(); ++i) {
    if (lora.layers_to_transform(i) >= 0) continue;
    problems->Add(
        absl::StrCat(at("layers_to_transform"), "[", i, "]"),
        absl::StrCat(lora.layers_to_transform(i), " is negative; blocks are counted from 0"));
  }
  ValidatePatterns(at("rank_pattern"), lora.rank_pattern(), problems);
  ValidatePatterns(at("alpha_pattern"), lora.alpha_pattern(), problems);
  if (!v1::Lora::Bias_IsValid(lora.bias())) {
    problems->Add(at("bias"), absl::StrCat(static_cast<int>(lora.bias()),
                                           " is not known; give NO_BIAS, ALL_BIASES or TARGETS"));
  }
}

// Of a prompt or a prefix.
template <typename Part>
void ValidateVirtualTokens(const std::string& field, const Part& part, SpecProblems* problems) {
  if (part.virtual_tokens() != 0) {
    problems->ExpectWithin(field + ".virtual_tokens", int64_t{part.virtual_tokens()}, 1,
                           kMostVirtualTokens);
  }
  ValidateNames(field + ".modules_to_save", part.modules_to_save(), problems);
}

void ValidateInitialText(const std::string& field, const v1::PromptTuning& prompt,
                         SpecProblems* problems) {
  if (prompt.initial_text().empty()) return;
  const std::string at = field + ".initial_text";
  if (prompt.random()) problems->Add(at, "is given beside random; give one of the two");
  if (prompt.initial_text().size() > kMostInitialText) {
    problems->Add(
        at, absl::StrCat(prompt.initial_text().size(), " bytes; give at most ", kMostInitialText));
  }
}

void ValidateBottleneck(const std::string& field, const v1::BottleneckAdapter& adapter,
                        SpecProblems* problems) {
  if (!v1::BottleneckAdapter::Place_IsValid(adapter.place())) {
    problems->Add(field + ".place",
                  absl::StrCat(static_cast<int>(adapter.place()),
                               " is not known; give HOULSBY, PFEIFFER or PARALLEL"));
  }
  if (adapter.reduction() != 0) {
    problems->ExpectWithin(field + ".reduction", int64_t{adapter.reduction()}, 1, kMostReduction);
  }
  if (adapter.has_scale()) {
    problems->ExpectWithin(field + ".scale", adapter.scale(), {0, kMostScale, true});
  }
  ValidateNames(field + ".modules_to_save", adapter.modules_to_save(), problems);
}

}  // namespace

void ValidateAddedPart(absl::string_view field, const v1::Training& training,
                       SpecProblems* problems) {
  const std::string part = absl::StrCat(field, ".added_part");
  const std::string output = absl::StrCat(field, ".output");
  if (training.has_added_part()) {
    switch (training.added_part().kind_case()) {
      case v1::AddedPart::kLora:
        ValidateLora(part + ".lora", training.added_part().lora(), problems);
        break;
      case v1::AddedPart::kIa3: {
        const v1::Ia3& ia3 = training.added_part().ia3();
        ValidateNames(part + ".ia3.target_modules", ia3.target_modules(), problems);
        ValidateNames(part + ".ia3.feedforward_modules", ia3.feedforward_modules(), problems);
        ValidateNames(part + ".ia3.modules_to_save", ia3.modules_to_save(), problems);
        break;
      }
      case v1::AddedPart::kPromptTuning: {
        const v1::PromptTuning& prompt = training.added_part().prompt_tuning();
        ValidateVirtualTokens(part + ".prompt_tuning", prompt, problems);
        ValidateInitialText(part + ".prompt_tuning", prompt, problems);
        break;
      }
      case v1::AddedPart::kPrefixTuning:
        ValidateVirtualTokens(part + ".prefix_tuning", training.added_part().prefix_tuning(),
                              problems);
        break;
      case v1::AddedPart::kBottleneck:
        ValidateBottleneck(part + ".bottleneck", training.added_part().bottleneck(), problems);
        break;
      case v1::AddedPart::KIND_NOT_SET:
        problems->Add(part, "is empty; give lora, ia3, prompt_tuning, prefix_tuning or bottleneck");
    }
  }
  const bool adds = training.has_added_part() || training.preset().name() == v1::Preset::LORA;
  switch (training.output()) {
    case v1::Training::OUTPUT_UNSPECIFIED:
      return;
    case v1::Training::MERGED:
      // Of an adapter's own part only the trainer knows.
      if (training.has_added_part() && !CanBeMerged(training.added_part())) {
        problems->Add(output,
                      "MERGED needs a part that changes weights: lora or ia3; give ADAPTER");
      }
      return;
    case v1::Training::FULL:
    case v1::Training::DELTA:
      if (adds) {
        const bool merges = !training.has_added_part() || CanBeMerged(training.added_part());
        problems->Add(output, absl::StrCat(v1::Training::Output_Name(training.output()),
                                           " would leave the added part out; give ADAPTER",
                                           merges ? " or MERGED" : ""));
      }
      return;
    case v1::Training::ADAPTER:
      if (!training.tokenizer().empty() && training.has_added_part() &&
          !CanBeMerged(training.added_part())) {
        problems->Add(absl::StrCat(field, ".tokenizer"),
                      "changes the base's vocabulary, which this added part's adapter cannot "
                      "hold; leave it out");
      } else if (!training.tokenizer().empty()) {
        problems->Add(output,
                      "ADAPTER knows its base's vocabulary alone, and tokenizer changes it; "
                      "give MERGED");
      }
      return;
    default:
      problems->Add(output, absl::StrCat(static_cast<int>(training.output()),
                                         " is not known; give FULL, DELTA, ADAPTER or MERGED"));
  }
}

}  // namespace thaw
