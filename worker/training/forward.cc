#include "worker/training/forward.h"

#include <algorithm>
#include <utility>

namespace thaw {
namespace {

torch::Tensor ViewOf(const std::vector<int64_t>& values) {
  // from_blob takes what it never writes to as if it could.
  return torch::from_blob(const_cast<int64_t*>(values.data()),
                          {static_cast<int64_t>(values.size())}, torch::kInt64);
}

}  // namespace

TrainedGroups::TrainedGroups(const Model& model, const std::vector<std::string>& trainable_names)
    : trained_(model.groups().size()), lowest_(static_cast<int>(model.groups().size())) {
  for (const std::string& name : trainable_names) {
    const Parameter* parameter = model.parameters().Find(name);
    trained_[parameter->group] = true;
    lowest_ = std::min(lowest_, parameter->first_use);
  }
}

torch::Tensor Logits(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                     const DropoutKey& dropout) {
  const Packed packed{.token_ids = ViewOf(batch.token_ids),
                      .token_type_ids = model->config().token_types ? ViewOf(batch.token_type_ids)
                                                                    : torch::Tensor(),
                      .cu_seqlens = batch.cu_seqlens};
  const auto context = [&](int group) {
    return RunContext{.training = trained.Trained(group), .dropout = dropout};
  };
  Rows rows;
  {
    const torch::AutoGradMode gradient(trained.NeedsGradient(0));
    rows = model->Embed(packed, context(0));
  }
  for (int block = 0; block < model->blocks(); ++block) {
    const torch::AutoGradMode gradient(trained.NeedsGradient(block + 1));
    rows = model->Block(block, std::exchange(rows, {}), context(block + 1));
  }
  const int head = model->blocks() + 1;
  const torch::AutoGradMode gradient(trained.NeedsGradient(head));
  return model->Head(rows, context(head));
}

torch::Tensor Labels(const PackedBatch& batch) { return ViewOf(batch.labels); }

}  // namespace thaw
