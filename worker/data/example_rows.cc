#include "worker/data/example_rows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/data/completion_rows.h"
#include "worker/data/source_rows.h"

namespace thaw {
namespace {

using Rows = std::vector<ExampleRow>;

void Cut(int32_t length, std::vector<int32_t>* ids, bool* truncated) {
  if (static_cast<int64_t>(ids->size()) <= length) return;
  ids->resize(static_cast<size_t>(length));
  *truncated = true;
}

// The part of [begin, end) that is left in the row, has a token before it to be predicted from and
// is not in an earlier answer: two may share a token.
void AddAnswer(int32_t begin, int32_t end, ExampleRow* row) {
  begin = std::max(begin, row->answers.empty() ? 1 : row->answers.back().end);
  end = std::min(end, static_cast<int32_t>(row->ids.size()));
  if (begin < end) row->answers.push_back({begin, end});
}

// A text too long for a row, with what the tokenizer puts around it, as several rows that each have
// that around a piece. `ids` is all of it.
void AddPieces(size_t example, const std::vector<int32_t>& ids, const Tokenizer& tokenizer,
               const TokenizeOptions& options, Rows* rows) {
  const std::vector<int32_t>& before = tokenizer.frame().before;
  const std::vector<int32_t>& after = tokenizer.frame().after;
  const size_t room = static_cast<size_t>(options.max_length) - before.size() - after.size();
  const size_t end = ids.size() - after.size();
  for (size_t begin = before.size(); begin < end; begin += room) {
    ExampleRow row;
    row.example = example;
    row.continues = begin > before.size();
    row.ids = before;
    row.ids.insert(row.ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin),
                   ids.begin() + static_cast<std::ptrdiff_t>(std::min(begin + room, end)));
    row.ids.insert(row.ids.end(), after.begin(), after.end());
    row.type_ids.resize(row.ids.size());
    rows->push_back(std::move(row));
  }
}

// One encoding per example, of its text alone, uncut.
absl::StatusOr<std::vector<Encoding>> EncodeTexts(std::span<const Example> examples,
                                                  const Tokenizer& tokenizer,
                                                  const TokenizeOptions& options) {
  std::vector<TextInput> texts;
  texts.reserve(examples.size());
  for (const Example& example : examples) texts.push_back({example.text});
  return tokenizer.EncodeBatch(texts, {}, options.threads);
}

// kText with LongRows::kSplit; the examples are single texts.
absl::StatusOr<Rows> SplitTextRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                                   const TokenizeOptions& options) {
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings, EncodeTexts(examples, tokenizer, options));
  if (tokenizer.SpecialTokens(/*pair=*/false) >= options.max_length) {
    return InvalidField("max_length", absl::StrCat(options.max_length,
                                                   " tokens have no room for the text beside the "
                                                   "tokenizer's special ones; give more"));
  }
  Rows rows;
  for (size_t i = 0; i < encodings.size(); ++i) {
    if (static_cast<int64_t>(encodings[i].ids.size()) > options.max_length) {
      AddPieces(i, encodings[i].ids, tokenizer, options, &rows);
      continue;
    }
    ExampleRow row;
    row.example = i;
    row.ids = std::move(encodings[i].ids);
    row.type_ids = std::move(encodings[i].type_ids);
    rows.push_back(std::move(row));
  }
  return rows;
}

void Reverse(Rows* rows) {
  for (ExampleRow& row : *rows) {
    std::reverse(row.ids.begin(), row.ids.end());
    std::reverse(row.type_ids.begin(), row.type_ids.end());
  }
}

