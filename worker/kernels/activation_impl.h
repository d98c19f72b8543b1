// Activations, plain and gated. See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

THAW_INLINE Floats Sigmoid(Floats x) { return 1.0f / (Exp(-x) + 1.0f); }
THAW_INLINE Floats Tanh(Floats x) { return Sigmoid(x * 2.0f) * 2.0f - 1.0f; }

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

// x times the sigmoid of rate x.
THAW_INLINE ValueAndSlope Swish(Floats x, float rate) {
  const Floats s = Sigmoid(x * rate), value = x * s;
  return {value, s + value * (1.0f - s) * rate};
}

THAW_INLINE ValueAndSlope TanhAndSlope(Floats x) {
  const Floats t = Tanh(x);
  return {t, 1.0f - t * t};
}

// body(function), the function of `kind`.
template <typename Body>
THAW_INLINE void WithActivation(ActivationKind kind, Body body) {
  switch (kind) {
    case ActivationKind::kGeluErf:
      return body([](Floats x) { return GeluErf(x); });
    case ActivationKind::kGeluTanh:
      return body([](Floats x) { return GeluTanh(x); });
    case ActivationKind::kRelu:
      return body([](Floats x) { return Relu(x); });
    case ActivationKind::kSilu:
      return body([](Floats x) { return Swish(x, 1); });
    case ActivationKind::kQuickGelu:
      return body([](Floats x) { return Swish(x, 1.702f); });
    case ActivationKind::kTanh:
      return body([](Floats x) { return TanhAndSlope(x); });
  }
}

void ActivationForward(ActivationKind kind, int64_t rows, int64_t columns, Elements x,
                       const float* bias, Elements y) {
  WithType(x.type, [=](auto type) {
    using T = decltype(type);
    T *const all = As<T>(x), *const results = As<T>(y);
    WithActivation(kind, [=](auto function) {
      ParallelFor(rows, [=](int64_t r) {
        T* row = all + r * columns;
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          Floats z = LoadUpTo(row + c, n);
          if (bias != nullptr) {
            z = AsStored<T>(z + LoadUpTo(bias + c, n));  // what the backward pass will read
            StoreUpTo(row + c, z, n);
          }
          StoreUpTo(results + r * columns + c, function(z).value, n);
        });
      });
    });
  });
}

void ActivationBackward(ActivationKind kind, int64_t rows, int64_t columns, ConstElements x,
                        Elements d, Elements y) {
  WithType(x.type, [=](auto type) {
    using T = decltype(type);
    const T* const all = As<T>(x);
    T *const gradients = As<T>(d), *const results = As<T>(y);
    WithActivation(kind, [=](auto function) {
      ParallelFor(rows, [=](int64_t r) {
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          const int64_t at = r * columns + c;
          const ValueAndSlope both = function(LoadUpTo(all + at, n));
          StoreUpTo(gradients + at, LoadUpTo(gradients + at, n) * both.slope, n);
          if (results != nullptr) StoreUpTo(results + at, both.value, n);
        });
      });
    });
  });
}

void GatedForward(ActivationKind kind, int64_t rows, int64_t columns, ConstElements gate,
                  ConstElements up, int64_t stride, Elements y) {
  WithType(gate.type, [=](auto type) {
    using T = decltype(type);
    const T *const gates = As<T>(gate), *const ups = As<T>(up);
    T* const results = As<T>(y);
    WithActivation(kind, [=](auto function) {
      ParallelFor(rows, [=](int64_t r) {
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          const int64_t at = r * stride + c;
          StoreUpTo(results + r * columns + c,
                    function(LoadUpTo(gates + at, n)).value * LoadUpTo(ups + at, n), n);
        });
      });
    });
  });
}

void GatedBackward(ActivationKind kind, int64_t rows, int64_t columns, ConstElements gate,
                   ConstElements up, int64_t stride, ConstElements d, Elements d_gate,
                   Elements d_up, Elements y) {
  WithType(gate.type, [=](auto type) {
    using T = decltype(type);
    const T *const gates = As<T>(gate), *const ups = As<T>(up), *const above = As<T>(d);
    T *const d_gates = As<T>(d_gate), *const d_ups = As<T>(d_up), *const results = As<T>(y);
    WithActivation(kind, [=](auto function) {
      ParallelFor(rows, [=](int64_t r) {
        OverColumns(0, columns, [&](int64_t c, int64_t n) {
          const int64_t at = r * stride + c;
          const ValueAndSlope both = function(LoadUpTo(gates + at, n));
          const Floats u = LoadUpTo(ups + at, n), dy = LoadUpTo(above + r * columns + c, n);
          if (results != nullptr) StoreUpTo(results + r * columns + c, both.value * u, n);
          StoreUpTo(d_gates + at, dy * u * both.slope, n);
          StoreUpTo(d_ups + at, dy * both.value, n);
        });
      });
    });
  });
}

}  // namespace
}  // namespace thaw
