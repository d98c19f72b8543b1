#include "worker/tuning/added_part.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/fresh_tensor.h"
#include "worker/tuning/bottleneck.h"
#include "worker/tuning/module_names.h"
#include "worker/tuning/target_modules.h"
#include "worker/tuning/virtual_tokens.h"

namespace thaw {
namespace {

using torch::Tensor;

// Streams of the seed and dropout sites that nothing of the base has.
constexpr uint64_t kPartStreams = uint64_t{1} << 16;
constexpr uint32_t kPartSites = uint32_t{1} << 24;

// The tensors of `linear`, none of which is undefined, as those of low-rank changes.
LowRank ChangeOf(const AddedToLinear& added) {
  LowRank change;
  change.down = added.down->tensor;
  change.up = added.up->tensor;
  change.scale = added.scale;
  return change;
}

absl::Status AddLora(const v1::Lora& lora, uint64_t seed, Model* model) {
  if (lora.rank() < 1 || !lora.has_alpha()) {
    return InvalidField("added_part.lora", "rank and alpha must be set");
  }
  THAW_ASSIGN_OR_RETURN(const std::vector<LinearLayer*> targets, LoraTargets(lora, model));
  uint32_t index = 0;
  for (LinearLayer& linear : model->linears()) {
    const uint32_t number = index++;
    if (std::find(targets.begin(), targets.end(), &linear) == targets.end()) continue;
    for (const std::string& saved : lora.modules_to_save()) {
      if (!NamesModule(linear.name, saved)) continue;
      return InvalidField("added_part.lora.modules_to_save",
                          absl::StrCat("\"", saved, "\" names a target too (", linear.name,
                                       "): leave it out of one of the two"));
    }
    THAW_ASSIGN_OR_RETURN(
        const int32_t rank,
        ByPattern("added_part.lora.rank_pattern", lora.rank_pattern(), linear.name, lora.rank()));
    THAW_ASSIGN_OR_RETURN(const double alpha,
                          ByPattern("added_part.lora.alpha_pattern", lora.alpha_pattern(),
                                    linear.name, lora.alpha()));
    const int group = linear.weight->group;
    AddedToLinear added;
    added.scale = alpha / (lora.rank_stabilized() ? std::sqrt(static_cast<double>(rank)) : rank);
    added.dropout = lora.dropout();
    added.dropout_site = kPartSites + number;
    // torch.nn.Linear's own rule.
    const double bound = 1 / std::sqrt(static_cast<double>(linear.in()));
    added.down =
        model->AddPart(linear.name + ".lora_A.weight", group,
                       UniformTensor({rank, linear.in()}, bound, seed, kPartStreams + number),
                       /*matrix=*/true);
    added.up = model->AddPart(linear.name + ".lora_B.weight", group,
                              at::zeros({linear.out(), rank}), /*matrix=*/true);
    if (lora.dora()) {
      added.magnitude =
          model->AddPart(linear.name + ".lora_magnitude_vector", group,
                         RowLengths(linear.weight->master(), linear.input_major, ChangeOf(added)));
    }
    linear.added = added;
    if (lora.bias() == v1::Lora::TARGETS && linear.bias != nullptr) {
      model->parameters().MarkBesideAdded(linear.bias->name);
    }
  }
  if (lora.bias() == v1::Lora::ALL_BIASES) {
    // As PEFT goes by names: T5's table of relative positions is one.
    for (const Parameter& parameter : model->parameters().all()) {
      if (!parameter.added() && !parameter.buffer && absl::StrContains(parameter.name, "bias")) {
        model->parameters().MarkBesideAdded(parameter.name);
      }
    }
  }
  return MarkBeside("added_part.lora.modules_to_save", lora.modules_to_save(), model);
}

absl::Status AddIa3(const v1::Ia3& ia3, Model* model) {
  THAW_ASSIGN_OR_RETURN(const Ia3Layers layers, Ia3Targets(ia3, model));
  for (LinearLayer* linear : layers.targets) {
    const bool inner =
        std::count(layers.feed_forward.begin(), layers.feed_forward.end(), linear) > 0;
    AddedToLinear& added = linear->added.emplace();
    const Parameter* const scale =
        model->AddPart(linear->name + ".ia3_l", linear->weight->group,
                       inner ? at::ones({1, linear->in()}) : at::ones({linear->out(), 1}));
    (inner ? added.input_scale : added.output_scale) = scale;
  }
  return MarkBeside("added_part.ia3.modules_to_save", ia3.modules_to_save(), model);
}

absl::Status MergeInto(LinearLayer* linear, Parameters* parameters) {
  const AddedToLinear& added = *linear->added;
  const Tensor weight = linear->weight->master().detach();
  Tensor rows = weight;
  if (linear->input_major) rows = rows.t();
  if (added.down != nullptr) {
    const LowRank change = ChangeOf(added);
    const Tensor changed = rows + at::matmul(change.up, change.down) * change.scale;
    if (added.magnitude == nullptr) {
      rows = changed;
    } else {
      const Tensor lengths = RowLengths(weight, linear->input_major, change);
      rows = changed * (added.magnitude->tensor / lengths).unsqueeze(1);
    }
  }
  if (added.input_scale != nullptr) rows = rows * added.input_scale->tensor.view({1, -1});
  if (added.output_scale != nullptr) rows = rows * added.output_scale->tensor.view({-1, 1});
  if (linear->input_major) rows = rows.t();
  THAW_RETURN_IF_ERROR(parameters->SetTensor(linear->weight->name, rows.detach().contiguous()));
  linear->weight->ForgetLoaded();
  if (added.output_scale == nullptr || linear->bias == nullptr) return absl::OkStatus();
  return parameters->SetTensor(
      linear->bias->name,
      (linear->bias->tensor * added.output_scale->tensor.view(-1)).detach().contiguous());
}

}  // namespace

absl::Status AddPart(const v1::AddedPart& part, uint64_t seed, Model* model,
                     std::span<const int32_t> text) {
  const torch::NoGradGuard no_grad;
  switch (part.kind_case()) {
    case v1::AddedPart::kLora:
      return AddLora(part.lora(), seed, model);
    case v1::AddedPart::kIa3:
      return AddIa3(part.ia3(), model);
    case v1::AddedPart::kPromptTuning:
      return AddPrompt(part.prompt_tuning(), seed, text, model);
    case v1::AddedPart::kPrefixTuning:
      return AddPrefix(part.prefix_tuning(), seed, model);
    case v1::AddedPart::kBottleneck:
      return AddBottlenecks(part.bottleneck(), seed, model);
    case v1::AddedPart::KIND_NOT_SET:
      break;
  }
  return InvalidField("added_part",
                      "is empty; give lora, ia3, prompt_tuning, prefix_tuning or bottleneck");
}

absl::Status KeepBeside(absl::string_view field, const std::vector<std::string>& names,
                        Model* model) {
  const auto module_of = [](const std::string& name) { return name.substr(0, name.rfind('.')); };
  std::set<std::string> modules;
  for (const std::string& name : names) {
    const Parameter* parameter = model->parameters().Find(name);
    if (parameter->added() || parameter->beside_added) continue;
    for (const LinearLayer& linear : model->linears()) {
      if (!linear.added || (linear.weight != parameter && linear.bias != parameter)) continue;
      return InvalidField(
          field,
          absl::StrCat("trains ", name,
                       " of a layer that the added part changes, which an "
                       "adapter cannot hold: give output MERGED, or leave it out by and_not"));
    }
    modules.insert(module_of(name));
  }
  for (const Parameter& parameter : model->parameters().all()) {
    if (!parameter.added() && !parameter.buffer && modules.count(module_of(parameter.name)) > 0) {
      if (parameter.compressed) {
        return InvalidField(
            field, absl::StrCat("trains a bias beside ", parameter.name,
                                ", which is kept in fewer bits and which an adapter would have to "
                                "hold: leave it out by and_not, or give base_weights AS_LOADED"));
      }
      model->parameters().MarkKeptBeside(parameter.name);
    }
  }
  return absl::OkStatus();
}

absl::Status MergePart(Model* model) {
  const AddedToModel& added = model->added();
  if (added.prompt != nullptr || !added.blocks.empty()) {
    return absl::FailedPreconditionError(
        "the added part is no change of weights, so nothing can be merged: give output ADAPTER");
  }
  const torch::NoGradGuard no_grad;
  model->Dequantise();
  for (LinearLayer& linear : model->linears()) {
    if (!linear.added) continue;
    THAW_RETURN_IF_ERROR(MergeInto(&linear, &model->parameters()));
    linear.added.reset();
  }
  return absl::OkStatus();
}

}  // namespace thaw
