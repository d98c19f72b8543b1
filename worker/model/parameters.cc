#include "worker/model/parameters.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "worker/model/nf4.h"

namespace thaw {

bool Parameter::as_loaded() const {
  if (source.file == nullptr || tensor.is_same(source.loaded)) return source.file != nullptr;
  if (!source.loaded.defined()) return false;
  const torch::Tensor loaded = rounds ? source.loaded.to(tensor.scalar_type()) : source.loaded;
  if (!tensor.is_cpu() || !tensor.is_contiguous() || !loaded.is_contiguous() ||
      tensor.scalar_type() != loaded.scalar_type() || tensor.sizes() != loaded.sizes()) {
    return false;
  }
  return std::memcmp(tensor.const_data_ptr(), loaded.const_data_ptr(),
                     static_cast<size_t>(loaded.nbytes())) == 0;
}

void Parameter::ForgetLoaded() const {
  if (source.file == nullptr || !source.loaded.defined()) return;
  const void* const data = source.file->Data(*source.info);
  if (source.loaded.const_data_ptr() == data) source.file->Forget(*source.info);
}

const Parameter* Parameters::Add(Parameter parameter) {
  THAW_CHECK(index_.emplace(parameter.name, all_.size()).second);
  lacks_halves_ |= parameter.rounds;
  all_.push_back(std::move(parameter));
  return &all_.back();
}

const Parameter* Parameters::Find(absl::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &all_[it->second];
}

void Parameters::Compress(const Parameter* parameter, torch::Tensor tensor) {
  Parameter& own = all_[index_.at(parameter->name)];
  own.tensor = std::move(tensor);
  own.source.loaded = torch::Tensor();
  own.compressed = true;
  if (own.source.file != nullptr) own.source.file->Forget(*own.source.info);
}

void Parameters::Decompress() {
  for (Parameter& parameter : all_) {
    if (!parameter.compressed) continue;
    parameter.tensor = Dense(parameter.tensor).to(torch::kFloat32);
    parameter.source.loaded = torch::Tensor();
    parameter.compressed = false;
    parameter.half = torch::Tensor();
    lacks_halves_ |= parameter.rounds;
  }
}

void Parameters::MarkRounded(const Parameter* parameter) {
  all_[index_.at(parameter->name)].rounds = lacks_halves_ = true;
}

void Parameters::RoundMatrices() {
  if (!lacks_halves_) return;
  const torch::NoGradGuard no_grad;
  for (Parameter& parameter : all_) {
    if (!parameter.rounds || parameter.half.defined() || parameter.tensor.is_meta()) continue;
    const torch::Tensor tensor = parameter.tensor.detach();
    if (tensor.scalar_type() == torch::kBFloat16) {
      parameter.half = tensor;  // rounded already
      continue;
    }
    // By way of fp32, so that it is what the values in fp32 are rounded to.
    parameter.half = tensor.to(torch::kFloat32).to(torch::kBFloat16);
    parameter.ForgetLoaded();
  }
  lacks_halves_ = false;
}

void Parameters::SetHalf(absl::string_view name, torch::Tensor half) {
  Parameter& parameter = all_[index_.at(std::string(name))];
  THAW_CHECK(parameter.rounds && half.scalar_type() == torch::kBFloat16 &&
             half.sizes() == parameter.tensor.sizes());
  parameter.half = std::move(half);
}

void Parameters::SetGroup(absl::string_view name, int group) {
  all_[index_.at(std::string(name))].group = group;
}

void Parameters::MoveToGroup(absl::string_view name, int group) {
  Parameter& parameter = all_[index_.at(std::string(name))];
  parameter.group = parameter.first_use = group;
}

void Parameters::MarkBias(const Parameter* parameter) {
  all_[index_.at(parameter->name)].bias = true;
}

void Parameters::MarkKeptBeside(absl::string_view name) {
  all_[index_.at(std::string(name))].kept_beside = true;
}

void Parameters::MarkBesideAdded(absl::string_view name) {
  all_[index_.at(std::string(name))].beside_added = true;
}

void Parameters::AddAlias(absl::string_view name, std::string alias) {
  std::vector<std::string>& aliases = all_[index_.at(std::string(name))].aliases;
  if (std::find(aliases.begin(), aliases.end(), alias) == aliases.end()) {
    aliases.push_back(std::move(alias));
  }
}

absl::Status Parameters::SetTensor(absl::string_view name, torch::Tensor tensor) {
  const auto it = index_.find(std::string(name));
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat("the model has no tensor \"", name, "\""));
  }
  Parameter& parameter = all_[it->second];
  torch::Tensor& current = parameter.tensor;
  const bool other_type = parameter.rounds && (tensor.scalar_type() == torch::kFloat32 ||
                                               tensor.is_same(parameter.source.loaded));
  if (tensor.sizes() != current.sizes() ||
      (tensor.scalar_type() != current.scalar_type() && !other_type)) {
    std::ostringstream message;
    message << "tensor \"" << std::string(name) << "\": expected " << current.scalar_type() << " "
            << current.sizes() << ", found " << tensor.scalar_type() << " " << tensor.sizes();
    return absl::InvalidArgumentError(message.str());
  }
  current = std::move(tensor);
  parameter.half = torch::Tensor();
  lacks_halves_ |= parameter.rounds;
  return absl::OkStatus();
}

}  // namespace thaw
