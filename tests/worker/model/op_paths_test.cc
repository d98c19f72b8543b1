// Every operation of ops.h by the kernels and by the reference: results and all gradients.
#include "tests/worker/model/op_paths.h"

#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using namespace op_paths;

TEST(OpPaths, Norms) {
  for (NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    const Tensor bias = kind == NormKind::kLayer ? Random({20}, 3) : Tensor();
    ExpectPathsAgree({Random({70, 20}, 1), Random({20}, 2), bias},
                     [&](Path path, const Tensors& in) -> Tensors {
                       return {Normalise(path, in[0], {kind, in[1], in[2], 1e-6})};
                     });
    ExpectPathsAgree({Random({7, 60}, 1), Random({20}, 2), bias},
                     [&](Path path, const Tensors& in) -> Tensors {
                       return {NormaliseHeads(path, in[0], {kind, in[1], in[2], 1e-6})};
                     });
    for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
      for (bool with_bias : {true, false}) {
        const Tensors inputs = {Random({70, 20}, 1), with_bias ? Random({20}, 4) : Tensor(),
                                Random({70, 20}, 5), Random({20}, 2), bias};
        const auto both = [&](Path path, const Tensors& in) {
          return ResidualAndNorm(path, Fresh(in[0]), in[1], in[2], {kind, in[3], in[4], 1e-6},
                                 dropout);
        };
        ExpectPathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          const SumAndNorm result = both(path, in);
          return {result.sum, result.normed};
        });
        ExpectPathsAgree(
            inputs, [&](Path path, const Tensors& in) -> Tensors { return {both(path, in).sum}; });
        ExpectPathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          return {both(path, in).normed};
        });
        ExpectPathsAgree({inputs[0], inputs[1], inputs[2]},
                         [&](Path path, const Tensors& in) -> Tensors {
                           return {Residual(path, Fresh(in[0]), in[1], in[2], dropout)};
                         });
      }
    }
  }
}

// A second block goes on with the sum of the first, which the first needs in its backward pass.
TEST(OpPaths, PreNormBlocksInARow) {
  ExpectPathsAgree({Random({9, 16}, 1), Random({16}, 2), Random({16, 16}, 3)},
                   [&](Path path, const Tensors& in) -> Tensors {
                     Tensor sum = in[0];
                     Tensor normed = Normalise(path, sum, {NormKind::kRms, in[1], {}, 1e-6});
                     for (int block = 0; block < 3; ++block) {
                       const Tensor x = Linear(path, normed, {in[2], {}});
                       const SumAndNorm next = ResidualAndNorm(
                           path, x, {}, sum, {NormKind::kRms, in[1], {}, 1e-6}, kDrop);
                       sum = next.sum;
                       normed = next.normed;
                     }
                     return {sum, normed};
                   });
}

TEST(OpPaths, Embeddings) {
  EmbeddingInputs inputs;
  inputs.ids = torch::tensor({3, 0, 7, 3, 9, 0}, torch::kInt64);
  inputs.positions = torch::tensor({0, 1, 2, 0, 1, 2}, torch::kInt64);
  for (int64_t padding : {-1, 0}) {
    inputs.padding_id = padding;
    for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
      for (bool with_position : {true, false}) {
        for (bool with_type : {true, false}) {
          ExpectPathsAgree(
              {Random({10, 20}, 1), with_position ? Random({4, 20}, 2) : Tensor(),
               with_type ? Random({2, 20}, 3) : Tensor(), Random({20}, 4), Random({20}, 5)},
              [&](Path path, const Tensors& in) -> Tensors {
                return {
                    EmbeddingNorm(path, inputs, in[0], in[1], in[2], in[3], in[4], 1e-5, dropout)};
              });
        }
        ExpectPathsAgree({Random({10, 20}, 1), with_position ? Random({4, 20}, 2) : Tensor()},
                         [&](Path path, const Tensors& in) -> Tensors {
                           return {Embedding(path, inputs, in[0], in[1], dropout)};
                         });
      }
    }
  }
}

