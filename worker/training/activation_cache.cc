#include "worker/training/activation_cache.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

namespace thaw {
namespace {

// Slabs double what there is, within these: few of them, and little that is never filled.
constexpr int64_t kLeastSlabBytes = int64_t{1} << 20, kMostSlabBytes = int64_t{32} << 20;

int32_t LengthAt(const std::vector<int32_t>& bounds, size_t sequence) {
  return bounds.empty() ? 0 : bounds[sequence + 1] - bounds[sequence];
}

// Of [rows, width], undefined: of none.
int64_t RowBytes(const torch::Tensor& data) {
  return data.defined() ? data.size(1) * static_cast<int64_t>(data.element_size()) : 0;
}

// A row's place in contiguous data.
const std::byte* RowAt(const torch::Tensor& data, int64_t row) {
  return static_cast<const std::byte*>(data.const_data_ptr()) + row * RowBytes(data);
}

// A stream of Rows in the making.
class Stream {
 public:
  void Reserve(int32_t rows) { bounds_.push_back(bounds_.back() + rows); }
  void Allocate(int64_t width, torch::ScalarType type) {
    data_ = at::empty({bounds_.back(), width}, type);
    row_bytes_ = RowBytes(data_);
    out_ = static_cast<std::byte*>(data_.mutable_data_ptr());
  }
  void Append(const std::byte* values, int32_t rows) {
    out_ = std::copy_n(values, rows * row_bytes_, out_);
  }
  torch::Tensor data() const { return data_; }
  std::vector<int32_t> bounds() const { return bounds_; }

 private:
  std::vector<int32_t> bounds_ = {0};
  torch::Tensor data_;
  int64_t row_bytes_ = 0;
  std::byte* out_ = nullptr;
};

}  // namespace

ActivationCache::ActivationCache(const TokenizedDataset* dataset, int boundary, int64_t max_bytes,
                                 ScratchRoom scratch)
    : dataset_(dataset), boundary_(boundary), max_bytes_(max_bytes), file_(std::move(scratch)) {
  const int64_t table = dataset->rows() * static_cast<int64_t>(sizeof(Entry));
  if (max_bytes <= table) return;
  entries_.resize(static_cast<size_t>(dataset->rows()));
  figures_.bytes = table;
}

Rows ActivationCache::RowsOf(const PackedBatch& batch,
                             const std::function<Rows(const PackedBatch&)>& compute) {
  std::vector<int64_t> missing;
  for (const int64_t row : batch.rows) {
    if (entries_.empty() || entries_[row].values == nullptr) {
      missing.push_back(row);
    } else if (entries_[row].in_file) {
      ScratchFile::Expect(entries_[row].values, BytesOf(entries_[row]));
    }
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

  Stream data, other;
  size_t next = 0;  // of `missing`
  for (const int64_t row : batch.rows) {
    const Entry& entry = entries_[row];
    const bool held = entry.values != nullptr;
    data.Reserve(held ? entry.rows : LengthAt(computed.cu_seqlens, next));
    other.Reserve(held ? entry.other_rows : LengthAt(computed.other_bounds, next));
    next += !held;
  }
  data.Allocate(data_.width, data_.type);
  if (other_.width > 0) other.Allocate(other_.width, other_.type);
  next = 0;
  for (const int64_t row : batch.rows) {
    const Entry& entry = entries_[row];
    if (entry.values != nullptr) {
      data.Append(entry.values, entry.rows);
      if (other_.width > 0) {
        other.Append(entry.values + entry.rows * data_.row_bytes, entry.other_rows);
      }
      if (entry.in_file) ScratchFile::Drop(entry.values, BytesOf(entry));
    } else {
      data.Append(RowAt(computed.data, computed.cu_seqlens[next]),
                  LengthAt(computed.cu_seqlens, next));
      if (other_.width > 0) {
        other.Append(RowAt(computed.other, computed.other_bounds[next]),
                     LengthAt(computed.other_bounds, next));
      }
      ++next;
    }
  }
  if (!missing.empty()) Hold(missing, computed);
  Rows rows{.data = data.data(), .cu_seqlens = data.bounds(), .other = {}, .other_bounds = {}};
  if (other_.width > 0) {
    rows.other = other.data();
    rows.other_bounds = other.bounds();
  }
  return rows;
}

ActivationCache::Form ActivationCache::FormOf(const torch::Tensor& data) {
  if (!data.defined()) return {};
  return {data.scalar_type(), data.size(1), RowBytes(data)};
}

void ActivationCache::Hold(const std::vector<int64_t>& rows, const Rows& computed) {
  if (entries_.empty()) return;
  data_ = FormOf(computed.data);
  other_ = FormOf(computed.other);
  const torch::Tensor data = computed.data.contiguous();
  const torch::Tensor other =
      computed.other.defined() ? computed.other.contiguous() : torch::Tensor();
  for (size_t i = 0; i < rows.size(); ++i) {
    Entry entry{.rows = LengthAt(computed.cu_seqlens, i),
                .other_rows = LengthAt(computed.other_bounds, i)};
    const std::byte* const values = RowAt(data, computed.cu_seqlens[i]);
    const std::byte* const other_values =
        entry.other_rows > 0 ? RowAt(other, computed.other_bounds[i]) : nullptr;
    const int64_t bytes = entry.rows * data_.row_bytes;
    const int64_t other_bytes = entry.other_rows * other_.row_bytes;
    if (std::byte* const room = Room(bytes + other_bytes); room != nullptr) {
      std::copy_n(other_values, other_bytes, std::copy_n(values, bytes, room));
      entry.values = room;
      figures_.held_bytes += bytes + other_bytes;
    } else {
      entry.values = file_.Append({values, static_cast<size_t>(bytes)},
                                  {other_values, static_cast<size_t>(other_bytes)});
      figures_.file_bytes = file_.bytes();
      if (entry.values == nullptr) continue;
      entry.in_file = true;
      figures_.file_held_bytes += bytes + other_bytes;
    }
    entries_[rows[i]] = entry;
    ++figures_.held_rows;
  }
}

double ActivationCache::AllBytes() const {
  return static_cast<double>(figures_.held_bytes + figures_.file_held_bytes) /
         static_cast<double>(figures_.held_rows) * static_cast<double>(rows());
}

int64_t ActivationCache::ExpectedBytes() const {
  if (figures_.held_rows == 0) return 0;
  return static_cast<int64_t>(std::min(AllBytes(), static_cast<double>(max_bytes_)));
}

double ActivationCache::ExpectedShare() const {
  if (figures_.held_rows == 0) return 0;
  return std::min(static_cast<double>(max_bytes_ + file_.most_bytes()) / AllBytes(), 1.0);
}

std::byte* ActivationCache::Room(int64_t bytes) {
  if (free_bytes_ < bytes) {
    const int64_t left = max_bytes_ - figures_.bytes;
    if (left < bytes) return nullptr;
    const int64_t slab = std::clamp(figures_.bytes, kLeastSlabBytes, kMostSlabBytes);
    const int64_t size = std::min(left, std::max(slab, bytes));
    slabs_.push_back(std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(size)));
    figures_.bytes += size;
    free_ = slabs_.back().get();
    free_bytes_ = size;
  }
  std::byte* const room = free_;
  free_ += bytes;
  free_bytes_ -= bytes;
  return room;
}

}  // namespace thaw
