// A model is a stack of groups, embeddings → block 0 … block N-1 → head, over packed rows: the
// tokens of all sequences of a batch, one after another, without padding. The caller runs the stack
// group by group, so it decides below which group no autograd is needed and may keep the rows
// between two groups (the activation cache).
//
//   Rows rows = model->Embed(batch, context);
//   for (int i = 0; i < model->blocks(); ++i) rows = model->Block(i, rows, context);
//   torch::Tensor logits = model->Head(rows, context);  // [sequences, labels]
//
// A pooled head (ModelConfig::pooled) reads one vector a sequence, which the caller makes of
// LastHidden:
//
//   torch::Tensor logits = model->PooledLogits(vectors, context);  // [sequences, labels]
//
// A language model's head comes in two parts, so that [rows, vocabulary] need never exist:
//
//   torch::Tensor states = model->OutputStates(rows, selected, context);  // [selected, width]
//   OutputLayer output = model->output_layer();
//   torch::Tensor loss = LinearCrossEntropySum(path, states, output.weight, output.bias, labels,
//                                              output.half);
//
// A model computes in fp32 or in bf16 (ModelConfig::half, docs/precision.md). In bf16 the rows
// between blocks are bf16 where a norm ends each block, and fp32 sums where a norm begins it; what
// attention and matrices read is bf16 in both. OutputStates are bf16 then, everything else that
// leaves a model is fp32.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/model/added_to_model.h"
#include "worker/model/config.h"
#include "worker/model/group.h"
#include "worker/model/linear_layer.h"
#include "worker/model/ops.h"
#include "worker/model/parameters.h"
#include "worker/model/sequence_state.h"

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
  // With training: statistics that a group learns without a gradient stay as they are.
  bool frozen = false;
  DropoutKey dropout = {};
  // Every row leaves the last block, not only those that a classifier reads (see Rows).
  bool all_rows = false;
  // Plain ATen operations instead of our own kernels; also what is used off the CPU.
  bool reference = false;
  // Goes on from what the sequences' earlier tokens left here, and leaves there what the next ones
  // need; positions go on too. No autograd for attention. The caller calls Advance after the last
  // block. Null: sequences begin with this batch.
  SequenceState* state = nullptr;
};

// The input of a batch. All int64 [total_tokens], on the model's device.
struct Packed {
  torch::Tensor token_ids;
  torch::Tensor token_type_ids;  // undefined: all 0
  // Sequence i is rows [cu_seqlens[i], cu_seqlens[i + 1]); begins with 0, ends with total_tokens.
  // No sequence is empty or longer than Model::max_positions().
  std::vector<int32_t> cu_seqlens;
  // Sequence to sequence: what the decoder reads (already shifted right), packed likewise, as many
  // sequences; undefined for every other model. While generating, after the first call, token_ids
  // is undefined: the encoder has done its work.
  torch::Tensor target_ids;
  std::vector<int32_t> target_bounds;
};

// What flows between groups: [total_rows, hidden] with its sequences' bounds, which are those of
// the input until the last block. That one gives back only what a classifier reads (BERT: the first
// row of each sequence, decoders: the last; bounds 0, 1, 2, …) and saves the work on all others,
// unless RunContext::all_rows; classifiers take either. Under any other head all rows leave it.
struct Rows {
  torch::Tensor data;
  std::vector<int32_t> cu_seqlens;
  // Sequence to sequence: the other stream. In the encoder's blocks the embedded rows of the
  // target, which wait; in the decoder's the encoder's output, which they attend to.
  torch::Tensor other;
  std::vector<int32_t> other_bounds;
};

// The last step of a language model: logits = states weightᵀ + bias.
struct OutputLayer {
  torch::Tensor weight;  // [vocabulary, width]
  torch::Tensor bias;    // [vocabulary], or undefined
  torch::Tensor half;    // of the weight, where the states are bf16
};

