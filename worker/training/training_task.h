// What a task makes of a model's output: its loss, and what an evaluation measures.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "torch/types.h"
#include "worker/data/packed_batch.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"
#include "worker/training/evaluation.h"
#include "worker/training/forward.h"

namespace thaw {

// Without state of its own. LibTorch's exceptions pass through.
class TrainingTask {
 public:
  virtual ~TrainingTask() = default;

  // The sum over the batch's loss units, fp32, a scalar; with autograd as far as something is
  // trained. `batch` must outlive the backward pass. `state`: what the sequences go on from, and
  // where they leave what the next rows go on from; null: they begin with this batch. `frozen`: as
  // in forward.h.
  virtual torch::Tensor LossSum(Model* model, const PackedBatch& batch,
                                const TrainedGroups& trained, const DropoutKey& dropout,
                                SequenceState* state, ActivationCache* frozen) const = 0;

  // "loss", the mean over all loss units, and the metrics of the task by name, but for those that
  // take text to be generated (generated_answers.h). Class weights play no part. Before each batch
  // `go_on` is given the number of rows done; nothing comes back once it returns false. At least
  // one row. `frozen`, of the same dataset: as in forward.h.
  virtual std::optional<EvaluationFigures> Evaluate(
      Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch,
      ActivationCache* frozen, const std::function<bool(int64_t rows_done)>& go_on) const = 0;
};

// By the model's head: a classifier answers for whole sequences (one label, several, a number), a
// language model token by token. `lanes`: an evaluation reads joined texts on from row to row, in
// so many lanes (BatchPolicy::in_lanes); 0: every row begins by itself. `class_weights`: what the
// training loss of a row with each class is multiplied by, one label a row; empty: nothing.
std::unique_ptr<TrainingTask> TaskFor(const ModelConfig& config, int32_t lanes,
                                      const std::vector<float>& class_weights = {});

}  // namespace thaw
