#include "worker/training/pooling.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// PyTorch's normalize divides by no less.
constexpr double kLeastNorm = 1e-12;

void PoolRows(const float* rows, int64_t count, int64_t width, Pooling pooling, float* out) {
  if (pooling == Pooling::kCls || pooling == Pooling::kLast) {
    std::copy_n(rows + (pooling == Pooling::kLast ? count - 1 : 0) * width, width, out);
    return;
  }
  std::copy_n(rows, width, out);
  for (int64_t r = 1; r < count; ++r) {
    const float* row = rows + r * width;
    if (pooling == Pooling::kMax) {
      for (int64_t i = 0; i < width; ++i) out[i] = std::max(out[i], row[i]);
    } else {
      for (int64_t i = 0; i < width; ++i) out[i] += row[i];
    }
  }
  if (pooling == Pooling::kMax) return;
  const float share = 1.0F / static_cast<float>(count);
  for (int64_t i = 0; i < width; ++i) out[i] *= share;
}

double NormOf(const float* vector, int64_t width) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += double{vector[i]} * vector[i];
  return std::max(std::sqrt(squares), kLeastNorm);
}

// Of the loss by the rows, from `d` by their pooled vector.
void UnpoolRows(const float* rows, int64_t count, int64_t width, Pooling pooling, const float* d,
                float* out) {
  const float share = 1.0F / static_cast<float>(count);
  for (int64_t i = 0; i < width; ++i) {
    switch (pooling) {
      case Pooling::kMean:
        for (int64_t r = 0; r < count; ++r) out[r * width + i] = d[i] * share;
        break;
      case Pooling::kCls:
        out[i] = d[i];
        break;
      case Pooling::kLast:
        out[(count - 1) * width + i] = d[i];
        break;
      case Pooling::kMax: {
        // Of equal ones the first.
        int64_t best = 0;
        for (int64_t r = 1; r < count; ++r) {
          if (rows[r * width + i] > rows[best * width + i]) best = r;
        }
        out[best * width + i] = d[i];
        break;
      }
    }
  }
}

struct PoolFunction : torch::autograd::Function<PoolFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& states,
                        const std::vector<int32_t>& bounds, Pooling pooling, bool normalize) {
    const auto sequences = static_cast<int64_t>(bounds.size()) - 1;
    const int64_t width = states.size(1);
    const Tensor contiguous = states.contiguous();
    Tensor pooled = at::empty({sequences, width}, states.options());
    const auto* in = contiguous.const_data_ptr<float>();
    auto* out = pooled.mutable_data_ptr<float>();
    for (int64_t s = 0; s < sequences; ++s) {
      PoolRows(in + bounds[s] * width, bounds[s + 1] - bounds[s], width, pooling, out + s * width);
    }
    Tensor result = pooled;
    if (normalize) {
      result = pooled.clone();
      out = result.mutable_data_ptr<float>();
      for (int64_t s = 0; s < sequences; ++s) {
        const auto scale = static_cast<float>(1 / NormOf(out + s * width, width));
        for (int64_t i = 0; i < width; ++i) out[s * width + i] *= scale;
      }
    }
    context->save_for_backward({contiguous, pooled});
    context->saved_data["bounds"] = std::vector<int64_t>(bounds.begin(), bounds.end());
    context->saved_data["pooling"] = static_cast<int64_t>(pooling);
    context->saved_data["normalize"] = normalize;
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const std::vector<int64_t> bounds = context->saved_data["bounds"].toIntVector();
    const auto pooling = static_cast<Pooling>(context->saved_data["pooling"].toInt());
    const int64_t width = saved[0].size(1);
    Tensor d = gradients[0].contiguous();
    if (context->saved_data["normalize"].toBool()) {
      d = d.clone();
      const auto* vectors = saved[1].const_data_ptr<float>();
      auto* out = d.mutable_data_ptr<float>();
      for (int64_t s = 0; s + 1 < static_cast<int64_t>(bounds.size()); ++s) {
        // y = x / |x|: dx = (dy - y (y · dy)) / |x|.
        const float* x = vectors + s * width;
        float* dy = out + s * width;
        const double norm = NormOf(x, width);
        double along = 0;
        for (int64_t i = 0; i < width; ++i) along += double{x[i]} / norm * dy[i];
        for (int64_t i = 0; i < width; ++i) {
          dy[i] = static_cast<float>((dy[i] - x[i] / norm * along) / norm);
        }
      }
    }
    Tensor result = at::zeros_like(saved[0]);
    for (size_t s = 0; s + 1 < bounds.size(); ++s) {
      UnpoolRows(saved[0].const_data_ptr<float>() + bounds[s] * width, bounds[s + 1] - bounds[s],
                 width, pooling, d.const_data_ptr<float>() + static_cast<int64_t>(s) * width,
                 result.mutable_data_ptr<float>() + bounds[s] * width);
    }
    return {result, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Pooling PoolingOf(v1::Embed::Pooling pooling) {
  switch (pooling) {
    case v1::Embed::CLS:
      return Pooling::kCls;
    case v1::Embed::LAST:
      return Pooling::kLast;
    case v1::Embed::MAX:
      return Pooling::kMax;
    default:
      return Pooling::kMean;
  }
}

std::optional<PooledHeadConfig> PooledHeadOf(const v1::Training& training) {
  if (!training.has_pooled_head()) return std::nullopt;
  const v1::PooledHead& head = training.pooled_head();
  return PooledHeadConfig{.blocks = head.has_blocks() ? head.blocks() : -1,
                          .pooling = PoolingOf(head.pooling()),
                          .normalize = head.normalize(),
                          .hidden_size = head.hidden_size(),
                          .dropout = head.dropout()};
}

Tensor Pool(const Tensor& states, const std::vector<int32_t>& bounds, Pooling pooling,
            bool normalize) {
  return PoolFunction::apply(states, bounds, pooling, normalize);
}

Rows PooledRows(Model* model, const Rows& rows, const RunContext& context) {
  const PooledHeadConfig& head = *model->config().pooled;
  const Tensor states = model->LastHidden(rows, context).to(torch::kCPU, torch::kFloat32);
  return {Pool(states, rows.cu_seqlens, head.pooling, head.normalize).to(rows.data.device()),
          UnitBounds(rows.cu_seqlens.size() - 1),
          Tensor(),
          {}};
}

}  // namespace thaw
