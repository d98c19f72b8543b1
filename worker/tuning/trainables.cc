#include "worker/tuning/trainables.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr int64_t kSegmentAlignment = 16;     // fp32 numbers: 64 bytes
constexpr int64_t kChunk = int64_t{1} << 16;  // numbers, padding included

int64_t Padded(int64_t count) {
  return (count + kSegmentAlignment - 1) / kSegmentAlignment * kSegmentAlignment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainables>> Trainables::Create(
    Parameters* parameters, const std::vector<std::string>& names, const std::vector<double>& rates,
    const MomentsByName& moments) {
  std::unique_ptr<Trainables> result(new Trainables(parameters));
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string& name = names[i];
    const Parameter* parameter = parameters->Find(name);
    if (parameter == nullptr) return absl::NotFoundError(absl::StrCat("no parameter ", name));
    const torch::Tensor& tensor = parameter->tensor;
    if (!tensor.device().is_cpu() ||
        (tensor.scalar_type() != torch::kFloat32 && !parameter->rounds)) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is not fp32 on the CPU"));
    }
    const auto found = moments.find(name);
    result->segments_.push_back({.parameter = parameter,
                                 .offset = 0,
                                 .count = tensor.numel(),
                                 .rate = rates[i],
                                 .decayed = tensor.dim() >= 2 && parameter->decays,
                                 .updates = found == moments.end() ? 0 : found->second.updates,
                                 .half_offset = -1});
  }
  int64_t halves = 0;
  for (size_t i = 0; i < result->segments_.size(); ++i) {
    Segment& segment = result->segments_[i];
    segment.offset = result->size_;
    const int64_t padded = Padded(segment.count);
    result->size_ += padded;
    if (segment.parameter->rounds) segment.half_offset = std::exchange(halves, halves + padded);
    for (int64_t begin = 0; begin < padded; begin += kChunk) {
      result->chunks_.push_back({.segment = i,
                                 .offset = segment.offset + begin,
                                 .count = std::min(kChunk, padded - begin)});
    }
  }
  torch::NoGradGuard no_grad;
  const auto options = torch::TensorOptions().dtype(torch::kFloat32);
  for (torch::Tensor* buffer :
       {&result->values_, &result->gradients_, &result->first_, &result->second_}) {
    *buffer = torch::zeros({result->size_}, options);
  }
  if (halves > 0) result->halves_ = torch::zeros({halves}, torch::kBFloat16);
  for (const Segment& segment : result->segments_) {
    torch::Tensor value = result->View(result->values_, segment).detach();
    value.copy_(segment.parameter->tensor);
    if (const auto found = moments.find(segment.parameter->name); found != moments.end()) {
      result->View(result->first_, segment).copy_(found->second.first);
      result->View(result->second_, segment).copy_(found->second.second);
    }
    value.set_requires_grad(true);
    value.mutable_grad() = result->View(result->gradients_, segment);
    THAW_RETURN_IF_ERROR(parameters->SetTensor(segment.parameter->name, value));
    segment.parameter->ForgetLoaded();
    if (segment.half_offset < 0) continue;
    const torch::Tensor half = result->halves_.narrow(0, segment.half_offset, segment.count)
                                   .view(segment.parameter->tensor.sizes());
    half.copy_(value.detach());
    parameters->SetHalf(segment.parameter->name, half);
  }
  return result;
}

void Trainables::Release() {
  torch::NoGradGuard no_grad;
  for (const Segment& segment : segments_) {
    const absl::Status status =
        parameters_->SetTensor(segment.parameter->name, segment.parameter->tensor.detach());
    THAW_CHECK(status.ok());
  }
  segments_.clear();
  chunks_.clear();
}

MomentsByName Trainables::moments() const {
  MomentsByName result;
  for (const Segment& segment : segments_) {
    result[segment.parameter->name] = {View(first_, segment), View(second_, segment),
                                       segment.updates};
  }
  return result;
}

std::vector<std::string> Trainables::names() const {
  std::vector<std::string> result;
  for (const Segment& segment : segments_) result.push_back(segment.parameter->name);
  return result;
}

absl::Status Trainables::CheckComplete() const {
  size_t require_grad = 0;
  for (const Parameter& parameter : parameters_->all()) {
    require_grad += parameter.tensor.requires_grad();
  }
  if (require_grad != segments_.size()) {
    return absl::InternalError(absl::StrCat(require_grad, " parameters require grad, but ",
                                            segments_.size(), " are in the optimizer"));
  }
  const auto* values = values_.const_data_ptr<float>();
  const auto* gradients = gradients_.const_data_ptr<float>();
  for (const Segment& segment : segments_) {
    const torch::Tensor& tensor = segment.parameter->tensor;
    if (tensor.const_data_ptr<float>() != values + segment.offset || !tensor.grad().defined() ||
        tensor.grad().const_data_ptr<float>() != gradients + segment.offset) {
      return absl::InternalError(absl::StrCat("parameter ", segment.parameter->name,
                                              " is trained outside of the optimizer's buffers"));
    }
  }
  return absl::OkStatus();
}

Norms Trainables::RootsOf(const std::vector<double>& sums) const {
  Norms norms;
  for (size_t i = 0; i < sums.size(); ++i) {
    norms.all += sums[i];
    norms.groups[segments_[chunks_[i].segment].parameter->group] += sums[i];
  }
  norms.all = std::sqrt(norms.all);
  for (auto& [group, norm] : norms.groups) norm = std::sqrt(norm);
  return norms;
}

Norms Trainables::GradientNorms() const {
  std::vector<double> sums(chunks_.size());
  const auto* gradients = gradients_.const_data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      sums[i] = SumOfSquares(chunks_[i].count, gradients + chunks_[i].offset);
    }
  });
  return RootsOf(sums);
}

Norms Trainables::Update(double rate_share, const AdamWStep& options) {
  std::vector<double> sums(chunks_.size());
  auto* values = values_.mutable_data_ptr<float>();
  auto* gradients = gradients_.mutable_data_ptr<float>();
  auto* first = first_.mutable_data_ptr<float>();
  auto* second = second_.mutable_data_ptr<float>();
  auto* halves = halves_.defined() ? static_cast<uint16_t*>(halves_.mutable_data_ptr()) : nullptr;
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk& chunk = chunks_[i];
      const Segment& segment = segments_[chunk.segment];
      AdamWStep step = options;
      step.learning_rate = segment.rate * rate_share;
      step.weight_decay = segment.decayed ? options.weight_decay : 0;
      step.update = segment.updates + 1;
      uint16_t* const half = segment.half_offset < 0
                                 ? nullptr
                                 : halves + segment.half_offset + (chunk.offset - segment.offset);
      sums[i] = UpdateAdamW(step, chunk.count, values + chunk.offset, gradients + chunk.offset,
                            first + chunk.offset, second + chunk.offset, half);
    }
  });
  for (Segment& segment : segments_) ++segment.updates;
  return RootsOf(sums);
}

torch::Tensor Trainables::View(const torch::Tensor& buffer, const Segment& segment) const {
  return buffer.narrow(0, segment.offset, segment.count).view(segment.parameter->tensor.sizes());
}

}  // namespace thaw
