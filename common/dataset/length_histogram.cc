#include "common/dataset/length_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thaw {
namespace {

constexpr int kBits = 7;  // of a length that its bucket keeps behind the leading one
constexpr int64_t kBuckets = int64_t{1} << kBits;

// How many low bits of a length its bucket drops.
int Dropped(int64_t length) {
  return std::max(static_cast<int>(std::bit_width(static_cast<uint64_t>(length))) - (kBits + 1), 0);
}

}  // namespace

LengthHistogram::LengthHistogram() : counts_(static_cast<size_t>(kBuckets * (64 - kBits + 1))) {}

void LengthHistogram::Add(int64_t length) {
  const int dropped = Dropped(length);
  ++counts_[static_cast<size_t>(kBuckets * dropped + (length >> dropped))];
  ++count_;
  greatest_ = std::max(greatest_, length);
}

int64_t LengthHistogram::Percentile(double share) const {
  const auto wanted = static_cast<int64_t>(std::ceil(share * static_cast<double>(count_)));
  int64_t seen = 0;
  for (int64_t bucket = 0; bucket < static_cast<int64_t>(counts_.size()); ++bucket) {
    seen += counts_[static_cast<size_t>(bucket)];
    if (seen == 0 || seen < wanted) continue;
    // The inverse of Add: from the second power of two on, a bucket's first bit is set.
    const int64_t dropped = std::max<int64_t>(bucket / kBuckets - 1, 0);
    const int64_t kept = bucket - kBuckets * dropped;
    return std::min((kept << dropped) + ((int64_t{1} << dropped) - 1), greatest_);
  }
  return 0;
}

}  // namespace thaw
