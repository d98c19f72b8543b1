#include "worker/tuning/adamw_kernel.h"

#include <algorithm>
#include <bit>
#include <cmath>

// One body, compiled for each instruction set; the loader picks.
#define THAW_VECTOR_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))

namespace thaw {
namespace {

constexpr int kLanes = 16;
// Short enough runs that fp32 lanes lose nothing that matters in a sum, then double.
constexpr int64_t kRun = 2048;

}  // namespace

THAW_VECTOR_CLONES
double UpdateAdamW(const AdamWStep& step, int64_t count, float* __restrict parameters,
                   float* __restrict gradients, float* __restrict m, float* __restrict v,
                   uint16_t* __restrict halves) {
  const double update = static_cast<double>(step.update);
  const float keep = static_cast<float>(1 - step.learning_rate * step.weight_decay);
  const float rate = static_cast<float>(step.learning_rate / (1 - std::pow(step.beta1, update)));
  const float root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, update)));
  const float beta1 = static_cast<float>(step.beta1);
  const float gain1 = static_cast<float>(1 - step.beta1);
  const float beta2 = static_cast<float>(step.beta2);
  const float gain2 = static_cast<float>(1 - step.beta2);
  const float epsilon = static_cast<float>(step.epsilon);
  const float scale = static_cast<float>(step.gradient_scale);
  double changed = 0;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = std::min(begin + kRun, count);
    float lanes[kLanes] = {};
    for (int64_t at = begin; at < end; at += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t i = at + lane;
        const float g = gradients[i] * scale;
        m[i] = beta1 * m[i] + gain1 * g;
        v[i] = beta2 * v[i] + gain2 * (g * g);
        const float before = parameters[i];
        const float after =
            before * keep - rate * (m[i] / (std::sqrt(v[i]) * root_correction + epsilon));
        parameters[i] = after;
        gradients[i] = 0;
        lanes[lane] += (after - before) * (after - before);
      }
    }
    double run = 0;
    for (int lane = 0; lane < kLanes; ++lane) run += static_cast<double>(lanes[lane]);
    changed += run;
    if (halves == nullptr) continue;
    // A run is in the cache still.
    for (int64_t i = begin; i < end; ++i) {
      const auto bits = std::bit_cast<uint32_t>(parameters[i]);
      halves[i] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
  }
  return changed;
}

THAW_VECTOR_CLONES
double SumOfSquares(int64_t count, const float* values) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = std::min(begin + kRun, count);
    float lanes[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += values[i + lane] * values[i + lane];
      }
    }
    double run = 0;
    for (int lane = 0; lane < kLanes; ++lane) run += static_cast<double>(lanes[lane]);
    total += run;
  }
  return total;
}

}  // namespace thaw
