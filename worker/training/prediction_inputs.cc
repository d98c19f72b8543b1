#include "worker/training/prediction_inputs.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/data/completion_rows.h"
#include "worker/data/source_rows.h"
#include "worker/text/chat_template.h"
#include "worker/text/special_tokens.h"
#include "worker/text/stream_decoder.h"

namespace thaw {
namespace {

constexpr int32_t kLongestPrompt = 2048;

const v1::Prediction& PredictionOf(const ReadingContext& context) {
  return context.run.assignment().spec().prediction();
}

TokenizeOptions OptionsOf(const ReadingContext& context) {
  return {.max_length = LongestRow(PredictionOf(context), context.loaded.model->config()),
          .threads = context.threads,
          .backward = context.loaded.model->config().reads_backward};
}

absl::StatusOr<TokenizedDataset> ReadInlineTexts(const ReadingContext& context) {
  std::vector<TextInput> texts;
  for (const std::string& text : PredictionOf(context).texts().values()) {
    texts.push_back({.text = text});
  }
  return TokenizeTexts(texts, *context.loaded.tokenizer, OptionsOf(context));
}

// Gives every row to `take`, in order: those of the request, or those of the dataset by `schema`.
absl::Status ForEachRow(const ReadingContext& context, DatasetSchema schema,
                        const std::function<absl::Status(const Example&)>& take) {
  const v1::Prediction& prediction = PredictionOf(context);
  Example example;
  // One example may be long, and its template slow.
  const auto next = [&]() -> absl::Status {
    context.tick();
    return take(example);
  };
  for (const std::string& text : prediction.texts().values()) {
    ++example.line;
    example.text = text;
    THAW_RETURN_IF_ERROR(next());
  }
  for (const v1::InlineExample& given : prediction.examples().values()) {
    ++example.line;
    example.text = given.prompt();
    example.answer = given.completion();
    example.turns.clear();
    for (const v1::ChatMessage& message : given.messages()) {
      example.turns.push_back({message.role(), message.content()});
    }
    THAW_RETURN_IF_ERROR(next());
  }
  if (!prediction.has_dataset()) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const DatasetPath file,
                        FindDataset(context.run.dataset_dir(), context.run.assignment().dataset()));
  schema.format = file.format;
  return ForEachExample(file.path, schema, context.tick, [&](const Example& read) {
    context.tick();
    return take(read);
  });
}

ExampleForm FormOfAnswers(ProblemType problem) {
  switch (problem) {
    case ProblemType::kSingleLabel:
      return ExampleForm::kLabel;
    case ProblemType::kMultiLabel:
      return ExampleForm::kLabels;
    case ProblemType::kRegression:
      return ExampleForm::kNumber;
  }
  return ExampleForm::kLabel;
}

absl::Status AtLine(const absl::Status& status, const Example& example) {
  return Annotate(status, absl::StrCat("line ", example.line));
}

// Up to `most` of `ids` that stand before every text (BOS), as the tokenizer or, in what a template
// has rendered, `bos` says. Models attend to them whatever follows.
size_t TokensInFront(const Tokenizer& tokenizer, std::optional<int32_t> bos, size_t most,
                     const std::vector<int32_t>& ids) {
  const std::vector<int32_t>& before = tokenizer.frame().before;
  const bool framed =
      ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  size_t front = framed ? before.size() : 0;
  if (front == 0 && bos && !ids.empty() && ids[0] == *bos) front = 1;
  return std::min(front, most);
}

void EraseTokens(size_t begin, size_t count, std::vector<int32_t>* ids) {
  const auto first = ids->begin() + static_cast<std::ptrdiff_t>(begin);
  ids->erase(first, first + static_cast<std::ptrdiff_t>(count));
}

// Cuts `ids` to `longest`: what goes is the beginning, but not what stands in front of every text.
// True if anything went.
bool KeepFrontAndEnd(const Tokenizer& tokenizer, std::optional<int32_t> bos, size_t longest,
                     std::vector<int32_t>* ids) {
  if (ids->size() <= longest) return false;
  const size_t most = longest > 0 ? longest - 1 : 0;
  EraseTokens(TokensInFront(tokenizer, bos, most, *ids), ids->size() - longest, ids);
  return true;
}

// A prompt, whole.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const ReadingContext& context,
                                                  const std::string& text) {
  const std::string_view one[] = {text};
  THAW_ASSIGN_OR_RETURN(auto prompts, EncodePrompts(one, *context.loaded.tokenizer, 1));
  return std::move(prompts[0]);
}

