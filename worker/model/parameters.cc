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
  const torch::Tensor& loaded = source.loaded;
  if (!loaded.defined()) return false;
  if (!tensor.is_cpu() || !tensor.is_contiguous() || !loaded.is_contiguous() ||
      tensor.scalar_type() != loaded.scalar_type() || tensor.sizes() != loaded.sizes()) {
    return false;
  }
  return std::memcmp(tensor.const_data_ptr(), loaded.const_data_ptr(),
                     static_cast<size_t>(loaded.nbytes())) == 0;
}

const Parameter* Parameters::Add(Parameter parameter) {
  THAW_CHECK(index_.emplace(parameter.name, all_.size()).second);
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
  }
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
  torch::Tensor& current = all_[it->second].tensor;
  if (tensor.sizes() != current.sizes() || tensor.scalar_type() != current.scalar_type()) {
    std::ostringstream message;
    message << "tensor \"" << std::string(name) << "\": expected " << current.scalar_type() << " "
            << current.sizes() << ", found " << tensor.scalar_type() << " " << tensor.sizes();
    return absl::InvalidArgumentError(message.str());
  }
  current = std::move(tensor);
  return absl::OkStatus();
}

}  // namespace thaw
