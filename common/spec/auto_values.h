// Inside common/spec: what a training gets where it leaves rate, length or batch out, by the size
// of the model, what is trained and the rows. docs/programs.md says why.
#pragma once

#include <cstdint>

#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// What the rule goes by.
struct TrainingSize {
  bool recurrent = false;  // AWD-LSTM
  int64_t parameters = 0;  // 0: not known
  int64_t rows = 0;        // 0: not known
  bool new_head = false;   // drawn anew for this task
};

// `model` and `dataset` are null while they are not known.
TrainingSize SizeOf(const v1::Training& training, const v1::Artifact* model,
                    const v1::Artifact* dataset);

// Peak rate of a phase by its selector and decay.
double AutoLearningRate(const v1::Phase& phase, const TrainingSize& size);

// Passes over the data of a phase that is the whole training.
double AutoEpochs(const TrainingSize& size);

int AutoExamplesPerStep(const TrainingSize& size);

}  // namespace thaw
