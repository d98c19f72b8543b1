#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

struct NormCase {
  int64_t rows, columns;
  bool with_bias, with_residual;
  double dropout;
};

struct NormResult {
  std::vector<float> y, normalised, inverse, d_residual, d_x, d_gamma, d_beta, d_bias;
};

class NormTest : public KernelTest {
 protected:
  void Prepare(const NormCase& c) {
    rows = c.rows;
    columns = c.columns;
    const size_t size = static_cast<size_t>(rows * columns), width = static_cast<size_t>(columns);
    x = RandomFloats(size, 1);
    bias = c.with_bias ? RandomFloats(width, 2) : std::vector<float>();
    residual = c.with_residual ? RandomFloats(size, 3) : std::vector<float>();
    gamma = RandomFloats(width, 4);
    beta = RandomFloats(width, 5);
    d_y = RandomFloats(size, 6);
    site = MakeDropoutSite(1, 2, 3, 4, c.dropout);
  }

  NormResult Run() const {
    NormResult r;
    const size_t size = x.size(), width = gamma.size();
    r.normalised = x;
    r.y.assign(size, NAN);
    r.inverse.assign(static_cast<size_t>(rows), NAN);
    r.d_residual = r.d_x = r.y;
    r.d_gamma.assign(width, NAN);
    r.d_beta = r.d_bias = r.d_gamma;
    kernels.residual_norm_forward(rows, columns, r.normalised.data(),
                                  bias.empty() ? nullptr : bias.data(),
                                  residual.empty() ? nullptr : residual.data(), gamma.data(),
                                  beta.data(), 1e-5f, site, r.y.data(), r.inverse.data());
    kernels.residual_norm_backward(rows, columns, d_y.data(), r.normalised.data(), r.inverse.data(),
                                   gamma.data(), site, r.d_residual.data(), r.d_x.data(),
                                   r.d_gamma.data(), r.d_beta.data(), r.d_bias.data());
    return r;
  }

  int64_t rows = 0, columns = 0;
  std::vector<float> x, bias, residual, gamma, beta, d_y;
  DropoutSite site;
};

TEST_P(NormTest, AgreesWithDoublePrecisionForwardAndBackward) {
  const NormCase cases[] = {{1, 3, true, true, 0},     {3, 48, true, true, 0},
                            {130, 90, true, true, .2}, {65, 384, true, true, .1},
                            {7, 50, false, false, 0},  {9, 16, false, true, .3}};
  for (const NormCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns);
    Prepare(c);
    const NormResult found = Run();
    const size_t size = x.size(), width = gamma.size();
    std::vector<double> y(size), d_residual(size), d_x(size), d_gamma(width), d_beta(width),
        d_bias(width);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      std::vector<double> z(width), factor(width);
      double mean = 0, variance = 0, sum = 0, product = 0;
      for (size_t i = 0; i < width; ++i) {
        factor[i] = DropoutFactor(site, static_cast<uint32_t>(r), 0, static_cast<int64_t>(i));
        z[i] = (x[r * width + i] + (bias.empty() ? 0.0 : bias[i])) * factor[i] +
               (residual.empty() ? 0.0 : residual[r * width + i]);
        mean += z[i] / static_cast<double>(width);
      }
      for (double value : z) variance += (value - mean) * (value - mean) / double(width);
      const double inverse = 1 / std::sqrt(variance + 1e-5);
      for (size_t i = 0; i < width; ++i) {
        z[i] = (z[i] - mean) * inverse;
        const double dy = d_y[r * width + i];
        y[r * width + i] = z[i] * gamma[i] + beta[i];
        d_gamma[i] += dy * z[i];
        d_beta[i] += dy;
        sum += dy * gamma[i] / double(width);
        product += dy * gamma[i] * z[i] / double(width);
      }
      for (size_t i = 0; i < width; ++i) {
        const double d = (d_y[r * width + i] * gamma[i] - sum - z[i] * product) * inverse;
        d_residual[r * width + i] = d;
        d_x[r * width + i] = d * factor[i];
        d_bias[i] += d * factor[i];
      }
    }
    EXPECT_LT(LargestDifference(found.y, y), 1e-5);
    EXPECT_LT(LargestDifference(found.d_residual, d_residual), 2e-5);
    EXPECT_LT(LargestDifference(found.d_x, d_x), 2e-5);
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
    const std::vector<float> values = RandomFloats(static_cast<size_t>(n * width), 8);
    std::vector<double> expected(static_cast<size_t>(width));
    for (size_t i = 0; i < values.size(); ++i) expected[i % expected.size()] += values[i];
    std::vector<float> found(static_cast<size_t>(width), NAN);
    kernels.column_sums(n, width, values.data(), found.data());
    EXPECT_LT(LargestDifference(found, expected), 1e-4) << n << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, NormTest, ::testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
