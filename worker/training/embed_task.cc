// A vector per text.
#include <algorithm>
#include <span>

#include "common/base/status.h"
#include "worker/data/batch_plan.h"
#include "worker/data/packed_batch.h"
#include "worker/model/tensor_view.h"
#include "worker/training/inference.h"
#include "worker/training/pooling.h"
#include "worker/training/prediction_task.h"

namespace thaw {
namespace {

constexpr int64_t kEmbedTokens = 4096;

}  // namespace

absl::StatusOr<bool> Embed(PredictionTask* task) {
  Model* model = task->loaded.model.get();
  if (model->config().encoder_decoder) {
    return InvalidField("prediction.model",
                        "a model with encoder and decoder gives no vectors; give one without");
  }
  const v1::Embed& embed = task->prediction().embed();
  const bool normalize = !embed.has_normalize() || embed.normalize();
  THAW_ASSIGN_OR_RETURN(const TokenizedDataset rows, ReadEmbedInputs(task->Reading(task->loaded)));
  THAW_RETURN_IF_ERROR(task->Begin(rows.rows(), rows.truncated_rows));
  torch::Tensor result = at::empty({rows.rows(), model->hidden_size()});
  const int64_t width = result.size(1);
  auto* out = result.mutable_data_ptr<float>();
  RunContext context;
  context.all_rows = true;
  int64_t done = 0;
  for (const auto& batch_rows : EvaluationBatches(rows, task->Halved(kEmbedTokens))) {
    if (!task->GoOnRows(done)) return false;
    const PackedBatch batch = Pack(rows, batch_rows);
    const Rows last =
        Infer(model,
              {.token_ids = IdTensor(batch.token_ids),
               .token_type_ids =
                   model->config().token_types ? IdTensor(batch.token_type_ids) : torch::Tensor(),
               .cu_seqlens = batch.cu_seqlens,
               .target_ids = {},
               .target_bounds = {}},
              context);
    const torch::NoGradGuard no_gradients;
    const torch::Tensor states = model->LastHidden(last, context).to(torch::kCPU, torch::kFloat32);
    const torch::Tensor pooled =
        Pool(states, last.cu_seqlens, PoolingOf(embed.pooling()), normalize);
    for (int64_t i = 0; i < batch.sequences(); ++i) {
      const std::span<const float> vector(pooled.const_data_ptr<float>() + i * width,
                                          static_cast<size_t>(width));
      THAW_RETURN_IF_ERROR(CheckOutputs(vector, batch.rows[i]));
      std::copy(vector.begin(), vector.end(), out + batch.rows[i] * width);
    }
    done += batch.sequences();
  }
  THAW_RETURN_IF_ERROR(WriteSafetensors(task->directory + "/embeddings.safetensors",
                                        {ToWrite("embeddings", result)}));
  task->metrics["tokens"] = static_cast<double>(rows.tokens());
  return true;
}

}  // namespace thaw
