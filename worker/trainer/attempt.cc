#include "worker/trainer/attempt.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/training/failure.h"
#include "worker/training/plan_run.h"
#include "worker/training/prediction_run.h"
#include "worker/training/run_precision.h"

namespace thaw {
namespace {

// LibTorch's CPU allocator throws a plain c10::Error, which only its text tells apart.
bool SaysOutOfMemory(const c10::Error& error) {
  const absl::string_view what = error.what_without_backtrace();
  return absl::StrContains(what, "DefaultCPUAllocator") ||
         absl::StrContains(what, "not enough memory") || absl::StrContains(what, "out of memory");
}

}  // namespace

internal::Ended CatchExceptions(const std::function<internal::Ended()>& attempt,
                                const std::function<int64_t()>& step) {
  try {
    return attempt();
  } catch (const std::bad_alloc&) {
    return OutOfMemoryEnd(step());
  } catch (const c10::OutOfMemoryError&) {
    return OutOfMemoryEnd(step());
  } catch (const c10::Error& error) {
    if (SaysOutOfMemory(error)) return OutOfMemoryEnd(step());
    return FailedEnd(absl::InternalError(absl::StrCat("LibTorch: ", error.what())), step());
  } catch (const std::exception& error) {
    return FailedEnd(absl::InternalError(absl::StrCat("exception: ", error.what())), step());
  }
}

internal::Ended RunAssignment(const internal::Run& run, const AttemptContext& context,
                              WarmModel* warm) {
  // Never on the CPU behind the back of somebody who asked for a GPU.
  const v1::Resources::DeviceKind kind = run.assignment().spec().resources().device_kind();
  if (kind != v1::Resources::DEVICE_KIND_UNSPECIFIED &&
      std::find(std::begin(kComputesOn), std::end(kComputesOn), kind) == std::end(kComputesOn)) {
    return FailedEnd(
        WithReason(absl::UnimplementedError("trainers compute on CPUs only: submit with "
                                            "resources.device_kind CPU, or start the worker with "
                                            "--devices cpu"),
                   "DEVICE_NOT_SUPPORTED"),
        0);
  }
  if (const absl::Status status = CheckProcessor(run); !status.ok()) return FailedEnd(status, 0);
  switch (run.assignment().spec().work_case()) {
    case v1::JobSpec::kTraining:
      return RunTraining(run, context);
    case v1::JobSpec::kPrediction:
      return RunPrediction(run, context, warm);
    case v1::JobSpec::kPlan:
      return RunPlan(run, context);
    case v1::JobSpec::WORK_NOT_SET:
      break;
  }
  return FailedEnd(absl::InvalidArgumentError("the spec names no work"), 0);
}

}  // namespace thaw
