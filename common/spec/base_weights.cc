#include "common/spec/base_weights.h"

#include "absl/strings/str_cat.h"
#include "common/spec/fp32_only.h"

namespace thaw {

void ValidateBaseWeights(absl::string_view field, const v1::Training& training,
                         SpecProblems* problems) {
  const std::string at = absl::StrCat(field, ".base_weights");
  if (!v1::Training::BaseWeights_IsValid(training.base_weights())) {
    problems->Add(at, absl::StrCat(static_cast<int>(training.base_weights()),
                                   " is not known; give AS_LOADED or NF4"));
  }
  if (training.base_weights() != v1::Training::NF4) return;
  if (training.output() == v1::Training::DELTA) {
    problems->Add(absl::StrCat(field, ".output"),
                  "DELTA names bytes of the base model, of which base_weights NF4 keeps none; give "
                  "FULL, or ADAPTER with an added part");
  }
}

void CheckBaseWeights(const v1::Training& training, const v1::Artifact& model,
                      SpecProblems* problems) {
  if (training.base_weights() != v1::Training::NF4) return;
  const std::string& type = model.model().model_type();
  if (IsFp32Only(type)) {
    problems->Add("spec.training.base_weights",
                  absl::StrCat("NF4; models of type ", type, " are held in fp32; leave it out"));
    return;
  }
  for (int i = 0; i < training.phases_size(); ++i) {
    if (!training.phases(i).selector().everything()) continue;
    problems->Add("spec.training.base_weights",
                  absl::StrCat("NF4 is of frozen weights, and phase ", i + 1,
                               " trains everything; train an added part or less of the model, or "
                               "give AS_LOADED"));
    return;
  }
}

}  // namespace thaw
