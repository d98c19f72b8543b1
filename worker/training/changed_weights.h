// The tensors by which a model under training differs from its base, now and at its best.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "torch/types.h"
#include "worker/model/parameters.h"

namespace thaw {

using TensorsByName = std::map<std::string, torch::Tensor>;

// Whatever was trainable once counts as changed, also after it was frozen again. Used by the
// training thread alone; `parameters` must outlive this.
class ChangedWeights {
 public:
  explicit ChangedWeights(Parameters* parameters) : parameters_(parameters) {}

  // The named parameters are about to be trained, or to be overwritten: remembers what the base
  // had. Call it before Trainables takes them over.
  void Track(const std::vector<std::string>& names);

  // The changed tensors as the model reads them now: views, not copies.
  TensorsByName Current() const;

  // Copies the changed tensors: they are the best so far. Uses the memory of the best before it.
  void KeepBest();
  bool has_best() const { return has_best_; }
  const TensorsByName& best() const { return best_; }
  void set_best(TensorsByName best);
  void DropBest();

  // Gives the model its best weights back: what has changed since then, too, is as it was then.
  // Between phases only, when nothing is in the optimizer. The model may then share memory with
  // best(), which is safe: KeepBest writes into frozen tensors only what they already hold.
  absl::Status RestoreBest();

 private:
  Parameters* const parameters_;
  TensorsByName base_;  // by the names tracked
  TensorsByName best_;
  bool has_best_ = false;
};

}  // namespace thaw
