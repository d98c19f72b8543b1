#include "server/artifacts/model_summary.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/clean_text.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/safetensors/safetensors.h"
#include "common/spec/model_abilities.h"
#include "common/spec/named_head.h"

namespace thaw {
namespace {

constexpr int64_t kMaxHeaderBytes = 64 << 20;
constexpr int64_t kMaxTokenizerConfigBytes = 8 << 20;
constexpr size_t kMaxModelLabels = 10'000;
constexpr size_t kMaxArchitectures = 16;
constexpr size_t kMaxNameBytes = 200;
// A classifier on pooled hidden states, which no class of transformers has
// (docs/pooled_head_format.md).
constexpr char kPooledHead[] = "thaw_pooled_head";
constexpr char kFeaturesFile[] = "features.safetensors";

absl::Status BadModel(absl::string_view file, absl::string_view what) {
  return InvalidField("files", absl::StrCat("hold a ", file, " that ", what));
}

// The first of the names under which the families keep the number.
absl::StatusOr<int32_t> ConfigNumber(const nlohmann::json& config,
                                     std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto it = config.find(name);
    if (it == config.end()) continue;
    if (!it->is_number_integer() || it->get<int64_t>() < 1 || it->get<int64_t>() > 1'000'000'000) {
      return BadModel("config.json", absl::StrCat("has ", CleanText(it->dump(), 40), " as ", name));
    }
    return it->get<int32_t>();
  }
  return BadModel("config.json", absl::StrCat("lacks ", *names.begin()));
}

absl::Status ReadArchitectures(const nlohmann::json& config, v1::ModelSummary* summary) {
  const auto it = config.find("architectures");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_array() || it->size() > kMaxArchitectures) {
    return BadModel("config.json", "has architectures that are no array of at most 16 names");
  }
  for (const auto& name : *it) {
    if (!name.is_string() || name.get<std::string>().size() > kMaxNameBytes) {
      return BadModel("config.json", "has architectures that are no array of names");
    }
    summary->add_architectures(name.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadLabels(const nlohmann::json& config, v1::ModelSummary* summary) {
  const auto it = config.find("id2label");
  if (it == config.end() || it->is_null()) {
    // What transformers does not write down.
    const auto count = config.find("num_labels");
    const int labels = count != config.end() && count->is_number_unsigned() &&
                               count->get<uint64_t>() <= kMaxModelLabels
                           ? count->get<int>()
                           : 2;
    for (int i = 0; i < labels; ++i) summary->add_labels(absl::StrCat("LABEL_", i));
    return absl::OkStatus();
  }
  std::map<int64_t, std::string> labels;
  if (!it->is_object() || it->size() > kMaxModelLabels) {
    return BadModel("config.json", "has an id2label that is no object of at most 10000 labels");
  }
  for (const auto& [key, label] : it->items()) {
    int64_t index = 0;
    if (!absl::SimpleAtoi(key, &index) || !label.is_string() ||
        !labels.emplace(index, label.get<std::string>()).second) {
      return BadModel("config.json", "has an id2label that does not map numbers to names");
    }
  }
  for (const auto& [index, label] : labels) {
    if (index != summary->labels_size()) {
      return BadModel("config.json", "has an id2label whose numbers are not 0, 1, 2 and so on");
    }
    summary->add_labels(label);
  }
  return absl::OkStatus();
}

absl::Status ReadHead(const nlohmann::json& config, v1::ModelSummary* summary) {
  THAW_RETURN_IF_ERROR(ReadArchitectures(config, summary));
  const Reading reading = ReadingOf(summary->model_type());
  const NamedHead named =
      summary->architectures().empty() ? NamedHead::kNone : HeadOfClass(summary->architectures(0));
  summary->set_head(v1::ModelSummary::NONE);
  if (named == NamedHead::kClassifier || config.contains(kPooledHead)) {
    THAW_RETURN_IF_ERROR(ReadLabels(config, summary));
    const std::string problem = config.value("problem_type", nlohmann::json()).dump();
    summary->set_head(v1::ModelSummary::CLASSIFIER);
    if (problem == "\"multi_label_classification\"") {
      summary->set_head(v1::ModelSummary::MULTI_LABEL_CLASSIFIER);
    } else if (problem == "\"regression\"" || (problem == "null" && summary->labels_size() == 1)) {
      summary->set_head(v1::ModelSummary::REGRESSION);
      summary->clear_labels();
    }
  } else if (named == NamedHead::kLanguageModel && reading == Reading::kLeftToRight) {
    summary->set_head(v1::ModelSummary::LANGUAGE_MODEL);
  } else if (named == NamedHead::kLanguageModel && reading == Reading::kSourceToTarget) {
    summary->set_head(v1::ModelSummary::SEQUENCE_TO_SEQUENCE);
  }
  return absl::OkStatus();
}

// Positions that inputs can have, of families that have a bound.
absl::StatusOr<int32_t> ReadPositions(const nlohmann::json& config, const std::string& type) {
  if (type == "t5" || type == "bloom" || type == "awd_lstm") return 0;
  THAW_ASSIGN_OR_RETURN(const int32_t positions,
                        ConfigNumber(config, {"max_position_embeddings", "n_positions"}));
  if (type != "roberta") return positions;
  // Its positions begin after that of padding.
  const auto padding = config.find("pad_token_id");
  const int64_t before =
      padding != config.end() && padding->is_number_integer() ? padding->get<int64_t>() : 1;
  if (before < -1 || before >= positions - 1) {
    return BadModel("config.json", "has a pad_token_id beyond its positions");
  }
  return static_cast<int32_t>(positions - 1 - before);
}

// In the tokenizer's configuration, or in a file of its own.
bool HasChatTemplate(const std::string& directory, const v1::Artifact& artifact) {
  for (const v1::File& file : artifact.files()) {
    if (file.path() == "chat_template.jinja") return true;
    if (file.path() != "tokenizer_config.json") continue;
    const auto text = ReadFile(directory + "/" + file.path(), kMaxTokenizerConfigBytes);
    if (!text.ok()) continue;
    const auto config = ParseJson(*text);
    if (config.ok() && config->is_object() && config->contains("chat_template") &&
        !(*config)["chat_template"].is_null()) {
      return true;
    }
  }
  return false;
}

// How many of the model's numbers the tensor holds. Of a matrix in 4 bits (docs/models.md) these
// are its codes, two to a byte; its scales and tables count nothing.
int64_t NumbersOf(const SafetensorsFile& file, const TensorInfo& tensor) {
  constexpr absl::string_view kState = ".quant_state.bitsandbytes__nf4", kWeight = ".weight";
  const int64_t elements = (tensor.end - tensor.begin) / ElementBytes(tensor.type);
  if (file.Find(absl::StrCat(tensor.name, kState)) != nullptr) return 2 * elements;
  const size_t weight = tensor.name.rfind(absl::StrCat(kWeight, "."));
  if (weight == std::string::npos) return elements;
  const std::string matrix = tensor.name.substr(0, weight + kWeight.size());
  return file.Find(absl::StrCat(matrix, kState)) != nullptr ? 0 : elements;
}

// Reads the file strictly: what a trainer would refuse is refused here. `header_bytes` is what is
// left for headers of all files together.
absl::StatusOr<int64_t> CountParameters(const std::string& directory, const std::string& name,
                                        int64_t* header_bytes) {
  const auto file = SafetensorsFile::Open(absl::StrCat(directory, "/", name));
  if (!file.ok()) {
    std::string why = CleanText(file.status().message(), 400);
    absl::StrReplaceAll({{directory + "/", ""}}, &why);
    return BadModel(name, absl::StrCat("cannot be used: ", why));
  }
  *header_bytes -= (*file)->header_bytes();
  if (*header_bytes < 0) {
    return BadModel(name, absl::StrCat("is one of several whose headers take over ",
                                       kMaxHeaderBytes, " bytes"));
  }
  int64_t total = 0;
  for (const TensorInfo& tensor : (*file)->tensors()) {
    total += NumbersOf(**file, tensor);
  }
  return total;
}

}  // namespace

absl::StatusOr<v1::ModelSummary> SummarizeModel(const std::string& directory,
                                                const v1::Artifact& artifact) {
  v1::ModelSummary summary;
  const auto text = ReadFile(directory + "/config.json", 1 << 20);
  if (!text.ok()) return BadModel("config.json", "cannot be read or is larger than 1 MiB");
  const auto config = ParseJson(*text);
  if (!config.ok())
    return BadModel("config.json", absl::StrCat("is no JSON: ", config.status().message()));
  if (!config->is_object() || !config->contains("model_type") ||
      !(*config)["model_type"].is_string()) {
    return BadModel("config.json", "lacks model_type: it is not that of a Hugging Face model");
  }
  summary.set_model_type((*config)["model_type"].get<std::string>());
  THAW_ASSIGN_OR_RETURN(int32_t blocks, ConfigNumber(*config, {"num_hidden_layers", "n_layer",
                                                               "num_layers", "n_layers"}));
  // Those of the decoder count too.
  if (summary.model_type() == "t5") {
    THAW_ASSIGN_OR_RETURN(const int32_t decoder,
                          ConfigNumber(*config, {"num_decoder_layers", "num_layers"}));
    blocks += decoder;
  }
  THAW_ASSIGN_OR_RETURN(const int32_t width,
                        ConfigNumber(*config, {"hidden_size", "n_embd", "d_model", "dim"}));
  THAW_ASSIGN_OR_RETURN(const int32_t positions, ReadPositions(*config, summary.model_type()));
  // Blocks above a pooled head never run.
  if (const auto it = config->find(kPooledHead); it != config->end()) {
    const auto cut = it->is_object() ? it->find("blocks") : it->end();
    if (cut == it->end() || !cut->is_number_unsigned() || cut->get<uint64_t>() > uint64_t(blocks)) {
      return BadModel("config.json",
                      absl::StrCat("has ", CleanText(it->dump(), 80), " as ", kPooledHead));
    }
    blocks = cut->get<int32_t>();
  }
  summary.set_blocks(blocks);
  summary.set_hidden_size(width);
  summary.set_max_positions(positions);
  summary.set_chat_template(HasChatTemplate(directory, artifact));
  THAW_RETURN_IF_ERROR(ReadHead(*config, &summary));
  int64_t parameters = 0, header_bytes = kMaxHeaderBytes;
  bool weights = false;
  for (const v1::File& file : artifact.files()) {
    if (!absl::EndsWith(file.path(), ".safetensors") || file.path() == kFeaturesFile) continue;
    weights = true;
    THAW_ASSIGN_OR_RETURN(const int64_t count,
                          CountParameters(directory, file.path(), &header_bytes));
    parameters += count;
  }
  // Of its configuration alone a trainer draws all weights.
  if (!weights && summary.model_type() != "awd_lstm") {
    return InvalidField("files",
                        absl::StrCat("of a model of type ", CleanText(summary.model_type(), 80),
                                     " hold no .safetensors: save the weights as safetensors "
                                     "(save_pretrained(..., safe_serialization=True))"));
  }
  summary.set_parameters(parameters);
  return summary;
}

}  // namespace thaw
