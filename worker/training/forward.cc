#include "worker/training/forward.h"

#include <algorithm>
#include <utility>

#include "worker/training/pooling.h"

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

// The rows that leave the last block, or what a pooled head makes of them.
Rows LastRowsOf(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                const DropoutKey& dropout, SequenceState* state = nullptr) {
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
  const bool pools = model->config().pooled.has_value();
  Rows rows;
  {
    const torch::AutoGradMode gradient(trained.NeedsGradient(0));
    rows = model->Embed(packed, GroupContext(trained, dropout, 0, state));
  }
  for (int block = 0; block < model->blocks(); ++block) {
    const torch::AutoGradMode gradient(trained.NeedsGradient(block + 1));
    rows = model->Block(block, std::exchange(rows, {}),
                        GroupContext(trained, dropout, block + 1, state, pools));
  }
  if (pools) {
    const torch::AutoGradMode gradient(trained.NeedsGradient(model->blocks()));
    rows = PooledRows(model, rows, GroupContext(trained, dropout, model->blocks()));
  }
  const torch::AutoGradMode gradient(trained.NeedsGradient(model->blocks()));
  return model->WithoutPrompt(std::move(rows), GroupContext(trained, dropout, model->blocks()));
}

}  // namespace

TrainedGroups::TrainedGroups(const Model& model, const std::vector<std::string>& trainable_names,
                             bool frozen_dropout)
    : trained_(model.groups().size()),
      lowest_(static_cast<int>(model.groups().size())),
      frozen_dropout_(frozen_dropout) {
  for (const std::string& name : trainable_names) {
    const Parameter* parameter = model.parameters().Find(name);
    trained_[parameter->group] = true;
    lowest_ = std::min(lowest_, parameter->first_use);
  }
}

torch::Tensor PooledVectors(Model* model, const PackedBatch& batch) {
  return LastRowsOf(model, batch, TrainedGroups(), DropoutKey()).data;
}

torch::Tensor Logits(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                     const DropoutKey& dropout) {
  const Rows rows = LastRowsOf(model, batch, trained, dropout);
  const int head = model->blocks() + 1;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head));
  const RunContext context = GroupContext(trained, dropout, head);
  return model->config().pooled ? model->PooledLogits(rows.data, context)
                                : model->Head(rows, context);
}

torch::Tensor LossStates(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                         const DropoutKey& dropout, SequenceState* state) {
  const Rows rows = LastRowsOf(model, batch, trained, dropout, state);
  const int head = model->blocks() + 1;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head));
  return model->OutputStates(rows, ViewOf(batch.loss_rows), GroupContext(trained, dropout, head));
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
