// Angles of rotary positions (arXiv 2104.09864) and the ways of stretching them over longer texts
// than a model was pretrained on, as transformers computes them: in fp32.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"
#include "worker/model/config_fields.h"

namespace thaw {

enum class RotaryKind {
  kDefault,
  kLinear,   // positions divided by `factor`
  kDynamic,  // a base that grows with the text: NTK scaling
  kLlama3,   // low frequencies divided by `factor`, middle ones in part
  kYarn,     // arXiv 2309.00071
};

struct RotaryConfig {
  RotaryKind kind = RotaryKind::kDefault;
  double theta = 10000;
  double factor = 1;
  int64_t max_positions = 0;
  int64_t original_positions = 0;                              // of the pretraining
  double low_frequency_factor = 1, high_frequency_factor = 4;  // kLlama3
  double beta_fast = 32, beta_slow = 1;                        // kYarn: rotations in the original
  bool truncate = true;
  double attention_factor = 1;  // of sines and cosines
};

// Reads rope_parameters, or the older spelling: rope_theta and rope_scaling with "rope_type" or
// "type". Refuses other types by name, and partial_rotary_factor but for 1, which transformers'
// classes of these families ignore or fail at.
RotaryConfig ReadRotary(ConfigFields& fields, int64_t max_positions);

// Not thread-safe.
class Rotary {
 public:
  // `head_dim` is even.
  Rotary(const RotaryConfig& config, int64_t head_dim) : config_(config), head_dim_(head_dim) {}

  // What Rotate takes: table row r belongs to positions[i] = r of packed row i.
  struct Angles {
    torch::Tensor positions;       // int64 [rows]
    torch::Tensor cosines, sines;  // fp32 [.., head_dim / 2]
  };
  // Of packed sequences with these bounds and int64 positions [rows] on the CPU; the result is on
  // `device`. kDynamic takes for the length of the text each sequence's own last position + 1,
  // where transformers takes the longest of the batch: so packing changes nothing.
  Angles At(const torch::Tensor& positions, const std::vector<int32_t>& bounds,
            torch::Device device);

 private:
  torch::Tensor Frequencies(int64_t length) const;  // fp32 [head_dim / 2], on the CPU
  Angles DynamicAngles(const torch::Tensor& positions, const std::vector<int32_t>& bounds,
                       torch::Device device) const;

  const RotaryConfig config_;
  const int64_t head_dim_;
  torch::Tensor cosines_, sines_;  // of the positions met so far
};

}  // namespace thaw
