#define THAW_LANES 16
#include "worker/kernels/amx_attention_backward_impl.h"
#include "worker/kernels/amx_matmul_impl.h"
#include "worker/kernels/amx_rows_matmul_impl.h"
#include "worker/kernels/table_impl.h"

namespace thaw {

const KernelTable& AmxKernels();
const KernelTable& AmxKernels() {
  static const KernelTable table = [] {
    KernelTable made = MakeTable(InstructionSet::kAmx);
    made.attention_forward = AttentionForwardByTiles;
    made.attention_backward = AttentionBackwardByTiles;
    made.matmul = MatmulByTiles;
    made.matmul_transposed = MatmulTransposedByTiles;
    made.skinny_matmul = SkinnyMatmulByTiles;
    return made;
  }();
  return table;
}

}  // namespace thaw
