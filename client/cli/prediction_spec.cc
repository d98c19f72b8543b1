#include "client/cli/prediction_spec.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/output.h"
#include "client/cli/task_names.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/spec/model_abilities.h"

namespace thaw {
namespace {

using Summary = v1::ModelSummary;

// A model, or a training that has not ended.
struct ChosenModel {
  std::string id;
  Summary::Head head;
};

absl::StatusOr<ChosenModel> ChooseModel(const Session& session, const std::string& name) {
  const absl::StatusOr<v1::Artifact> model = FindModel(session, name);
  if (model.ok()) {
    // Results from before there were heads have labels at least.
    const bool unknown = model->model().model_type().empty();
    return ChosenModel{model->id(), unknown ? Summary::CLASSIFIER : HeadOf(model->model())};
  }
  if (!absl::IsFailedPrecondition(model.status())) return model.status();
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, name));
  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().GetJob(id));
  const v1::JobSpec& spec = job.has_resolved_spec() ? job.resolved_spec() : job.spec();
  if (job.done() || !spec.has_training()) return model.status();
  return ChosenModel{id, HeadAfter(spec.training())};
}

// A flag that belongs to one task.
struct TaskFlag {
  const char* name;
  bool given;
};

std::vector<TaskFlag> GenerateFlags(const PredictOptions& options) {
  return {{"--max_new_tokens", options.max_new_tokens != 0},
          {"--temperature", options.temperature >= 0},
          {"--top_k", options.top_k != 0},
          {"--top_p", options.top_p >= 0},
          {"--min_p", options.min_p != 0},
          {"--repetition_penalty", options.repetition_penalty != 0},
          {"--stop", !options.stop.empty()},
          {"--seed", options.seed >= 0},
          {"--ignore_end", options.ignore_end},
          {"--chat", options.chat}};
}

absl::Status RefuseFlags(const std::vector<TaskFlag>& flags, absl::string_view task) {
  for (const TaskFlag& flag : flags) {
    if (!flag.given) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flag.name, " belongs to --", task, "; give that too, or leave it out"));
  }
  return absl::OkStatus();
}

absl::Status SetTask(const PredictOptions& options, Summary::Head head,
                     v1::Prediction* prediction) {
  if (options.embed + options.score + options.generate > 1) {
    return absl::InvalidArgumentError("give one of --embed, --score and --generate");
  }
  if (options.generate) {
    prediction->mutable_generate();
  } else if (options.score) {
    prediction->mutable_score();
  } else if (options.embed) {
    prediction->mutable_embed();
  } else if (head == Summary::LANGUAGE_MODEL || head == Summary::SEQUENCE_TO_SEQUENCE) {
    prediction->mutable_generate();
  } else if (head == Summary::NONE) {
    prediction->mutable_embed();
  } else {
    prediction->mutable_classify();
  }
  if (!prediction->has_generate()) {
    THAW_RETURN_IF_ERROR(RefuseFlags(GenerateFlags(options), "generate"));
  }
  if (!prediction->has_score()) {
    THAW_RETURN_IF_ERROR(RefuseFlags(
        {{"--completion", !options.completion.empty()}, {"--per_token", options.per_token}},
        "score"));
  }
  if (!prediction->has_embed()) {
    return RefuseFlags(
        {{"--pooling", !options.pooling.empty()}, {"--no_normalize", options.no_normalize}},
        "embed");
  }
  return absl::OkStatus();
}

absl::Status FillTask(const Session& session, const PredictOptions& options,
                      v1::Prediction* prediction) {
  if (prediction->has_generate()) {
    v1::Generate* generate = prediction->mutable_generate();
    generate->set_max_new_tokens(options.max_new_tokens);
    if (options.temperature > 0) generate->set_temperature(options.temperature);
    generate->set_top_k(options.top_k);
    if (options.top_p >= 0) generate->set_top_p(options.top_p);
    generate->set_min_p(options.min_p);
    if (options.repetition_penalty != 0) {
      generate->set_repetition_penalty(options.repetition_penalty);
    }
    for (const std::string& stop : options.stop) generate->add_stop(stop);
    if (options.seed >= 0) generate->set_seed(static_cast<uint64_t>(options.seed));
    generate->set_ignore_end(options.ignore_end);
  } else if (prediction->has_score()) {
    prediction->mutable_score()->set_per_token(options.per_token);
  } else if (prediction->has_embed()) {
    if (options.no_normalize) prediction->mutable_embed()->set_normalize(false);
    THAW_ASSIGN_OR_RETURN(const v1::Embed::Pooling pooling, ParsePooling(options.pooling));
    prediction->mutable_embed()->set_pooling(pooling);
  } else {
    for (const std::string& name : options.average_with) {
      THAW_ASSIGN_OR_RETURN(const v1::Artifact model, FindModel(session, name));
      prediction->mutable_classify()->add_average_with(model.id());
    }
    return absl::OkStatus();
  }
  return RefuseFlags({{"--average_with", !options.average_with.empty()}}, "model with labels");
}

