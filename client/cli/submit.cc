#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "client/cli/task_names.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "common/spec/preset_program.h"
#include "common/spec/spec.h"
#include "common/spec/spec_json.h"

namespace thaw {
namespace {

// Puts the ids of models and datasets in the place of names.
absl::Status ReplaceModel(const Session& session, std::string* reference) {
  if (reference->empty()) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact, FindModel(session, *reference));
  *reference = artifact.id();
  return absl::OkStatus();
}

// A training that has not ended stays what it is: the server takes its checkpoint.
absl::Status ReplacePredictionModel(const Session& session, std::string* reference) {
  return IsJobId(*reference) ? absl::OkStatus() : ReplaceModel(session, reference);
}

absl::Status ReplaceDataset(const Session& session, std::string* reference) {
  if (reference->empty()) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().Find(v1::Artifact::DATASET, *reference));
  *reference = artifact.id();
  return absl::OkStatus();
}

absl::Status ReplaceNames(const Session& session, v1::JobSpec* spec) {
  THAW_RETURN_IF_ERROR(ReplaceModel(session, spec->mutable_base_model()));
  if (v1::Training* training = TrainingOf(spec)) {
    THAW_RETURN_IF_ERROR(ReplaceDataset(session, training->mutable_dataset()));
    THAW_RETURN_IF_ERROR(ReplaceModel(session, training->mutable_tokenizer()));
    if (!training->has_validation_dataset()) return absl::OkStatus();
    return ReplaceDataset(session, training->mutable_validation_dataset());
  }
  if (!spec->has_prediction()) return absl::OkStatus();
  v1::Prediction* prediction = spec->mutable_prediction();
  THAW_RETURN_IF_ERROR(ReplacePredictionModel(session, prediction->mutable_model()));
  if (prediction->has_classify()) {
    for (std::string& model : *prediction->mutable_classify()->mutable_average_with()) {
      THAW_RETURN_IF_ERROR(ReplaceModel(session, &model));
    }
  }
  if (!prediction->has_dataset()) return absl::OkStatus();
  return ReplaceDataset(session, prediction->mutable_dataset());
}

// The options of the method features, each with whether it is given.
std::vector<std::pair<const char*, bool>> FeatureFlags(const SubmitOptions& options) {
  return {{"--pooling", !options.pooling.empty()},
          {"--layer", options.layer >= 0},
          {"--solver", !options.solver.empty()},
          {"--hidden", options.hidden != 0},
          {"--export_features", options.export_features}};
}

absl::Status ApplyFeatureOptions(const SubmitOptions& options, v1::Training* training) {
  const bool features = training->preset().name() == v1::Preset::FEATURES;
  for (const auto& [flag, given] : FeatureFlags(options)) {
    if (given && !features) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " belongs to --method features; leave it out"));
    }
  }
  if (!features) return absl::OkStatus();
  v1::PooledHead* head = training->mutable_pooled_head();
  THAW_ASSIGN_OR_RETURN(const v1::Embed::Pooling pooling, ParsePooling(options.pooling));
  head->set_pooling(pooling);
  if (options.layer >= 0) head->set_blocks(options.layer);
  head->set_hidden_size(options.hidden);
  head->set_export_features(options.export_features);
  if (options.solver.empty() || options.solver == "adamw") return absl::OkStatus();
  if (options.solver != "lbfgs") {
    return absl::InvalidArgumentError(
        absl::StrCat("--solver \"", options.solver, "\" is not known; give adamw or lbfgs"));
  }
  if (options.epochs > 0 || options.learning_rate > 0) {
    return absl::InvalidArgumentError(
        "--epochs and --learning_rate belong to --solver adamw; leave them out");
  }
  training->clear_preset();
  v1::Phase* phase = training->add_phases();
  phase->set_name("head");
  phase->mutable_selector()->set_head_only(true);
  phase->mutable_convergence();
  return absl::OkStatus();
}

// The spec behind --model, --data and --method.
absl::StatusOr<v1::JobSpec> WriteSpec(const Session& session, const SubmitOptions& options) {
  if (options.model.empty() || options.data.empty()) {
    return absl::InvalidArgumentError(
        "nothing to submit; give a JSON file, or --model, --data and --method");
  }
  THAW_ASSIGN_OR_RETURN(const v1::Preset::Name preset,
                        ParsePreset(options.method.empty() ? "gradual" : options.method));
  ArtifactClient& artifacts = session.client->artifacts();
  THAW_ASSIGN_OR_RETURN(const v1::Artifact model, FindModel(session, options.model));
  THAW_ASSIGN_OR_RETURN(const v1::Artifact data,
                        artifacts.Find(v1::Artifact::DATASET, options.data));
  v1::JobSpec spec;
  spec.set_base_model(model.id());
  v1::Training* training = spec.mutable_training();
  training->set_dataset(data.id());
  v1::DatasetSummary::Task task = data.dataset().task();
  if (!options.task.empty()) {
    THAW_ASSIGN_OR_RETURN(task, ParseTask(options.task));
  }
  SetTask(task, data.dataset(), training);
  if (options.per_document && !training->has_language_modeling()) {
    return absl::InvalidArgumentError("--per_document belongs to --task lm; leave it out");
  }
  if (options.per_document) {
    training->mutable_language_modeling()->set_layout(v1::LanguageModeling::PER_DOCUMENT);
  }
  training->mutable_preset()->set_name(preset);
  training->mutable_preset()->set_epochs(options.epochs);
  training->mutable_preset()->set_epochs_per_phase(options.epochs_per_phase);
  training->mutable_preset()->set_learning_rate(options.learning_rate);
  training->mutable_preset()->set_last_blocks(options.last_blocks);
  THAW_RETURN_IF_ERROR(ApplyFeatureOptions(options, training));
  return spec;
}

