#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/clean_text.h"
#include "common/base/edit_distance.h"
#include "common/spec/added_part_kind.h"
#include "common/spec/model_abilities.h"
#include "common/spec/planned_training.h"
#include "common/spec/ready_artifact.h"
#include "common/spec/spec.h"
#include "common/spec/spec_defaults.h"
#include "common/spec/spec_problems.h"
#include "common/spec/task_columns.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace thaw {
namespace {

void CheckMaxLength(absl::string_view field, int max_length, const v1::Artifact& model,
                    SpecProblems* problems) {
  const int positions = model.model().max_positions();
  if (positions > 0 && max_length > positions) {
    problems->Add(field, absl::StrCat(max_length, " tokens; the model has ", positions,
                                      " positions, so give at most ", positions));
  }
}

void CheckPrecision(absl::string_view field, v1::Precision precision, const v1::Artifact& model,
                    SpecProblems* problems) {
  const std::string why_not = WhyNotIn(precision, model.model().model_type());
  if (!why_not.empty()) problems->Add(field, why_not);
}

// Labels of `dataset` that are not among `known`, quoted; at most five.
template <typename Known>
std::string UnknownLabels(const v1::Artifact& dataset, const Known& known) {
  std::vector<std::string> unknown;
  for (const v1::LabelCount& count : dataset.dataset().labels()) {
    if (known.count(count.label()) == 0 && unknown.size() < 5) {
      unknown.push_back(absl::StrCat("\"", count.label(), "\""));
    }
  }
  return absl::StrJoin(unknown, ", ");
}

// Selectors that ask for more blocks than the model has, however deep they lie.
void CheckBlocks(const std::string& field, const v1::Selector& selector, int blocks,
                 SpecProblems* problems) {
  if (selector.last_blocks() > blocks) {
    problems->Add(absl::StrCat(field, ".last_blocks"),
                  absl::StrCat(selector.last_blocks(), " blocks; the model has ", blocks,
                               ", so give at most that, or everything"));
  }
  for (int i = 0; i < selector.any_of().values_size(); ++i) {
    CheckBlocks(absl::StrCat(field, ".any_of.values[", i, "]"), selector.any_of().values(i), blocks,
                problems);
  }
  for (int i = 0; i < selector.and_not_size(); ++i) {
    CheckBlocks(absl::StrCat(field, ".and_not[", i, "]"), selector.and_not(i), blocks, problems);
  }
}

void CheckPhases(const v1::Training& training, const v1::Artifact* model, int64_t rows,
                 SpecProblems* problems) {
  for (int i = 0; i < training.phases_size(); ++i) {
    const v1::Phase& phase = training.phases(i);
    const std::string field = absl::StrCat("spec.training.phases[", i, "]");
    if (model != nullptr) {
      // Those above a pooled head never run.
      const int blocks = training.pooled_head().has_blocks()
                             ? std::min(training.pooled_head().blocks(), model->model().blocks())
                             : model->model().blocks();
      CheckBlocks(field + ".selector", phase.selector(), blocks, problems);
      for (int j = 0; j < phase.rate_overrides_size(); ++j) {
        CheckBlocks(absl::StrCat(field, ".rate_overrides[", j, "].selector"),
                    phase.rate_overrides(j).selector(), blocks, problems);
      }
    }
    const bool adapts =
        training.has_added_part() || (model != nullptr && model->form() == v1::Artifact::ADAPTER);
    if (model != nullptr && !adapts && phase.selector().kind() == v1::Selector::ADDED_PARTS) {
      problems->Add(absl::StrCat(field, ".selector.kind"),
                    absl::StrCat("ADDED_PARTS; \"", model->id(),
                                 "\" is no adapter, and nothing is added; give added_part or "
                                 "another kind"));
    }
    const int64_t warmup = phase.schedule().warmup_steps();
    if (rows > 0 && warmup > 0 && phase.epochs() > 0) {
      const int64_t batch = training.batch().examples_per_step();
      const double steps =
          std::ceil(phase.epochs() * static_cast<double>((rows + batch - 1) / batch));
      if (static_cast<double>(warmup) >= steps) {
        problems->Add(absl::StrCat(field, ".schedule.warmup_steps"),
                      absl::StrCat(warmup, " of at most ", static_cast<int64_t>(steps),
                                   " steps; give fewer than the phase has"));
      }
    }
  }
}

void CheckValidation(const v1::Training& training, const v1::Artifact& dataset,
                     const SpecContext& context, SpecProblems* problems) {
  if (training.has_validation_dataset()) {
    const std::string field = "spec.training.validation_dataset";
    const v1::Artifact* validation =
        FindReady(field, training.validation_dataset(), {v1::Artifact::DATASET}, "a dataset",
                  context, problems);
    if (validation == nullptr) return;
    if (!CheckColumns(field, *validation, training, problems)) return;
    if (!training.has_text_classification()) return;
    std::set<std::string> known;
    for (const v1::LabelCount& count : dataset.dataset().labels()) known.insert(count.label());
    const std::string unknown = UnknownLabels(*validation, known);
    if (!unknown.empty()) {
      problems->Add(field, absl::StrCat("\"", validation->id(),
                                        "\" has labels that the training "
                                        "dataset lacks: ",
                                        unknown, "; remove those rows"));
    }
  } else if (training.validation_fraction() > 0 &&
             training.validation_fraction() * static_cast<double>(dataset.dataset().rows()) < 1) {
    problems->Add("spec.training.validation_fraction",
                  absl::StrCat(training.validation_fraction(), " of ", dataset.dataset().rows(),
                               " rows keeps none back; give more, or 0 for no evaluation"));
  }
}

void CheckLabels(const v1::Training& training, const v1::Artifact& dataset,
                 SpecProblems* problems) {
  if (!training.has_text_classification() || dataset.dataset().unlabelled_rows() > 0) return;
  const int least = training.text_classification().multi_label() ? 1 : 2;
  if (dataset.dataset().labels_size() >= least) return;
  problems->Add("spec.training.dataset",
                absl::StrCat("\"", dataset.id(), "\" has ", dataset.dataset().labels_size(),
                             " labels; a classifier needs rows of at least ", least));
}

// Weights of labels that the dataset does not have.
void CheckClassWeights(const v1::Training& training, const v1::Artifact& dataset,
                       SpecProblems* problems) {
  if (training.text_classification().class_weights().empty()) return;
  std::vector<std::string> labels;
  for (const v1::LabelCount& count : dataset.dataset().labels()) labels.push_back(count.label());
  for (const auto& [name, weight] : training.text_classification().class_weights()) {
    if (std::find(labels.begin(), labels.end(), name) != labels.end()) continue;
    const std::string nearest = NearestName(name, labels);
    problems->Add(
        "spec.training.text_classification.class_weights",
        absl::StrCat("\"", CleanText(name, 80), "\" is no label of \"", dataset.id(), "\"",
                     nearest.empty() ? "; give labels of its rows"
                                     : absl::StrCat("; did you mean \"", nearest, "\"?")));
  }
}

void CheckConversations(const v1::Training& training, const v1::Artifact* model,
                        const v1::Artifact* tokenizer, SpecProblems* problems) {
  if (training.completion().messages_column().empty()) return;
  const v1::Artifact* source = training.tokenizer().empty() ? model : tokenizer;
  if (source == nullptr || source->model().chat_template()) return;
  problems->Add("spec.training.completion.messages_column",
                absl::StrCat("\"", training.completion().messages_column(), "\"; \"", source->id(),
                             "\" has no chat template to render conversations with; give a dataset "
                             "of prompts and completions, or a model with a chat template"));
}

// What the kind of part asks of the model.
void CheckAddedPart(const v1::Training& training, const v1::Artifact& model,
                    SpecProblems* problems) {
  const v1::AddedPart& part = training.added_part();
  const std::string& type = model.model().model_type();
  const bool prompt = part.has_prompt_tuning(), prefix = part.has_prefix_tuning();
  const char* const kind = prompt                  ? "prompt_tuning"
                           : prefix                ? "prefix_tuning"
                           : part.has_bottleneck() ? "bottleneck"
                                                   : nullptr;
  if (kind == nullptr) return;
  const std::string field = absl::StrCat("spec.training.added_part.", kind);
  if (type == "awd_lstm" || (prefix && type == "distilbert")) {
    problems->Add(field, absl::StrCat("\"", model.id(), "\" is of model_type ", type,
                                      ", which cannot have it; give another kind or none"));
    return;
  }
  const int positions = model.model().max_positions(), taken = VirtualTokens(part);
  if (positions > 0 && taken > 0 && taken + training.max_length() > positions &&
      training.max_length() <= positions) {
    problems->Add(
        field + ".virtual_tokens",
        absl::StrCat(taken, " beside max_length ", training.max_length(), "; the model has ",
                     positions, " positions for both, so give fewer, or a smaller max_length"));
  }
}

// What the result can hold depends on what the base model is.
void CheckOutput(const v1::Training& training, const v1::Artifact& model, SpecProblems* problems) {
  const auto refuse = [&](absl::string_view why) {
    problems->Add("spec.training.output", absl::StrCat(v1::Training::Output_Name(training.output()),
                                                       "; \"", model.id(), "\" ", why));
  };
  const bool on_adapter = model.form() == v1::Artifact::ADAPTER;
  const bool adapts = training.has_added_part() || on_adapter;
  switch (training.output()) {
    case v1::Training::DELTA:
      if (model.model().parameters() == 0) {
        refuse("is a configuration without weights to differ from, so give FULL");
      }
      [[fallthrough]];
    case v1::Training::FULL:
      if (on_adapter) refuse("is an adapter, which it would leave out; give ADAPTER or MERGED");
      return;
    case v1::Training::ADAPTER:
      if (!adapts) refuse("is no adapter, and no part is added; give FULL or DELTA");
      // An adapter is loaded on the model with all weights that it names.
      if (model.form() == v1::Artifact::DELTA) {
        refuse("is a delta, on which adapters cannot be stored; give MERGED");
      }
      return;
    case v1::Training::MERGED:
      if (!adapts) refuse("is no adapter, and no part is added; give FULL or DELTA");
      return;
    default:
      return;
  }
}

void CheckPooledHead(const v1::PooledHead& head, const v1::Artifact& model,
                     SpecProblems* problems) {
  if (head.blocks() > model.model().blocks()) {
    problems->Add("spec.training.pooled_head.blocks",
                  absl::StrCat(head.blocks(), "; \"", model.id(), "\" has ", model.model().blocks(),
                               " blocks, so give at most that"));
  }
  if (head.pooling() == v1::Embed::CLS) {
    const std::string why_not = WhyNotFirstToken(model);
    if (!why_not.empty()) problems->Add("spec.training.pooled_head.pooling", why_not);
  }
}

// `asked`: before the defaults.
void CheckTraining(const v1::JobSpec& spec, const v1::Training& asked, const SpecContext& context,
                   SpecProblems* problems) {
  const v1::Training& training = spec.training();
  const v1::Artifact* model = FindModel("spec.base_model", spec.base_model(), context, problems);
  if (model != nullptr) {
    const std::string why_not = WhyNotTrainable(*model, training);
    if (!why_not.empty()) {
      problems->Add("spec.base_model", why_not);
      model = nullptr;
    } else {
      CheckMaxLength("spec.training.max_length", training.max_length(), *model, problems);
      CheckPrecision("spec.training.precision", training.precision(), *model, problems);
      CheckAddedPart(training, *model, problems);
      CheckOutput(training, *model, problems);
      if (training.has_pooled_head()) {
        CheckPooledHead(training.pooled_head(), *model, problems);
      }
    }
  }
  if (model != nullptr && model->form() == v1::Artifact::ADAPTER) {
    if (training.has_added_part()) {
      problems->Add("spec.training.added_part",
                    absl::StrCat("is given beside \"", model->id(),
                                 "\", which is an adapter with a part of its own; leave it out to "
                                 "go on with that one, or give a merged model"));
    }
    if (!training.tokenizer().empty()) {
      problems->Add("spec.training.tokenizer",
                    absl::StrCat("\"", training.tokenizer(),
                                 "\"; the base model is an adapter, "
                                 "which knows its base's vocabulary alone; leave it out"));
    }
  }
  const v1::Artifact* tokenizer =
      FindModel("spec.training.tokenizer", training.tokenizer(), context, problems);
  CheckConversations(training, model, tokenizer, problems);
  const v1::Artifact* dataset = FindReady("spec.training.dataset", training.dataset(),
                                          {v1::Artifact::DATASET}, "a dataset", context, problems);
  // How many rows plain text makes is known to the tokenizer alone.
  const bool counted = dataset != nullptr && !training.has_language_modeling();
  CheckPhases(training, model, counted ? dataset->dataset().rows() : 0, problems);
  if (dataset == nullptr) return;
  if (!CheckColumns("spec.training.dataset", *dataset, training, problems)) return;
  CheckLabels(training, *dataset, problems);
  CheckClassWeights(training, *dataset, problems);
  // The dataset may hold conversations, of which nobody said so.
  if (training.completion().messages_column() != asked.completion().messages_column()) {
    CheckMetrics("spec.training.evaluation", training, problems);
  }
  CheckValidation(training, *dataset, context, problems);
}

// Labels of one head must be those of the other for their probabilities to be averaged.
void CheckAverage(const v1::Artifact& model, const v1::Prediction& prediction,
                  const SpecContext& context, SpecProblems* problems) {
  const v1::Classify& task = prediction.classify();
  const v1::ModelSummary::Head head = HeadOf(model.model());
  for (int i = 0; i < task.average_with_size(); ++i) {
    const std::string field = absl::StrCat("spec.prediction.classify.average_with[", i, "]");
    if (head == v1::ModelSummary::REGRESSION) {
      problems->Add(field, absl::StrCat("\"", task.average_with(i), "\"; \"", model.id(),
                                        "\" answers with a number, and only probabilities are "
                                        "averaged; leave it out"));
      return;
    }
    const v1::Artifact* other = FindModel(field, task.average_with(i), context, problems);
    if (other == nullptr) continue;
    if (!other->base_model().empty()) {
      problems->Add(field, absl::StrCat("\"", other->id(), "\" builds on \"", other->base_model(),
                                        "\"; give a model with all weights (of its training, "
                                        "output FULL)"));
      continue;
    }
    CheckPrecision(field, prediction.precision(), *other, problems);
    const auto& labels = model.model().labels();
    const auto& others = other->model().labels();
    if (HeadOf(other->model()) != head ||
        !std::equal(labels.begin(), labels.end(), others.begin(), others.end())) {
      problems->Add(
          field,
          absl::StrCat("\"", other->id(), "\" has other labels than \"", model.id(),
                       "\", or in another order; give a model that was trained for the same ones"));
    }
  }
}

void CheckPrediction(const v1::Prediction& prediction, const v1::Artifact* model,
                     const SpecContext& context, SpecProblems* problems) {
  if (model != nullptr) {
    const std::string why_not = WhyNotAnswerable(*model, prediction);
    if (!why_not.empty()) {
      problems->Add("spec.prediction.model", why_not);
      return;
    }
    CheckMaxLength("spec.prediction.max_length", prediction.max_length(), *model, problems);
    CheckPrecision("spec.prediction.precision", prediction.precision(), *model, problems);
    CheckAverage(*model, prediction, context, problems);
  }
  if (!prediction.has_dataset()) return;
  const v1::Artifact* dataset = FindReady("spec.prediction.dataset", prediction.dataset(),
                                          {v1::Artifact::DATASET}, "a dataset", context, problems);
  if (dataset == nullptr) return;
  CheckColumns(*dataset, prediction, problems);
  if (model == nullptr || !prediction.has_classify() || model->model().labels_size() == 0) return;
  const std::set<std::string> known(model->model().labels().begin(), model->model().labels().end());
  const std::string unknown = UnknownLabels(*dataset, known);
  if (!unknown.empty()) {
    problems->Add("spec.prediction.dataset",
                  absl::StrCat("\"", dataset->id(), "\" has labels that the model lacks: ", unknown,
                               "; upload it without its label column"));
  }
}

}  // namespace

