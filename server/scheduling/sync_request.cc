#include "server/scheduling/sync_request.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr int kMaxAttempts = 1'024;
constexpr int kMaxSlots = 1'024;
constexpr int kMaxDevices = 1'024;
constexpr size_t kMaxEventBytes = 1 << 20;
// These become part of the job, which is read and written as a whole.
constexpr size_t kMaxEndBytes = 64 << 10;
constexpr size_t kMaxProgressBytes = 16 << 10;

bool IsHexId(absl::string_view id) {
  return id.size() == 32 && std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

bool IsWorkerName(absl::string_view name) {
  return !name.empty() && name.size() <= 128 && absl::ascii_isalnum(name[0]) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

void CheckOffer(const v1::WorkerOffer& offer, std::vector<FieldViolation>* violations) {
  if (offer.slots() < 0 || offer.slots() > kMaxSlots) {
    violations->push_back(
        {"offer.slots", absl::StrCat(offer.slots(), " is not between 0 and ", kMaxSlots)});
  }
  if (offer.devices_size() > kMaxDevices) {
    violations->push_back({"offer.devices", absl::StrCat("more than ", kMaxDevices)});
  }
  for (const v1::Device& device : offer.devices()) {
    if (device.kind() == v1::Resources::DEVICE_KIND_UNSPECIFIED || device.memory_bytes() < 0) {
      violations->push_back({"offer.devices", "each needs a kind and its memory"});
      break;
    }
  }
}

void CheckReport(const v1::AttemptReport& report, const std::string& field,
                 std::vector<FieldViolation>* violations) {
  if (!IsHexId(report.attempt_id())) {
    violations->push_back({field + ".attempt_id", "is not 32 lower-case hex digits"});
  }
  if (report.state() == v1::AttemptReport::STATE_UNSPECIFIED) {
    violations->push_back({field + ".state", "is not set"});
  }
  if (report.state() == v1::AttemptReport::ENDED &&
      report.end().outcome() == v1::AttemptEnd::OUTCOME_UNSPECIFIED) {
    violations->push_back({field + ".end.outcome", "is not set, although the attempt has ended"});
  }
  if (report.end().ByteSizeLong() > kMaxEndBytes) {
    violations->push_back(
        {field + ".end", absl::StrCat("takes more than ", kMaxEndBytes, " bytes")});
  }
  if (report.progress().ByteSizeLong() > kMaxProgressBytes) {
    violations->push_back(
        {field + ".progress", absl::StrCat("takes more than ", kMaxProgressBytes, " bytes")});
  }
  size_t bytes = 0;
  int64_t last = 0;
  for (const v1::WorkerEvent& event : report.events()) {
    bytes += event.ByteSizeLong();
    if (event.sequence() <= last) {
      violations->push_back({field + ".events", "must be in the order of their sequences, from 1"});
      break;
    }
    last = event.sequence();
  }
  if (bytes > kMaxEventBytes) {
    violations->push_back({field + ".events", "take more than 1 MiB: send fewer at a time"});
  }
}

}  // namespace

absl::Status CheckSyncRequest(const v1::SyncRequest& request) {
  std::vector<FieldViolation> violations;
  if (!IsWorkerName(request.worker())) {
    violations.push_back(
        {"worker", absl::StrCat("\"", CleanText(request.worker(), 128),
                                "\" does not match [A-Za-z0-9][A-Za-z0-9._-]{0,127}")});
  }
  if (!IsHexId(request.incarnation())) {
    violations.push_back({"incarnation", "is not 32 lower-case hex digits"});
  }
  if (request.number() < 1) violations.push_back({"number", "is below 1"});
  CheckOffer(request.offer(), &violations);
  if (request.attempts_size() > kMaxAttempts) {
    violations.push_back({"attempts", absl::StrCat("more than ", kMaxAttempts)});
  }
  std::set<std::string> seen;
  for (int i = 0; i < std::min(request.attempts_size(), kMaxAttempts); ++i) {
    const std::string field = absl::StrCat("attempts[", i, "]");
    CheckReport(request.attempts(i), field, &violations);
    if (!seen.insert(request.attempts(i).attempt_id()).second) {
      violations.push_back({field + ".attempt_id", "occurs twice"});
    }
  }
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

}  // namespace thaw
