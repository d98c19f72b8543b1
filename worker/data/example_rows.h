// How examples become rows of token ids: docs/tasks.md says it in words.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/dataset/dataset_schema.h"
#include "worker/text/chat_template.h"
#include "worker/text/tokenizer.h"

namespace thaw {

enum class RowKind {
  kText,          // a text or a pair, with what the tokenizer puts around it
  kContiguous,    // texts joined, each ended by the end-of-text token, cut into rows of max_length
  kDocument,      // a text that the end-of-text token ends
  kCompletion,    // a prompt and its completion, which the end-of-text token ends
  kConversation,  // turns as the chat template writes them
  kTarget,        // a source for the encoder and a target for the decoder
};

// What becomes of an example that is longer than a row may be.
enum class LongRows {
  kTruncate,  // its end is cut off
  kSplit,     // kText of single texts and kDocument: it goes on in rows of its own
  kDrop,      // it makes no row
};

struct TokenizeOptions {
  int32_t max_length = 512;  // tokens of one row, special tokens included
  int threads = 1;
  int64_t max_bytes = 4LL << 30;  // memory that the result may take; beyond it RESOURCE_EXHAUSTED
  std::function<bool(const Example&)> keep = {};  // which examples become rows; empty: all
  RowKind kind = RowKind::kText;
  ExampleForm form = ExampleForm::kLabel;  // kText: what the answers are
  int32_t max_target_length = 256;         // kTarget: tokens of one target, its end included
  std::optional<int32_t> end = {};         // the end-of-text token; a model may have none
  int32_t decoder_start = -1;              // kTarget: what the decoder reads first
  const ChatTemplate* chat = nullptr;      // kConversation
  bool backward = false;                   // texts and documents: the last token comes first
  // kContiguous, for a model that goes on from row to row: the last token of a row foretells the
  // first of the next one, so that every token but the very first carries loss once.
  bool foretells_next = false;
  LongRows long_rows = LongRows::kTruncate;
  int64_t keep_answers = 0;  // kCompletion and kTarget: rows whose answers are kept in words
};

// Tokens [begin, end) of a row.
struct TokenSpan {
  int32_t begin = 0;
  int32_t end = 0;
  bool operator==(const TokenSpan&) const = default;
};

struct ExampleRow {
  size_t example = 0;  // of those given, from 0
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // kText: like ids
  std::vector<TokenSpan>
      answers;                  // but for kText and kTarget: the tokens that carry loss, from 1 on
  std::vector<int32_t> target;  // kTarget: all of it carries loss
  bool truncated = false;       // tokens were cut off for one of the lengths
  bool continues = false;       // kSplit: the text of the row before goes on
};

// A row for each example, or several with LongRows::kSplit, in their order; a kContiguous one is a
// whole text, not yet cut. Does not depend on options.threads. FAILED_PRECONDITION naming the line
// for a conversation that the template refuses.
absl::StatusOr<std::vector<ExampleRow>> EncodeExamples(std::span<const Example> examples,
                                                       const Tokenizer& tokenizer,
                                                       const TokenizeOptions& options);

}  // namespace thaw
