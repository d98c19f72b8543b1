// Sums of residuals, and the norm that keeps nothing but its result. See simd.h for how this is
// included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/random_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kRowChunk = 64;  // rows whose sums are taken together, on any number of threads

// body(c, n, drop) as OverColumns, drop(z) being z times the factors of its columns in row `r`.
template <typename Body>
THAW_INLINE void OverDropped(const DropoutSite& dropout, int64_t r, int64_t columns, Body body) {
  if (!dropout.active()) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) { body(c, n, [](Floats z) { return z; }); });
    return;
  }
  float factors[kDropoutBlock];
  for (int64_t c0 = 0; c0 < columns; c0 += kDropoutBlock) {
    DropoutFactors(dropout, static_cast<uint32_t>(r), 0, c0 / kDropoutBlock, factors);
    OverColumns(c0, Smaller(c0 + kDropoutBlock, columns), [&](int64_t c, int64_t n) {
      body(c, n, [&](Floats z) { return Kept(z * Load(factors + c - c0)); });
    });
  }
}

// body(c, n, z), z = residual + dropout(x + bias) at columns [c, c + n) of row `r`; x and residual
// begin at that row.
template <typename X, typename R, typename Body>
THAW_INLINE void OverSums(const DropoutSite& dropout, int64_t r, int64_t columns, const X* x,
                          const float* bias, const R* residual, Body body) {
  OverDropped(dropout, r, columns, [&](int64_t c, int64_t n, auto drop) {
    Floats z = LoadUpTo(x + c, n);
    if (bias != nullptr) z += LoadUpTo(bias + c, n);
    z = drop(z);
    if (residual != nullptr) z += LoadUpTo(residual + c, n);
    body(c, n, z);
  });
}

void BiasDropoutAdd(int64_t rows, int64_t columns, ConstElements x, const float* bias,
                    const DropoutSite& dropout, ConstElements residual, Elements y) {
  WithType(x.type, [=, &dropout](auto in) {
    WithType(y.type, [=, &dropout](auto out) {
      const auto* from = As<decltype(in)>(x);
      const auto* addend = As<decltype(out)>(residual);
      auto* to = As<decltype(out)>(y);
      ParallelFor(rows, [=, &dropout](int64_t r) {
        OverSums(dropout, r, columns, from + r * columns, bias,
                 addend == nullptr ? nullptr : addend + r * columns,
                 [&](int64_t c, int64_t n, Floats z) { StoreUpTo(to + r * columns + c, z, n); });
      });
    });
  });
}

// A row of floats to work on: the row itself, or scratch.
THAW_INLINE float* WorkingRow(float* row, int64_t) { return row; }
THAW_INLINE float* WorkingRow(Bf16*, int64_t columns) {
  return ThreadScratch(static_cast<size_t>(columns));
}

void ResidualNormForward(int64_t rows, int64_t columns, Elements x, const float* bias,
                         ConstElements residual, const float* gamma, const float* beta,
                         float epsilon, const DropoutSite& dropout, Elements y,
                         float* inverse_deviation) {
  WithType(x.type, [=, &dropout](auto in) {
    WithType(y.type, [=, &dropout](auto out) {
      auto* const all = As<decltype(in)>(x);
      const auto* const addend = As<decltype(in)>(residual);
      auto* const results = As<decltype(out)>(y);
      ParallelFor(rows, [=, &dropout](int64_t r) {
        auto* const kept = all + r * columns;
        float* const row = WorkingRow(kept, columns);
        Floats total = {};
        OverSums(dropout, r, columns, kept, bias,
                 addend == nullptr ? nullptr : addend + r * columns,
                 [&](int64_t c, int64_t n, Floats z) {
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
        auto* const result = results + r * columns;
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          const Floats normalised = (LoadUpTo(row + c, n) - mean) * inverse;
          StoreUpTo(kept + c, normalised, n);
          StoreUpTo(result + c, normalised * LoadUpTo(gamma + c, n) + LoadUpTo(beta + c, n), n);
        });
      });
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

// sums[c] += x over columns [c, c + n).
THAW_INLINE void AddTo(float* sums, Floats x, int64_t n) {
  StoreUpTo(sums, LoadUpTo(sums, n) + x, n);
}

template <typename X, typename Y>
void ResidualNormBackwardRows(int64_t rows, int64_t columns, const Y* d_y, const X* normalised,
                              const float* inverse_deviation, const float* gamma,
                              const DropoutSite& dropout, X* d_residual, X* d_x, float* d_gamma,
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
      const X* xn = normalised + r * columns;
      Floats sum = {}, product = {};
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        const Floats d = LoadUpTo(dy + c, n), x = LoadUpTo(xn + c, n);
        const Floats g = d * LoadUpTo(gamma + c, n);
        sum += g;
        product += g * x;
        StoreUpTo(gamma_sum + c, LoadUpTo(gamma_sum + c, n) + d * x, n);
        AddTo(beta_sum + c, d, n);
      });
      const float mean = SumOf(sum) / static_cast<float>(columns);
      const float slope = SumOf(product) / static_cast<float>(columns);
      OverDropped(dropout, r, columns, [&](int64_t c, int64_t n, auto drop) {
        const Floats g = LoadUpTo(dy + c, n) * LoadUpTo(gamma + c, n);
        const Floats d = Kept((g - mean - LoadUpTo(xn + c, n) * slope) * inverse_deviation[r]);
        const Floats dropped = drop(d);
        StoreUpTo(d_residual + r * columns + c, d, n);
        if (d_x != nullptr) StoreUpTo(d_x + r * columns + c, dropped, n);
        if (d_bias != nullptr) AddTo(bias_sum + c, dropped, n);
      });
    }
  });
  AddChunks(chunks, stride, columns, partial, d_gamma);
  AddChunks(chunks, stride, columns, partial + columns, d_beta);
  AddChunks(chunks, stride, columns, partial + 2 * columns, d_bias);
}

