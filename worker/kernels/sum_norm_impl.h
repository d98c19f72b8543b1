// Norms that keep the sum that they are taken of, as pre-norm blocks need it. See simd.h for how
// this is included.
#pragma once

#include "worker/kernels/norm_impl.h"

namespace thaw {
namespace {

void SumNormForward(NormKind kind, int64_t rows, int64_t columns, float* x, const float* bias,
                    const float* residual, const float* gamma, const float* beta, float epsilon,
                    const DropoutSite& dropout, float* y, float* moments) {
  ParallelFor(rows, [=](int64_t r) {
    float* row = x + r * columns;
    if (bias != nullptr) {
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        StoreUpTo(row + c, LoadUpTo(row + c, n) + LoadUpTo(bias + c, n), n);
      });
    }
    if (dropout.active()) DropRow(dropout, r, columns, row);
    if (residual != nullptr) {
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        StoreUpTo(row + c, LoadUpTo(row + c, n) + LoadUpTo(residual + r * columns + c, n), n);
      });
    }
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
    const float inverse =
        1 / __builtin_sqrtf(SumOf(squares) / static_cast<float>(columns) + epsilon);
    moments[2 * r] = mean;
    moments[2 * r + 1] = inverse;
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      Floats normed = (LoadUpTo(row + c, n) - mean) * inverse * LoadUpTo(gamma + c, n);
      if (beta != nullptr) normed += LoadUpTo(beta + c, n);
      StoreUpTo(y + r * columns + c, normed, n);
    });
  });
}

void SumNormBackward(NormKind kind, int64_t rows, int64_t columns, const float* d_y,
                     const float* d_sum, const float* sum, const float* moments, const float* gamma,
                     const DropoutSite& dropout, float* d_residual, float* d_x, float* d_gamma,
                     float* d_beta, float* d_bias) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  const int64_t stride = 3 * columns;
  float* partial = SharedScratch(static_cast<size_t>(chunks * stride));
  std::memset(partial, 0, static_cast<size_t>(chunks * stride) * sizeof(float));
  ParallelFor(chunks, [=](int64_t chunk) {
    float* gamma_sum = partial + chunk * stride;
    float* beta_sum = gamma_sum + columns;
    float* bias_sum = beta_sum + columns;
    const int64_t end = Smaller((chunk + 1) * kRowChunk, rows);
    for (int64_t r = chunk * kRowChunk; r < end; ++r) {
      const float* dy = d_y + r * columns;
      const float* row = sum + r * columns;
      float* dz = d_residual + r * columns;
      const float mean = moments[2 * r], inverse = moments[2 * r + 1];
      Floats total = {}, product = {};
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats d = LoadUpTo(dy + c, n), x = (LoadUpTo(row + c, n) - mean) * inverse;
        const Floats g = d * LoadUpTo(gamma + c, n);
        total += g;
        product += g * x;
        StoreUpTo(gamma_sum + c, LoadUpTo(gamma_sum + c, n) + d * x, n);
        if (d_beta != nullptr) StoreUpTo(beta_sum + c, LoadUpTo(beta_sum + c, n) + d, n);
      });
      const float shift =
          kind == NormKind::kLayer ? SumOf(total) / static_cast<float>(columns) : 0.0f;
      const float slope = SumOf(product) / static_cast<float>(columns);
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats g = LoadUpTo(dy + c, n) * LoadUpTo(gamma + c, n);
        const Floats x = (LoadUpTo(row + c, n) - mean) * inverse;
        Floats d = (g - shift - x * slope) * inverse;
        if (d_sum != nullptr) d += LoadUpTo(d_sum + r * columns + c, n);
        StoreUpTo(dz + c, d, n);
      });
      const float* dx = dz;
      if (d_x != nullptr) {
        std::memcpy(d_x + r * columns, dz, static_cast<size_t>(columns) * sizeof(float));
        if (dropout.active()) DropRow(dropout, r, columns, d_x + r * columns);
        dx = d_x + r * columns;
      }
      if (d_bias != nullptr) {
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          StoreUpTo(bias_sum + c, LoadUpTo(bias_sum + c, n) + LoadUpTo(dx + c, n), n);
        });
      }
    }
  });
  AddChunks(chunks, stride, columns, partial, d_gamma);
  AddChunks(chunks, stride, columns, partial + columns, d_beta);
  AddChunks(chunks, stride, columns, partial + 2 * columns, d_bias);
}

}  // namespace
}  // namespace thaw
