// Whether a model writes the answers that are expected of it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/model.h"
#include "worker/text/tokenizer.h"
#include "worker/training/generation.h"

namespace thaw {

// Whether both are the same, white space (ASCII's) at both ends aside.
bool ExactMatch(std::string_view expected, std::string_view generated);

// 1 - edit distance / length of the longer one, in characters, of the last number of each text; 1
// where both are empty. A number is a run of digits, with single points and commas between digits
// (commas are left out), and a minus before it that no letter, digit or bracket precedes. A text
// without a number counts as a whole, without white space at its ends.
double DigitMatch(std::string_view expected, std::string_view generated);

struct AnswerOptions {
  GenerationOptions generation = {};
  std::function<bool(int64_t rows_done)> go_on = {};  // before every step; false ends it
};

// Means over the rows.
struct AnswerFigures {
  double exact_match = 0;
  double digit_match = 0;
};

// Generates after the prompt (or source) of each of the first rows of `dataset`, as many as
// dataset.expected has, at least one. Nothing comes back once go_on has returned false.
absl::StatusOr<std::optional<AnswerFigures>> EvaluateAnswers(Model* model,
                                                             const Tokenizer& tokenizer,
                                                             const TokenizedDataset& dataset,
                                                             const AnswerOptions& options);

}  // namespace thaw
