// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kLossBlock = 512;    // exponentials that one float sum takes
constexpr int64_t kExactClasses = 64;  // up to here double precision costs nothing that one notices

THAW_INLINE bool IsExact(int64_t classes) { return classes <= kExactClasses; }

// The sum of e^(x - largest).
template <typename T>
THAW_INLINE double SumOfExponentials(int64_t classes, const T* x, float largest) {
  double sum = 0;
  if (IsExact(classes)) {
    for (int64_t c = 0; c < classes; ++c) sum += __builtin_exp(double{ValueOf(x[c])} - largest);
    return sum;
  }
  for (int64_t c0 = 0; c0 < classes; c0 += kLossBlock) {
    Floats block = {};
    OverColumns(c0, Smaller(c0 + kLossBlock, classes), [&](int64_t c, int64_t n) {
      Floats e = Exp(LoadUpTo(x + c, n) - largest);
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

// d = factor e^(x - largest), minus 1 at the label; d may be x. The exponentials are computed a
// second time: rounded to bf16 in between they would not be exact enough.
template <typename T>
THAW_INLINE void LogitGradients(int64_t classes, const T* x, int64_t label, float largest,
                                float factor, T* d) {
  const Floats at_label = All(ValueOf(x[label]));
  const auto exponentials = [=](Floats logits) {
    Floats e = logits - largest;
    if (!IsExact(classes)) return Exp(e);
    for (int i = 0; i < kLanes; ++i) {
      e[i] = static_cast<float>(__builtin_exp(double{logits[i]} - largest));
    }
    return e;
  };
  OverColumns(0, classes, [&](int64_t c, int64_t n) {
    StoreUpTo(d + c, exponentials(LoadUpTo(x + c, n)) * factor, n);
  });
  StorePart(d + label, Kept(exponentials(at_label) * factor) - 1.0f, 1);
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
    const double sum = SumOfExponentials(classes, x, largest);
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
