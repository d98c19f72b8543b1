// A model's memory of texts that it reads on from one optimizer step to the next (truncated
// backpropagation through time, arXiv 1708.02182; ModelConfig::carries_state).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/sequence_state.h"
#include "worker/training/changed_weights.h"

namespace thaw {

// h and c of every block, for each lane that BatchPolicy::in_lanes makes. Values alone: no gradient
// flows from one step into the one before.
//
//   carried.Reset();                                   // an epoch begins
//   for each step {
//     for each micro-step, in order {
//       SequenceState state = carried.NextLanes(rows);  // a row a lane
//       … forward with &state …
//       carried.Put(state);
//     }
//     carried.StepDone();
//   }
//
// Used by one thread.
class CarriedState {
 public:
  explicit CarriedState(int blocks) : now_(static_cast<size_t>(blocks)), next_(now_) {}

  // The texts begin: nothing is remembered.
  void Reset();
  // What is remembered of `lanes` lanes, those behind the lanes that were Put in this step.
  SequenceState NextLanes(int64_t lanes) const;
  // What these lanes leave behind for the next step.
  void Put(SequenceState state);
  // Lanes that were not Put have ended.
  void StepDone();

  // Between two steps: "block.<i>.hidden" and "block.<i>.cell", each [lanes, width]. Empty at the
  // beginning of an epoch.
  TensorsByName tensors() const;
  // INVALID_ARGUMENT, naming the tensor, for those of another model or with another number of
  // lanes than `lanes`.
  absl::Status SetTensors(const TensorsByName& tensors, int64_t lanes);

 private:
  // By block, of all lanes; undefined: nothing is remembered.
  std::vector<BlockState> now_;
  std::vector<BlockState> next_;  // of the lanes that were Put
  int64_t put_ = 0;
};

}  // namespace thaw
