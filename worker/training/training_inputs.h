// What a training reads: rows, and the head that they ask for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/generation.h"
#include "worker/training/inputs.h"

namespace thaw {

struct TrainingInputs {
  HeadKind head = HeadKind::kClassifier;
  ProblemType problem = ProblemType::kSingleLabel;
  std::vector<std::string> labels;  // of a classifier, in class order
  TokenizedDataset training;        // at least one row
  TokenizedDataset validation;      // no rows: there is no evaluation
  // The rows are joined texts, and the model carries its state from each to the next.
  bool in_lanes = false;
  bool lacks_end = false;  // texts were to be ended, but the model has no token for it
  // By class, what the training loss of its rows is multiplied by; empty: nothing.
  std::vector<float> class_weights;
  // With a dataset for the validation: training examples whose texts occur in it too, and the lines
  // of the first few.
  int64_t shared_examples = 0;
  std::vector<int64_t> shared_lines;
  // Where evaluations generate text (validation.expected): how, as far as the data says.
  GenerationOptions answers;
  std::unique_ptr<Tokenizer> tokenizer;
};

// Reads what `run`, a training, names, for the model in `model_dir`. Labels are those of the
// training dataset; rows are on the validation side by hash of their text, unless there is a
// dataset for it. What long_rows says is done to training rows; those of the validation are
// truncated, as in predictions. FAILED_PRECONDITION, naming file and line, for a dataset that
// cannot be used; INVALID_ARGUMENT for a model that cannot learn the task.
absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const std::string& model_dir,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick);

}  // namespace thaw
