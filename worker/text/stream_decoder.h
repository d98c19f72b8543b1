// Decodes token ids one at a time while they are generated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/text/tokenizer.h"

namespace thaw {

// Gives text as soon as no later token can change it: whole code points only, and of a run of byte
// tokens ("<0xE4>") nothing before it ends, for one wrong byte spoils the run. All that Push and
// Finish return is together what Tokenizer::Decode makes of all ids. A token costs one Decode of a
// few tokens, whatever came before. Not for several threads at once.
//
// Errors: those of Tokenizer::Decode; FAILED_PRECONDITION if the tokenizer's decoder takes back
// text that it gave for fewer tokens (CTC, which no language model has).
class StreamDecoder {
 public:
  // `tokenizer` outlives this.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  absl::StatusOr<std::string> Push(int32_t id);
  // What was held back, such as half a code point, which comes out as U+FFFD. Ready for new ids.
  absl::StatusOr<std::string> Finish();

 private:
  absl::StatusOr<std::string> Give(std::string text);
  absl::Status Forget();

  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  std::vector<int32_t> window_;  // the last ids: decoders look at neighbours
  std::string given_;            // what was returned of Decode(window_)
  size_t bytes_run_ = 0;         // how many byte tokens are at the end of window_
};

}  // namespace thaw
