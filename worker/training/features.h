// What a pooled head reads of whole datasets, and the files that hold it for others.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "torch/types.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"

namespace thaw {

// fp32 [rows, hidden], in the dataset's order; the model has a pooled head. Before each batch
// `go_on` is given the number of rows done; nothing comes back once it returns false.
std::optional<torch::Tensor> AllFeatures(Model* model, const TokenizedDataset& dataset,
                                         int64_t tokens_per_batch,
                                         const std::function<bool(int64_t rows_done)>& go_on);

// What the rows are to be answered with: int64 [rows], fp32 [rows, labels] of 0 and 1, or fp32
// [rows, 1].
torch::Tensor TargetsOf(const TokenizedDataset& dataset);

// Rows to be written, in their order.
struct FeatureRows {
  const TokenizedDataset* dataset = nullptr;
  torch::Tensor features;  // undefined: there are no such rows
};

// Writes features.safetensors and features.npy into `directory`, as docs/pooled_head_format.md has
// them.
absl::Status WriteFeatures(const FeatureRows& training, const FeatureRows& validation,
                           const std::string& directory);

}  // namespace thaw
