// config.json of a Hugging Face model directory, read strictly: an option that changes mathematics
// is honoured or refused by name, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace thaw {

enum class Activation { kGelu, kGeluTanh, kRelu };
enum class ProblemType { kSingleLabel, kMultiLabel, kRegression };

struct ModelConfig {
  std::string model_type;  // "bert"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;  // divides hidden_size
  int64_t intermediate_size = 0;
  int64_t max_positions = 0;
  int64_t type_vocab_size = 0;
  int64_t pad_token_id = 0;
  Activation activation = Activation::kGelu;
  double norm_epsilon = 1e-12;
  double hidden_dropout = 0.1;
  double attention_dropout = 0.1;
  double classifier_dropout = 0.1;
  double initializer_range = 0.02;
  // Names by id; two of them ("LABEL_0", "LABEL_1") where the file is silent, as in transformers.
  std::vector<std::string> labels;
  ProblemType problem = ProblemType::kSingleLabel;
  // The file's own text, so that what we do not use survives into the result.
  nlohmann::json source;
};

// INVALID_ARGUMENT with field and value for a wrong or unsupported option; UNIMPLEMENTED for a
// model_type that no architecture here serves.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text);

// config.json for a result of this configuration: the source with labels, problem type,
// architecture and element type of what is saved.
std::string ClassifierConfigJson(const ModelConfig& config);

}  // namespace thaw
