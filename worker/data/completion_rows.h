// Prompts and completions as token ids, for training, scoring and generation alike.
//
// What generation begins from is the prompt's own tokens, so these are what training shows too. The
// completion's are those that follow them when both are encoded as one text, as its words then have
// no beginning of a text before them; only where a token would reach over the border, and so change
// the prompt's, is the completion encoded apart, as what follows a line break.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/text/tokenizer.h"

namespace thaw {

struct PromptAndCompletion {
  std::vector<int32_t> ids;
  int32_t prompt_tokens = 0;  // how many of them are the prompt's
};

// Each prompt behind what the tokenizer puts before a text (BOS), and without what it puts after
// one. On up to `threads` threads; errors are Tokenizer's.
absl::StatusOr<std::vector<std::vector<int32_t>>> EncodePrompts(
    std::span<const std::string_view> prompts, const Tokenizer& tokenizer, int threads);

// The same with the completions behind, as many as there are prompts; no end-of-text token.
absl::StatusOr<std::vector<PromptAndCompletion>> EncodeCompletions(
    std::span<const std::string_view> prompts, std::span<const std::string_view> completions,
    const Tokenizer& tokenizer, int threads);

}  // namespace thaw
