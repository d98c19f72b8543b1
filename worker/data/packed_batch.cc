#include "worker/data/packed_batch.h"

#include <algorithm>

namespace thaw {
namespace {

void PackAnswer(const TokenizedDataset& dataset, int64_t row, PackedBatch* batch) {
  if (!dataset.labels.empty()) batch->labels.push_back(dataset.labels[row]);
  if (!dataset.numbers.empty()) batch->outputs.push_back(dataset.numbers[row]);
  if (!dataset.label_sets.empty()) {
    const size_t begin = batch->outputs.size();
    batch->outputs.resize(begin + static_cast<size_t>(dataset.classes));
    for (const int32_t label : dataset.label_sets[row]) {
      batch->outputs[begin + static_cast<size_t>(label)] = 1;
    }
  }
  if (!dataset.answers.empty()) {
    // A token is predicted by the row before it; no answer begins with a row's first token, so
    // that is a row of the same sequence.
    const auto begin = static_cast<int64_t>(batch->cu_seqlens.back());
    for (const TokenSpan& span : dataset.answers[row]) {
      for (int32_t token = span.begin; token < span.end; ++token) {
        batch->loss_rows.push_back(begin + token - 1);
        // The one behind the row's last is the next row's first.
        batch->next_ids.push_back(dataset.token_ids[dataset.offsets[row] + token]);
      }
    }
  }
}

void PackTarget(const TokenizedDataset& dataset, int64_t row, PackedBatch* batch) {
  if (dataset.targets.empty()) return;
  if (batch->target_bounds.empty()) batch->target_bounds.push_back(0);
  int64_t before = dataset.decoder_start;
  for (const int32_t id : dataset.targets[row]) {
    batch->loss_rows.push_back(static_cast<int64_t>(batch->target_ids.size()));
    batch->next_ids.push_back(id);
    batch->target_ids.push_back(before);
    before = id;
  }
  batch->target_bounds.push_back(static_cast<int32_t>(batch->target_ids.size()));
}

}  // namespace

PackedBatch Pack(const TokenizedDataset& dataset, std::span<const int64_t> rows) {
  PackedBatch batch;
  size_t total = 0;
  for (const int64_t row : rows) total += static_cast<size_t>(dataset.length(row));
  batch.token_ids.reserve(total);
  batch.token_type_ids.reserve(total);
  batch.cu_seqlens = {0};
  batch.rows.assign(rows.begin(), rows.end());
  for (const int64_t row : rows) {
    PackAnswer(dataset, row, &batch);
    PackTarget(dataset, row, &batch);
    const std::span<const int32_t> ids = dataset.row(row);
    batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) {
      batch.token_type_ids.push_back(
          dataset.type_ids.empty() ? 0 : dataset.type_ids[dataset.offsets[row] + i]);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.longest = std::max(batch.longest, dataset.length(row));
  }
  return batch;
}

}  // namespace thaw
