// What the CPU kernels reach on this machine, on rows in fp32 and in bf16, beside what its memory
// gives. Arguments: any of read, attention, norm, convert, matmul, decode, loss, nf4; none means
// all. THAW_BENCH_CLOCK=cpu takes the processor's time instead of the wall's: with one thread, on a
// machine that others use as well.
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "worker/kernels/kernels.h"

namespace thaw {
namespace {

using Floats = std::vector<float>;

Floats Filled(int64_t n) {
  Floats values(static_cast<size_t>(n));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
  }
  return values;
}

constexpr RowType kTypes[] = {RowType::kFloat, RowType::kBf16};
const char* NameOf(RowType type) { return type == RowType::kBf16 ? " bf16" : " fp32"; }
double BytesOf(RowType type) { return type == RowType::kBf16 ? 2 : 4; }

// Rows of either type.
class Matrix {
 public:
  Matrix(RowType type, int64_t n) : floats_(Filled(n)), type_(type) {
    if (type == RowType::kFloat) return;
    halves_.resize(floats_.size());
    Kernels().round(n, floats_.data(), halves_.data());
    floats_ = Floats();
  }
  Elements at(int64_t first = 0) {
    if (type_ == RowType::kFloat) return floats_.data() + first;
    return halves_.data() + first;
  }

