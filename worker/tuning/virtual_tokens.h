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
// Those of a prefix, each followed by its number.
inline constexpr char kPrefixName[] = "prefix.";

// Which of a prefix's tensors layer `layer` of `layers` reads. With encoder and decoder PEFT deals
// them out as if the encoder took part: layer i of n reads tensor 2i mod n, so that of an even
// number of layers two share one and every other tensor is read by none.
int PrefixOfLayer(int layer, int layers, bool encoder_decoder);

// As AddPart, of which these are parts. `text`: the ids of initial_text.
absl::Status AddPrompt(const v1::PromptTuning& prompt, uint64_t seed, std::span<const int32_t> text,
                       Model* model);
absl::Status AddPrefix(const v1::PrefixTuning& prefix, uint64_t seed, Model* model);

}  // namespace thaw
