// Encoders of BERT's make (arXiv 1810.04805): embeddings and blocks that end in a norm, every row
// seeing all rows of its sequence; a classifier on each sequence's first row or a masked language
// model's head. BERT, RoBERTa and DistilBERT are this with other names and small differences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/model.h"
#include "worker/model/model_loader.h"

namespace thaw {

// How the tensors are called. Those of the base model stand behind `prefix`, those of a block
// behind `layers` and its number; nullptr: there is no such tensor.
struct EncoderNames {
  const char* prefix;
  const char* layers;
  const char* token_types;
  const char *query, *key, *value, *attention_output, *attention_norm;
  const char *intermediate, *output, *output_norm;
  const char* pooler;
  // The whole name, of heads. The classifier is out(dropout(activation(dense(dropout(row)))));
  // without a `dense` of its own it stands on the pooler.
  const char *dense, *classifier;
  // logits = norm(activation(transform(row))) outputᵀ + bias.
  const char *transform, *transform_norm, *language_model_output, *language_model_bias;
  std::vector<std::string> base_parts;  // what names without the prefix begin with
  std::vector<std::string> heads;       // what those of any head begin with
  std::vector<std::string> buffers;
};

struct EncoderSpec {
  int64_t num_heads = 0;  // divides hidden_size
  int64_t intermediate_size = 0;
  int64_t position_rows = 0;  // of the table
  int64_t token_types = 0;
  int64_t pad_token_id = 0;  // whose embedding is not trained; -1: none
  // RoBERTa's positions: 1, 2, … + pad_token_id over the tokens that are no padding; one that is
  // has position pad_token_id, wherever it stands, and neither counts nor trains that row.
  bool positions_skip_padding = false;
  ActivationKind activation = ActivationKind::kGeluErf;
  ActivationKind language_model_activation = ActivationKind::kGeluErf;
  bool classifier_relu = false;  // tanh otherwise
  double norm_epsilon = 1e-12;
  double embedding_dropout = 0.1;
  double attention_dropout = 0.1;         // on the weights
  double attention_output_dropout = 0.1;  // before the first norm
  double output_dropout = 0.1;            // before the second
  double classifier_input_dropout = 0;
  double classifier_dropout = 0.1;
};

class PostNormEncoder : public Model {
 public:
  // `names` must outlive the model.
  PostNormEncoder(ModelConfig config, const EncoderSpec& spec, const EncoderNames& names)
      : Model(std::move(config)), spec_(spec), names_(names) {}

  // Once, before anything else.
  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;
  torch::Tensor Hidden(const Rows& rows, const RunContext&) override {
    return rows.data.to(torch::kFloat);
  }
  torch::Tensor Head(const Rows& rows, const RunContext& context) override;
  torch::Tensor OutputStates(const Rows& rows, const torch::Tensor& selected,
                             const RunContext& context) override;
  KeyShape PrefixShape() const override;
  OutputLayer output_layer() const override {
    return {output_->tensor, output_bias_->tensor, output_->half};
  }

 private:
  struct BlockWeights {
    WeightPair query, key, value, attention_output, attention_norm, intermediate, output,
        output_norm;
  };

  std::string Base(const std::string& name) const { return names_.prefix + name; }
  void LoadEmbeddings(ModelLoader& loader);
  void LoadBlock(ModelLoader& loader, int64_t index);
  void LoadClassifier(ModelLoader& loader, const std::optional<HeadSpec>& head, bool keeps);
  void LoadLanguageModel(ModelLoader& loader);
  Rows EmbedPrompted(const Packed& batch, const RunContext& context);
  torch::Tensor PositionIds(const Packed& batch, const RunContext& context, bool* padding) const;

  const EncoderSpec spec_;
  const EncoderNames& names_;
  const Parameter *word_ = nullptr, *position_ = nullptr, *type_ = nullptr;
  WeightPair embeddings_norm_, dense_, classifier_, transform_, transform_norm_;
  const Parameter *output_ = nullptr, *output_bias_ = nullptr;
  std::vector<BlockWeights> block_weights_;
};

}  // namespace thaw
