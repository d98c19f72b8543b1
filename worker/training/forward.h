// One batch through a model's groups.
#pragma once

#include <string>
#include <vector>

#include "torch/types.h"
#include "worker/data/packed_batch.h"
#include "worker/model/model.h"

namespace thaw {

// Which groups of a model hold something trainable. Those that hold nothing run in evaluation mode,
// without dropout; those below the first that does, without autograd too.
class TrainedGroups {
 public:
  // Nothing is trained: evaluation and prediction.
  TrainedGroups() = default;
  // The names must be parameters of `model`.
  TrainedGroups(const Model& model, const std::vector<std::string>& trainable_names);

  bool Trained(int group) const { return !trained_.empty() && trained_[group]; }
  // Whether autograd has to see this group.
  bool NeedsGradient(int group) const { return !trained_.empty() && group >= lowest_; }

 private:
  std::vector<bool> trained_;  // by group; empty: none
  int lowest_ = 0;
};

// The logits of `batch`, [sequences, labels]. `batch` must outlive the backward pass.
torch::Tensor Logits(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                     const DropoutKey& dropout);

// Its labels, int64 [sequences].
torch::Tensor Labels(const PackedBatch& batch);

}  // namespace thaw
