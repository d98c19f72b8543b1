#include "common/spec/model_abilities.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/spec/fp32_only.h"

namespace thaw {
namespace {

using Summary = v1::ModelSummary;

constexpr std::pair<absl::string_view, Reading> kFamilies[] = {
    {"bert", Reading::kBothWays},       {"roberta", Reading::kBothWays},
    {"distilbert", Reading::kBothWays}, {"gpt2", Reading::kLeftToRight},
    {"llama", Reading::kLeftToRight},   {"mistral", Reading::kLeftToRight},
    {"qwen2", Reading::kLeftToRight},   {"qwen3", Reading::kLeftToRight},
    {"bloom", Reading::kLeftToRight},   {"awd_lstm", Reading::kLeftToRight},
    {"t5", Reading::kSourceToTarget}};

std::string TypesThat(Reading reading) {
  std::vector<absl::string_view> types;
  for (const auto& [type, how] : kFamilies) {
    if (how == reading) types.push_back(type);
  }
  return absl::StrJoin(types, ", ");
}

std::string Named(const v1::Artifact& model) {
  return absl::StrCat("\"", model.id(), "\" is of type ", model.model().model_type());
}

bool HasLabels(Summary::Head head) {
  return head == Summary::CLASSIFIER || head == Summary::MULTI_LABEL_CLASSIFIER ||
         head == Summary::REGRESSION;
}

std::string WhyNoWriter(const v1::Artifact& model) {
  switch (ReadingOf(model.model().model_type())) {
    case Reading::kBothWays:
      return absl::StrCat(Named(model),
                          ", which reads both ways and cannot write on; give a model of type ",
                          TypesThat(Reading::kLeftToRight));
    case Reading::kSourceToTarget:
      return absl::StrCat(Named(model),
                          ", which writes a target for a source; use sequence_to_sequence, or give "
                          "a model of type ",
                          TypesThat(Reading::kLeftToRight));
    default:
      break;
  }
  if (!HasLabels(HeadOf(model.model()))) return "";
  return absl::StrCat("\"", model.id(),
                      "\" has a classifier where a language model predicts tokens; give the model "
                      "that it was made from");
}

bool GeneratesFromConversations(const v1::Prediction& prediction) {
  if (!prediction.has_generate()) return false;
  if (!prediction.generate().messages_column().empty()) return true;
  for (const v1::InlineExample& example : prediction.examples().values()) {
    if (example.messages_size() > 0) return true;
  }
  return false;
}

// Whether whole texts are scored, not completions.
bool ScoresTexts(const v1::Prediction& prediction) {
  return prediction.has_score() &&
         (prediction.has_texts() || !prediction.score().text_column().empty());
}

std::string WhyNoText(const v1::Artifact& model, const v1::Prediction& prediction) {
  const Summary::Head head = HeadOf(model.model());
  const absl::string_view verb = prediction.has_generate() ? "generate" : "score";
  if (head != Summary::LANGUAGE_MODEL && head != Summary::SEQUENCE_TO_SEQUENCE) {
    return absl::StrCat(Named(model), " and ",
                        HasLabels(head) ? "classifies" : "has no head that predicts tokens",
                        ", so it cannot ", verb, "; give a language model");
  }
  if (head == Summary::SEQUENCE_TO_SEQUENCE && ScoresTexts(prediction)) {
    return absl::StrCat(Named(model),
                        ", which scores a completion after a prompt, not a text alone; give both");
  }
  if (!GeneratesFromConversations(prediction)) return "";
  if (head == Summary::SEQUENCE_TO_SEQUENCE) {
    return absl::StrCat(Named(model), ", which knows no conversations; give prompts");
  }
  if (model.model().chat_template()) return "";
  return absl::StrCat("\"", model.id(),
                      "\" has no chat template, which conversations need; give prompts, or a model "
                      "with a chat template");
}

}  // namespace

Reading ReadingOf(absl::string_view model_type) {
  for (const auto& [type, reading] : kFamilies) {
    if (type == model_type) return reading;
  }
  return Reading::kUnknown;
}

std::string KnownModelTypes() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const auto& family) {
    absl::StrAppend(out, family.first);
  });
}

Summary::Head HeadOf(const Summary& model) {
  if (model.head() != Summary::HEAD_UNSPECIFIED) return model.head();
  return model.labels().empty() ? Summary::NONE : Summary::CLASSIFIER;
}

