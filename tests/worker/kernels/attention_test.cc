#include <omp.h>

#include <new>

#include "tests/worker/kernels/attention_test_cases.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

using Bounds = std::vector<int32_t>;
using enum AttentionLayout;

class AttentionTest : public KernelTest {
 protected:
  void Check(const AttentionCase& asked) {
    SCOPED_TRACE(::testing::Message()
                 << asked.heads << "/" << asked.kv_heads << " heads of " << asked.dim
                 << ", dropout " << asked.dropout << ", causal " << asked.causal << ", window "
                 << asked.window << ", span " << asked.bias_span << ", layout "
                 << static_cast<int>(asked.layout));
    const AttentionProblem problem(asked, type);
    const AttentionResult found = problem.Run(kernels);
    const ExpectedAttention expected = problem.Expected();
    ExpectNear(found.out, expected.out, 3e-6 + SlackOf(expected.out), type);
    // The backward pass reads the results rounded, and adds up what errs by that.
    const double slack = type == RowType::kBf16 ? 1e-2 * LargestOf(expected.d_qkv) : 0;
    ExpectNear(found.d_qkv, expected.d_qkv, 2e-5 + slack, type);
    EXPECT_LT(LargestDifference(found.d_bias, expected.d_bias), 2e-5 + 3 * slack);
  }

  // Tiles multiply weights that are rounded: each errs by up to 2^-8, and so does their sum.
  double SlackOf(const std::vector<double>& results) const {
    return GetParam().set == InstructionSet::kAmx && type == RowType::kBf16
               ? LargestOf(results) / 256
               : 0;
  }

  static double LargestOf(const std::vector<double>& values) {
    double largest = 0;
    for (double value : values) largest = std::max(largest, std::abs(value));
    return largest;
  }
};

const Bounds kFour = {0, 64, 70, 71, 163};

TEST_P(AttentionTest, AgreesWithDoublePrecisionForwardAndBackward) {
  Check({{0, 1}, {0, 1}, 1, 1, 1});
  Check({{0, 5, 6, 30}, {0, 5, 6, 30}, 4, 4, 12});
  Check({kFour, kFour, 3, 3, 32});
  Check({kFour, kFour, 3, 3, 32, 0.1});
  Check({{0, 25, 26}, {0, 25, 26}, 2, 2, 64, 0.5});
  Check({{0, 1, 2, 3}, {0, 40, 41, 130}, 2, 2, 32, 0.1});  // only the first row of each asks
  Check({{0, 7, 12}, {0, 3, 90}, 2, 2, 20});
}

TEST_P(AttentionTest, CausalQueriesAreTheLastRows) {
  Check({.q_bounds = kFour, .k_bounds = kFour, .heads = 2, .kv_heads = 2, .causal = true});
  Check({.q_bounds = {0, 3, 30, 31},
         .k_bounds = {0, 3, 90, 131},
         .heads = 2,
         .kv_heads = 2,
         .dim = 40,
         .dropout = 0.2,
         .causal = true});
}

TEST_P(AttentionTest, HeadsShareKeysInGroups) {
  Check({.q_bounds = kFour, .k_bounds = kFour, .heads = 6, .kv_heads = 2, .dim = 20});
  Check({.q_bounds = {0, 30, 31},
         .k_bounds = {0, 45, 131},
         .heads = 9,
         .kv_heads = 3,
         .dim = 64,
         .dropout = 0.1,
         .causal = true});
  Check({.q_bounds = kFour, .k_bounds = kFour, .heads = 4, .kv_heads = 1, .causal = true});
}

TEST_P(AttentionTest, WindowCountsTheTokenItself) {
  for (int64_t window : {1, 2, 15, 16, 33, 64, 200}) {
    for (bool causal : {true, false}) {
      Check({.q_bounds = {0, 150, 160},
             .k_bounds = {0, 150, 260},
             .heads = 2,
             .kv_heads = 1,
             .dropout = 0.1,
             .causal = causal,
             .window = window});
    }
  }
}

