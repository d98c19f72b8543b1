#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class Nf4KernelTest : public KernelTest {};

TEST_P(Nf4KernelTest, CodesBecomeTableTimesScaleWithTheFirstInTheUpperHalf) {
  const std::vector<float> table = RandomFloats(16, 1);
  struct {
    int64_t n, block;
  } const cases[] = {{64, 64}, {4096, 64}, {1, 64}, {63, 64}, {130, 64}, {777, 32}, {20000, 128}};
  for (const auto& [n, block] : cases) {
    const std::vector<float> scales = RandomFloats((n + block - 1) / block, 2);
    std::vector<uint8_t> codes;
    std::mt19937 generator(3);
    for (int64_t i = 0; i < (n + 1) / 2; ++i) codes.push_back(static_cast<uint8_t>(generator()));
    std::vector<float> y(n + 1, 7);
    kernels.nf4_expand(n, block, codes.data(), table.data(), scales.data(), y.data());
    for (int64_t i = 0; i < n; ++i) {
      const int code = i % 2 == 0 ? codes[i / 2] / 16 : codes[i / 2] % 16;
      ASSERT_EQ(y[i], table[code] * scales[i / block]) << i << " of " << n;
    }
    EXPECT_EQ(y[n], 7);
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, Nf4KernelTest, testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
