// Norms that keep the sum that they are taken of, as pre-norm blocks need it. See simd.h for how
// this is included.
#pragma once

#include "worker/kernels/norm_impl.h"

namespace thaw {
namespace {

template <typename S, typename Y>
THAW_INLINE void NormRow(NormKind kind, int64_t columns, const S* row, const float* gamma,
                         const float* beta, float epsilon, Y* y, float* moments) {
  float mean = 0;
  if (kind == NormKind::kLayer) {
    Floats total = {};
    OverColumns(0, columns, [&](int64_t c, int64_t n) { total += LoadUpTo(row + c, n); });
    mean = SumOf(total) / static_cast<float>(columns);
  }
  Floats squares = {};
  OverColumns(0, columns, [&](int64_t c, int64_t n) {
    Floats centred = LoadUpTo(row + c, n) - mean;
    for (int64_t i = n; i < kLanes; ++i) centred[i] = 0;
    squares += centred * centred;
  });
  const float inverse = 1 / __builtin_sqrtf(SumOf(squares) / static_cast<float>(columns) + epsilon);
  moments[0] = mean;
  moments[1] = inverse;
  OverColumns(0, columns, [&](int64_t c, int64_t n) {
    Floats normed = Kept((LoadUpTo(row + c, n) - mean) * inverse * LoadUpTo(gamma + c, n));
    if (beta != nullptr) normed += LoadUpTo(beta + c, n);
    StoreUpTo(y + c, normed, n);
  });
}

void SumNormForward(NormKind kind, int64_t rows, int64_t columns, ConstElements x,
                    const float* bias, const float* residual, const float* gamma, const float* beta,
                    float epsilon, const DropoutSite& dropout, float* sum, Elements y,
                    float* moments) {
  WithType(x.type, [=, &dropout](auto in) {
    WithType(y.type, [=, &dropout](auto out) {
      const auto* const from = As<decltype(in)>(x);
      auto* const to = As<decltype(out)>(y);
      ParallelFor(rows, [=, &dropout](int64_t r) {
        const auto* const row = from + r * columns;
        if (sum == nullptr) {
          NormRow(kind, columns, row, gamma, beta, epsilon, to + r * columns, moments + 2 * r);
          return;
        }
        float* const own = sum + r * columns;
        OverSums(dropout, r, columns, row, bias,
                 residual == nullptr ? nullptr : residual + r * columns,
                 [&](int64_t c, int64_t n, Floats z) { StoreUpTo(own + c, z, n); });
        NormRow(kind, columns, own, gamma, beta, epsilon, to + r * columns, moments + 2 * r);
      });
    });
  });
}

// S: of `sum` and d_residual.
template <typename Y, typename S>
void SumNormBackwardRows(NormKind kind, int64_t rows, int64_t columns, const Y* d_y,
                         const float* d_sum, const S* sum, const float* moments, const float* gamma,
                         const DropoutSite& dropout, S* d_residual, Y* d_x, float* d_gamma,
                         float* d_beta, float* d_bias) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  const int64_t stride = 3 * columns;
  float* partial = SharedScratch(static_cast<size_t>(chunks * stride));
  std::memset(partial, 0, static_cast<size_t>(chunks * stride) * sizeof(float));
  ParallelFor(chunks, [=, &dropout](int64_t chunk) {
    float* gamma_sum = partial + chunk * stride;
    float* beta_sum = gamma_sum + columns;
    float* bias_sum = beta_sum + columns;
    const int64_t end = Smaller((chunk + 1) * kRowChunk, rows);
    for (int64_t r = chunk * kRowChunk; r < end; ++r) {
      const Y* dy = d_y + r * columns;
      const S* row = sum + r * columns;
      const float mean = moments[2 * r], inverse = moments[2 * r + 1];
      Floats total = {}, product = {};
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats d = LoadUpTo(dy + c, n), x = (LoadUpTo(row + c, n) - mean) * inverse;
        const Floats g = d * LoadUpTo(gamma + c, n);
        total += g;
        product += g * x;
        StoreUpTo(gamma_sum + c, LoadUpTo(gamma_sum + c, n) + d * x, n);
        if (d_beta != nullptr) AddTo(beta_sum + c, d, n);
      });
      const float shift =
          kind == NormKind::kLayer ? SumOf(total) / static_cast<float>(columns) : 0.0f;
      const float slope = SumOf(product) / static_cast<float>(columns);
      S* dz = d_residual + r * columns;
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats g = LoadUpTo(dy + c, n) * LoadUpTo(gamma + c, n);
        const Floats x = (LoadUpTo(row + c, n) - mean) * inverse;
        Floats d = Kept((g - shift - x * slope) * inverse);
        if (d_sum != nullptr) d += LoadUpTo(d_sum + r * columns + c, n);
        StoreUpTo(dz + c, d, n);
      });
      if (d_x == nullptr && d_bias == nullptr) continue;
      OverDropped(dropout, r, columns, [&](int64_t c, int64_t n, auto drop) {
        const Floats dropped = drop(LoadUpTo(dz + c, n));
        if (d_x != nullptr) StoreUpTo(d_x + r * columns + c, dropped, n);
        if (d_bias != nullptr) AddTo(bias_sum + c, dropped, n);
      });
    }
  });
  AddChunks(chunks, stride, columns, partial, d_gamma);
  AddChunks(chunks, stride, columns, partial + columns, d_beta);
  AddChunks(chunks, stride, columns, partial + 2 * columns, d_bias);
}

void SumNormBackward(NormKind kind, int64_t rows, int64_t columns, ConstElements d_y,
                     const float* d_sum, ConstElements sum, const float* moments,
                     const float* gamma, const DropoutSite& dropout, Elements d_residual,
                     Elements d_x, float* d_gamma, float* d_beta, float* d_bias) {
  WithType(d_y.type, [=, &dropout](auto of_y) {
    WithType(sum.type, [=, &dropout](auto of_sum) {
      using Y = decltype(of_y);
      using S = decltype(of_sum);
      SumNormBackwardRows(kind, rows, columns, As<Y>(d_y), d_sum, As<S>(sum), moments, gamma,
                          dropout, As<S>(d_residual), As<Y>(d_x), d_gamma, d_beta, d_bias);
    });
  });
}

}  // namespace
}  // namespace thaw
