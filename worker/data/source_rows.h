// What an encoder reads of a source: in training, scoring and generation alike.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/text/tokenizer.h"

namespace thaw {

// Whether the tokenizer puts `end`, the end-of-text token, behind every text by itself. A question
// of the tokenizer, not of the last id: a text may happen to end like that.
bool EndsTexts(const Tokenizer& tokenizer, std::optional<int32_t> end);

// Each source in the tokenizer's frame, and behind it `end` where the frame does not close with it:
// a source always ends, cut or not. At most `max_length` tokens, the end among them; what is cut is
// the text. Without `end` the frame is all that there is. Does not depend on `threads`.
absl::StatusOr<std::vector<Encoding>> EncodeSources(std::span<const TextInput> sources,
                                                    const Tokenizer& tokenizer,
                                                    std::optional<int32_t> end, int32_t max_length,
                                                    int threads);

}  // namespace thaw
