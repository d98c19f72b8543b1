#include "common/rpc/status.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace thaw {
namespace {

constexpr char kErrorDomain[] = "thaw";
// Details travel in trailers, of which clients take 8 KiB by default; the message keeps the count
// of the rest.
constexpr size_t kMostViolations = 20;
constexpr size_t kLongestMessage = 4096;

bool MustBeHidden(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message().substr(0, kLongestMessage));
  if (MustBeHidden(status.code())) {
    message = absl::StrCat("internal error; the server's log has the details under incident ",
                           LogIncident("rpc", status.ToString()));
  }
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (!violations.empty()) {
    google::rpc::BadRequest bad_request;
    for (size_t i = 0; i < std::min(violations.size(), kMostViolations); ++i) {
      auto* violation = bad_request.add_field_violations();
      violation->set_field(violations[i].field);
      violation->set_description(violations[i].description);
    }
    details.add_details()->PackFrom(bad_request);
  }
  if (const std::string reason = ReasonOf(status); !reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(reason);
    info.set_domain(kErrorDomain);
    details.add_details()->PackFrom(info);
  }
  if (const double seconds = RetryAfterOf(status); seconds > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(static_cast<int64_t>(seconds));
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>((seconds - std::floor(seconds)) * 1e9));
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details()))
    return result;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&bad_request) && bad_request.field_violations_size() > 0) {
      std::vector<FieldViolation> violations;
      for (const auto& violation : bad_request.field_violations()) {
        violations.push_back({violation.field(), violation.description()});
      }
      absl::Status with_fields = InvalidFields(violations);
      with_fields.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
        result.SetPayload(url, payload);
      });
    } else if (any.UnpackTo(&info) && info.domain() == kErrorDomain) {
      result = WithReason(std::move(result), info.reason());
    } else if (any.UnpackTo(&retry)) {
      result =
          WithRetryAfter(std::move(result), static_cast<double>(retry.retry_delay().seconds()) +
                                                retry.retry_delay().nanos() * 1e-9);
    }
  }
  return result;
}

}  // namespace thaw
