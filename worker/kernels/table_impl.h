// See simd.h for how this is included.
#pragma once

#include "worker/kernels/activation_impl.h"
#include "worker/kernels/attention_backward_impl.h"
#include "worker/kernels/decode_impl.h"
#include "worker/kernels/embedding_impl.h"
#include "worker/kernels/loss_impl.h"
#include "worker/kernels/nf4_impl.h"
#include "worker/kernels/rotary_impl.h"
#include "worker/kernels/skinny_matmul_impl.h"
#include "worker/kernels/sum_norm_impl.h"

namespace thaw {
namespace {

constexpr KernelTable MakeTable(InstructionSet set) {
  return {.instruction_set = set,
          .attention_forward = AttentionForward,
          .attention_backward = AttentionBackward,
          .residual_norm_forward = ResidualNormForward,
          .residual_norm_backward = ResidualNormBackward,
          .sum_norm_forward = SumNormForward,
          .sum_norm_backward = SumNormBackward,
          .rotate = Rotate,
          .activation_forward = ActivationForward,
          .activation_backward = ActivationBackward,
          .gated_forward = GatedForward,
          .gated_backward = GatedBackward,
          .bias_dropout_add = BiasDropoutAdd,
          .column_sums = ColumnSums,
          .round = Round,
          .add = Add,
          .embedding_forward = EmbeddingForward,
          .scatter_add = ScatterAdd,
          .cross_entropy = CrossEntropy,
          .matmul_transposed = nullptr,
          .matmul = nullptr,
          .skinny_matmul = SkinnyMatmul,
          .attention_decode = AttentionDecode,
          .nf4_expand = Nf4Expand};
}

}  // namespace
}  // namespace thaw
