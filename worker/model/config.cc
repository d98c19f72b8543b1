#include "worker/model/config.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/spec/named_head.h"
#include "worker/model/config_fields.h"
#include "worker/model/family.h"

namespace thaw {
namespace {

using nlohmann::json;

std::vector<std::string> ReadLabels(ConfigFields& fields) {
  const json* names = fields.Find("id2label");
  const int64_t named = names == nullptr ? 2 : static_cast<int64_t>(names->size());
  const int64_t count = fields.Size("num_labels", 1, named);
  std::vector<std::string> labels;
  if (names == nullptr) {
    for (int64_t i = 0; i < count; ++i) labels.push_back(absl::StrCat("LABEL_", i));
    return labels;
  }
  if (!names->is_object() || names->empty()) {
    fields.Fail("id2label", absl::StrCat("expected an object, found ", ShownJson(*names)));
    return labels;
  }
  if (count != named) {
    fields.Fail("num_labels", absl::StrCat("id2label names ", named, " labels, found ", count));
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < names->size(); ++i) {
    const auto it = names->find(absl::StrCat(i));
    if (it == names->end() || !it->is_string()) {
      fields.Fail("id2label", absl::StrCat("expected a string for each of 0 to ", names->size() - 1,
                                           ", found none for ", i));
      return labels;
    }
    labels.push_back(it->get<std::string>());
    if (!seen.insert(labels.back()).second) {
      fields.Fail("id2label", absl::StrCat("label \"", labels.back(), "\" stands for two ids"));
    }
  }
  if (const json* ids = fields.Find("label2id"); ids != nullptr) {
    for (size_t i = 0; i < labels.size(); ++i) {
      const auto it = ids->is_object() ? ids->find(labels[i]) : ids->end();
      if (it != ids->end() && *it == i) continue;
      fields.Fail("label2id",
                  absl::StrCat("contradicts id2label, which gives ", i, " to \"", labels[i], "\""));
    }
  }
  return labels;
}

ProblemType ReadProblem(ConfigFields& fields, size_t labels) {
  const std::string name =
      fields.Text("problem_type", labels == 1 ? "regression" : "single_label_classification");
  if (name == "single_label_classification") return ProblemType::kSingleLabel;
  if (name == "multi_label_classification") return ProblemType::kMultiLabel;
  if (name != "regression") {
    fields.Fail("problem_type", absl::StrCat("\"", name,
                                             "\" is not supported, only single_label_classification"
                                             ", multi_label_classification and regression"));
  }
  return ProblemType::kRegression;
}

const char* ProblemName(ProblemType problem) {
  switch (problem) {
    case ProblemType::kSingleLabel:
      return "single_label_classification";
    case ProblemType::kMultiLabel:
      return "multi_label_classification";
    case ProblemType::kRegression:
      return "regression";
  }
  return "";
}

HeadKind ReadHead(ConfigFields& fields) {
  const json* names = fields.Find("architectures");
  if (names == nullptr || !names->is_array() || names->empty() || !names->front().is_string()) {
    return HeadKind::kNone;
  }
  switch (HeadOfClass(names->front().get<std::string>())) {
    case NamedHead::kClassifier:
      return HeadKind::kClassifier;
    case NamedHead::kLanguageModel:
      return HeadKind::kLanguageModel;
    case NamedHead::kNone:
      break;
  }
  return HeadKind::kNone;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text) {
  auto source = ParseJson(json_text);
  if (!source.ok()) return Annotate(source.status(), "config.json");
  if (!source->is_object()) {
    return absl::InvalidArgumentError("config.json: expected an object at the top");
  }
  ConfigFields fields(*source);
  const std::string model_type = fields.Text("model_type", "");
  THAW_RETURN_IF_ERROR(fields.status());
  const Family* family = FindFamily(model_type);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("config.json: model_type \"", model_type,
                                                 "\" is not supported, only ",
                                                 SupportedFamilies()));
  }
  ModelConfig config;
  config.model_type = model_type;
  config.initializer_range = fields.Real("initializer_range", 0, 10, 0.02);
  config.ties_output = fields.Flag("tie_word_embeddings", true);
  config.head = ReadHead(fields);
  if (const json* pooled = fields.Find(kPooledHeadField)) {
    THAW_ASSIGN_OR_RETURN(config.pooled, ParsePooledHead(*pooled));
    config.head = HeadKind::kClassifier;
  }
  if (const json* quantised = fields.Find(kQuantisationField)) {
    THAW_ASSIGN_OR_RETURN(config.nf4, ParseQuantisation(*quantised));
  }
  config.labels = ReadLabels(fields);
  config.problem = ReadProblem(fields, config.labels.size());
  family->read(fields, &config);
  fields.RefuseUnread();
  THAW_RETURN_IF_ERROR(fields.status());
  config.source = *std::move(source);
  return config;
}

std::string ResultConfigJson(const ModelConfig& config, absl::string_view element_type) {
  json out = config.source;
  const Family* family = FindFamily(config.model_type);
  out.erase(kPooledHeadField);
  switch (config.head) {
    case HeadKind::kNone:
      break;
    case HeadKind::kLanguageModel:
      out["architectures"] = {family->language_model_class};
      break;
    case HeadKind::kClassifier:
      if (config.pooled) {
        // No class of transformers has such a head.
        out.erase("architectures");
        out[kPooledHeadField] = PooledHeadJson(*config.pooled);
      } else {
        out["architectures"] = {family->classifier_class};
      }
      out["problem_type"] = ProblemName(config.problem);
      out["id2label"] = json::object();
      out["label2id"] = json::object();
      for (size_t i = 0; i < config.labels.size(); ++i) {
        out["id2label"][absl::StrCat(i)] = config.labels[i];
        out["label2id"][config.labels[i]] = i;
      }
      out.erase("num_labels");
      break;
  }
  if (!element_type.empty()) {
    out[out.contains("torch_dtype") ? "torch_dtype" : "dtype"] = std::string(element_type);
  }
  return out.dump(2) + "\n";
}

}  // namespace thaw
