// What a training leaves: a Hugging Face directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"
#include "worker/training/evaluation.h"

namespace thaw {

// Makes `directory` with config.json and model.safetensors of `model`, and what the next two copy
// from `base_directory`: what transformers' class for the head and AutoTokenizer load.
absl::Status WriteResult(const Model& model, const std::string& base_directory,
                         const std::string& directory);

// The same, but of the weights only what differs from the base's in `weights_directory`, whose
// Artifact.digest is `base_digest` (docs/delta_format.md).
absl::Status WriteDeltaResult(const Model& model, const std::string& base_directory,
                              const std::string& weights_directory, const std::string& base_digest,
                              const std::string& directory);
// Of which weights an evaluation was.
struct EvaluatedWeights {
  int64_t step = 0;
  std::string metric;               // that decides
  std::vector<std::string> labels;  // in class order
};

// Writes evaluation.json into `directory`: step, metric, values by name and, where there is one,
// the confusion matrix with its labels, a row for each right label. docs/tasks.md describes it.
absl::Status WriteEvaluation(const EvaluatedWeights& weights, const EvaluationFigures& figures,
                             const std::string& directory);
// The same of a model with an added part, which alone is stored, in PEFT's form: an adapter of
// `base_model`. Its config.json says what the head is.
absl::Status WriteAdapterResult(const Model& model, const v1::AddedPart& part,
                                const std::string& base_model, const std::string& base_directory,
                                const std::string& directory);

// Copies the files of tokenizer, chat template and generation settings that there are.
absl::Status CopyTokenizerFiles(const std::string& from, const std::string& to);
absl::Status CopyLicence(const std::string& from, const std::string& to);

}  // namespace thaw
