// The receipt of a result: what it was made of, and that its files give the trainer's answers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/receipt.pb.h"
#include "thaw/internal/trainer.pb.h"
#include "torch/types.h"
#include "worker/data/packed_batch.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"

namespace thaw {

// What a model answers to the first rows of a dataset: logits, or of a language model the
// log-probability of every token that carries loss.
struct ProbeAnswers {
  PackedBatch batch;
  torch::Tensor values;
};
// As many rows as fit into `tokens`, four at most. INVALID_ARGUMENT with reason NON_FINITE_WEIGHTS
// if they are no numbers.
absl::StatusOr<ProbeAnswers> AnswerProbes(Model* model, const TokenizedDataset& dataset,
                                          int64_t tokens);

// Compares them with those of `saved`, the model read back. INTERNAL if they differ by more than
// rounding may explain.
absl::StatusOr<internal::ProbeCheck> CheckProbes(const ProbeAnswers& answers, Model* saved);

// Fills in what `run` says and writes receipt.json into `directory`.
absl::Status WriteReceipt(const internal::Run& run, internal::Receipt receipt,
                          const std::string& directory);

}  // namespace thaw
