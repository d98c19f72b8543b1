// Answers of a prediction for people: a line per row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// One line of predictions.jsonl: "good  98.2 %  the text", "sport, news  97.1 %, 60.2 %  the text",
// "3.41  the text", "-12.3  perplexity 5.2, 7 tokens  the text", or the generated text. DATA_LOSS
// for a line that is none of these.
absl::StatusOr<std::string> ReadableAnswer(absl::string_view line,
                                           const v1::Prediction& prediction);

// The text of a row that the request holds itself, in at most 100 columns; empty otherwise.
std::string AskedText(const v1::Prediction& prediction, int64_t row);

// Rows of the tensor "embeddings" in the bytes of embeddings.safetensors. DATA_LOSS for anything
// but fp32 [rows, width].
absl::StatusOr<std::vector<std::vector<float>>> ReadEmbeddings(absl::string_view bytes);

}  // namespace thaw
