// In which form a run's model computes: Training.precision, Prediction.precision.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/kernels/kernels.h"

namespace thaw {

// Of a training, a plan or a prediction: in bf16 instead of fp32.
bool ComputesInHalf(const internal::Run& run);

// UNIMPLEMENTED with reason PRECISION_NOT_SUPPORTED where a processor cannot compute as the run
// asks. `avx512`: its kernels for AVX-512, null if it has none.
absl::Status CheckProcessor(const internal::Run& run,
                            const KernelTable* avx512 = KernelsFor(InstructionSet::kAvx512));
// INVALID_ARGUMENT, naming the field, where models of this type cannot.
absl::Status CheckFamily(const internal::Run& run, absl::string_view model_type);

// "amx_bf16", "avx512_bf16" or "avx512": what bf16 is multiplied with on this machine.
absl::string_view HalfInstructionSet();

}  // namespace thaw
