#include "worker/training/task_rows.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/decoder_start.h"
#include "worker/text/special_tokens.h"
#include "worker/training/inputs.h"

namespace thaw {
namespace {

constexpr int32_t kDefaultTargetLength = 256;

void ForClassification(const v1::TextClassification& task, TaskRows* rows) {
  rows->schema = {.text_column = OrDefault(task.text_column(), "text"),
                  .text_pair_column = task.text_pair_column(),
                  .label_column = OrDefault(task.label_column(), "label"),
                  .form = task.multi_label() ? ExampleForm::kLabels : ExampleForm::kLabel};
  if (task.multi_label()) rows->problem = ProblemType::kMultiLabel;
}

void ForRegression(const v1::Regression& task, TaskRows* rows) {
  rows->schema = {.text_column = OrDefault(task.text_column(), "text"),
                  .label_column = OrDefault(task.target_column(), "label"),
                  .form = ExampleForm::kNumber};
  rows->problem = ProblemType::kRegression;
}

void ForLanguageModeling(const v1::LanguageModeling& task, TaskRows* rows) {
  rows->schema = {.text_column = OrDefault(task.text_column(), "text"),
                  .label_column = "",
                  .form = ExampleForm::kText};
  rows->options.kind = task.layout() == v1::LanguageModeling::PER_DOCUMENT ? RowKind::kDocument
                                                                           : RowKind::kContiguous;
}

void ForCompletion(const v1::Completion& task, TaskRows* rows) {
  if (!task.messages_column().empty()) {
    rows->schema = {.text_column = task.messages_column(),
                    .label_column = task.messages_column(),
                    .form = ExampleForm::kConversation};
    rows->options.kind = RowKind::kConversation;
    return;
  }
  rows->schema = {.text_column = OrDefault(task.prompt_column(), "prompt"),
                  .label_column = OrDefault(task.completion_column(), "completion"),
                  .form = ExampleForm::kAnswer};
  rows->options.kind = RowKind::kCompletion;
}

void ForSequenceToSequence(const v1::SequenceToSequence& task, const ModelConfig& config,
                           TaskRows* rows) {
  rows->schema = {.text_column = OrDefault(task.source_column(), "source"),
                  .label_column = OrDefault(task.target_column(), "target"),
                  .form = ExampleForm::kAnswer};
  rows->options.kind = RowKind::kTarget;
  const int32_t asked =
      task.max_target_length() == 0 ? kDefaultTargetLength : task.max_target_length();
  rows->options.max_target_length =
      static_cast<int32_t>(std::min<int64_t>(asked, config.max_positions));
}

absl::Status ReadChat(const internal::Run& run, const std::string& directory,
                      const Tokenizer& tokenizer, const SpecialTokens& special, TaskRows* rows) {
  // Of all that a template can read only the time changes from attempt to attempt: it is that of
  // the dataset.
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat = ChatTemplate::Load(
      directory, tokenizer, special, run.assignment().dataset().create_time().seconds());
  if (absl::IsNotFound(chat.status())) {
    return InvalidField("base_model",
                        "it has no chat template, which conversations need: give a model with a "
                        "chat template, or train on prompts and completions");
  }
  THAW_RETURN_IF_ERROR(chat.status());
  rows->chat = *std::move(chat);
  rows->options.chat = rows->chat.get();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TaskRows> RowsOfTask(const internal::Run& run, const ModelConfig& config,
                                    const std::string& tokenizer_dir, const Tokenizer& tokenizer) {
  const v1::Training& training = run.assignment().spec().training();
  TaskRows rows;
  rows.options.max_length = MaxLength(training.max_length(), config);
  rows.options.backward = config.reads_backward;
  switch (training.task_case()) {
    case v1::Training::kRegression:
      ForRegression(training.regression(), &rows);
      break;
    case v1::Training::kLanguageModeling:
      ForLanguageModeling(training.language_modeling(), &rows);
      break;
    case v1::Training::kCompletion:
      ForCompletion(training.completion(), &rows);
      break;
    case v1::Training::kSequenceToSequence:
      ForSequenceToSequence(training.sequence_to_sequence(), config, &rows);
      break;
    default:
      ForClassification(training.text_classification(), &rows);
  }
  rows.options.form = rows.schema.form;
  if (rows.options.kind == RowKind::kText) return rows;
  rows.head = HeadKind::kLanguageModel;
  rows.options.foretells_next = config.carries_state && rows.options.kind == RowKind::kContiguous;
  const bool fits =
      rows.options.kind == RowKind::kTarget
          ? config.encoder_decoder
          : config.causal && !config.encoder_decoder &&
                (!config.reads_backward || rows.options.kind == RowKind::kContiguous ||
                 rows.options.kind == RowKind::kDocument);
  if (!fits) {
    return InvalidField("base_model", absl::StrCat("a model of type ", config.model_type,
                                                   " cannot learn this task"));
  }
  const absl::StatusOr<int32_t> decoder_start = DecoderStart(tokenizer_dir, config);
  THAW_RETURN_IF_ERROR(Annotate(decoder_start.status(), "base_model"));
  rows.options.decoder_start = *decoder_start;
  THAW_ASSIGN_OR_RETURN(const SpecialTokens special, ReadSpecialTokens(tokenizer_dir, tokenizer));
  rows.options.end = special.eos;
  if (rows.options.kind == RowKind::kConversation) {
    THAW_RETURN_IF_ERROR(ReadChat(run, tokenizer_dir, tokenizer, special, &rows));
  }
  return rows;
}

}  // namespace thaw
