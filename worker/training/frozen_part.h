// The frozen part of a model in the phases of a training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "thaw/v1/job_spec.pb.h"
#include "worker/model/model.h"
#include "worker/training/activation_cache.h"
#include "worker/training/scratch_file.h"
#include "worker/training/training_inputs.h"

namespace thaw {

// Decides for each phase what runs as a frozen part (forward.h) and what of it is kept. The former
// depends on the phase and the model alone, so that neither Training.activation_cache nor where an
// attempt goes on changes a bit. On the training thread.
class FrozenPart {
 public:
  // `max_bytes_divisor`: a share of Training.activation_cache.max_bytes alone, after running out
  // of memory. `scratch`: where what does not fit goes, but for what is kept free there.
  FrozenPart(const v1::Training& training, const TrainingInputs& inputs, int32_t max_bytes_divisor,
             ScratchRoom scratch)
      : training_(training),
        inputs_(inputs),
        max_bytes_divisor_(max_bytes_divisor),
        scratch_(std::move(scratch)) {}

  // A phase begins, or goes on, in which groups from `lowest` on train. What the phase before has
  // kept stays if it had the same ones. `written_bytes`: that the attempt may have on the disk at a
  // time, kept free beside a reserve. Returns what was decided, for the log; empty: nothing is
  // frozen that could be kept.
  std::string BeginPhase(int phase, int lowest, int64_t written_bytes, Model* model);
  // Returns what came of it, for the log; empty: nothing was kept. What was kept stays.
  std::string EndPhase();
  // Frozen weights have changed since the phase before: nothing that was kept holds.
  void Forget();

  // For the rows of each dataset: null between phases, and where all of the model runs as one.
  ActivationCache* training() { return in_phase_ && rows_ ? &*rows_ : nullptr; }
  ActivationCache* validation() {
    return in_phase_ && validation_rows_ ? &*validation_rows_ : nullptr;
  }

 private:
  const v1::Training& training_;
  const TrainingInputs& inputs_;
  const int32_t max_bytes_divisor_;
  ScratchRoom scratch_;
  bool in_phase_ = false;
  // What the caches below hold things of.
  bool keeps_training_ = false, keeps_validation_ = false;
  std::optional<ActivationCache> rows_, validation_rows_;
};

}  // namespace thaw