 private:
  Floats floats_;
  std::vector<Bf16> halves_;
  RowType type_;
};

Bf16* As(Matrix& matrix) { return static_cast<Bf16*>(matrix.at().data); }

double Now() {
  const char* clock = std::getenv("THAW_BENCH_CLOCK");
  timespec time;
  clock_gettime(clock != nullptr && std::strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID
                                                                   : CLOCK_MONOTONIC,
                &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// The best of several runs within half a second, in seconds; `prepare` is not counted.
double Seconds(
    const std::function<void()>& run, const std::function<void()>& prepare = [] {}) {
  prepare();
  run();
  double best = 1e9, total = 0;
  for (int i = 0; i < 5 || (total < 0.5 && i < 1000); ++i) {
    prepare();
    const double start = Now();
    run();
    const double took = Now() - start;
    best = std::min(best, took);
    total += took;
  }
  return best;
}

void Print(const std::string& what, double seconds, double amount, const char* unit) {
  std::printf("%-46s %9.1f us %8.1f %s\n", what.c_str(), seconds * 1e6, amount / seconds * 1e-9,
              unit);
}

volatile float sink;

void Read() {
  for (int64_t floats : {int64_t{576} * 576, int64_t{576} * 1536, int64_t{28'000'000}}) {
    const Floats values = Filled(floats);
    const double seconds = Seconds([&] {
      float total = 0;
#pragma omp parallel reduction(+ : total)
      {
        const int64_t threads = omp_get_num_threads(), own = omp_get_thread_num();
        float sums[64] = {};
        const float* from = values.data() + floats / threads * own;
        for (int64_t i = 0; i + 64 <= floats / threads; i += 64) {
          for (int64_t j = 0; j < 64; ++j) sums[j] += from[i + j];
        }
        for (float sum : sums) total += sum;
      }
      sink = total;
    });
    Print("read " + std::to_string(floats * 4 / 1000) + " kB", seconds, double(floats) * 4, "GB/s");
  }
}

struct AttentionCase {
  const char* name;
  int32_t sequences, length, heads, kv_heads, dim;
  bool causal;
  int64_t window;
};

void AttentionOf(const AttentionCase& c, RowType type) {
  std::vector<int32_t> bounds;
  for (int32_t s = 0; s <= c.sequences; ++s) bounds.push_back(s * c.length);
  AttentionShape shape;
  shape.q_bounds = shape.k_bounds = bounds.data();
  shape.sequences = c.sequences;
  shape.heads = c.heads;
  shape.kv_heads = c.kv_heads;
  shape.head_dim = c.dim;
  shape.q = shape.out = {c.heads * c.dim, c.dim};
  shape.kv = {c.kv_heads * c.dim, c.dim};
  shape.d_q = shape.q;
  shape.d_kv = shape.kv;
  shape.scale = 0.125f;
  shape.causal = c.causal;
  shape.window = c.window;
  const int64_t rows = int64_t{c.sequences} * c.length;
  Matrix q(type, rows * shape.q.row), k(type, rows * shape.kv.row), v = k, d = q, out = q, d_q = q,
                                                                    d_k = k, d_v = k;
  Floats sums(static_cast<size_t>(rows * c.heads));
  double pairs = double(c.length) * c.length;
  if (c.causal) pairs = double(c.length) * (c.length + 1) / 2;
  if (c.window > 0) pairs -= double(c.length - c.window) * double(c.length - c.window + 1) / 2;
  const double work = pairs * c.sequences * c.heads * c.dim * 4;
  const double forward = Seconds(
      [&] { Kernels().attention_forward(shape, q.at(), k.at(), v.at(), out.at(), sums.data()); });
  Print(std::string("attention ") + c.name + NameOf(type), forward, work, "GFLOP/s");
  const double backward = Seconds([&] {
    Kernels().attention_backward(shape, q.at(), k.at(), v.at(), out.at(), sums.data(), d.at(),
                                 d_q.at(), d_k.at(), d_v.at(), nullptr);
  });
  Print(std::string("attention backward ") + c.name + NameOf(type), backward, work * 2.5,
        "GFLOP/s");
}

void Attention() {
  for (const AttentionCase& c :
       {AttentionCase{"BERT 16x128", 16, 128, 12, 12, 32, false, 0},
        AttentionCase{"BERT 64x32", 64, 32, 12, 12, 32, false, 0},
        AttentionCase{"GPT-2 8x256", 8, 256, 12, 12, 64, true, 0},
        AttentionCase{"causal 16x128", 16, 128, 9, 3, 64, true, 0},
        AttentionCase{"causal 8x256", 8, 256, 9, 3, 64, true, 0},
        AttentionCase{"full 8x512", 8, 512, 9, 3, 64, false, 0},
        AttentionCase{"causal 8x512", 8, 512, 9, 3, 64, true, 0},
        AttentionCase{"causal 1x4096", 1, 4096, 9, 3, 64, true, 0},
        AttentionCase{"window 512 of 1x4096", 1, 4096, 9, 3, 64, true, 512}}) {
    for (RowType type : kTypes) AttentionOf(c, type);
  }
}

void NormsOf(RowType type) {
  const int64_t rows = 2048, columns = 576;
  const double size = double(rows * columns), bytes = BytesOf(type);
  Matrix x(type, rows * columns), y = x, d = x, d_x = x, residual = x;
  Floats stream = Filled(rows * columns), sum = stream, gamma = Filled(columns), d_gamma = gamma;
  Floats moments(static_cast<size_t>(2 * rows));
  const auto print = [type](const char* what, double seconds, double amount) {
    Print(what + std::string(NameOf(type)), seconds, amount, "GB/s");
  };
  const double norm = Seconds([&] {
    Kernels().sum_norm_forward(NormKind::kRms, rows, columns, x.at(), nullptr, stream.data(),
                               gamma.data(), nullptr, 1e-5f, {}, sum.data(), y.at(),
                               moments.data());
  });
  print("residual + RMSNorm 2048x576", norm, (2 * bytes + 8) * size);
  const double norm_backward = Seconds([&] {
    Kernels().sum_norm_backward(NormKind::kRms, rows, columns, d.at(), stream.data(), sum.data(),
                                moments.data(), gamma.data(), {}, stream.data(),
                                type == RowType::kBf16 ? d_x.at() : Elements(), d_gamma.data(),
                                nullptr, nullptr);
  });
  print("residual + RMSNorm backward", norm_backward,
        (bytes + 12 + (type == RowType::kBf16 ? bytes : 0)) * size);
  const double post = Seconds([&] {
    Kernels().residual_norm_forward(rows, columns, x.at(), gamma.data(), residual.at(),
                                    gamma.data(), gamma.data(), 1e-5f, {}, y.at(), moments.data());
  });
  print("LayerNorm of residual 2048x576", post, 4 * bytes * size);
  const double post_backward = Seconds([&] {
    Kernels().residual_norm_backward(rows, columns, d.at(), x.at(), moments.data(), gamma.data(),
                                     {}, d_x.at(), nullptr, d_gamma.data(), d_gamma.data(),
                                     d_gamma.data());
  });
  print("LayerNorm of residual backward", post_backward, 3 * bytes * size);
  const DropoutSite drop = MakeDropoutSite(1, 2, 3, 4, 0.1);
  const double dropout = Seconds(
      [&] { Kernels().bias_dropout_add(rows, columns, x.at(), nullptr, drop, nullptr, y.at()); });
  print("dropout 2048x576", dropout, 2 * bytes * size);
  const double sums =
      Seconds([&] { Kernels().column_sums(rows, columns, x.at(), d_gamma.data()); });
  print("column sums 2048x576", sums, bytes * size);
}

void ActivationsOf(RowType type) {
  const int64_t rows = 2048, inner = 1536;
  const double wide = double(rows * inner) * BytesOf(type);
  const Matrix original(type, rows * inner);
  // What is overwritten is made anew, or it would shrink to numbers that are slow to compute with.
  Matrix gate = original, up = original, product = original, d = original;
  const auto renew = [&] { gate = up = product = d = original; };
  const Floats bias = Filled(inner);
  const auto print = [type](const char* what, double seconds, double amount) {
    Print(what + std::string(NameOf(type)), seconds, amount, "GB/s");
  };
  const ActivationKind silu = ActivationKind::kSilu, gelu = ActivationKind::kGeluErf;
  const double gated = Seconds(
      [&] { Kernels().gated_forward(silu, rows, inner, gate.at(), up.at(), inner, product.at()); });
  print("silu(gate) * up 2048x1536", gated, 3 * wide);
  const double gated_backward = Seconds(
      [&] {
        Kernels().gated_backward(silu, rows, inner, gate.at(), up.at(), inner, d.at(), gate.at(),
                                 up.at(), product.at());
      },
      renew);
  print("silu(gate) * up backward", gated_backward, 6 * wide);
  const double forward = Seconds(
      [&] {
        Kernels().activation_forward(gelu, rows, inner, gate.at(), bias.data(), product.at());
      },
      renew);
  print("gelu(x + bias) 2048x1536", forward, 3 * wide);
  const double backward = Seconds(
      [&] { Kernels().activation_backward(gelu, rows, inner, gate.at(), d.at(), product.at()); },
      renew);
  print("gelu backward", backward, 4 * wide);
}

void Elementwise() {
  for (RowType type : kTypes) NormsOf(type);
  for (RowType type : kTypes) ActivationsOf(type);
}

void Convert() {
  const int64_t n = 576 * 1536;
  Floats floats = Filled(n);
  std::vector<Bf16> halves(static_cast<size_t>(n));
  const double round = Seconds([&] { Kernels().round(n, floats.data(), halves.data()); });
  Print("round 576x1536", round, double(n) * 6, "GB/s");
  const double add = Seconds([&] { Kernels().add(n, halves.data(), floats.data()); });
  Print("add 576x1536", add, double(n) * 10, "GB/s");
}

struct MatmulCase {
  WeightLayout layout;
  int64_t in, out;
};

void MatmulOf(const MatmulCase& c, RowType type) {
  // Many layers' weights, so that they come from memory as in a model.
  const int64_t layers = std::max<int64_t>(1, 28'000'000 / (c.in * c.out));
  Matrix w(type, layers * c.in * c.out);
  for (int64_t rows : {1, 4, 8, 16, 32}) {
    Matrix x(type, rows * c.in), y(type, rows * c.out);
    const double seconds = Seconds([&] {
      for (int64_t layer = 0; layer < layers; ++layer) {
        Kernels().skinny_matmul(c.layout, rows, c.in, c.out, x.at(), w.at(layer * c.in * c.out),
                                nullptr, y.at());
      }
    });
    Print("skinny matmul " + std::to_string(rows) + " x " + std::to_string(c.in) + " -> " +
              std::to_string(c.out) + (c.layout == WeightLayout::kInOut ? " in-out" : "") +
              NameOf(type),
          seconds / double(layers), double(c.in * c.out) * BytesOf(type), "GB/s");
  }
}

// Many rows, as trainings and embeddings have them.
void ProductOf(const MatmulCase& c) {
  if (Kernels().matmul == nullptr) return;
  const int64_t layers = std::max<int64_t>(1, 28'000'000 / (c.in * c.out));
  Matrix w(RowType::kBf16, layers * c.in * c.out);
  for (int64_t rows : {64, 300, 1024}) {
    Matrix x(RowType::kBf16, rows * c.in), y(RowType::kBf16, rows * c.out);
    const bool in_out = c.layout == WeightLayout::kInOut;
    const MatmulShape shape = {c.layout, rows, c.in, c.out, c.in, in_out ? c.out : c.in, c.out};
    const double seconds = Seconds([&] {
      for (int64_t layer = 0; layer < layers; ++layer) {
        Kernels().matmul(shape, As(x), As(w) + layer * c.in * c.out, nullptr, false, As(y));
      }
    });
    Print("matmul " + std::to_string(rows) + " x " + std::to_string(c.in) + " -> " +
              std::to_string(c.out) + (in_out ? " in-out" : "") + " bf16",
          seconds / double(layers), 2 * double(rows * c.in * c.out), "GFLOP/s");
  }
}

void Matmul() {
  for (const MatmulCase& c :
       {MatmulCase{WeightLayout::kOutIn, 576, 576}, MatmulCase{WeightLayout::kOutIn, 576, 1536},
        MatmulCase{WeightLayout::kOutIn, 1536, 576}, MatmulCase{WeightLayout::kOutIn, 576, 49152},
        MatmulCase{WeightLayout::kInOut, 768, 3072}, MatmulCase{WeightLayout::kOutIn, 384, 384},
        MatmulCase{WeightLayout::kOutIn, 384, 1536}, MatmulCase{WeightLayout::kOutIn, 1536, 384},
        MatmulCase{WeightLayout::kInOut, 384, 384}, MatmulCase{WeightLayout::kInOut, 1536, 384},
        MatmulCase{WeightLayout::kInOut, 384, 1536}}) {
    for (RowType type : kTypes) MatmulOf(c, type);
    ProductOf(c);
  }
}

void DecodeOf(bool head_major, RowType type) {
  const int64_t capacity = 1024, heads = 9, kv_heads = 3, dim = 64, sequences = 8, layers = 8;
  const int64_t size = capacity * kv_heads * dim;
  Matrix k(type, layers * sequences * size), v = k, q(type, sequences * heads * dim), out = q;
  const double seconds = Seconds([&] {
    for (int64_t layer = 0; layer < layers; ++layer) {
      std::vector<CachedSequence> cached;
      for (int64_t s = 0; s < sequences; ++s) {
        const int64_t first = (layer * sequences + s) * size;
        cached.push_back({k.at(first), v.at(first), capacity, s, 1});
      }
      DecodeShape shape;
      shape.sequences = cached.data();
      shape.count = sequences;
      shape.heads = heads;
      shape.kv_heads = kv_heads;
      shape.head_dim = dim;
      shape.q = shape.out = {heads * dim, dim};
      shape.kv = head_major ? HeadStrides{dim, capacity * dim} : HeadStrides{kv_heads * dim, dim};
      Kernels().attention_decode(shape, q.at(), out.at());
    }
  });
  Print((head_major ? "decode 8x1024, head by head" : "decode 8x1024, row by row") +
            std::string(NameOf(type)),
        seconds / double(layers), double(2 * sequences * size) * BytesOf(type), "GB/s");
}

void Decode() {
  for (bool head_major : {true, false}) {
    for (RowType type : kTypes) DecodeOf(head_major, type);
  }
}

void Loss() {
  const int64_t rows = 256, classes = 49152;
  const std::vector<int64_t> labels(static_cast<size_t>(rows), 7);
  for (RowType type : kTypes) {
    Matrix logits(type, rows * classes), d = logits;
    const double seconds = Seconds([&] {
      Kernels().cross_entropy(rows, classes, logits.at(), labels.data(), d.at(), nullptr, nullptr);
    });
    Print(std::string("cross-entropy 256x49152") + NameOf(type), seconds,
          double(rows * classes) * 2 * BytesOf(type), "GB/s");
  }
}

void Nf4() {
  const std::vector<float> table(16, 0.5f);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{576, 576}, {1536, 576}, {4096, 4096}}) {
    const int64_t n = out * in;
    const std::vector<uint8_t> codes(static_cast<size_t>(n / 2), 0x5a);
    const std::vector<float> scales(static_cast<size_t>(n / 64), 0.1f);
    for (RowType type : kTypes) {
      Matrix y(type, n);
      const double seconds = Seconds(
          [&] { Kernels().nf4_expand(n, 64, codes.data(), table.data(), scales.data(), y.at()); });
      Print("nf4 " + std::to_string(out) + "x" + std::to_string(in) + NameOf(type), seconds,
            double(n) * BytesOf(type), "GB/s written");
    }
  }
}

int Main(int count, char** arguments) {
  const struct {
    const char* name;
    void (*run)();
  } parts[] = {
      {"read", Read},     {"attention", Attention}, {"norm", Elementwise}, {"convert", Convert},
      {"matmul", Matmul}, {"decode", Decode},       {"loss", Loss},        {"nf4", Nf4}};
  for (const auto& part : parts) {
    const bool asked = std::any_of(arguments + 1, arguments + count,
                                   [&](const char* a) { return std::strcmp(a, part.name) == 0; });
    if (count == 1 || asked) part.run();
  }
  return 0;
}

}  // namespace
}  // namespace thaw

int main(int count, char** arguments) { return thaw::Main(count, arguments); }
