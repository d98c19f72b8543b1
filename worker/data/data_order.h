// In which order an epoch visits its rows: a function of (seed, epoch), never a stored shuffle.
#pragma once

#include <array>
#include <cstdint>

namespace thaw {

// A permutation of [0, rows) with random access and no memory: a balanced Feistel network over the
// least even number of bits (8 or more) that holds `rows`, walked along its cycle until the value
// falls below `rows` (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, method 2).
// The round function is SplitMix64's finalizer of half and round key. Stable across machines and
// versions: checkpoints rely on it. Any thread may read.
class DataOrder {
 public:
  DataOrder(int64_t rows, uint64_t seed, int64_t epoch);

  int64_t rows() const { return rows_; }
  // The row visited at `position`; both in [0, rows).
  int64_t operator[](int64_t position) const;

 private:
  static constexpr int kRounds = 6;

  int64_t rows_;
  int half_bits_ = 4;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace thaw
