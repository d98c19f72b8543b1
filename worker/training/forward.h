// One batch through a model's groups.
#pragma once

#include <string>
#include <vector>

#include "torch/types.h"
#include "worker/data/packed_batch.h"
#include "worker/model/model.h"
#include "worker/training/activation_cache.h"

namespace thaw {

// Which groups of a model hold something trainable. Those that hold nothing run in evaluation mode,
// without dropout unless it is asked for; those below the first that does, without autograd too.
class TrainedGroups {
 public:
  // Nothing is trained: evaluation and prediction.
  TrainedGroups() = default;
  // The names must be parameters of `model`.
  // With `recomputes`, what goes on within a block that autograd has to see is computed again in
  // the backward pass (recomputed_block.h), for the same bits.
  TrainedGroups(const Model& model, const std::vector<std::string>& trainable_names,
                bool frozen_dropout = false, bool recomputes = false);

  bool Trained(int group) const { return !trained_.empty() && trained_[group]; }
  bool DropsOut(int group) const {
    return Trained(group) || (frozen_dropout_ && !trained_.empty());
  }
  // Whether autograd has to see this group.
  bool NeedsGradient(int group) const { return !trained_.empty() && group >= lowest_; }
  bool Recomputes(int group) const { return recomputes_ && NeedsGradient(group); }
  // The lowest group that needs a gradient; 0 if nothing is trained.
  int lowest() const { return lowest_; }

 private:
  std::vector<bool> trained_;  // by group; empty: none
  int lowest_ = 0;
  bool frozen_dropout_ = false;
  bool recomputes_ = false;
};

// `batch` must outlive the backward pass in all of these. With `frozen` the groups below its
// boundary are run for those rows alone that it does not hold, and in a way that gives a row the
// same bits in every batch (RowsAlike); null: for all, as the others. Nothing is trained below the
// boundary.

// What a pooled head reads of each sequence, [sequences, hidden]; the model has such a head.
torch::Tensor PooledVectors(Model* model, const PackedBatch& batch);

// The logits of a classifier, [sequences, labels].
torch::Tensor Logits(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                     const DropoutKey& dropout, ActivationCache* frozen = nullptr);

// What a language model's output layer reads of batch.loss_rows, [loss rows, width]: rows without
// loss never reach it. The sequences go on from `state`, as RunContext::state has it; null: they
// begin with this batch.
torch::Tensor LossStates(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                         const DropoutKey& dropout, SequenceState* state = nullptr,
                         ActivationCache* frozen = nullptr);

// Whether rows of `dataset`, which has some, get the same bits from the groups below `boundary`
// when each is computed alone as when several are: what ActivationCache rests on, tried out.
bool ComputesRowsAlike(Model* model, const TokenizedDataset& dataset, int boundary);

// The operations that serve where `tensor` lies.
Path PathFor(const torch::Tensor& tensor);

// What the batch is to be answered with, as a view of it: int64 [sequences]; fp32 [sequences, n];
// int64 [loss rows].
torch::Tensor Labels(const PackedBatch& batch);
torch::Tensor Outputs(const PackedBatch& batch);
torch::Tensor NextIds(const PackedBatch& batch);

}  // namespace thaw