void UseText(const PredictOptions& options, const std::string& text, v1::Prediction* prediction) {
  if (options.chat) {
    v1::ChatMessage* message = prediction->mutable_examples()->add_values()->add_messages();
    message->set_role("user");
    message->set_content(text);
  } else if (!options.completion.empty()) {
    v1::InlineExample* example = prediction->mutable_examples()->add_values();
    example->set_prompt(text);
    example->set_completion(options.completion);
  } else {
    prediction->mutable_texts()->add_values(text);
  }
}

void UseDataset(const v1::Artifact& dataset, v1::Prediction* prediction) {
  prediction->set_dataset(dataset.id());
  if (!prediction->has_classify()) return;  // the server takes the dataset's own columns
  v1::Classify* classify = prediction->mutable_classify();
  classify->set_text_column(dataset.dataset().text_column());
  classify->set_text_pair_column(dataset.dataset().text_pair_column());
  classify->set_label_column(dataset.dataset().label_column());
}

// What a JSON Lines file given to a prediction most likely holds.
v1::DatasetColumns ColumnsFor(const PredictOptions& options, const v1::Prediction& prediction) {
  v1::DatasetColumns columns;
  const bool texts = prediction.has_classify() || prediction.has_embed();
  if (texts) {
    columns.set_label_column(options.label_column);
  } else if (!options.text_column.empty()) {
    columns.set_task(v1::DatasetSummary::LANGUAGE_MODELING);
  } else {
    columns.set_task(v1::DatasetSummary::COMPLETION);
    return columns;
  }
  columns.set_text_column(options.text_column);
  return columns;
}

absl::Status UseFile(const Session& session, const PredictOptions& options,
                     v1::Prediction* prediction) {
  if (absl::EndsWith(options.file, ".jsonl")) {
    ImportRequest request;
    request.kind = v1::Artifact::DATASET;
    request.display_name = options.file.substr(options.file.rfind('/') + 1);
    request.files = {{options.file, "data.jsonl"}};
    request.columns = ColumnsFor(options, *prediction);
    THAW_ASSIGN_OR_RETURN(
        const v1::Artifact dataset,
        session.client->artifacts().Import(request, ShowTransfer(session.console, "uploading")));
    session.console->ClearStatus();
    if (dataset.state() != v1::Artifact::READY) {
      return absl::InvalidArgumentError(absl::StrCat(options.file,
                                                     " cannot be used: ", dataset.state_reason(),
                                                     "; thaw dataset import shows every bad line"));
    }
    UseDataset(dataset, prediction);
    return absl::OkStatus();
  }
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.file));
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    UseText(options, std::string(absl::StripSuffix(line, "\r")), prediction);
  }
  return absl::OkStatus();
}

absl::Status ChooseInput(const Session& session, const PredictOptions& options,
                         v1::Prediction* prediction) {
  const int given = (options.texts.empty() ? 0 : 1) + (options.file.empty() ? 0 : 1) +
                    (options.data.empty() ? 0 : 1);
  if (given != 1) {
    return absl::InvalidArgumentError("give texts, --file or --data, and only one of them");
  }
  if (!options.file.empty()) return UseFile(session, options, prediction);
  if (!options.data.empty()) {
    THAW_ASSIGN_OR_RETURN(const v1::Artifact dataset,
                          session.client->artifacts().Find(v1::Artifact::DATASET, options.data));
    UseDataset(dataset, prediction);
    return absl::OkStatus();
  }
  for (const std::string& text : options.texts) UseText(options, text, prediction);
  return absl::OkStatus();
}

}  // namespace

absl::Status WritePrediction(const Session& session, const PredictOptions& options,
                             v1::Prediction* prediction) {
  prediction->set_max_length(options.max_length);
  THAW_ASSIGN_OR_RETURN(const ChosenModel model, ChooseModel(session, options.model));
  prediction->set_model(model.id);
  if (!options.precision.empty()) {
    THAW_ASSIGN_OR_RETURN(const v1::Precision precision, ParsePrecision(options.precision));
    prediction->set_precision(precision);
  }
  if (!options.weights.empty()) {
    v1::Prediction::Weights weights;
    if (!v1::Prediction::Weights_Parse(absl::AsciiStrToUpper(options.weights), &weights)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--weights \"", options.weights, "\" is not known; give last or best"));
    }
    prediction->set_weights(weights);
  }
  THAW_RETURN_IF_ERROR(SetTask(options, model.head, prediction));
  THAW_RETURN_IF_ERROR(FillTask(session, options, prediction));
  return ChooseInput(session, options, prediction);
}

}  // namespace thaw
