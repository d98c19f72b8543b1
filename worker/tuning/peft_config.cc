#include "worker/tuning/peft_config.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "worker/model/config_fields.h"
#include "worker/tuning/own_adapter_config.h"

namespace thaw {
namespace {

using nlohmann::json;

constexpr int64_t kMostRank = 1024;
constexpr int64_t kMostVirtualTokens = 1024;

// A string or a list of strings; false for anything else.
bool ReadNames(const json& value, google::protobuf::RepeatedPtrField<std::string>* names) {
  if (!value.is_array()) return false;
  for (const json& name : value) {
    if (!name.is_string()) return false;
    *names->Add() = name.get<std::string>();
  }
  return true;
}

void ReadNameList(const char* field, ConfigFields* fields,
                  google::protobuf::RepeatedPtrField<std::string>* names) {
  const json* value = fields->Find(field);
  if (value == nullptr || ReadNames(*value, names)) return;
  fields->Fail(field, absl::StrCat("expected a list of module names, found ", ShownJson(*value)));
}

void ReadTargets(ConfigFields* fields, v1::Lora* lora) {
  const json* value = fields->Find("target_modules");
  if (value == nullptr) {
    fields->Fail("target_modules", "\"target_modules\" is missing");
  } else if (value->is_string()) {
    // Nothing named means every linear layer here too.
    if (*value != "all-linear") lora->set_target_pattern(value->get<std::string>());
  } else if (!ReadNames(*value, lora->mutable_target_modules())) {
    fields->Fail("target_modules",
                 absl::StrCat("expected names or an expression, found ", ShownJson(*value)));
  }
}

void ReadLayers(ConfigFields* fields, v1::Lora* lora) {
  const json* value = fields->Find("layers_to_transform");
  if (value == nullptr) return;
  for (const json& layer : value->is_array() ? *value : json::array({*value})) {
    if (!layer.is_number_integer() || layer < 0 || layer > (1 << 20)) {
      fields->Fail("layers_to_transform",
                   absl::StrCat("expected numbers of layers, found ", ShownJson(*value)));
      return;
    }
    lora->add_layers_to_transform(layer.get<int32_t>());
  }
}

template <typename Value>
void ReadPatterns(const char* field, ConfigFields* fields,
                  google::protobuf::Map<std::string, Value>* patterns) {
  const json* value = fields->Find(field);
  if (value == nullptr) return;
  bool valid = value->is_object();
  if (valid) {
    for (auto it = value->begin(); it != value->end(); ++it) {
      const json& number = *it;
      valid = valid && number.is_number() && number > 0 && number <= 1e6;
      if (valid) (*patterns)[it.key()] = number.get<Value>();
    }
  }
  if (!valid) {
    fields->Fail(field,
                 absl::StrCat("expected positive numbers by module, found ", ShownJson(*value)));
  }
}

void ReadLora(ConfigFields* fields, v1::Lora* lora) {
  lora->set_rank(static_cast<int32_t>(fields->Size("r", 1, 8, kMostRank)));
  lora->set_alpha(fields->Real("lora_alpha", 0, 1e6 + 1, 8));
  lora->set_dropout(fields->Real("lora_dropout", 0, 1, 0));
  ReadTargets(fields, lora);
  ReadNameList("exclude_modules", fields, lora->mutable_exclude_modules());
  ReadNameList("modules_to_save", fields, lora->mutable_modules_to_save());
  ReadLayers(fields, lora);
  ReadPatterns("rank_pattern", fields, lora->mutable_rank_pattern());
  ReadPatterns("alpha_pattern", fields, lora->mutable_alpha_pattern());
  lora->set_rank_stabilized(fields->Flag("use_rslora", false));
  lora->set_dora(fields->Flag("use_dora", false));
  const std::string bias = fields->Text("bias", "none");
  if (bias == "all") {
    lora->set_bias(v1::Lora::ALL_BIASES);
  } else if (bias == "lora_only") {
    lora->set_bias(v1::Lora::TARGETS);
  } else if (bias == "none") {
    lora->set_bias(v1::Lora::NO_BIAS);
  } else {
    fields->Fail("bias", absl::StrCat("\"", bias, "\" is not none, all or lora_only"));
  }
  // How A and B began. The others begin with a change of the base's weights, which then are not
  // those of the base model.
  if (const json* how = fields->Find("init_lora_weights"); how != nullptr && !how->is_boolean()) {
    const bool keeps_base = *how == "gaussian" || *how == "eva" || *how == "orthogonal";
    if (!keeps_base) {
      fields->Fail("init_lora_weights",
                   absl::StrCat(ShownJson(*how),
                                " changes the base's weights and is not supported: convert the "
                                "adapter to a plain one"));
    }
  }
  // Conv1D is known by the architecture, which PEFT goes by too; which of the blocks' lists layers
  // are counted in shows in the names of the file's tensors.
  fields->Ignore(
      {"fan_in_fan_out", "layers_pattern", "eva_config", "qalora_group_size", "megatron_core"});
}

void ReadIa3(ConfigFields* fields, v1::Ia3* ia3) {
  if (fields->Find("target_modules") == nullptr) {
    fields->Fail("target_modules", "\"target_modules\" is missing");
  }
  ReadNameList("target_modules", fields, ia3->mutable_target_modules());
  ReadNameList("feedforward_modules", fields, ia3->mutable_feedforward_modules());
  ReadNameList("modules_to_save", fields, ia3->mutable_modules_to_save());
  fields->Ignore({"fan_in_fan_out", "init_ia3_weights"});
}

void ReadVirtualTokens(ConfigFields* fields, int32_t* count) {
  *count = static_cast<int32_t>(fields->Size("num_virtual_tokens", 1, {}, kMostVirtualTokens));
  // Sizes of the model, by which PEFT shapes the tensor: its own shape is looked at instead.
  fields->Ignore({"token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules"});
}

void ReadPromptTuning(ConfigFields* fields, v1::PromptTuning* prompt) {
  int32_t count = 0;
  ReadVirtualTokens(fields, &count);
  prompt->set_virtual_tokens(count);
  ReadNameList("modules_to_save", fields, prompt->mutable_modules_to_save());
  // How it began.
  fields->Ignore({"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs",
                  "tokenizer_name_or_path"});
}

void ReadPrefixTuning(ConfigFields* fields, v1::PrefixTuning* prefix) {
  int32_t count = 0;
  ReadVirtualTokens(fields, &count);
  prefix->set_virtual_tokens(count);
  ReadNameList("modules_to_save", fields, prefix->mutable_modules_to_save());
  // How it began, and of a network that made the keys and values while it trained: what it made
  // last is what PEFT stores.
  fields->Ignore({"encoder_hidden_size", "init_weights", "prefix_projection"});
}

json LoraFields(const v1::Lora& lora) {
  json fields = {
      {"alpha_pattern", json::object()},
      {"bias", lora.bias() == v1::Lora::ALL_BIASES ? "all"
               : lora.bias() == v1::Lora::TARGETS  ? "lora_only"
                                                   : "none"},
      {"init_lora_weights", true},
      {"lora_alpha", lora.alpha()},
      {"lora_dropout", lora.dropout()},
      {"peft_type", "LORA"},
      {"r", lora.rank()},
      {"rank_pattern", json::object()},
      {"use_dora", lora.dora()},
      {"use_rslora", lora.rank_stabilized()},
  };
  for (const auto& [pattern, rank] : lora.rank_pattern()) fields["rank_pattern"][pattern] = rank;
  for (const auto& [pattern, alpha] : lora.alpha_pattern()) {
    fields["alpha_pattern"][pattern] = alpha;
  }
  return fields;
}

json VirtualTokenFields(const v1::AddedPart& part, const PeftTarget& target) {
  json fields = {
      {"num_attention_heads", target.heads},
      {"num_layers", target.layers},
      {"num_transformer_submodules", target.stacks},
      {"token_dim", target.token_dim},
  };
  if (part.has_prefix_tuning()) {
    fields["peft_type"] = "PREFIX_TUNING";
    fields["num_virtual_tokens"] = part.prefix_tuning().virtual_tokens();
    fields["encoder_hidden_size"] = target.token_dim;
    fields["prefix_projection"] = false;
  } else {
    fields["peft_type"] = "PROMPT_TUNING";
    fields["num_virtual_tokens"] = part.prompt_tuning().virtual_tokens();
    fields["prompt_tuning_init"] = "RANDOM";
  }
  return fields;
}

}  // namespace

absl::StatusOr<v1::AddedPart> ParsePeftConfig(absl::string_view json_text) {
  THAW_ASSIGN_OR_RETURN(const json source, ParseJson(json_text));
  if (!source.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(kPeftConfigFile, ": expected an object"));
  }
  if (source.contains(kOwnFormatField)) return ParseOwnAdapterConfig(source);
  ConfigFields fields(source, "", kPeftConfigFile, "peft_type");
  v1::AddedPart part;
  const std::string type = fields.Text("peft_type", "");
  if (type == "LORA") {
    ReadLora(&fields, part.mutable_lora());
  } else if (type == "IA3") {
    ReadIa3(&fields, part.mutable_ia3());
  } else if (type == "PROMPT_TUNING") {
    ReadPromptTuning(&fields, part.mutable_prompt_tuning());
  } else if (type == "PREFIX_TUNING") {
    ReadPrefixTuning(&fields, part.mutable_prefix_tuning());
  } else if (type.empty()) {
    fields.Fail("peft_type", "\"peft_type\" is missing: this is no adapter of PEFT");
  } else {
    fields.Fail("peft_type", absl::StrCat("\"", type,
                                          "\" is not supported, only LORA, IA3, PROMPT_TUNING and "
                                          "PREFIX_TUNING"));
  }
  // Where the adapter came from and how PEFT wraps the model.
  fields.Ignore({"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version",
                 "revision", "runtime_config", "task_type"});
  fields.RefuseUnread();
  if (!fields.status().ok()) return fields.status();
  return part;
}

std::string PeftConfigJson(const v1::AddedPart& part, const PeftTarget& target) {
  json config = {
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", target.base_model},
      {"inference_mode", true},
      {"modules_to_save", target.saved.empty() ? json() : json(target.saved)},
      {"revision", nullptr},
      {"task_type", target.task_type.empty() ? json() : json(target.task_type)},
  };
  if (part.has_prompt_tuning() || part.has_prefix_tuning()) {
    config.update(VirtualTokenFields(part, target));
    return config.dump(2) + "\n";
  }
  config["fan_in_fan_out"] = target.fan_in_fan_out;
  config["target_modules"] = target.modules;
  if (part.has_lora()) {
    config.update(LoraFields(part.lora()));
  } else {
    config["peft_type"] = "IA3";
    config["feedforward_modules"] = target.feedforward;
    config["init_ia3_weights"] = true;
  }
  return config.dump(2) + "\n";
}

}  // namespace thaw
