#include <omp.h>

#include <cstring>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

struct AttentionCase {
  std::vector<int32_t> q_bounds;
  std::vector<int32_t> k_bounds;
  int32_t heads;
  int32_t dim;
  double dropout;
};

struct AttentionResult {
  std::vector<float> out, log_sums, d_q, d_k, d_v;
};

class AttentionTest : public KernelTest {
 protected:
  void Prepare(const AttentionCase& asked) {
    c = asked;
    shape.q_bounds = c.q_bounds.data();
    shape.k_bounds = c.k_bounds.data();
    shape.sequences = static_cast<int32_t>(c.q_bounds.size()) - 1;
    shape.heads = c.heads;
    shape.head_dim = c.dim;
    shape.q_stride = shape.k_stride = c.heads * c.dim;
    shape.scale = 1 / std::sqrt(static_cast<float>(c.dim));
    shape.dropout = MakeDropoutSite(3, 1, 0, 9, c.dropout);
    q_size = static_cast<size_t>(c.q_bounds.back() * shape.q_stride);
    k_size = static_cast<size_t>(c.k_bounds.back() * shape.k_stride);
    q = RandomFloats(q_size, 1);
    k = RandomFloats(k_size, 2);
    v = RandomFloats(k_size, 3);
    d_out = RandomFloats(q_size, 4);
  }

  AttentionResult Run() const {
    AttentionResult r;
    r.out.assign(q_size, NAN);
    r.log_sums.assign(q_size / static_cast<size_t>(shape.head_dim), NAN);
    r.d_q.assign(q_size, NAN);
    r.d_k.assign(k_size, NAN);
    r.d_v.assign(k_size, NAN);
    kernels.attention_forward(shape, q.data(), k.data(), v.data(), r.out.data(), r.log_sums.data());
    kernels.attention_backward(shape, q.data(), k.data(), v.data(), r.out.data(), r.log_sums.data(),
                               d_out.data(), r.d_q.data(), r.d_k.data(), r.d_v.data());
    return r;
  }

  // The textbook's loops in double precision.
  void Expect(std::vector<double>* out, std::vector<double>* d_q, std::vector<double>* d_k,
              std::vector<double>* d_v) const {
    out->assign(q_size, 0);
    d_q->assign(q_size, 0);
    d_k->assign(k_size, 0);
    d_v->assign(k_size, 0);
    for (int32_t s = 0; s < shape.sequences; ++s) {
      for (int32_t h = 0; h < shape.heads; ++h) {
        for (int32_t i = shape.q_bounds[s]; i < shape.q_bounds[s + 1]; ++i) {
          ExpectRow(i, shape.k_bounds[s], shape.k_bounds[s + 1], h, out, d_q, d_k, d_v);
        }
      }
    }
  }

  void ExpectRow(int32_t i, int32_t k0, int32_t k1, int32_t h, std::vector<double>* out,
                 std::vector<double>* d_q, std::vector<double>* d_k,
                 std::vector<double>* d_v) const {
    const auto at = [&](int32_t row, int32_t c) {
      return static_cast<size_t>(row * shape.q_stride + h * shape.head_dim + c);
    };
    std::vector<double> p, factor, d_p;
    double sum = 0, inner = 0;
    for (int32_t j = k0; j < k1; ++j) {
      double score = 0;
      for (int32_t c = 0; c < shape.head_dim; ++c) score += double{q[at(i, c)]} * k[at(j, c)];
      p.push_back(std::exp(score * shape.scale));
      factor.push_back(
          DropoutFactor(shape.dropout, static_cast<uint32_t>(i), static_cast<uint32_t>(h), j - k0));
      sum += p.back();
    }
    for (int32_t j = k0; j < k1; ++j) {
      const size_t n = static_cast<size_t>(j - k0);
      p[n] /= sum;
      double d = 0;
      for (int32_t c = 0; c < shape.head_dim; ++c) {
        (*out)[at(i, c)] += p[n] * factor[n] * v[at(j, c)];
        (*d_v)[at(j, c)] += p[n] * factor[n] * d_out[at(i, c)];
        d += double{d_out[at(i, c)]} * v[at(j, c)];
      }
      d_p.push_back(d * factor[n]);
      inner += p[n] * d_p.back();
    }
    for (int32_t j = k0; j < k1; ++j) {
      const size_t n = static_cast<size_t>(j - k0);
      const double d_score = p[n] * (d_p[n] - inner) * shape.scale;
      for (int32_t c = 0; c < shape.head_dim; ++c) {
        (*d_q)[at(i, c)] += d_score * k[at(j, c)];
        (*d_k)[at(j, c)] += d_score * q[at(i, c)];
      }
    }
  }

  AttentionCase c;
  AttentionShape shape;
  size_t q_size = 0, k_size = 0;
  std::vector<float> q, k, v, d_out;
};

TEST_P(AttentionTest, AgreesWithDoublePrecisionForwardAndBackward) {
  const AttentionCase cases[] = {
      {{0, 1}, {0, 1}, 1, 1, 0},
      {{0, 5, 6, 30}, {0, 5, 6, 30}, 4, 12, 0},
      {{0, 64, 70, 163}, {0, 64, 70, 163}, 3, 32, 0},
      {{0, 64, 70, 163}, {0, 64, 70, 163}, 3, 32, 0.1},
      {{0, 25, 26}, {0, 25, 26}, 2, 64, 0.5},
      {{0, 1, 2, 3}, {0, 40, 41, 130}, 2, 32, 0.1},  // only the first row of each asks
      {{0, 7, 12}, {0, 3, 90}, 2, 20, 0},
  };
  for (const AttentionCase& asked : cases) {
    SCOPED_TRACE(::testing::Message() << "dim " << asked.dim << " dropout " << asked.dropout);
    Prepare(asked);
    const AttentionResult found = Run();
    std::vector<double> out, d_q, d_k, d_v;
    Expect(&out, &d_q, &d_k, &d_v);
    EXPECT_LT(LargestDifference(found.out, out), 3e-6);
    EXPECT_LT(LargestDifference(found.d_q, d_q), 2e-5);
    EXPECT_LT(LargestDifference(found.d_k, d_k), 2e-5);
    EXPECT_LT(LargestDifference(found.d_v, d_v), 2e-5);
  }
}

TEST_P(AttentionTest, SurvivesScoresThatWouldOverflow) {
  Prepare({{0, 9}, {0, 9}, 2, 16, 0});
  for (float& value : q) value *= 1000;
  const AttentionResult found = Run();
  for (float value : found.out) ASSERT_TRUE(std::isfinite(value));
  for (float value : found.d_q) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(AttentionTest, DoesNotHideNaN) {
  Prepare({{0, 20}, {0, 20}, 1, 16, 0});
  k[5] = NAN;
  const AttentionResult found = Run();
  for (float value : found.out) ASSERT_TRUE(std::isnan(value));
}

TEST_P(AttentionTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  Prepare({{0, 33, 90, 91, 163}, {0, 33, 90, 91, 163}, 4, 32, 0.1});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const AttentionResult one = Run();
  omp_set_num_threads(3);
  const AttentionResult three = Run();
  omp_set_num_threads(threads);
  EXPECT_EQ(one.out, three.out);
  EXPECT_EQ(one.log_sums, three.log_sums);
  EXPECT_EQ(one.d_q, three.d_q);
  EXPECT_EQ(one.d_k, three.d_k);
  EXPECT_EQ(one.d_v, three.d_v);
}

INSTANTIATE_TEST_SUITE_P(Sets, AttentionTest, ::testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
