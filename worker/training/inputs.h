// What an attempt reads: tokenizer, rows and label names, from directories that lie on this
// machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/config.h"

namespace thaw {

// Rows are cut at the spec's max_length, by default at 256 tokens, and never have more than the
// model has positions. INVALID_ARGUMENT for a tokenizer whose ids the model has no rows for.

// Called about once per thousand rows while something long is being read.
using Tick = std::function<void()>;

struct TrainingInputs {
  std::vector<std::string> labels;  // in class order
  TokenizedDataset training;        // at least one row
  TokenizedDataset validation;      // no rows: there is no evaluation
};

// Reads what `run`, a training, names. Labels are those of the training dataset; rows are on the
// validation side by hash of their text, unless there is a dataset for it. FAILED_PRECONDITION,
// naming file and line, for a dataset that cannot be used.
absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick);

struct PredictionInputs {
  TokenizedDataset rows;
  bool labelled = false;  // every row carries one of the model's labels
};

// Reads what `run`, a prediction, names. Labels are read only if all rows have a known one.
absl::StatusOr<PredictionInputs> ReadPredictionInputs(const internal::Run& run,
                                                      const ModelConfig& config, int threads,
                                                      const Tick& tick);

}  // namespace thaw
