// What a prediction reads: texts or rows of a dataset.
#pragma once

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/inputs.h"

namespace thaw {

struct PredictionInputs {
  TokenizedDataset rows;
  bool labelled = false;  // every row carries one of the model's labels
};

// Reads what `run`, a prediction, names. Labels are read only if all rows have a known one.
absl::StatusOr<PredictionInputs> ReadPredictionInputs(const internal::Run& run,
                                                      const ModelConfig& config, int threads,
                                                      const Tick& tick);

}  // namespace thaw
