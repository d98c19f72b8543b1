// What a training reads: rows and label names.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/inputs.h"

namespace thaw {

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

}  // namespace thaw