// The head that a training job wants.
struct HeadSpec {
  // Of a classifier: names in the order of their ids, no two alike; for regression one name per
  // output.
  std::vector<std::string> labels;
  ProblemType problem = ProblemType::kSingleLabel;
  // A head of other labels than the directory's own is drawn anew from this seed: weights
  // ~ N(0, initializer_range), biases 0.
  uint64_t seed = 0;
  HeadKind kind = HeadKind::kClassifier;
  // A classifier of this form instead of the family's own; without it, a directory with a pooled
  // head keeps its form.
  std::optional<PooledHeadConfig> pooled = {};
};

// Not thread-safe. LibTorch's exceptions pass through: out of memory, and c10::IndexError for a
// token id, type or position that the model's tables do not have. Wrong shapes and bounds are the
// caller's mistake and not looked for.
class Model {
 public:
  virtual ~Model() = default;

  virtual Rows Embed(const Packed& batch, const RunContext& context) = 0;
  // `block` in [0, blocks()). Sequence to sequence: the encoder's blocks, then the decoder's.
  virtual Rows Block(int block, const Rows& rows, const RunContext& context) = 0;
  // transformers' last_hidden_state of the rows that left the last block, [rows, hidden], fp32:
  // after the final norm, where the family has one.
  virtual torch::Tensor Hidden(const Rows& rows, const RunContext& context) = 0;
  // With a classifier of the family's own: [sequences, num_labels], fp32.
  virtual torch::Tensor Head(const Rows& rows, const RunContext& context) = 0;
  // Hidden, but of a model that a pooled head ends below its last block the rows as they left the
  // last one that runs.
  torch::Tensor LastHidden(const Rows& rows, const RunContext& context);
  // With a pooled head: [sequences, num_labels] of `vectors` [sequences, hidden], fp32.
  torch::Tensor PooledLogits(const torch::Tensor& vectors, const RunContext& context) const;
  // With a language model's head: what the output layer reads of these rows (int64 [n], of
  // rows.data; undefined: of all), [n, width].
  virtual torch::Tensor OutputStates(const Rows& rows, const torch::Tensor& selected,
                                     const RunContext& context);
  virtual OutputLayer output_layer() const;
  // Of the rows that left the last block those that are the batch's, with its bounds: a prompt's
  // own, which stand before them, leave. Rows that are one a sequence stay as they are.
  Rows WithoutPrompt(Rows rows, const RunContext& context) const;

  // groups().front() are the embeddings, groups().back() is the head; blocks between. With a pooled
  // head: the blocks that run, the last of all of them with the final norm. What never runs is a
  // parameter of the model and of its files, but of no group.
  const std::vector<Group>& groups() const { return groups_; }
  int blocks() const { return static_cast<int>(groups_.size()) - 2; }
  // Sequence to sequence: the first block of the decoder, and so of every call of a generation but
  // the first. 0 elsewhere.
  int first_decoder_block() const { return first_decoder_block_; }
  int64_t hidden_size() const { return config_.hidden_size; }
  int64_t max_positions() const { return config_.max_positions; }

  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  // What can be changed by an added part; the output layer of a language model cannot.
  std::deque<LinearLayer>& linears() { return linears_; }
  const std::deque<LinearLayer>& linears() const { return linears_; }
  // A tensor of an added part, which belongs to group `group` from now on. Its name must be new.
  // `matrix`: rows are multiplied by it.
  const Parameter* AddPart(const std::string& name, int group, torch::Tensor tensor,
                           bool matrix = false);
  // What of an added part is not in linears().
  AddedToModel& added() { return added_; }
  const AddedToModel& added() const { return added_; }
  // `count` positions of every sequence are an added part's from now on: max_positions() is without
  // them. Once, with fewer than there are.
  void TakeVirtualTokens(int32_t count);
  // The heads of keys and values of the self-attention in blocks first_decoder_block() and above,
  // and their width; 0, 0 where transformers cannot put keys before them.
  struct KeyShape {
    int64_t heads = 0, head_dim = 0;
  };
  virtual KeyShape PrefixShape() const { return {}; }
  const ModelConfig& config() const { return config_; }
  // What is in 4 bits, or in bf16 beside such, becomes fp32 from now on, in memory and in what is
  // saved.
  void Dequantise();
  // The head is the one that the directory holds, so that saving gives back its files' names.
  bool keeps_layout() const { return keeps_layout_; }
  // What a user should know about the loading: a freshly drawn pooler, ignored tensors.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Of the rows that matrices are multiplied by.
  torch::ScalarType rows_type() const { return config_.half ? torch::kBFloat16 : torch::kFloat; }

