#include "worker/model/nf4.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "worker/kernels/kernels.h"

namespace thaw {

using torch::Tensor;

const std::array<float, 16> kNf4Table = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

const Tensor& DynamicMap() {
  // Seven decades, each with twice as many numbers as the one below: the middles of equal parts of
  // [0.1, 1], both signs; 0 and 1.
  static const Tensor map = [] {
    std::vector<float> values = {0, 1};
    for (int decade = 0; decade < 7; ++decade) {
      const int parts = 1 << decade;
      // One rounding each, and none in between, as torch.linspace has it.
      const double step = (1.0f - 0.1f) / static_cast<float>(parts);
      const auto bound = [&](int i) {
        return static_cast<float>(i < (parts + 1) / 2 ? double{0.1f} + step * i
                                                      : 1 - step * (parts - i));
      };
      const auto unit = static_cast<float>(std::pow(10.0, decade - 6));
      for (int i = 0; i < parts; ++i) {
        const float middle = unit * ((bound(i) + bound(i + 1)) / 2);
        values.insert(values.end(), {middle, -middle});
      }
    }
    std::sort(values.begin(), values.end());
    return torch::tensor(at::ArrayRef<float>(values));
  }();
  return map;
}

int64_t Nf4Matrix::bytes() const {
  const auto of = [](const Tensor& tensor) {
    return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  return of(codes) + of(scales) + of(nested_scales);
}

namespace {

// How many of `bounds` are below `value`: what lies on a bound belongs to the code under it.
template <size_t n>
uint8_t BoundsBelow(const std::array<float, n>& bounds, float value) {
  int count = 0;
  for (const float bound : bounds) count += value > bound;
  return static_cast<uint8_t>(count);
}

std::array<float, 15> Nf4Bounds() {
  std::array<float, 15> bounds{};
  for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = (kNf4Table[i] + kNf4Table[i + 1]) / 2;
  return bounds;
}

// Of one block; gives its scale. `codes` begins at a whole byte. The rest of a matrix is divided
// where whole blocks are multiplied by the inverse: so are bitsandbytes' roundings.
float QuantiseBlock(const float* x, int64_t n, bool whole, const std::array<float, 15>& bounds,
                    uint8_t* codes) {
  constexpr float kLeast = 1e-38f;
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  const float divisor = std::max(largest, kLeast), inverse = 1.0f / divisor;
  const auto code = [&](int64_t i) -> uint8_t {
    // A row of an odd number of codes ends in that of 0.
    if (i >= n) return BoundsBelow(bounds, 0.0f);
    const float scaled = whole ? x[i] * inverse : x[i] / divisor;
    return BoundsBelow(bounds, std::clamp(scaled, -1.0f, 1.0f));
  };
  for (int64_t i = 0; i < n; i += 2) {
    codes[i / 2] = static_cast<uint8_t>(code(i) << 4 | code(i + 1));
  }
  return whole ? largest : divisor;
}

// LibTorch's own sum, as bitsandbytes has it, but of one thread: threads would share it out.
float MeanOf(const Tensor& values) {
  const int threads = at::get_num_threads();
  if (threads != 1) at::set_num_threads(1);
  const float mean = at::mean(values).item<float>();
  if (threads != 1) at::set_num_threads(threads);
  return mean;
}

uint8_t NearestInMap(const float* map, float value) {
  const float* const end = map + 256;
  const float* const above = std::lower_bound(map, end, value);
  if (above == map) return 0;
  if (above == end) return 255;
  const auto index = static_cast<uint8_t>(above - map);
  return *above - value < value - above[-1] ? index : static_cast<uint8_t>(index - 1);
}

void QuantiseScales(Nf4Matrix* matrix) {
  const Tensor scales = matrix->scales;
  const int64_t n = scales.numel(), block = matrix->nested_block_size;
  matrix->offset = MeanOf(scales);
  matrix->nested_map = DynamicMap();
  matrix->nested_scales = at::empty({(n + block - 1) / block}, torch::kFloat32);
  matrix->scales = at::empty({n}, torch::kUInt8);
  const float *from = scales.const_data_ptr<float>(),
              *map = matrix->nested_map.const_data_ptr<float>();
  uint8_t* const to = matrix->scales.data_ptr<uint8_t>();
  for (int64_t first = 0; first < n; first += block) {
    const int64_t end = std::min(first + block, n);
    float largest = 0;
    for (int64_t i = first; i < end; ++i) {
      largest = std::max(largest, std::abs(from[i] - matrix->offset));
    }
    matrix->nested_scales.data_ptr<float>()[first / block] = largest;
    const float inverse = 1.0f / largest;
    for (int64_t i = first; i < end; ++i) {
      to[i] = largest == 0 ? 0 : NearestInMap(map, (from[i] - matrix->offset) * inverse);
    }
  }
}

// This file is compiled for no instruction set that adds and multiplies in one rounding.
void ExpandScales(const Nf4Matrix& matrix, float* to) {
  if (!matrix.nested()) {
    std::memcpy(to, matrix.scales.const_data_ptr<float>(), matrix.scales.nbytes());
    return;
  }
  const uint8_t* const codes = matrix.scales.const_data_ptr<uint8_t>();
  const float *map = matrix.nested_map.const_data_ptr<float>(),
              *nested = matrix.nested_scales.const_data_ptr<float>();
  at::parallel_for(0, matrix.blocks(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float product = map[codes[i]] * nested[i / matrix.nested_block_size];
      to[i] = product + matrix.offset;
    }
  });
}

Tensor InItsLayout(const Nf4Matrix& matrix, const Tensor& rows) {
  return matrix.input_major ? rows.t() : rows;
}

// [out, in], with memory for the scales behind it.
void Expand(const Nf4Matrix& matrix, const Tensor& scales, Elements to) {
  ExpandScales(matrix, scales.data_ptr<float>());
  Kernels().nf4_expand(matrix.numbers(), matrix.block_size, matrix.codes.const_data_ptr<uint8_t>(),
                       kNf4Table.data(), scales.const_data_ptr<float>(), to);
}

}  // namespace

Nf4Matrix QuantiseNf4(const Tensor& weight, bool input_major, bool nested) {
  const torch::NoGradGuard no_grad;
  const Tensor rows = (input_major ? weight.t() : weight).to(torch::kFloat32).contiguous();
  Nf4Matrix matrix;
  matrix.rows = rows.size(0);
  matrix.columns = rows.size(1);
  matrix.input_major = input_major;
  const int64_t n = matrix.numbers();
  matrix.codes = at::empty({(n + 1) / 2}, torch::kUInt8);
  matrix.scales = at::empty({matrix.blocks()}, torch::kFloat32);
  const float* const from = rows.const_data_ptr<float>();
  uint8_t* const codes = matrix.codes.data_ptr<uint8_t>();
  float* const scales = matrix.scales.data_ptr<float>();
  const std::array<float, 15> bounds = Nf4Bounds();
  at::parallel_for(0, matrix.blocks(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * matrix.block_size, size = std::min(matrix.block_size, n - first);
      scales[b] =
          QuantiseBlock(from + first, size, size == matrix.block_size, bounds, codes + first / 2);
    }
  });
  if (nested) QuantiseScales(&matrix);
  return matrix;
}

