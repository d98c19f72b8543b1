// Products of many rows in bf16 with a weight, against double precision.
#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

constexpr int64_t kGap = 3;  // between rows, where they do not lie side by side

struct ProductCase {
  int64_t rows, in, out;
  bool gaps = false, with_bias = false, accumulate = false;
};

class ProductTest : public ::testing::TestWithParam<InstructionSet> {
 protected:
  const KernelTable& kernels_ = *KernelsFor(GetParam());

  static Bf16* In(const Matrix& matrix, int64_t first = 0) {
    return static_cast<Bf16*>(const_cast<void*>(matrix.at(first).data));
  }

  void Check(WeightLayout layout, const ProductCase& c) {
    SCOPED_TRACE(::testing::Message()
                 << c.rows << " x " << c.in << " -> " << c.out << (c.gaps ? ", gaps" : "")
                 << (c.with_bias ? ", bias" : "") << (c.accumulate ? ", accumulates" : "")
                 << (layout == WeightLayout::kInOut ? ", in-out" : ""));
    const bool in_out = layout == WeightLayout::kInOut;
    const int64_t gap = c.gaps ? kGap : 0;
    const MatmulShape shape = {
        layout, c.rows, c.in, c.out, c.in + gap, (in_out ? c.out : c.in) + gap, c.out + gap};
    const auto random = [](int64_t n, uint32_t seed) {
      return Matrix(RowType::kBf16, RandomFloats(static_cast<size_t>(n), seed));
    };
    const Matrix x = random(c.rows * shape.x_row, 1),
                 w = random((in_out ? c.in : c.out) * shape.weight_row, 2),
                 before = random(c.rows * shape.y_row, 3);
    const std::vector<float> bias = RandomFloats(static_cast<size_t>(c.out), 4), xs = x.floats(),
                             ws = w.floats(), ys = before.floats();
    const float* const some_bias = c.with_bias ? bias.data() : nullptr;
    std::vector<double> expected(ys.begin(), ys.end());
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t o = 0; o < c.out; ++o) {
        double& sum = expected[static_cast<size_t>(r * shape.y_row + o)];
        if (!c.accumulate) sum = 0;
        if (c.with_bias) sum += bias[static_cast<size_t>(o)];
        for (int64_t i = 0; i < c.in; ++i) {
          const int64_t at = in_out ? i * shape.weight_row + o : o * shape.weight_row + i;
          sum += double{xs[static_cast<size_t>(r * shape.x_row + i)]} * ws[static_cast<size_t>(at)];
        }
      }
    }
    const auto product = [&](int threads) {
      const int before_threads = omp_get_max_threads();
      omp_set_num_threads(threads);
      Matrix y = before;
      kernels_.matmul(shape, In(x), In(w), some_bias, c.accumulate, In(y));
      omp_set_num_threads(before_threads);
      return y;
    };
    const Matrix found = product(1);
    ExpectNear(found, expected, 1e-4, RowType::kBf16);
    EXPECT_EQ(found, product(2));
    EXPECT_EQ(found, product(3));

    // A row alone has the bits that it has among the others.
    const std::vector<float> all = found.floats();
    for (int64_t row : {c.rows / 2, c.rows - 1}) {
      Matrix alone = before;
      const int64_t at = row * shape.y_row;
      MatmulShape one = shape;
      one.rows = 1;
      kernels_.matmul(one, In(x, row * shape.x_row), In(w), some_bias, c.accumulate, In(alone, at));
      const std::vector<float> own = alone.floats();
      EXPECT_TRUE(std::equal(own.begin() + at, own.begin() + at + c.out, all.begin() + at)) << row;
    }
  }
};

TEST_P(ProductTest, AgreesWithDoublePrecisionOnAnyNumberOfThreads) {
  for (WeightLayout layout : {WeightLayout::kOutIn, WeightLayout::kInOut}) {
    for (const ProductCase& c : {
             ProductCase{1, 1, 1},
             ProductCase{1, 32, 16},
             ProductCase{31, 5, 3},
             ProductCase{33, 64, 48},
             ProductCase{300, 384, 96},
             ProductCase{40, 33, 300},
             // More rows, columns and depth than a block has.
             ProductCase{530, 40, 290},
             ProductCase{50, 1100, 40},
             ProductCase{17, 2080, 20},
             // A weight of which a task packs 32 columns at least.
             ProductCase{3, 16448, 40},
         }) {
      Check(layout, c);
      Check(layout, {c.rows, c.in, c.out, true, true, false});
      Check(layout, {c.rows, c.in, c.out, false, false, true});
      Check(layout, {c.rows, c.in, c.out, true, true, true});
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ProductTest);
INSTANTIATE_TEST_SUITE_P(Sets, ProductTest, ::testing::ValuesIn(SetsWith(&KernelTable::matmul)),
                         [](const auto& info) {
                           return Name({info.param, RowType::kBf16});
                         });

}  // namespace
}  // namespace thaw
