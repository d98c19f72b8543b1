// What an attempt needs on this machine before its trainer starts.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/worker_service.pb.h"
#include "worker/agent/artifact_cache.h"
#include "worker/agent/server_link.h"

namespace thaw {

// Says whose model a prediction has and what it depends on: attempts with the same key may use a
// trainer one after the other. Empty for what no warm trainer can serve: a training, or a model
// whose content nobody vouches for.
std::string WarmKeyOf(const v1::Assignment& assignment, int threads);

struct AttemptInputs {
  internal::Run run;                     // with the directories of all artifacts
  std::vector<ArtifactCache::Pin> pins;  // hold them
};

// Brings the artifacts that `assignment` names. Downloads end early once `unwanted` says so, which
// is asked from other threads. Errors are those of ArtifactCache and ServerLink.
absl::StatusOr<AttemptInputs> BringInputs(const v1::Assignment& assignment, ArtifactCache& cache,
                                          ServerLink& link, const std::function<bool()>& unwanted);

}  // namespace thaw
