// What GPT-2, BLOOM, LLaMA and their like have in common around their blocks: causal attention that
// can go on from earlier calls; above the last block a norm, and on it a language model's output
// layer or a classifier "score" without bias that reads the last row of each sequence.
#pragma once

#include <cstdint>
#include <string>

#include "worker/model/model.h"
#include "worker/model/model_loader.h"

namespace thaw {

class CausalDecoder : public Model {
 public:
  torch::Tensor Hidden(const Rows& rows, const RunContext& context) override;
  torch::Tensor Head(const Rows& rows, const RunContext& context) override;
  torch::Tensor OutputStates(const Rows& rows, const torch::Tensor& selected,
                             const RunContext& context) override;
  OutputLayer output_layer() const override {
    return {output_->tensor, torch::Tensor(), output_->half};
  }

 protected:
  explicit CausalDecoder(ModelConfig config) : Model(std::move(config)) {}

  // The last group: the norm, and the head that is wanted. `word` are the embeddings, to which a
  // language model's "lm_head" may be tied.
  void LoadTop(ModelLoader& loader, const std::string& norm, double epsilon, const Parameter* word,
               const std::optional<HeadSpec>& head, NormKind kind = NormKind::kLayer);

  // This block leaves only the last row of each sequence, which is all that a classifier reads.
  // Never while states go on.
  bool LeavesLastRows(int block, const RunContext& context) const;

  // q, k and v as for Attention; causal; `rows` are those that keys come from, and queries the
  // last of them in each sequence where LeavesLastRows.
  struct AttentionParts {
    torch::Tensor q, k, v;
    double scale;
    torch::Tensor relative_bias;
    DropoutSite dropout;
    int64_t window = 0;  // as AttentionSpec's
  };
  torch::Tensor Attend(const AttentionParts& parts, int block, const Rows& rows,
                       const RunContext& context) const;
  // How many keys the longest sequence has in this call.
  int64_t LongestKeys(const Rows& rows, const RunContext& context) const;

  // What it gives is for matrices.
  Norm LayerNormOf(const WeightPair& pair, double epsilon) const {
    return {NormKind::kLayer, pair.w(), pair.b(), epsilon, rows_type()};
  }

 private:
  Norm TopNorm(torch::ScalarType type) const {
    return {kind_, norm_.w(), norm_.b(), epsilon_, type};
  }

  WeightPair norm_, score_;
  NormKind kind_ = NormKind::kLayer;
  double epsilon_ = 1e-5;
  const Parameter* output_ = nullptr;
};

}  // namespace thaw
