#include "worker/training/activation_cache.h"

#include <ATen/Functions.h>

#include <algorithm>

namespace thaw {
namespace {

// Slabs double what there is, within these: few of them, and little that is never filled.
constexpr int64_t kLeastSlabBytes = int64_t{1} << 20, kMostSlabBytes = int64_t{32} << 20;
constexpr int64_t kFloatBytes = sizeof(float);

int32_t LengthAt(const std::vector<int32_t>& bounds, size_t sequence) {
  return bounds.empty() ? 0 : bounds[sequence + 1] - bounds[sequence];
}

int64_t WidthOf(const torch::Tensor& data) { return data.defined() ? data.size(1) : 0; }

// A stream of Rows in the making.
class Stream {
 public:
  explicit Stream(int64_t width) : width_(width) {}

  void Reserve(int32_t rows) { bounds_.push_back(bounds_.back() + rows); }
  void Allocate() {
    data_ = at::empty({bounds_.back(), width_}, torch::kFloat32);
    out_ = data_.mutable_data_ptr<float>();
  }
  void Append(const float* values, int32_t rows) {
    out_ = std::copy_n(values, rows * width_, out_);
  }
  torch::Tensor data() const { return data_; }
  std::vector<int32_t> bounds() const { return bounds_; }

 private:
  const int64_t width_;
  std::vector<int32_t> bounds_ = {0};
  torch::Tensor data_;
  float* out_ = nullptr;
};

}  // namespace

ActivationCache::ActivationCache(const TokenizedDataset* dataset, int boundary, int64_t max_bytes)
    : dataset_(dataset), boundary_(boundary), max_bytes_(max_bytes) {
  const int64_t table = dataset->rows() * static_cast<int64_t>(sizeof(Entry));
  if (max_bytes <= table) return;
  entries_.resize(static_cast<size_t>(dataset->rows()));
  figures_.bytes = table;
}

Rows ActivationCache::RowsOf(const PackedBatch& batch,
                             const std::function<Rows(const PackedBatch&)>& compute) {
  std::vector<int64_t> missing;
  for (const int64_t row : batch.rows) {
    if (entries_.empty() || entries_[row].values == nullptr) missing.push_back(row);
  }
  figures_.computed += static_cast<int64_t>(missing.size());
  figures_.found += static_cast<int64_t>(batch.rows.size() - missing.size());
  if (missing.size() == batch.rows.size()) {
    Rows computed = compute(batch);
    Hold(missing, computed);
    return computed;
  }
  Rows computed;
  if (!missing.empty()) {
    computed = compute(Pack(*dataset_, missing));
    computed.data = computed.data.contiguous();
    if (computed.other.defined()) computed.other = computed.other.contiguous();
  }

  Stream data(width_), other(other_width_);
  size_t next = 0;  // of `missing`
  for (const int64_t row : batch.rows) {
    const Entry& entry = entries_[row];
    const bool held = entry.values != nullptr;
    data.Reserve(held ? entry.rows : LengthAt(computed.cu_seqlens, next));
    other.Reserve(held ? entry.other_rows : LengthAt(computed.other_bounds, next));
    next += !held;
  }
  data.Allocate();
  if (other_width_ > 0) other.Allocate();
  next = 0;
  for (const int64_t row : batch.rows) {
    const Entry& entry = entries_[row];
    if (entry.values != nullptr) {
      data.Append(entry.values, entry.rows);
      if (other_width_ == 0) continue;
      other.Append(entry.values + entry.rows * width_, entry.other_rows);
    } else {
      data.Append(computed.data.const_data_ptr<float>() + computed.cu_seqlens[next] * width_,
                  LengthAt(computed.cu_seqlens, next));
      if (other_width_ > 0) {
        other.Append(
            computed.other.const_data_ptr<float>() + computed.other_bounds[next] * other_width_,
            LengthAt(computed.other_bounds, next));
      }
      ++next;
    }
  }
  if (!missing.empty()) Hold(missing, computed);
  Rows rows{.data = data.data(), .cu_seqlens = data.bounds(), .other = {}, .other_bounds = {}};
  if (other_width_ > 0) {
    rows.other = other.data();
    rows.other_bounds = other.bounds();
  }
  return rows;
}

void ActivationCache::Hold(const std::vector<int64_t>& rows, const Rows& computed) {
  if (entries_.empty()) return;
  width_ = WidthOf(computed.data);
  other_width_ = WidthOf(computed.other);
  const torch::Tensor data = computed.data.contiguous();
  const torch::Tensor other =
      computed.other.defined() ? computed.other.contiguous() : torch::Tensor();
  for (size_t i = 0; i < rows.size(); ++i) {
    Entry entry{.rows = LengthAt(computed.cu_seqlens, i),
                .other_rows = LengthAt(computed.other_bounds, i)};
    const int64_t floats = entry.rows * width_, other_floats = entry.other_rows * other_width_;
    float* const room = Room(floats + other_floats);
    if (room == nullptr) continue;
    std::copy_n(data.const_data_ptr<float>() + computed.cu_seqlens[i] * width_, floats, room);
    if (other_floats > 0) {
      std::copy_n(other.const_data_ptr<float>() + computed.other_bounds[i] * other_width_,
                  other_floats, room + floats);
    }
    entry.values = room;
    entries_[rows[i]] = entry;
    ++figures_.held_rows;
    figures_.held_bytes += (floats + other_floats) * kFloatBytes;
  }
}

int64_t ActivationCache::ExpectedBytes() const {
  if (figures_.held_rows == 0) return 0;
  const double all = static_cast<double>(figures_.held_bytes) /
                     static_cast<double>(figures_.held_rows) *
                     static_cast<double>(dataset_->rows());
  return static_cast<int64_t>(std::min(all, static_cast<double>(max_bytes_)));
}

float* ActivationCache::Room(int64_t floats) {
  if (free_floats_ < floats) {
    const int64_t left = (max_bytes_ - figures_.bytes) / kFloatBytes;
    if (left < floats) return nullptr;
    const int64_t slab = std::clamp(figures_.bytes, kLeastSlabBytes, kMostSlabBytes);
    const int64_t size = std::min(left, std::max(slab / kFloatBytes, floats));
    slabs_.push_back(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(size)));
    figures_.bytes += size * kFloatBytes;
    free_ = slabs_.back().get();
    free_floats_ = size;
  }
  float* const room = free_;
  free_ += floats;
  free_floats_ -= floats;
  return room;
}

}  // namespace thaw
