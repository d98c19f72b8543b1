#include <omp.h>

#include <algorithm>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class LossTest : public KernelTest {
 protected:
  void Check(int64_t rows, int64_t classes, double relative) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << classes);
    const size_t size = static_cast<size_t>(rows * classes);
    std::vector<float> values = RandomFloats(size, 1, 5);
    values[3] = 1000;
    Matrix logits(type, values), d = Unset(size);
    values = logits.floats();
    std::vector<int64_t> labels;
    for (int64_t r = 0; r < rows; ++r) labels.push_back(r % 5 == 4 ? -100 : r * 31 % classes);
    std::vector<double> gradient(size), log_probabilities, log_sums;
    double expected = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = values.data() + r * classes;
      const int64_t label = labels[static_cast<size_t>(r)];
      const double largest = *std::max_element(row, row + classes);
      double sum = 0;
      for (int64_t c = 0; c < classes; ++c) sum += std::exp(row[c] - largest);
      log_sums.push_back(std::log(sum) + largest);
      log_probabilities.push_back(label < 0 ? 0 : row[label] - log_sums.back());
      expected -= log_probabilities.back();
      for (int64_t c = 0; c < classes && label >= 0; ++c) {
        gradient[static_cast<size_t>(r * classes + c)] =
            std::exp(row[c] - log_sums.back()) - (c == label);
      }
    }
    std::vector<float> found_log_p(labels.size(), NAN), found_sums = found_log_p;
    const double loss =
        kernels.cross_entropy(rows, classes, logits.at(), labels.data(), d.at(), nullptr, nullptr);
    EXPECT_NEAR(loss, expected, relative * expected);
    ExpectNear(d, gradient, 1e-6, type);
    EXPECT_EQ(loss, kernels.cross_entropy(rows, classes, logits.at(), labels.data(), nullptr,
                                          found_log_p.data(), found_sums.data()));
    EXPECT_LT(LargestDifference(found_log_p, log_probabilities), 1e-4);
    EXPECT_LT(LargestDifference(found_sums, log_sums), 1e-4);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    EXPECT_EQ(loss, kernels.cross_entropy(rows, classes, logits.at(), labels.data(), logits.at(),
                                          nullptr, nullptr));
    omp_set_num_threads(threads);
    EXPECT_EQ(logits, d);  // in place
  }
};

TEST_P(LossTest, CrossEntropyAgreesAndSkipsIgnoredRows) {
  Check(40, 7, 1e-9);
  Check(1, 64, 1e-9);
  Check(10, 1000, 1e-6);
  Check(6, 49157, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Cases, LossTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
