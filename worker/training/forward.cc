#include "worker/training/forward.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

#include "worker/model/rows_alike.h"
#include "worker/training/pooling.h"
#include "worker/training/recomputed_block.h"

namespace thaw {
namespace {

template <typename T>
torch::Tensor ViewOf(const std::vector<T>& values) {
  // from_blob takes what it never writes to as if it could.
  return torch::from_blob(const_cast<T*>(values.data()), {static_cast<int64_t>(values.size())},
                          c10::CppTypeToScalarType<T>::value);
}

RunContext GroupContext(const TrainedGroups& trained, const DropoutKey& dropout, int group,
                        SequenceState* state = nullptr, bool all_rows = false) {
  return {.training = trained.DropsOut(group),
          .frozen = !trained.Trained(group),
          .dropout = dropout,
          .all_rows = all_rows,
          .state = state};
}

// Runs the groups [begin, end), the head not among them, on `rows`, which flow into the first; the
// embeddings read the batch. What flows into the head is without a prompt's rows, and pooled where
// it is a pooled head.
Rows RunGroups(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
               const DropoutKey& dropout, SequenceState* state, int begin, int end, Rows rows) {
  model->parameters().RoundMatrices();
  const int head = model->blocks() + 1;
  const bool pools = model->config().pooled.has_value();
  if (begin == 0 && end > 0) {
    Packed packed{.token_ids = ViewOf(batch.token_ids),
                  .token_type_ids =
                      model->config().token_types ? ViewOf(batch.token_type_ids) : torch::Tensor(),
                  .cu_seqlens = batch.cu_seqlens,
                  .target_ids = {},
                  .target_bounds = {}};
    if (!batch.target_bounds.empty()) {
      packed.target_ids = ViewOf(batch.target_ids);
      packed.target_bounds = batch.target_bounds;
    }
    const torch::AutoGradMode gradient(trained.NeedsGradient(0));
    rows = model->Embed(packed, GroupContext(trained, dropout, 0, state));
  }
  for (int group = std::max(begin, 1); group < end; ++group) {
    const torch::AutoGradMode gradient(trained.NeedsGradient(group));
    const auto run = [=, context = GroupContext(trained, dropout, group, state, pools)](
                         const Rows& in) { return model->Block(group - 1, in, context); };
    // Running a block with state again would take its state further.
    rows = trained.Recomputes(group) && state == nullptr
               ? RecomputedRows(std::exchange(rows, {}), run)
               : run(std::exchange(rows, {}));
  }
  if (begin == head || end < head) return rows;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head - 1));
  const RunContext context = GroupContext(trained, dropout, head - 1);
  rows = model->WithoutPrompt(std::move(rows), context);
  return pools ? PooledRows(model, rows, context) : rows;
}

// The groups below `end` in evaluation mode.
Rows FrozenRows(Model* model, const PackedBatch& batch, int end) {
  const torch::NoGradGuard no_grad;
  const RowsAlike alike;
  return RunGroups(model, batch, TrainedGroups(), DropoutKey(), nullptr, 0, end, {});
}

// The rows that leave the last block.
Rows LastRowsOf(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                const DropoutKey& dropout, SequenceState* state, ActivationCache* frozen) {
  int begin = 0;
  Rows rows;
  if (frozen != nullptr) {
    begin = frozen->boundary();
    rows = frozen->RowsOf(batch, [&](const PackedBatch& missing) {
      return FrozenRows(model, missing, frozen->boundary());
    });
  }
  return RunGroups(model, batch, trained, dropout, state, begin, model->blocks() + 1,
                   std::move(rows));
}

bool SameBits(const torch::Tensor& a, const torch::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || at::equal(a, b));
}

}  // namespace

TrainedGroups::TrainedGroups(const Model& model, const std::vector<std::string>& trainable_names,
                             bool frozen_dropout, bool recomputes)
    : trained_(model.groups().size()),
      lowest_(static_cast<int>(model.groups().size())),
      frozen_dropout_(frozen_dropout),
      recomputes_(recomputes) {
  for (const std::string& name : trainable_names) {
    const Parameter* parameter = model.parameters().Find(name);
    trained_[parameter->group] = true;
    lowest_ = std::min(lowest_, parameter->first_use);
  }
}

torch::Tensor PooledVectors(Model* model, const PackedBatch& batch) {
  return LastRowsOf(model, batch, TrainedGroups(), DropoutKey(), nullptr, nullptr).data;
}

torch::Tensor Logits(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                     const DropoutKey& dropout, ActivationCache* frozen) {
  const Rows rows = LastRowsOf(model, batch, trained, dropout, nullptr, frozen);
  const int head = model->blocks() + 1;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head));
  const RunContext context = GroupContext(trained, dropout, head);
  return model->config().pooled ? model->PooledLogits(rows.data, context)
                                : model->Head(rows, context);
}

torch::Tensor LossStates(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                         const DropoutKey& dropout, SequenceState* state, ActivationCache* frozen) {
  const Rows rows = LastRowsOf(model, batch, trained, dropout, state, frozen);
  const int head = model->blocks() + 1;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head));
  return model->OutputStates(rows, ViewOf(batch.loss_rows), GroupContext(trained, dropout, head));
}

bool ComputesRowsAlike(Model* model, const TokenizedDataset& dataset, int boundary) {
  // As many as a micro-step has: products of other sizes could be cut in another way.
  constexpr int64_t kTokens = 2048, kTried = 4;
  std::vector<int64_t> tried;
  int64_t tokens = 0;
  for (int64_t row = 0; row < dataset.rows() && tokens < kTokens; ++row) {
    tried.push_back(row);
    tokens += dataset.size(row);
  }
  const Rows all = FrozenRows(model, Pack(dataset, tried), boundary);
  for (size_t i = 0; i < std::min<size_t>(tried.size(), kTried); ++i) {
    const Rows alone = FrozenRows(model, Pack(dataset, {&tried[i], 1}), boundary);
    const auto part = [i](const torch::Tensor& data, const std::vector<int32_t>& bounds) {
      return data.defined() ? data.slice(0, bounds[i], bounds[i + 1]) : data;
    };
    if (!SameBits(alone.data, part(all.data, all.cu_seqlens)) ||
        !SameBits(alone.other, part(all.other, all.other_bounds))) {
      return false;
    }
  }
  return true;
}

Path PathFor(const torch::Tensor& tensor) {
  return tensor.is_cpu() ? Path::kKernels : Path::kReference;
}

torch::Tensor Labels(const PackedBatch& batch) { return ViewOf(batch.labels); }

torch::Tensor Outputs(const PackedBatch& batch) {
  return ViewOf(batch.outputs).reshape({batch.sequences(), -1});
}

torch::Tensor NextIds(const PackedBatch& batch) { return ViewOf(batch.next_ids); }

}  // namespace thaw
