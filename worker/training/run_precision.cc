#include "worker/training/run_precision.h"

#include <ATen/cpu/Utils.h>

#include <string>

#include "common/base/status.h"
#include "common/spec/model_abilities.h"
#include "common/spec/planned_training.h"

namespace thaw {
namespace {

v1::Precision PrecisionOf(const internal::Run& run) {
  const v1::JobSpec& spec = run.assignment().spec();
  const v1::Training* training = TrainingOf(spec);
  return training != nullptr ? training->precision() : spec.prediction().precision();
}

}  // namespace

bool ComputesInHalf(const internal::Run& run) { return PrecisionOf(run) == v1::BF16; }

absl::Status CheckProcessor(const internal::Run& run, const KernelTable* avx512) {
  if (!ComputesInHalf(run) || avx512 != nullptr) return absl::OkStatus();
  return WithReason(
      absl::UnimplementedError("precision BF16 needs a processor with AVX-512, which this worker's "
                               "is not: submit with precision FP32, or start a worker on one"),
      "PRECISION_NOT_SUPPORTED");
}

absl::Status CheckFamily(const internal::Run& run, absl::string_view model_type) {
  const std::string why_not = WhyNotIn(PrecisionOf(run), model_type);
  if (why_not.empty()) return absl::OkStatus();
  return InvalidField(
      TrainingOf(run.assignment().spec()) != nullptr ? "precision" : "prediction.precision",
      why_not);
}

absl::string_view HalfInstructionSet() {
  if (Kernels().instruction_set == InstructionSet::kAmx) return "amx_bf16";
  constexpr char kAvx512Bf16[] = "avx512_bf16";
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto found = capabilities.find(kAvx512Bf16);
  return found != capabilities.end() && found->second.toBool() ? kAvx512Bf16 : "avx512";
}

}  // namespace thaw
