#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

struct NormCase {
  int64_t rows, columns;
  bool with_bias, with_residual;
  double dropout;
  bool from_floats = false;  // x and what goes with it are fp32, whatever y is
};

struct NormResult {
  Matrix y, normalised, d_residual, d_x;
  std::vector<float> inverse, d_gamma, d_beta, d_bias;
};

class NormTest : public KernelTest {
 protected:
  void Prepare(const NormCase& c) {
    rows = c.rows;
    columns = c.columns;
    x_type = c.from_floats ? RowType::kFloat : type;
    const size_t size = static_cast<size_t>(rows * columns), width = static_cast<size_t>(columns);
    x = Matrix(x_type, RandomFloats(size, 1));
    bias = c.with_bias ? RandomFloats(width, 2) : std::vector<float>();
    residual = c.with_residual ? Matrix(x_type, RandomFloats(size, 3)) : Matrix();
    gamma = RandomFloats(width, 4);
    beta = RandomFloats(width, 5);
    d_y = Random(size, 6);
    site = MakeDropoutSite(1, 2, 3, 4, c.dropout);
  }

  NormResult Run() const {
    NormResult r;
    const size_t size = x.size(), width = gamma.size();
    r.normalised = x;
    r.y = Unset(size);
    r.inverse.assign(static_cast<size_t>(rows), NAN);
    r.d_residual = r.d_x = Matrix(x_type, std::vector<float>(size, NAN));
    r.d_gamma.assign(width, NAN);
    r.d_beta = r.d_bias = r.d_gamma;
    kernels.residual_norm_forward(rows, columns, r.normalised.at(),
                                  bias.empty() ? nullptr : bias.data(), residual.at(), gamma.data(),
                                  beta.data(), 1e-5f, site, r.y.at(), r.inverse.data());
    kernels.residual_norm_backward(rows, columns, d_y.at(), r.normalised.at(), r.inverse.data(),
                                   gamma.data(), site, r.d_residual.at(), r.d_x.at(),
                                   r.d_gamma.data(), r.d_beta.data(), r.d_bias.data());
    return r;
  }

  int64_t rows = 0, columns = 0;
  RowType x_type = RowType::kFloat;
  Matrix x, residual, d_y;
  std::vector<float> bias, gamma, beta;
  DropoutSite site;
};

TEST_P(NormTest, AgreesWithDoublePrecisionForwardAndBackward) {
  const NormCase cases[] = {{1, 3, true, true, 0},          {3, 48, true, true, 0},
                            {130, 90, true, true, .2},      {65, 384, true, true, .1},
                            {7, 50, false, false, 0},       {9, 16, false, true, .3},
                            {33, 70, false, false, 0, true}};
  for (const NormCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns);
    Prepare(c);
    const NormResult found = Run();
    const std::vector<float> xs = x.floats(), residuals = residual.floats(), above = d_y.floats(),
                             kept = found.normalised.floats();
    const size_t size = x.size(), width = gamma.size();
    std::vector<double> y(size), normalised(size), d_residual(size), d_x(size), d_gamma(width),
        d_beta(width), d_bias(width);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      std::vector<double> z(width), factor(width);
      double mean = 0, variance = 0, sum = 0, product = 0;
      for (size_t i = 0; i < width; ++i) {
        factor[i] = DropoutFactor(site, static_cast<uint32_t>(r), 0, static_cast<int64_t>(i));
        z[i] = (xs[r * width + i] + (bias.empty() ? 0.0 : bias[i])) * factor[i] +
               (residual.empty() ? 0.0 : residuals[r * width + i]);
        mean += z[i] / static_cast<double>(width);
      }
      for (double value : z) variance += (value - mean) * (value - mean) / double(width);
      const double inverse = 1 / std::sqrt(variance + 1e-5);
      for (size_t i = 0; i < width; ++i) {
        z[i] = normalised[r * width + i] = (z[i] - mean) * inverse;
        y[r * width + i] = z[i] * gamma[i] + beta[i];
        z[i] = kept[r * width + i];  // all that the backward pass knows
        const double dy = above[r * width + i];
        d_gamma[i] += dy * z[i];
        d_beta[i] += dy;
        sum += dy * gamma[i] / double(width);
        product += dy * gamma[i] * z[i] / double(width);
      }
      for (size_t i = 0; i < width; ++i) {
        const double d = (above[r * width + i] * gamma[i] - sum - z[i] * product) * inverse;
        d_residual[r * width + i] = d;
        d_x[r * width + i] = d * factor[i];
        d_bias[i] += d * factor[i];
      }
    }
    ExpectNear(found.normalised, normalised, 1e-5, x_type);
    ExpectNear(found.y, y, 1e-5, type);
    ExpectNear(found.d_residual, d_residual, 2e-5, x_type);
    ExpectNear(found.d_x, d_x, 2e-5, x_type);
    EXPECT_LT(LargestDifference(found.d_gamma, d_gamma), 1e-4);
    EXPECT_LT(LargestDifference(found.d_beta, d_beta), 1e-4);
    EXPECT_LT(LargestDifference(found.d_bias, d_bias), 1e-4);
  }
}

TEST_P(NormTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  Prepare({300, 100, true, true, 0.1});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const NormResult one = Run();
  omp_set_num_threads(3);
  const NormResult three = Run();
  omp_set_num_threads(threads);
  EXPECT_EQ(one.y, three.y);
  EXPECT_EQ(one.d_residual, three.d_residual);
  EXPECT_EQ(one.d_x, three.d_x);
  EXPECT_EQ(one.d_gamma, three.d_gamma);
  EXPECT_EQ(one.d_beta, three.d_beta);
  EXPECT_EQ(one.d_bias, three.d_bias);
}

TEST_P(NormTest, ColumnSumsAgreeWithDoublePrecision) {
  for (int64_t n : {1, 64, 65, 1000}) {
    const int64_t width = 37;
    const Matrix x = Random(static_cast<size_t>(n * width), 8);
    const std::vector<float> values = x.floats();
    std::vector<double> expected(static_cast<size_t>(width));
    for (size_t i = 0; i < values.size(); ++i) expected[i % expected.size()] += values[i];
    std::vector<float> found(static_cast<size_t>(width), NAN);
    kernels.column_sums(n, width, x.at(), found.data());
    EXPECT_LT(LargestDifference(found, expected), 1e-4) << n << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, NormTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
