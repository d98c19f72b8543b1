// What the kernel tests share: the instruction sets that this machine runs, random matrices in fp32
// or bf16, and comparison against double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "worker/kernels/kernels.h"

namespace thaw {

struct KernelCase {
  InstructionSet set;
  RowType type;
};

inline std::vector<InstructionSet> RunnableSets() {
  std::vector<InstructionSet> sets;
  for (InstructionSet set : {InstructionSet::kGeneric, InstructionSet::kAvx2,
                             InstructionSet::kAvx512, InstructionSet::kAmx}) {
    if (KernelsFor(set) != nullptr) sets.push_back(set);
  }
  return sets;
}

// Those of them that have the kernel: where others have none, their callers go another way.
template <typename Kernel>
std::vector<InstructionSet> SetsWith(Kernel KernelTable::*kernel) {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : RunnableSets()) {
    if (KernelsFor(set)->*kernel != nullptr) sets.push_back(set);
  }
  return sets;
}

inline std::vector<KernelCase> RunnableCases() {
  std::vector<KernelCase> cases;
  for (InstructionSet set : RunnableSets()) {
    for (RowType type : {RowType::kFloat, RowType::kBf16}) cases.push_back({set, type});
  }
  return cases;
}

inline std::string Name(const KernelCase& c) {
  static const char* const names[] = {"Generic", "Avx2", "Avx512", "Amx"};
  return std::string(names[static_cast<int>(c.set)]) + (c.type == RowType::kBf16 ? "Bf16" : "");
}
inline std::string CaseName(const ::testing::TestParamInfo<KernelCase>& info) {
  return Name(info.param);
}
inline void PrintTo(const KernelCase& c, std::ostream* out) { *out << Name(c); }

inline float Widened(Bf16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// To nearest even, by arithmetic other than the kernels'. Of finite numbers.
inline Bf16 Narrowed(float x) {
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 8, -133));
  const float rounded = static_cast<float>(std::nearbyint(x / unit) * unit);
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  return {static_cast<uint16_t>(bits >> 16)};
}

// Rows of either type. What they are given is rounded to it.
class Matrix {
 public:
  Matrix() = default;
  Matrix(RowType type, std::vector<float> values) : type_(type), values_(std::move(values)) {
    if (type == RowType::kFloat) return;
    for (float& value : values_) {
      halves_.push_back(std::isfinite(value) ? Narrowed(value) : Bf16{0x7fc0});
      value = Widened(halves_.back());
    }
  }

  bool empty() const { return values_.empty(); }
  size_t size() const { return values_.size(); }
  // From element `first` on; null where there are none.
  Elements at(int64_t first = 0) {
    if (empty()) return nullptr;
    if (type_ == RowType::kFloat) return values_.data() + first;
    return halves_.data() + first;
  }
  ConstElements at(int64_t first = 0) const { return const_cast<Matrix*>(this)->at(first); }
  // What is there now.
  std::vector<float> floats() const {
    if (type_ == RowType::kFloat) return values_;
    std::vector<float> found;
    for (Bf16 half : halves_) found.push_back(Widened(half));
    return found;
  }

 private:
  RowType type_ = RowType::kFloat;
  std::vector<float> values_;
  std::vector<Bf16> halves_;
};

inline bool operator==(const Matrix& a, const Matrix& b) { return a.floats() == b.floats(); }

// N(0, scale), the same for the same seed.
inline std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

inline double LargestDifference(const std::vector<float>& found,
                                const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

// Each within `tolerance`; in bf16 `roundings` halves of a unit in the last place more, which is at
// most 2^-8 of what is expected.
inline void ExpectNear(const Matrix& found, const std::vector<double>& expected, double tolerance,
                       RowType type, double roundings = 1) {
  const std::vector<float> values = found.floats();
  ASSERT_EQ(values.size(), expected.size());
  const double relative = type == RowType::kBf16 ? roundings / 256 : 0;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_LE(std::abs(values[i] - expected[i]), tolerance + relative * std::abs(expected[i]))
        << "element " << i << ": found " << values[i] << ", expected " << expected[i];
  }
}

class KernelTest : public ::testing::TestWithParam<KernelCase> {
 protected:
  KernelTest() : kernels(*KernelsFor(GetParam().set)), type(GetParam().type) {}

  Matrix Random(size_t n, uint32_t seed, float scale = 1) const {
    return {type, RandomFloats(n, seed, scale)};
  }
  Matrix Filled(size_t n, float value) const { return {type, std::vector<float>(n, value)}; }
  Matrix Unset(size_t n) const { return Filled(n, NAN); }

  const KernelTable& kernels;
  const RowType type;
};

}  // namespace thaw
