// What the frozen part of a model computes for the rows of a dataset, kept from pass to pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "worker/data/packed_batch.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"
#include "worker/training/scratch_file.h"

namespace thaw {

// Holds for each row of the dataset what flows into group `boundary`, as long as there is room, in
// memory and then in a file: the first rows that are asked for stay, the others are computed each
// time. A row's values are its alone (RowsAlike), so that nothing that is computed with them
// depends on what is held. Nothing below the boundary may change while it is used. On one thread;
// CPU tensors of any type.
class ActivationCache {
 public:
  // What it holds and did.
  struct Figures {
    int64_t held_rows = 0;
    int64_t held_bytes = 0;       // of them, in memory
    int64_t file_held_bytes = 0;  // and in the file
    int64_t bytes = 0;            // of memory, its own tables included; never more than max_bytes
    int64_t file_bytes = 0;       // of the disk
    int64_t found = 0;            // rows asked for that were held
    int64_t computed = 0;         // those that were not
  };

  // `dataset` must outlive it; boundary in [1, blocks + 1]. What max_bytes of memory have no room
  // for goes to a file in `scratch`; where they are too few for its tables it holds nothing.
  ActivationCache(const TokenizedDataset* dataset, int boundary, int64_t max_bytes,
                  ScratchRoom scratch = {});

  // Groups below it are what `compute` of RowsOf is to run.
  int boundary() const { return boundary_; }
  int64_t rows() const { return dataset_->rows(); }
  const Figures& figures() const { return figures_; }
  // Why its file takes no more; OK: it would.
  const absl::Status& file_full() const { return file_.full(); }
  // If the rows not held are like the others: bytes of memory that rows will take in the end, and
  // the share of all rows that will be held there or in the file.
  int64_t ExpectedBytes() const;
  double ExpectedShare() const;

  // What flows into the group at the boundary for `batch`, which is of the dataset. `compute` is
  // called at most once, with those of the batch's sequences that are not held, without autograd.
  Rows RowsOf(const PackedBatch& batch, const std::function<Rows(const PackedBatch&)>& compute);

 private:
  // A row's part of Rows::data, then that of Rows::other.
  struct Entry {
    const std::byte* values = nullptr;  // null: not held
    int32_t rows = 0;
    int32_t other_rows = 0;
    bool in_file = false;
  };

  // Of the rows of one stream; width 0: there is none.
  struct Form {
    torch::ScalarType type = torch::kFloat;
    int64_t width = 0;
    int64_t row_bytes = 0;
  };

  static Form FormOf(const torch::Tensor& data);
  int64_t BytesOf(const Entry& entry) const {
    return entry.rows * data_.row_bytes + entry.other_rows * other_.row_bytes;
  }
  double AllBytes() const;  // of all rows, if they are like those held
  void Hold(const std::vector<int64_t>& rows, const Rows& computed);
  // In memory; null when there is no room.
  std::byte* Room(int64_t bytes);

  const TokenizedDataset* const dataset_;
  const int boundary_;
  const int64_t max_bytes_;
  std::vector<Entry> entries_;  // by row; empty when nothing is ever held
  Form data_, other_;
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
  std::byte* free_ = nullptr;  // in the newest slab
  int64_t free_bytes_ = 0;
  ScratchFile file_;
  Figures figures_;
};

}  // namespace thaw
