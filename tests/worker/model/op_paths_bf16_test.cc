// Every operation of ops.h on rows in bf16, by the kernels and by the reference: results and all
// gradients. Both compute in fp32 what they then round, so they differ where a sum in another order
// rounds to the other neighbour, and where the kernels round what the reference does not: a product
// of matrices before the bias, the weights of attention, a weight's gradient. A rounding is at most
// 2^-8 of the number, the numbers that a result comes from are rounded up to four times on the way,
// and the errors of sums average out: 2^-6 of the largest number is hardly reached by rounding, but
// by any mistake.
#include "tests/worker/model/op_paths.h"
#include "worker/model/sequence_state.h"

namespace thaw {
namespace {

using namespace op_paths;

constexpr double kRounded = 1.0 / 64;

Tensor RandomRows(at::IntArrayRef shape, uint64_t seed) {
  torch::manual_seed(seed);
  return at::randn(shape).to(torch::kBFloat16).set_requires_grad(true);
}
Tensor Half(const Tensor& weight) { return weight.detach().to(torch::kBFloat16); }
WeightAndBias Rounded(const Tensor& weight, const Tensor& bias = {}, bool input_major = false) {
  return {.weight = weight, .bias = bias, .input_major = input_major, .half = Half(weight)};
}

void ExpectBf16PathsAgree(const Tensors& inputs, const Operation& operation) {
  ExpectPathsAgree(inputs, operation, kRounded);
}

constexpr torch::ScalarType kBoth[] = {torch::kFloat, torch::kBFloat16};

TEST(OpPathsInBf16, Norms) {
  for (NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    const Tensor bias = kind == NormKind::kLayer ? Random({20}, 3) : Tensor();
    for (torch::ScalarType from : kBoth) {
      for (torch::ScalarType to : kBoth) {
        const Tensor x = from == torch::kFloat ? Random({70, 20}, 1) : RandomRows({70, 20}, 1);
        ExpectBf16PathsAgree(
            {x, Random({20}, 2), bias}, [&](Path path, const Tensors& in) -> Tensors {
              const Tensor y = Normalise(path, in[0], {kind, in[1], in[2], 1e-6, to});
              EXPECT_EQ(y.scalar_type(), to);
              return {y};
            });
      }
    }
    ExpectBf16PathsAgree({RandomRows({7, 60}, 1), Random({20}, 2), bias},
                         [&](Path path, const Tensors& in) -> Tensors {
                           const Tensor y = NormaliseHeads(path, in[0], {kind, in[1], in[2], 1e-6});
                           EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
                           return {y};
                         });
  }
}

TEST(OpPathsInBf16, ResidualsOfPreNormBlocksStayInFp32) {
  for (NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    const Tensor beta = kind == NormKind::kLayer ? Random({20}, 3) : Tensor();
    for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
      for (bool with_bias : {true, false}) {
        const Tensors inputs = {RandomRows({70, 20}, 1), with_bias ? Random({20}, 4) : Tensor(),
                                Random({70, 20}, 5), Random({20}, 2), beta};
        const auto both = [&](Path path, const Tensors& in) {
          const SumAndNorm result = ResidualAndNorm(path, Fresh(in[0]), in[1], in[2],
                                                    {kind, in[3], in[4], 1e-6}, dropout);
          EXPECT_EQ(result.sum.scalar_type(), torch::kFloat);
          EXPECT_EQ(result.normed.scalar_type(), torch::kBFloat16);
          return result;
        };
        ExpectBf16PathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          const SumAndNorm result = both(path, in);
          return {result.sum, result.normed};
        });
        ExpectBf16PathsAgree(
            inputs, [&](Path path, const Tensors& in) -> Tensors { return {both(path, in).sum}; });
        ExpectBf16PathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          return {both(path, in).normed};
        });
        ExpectBf16PathsAgree(
            {inputs[0], inputs[1], inputs[2]}, [&](Path path, const Tensors& in) -> Tensors {
              const Tensor sum = Residual(path, Fresh(in[0]), in[1], in[2], dropout);
              EXPECT_EQ(sum.scalar_type(), torch::kFloat);
              return {sum};
            });
      }
    }
  }
}

