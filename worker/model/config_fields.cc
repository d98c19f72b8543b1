#include "worker/model/config_fields.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/base/status.h"

namespace thaw {

using nlohmann::json;

namespace {

// What transformers writes for every model and what describes but does not compute: labels and
// problem_type are read by ParseModelConfig, token ids by whoever tokenizes and generates.
constexpr const char* kHarmlessFields[] = {
    "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset",
    "architectures", "auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "custom_pipelines", "dtype", "torch_dtype",
    "finetuning_task", "gradient_checkpointing", "id2label", "label2id", "num_labels",
    "initializer_range", "initializer_factor", "is_encoder_decoder", "keys_to_ignore_at_inference",
    "language", "license", "model_type", "name_or_path", "output_attentions",
    "output_hidden_states", "output_past", "problem_type", "return_dict", "return_dict_in_generate",
    "task_specific_params", "tokenizer_class", "transformers_version", "tie_word_embeddings",
    "transformers.js_config", "use_cache", "use_return_dict", "chunk_size_feed_forward",
    // How transformers generates unless told otherwise: ours are in the request.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "length_penalty",
    "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p"};

bool IsHarmless(const std::string& field) {
  for (const char* harmless : kHarmlessFields) {
    if (field == harmless) return true;
  }
  // Where nested configurations of transformers' own tools write: "unsloth_version" and its like.
  return absl::EndsWith(field, "_version");
}

bool IsEmpty(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array() || value.is_string()) && value.empty());
}

}  // namespace

std::string ShownJson(const json& value) {
  return CleanText(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

void ConfigFields::Fail(absl::string_view field, absl::string_view description) {
  if (!status_.ok()) return;
  status_ = InvalidField(absl::StrCat(scope_, field), absl::StrCat(file_, ": ", description));
}

void ConfigFields::Adopt(const ConfigFields& inner) {
  if (status_.ok()) status_ = inner.status_;
}

const json* ConfigFields::Find(const char* field) {
  read_.insert(field);
  const auto it = source_.find(field);
  return it == source_.end() || it->is_null() ? nullptr : &*it;
}

int64_t ConfigFields::Size(const char* field, int64_t smallest, std::optional<int64_t> otherwise,
                           int64_t largest) {
  const json* value = Find(field);
  if (value == nullptr && otherwise) return *otherwise;
  if (value == nullptr) {
    Fail(field, absl::StrCat("\"", field, "\" is missing"));
  } else if (!value->is_number_integer() || *value < smallest || *value > largest) {
    Fail(field, absl::StrCat("expected a whole number from ", smallest, " to ", largest, ", found ",
                             ShownJson(*value)));
  } else {
    return value->get<int64_t>();
  }
  return smallest;
}

int64_t ConfigFields::TokenId(const char* field, int64_t otherwise) {
  return Has(field) && Find(field) == nullptr ? -1 : Size(field, 0, otherwise);
}

double ConfigFields::Real(const char* field, double low, double high, double otherwise) {
  const json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (value->is_number() && *value >= low && *value < high) return value->get<double>();
  Fail(field,
       absl::StrCat("expected a number in [", low, ", ", high, "), found ", ShownJson(*value)));
  return otherwise;
}

bool ConfigFields::Flag(const char* field, bool otherwise) {
  const json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  Fail(field, absl::StrCat("expected true or false, found ", ShownJson(*value)));
  return otherwise;
}

std::string ConfigFields::Text(const char* field, const char* otherwise) {
  const json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (value->is_string()) return value->get<std::string>();
  Fail(field, absl::StrCat("expected a string, found ", ShownJson(*value)));
  return otherwise;
}

const char* ConfigFields::Spelling(const char* field, const char* alias) {
  const json *usual = Find(field), *other = Find(alias);
  if (usual != nullptr && other != nullptr && *usual != *other) {
    Fail(alias, absl::StrCat("contradicts \"", field, "\": ", ShownJson(*usual), ", found ",
                             ShownJson(*other)));
  }
  return usual == nullptr && other != nullptr ? alias : field;
}

void ConfigFields::Divides(const char* part, int64_t part_value, const char* whole,
                           int64_t whole_value) {
  if (whole_value % part_value == 0) return;
  Fail(part,
       absl::StrCat("expected a divisor of ", whole, " ", whole_value, ", found ", part_value));
}

ActivationKind ConfigFields::Activation(const char* field, const char* otherwise) {
  const std::string name = Text(field, otherwise);
  if (name == "gelu") return ActivationKind::kGeluErf;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return ActivationKind::kGeluTanh;
  }
  if (name == "relu") return ActivationKind::kRelu;
  if (name == "silu" || name == "swish") return ActivationKind::kSilu;
  Fail(field, absl::StrCat("\"", name,
                           "\" is not supported, only gelu, gelu_new, gelu_fast, "
                           "gelu_pytorch_tanh, relu, silu and swish"));
  return ActivationKind::kGeluErf;
}

void ConfigFields::Only(const char* field, const json& supported) {
  const json* value = Find(field);
  if (value != nullptr && *value != supported) {
    Fail(field, absl::StrCat(ShownJson(*value), " is not supported, only ", ShownJson(supported)));
  }
}

void ConfigFields::Ignore(std::initializer_list<const char*> fields) {
  read_.insert(fields.begin(), fields.end());
}

void ConfigFields::RefuseUnread() {
  for (const auto& [field, value] : source_.items()) {
    if (read_.count(field) > 0 || IsHarmless(field) || IsEmpty(value)) continue;
    Fail(field,
         absl::StrCat("\"", field, "\": ", ShownJson(value), " is unknown to this ", type_,
                      " and might change what the model computes: take it out if it does not"));
  }
}

}  // namespace thaw
