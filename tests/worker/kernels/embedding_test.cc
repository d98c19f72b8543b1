#include <omp.h>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class EmbeddingTest : public KernelTest {};

TEST_P(EmbeddingTest, WordsAreGatheredAndScatteredInOrder) {
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
  kernels.embedding_forward(rows, columns, ids.data(), nullptr, nullptr, word.data(), nullptr,
                            nullptr, y.data());
  for (int64_t i = 0; i < rows * columns; ++i) {
    ASSERT_EQ(y[i], word[ids[i / columns] * columns + i % columns]);
  }
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

TEST_P(EmbeddingTest, RotationTurnsPairsAndBack) {
  struct {
    int64_t heads, dim, half;
  } const cases[] = {{3, 64, 32}, {2, 20, 10}, {1, 48, 8}, {2, 128, 64}};
  for (const auto& [heads, dim, half] : cases) {
    const int64_t rows = 9, places = 30;
    const HeadStrides strides = {heads * dim + 7, dim};
    std::vector<float> cosines, sines;
    for (int64_t i = 0; i < places * half; ++i) {
      const double angle = static_cast<double>(i / half) *
                           std::pow(10000.0, -static_cast<double>(i % half) / double(half));
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
    const Matrix original = Random(static_cast<size_t>(rows * strides.row), 1);
    const std::vector<float> before = original.floats();
    std::vector<int64_t> positions;
    for (int64_t r = 0; r < rows; ++r) positions.push_back(r * 7 % places);
    std::vector<double> expected(before.begin(), before.end());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          const size_t low = static_cast<size_t>(r * strides.row + h * strides.head + i);
          const size_t high = low + static_cast<size_t>(half);
          const size_t at = static_cast<size_t>(positions[static_cast<size_t>(r)] * half + i);
          expected[low] = double{before[low]} * cosines[at] - double{before[high]} * sines[at];
          expected[high] = double{before[high]} * cosines[at] + double{before[low]} * sines[at];
        }
      }
    }
    RotaryShape shape;
    shape.rows = rows;
    shape.heads = heads;
    shape.head_dim = dim;
    shape.half = half;
    shape.cosines = cosines.data();
    shape.sines = sines.data();
    shape.positions = positions.data();
    shape.x = shape.y = strides;
    Matrix x = original, packed = Unset(static_cast<size_t>(rows * heads * dim));
    kernels.rotate(shape, x.at(), x.at());
    ExpectNear(x, expected, 1e-6, type);
    shape.y = {heads * dim, dim};
    kernels.rotate(shape, original.at(), packed.at());
    for (int64_t i = 0; i < rows * heads * dim; ++i) {
      const int64_t at = i / (heads * dim) * strides.row + i % (heads * dim);
      ASSERT_EQ(packed.floats()[static_cast<size_t>(i)], x.floats()[static_cast<size_t>(at)]);
    }
    shape.y = strides;
    shape.backwards = true;
    kernels.rotate(shape, x.at(), x.at());
    const double largest =
        type == RowType::kBf16 ? 0.03 : 1e-6;  // of two roundings of numbers to 4
    EXPECT_LT(LargestDifference(x.floats(), std::vector<double>(before.begin(), before.end())),
              largest);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmbeddingTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
