// The model that a run starts from, as one directory.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {

// A directory for LoadModel with the run's model: its own, or one below work_dir that joins a delta
// with its base (Run.base_dir), or that has another tokenizer (Run.tokenizer_dir); of an adapter
// that of its base. A pure function
// of those directories: in every attempt the same bytes, so that checkpoints may differ from them.
absl::StatusOr<std::string> ModelDirectory(const internal::Run& run);

// Where the files of its tokenizer and chat template are; they outlive the run.
const std::string& TokenizerDirectory(const internal::Run& run);

// Where the weights are that a delta of this run's result builds on, and Artifact.digest of them.
const std::string& BaseWeightsDirectory(const internal::Run& run);
const std::string& BaseDigest(const internal::Run& run);

}  // namespace thaw
