// What a training reads: rows, and the head that they ask for.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/inputs.h"

namespace thaw {

struct TrainingInputs {
  HeadKind head = HeadKind::kClassifier;
  ProblemType problem = ProblemType::kSingleLabel;
  std::vector<std::string> labels;  // of a classifier, in class order
  TokenizedDataset training;        // at least one row
  TokenizedDataset validation;      // no rows: there is no evaluation
  // The rows are joined texts, and the model carries its state from each to the next.
  bool carries_state = false;
  bool lacks_end = false;  // texts were to be ended, but the model has no token for it
};

// Reads what `run`, a training, names, for the model in `model_dir`. Labels are those of the
// training dataset; rows are on the validation side by hash of their text, unless there is a
// dataset for it. FAILED_PRECONDITION, naming file and line, for a dataset that cannot be used;
// INVALID_ARGUMENT for a model that cannot learn the task.
absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const std::string& model_dir,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick);

}  // namespace thaw