TEST(OpPathsInBf16, PostNormBlocks) {
  for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
    ExpectBf16PathsAgree({RandomRows({70, 20}, 1), Random({20}, 2), RandomRows({70, 20}, 3),
                          Random({20}, 4), Random({20}, 5)},
                         [&](Path path, const Tensors& in) -> Tensors {
                           const Tensor y = ResidualNorm(path, Fresh(in[0]), in[1], in[2], in[3],
                                                         in[4], 1e-6, dropout);
                           EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
                           return {y};
                         });
  }
  const Tensor x = RandomRows({4, 8}, 1), residual = Random({4, 8}, 2), scale = Random({8}, 3);
  EXPECT_THROW(ResidualNorm(Path::kKernels, x, {}, residual, scale, scale, 1e-6, {}), c10::Error);
}

TEST(OpPathsInBf16, Embeddings) {
  EmbeddingInputs inputs;
  inputs.ids = torch::tensor({3, 0, 7, 3, 9, 0}, torch::kInt64);
  inputs.positions = torch::tensor({0, 1, 2, 0, 1, 2}, torch::kInt64);
  inputs.type = torch::kBFloat16;
  for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
    ExpectBf16PathsAgree({Random({10, 20}, 1), Random({4, 20}, 2), Random({2, 20}, 3),
                          Random({20}, 4), Random({20}, 5)},
                         [&](Path path, const Tensors& in) -> Tensors {
                           const Tensor y = EmbeddingNorm(path, inputs, in[0], in[1], in[2], in[3],
                                                          in[4], 1e-5, dropout);
                           EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
                           return {y};
                         });
  }
}

TEST(OpPathsInBf16, Mlps) {
  for (ActivationKind kind : kKinds) {
    ExpectBf16PathsAgree({RandomRows({5, 12}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
      return {Activate(path, kind, in[0])};
    });
  }
  const ActivationKind kind = ActivationKind::kGeluTanh;
  for (bool input_major : {false, true}) {
    const auto weight = [&](int64_t in, int64_t out, uint64_t seed) {
      return input_major ? Random({in, out}, seed) : Random({out, in}, seed);
    };
    for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
      for (bool with_bias : {true, false}) {
        const auto bias = [&](uint64_t seed) { return with_bias ? Random({24}, seed) : Tensor(); };
        for (int64_t rows : {3, 40}) {
          ExpectBf16PathsAgree(
              {RandomRows({rows, 12}, 1), weight(12, 24, 2), bias(3), weight(24, 12, 4)},
              [&](Path path, const Tensors& in) -> Tensors {
                return {Mlp(path, kind, in[0], Rounded(in[1], in[2], input_major),
                            Rounded(in[3], {}, input_major), dropout)};
              });
          ExpectBf16PathsAgree(
              {RandomRows({rows, 12}, 1), weight(12, 24, 2), bias(3), weight(12, 24, 4), bias(5),
               weight(24, 12, 6)},
              [&](Path path, const Tensors& in) -> Tensors {
                return {GatedMlp(path, kind, in[0], Rounded(in[1], in[2], input_major),
                                 Rounded(in[3], in[4], input_major),
                                 Rounded(in[5], {}, input_major), dropout)};
              });
        }
      }
    }
  }
}

TEST(OpPathsInBf16, Projections) {
  for (int64_t rows : {1, 32, 33, 40}) {
    for (bool input_major : {false, true}) {
      ExpectBf16PathsAgree(
          {RandomRows({rows, 12}, 1), input_major ? Random({12, 20}, 2) : Random({20, 12}, 2),
           Random({20}, 3), Random({7, 12}, 4)},
          [&](Path path, const Tensors& in) -> Tensors {
            return Projections(path, in[0], {Rounded(in[1], in[2], input_major), Rounded(in[3])});
          });
    }
  }
  const Tensor x = RandomRows({40, 12}, 1), weight = Random({20, 12}, 2);
  for (Path path : {Path::kKernels, Path::kReference}) {
    EXPECT_THROW(Linear(path, x, {weight}), c10::Error);
  }
}

