#include "worker/model/config.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace thaw {
namespace {

using nlohmann::json;

std::string Shown(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 80);
}

// Reads one field after the other and remembers the first that is wrong.
class FieldReader {
 public:
  explicit FieldReader(const json& source) : source_(source) {}

  const absl::Status& status() const { return status_; }

  void Fail(absl::string_view field, absl::string_view description) {
    if (status_.ok()) status_ = InvalidField(field, absl::StrCat("config.json: ", description));
  }

  // nullptr where the field is missing or null.
  const json* Find(const char* field) const {
    const auto it = source_.find(field);
    return it == source_.end() || it->is_null() ? nullptr : &*it;
  }

  int64_t Size(const char* field, int64_t smallest, const int64_t* otherwise = nullptr) {
    const json* value = Find(field);
    if (value == nullptr && otherwise != nullptr) return *otherwise;
    constexpr int64_t kLargest = int64_t{1} << 26;
    if (value == nullptr) {
      Fail(field, absl::StrCat("\"", field, "\" is missing"));
    } else if (!value->is_number_integer() || *value < smallest || *value > kLargest) {
      Fail(field, absl::StrCat("expected a whole number from ", smallest, " to ", kLargest,
                               ", found ", Shown(*value)));
    } else {
      return value->get<int64_t>();
    }
    return smallest;
  }

  double Real(const char* field, double low, double high, double otherwise) {
    const json* value = Find(field);
    if (value == nullptr) return otherwise;
    if (value->is_number() && *value >= low && *value < high) return value->get<double>();
    Fail(field,
         absl::StrCat("expected a number in [", low, ", ", high, "), found ", Shown(*value)));
    return otherwise;
  }

  std::string Text(const char* field, const char* otherwise) {
    const json* value = Find(field);
    if (value == nullptr) return otherwise;
    if (value->is_string()) return value->get<std::string>();
    Fail(field, absl::StrCat("expected a string, found ", Shown(*value)));
    return otherwise;
  }

  // Refuses what we would have to compute differently for.
  void Only(const char* field, const json& supported) {
    const json* value = Find(field);
    if (value != nullptr && *value != supported) {
      Fail(field, absl::StrCat(Shown(*value), " is not supported, only ", Shown(supported)));
    }
  }

 private:
  const json& source_;
  absl::Status status_;
};

Activation ReadActivation(FieldReader& reader) {
  const std::string name = reader.Text("hidden_act", "gelu");
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  reader.Fail("hidden_act", absl::StrCat("\"", name,
                                         "\" is not supported, only gelu, gelu_new, "
                                         "gelu_pytorch_tanh and relu"));
  return Activation::kGelu;
}

std::vector<std::string> ReadLabels(FieldReader& reader) {
  const json* names = reader.Find("id2label");
  const int64_t two = 2;
  const int64_t named = names == nullptr ? two : static_cast<int64_t>(names->size());
  const int64_t count = reader.Size("num_labels", 1, &named);
  std::vector<std::string> labels;
  if (names == nullptr) {
    for (int64_t i = 0; i < count; ++i) labels.push_back(absl::StrCat("LABEL_", i));
    return labels;
  }
  if (!names->is_object() || names->empty()) {
    reader.Fail("id2label", absl::StrCat("expected an object, found ", Shown(*names)));
    return labels;
  }
  if (count != named) {
    reader.Fail("num_labels", absl::StrCat("id2label names ", named, " labels, found ", count));
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < names->size(); ++i) {
    const auto it = names->find(absl::StrCat(i));
    if (it == names->end() || !it->is_string()) {
      reader.Fail("id2label", absl::StrCat("expected a string for each of 0 to ", names->size() - 1,
                                           ", found none for ", i));
      return labels;
    }
    labels.push_back(it->get<std::string>());
    if (!seen.insert(labels.back()).second) {
      reader.Fail("id2label", absl::StrCat("label \"", labels.back(), "\" stands for two ids"));
    }
  }
  if (const json* ids = reader.Find("label2id"); ids != nullptr) {
    for (size_t i = 0; i < labels.size(); ++i) {
      const auto it = ids->is_object() ? ids->find(labels[i]) : ids->end();
      if (it != ids->end() && *it == i) continue;
      reader.Fail("label2id",
                  absl::StrCat("contradicts id2label, which gives ", i, " to \"", labels[i], "\""));
    }
  }
  return labels;
}

