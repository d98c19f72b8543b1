#include "worker/tuning/trainables.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr int64_t kSegmentAlignment = 16;           // fp32 numbers: 64 bytes
constexpr int64_t kUpdateChunk = int64_t{1} << 16;  // numbers; also what norms are summed in

int64_t Padded(int64_t count) {
  return (count + kSegmentAlignment - 1) / kSegmentAlignment * kSegmentAlignment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainables>> Trainables::Create(
    Parameters* parameters, const std::vector<std::string>& names, const GroupRates& rates,
    const MomentsByName& moments) {
  std::unique_ptr<Trainables> result(new Trainables(parameters));
  for (const std::string& name : names) {
    const Parameter* parameter = parameters->Find(name);
    if (parameter == nullptr) return absl::NotFoundError(absl::StrCat("no parameter ", name));
    const torch::Tensor& tensor = parameter->tensor;
    if (!tensor.device().is_cpu() || tensor.scalar_type() != torch::kFloat32) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is not fp32 on the CPU"));
    }
    const auto found = moments.find(name);
    result->segments_.push_back({.parameter = parameter,
                                 .offset = 0,
                                 .count = tensor.numel(),
                                 .rate = rates[parameter->group],
                                 .decayed = tensor.dim() >= 2,
                                 .updates = found == moments.end() ? 0 : found->second.updates});
  }
  std::stable_sort(
      result->segments_.begin(), result->segments_.end(), [](const Segment& a, const Segment& b) {
        return std::tie(a.rate, a.decayed, a.updates) < std::tie(b.rate, b.decayed, b.updates);
      });
  for (Segment& segment : result->segments_) {
    segment.offset = result->size_;
    result->size_ += Padded(segment.count);
    for (int64_t begin = 0; begin < segment.count; begin += kUpdateChunk) {
      result->chunks_.push_back({.offset = segment.offset + begin,
                                 .count = std::min(kUpdateChunk, segment.count - begin),
                                 .group = segment.parameter->group});
    }
  }
  torch::NoGradGuard no_grad;
  const auto options = torch::TensorOptions().dtype(torch::kFloat32);
  for (torch::Tensor* buffer :
       {&result->values_, &result->gradients_, &result->first_, &result->second_}) {
    *buffer = torch::zeros({result->size_}, options);
  }
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

GradientNorms Trainables::Norms() const {
  std::vector<double> sums(chunks_.size());
  const auto* gradients = gradients_.const_data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      sums[i] = SumOfSquares(chunks_[i].count, gradients + chunks_[i].offset);
    }
  });
  GradientNorms norms;
  for (size_t i = 0; i < sums.size(); ++i) {
    norms.all += sums[i];
    norms.groups[chunks_[i].group] += sums[i];
  }
  norms.all = std::sqrt(norms.all);
  for (auto& [group, norm] : norms.groups) norm = std::sqrt(norm);
  return norms;
}

void Trainables::Update(double rate_share, const AdamWStep& options) {
  auto* values = values_.mutable_data_ptr<float>();
  auto* gradients = gradients_.mutable_data_ptr<float>();
  auto* first = first_.mutable_data_ptr<float>();
  auto* second = second_.mutable_data_ptr<float>();
  for (size_t i = 0; i < segments_.size();) {
    const Segment run = segments_[i];
    int64_t run_end = run.offset;
    for (; i < segments_.size(); ++i) {
      Segment& segment = segments_[i];
      if (segment.rate != run.rate || segment.decayed != run.decayed ||
          segment.updates != run.updates) {
        break;
      }
      run_end = segment.offset + Padded(segment.count);
      ++segment.updates;
    }
    AdamWStep step = options;
    step.learning_rate = run.rate * rate_share;
    step.weight_decay = run.decayed ? options.weight_decay : 0;
    step.update = run.updates + 1;
    const int64_t chunks = (run_end - run.offset + kUpdateChunk - 1) / kUpdateChunk;
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      const int64_t from = run.offset + begin * kUpdateChunk;
      const int64_t to = std::min(run.offset + end * kUpdateChunk, run_end);
      UpdateAdamW(step, to - from, values + from, gradients + from, first + from, second + from);
    });
  }
}

torch::Tensor Trainables::View(const torch::Tensor& buffer, const Segment& segment) const {
  return buffer.narrow(0, segment.offset, segment.count).view(segment.parameter->tensor.sizes());
}

}  // namespace thaw
