// What a JobSpec must be, and what it becomes once every default is filled in. Pure functions: the
// server checks with them before it stores a job, the client before it sends one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// An artifact that a spec names.
struct SpecReference {
  std::string field;  // such as "spec.training.dataset"
  std::string id;
};

// The artifacts that `spec` names, in the order of the fields; empty ids are left out, and so is a
// prediction's model that is a job.
std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec);

// Whether a prediction's model is the id of a job.
bool IsJobId(absl::string_view id);

// A job that a prediction names as its model.
struct ModelJob {
  v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
  v1::JobSpec resolved_spec;
  std::string result;      // empty unless it has SUCCEEDED
  std::string checkpoint;  // the newest; empty before the first
};

// What is known of the artifacts and jobs that a spec names.
struct SpecContext {
  // By id; one that is not here does not exist for the caller. Their files are not looked at.
  // Beside ReferencesOf(spec): of a ModelJob its result and what its own spec names.
  std::map<std::string, v1::Artifact> artifacts;
  // By id.
  std::map<std::string, ModelJob> jobs;
};

// Everything that can be seen from the spec alone: bounds, required fields, contradictions, NaN,
// expressions that do not compile. INVALID_ARGUMENT with every violation (ViolationsOf), its field
// written from "spec." on. A resolved spec is valid as well.
absl::Status ValidateSpec(const v1::JobSpec& spec);

// One action with numbers within their bounds; INVALID_ARGUMENT names the field from "action" on.
absl::Status ValidateSteering(const v1::Steering& action);

// `spec` with the defaults that job_spec.proto promises. INVALID_ARGUMENT with every violation:
// those of ValidateSpec and those that the artifacts show: kind and readiness, what the model can
// do, columns, labels, rows, number of blocks, positions. Resolving a resolved spec changes
// nothing.
absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const SpecContext& context);

// Equal specs give equal bytes, whatever the order of their maps: for comparing specs within one
// version of Thaw.
std::string CanonicalBytes(const v1::JobSpec& spec);

}  // namespace thaw
