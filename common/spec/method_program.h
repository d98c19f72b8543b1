// The programs behind `--method`: unfreezing methods as phases.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

enum class Method {
  kHead,     // feature extraction: the model as it is, a new head on it
  kPartial,  // head and the last blocks together
  kGradual,  // ULMFiT (arXiv 1801.06146, section 3.3): the head, one more block a phase, everything
  kFull,     // everything at once
};

// "head", "partial", "gradual" or "full"; INVALID_ARGUMENT names them.
absl::StatusOr<Method> ParseMethod(absl::string_view name);

struct MethodOptions {
  // Passes over the data of the last phase; 0: the method's own default.
  double epochs = 0;
  // Peak learning rate of the topmost group; 0: the method's own default.
  double learning_rate = 0;
  // Gradual: passes over the data in each phase before the last; 0: default.
  double epochs_per_block = 0;
  // Partial: blocks that train; 0: a third of them, rounded up.
  int last_blocks = 0;
};

// The phases of `method` for a model of `blocks` (1 or more) blocks. Every one has a name, a
// slanted triangular schedule and ends by epochs. More than 62 blocks are thawed several at a time,
// so that a program never has more phases than a job may have.
std::vector<v1::Phase> MethodProgram(Method method, int blocks, const MethodOptions& options = {});

}  // namespace thaw
