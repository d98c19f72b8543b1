#include <omp.h>

#include <algorithm>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class DecodeTest : public KernelTest {
 protected:
  void CheckMatmul(WeightLayout layout, int64_t rows, int64_t in, int64_t out, bool with_bias) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << in << " -> " << out);
    const Matrix x = Random(static_cast<size_t>(rows * in), 1),
                 w = Random(static_cast<size_t>(in * out), 2);
    const std::vector<float> bias = RandomFloats(static_cast<size_t>(out), 3), xs = x.floats(),
                             ws = w.floats();
    std::vector<double> expected;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        double sum = with_bias ? bias[static_cast<size_t>(o)] : 0;
        for (int64_t i = 0; i < in; ++i) {
          const int64_t at = layout == WeightLayout::kOutIn ? o * in + i : i * out + o;
          sum += double{xs[static_cast<size_t>(r * in + i)]} * ws[static_cast<size_t>(at)];
        }
        expected.push_back(sum);
      }
    }
    Matrix found = Unset(expected.size()), threaded = found, last = Unset(static_cast<size_t>(out));
    const float* const some_bias = with_bias ? bias.data() : nullptr;
    kernels.skinny_matmul(layout, rows, in, out, x.at(), w.at(), some_bias, found.at());
    ExpectNear(found, expected, 1e-4, type);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    kernels.skinny_matmul(layout, rows, in, out, x.at(), w.at(), some_bias, threaded.at());
    omp_set_num_threads(threads);
    EXPECT_EQ(found, threaded);
    kernels.skinny_matmul(layout, 1, in, out, x.at((rows - 1) * in), w.at(), some_bias, last.at());
    const std::vector<float> all = found.floats(), own = last.floats();
    EXPECT_TRUE(std::equal(own.begin(), own.end(), all.end() - out));
  }

  void CheckAttention(int64_t heads, int64_t kv_heads, int64_t dim, int64_t window, int64_t span,
                      bool head_major) {
    SCOPED_TRACE(::testing::Message() << heads << "/" << kv_heads << " heads of " << dim
                                      << ", window " << window << ", span " << span);
    const int64_t capacity = 300, cached = capacity * kv_heads * dim;
    const Matrix k = Random(static_cast<size_t>(3 * cached), 1),
                 v = Random(static_cast<size_t>(3 * cached), 2),
                 q = Random(static_cast<size_t>(6 * heads * dim), 3);
    const std::vector<CachedSequence> sequences = {
        {k.at(), v.at(), 1, 3, 1},
        {k.at(cached), v.at(cached), 300, 0, 3},
        {k.at(2 * cached), v.at(2 * cached), 77, 4, 2},
    };
    const std::vector<float> bias =
        RandomFloats(static_cast<size_t>(span > 0 ? heads * (2 * span - 1) : 0), 4);
    const std::vector<float> qs = q.floats(), ks = k.floats(), vs = v.floats();
    DecodeShape shape;
    shape.sequences = sequences.data();
    shape.count = 3;
    shape.heads = static_cast<int32_t>(heads);
    shape.kv_heads = static_cast<int32_t>(kv_heads);
    shape.head_dim = static_cast<int32_t>(dim);
    shape.q = shape.out = {heads * dim, dim};
    shape.kv = head_major ? HeadStrides{dim, capacity * dim} : HeadStrides{kv_heads * dim, dim};
    shape.scale = 0.3f;
    shape.window = window;
    if (span > 0) shape.relative_bias = bias.data();
    shape.bias_span = span;
    std::vector<double> expected(q.size());
    for (int64_t s = 0; s < 3; ++s) {
      const CachedSequence& sequence = sequences[static_cast<size_t>(s)];
      for (int64_t i = 0; i < sequence.queries; ++i) {
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t position = sequence.keys - sequence.queries + i;
          const int64_t at = (sequence.first_query + i) * heads * dim + h * dim;
          const int64_t head = s * cached + h / (heads / kv_heads) * shape.kv.head;
          std::vector<double> p(static_cast<size_t>(position + 1));
          double sum = 0;
          for (int64_t j = 0; j <= position; ++j) {
            if (window > 0 && j <= position - window) continue;
            double score = 0;
            for (int64_t c = 0; c < dim; ++c) {
              score += double{qs[static_cast<size_t>(at + c)]} *
                       ks[static_cast<size_t>(j * shape.kv.row + head + c)];
            }
            score *= shape.scale;
            if (span > 0)
              score += bias[static_cast<size_t>(h * (2 * span - 1) + span - 1 +
                                                std::max(j - position, 1 - span))];
            sum += p[static_cast<size_t>(j)] = std::exp(score);
          }
          for (int64_t j = 0; j <= position; ++j) {
            for (int64_t c = 0; c < dim; ++c) {
              expected[static_cast<size_t>(at + c)] +=
                  p[static_cast<size_t>(j)] / sum *
                  vs[static_cast<size_t>(j * shape.kv.row + head + c)];
            }
          }
        }
      }
    }
    Matrix found = Unset(q.size()), threaded = found;
    kernels.attention_decode(shape, q.at(), found.at());
    ExpectNear(found, expected, 3e-6, type);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    kernels.attention_decode(shape, q.at(), threaded.at());
    omp_set_num_threads(threads);
    EXPECT_EQ(found, threaded);
  }
};

TEST_P(DecodeTest, FewRowsTimesAMatrixAgreeWithDoublePrecision) {
  for (WeightLayout layout : {WeightLayout::kOutIn, WeightLayout::kInOut}) {
    for (int64_t rows : {1, 2, 3, 4, 5, 8, 17, 32}) {
      CheckMatmul(layout, rows, 96, 144, true);
      CheckMatmul(layout, rows, 83, 71, false);
    }
    CheckMatmul(layout, 3, 1, 1, true);
    CheckMatmul(layout, 1, 5, 3, true);
    CheckMatmul(layout, 2, 576, 1537, true);
  }
}

TEST_P(DecodeTest, AttentionToACacheAgreesWithDoublePrecision) {
  for (bool head_major : {true, false}) {
    CheckAttention(2, 2, 16, 0, 0, head_major);
    CheckAttention(9, 3, 64, 0, 0, head_major);
    CheckAttention(8, 1, 20, 0, 300, head_major);
    CheckAttention(2, 2, 16, 0, 20, head_major);
    CheckAttention(4, 2, 33, 50, 0, head_major);
    CheckAttention(4, 4, 128, 7, 7, head_major);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, DecodeTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
