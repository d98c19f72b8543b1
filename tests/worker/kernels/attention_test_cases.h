// Attention in double precision by the textbook's loops, over the same layouts as the kernels.
#pragma once

#include <algorithm>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {

// kSeparate: q, k and v are matrices. kRows: one matrix of rows [q | k | v]. kHeads: one matrix of
// rows [q, k, v] per head, as BLOOM has them.
enum class AttentionLayout { kSeparate, kRows, kHeads };

struct AttentionCase {
  std::vector<int32_t> q_bounds;
  std::vector<int32_t> k_bounds;
  int32_t heads = 1;
  int32_t kv_heads = 1;
  int32_t dim = 16;
  double dropout = 0;
  bool causal = false;
  int64_t window = 0;
  int64_t bias_span = 0;
  AttentionLayout layout = AttentionLayout::kSeparate;
};

// q, k and v in one vector, and likewise their gradients, each beginning at its offset.
struct AttentionResult {
  Matrix out, d_qkv;
  std::vector<float> d_bias, log_sums;
};
struct ExpectedAttention {
  std::vector<double> out, d_qkv, d_bias;
};

struct AttentionProblem {
  AttentionProblem(const AttentionCase& asked, RowType row_type, float size = 1)
      : c(asked), type(row_type) {
    shape.q_bounds = c.q_bounds.data();
    shape.k_bounds = c.k_bounds.data();
    shape.sequences = static_cast<int32_t>(c.q_bounds.size()) - 1;
    shape.heads = c.heads;
    shape.kv_heads = c.kv_heads;
    shape.head_dim = c.dim;
    shape.scale = 1 / std::sqrt(static_cast<float>(c.dim));
    shape.causal = c.causal;
    shape.window = c.window;
    shape.dropout = MakeDropoutSite(3, 1, 0, 9, c.dropout);
    const int64_t width = c.heads * c.dim, kv_width = c.kv_heads * c.dim;
    shape.out = shape.q = {width, c.dim};
    shape.kv = {kv_width, c.dim};
    const int64_t q_rows = c.q_bounds.back(), k_rows = c.k_bounds.back();
    k_offset = q_rows * width;
    v_offset = k_offset + k_rows * kv_width;
    int64_t elements = v_offset + k_rows * kv_width;
    if (c.layout == AttentionLayout::kRows) {
      shape.q = shape.kv = {width + 2 * kv_width, c.dim};
      k_offset = width;
      v_offset = width + kv_width;
      elements = q_rows * (width + 2 * kv_width);
    } else if (c.layout == AttentionLayout::kHeads) {
      shape.q = shape.kv = {3 * width, 3 * c.dim};
      k_offset = c.dim;
      v_offset = 2 * c.dim;
      elements = q_rows * 3 * width;
    }
    shape.d_q = shape.q;
    shape.d_kv = shape.kv;
    qkv = Matrix(type, RandomFloats(static_cast<size_t>(elements), 1, size));
    d_out = Matrix(type, RandomFloats(static_cast<size_t>(q_rows * width), 2));
    bias =
        RandomFloats(c.bias_span > 0 ? static_cast<size_t>(c.heads * (2 * c.bias_span - 1)) : 0, 3);
    if (c.bias_span > 0) shape.relative_bias = bias.data();
    shape.bias_span = c.bias_span;
  }
  AttentionProblem(const AttentionProblem&) = delete;

  AttentionResult Run(const KernelTable& kernels) const {
    AttentionResult r;
    r.out = Matrix(type, std::vector<float>(d_out.size(), NAN));
    r.log_sums.assign(d_out.size() / static_cast<size_t>(c.dim), NAN);
    r.d_qkv = Matrix(type, std::vector<float>(qkv.size(), NAN));
    r.d_bias.assign(bias.size(), NAN);
    kernels.attention_forward(shape, qkv.at(), qkv.at(k_offset), qkv.at(v_offset), r.out.at(),
                              r.log_sums.data());
    kernels.attention_backward(shape, qkv.at(), qkv.at(k_offset), qkv.at(v_offset), r.out.at(),
                               r.log_sums.data(), d_out.at(), r.d_qkv.at(), r.d_qkv.at(k_offset),
                               r.d_qkv.at(v_offset), bias.empty() ? nullptr : r.d_bias.data());
    return r;
  }

