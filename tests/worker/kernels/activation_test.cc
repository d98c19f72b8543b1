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
    SCOPED_TRACE(static_cast<int>(kind));
    const int64_t rows = 11, columns = 91;
    const size_t size = static_cast<size_t>(rows * columns);
    std::vector<float> values = RandomFloats(size, 1, 3);
    values[0] = 60;
    values[1] = -60;
    Matrix x(type, values), y = Unset(size), again = y, d = Filled(size, 2);
    const std::vector<float> before = x.floats(),
                             bias = RandomFloats(static_cast<size_t>(columns), 2);
    std::vector<double> sum(size), value(size), slope(size);
    for (size_t i = 0; i < size; ++i) {
      sum[i] = double{before[i]} + bias[i % static_cast<size_t>(columns)];
    }
    kernels.activation_forward(kind, rows, columns, x.at(), bias.data(), y.at());
    kernels.activation_backward(kind, rows, columns, x.at(), d.at(), again.at());
    ExpectNear(x, sum, 1e-5, type);
    const Matrix kept = x;
    for (size_t i = 0; i < size; ++i) {  // of the sum as it was stored
      const double z = kept.floats()[i];
      value[i] = ExpectedActivation(kind, z);
      slope[i] = 2 * ExpectedSlope(kind, z);
    }
    ExpectNear(y, value, 4e-6, type);
    ExpectNear(d, slope, 4e-6, type);
    EXPECT_EQ(y, again);
    kernels.activation_forward(kind, rows, columns, x.at(), nullptr, again.at());
    EXPECT_EQ(x, kept);
    EXPECT_EQ(y, again);
    Matrix nan = Unset(static_cast<size_t>(columns)), out = Filled(nan.size(), 0);
    kernels.activation_forward(kind, 1, columns, nan.at(), bias.data(), out.at());
    for (float found : out.floats()) EXPECT_TRUE(std::isnan(found));
  }
}

TEST_P(ActivationTest, GatedAgreeWithDoublePrecision) {
  for (ActivationKind kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    const size_t rows = 7, columns = 83, stride = 2 * columns;  // [gate | up]
    const Matrix both = Random(rows * stride, 1, 2), d = Random(rows * columns, 2);
    const std::vector<float> inputs = both.floats(), above = d.floats();
    std::vector<double> y(d.size()), d_both(both.size());
    for (size_t i = 0; i < d.size(); ++i) {
      const size_t at = i / columns * stride + i % columns;
      const double gate = inputs[at], up = inputs[at + columns];
      y[i] = ExpectedActivation(kind, gate) * up;
      d_both[at] = above[i] * up * ExpectedSlope(kind, gate);
      d_both[at + columns] = above[i] * ExpectedActivation(kind, gate);
    }
    Matrix found = Unset(d.size()), again = found, d_found = both;
    kernels.gated_forward(kind, rows, columns, both.at(), both.at(columns), stride, found.at());
    kernels.gated_backward(kind, rows, columns, d_found.at(), d_found.at(columns), stride, d.at(),
                           d_found.at(), d_found.at(columns), again.at());
    ExpectNear(found, y, 1e-5, type);
    ExpectNear(d_found, d_both, 1e-5, type);
    EXPECT_EQ(found, again);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ActivationTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
