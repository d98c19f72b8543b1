#include "server/jobs/request_ids.h"

#include <cstdint>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "server/jobs/database.h"
#include "server/jobs/job_row.h"

namespace thaw {
namespace {

std::string FilterDigest(const std::string& filter) { return Sha256Hex(filter).substr(0, 8); }

}  // namespace

absl::StatusOr<std::string> FindRequest(Reader& reader, const std::string& owner,
                                        const std::string& call, const std::string& request_id,
                                        const google::protobuf::Message& body) {
  if (request_id.empty()) return std::string();
  Statement row = reader.connection().Prepare(
      "SELECT body_sha256, target FROM request_ids WHERE owner = ? AND call = ? AND request_id = "
      "?");
  row.Text(owner).Text(call).Text(request_id);
  if (!row.Step()) {
    THAW_RETURN_IF_ERROR(row.status());
    return std::string();
  }
  if (row.GetText(0) != Sha256Hex(SerializeSame(body))) {
    return WithReason(
        absl::AlreadyExistsError(absl::StrCat("request_id \"", request_id,
                                              "\" was used for another request, which made ",
                                              row.GetText(1), ": choose a fresh one")),
        "REQUEST_ID_REUSED");
  }
  return std::string(row.GetText(1));
}

absl::Status PutRequest(Transaction& transaction, const std::string& owner, const std::string& call,
                        const std::string& request_id, const google::protobuf::Message& body,
                        const std::string& target) {
  if (request_id.empty()) return absl::OkStatus();
  return transaction.connection()
      .Prepare(
          "INSERT INTO request_ids(owner, call, request_id, body_sha256, target) "
          "VALUES(?, ?, ?, ?, ?)")
      .Text(owner)
      .Text(call)
      .Text(request_id)
      .Text(Sha256Hex(SerializeSame(body)))
      .Text(target)
      .Run();
}

std::string MakePageToken(int64_t number, const std::string& filter) {
  return absl::StrCat(number, "-", FilterDigest(filter));
}

absl::StatusOr<int64_t> ParsePageToken(const std::string& token, const std::string& filter) {
  if (token.empty()) return std::numeric_limits<int64_t>::max();
  const std::pair<std::string, std::string> parts = absl::StrSplit(token, absl::MaxSplits('-', 1));
  int64_t number = 0;
  if (!absl::SimpleAtoi(parts.first, &number) || parts.second != FilterDigest(filter)) {
    return InvalidField("page_token",
                        "is not the next_page_token of an answer to the same question: leave it "
                        "empty to begin again");
  }
  return number;
}

}  // namespace thaw
