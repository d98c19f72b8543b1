#include "worker/model/causal_decoder.h"

#include <algorithm>
#include <utility>

#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {

using torch::Tensor;

void CausalDecoder::LoadTop(ModelLoader& loader, const std::string& norm, double epsilon,
                            const Parameter* word, const std::optional<HeadSpec>& head,
                            NormKind kind) {
  const int64_t d = config_.hidden_size;
  loader.StartGroup("head");
  norm_ = loader.Norm(norm, d, /*bias=*/kind == NormKind::kLayer);
  kind_ = kind;
  epsilon_ = epsilon;
  const bool keeps = ChooseHead(head);
  const int64_t labels = static_cast<int64_t>(config_.labels.size());
  switch (config_.head) {
    case HeadKind::kClassifier:
      score_ = keeps ? loader.Linear("score", labels, d, /*bias=*/false)
                     : loader.FreshLinear("score", labels, d, head->seed, 2, /*bias=*/false);
      break;
    case HeadKind::kLanguageModel:
      output_ = loader.OutputLayer("lm_head.weight", word);
      break;
    case HeadKind::kNone:
      break;
  }
}

bool CausalDecoder::LeavesLastRows(int block, const RunContext& context) const {
  return block + 1 == blocks() && config_.head == HeadKind::kClassifier && !context.all_rows &&
         context.state == nullptr;
}

int64_t CausalDecoder::LongestKeys(const Rows& rows, const RunContext& context) const {
  int64_t longest = 1;
  for (size_t s = 0; s + 1 < rows.cu_seqlens.size(); ++s) {
    const int64_t seen = context.state == nullptr ? 0 : context.state->lengths()[s];
    longest = std::max(longest, seen + rows.cu_seqlens[s + 1] - rows.cu_seqlens[s]);
  }
  return longest + added_.prefix_length();
}

Tensor CausalDecoder::Attend(const AttentionParts& parts, int block, const Rows& rows,
                             const RunContext& context) const {
  const Path path = PathOf(context, rows.data);
  AttentionSpec spec;
  spec.q_bounds =
      LeavesLastRows(block, context) ? UnitBounds(rows.cu_seqlens.size() - 1) : rows.cu_seqlens;
  spec.k_bounds = rows.cu_seqlens;
  spec.scale = parts.scale;
  spec.causal = true;
  spec.window = parts.window;
  spec.relative_bias = parts.relative_bias;
  spec.dropout = parts.dropout;
  return SelfAttention(path, block, parts.q, parts.k, parts.v, std::move(spec), context.state);
}

Tensor CausalDecoder::Hidden(const Rows& rows, const RunContext& context) {
  return Normalise(PathOf(context, rows.data), rows.data, TopNorm(torch::kFloat));
}

Tensor CausalDecoder::Head(const Rows& rows, const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const Tensor last =
      OneRowEach(rows.data, rows.cu_seqlens) ? rows.data : LastRows(rows.data, rows.cu_seqlens);
  return Linear(path, Normalise(path, last, TopNorm(torch::kFloat)), score_.Both(context));
}

Tensor CausalDecoder::OutputStates(const Rows& rows, const Tensor& selected,
                                   const RunContext& context) {
  const Tensor states = selected.defined() ? GatherRows(rows.data, selected) : rows.data;
  return Normalise(PathOf(context, rows.data), states, TopNorm(rows_type()));
}

}  // namespace thaw
