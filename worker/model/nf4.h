// Frozen matrices in 4 bits: NF4 of QLoRA (arXiv 2305.14314, section 3) in the form of bitsandbytes,
// bit for bit. Each number is the nearest of 16 quantiles of N(0, 1) times the greatest absolute
// value of its block of 64, and those scales are 8 bits each too: an offset plus one of 256 numbers
// times the greatest absolute value of 256 of them. 4.13 bits a number.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "torch/types.h"

namespace thaw {

// By code, rising.
extern const std::array<float, 16> kNf4Table;
// Of the 8-bit scales, by code, rising (arXiv 1511.04561).
const torch::Tensor& DynamicMap();

struct Nf4Matrix {
  int64_t rows = 0, columns = 0;  // [out, in] of the layer
  // The layer's weight is [in, out] in every other form of its files (GPT-2's Conv1D): here, as
  // bitsandbytes stores it, it is transposed.
  bool input_major = false;
  int64_t block = 64;         // numbers for each scale
  std::string element_type = "float32";  // which bitsandbytes makes of the codes, by torch's name
  torch::Tensor codes;        // uint8 [(numbers + 1) / 2], row by row, the first of two in the upper half
  torch::Tensor scales;       // fp32 [blocks]; where they are quantised themselves uint8
  // Of quantised scales; undefined otherwise.
  torch::Tensor nested_map;     // fp32 [256]
  torch::Tensor nested_scales;  // fp32 [blocks / nested_block, rounded up]
  int64_t nested_block = 256;
  float offset = 0;

  int64_t numbers() const { return rows * columns; }
  int64_t blocks() const { return (numbers() + block - 1) / block; }
  bool nested() const { return nested_map.defined(); }
  int64_t bytes() const;  // of codes and scales, the map aside, which matrices may share
};

// `weight`, fp32 or bf16 and contiguous, [out, in] or [in, out]; `nested`: scales in 8 bits. The
// same bits on any number of threads.
Nf4Matrix QuantiseNf4(const torch::Tensor& weight, bool input_major, bool nested = true);

// fp32, contiguous, [out, in] or [in, out].
torch::Tensor Dequantised(const Nf4Matrix& matrix);

// A linear layer's weight as an operation multiplies by it: `weight` itself or, where `quantised` is
// not null, its fp32 numbers in memory that the calling thread's next call overwrites. That may be a
// transposed view.
torch::Tensor Multiplied(const torch::Tensor& weight, const Nf4Matrix* quantised);

}  // namespace thaw