Summary::Head HeadAfter(const v1::Training& training) {
  switch (training.task_case()) {
    case v1::Training::kTextClassification:
      return training.text_classification().multi_label() ? Summary::MULTI_LABEL_CLASSIFIER
                                                          : Summary::CLASSIFIER;
    case v1::Training::kRegression:
      return Summary::REGRESSION;
    case v1::Training::kLanguageModeling:
    case v1::Training::kCompletion:
      return Summary::LANGUAGE_MODEL;
    case v1::Training::kSequenceToSequence:
      return Summary::SEQUENCE_TO_SEQUENCE;
    case v1::Training::TASK_NOT_SET:
      break;
  }
  return Summary::HEAD_UNSPECIFIED;
}

std::string WhyNotTrainable(const v1::Artifact& model, const v1::Training& training) {
  const Reading reading = ReadingOf(model.model().model_type());
  switch (training.task_case()) {
    case v1::Training::kTextClassification:
    case v1::Training::kRegression:
      if (reading != Reading::kSourceToTarget) return "";
      return absl::StrCat(Named(model),
                          ", which writes text instead of choosing; use sequence_to_sequence with "
                          "the answer as the target, or give a model of another type");
    case v1::Training::kLanguageModeling:
    case v1::Training::kCompletion:
      return WhyNoWriter(model);
    case v1::Training::kSequenceToSequence:
      if (reading == Reading::kSourceToTarget) return "";
      return absl::StrCat(
          Named(model), ", which has no ", reading == Reading::kBothWays ? "decoder" : "encoder",
          "; give a model of type t5", reading == Reading::kBothWays ? "" : ", or use completion");
    case v1::Training::TASK_NOT_SET:
      break;
  }
  return "";
}

std::string WhyNotFirstToken(const v1::Artifact& model) {
  if (ReadingOf(model.model().model_type()) == Reading::kBothWays) return "";
  return absl::StrCat(
      Named(model),
      ", whose first token says nothing of the rest; give the pooling MEAN, LAST or "
      "MAX");
}

std::string WhyNotAnswerable(const v1::Artifact& model, const v1::Prediction& prediction) {
  switch (prediction.task_case()) {
    case v1::Prediction::kClassify:
      if (HasLabels(HeadOf(model.model()))) return "";
      return absl::StrCat("\"", model.id(),
                          "\" has no labels and so cannot classify; train it first and give the id "
                          "of the result");
    case v1::Prediction::kEmbed:
      return prediction.embed().pooling() == v1::Embed::CLS ? WhyNotFirstToken(model) : "";
    case v1::Prediction::kScore:
    case v1::Prediction::kGenerate:
      return WhyNoText(model, prediction);
    case v1::Prediction::TASK_NOT_SET:
      break;
  }
  return "";
}

std::string WhyNotIn(v1::Precision precision, absl::string_view model_type) {
  if (precision != v1::BF16 || !IsFp32Only(model_type)) return "";
  return absl::StrCat("BF16; models of type ", model_type,
                      " compute in FP32 alone; give that, or leave it out");
}

std::vector<v1::Evaluation::Metric> MetricsOf(const v1::Training& training) {
  using v1::Evaluation;
  switch (training.task_case()) {
    case v1::Training::kTextClassification:
      if (training.text_classification().multi_label()) {
        return {Evaluation::MACRO_F1, Evaluation::MICRO_F1, Evaluation::ACCURACY, Evaluation::LOSS};
      }
      return {Evaluation::ACCURACY, Evaluation::MACRO_F1, Evaluation::LOSS,
              Evaluation::MATTHEWS_CORRELATION};
    case v1::Training::kRegression:
      return {Evaluation::MEAN_SQUARED_ERROR, Evaluation::LOSS, Evaluation::PEARSON,
              Evaluation::SPEARMAN};
    case v1::Training::kCompletion:
      // Of a conversation with several turns no single text is expected.
      if (!training.completion().messages_column().empty()) {
        return {Evaluation::LOSS, Evaluation::PERPLEXITY};
      }
      return {Evaluation::LOSS, Evaluation::PERPLEXITY, Evaluation::EXACT_MATCH,
              Evaluation::DIGIT_MATCH};
    case v1::Training::kSequenceToSequence:
      return {Evaluation::LOSS, Evaluation::PERPLEXITY, Evaluation::EXACT_MATCH,
              Evaluation::DIGIT_MATCH};
    case v1::Training::kLanguageModeling:
      return {Evaluation::LOSS, Evaluation::PERPLEXITY};
    case v1::Training::TASK_NOT_SET:
      break;
  }
  return {};
}

}  // namespace thaw
