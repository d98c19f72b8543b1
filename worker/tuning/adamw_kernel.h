// The arithmetic of the optimizer on plain fp32 arrays, in one pass over memory. Element i of the
// result depends on element i of the arrays alone, so cutting the work among threads changes no
// bit.
#pragma once

#include <cstdint>

namespace thaw {

// AdamW (arXiv 1711.05101, algorithm 2) with decoupled decay applied before the update, as
// torch.optim.AdamW does it.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;    // 0 for biases and norms
  double gradient_scale = 1;  // what gradients are multiplied with first (clipping)
  int64_t update = 1;         // number of this update of these elements, from 1
};

// With g = gradient_scale * gradients:
//   parameters *= 1 - learning_rate * weight_decay
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g²
//   parameters -= learning_rate / (1 - beta1^update) * m / (sqrt(v / (1 - beta2^update)) + epsilon)
//   gradients = 0
// Gives back the sum of the squares of what the parameters changed by, summed in a fixed order.
// `count` is a multiple of 16; the arrays do not overlap. `halves`, unless it is null, gets the
// parameters rounded to bf16, to the nearest and of two as near to the even one.
double UpdateAdamW(const AdamWStep& step, int64_t count, float* parameters, float* gradients,
                   float* m, float* v, uint16_t* halves = nullptr);

// Sum of squares of `count` values, a multiple of 16, summed in a fixed order.
double SumOfSquares(int64_t count, const float* values);

}  // namespace thaw
