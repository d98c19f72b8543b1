// Training.base_weights.
#pragma once

#include "absl/strings/string_view.h"
#include "common/spec/spec_problems.h"
#include "thaw/v1/artifact.pb.h"

namespace thaw {

// What every request can be told.
void ValidateBaseWeights(absl::string_view field, const v1::Training& training,
                         SpecProblems* problems);

// What a resolved training asks of its model.
void CheckBaseWeights(const v1::Training& training, const v1::Artifact& model,
                      SpecProblems* problems);

}  // namespace thaw
