#include "common/rpc/status.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace thaw {
namespace {

constexpr char kDomain[] = "thaw";
// Details travel in trailing metadata, of which peers take 8 KiB by default.
constexpr size_t kMostViolations = 50;
constexpr size_t kMostDescriptionBytes = 300;
constexpr size_t kMostMessageBytes = 1000;
constexpr size_t kMostDetailBytes = 5000;

// Length of the UTF-8 character that `text` begins with; 0 if it begins with none.
size_t CharacterLength(absl::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 0;
  }
  const auto second = static_cast<unsigned char>(text[1]);
  const bool beyond = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                      (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return beyond ? 0 : length;
}

// At most `limit` bytes, cut between characters. A caller's bytes that are no UTF-8 become '?': the
// details could not travel with them.
std::string Shortened(absl::string_view text, size_t limit) {
  std::string clean;
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    if (clean.size() + std::max<size_t>(length, 1) > limit) return absl::StrCat(clean, "…");
    absl::StrAppend(&clean, length == 0 ? "?" : text.substr(0, length));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return clean;
}

google::rpc::BadRequest BadRequestOf(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest bad_request;
  size_t bytes = 0;
  for (size_t i = 0; i < std::min(violations.size(), kMostViolations); ++i) {
    const std::string description = Shortened(violations[i].description, kMostDescriptionBytes);
    bytes += violations[i].field.size() + description.size() + 8;
    if (bytes > kMostDetailBytes) break;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(Shortened(violations[i].field, kMostDescriptionBytes));
    violation->set_description(description);
  }
  return bad_request;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message = Shortened(status.message(), kMostMessageBytes);
  if (absl::IsInternal(status) || absl::IsUnknown(status)) {
    message = absl::StrCat("something went wrong inside Thaw; incident ",
                           LogIncident("rpc", status.ToString()), " in its log tells more");
  }
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (!violations.empty()) details.add_details()->PackFrom(BadRequestOf(violations));
  if (!ReasonOf(status).empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(ReasonOf(status));
    info.set_domain(kDomain);
    details.add_details()->PackFrom(info);
  }
  double retry_seconds = RetryAfterOf(status);
  if (retry_seconds <= 0 && absl::IsUnavailable(status)) retry_seconds = 1;
  if (retry_seconds > 0) {
    google::rpc::RetryInfo retry;
    const auto millis = static_cast<int64_t>(retry_seconds * 1000);
    *retry.mutable_retry_delay() = google::protobuf::util::TimeUtil::MillisecondsToDuration(millis);
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.details().empty() ? "" : details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    return result;
  }
  std::vector<FieldViolation> violations;
  std::string reason;
  double retry_seconds = 0;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&bad_request)) {
      for (const auto& one : bad_request.field_violations()) {
        violations.push_back({one.field(), one.description()});
      }
    } else if (any.UnpackTo(&info)) {
      reason = info.reason();
    } else if (any.UnpackTo(&retry)) {
      retry_seconds =
          1e-3 * static_cast<double>(
                     google::protobuf::util::TimeUtil::DurationToMilliseconds(retry.retry_delay()));
    }
  }
  // InvalidFields writes the violations; code and message stay those of the call.
  if (!violations.empty()) {
    InvalidFields(violations).ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
      result.SetPayload(url, payload);
    });
  }
  if (!reason.empty()) result = WithReason(result, reason);
  return retry_seconds > 0 ? WithRetryAfter(result, retry_seconds) : result;
}

}  // namespace thaw
