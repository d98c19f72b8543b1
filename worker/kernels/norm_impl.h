// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/random_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kRowChunk = 64;  // rows whose sums are taken together, on any number of threads

// x *= the factors of its row.
THAW_INLINE void DropRow(const DropoutSite& dropout, int64_t row, int64_t columns, float* x) {
  float factors[kDropoutBlock];
  for (int64_t c0 = 0; c0 < columns; c0 += kDropoutBlock) {
    DropoutFactors(dropout, static_cast<uint32_t>(row), 0, c0 / kDropoutBlock, factors);
    OverColumns(c0, Smaller(c0 + kDropoutBlock, columns), [&](int64_t c, int64_t n) {
      StoreUpTo(x + c, LoadUpTo(x + c, n) * Load(factors + c - c0), n);
    });
  }
}

void BiasDropout(int64_t rows, int64_t columns, float* x, const float* bias,
                 const DropoutSite& dropout) {
  ParallelFor(rows, [=](int64_t r) {
    float* row = x + r * columns;
    if (bias != nullptr) {
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        StoreUpTo(row + c, LoadUpTo(row + c, n) + LoadUpTo(bias + c, n), n);
      });
    }
    if (dropout.active()) DropRow(dropout, r, columns, row);
  });
}

void ResidualNormForward(int64_t rows, int64_t columns, float* x, const float* bias,
                         const float* residual, const float* gamma, const float* beta,
                         float epsilon, const DropoutSite& dropout, float* y,
                         float* inverse_deviation) {
  ParallelFor(rows, [=](int64_t r) {
    float* row = x + r * columns;
    if (bias != nullptr) {
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        StoreUpTo(row + c, LoadUpTo(row + c, n) + LoadUpTo(bias + c, n), n);
      });
    }
    if (dropout.active()) DropRow(dropout, r, columns, row);
    Floats total = {};
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      Floats z = LoadUpTo(row + c, n);
      if (residual != nullptr) z += LoadUpTo(residual + r * columns + c, n);
      total += z;
      StoreUpTo(row + c, z, n);
    });
    const float mean = SumOf(total) / static_cast<float>(columns);
    float squares = 0;
    Floats partial = {};
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      const Floats centred = LoadUpTo(row + c, n) - mean;
      if (n == kLanes) {
        partial += centred * centred;
      } else {
        for (int64_t i = 0; i < n; ++i) squares += centred[i] * centred[i];
      }
    });
    squares += SumOf(partial);
    const float inverse = 1 / __builtin_sqrtf(squares / static_cast<float>(columns) + epsilon);
    inverse_deviation[r] = inverse;
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      const Floats normalised = (LoadUpTo(row + c, n) - mean) * inverse;
      StoreUpTo(row + c, normalised, n);
      StoreUpTo(y + r * columns + c, normalised * LoadUpTo(gamma + c, n) + LoadUpTo(beta + c, n),
                n);
    });
  });
}

// Adds the partial sums [chunks][columns] at `partial`, in order.
THAW_INLINE void AddChunks(int64_t chunks, int64_t stride, int64_t columns, const float* partial,
                           float* sums) {
  if (sums == nullptr) return;
  for (int64_t c = 0; c < columns; ++c) sums[c] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t c = 0; c < columns; ++c) sums[c] += partial[chunk * stride + c];
  }
}

void ResidualNormBackward(int64_t rows, int64_t columns, const float* d_y, const float* normalised,
                          const float* inverse_deviation, const float* gamma,
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
      const float* xn = normalised + r * columns;
      float* dz = d_residual + r * columns;
      Floats sum = {}, product = {};
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats d = LoadUpTo(dy + c, n), x = LoadUpTo(xn + c, n);
        const Floats g = d * LoadUpTo(gamma + c, n);
        sum += g;
        product += g * x;
        StoreUpTo(gamma_sum + c, LoadUpTo(gamma_sum + c, n) + d * x, n);
        StoreUpTo(beta_sum + c, LoadUpTo(beta_sum + c, n) + d, n);
      });
      const float mean = SumOf(sum) / static_cast<float>(columns);
      const float slope = SumOf(product) / static_cast<float>(columns);
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats g = LoadUpTo(dy + c, n) * LoadUpTo(gamma + c, n);
        StoreUpTo(dz + c, (g - mean - LoadUpTo(xn + c, n) * slope) * inverse_deviation[r], n);
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

void ColumnSums(int64_t rows, int64_t columns, const float* x, float* sums) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  float* partial = SharedScratch(static_cast<size_t>(chunks * columns));
  ParallelFor(chunks, [=](int64_t chunk) {
    float* sum = partial + chunk * columns;
    std::memset(sum, 0, static_cast<size_t>(columns) * sizeof(float));
    const int64_t end = Smaller((chunk + 1) * kRowChunk, rows);
    for (int64_t r = chunk * kRowChunk; r < end; ++r) {
      for (int64_t c = 0; c < columns; ++c) sum[c] += x[r * columns + c];
    }
  });
  AddChunks(chunks, columns, columns, partial, sums);
}

}  // namespace
}  // namespace thaw
