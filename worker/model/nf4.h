// Frozen matrices in 4 bits: NF4 of QLoRA (arXiv 2305.14314, section 3) in the form of
// bitsandbytes. Each number is the nearest of 16 quantiles of N(0, 1) times the
// greatest absolute value of its block of 64, and those scales are 8 bits each too: an offset plus
// one of 256 numbers times the greatest absolute value of 256 of them. 4.13 bits a number.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "torch/types.h"

namespace thaw {

// By code, rising.
extern const std::array<float, 16> kNf4Table;
// Of scales in 8 bits, by code, rising (arXiv 1511.04561).
const torch::Tensor& DynamicMap();

struct Nf4Matrix {
  int64_t rows = 0, columns = 0;  // [out, in] of the layer
  // Other forms of the weight are [in, out] (GPT-2's Conv1D). Here it is transposed, as
  // bitsandbytes stores it.
  bool input_major = false;
  int64_t block_size = 64;  // numbers for each scale
  // What bitsandbytes makes of the codes, by torch's name.
  std::string element_type = "float32";
  // uint8 [(numbers + 1) / 2], row by row, the first of two in the upper half.
  torch::Tensor codes;
  torch::Tensor scales;  // [blocks], fp32 or, where they are quantised themselves, uint8
  // Of quantised scales; undefined otherwise.
  torch::Tensor nested_map;     // fp32 [256]
  torch::Tensor nested_scales;  // fp32 [blocks / nested_block_size, rounded up]
  int64_t nested_block_size = 256;
  float offset = 0;

  int64_t numbers() const { return rows * columns; }
  int64_t blocks() const { return (numbers() + block_size - 1) / block_size; }
  bool nested() const { return nested_map.defined(); }
  // Of codes and scales, without the map, which matrices may share.
  int64_t bytes() const;
};

// `weight` is floating point, [out, in] or [in, out]; `nested`: scales in 8 bits. The same bits on
// any number of threads.
Nf4Matrix QuantiseNf4(const torch::Tensor& weight, bool input_major, bool nested = true);

// fp32, contiguous, [out, in] or [in, out].
torch::Tensor Dequantised(const Nf4Matrix& matrix);

// What stands for the matrix where a layer's weight is expected: a tensor on the meta device, fp32
// and of the weight's shape, that carries it along. Only the operations of ops.h compute with one:
// elsewhere it throws, or what comes out has no numbers either.
torch::Tensor Nf4Tensor(std::shared_ptr<const Nf4Matrix> matrix);
// What `weight` carries; nullptr for any other tensor.
const Nf4Matrix* Nf4Of(const torch::Tensor& weight);

// What the tensor takes in memory or maps of its file; a stand-in what its matrix takes.
int64_t BytesHeld(const torch::Tensor& tensor);

// `weight` itself or, where it carries a matrix, that one's numbers.
torch::Tensor Dense(const torch::Tensor& weight);
// The same in fp32 or bf16 without new memory: a matrix's numbers are there until the calling
// thread's next call, and may be a transposed view.
torch::Tensor DenseForNow(const torch::Tensor& weight, torch::ScalarType type);

}  // namespace thaw