bool IsJobId(absl::string_view id) { return absl::StartsWith(id, "job-"); }

std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec) {
  if (spec.has_plan()) {
    std::vector<SpecReference> references = ReferencesOf(WithTraining(spec));
    for (SpecReference& reference : references) reference.field = FieldOfPlan(reference.field);
    return references;
  }
  const v1::Training& training = spec.training();
  const v1::Prediction& prediction = spec.prediction();
  std::vector<SpecReference> references = {
      {"spec.base_model", spec.base_model()},
      {"spec.training.dataset", training.dataset()},
      {"spec.training.validation_dataset", training.validation_dataset()},
      {"spec.training.tokenizer", training.tokenizer()},
      {"spec.prediction.model", IsJobId(prediction.model()) ? "" : prediction.model()},
      {"spec.prediction.dataset", prediction.dataset()}};
  for (int i = 0; i < prediction.classify().average_with_size(); ++i) {
    references.push_back({absl::StrCat("spec.prediction.classify.average_with[", i, "]"),
                          prediction.classify().average_with(i)});
  }
  references.erase(std::remove_if(references.begin(), references.end(),
                                  [](const SpecReference& r) { return r.id.empty(); }),
                   references.end());
  return references;
}

absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const SpecContext& context) {
  if (spec.has_plan()) {
    absl::StatusOr<v1::JobSpec> resolved = ResolveSpec(WithTraining(spec), context);
    if (!resolved.ok()) return StatusOfPlan(resolved.status());
    return WithPlan(*std::move(resolved));
  }
  SpecProblems problems;
  ValidateWholeSpec(spec, &problems);
  v1::JobSpec known = spec;
  std::optional<v1::Artifact> model;
  if (known.has_prediction()) {
    model = ResolveModel(context, known.mutable_prediction(), &problems);
  } else if (const v1::Artifact* base = FindArtifact(context, known.base_model())) {
    model = *base;
  }
  const v1::Artifact* found = model.has_value() ? &*model : nullptr;
  v1::JobSpec resolved = WithDefaults(known, found, context);
  if (resolved.has_training()) {
    CheckTraining(resolved, known.training(), context, &problems);
  } else if (resolved.has_prediction()) {
    CheckPrediction(resolved.prediction(), found, context, &problems);
  }
  THAW_RETURN_IF_ERROR(problems.ToStatus());
  return resolved;
}

std::string CanonicalBytes(const v1::JobSpec& spec) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  spec.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

}  // namespace thaw
