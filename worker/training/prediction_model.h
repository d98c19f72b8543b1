// The model of a prediction, also of one that waits warm for the next.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/model/model.h"
#include "worker/text/special_tokens.h"
#include "worker/text/tokenizer.h"

namespace thaw {

struct PredictionModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  // Of the tokenizer's files: those of the model, or of the artifact that replaced its tokenizer.
  std::string tokenizer_dir;
  // As the training behind the model has them, if there is one.
  absl::StatusOr<SpecialTokens> special = absl::UnknownError("not loaded");
  absl::StatusOr<int32_t> decoder_start = absl::UnknownError("not loaded");
};

// Loads what `run`, a prediction, asks for: a model as it is, or, with a training behind it, the
// base model with the head of that training and the tensors of its checkpoint, the best ones where
// they are wanted and there.
absl::StatusOr<PredictionModel> LoadPredictionModel(const internal::Run& run);

// The same for one of run.average_with_dirs.
absl::StatusOr<PredictionModel> LoadModelAsIs(const internal::Run& run,
                                              const std::string& directory);

// The model of the prediction before, in a process that waits warm between two of them.
struct WarmModel {
  std::string key;  // Run.warm_key; empty: there is none
  PredictionModel loaded;
};

}  // namespace thaw
