#include "worker/training/pooling.h"

#include <gtest/gtest.h>

namespace thaw {
namespace {

TEST(Pooling, OfRealTokensAlone) {
  at::manual_seed(3);
  const std::vector<int32_t> bounds = {0, 3, 4, 9};
  const torch::Tensor states = at::randn({9, 5});
  for (const bool normalize : {false, true}) {
    const auto check = [&](Pooling pooling, const auto& of) {
      const torch::Tensor result = Pool(states, bounds, pooling, normalize);
      for (int64_t s = 0; s < 3; ++s) {
        torch::Tensor expected = of(states.slice(0, bounds[s], bounds[s + 1]));
        if (normalize) expected = expected / expected.norm();
        EXPECT_LT((result[s] - expected).abs().max().item<float>(), 1e-6)
            << static_cast<int>(pooling) << " " << s;
      }
    };
    check(Pooling::kMean, [](const torch::Tensor& rows) { return rows.mean(0); });
    check(Pooling::kMax, [](const torch::Tensor& rows) { return std::get<0>(rows.max(0)); });
    check(Pooling::kCls, [](const torch::Tensor& rows) { return rows[0]; });
    check(Pooling::kLast, [](const torch::Tensor& rows) { return rows[-1]; });
  }
}

TEST(Pooling, AVectorOfZerosStaysOne) {
  const torch::Tensor result = Pool(at::zeros({2, 4}), {0, 2}, Pooling::kMean, true);
  EXPECT_EQ(result.abs().sum().item<float>(), 0);
}

}  // namespace
}  // namespace thaw