 protected:
  friend class ModelLoader;
  explicit Model(ModelConfig config) : config_(std::move(config)) {}

  static Path PathOf(const RunContext& context, const torch::Tensor& data) {
    return context.reference || !data.is_cpu() ? Path::kReference : Path::kKernels;
  }
  // Dropout at `place` (below 8) of group `group`; off unless context.training.
  static DropoutSite Site(const RunContext& context, int group, uint32_t place, double probability);
  // While loading: takes over the head that is wanted, if any, and with a classifier its labels.
  // True if the directory's own classifier is to be used: none is wanted, or one of the same
  // labels.
  bool ChooseHead(const std::optional<HeadSpec>& head);
  // int64 [rows]: 0, 1, … in each sequence, or on from context.state; behind a prefix's.
  torch::Tensor Positions(const std::vector<int32_t>& bounds, const RunContext& context,
                          torch::Device device) const;
  // A prompt's rows go before the sequences of this call.
  bool BeginsWithPrompt(const RunContext& context) const;
  // Embedded rows with the prompt's before those of each sequence, whose bounds become those of
  // all. Where BeginsWithPrompt.
  torch::Tensor WithPrompt(const torch::Tensor& rows, std::vector<int32_t>* bounds) const;
  // Attention of block `block` to its own rows, with the keys and values of a prefix before those
  // of each sequence, and going on from `state`, unless that is null.
  torch::Tensor SelfAttention(Path path, int block, const torch::Tensor& q, const torch::Tensor& k,
                              const torch::Tensor& v, AttentionSpec spec,
                              SequenceState* state) const;

  ModelConfig config_;
  Parameters parameters_;
  std::deque<LinearLayer> linears_;  // layers keep pointers to them
  AddedToModel added_;
  std::vector<Group> groups_;
  // A pooled head's layers, weight and bias each; the first one is null where there is one alone.
  const Parameter *pooled_inner_[2] = {}, *pooled_outer_[2] = {};
  std::optional<uint64_t> pooled_seed_;  // while loading: it is drawn anew from this one
  int all_blocks_ = 0;                   // with a pooled head: those that do not run too
  int first_decoder_block_ = 0;
  bool keeps_layout_ = true;
  std::vector<std::string> warnings_;
};

struct LoadOptions {
  // It computes in bf16, which not every family can.
  bool half = false;
  // The linear layers of attention and feed-forward layers become NF4, tables of tokens bf16, one
  // by one, so that the model is never in memory in fp32. Changes nothing of a directory that is
  // in NF4 already. INVALID_ARGUMENT for a family that cannot.
  bool nf4 = false;
};

// Loads config.json and *.safetensors (one file, or shards with an index) of a Hugging Face
// directory. Tensors stay mapped from the file, read-only (writing to one is a fault), unless they
// are misaligned or neither fp32 nor NF4, which are copied (with options.half matrices keep their
// file's type and are not); nothing requires grad. Without `head`
// the model gets the head that the directory holds (config().head). Errors name file, tensor or
// option: among them tensors that are missing, that the architecture does not know, or of another
// shape.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                 const std::optional<HeadSpec>& head,
                                                 const LoadOptions& options = {});

// Writes config.json and model.safetensors as transformers' class for the head expects them into
// `directory`, which exists; each file appears whole or not at all. Tensors that were never
// replaced keep the bytes that they had in their file, and all keep their names unless the head is
// another one. Added parts are left out. Tokenizer files are the caller's.
absl::Status SaveModel(const Model& model, const std::string& directory);

// The same as what differs from the base whose weights are in `base_directory`
// (docs/delta_format.md), in the place of model.safetensors.
absl::Status SaveDelta(const Model& model, const std::string& base_directory,
                       const std::string& base_digest, const std::string& directory);

}  // namespace thaw
