#include "worker/training/changed_weights.h"

#include <utility>

#include "common/base/status.h"

namespace thaw {

void ChangedWeights::Track(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    base_.try_emplace(name, parameters_->Find(name)->tensor);
  }
}

TensorsByName ChangedWeights::Current() const {
  TensorsByName result;
  for (const auto& [name, base] : base_) result[name] = parameters_->Find(name)->master().detach();
  return result;
}

void ChangedWeights::KeepBest() {
  torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : Current()) {
    torch::Tensor& best = best_[name];
    if (best.defined()) {
      best.copy_(tensor);
    } else {
      best = tensor.clone();
    }
  }
  has_best_ = true;
}

void ChangedWeights::set_best(TensorsByName best) {
  best_ = std::move(best);
  has_best_ = true;
}

void ChangedWeights::DropBest() {
  best_.clear();
  has_best_ = false;
}

absl::Status ChangedWeights::RestoreBest() {
  for (const auto& [name, base] : base_) {
    const auto found = best_.find(name);
    THAW_RETURN_IF_ERROR(parameters_->SetTensor(name, found == best_.end() ? base : found->second));
  }
  return absl::OkStatus();
}

}  // namespace thaw