absl::StatusOr<v1::JobSpec> ReadSpec(const SubmitOptions& options) {
  if (!options.model.empty() || !options.data.empty() || !options.method.empty() ||
      !options.task.empty() || options.per_document || options.epochs != 0 ||
      options.epochs_per_phase != 0 || options.learning_rate != 0 || options.last_blocks != 0) {
    return absl::InvalidArgumentError(
        "--model, --data, --task, --method, --per_document, --epochs, --epochs_per_phase, "
        "--learning_rate and --last_blocks write a program, and a file has its own; change it in "
        "the file");
  }
  for (const auto& [flag, given] : FeatureFlags(options)) {
    if (!given) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " writes a program, and a file has its own; change it in the file"));
  }
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.spec_file));
  absl::StatusOr<v1::JobSpec> spec = ParseSpecJson(text);
  return spec.ok() ? spec : Annotate(spec.status(), options.spec_file);
}

absl::Status ApplyTrainingOptions(const Session& session, const SubmitOptions& options,
                                  v1::Training* training) {
  if (options.batch != 0) training->mutable_batch()->set_examples_per_step(options.batch);
  if (!options.tokenizer.empty()) training->set_tokenizer(options.tokenizer);
  if (options.max_length != 0) training->set_max_length(options.max_length);
  if (options.seed >= 0) training->set_seed(static_cast<uint64_t>(options.seed));
  if (options.validation_fraction >= 0) {
    training->set_validation_fraction(options.validation_fraction);
  }
  if (!options.validation.empty()) {
    THAW_ASSIGN_OR_RETURN(
        const v1::Artifact validation,
        session.client->artifacts().Find(v1::Artifact::DATASET, options.validation));
    training->set_validation_dataset(validation.id());
  }
  if (!options.precision.empty()) {
    THAW_ASSIGN_OR_RETURN(const v1::Precision precision, ParsePrecision(options.precision));
    training->set_precision(precision);
  }
  if (!options.metric.empty()) {
    v1::Evaluation::Metric metric;
    if (!v1::Evaluation::Metric_Parse(absl::AsciiStrToUpper(options.metric), &metric)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--metric \"", options.metric, "\" is not known; give one of ", MetricWords()));
    }
    training->mutable_evaluation()->set_metric(metric);
  }
  return absl::OkStatus();
}

absl::Status ApplyOptions(const Session& session, const SubmitOptions& options, v1::JobSpec* spec) {
  if (!options.name.empty()) spec->set_display_name(options.name);
  if (options.priority != 0) spec->set_priority(options.priority);
  for (const auto& [key, value] : options.labels) (*spec->mutable_labels())[key] = value;
  if (!options.device.empty()) {
    v1::Resources::DeviceKind kind;
    if (!v1::Resources::DeviceKind_Parse(absl::AsciiStrToUpper(options.device), &kind)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device \"", options.device, "\" is not known; give cpu or cuda"));
    }
    spec->mutable_resources()->set_device_kind(kind);
  }
  v1::Training* training = TrainingOf(spec);
  return training == nullptr ? absl::OkStatus() : ApplyTrainingOptions(session, options, training);
}

}  // namespace

absl::StatusOr<v1::JobSpec> SpecOf(const Session& session, const SubmitOptions& options) {
  THAW_ASSIGN_OR_RETURN(v1::JobSpec spec, options.spec_file.empty() ? WriteSpec(session, options)
                                                                    : ReadSpec(options));
  THAW_RETURN_IF_ERROR(ApplyOptions(session, options, &spec));
  THAW_RETURN_IF_ERROR(ReplaceNames(session, &spec));
  return spec;
}

ExitCode RunSubmit(const Session& session, const SubmitOptions& options) {
  THAW_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOf(session, options));
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(options.request_id);
  request.set_validate_only(options.validate_only);
  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().CreateJob(request));
  if (session.json) {
    if (!options.watch || options.validate_only) Print("%s\n", JsonLine(job).c_str());
  } else {
    if (const v1::Training* training = TrainingOf(job.resolved_spec())) {
      Print("%s\n", ProgramTable(*training).c_str());
    }
    if (options.validate_only) {
      Print("%s\nvalid; nothing was submitted\n", SpecToJson(job.resolved_spec()).c_str());
    } else if (!options.watch) {
      Print("%s  %s%s%s\n", job.id().c_str(), v1::Job::State_Name(job.state()).c_str(),
            job.state_reason().empty() ? "" : ": ", Printable(job.state_reason()).c_str());
    }
    std::fflush(stdout);
  }
  if (!options.watch || options.validate_only) return kExitOk;
  return FollowJob(session, job.id());
}

}  // namespace thaw
