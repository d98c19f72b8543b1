// What a prediction reads: texts, prompts, conversations or rows to score, from the request itself
// or from a dataset, as token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/inputs.h"
#include "worker/training/prediction_model.h"
#include "worker/training/scoring.h"

namespace thaw {

// How rows are read, whatever the task.
struct ReadingContext {
  const internal::Run& run;
  const PredictionModel& loaded;
  int threads = 1;
  Tick tick;
  int64_t unix_seconds = 0;  // what templates take for now
};

struct PredictionInputs {
  TokenizedDataset rows;
  bool labelled = false;  // every row carries one of the model's labels
};
// Of classify. Labels are read only if all rows have a known one.
absl::StatusOr<PredictionInputs> ReadClassifyInputs(const ReadingContext& context);

// Of embed.
absl::StatusOr<TokenizedDataset> ReadEmbedInputs(const ReadingContext& context);

struct ScoreInputs {
  std::vector<ScoredRow> rows;
  std::vector<std::vector<std::string>> texts;  // of the scored tokens; only if they are asked for
  int64_t truncated_rows = 0;
};
// Encoded as for training (completion_rows.h). Too long, a prompt loses its beginning, but not what
// the tokenizer puts before every text (BOS), a text its end, and an encoder's source the end of
// its text, but not the token that ends it.
absl::StatusOr<ScoreInputs> ReadScoreInputs(const ReadingContext& context);

struct GenerateInputs {
  std::vector<std::vector<int32_t>> prompts;
  int64_t truncated_rows = 0;
};
// Too long, prompts and sources lose the same as in ReadScoreInputs, and conversations what prompts
// do.
absl::StatusOr<GenerateInputs> ReadGenerateInputs(const ReadingContext& context);

// The longest row, tokens: what was asked for, by default 256, of prompts and rows to score 2,048,
// and no more than the model has positions.
int32_t LongestRow(const v1::Prediction& prediction, const ModelConfig& config);

}  // namespace thaw
