#include "tests/worker/training/recurrent_model.h"

#include <cmath>

namespace thaw {
namespace {

using torch::Tensor;

constexpr int64_t kWidth = 8;

class RecurrentModel final : public Model {
 public:
  RecurrentModel(ModelConfig config, unsigned seed) : Model(std::move(config)) {
    groups_ = {{"embeddings", {}}, {"block.0", {}}, {"head", {}}};
    at::manual_seed(seed);
    embedding_ = at::randn({config_.vocab_size, kWidth});
    weight_ = at::randn({config_.vocab_size, kWidth}) * 1.5;
  }

  Rows Embed(const Packed& batch, const RunContext&) override {
    const bool decodes = batch.target_ids.defined();
    Rows rows;
    rows.data = embedding_.index_select(0, decodes ? batch.target_ids : batch.token_ids);
    rows.cu_seqlens = decodes ? batch.target_bounds : batch.cu_seqlens;
    if (decodes && batch.token_ids.defined()) {
      rows.other = embedding_.index_select(0, batch.token_ids);
      rows.other_bounds = batch.cu_seqlens;
    }
    return rows;
  }

  Rows Block(int block, const Rows& rows, const RunContext& context) override {
    const size_t sequences = rows.cu_seqlens.size() - 1;
    Rows out = rows;
    out.data = at::empty_like(rows.data);
    Tensor last = at::zeros({static_cast<int64_t>(sequences), kWidth});
    if (context.state != nullptr && context.state->block(block).hidden.defined()) {
      last = context.state->block(block).hidden.clone();
    } else if (rows.other.defined()) {
      for (size_t s = 0; s < sequences; ++s) {
        last[static_cast<int64_t>(s)] =
            rows.other.slice(0, rows.other_bounds[s], rows.other_bounds[s + 1]).sum(0);
      }
    }
    for (size_t s = 0; s < sequences; ++s) {
      const auto at = static_cast<int64_t>(s);
      for (int64_t r = rows.cu_seqlens[s]; r < rows.cu_seqlens[s + 1]; ++r) {
        last[at] = at::tanh(last[at] * 0.5 + rows.data[r]);
        out.data[r] = last[at];
      }
    }
    if (context.state != nullptr) context.state->block(block).hidden = last;
    out.other.reset();
    return out;
  }

  Tensor Hidden(const Rows& rows, const RunContext&) override { return rows.data; }
  Tensor Head(const Rows& rows, const RunContext&) override { return rows.data; }
  Tensor OutputStates(const Rows& rows, const Tensor& selected, const RunContext&) override {
    return selected.defined() ? rows.data.index_select(0, selected) : rows.data;
  }
  OutputLayer output_layer() const override { return {weight_, Tensor()}; }

  const Tensor& embedding() const { return embedding_; }

 private:
  Tensor embedding_, weight_;
};

}  // namespace

std::unique_ptr<Model> MakeRecurrentModel(int64_t vocabulary, int64_t max_positions, bool encoder,
                                          unsigned seed) {
  ModelConfig config;
  config.vocab_size = vocabulary;
  config.hidden_size = kWidth;
  config.max_positions = max_positions;
  config.head = HeadKind::kLanguageModel;
  config.causal = !encoder;
  config.encoder_decoder = encoder;
  return std::make_unique<RecurrentModel>(std::move(config), seed);
}

Tensor RecurrentLogits(const Model& model, const std::vector<int32_t>& source,
                       const std::vector<int32_t>& tokens) {
  const auto& recurrent = dynamic_cast<const RecurrentModel&>(model);
  Tensor state = at::zeros({kWidth});
  if (!source.empty()) {
    std::vector<Tensor> rows;
    for (const int32_t token : source) rows.push_back(recurrent.embedding()[token]);
    state = at::stack(rows).sum(0);
  }
  for (const int32_t token : tokens) state = at::tanh(state * 0.5 + recurrent.embedding()[token]);
  return at::matmul(recurrent.output_layer().weight, state);
}

}  // namespace thaw
