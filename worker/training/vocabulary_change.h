// Another tokenizer for a model (arXiv 1801.06146, section 3.1).
#pragma once

#include <string>

#include "absl/status/status.h"

namespace thaw {

// Makes `directory`, which must not exist: the model of `model_dir` with the tokenizer, chat
// template and generation settings of `tokenizer_dir`. Rows of embedding and output layer follow
// their tokens by text, with the bytes that they had; a token that the model lacks gets the mean of
// the rows of all tokens that it had. config.json gets the new vocab_size, and its token ids
// follow by text too. Everything else stays as it is; a configuration whose weights are all drawn
// stays one. A pure function of the two directories. INVALID_ARGUMENT for a model without such
// tables, and for a padding token of another id where positions count from it (RoBERTa).
absl::Status ChangeVocabulary(const std::string& model_dir, const std::string& tokenizer_dir,
                              const std::string& directory);

}  // namespace thaw
