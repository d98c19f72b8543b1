#include <cstdint>
#include <limits>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class ConversionTest : public KernelTest {};

TEST_P(ConversionTest, RoundsToNearestEven) {
  for (size_t n : {1u, 15u, 16u, 100u, 10007u}) {
    std::vector<float> values = RandomFloats(n, 1, 100);
    for (size_t i = 0; i + 1 < n; i += 7) {  // halfway, to an even and an odd neighbour
      values[i] = 1 + static_cast<float>(i % 128) / 128 + 1.0f / 256;
    }
    std::vector<Bf16> found(n);
    kernels.round(static_cast<int64_t>(n), values.data(), found.data());
    for (size_t i = 0; i < n; ++i) {
      ASSERT_EQ(found[i].bits, Narrowed(values[i]).bits) << values[i];
    }
  }
}

TEST_P(ConversionTest, KeepsWhatIsNotFinite) {
  uint32_t bits = 0x7f800001;  // a NaN whose upper half alone would be infinite
  float nan;
  std::memcpy(&nan, &bits, sizeof(nan));
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {infinity, -infinity, NAN, nan, 3.4e38f};
  std::vector<Bf16> found(values.size());
  kernels.round(static_cast<int64_t>(values.size()), values.data(), found.data());
  EXPECT_EQ(Widened(found[0]), infinity);
  EXPECT_EQ(Widened(found[1]), -infinity);
  EXPECT_TRUE(std::isnan(Widened(found[2])));
  EXPECT_TRUE(std::isnan(Widened(found[3])));
  EXPECT_EQ(Widened(found[4]), infinity);  // nearer than the largest number
}

TEST_P(ConversionTest, AddsHalvesToFloats) {
  for (size_t n : {1u, 33u, 10007u}) {
    const Matrix x(RowType::kBf16, RandomFloats(n, 1));
    std::vector<float> sums = RandomFloats(n, 2), expected = sums;
    for (size_t i = 0; i < n; ++i) expected[i] += x.floats()[i];
    kernels.add(static_cast<int64_t>(n), static_cast<const Bf16*>(x.at().data), sums.data());
    EXPECT_EQ(sums, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ConversionTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
