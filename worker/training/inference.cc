#include "worker/training/inference.h"

#include <utility>

#include "worker/model/ops.h"

namespace thaw {

torch::Tensor IdTensor(const std::vector<int64_t>& ids) {
  return torch::tensor(at::ArrayRef<int64_t>(ids), torch::kInt64);
}

Rows Infer(Model* model, const Packed& packed, const RunContext& context) {
  const torch::NoGradGuard no_gradients;
  Rows rows = model->Embed(packed, context);
  const int first = packed.token_ids.defined() ? 0 : model->first_decoder_block();
  for (int block = first; block < model->blocks(); ++block) {
    rows = model->Block(block, std::exchange(rows, {}), context);
  }
  if (context.state != nullptr) {
    context.state->Advance(packed.target_bounds.empty() ? packed.cu_seqlens : packed.target_bounds);
  }
  return rows;
}

torch::Tensor TokenLogits(Model* model, const Rows& rows, const torch::Tensor& selected) {
  const torch::NoGradGuard no_gradients;
  const torch::Tensor states = model->OutputStates(rows, selected, RunContext());
  const OutputLayer output = model->output_layer();
  const Path path = states.is_cpu() ? Path::kKernels : Path::kReference;
  return Linear(path, states, {output.weight, output.bias}).to(torch::kFloat32).contiguous();
}

}  // namespace thaw