// What an added part makes of a projection: low rank, with and without lengths of its own (DoRA),
// and scales of columns (IA3).
TEST(OpPathsInBf16, ProjectionsWithAddedParts) {
  for (bool input_major : {false, true}) {
    for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
      for (bool with_magnitude : {false, true}) {
        ExpectBf16PathsAgree(
            {RandomRows({40, 12}, 1), input_major ? Random({12, 20}, 2) : Random({20, 12}, 2),
             Random({20}, 3), Random({4, 12}, 4), Random({20, 4}, 5),
             with_magnitude ? Random({20}, 6) : Tensor()},
            [&](Path path, const Tensors& in) -> Tensors {
              WeightAndBias projection = Rounded(in[1], in[2], input_major);
              projection.low_rank = {.down = in[3],
                                     .up = in[4],
                                     .scale = 0.5,
                                     .dropout = dropout,
                                     .magnitude = in[5],
                                     .down_half = Half(in[3]),
                                     .up_half = Half(in[4])};
              const Tensor y = Linear(path, in[0], projection);
              EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
              return {y};
            });
      }
    }
    ExpectBf16PathsAgree(
        {RandomRows({40, 12}, 1), input_major ? Random({12, 20}, 2) : Random({20, 12}, 2),
         Random({20}, 3), Random({12}, 4), Random({20}, 5)},
        [&](Path path, const Tensors& in) -> Tensors {
          WeightAndBias projection = Rounded(in[1], in[2], input_major);
          projection.input_scale = in[3];
          projection.output_scale = in[4];
          const Tensor y = Linear(path, in[0], projection);
          EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
          return {y};
        });
  }
}

TEST(OpPathsInBf16, Attention) {
  for (bool causal : {false, true}) {
    for (int64_t span : {0, 64}) {
      for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
        for (int64_t dim : {12, 32, 64}) {
          AttentionSpec spec;
          spec.q_bounds = {0, 9, 10, 90};
          spec.k_bounds = {0, 9, 30, 130};
          spec.scale = 0.3;
          spec.causal = causal;
          spec.window = causal && span > 0 ? 5 : 0;
          spec.dropout = dropout;
          ExpectBf16PathsAgree(
              {RandomRows({90, 4, dim}, 1), RandomRows({130, 2, dim}, 2),
               RandomRows({130, 2, dim}, 3), span > 0 ? Random({4, 2 * span - 1}, 4) : Tensor()},
              [&](Path path, const Tensors& in) -> Tensors {
                spec.relative_bias = in[3];
                return {Attention(path, in[0], in[1], in[2], spec)};
              });
        }
      }
    }
  }
}

TEST(OpPathsInBf16, CachedAttention) {
  for (bool causal : {true, false}) {
    std::vector<BlockState> blocks(2);
    std::vector<int32_t> lengths = {0, 0};
    uint64_t seed = 1;
    for (const std::vector<int32_t>& bounds : std::vector<std::vector<int32_t>>{
             {0, 9, 30}, {0, 1, 2}, {0, 70, 71}, {0, 3, 5}, {0, 1, 1}}) {
      const int64_t rows = bounds.back();
      AttentionSpec spec;
      spec.q_bounds = bounds;
      spec.scale = 0.3;
      spec.causal = causal;
      spec.relative_bias = Random({4, 13}, 99).detach();
      const torch::NoGradGuard no_grad;
      const Tensor q = RandomRows({rows, 4, 12}, seed++), kv = RandomRows({rows, 4, 12}, seed++);
      Tensors results;
      for (Path path : {Path::kKernels, Path::kReference}) {
        BlockState& block = blocks[path == Path::kKernels ? 0 : 1];
        results.push_back(
            CachedAttention(path, q, kv.slice(1, 0, 2), kv.slice(1, 2, 4), spec, lengths, &block));
        EXPECT_EQ(block.keys[0].scalar_type(), torch::kBFloat16);
      }
      ExpectClose(results[0], results[1], "after " + std::to_string(lengths[0]), kRounded);
      for (size_t s = 0; s < 2; ++s) lengths[s] += bounds[s + 1] - bounds[s];
    }
  }
}