TEST_P(AttentionTest, RelativeBiasIsAddedAndGetsItsGradient) {
  for (bool causal : {true, false}) {
    for (int64_t window : {0, 20}) {
      Check({.q_bounds = kFour,
             .k_bounds = kFour,
             .heads = 3,
             .kv_heads = 3,
             .causal = causal,
             .window = window,
             .bias_span = 92});
      Check({.q_bounds = {0, 30, 50},
             .k_bounds = {0, 30, 120},
             .heads = 4,
             .kv_heads = 2,
             .dim = 24,
             .dropout = 0.2,
             .causal = causal,
             .window = window,
             .bias_span = 500});
    }
  }
}

TEST_P(AttentionTest, DistancesBeyondTheTableTakeItsEnds) {
  for (int64_t span : {1, 8, 40}) {
    for (bool causal : {true, false}) {
      Check({.q_bounds = kFour, .k_bounds = kFour, .causal = causal, .bias_span = span});
      Check({.q_bounds = {0, 30, 50},
             .k_bounds = {0, 30, 120},
             .causal = causal,
             .window = 12,
             .bias_span = span});
    }
  }
}

TEST_P(AttentionTest, ReadsFusedProjectionsInPlace) {
  for (bool causal : {true, false}) {
    Check({.q_bounds = kFour,
           .k_bounds = kFour,
           .heads = 6,
           .kv_heads = 2,
           .dim = 24,
           .dropout = 0.1,
           .causal = causal,
           .layout = kRows});
    Check({.q_bounds = kFour,
           .k_bounds = kFour,
           .heads = 3,
           .kv_heads = 3,
           .dim = 20,
           .causal = causal,
           .bias_span = 100,
           .layout = kHeads});
  }
}

TEST_P(AttentionTest, LongSequencesKeepTheirPrecision) {
  Check({.q_bounds = {0, 40}, .k_bounds = {0, 8192}, .dim = 16, .causal = true});
  Check({.q_bounds = {0, 40}, .k_bounds = {0, 8192}, .dim = 16, .causal = true, .window = 700});
}

TEST_P(AttentionTest, SurvivesScoresThatWouldOverflow) {
  const AttentionProblem problem({{0, 9}, {0, 9}, 2, 2, 16}, type, 100);
  const AttentionResult found = problem.Run(kernels);
  for (float value : found.out.floats()) ASSERT_TRUE(std::isfinite(value));
  for (float value : found.d_qkv.floats()) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(AttentionTest, DoesNotHideNaN) {
  AttentionProblem problem({{0, 20}, {0, 20}, 1, 1, 16}, type);
  std::vector<float> values = problem.qkv.floats();
  values[static_cast<size_t>(problem.k_offset) + 5] = NAN;
  problem.qkv = Matrix(type, values);
  for (float value : problem.Run(kernels).out.floats()) ASSERT_TRUE(std::isnan(value));
}

TEST_P(AttentionTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  const AttentionProblem problem({.q_bounds = {0, 33, 90, 91, 163},
                                  .k_bounds = {0, 33, 90, 91, 163},
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .dim = 32,
                                  .dropout = 0.1,
                                  .causal = true,
                                  .bias_span = 80},
                                 type);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const AttentionResult one = problem.Run(kernels);
  omp_set_num_threads(3);
  const AttentionResult three = problem.Run(kernels);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.out, three.out);
  EXPECT_EQ(one.log_sums, three.log_sums);
  EXPECT_EQ(one.d_qkv, three.d_qkv);
  EXPECT_EQ(one.d_bias, three.d_bias);
}

// An exception that left a thread of OpenMP's would end the process.
TEST_P(AttentionTest, MemoryThatRunsOutInAThreadIsReportedToTheCaller) {
  const AttentionProblem problem(
      {.q_bounds = {0, 1, 2, 3, 4}, .k_bounds = {0, 9000, 18000, 27000, 36000}, .dim = 32}, type);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(2);
  LimitScratch(9000);
  EXPECT_THROW(problem.Run(kernels), std::bad_alloc);
  LimitScratch(0);
  const std::vector<double> expected = problem.Expected().out;
  ExpectNear(problem.Run(kernels).out, expected, 3e-6 + SlackOf(expected), type);
  omp_set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
