#include "worker/model/weights.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

std::string CanonicalName(const std::string& name, const std::string& base_prefix,
                          const std::vector<std::string>& base_parts) {
  std::string canonical = name;
  for (const std::string& part : base_parts) {
    if (absl::StartsWith(name, part)) canonical = base_prefix + name;
  }
  for (const auto& [old_name, new_name] :
       {std::pair("LayerNorm.gamma", "LayerNorm.weight"), {"LayerNorm.beta", "LayerNorm.bias"}}) {
    absl::string_view stem = canonical;
    if (absl::ConsumeSuffix(&stem, old_name)) return absl::StrCat(stem, new_name);
  }
  return canonical;
}

bool IsFloating(ElementType type) {
  return type == ElementType::kF32 || type == ElementType::kF16 || type == ElementType::kBF16 ||
         type == ElementType::kF64;
}

}  // namespace

absl::StatusOr<std::vector<TensorOfModel>> TensorsIn(const std::string& directory) {
  const std::string delta = absl::StrCat(directory, "/", kDeltaPart);
  if (HoldsDelta(delta)) return OpenDelta(delta, absl::StrCat(directory, "/", kBasePart));
  THAW_ASSIGN_OR_RETURN(const auto files, OpenWeights(directory));
  std::vector<TensorOfModel> tensors;
  for (const auto& file : files) {
    for (const TensorInfo& tensor : file->tensors())
      tensors.push_back({tensor.name, file, &tensor});
  }
  return tensors;
}

absl::StatusOr<Weights> Weights::Open(const std::string& directory, const std::string& base_prefix,
                                      const std::vector<std::string>& base_parts) {
  return Open(directory, [&](const std::string& name) {
    return CanonicalName(name, base_prefix, base_parts);
  });
}

bool Weights::AreIn(const std::string& directory) {
  return Exists(directory + "/model.safetensors") ||
         Exists(directory + "/model.safetensors.index.json") ||
         HoldsDelta(absl::StrCat(directory, "/", kDeltaPart));
}

absl::StatusOr<Weights> Weights::Open(
    const std::string& directory,
    const std::function<std::string(const std::string& name)>& canonical) {
  THAW_ASSIGN_OR_RETURN(const auto tensors, TensorsIn(directory));
  Weights weights;
  weights.directory_ = directory;
  for (const TensorOfModel& tensor : tensors) {
    const std::string name = canonical(tensor.name);
    const auto [it, is_new] = weights.found_.emplace(name, tensor);
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(tensor.file->path(), ": tensors \"",
                                                     tensor.name, "\" and \"", it->second.name,
                                                     "\" both stand for \"", name, "\""));
    }
  }
  return weights;
}

bool Weights::Fits(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto it = found_.find(name);
  return it != found_.end() && it->second.info->shape == shape && IsFloating(it->second.info->type);
}

absl::StatusOr<TensorSource> Weights::Take(const std::string& name,
                                           const std::vector<int64_t>& shape) {
  const auto it = found_.find(name);
  const std::string expected = absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
  if (it == found_.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory_, ": tensor \"", name, "\" is missing, expected ", expected, " by config.json"));
  }
  const auto& [own_name, file, info] = it->second;
  if (!Fits(name, shape)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file->path(), ": tensor \"", own_name, "\": expected floating point ",
                     expected, " by config.json, found ", ElementTypeName(info->type), " [",
                     absl::StrJoin(info->shape, ", "), "]"));
  }
  taken_.insert(name);
  return TensorSource{file, info, own_name, ViewTensor(file, *info).to(torch::kFloat32)};
}

absl::StatusOr<TensorSource> Weights::TakeStored(const std::string& name,
                                                 const std::vector<int64_t>& shape) {
  if (!Fits(name, shape)) return Take(name, shape);
  const auto& [own_name, file, info] = found_.at(name);
  if (info->type != ElementType::kBF16 && info->type != ElementType::kF16) return Take(name, shape);
  taken_.insert(name);
  return TensorSource{file, info, own_name, ViewTensor(file, *info)};
}

absl::StatusOr<TensorSource> Weights::TakeAs(const std::string& name,
                                             const std::vector<int64_t>& shape,
                                             torch::ScalarType type) {
  const auto it = found_.find(name);
  if (it == found_.end() || it->second.info->shape != shape ||
      ScalarTypeOf(it->second.info->type) != type) {
    return absl::InvalidArgumentError(absl::StrCat(directory_, ": tensor \"", name,
                                                   "\" is missing or not ", c10::toString(type),
                                                   " [", absl::StrJoin(shape, ", "), "]"));
  }
  taken_.insert(name);
  const auto& [own_name, file, info] = it->second;
  return TensorSource{file, info, own_name, ViewTensor(file, *info)};
}

std::vector<std::string> Weights::Rest() const {
  std::vector<std::string> rest;
  for (const auto& [name, found] : found_) {
    if (taken_.count(name) == 0) rest.push_back(name);
  }
  return rest;
}

}  // namespace thaw
