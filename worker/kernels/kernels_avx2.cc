#define THAW_LANES 8
#include "worker/kernels/table_impl.h"

namespace thaw {

const KernelTable& Avx2Kernels();
const KernelTable& Avx2Kernels() {
  static const KernelTable table = MakeTable(InstructionSet::kAvx2);
  return table;
}

}  // namespace thaw
