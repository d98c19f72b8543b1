// What users do to jobs. In all of these `owner` is who asks: a foreign job is NOT_FOUND; empty: an
// admin.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/field_mask.pb.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"

namespace thaw {

// Accepts a job as QUEUED, with event 1. With a request_id that this owner used before: the same
// job if the spec is the same, otherwise ALREADY_EXISTS. Artifacts that the spec names must be
// there, be visible, be of the right kind and READY (INVALID_ARGUMENT names the field) and cannot
// be deleted until the job has ended.
absl::StatusOr<v1::Job> CreateJob(Transaction& transaction, const NewJob& job);

// The job that an earlier CreateJob with this request_id made: NOT_FOUND if none, ALREADY_EXISTS if
// it had another spec. For answering a retry before anything else is checked.
absl::StatusOr<v1::Job> FindJobByRequest(Reader& reader, const std::string& owner,
                                         const std::string& request_id, const v1::JobSpec& spec);

// queue_position and the live reason of a queued job come from Dispatcher::FillQueue.
absl::StatusOr<v1::Job> GetJob(Reader& reader, const std::string& owner, const std::string& id);

// Newest first, without resolved_spec, steerings and inline texts. `page_size` 1 to 1,000.
// INVALID_ARGUMENT for a token of another filter.
absl::StatusOr<Page<v1::Job>> ListJobs(Reader& reader, const JobFilter& filter, int page_size,
                                       const std::string& page_token);

// See FineTuneService.
absl::StatusOr<v1::Job> CancelJob(Transaction& transaction, const std::string& owner,
                                  const std::string& id);
absl::StatusOr<v1::Job> PauseJob(Transaction& transaction, const std::string& owner,
                                 const std::string& id);
absl::StatusOr<v1::Job> ResumeJob(Transaction& transaction, const std::string& owner,
                                  const std::string& id);
// `mask`: of priority, labels, display_name. `etag` empty: any; ABORTED if it is not the job's.
absl::StatusOr<v1::Job> UpdateJob(Transaction& transaction, const std::string& owner,
                                  const std::string& id, const std::string& etag,
                                  const v1::JobSpec& values,
                                  const google::protobuf::FieldMask& mask);

// Every unfinished job, in the order of submission.
absl::StatusOr<std::vector<JobView>> UnfinishedJobs(Reader& reader);

}  // namespace thaw
