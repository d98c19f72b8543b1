#include "worker/data/packed_batch.h"

#include <algorithm>

namespace thaw {

PackedBatch Pack(const TokenizedDataset& dataset, std::span<const int64_t> rows) {
  PackedBatch batch;
  size_t total = 0;
  for (const int64_t row : rows) total += static_cast<size_t>(dataset.length(row));
  batch.token_ids.reserve(total);
  batch.token_type_ids.reserve(total);
  batch.cu_seqlens = {0};
  batch.rows.assign(rows.begin(), rows.end());
  for (const int64_t row : rows) {
    const std::span<const int32_t> ids = dataset.row(row);
    batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) {
      batch.token_type_ids.push_back(
          dataset.type_ids.empty() ? 0 : dataset.type_ids[dataset.offsets[row] + i]);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.longest = std::max(batch.longest, dataset.length(row));
    if (!dataset.labels.empty()) batch.labels.push_back(dataset.labels[row]);
  }
  return batch;
}

}  // namespace thaw