  ExpectedAttention Expected() const {
    ExpectedAttention r;
    const std::vector<float> inputs = qkv.floats(), above = d_out.floats();
    r.out.assign(d_out.size(), 0);
    r.d_qkv.assign(qkv.size(), 0);
    r.d_bias.assign(bias.size(), 0);
    for (int32_t s = 0; s < shape.sequences; ++s) {
      for (int32_t h = 0; h < shape.heads; ++h) {
        for (int32_t i = shape.q_bounds[s]; i < shape.q_bounds[s + 1]; ++i)
          AddRow(inputs, above, s, h, i, &r);
      }
    }
    return r;
  }

  void AddRow(const std::vector<float>& inputs, const std::vector<float>& above, int32_t s,
              int32_t h, int32_t i, ExpectedAttention* r) const {
    const int64_t k0 = shape.k_bounds[s], keys = shape.k_bounds[s + 1] - k0;
    const int64_t position = i - shape.q_bounds[s + 1] + keys;
    const int64_t first = c.window > 0 ? std::max<int64_t>(0, position - c.window + 1) : 0;
    const int64_t end = c.causal ? position + 1 : keys;
    const auto q_at = [&](int64_t d) {
      return static_cast<size_t>(i * shape.q.row + h * shape.q.head + d);
    };
    const auto kv_at = [&](int64_t offset, int64_t j, int64_t d) {
      const int64_t head = h / (c.heads / c.kv_heads);
      return static_cast<size_t>(offset + (k0 + j) * shape.kv.row + head * shape.kv.head + d);
    };
    const auto out_at = [&](int64_t d) {
      return static_cast<size_t>(i * shape.out.row + h * shape.out.head + d);
    };
    const auto bias_at = [&](int64_t j) {
      const int64_t distance = std::clamp(j - position, 1 - c.bias_span, c.bias_span - 1);
      return static_cast<size_t>(h * (2 * c.bias_span - 1) + distance + c.bias_span - 1);
    };
    std::vector<double> p, factor, d_p;
    double sum = 0, inner = 0;
    for (int64_t j = first; j < end; ++j) {
      double score = 0;
      for (int64_t d = 0; d < c.dim; ++d) {
        score += double{inputs[q_at(d)]} * inputs[kv_at(k_offset, j, d)];
      }
      p.push_back(std::exp(score * shape.scale + (bias.empty() ? 0.0 : bias[bias_at(j)])));
      factor.push_back(DropoutFactor(shape.dropout, static_cast<uint32_t>(i),
                                     static_cast<uint32_t>(h), static_cast<uint32_t>(j)));
      sum += p.back();
    }
    for (int64_t j = first; j < end; ++j) {
      const size_t n = static_cast<size_t>(j - first);
      p[n] /= sum;
      double d_weight = 0;
      for (int64_t d = 0; d < c.dim; ++d) {
        r->out[out_at(d)] += p[n] * factor[n] * inputs[kv_at(v_offset, j, d)];
        r->d_qkv[kv_at(v_offset, j, d)] += p[n] * factor[n] * above[out_at(d)];
        d_weight += double{above[out_at(d)]} * inputs[kv_at(v_offset, j, d)];
      }
      d_p.push_back(d_weight * factor[n]);
      inner += p[n] * d_p.back();
    }
    for (int64_t j = first; j < end; ++j) {
      const size_t n = static_cast<size_t>(j - first);
      const double d_score = p[n] * (d_p[n] - inner);
      if (!bias.empty()) r->d_bias[bias_at(j)] += d_score;
      for (int64_t d = 0; d < c.dim; ++d) {
        r->d_qkv[q_at(d)] += d_score * shape.scale * inputs[kv_at(k_offset, j, d)];
        r->d_qkv[kv_at(k_offset, j, d)] += d_score * shape.scale * inputs[q_at(d)];
      }
    }
  }

  AttentionCase c;
  AttentionShape shape;
  int64_t k_offset = 0, v_offset = 0;
  RowType type;
  Matrix qkv, d_out;
  std::vector<float> bias;
};

}  // namespace thaw
