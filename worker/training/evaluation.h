// A whole dataset through a model as it is.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "torch/types.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"
#include "worker/training/activation_cache.h"

namespace thaw {

// What an evaluation has found.
struct EvaluationFigures {
  std::map<std::string, double> values;  // by name
  // One label a row: ClassificationMetrics::confusion. Otherwise empty.
  std::vector<int64_t> confusion;
};

// The logits of every row of `dataset`, fp32 [rows, labels], without dropout and autograd; batches
// hold rows of similar length. Before each batch `go_on` is given the number of rows done; nothing
// comes back once it returns false. `frozen`, of the same dataset: as in forward.h.
std::optional<torch::Tensor> AllLogits(Model* model, const TokenizedDataset& dataset,
                                       int64_t tokens_per_batch,
                                       const std::function<bool(int64_t rows_done)>& go_on,
                                       ActivationCache* frozen = nullptr);

// What such logits are worth against the dataset's answers, every row weighted equally, summed in
// row order: the values of ClassificationMetrics, MultiLabelMetrics or RegressionMetrics, by which
// answers it has. At least one row.
EvaluationFigures Evaluate(const torch::Tensor& logits, const TokenizedDataset& dataset);

// The rows that carry loss, likewise: their mean, "loss", and its exponential, "perplexity", every
// token weighted equally. The model is a language model. With `lanes` the rows are those of joined
// texts, and the model carries its state from each to the next, in so many lanes
// (BatchPolicy::in_lanes); 0: every row begins by itself.
std::optional<std::map<std::string, double>> EvaluateTokens(
    Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch, int32_t lanes,
    const std::function<bool(int64_t rows_done)>& go_on, ActivationCache* frozen = nullptr);

// Row `row` of logits.
std::span<const float> LogitsOfRow(const torch::Tensor& logits, int64_t row);

}  // namespace thaw
