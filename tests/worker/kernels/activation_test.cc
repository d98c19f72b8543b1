#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

double ExpectedActivation(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::kGeluErf:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case ActivationKind::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ActivationKind::kRelu:
      return x > 0 ? x : 0;
    case ActivationKind::kSilu:
      return x / (1 + std::exp(-x));
    case ActivationKind::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
    case ActivationKind::kTanh:
      return std::tanh(x);
  }
  return NAN;
}

constexpr ActivationKind kKinds[] = {ActivationKind::kGeluErf,   ActivationKind::kGeluTanh,
                                     ActivationKind::kRelu,      ActivationKind::kSilu,
                                     ActivationKind::kQuickGelu, ActivationKind::kTanh};

double ExpectedSlope(ActivationKind kind, double x) {
  const double h = 1e-6;
  return (ExpectedActivation(kind, x + h) - ExpectedActivation(kind, x - h)) / (2 * h);
}

class ActivationTest : public KernelTest {};

TEST_P(ActivationTest, ActivationsAgreeWithDoublePrecision) {
  for (ActivationKind kind : kKinds) {
    const int64_t rows = 11, columns = 91;
    const size_t size = static_cast<size_t>(rows * columns);
    std::vector<float> x = RandomFloats(size, 1, 3), y(size, NAN), again(size, NAN), d(size, 2);
    const std::vector<float> before = x, bias = RandomFloats(static_cast<size_t>(columns), 2);
    x[0] = 60;
    x[1] = -60;
    std::vector<double> sum(size), value(size), slope(size);
    for (size_t i = 0; i < size; ++i) {
      const double z = sum[i] = x[i] + bias[i % static_cast<size_t>(columns)];
      value[i] = ExpectedActivation(kind, z);
      slope[i] = 2 * ExpectedSlope(kind, z);
    }
    kernels.activation_forward(kind, rows, columns, x.data(), bias.data(), y.data());
    kernels.activation_backward(kind, rows, columns, x.data(), d.data(), again.data());
    EXPECT_LT(LargestDifference(x, sum), 1e-5);
    EXPECT_LT(LargestDifference(y, value), 4e-6) << static_cast<int>(kind);
    EXPECT_LT(LargestDifference(d, slope), 4e-6) << static_cast<int>(kind);
    EXPECT_EQ(y, again);
    const std::vector<float> kept = x;
    kernels.activation_forward(kind, rows, columns, x.data(), nullptr, again.data());
    EXPECT_EQ(x, kept);
    EXPECT_EQ(y, again);
    std::vector<float> nan(static_cast<size_t>(columns), NAN), out(nan.size(), 0);
    kernels.activation_forward(kind, 1, columns, nan.data(), bias.data(), out.data());
    for (float found : out) EXPECT_TRUE(std::isnan(found));
  }
}

TEST_P(ActivationTest, GatedAgreeWithDoublePrecision) {
  for (ActivationKind kind : kKinds) {
    const size_t rows = 7, columns = 83, stride = 2 * columns;  // [gate | up]
    const std::vector<float> both = RandomFloats(rows * stride, 1, 2),
                             d = RandomFloats(rows * columns, 2);
    std::vector<double> y(d.size()), d_both(both.size());
    for (size_t i = 0; i < d.size(); ++i) {
      const size_t at = i / columns * stride + i % columns;
      const double gate = both[at], up = both[at + columns];
      y[i] = ExpectedActivation(kind, gate) * up;
      d_both[at] = d[i] * up * ExpectedSlope(kind, gate);
      d_both[at + columns] = d[i] * ExpectedActivation(kind, gate);
    }
    std::vector<float> found(d.size(), NAN), again = found, d_found = both;
    kernels.gated_forward(kind, rows, columns, both.data(), both.data() + columns, stride,
                          found.data());
    kernels.gated_backward(kind, rows, columns, d_found.data(), d_found.data() + columns, stride,
                           d.data(), d_found.data(), d_found.data() + columns, again.data());
    EXPECT_LT(LargestDifference(found, y), 1e-5) << static_cast<int>(kind);
    EXPECT_LT(LargestDifference(d_found, d_both), 1e-5) << static_cast<int>(kind);
    EXPECT_EQ(found, again);
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, ActivationTest, ::testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