absl::StatusOr<Encoding> EncodeSource(const ReadingContext& context, const std::string& text,
                                      std::optional<int32_t> end, size_t longest) {
  const TextInput source[] = {{.text = text}};
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                        EncodeSources(source, *context.loaded.tokenizer, end,
                                      static_cast<int32_t>(longest), /*threads=*/1));
  return std::move(encodings[0]);
}

absl::StatusOr<std::vector<int32_t>> EncodeBare(const Tokenizer& tokenizer,
                                                const std::string& text) {
  THAW_ASSIGN_OR_RETURN(Encoding encoding,
                        tokenizer.Encode({.text = text}, {.add_special_tokens = false}));
  return std::move(encoding.ids);
}

// The text of each scored token; together that of all of them.
absl::StatusOr<std::vector<std::string>> TokenTexts(const Tokenizer& tokenizer,
                                                    const ScoredRow& row) {
  // Enough for decoders that look at neighbours.
  constexpr int32_t kBefore = 8;
  StreamDecoder decoder(tokenizer, /*skip_special_tokens=*/false);
  std::vector<std::string> texts;
  const int32_t begin = row.Begin();
  for (int32_t i = std::max(begin - kBefore, 0); i < static_cast<int32_t>(row.ids.size()); ++i) {
    THAW_ASSIGN_OR_RETURN(std::string text, decoder.Push(row.ids[static_cast<size_t>(i)]));
    if (i >= begin) texts.push_back(std::move(text));
  }
  THAW_ASSIGN_OR_RETURN(const std::string rest, decoder.Finish());
  if (!texts.empty()) texts.back() += rest;
  return texts;
}

// The beginning of the prompt goes first, then the end of what is scored; true if anything went.
bool CutScoredRow(const Tokenizer& tokenizer, size_t longest, bool has_prompt, ScoredRow* row) {
  if (row->ids.size() <= longest) return false;
  if (has_prompt) {
    const size_t front = TokensInFront(tokenizer, std::nullopt, longest, row->ids);
    // Something must be left for the first scored token to follow.
    const size_t left = std::max<size_t>(front, 1), first = static_cast<size_t>(row->first);
    const size_t cut = std::min(row->ids.size() - longest, first > left ? first - left : 0);
    EraseTokens(front, cut, &row->ids);
    row->first -= static_cast<int32_t>(cut);
  }
  if (row->ids.size() > longest) row->ids.resize(longest);
  return true;
}

// `end`: the token behind a source.
absl::Status AddScoredRow(const ReadingContext& context, const Example& example,
                          std::optional<int32_t> end, ScoreInputs* inputs) {
  const Tokenizer& tokenizer = *context.loaded.tokenizer;
  const v1::Prediction& prediction = PredictionOf(context);
  const ModelConfig& config = context.loaded.model->config();
  const auto longest = static_cast<size_t>(LongestRow(prediction, config));
  const bool has_prompt = !example.answer.empty();
  ScoredRow row;
  bool cut = false;
  if (config.encoder_decoder) {
    if (!has_prompt) {
      return InvalidField("prediction.score",
                          "a model with encoder and decoder scores completions after prompts: "
                          "give prompt and completion");
    }
    THAW_ASSIGN_OR_RETURN(Encoding source, EncodeSource(context, example.text, end, longest));
    row.source = std::move(source.ids);
    THAW_ASSIGN_OR_RETURN(row.ids, EncodeBare(tokenizer, example.answer));
    cut = CutScoredRow(tokenizer, longest, false, &row) || source.truncated;
  } else if (has_prompt) {
    const std::string_view prompt[] = {example.text}, completion[] = {example.answer};
    THAW_ASSIGN_OR_RETURN(auto encoded, EncodeCompletions(prompt, completion, tokenizer, 1));
    row.ids = std::move(encoded[0].ids);
    row.first = encoded[0].prompt_tokens;
    cut = CutScoredRow(tokenizer, longest, true, &row);
  } else {
    THAW_ASSIGN_OR_RETURN(row.ids, EncodePrompt(context, example.text));
    cut = CutScoredRow(tokenizer, longest, false, &row);
  }
  inputs->truncated_rows += cut;
  if (prediction.score().per_token()) {
    THAW_ASSIGN_OR_RETURN(std::vector<std::string> texts, TokenTexts(tokenizer, row));
    inputs->texts.push_back(std::move(texts));
  }
  inputs->rows.push_back(std::move(row));
  return absl::OkStatus();
}

}  // namespace

