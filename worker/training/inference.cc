#include "worker/training/inference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/ops.h"

namespace thaw {

torch::Tensor IdTensor(const std::vector<int64_t>& ids) {
  return torch::tensor(at::ArrayRef<int64_t>(ids), torch::kInt64);
}

Rows Infer(Model* model, const Packed& packed, const RunContext& context) {
  const torch::NoGradGuard no_gradients;
  model->parameters().RoundMatrices();
  Rows rows = model->Embed(packed, context);
  const int first = packed.token_ids.defined() ? 0 : model->first_decoder_block();
  for (int block = first; block < model->blocks(); ++block) {
    rows = model->Block(block, std::exchange(rows, {}), context);
  }
  Rows own = model->WithoutPrompt(rows, context);
  // By all rows: while states go on, all leave the last block, and the prompt's are remembered too.
  if (context.state != nullptr) context.state->Advance(rows.cu_seqlens);
  return own;
}

torch::Tensor TokenLogits(Model* model, const Rows& rows, const torch::Tensor& selected) {
  const torch::NoGradGuard no_gradients;
  const torch::Tensor states = model->OutputStates(rows, selected, RunContext());
  const OutputLayer output = model->output_layer();
  const Path path = states.is_cpu() ? Path::kKernels : Path::kReference;
  return Linear(path, states, {output.weight, output.bias, false, output.half})
      .to(torch::kFloat32)
      .contiguous();
}

absl::Status OutputNotANumber(int64_t row) {
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(
          "row ", row,
          ": the model's output is not a number: its weights are damaged, or overflowed when they "
          "were trained or saved in fp16; upload them again, saved as bf16 or fp32, or train "
          "again with a lower learning_rate")),
      "OUTPUT_NOT_A_NUMBER");
}

absl::Status CheckOutputs(std::span<const float> outputs, int64_t row) {
  const bool finite = std::all_of(outputs.begin(), outputs.end(),
                                  [](float output) { return std::isfinite(output); });
  return finite ? absl::OkStatus() : OutputNotANumber(row);
}

}  // namespace thaw