absl::StatusOr<Rows> TextRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                              const TokenizeOptions& options) {
  if (options.long_rows == LongRows::kSplit) return SplitTextRows(examples, tokenizer, options);
  std::vector<TextInput> texts;
  texts.reserve(examples.size());
  for (const Example& example : examples) {
    texts.push_back({example.text});
    if (!example.text_pair.empty()) texts.back().pair = example.text_pair;
  }
  THAW_ASSIGN_OR_RETURN(
      std::vector<Encoding> encodings,
      tokenizer.EncodeBatch(texts, {.max_length = options.max_length}, options.threads));
  Rows rows(encodings.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].example = i;
    rows[i].ids = std::move(encodings[i].ids);
    rows[i].type_ids = std::move(encodings[i].type_ids);
    rows[i].truncated = encodings[i].truncated;
  }
  return rows;
}

// Cuts `whole`, a document with its end, into rows of max_length tokens. A last token that would
// stand alone has nothing to be predicted from and is left out.
void AddDocumentPieces(const ExampleRow& whole, const TokenizeOptions& options, Rows* rows) {
  const auto length = static_cast<size_t>(options.max_length);
  for (size_t begin = 0; begin == 0 || begin + 1 < whole.ids.size(); begin += length) {
    ExampleRow row;
    row.example = whole.example;
    row.continues = begin > 0;
    row.ids.assign(whole.ids.begin() + static_cast<std::ptrdiff_t>(begin),
                   whole.ids.begin() +
                       static_cast<std::ptrdiff_t>(std::min(begin + length, whole.ids.size())));
    AddAnswer(1, static_cast<int32_t>(row.ids.size()), &row);
    rows->push_back(std::move(row));
  }
}

absl::StatusOr<Rows> DocumentRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                                  const TokenizeOptions& options) {
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings, EncodeTexts(examples, tokenizer, options));
  const bool append = options.end && !EndsTexts(tokenizer, options.end);
  const bool whole = options.kind == RowKind::kContiguous;
  const bool split = !whole && options.long_rows == LongRows::kSplit;
  Rows rows;
  for (size_t i = 0; i < encodings.size(); ++i) {
    ExampleRow row;
    row.example = i;
    row.ids = std::move(encodings[i].ids);
    if (split) {
      if (options.backward) std::reverse(row.ids.begin(), row.ids.end());
      if (append) row.ids.push_back(*options.end);
      AddDocumentPieces(row, options, &rows);
      continue;
    }
    if (!whole) Cut(options.max_length, &row.ids, &row.truncated);
    if (options.backward) std::reverse(row.ids.begin(), row.ids.end());
    const bool fits = whole || static_cast<int64_t>(row.ids.size()) < options.max_length;
    if (append && fits) row.ids.push_back(*options.end);
    if (!whole) AddAnswer(1, static_cast<int32_t>(row.ids.size()), &row);
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<Rows> CompletionRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                                    const TokenizeOptions& options) {
  std::vector<std::string_view> prompts, completions;
  for (const Example& example : examples) {
    prompts.push_back(example.text);
    completions.push_back(example.answer);
  }
  THAW_ASSIGN_OR_RETURN(std::vector<PromptAndCompletion> encodings,
                        EncodeCompletions(prompts, completions, tokenizer, options.threads));
  Rows rows(encodings.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    ExampleRow& row = rows[i];
    row.example = i;
    row.ids = std::move(encodings[i].ids);
    Cut(options.max_length, &row.ids, &row.truncated);
    const bool fits = static_cast<int64_t>(row.ids.size()) < options.max_length;
    if (options.end && fits) row.ids.push_back(*options.end);
    AddAnswer(encodings[i].prompt_tokens, static_cast<int32_t>(row.ids.size()), &row);
  }
  return rows;
}

// Marks the tokens of which a part lies in `span`, as transformers' return_assistant_tokens_mask
// does: a first word keeps the token that it shares with what comes before it.
void AddAnswersAt(const TextSpan& span, const std::vector<TextSpan>& bytes, ExampleRow* row) {
  const auto inside = [&](const TextSpan& token) {
    return token.begin < span.end && (token.end > span.begin || token.begin >= span.begin);
  };
  const auto begin = std::find_if(bytes.begin(), bytes.end(), inside);
  const auto end = std::find_if_not(begin, bytes.end(), inside);
  AddAnswer(static_cast<int32_t>(begin - bytes.begin()), static_cast<int32_t>(end - bytes.begin()),
            row);
}

