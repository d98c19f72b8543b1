#include "common/spec/named_head.h"

#include "absl/strings/match.h"

namespace thaw {

NamedHead HeadOfClass(absl::string_view name) {
  if (absl::EndsWith(name, "ForSequenceClassification")) return NamedHead::kClassifier;
  for (const char* suffix : {"ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining",
                             "ForConditionalGeneration"}) {
    if (absl::EndsWith(name, suffix)) return NamedHead::kLanguageModel;
  }
  return NamedHead::kNone;
}

}  // namespace thaw