ProblemType ReadProblem(FieldReader& reader, size_t labels) {
  const std::string name =
      reader.Text("problem_type", labels == 1 ? "regression" : "single_label_classification");
  if (name == "single_label_classification") return ProblemType::kSingleLabel;
  if (name == "multi_label_classification") return ProblemType::kMultiLabel;
  if (name != "regression") {
    reader.Fail("problem_type", absl::StrCat("\"", name,
                                             "\" is not supported, only single_label_classification"
                                             ", multi_label_classification and regression"));
  }
  return ProblemType::kRegression;
}

ModelConfig ReadBert(FieldReader& reader) {
  ModelConfig config;
  config.vocab_size = reader.Size("vocab_size", 1);
  config.hidden_size = reader.Size("hidden_size", 1);
  config.num_layers = reader.Size("num_hidden_layers", 1);
  config.num_heads = reader.Size("num_attention_heads", 1);
  config.intermediate_size = reader.Size("intermediate_size", 1);
  config.max_positions = reader.Size("max_position_embeddings", 1);
  const int64_t two = 2, zero = 0;
  config.type_vocab_size = reader.Size("type_vocab_size", 1, &two);
  config.pad_token_id = reader.Size("pad_token_id", 0, &zero);
  config.activation = ReadActivation(reader);
  config.norm_epsilon = reader.Real("layer_norm_eps", 0, 1, 1e-12);
  config.hidden_dropout = reader.Real("hidden_dropout_prob", 0, 1, 0.1);
  config.attention_dropout = reader.Real("attention_probs_dropout_prob", 0, 1, 0.1);
  config.classifier_dropout = reader.Real("classifier_dropout", 0, 1, config.hidden_dropout);
  config.initializer_range = reader.Real("initializer_range", 0, 10, 0.02);
  reader.Only("position_embedding_type", "absolute");
  reader.Only("is_decoder", false);
  reader.Only("add_cross_attention", false);
  reader.Only("is_encoder_decoder", false);
  reader.Only("pruned_heads", json::object());
  if (reader.Find("quantization_config") != nullptr) {
    reader.Fail("quantization_config", "quantized weights are not supported");
  }
  if (config.hidden_size % config.num_heads != 0) {
    reader.Fail("num_attention_heads",
                absl::StrCat("expected a divisor of hidden_size ", config.hidden_size, ", found ",
                             config.num_heads));
  }
  return config;
}

// One line per architecture.
struct Family {
  const char* model_type;
  const char* classifier_class;  // of transformers
  ModelConfig (*read)(FieldReader&);
};
constexpr Family kFamilies[] = {{"bert", "BertForSequenceClassification", ReadBert}};

const Family* FindFamily(absl::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (model_type == family.model_type) return &family;
  }
  return nullptr;
}

std::string SupportedFamilies() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const Family& family) {
    out->append(family.model_type);
  });
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

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text) {
  auto source = ParseJson(json_text);
  if (!source.ok()) return Annotate(source.status(), "config.json");
  if (!source->is_object()) {
    return absl::InvalidArgumentError("config.json: expected an object at the top");
  }
  FieldReader reader(*source);
  const std::string model_type = reader.Text("model_type", "");
  THAW_RETURN_IF_ERROR(reader.status());
  const Family* family = FindFamily(model_type);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("config.json: model_type \"", model_type,
                                                 "\" is not supported, only ",
                                                 SupportedFamilies()));
  }
  ModelConfig config = family->read(reader);
  config.model_type = model_type;
  config.labels = ReadLabels(reader);
  config.problem = ReadProblem(reader, config.labels.size());
  THAW_RETURN_IF_ERROR(reader.status());
  config.source = *std::move(source);
  return config;
}

std::string ClassifierConfigJson(const ModelConfig& config) {
  json out = config.source;
  out["architectures"] = {FindFamily(config.model_type)->classifier_class};
  out["problem_type"] = ProblemName(config.problem);
  out["id2label"] = json::object();
  out["label2id"] = json::object();
  for (size_t i = 0; i < config.labels.size(); ++i) {
    out["id2label"][absl::StrCat(i)] = config.labels[i];
    out["label2id"][config.labels[i]] = i;
  }
  out.erase("num_labels");
  out[out.contains("torch_dtype") ? "torch_dtype" : "dtype"] = "float32";
  return out.dump(2) + "\n";
}

}  // namespace thaw