absl::StatusOr<RenderedChat> Render(const Example& example, const ChatTemplate& chat) {
  std::vector<ChatMessage> messages;
  for (const Turn& turn : example.turns) messages.push_back({turn.role, turn.content});
  THAW_ASSIGN_OR_RETURN(const std::string json, MessagesJson(messages));
  absl::StatusOr<RenderedChat> rendered = chat.RenderWithSpans(json, {});
  if (rendered.ok()) return rendered;
  const absl::Status status = Annotate(rendered.status(), absl::StrCat("line ", example.line));
  // A conversation that a template refuses is the data's fault.
  return absl::IsInvalidArgument(status) ? absl::FailedPreconditionError(status.message()) : status;
}

absl::StatusOr<Rows> ConversationRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                                      const TokenizeOptions& options) {
  std::vector<RenderedChat> chats;
  std::vector<TextInput> texts;
  for (const Example& example : examples) {
    THAW_ASSIGN_OR_RETURN(RenderedChat chat, Render(example, *options.chat));
    chats.push_back(std::move(chat));
  }
  for (const RenderedChat& chat : chats) texts.push_back({chat.text});
  // The template writes BOS itself: the tokenizer must not put another one before it.
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                        tokenizer.EncodeBatch(texts, {.add_special_tokens = false, .offsets = true},
                                              options.threads));
  Rows rows(encodings.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].example = i;
    rows[i].ids = std::move(encodings[i].ids);
    Cut(options.max_length, &rows[i].ids, &rows[i].truncated);
    for (const TextSpan& span : chats[i].assistant) {
      AddAnswersAt(span, encodings[i].bytes, &rows[i]);
    }
  }
  return rows;
}

absl::StatusOr<Rows> TargetRows(std::span<const Example> examples, const Tokenizer& tokenizer,
                                const TokenizeOptions& options) {
  std::vector<TextInput> sources, targets;
  for (const Example& example : examples) {
    sources.push_back({example.text});
    targets.push_back({example.answer});
  }
  THAW_ASSIGN_OR_RETURN(
      std::vector<Encoding> source_ids,
      EncodeSources(sources, tokenizer, options.end, options.max_length, options.threads));
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> target_ids,
                        tokenizer.EncodeBatch(targets, {}, options.threads));
  Rows rows(source_ids.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    ExampleRow& row = rows[i];
    row.example = i;
    row.ids = std::move(source_ids[i].ids);
    row.target = std::move(target_ids[i].ids);
    row.truncated = source_ids[i].truncated;
    if (options.end && !EndsTexts(tokenizer, options.end)) row.target.push_back(*options.end);
    // A target that was cut has not ended, so it loses its end too.
    Cut(options.max_target_length, &row.target, &row.truncated);
  }
  return rows;
}

}  // namespace

absl::StatusOr<Rows> EncodeExamples(std::span<const Example> examples, const Tokenizer& tokenizer,
                                    const TokenizeOptions& options) {
  switch (options.kind) {
    case RowKind::kText: {
      THAW_ASSIGN_OR_RETURN(Rows rows, TextRows(examples, tokenizer, options));
      if (options.backward) Reverse(&rows);
      return rows;
    }
    case RowKind::kContiguous:
    case RowKind::kDocument:
      return DocumentRows(examples, tokenizer, options);
    case RowKind::kCompletion:
      return CompletionRows(examples, tokenizer, options);
    case RowKind::kConversation:
      return ConversationRows(examples, tokenizer, options);
    case RowKind::kTarget:
      return TargetRows(examples, tokenizer, options);
  }
  return absl::InternalError("no such kind of row");
}

}  // namespace thaw
