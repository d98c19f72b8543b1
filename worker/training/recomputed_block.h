// Blocks whose activations are not kept for the backward pass (Chen et al., "Training deep nets
// with sublinear memory cost", arXiv 1604.06174).
#pragma once

#include <functional>

#include "worker/model/model.h"

namespace thaw {

// What `run` gives for `rows`, with a gradient, whatever of it is trained. Until the backward pass
// nothing of it is kept but `rows`; there `run` is called again, for the same bits: it must depend
// on nothing that changes until then, and add its parameters' gradients to theirs.
Rows RecomputedRows(Rows rows, std::function<Rows(const Rows&)> run);

}  // namespace thaw