int32_t LongestRow(const v1::Prediction& prediction, const ModelConfig& config) {
  const bool prompts = prediction.has_score() || prediction.has_generate();
  return MaxLength(
      prediction.max_length() == 0 && prompts ? kLongestPrompt : prediction.max_length(), config);
}

absl::StatusOr<PredictionInputs> ReadClassifyInputs(const ReadingContext& context) {
  PredictionInputs inputs;
  if (PredictionOf(context).has_texts()) {
    THAW_ASSIGN_OR_RETURN(inputs.rows, ReadInlineTexts(context));
    return inputs;
  }
  const v1::Classify& classify = PredictionOf(context).classify();
  const ModelConfig& config = context.loaded.model->config();
  DatasetSchema schema{.text_column = OrDefault(classify.text_column(), "text"),
                       .text_pair_column = classify.text_pair_column(),
                       .label_column = OrDefault(classify.label_column(), "label"),
                       .form = FormOfAnswers(config.problem)};
  THAW_ASSIGN_OR_RETURN(const DatasetPath file,
                        FindDataset(context.run.dataset_dir(), context.run.assignment().dataset()));
  schema.format = file.format;
  const auto summary = ScanAll(file.path, schema, context.tick);
  if (summary.ok() && summary->examples > 0) {
    const std::vector<std::string> found = LabelNames(*summary);
    inputs.labelled = std::all_of(found.begin(), found.end(), [&](const std::string& label) {
      return std::find(config.labels.begin(), config.labels.end(), label) != config.labels.end();
    });
  }
  if (!inputs.labelled) {
    schema.label_column.clear();
    schema.form = ExampleForm::kLabel;
  }
  TokenizeOptions options = OptionsOf(context);
  options.form = schema.form;
  const bool needs_names = inputs.labelled && config.problem != ProblemType::kRegression;
  THAW_ASSIGN_OR_RETURN(
      inputs.rows,
      ReadRows(file.path, schema, *context.loaded.tokenizer,
               needs_names ? config.labels : std::vector<std::string>(), options, context.tick));
  return inputs;
}

absl::StatusOr<TokenizedDataset> ReadEmbedInputs(const ReadingContext& context) {
  if (PredictionOf(context).has_texts()) return ReadInlineTexts(context);
  THAW_ASSIGN_OR_RETURN(const DatasetPath file,
                        FindDataset(context.run.dataset_dir(), context.run.assignment().dataset()));
  const DatasetSchema schema{
      .text_column = OrDefault(PredictionOf(context).embed().text_column(), "text"),
      .text_pair_column = "",
      .label_column = "",
      .form = ExampleForm::kText,
      .format = file.format};
  TokenizeOptions options = OptionsOf(context);
  options.form = schema.form;
  return ReadRows(file.path, schema, *context.loaded.tokenizer, {}, std::move(options),
                  context.tick);
}

