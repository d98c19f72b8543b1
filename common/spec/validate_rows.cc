// What a training makes of its rows, and how it is evaluated on them.
#include <algorithm>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/spec/model_abilities.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr double kMostClassWeight = 1000;

std::string MetricName(v1::Evaluation::Metric metric) {
  return v1::Evaluation::Metric_IsValid(metric) ? v1::Evaluation::Metric_Name(metric)
                                                : absl::StrCat(static_cast<int>(metric));
}

// "A, B or C".
std::string Alternatives(const std::vector<v1::Evaluation::Metric>& metrics) {
  std::string names;
  for (size_t i = 0; i < metrics.size(); ++i) {
    absl::StrAppend(&names,
                    i == 0                    ? ""
                    : i + 1 == metrics.size() ? " or "
                                              : ", ",
                    MetricName(metrics[i]));
  }
  return names;
}

// Why texts of this task cannot go on in rows of their own; empty if they can.
const char* WhyNotSplit(const v1::Training& training) {
  switch (training.task_case()) {
    case v1::Training::kTextClassification:
      return training.text_classification().text_pair_column().empty()
                 ? ""
                 : "is for single texts, and text_pair_column is set";
    case v1::Training::kCompletion:
      return "would part completions from their prompts";
    case v1::Training::kSequenceToSequence:
      return "would part targets from their sources";
    default:
      return "";
  }
}

void ValidateLongRows(absl::string_view field, const v1::Training& training,
                      SpecProblems* problems) {
  const v1::Training::LongRows long_rows = training.long_rows();
  if (!v1::Training::LongRows_IsValid(long_rows)) {
    problems->Add(field, absl::StrCat(static_cast<int>(long_rows),
                                      " is not known; give TRUNCATE, SPLIT or DROP"));
    return;
  }
  if (long_rows != v1::Training::SPLIT && long_rows != v1::Training::DROP) return;
  const std::string name = v1::Training::LongRows_Name(long_rows);
  if (training.has_language_modeling() &&
      training.language_modeling().layout() != v1::LanguageModeling::PER_DOCUMENT) {
    problems->Add(field, absl::StrCat(name,
                                      " is given for joined texts, which are cut into rows "
                                      "without losing any; leave it out, or give the layout "
                                      "PER_DOCUMENT"));
    return;
  }
  const std::string why_not = WhyNotSplit(training);
  if (long_rows == v1::Training::SPLIT && !why_not.empty()) {
    problems->Add(field, absl::StrCat("SPLIT ", why_not, "; give TRUNCATE or DROP"));
  }
}

void ValidateClassWeights(absl::string_view field, const v1::TextClassification& task,
                          SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (task.balanced_classes() && task.multi_label()) {
    problems->Add(at("balanced_classes"),
                  "is for one label a text, and multi_label is set; leave it out");
  }
  if (task.class_weights().empty()) return;
  if (task.multi_label()) {
    problems->Add(at("class_weights"),
                  "are for one label a text, and multi_label is set; leave them out");
  } else if (task.balanced_classes()) {
    problems->Add(at("class_weights"),
                  "are given beside balanced_classes, which sets all of them; give one or the "
                  "other");
  }
  for (const auto& [label, weight] : task.class_weights()) {
    problems->ExpectWithin(absl::StrCat(at("class_weights"), "[", CleanText(label, 80), "]"),
                           weight, {0, kMostClassWeight, true});
  }
}

// Whether a metric takes text to be generated.
bool Generates(int metric) {
  return metric == v1::Evaluation::EXACT_MATCH || metric == v1::Evaluation::DIGIT_MATCH;
}

void ValidateGeneration(absl::string_view field, const v1::Evaluation& evaluation,
                        SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  const bool generates = Generates(evaluation.metric()) ||
                         std::any_of(evaluation.also().begin(), evaluation.also().end(), Generates);
  for (const auto& [name, value, most] :
       {std::tuple("max_new_tokens", evaluation.max_new_tokens(), 32'768),
        std::tuple("generated_rows", evaluation.generated_rows(), 1'000'000)}) {
    if (value == 0) continue;
    if (!generates) {
      problems->Add(at(name), absl::StrCat(value,
                                           " is given, but neither EXACT_MATCH nor DIGIT_MATCH "
                                           "is asked for; name one in also, or leave it out"));
    } else {
      problems->ExpectWithin(at(name), int64_t{value}, 1, most);
    }
  }
}

}  // namespace

bool Evaluates(const v1::Training& training) {
  return training.validation_case() != v1::Training::kValidationFraction ||
         training.validation_fraction() != 0;
}

void ValidateRows(absl::string_view field, const v1::Training& training, SpecProblems* problems) {
  ValidateLongRows(absl::StrCat(field, ".long_rows"), training, problems);
  if (training.has_text_classification()) {
    ValidateClassWeights(absl::StrCat(field, ".text_classification"),
                         training.text_classification(), problems);
  }
  if (!training.stratified_validation()) return;
  const std::string stratified = absl::StrCat(field, ".stratified_validation");
  if (!training.has_text_classification() || training.text_classification().multi_label()) {
    problems->Add(stratified, "needs one label a text; leave it out, or give text_classification");
  } else if (training.has_validation_dataset() || !Evaluates(training)) {
    problems->Add(stratified,
                  "keeps rows of the training dataset back; give validation_fraction, or leave it "
                  "out");
  }
}

void ExpectMetric(absl::string_view field, v1::Evaluation::Metric metric,
                  const v1::Training& training, SpecProblems* problems) {
  const std::vector<v1::Evaluation::Metric> metrics = MetricsOf(training);
  if (metric == v1::Evaluation::METRIC_UNSPECIFIED || metrics.empty() ||
      std::find(metrics.begin(), metrics.end(), metric) != metrics.end()) {
    return;
  }
  problems->Add(field, absl::StrCat(MetricName(metric), " is no metric of this task; give ",
                                    Alternatives(metrics)));
}

void CheckMetrics(absl::string_view field, const v1::Training& training, SpecProblems* problems) {
  const v1::Evaluation& evaluation = training.evaluation();
  ExpectMetric(absl::StrCat(field, ".metric"), evaluation.metric(), training, problems);
  for (int i = 0; i < evaluation.also_size(); ++i) {
    ExpectMetric(absl::StrCat(field, ".also[", i, "]"),
                 static_cast<v1::Evaluation::Metric>(evaluation.also(i)), training, problems);
  }
}

void ValidateEvaluation(absl::string_view field, const v1::Training& training,
                        SpecProblems* problems) {
  const v1::Evaluation& evaluation = training.evaluation();
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  CheckMetrics(field, training, problems);
  if (evaluation.has_every_epochs()) {
    problems->ExpectWithin(at("every_epochs"), evaluation.every_epochs(), {0, 1000, true});
  }
  if (evaluation.every_steps() != 0) {
    problems->ExpectWithin(at("every_steps"), evaluation.every_steps(), 1, 10'000'000);
    if (evaluation.has_every_epochs()) {
      problems->Add(at("every_steps"),
                    absl::StrCat(evaluation.every_steps(),
                                 " is given beside every_epochs; give one or the other"));
    }
  }
  ValidateGeneration(field, evaluation, problems);
  if (evaluation.patience() < 0) {
    problems->Add(at("patience"),
                  absl::StrCat(evaluation.patience(), " is negative; give 0 for never"));
  } else if (evaluation.patience() > 0 && !Evaluates(training)) {
    problems->Add(at("patience"),
                  "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
  if (evaluation.also_size() > 0 && !Evaluates(training)) {
    problems->Add(at("also"),
                  "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
}

}  // namespace thaw
