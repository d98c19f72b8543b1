// Rows of packed sequences: which are first, last, and whether ids fit a table.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"

namespace thaw {

// x[rows] of x [n, width]; rows int64. With autograd.
torch::Tensor GatherRows(const torch::Tensor& x, const torch::Tensor& rows);
// The first, or last, row of each sequence: [sequences, width].
torch::Tensor FirstRows(const torch::Tensor& x, const std::vector<int32_t>& bounds);
torch::Tensor LastRows(const torch::Tensor& x, const std::vector<int32_t>& bounds);

// x with the rows of `first` before those of each sequence; `bounds` are those of x and become
// those of the result. All as x is in its other dimensions. With autograd.
torch::Tensor BeforeEach(const torch::Tensor& first, const torch::Tensor& x,
                         std::vector<int32_t>* bounds);

// 0, 1, 2, …: one row a sequence.
std::vector<int32_t> UnitBounds(size_t sequences);
// The rows are one a sequence already: a last block has left out the others.
bool OneRowEach(const torch::Tensor& x, const std::vector<int32_t>& bounds);

// Throws c10::IndexError for an id outside [0, limit): the kernels index without asking, and a
// tokenizer of another model must not read past the table. `what` names the ids. CPU tensors only;
// undefined ones pass.
void CheckIds(const torch::Tensor& ids, int64_t limit, const char* what);

}  // namespace thaw
