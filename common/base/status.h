// What every function of Thaw that can fail returns: absl::Status with, where it helps, the field
// that is wrong.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace thaw {

// One field of a request that cannot be taken. `field` is a path such as
// "spec.training.phases[1].until"; `description` holds the value and the remedy, in one sentence.
struct FieldViolation {
  std::string field;
  std::string description;
};

// INVALID_ARGUMENT that carries all violations; rpc/ maps them to google.rpc.BadRequest.
// `violations` is not empty.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);
absl::Status InvalidField(absl::string_view field, absl::string_view description);

// The violations that `status` carries, none if it has none.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// Marks `status` with a machine-readable reason in UPPER_SNAKE_CASE (google.rpc.ErrorInfo.reason).
absl::Status WithReason(absl::Status status, absl::string_view reason);
std::string ReasonOf(const absl::Status& status);

// Says that the same call may succeed after so many seconds (google.rpc.RetryInfo).
absl::Status WithRetryAfter(absl::Status status, double seconds);
// 0 if nothing was said.
double RetryAfterOf(const absl::Status& status);

// The status of the failed system call: maps ENOENT, EACCES, ENOSPC and the like; `what` names
// object and action.
absl::Status ErrnoStatus(int error, absl::string_view what);

// Puts "<context>: " before the message and keeps code and payloads.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace thaw

#define THAW_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                  \
    if (absl::Status thaw_status = (expression); !thaw_status.ok()) return thaw_status; \
  } while (false)

#define THAW_CONCAT_INNER(a, b) a##b
#define THAW_CONCAT(a, b) THAW_CONCAT_INNER(a, b)
#define THAW_ASSIGN_OR_RETURN(declaration, expression) \
  THAW_ASSIGN_OR_RETURN_INNER(THAW_CONCAT(thaw_status_or_, __LINE__), declaration, expression)
#define THAW_ASSIGN_OR_RETURN_INNER(temporary, declaration, expression) \
  auto temporary = (expression);                                        \
  if (!temporary.ok()) return std::move(temporary).status();            \
  declaration = *std::move(temporary)