Tensor Dequantised(const Nf4Matrix& matrix) {
  const Tensor rows = at::empty({matrix.rows, matrix.columns}, torch::kFloat32);
  Expand(matrix, at::empty({matrix.blocks()}, torch::kFloat32), rows.data_ptr<float>());
  return InItsLayout(matrix, rows).contiguous();
}

namespace {

struct CarriedMatrix : c10::BackendMeta {
  explicit CarriedMatrix(std::shared_ptr<const Nf4Matrix> carried) : matrix(std::move(carried)) {}
  const std::shared_ptr<const Nf4Matrix> matrix;
};

}  // namespace

Tensor Nf4Tensor(std::shared_ptr<const Nf4Matrix> matrix) {
  const auto shape = matrix->input_major ? std::vector<int64_t>{matrix->columns, matrix->rows}
                                         : std::vector<int64_t>{matrix->rows, matrix->columns};
  const Tensor tensor = at::empty(shape, torch::TensorOptions(torch::kFloat32).device(at::kMeta));
  tensor.unsafeGetTensorImpl()->set_backend_meta(
      c10::make_intrusive<CarriedMatrix>(std::move(matrix)));
  return tensor;
}

const Nf4Matrix* Nf4Of(const Tensor& weight) {
  if (!weight.defined() || !weight.is_meta()) return nullptr;
  const auto* const carried =
      dynamic_cast<const CarriedMatrix*>(weight.unsafeGetTensorImpl()->get_backend_meta());
  return carried == nullptr ? nullptr : carried->matrix.get();
}

int64_t BytesHeld(const Tensor& tensor) {
  const Nf4Matrix* const matrix = Nf4Of(tensor);
  return matrix == nullptr ? static_cast<int64_t>(tensor.nbytes()) : matrix->bytes();
}

Tensor Dense(const Tensor& weight) {
  const Nf4Matrix* const matrix = Nf4Of(weight);
  return matrix == nullptr ? weight : Dequantised(*matrix);
}

Tensor DenseForNow(const Tensor& weight, torch::ScalarType type) {
  const Nf4Matrix* const matrix = Nf4Of(weight);
  if (matrix == nullptr) return weight;
  const torch::NoGradGuard no_grad;
  thread_local Tensor in_fp32, in_bf16, scales;
  const auto at_least = [](Tensor& buffer, int64_t size, torch::ScalarType of) {
    if (!buffer.defined() || buffer.numel() < size) buffer = at::empty({size}, of);
  };
  Tensor& numbers = type == torch::kBFloat16 ? in_bf16 : in_fp32;
  at_least(numbers, matrix->numbers(), type);
  at_least(scales, matrix->blocks(), torch::kFloat32);
  if (type == torch::kBFloat16) {
    Expand(*matrix, scales, static_cast<Bf16*>(numbers.data_ptr()));
  } else {
    Expand(*matrix, scales, numbers.data_ptr<float>());
  }
  return InItsLayout(*matrix,
                     numbers.narrow(0, 0, matrix->numbers()).view({matrix->rows, matrix->columns}));
}

}  // namespace thaw
