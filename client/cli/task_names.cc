#include "client/cli/task_names.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/descriptor.h"

namespace thaw {
namespace {

using Rows = v1::DatasetSummary;

constexpr std::pair<absl::string_view, Rows::Task> kTasks[] = {
    {"classification", Rows::CLASSIFICATION}, {"multi_label", Rows::MULTI_LABEL},
    {"regression", Rows::REGRESSION},         {"lm", Rows::LANGUAGE_MODELING},
    {"completion", Rows::COMPLETION},         {"seq2seq", Rows::SEQUENCE_TO_SEQUENCE}};

constexpr std::pair<absl::string_view, Rows::Format> kFormats[] = {
    {"jsonl", Rows::JSONL}, {"csv", Rows::CSV}, {"tsv", Rows::TSV}, {"txt", Rows::TEXT}};

}  // namespace

absl::StatusOr<Rows::Format> ParseFormat(absl::string_view word) {
  for (const auto& [name, format] : kFormats) {
    if (name == word) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--format \"", word, "\" is not known; give one of ", FormatWords()));
}

std::string FormatWords() {
  return absl::StrJoin(kFormats, ", ", [](std::string* out, const auto& format) {
    absl::StrAppend(out, format.first);
  });
}

std::string FormatWord(Rows::Format format) {
  for (const auto& [name, value] : kFormats) {
    if (value == format) return std::string(name);
  }
  return "jsonl";
}

absl::StatusOr<Rows::Task> ParseTask(absl::string_view word) {
  for (const auto& [name, task] : kTasks) {
    if (name == word) return task;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--task \"", word, "\" is not known; give one of ", TaskWords()));
}

std::string TaskWords() {
  return absl::StrJoin(
      kTasks, ", ", [](std::string* out, const auto& task) { absl::StrAppend(out, task.first); });
}

std::string TaskWord(Rows::Task task) {
  for (const auto& [name, value] : kTasks) {
    if (value == task) return std::string(name);
  }
  return "classification";
}

absl::StatusOr<v1::Embed::Pooling> ParsePooling(absl::string_view word) {
  v1::Embed::Pooling pooling = v1::Embed::POOLING_UNSPECIFIED;
  if (!word.empty() && !v1::Embed::Pooling_Parse(absl::AsciiStrToUpper(word), &pooling)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pooling \"", word, "\" is not known; give mean, cls, last or max"));
  }
  return pooling;
}

absl::StatusOr<v1::Precision> ParsePrecision(absl::string_view word) {
  v1::Precision precision = v1::PRECISION_UNSPECIFIED;
  if (!v1::Precision_Parse(absl::AsciiStrToUpper(word), &precision) ||
      precision == v1::PRECISION_UNSPECIFIED) {
    return absl::InvalidArgumentError(
        absl::StrCat("--precision \"", word, "\" is not known; give fp32 or bf16"));
  }
  return precision;
}

std::string MetricWords() {
  std::vector<std::string> words;
  const google::protobuf::EnumDescriptor* metrics = v1::Evaluation::Metric_descriptor();
  for (int i = 0; i < metrics->value_count(); ++i) {
    if (metrics->value(i)->number() == v1::Evaluation::METRIC_UNSPECIFIED) continue;
    words.push_back(absl::AsciiStrToLower(metrics->value(i)->name()));
  }
  return absl::StrJoin(words, ", ");
}

void SetTask(Rows::Task task, const Rows& dataset, v1::Training* training) {
  switch (task) {
    case Rows::REGRESSION:
      training->mutable_regression()->set_text_column(dataset.text_column());
      training->mutable_regression()->set_target_column(dataset.target_column());
      break;
    case Rows::LANGUAGE_MODELING:
      training->mutable_language_modeling()->set_text_column(dataset.text_column());
      break;
    case Rows::COMPLETION:
      training->mutable_completion()->set_prompt_column(dataset.prompt_column());
      training->mutable_completion()->set_completion_column(dataset.completion_column());
      training->mutable_completion()->set_messages_column(dataset.messages_column());
      break;
    case Rows::SEQUENCE_TO_SEQUENCE:
      training->mutable_sequence_to_sequence()->set_source_column(dataset.source_column());
      training->mutable_sequence_to_sequence()->set_target_column(dataset.target_column());
      break;
    default: {
      v1::TextClassification* classification = training->mutable_text_classification();
      classification->set_multi_label(task == Rows::MULTI_LABEL);
      classification->set_text_column(dataset.text_column());
      classification->set_text_pair_column(dataset.text_pair_column());
      classification->set_label_column(dataset.label_column());
    }
  }
}

}  // namespace thaw
