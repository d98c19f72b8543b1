// What a model can learn and answer, told from its summary alone. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// In which direction a family of models reads.
enum class Reading {
  kUnknown,         // no family of ours
  kBothWays,        // bert, roberta, distilbert
  kLeftToRight,     // gpt2, llama, mistral, qwen2, qwen3, bloom, awd_lstm
  kSourceToTarget,  // t5: an encoder reads both ways, a decoder left to right
};
Reading ReadingOf(absl::string_view model_type);

// Every known model_type, with commas between.
std::string KnownModelTypes();

// ModelSummary.head, with what it meant before there was that field.
v1::ModelSummary::Head HeadOf(const v1::ModelSummary& model);

// The head that `training` leaves.
v1::ModelSummary::Head HeadAfter(const v1::Training& training);

// Why `model` cannot learn the task of `training`, with the remedy; empty if it can.
std::string WhyNotTrainable(const v1::Artifact& model, const v1::Training& training);

// Why the first token's hidden state cannot stand for a text, with the remedy; empty if it can.
std::string WhyNotFirstToken(const v1::Artifact& model);

// Why `model` cannot answer `prediction`, with the remedy; empty if it can. The prediction's
// columns are resolved.
std::string WhyNotAnswerable(const v1::Artifact& model, const v1::Prediction& prediction);

// Why a model of this type cannot compute in `precision`, with the remedy; empty if it can.
std::string WhyNotIn(v1::Precision precision, absl::string_view model_type);

// The metrics that evaluation of the task knows, the default first; empty without a task.
std::vector<v1::Evaluation::Metric> MetricsOf(const v1::Training& training);

}  // namespace thaw
