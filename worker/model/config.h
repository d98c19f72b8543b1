// config.json of a Hugging Face model directory, read strictly: an option that changes mathematics
// is honoured or refused by name, never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/model/pooled_head.h"

namespace thaw {

enum class ProblemType { kSingleLabel, kMultiLabel, kRegression };

// What stands on top of a model's blocks.
enum class HeadKind {
  kNone,           // nothing: hidden states are all there is
  kClassifier,     // one row of logits a sequence: labels, or numbers of a regression
  kLanguageModel,  // one row of logits over the vocabulary for every row
};

// Sequences may be as long as memory allows: models without a table of positions.
inline constexpr int64_t kUnboundedPositions = int64_t{1} << 20;

// What every family has. What only one family knows is read by that family's file, out of `source`.
struct ModelConfig {
  std::string model_type;  // "bert"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;  // of the rows between blocks
  int64_t num_layers = 0;   // sequence to sequence: of the encoder
  int64_t max_positions = kUnboundedPositions;
  double initializer_range = 0.02;  // of freshly drawn matrices
  bool encoder_decoder = false;     // sequence to sequence
  bool causal = false;              // rows see only what lies before them
  bool reads_backward = false;      // texts are given to it last token first
  // What tie_word_embeddings says. Whether the output layer is tied is what the files say.
  bool ties_output = true;
  // What it remembers of a text has a fixed size, as an LSTM's h and c: a training on joined texts
  // carries it from row to row.
  bool carries_state = false;
  // Packed::token_type_ids are part of the input, as for transformers' tokenizers of this family.
  bool token_types = false;
  // The head that the directory holds, by "architectures"; kNone where that is silent. A pooled one
  // is a classifier.
  HeadKind head = HeadKind::kNone;
  // The classifier stands on pooled hidden states instead of being the family's own.
  std::optional<PooledHeadConfig> pooled;
  // Not of the file: what a run asks for. Rows are bf16 where they meet matrices.
  bool half = false;
  // Names by id; two of them ("LABEL_0", "LABEL_1") where the file is silent, as in transformers.
  std::vector<std::string> labels;
  ProblemType problem = ProblemType::kSingleLabel;
  // The file's own text, so that what we do not use survives into the result.
  nlohmann::json source;
};

// INVALID_ARGUMENT with field and value for a wrong or unsupported option, or one that is unknown
// to the model_type and so might change what it computes; UNIMPLEMENTED for a model_type that no
// architecture here serves.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text);

// config.json for a result of this configuration: the source with labels, problem type,
// architecture (by `head`) and, where `element_type` is not empty, the element type of what is
// saved.
std::string ResultConfigJson(const ModelConfig& config, absl::string_view element_type);

}  // namespace thaw