TEST(OpPathsInBf16, RotationAndDropout) {
  const Tensor positions = torch::tensor({0, 5, 2, 11}, torch::kInt64);
  const Tensor angles = at::outer(at::arange(12), at::pow(10.0, -at::arange(4)));
  ExpectBf16PathsAgree({RandomRows({4, 3, 11}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
    return {Rotate(path, in[0].slice(1, 1, 3), positions, angles.cos(), angles.sin())};
  });
  ExpectBf16PathsAgree({RandomRows({40, 30}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
    return {Dropout(path, in[0], kDrop)};
  });
}

TEST(OpPathsInBf16, Losses) {
  for (int64_t classes : {11, 70000}) {
    const int64_t rows = classes == 11 ? 60 : 300;
    Tensor labels = at::arange(rows) * 7 % classes;
    const Tensor all = labels.clone();
    labels.slice(0, 0, rows, 3).fill_(-100);
    for (bool with_bias : {true, false}) {
      const Tensors inputs = {RandomRows({rows, 6}, 1), Random({classes, 6}, 2),
                              with_bias ? Random({classes}, 3) : Tensor()};
      const Tensor half = Half(inputs[1]);
      for (const Tensor& own : {all, labels}) {
        ExpectBf16PathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          const Tensor loss = LinearCrossEntropySum(path, in[0], in[1], in[2], own, half);
          EXPECT_EQ(loss.scalar_type(), torch::kFloat);
          return {loss / rows};
        });
      }
      const auto log_probabilities = [&](Path path) {
        return LinearLogProbabilities(path, inputs[0], inputs[1], inputs[2], all, half);
      };
      ExpectClose(log_probabilities(Path::kKernels), log_probabilities(Path::kReference),
                  "log probabilities", kRounded);
    }
  }
  const Tensor logits = RandomRows({5, 3}, 1);
  const Tensor wide = logits.detach().to(torch::kFloat), labels = at::arange(5) % 3;
  EXPECT_EQ(CrossEntropySum(logits, labels).item<float>(),
            CrossEntropySum(wide, labels).item<float>());
  EXPECT_EQ(SquaredErrorSum(logits, at::ones({5, 3})).item<float>(),
            SquaredErrorSum(wide, at::ones({5, 3})).item<float>());
  EXPECT_EQ(BinaryCrossEntropySum(logits, at::ones({5, 3})).item<float>(),
            BinaryCrossEntropySum(wide, at::ones({5, 3})).item<float>());
}

TEST(OpPathsInBf16, GradientsOfWeightsAreAddedInFp32ToThoseThatAreSet) {
  const Tensor x = RandomRows({40, 6}, 1), labels = at::arange(40) % 9;
  Tensors weights = {Random({8, 6}, 2), Random({8, 6}, 3), Random({6, 8}, 4), Random({9, 6}, 5)};
  const auto run = [&] {
    const Tensor states = GatedMlp(Path::kKernels, ActivationKind::kSilu, x, Rounded(weights[0]),
                                   Rounded(weights[1]), Rounded(weights[2]), {});
    (LinearCrossEntropySum(Path::kKernels, states, weights[3], {}, labels, Half(weights[3])) / 40)
        .backward();
  };
  run();
  Tensors fresh;
  for (Tensor& weight : weights) {
    EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
    fresh.push_back(weight.grad().clone());
    weight.mutable_grad() = at::full_like(weight, 1024);
  }
  run();
  for (size_t i = 0; i < weights.size(); ++i) {
    ExpectClose(weights[i].grad() - 1024, fresh[i], "weight " + std::to_string(i), 1e-3);
  }
}

}  // namespace
}  // namespace thaw
