// A model is a stack of groups, embeddings → block 0 … block N-1 → head, over packed rows: the
// tokens of all sequences of a batch, one after another, without padding. The caller runs the stack
// group by group, so it decides below which group no autograd is needed and may keep the rows
// between two groups (the activation cache).
//
//   Rows rows = model->Embed(batch, context);
//   for (int i = 0; i < model->blocks(); ++i) rows = model->Block(i, rows, context);
//   torch::Tensor logits = model->Head(rows, context);  // [sequences, labels]
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/model/config.h"
#include "worker/model/group.h"
#include "worker/model/parameters.h"

namespace thaw {

// What dropout depends on, beside the place in the model and the element's index: the same key
// gives the same bits, on any number of threads.
struct DropoutKey {
  uint64_t seed = 0;
  uint64_t step = 0;  // optimizer step
  uint32_t micro_step = 0;
};

// How to run one group. Frozen groups get training = false and run under a NoGradGuard of the
// caller.
struct RunContext {
  bool training = false;  // dropout on
  DropoutKey dropout = {};
  // Every row leaves the last block, not only those that the head reads (see Rows).
  bool all_rows = false;
  // Plain ATen operations instead of our own kernels; also what is used off the CPU.
  bool reference = false;
};

// The input of a batch. All int64 [total_tokens], on the model's device.
struct Packed {
  torch::Tensor token_ids;
  torch::Tensor token_type_ids;  // undefined: all 0
  torch::Tensor position_ids;    // undefined: 0, 1, … in each sequence
  // Sequence i is rows [cu_seqlens[i], cu_seqlens[i + 1]); begins with 0, ends with total_tokens.
  // No sequence is empty or longer than Model::max_positions().
  std::vector<int32_t> cu_seqlens;
};

// What flows between groups: [total_rows, hidden] with its sequences' bounds, which are those of
// the input until the last block. That one gives back only what the head reads (BERT: the first row
// of each sequence, bounds 0, 1, 2, …) and saves the work on all others; the head takes either.
struct Rows {
  torch::Tensor data;
  std::vector<int32_t> cu_seqlens;
};

// Not thread-safe. LibTorch's exceptions pass through: out of memory, and c10::IndexError for a
// token id, type or position that the model's tables do not have. Wrong shapes and bounds are the
// caller's mistake and not looked for.
class Model {
 public:
  virtual ~Model() = default;

  virtual Rows Embed(const Packed& batch, const RunContext& context) = 0;
  // `block` in [0, blocks()).
  virtual Rows Block(int block, const Rows& rows, const RunContext& context) = 0;
  // [sequences, num_labels], fp32.
  virtual torch::Tensor Head(const Rows& rows, const RunContext& context) = 0;

  // groups().front() are the embeddings, groups().back() is the head; blocks between.
  const std::vector<Group>& groups() const { return groups_; }
  int blocks() const { return static_cast<int>(groups_.size()) - 2; }
  int64_t hidden_size() const { return config_.hidden_size; }
  int64_t max_positions() const { return config_.max_positions; }

  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  const ModelConfig& config() const { return config_; }
  // What a user should know about the loading: a freshly drawn pooler, ignored tensors.
  const std::vector<std::string>& warnings() const { return warnings_; }

 protected:
  explicit Model(ModelConfig config) : config_(std::move(config)) {}

  ModelConfig config_;
  Parameters parameters_;
  std::vector<Group> groups_;
  std::vector<std::string> warnings_;
};

// The head that a training job wants.
struct HeadSpec {
  // Names in the order of their ids, no two alike; for regression one name per output.
  std::vector<std::string> labels;
  ProblemType problem = ProblemType::kSingleLabel;
  // A head of other labels than the directory's own is drawn anew from this seed: weights
  // ~ N(0, initializer_range), biases 0.
  uint64_t seed = 0;
};

// Loads config.json and *.safetensors (one file, or shards with an index) of a Hugging Face
// directory. Tensors stay mapped from the file, read-only (writing to one is a fault), unless they
// are misaligned or not fp32, which are copied; nothing requires grad. Without `head` the
// directory must hold a classification head, as results do. Errors name file, tensor or option.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                 const std::optional<HeadSpec>& head);

// Writes config.json and model.safetensors as AutoModelForSequenceClassification expects them into
// `directory`, which exists; each file appears whole or not at all. Tokenizer files are the
// caller's.
absl::Status SaveModel(const Model& model, const std::string& directory);

}  // namespace thaw
