#include "common/spec/ready_artifact.h"

#include "absl/strings/str_cat.h"
#include "common/spec/model_abilities.h"

namespace thaw {
namespace {

constexpr absl::string_view kModelField = "spec.prediction.model";

// The summary of the model that `training` makes of `base`.
v1::Artifact AfterTraining(const std::string& job, const v1::Artifact& base,
                           const v1::Training& training, const SpecContext& context) {
  v1::Artifact model = base;
  model.set_id(job);
  model.mutable_model()->set_head(HeadAfter(training));
  model.mutable_model()->clear_labels();
  const v1::Artifact* dataset = FindArtifact(context, training.dataset());
  if (dataset != nullptr && training.has_text_classification()) {
    for (const v1::LabelCount& count : dataset->dataset().labels()) {
      model.mutable_model()->add_labels(count.label());
    }
  }
  if (const v1::Artifact* tokenizer = FindArtifact(context, training.tokenizer())) {
    model.mutable_model()->set_chat_template(tokenizer->model().chat_template());
  }
  return model;
}

std::optional<v1::Artifact> ModelOfJob(const SpecContext& context, v1::Prediction* prediction,
                                       SpecProblems* problems) {
  const std::string id = prediction->model();
  const auto refuse = [&](absl::string_view why) {
    problems->Add(kModelField, absl::StrCat("\"", id, "\" ", why));
    return std::nullopt;
  };
  const auto found = context.jobs.find(id);
  if (found == context.jobs.end()) {
    return refuse("does not exist; give the id of a training, a result or a model");
  }
  const ModelJob& job = found->second;
  if (!job.resolved_spec.has_training()) {
    return refuse(absl::StrCat(job.resolved_spec.has_plan() ? "is a plan" : "is a prediction",
                               ", which leaves no model; give the id of a training or a model"));
  }
  if (!job.result.empty()) {
    prediction->set_model(job.result);
    prediction->clear_weights();
    prediction->clear_checkpoint();
    const v1::Artifact* result = FindModel(kModelField, job.result, context, problems);
    return result == nullptr ? std::nullopt : std::make_optional(*result);
  }
  if (job.state == v1::Job::FAILED || job.state == v1::Job::CANCELLED) {
    return refuse(absl::StrCat("has ended ", v1::Job::State_Name(job.state),
                               " and left no result; give the id of another training"));
  }
  if (job.checkpoint.empty()) {
    return refuse(
        absl::StrCat("has no checkpoint yet; wait for the first one (it writes one every ",
                     job.resolved_spec.training().checkpoint().every_steps(),
                     " steps), or pause the job, which writes one at once"));
  }
  const v1::Artifact* base = FindArtifact(context, job.resolved_spec.base_model());
  if (base == nullptr) return refuse("has a base model that you may not read; ask its owner");
  if (prediction->weights() == v1::Prediction::WEIGHTS_UNSPECIFIED) {
    prediction->set_weights(v1::Prediction::BEST);
  }
  prediction->set_checkpoint(job.checkpoint);
  return AfterTraining(id, *base, job.resolved_spec.training(), context);
}

}  // namespace

const v1::Artifact* FindArtifact(const SpecContext& context, const std::string& id) {
  const auto it = context.artifacts.find(id);
  return it == context.artifacts.end() ? nullptr : &it->second;
}

const v1::Artifact* FindReady(absl::string_view field, const std::string& id,
                              const std::set<v1::Artifact::Kind>& kinds, absl::string_view wanted,
                              const SpecContext& context, SpecProblems* problems) {
  if (id.empty()) return nullptr;  // noted by ValidateSpec where it is required
  const v1::Artifact* artifact = FindArtifact(context, id);
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

const v1::Artifact* FindModel(absl::string_view field, const std::string& id,
                              const SpecContext& context, SpecProblems* problems) {
  const v1::Artifact* model = FindReady(field, id, {v1::Artifact::MODEL, v1::Artifact::RESULT},
                                        "a model or a result", context, problems);
  if (model == nullptr) return nullptr;
  const std::string& type = model->model().model_type();
  if (ReadingOf(type) != Reading::kUnknown) return model;
  problems->Add(field, type.empty() ? absl::StrCat("\"", id,
                                                   "\" holds no model; give the id of a model, or "
                                                   "of the result of a training")
                                    : absl::StrCat("\"", id, "\" is of type \"", type,
                                                   "\"; known types: ", KnownModelTypes()));
  return nullptr;
}

std::optional<v1::Artifact> ResolveModel(const SpecContext& context, v1::Prediction* prediction,
                                         SpecProblems* problems) {
  if (IsJobId(prediction->model())) return ModelOfJob(context, prediction, problems);
  prediction->clear_checkpoint();
  const v1::Artifact* model = FindModel(kModelField, prediction->model(), context, problems);
  return model == nullptr ? std::nullopt : std::make_optional(*model);
}

}  // namespace thaw
