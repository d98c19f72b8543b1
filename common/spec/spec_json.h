// A JobSpec as people write it: JSON with the field names of job_spec.proto.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// Strict JSON (no duplicate keys), field names as in the proto or in lowerCamelCase.
// INVALID_ARGUMENT names every unknown field with its path, the fields that there are and the one
// that was probably meant; then whatever has the wrong type.
absl::StatusOr<v1::JobSpec> ParseSpecJson(absl::string_view text);

// Indented JSON with the proto's field names; ParseSpecJson gives the same spec back.
std::string SpecToJson(const v1::JobSpec& spec);

}  // namespace thaw
