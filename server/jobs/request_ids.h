// Request ids of one owner and call: a retry finds what the first try made. Only for the files of
// this folder.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "server/jobs/store.h"

namespace thaw {

// Id of what the request made; "" if it is new (or `request_id` is empty). ALREADY_EXISTS if its
// body was another.
absl::StatusOr<std::string> FindRequest(Reader& reader, const std::string& owner,
                                        const std::string& call, const std::string& request_id,
                                        const google::protobuf::Message& body);
// Remembers it; nothing to do if `request_id` is empty.
absl::Status PutRequest(Transaction& transaction, const std::string& owner, const std::string& call,
                        const std::string& request_id, const google::protobuf::Message& body,
                        const std::string& target);

// "<number>-<digest of the filter>": where a page ends, and of which question.
std::string MakePageToken(int64_t number, const std::string& filter);
// The number in it; INT64_MAX for an empty token. INVALID_ARGUMENT if it is not one of this
// filter's.
absl::StatusOr<int64_t> ParsePageToken(const std::string& token, const std::string& filter);

}  // namespace thaw
