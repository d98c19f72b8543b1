#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/spec/spec.h"
#include "common/spec/spec_problems.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace thaw {
namespace {

constexpr int kDefaultMaxLength = 256;
constexpr absl::string_view kModelTypes[] = {"bert"};

const v1::Artifact* Find(const SpecContext& context, const std::string& id) {
  const auto it = context.artifacts.find(id);
  return it == context.artifacts.end() ? nullptr : &it->second;
}

template <typename Message, typename Value>
void SetDefault(Message* message, bool (Message::*has)() const, void (Message::*set)(Value),
                Value value) {
  if (!(message->*has)()) (message->*set)(value);
}

void FillSchedule(v1::Schedule* schedule) {
  if (schedule->shape() == v1::Schedule::SHAPE_UNSPECIFIED) {
    schedule->set_shape(v1::Schedule::CONSTANT);
  }
  if (schedule->shape() != v1::Schedule::SLANTED_TRIANGULAR) return;
  SetDefault(schedule, &v1::Schedule::has_cut_fraction, &v1::Schedule::set_cut_fraction, 0.1);
  SetDefault(schedule, &v1::Schedule::has_ratio, &v1::Schedule::set_ratio, 32.0);
}

void FillPhase(int number, v1::Phase* phase) {
  if (phase->name().empty()) phase->set_name(absl::StrCat("phase ", number));
  SetDefault(phase, &v1::Phase::has_learning_rate_decay, &v1::Phase::set_learning_rate_decay, 1.0);
  FillSchedule(phase->mutable_schedule());
  if (phase->has_plateau() && phase->plateau().patience() == 0) {
    phase->mutable_plateau()->set_patience(2);
  }
  if (phase->optimizer_state() == v1::OPTIMIZER_STATE_UNSPECIFIED) {
    phase->set_optimizer_state(v1::KEEP);
  }
}

int DefaultMaxLength(const v1::Artifact* model) {
  const int positions = model == nullptr ? 0 : model->model().max_positions();
  return positions > 0 ? std::min(kDefaultMaxLength, positions) : kDefaultMaxLength;
}

// TextClassification and Classify name their columns alike.
template <typename Task>
void FillColumns(Task* task) {
  if (task->text_column().empty()) task->set_text_column("text");
  if (task->label_column().empty()) task->set_label_column("label");
}

void FillTraining(const v1::Artifact* model, v1::Training* training) {
  if (training->validation_case() == v1::Training::VALIDATION_NOT_SET) {
    training->set_validation_fraction(0.1);
  }
  if (training->has_text_classification()) {
    FillColumns(training->mutable_text_classification());
  }
  for (int i = 0; i < training->phases_size(); ++i) FillPhase(i + 1, training->mutable_phases(i));
  v1::Optimizer* optimizer = training->mutable_optimizer();
  SetDefault(optimizer, &v1::Optimizer::has_beta1, &v1::Optimizer::set_beta1, 0.9);
  SetDefault(optimizer, &v1::Optimizer::has_beta2, &v1::Optimizer::set_beta2, 0.999);
  SetDefault(optimizer, &v1::Optimizer::has_epsilon, &v1::Optimizer::set_epsilon, 1e-8);
  SetDefault(optimizer, &v1::Optimizer::has_weight_decay, &v1::Optimizer::set_weight_decay, 0.01);
  v1::Batch* batch = training->mutable_batch();
  if (batch->examples_per_step() == 0) batch->set_examples_per_step(16);
  if (batch->tokens_per_micro_step() == 0) batch->set_tokens_per_micro_step(2048);
  if (training->max_length() == 0) training->set_max_length(DefaultMaxLength(model));
  SetDefault(training, &v1::Training::has_seed, &v1::Training::set_seed, uint64_t{42});
  SetDefault(training, &v1::Training::has_max_grad_norm, &v1::Training::set_max_grad_norm, 1.0);
  v1::Evaluation* evaluation = training->mutable_evaluation();
  if (evaluation->metric() == v1::Evaluation::METRIC_UNSPECIFIED) {
    evaluation->set_metric(v1::Evaluation::ACCURACY);
  }
  SetDefault(evaluation, &v1::Evaluation::has_every_epochs, &v1::Evaluation::set_every_epochs, 1.0);
  SetDefault(evaluation, &v1::Evaluation::has_keep_best, &v1::Evaluation::set_keep_best, true);
  if (training->checkpoint().every_steps() == 0)
    training->mutable_checkpoint()->set_every_steps(200);
}

v1::JobSpec WithDefaults(const v1::JobSpec& spec, const SpecContext& context) {
  v1::JobSpec filled = spec;
  if (filled.has_training()) {
    FillTraining(Find(context, filled.base_model()), filled.mutable_training());
  } else if (filled.has_prediction()) {
    v1::Prediction* prediction = filled.mutable_prediction();
    if (prediction->has_classify()) FillColumns(prediction->mutable_classify());
    if (prediction->max_length() == 0) {
      prediction->set_max_length(DefaultMaxLength(Find(context, prediction->model())));
    }
  }
  if (filled.resources().device_count() == 0) filled.mutable_resources()->set_device_count(1);
  v1::RetryLimits* limits = filled.mutable_retry_limits();
  SetDefault(limits, &v1::RetryLimits::has_crashes, &v1::RetryLimits::set_crashes, 3);
  SetDefault(limits, &v1::RetryLimits::has_out_of_memory, &v1::RetryLimits::set_out_of_memory, 1);
  SetDefault(limits, &v1::RetryLimits::has_losses_in_a_row, &v1::RetryLimits::set_losses_in_a_row,
             5);
  return filled;
}

// Null, with the reason noted, unless the artifact is there, of one of these kinds and ready.
const v1::Artifact* FindReady(absl::string_view field, const std::string& id,
                              const std::set<v1::Artifact::Kind>& kinds, absl::string_view wanted,
                              const SpecContext& context, SpecProblems* problems) {
  if (id.empty()) return nullptr;  // noted by ValidateSpec where it is required
  const v1::Artifact* artifact = Find(context, id);
  if (artifact == nullptr) {
    problems->Add(field, absl::StrCat("\"", id, "\" does not exist; give the id of ", wanted));
    return nullptr;
  }
  if (kinds.count(artifact->kind()) == 0) {
    problems->Add(field,
                  absl::StrCat("\"", id, "\" is a ", v1::Artifact::Kind_Name(artifact->kind()),
                               "; give the id of ", wanted));
    return nullptr;
  }
  if (artifact->state() == v1::Artifact::READY) return artifact;
  if (artifact->state() == v1::Artifact::REJECTED) {
    problems->Add(field, absl::StrCat("\"", id, "\" cannot be used: ", artifact->state_reason(),
                                      "; upload it again once that is mended"));
  } else {
    problems->Add(field, absl::StrCat("\"", id,
                                      "\" is still being read through; submit again when "
                                      "its state is READY"));
  }
  return nullptr;
}

void CheckModel(absl::string_view field, const v1::Artifact& model, SpecProblems* problems) {
  const std::string& type = model.model().model_type();
  if (std::find(std::begin(kModelTypes), std::end(kModelTypes), type) == std::end(kModelTypes)) {
    problems->Add(field, absl::StrCat("\"", model.id(), "\" is of type \"", type,
                                      "\"; known types: ", absl::StrJoin(kModelTypes, ", ")));
  }
}

void CheckMaxLength(absl::string_view field, int max_length, const v1::Artifact& model,
                    SpecProblems* problems) {
  const int positions = model.model().max_positions();
  if (positions > 0 && max_length > positions) {
    problems->Add(field, absl::StrCat(max_length, " tokens; the model has ", positions,
                                      " positions, so give at most ", positions));
  }
}

void CheckColumn(absl::string_view field, absl::string_view asked, absl::string_view found,
                 const std::string& dataset, SpecProblems* problems) {
  if (found.empty() || asked == found) return;
  problems->Add(field, absl::StrCat("\"", asked, "\"; \"", dataset,
                                    "\" was uploaded with column \"", found, "\", so give that"));
}

template <typename Task>
void CheckColumns(absl::string_view field, const Task& task, const v1::Artifact& dataset,
                  SpecProblems* problems) {
  CheckColumn(absl::StrCat(field, ".text_column"), task.text_column(),
              dataset.dataset().text_column(), dataset.id(), problems);
  if (dataset.dataset().labels_size() == 0) return;
  CheckColumn(absl::StrCat(field, ".label_column"), task.label_column(),
              dataset.dataset().label_column(), dataset.id(), problems);
}

void CheckLabelled(absl::string_view field, const v1::Artifact& dataset, SpecProblems* problems) {
  const v1::DatasetSummary& summary = dataset.dataset();
  if (summary.unlabelled_rows() == 0) return;
  problems->Add(field,
                absl::StrCat("\"", dataset.id(), "\" has ", summary.unlabelled_rows(), " of ",
                             summary.rows(), " rows without a label; give every row one"));
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

void CheckPhases(const v1::Training& training, const v1::Artifact* model, int64_t rows,
                 SpecProblems* problems) {
  for (int i = 0; i < training.phases_size(); ++i) {
    const v1::Phase& phase = training.phases(i);
    const std::string field = absl::StrCat("spec.training.phases[", i, "]");
    if (model != nullptr && phase.selector().last_blocks() > model->model().blocks()) {
      problems->Add(absl::StrCat(field, ".selector.last_blocks"),
                    absl::StrCat(phase.selector().last_blocks(), " blocks; the model has ",
                                 model->model().blocks(), ", so give at most that, or everything"));
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

void CheckTraining(const v1::JobSpec& spec, const SpecContext& context, SpecProblems* problems) {
  const v1::Training& training = spec.training();
  const v1::Artifact* model =
      FindReady("spec.base_model", spec.base_model(), {v1::Artifact::MODEL, v1::Artifact::RESULT},
                "a model or a result", context, problems);
  if (model != nullptr) {
    CheckModel("spec.base_model", *model, problems);
    CheckMaxLength("spec.training.max_length", training.max_length(), *model, problems);
  }
  const v1::Artifact* dataset = FindReady("spec.training.dataset", training.dataset(),
                                          {v1::Artifact::DATASET}, "a dataset", context, problems);
  CheckPhases(training, model, dataset == nullptr ? 0 : dataset->dataset().rows(), problems);
  if (dataset == nullptr) return;
  const std::string task = "spec.training.text_classification";
  CheckColumns(task, training.text_classification(), *dataset, problems);
  CheckLabelled("spec.training.dataset", *dataset, problems);
  if (dataset->dataset().unlabelled_rows() == 0 && dataset->dataset().labels_size() < 2) {
    problems->Add("spec.training.dataset",
                  absl::StrCat("\"", dataset->id(), "\" has ", dataset->dataset().labels_size(),
                               " labels; a classifier needs rows of at least 2"));
  }
  if (training.has_validation_dataset()) {
    const std::string field = "spec.training.validation_dataset";
    const v1::Artifact* validation =
        FindReady(field, training.validation_dataset(), {v1::Artifact::DATASET}, "a dataset",
                  context, problems);
    if (validation == nullptr) return;
    CheckColumns(task, training.text_classification(), *validation, problems);
    CheckLabelled(field, *validation, problems);
    std::set<std::string> known;
    for (const v1::LabelCount& count : dataset->dataset().labels()) known.insert(count.label());
    const std::string unknown = UnknownLabels(*validation, known);
    if (!unknown.empty()) {
      problems->Add(field, absl::StrCat("\"", validation->id(),
                                        "\" has labels that the training "
                                        "dataset lacks: ",
                                        unknown, "; remove those rows"));
    }
  } else if (training.validation_fraction() > 0 &&
             training.validation_fraction() * static_cast<double>(dataset->dataset().rows()) < 1) {
    problems->Add("spec.training.validation_fraction",
                  absl::StrCat(training.validation_fraction(), " of ", dataset->dataset().rows(),
                               " rows keeps none back; give more, or 0 for no evaluation"));
  }
}

void CheckPrediction(const v1::Prediction& prediction, const SpecContext& context,
                     SpecProblems* problems) {
  const v1::Artifact* model = FindReady("spec.prediction.model", prediction.model(),
                                        {v1::Artifact::MODEL, v1::Artifact::RESULT},
                                        "a result, or of a model with labels", context, problems);
  if (model != nullptr) {
    CheckModel("spec.prediction.model", *model, problems);
    CheckMaxLength("spec.prediction.max_length", prediction.max_length(), *model, problems);
    if (model->model().labels_size() == 0) {
      problems->Add("spec.prediction.model",
                    absl::StrCat("\"", model->id(),
                                 "\" has no labels and so cannot classify; train "
                                 "it first and give the id of the result"));
    }
  }
  if (!prediction.has_dataset()) return;
  const v1::Artifact* dataset = FindReady("spec.prediction.dataset", prediction.dataset(),
                                          {v1::Artifact::DATASET}, "a dataset", context, problems);
  if (dataset == nullptr) return;
  CheckColumns("spec.prediction.classify", prediction.classify(), *dataset, problems);
  if (model == nullptr || model->model().labels_size() == 0) return;
  const std::set<std::string> known(model->model().labels().begin(), model->model().labels().end());
  const std::string unknown = UnknownLabels(*dataset, known);
  if (!unknown.empty()) {
    problems->Add("spec.prediction.dataset",
                  absl::StrCat("\"", dataset->id(), "\" has labels that the model lacks: ", unknown,
                               "; upload it without its label column"));
  }
}

}  // namespace

std::vector<SpecReference> ReferencesOf(const v1::JobSpec& spec) {
  std::vector<SpecReference> references = {
      {"spec.base_model", spec.base_model()},
      {"spec.training.dataset", spec.training().dataset()},
      {"spec.training.validation_dataset", spec.training().validation_dataset()},
      {"spec.prediction.model", spec.prediction().model()},
      {"spec.prediction.dataset", spec.prediction().dataset()}};
  references.erase(std::remove_if(references.begin(), references.end(),
                                  [](const SpecReference& r) { return r.id.empty(); }),
                   references.end());
  return references;
}

absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const SpecContext& context) {
  SpecProblems problems;
  ValidateWholeSpec(spec, &problems);
  v1::JobSpec resolved = WithDefaults(spec, context);
  if (resolved.has_training()) {
    CheckTraining(resolved, context, &problems);
  } else if (resolved.has_prediction()) {
    CheckPrediction(resolved.prediction(), context, &problems);
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
