// Percentiles of lengths, in memory that does not grow with their number.
#pragma once

#include <cstdint>
#include <vector>

namespace thaw {

class LengthHistogram {
 public:
  LengthHistogram();

  // `length` is not negative.
  void Add(int64_t length);

  // The least length that is not below `share` (above 0, at most 1) of all: exact up to 255, above
  // that up to one part in 128 too great, but never greater than the greatest. 0 without any.
  int64_t Percentile(double share) const;
  int64_t greatest() const { return greatest_; }
  int64_t count() const { return count_; }

 private:
  std::vector<int64_t> counts_;  // 128 buckets for each power of two
  int64_t count_ = 0;
  int64_t greatest_ = 0;
};

}  // namespace thaw
