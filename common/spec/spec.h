// What a JobSpec must be, and what it becomes once every default is filled in. Pure functions: the
// server checks with them before it stores a job, the client before it sends one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// An artifact that a spec names.
struct SpecReference {
  std::string field;  // such as "spec.training.dataset"
  std::string id;
};

// The artifacts that `spec` names, in the order of the fields; empty ids are left out.
std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec);

// What is known of the artifacts that a spec names.
struct SpecContext {
  // By id; one that is not here does not exist for the caller. Their files are not looked at.
  std::map<std::string, v1::Artifact> artifacts;
};

// Everything that can be seen from the spec alone: bounds, required fields, contradictions, NaN,
// expressions that do not compile. INVALID_ARGUMENT with every violation (ViolationsOf), its field
// written from "spec." on. A resolved spec is valid as well.
absl::Status ValidateSpec(const v1::JobSpec& spec);

// `spec` with the defaults that job_spec.proto promises. INVALID_ARGUMENT with every violation:
// those of ValidateSpec and those that the artifacts show: kind and readiness, columns, labels,
// rows, number of blocks, positions. Resolving a resolved spec changes nothing.
absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const SpecContext& context);

// Equal specs give equal bytes, whatever the order of their maps: for comparing specs within one
// version of Thaw.
std::string CanonicalBytes(const v1::JobSpec& spec);

}  // namespace thaw