TEST(OpPaths, Mlps) {
  for (ActivationKind kind : kKinds) {
    ExpectPathsAgree({Random({5, 12}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
      return {Activate(path, kind, in[0])};
    });
    for (bool input_major : {false, true}) {
      const auto weight = [&](int64_t in, int64_t out, uint64_t seed) {
        return input_major ? Random({in, out}, seed) : Random({out, in}, seed);
      };
      for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
        for (bool with_bias : {true, false}) {
          const auto bias = [&](uint64_t seed) {
            return with_bias ? Random({24}, seed) : Tensor();
          };
          for (int64_t rows : {3, 40}) {
            ExpectPathsAgree({Random({rows, 12}, 1), weight(12, 24, 2), bias(3), weight(24, 12, 4)},
                             [&](Path path, const Tensors& in) -> Tensors {
                               return {Mlp(path, kind, in[0], {in[1], in[2], input_major},
                                           {in[3], {}, input_major}, dropout)};
                             });
            ExpectPathsAgree(
                {Random({rows, 12}, 1), weight(12, 24, 2), bias(3), weight(12, 24, 4), bias(5),
                 weight(24, 12, 6)},
                [&](Path path, const Tensors& in) -> Tensors {
                  return {GatedMlp(path, kind, in[0], {in[1], in[2], input_major},
                                   {in[3], in[4], input_major}, {in[5], {}, input_major}, dropout)};
                });
          }
        }
      }
    }
  }
}

TEST(OpPaths, Projections) {
  for (int64_t rows : {1, 32, 33, 40}) {
    for (bool input_major : {false, true}) {
      ExpectPathsAgree(
          {Random({rows, 12}, 1), input_major ? Random({12, 20}, 2) : Random({20, 12}, 2),
           Random({20}, 3), Random({7, 12}, 4)},
          [&](Path path, const Tensors& in) -> Tensors {
            return Projections(path, in[0], {{in[1], in[2], input_major}, {in[3], {}, false}});
          });
    }
  }
}

TEST(OpPaths, Attention) {
  for (bool causal : {false, true}) {
    for (int64_t window : {0, 5}) {
      for (int64_t span : {0, 4, 64}) {
        for (const DropoutSite& dropout : {DropoutSite(), kDrop}) {
          AttentionSpec spec;
          spec.q_bounds = {0, 9, 10, 40};
          spec.k_bounds = {0, 9, 30, 65};
          spec.scale = 0.3;
          spec.causal = causal;
          spec.window = window;
          spec.dropout = dropout;
          ExpectPathsAgree({Random({40, 4, 12}, 1), Random({65, 2, 12}, 2), Random({65, 2, 12}, 3),
                            span > 0 ? Random({4, 2 * span - 1}, 4) : Tensor()},
                           [&](Path path, const Tensors& in) -> Tensors {
                             spec.relative_bias = in[3];
                             return {Attention(path, in[0], in[1], in[2], spec)};
                           });
        }
      }
    }
  }
}

