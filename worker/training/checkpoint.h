// Checkpoint directories, as docs/checkpoint_format.md describes them.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/checkpoint.pb.h"
#include "worker/training/changed_weights.h"
#include "worker/tuning/trainables.h"

namespace thaw {

struct CheckpointContents {
  internal::Checkpoint state;
  TensorsByName weights;  // everything that differs from the base
  MomentsByName moments;
  TensorsByName best;     // with BestWeights OWN_FILE
  TensorsByName carried;  // of CarriedState, in the midst of an epoch that is read in lanes
};

// Writes the directory, which must not exist: it appears whole or not at all. format_version and
// moment_steps are filled in.
absl::Status WriteCheckpoint(const std::string& directory, CheckpointContents contents);

// Tensors are copies. INVALID_ARGUMENT, naming the file, for what is no checkpoint or one of a
// later format; NOT_FOUND when it is not there.
absl::StatusOr<CheckpointContents> ReadCheckpoint(const std::string& directory);

// What the bits depend on in this process, as it is set up now. `half`: a model computes in bf16.
internal::Fingerprint CurrentFingerprint(bool half);
// "threads 2, now 4; …": where two fingerprints differ; empty if they do not.
std::string FingerprintDifference(const internal::Fingerprint& then,
                                  const internal::Fingerprint& now);

}  // namespace thaw
