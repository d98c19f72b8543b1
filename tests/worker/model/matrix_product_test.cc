#include "worker/model/matrix_product.h"

#include <gtest/gtest.h>

#include "torch/torch.h"

namespace thaw {
namespace {

using torch::Tensor;

Tensor Random(int64_t rows, int64_t columns, uint64_t seed) {
  torch::manual_seed(seed);
  return torch::randn({rows, columns}).to(torch::kBFloat16);
}

// Small and large products, views, and matrices with one row or column, whose strides say little.
TEST(MatrixProduct, OfViewsInBf16AgreesWithFp32) {
  struct Case {
    Tensor a, b;
  };
  const Tensor wide = Random(40, 200, 1), weight = Random(70, 96, 2);
  for (const auto& [a, b] : {
           Case{wide.narrow(1, 64, 96), weight.t()},
           Case{wide.narrow(1, 3, 70), weight},
           Case{wide.narrow(1, 3, 70), weight.narrow(1, 8, 33)},
           Case{Random(96, 40, 3).t(), weight.t()},
           Case{wide.narrow(1, 0, 1), Random(1, 50, 4)},
           Case{wide.narrow(1, 0, 1), Random(50, 1, 4).t()},
           Case{Random(1, 96, 5), Random(1, 96, 6).t()},
           Case{Random(1100, 96, 7), weight.t()},
       }) {
    SCOPED_TRACE(::testing::Message()
                 << a.sizes() << a.strides() << " by " << b.sizes() << b.strides());
    const Tensor bias = torch::randn({b.size(1)});
    const Tensor expected = at::matmul(a.to(torch::kFloat), b.to(torch::kFloat));
    const auto near = [](const Tensor& found, const Tensor& wanted) {
      return at::allclose(found.to(torch::kFloat), wanted, 1.0 / 64, 0.05);
    };
    const Tensor all = torch::full({a.size(0), b.size(1) + 5}, 3, torch::kBFloat16);
    const Tensor out = all.narrow(1, 2, b.size(1));
    Gemm(a, b, out);
    EXPECT_TRUE(near(out, expected));
    Gemm(a, b, out, true);
    EXPECT_TRUE(near(out, 2 * expected));
    const Tensor with_bias = torch::empty(expected.sizes(), torch::kBFloat16);
    Gemm(a, b, with_bias, false, bias.data_ptr<float>());
    EXPECT_TRUE(near(with_bias, expected + bias));
    EXPECT_TRUE(at::equal(all.narrow(1, 0, 2), torch::full({a.size(0), 2}, 3, torch::kBFloat16)));
    EXPECT_TRUE(at::equal(all.narrow(1, b.size(1) + 2, 3),
                          torch::full({a.size(0), 3}, 3, torch::kBFloat16)));
  }
}

}  // namespace
}  // namespace thaw
