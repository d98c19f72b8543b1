#include "worker/model/rows_alike.h"

#include <gtest/gtest.h>

#include "torch/torch.h"
#include "worker/model/ops.h"

namespace thaw {
namespace {

class RowsAlikeTest : public ::testing::TestWithParam<torch::ScalarType> {};

TEST_P(RowsAlikeTest, ARowHasItsBitsAmongAnyNumberOfOthers) {
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  const RowsAlike alike;
  // Sums long enough to be cut: oneDNN cuts those of 384 products in bf16 nowhere.
  for (const auto& [in, out] : {std::pair(1536, 384), std::pair(576, 576), std::pair(384, 1536)}) {
    const torch::Tensor weight = torch::randn({out, in}), half = weight.to(torch::kBFloat16);
    const torch::Tensor x = torch::randn({700, in}).to(GetParam());
    const auto product = [&](int64_t first, int64_t rows) {
      return Linear(Path::kKernels, x.narrow(0, first, rows), {.weight = weight, .half = half});
    };
    const torch::Tensor all = product(0, 700);
    for (const int64_t rows : {0, 1, 2, 15, 33, 47, 64, 100, 128, 200, 255, 256, 257, 300, 512}) {
      for (const int64_t first : {int64_t{0}, 700 - rows}) {
        EXPECT_TRUE(at::equal(product(first, rows), all.narrow(0, first, rows)))
            << in << " to " << out << ", " << rows << " rows from " << first;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RowsAlikeTest, ::testing::Values(torch::kFloat, torch::kBFloat16),
                         [](const auto& info) {
                           return info.param == torch::kFloat ? "Fp32" : "Bf16";
                         });

}  // namespace
}  // namespace thaw
