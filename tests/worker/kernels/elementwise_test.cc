#include <omp.h>

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
  }
  return NAN;
}

class ElementwiseTest : public KernelTest {};

TEST_P(ElementwiseTest, ActivationsAgreeWithDoublePrecision) {
  for (ActivationKind kind :
       {ActivationKind::kGeluErf, ActivationKind::kGeluTanh, ActivationKind::kRelu}) {
    const int64_t rows = 11, columns = 91;
    const size_t size = static_cast<size_t>(rows * columns);
    std::vector<float> x = RandomFloats(size, 1, 3), y(size, NAN), again(size, NAN), d(size, 2);
    const std::vector<float> before = x, bias = RandomFloats(static_cast<size_t>(columns), 2);
    x[0] = 60;
    x[1] = -60;
    std::vector<double> sum(size), value(size), slope(size);
    for (size_t i = 0; i < size; ++i) {
      const double z = sum[i] = x[i] + bias[i % static_cast<size_t>(columns)], h = 1e-6;
      value[i] = ExpectedActivation(kind, z);
      slope[i] = (ExpectedActivation(kind, z + h) - ExpectedActivation(kind, z - h)) / h;
    }
    kernels.activation_forward(kind, rows, columns, x.data(), bias.data(), y.data());
    kernels.activation_backward(kind, rows, columns, x.data(), d.data(), again.data());
    EXPECT_LT(LargestDifference(x, sum), 1e-5);
    EXPECT_LT(LargestDifference(y, value), 4e-6) << static_cast<int>(kind);
    EXPECT_LT(LargestDifference(d, slope), 4e-6) << static_cast<int>(kind);
    EXPECT_EQ(y, again);
    std::vector<float> nan(static_cast<size_t>(columns), NAN), out(nan.size(), 0);
    kernels.activation_forward(kind, 1, columns, nan.data(), bias.data(), out.data());
    for (float found : out) EXPECT_TRUE(std::isnan(found));
  }
}

TEST_P(ElementwiseTest, EmbeddingsAreGatheredAndScatteredInOrder) {
  const int64_t rows = 200, columns = 70, vocabulary = 13, positions = 50;
  const std::vector<float> word = RandomFloats(vocabulary * columns, 1),
                           position = RandomFloats(positions * columns, 2),
                           type = RandomFloats(2 * columns, 3), d = RandomFloats(rows * columns, 4);
  std::vector<int64_t> ids, places, types;
  for (int64_t r = 0; r < rows; ++r) {
    ids.push_back(r * 7 % vocabulary);
    places.push_back(r % positions);
    types.push_back(r % 3 == 0);
  }
  std::vector<float> y(rows * columns, NAN);
  std::vector<double> expected(rows * columns), table(vocabulary * columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      expected[r * columns + c] = double{word[ids[r] * columns + c]} +
                                  position[places[r] * columns + c] + type[types[r] * columns + c];
      table[ids[r] * columns + c] += d[r * columns + c];
    }
  }
  kernels.embedding_forward(rows, columns, ids.data(), places.data(), types.data(), word.data(),
                            position.data(), type.data(), y.data());
  EXPECT_LT(LargestDifference(y, expected), 1e-6);
  const int threads = omp_get_max_threads();
  std::vector<std::vector<float>> found(2, std::vector<float>(vocabulary * columns, 0));
  for (int run : {0, 1}) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    kernels.scatter_add(rows, columns, ids.data(), d.data(), found[run].data());
  }
  omp_set_num_threads(threads);
  EXPECT_LT(LargestDifference(found[0], table), 1e-5);
  EXPECT_EQ(found[0], found[1]);
}

TEST_P(ElementwiseTest, CrossEntropyAgreesAndSkipsIgnoredRows) {
  const int64_t rows = 40, classes = 7;
  std::vector<float> logits = RandomFloats(rows * classes, 1, 5), d(rows * classes, NAN);
  logits[3] = 1000;
  std::vector<int64_t> labels;
  for (int64_t r = 0; r < rows; ++r) labels.push_back(r % 5 == 4 ? -100 : r % classes);
  std::vector<double> gradient(rows * classes);
  double expected = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (labels[r] < 0) continue;
    double sum = 0, largest = -1e300;
    for (int64_t c = 0; c < classes; ++c)
      largest = std::max<double>(largest, logits[r * classes + c]);
    for (int64_t c = 0; c < classes; ++c) sum += std::exp(logits[r * classes + c] - largest);
    for (int64_t c = 0; c < classes; ++c) {
      gradient[r * classes + c] =
          std::exp(logits[r * classes + c] - largest) / sum - (c == labels[r]);
    }
    expected += std::log(sum) + largest - logits[r * classes + labels[r]];
  }
  const double found = kernels.cross_entropy(rows, classes, logits.data(), labels.data(), d.data());
  EXPECT_NEAR(found, expected, 1e-9 * expected);
  EXPECT_LT(LargestDifference(d, gradient), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Sets, ElementwiseTest, ::testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
