#include "worker/model/matrix_product.h"

#include <algorithm>

#include "worker/model/autograd_support.h"
#include "worker/model/rows_alike.h"

namespace at::native {
// oneDNN's GEMM, out = alpha a b + beta out. LibTorch exports it but ships no header. It takes
// transposed views, and ignores the process-wide precision switch.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta,
                             float alpha);
}  // namespace at::native

namespace thaw {
namespace {

using torch::Tensor;

// Whether our kernel, where there is one, multiplies these rows in bf16: always under RowsAlike,
// otherwise small products. oneDNN is faster at large ones, but makes code for every new number of
// rows, and packed batches nearly always have a new one: that takes longer than a small product.
bool IsOurProduct(const Tensor& a, const Tensor& b, const Tensor& out) {
  constexpr int64_t kManyRows = 1024, kLargeWeight = int64_t{1} << 22;
  return IsBf16(a) && Kernels().matmul != nullptr && a.numel() > 0 && b.numel() > 0 &&
         (RowsAlike::on() || (a.size(0) < kManyRows && b.numel() <= kLargeWeight)) &&
         a.stride(1) == 1 && out.stride(1) == 1 && (b.stride(0) == 1 || b.stride(1) == 1);
}

void OurProduct(const Tensor& a, const Tensor& b, const Tensor& out, const float* bias,
                bool accumulate) {
  MatmulShape shape;
  shape.layout = b.stride(1) == 1 ? WeightLayout::kInOut : WeightLayout::kOutIn;
  shape.rows = a.size(0);
  shape.in = a.size(1);
  shape.out = b.size(1);
  shape.x_row = a.stride(0);
  shape.weight_row = b.stride(shape.layout == WeightLayout::kInOut ? 0 : 1);
  shape.y_row = out.stride(0);
  Kernels().matmul(shape, Halves(a), Halves(b), bias, accumulate, Halves(out));
}

// oneDNN gives a row in fp32 its bits as soon as it is not alone. How it cuts the sums of bf16
// products depends on how many rows there are, so that each product there has as many.
void ProductOfRowsAlike(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate) {
  const int64_t rows = a.size(0), size = IsBf16(a) ? 256 : std::max<int64_t>(2, rows);
  for (int64_t first = 0; first < rows; first += size) {
    const int64_t n = std::min(size, rows - first);
    const Tensor some = a.narrow(0, first, n), result = out.narrow(0, first, n);
    if (n == size) {
      MatrixProduct(some, b, result, accumulate);
      continue;
    }
    const Tensor filled = at::zeros({size, a.size(1)}, a.options());
    const Tensor product = at::zeros({size, out.size(1)}, out.options());
    filled.narrow(0, 0, n).copy_(some);
    if (accumulate) product.narrow(0, 0, n).copy_(result);
    MatrixProduct(filled, b, product, accumulate);
    result.copy_(product.narrow(0, 0, n));
  }
}

}  // namespace

void MatrixProduct(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate) {
  // oneDNN multiplies bf16 only on processors that have what our own kernels need.
  if (IsBf16(a) && KernelsFor(InstructionSet::kAvx512) == nullptr) {
    Tensor result = out;
    if (accumulate) {
      at::addmm_out(result, result, a, b);
    } else {
      at::mm_out(result, a, b);
    }
    return;
  }
  at::native::mkldnn_matmul(a, b, out, accumulate ? 1.0f : 0.0f, 1.0f);
}

void Gemm(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, const float* bias) {
  if (IsOurProduct(a, b, out)) return OurProduct(a, b, out, bias, accumulate);
  if (RowsAlike::on()) {
    ProductOfRowsAlike(a, b, out, accumulate);
  } else {
    MatrixProduct(a, b, out, accumulate);
  }
  if (bias != nullptr) {
    Kernels().bias_dropout_add(out.size(0), out.size(1), ElementsOf(out), bias, DropoutSite(),
                               nullptr, ElementsOf(out));
  }
}

}  // namespace thaw
