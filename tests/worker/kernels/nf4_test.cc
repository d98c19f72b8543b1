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
    const size_t count = static_cast<size_t>(n);
    const std::vector<float> scales = RandomFloats(static_cast<size_t>((n + block - 1) / block), 2);
    std::vector<uint8_t> codes;
    std::mt19937 generator(3);
    for (int64_t i = 0; i < (n + 1) / 2; ++i) codes.push_back(static_cast<uint8_t>(generator()));
    std::vector<float> expected;
    for (size_t i = 0; i < count; ++i) {
      const int code = i % 2 == 0 ? codes[i / 2] / 16 : codes[i / 2] % 16;
      expected.push_back(table[static_cast<size_t>(code)] * scales[i / static_cast<size_t>(block)]);
    }
    expected.push_back(7);  // behind the last is nothing of the kernel's
    Matrix y = Filled(count + 1, 7);
    kernels.nf4_expand(n, block, codes.data(), table.data(), scales.data(), y.at());
    EXPECT_EQ(y, Matrix(type, expected)) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Nf4KernelTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
