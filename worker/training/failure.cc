#include "worker/training/failure.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {
namespace {

struct BlameAndReason {
  v1::Failure::Blame blame;
  const char* reason;
};

BlameAndReason BlameOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return {v1::Failure::USER, "INVALID_REQUEST"};
    case absl::StatusCode::kFailedPrecondition:
      return {v1::Failure::DATA, "INVALID_DATA"};
    case absl::StatusCode::kResourceExhausted:
      return {v1::Failure::RESOURCE, "RESOURCE_EXHAUSTED"};
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
      return {v1::Failure::INFRASTRUCTURE, "INPUT_UNREADABLE"};
    default:
      return {v1::Failure::INTERNAL, "INTERNAL"};
  }
}

std::string MessageOf(const absl::Status& status) {
  std::string message(status.message());
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) return message;
  message.clear();
  for (const FieldViolation& violation : violations) {
    absl::StrAppend(&message, message.empty() ? "" : "; ", violation.field, ": ",
                    violation.description);
  }
  return message;
}

}  // namespace

internal::Ended FailedEnd(const absl::Status& status, int64_t step) {
  const BlameAndReason blame = BlameOf(status.code());
  internal::Ended ended;
  v1::AttemptEnd* end = ended.mutable_end();
  end->set_outcome(v1::AttemptEnd::FAILED);
  end->set_step(step);
  v1::Failure* failure = end->mutable_failure();
  failure->set_blame(blame.blame);
  const std::string reason = ReasonOf(status);
  failure->set_reason(reason.empty() ? blame.reason : reason);
  failure->set_message(MessageOf(status));
  failure->set_step(step);
  if (blame.blame == v1::Failure::INTERNAL || blame.blame == v1::Failure::INFRASTRUCTURE) {
    failure->set_incident(LogIncident("trainer", status.ToString()));
  }
  if (blame.blame == v1::Failure::INTERNAL) {
    failure->set_message(absl::StrCat(
        "the trainer failed; the attempt's log says more under incident ", failure->incident()));
  }
  return ended;
}

internal::Ended OutOfMemoryEnd(int64_t step) {
  internal::Ended ended;
  v1::AttemptEnd* end = ended.mutable_end();
  end->set_outcome(v1::AttemptEnd::OUT_OF_MEMORY);
  end->set_step(step);
  v1::Failure* failure = end->mutable_failure();
  failure->set_blame(v1::Failure::RESOURCE);
  failure->set_reason("OUT_OF_MEMORY");
  failure->set_message(
      "the trainer ran out of memory: lower batch.tokens_per_micro_step or max_length, or train "
      "fewer parameters");
  failure->set_step(step);
  return ended;
}

}  // namespace thaw
