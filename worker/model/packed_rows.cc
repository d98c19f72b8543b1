#include "worker/model/packed_rows.h"

#include <numeric>

namespace thaw {
namespace {

torch::Tensor RowsAt(const torch::Tensor& x, const std::vector<int32_t>& bounds, size_t side,
                     int64_t shift) {
  const size_t sequences = bounds.size() - 1;
  torch::Tensor rows = at::empty({static_cast<int64_t>(sequences)}, torch::kInt64);
  for (size_t s = 0; s < sequences; ++s) rows.data_ptr<int64_t>()[s] = bounds[s + side] + shift;
  return GatherRows(x, rows.to(x.device()));
}

}  // namespace

// By gather, which, unlike index_select, runs on the meta device.
torch::Tensor GatherRows(const torch::Tensor& x, const torch::Tensor& rows) {
  return x.gather(0, rows.unsqueeze(1).expand({-1, x.size(1)}));
}

torch::Tensor FirstRows(const torch::Tensor& x, const std::vector<int32_t>& bounds) {
  return RowsAt(x, bounds, 0, 0);
}

torch::Tensor LastRows(const torch::Tensor& x, const std::vector<int32_t>& bounds) {
  return RowsAt(x, bounds, 1, -1);
}

torch::Tensor BeforeEach(const torch::Tensor& first, const torch::Tensor& x,
                         std::vector<int32_t>* bounds) {
  const auto added = static_cast<int32_t>(first.size(0));
  std::vector<int64_t> lengths;
  for (size_t s = 0; s + 1 < bounds->size(); ++s) {
    lengths.push_back((*bounds)[s + 1] - (*bounds)[s]);
  }
  std::vector<torch::Tensor> parts;
  for (const torch::Tensor& rows : x.split_with_sizes(lengths)) {
    parts.push_back(first.to(x.scalar_type()));  // one each: gradients are summed in its own type
    parts.push_back(rows);
  }
  for (size_t s = 0; s < bounds->size(); ++s) (*bounds)[s] += static_cast<int32_t>(s) * added;
  return at::cat(parts);
}

std::vector<int32_t> UnitBounds(size_t sequences) {
  std::vector<int32_t> bounds(sequences + 1);
  std::iota(bounds.begin(), bounds.end(), 0);
  return bounds;
}

bool OneRowEach(const torch::Tensor& x, const std::vector<int32_t>& bounds) {
  return x.size(0) + 1 == static_cast<int64_t>(bounds.size());
}

void CheckIds(const torch::Tensor& ids, int64_t limit, const char* what) {
  if (!ids.defined() || !ids.is_cpu()) return;
  const int64_t* values = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK_INDEX(values[i] >= 0 && values[i] < limit, what, " ", values[i], " in row ", i,
                      " is not below ", limit, ", the size of the model's table");
  }
}

}  // namespace thaw
