// A list of any length for each row of a dataset, all in one array.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thaw {

template <typename T>
struct RowLists {
  std::vector<T> values;
  std::vector<int64_t> offsets;  // rows + 1; empty: there are no lists

  bool empty() const { return offsets.empty(); }
  std::span<const T> operator[](int64_t row) const {
    return {values.data() + offsets[row], static_cast<size_t>(offsets[row + 1] - offsets[row])};
  }
  // The list of the next row.
  void Append(std::span<const T> list) {
    if (offsets.empty()) offsets.push_back(0);
    values.insert(values.end(), list.begin(), list.end());
    offsets.push_back(static_cast<int64_t>(values.size()));
  }
  int64_t BytesHeld() const {
    return static_cast<int64_t>(values.capacity() * sizeof(T) +
                                offsets.capacity() * sizeof(int64_t));
  }
};

}  // namespace thaw
