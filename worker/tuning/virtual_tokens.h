// Prompts and prefixes: what is learnt as if tokens stood before every sequence.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

// The parameter of a prompt, by PEFT's name: [virtual tokens, hidden]; for a model with encoder and
// decoder of twice as many rows, as PEFT keeps them, of which the second half is read by nobody.
inline constexpr char kPromptName[] = "prompt_embeddings";
// Those of a prefix, each followed by the number of its block, from the decoder's first.
inline constexpr char kPrefixName[] = "prefix.";

// How many positions the part takes; 0 for parts of other kinds.
int32_t VirtualTokens(const v1::AddedPart& part);

// As AddPart, of which these are parts. `text`: the ids of initial_text.
absl::Status AddPrompt(const v1::PromptTuning& prompt, uint64_t seed, std::span<const int32_t> text,
                       Model* model);
absl::Status AddPrefix(const v1::PrefixTuning& prefix, uint64_t seed, Model* model);

}  // namespace thaw
