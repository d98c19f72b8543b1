#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

struct SumNormCase {
  NormKind kind;
  size_t rows, columns;
  bool with_bias, with_residual, with_beta, with_d_sum;
  double dropout;
  RowType x_type = RowType::kFloat, y_type = RowType::kFloat;

  bool keeps_sum() const { return with_bias || with_residual || dropout > 0; }
};

struct SumNormResult {
  Matrix y, d_residual, d_x;
  std::vector<float> sum, d_gamma, d_beta, d_bias;
};

class SumNormTest : public KernelTest {
 protected:
  void Prepare(const SumNormCase& asked) {
    c = asked;
    const size_t size = c.rows * c.columns;
    x = Matrix(c.x_type, RandomFloats(size, 1));
    bias = c.with_bias ? RandomFloats(c.columns, 2) : std::vector<float>();
    residual = c.with_residual ? RandomFloats(size, 3) : std::vector<float>();
    gamma = RandomFloats(c.columns, 4);
    beta = c.with_beta ? RandomFloats(c.columns, 5) : std::vector<float>();
    d_y = Matrix(c.y_type, RandomFloats(size, 6));
    d_sum = c.with_d_sum ? RandomFloats(size, 7) : std::vector<float>();
    site = MakeDropoutSite(1, 2, 3, 4, c.dropout);
  }

  SumNormResult Run() const {
    const auto or_null = [](const std::vector<float>& values) {
      return values.empty() ? nullptr : values.data();
    };
    SumNormResult r;
    const std::vector<float> unset(x.size(), NAN);
    if (c.keeps_sum()) r.sum = unset;
    r.y = r.d_x = Matrix(c.y_type, unset);
    r.d_residual = Matrix(c.keeps_sum() ? RowType::kFloat : c.x_type, unset);
    r.d_gamma.assign(c.columns, NAN);
    r.d_bias = r.d_gamma;
    if (c.with_beta) r.d_beta = r.d_gamma;
    std::vector<float> moments(2 * c.rows, NAN);
    const int64_t rows = static_cast<int64_t>(c.rows), columns = static_cast<int64_t>(c.columns);
    kernels.sum_norm_forward(c.kind, rows, columns, x.at(), or_null(bias), or_null(residual),
                             gamma.data(), or_null(beta), 1e-5f, site,
                             c.keeps_sum() ? r.sum.data() : nullptr, r.y.at(), moments.data());
    const ConstElements sum = c.keeps_sum() ? ConstElements(r.sum.data()) : x.at();
    kernels.sum_norm_backward(c.kind, rows, columns, d_y.at(), or_null(d_sum), sum, moments.data(),
                              gamma.data(), site, r.d_residual.at(), r.d_x.at(), r.d_gamma.data(),
                              c.with_beta ? r.d_beta.data() : nullptr, r.d_bias.data());
    return r;
  }

  SumNormCase c;
  Matrix x, d_y;
  std::vector<float> bias, residual, gamma, beta, d_sum;
  DropoutSite site;
};

TEST_P(SumNormTest, AgreesWithDoublePrecisionForwardAndBackward) {
  const SumNormCase cases[] = {{NormKind::kRms, 1, 3, true, true, false, true, 0},
                               {NormKind::kRms, 130, 90, false, true, false, true, .2},
                               {NormKind::kRms, 700, 64, false, false, false, false, 0},
                               {NormKind::kRms, 5, 576, false, true, false, true, 0},
                               {NormKind::kLayer, 1, 3, true, true, true, true, 0},
                               {NormKind::kLayer, 130, 90, true, true, true, true, .2},
                               {NormKind::kLayer, 65, 384, true, true, false, true, .1},
                               {NormKind::kLayer, 9, 50, false, false, true, false, 0}};
  std::vector<SumNormCase> all;
  for (SumNormCase asked : cases) {
    asked.x_type = asked.y_type = type;
    all.push_back(asked);
    if (asked.keeps_sum()) continue;
    asked.y_type = type == RowType::kFloat ? RowType::kBf16 : RowType::kFloat;
    all.push_back(asked);
  }
  for (const SumNormCase& asked : all) {
    SCOPED_TRACE(::testing::Message() << asked.rows << " x " << asked.columns);
    Prepare(asked);
    const SumNormResult found = Run();
    const std::vector<float> xs = x.floats(), above = d_y.floats();
    const size_t width = c.columns;
    const double mean_of = 1 / double(width);
    std::vector<double> y(x.size()), sum(x.size()), d_residual(x.size()), d_x(x.size()),
        d_gamma(width), d_beta(c.with_beta ? width : 0), d_bias(width);
    for (size_t r = 0; r < c.rows; ++r) {
      std::vector<double> z(width), factor(width);
      double mean = 0, variance = 0, shift = 0, slope = 0;
      for (size_t i = 0; i < width; ++i) {
        factor[i] = DropoutFactor(site, static_cast<uint32_t>(r), 0, static_cast<uint32_t>(i));
        sum[r * width + i] = z[i] =
            (xs[r * width + i] + (c.with_bias ? bias[i] : 0.0)) * factor[i] +
            (c.with_residual ? residual[r * width + i] : 0.0);
        if (c.kind == NormKind::kLayer) mean += z[i] * mean_of;
      }
      for (double value : z) variance += (value - mean) * (value - mean) * mean_of;
      const double inverse = 1 / std::sqrt(variance + 1e-5);
      for (size_t i = 0; i < width; ++i) {
        z[i] = (z[i] - mean) * inverse;
        const double dy = above[r * width + i];
        y[r * width + i] = z[i] * gamma[i] + (c.with_beta ? beta[i] : 0.0);
        d_gamma[i] += dy * z[i];
        if (c.with_beta) d_beta[i] += dy;
        if (c.kind == NormKind::kLayer) shift += dy * gamma[i] * mean_of;
        slope += dy * gamma[i] * z[i] * mean_of;
      }
      for (size_t i = 0; i < width; ++i) {
        const double d = (above[r * width + i] * gamma[i] - shift - z[i] * slope) * inverse +
                         (c.with_d_sum ? d_sum[r * width + i] : 0.0);
        d_residual[r * width + i] = d;
        d_x[r * width + i] = d * factor[i];
        d_bias[i] += d * factor[i];
      }
    }
    if (c.keeps_sum()) {
      EXPECT_LT(LargestDifference(found.sum, sum), 1e-6);
      EXPECT_LT(LargestDifference(found.d_bias, d_bias), 1e-4);
    }
    ExpectNear(found.y, y, 1e-5, c.y_type);
    ExpectNear(found.d_residual, d_residual, 2e-5, c.keeps_sum() ? RowType::kFloat : c.x_type);
    ExpectNear(found.d_x, d_x, 2e-5, type == RowType::kBf16 ? type : c.y_type, 2);
    EXPECT_LT(LargestDifference(found.d_gamma, d_gamma), 1e-4);
    EXPECT_LT(LargestDifference(found.d_beta, d_beta), 1e-4);
  }
}

TEST_P(SumNormTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    Prepare({kind, 300, 100, true, true, true, true, 0.1, type, type});
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const SumNormResult one = Run();
    omp_set_num_threads(3);
    const SumNormResult three = Run();
    omp_set_num_threads(threads);
    EXPECT_EQ(one.y, three.y);
    EXPECT_EQ(one.d_residual, three.d_residual);
    EXPECT_EQ(one.d_x, three.d_x);
    EXPECT_EQ(one.d_gamma, three.d_gamma);
    EXPECT_EQ(one.d_beta, three.d_beta);
    EXPECT_EQ(one.d_bias, three.d_bias);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, SumNormTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
