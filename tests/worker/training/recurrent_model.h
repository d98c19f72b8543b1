// A language model of a few numbers, for tests of what surrounds one: what it says depends on every
// token before, and a row is computed with the same bits whatever is beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/model.h"

namespace thaw {

// state = tanh(state * 0.5 + embedding[token]), logits = state weightᵀ; weights drawn from `seed`.
// With `encoder` the state begins with the sum of the source's embeddings.
std::unique_ptr<Model> MakeRecurrentModel(int64_t vocabulary, int64_t max_positions, bool encoder,
                                          unsigned seed);

// fp32 [vocabulary]: what it says after `tokens`, computed by itself.
torch::Tensor RecurrentLogits(const Model& model, const std::vector<int32_t>& source,
                              const std::vector<int32_t>& tokens);

}  // namespace thaw
