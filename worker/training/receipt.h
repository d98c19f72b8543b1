// The receipt of a result: what it was made of, and that its files give the trainer's answers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/receipt.pb.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"

namespace thaw {

// Compares `model`'s answers to the first rows of `dataset` with those of the model that LoadModel
// makes of `saved_directory`. INTERNAL if they differ by more than rounding may explain.
absl::StatusOr<internal::ProbeCheck> CheckProbes(Model* model, const TokenizedDataset& dataset,
                                                 const std::string& saved_directory);

// Writes receipt.json into `directory`.
absl::Status WriteReceipt(const internal::Run& run, const std::string& history_sha256,
                          const internal::ProbeCheck& probes, const std::string& directory);

}  // namespace thaw