TEST(OpPaths, AttentionOfFusedProjections) {
  AttentionSpec spec;
  spec.q_bounds = spec.k_bounds = {0, 9, 10, 40};
  spec.causal = true;
  ExpectPathsAgree({Random({40, 8, 12}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
    return {
        Attention(path, in[0].slice(1, 0, 4), in[0].slice(1, 4, 6), in[0].slice(1, 6, 8), spec)};
  });
  ExpectPathsAgree({Random({40, 4, 3, 12}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
    return {Attention(path, in[0].select(2, 0), in[0].select(2, 1), in[0].select(2, 2), spec)};
  });
}

TEST(OpPaths, AttentionRefusesQueriesThatSeeNothing) {
  AttentionSpec spec;
  spec.q_bounds = {0, 4};
  spec.k_bounds = {0, 3};
  spec.causal = true;
  const Tensor q = at::zeros({4, 1, 8}), k = at::zeros({3, 1, 8});
  EXPECT_THROW(Attention(Path::kKernels, q, k, k, spec), c10::Error);
}

TEST(OpPaths, CachedAttention) {
  for (bool causal : {true, false}) {
    for (int64_t window : {0, 6}) {
      for (int64_t span : {0, 7}) {
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
          spec.window = window;
          if (span > 0) spec.relative_bias = Random({4, 2 * span - 1}, 99).detach();
          const torch::NoGradGuard no_grad;
          const Tensor q = Random({rows, 4, 12}, seed++), kv = Random({rows, 4, 12}, seed++);
          Tensors results;
          for (Path path : {Path::kKernels, Path::kReference}) {
            results.push_back(CachedAttention(path, q, kv.slice(1, 0, 2), kv.slice(1, 2, 4), spec,
                                              lengths, &blocks[path == Path::kKernels ? 0 : 1]));
          }
          ExpectClose(results[0], results[1], "after " + std::to_string(lengths[0]));
          for (size_t s = 0; s < 2; ++s) lengths[s] += bounds[s + 1] - bounds[s];
        }
      }
    }
  }
}

TEST(OpPaths, Rotation) {
  const Tensor positions = torch::tensor({0, 5, 2, 11}, torch::kInt64);
  const Tensor angles = at::outer(at::arange(12), at::pow(10.0, -at::arange(4)));
  for (int64_t dim : {8, 11}) {
    ExpectPathsAgree({Random({4, 3, dim}, 1)}, [&](Path path, const Tensors& in) -> Tensors {
      return {Rotate(path, in[0].slice(1, 1, 3), positions, angles.cos(), angles.sin())};
    });
  }
  EXPECT_THROW(
      Rotate(Path::kKernels, Random({4, 3, 8}, 1), positions + 1, angles.cos(), angles.sin()),
      c10::IndexError);
}

TEST(OpPaths, LinearCrossEntropy) {
  for (int64_t classes : {11, 70000}) {  // some rows, and more than one chunk of them
    const int64_t rows = classes == 11 ? 30 : 300;
    Tensor labels = at::arange(rows) * 7 % classes;
    const Tensor all = labels.clone();
    labels.slice(0, 0, rows, 3).fill_(-100);
    for (bool with_bias : {true, false}) {
      const Tensors inputs = {Random({rows, 6}, 1), Random({classes, 6}, 2),
                              with_bias ? Random({classes}, 3) : Tensor()};
      for (const Tensor& own : {all, labels}) {
        ExpectPathsAgree(inputs, [&](Path path, const Tensors& in) -> Tensors {
          return {LinearCrossEntropySum(path, in[0], in[1], in[2], own) / rows};
        });
      }
      ExpectClose(LinearLogProbabilities(Path::kKernels, inputs[0], inputs[1], inputs[2], all),
                  LinearLogProbabilities(Path::kReference, inputs[0], inputs[1], inputs[2], all),
                  "log probabilities");
    }
  }
  const Tensor states = Random({2, 6}, 1), weight = Random({3, 6}, 2);
  EXPECT_THROW(LinearCrossEntropySum(Path::kKernels, states, weight, {},
                                     torch::tensor({0, 3}, torch::kInt64)),
               c10::Error);
  const Tensor none = torch::tensor({-100, -100}, torch::kInt64);
  const Tensor loss = LinearCrossEntropySum(Path::kKernels, states, weight, {}, none);
  EXPECT_EQ(loss.item<double>(), 0);
  loss.backward();
  EXPECT_EQ(states.grad().abs().max().item<double>(), 0);
}

TEST(OpPaths, GradientsOfWeightsAreAddedToThoseThatAreSet) {
  const Tensor x = Random({20, 6}, 1), labels = at::arange(20) % 9;
  Tensors weights = {Random({8, 6}, 2), Random({8, 6}, 3), Random({6, 8}, 4), Random({9, 6}, 5),
                     Random({12, 6}, 6)};
  const auto run = [&] {
    EmbeddingInputs inputs;
    inputs.ids = at::arange(20) % 12;
    const Tensor rows = x + Embedding(Path::kKernels, inputs, weights[4], {}, {});
    const Tensor states = GatedMlp(Path::kKernels, ActivationKind::kSilu, rows, {weights[0], {}},
                                   {weights[1], {}}, {weights[2], {}}, {});
    (LinearCrossEntropySum(Path::kKernels, states, weights[3], {}, labels) / 20).backward();
  };
  run();
  Tensors fresh;
  for (Tensor& weight : weights) {
    fresh.push_back(weight.grad().clone());
    weight.mutable_grad() = at::ones_like(weight);
  }
  run();
  for (size_t i = 0; i < weights.size(); ++i) {
    ExpectClose(weights[i].grad(), fresh[i] + 1, "weight " + std::to_string(i));
  }
}

}  // namespace
}  // namespace thaw
