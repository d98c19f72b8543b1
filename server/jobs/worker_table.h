// Workers seen, so that a restarted server knows whom to wait for and which incarnations are gone.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"

namespace thaw {

absl::Status PutWorker(Transaction& transaction, const WorkerRecord& worker);
absl::Status DeleteWorker(Transaction& transaction, const std::string& name);
absl::StatusOr<std::vector<WorkerRecord>> AllWorkers(Reader& reader);

}  // namespace thaw
