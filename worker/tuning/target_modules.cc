#include "worker/tuning/target_modules.h"

#include <re2/re2.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "worker/tuning/module_names.h"

namespace thaw {
namespace {

bool NamesAny(const ModuleNames& names, absl::string_view module) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return NamesModule(module, name); });
}

// Block of a linear layer, from 0; -1 below and above the blocks.
int BlockOf(const LinearLayer& linear, const Model& model) {
  const int block = linear.weight->group - 1;
  return block < model.blocks() ? block : -1;
}

// Without ".weight" and the like.
absl::string_view ModuleOf(absl::string_view parameter) {
  const size_t dot = parameter.rfind('.');
  return dot == absl::string_view::npos ? parameter : parameter.substr(0, dot);
}

absl::Status NoSuchModule(absl::string_view field, const std::string& name, const Model& model) {
  for (const Parameter& parameter : model.parameters().all()) {
    for (const std::string& alias : parameter.aliases) {
      if (!NamesModule(ModuleOf(alias), name)) continue;
      return InvalidField(field, absl::StrCat("\"", name, "\" is tied to ", parameter.name,
                                              ": a change of one is a change of both"));
    }
    if (!parameter.added() && NamesModule(ModuleOf(parameter.name), name)) {
      return InvalidField(field, absl::StrCat("\"", name,
                                              "\" is no linear layer inside the model: tables, "
                                              "norms, recurrent layers and a language model's "
                                              "output cannot be changed; train it whole by "
                                              "modules_to_save"));
    }
  }
  std::vector<std::string> modules;
  for (const LinearLayer& linear : model.linears()) modules.push_back(linear.name);
  return InvalidField(field, absl::StrCat("\"", name, "\" matches no module; the nearest are: ",
                                          absl::StrJoin(NearestModules(name, modules), ", ")));
}

// `linears` without those outside the blocks that `lora` wants.
absl::Status KeepBlocks(const v1::Lora& lora, const Model& model,
                        std::vector<LinearLayer*>* linears) {
  const auto& blocks = lora.layers_to_transform();
  if (blocks.empty()) return absl::OkStatus();
  for (const int32_t block : blocks) {
    if (block >= 0 && block < model.blocks()) continue;
    return InvalidField(
        "added_part.lora.layers_to_transform",
        absl::StrCat(block, " is out of range: the model has blocks 0 to ", model.blocks() - 1));
  }
  std::erase_if(*linears, [&](const LinearLayer* linear) {
    return std::count(blocks.begin(), blocks.end(), BlockOf(*linear, model)) == 0;
  });
  return absl::OkStatus();
}

// PEFT's TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING and the one of feed-forward modules:
// keys and values, or what holds them, and the second half of the feed-forward layer.
struct Ia3Defaults {
  const char* model_type;
  std::vector<std::string> targets, feed_forward;
};
const std::vector<Ia3Defaults>& AllIa3Defaults() {
  static const auto* const defaults = new std::vector<Ia3Defaults>{
      {"bert", {"key", "value", "output.dense"}, {"output.dense"}},
      {"roberta", {"key", "value", "output.dense"}, {"output.dense"}},
      {"distilbert", {"k_lin", "v_lin", "ffn.lin2"}, {"ffn.lin2"}},
      {"gpt2", {"c_attn", "mlp.c_proj"}, {"mlp.c_proj"}},
      {"bloom", {"query_key_value", "mlp.dense_4h_to_h"}, {"mlp.dense_4h_to_h"}},
      {"llama", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}},
      {"mistral", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}},
      {"qwen2", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}},
      {"qwen3", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}},
      {"t5", {"k", "v", "wo"}, {"wo"}},
  };
  return *defaults;
}

}  // namespace

std::vector<LinearLayer*> AllLinears(Model* model) {
  std::vector<LinearLayer*> linears;
  for (LinearLayer& linear : model->linears()) {
    const bool pooler = NamesModule(linear.name, "pooler.dense") && linear.weight->as_loaded();
    if (BlockOf(linear, *model) >= 0 || pooler) linears.push_back(&linear);
  }
  return linears;
}

absl::StatusOr<std::vector<LinearLayer*>> NamedLinears(absl::string_view field,
                                                       const ModuleNames& names, Model* model) {
  for (int i = 0; i < names.size(); ++i) {
    const auto named = [&](const LinearLayer& linear) {
      return NamesModule(linear.name, names[i]);
    };
    if (std::none_of(model->linears().begin(), model->linears().end(), named)) {
      return NoSuchModule(absl::StrCat(field, "[", i, "]"), names[i], *model);
    }
  }
  std::vector<LinearLayer*> linears;
  for (LinearLayer& linear : model->linears()) {
    if (NamesAny(names, linear.name)) linears.push_back(&linear);
  }
  return linears;
}

