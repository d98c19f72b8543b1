// See simd.h for how this is included.
#pragma once

#include "worker/kernels/attention_backward_impl.h"
#include "worker/kernels/elementwise_impl.h"
#include "worker/kernels/norm_impl.h"

namespace thaw {
namespace {

constexpr KernelTable MakeTable(InstructionSet set) {
  return {.instruction_set = set,
          .attention_forward = AttentionForward,
          .attention_backward = AttentionBackward,
          .residual_norm_forward = ResidualNormForward,
          .residual_norm_backward = ResidualNormBackward,
          .activation_forward = ActivationForward,
          .activation_backward = ActivationBackward,
          .bias_dropout = BiasDropout,
          .column_sums = ColumnSums,
          .embedding_forward = EmbeddingForward,
          .scatter_add = ScatterAdd,
          .cross_entropy = CrossEntropy};
}

}  // namespace
}  // namespace thaw
