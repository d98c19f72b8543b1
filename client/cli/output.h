// What several commands print.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/commands.h"
#include "google/protobuf/message.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// A message as one line of JSON with the proto's field names.
std::string JsonLine(const google::protobuf::Message& message);

// {"<key>": "<text>"} on one line; bytes that are no UTF-8 are replaced.
std::string JsonText(absl::string_view key, absl::string_view text);

// Writes `status` to stderr: for people a line for each wrong field with its value and remedy; with
// `json` one object. Gives the exit code that belongs to it.
int ReportError(const absl::Status& status, bool json);

// "model", "dataset", "result".
std::string KindWord(v1::Artifact::Kind kind);

// The phases of a training as a table.
std::string ProgramTable(const v1::Training& training);

// "job-…" as it is; anything else as the display name of a job, of which the newest counts.
absl::StatusOr<std::string> FindJob(const Session& session, const std::string& id_or_name);

// What can be trained on or predict: a model or result by id or display name, or the result of a
// job.
absl::StatusOr<v1::Artifact> FindModel(const Session& session, const std::string& id_or_name);

// Watches a job to its end and shows it. Exit code by how it ended. Ctrl-C leaves the job running
// and says how to go on.
ExitCode FollowJob(const Session& session, const std::string& job);

// The same without showing more than a status line: the ended job. `show` sees every event; once it
// has shown something itself, it says true and there is no status line any more.
absl::StatusOr<v1::Job> AwaitJob(const Session& session, const std::string& job,
                                 const std::function<bool(const v1::Event&)>& show = {});

// A status line for a transfer.
TransferProgress ShowTransfer(Console* console, const std::string& what);

}  // namespace thaw
