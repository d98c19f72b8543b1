// What the CPU kernels reach on this machine, beside what its memory gives. Arguments: any of
// read, attention, norm, matmul, decode, loss, nf4; none means all. THAW_BENCH_CLOCK=cpu takes the
// processor's time instead of the wall's: with one thread, on a machine that others use as well.
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

using Matrix = std::vector<float>;

Matrix Filled(int64_t n) {
  Matrix values(static_cast<size_t>(n));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
  }
  return values;
}

double Now() {
  const char* clock = std::getenv("THAW_BENCH_CLOCK");
  timespec time;
  clock_gettime(clock != nullptr && std::strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID
                                                                   : CLOCK_MONOTONIC,
                &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// The best of several runs within half a second, in seconds.
double Seconds(const std::function<void()>& run) {
  run();
  double best = 1e9, total = 0;
  for (int i = 0; i < 5 || (total < 0.5 && i < 1000); ++i) {
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
    const Matrix values = Filled(floats);
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

void Attention() {
  struct Case {
    const char* name;
    int32_t sequences, length, heads, kv_heads, dim;
    bool causal;
    int64_t window;
  };
  for (const Case& c : {Case{"BERT 16x128", 16, 128, 12, 12, 32, false, 0},
                        Case{"full 8x512", 8, 512, 9, 3, 64, false, 0},
                        Case{"causal 8x512", 8, 512, 9, 3, 64, true, 0},
                        Case{"causal 1x4096", 1, 4096, 9, 3, 64, true, 0},
                        Case{"window 512 of 1x4096", 1, 4096, 9, 3, 64, true, 512}}) {
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
    const Matrix q = Filled(rows * shape.q.row), k = Filled(rows * shape.kv.row), v = k, d = q;
    Matrix out = q, sums(static_cast<size_t>(rows * c.heads)), d_q = q, d_k = k, d_v = k;
    double pairs = double(c.length) * c.length;
    if (c.causal) pairs = double(c.length) * (c.length + 1) / 2;
    if (c.window > 0) pairs -= double(c.length - c.window) * double(c.length - c.window + 1) / 2;
    const double work = pairs * c.sequences * c.heads * c.dim * 4;
    const double forward = Seconds([&] {
      Kernels().attention_forward(shape, q.data(), k.data(), v.data(), out.data(), sums.data());
    });
    Print(std::string("attention ") + c.name, forward, work, "GFLOP/s");
    const double backward = Seconds([&] {
      Kernels().attention_backward(shape, q.data(), k.data(), v.data(), out.data(), sums.data(),
                                   d.data(), d_q.data(), d_k.data(), d_v.data(), nullptr);
    });
    Print(std::string("attention backward ") + c.name, backward, work * 2.5, "GFLOP/s");
  }
}

void Elementwise() {
  const int64_t rows = 2048, columns = 576, inner = 1536;
  Matrix x = Filled(rows * columns), y = x, d = x, residual = x, gamma = Filled(columns);
  Matrix moments(static_cast<size_t>(2 * rows)), d_gamma = gamma;
  const double size = double(rows * columns) * 4;
  const double norm = Seconds([&] {
    Kernels().sum_norm_forward(NormKind::kRms, rows, columns, x.data(), nullptr, residual.data(),
                               gamma.data(), nullptr, 1e-5f, {}, y.data(), moments.data());
  });
  Print("residual + RMSNorm 2048x576", norm, 4 * size, "GB/s");
  const double norm_backward = Seconds([&] {
    Kernels().sum_norm_backward(NormKind::kRms, rows, columns, d.data(), d.data(), x.data(),
                                moments.data(), gamma.data(), {}, y.data(), nullptr, d_gamma.data(),
                                nullptr, nullptr);
  });
  Print("residual + RMSNorm backward", norm_backward, 4 * size, "GB/s");
  Matrix gate = Filled(rows * inner), up = gate, product = gate, d_product = gate;
  const double wide = double(rows * inner) * 4;
  const double gated = Seconds([&] {
    Kernels().gated_forward(ActivationKind::kSilu, rows, inner, gate.data(), up.data(), inner,
                            product.data());
  });
  Print("silu(gate) * up 2048x1536", gated, 3 * wide, "GB/s");
  const double gated_backward = Seconds([&] {
    Kernels().gated_backward(ActivationKind::kSilu, rows, inner, gate.data(), up.data(), inner,
                             d_product.data(), gate.data(), up.data(), product.data());
  });
  Print("silu(gate) * up backward", gated_backward, 6 * wide, "GB/s");
}

void Matmul() {
  struct Case {
    WeightLayout layout;
    int64_t in, out;
  };
  for (const Case& c :
       {Case{WeightLayout::kOutIn, 576, 576}, Case{WeightLayout::kOutIn, 576, 1536},
        Case{WeightLayout::kOutIn, 1536, 576}, Case{WeightLayout::kOutIn, 576, 49152},
        Case{WeightLayout::kInOut, 768, 3072}}) {
    // Many layers' weights, so that they come from memory as in a model.
    const int64_t layers = std::max<int64_t>(1, 28'000'000 / (c.in * c.out));
    const Matrix w = Filled(layers * c.in * c.out);
    for (int64_t rows : {1, 4, 8, 16}) {
      const Matrix x = Filled(rows * c.in);
      Matrix y(static_cast<size_t>(rows * c.out));
      const double seconds = Seconds([&] {
        for (int64_t layer = 0; layer < layers; ++layer) {
          Kernels().skinny_matmul(c.layout, rows, c.in, c.out, x.data(),
                                  w.data() + layer * c.in * c.out, nullptr, y.data());
        }
      });
      Print("skinny matmul " + std::to_string(rows) + " x " + std::to_string(c.in) + " -> " +
                std::to_string(c.out) + (c.layout == WeightLayout::kInOut ? " in-out" : ""),
            seconds / double(layers), double(c.in * c.out) * 4, "GB/s");
    }
  }
}

void Decode() {
  for (bool head_major : {true, false}) {
    const int64_t capacity = 1024, heads = 9, kv_heads = 3, dim = 64, sequences = 8, layers = 8;
    const int64_t size = capacity * kv_heads * dim;
    const Matrix k = Filled(layers * sequences * size), v = k, q = Filled(sequences * heads * dim);
    Matrix out = q;
    const double seconds = Seconds([&] {
      for (int64_t layer = 0; layer < layers; ++layer) {
        std::vector<CachedSequence> cached;
        for (int64_t s = 0; s < sequences; ++s) {
          const int64_t at = (layer * sequences + s) * size;
          cached.push_back({k.data() + at, v.data() + at, capacity, s, 1});
        }
        DecodeShape shape;
        shape.sequences = cached.data();
        shape.count = sequences;
        shape.heads = heads;
        shape.kv_heads = kv_heads;
        shape.head_dim = dim;
        shape.q = shape.out = {heads * dim, dim};
        shape.kv = head_major ? HeadStrides{dim, capacity * dim} : HeadStrides{kv_heads * dim, dim};
        Kernels().attention_decode(shape, q.data(), out.data());
      }
    });
    Print(head_major ? "decode 8x1024, head by head" : "decode 8x1024, row by row",
          seconds / double(layers), double(2 * sequences * size) * 4, "GB/s");
  }
}

void Loss() {
  const int64_t rows = 256, classes = 49152;
  Matrix logits = Filled(rows * classes), d = logits;
  const std::vector<int64_t> labels(static_cast<size_t>(rows), 7);
  const double seconds = Seconds([&] {
    Kernels().cross_entropy(rows, classes, logits.data(), labels.data(), d.data(), nullptr,
                            nullptr);
  });
  Print("cross-entropy 256x49152", seconds, double(rows * classes) * 8, "GB/s");
}

void Nf4() {
  const std::vector<float> table(16, 0.5f);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{576, 576}, {1536, 576}, {4096, 4096}}) {
    const int64_t n = out * in;
    const std::vector<uint8_t> codes(static_cast<size_t>(n / 2), 0x5a);
    const std::vector<float> scales(static_cast<size_t>(n / 64), 0.1f);
    Matrix y(static_cast<size_t>(n));
    const double seconds = Seconds(
        [&] { Kernels().nf4_expand(n, 64, codes.data(), table.data(), scales.data(), y.data()); });
    Print("nf4 to fp32 " + std::to_string(out) + "x" + std::to_string(in), seconds, double(n) * 4,
          "GB/s written");
  }
}

int Main(int count, char** arguments) {
  const struct {
    const char* name;
    void (*run)();
  } parts[] = {{"read", Read},     {"attention", Attention}, {"norm", Elementwise},
               {"matmul", Matmul}, {"decode", Decode},       {"loss", Loss},
               {"nf4", Nf4}};
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
