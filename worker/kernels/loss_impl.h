// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kLossBlock = 512;    // exponentials that one float sum takes
constexpr int64_t kExactClasses = 64;  // up to here double precision costs nothing that one notices

// Where exponentials are kept until their sum is known: in the gradient, unless it is bf16. Rounded
// to that they would not be exact enough, and are computed a second time.
THAW_INLINE float* RoomForExponentials(float* d) { return d; }
THAW_INLINE float* RoomForExponentials(Bf16*) { return nullptr; }

// Stores e^(x - largest) in `exponentials`, which may be null or x; returns their sum.
template <typename T>
THAW_INLINE double SumOfExponentials(int64_t classes, const T* x, float largest,
                                     float* exponentials) {
  double sum = 0;
  if (classes <= kExactClasses) {
    for (int64_t c = 0; c < classes; ++c) {
      const double e = __builtin_exp(double{ValueOf(x[c])} - largest);
      if (exponentials != nullptr) exponentials[c] = static_cast<float>(e);
      sum += e;
    }
    return sum;
  }
  for (int64_t c0 = 0; c0 < classes; c0 += kLossBlock) {
    Floats block = {};
    OverColumns(c0, Smaller(c0 + kLossBlock, classes), [&](int64_t c, int64_t n) {
      Floats e = ExpFor<T>(LoadUpTo(x + c, n) - largest);
      if (exponentials != nullptr) StoreUpTo(exponentials + c, e, n);
      for (int64_t i = n; i < kLanes; ++i) e[i] = 0;
      block += e;
    });
    sum += SumOf(block);
  }
  return sum;
}

template <typename T>
THAW_INLINE float LargestOfRow(int64_t classes, const T* x) {
  Floats top = All(ValueOf(x[0]));
  int64_t c = 0;
  for (; c + kLanes <= classes; c += kLanes) top = Larger(top, Load(x + c));
  float largest = LargestOf(top);
  for (; c < classes; ++c) largest = ValueOf(x[c]) > largest ? ValueOf(x[c]) : largest;
  return largest;
}

// d = factor e^(x - largest), minus 1 at the label; d may be x. Of floats, d holds the exponentials.
THAW_INLINE void LogitGradients(int64_t classes, const float*, int64_t label, float, float factor,
                                float* d) {
  OverColumns(0, classes,
              [&](int64_t c, int64_t n) { StoreUpTo(d + c, LoadUpTo(d + c, n) * factor, n); });
  d[label] -= 1;
}
THAW_INLINE void LogitGradients(int64_t classes, const Bf16* x, int64_t label, float largest,
                                float factor, Bf16* d) {
  const auto probability = [=](Floats logits) { return ExpFor<Bf16>(logits - largest) * factor; };
  const Floats at_label = probability(All(ValueOf(x[label]))) - 1.0f;
  OverColumns(0, classes, [&](int64_t c, int64_t n) {
    StoreUpTo(d + c, probability(LoadUpTo(x + c, n)), n);
  });
  StorePart(d + label, at_label, 1);
}

template <typename T>
double CrossEntropyOf(int64_t rows, int64_t classes, const T* logits, const int64_t* labels,
                      T* d_logits, float* log_probabilities, float* log_sums) {
  double* losses = reinterpret_cast<double*>(SharedScratch(static_cast<size_t>(2 * rows)));
  ParallelFor(rows, [=](int64_t r) {
    const T* x = logits + r * classes;
    T* d = d_logits == nullptr ? nullptr : d_logits + r * classes;
    const int64_t label = labels[r];
    losses[r] = 0;
    if (label < 0 && log_sums == nullptr) {
      if (log_probabilities != nullptr) log_probabilities[r] = 0;
      if (d != nullptr) std::memset(d, 0, static_cast<size_t>(classes) * sizeof(T));
      return;
    }
    const float largest = LargestOfRow(classes, x), at_label = label < 0 ? 0 : ValueOf(x[label]);
    const double sum = SumOfExponentials(classes, x, largest,
                                         label < 0 ? nullptr : RoomForExponentials(d));
    const double log_sum = __builtin_log(sum) + largest;
    if (log_sums != nullptr) log_sums[r] = static_cast<float>(log_sum);
    if (label >= 0) losses[r] = log_sum - at_label;
    if (log_probabilities != nullptr) log_probabilities[r] = static_cast<float>(-losses[r]);
    if (d == nullptr) return;
    if (label < 0) {
      std::memset(d, 0, static_cast<size_t>(classes) * sizeof(T));
      return;
    }
    LogitGradients(classes, x, label, largest, static_cast<float>(1 / sum), d);
  });
  double loss = 0;
  for (int64_t r = 0; r < rows; ++r) loss += losses[r];
  return loss;
}

double CrossEntropy(int64_t rows, int64_t classes, ConstElements logits, const int64_t* labels,
                    Elements d_logits, float* log_probabilities, float* log_sums) {
  return WithType(logits.type, [=](auto type) {
    using T = decltype(type);
    return CrossEntropyOf(rows, classes, As<T>(logits), labels, As<T>(d_logits), log_probabilities,
                          log_sums);
  });
}

}  // namespace
}  // namespace thaw
