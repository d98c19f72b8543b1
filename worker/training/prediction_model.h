// The model of a prediction, and what a warm trainer keeps of it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/model/model.h"
#include "worker/text/tokenizer.h"

namespace thaw {

struct PredictionModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  // Of the tokenizer's files: those of the model, or of the artifact that replaced its tokenizer.
  std::string tokenizer_dir;
};

// Loads what `run`, a prediction, asks for: a model as it is, or, with a training behind it, the
// base model with the head of that training and the tensors of its checkpoint, the best ones where
// they are wanted and there.
absl::StatusOr<PredictionModel> LoadPredictionModel(const internal::Run& run);

// The same for one of run.average_with_dirs.
absl::StatusOr<PredictionModel> LoadModelAsIs(const std::string& directory);

// What the model of a prediction depends on; two attempts with the same key may share it. Empty: it
// may not be shared, for nothing says what the directories hold.
std::string PredictionModelKey(const internal::Run& run);

// A model between two predictions of one process.
struct KeptModel {
  std::string key;  // empty: none
  PredictionModel loaded;
};

}  // namespace thaw
