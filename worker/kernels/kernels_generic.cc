#define THAW_LANES 4
#include "worker/kernels/table_impl.h"

namespace thaw {

const KernelTable& GenericKernels();
const KernelTable& GenericKernels() {
  static const KernelTable table = MakeTable(InstructionSet::kGeneric);
  return table;
}

}  // namespace thaw