absl::StatusOr<ScoreInputs> ReadScoreInputs(const ReadingContext& context) {
  const v1::Score& score = PredictionOf(context).score();
  DatasetSchema schema{.text_column = OrDefault(score.prompt_column(), "prompt"),
                       .text_pair_column = "",
                       .label_column = OrDefault(score.completion_column(), "completion"),
                       .form = ExampleForm::kAnswer};
  if (!score.text_column().empty()) {
    schema = {.text_column = score.text_column(),
              .text_pair_column = "",
              .label_column = "",
              .form = ExampleForm::kText};
  }
  std::optional<int32_t> end;
  if (context.loaded.model->config().encoder_decoder) {
    THAW_RETURN_IF_ERROR(context.loaded.special.status());
    end = context.loaded.special->eos;
  }
  ScoreInputs inputs;
  THAW_RETURN_IF_ERROR(ForEachRow(context, schema, [&](const Example& example) {
    const absl::Status status = AddScoredRow(context, example, end, &inputs);
    return status.ok() ? status : AtLine(status, example);
  }));
  return inputs;
}

absl::StatusOr<GenerateInputs> ReadGenerateInputs(const ReadingContext& context) {
  const v1::Generate& generate = PredictionOf(context).generate();
  const ModelConfig& config = context.loaded.model->config();
  DatasetSchema schema{.text_column = OrDefault(generate.prompt_column(), "prompt"),
                       .text_pair_column = "",
                       .label_column = "",
                       .form = ExampleForm::kText};
  if (!generate.messages_column().empty()) {
    schema.text_column = generate.messages_column();
    schema.form = ExampleForm::kConversation;
  }
  // A new token needs a position too.
  auto longest = static_cast<size_t>(LongestRow(PredictionOf(context), config));
  if (!config.encoder_decoder) {
    longest = std::min(longest, static_cast<size_t>(config.max_positions) - 1);
  }
  const Tokenizer& tokenizer = *context.loaded.tokenizer;
  const std::string& directory = context.loaded.tokenizer_dir;
  THAW_ASSIGN_OR_RETURN(const SpecialTokens special, context.loaded.special);
  std::unique_ptr<ChatTemplate> chat;
  const auto render = [&](const Example& example) -> absl::StatusOr<std::string> {
    if (chat == nullptr) {
      auto loaded = ChatTemplate::Load(directory, tokenizer, special, context.unix_seconds);
      if (absl::IsNotFound(loaded.status())) {
        return InvalidField("prediction.model",
                            "it has no chat template, so conversations cannot be given to it; "
                            "give prompts, or upload its chat_template.jinja");
      }
      if (!loaded.ok()) return loaded.status();
      chat = *std::move(loaded);
    }
    std::vector<ChatMessage> messages;
    for (const Turn& turn : example.turns) messages.push_back({turn.role, turn.content});
    while (!messages.empty() && messages.back().role == "assistant") messages.pop_back();
    THAW_ASSIGN_OR_RETURN(const std::string json, MessagesJson(messages));
    return chat->Render(json, {.add_generation_prompt = true});
  };
  GenerateInputs inputs;
  const auto add = [&](const Example& example) -> absl::Status {
    const bool is_chat = !example.turns.empty();
    std::string text = example.text;
    if (is_chat) {
      THAW_ASSIGN_OR_RETURN(text, render(example));
    }
    std::vector<int32_t> ids;
    if (is_chat) {
      // What a template renders has its special tokens in it.
      THAW_ASSIGN_OR_RETURN(ids, EncodeBare(tokenizer, text));
      inputs.truncated_rows += KeepFrontAndEnd(tokenizer, special.bos, longest, &ids);
    } else if (config.encoder_decoder) {
      THAW_ASSIGN_OR_RETURN(Encoding source, EncodeSource(context, text, special.eos, longest));
      inputs.truncated_rows += source.truncated;
      ids = std::move(source.ids);
    } else {
      THAW_ASSIGN_OR_RETURN(ids, EncodePrompt(context, text));
      inputs.truncated_rows += KeepFrontAndEnd(tokenizer, std::nullopt, longest, &ids);
    }
    if (ids.empty()) {
      return absl::FailedPreconditionError("the prompt has no tokens; give some text");
    }
    inputs.prompts.push_back(std::move(ids));
    return absl::OkStatus();
  };
  THAW_RETURN_IF_ERROR(ForEachRow(context, schema, [&](const Example& example) {
    const absl::Status status = add(example);
    return status.ok() ? status : AtLine(status, example);
  }));
  return inputs;
}

}  // namespace thaw
