// Multiplying rows in fp32 by a table in bf16 (a vocabulary's, beside layers in NF4) without ever
// holding the table in fp32.
#pragma once

#include <algorithm>

#include "torch/types.h"

namespace thaw {

inline bool IsRoundedTable(const torch::Tensor& x, const torch::Tensor& weight) {
  return weight.scalar_type() == torch::kBFloat16 && x.scalar_type() == torch::kFloat;
}

// body(first, rows) for the table's rows from `first` on, in fp32 and valid within the call. A
// small table is one part, so that results are the bits of a table in fp32.
template <typename Body>
void OverRoundedTable(const torch::Tensor& table, Body body) {
  constexpr int64_t kPart = int64_t{1} << 20;  // 4 MiB: what it is read from again is the cache
  const torch::NoGradGuard no_grad;
  const int64_t step = std::max<int64_t>(1, std::min(kPart / table.size(1), table.size(0)));
  const torch::Tensor part = at::empty({step, table.size(1)}, torch::kFloat32);
  for (int64_t first = 0; first < table.size(0); first += step) {
    const int64_t count = std::min(step, table.size(0) - first);
    const torch::Tensor rows = part.narrow(0, 0, count);
    rows.copy_(table.narrow(0, first, count));
    body(first, rows);
  }
}

}  // namespace thaw
