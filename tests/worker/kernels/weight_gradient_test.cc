// Weights' gradients from rows in bf16, against double precision.
#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class WeightGradientTest : public ::testing::TestWithParam<InstructionSet> {};

std::vector<float> GradientsOf(const KernelTable& kernels, int64_t rows, int64_t out, int64_t in,
                               const Matrix& d, const Matrix& x, const std::vector<float>* before) {
  std::vector<float> sums =
      before == nullptr ? std::vector<float>(static_cast<size_t>(out * in), NAN) : *before;
  kernels.matmul_transposed(rows, out, in, static_cast<const Bf16*>(d.at().data),
                            static_cast<const Bf16*>(x.at().data), before != nullptr, sums.data());
  return sums;
}

TEST_P(WeightGradientTest, AgreesWithDoublePrecisionOnAnyNumberOfThreads) {
  const KernelTable& kernels = *KernelsFor(GetParam());
  const int threads = omp_get_max_threads();
  struct Sizes {
    int64_t rows, out, in;
  };
  for (const auto& [rows, out, in] :
       {Sizes{1, 1, 1}, Sizes{31, 3, 5}, Sizes{32, 16, 32}, Sizes{257, 40, 33}, Sizes{600, 400, 96},
        Sizes{70, 16, 800}, Sizes{300, 1536, 16}, Sizes{33, 50, 1000}}) {
    SCOPED_TRACE(::testing::Message() << rows << " rows, " << out << " x " << in);
    const Matrix d(RowType::kBf16, RandomFloats(static_cast<size_t>(rows * out), 1));
    const Matrix x(RowType::kBf16, RandomFloats(static_cast<size_t>(rows * in), 2));
    const std::vector<float> before = RandomFloats(static_cast<size_t>(out * in), 3);
    const std::vector<float> ds = d.floats(), xs = x.floats();
    std::vector<double> expected(before.size()), added(before.begin(), before.end());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        const double factor = ds[static_cast<size_t>(r * out + o)];
        for (int64_t i = 0; i < in; ++i) {
          const size_t at = static_cast<size_t>(o * in + i);
          expected[at] += factor * xs[static_cast<size_t>(r * in + i)];
          added[at] += factor * xs[static_cast<size_t>(r * in + i)];
        }
      }
    }
    const std::vector<float> found = GradientsOf(kernels, rows, out, in, d, x, nullptr);
    const std::vector<float> sums = GradientsOf(kernels, rows, out, in, d, x, &before);
    EXPECT_LT(LargestDifference(found, expected), 1e-4);
    EXPECT_LT(LargestDifference(sums, added), 1e-4);
    omp_set_num_threads(3);
    EXPECT_EQ(GradientsOf(kernels, rows, out, in, d, x, nullptr), found);
    EXPECT_EQ(GradientsOf(kernels, rows, out, in, d, x, &before), sums);
    omp_set_num_threads(threads);
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WeightGradientTest);
INSTANTIATE_TEST_SUITE_P(Sets, WeightGradientTest,
                         ::testing::ValuesIn(SetsWith(&KernelTable::matmul_transposed)),
                         [](const auto& info) {
                           return Name({info.param, RowType::kBf16});
                         });

}  // namespace
}  // namespace thaw
