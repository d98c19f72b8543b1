// What the frozen part of a model computes for the rows of a dataset, kept in memory from pass to
// pass.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "worker/data/packed_batch.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"

namespace thaw {

// Holds for each row of the dataset what flows into group `boundary`, as long as there is room:
// the first rows that are asked for stay, the others are computed each time. A row's values are its
// alone (RowsAlike), so that nothing that is computed with them depends on what is held. Nothing
// below the boundary may change while it is used. On one thread; CPU tensors in fp32.
class ActivationCache {
 public:
  // What it holds and did.
  struct Figures {
    int64_t held_rows = 0;
    int64_t held_bytes = 0;
    int64_t bytes = 0;     // taken, its own tables included; never more than max_bytes
    int64_t found = 0;     // rows asked for that were held
    int64_t computed = 0;  // those that were not
  };

  // `dataset` must outlive it; boundary in [1, blocks + 1]. With max_bytes 0 it holds nothing.
  ActivationCache(const TokenizedDataset* dataset, int boundary, int64_t max_bytes);

  // Groups below it are what `compute` of RowsOf is to run.
  int boundary() const { return boundary_; }
  int64_t rows() const { return dataset_->rows(); }
  const Figures& figures() const { return figures_; }
  // Bytes that all rows would take if the ones held are like the others, but never more than it
  // may.
  int64_t ExpectedBytes() const;

  // What flows into the group at the boundary for `batch`, which is of the dataset. `compute` is
  // called at most once, with those of the batch's sequences that are not held, without autograd.
  Rows RowsOf(const PackedBatch& batch, const std::function<Rows(const PackedBatch&)>& compute);

 private:
  // A row's part of Rows::data, then that of Rows::other.
  struct Entry {
    const float* values = nullptr;  // null: not held
    int32_t rows = 0;
    int32_t other_rows = 0;
  };

  void Hold(const std::vector<int64_t>& rows, const Rows& computed);
  // Null when there is no room.
  float* Room(int64_t floats);

  const TokenizedDataset* const dataset_;
  const int boundary_;
  const int64_t max_bytes_;
  std::vector<Entry> entries_;  // by row; empty when nothing is ever held
  int64_t width_ = 0, other_width_ = 0;
  std::vector<std::unique_ptr<float[]>> slabs_;
  float* free_ = nullptr;  // in the newest slab
  int64_t free_floats_ = 0;
  Figures figures_;
};

}  // namespace thaw
