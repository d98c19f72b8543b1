#define THAW_LANES 16
#include "worker/kernels/table_impl.h"

namespace thaw {

const KernelTable& Avx512Kernels();
const KernelTable& Avx512Kernels() {
  static const KernelTable table = MakeTable(InstructionSet::kAvx512);
  return table;
}

}  // namespace thaw