absl::StatusOr<std::vector<LinearLayer*>> LoraTargets(const v1::Lora& lora, Model* model) {
  std::vector<LinearLayer*> targets;
  if (!lora.target_pattern().empty()) {
    const RE2 expression(lora.target_pattern(), RE2::Quiet);
    if (!expression.ok()) {
      return InvalidField("added_part.lora.target_pattern",
                          absl::StrCat("\"", lora.target_pattern(),
                                       "\" is no RE2 expression: ", expression.error()));
    }
    for (LinearLayer& linear : model->linears()) {
      if (RE2::FullMatch(linear.name, expression)) targets.push_back(&linear);
    }
  } else if (lora.target_modules_size() > 0) {
    THAW_ASSIGN_OR_RETURN(
        targets, NamedLinears("added_part.lora.target_modules", lora.target_modules(), model));
  } else {
    targets = AllLinears(model);
    std::erase_if(targets, [&](const LinearLayer* linear) {
      return NamesAny(lora.modules_to_save(), linear->name);
    });
  }
  THAW_RETURN_IF_ERROR(
      NamedLinears("added_part.lora.exclude_modules", lora.exclude_modules(), model).status());
  std::erase_if(targets, [&](const LinearLayer* linear) {
    return NamesAny(lora.exclude_modules(), linear->name);
  });
  THAW_RETURN_IF_ERROR(KeepBlocks(lora, *model, &targets));
  if (targets.empty()) {
    return InvalidField("added_part.lora",
                        absl::StrCat("its targets match none of the model's ",
                                     model->linears().size(), " linear layers, such as ",
                                     model->linears().empty() ? "" : model->linears()[0].name));
  }
  return targets;
}

absl::StatusOr<Ia3Layers> Ia3Targets(const v1::Ia3& ia3, Model* model) {
  ModuleNames targets = ia3.target_modules(), feed_forward = ia3.feedforward_modules();
  for (const Ia3Defaults& defaults : AllIa3Defaults()) {
    if (model->config().model_type != defaults.model_type) continue;
    if (targets.empty()) targets.Assign(defaults.targets.begin(), defaults.targets.end());
    if (!feed_forward.empty()) continue;
    feed_forward.Assign(defaults.feed_forward.begin(), defaults.feed_forward.end());
  }
  if (targets.empty()) {
    return InvalidField("added_part.ia3.target_modules",
                        absl::StrCat("is empty, and ", model->config().model_type,
                                     " has no usual targets: name some"));
  }
  Ia3Layers layers;
  THAW_ASSIGN_OR_RETURN(layers.targets,
                        NamedLinears("added_part.ia3.target_modules", targets, model));
  for (const LinearLayer* target : layers.targets) {
    if (NamesAny(feed_forward, target->name)) layers.feed_forward.push_back(target);
  }
  for (int i = 0; i < ia3.feedforward_modules_size(); ++i) {
    const std::string& name = ia3.feedforward_modules(i);
    if (std::none_of(layers.targets.begin(), layers.targets.end(),
                     [&](const LinearLayer* target) { return NamesModule(target->name, name); })) {
      return InvalidField(absl::StrCat("added_part.ia3.feedforward_modules[", i, "]"),
                          absl::StrCat("\"", name, "\" is none of the targets"));
    }
  }
  return layers;
}

absl::Status MarkBeside(absl::string_view field, const ModuleNames& names, Model* model) {
  std::vector<std::string> modules;
  for (const Parameter& parameter : model->parameters().all()) {
    modules.emplace_back(ModuleOf(parameter.name));
  }
  for (int i = 0; i < names.size(); ++i) {
    bool found = false;
    for (const Parameter& parameter : model->parameters().all()) {
      // The module that is named may hold others.
      bool inside = false;
      for (absl::string_view module = ModuleOf(parameter.name); !inside;
           module = ModuleOf(module)) {
        inside = NamesModule(module, names[i]);
        if (module.find('.') == absl::string_view::npos) break;
      }
      if (!inside || parameter.added() || parameter.buffer) continue;
      found = true;
      if (parameter.compressed) {
        return InvalidField(
            absl::StrCat(field, "[", i, "]"),
            absl::StrCat("\"", names[i], "\" holds ", parameter.name,
                         ", which base_weights NF4 (or the base model itself) keeps "
                         "in fewer bits, frozen: leave it out, or give base_weights "
                         "AS_LOADED"));
      }
      model->parameters().MarkBesideAdded(parameter.name);
    }
    if (found) continue;
    const std::string at = absl::StrCat(field, "[", i, "]");
    for (const Parameter& parameter : model->parameters().all()) {
      for (const std::string& alias : parameter.aliases) {
        if (NamesModule(ModuleOf(alias), names[i])) return NoSuchModule(at, names[i], *model);
      }
    }
    return InvalidField(at, absl::StrCat("\"", names[i], "\" matches no module; the nearest are: ",
                                         absl::StrJoin(NearestModules(names[i], modules), ", ")));
  }
  const int head = model->blocks() + 1;
  for (const Parameter& parameter : model->parameters().all()) {
    const bool fresh = parameter.source.file == nullptr && !parameter.added() && !parameter.buffer;
    if (fresh && parameter.group == head) model->parameters().MarkBesideAdded(parameter.name);
  }
  return absl::OkStatus();
}

}  // namespace thaw