void ResidualNormBackward(int64_t rows, int64_t columns, ConstElements d_y,
                          ConstElements normalised, const float* inverse_deviation,
                          const float* gamma, const DropoutSite& dropout, Elements d_residual,
                          Elements d_x, float* d_gamma, float* d_beta, float* d_bias) {
  WithType(normalised.type, [=, &dropout](auto of_x) {
    WithType(d_y.type, [=, &dropout](auto of_y) {
      using X = decltype(of_x);
      using Y = decltype(of_y);
      ResidualNormBackwardRows(rows, columns, As<Y>(d_y), As<X>(normalised), inverse_deviation,
                               gamma, dropout, As<X>(d_residual), As<X>(d_x), d_gamma, d_beta,
                               d_bias);
    });
  });
}

template <typename T>
void ColumnSumsOf(int64_t rows, int64_t columns, const T* x, float* sums) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  float* partial = SharedScratch(static_cast<size_t>(chunks * columns));
  ParallelFor(chunks, [=](int64_t chunk) {
    float* sum = partial + chunk * columns;
    const int64_t first = chunk * kRowChunk, end = Smaller(first + kRowChunk, rows);
    std::memset(sum, 0, static_cast<size_t>(columns) * sizeof(float));
    int64_t r = first;
    for (; r + 4 <= end; r += 4) {
      const T* row = x + r * columns;
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        Floats total = LoadUpTo(sum + c, n);
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i) total += LoadUpTo(row + i * columns + c, n);
        StoreUpTo(sum + c, total, n);
      });
    }
    for (; r < end; ++r) {
      OverColumns(0, columns, [&](int64_t c, int64_t n) {
        AddTo(sum + c, LoadUpTo(x + r * columns + c, n), n);
      });
    }
  });
  AddChunks(chunks, columns, columns, partial, sums);
}

void ColumnSums(int64_t rows, int64_t columns, ConstElements x, float* sums) {
  WithType(x.type, [=](auto type) { ColumnSumsOf(rows, columns, As<decltype(type)>(x), sums); });
}

constexpr int64_t kConvertBlock = 4096;  // elements that a thread converts at a time

void Round(int64_t n, const float* x, Bf16* y) {
  ParallelFor((n + kConvertBlock - 1) / kConvertBlock, [=](int64_t block) {
    OverColumns(block * kConvertBlock, Smaller((block + 1) * kConvertBlock, n),
                [=](int64_t c, int64_t part) { StoreUpTo(y + c, LoadUpTo(x + c, part), part); });
  });
}

void Add(int64_t n, const Bf16* x, float* y) {
  ParallelFor((n + kConvertBlock - 1) / kConvertBlock, [=](int64_t block) {
    OverColumns(block * kConvertBlock, Smaller((block + 1) * kConvertBlock, n),
                [=](int64_t c, int64_t part) { AddTo(y + c, LoadUpTo(x + c, part), part); });
  });
}

}  // namespace
}  // namespace thaw
