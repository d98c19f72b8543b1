#include "worker/data/data_order.h"

#include <map>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

std::vector<int64_t> WholeOrder(int64_t rows, uint64_t seed, int64_t epoch) {
  const DataOrder order(rows, seed, epoch);
  std::vector<int64_t> visited;
  for (int64_t i = 0; i < rows; ++i) visited.push_back(order[i]);
  return visited;
}

TEST(DataOrderTest, VisitsEveryRowOnce) {
  for (int64_t rows : {1, 2, 3, 64, 65, 255, 256, 257, 1000, 4096, 4097, 65537}) {
    std::vector<bool> seen(rows);
    for (const int64_t row : WholeOrder(rows, 7, 3)) {
      ASSERT_GE(row, 0);
      ASSERT_LT(row, rows);
      ASSERT_FALSE(seen[row]) << rows;
      seen[row] = true;
    }
  }
}

// A changed order would break the resume of every checkpoint there is.
TEST(DataOrderTest, NeverChanges) {
  EXPECT_THAT(WholeOrder(10, 0, 0), ::testing::ElementsAre(9, 5, 3, 2, 6, 8, 0, 7, 1, 4));
  EXPECT_THAT(WholeOrder(10, 1, 5), ::testing::ElementsAre(1, 0, 5, 9, 7, 4, 8, 3, 6, 2));
  const DataOrder large(1'000'000'000'000, 42, 1);
  EXPECT_EQ(large[0], 440619000145);
  EXPECT_EQ(large[999'999'999'999], 796720858529);
}

TEST(DataOrderTest, DiffersBySeedAndEpoch) {
  const auto base = WholeOrder(1000, 1, 1);
  for (const auto& other :
       {WholeOrder(1000, 2, 1), WholeOrder(1000, 1, 2), WholeOrder(1000, 2, 0)}) {
    int equal = 0;
    for (int i = 0; i < 1000; ++i) equal += base[i] == other[i];
    EXPECT_LE(equal, 8);  // one expected
  }
}

// Over many epochs all 120 orders of five rows come up about equally often (chi-squared, 119
// degrees of freedom).
TEST(DataOrderTest, IsUniformOnFewRows) {
  constexpr int kEpochs = 24'000;
  std::map<std::vector<int64_t>, int> counts;
  for (int epoch = 0; epoch < kEpochs; ++epoch) ++counts[WholeOrder(5, 3, epoch)];
  EXPECT_EQ(counts.size(), 120u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) {
    const double difference = count - kEpochs / 120.0;
    chi_squared += difference * difference / (kEpochs / 120.0);
  }
  EXPECT_LT(chi_squared, 175);
}

// Where a row lands is uniform, and neighbours do not stay together.
TEST(DataOrderTest, SpreadsRows) {
  constexpr int kRows = 300, kEpochs = 3000;
  std::vector<int> quarter(4);
  int together = 0;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const DataOrder order(kRows, 11, epoch);
    for (int i = 0; i < kRows; ++i) {
      if (order[i] == 17) ++quarter[i * 4 / kRows];
      if (i > 0 && order[i] == order[i - 1] + 1) ++together;
    }
  }
  for (const int count : quarter) EXPECT_NEAR(count, kEpochs / 4.0, 100);
  EXPECT_NEAR(together / static_cast<double>(kEpochs), 1.0, 0.1);
}

}  // namespace
}  // namespace thaw
