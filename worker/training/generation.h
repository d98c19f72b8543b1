// New text from a language model, several rows at a time, without padding.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/model/model.h"
#include "worker/text/tokenizer.h"
#include "worker/training/sampler.h"

namespace thaw {

struct GenerationOptions {
  int64_t max_new_tokens = 256;
  SamplingOptions sampling;
  std::vector<std::string> stop;
  std::vector<int32_t> ends;  // tokens of which each ends a row
  bool ignore_end = false;
  int32_t decoder_start = -1;  // sequence to sequence: the decoder's first token
  // Rows that are generated at a time, prompt tokens that are read at a time, and what the rows at
  // work may have as keys and values, bytes (one row may always run).
  int64_t most_rows = 64;
  int64_t prompt_tokens = 2048;
  int64_t cache_bytes = int64_t{2} << 30;
};

struct GeneratedRow {
  std::string text;
  int64_t tokens = 0;         // the one that ended it included
  std::string finish_reason;  // "stop", "length" or "end"
};

// What a caller hears of a generation, on its own thread.
struct GenerationListener {
  // A row has more text: whole characters, nothing of a stop string. `tokens`: of the row so far.
  std::function<void(int64_t row, absl::string_view piece, int64_t tokens)> on_text;
  std::function<void(int64_t row, const GeneratedRow& result)> on_done;
  // Before every step; false ends the generation there.
  std::function<bool(int64_t rows_done)> go_on;
};

// Goes on after each of `prompts` (token ids; for an encoder-decoder the source), none empty and
// all shorter than model->max_positions(). Rows start in order as others end; the text of a row is
// a function of its prompt, its number and the options, not of what is generated beside it, up to
// roundings. A row ends at the first of: a token of `ends`, a complete stop string, max_new_tokens,
// the last of the model's positions. CANCELLED when go_on has returned false; OutputNotANumber
// where the model's logits choose nothing.
absl::Status Generate(Model* model, const Tokenizer& tokenizer,
                      const std::vector<std::vector<int32_t>>& prompts,
                      const GenerationOptions& options, const GenerationListener& listener);

}  // namespace thaw
