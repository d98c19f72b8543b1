// Activations, embeddings and the classification loss. See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/norm_impl.h"

namespace thaw {
namespace {

struct ValueAndSlope {
  Floats value;
  Floats slope;
};

// Erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), whose exponential also is the
// derivative's.
THAW_INLINE ValueAndSlope GeluErf(Floats x) {
  const Floats z = (x < 0.0f ? -x : x) * 0.70710678f;
  const Floats t = 1.0f / (z * 0.3275911f + 1.0f);
  const Floats density = Exp(-z * z);
  Floats p = All(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Floats upper_tail = p * t * density * 0.5f;  // of the normal distribution at |x|
  const Floats cumulative = x < 0.0f ? upper_tail : 1.0f - upper_tail;
  return {x * cumulative, cumulative + x * density * 0.39894228f};
}

THAW_INLINE ValueAndSlope GeluTanh(Floats x) {
  const Floats square = x * x;
  const Floats u = x * (square * 0.044715f + 1.0f) * 0.79788456f;
  const Floats cumulative = 1.0f / (Exp(u * -2.0f) + 1.0f);  // (1 + tanh u) / 2
  const Floats du = (square * 0.134145f + 1.0f) * 0.79788456f;
  return {x * cumulative, cumulative + x * 2.0f * cumulative * (1.0f - cumulative) * du};
}

THAW_INLINE ValueAndSlope Relu(Floats x) {
  return {x < 0.0f ? Floats{} : x, x > 0.0f ? All(1) : Floats{}};
}

template <ValueAndSlope (*kFunction)(Floats)>
THAW_INLINE void ActivateRows(int64_t rows, int64_t columns, float* x, const float* bias,
                              float* y) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * columns;
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      const Floats z = LoadUpTo(row + c, n) + LoadUpTo(bias + c, n);
      StoreUpTo(row + c, z, n);
      StoreUpTo(y + r * columns + c, kFunction(z).value, n);
    });
  }
}

template <ValueAndSlope (*kFunction)(Floats)>
THAW_INLINE void ActivateRowsBackward(int64_t rows, int64_t columns, const float* x, float* d,
                                      float* y) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      const int64_t at = r * columns + c;
      const ValueAndSlope both = kFunction(LoadUpTo(x + at, n));
      StoreUpTo(d + at, LoadUpTo(d + at, n) * both.slope, n);
      if (y != nullptr) StoreUpTo(y + at, both.value, n);
    });
  }
}

void ActivationForward(ActivationKind kind, int64_t rows, int64_t columns, float* x,
                       const float* bias, float* y) {
  switch (kind) {
    case ActivationKind::kGeluErf:
      return ActivateRows<GeluErf>(rows, columns, x, bias, y);
    case ActivationKind::kGeluTanh:
      return ActivateRows<GeluTanh>(rows, columns, x, bias, y);
    case ActivationKind::kRelu:
      return ActivateRows<Relu>(rows, columns, x, bias, y);
  }
}

void ActivationBackward(ActivationKind kind, int64_t rows, int64_t columns, const float* x,
                        float* d, float* y) {
  switch (kind) {
    case ActivationKind::kGeluErf:
      return ActivateRowsBackward<GeluErf>(rows, columns, x, d, y);
    case ActivationKind::kGeluTanh:
      return ActivateRowsBackward<GeluTanh>(rows, columns, x, d, y);
    case ActivationKind::kRelu:
      return ActivateRowsBackward<Relu>(rows, columns, x, d, y);
  }
}

void EmbeddingForward(int64_t rows, int64_t columns, const int64_t* ids, const int64_t* positions,
                      const int64_t* types, const float* word, const float* position,
                      const float* type, float* y) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const float* a = word + ids[r] * columns;
    const float* b = position + positions[r] * columns;
    const float* c = type + (types == nullptr ? 0 : types[r] * columns);
    for (int64_t i = 0; i < columns; ++i) y[r * columns + i] = a[i] + c[i] + b[i];
  }
}

// Each thread owns whole columns and walks all rows in order, so no two threads meet in a row of
// the table and the sums do not depend on them.
void ScatterAdd(int64_t rows, int64_t columns, const int64_t* ids, const float* d, float* table) {
  const int64_t width = 64;
  const int64_t slices = (columns + width - 1) / width;
#pragma omp parallel for schedule(static)
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t first = slice * width, end = Smaller(first + width, columns);
    for (int64_t r = 0; r < rows; ++r) {
      float* to = table + (ids == nullptr ? 0 : ids[r] * columns);
      for (int64_t c = first; c < end; ++c) to[c] += d[r * columns + c];
    }
  }
}

double CrossEntropy(int64_t rows, int64_t classes, const float* logits, const int64_t* labels,
                    float* d_logits) {
  double loss = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = logits + r * classes;
    float* d = d_logits + r * classes;
    if (labels[r] < 0) {
      std::memset(d, 0, static_cast<size_t>(classes) * sizeof(float));
      continue;
    }
    float largest = x[0];
    for (int64_t c = 1; c < classes; ++c) largest = x[c] > largest ? x[c] : largest;
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) {
      const double e = __builtin_exp(static_cast<double>(x[c]) - largest);
      d[c] = static_cast<float>(e);
      sum += e;
    }
    for (int64_t c = 0; c < classes; ++c) d[c] = static_cast<float>(d[c] / sum);
    d[labels[r]] -= 1;
    loss += __builtin_log(sum) + largest - x[labels[r]];
  }
  return loss;
}

}  // namespace
}  // namespace thaw
